"""Flat rows: sequences laid end to end in one row, none of which sees another, for a CPU.

A CPU has no varlen kernel for attention, and pays for every padded place and every masked one. In a flat row
neither is there: SDPA attends to each sequence by itself, and all else goes token by token. Training and
likelihoods are computed so, of models in which a token learns of others by whole attention alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

BY_SEQUENCE = "by_sequence"
"""The attention's name, as Transformers knows it once it is registered."""
BY_ATTENTION_ALONE = ("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma", "olmo2", "smollm3", "granite")
"""Model types in which a token learns of others by attention alone: a flat row keeps sequences apart."""


def keeps_apart(model: Mapping[str, Any]) -> bool:
    """Return whether a model with this ``config.json`` keeps the sequences of a flat row apart."""
    # Qwen names a window that it does not use.
    windowed = model.get("sliding_window") and model.get("use_sliding_window", True)
    whole = set(model.get("layer_types") or ()) <= {"full_attention"}
    return model.get("model_type") in BY_ATTENTION_ALONE and not windowed and whole


def register() -> None:
    """Make the attention known to Transformers by its name."""
    from transformers import AttentionInterface

    AttentionInterface.register(BY_SEQUENCE, by_sequence)


@contextmanager
def by_sequence_in(model: PreTrainedModel) -> Iterator[None]:
    """Let the model attend by sequence within the block."""
    register()
    before = model.config._attn_implementation
    model.set_attn_implementation(BY_SEQUENCE)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def by_sequence(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    cu_seq_lens_q: torch.Tensor | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Return causal attention [1, tokens, heads, size] of a flat row whose sequences do not see each other.

    ``query``, ``key`` and ``value`` are [1, heads, tokens, size]; ``cu_seq_lens_q`` says where sequences
    begin and where the last ends. Without it every row is one sequence.
    """
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if cu_seq_lens_q is None:
        return sdpa_attention_forward(module, query, key, value, None, **options)
    lengths = cu_seq_lens_q.diff().tolist()
    states = (torch.split(part, lengths, dim=2) for part in (query, key, value))
    rows = [
        sdpa_attention_forward(module, q, k, v, None, **options)[0] for q, k, v in zip(*states, strict=True)
    ]
    return torch.cat(rows, dim=1), None
