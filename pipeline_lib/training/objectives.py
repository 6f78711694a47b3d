"""Objectives: what a training lowers or raises, under TRL's names, and the tokens that it needs.

PPO is not among them: TRL has no PPO trainer any more. GRPO and RLOO take its place, without a value model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from pipeline_lib.core.config import StageConfig

Objective = Literal["sft", "dpo", "kto", "reward", "grpo", "rloo"]

TOKENS_FOR: Mapping[str, tuple[str, ...]] = {
    "sft": ("supervised", "language_modelling"),
    "dpo": ("preference",),
    "reward": ("preference",),
    "kto": ("feedback",),
    "grpo": ("prompts",),
    "rloo": ("prompts",),
}
"""The objectives of ``tokenize`` that give each training objective its data; the first is the usual one."""

DpoLoss = Literal[
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot",
    "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
]  # fmt: skip


class DpoConfig(StageConfig):
    """Direct preference optimization (Rafailov et al. 2023, arXiv 2305.18290)."""

    loss: tuple[DpoLoss, ...] = Field(
        default=("sigmoid",), min_length=1, description="One loss, or several that are added (MPO)."
    )
    loss_weights: tuple[float, ...] | None = Field(
        default=None, description="Weight of each loss; none weighs them alike."
    )
    beta: float = Field(default=0.1, gt=0, description="How strongly the reference model holds back.")
    label_smoothing: float = Field(
        default=0.0,
        ge=0,
        lt=0.5,
        description="Share of pairs taken to be labelled wrongly (robust, exo_pair).",
    )
    ld_alpha: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Weight of tokens beyond the shorter answer (LD-DPO); none is 1.",
    )
    precompute_reference: bool = Field(
        default=False, description="Compute the reference's log-probabilities once, before training."
    )

    @model_validator(mode="after")
    def _fits(self) -> DpoConfig:
        if self.loss_weights is not None and len(self.loss_weights) != len(self.loss):
            raise ValueError(f"{len(self.loss_weights)} loss_weights for {len(self.loss)} losses")
        if "exo_pair" in self.loss and not self.label_smoothing:
            raise ValueError("the loss exo_pair needs label_smoothing over 0; 1e-3 is customary")
        return self


class KtoConfig(StageConfig):
    """Kahneman-Tversky optimization from single answers with a label (arXiv 2402.01306)."""

    loss: Literal["kto", "apo_zero_unpaired"] = Field(
        default="kto", description="Which loss, under TRL's name."
    )
    beta: float = Field(default=0.1, gt=0, description="How strongly the reference model holds back.")
    desirable_weight: float = Field(default=1.0, gt=0, description="Weight of answers labelled true.")
    undesirable_weight: float = Field(default=1.0, gt=0, description="Weight of answers labelled false.")


class RewardModelConfig(StageConfig):
    """A model that scores answers, from preference pairs (Bradley-Terry)."""

    center_rewards_coefficient: float | None = Field(
        default=None, gt=0, description="Pull of the mean score towards zero (arXiv 2312.09244); 0.01, say."
    )


class Reward(StageConfig):
    """One source of reward: a named function or a reward model, with its weight in the sum."""

    function: Literal["reference_f1", "last_number", "matches", "length", "stops"] | None = Field(
        default=None,
        description="Likeness to the reference answer; its last number; a regular expression; a length; "
        "whether the answer ends by itself.",
    )
    model: str | None = Field(
        default=None, description="Directory of a reward model, such as an artifact of conf/reward.yaml."
    )
    pattern: str | None = Field(default=None, description="Regular expression that `matches` looks for.")
    words: int | None = Field(default=None, ge=1, description="Number of words that `length` rewards most.")
    weight: float = Field(default=1.0, description="Factor of this reward in the sum.")

    @model_validator(mode="after")
    def _is_whole(self) -> Reward:
        if (self.function is None) == (self.model is None):
            raise ValueError("name either a function or a model")
        if self.function == "matches":
            try:
                re.compile(self.pattern or "")
            except re.error as error:
                raise ValueError(f"pattern: {self.pattern!r} is no regular expression ({error})") from error
        for function, field in (("matches", "pattern"), ("length", "words")):
            if (self.function == function) != (getattr(self, field) is not None):
                raise ValueError(f"{field} belongs to the function {function}, and it needs it")
        return self


class RlConfig(StageConfig):
    """Reinforcement learning on the model's own answers (GRPO, arXiv 2402.03300; RLOO, arXiv 2402.14740)."""

    rewards: tuple[Reward, ...] = Field(
        default=(Reward(function="reference_f1"),), min_length=1, description="What an answer is worth."
    )
    num_generations: int = Field(
        default=8, ge=2, description="Answers to a prompt, compared with each other."
    )
    max_completion_length: int = Field(default=256, ge=1, description="Longest answer, in tokens.")
    temperature: float = Field(default=1.0, gt=0, description="Temperature the answers are drawn at.")
    top_p: float = Field(default=1.0, gt=0, le=1, description="Answers are drawn from this much probability.")
    beta: float = Field(default=0.0, ge=0, description="Weight of the divergence from the reference model.")
    num_iterations: int = Field(default=1, ge=1, description="Optimizer passes over each set of answers.")
    grpo_loss: Literal["dapo", "grpo", "dr_grpo", "bnpo"] = Field(
        default="dapo", description="How GRPO averages over tokens; RLOO has no choice."
    )


class Objectives(StageConfig):
    """The choice of an objective with the values of each; only the chosen one's are read."""

    objective: Objective = Field(
        default="sft",
        description="Likelihood of tokens (sft), preference (dpo, kto), a reward model (reward), or a reward "
        "(grpo, rloo).",
    )
    dpo: DpoConfig = Field(default=DpoConfig(), description="Where the objective is dpo.")
    kto: KtoConfig = Field(default=KtoConfig(), description="Where the objective is kto.")
    reward: RewardModelConfig = Field(
        default=RewardModelConfig(), description="Where the objective is reward."
    )
    rl: RlConfig = Field(default=RlConfig(), description="Where the objective is grpo or rloo.")
