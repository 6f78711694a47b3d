"""The texts inside a JSON text: taken out to be changed, and put back so that it stays JSON.

Tool calls, tool schemas and metadata travel as JSON. Their keys and values are read one by one, each value
beside its key (``"password": "…"``), because the key often gives a value away. ``scrub`` is the reader.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson


def texts_in(text: str, *, json: bool) -> list[str]:
    """Return the texts to look at: the text itself, or of JSON its keys, and its values beside them."""
    value = _parsed(text) if json else None
    return list(_leaves(value)) if isinstance(value, dict | list) else [text]


def with_texts(text: str, changed: Iterator[str], *, json: bool) -> str:
    """Return ``text`` with what ``texts_in`` gave replaced by the next of ``changed``."""
    value = _parsed(text) if json else None
    if not isinstance(value, dict | list):
        return next(changed)
    before = list(_leaves(value))
    after = [next(changed) for _ in before]
    return text if before == after else orjson.dumps(_rebuilt(value, iter(after))).decode()


def _parsed(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _leaves(value: Any, key: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from _leaves(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, key)
    elif isinstance(value, str):
        yield f'"{key}": "{value}"'
    elif value is not None and not isinstance(value, bool):
        yield f'"{key}": {value}'


def _rebuilt(value: Any, after: Iterator[str], key: str = "") -> Any:
    if isinstance(value, dict):
        return {(new := next(after)): _rebuilt(inner, after, new) for inner in value.values()}
    if isinstance(value, list):
        return [_rebuilt(inner, after, key) for inner in value]
    if value is None or isinstance(value, bool):
        return value
    text = next(after).removeprefix(f'"{key}": ')
    if isinstance(value, str):
        return text.removeprefix('"').removesuffix('"')
    return value if text == str(value) else text
