"""The package's templates, with everything that comes from data escaped in HTML."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from pipeline_lib.publishing.scores import figure

if TYPE_CHECKING:
    from jinja2 import Environment

MARKDOWN_SPECIAL = str.maketrans({c: f"\\{c}" for c in "\\`*_[]<>|#"})


@lru_cache(maxsize=1)
def environment() -> Environment:
    """Return the template environment: HTML escaped, a missing variable is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("pipeline_lib.publishing", "templates"),
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
