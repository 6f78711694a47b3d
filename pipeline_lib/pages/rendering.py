"""Templates of a room, everything that comes from data escaped in HTML, and numbers as a reader wants them.

A room keeps its pages in its own ``templates``; what they share (the style, the funnel) stands in ours.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment

ABSENT = "–"
MARKDOWN_SPECIAL = str.maketrans({c: f"\\{c}" for c in "\\`*_[]<>|#"})


@lru_cache(maxsize=4)
def environment(package: str) -> Environment:
    """Return the template environment of a package: HTML escaped, a missing variable is an error."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("pipeline_lib.pages")]),
        autoescape=lambda name: bool(name and name.endswith(".html.j2")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["figure"] = figure
    made.filters["md"] = markdown_text
    return made


def markdown_text(value: object) -> str:
    """Return a text on one line in which Markdown and HTML see no markup."""
    return " ".join(str(value).split()).translate(MARKDOWN_SPECIAL)


def figure(value: float | str | None) -> str:
    """Return a number with as many digits as help a reader: three decimals below 10, none from 1,000 on."""
    if isinstance(value, str):
        return value
    if value is None or not math.isfinite(value):
        return ABSENT
    if isinstance(value, int):
        return f"{value:,}"
    size = abs(value)
    digits = 3 if size < 10 else 2 if size < 100 else 1 if size < 1000 else 0
    return f"{value:,.{digits}f}".replace("-", "−")
