"""Training beside a plain TRL script and LLaMA-Factory, and beside a bare loop over the stage's own batches.

Every side trains all weights of the bundled model once over the same generated conversations, whose lengths
are spread as Alpaca's are, in batches of as many and in the same precision, with no activation recomputed.
Counted are real tokens a second of the training loop: what pads a batch is no token. Sides take turns, and a
figure is the median of its turns. **Overhead** is what the stage costs over the bare loop on a run whose bare
loop takes five minutes: once what does not grow with the steps (processes, imports, the longest batch tried,
saving), and each step at its measured rate. A run of few steps tells both, since the steps are timed apart.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import Case, Peer, Session, Skipped, main

WORK, PEERS = "benchmarks.training_work", "benchmarks.training_peers"
LLAMA_FACTORY = Peer("llamafactory", ("llamafactory==0.9.5",), small=False)
CONVERSATIONS, QUICK_CONVERSATIONS = 2048, 192
ROUNDS = 3
AHEAD, AHEAD_WITH_AMX = 1.5, 2.0
"""The aim beside the best peer; a CPU that multiplies bf16 matrices has more to win."""
RUN_SECONDS = 300.0
OVERHEAD_PERCENT = 5.0
SIDES: dict[str, dict[str, Any]] = {
    "the train stage": {"module": WORK, "task": "staged"},
    "bare torch loop": {"module": WORK, "task": "bare"},
    "plain TRL script": {"module": PEERS, "task": "trl"},
    "LLaMA-Factory": {"module": PEERS, "task": "llama_factory", "peer": LLAMA_FACTORY},
}
OURS, BARE, *OTHERS = SIDES


def cases(session: Session) -> Iterator[Case]:
    """The train stage against TRL, LLaMA-Factory and a bare loop, in real tokens a second."""
    count = QUICK_CONVERSATIONS if session.quick else CONVERSATIONS
    amx = has_amx()
    precision, aim = ("bf16", AHEAD_WITH_AMX) if amx else ("fp32", AHEAD)
    name = f"full training, {precision}, {count:,} conversations"
    with tempfile.TemporaryDirectory(prefix="finetune-training-") as scratch:
        session.run(WORK, "make", scratch, count, threads=_cores())
        found = _in_turns(session, Path(scratch), precision, 1 if session.quick else ROUNDS)
    if isinstance(ours := found[OURS], str):
        yield Case(name, None, "tokens/s", skipped=ours)
        return
    for side in OTHERS:
        yield _beside(name, ours, side, found[side], target=aim)
    yield _beside(name, ours, BARE, found[BARE])
    if not isinstance(bare := found[BARE], str):
        cost = overhead(ours, bare)
        yield Case(
            f"overhead of the stage, run of {RUN_SECONDS / 60:.0f} minutes",
            cost.percent,
            "%",
            target=OVERHEAD_PERCENT,
            less_is_better=True,
        )
        yield Case("of it once: start, longest batch, saving", cost.once, "s", less_is_better=True)
        yield Case("of it each step", cost.step_percent, "% of a step", less_is_better=True)


Turns = list[dict[str, float]]


def _in_turns(session: Session, scratch: Path, precision: str, rounds: int) -> dict[str, Turns | str]:
    """Return each side's turns, or why it has none."""
    found: dict[str, Turns | str] = {side: [] for side in SIDES}
    for turn in range(rounds):
        for side, how in SIDES.items():
            so_far = found[side]
            if isinstance(so_far, str):
                continue
            try:
                task = (how["task"], scratch, precision, turn)
                so_far.append(session.run(how["module"], *task, peer=how.get("peer"), threads=_cores()))
            except Skipped as why:
                found[side] = str(why)
    return found


def _beside(name: str, ours: Turns, side: str, theirs: Turns | str, target: float | None = None) -> Case:
    if isinstance(theirs, str):
        return Case(name, rate(ours), "tokens/s", side, target=target, skipped=theirs)
    return Case(name, rate(ours), "tokens/s", side, rate(theirs), target)


def rate(turns: Turns) -> float:
    """Return the median of real tokens a second of the loop."""
    return statistics.median(turn["tokens"] / turn["seconds"] for turn in turns)


@dataclass(frozen=True)
class Overhead:
    """What the stage takes more than the bare loop."""

    once: float
    """Seconds, however many steps there are."""
    step_percent: float

    @property
    def percent(self) -> float:
        """By how much the stage as a whole takes longer than a bare loop of five minutes."""
        return self.step_percent + 100 * self.once / RUN_SECONDS


def overhead(ours: Turns, bare: Turns) -> Overhead:
    """Return what the stage costs once and each step, by the medians of the turns."""
    once = statistics.median(turn["whole"] - turn["loop"] for turn in ours)
    steps = statistics.median(turn["loop"] / turn["tokens"] for turn in ours)
    return Overhead(once, 100 * (steps * rate(bare) - 1))


def has_amx() -> bool:
    """Return whether this CPU has units for bf16 matrix products."""
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False


def _cores() -> int:
    return len(os.sched_getaffinity(0))


if __name__ == "__main__":
    main("training", cases)
