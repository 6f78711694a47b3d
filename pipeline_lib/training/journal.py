"""The training's journal: loss curve, whole checkpoints, progress, and the answer to a signal to stop."""

from __future__ import annotations

import json
import math
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from pipeline_lib.core.errors import DataError

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from pipeline_lib.training.utilisation import Yardstick

WHOLE = "whole"
CONFIG = "config.json"
LOGGING_STEPS = (1, 2, 5, 10)
"""Steps between two points of the loss curve: the most that leave ``LEAST_POINTS``."""
LEAST_POINTS = 20
CURVES = (
    "loss",
    "learning_rate",
    "grad_norm",
    "mean_token_accuracy",
    "reward",
    "kl",
    "completions/mean_length",
)
"""What is kept of a logged point, beside every figure of rewards (their margins, accuracies, means)."""


def claim_checkpoints(directory: Path, config: dict[str, Any]) -> None:
    """Note whose checkpoints ``directory`` holds.

    DataError where they are of another config: resuming from them would mix two trainings.
    """
    directory.mkdir(parents=True, exist_ok=True)
    known = directory / CONFIG
    if known.exists() and json.loads(known.read_text(encoding="utf-8")) != config:
        raise DataError(
            f"train: the checkpoints in {directory} are of another config; remove them to begin anew"
        )
    known.write_text(json.dumps(config), encoding="utf-8")


def last_whole_checkpoint(directory: Path) -> Path | None:
    """Return the newest checkpoint that was written to its end, or None; what is torn is removed."""
    whole = [path for path in directory.glob("checkpoint-*") if (path / WHOLE).exists()]
    for torn in directory.glob("checkpoint-*"):
        if torn not in whole:
            shutil.rmtree(torn)
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


class Journal(TrainerCallback):
    """Writes the loss curve, marks whole checkpoints, tells of progress, and stops on a signal."""

    def __init__(
        self,
        path: Path,
        tell: Callable[..., None],
        tokens: int,
        yardstick: Yardstick,
        *,
        steps: int | None = None,
        writes: bool = True,
    ) -> None:
        """Append to ``path`` every ``steps``; ``tokens`` is what one pass over the train split holds."""
        self.path, self.tell, self.tokens, self.yardstick, self.writes = path, tell, tokens, yardstick, writes
        self.steps = steps
        self.tokens_seen = self.tokens_before = 0
        self.stopping = False
        self.stopped = False
        self._last = (time.perf_counter(), 0)

    def looked(self, step: int | None) -> dict[str, float]:
        """Return the figures of the validation split at a step, or when it was last looked at."""
        looks = [point for point in self._points() if "eval_loss" in point and step in (None, point["step"])]
        return {name: value for name, value in (looks[-1] if looks else {}).items() if name != "step"}

    @property
    def train_loss(self) -> float:
        """The mean over all steps, those before a training was resumed among them."""
        points = [point for point in self._points() if "loss" in point]
        whole, before = 0.0, 0
        for point in points:
            whole, before = whole + point["loss"] * (point["step"] - before), point["step"]
        return whole / max(before, 1)

    def _points(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]

    @property
    def tokens_here(self) -> int:
        """Tokens seen since this process began, whatever was there to go on from."""
        return self.tokens_seen - self.tokens_before

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGTERM and SIGINT as the wish to save a checkpoint after the step at work, and end."""
        before = {wish: signal.signal(wish, self._stop) for wish in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for wish, handler in before.items():
                signal.signal(wish, handler)

    def _stop(self, *_: Any) -> None:
        self.stopping = True

    def rewind(self, checkpoint: Path | None) -> None:
        """Forget the points after ``checkpoint``, which are about to be made again."""
        if not self.writes:
            return
        step = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        self.path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Count from here; a resumed training has seen tokens before."""
        most = max(1, state.max_steps // LEAST_POINTS)
        state.logging_steps = self.steps or max(steps for steps in LOGGING_STEPS if steps <= most)
        self.tokens_seen = self.tokens_before = int(self.tokens * (state.epoch or 0.0))
        self._last = (time.perf_counter(), self.tokens_seen)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Keep one point of the curves; FloatingPointError where the loss is no number any more."""
        logs = logs or {}
        if any(name.startswith("eval_") for name in logs):
            figures = {k: float(v) for k, v in logs.items() if k.startswith("eval_") and _is_figure(k[5:])}
            self._append({"step": state.global_step, **figures})
        elif "loss" in logs:
            if not math.isfinite(float(logs["loss"])):
                raise FloatingPointError(
                    f"the loss became {logs['loss']} at step {state.global_step}; lower train.learning_rate "
                    "or use train.precision=bf16"
                )
            point: dict[str, float] = {
                "step": state.global_step,
                "epoch": round(state.epoch or 0.0, 4),
                **{name: float(value) for name, value in logs.items() if _is_figure(name)},
            }
            rate = self._rate(state)
            point["tokens_per_second"] = round(rate, 1)
            point["model_flop_utilisation"] = round(self.yardstick.share(rate), 4)
            self._append(point)
            self.tell(
                done=state.global_step,
                total=state.max_steps,
                note=f"loss {point['loss']:.3f}  {rate:,.0f} tok/s  {self.yardstick.share(rate):.1%} MFU",
            )

    def _rate(self, state: TrainerState) -> float:
        now, seen = time.perf_counter(), int(self.tokens * (state.epoch or 0.0))
        before, had = self._last
        self._last, self.tokens_seen = (now, seen), seen
        return (seen - had) / max(now - before, 1e-9)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Where a signal came, save and stop, unless this was the last step anyway, where the curve ends.

        Nothing goes on from the last step: what it left is saved as the result, and no checkpoint beside it.
        """
        if state.global_step >= state.max_steps:
            control.should_log = True
            control.should_save = control.should_save and args.load_best_model_at_end
        if _any_process(self.stopping) and state.global_step < state.max_steps:
            self.stopped = control.should_save = control.should_training_stop = True
        self._log_what_is_saved(control)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """See that the curve goes as far as a checkpoint that is written now."""
        self._log_what_is_saved(control)

    def _log_what_is_saved(self, control: TrainerControl) -> None:
        # What was summed since the last point is in no checkpoint: a resumed curve would lack it.
        control.should_log = control.should_log or control.should_save

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Mark the checkpoint that was just written as whole.

        One of the last step is not marked: resuming from it would train a step too many.
        """
        _await_others()
        if self.writes and state.global_step < state.max_steps:
            (Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / WHOLE).touch()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Count the tokens, and move the bar, to the end: the last steps may not have been logged."""
        self.tokens_seen = int(self.tokens * (state.epoch or 0.0))
        self.tell(done=state.global_step, total=state.max_steps)

    def _append(self, point: dict[str, Any]) -> None:
        if self.writes:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(point) + "\n")


def _is_figure(name: str) -> bool:
    return name in CURVES or name.startswith(("rewards/", "rewards_", "margin", "accuracy", "logps/"))


def _several() -> bool:
    import torch

    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _await_others() -> None:
    import torch

    if _several():
        torch.distributed.barrier()


def _any_process(flag: bool) -> bool:
    """Return whether any process of the training has the flag up; all of them get the same answer."""
    import torch

    if not _several():
        return flag
    flags: list[Any] = [False] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(flags, flag)
    return any(flags)
