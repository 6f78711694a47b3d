"""Forecast: what a training will need, as a table and in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from flows.lines import duration, table

if TYPE_CHECKING:
    from tasks.forecast import Estimate, Forecast

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


def lines_of(forecast: Forecast, conversations: int, memory_gb: float) -> Iterator[str]:
    """Yield the estimates as an aligned table (GB are 10^9 bytes) and the advice with its reasons."""
    yield from table([HEADS, *(_cells(one) for one in forecast.estimates)])
    advice = forecast.advice
    rank = f" r{advice.rank}" if advice.rank else ""
    yield ""
    yield (
        f"For {conversations:,} conversations and {memory_gb:g} GB: {advice.method}{rank}, learning rate "
        f"{advice.learning_rate:.1e}, batch {advice.batch_size} x {advice.gradient_accumulation_steps}"
    )
    yield from (f"  {reason}" for reason in advice.reasons)
    yield from (f"  warning: {warning}" for warning in advice.warnings)


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
