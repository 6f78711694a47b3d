"""What a model does on fixed texts, so that two forms of it can be compared without both being in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

GREEDY_TOKENS = 32
TEXT_TOKENS = 96
"""Tokens of a text that are scored: with a vocabulary of 128k, five texts' logits fill 250 MB."""


@dataclass(frozen=True)
class Probe:
    """Token ids, the same for every form: texts to score, prompts to answer, ids that end an answer."""

    texts: Sequence[Sequence[int]]
    prompts: Sequence[Sequence[int]]
    stops: Sequence[int]


@dataclass(frozen=True)
class Observed:
    """Logits (fp32, tokens x vocabulary) of each text and the greedy answer to each prompt, as ids."""

    logits: list[NDArray[np.float32]]
    answers: list[list[int]]


def observe(model: PreTrainedModel, probe: Probe) -> Observed:
    """Return logits and greedy answers (at most 32 tokens) of ``model``."""
    logits = [_logits(model, ids) for ids in probe.texts]
    return Observed(logits, [_answer(model, ids, probe.stops) for ids in probe.prompts])


def choices(model: PreTrainedModel, probe: Probe, answers: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the token that ``model`` likes best at each place of given answers to the prompts."""
    told: list[list[int]] = []
    for prompt, answer in zip(probe.prompts, answers, strict=True):
        logits = _logits(model, [*prompt, *answer])
        told.append(logits[len(prompt) - 1 : -1].argmax(axis=-1).tolist())
    return told


def _logits(model: PreTrainedModel, ids: Sequence[int]) -> NDArray[np.float32]:
    import torch

    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=_batch(model, ids), use_cache=False).logits[0]
    array: NDArray[np.float32] = logits.float().cpu().numpy()
    return array


def _answer(model: PreTrainedModel, ids: Sequence[int], stops: Sequence[int]) -> list[int]:
    import torch
    from transformers import GenerationConfig

    greedy = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=GREEDY_TOKENS, do_sample=False, eos_token_id=list(stops) or None, pad_token_id=0
    )
    batch = _batch(model, ids)
    with torch.inference_mode():
        generate: Any = model.generate
        whole = generate(input_ids=batch, attention_mask=torch.ones_like(batch), generation_config=greedy)
    return [int(token) for token in whole[0, len(ids) :]]


def _batch(model: PreTrainedModel, ids: Sequence[int]) -> torch.Tensor:
    import torch

    return torch.tensor([list(ids)], device=model.device)
