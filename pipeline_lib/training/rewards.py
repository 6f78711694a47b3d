"""Rewards: what an answer is worth to GRPO and RLOO, as functions of texts that TRL calls in batches."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
WORD = re.compile(r"\w+")
Scorer = Callable[..., list[float]]


def scorer(reward: dict[str, Any], stops: Sequence[int]) -> Scorer:
    """Return the named reward as TRL calls it: lists of completions and columns in, one number each out."""
    name = reward["function"]

    def score(
        completions: list[str], completion_ids: list[list[int]], answer: list[str], **_: Any
    ) -> list[float]:
        if name == "reference_f1":
            return [reference_f1(text, expected) for text, expected in zip(completions, answer, strict=True)]
        if name == "last_number":
            return [float(same_number(t, expected)) for t, expected in zip(completions, answer, strict=True)]
        if name == "matches":
            return [float(re.search(reward["pattern"], text) is not None) for text in completions]
        if name == "length":
            return [length_score(text, reward["words"]) for text in completions]
        return [float(bool(ids) and ids[-1] in stops) for ids in completion_ids]

    score.__name__ = name
    return score


def reference_f1(text: str, expected: str) -> float:
    """Return the F1 of the words that both texts share, order left out (as SQuAD scores answers)."""
    one, other = (Counter(WORD.findall(part.lower())) for part in (text, expected))
    shared = sum((one & other).values())
    return 2 * shared / (one.total() + other.total()) if shared else 0.0


def same_number(text: str, expected: str) -> bool:
    """Return whether the last number of both texts is the same: how arithmetic answers are checked."""
    last = [
        [float(found.replace(",", "")) for found in NUMBER.findall(part)][-1:] for part in (text, expected)
    ]
    return bool(last[0]) and last[0] == last[1]


def length_score(text: str, words: int) -> float:
    """Return 1 for a text of so many words, less by its distance as a share of them, at least 0."""
    return max(0.0, 1 - abs(len(WORD.findall(text)) - words) / words)
