"""The forms of a model: the merged directory, a GGUF file, base and adapter; each loaded in fp32."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_lib.core.errors import ConfigError
from pipeline_lib.kinds import brings_code
from pipeline_lib.launch import device
from pipeline_lib.publishing.export import gguf, parity
from pipeline_lib.publishing.export.safetensors import weight_files

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_model(directory: Path) -> PreTrainedModel:
    """Return the model in ``directory``."""
    import torch
    from transformers import AutoModelForCausalLM

    trusted = brings_code(directory)
    return _ready(
        AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, trust_remote_code=trusted)
    )


def load_adapted(base: Path, adapter: Path) -> PreTrainedModel:
    """Return the base model with the adapter on it, not merged."""
    from peft import PeftModel

    return _ready(PeftModel.from_pretrained(load_model(base), adapter))


def load_gguf(directory: Path, name: str, original: Path) -> PreTrainedModel:
    """Return the model in a GGUF file, built from what the file itself says.

    Transformers reads neither scaled rotary frequencies nor Qwen 3's head width from GGUF; these come from
    the ``original`` model's config.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(directory, gguf_file=name)
    intended = AutoConfig.from_pretrained(original)
    if gguf.rope_type(intended) != "default":
        config.rope_parameters = intended.rope_parameters
    if intended.model_type == "qwen3":
        config.head_dim = intended.head_dim
    return _ready(
        AutoModelForCausalLM.from_pretrained(directory, gguf_file=name, config=config, dtype=torch.float32)
    )


def _ready(model: Any) -> PreTrainedModel:
    ready: PreTrainedModel = model.to(device()).eval()
    return ready


def load_tokenizer(directory: Path, gguf_name: str | None = None) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a directory, or the one that a GGUF file in it describes."""
    from transformers import AutoTokenizer

    more: Mapping[str, Any] = {"gguf_file": gguf_name} if gguf_name else {}
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        directory, trust_remote_code=brings_code(directory), **more
    )
    if not tokenizer.chat_template:
        raise ConfigError(
            f"{directory}: the tokenizer has no chat template; export a model that was tuned with one"
        )
    return tokenizer


def worst_weight(original: Path, model: PreTrainedModel) -> float:
    """Return the largest relative difference of a tensor between original weights and a loaded model."""
    from safetensors import safe_open

    state = model.state_dict()
    worst = 0.0
    for file in weight_files(original):
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - not a mapping
                if name in state:
                    stored = weights.get_tensor(name).float().numpy()
                    worst = max(worst, parity.weight_difference(stored, state[name].float().cpu().numpy()))
    return worst
