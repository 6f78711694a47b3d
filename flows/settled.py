"""The config as it is settled: every value with its default, and what each field means."""

from __future__ import annotations

import json
import shutil
import textwrap
import types
import typing
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from pipeline_lib.config import PipelineConfig, load, models_in

BLOCK = "block"
BOUNDS = (("gt", "over {:g}"), ("ge", "from {:g}"), ("lt", "under {:g}"), ("le", "to {:g}"))
"""How pydantic's bounds of a number read."""


@dataclass(frozen=True)
class Explained:
    """One field of the config, or a block of them: what it may be, is by default, and means."""

    key: str
    type: str
    default: Any
    """As JSON; None also where it is required."""
    required: bool
    description: str


def in_full(path: Path, overrides: list[str], *, as_json: bool) -> str:
    """Return the whole config as YAML (or JSON) that `finetune run` takes as it is."""
    values = _values(path, overrides)
    if as_json:
        return json.dumps(values, indent=1, ensure_ascii=False)
    import yaml

    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120).rstrip()


def _values(path: Path, overrides: list[str]) -> dict[str, Any]:
    return load(path, overrides).model_dump(mode="json", by_alias=True)


def explained(path: Path, overrides: list[str], *, as_json: bool) -> str:
    """Return every field with its type and bounds, its value here, its default and its meaning."""
    values = _values(path, overrides)
    fields = [(field, value_at(values, field.key)) for field in explain()]
    if as_json:
        return json.dumps(
            [{**asdict(field), "value": value} for field, value in fields], indent=1, ensure_ascii=False
        )
    return "\n".join(line for field, value in fields for line in _lines(field, value)).lstrip("\n")


def value_at(values: Any, key: str) -> Any:
    """Return the value at a dotted key, or None where a block on the way is not there or is a list."""
    for part in key.split("."):
        if not isinstance(values, dict):
            return None
        values = values.get(part)
    return values


def explain(model: type[BaseModel] = PipelineConfig, prefix: str = "") -> Iterator[Explained]:
    """Yield every field, block by block: single fields before the blocks that stand beside them."""
    own = [(f"{prefix}{field.alias or name}", field) for name, field in model.model_fields.items()]
    for key, field in own:
        if not models_in(field.annotation):
            default = None if field.is_required() else field.get_default(call_default_factory=True)
            yield Explained(
                key, _kind(field), to_jsonable_python(default), field.is_required(), field.description or ""
            )
    for key, field in own:
        for inner in models_in(field.annotation)[:1]:
            said = field.description or (inner.__doc__ or "").strip().splitlines()[0]
            yield Explained(key, BLOCK, None, field.is_required(), said)
            yield from explain(inner, f"{key}." if _is_plain(field.annotation) else f"{key}[].")


def _is_plain(annotation: Any) -> bool:
    return isinstance(annotation, type | types.UnionType) or typing.get_origin(annotation) is typing.Union


def _kind(field: FieldInfo) -> str:
    """Return a field's type with its bounds: ``float, over 0 to 1``."""
    found = {name: value for item in _metadata(field) for name, _ in BOUNDS if (value := _of(item, name))}
    bounds = " ".join(said.format(*found[name]) for name, said in BOUNDS if name in found)
    return ", ".join(filter(None, (type_name(field.annotation), bounds)))


def _of(constraint: Any, name: str) -> tuple[Any] | None:
    return (getattr(constraint, name),) if hasattr(constraint, name) else None


def _metadata(field: Any) -> Iterator[Any]:
    """Yield the constraints of a field, and those that its type carries; not those of a list's items."""
    if isinstance(field, FieldInfo):
        yield from field.metadata
        yield from _metadata(field.annotation)
    elif typing.get_origin(field) is typing.Annotated:
        for item in field.__metadata__:
            yield from item.metadata if isinstance(item, FieldInfo) else (item,)
    elif isinstance(field, types.UnionType) or typing.get_origin(field) is typing.Union:
        for part in typing.get_args(field):
            yield from _metadata(part)


def type_name(annotation: Any) -> str:
    """Return a type as a person writes it: ``float``, ``int or null``, ``cosine | linear``."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return type_name(parts[0])
    if origin is typing.Literal:
        return " | ".join(str(value) for value in parts)
    if isinstance(annotation, types.UnionType) or origin is typing.Union:
        return " or ".join(type_name(part) for part in parts)
    if annotation is type(None):
        return "null"
    if origin in (tuple, list):
        return "list of " + type_name(parts[0])
    if origin is dict:
        return f"{type_name(parts[1])} by name"
    return {"str": "text", "bool": "true | false", "Path": "path", "Any": "any value"}.get(
        getattr(annotation, "__name__", ""), getattr(annotation, "__name__", str(annotation))
    )


def _lines(field: Explained, value: Any) -> Iterator[str]:
    width = max(60, min(shutil.get_terminal_size((110, 24)).columns, 140))
    if field.type == BLOCK:
        yield ""
        yield from textwrap.wrap(f"{field.key}  {field.description}", width, subsequent_indent="  ")
        return
    shown = field.default if value is None else value
    if field.required:
        said = f" = {_yaml(value)}" if value is not None else "  (required)"
    else:
        said = f" = {_yaml(shown)}" + (
            "" if shown == field.default else f"  (default {_yaml(field.default)})"
        )
    head = f"  {field.key}{said}  [{field.type}]"
    yield from _wrapped(head, width, "  ", "        ")
    yield from _wrapped(field.description, width, "      ", "      ")


def _wrapped(text: str, width: int, first: str, rest: str) -> list[str]:
    return textwrap.wrap(
        text.strip(),
        width,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _yaml(value: Any) -> str:
    """Return a value as it is written in YAML, on one line."""
    if isinstance(value, str) and ("\n" in value or not value):
        return json.dumps(value, ensure_ascii=False)
    import yaml

    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6, sort_keys=False)
    return text.strip().removesuffix("\n...").strip()
