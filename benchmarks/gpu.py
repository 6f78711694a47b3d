"""What needs a GPU, in one go: an 8B Llama shape in training, the 4-bit matmul, packing, too little memory.

Every training is the train stage itself, children and all, over random weights and random tokens, packed to
4,096; a figure is the median of its steps after the first ones. FLOP are counted as 4 a frozen and 6 a
trained parameter and token; their share is that of the rate at which this very run multiplied large bf16
matrices. ``--toy`` walks the same way on a CPU with a model of a few thousand weights; its figures say
nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Case, Session, Skipped, main, say

if TYPE_CHECKING:
    from pipeline_lib.core.output import Output

WORK = "benchmarks.gpu_work"
LLAMA_8B = {
    "vocab_size": 128_256,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
}
TINY = {
    "vocab_size": 4096,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
}
WARM_UP = 2
"""Steps that are not counted: kernels are chosen, memory is taken."""
SHARE = 0.5
"""LoRA's part of the matrix rate; the best published is 40.6 % of an H100's data sheet."""
QLORA_OF_LORA = 0.85
QLORA_GIB = 8.0
SAME = {"fp32": 1e-5, "bf16": 2**-6}
"""How far a packed sequence's logits may be from its own, as a share of the largest: bf16 has 8 bits."""


@dataclass(frozen=True)
class Scale:
    """How large everything is, and in which precision."""

    shape: dict[str, int]
    sequence: int
    rows: int
    steps: int
    precision: str
    matrix: tuple[int, int, int]
    """Tokens, inputs and outputs of the 4-bit product."""
    free_gib: float
    """Device memory that the back-off is left with."""


FULL_SIZE = Scale(LLAMA_8B, 4096, 4, 14, "bf16", (8192, 4096, 14_336), 24.0)
TOY_SIZE = Scale(TINY, 64, 2, 5, "fp32", (64, 256, 256), 0.0)


def cases(session: Session) -> Iterator[Case]:
    """LoRA, QLoRA and full training of an 8B shape, 4-bit matmul, packing parity, out-of-memory back-off."""
    scale = TOY_SIZE if session.flags["toy"] else FULL_SIZE
    if scale is FULL_SIZE and not _has_gpu():
        raise SystemExit("benchmarks.gpu needs an NVIDIA GPU; --toy walks through it on a CPU, at toy size")
    with tempfile.TemporaryDirectory(prefix="finetune-gpu-") as scratch:
        yield from _all(session, scale, Path(scratch))


def _all(session: Session, scale: Scale, scratch: Path) -> Iterator[Case]:
    rate = session.run(WORK, "matrix_rate", scale.precision)
    yield Case(f"matrix rate, {scale.precision}", rate / 1e12, "TFLOP/s")
    session.run(WORK, "make", scratch, json.dumps(scale.shape), scale.sequence, scale.rows * scale.steps)
    lora = yield from _training(scale, scratch, "lora", rate, None)
    yield from _training(scale, scratch, "qlora", rate, lora)
    yield from _small_qlora(scale, scratch)
    if not session.quick:
        yield from _training(scale, scratch, "full", rate, None)
    yield from _four_bits(session, scale)
    yield from _parity(session, scratch)
    yield from _back_off(session, scale, scratch)


def _training(scale: Scale, scratch: Path, method: str, rate: float, lora: float | None) -> Iterator[Case]:
    """Yield a method's tokens/s, TFLOP/s, share of the matrix rate and memory; return its tokens/s."""
    name = f"{method}, {scale.rows} x {scale.sequence} tokens"
    beside: dict[str, Any] = {"peer": "lora", "theirs": lora, "target": QLORA_OF_LORA} if lora else {}
    try:
        done = trained(scratch, scale, method, scale.sequence, scale.rows)
    except Skipped as why:
        yield Case(name, None, "tokens/s", skipped=str(why), **beside)
        return None
    yield Case(name, done.tokens_per_second, "tokens/s", **beside)
    yield Case(name, done.flops / 1e12, "TFLOP/s")
    yield Case(name, done.flops / rate, "of the matrix rate", target=SHARE if method == "lora" else None)
    yield Case(name, done.peak_gib, "GiB")
    return done.tokens_per_second


def _small_qlora(scale: Scale, scratch: Path) -> Iterator[Case]:
    """Yield the memory of QLoRA where it has to be small: two rows of half the length, recomputed."""
    half = scale.sequence // 2
    name = f"qlora, 2 x {half} tokens, recomputed"
    try:
        done = trained(scratch, scale, "qlora", half, 2, activation_checkpointing=True)
    except Skipped as why:
        yield Case(name, None, "GiB", target=QLORA_GIB, less_is_better=True, skipped=str(why))
        return
    yield Case(name, done.tokens_per_second, "tokens/s")
    yield Case(name, done.peak_gib, "GiB", target=QLORA_GIB, less_is_better=True)


def _four_bits(session: Session, scale: Scale) -> Iterator[Case]:
    tokens, inputs, outputs = scale.matrix
    name = f"4-bit product, {tokens} x {inputs} x {outputs}"
    try:
        found = session.run(WORK, "four_bits", scale.precision, *scale.matrix)
    except Skipped as why:
        yield Case(name, None, "TFLOP/s", peer=scale.precision, skipped=str(why))
        return
    yield Case(name, found["nf4"] / 1e12, "TFLOP/s", peer=scale.precision, theirs=found["plain"] / 1e12)


def _parity(session: Session, scratch: Path) -> Iterator[Case]:
    try:
        found = session.run(WORK, "parity", scratch)
    except Skipped as why:
        yield Case("packed beside alone", None, "of the largest logit", less_is_better=True, skipped=str(why))
        return
    for kernel in found:
        yield Case(
            f"packed beside alone, {kernel['attention']} {kernel['precision']}",
            kernel["difference"],
            "of the largest logit",
            target=SAME[kernel["precision"]],
            less_is_better=True,
            skipped=kernel["skipped"],
        )


def _back_off(session: Session, scale: Scale, scratch: Path) -> Iterator[Case]:
    """Yield the steps that a training ends with that begins with more rows than the device has room for."""
    name, steps = "out of memory: half the rows, and on", 2
    try:
        if not _has_gpu():
            raise Skipped("a CPU has no device memory to run out of")
        found = session.run(WORK, "back_off", scratch, scale.free_gib, steps)
    except Skipped as why:
        yield Case(name, None, "steps", target=steps, skipped=str(why))
        return
    yield Case(f"{name}, {found['halvings']} times", found["steps"], "steps", target=steps)


@dataclass(frozen=True)
class Trained:
    """What a training came to."""

    tokens_per_second: float
    flops: float
    """FLOP/s at that speed."""
    peak_gib: float


def trained(scratch: Path, scale: Scale, method: str, sequence: int, rows: int, **values: Any) -> Trained:
    """Return the figures of a training by the train stage; raises Skipped where it fails."""
    from pipeline_lib.core.errors import FinetuneError

    config = {
        "method": method,
        "batching": "packed",
        "packed_length": sequence,
        "batch_size": rows,
        "max_steps": scale.steps,
        "precision": scale.precision,
        # Sixteen bytes a parameter of 8B fit no single GPU.
        "trained_weights": "bf16" if scale.precision == "bf16" else "fp32",
        "optimizer": "adamw_torch_fused",
        "activation_checkpointing": method == "full",
        **values,
    }
    say(f"{method}: {rows} x {sequence} tokens")
    try:
        out = staged(scratch, f"{method}-{sequence}", config)
    except FinetuneError as error:
        raise Skipped(str(error)) from error
    history = (out.path / "logs" / "history.jsonl").read_text(encoding="utf-8").splitlines()
    for written in (out.path, out.work):
        shutil.rmtree(written)
    speeds = [point["tokens_per_second"] for point in map(json.loads, history) if "loss" in point]
    speed = statistics.median(speeds[WARM_UP:])
    # The stage's own count of FLOP, at the speed without its first steps.
    flops = out.stats["tflops"] * 1e12 * speed / out.stats["tokens_per_second"]
    return Trained(speed, flops, out.stats["peak_memory_gib"])


def staged(scratch: Path, name: str, values: dict[str, Any]) -> Output:
    """Return what the train stage wrote, from the tokens and the model that ``make`` left in ``scratch``."""
    from pipeline_lib.core.output import Output
    from pipeline_lib.kinds import Model, Tokens
    from pipeline_lib.training.train import TrainConfig, train

    out = Output("train", scratch / name, scratch / f"{name}-work")
    out.path.mkdir()
    config = TrainConfig.model_validate({"logging_steps": 1, "save_steps": 10_000, **values})
    train.function(out, config, Tokens(scratch / "tokens", ""), Model(scratch / "model", ""))
    return out


def _has_gpu() -> bool:
    """Return whether a driver answers, without loading torch."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    try:
        return b"GPU" in subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False).stdout
    except OSError:
        return False


if __name__ == "__main__":
    main(
        "gpu",
        cases,
        {"toy": "on a CPU, with a model of a few thousand weights: to try the way, not the speed"},
    )
