"""Schedules: how the learning rate goes on after the warm-up, under Transformers' names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Schedule = Literal[
    "cosine",
    "linear",
    "constant",
    "constant_with_warmup",
    "polynomial",
    "inverse_sqrt",
    "cosine_with_restarts",
    "cosine_with_min_lr",
    "warmup_stable_decay",
]

OPTIONS: Mapping[Schedule, tuple[str, ...]] = {
    "cosine": ("num_cycles",),
    "linear": (),
    "constant": (),
    "constant_with_warmup": (),
    "polynomial": ("lr_end", "power"),
    "inverse_sqrt": ("timescale",),
    "cosine_with_restarts": ("num_cycles",),
    "cosine_with_min_lr": ("num_cycles", "min_lr", "min_lr_rate"),
    "warmup_stable_decay": ("num_decay_steps", "min_lr_ratio", "num_cycles"),
}
"""The values that each takes, all of them numbers."""

NEEDED: Mapping[Schedule, tuple[str, ...]] = {
    "cosine_with_min_lr": ("min_lr", "min_lr_rate"),
    "warmup_stable_decay": ("num_decay_steps",),
}
"""Values of which a schedule needs one."""


def objection(schedule: Schedule, options: Mapping[str, float]) -> str | None:
    """Return why a schedule cannot be made with these values, or None where it can."""
    takes = ", ".join(OPTIONS[schedule]) or "none"
    if unknown := sorted(set(options) - set(OPTIONS[schedule])):
        return f"schedule_options: {schedule} has no {unknown[0]}; it takes {takes}"
    needed = NEEDED.get(schedule, ())
    given = [name for name in needed if name in options]
    if needed and len(given) != 1:
        return f"schedule {schedule} needs schedule_options with {' or '.join(needed)} (it takes {takes})"
    return None
