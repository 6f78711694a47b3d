"""The first step's proof: every weight that is to be trained has been told which way to go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from pipeline_lib.core.errors import StageError

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

NAMED = 5
"""Weights that the error names; the rest are counted."""


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
            more = f" and {len(without) - NAMED} more" if len(without) > NAMED else ""
            raise StageError(
                f"train: {len(without)} trainable weights received no gradient in the first step: "
                f"{', '.join(without[:NAMED])}{more}; freeze them, or take them out of the adapter's "
                "target_modules and modules_to_save"
            )
