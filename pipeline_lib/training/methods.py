"""Methods: which weights a training changes, under PEFT's names.

``train.method`` chooses; the block of the same name holds the method's own values. ``full`` has none,
``qlora`` shares LoRA's, and ``peft`` takes any other adapter of PEFT as PEFT's own config.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from pipeline_lib.core.config import StageConfig

MethodName = Literal["full", "lora", "qlora", "ia3", "prefix_tuning", "prompt_tuning", "p_tuning", "peft"]
Modules = tuple[str, ...] | Literal["all-linear"]

VIRTUAL_TOKENS = ("prefix_tuning", "prompt_tuning", "p_tuning")
"""Methods that learn tokens put before the input: no weight of the base changes, so nothing can be merged."""


class LoraConfig(StageConfig):
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685), also over a 4-bit base (qlora)."""

    rank: int = Field(default=16, ge=1, le=1024, description="Rank of the update matrices.")
    alpha: int = Field(default=32, ge=1, description="Scale of the update; twice the rank is customary.")
    dropout: float = Field(default=0.05, ge=0, lt=1, description="Dropout on the adapters' inputs.")
    target_modules: Modules = Field(
        default="all-linear",
        description="Names of the linear layers that get an adapter; `all-linear` is all but the last.",
    )
    modules_to_save: tuple[str, ...] = Field(
        default=(), description="Modules trained in full beside the adapters and saved with them."
    )
    use_dora: bool = Field(
        default=False, description="Learn magnitude and direction apart (DoRA, arXiv 2402.09353)."
    )
    use_rslora: bool = Field(
        default=False, description="Scale by alpha/sqrt(rank): steadier at high rank (arXiv 2312.03732)."
    )
    init: Literal["default", "gaussian", "orthogonal", "olora", "pissa", "pissa_niter_16"] = Field(
        default="default",
        description="How the matrices begin; pissa starts from the base's principal components (arXiv "
        "2404.02948), pissa_niter_16 by a fast SVD.",
    )
    loraplus_lr_ratio: float | None = Field(
        default=None,
        ge=1,
        description="Learning rate of B over that of A (LoRA+, arXiv 2402.12354; usually 16); none is 1.",
    )

    @model_validator(mode="after")
    def _combines(self) -> LoraConfig:
        if self.mutates_base and self.use_dora:
            raise ValueError(
                f"init={self.init} changes the base's weights, which use_dora measures; take one"
            )
        if self.mutates_base and self.use_rslora:
            raise ValueError(f"init={self.init} is saved as plain LoRA, which loses use_rslora; take one")
        return self

    @property
    def mutates_base(self) -> bool:
        """Whether the base's own weights change when the adapter is put on."""
        return self.init.startswith(("pissa", "olora"))


class Ia3Config(StageConfig):
    """Learned scales of keys, values and feed-forward activations (Liu et al. 2022, arXiv 2205.05638)."""

    target_modules: tuple[str, ...] = Field(
        default=("k_proj", "v_proj", "down_proj"), description="Names of the linear layers that are scaled."
    )
    feedforward_modules: tuple[str, ...] = Field(
        default=("down_proj",), description="Those of them whose inputs are scaled instead of their outputs."
    )

    @model_validator(mode="after")
    def _is_subset(self) -> Ia3Config:
        if extra := sorted(set(self.feedforward_modules) - set(self.target_modules)):
            raise ValueError(f"feedforward_modules: {extra[0]} is not among target_modules")
        return self


class PrefixTuningConfig(StageConfig):
    """Learned keys and values before every layer's own (Li and Liang 2021, arXiv 2101.00190)."""

    num_virtual_tokens: int = Field(default=20, ge=1, description="Length of the prefix.")
    prefix_projection: bool = Field(default=False, description="Learn the prefix through a small network.")


class PromptTuningConfig(StageConfig):
    """Learned embeddings before the input (Lester et al. 2021, arXiv 2104.08691)."""

    num_virtual_tokens: int = Field(default=20, ge=1, description="Length of the prompt.")
    init_text: str | None = Field(
        default=None, min_length=1, description="Text whose embeddings the prompt starts from; none: random."
    )


class PTuningConfig(StageConfig):
    """A learned prompt made by an encoder (Liu et al. 2021, arXiv 2103.10385)."""

    num_virtual_tokens: int = Field(default=20, ge=1, description="Length of the prompt.")
    encoder_hidden_size: int = Field(default=128, ge=1, description="Width of the prompt's encoder.")


class Methods(StageConfig):
    """The choice of a method with the values of each; only the chosen one's are read."""

    method: MethodName = Field(
        default="lora",
        description="Train every weight (full), an adapter of PEFT, or an adapter over a 4-bit base (qlora).",
    )
    lora: LoraConfig = Field(default=LoraConfig(), description="Where the method is lora or qlora.")
    ia3: Ia3Config = Field(default=Ia3Config(), description="Where the method is ia3.")
    prefix_tuning: PrefixTuningConfig = Field(
        default=PrefixTuningConfig(), description="Where the method is prefix_tuning."
    )
    prompt_tuning: PromptTuningConfig = Field(
        default=PromptTuningConfig(), description="Where the method is prompt_tuning."
    )
    p_tuning: PTuningConfig = Field(default=PTuningConfig(), description="Where the method is p_tuning.")
    peft: dict[str, Any] = Field(
        default={},
        description="Where the method is peft: any of PEFT's configs by its own names, such as {peft_type: "
        "OFT, oft_block_size: 32, target_modules: [q_proj]}.",
    )

    @model_validator(mode="after")
    def _names_a_type(self) -> Methods:
        if self.method == "peft" and "peft_type" not in self.peft:
            raise ValueError("method peft needs peft.peft_type, such as {peft_type: OFT}")
        return self

    @property
    def merges(self) -> bool:
        """Whether what is learnt can become part of the base's weights."""
        return self.method not in VIRTUAL_TOKENS
