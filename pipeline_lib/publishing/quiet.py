"""Silence about what the model libraries do: their bars and warnings are not for the terminal."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def transformers_quiet() -> Iterator[None]:
    """Keep the bars and warnings of Transformers off the terminal for the block."""
    from transformers.utils import logging

    # Untyped in transformers, hence the one untyped name for all of them.
    talk: Any = logging
    verbosity = talk.get_verbosity()
    talk.set_verbosity_error()
    talk.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # PEFT reads an attribute that Transformers renames.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            yield
    finally:
        talk.enable_progress_bar()
        talk.set_verbosity(verbosity)
