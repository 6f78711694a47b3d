"""Forecast: what a training will need, as a table and in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from flows.lines import duration, table

if TYPE_CHECKING:
    from tasks.forecast import Estimate, Forecast

CONVERSATIONS = 10_000
MEMORY_GB = 24.0
"""What is taken where the call names neither."""
HEADS = (
    "method",
    "trainable",
    "weights",
    "gradients",
    "optimizer",
    "activations",
    "workspace",
    "memory",
    "disk",
    "smallest GPU",
    "time",
)


def assumed(conversations: int | None, memory_gb: float | None) -> dict[str, float]:
    """Return what the call did not say and the forecast takes instead, under the options' names."""
    taken: dict[str, float] = {}
    if conversations is None:
        taken["conversations"] = CONVERSATIONS
    if memory_gb is None:
        taken["memory"] = MEMORY_GB
    return taken


def lines_of(found: Forecast, conversations: int | None, memory_gb: float | None) -> Iterator[str]:
    """Yield the estimates as an aligned table (GB are 10^9 bytes) and the advice with its reasons."""
    yield from table([HEADS, *(_cells(one) for one in found.estimates)])
    advice = found.advice
    rank = f" r{advice.rank}" if advice.rank else ""
    yield ""
    yield "Time is for conversations as long as tokenize.max_length."
    if taken := assumed(conversations, memory_gb):
        yield _assumption(taken)
    yield (
        f"For {conversations or CONVERSATIONS:,} conversations and {memory_gb or MEMORY_GB:g} GB: "
        f"{advice.method}{rank}, learning rate {advice.learning_rate:.1e}, "
        f"batch {advice.batch_size} x {advice.gradient_accumulation_steps}"
    )
    yield from (f"  {reason}" for reason in advice.reasons)
    yield from (f"  warning: {warning}" for warning in advice.warnings)


def _assumption(taken: Mapping[str, float]) -> str:
    words = {"conversations": "{:,} conversations", "memory": "a GPU of {:g} GB"}
    what = " and ".join(words[name].format(value) for name, value in taken.items())
    return f"Assumed: {what}; name yours with {' and '.join(f'--{name}' for name in taken)}."


def _cells(one: Estimate) -> tuple[str, ...]:
    parts = (
        one.weights_gb,
        one.gradients_gb,
        one.optimizer_gb,
        one.activations_gb,
        one.workspace_gb,
        one.memory_gb,
        one.disk_gb,
    )
    where = f"{one.placement.count} x {one.placement.gpu.name}" if one.placement else "none"
    time = "?" if one.hours is None else duration(one.hours * 3600)
    return (
        one.method,
        f"{one.trainable_parameters / 1e6:,.1f} M",
        *(f"{part:.2f} GB" for part in parts),
        where,
        time,
    )
