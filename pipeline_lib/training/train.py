"""Train: a model or an adapter from tokens and a base model.

The loop is TRL's and runs in a child process (``worker.py``); this side prepares it, watches it, and keeps
what it wrote. A killed child is resumed from its last whole checkpoint by the next try.
"""

from __future__ import annotations

import json
import shutil
from typing import Literal

from pydantic import Field

from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.output import Output
from pipeline_lib.core.stage import stage
from pipeline_lib.kinds import Model, Tokens, Trained


class LoraConfig(StageConfig):
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685), under PEFT's names."""

    rank: int = Field(default=16, ge=1, le=1024, description="Rank of the update matrices.")
    alpha: int = Field(default=32, ge=1, description="Scale of the update; twice the rank is customary.")
    dropout: float = Field(default=0.05, ge=0, lt=1, description="Dropout on the adapters' inputs.")
    target_modules: tuple[str, ...] = Field(
        default=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        description="Names of the linear layers that get an adapter.",
    )


class TrainConfig(StageConfig):
    """How the model learns."""

    method: Literal["lora", "full"] = Field(
        default="lora", description="Train low-rank adapters, or every weight."
    )
    lora: LoraConfig = Field(
        default=LoraConfig(), description="The adapters' shape, where the method is lora."
    )
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
    batch_size: int = Field(default=8, ge=1, description="Sequences a device takes in one forward pass.")
    gradient_accumulation_steps: int = Field(
        default=1, ge=1, description="Forward passes before each optimizer step."
    )
    batching: Literal["group_by_length", "random"] = Field(
        default="group_by_length",
        description="Put sequences of like length together (less padding), or draw them at random.",
    )
    optimizer: Literal["adamw_torch", "adamw_torch_fused", "adafactor", "paged_adamw_8bit"] = Field(
        default="adamw_torch", description="Optimizer, under Transformers' name."
    )
    schedule: Literal["cosine", "linear", "constant", "constant_with_warmup"] = Field(
        default="cosine", description="Learning-rate schedule after the warm-up."
    )
    warmup_ratio: float = Field(
        default=0.03, ge=0, lt=1, description="Share of the steps over which the learning rate rises."
    )
    weight_decay: float = Field(default=0.01, ge=0, lt=1, description="Decoupled weight decay.")
    adam_beta2: float = Field(default=0.999, gt=0, lt=1, description="Adam's second-moment decay.")
    max_grad_norm: float = Field(default=1.0, gt=0, description="Gradients are clipped to this norm.")
    precision: Literal["bf16", "fp16", "fp32"] = Field(
        default="bf16", description="Number format of the computation; full training keeps fp32 weights."
    )
    activation_checkpointing: bool = Field(
        default=False,
        description="Recompute activations in the backward pass: less memory, a third more time.",
    )
    logging_steps: int = Field(default=10, ge=1, description="Steps between two points of the loss curve.")
    eval_steps: int | None = Field(
        default=None,
        ge=1,
        description="Steps between two looks at the validation split; none looks at the end of each epoch.",
    )
    save_steps: int = Field(default=100, ge=1, description="Steps between two checkpoints.")
    seed: int = Field(default=42, ge=0, description="Seed of the data order, the dropout and the adapters.")


@stage(produces=Trained, version=1)
def train(out: Output, config: TrainConfig, tokens: Tokens, base: Model) -> None:
    """An adapter for the base model (method lora), or the model with every weight trained (full)."""
    from pipeline_lib.launch import device, run_child

    spec = {
        "config": config.model_dump(mode="json"),
        "base": str(base.path),
        "tokens": str(tokens.path),
        "out": str(out.path),
        "work": str(out.work),
        "device": device(),
    }
    run_child("pipeline_lib.training.worker", spec, out.work, "train")
    out.stats = json.loads((out.work / "stats.json").read_text(encoding="utf-8"))
    logs = out.path / "logs"
    logs.mkdir(exist_ok=True)
    shutil.copy(out.work / "history.jsonl", logs / "history.jsonl")
    (logs / "stats.json").write_text(json.dumps(out.stats, indent=1), encoding="utf-8")
