"""Recommendation: method, rank, learning rate and batch for a data size and a memory, with the reasons.

The rules are the field's (data size chooses the method; model and data size scale the learning rate).
Whether a method fits is no rule but ``estimate.py``'s answer for this model. Warnings say where training is
the wrong means: too few conversations, or knowledge that changes and is better looked up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from pipeline_lib.sample_sizes import GOOD, START, Strength, Task, conversations_needed, size_warning
from pipeline_lib.training.devices import HEADROOM
from pipeline_lib.training.estimate import estimate
from pipeline_lib.training.model_shape import ModelShape
from pipeline_lib.training.objectives import Objective
from pipeline_lib.training.setup import Method, Setup

Goal = Literal["instructions", "domain"]

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
LEARNING_RATE: Mapping[Method, float] = {"full": 1e-5, "lora": 2e-4, "qlora": 2e-4}
GENTLER: Mapping[Objective, float] = {"reward": 0.5, "dpo": 0.05, "kto": 0.05, "grpo": 0.05, "rloo": 0.05}
"""Learning rate over that of sft, as TRL's defaults have it (2e-5 for sft, 1e-6 for dpo, kto, grpo, rloo)."""
BATCHES: Mapping[Method, tuple[int, ...]] = {"full": (2, 1), "lora": (8, 4, 2, 1), "qlora": (16, 8, 4, 2, 1)}
OPTIMIZER: Mapping[Method, str] = {"full": "adamw_torch", "lora": "adamw_torch", "qlora": "paged_adamw_8bit"}
CONVERSATIONS_PER_STEP = 32
LEAST_STEPS = 100
"""Optimizer steps that a run should at least have: few conversations are learnt in smaller batches."""


@dataclass(frozen=True)
class Case:
    """What is to be learnt, from how much, and on what."""

    conversations: int
    memory_gb: float
    sequence_length: int = 2048
    goal: Goal = "instructions"
    task: Task = "simple"
    base_strength: Strength = "medium"
    knowledge_changes: bool = False
    objective: Objective = "sft"


@dataclass(frozen=True)
class Recommendation:
    """What to put into the train stage's config, and why."""

    method: Method
    rank: int | None
    alpha: int | None
    dropout: float | None
    target_modules: tuple[str, ...] | str | None
    learning_rate: float
    batch_size: int
    gradient_accumulation_steps: int
    activation_checkpointing: bool
    optimizer: str
    epochs: int
    memory_gb: float
    fits: bool
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Choice:
    setup: Setup
    method: Method
    memory_gb: float


def recommend(shape: ModelShape, case: Case) -> Recommendation:
    """Return the first method in the case's order that fits the memory, with the largest batch that does.

    Where none fits, the smallest is returned with ``fits`` false and a warning that says how much is missing.
    """
    room = case.memory_gb * (1 - HEADROOM)
    tried = list(_candidates(shape, case))
    choice = next((c for c in tried if c.memory_gb <= room), None)
    fits = choice is not None
    choice = choice or min(tried, key=lambda c: c.memory_gb)
    method, setup, adapts = choice.method, choice.setup, choice.method != "full"
    epochs = 3 if case.conversations < GOOD else 2
    return Recommendation(
        method=method,
        rank=setup.rank if adapts else None,
        alpha=2 * setup.rank if adapts else None,
        dropout=(0.1 if case.conversations < START else 0.05) if adapts else None,
        target_modules=_plain(setup.target_modules) if adapts else None,
        learning_rate=learning_rate(method, shape.parameters, case.conversations, case.objective),
        batch_size=setup.batch_size,
        gradient_accumulation_steps=max(1, _per_step(case, epochs) // setup.batch_size),
        activation_checkpointing=setup.activation_checkpointing,
        optimizer=setup.optimizer,
        epochs=epochs,
        memory_gb=choice.memory_gb,
        fits=fits,
        reasons=tuple(_reasons(shape, case, choice, tried)),
        warnings=(*_data_warnings(case), *([] if fits else [_does_not_fit(case, choice)])),
    )


def _plain(modules: object) -> tuple[str, ...] | str:
    return modules if isinstance(modules, str) else tuple(modules)  # type: ignore[arg-type]


def _candidates(shape: ModelShape, case: Case) -> Iterator[_Choice]:
    """Every method in order of preference, from its largest batch down, recomputing if it must."""
    for method, rank in preferences(case):
        for batch in BATCHES[method]:
            for checkpointing in (False, True):
                setup = Setup(
                    batch_size=min(batch, _per_step(case, 2)),
                    sequence_length=case.sequence_length,
                    activation_checkpointing=checkpointing,
                    rank=rank,
                    target_modules=_targets(shape),
                    optimizer=OPTIMIZER[method],
                    objective=case.objective,
                )
                yield _Choice(setup, method, estimate(shape, [method], setup, gpus=())[0].memory_gb)


def _targets(shape: ModelShape) -> tuple[str, ...] | str:
    names = {linear.name for linear in shape.linears}
    return ATTENTION if names.issuperset(ATTENTION) else "all-linear"


def preferences(case: Case) -> list[tuple[Method, int]]:
    """Return methods with their ranks for a goal and a data size, the best first."""
    hard = case.task == "complex"
    if case.goal == "domain":
        return [("full", 0), ("lora", 64), ("qlora", 64)]
    if case.conversations > 100_000:
        return [("full", 0), ("lora", 64), ("qlora", 64)]
    if case.conversations >= GOOD:
        rank = 32 if hard else 16
    else:
        rank = 16 if hard or case.conversations >= START else 8
    return [("lora", rank), ("qlora", rank)]


def learning_rate(method: Method, parameters: int, conversations: int, objective: Objective = "sft") -> float:
    """Return the customary rate, lowered for large models and little data, raised for much data."""
    size = 0.5 if parameters > 30e9 else 0.7 if parameters > 10e9 else 1.0
    data = 1.2 if conversations > 100_000 else 0.8 if conversations < START else 1.0
    return float(f"{customary(method, objective) * size * data:.3g}")


def customary(method: Method, objective: Objective) -> float:
    """Return the learning rate that method and objective usually begin with."""
    return float(f"{LEARNING_RATE[method] * GENTLER.get(objective, 1.0):.3g}")


def _per_step(case: Case, epochs: int) -> int:
    """Conversations an optimizer step takes: 4 to 32, so that ``LEAST_STEPS`` are left if they can be."""
    most = case.conversations * epochs // LEAST_STEPS
    return max(4, min(CONVERSATIONS_PER_STEP, 1 << max(most, 1).bit_length() - 1))


def _reasons(shape: ModelShape, case: Case, choice: _Choice, tried: list[_Choice]) -> Iterator[str]:
    method, setup = choice.method, choice.setup
    wanted = preferences(case)[0][0]
    why = "domain adaptation" if case.goal == "domain" else f"{case.conversations:,} conversations"
    rank = "" if wanted == "full" else f" of rank {preferences(case)[0][1]}"
    yield f"{why}: {wanted}{rank} is the first choice"
    if method != wanted:
        least = min(c.memory_gb for c in tried if c.method == wanted)
        yield f"{wanted} takes at least {least:.1f} GB of {case.memory_gb:g}: {method} instead"
    size = f"{shape.parameters / 1e9:.2g} B parameters"
    what = method if case.objective == "sft" else f"{method} and {case.objective}"
    usual = f"{customary(method, case.objective):g} is customary for {what}"
    yield f"learning rate: {usual}, scaled for {size} and the data size"
    memory = f"{choice.memory_gb:.1f} GB of {case.memory_gb:g}"
    yield f"batch {setup.batch_size}: {memory}, {HEADROOM:.0%} left free"
    if setup.activation_checkpointing:
        yield "activations are recomputed: without that this batch does not fit"


def _data_warnings(case: Case) -> Iterator[str]:
    if warning := size_warning(case.conversations, conversations_needed(case.task, case.base_strength)):
        yield warning
    if case.knowledge_changes:
        yield "knowledge that changes often is better retrieved; train for format and tone beside it"


def _does_not_fit(case: Case, choice: _Choice) -> str:
    return (
        f"{choice.method} at batch 1 takes {choice.memory_gb:.1f} GB "
        f"of {case.memory_gb:g} ({HEADROOM:.0%} kept free): "
        "shorten the sequences, take a smaller base model, or divide it among several GPUs"
    )
