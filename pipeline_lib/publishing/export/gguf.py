"""A model as one GGUF file, in BF16, F16 or Q8_0: what llama.cpp and Ollama read; `quantizer` has what else.

Tensor names, key names, the file format and Q8_0 come from llama.cpp's own `gguf` package; the vocabulary
from `vocabulary`. Weights go through one tensor at a time, so memory is that of the largest one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pipeline_lib.core.errors import ConfigError, DataError
from pipeline_lib.publishing.export.safetensors import weight_files
from pipeline_lib.publishing.export.vocabulary import CONVERTER, Vocabulary, read_vocabulary

if TYPE_CHECKING:
    import gguf
    from numpy.typing import NDArray
    from transformers import PretrainedConfig

Written = Literal["bf16", "f16", "q8_0"]

Q8_0_BLOCK = 32
"""Weights that share one scale in Q8_0; a row that is no multiple of it stays F16."""
STATIC_ROPE = ("default", "linear", "llama3")
"""Rotary embeddings whose frequencies do not depend on the text's length, so that a table can hold them."""


@dataclass(frozen=True)
class Architecture:
    """How GGUF names a Transformers architecture, and whether it stores the rotary halves interleaved."""

    name: str
    interleaved: bool


ARCHITECTURES = {
    "LlamaForCausalLM": Architecture("llama", interleaved=True),
    "MistralForCausalLM": Architecture("llama", interleaved=True),
    "Qwen2ForCausalLM": Architecture("qwen2", interleaved=False),
    "Qwen3ForCausalLM": Architecture("qwen3", interleaved=False),
}


@dataclass(frozen=True)
class _Place:
    """Where a stored tensor goes: the file it is in, its names there and in GGUF, its shape and type."""

    file: Path
    stored: str
    name: str
    shape: tuple[int, ...]
    type: Any


def write_gguf(model_dir: Path, path: Path, quantization: Written) -> None:
    """Write the model in ``model_dir`` as the GGUF file ``path``.

    Raises ConfigError for what GGUF or this writer cannot hold, DataError where weights and vocabulary do not
    fit each other or a weight does not fit the number format.
    """
    gguf = require_gguf()
    from transformers import AutoConfig, AutoTokenizer

    config = AutoConfig.from_pretrained(model_dir)
    architecture = architecture_of(config)
    places = list(_places(model_dir, config, architecture, quantization))
    embedding = next((place for place in places if place.name == "token_embd.weight"), None)
    if embedding is None or embedding.shape[0] != config.vocab_size:
        rows = embedding.shape[0] if embedding else 0
        raise DataError(
            f"gguf: config.json says {config.vocab_size} tokens, the embedding has {rows} rows; save it again"
        )
    vocabulary = read_vocabulary(AutoTokenizer.from_pretrained(model_dir), config.vocab_size)
    writer = gguf.GGUFWriter(path, architecture.name)
    _describe(writer, config, quantization)
    _describe_vocabulary(writer, vocabulary)
    _write_tensors(writer, places, config, architecture)


def require_gguf() -> Any:
    """Return the `gguf` package; ConfigError with the command that installs it where it is missing."""
    try:
        import gguf
    except ImportError as error:
        raise ConfigError(
            "exporting GGUF needs the gguf package: pip install 'finetune-flows[export]'"
        ) from error
    return gguf


def architecture_of(config: PretrainedConfig) -> Architecture:
    """Return how GGUF names the model's architecture; ConfigError where this writer does not know it."""
    name = (config.architectures or ["unnamed"])[0]
    if name not in ARCHITECTURES:
        raise ConfigError(f"gguf: {name} is not one of {', '.join(ARCHITECTURES)}; {CONVERTER}")
    wrong = [
        f"{key}={getattr(config, key)}"
        for key, plain in (("hidden_act", "silu"), ("attention_bias", False), ("mlp_bias", False))
        if getattr(config, key, plain) != plain
    ]
    if rope_type(config) not in STATIC_ROPE:
        wrong.append(f"rope_type={rope_type(config)}")
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        wrong.append(f"sliding_window={config.sliding_window}")
    if wrong:
        raise ConfigError(f"gguf: a {name} with {', '.join(wrong)} is beyond this writer; {CONVERTER}")
    return ARCHITECTURES[name]


def rope_type(config: PretrainedConfig) -> str:
    """Return the kind of rotary embedding."""
    return str(config.rope_parameters["rope_type"])


def _places(
    model_dir: Path, config: PretrainedConfig, architecture: Architecture, quantization: Written
) -> Iterator[_Place]:
    import gguf
    from safetensors import safe_open

    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture.name)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    for file in weight_files(model_dir):
        with safe_open(file, framework="pt") as weights:
            for stored in weights.keys():  # noqa: SIM118 - not a mapping
                if stored.endswith("rotary_emb.inv_freq") or (
                    stored == "lm_head.weight" and config.tie_word_embeddings
                ):
                    continue
                name = names.get_name(stored, try_suffixes=(".weight", ".bias"))
                if name is None:
                    raise ConfigError(
                        f"gguf: {stored} has no name in a {architecture.name} file; {CONVERTER}"
                    )
                shape = tuple(weights.get_slice(stored).get_shape())
                yield _Place(file, stored, name, shape, _type(shape, quantization))


def _type(shape: tuple[int, ...], quantization: Written) -> Any:
    from gguf import GGMLQuantizationType as Type

    if len(shape) == 1:
        return Type.F32
    if quantization == "q8_0" and shape[-1] % Q8_0_BLOCK:
        return Type.F16
    return Type[quantization.upper()]


def _describe(writer: gguf.GGUFWriter, config: PretrainedConfig, quantization: Written) -> None:
    import gguf

    file_types = {
        "bf16": gguf.LlamaFileType.MOSTLY_BF16,
        "f16": gguf.LlamaFileType.MOSTLY_F16,
        "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    }
    width = head_width(config)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_file_type(file_types[quantization])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])


def head_width(config: PretrainedConfig) -> int:
    """Return the width of one attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _describe_vocabulary(writer: gguf.GGUFWriter, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre_tokenizer)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    for add, value in (
        (writer.add_bos_token_id, vocabulary.bos),
        (writer.add_eos_token_id, vocabulary.eos),
        (writer.add_pad_token_id, vocabulary.pad),
        (writer.add_eot_token_id, vocabulary.end_of_turn),
    ):
        if value is not None:
            add(value)
    writer.add_add_bos_token(vocabulary.adds_bos)
    writer.add_add_eos_token(vocabulary.adds_eos)
    if vocabulary.template:
        writer.add_chat_template(vocabulary.template)


def _write_tensors(
    writer: gguf.GGUFWriter, places: list[_Place], config: PretrainedConfig, architecture: Architecture
) -> None:
    import gguf

    factors = _rope_factors(config)
    if factors is not None:
        writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
    for place in places:
        block, size = gguf.GGML_QUANT_SIZES[place.type]
        count = math.prod(place.shape) // block * size
        writer.add_tensor_info(place.name, place.shape, np.dtype(np.float32), count, raw_dtype=place.type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if factors is not None:
        writer.write_tensor_data(factors)
    for place in places:
        heads = _interleaved_heads(place.name, config) if architecture.interleaved else None
        writer.write_tensor_data(_quantized(place, heads))
    writer.close()


def _rope_factors(config: PretrainedConfig) -> NDArray[np.float32] | None:
    """Return by what each rotary frequency is divided, or None where by nothing.

    The frequencies come from Transformers' own code, so that no formula stands here twice.
    """
    kind = rope_type(config)
    if kind == "default":
        return None
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, attention = ROPE_INIT_FUNCTIONS[kind](config, "cpu")
    if attention != 1.0:
        raise ConfigError(
            f"gguf: a rope of type {kind} that also scales attention is beyond this writer; {CONVERTER}"
        )
    width = head_width(config)
    plain = float(config.rope_parameters["rope_theta"]) ** -(np.arange(0, width, 2) / width)
    return np.asarray(plain / scaled.double().numpy(), dtype=np.float32)


def _interleaved_heads(name: str, config: PretrainedConfig) -> int | None:
    if ".attn_q." in name:
        return int(config.num_attention_heads)
    return int(config.num_key_value_heads) if ".attn_k." in name else None


def interleave(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Return query or key rows in the order of llama.cpp's rotary embedding.

    Transformers turns the pairs (i, i + width/2) of a head, llama.cpp's Llama turns (2i, 2i + 1).
    """
    halves = weight.reshape(heads, 2, -1, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def _quantized(place: _Place, heads: int | None) -> NDArray[Any]:
    import gguf
    from safetensors import safe_open

    with safe_open(place.file, framework="pt") as weights:
        weight = weights.get_tensor(place.stored).float().numpy()
    if heads is not None:
        weight = interleave(weight, heads)
    if not np.isfinite(weight).all():
        raise DataError(f"gguf: {place.stored} holds weights that are not finite; train or merge again")
    with np.errstate(over="ignore"):
        data: NDArray[Any] = gguf.quants.quantize(np.ascontiguousarray(weight), place.type)
    if data.dtype == np.float16 and not np.isfinite(data).all():
        raise DataError(f"gguf: {place.stored} holds weights beyond F16's 65504; export it as bf16")
    return data
