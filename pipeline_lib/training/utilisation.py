"""Utilisation: how much of the device's own matrix rate a training reaches, and of its memory."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

SIDE = {"cpu": 768, "cuda": 8192}
"""Side of the square matrices; large enough for the full rate, small enough for moments."""
REPEATS = 20


@dataclass(frozen=True)
class Yardstick:
    """What turns tokens a second, of all processes together, into a use of their devices."""

    flop_per_token: float
    matrix_rate: float
    """FLOP/s of matrix products that a device reaches."""
    processes: int

    def tflops(self, rate: float) -> float:
        """Return the TFLOP/s of each process at so many tokens a second."""
        return self.flop_per_token * rate / self.processes / 1e12

    def share(self, rate: float) -> float:
        """Return the model FLOP utilisation, of 1, at so many tokens a second."""
        return self.tflops(rate) * 1e12 / self.matrix_rate


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


def peak_memory(device: str) -> float:
    """Return the most memory this process ever held, in GiB: of the device, or resident on a CPU."""
    import resource

    import torch

    if device == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return float(torch.cuda.max_memory_reserved() / 2**30)


def matrix_rate(device: str, precision: str) -> float:
    """Return the FLOP/s of square matrix products that the device reaches in this precision, best of twenty.

    The best: what else a machine does at that moment would make the training look better than it can be.
    """
    import torch

    kind = "cpu" if device == "cpu" else "cuda"
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]
    side = SIDE[kind]
    # Draws of its own: those of the training stay as they are.
    draw = torch.Generator(kind).manual_seed(0)
    left = torch.randn(side, side, device=kind, generator=draw).to(dtype)
    seconds = []
    for _ in range(REPEATS + 1):
        started = time.perf_counter()
        left @ left
        if kind == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return 2 * side**3 / min(seconds[1:])
