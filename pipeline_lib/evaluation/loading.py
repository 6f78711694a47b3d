"""Models as the measuring children load them: whole, in the config's precision, on this process's device."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline_lib.core.errors import DataError, first_line
from pipeline_lib.evaluation.questions import settle_template
from pipeline_lib.kinds import brings_code

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

UNLIMITED = 1 << 30


def positions_of(model: PreTrainedModel) -> int:
    """Return how many tokens a model takes; very many where its config sets no limit."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None) or UNLIMITED


def load_model(spec: Mapping[str, Any]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the spec's model in evaluation mode, and the tokenizer with a template."""
    from transformers import AutoModelForCausalLM

    model, tokenizer = load(AutoModelForCausalLM, spec["model"], spec)
    settle_template(tokenizer, spec["config"]["template"])
    return model, tokenizer


def load(
    kind: Any, path: str, spec: Mapping[str, Any], **tokenizer_settings: Any
) -> tuple[Any, PreTrainedTokenizerBase]:
    """Return the model of an auto class in ``path``, ready to compute, and its tokenizer, which can pad.

    DataError where they do not load.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoTokenizer

    named = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    try:
        trusted = brings_code(path)
        model = kind.from_pretrained(
            path,
            dtype=named[spec["config"]["precision"]],
            trust_remote_code=trusted,
            use_safetensors=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trusted, **tokenizer_settings)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise DataError(
            f"{path}: the model does not load ({first_line(error)}); build it again, or where it is the "
            "registry's champion `finetune promote` another"
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if spec["device"] == "cuda" else "cpu"
    return model.to(device).eval(), tokenizer
