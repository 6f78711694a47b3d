"""What is found out at the first step.

Whether the memory suffices, whether every weight learns, and whether sequences that share a row keep apart.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from pipeline_lib.core.errors import ConfigError, StageError
from pipeline_lib.training.gates import listed
from pipeline_lib.training.order import random_states_kept

if TYPE_CHECKING:
    import torch
    from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

COUNTERS = ("_metrics", "_stored_metrics", "_total_train_tokens")
"""What TRL's trainers count by themselves in every pass."""
LOOKED_AT = 64
"""Tokens of either sequence that are held against each other."""
SEEN, SEEN_IN_HALF = 1e-4, 0.03
"""Influence that rounding does not make: in 30 architectures it was up to 2e-6 in fp32, 0.01 in bf16."""


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


class NeighboursUnseen(TrainerCallback):
    """Stops the training before its first step where a model reads on from one sequence of a row to the next.

    Not every architecture heeds the positions, or the ends, by which a row says where its sequences are:
    those with a state or a convolution, with positions of their own counting, and some that only forgot to
    pass them on train on neighbours in silence.
    """

    influence: float | None = None
    """Of the change that a neighbour makes to the logits where the model is to read it, the share that it
    makes where it is not; None where no sequences share a row."""

    def __init__(self, trainer: Trainer) -> None:
        """Try the model of ``trainer`` with rows as its collator makes them."""
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Lay the beginnings of two sequences in a row; ConfigError where the second reads the first."""
        trainer: Any = self.trainer
        before, after = (trainer.train_dataset[place]["input_ids"][:LOOKED_AT] for place in (0, -1))
        row = {"input_ids": before + after, "labels": before + after}
        batch = trainer.data_collator([row | {"seq_lengths": [len(before), len(after)]}])
        if "position_ids" not in batch:
            return
        with _as_it_was(trainer):
            together, joined, alone = (
                self._logits(inputs)[-len(after) :]
                for inputs in (batch, {"input_ids": [before + after]}, {"input_ids": [after]})
            )
        seen, whole = (float((logits - alone).abs().mean()) for logits in (together, joined))
        self.influence = round(seen / max(seen, whole), 6) if seen else 0.0
        half = args.bf16 or args.fp16 or next(trainer.model.parameters()).element_size() < 4
        if self.influence > (SEEN_IN_HALF if half else SEEN):
            kind = getattr(trainer.model.config, "model_type", "this")
            raise ConfigError(
                f"train.batching packed: a {kind} model reads on from one sequence of a row to the next: its "
                f"logits change by {self.influence:.2%} of what they would in one text; take "
                "train.batching=group_by_length"
            )

    def _logits(self, inputs: Any) -> torch.Tensor:
        import torch

        trainer: Any = self.trainer
        tensors = trainer._prepare_inputs({name: torch.as_tensor(value) for name, value in inputs.items()})
        tensors.pop("labels", None)
        trainer.model_wrapped.eval()
        with torch.no_grad():
            logits: torch.Tensor = trainer.model_wrapped(**tensors, use_cache=False).logits
        return logits[0].float()


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
