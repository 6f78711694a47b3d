"""GPUs: what they hold, how fast they are, and which of them, and how many, a training fits on.

Memory is in decimal GB (1e9 bytes), as the makers print it: a card of "80 GB" reports 79–80 GiB, so a plan
made with these figures errs on the safe side by up to 7 %. Rates are dense bf16 (fp16) matrix rates from the
makers' data sheets.
``estimate.py`` says what a training needs; this module knows nothing of models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

HEADROOM = 0.1
"""Share of a GPU's memory that a plan leaves free: other processes, longer batches than foreseen."""

MOST_GPUS = 1024
"""A plan that needs more GPUs than this is no plan."""


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU: its memory and its dense bf16 matrix rate."""

    name: str
    memory_gb: float
    bf16_tflops: float

    @property
    def usable_gb(self) -> float:
        """Memory that a plan may fill."""
        return self.memory_gb * (1 - HEADROOM)


GPUS = (
    Gpu("RTX 4090", 24, 165),
    Gpu("A10G", 24, 125),
    Gpu("RTX 3090", 24, 71),
    Gpu("A100 40 GB", 40, 312),
    Gpu("H100 80 GB", 80, 989),
    Gpu("A100 80 GB", 80, 312),
    Gpu("H200 141 GB", 141, 989),
)
"""By memory, and by speed where the memory is equal."""


@dataclass(frozen=True)
class Placement:
    """How many GPUs of one kind hold a training, and how full each of them is."""

    gpu: Gpu
    count: int
    used_gb: float


def place(gpu: Gpu, sharded_gb: float, replicated_gb: float, gathered_gb: float = 0.0) -> Placement | None:
    """Return the fewest GPUs of this kind that hold the training, or None where no number does.

    ``sharded_gb`` is divided among the GPUs (weights, gradients, optimizer under FSDP or ZeRO-3),
    ``replicated_gb`` is on each of them (activations, workspace), and ``gathered_gb`` comes on top where
    there is more than one (the layers that are whole while they compute).
    """
    if sharded_gb + replicated_gb <= gpu.usable_gb:
        return Placement(gpu, 1, sharded_gb + replicated_gb)
    room = gpu.usable_gb - replicated_gb - gathered_gb
    if room <= 0 or sharded_gb / room > MOST_GPUS:
        return None
    count = max(2, math.ceil(sharded_gb / room))
    return Placement(gpu, count, sharded_gb / count + replicated_gb + gathered_gb)


def smallest(placements: Sequence[Placement | None]) -> Placement | None:
    """Return the placement with the fewest GPUs, and of those the one on the smallest (then fastest) GPU."""
    found = [placement for placement in placements if placement is not None]
    return min(found, key=lambda p: (p.count, p.gpu.memory_gb, -p.gpu.bf16_tflops), default=None)
