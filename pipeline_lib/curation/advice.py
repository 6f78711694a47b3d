"""Advice: whether a dataset is enough to train on, and whether prompting or retrieval would serve better.

Each rule is a function that says one sentence, with what it rests on, or nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pipeline_lib.curation.measures import Measures
from pipeline_lib.curation.reading import NOT_SAMPLED
from pipeline_lib.sample_sizes import SampleSizes, size_warning

Z = 1.96
"""Standard deviations within which 95 % of a normal distribution lie."""
UNSURE = 0.05
FEW_ANSWERS = 20
FEW_ANSWERS_SHARE = 0.8
DATED_SHARE = 0.3
LEAST_KEPT = 0.2
LIMA = "Zhou et al., LIMA: Less Is More for Alignment, arXiv 2305.11206"
RETRIEVAL = "Ovadia et al., Fine-Tuning or Retrieval?, arXiv 2312.05934"


@dataclass(frozen=True)
class Advice:
    """One warning, and what it rests on."""

    text: str
    source: str = ""


@dataclass(frozen=True)
class Evidence:
    """What the rules look at."""

    before: Measures
    after: Measures
    sizes: Mapping[str, int]
    """Conversations by split."""
    reasons: Mapping[str, int]
    """Why conversations were dropped, over all stages."""
    needed: SampleSizes
    knowledge_changes: bool


def advice(evidence: Evidence) -> list[Advice]:
    """Return every warning that the data call for, the gravest first."""
    return [one for rule in RULES for one in rule(evidence)]


def _too_few(evidence: Evidence) -> Iterator[Advice]:
    if warning := size_warning(evidence.sizes["train"], evidence.needed):
        yield Advice(f"Training: {warning}.", LIMA)


def _unsure_test(evidence: Evidence) -> Iterator[Advice]:
    count = evidence.sizes["test"]
    half = Z * math.sqrt(0.25 / count) if count else math.inf
    if half <= UNSURE:
        return
    unsure = (
        f"a share measured on them is unsure by ±{100 * half:.0f} points" if count else "nothing is measured"
    )
    least = math.ceil(0.25 * (Z / UNSURE) ** 2)
    yield Advice(
        f"Test: {count:,} conversations: {unsure}; {least} bring it to ±{100 * UNSURE:.0f}.",
        "normal approximation of the binomial at one half",
    )


def _few_answers(evidence: Evidence) -> Iterator[Advice]:
    after = evidence.after
    often = after.answers.most_common(FEW_ANSWERS)
    share = sum(count for _, count in often) / after.sampled if after.sampled else 0.0
    if share >= FEW_ANSWERS_SHARE and after.sampled > 2 * len(often):
        yield Advice(
            f"{len(often)} answers are {share:.0%} of all: this is a choice among labels. A prompt that "
            "names them with a few examples, or a classifier, may do without fine-tuning."
        )


def _changing_knowledge(evidence: Evidence) -> Iterator[Advice]:
    after = evidence.after
    share = after.dated / after.sampled if after.sampled else 0.0
    if evidence.knowledge_changes:
        why = "The config says that the knowledge changes"
    elif share >= DATED_SHARE:
        why = f"{share:.0%} of the answers name a year: facts that may change"
    else:
        return
    yield Advice(
        f"{why}. Retrieval keeps such knowledge better than weights do; train for form and tone beside it.",
        RETRIEVAL,
    )


def _little_left(evidence: Evidence) -> Iterator[Advice]:
    # What a source's weight leaves out was not asked for.
    reasons = {reason: count for reason, count in evidence.reasons.items() if reason != NOT_SAMPLED}
    before = evidence.before.conversations - evidence.reasons.get(NOT_SAMPLED, 0)
    after = evidence.after.conversations
    if reasons and after < LEAST_KEPT * before:
        reason, count = max(reasons.items(), key=lambda item: (item[1], item[0]))
        yield Advice(
            f"Of {before:,} conversations {after:,} are left ({after / before:.0%}); most were dropped for "
            f"{reason} ({count:,}). Look at some: finetune show STAGE --dropped."
        )


RULES = (_too_few, _few_answers, _changing_knowledge, _unsure_test, _little_left)
