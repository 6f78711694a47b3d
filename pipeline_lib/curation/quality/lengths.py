"""Lengths of texts in the tokens of a model's own tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline_lib.kinds import brings_code

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def token_counts(model: Path, texts: Sequence[str]) -> list[int]:
    """Return how many tokens each text has, without special ones, by the tokenizer in ``model``."""
    if not texts:
        return []
    encoded = _tokenizer(model)(list(texts), add_special_tokens=False, verbose=False)
    return [len(ids) for ids in encoded["input_ids"]]


@lru_cache(maxsize=1)
def _tokenizer(model: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer, loaded once in a process."""
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        model, trust_remote_code=brings_code(model)
    )
    return tokenizer
