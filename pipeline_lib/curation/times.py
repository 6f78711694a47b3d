"""Times of conversations as arrays: none before all others, numbers by size, then texts as ISO dates go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Positions: TypeAlias = npt.NDArray[np.int64]

_NONE, _NUMBER, _TEXT = range(3)
_LONGEST = 32
"""Characters of a text that count for its order."""


def times(values: Sequence[str | None]) -> dict[str, npt.NDArray[Any]]:
    """Return ``time_kind``, ``time_number`` and ``time_text`` (n each) of the values."""
    found = [_moment(value) for value in values]
    return {
        "time_kind": np.array([kind for kind, _, _ in found], np.int8),
        "time_number": np.array([number for _, number, _ in found], np.float64),
        "time_text": np.array([text for _, _, text in found], f"<U{_LONGEST}"),
    }


def ranks(known: Mapping[str, npt.NDArray[Any]]) -> Positions:
    """Return the rank of each of the times (n), the oldest 0, equal times alike."""
    columns = [known[name] for name in ("time_text", "time_number", "time_kind")]
    order = np.lexsort(columns)
    changes = [column[order][1:] != column[order][:-1] for column in columns]
    found = np.empty(len(order), np.int64)
    found[order] = np.concatenate([np.zeros(min(len(order), 1), np.int64), np.any(changes, axis=0).cumsum()])
    return found


def _moment(value: str | None) -> tuple[int, float, str]:
    if value is None:
        return _NONE, 0.0, ""
    try:
        return _NUMBER, float(value), ""
    except ValueError:
        return _TEXT, 0.0, value
