"""Train: a model or an adapter from tokens and a base model.

The loop is TRL's and runs in child processes (``worker.py``); this side prepares it, watches it, and keeps
what it wrote. A killed child is resumed from its last whole checkpoint by the next try; one that runs out of
the device's memory goes on from there with half the micro-batch and twice the passes before a step.
"""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from pipeline_lib.core import progress
from pipeline_lib.core.errors import ConfigError
from pipeline_lib.core.manifest import MANIFEST
from pipeline_lib.core.output import Output
from pipeline_lib.core.stage import stage
from pipeline_lib.kinds import HISTORY, Model, Tokens, Trained, brings_code
from pipeline_lib.settings import file_digests
from pipeline_lib.training.methods import VIRTUAL_TOKENS, LoraConfig, Methods
from pipeline_lib.training.mixing import MixConfig
from pipeline_lib.training.objectives import TOKENS_FOR, Objectives
from pipeline_lib.training.schedules import Schedule, objection

__all__ = ["LoraConfig", "TrainConfig", "train"]


class TrainConfig(Methods, Objectives):
    """How the model learns: what from (objective), with which weights (method), and how fast."""

    learning_rate: float = Field(
        default=2e-4,
        gt=0,
        lt=1,
        description="Peak learning rate; 2e-4 for LoRA, 1e-5 for full training of a pretrained model.",
    )
    epochs: float = Field(default=2.0, gt=0, description="Passes over the train split.")
    max_steps: int | None = Field(
        default=None, ge=1, description="Optimizer steps after which training ends, whatever the epochs say."
    )
    batch_size: int = Field(
        default=8, ge=1, description="Sequences a device takes in one forward pass, where it has the memory."
    )
    gradient_accumulation_steps: int = Field(
        default=1,
        ge=1,
        description="Forward passes before each optimizer step; several processes share them.",
    )
    batching: Literal["group_by_length", "random", "packed"] = Field(
        default="group_by_length",
        description="Put sequences of like length together (less padding), draw them at random, or put "
        "several into one row that do not see each other; batch_size then counts rows.",
    )
    packed_length: int | None = Field(
        default=None,
        ge=16,
        description="Tokens of a packed row; none takes the longest sequence of the train split.",
    )
    optimizer: Literal["adamw_torch", "adamw_torch_fused", "adafactor", "adamw_8bit", "paged_adamw_8bit"] = (
        Field(
            default="adamw_torch_fused",
            description="Optimizer, under Transformers' name; 8-bit ones need bitsandbytes.",
        )
    )
    schedule: Schedule = Field(default="cosine", description="Learning-rate schedule after the warm-up.")
    schedule_options: dict[str, float] = Field(
        default={}, description="The schedule's own values, such as {min_lr_rate: 0.1} or {num_cycles: 3}."
    )
    warmup_ratio: float = Field(
        default=0.03, ge=0, lt=1, description="Share of the steps over which the learning rate rises."
    )
    weight_decay: float = Field(default=0.01, ge=0, lt=1, description="Decoupled weight decay.")
    adam_beta1: float = Field(default=0.9, ge=0, lt=1, description="Adam's first-moment decay.")
    adam_beta2: float = Field(default=0.999, gt=0, lt=1, description="Adam's second-moment decay.")
    adam_epsilon: float = Field(default=1e-8, gt=0, description="Adam's guard against division by zero.")
    max_grad_norm: float = Field(default=1.0, gt=0, description="Gradients are clipped to this norm.")
    neftune_noise_alpha: float | None = Field(
        default=None,
        gt=0,
        description="Noise on the embeddings while training (NEFTune, arXiv 2310.05914); 5, say.",
    )
    precision: Literal["bf16", "fp16", "fp32"] = Field(
        default="bf16", description="Number format of the computation and of frozen weights."
    )
    trained_weights: Literal["fp32", "bf16"] = Field(
        default="fp32",
        description="Number format of the weights that full training changes; bf16 halves their memory and "
        "loses small updates.",
    )
    attn_implementation: Literal[
        "auto", "sdpa", "eager", "flex_attention", "flash_attention_2", "flash_attention_3"
    ] = Field(
        default="auto",
        description="Attention kernel, under Transformers' name; auto takes flash_attention_2 where it is "
        "installed for packed rows on a GPU, else sdpa or what the architecture has; on a CPU sequence by "
        "sequence without padding.",
    )
    activation_checkpointing: bool = Field(
        default=False,
        description="Recompute activations in the backward pass: less memory, a third more time.",
    )
    activation_offloading: bool = Field(
        default=False, description="Keep activations in the host's memory until the backward pass; GPU only."
    )
    logging_steps: int | None = Field(
        default=None,
        ge=1,
        description="Steps between two points of the loss curve; none takes ten, or fewer so that a short "
        "training has twenty points.",
    )
    eval_steps: int | None = Field(
        default=None,
        ge=1,
        description="Steps between two looks at the validation split; none looks at the end of each epoch.",
    )
    save_steps: int = Field(
        default=100,
        ge=1,
        description="Steps between two checkpoints; with load_best_model_at_end there is one at each look.",
    )
    load_best_model_at_end: bool = Field(
        default=False, description="Keep the checkpoint that was best on the validation split, not the last."
    )
    metric_for_best_model: str = Field(
        default="eval_loss",
        pattern=r"^eval_[\w/]+$",
        description="What best means: a loss (lower) or another figure (higher): eval_rewards/accuracies.",
    )
    early_stopping_patience: int | None = Field(
        default=None,
        ge=1,
        description="Looks at the validation split without a better figure after which training ends.",
    )
    early_stopping_threshold: float = Field(
        default=0.0, ge=0, description="How much better a figure must be to count as better."
    )
    mix: MixConfig = Field(
        default=MixConfig(),
        description="How often each of several sources is seen, and what is kept in mind.",
    )
    parallel: Literal["ddp", "fsdp2", "zero2", "zero3"] = Field(
        default="ddp",
        description="How several processes hold the model: each whole (ddp), or a share (FSDP2, ZeRO).",
    )
    seed: int = Field(default=42, ge=0, description="Seed of the data order, the dropout and the adapters.")

    @model_validator(mode="after")
    def _goes_together(self) -> TrainConfig:
        if why := objection(self.schedule, self.schedule_options):
            raise ValueError(why)
        if self.early_stopping_patience is not None and not self.load_best_model_at_end:
            raise ValueError("early_stopping_patience needs load_best_model_at_end: true")
        if self.batching == "packed" and (self.objective != "sft" or self.method in VIRTUAL_TOKENS):
            raise ValueError(
                "batching packed is for the objective sft, and not for methods with virtual tokens"
            )
        plain = self.method == "full" and self.objective == "sft" and self.parallel == "ddp"
        if self.mix.ewc_strength is not None and not plain:
            raise ValueError(
                "mix.ewc_strength is for method full, objective sft, parallel ddp: it holds whole weights"
            )
        if self.objective != "sft" and self.method in VIRTUAL_TOKENS:
            raise ValueError(f"method {self.method} is for the objective sft; take lora for {self.objective}")
        if self.activation_offloading and self.objective in ("grpo", "rloo"):
            raise ValueError(
                f"TRL has no activation_offloading for {self.objective}; take activation_checkpointing"
            )
        return self


def outside(config: TrainConfig) -> dict[str, str]:
    """Return the digests of the reward models that a reinforcement learning asks."""
    if config.objective not in ("grpo", "rloo"):
        return {}
    return {
        f"rl.rewards.{i}.model": _digest(Path(reward.model))
        for i, reward in enumerate(config.rl.rewards)
        if reward.model
    }


def _digest(directory: Path) -> str:
    if not (directory / "config.json").exists():
        raise ConfigError(
            f"train.rl.rewards: {directory} holds no model; name the directory of a reward model"
        )
    files = sorted(path for path in directory.iterdir() if path.is_file() and path.name != MANIFEST)
    return file_digests().of_all(files, directory)


@stage(produces=Trained, version=5, outside=outside)
def train(out: Output, config: TrainConfig, tokens: Tokens, base: Model) -> None:
    """An adapter for the base model, or the model with every weight trained (full)."""
    from pipeline_lib.launch import device
    from pipeline_lib.training.attention import check_attention
    from pipeline_lib.training.gates import check_training
    from pipeline_lib.training.loading import check_quantization

    check_quantization(config.method, config.optimizer)
    check_attention(config, device(), own_code=brings_code(base.path))
    _check_tokens(config, tokens)
    check_training(config, tokens, base.path, device())
    spec = {
        "config": config.model_dump(mode="json"),
        "base": str(base.path),
        "tokens": str(tokens.path),
        "out": str(out.path),
        "work": str(out.work),
        "device": device(),
        "parallel": config.parallel,
    }
    _run(spec, out)
    out.stats = json.loads((out.work / "stats.json").read_text(encoding="utf-8"))
    logs = out.path / "logs"
    logs.mkdir(exist_ok=True)
    shutil.copy(out.work / HISTORY, logs / HISTORY)
    (logs / "stats.json").write_text(json.dumps(out.stats, indent=1), encoding="utf-8")


def _run(spec: dict[str, Any], out: Output) -> None:
    """Run the child, with smaller and smaller forward passes where the device's memory does not suffice."""
    from pipeline_lib.launch import DeviceMemoryError, run_child

    for halvings in itertools.count():
        try:
            run_child("pipeline_lib.training.worker", {**spec, "halvings": halvings}, out.work, "train")
            return
        except DeviceMemoryError as error:
            if spec["config"]["batch_size"] >> (halvings + 1) < _least(spec["config"]):
                raise
            progress.mention(f"train: {error}; going on with half as many sequences in a forward pass")


def _least(config: dict[str, Any]) -> int:
    """Return the fewest sequences of a forward pass: KTO's divergence is that of several answers."""
    return 2 if config["objective"] == "kto" and config["kto"]["loss"] == "kto" else 1


def _check_tokens(config: TrainConfig, tokens: Tokens) -> None:
    """Raise ConfigError where the tokens were made for another objective."""
    import pyarrow.parquet as pq

    columns = {
        "sft": "learn",
        "dpo": "rejected_ids",
        "reward": "rejected_ids",
        "kto": "completion_ids",
        "grpo": "answer",
        "rloo": "answer",
    }
    there = pq.read_schema(tokens.shards("train")[0]).names
    if columns[config.objective] not in there:
        raise ConfigError(
            f"train.objective {config.objective} needs tokenize.objective={TOKENS_FOR[config.objective][0]}; "
            f"these tokens hold {', '.join(there)}"
        )
