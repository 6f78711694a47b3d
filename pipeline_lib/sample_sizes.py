"""Sample sizes: how many conversations a fine-tuning needs, for a task and a base model.

A hundred are the least that changes a model's form of answer, a thousand well chosen ones align a strong
base model (Zhou et al., LIMA, arXiv 2305.11206), and ten thousand serve most tasks; harder tasks and weaker
base models take more. They are rules of thumb: the scores beside the base model's decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Task = Literal["simple", "moderate", "complex"]
Strength = Literal["strong", "medium", "weak"]

LEAST, START, GOOD = 100, 1_000, 10_000
TASK_FACTOR: Mapping[Task, float] = {"simple": 1, "moderate": 2.5, "complex": 5}
STRENGTH_FACTOR: Mapping[Strength, float] = {"strong": 0.5, "medium": 1, "weak": 2}


@dataclass(frozen=True)
class SampleSizes:
    """Numbers of conversations: the least, enough to start, and good."""

    least: int
    start: int
    good: int


def conversations_needed(task: Task, base_strength: Strength) -> SampleSizes:
    """Return how many conversations are the least, a start, and good, for a task and a base model."""
    factor = TASK_FACTOR[task] * STRENGTH_FACTOR[base_strength]
    return SampleSizes(round(LEAST * factor), round(START * factor), round(GOOD * factor))


def size_warning(conversations: int, needed: SampleSizes) -> str | None:
    """Return what to do where there are too few conversations, in a sentence; None where there are enough."""
    there = f"{conversations:,} conversations"
    if conversations < needed.least:
        return f"{there}: {needed.least:,} are the very least; try prompting with examples first"
    if conversations < needed.start:
        return (
            f"{there}: {needed.start:,} are a start, {needed.good:,} are good; "
            "compare with a prompted base model"
        )
    return None
