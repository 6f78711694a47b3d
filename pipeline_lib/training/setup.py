"""Setup: the part of a training's config that its memory and time depend on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipeline_lib.training.model_shape import ALL_LINEAR
from pipeline_lib.training.objectives import Objective

if TYPE_CHECKING:
    from pipeline_lib.training.train import TrainConfig

Method = Literal["full", "lora", "qlora"]
Precision = Literal["bf16", "fp16", "fp32"]

PAIRED = ("dpo", "reward")
"""Objectives whose rows are two sequences, each answer with the prompt before it."""
REFERENCE_PASSES: Mapping[str, int] = {"dpo": 1, "kto": 3}
"""The reference model's own pass, and for KTO's divergence both models' over a neighbour's answer."""


@dataclass(frozen=True)
class Setup:
    """How a model is trained, as far as memory and time depend on it."""

    batch_size: int = 1
    sequence_length: int = 2048
    precision: Precision = "bf16"
    activation_checkpointing: bool = True
    rank: int = 16
    target_modules: Sequence[str] | str = ALL_LINEAR
    optimizer: str = "adamw_torch"
    trained_weights: Literal["fp32", "bf16"] = "fp32"
    fused_loss: bool = True
    objective: Objective = "sft"

    @property
    def sequences(self) -> int:
        """Sequences that a row of the batch makes."""
        return 2 if self.objective in PAIRED else 1

    @property
    def reference_passes(self) -> int:
        """Forward passes without gradient that go with each one that learns."""
        return REFERENCE_PASSES.get(self.objective, 0)

    @property
    def tokens(self) -> int:
        """Tokens in one forward pass."""
        return self.batch_size * self.sequences * self.sequence_length


def setup_of(config: TrainConfig, tokenize_max_length: int) -> Setup:
    """Return the setup of a config whose sequences are at most so long."""
    packed = config.packed_length if config.batching == "packed" else None
    return Setup(
        batch_size=config.batch_size,
        sequence_length=packed or tokenize_max_length,
        precision=config.precision,
        activation_checkpointing=config.activation_checkpointing,
        rank=config.lora.rank,
        target_modules=config.lora.target_modules,
        optimizer=config.optimizer,
        trained_weights=config.trained_weights,
        objective=config.objective,
    )
