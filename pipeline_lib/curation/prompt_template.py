"""Prompts by a template of the user's own, in Jinja (sandboxed): what it may name, and what it gives.

### Question: {{ instruction }}
{% if input %}### Context: {{ input }}
{% endif %}### Answer:
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.sandbox import SandboxedEnvironment

FIELDS = ("instruction", "input", "system", "messages", "metadata")
"""What was asked last, the input given with it, the system message, all messages before the answer, and the
further columns of the source."""


class TemplateRefusedError(ValueError):
    """A template that cannot be read, or that a conversation cannot be put into; says why."""


def names_in(template: str) -> frozenset[str]:
    """Return the fields that a template names; TemplateRefusedError where it is no Jinja or names others."""
    from jinja2 import TemplateSyntaxError, meta

    try:
        names = meta.find_undeclared_variables(_environment().parse(template))
    except TemplateSyntaxError as error:
        raise TemplateRefusedError(f"line {error.lineno}: {error.message}") from error
    if unknown := sorted(names.difference(FIELDS)):
        raise TemplateRefusedError(
            f"{unknown[0]!r} is no field of a conversation; a template may name {', '.join(FIELDS)}"
        )
    return frozenset(names)


def rendered(template: str, fields: Mapping[str, Any]) -> str:
    """Return the template with the fields in it; TemplateRefusedError where one has not what it names."""
    from jinja2 import TemplateError

    try:
        return _compiled(template).render(fields)
    except (TemplateError, TypeError, ValueError) as error:
        raise TemplateRefusedError(" ".join(str(error).split())[:200]) from error


@lru_cache(maxsize=8)
def _compiled(template: str) -> Template:
    return _environment().from_string(template)


@lru_cache(maxsize=1)
def _environment() -> SandboxedEnvironment:
    """Return an environment in which templates read what they are given and nothing else."""
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=False
    )
