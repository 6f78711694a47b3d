"""Model shape: what a model's config alone tells about its size.

The model is built on PyTorch's meta device, which has shapes and no numbers: a large model takes a second
and no memory, and nothing is downloaded but the config. ``estimate.py`` turns a shape into memory, time and
disk.

A *linear* is one of the layers that adapters attach to and that a 4-bit base holds in 4 bits; the output
head and the embeddings are neither. Of a mixture of experts all parameters are counted, the activations are
those of one dense layer of the config's width, and the time, for which every expert works, is too long.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_lib.core.errors import ConfigError, ServiceError, first_line

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig

ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class Linear:
    """Linear layers of one name and form: their sizes, and how many of them the model has."""

    name: str
    inputs: int
    outputs: int
    count: int

    @property
    def parameters(self) -> int:
        """Weights of all of them."""
        return self.inputs * self.outputs * self.count


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a decoder-only model."""

    parameters: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    max_positions: int
    linears: tuple[Linear, ...]

    @property
    def linear_parameters(self) -> int:
        """Weights in linear layers: what a 4-bit base quantises."""
        return sum(linear.parameters for linear in self.linears)

    @property
    def layer_parameters(self) -> int:
        """Weights of the linear layers of one transformer layer."""
        return self.linear_parameters // max(self.layers, 1)

    @property
    def largest_linear(self) -> int:
        """Weights of the largest single linear layer."""
        return max((linear.inputs * linear.outputs for linear in self.linears), default=0)

    def targets(self, modules: Sequence[str] | str) -> tuple[Linear, ...]:
        """Return the linear layers of these names (``all-linear``: all); ConfigError lists what is there."""
        names = [modules] if isinstance(modules, str) else list(modules)
        if names == [ALL_LINEAR]:
            return self.linears
        there = {linear.name for linear in self.linears}
        unknown = [name for name in names if name.rpartition(".")[2] not in there]
        if unknown:
            raise ConfigError(
                f"target_modules: the model has no {', '.join(unknown)}; "
                f"its linear layers are {', '.join(sorted(there))}"
            )
        wanted = {name.rpartition(".")[2] for name in names}
        return tuple(linear for linear in self.linears if linear.name in wanted)

    def adapter_parameters(self, rank: int, modules: Sequence[str] | str) -> int:
        """Return LoRA's trainable weights: rank x (inputs + outputs) a target (arXiv 2106.09685, 4.1)."""
        return sum(rank * (t.inputs + t.outputs) * t.count for t in self.targets(modules))


def shape_of(base: Mapping[str, Any] | Path | str, revision: str = "main") -> ModelShape:
    """Return the shape of a model: of a config as a mapping, a directory with a config.json, or a hub id.

    Of a hub id the config is fetched, never the weights. ConfigError where there is no config, or none of a
    decoder-only model; ServiceError where the hub cannot be asked for it.
    """
    return _measure(_config(base, revision))


def _config(base: Mapping[str, Any] | Path | str, revision: str) -> PretrainedConfig:
    from huggingface_hub.errors import LocalEntryNotFoundError
    from transformers import AutoConfig

    try:
        if isinstance(base, Mapping):
            values = dict(base)
            config: PretrainedConfig = AutoConfig.for_model(values.pop("model_type"), **values)
            return config
        local = Path(base).expanduser()
        if local.is_dir():
            config = AutoConfig.from_pretrained(local, local_files_only=True)
        else:
            config = AutoConfig.from_pretrained(str(base), revision=revision)
        return config
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error.__cause__, LocalEntryNotFoundError):
            raise ServiceError(
                f"estimate: the config of {base} is not on this machine and the hub cannot be asked; name a "
                "directory with a config.json, or fetch it where there is a network: "
                f"hf download {base} config.json"
            ) from error
        name = "the config given" if isinstance(base, Mapping) else str(base)
        raise ConfigError(
            f"estimate: {name} has no config that Transformers can read ({first_line(error)}); "
            "name a directory with a config.json or a hub id"
        ) from error


def _measure(config: PretrainedConfig) -> ModelShape:
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    except ValueError as error:
        raise ConfigError(
            f"estimate: a {config.model_type} model is no causal language model; name a decoder-only one"
        ) from error
    text = config.get_text_config()
    heads = int(text.num_attention_heads)
    return ModelShape(
        parameters=model.num_parameters(),
        hidden=int(text.hidden_size),
        intermediate=int(getattr(text, "intermediate_size", None) or 4 * text.hidden_size),
        layers=int(text.num_hidden_layers),
        heads=heads,
        kv_heads=int(getattr(text, "num_key_value_heads", None) or heads),
        head_dim=int(getattr(text, "head_dim", None) or text.hidden_size // heads),
        vocabulary=int(text.vocab_size),
        max_positions=int(getattr(text, "max_position_embeddings", 0) or 0),
        linears=_linears(model),
    )


def _linears(model: Any) -> tuple[Linear, ...]:
    from collections import Counter

    from torch import nn
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    found = [
        _form(name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    ]
    return tuple(Linear(name, inputs, outputs, n) for (name, inputs, outputs), n in Counter(found).items())


def _form(name: str, module: nn.Module) -> tuple[str, int, int]:
    rows, columns = (int(size) for size in module.get_parameter("weight").shape)
    # Conv1D, GPT-2's linear layer, keeps its weight the other way round.
    inputs, outputs = (columns, rows) if hasattr(module, "in_features") else (rows, columns)
    return name.rpartition(".")[2], inputs, outputs


def llama_shape(
    hidden: int,
    intermediate: int,
    layers: int,
    heads: int,
    vocabulary: int,
    kv_heads: int | None = None,
    tied: bool = False,
) -> ModelShape:
    """Return the shape of a Llama-like model (gated feed-forward, RMS norms) from plain numbers."""
    kv_heads, head_dim = kv_heads or heads, hidden // heads
    grouped = kv_heads * head_dim
    sizes = {
        "q_proj": (hidden, hidden),
        "k_proj": (hidden, grouped),
        "v_proj": (hidden, grouped),
        "o_proj": (hidden, hidden),
        "gate_proj": (hidden, intermediate),
        "up_proj": (hidden, intermediate),
        "down_proj": (intermediate, hidden),
    }
    linears = tuple(Linear(name, inputs, outputs, layers) for name, (inputs, outputs) in sizes.items())
    embeddings = vocabulary * hidden * (1 if tied else 2)
    norms = hidden * (2 * layers + 1)
    return ModelShape(
        parameters=sum(linear.parameters for linear in linears) + embeddings + norms,
        hidden=hidden,
        intermediate=intermediate,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=vocabulary,
        max_positions=0,
        linears=linears,
    )
