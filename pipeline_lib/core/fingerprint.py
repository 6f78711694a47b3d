"""Hashes that identify: the fingerprint of a recipe, the digest of bytes.

A *fingerprint* is the hash of everything a stage's result depends on. A *digest* is the hash
of what came out. Values that have no stable written form are refused, never guessed at.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipeline_lib.core.errors import ConfigError

BLOCK = 1 << 20


def canonical(value: Any, where: str = "config") -> Any:
    """Return ``value`` as plain JSON types with one form for each meaning.

    Raises ConfigError for a value that has no stable form, naming where it stands.
    """
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if value is None or isinstance(value, str | bool | int):
        return value.value if isinstance(value, Enum) else value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ConfigError(f"cannot fingerprint {where}: {value} is not a finite number")
        return value
    if isinstance(value, Mapping):
        return {_key(k, where): canonical(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [canonical(item, f"{where}[{i}]") for i, item in enumerate(value)]
    raise ConfigError(
        f"cannot fingerprint {where}: a {type(value).__name__} has no stable form; "
        "name it in the config instead"
    )


def _key(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise ConfigError(f"cannot fingerprint {where}: key {key!r} is not a string")
    return key


def canonical_json(value: Any) -> str:
    """Return the one JSON text of ``value``: sorted keys, no spaces, ASCII."""
    return json.dumps(canonical(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint(stage: str, version: int, config: Any, inputs: Mapping[str, str]) -> str:
    """Return the SHA-256 (hex) of a recipe; ``inputs`` maps each input's name to its digest."""
    recipe = {"stage": stage, "version": version, "config": config, "inputs": dict(inputs)}
    return hashlib.sha256(canonical_json(recipe).encode()).hexdigest()


def digest_file(path: Path) -> str:
    """Return the SHA-256 (hex) of a file's bytes, read in blocks."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            sha.update(block)
    return sha.hexdigest()


def digest_entries(entries: Iterable[tuple[str, str]]) -> str:
    """Return the digest of a directory from its files' (relative path, SHA-256) pairs."""
    lines = "".join(f"{sha}  {path}\n" for path, sha in sorted(entries))
    return hashlib.sha256(lines.encode()).hexdigest()
