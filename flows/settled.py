"""The config as it is settled: every value with its default, and what each field means."""

from __future__ import annotations

import json
import shutil
import textwrap
from pathlib import Path
from typing import Any

from pipeline_lib.config import PipelineConfig, explain, load


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
    """Return every field with its type, its value here, its default and its meaning."""
    values = _values(path, overrides)
    fields = [
        {
            "key": key,
            "type": kind,
            "value": value_at(values, key),
            "default": default,
            "description": description,
        }
        for key, kind, default, description in explain(PipelineConfig)
    ]
    if as_json:
        return json.dumps(fields, indent=1, ensure_ascii=False)
    return "\n".join(line for field in fields for line in _lines(field))


def value_at(values: Any, key: str) -> Any:
    """Return the value at a dotted key, or None where a block on the way is not there or is a list."""
    for part in key.split("."):
        if not isinstance(values, dict):
            return None
        values = values.get(part)
    return values


def _lines(field: dict[str, Any]) -> list[str]:
    width = max(60, min(shutil.get_terminal_size((110, 24)).columns, 140))
    if field["type"] == "block":
        return ["", f"{field['key']}  {field['description']}"]
    value, default = field["value"], field["default"]
    shown = default if value is None or _same(value, default) else f"{_short(value)}  (default {default})"
    head = f"  {field['key']} = {shown}  [{field['type']}]"
    return [
        head,
        *textwrap.wrap(field["description"], width, initial_indent="      ", subsequent_indent="      "),
    ]


def _same(value: Any, default: str) -> bool:
    return str(value) == default or str(value) == default.replace("(", "[").replace(",)", "]").replace(
        ")", "]"
    )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."
