"""Utilisation: how much of the device's own matrix rate a training reaches."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

SIDE = {"cpu": 768, "cuda": 8192}
"""Side of the square matrices; large enough for the full rate, small enough for moments."""
REPEATS = 5


def flop_per_token(model: torch.nn.Module) -> float:
    """Return 6 FLOP a trained parameter and 4 a frozen one, attention's own left out.

    Recomputed activations are not counted: they are no work of the model's.
    """
    counted = [(_numbers(weight), weight.requires_grad) for weight in model.parameters()]
    whole, trained = sum(n for n, _ in counted), sum(n for n, learns in counted if learns)
    return 4.0 * whole + 2.0 * trained


def _numbers(weight: Any) -> int:
    """Return how many numbers a weight stands for; bitsandbytes keeps two of 4 bits in a byte."""
    return int(weight.numel()) * (2 if type(weight).__name__ == "Params4bit" else 1)


def matrix_rate(device: str, precision: str) -> float:
    """Return the FLOP/s of square matrix products on the device in this precision, median of five."""
    import torch

    kind = "cpu" if device == "cpu" else "cuda"
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]
    side = SIDE[kind]
    left = torch.randn(side, side, device=kind).to(dtype)
    seconds = []
    for _ in range(REPEATS + 1):
        started = time.perf_counter()
        left @ left
        if kind == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return 2 * side**3 / statistics.median(seconds[1:])
