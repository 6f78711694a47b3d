"""What is found out at the first step: whether the memory suffices, and whether every weight learns."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from pipeline_lib.core.errors import StageError
from pipeline_lib.training.gates import listed
from pipeline_lib.training.order import random_states_kept

if TYPE_CHECKING:
    from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

COUNTERS = ("_metrics", "_stored_metrics", "_total_train_tokens")
"""What TRL's trainers count by themselves in every pass."""


class EveryWeightLearns(TrainerCallback):
    """Stops the training before its first update where a trainable weight has received no gradient.

    A gradient of zeros counts: that of LoRA's A is zero as long as B is. None means that the loss does not
    depend on the weight as it is wired: it would be saved as it began.
    """

    def __init__(self) -> None:
        self.checked = False

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **_: Any,
    ) -> None:
        """Look once, after the backward passes of the first step; StageError names the weights left out."""
        # DeepSpeed keeps gradients elsewhere.
        if self.checked or getattr(args, "deepspeed_plugin", None) is not None:
            return
        self.checked = True
        without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
        if without:
            raise StageError(
                f"train: {len(without)} trainable weights received no gradient in the first step: "
                f"{listed(without)}; freeze them, or take them out of the adapter's "
                "target_modules and modules_to_save"
            )


class LongestBatchFirst(TrainerCallback):
    """Takes the longest batch through forward pass, backward pass and optimizer step before training begins.

    What does not fit into the device's memory shows in the first minute. Nothing is learnt from it: the
    optimizer steps with gradients and a learning rate of zero, and what it kept, random states and counts are
    as they were.
    """

    def __init__(self, trainer: Trainer) -> None:
        """Try the batches of ``trainer``, whose train split has a column ``length``."""
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Raise the device's own error where the longest batch is too much for it."""
        trainer: Any = self.trainer
        with _as_it_was(trainer):
            batch = trainer.data_collator(self._longest(args.per_device_train_batch_size))
            count = trainer._get_num_items_in_batch([batch], args.device)
            trainer.current_gradient_accumulation_steps = args.gradient_accumulation_steps
            trainer.training_step(trainer.model_wrapped, batch, count)
            # DeepSpeed took the memory of its optimizer when it was made.
            if getattr(args, "deepspeed_plugin", None) is None:
                _step_nowhere(trainer.optimizer.optimizer)
            trainer.model_wrapped.zero_grad()

    def _longest(self, count: int) -> list[dict[str, Any]]:
        trainer: Any = self.trainer
        lengths = trainer.train_dataset["length"]
        places = sorted(range(len(lengths)), key=lambda place: -lengths[place])[:count]
        rows: list[dict[str, Any]] = trainer._remove_unused_columns(
            trainer.train_dataset.select(places)
        ).to_list()
        return rows


@contextmanager
def _as_it_was(trainer: Trainer) -> Iterator[None]:
    """Put random states and the trainer's counts back after the block."""
    counts = {name: copy.deepcopy(value) for name, value in vars(trainer).items() if name in COUNTERS}
    with random_states_kept():
        yield
    vars(trainer).update(counts)


def _step_nowhere(optimizer: Any) -> None:
    """Let the optimizer take the memory of its first step and change no weight; a resumed one has it."""
    if optimizer.state:
        return
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for weight in group["params"]:
            if weight.grad is not None:
                weight.grad.zero_()
    optimizer.step()
    optimizer.state.clear()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
