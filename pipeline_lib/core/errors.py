"""Errors that a user can act on: one line that says what, where, and what to do.

FinetuneError          exit code 1
├── ConfigError        exit code 2: the call or the config is wrong
├── DataError          the data cannot be used as they are
├── StoreError         the store cannot be read or written, or an artifact is damaged
├── StageError         a stage failed
└── ServiceError       a server outside this process did not answer
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FinetuneError(Exception):
    """What stopped the work, in one line for the person who asked for it."""

    exit_code = 1


class ConfigError(FinetuneError):
    """The call or the config is wrong; nothing was built."""

    exit_code = 2


class DataError(FinetuneError):
    """The data cannot be used as they are."""


class StoreError(FinetuneError):
    """The store cannot be read or written, or an artifact in it is damaged."""


class StageError(FinetuneError):
    """A stage failed; what it had written is gone, what came before it is kept."""


class ServiceError(FinetuneError):
    """A server outside this process did not answer as it should."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "did you mean 'x'?" for the known name that is nearest to ``name``; without one, all of them."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names) or 'none'}"


def first_line(error: Exception) -> str:
    """Return what a library's error says, in one line; its name where it says nothing."""
    return str(error).strip().split("\n", 1)[0][:200] or type(error).__name__
