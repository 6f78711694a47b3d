"""Proof of an export: load it back, ask it what the original was asked, write down how far they are apart."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_lib import chat
from pipeline_lib.publishing.export import forms
from pipeline_lib.publishing.export.layout import CHATS, Chat
from pipeline_lib.publishing.export.observe import TEXT_TOKENS, Observed, Probe, choices, observe
from pipeline_lib.publishing.export.parity import (
    FORMAT_BOUNDS,
    Bounds,
    Comparison,
    Parity,
    behaviour,
    compared,
    tokens_differing,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TEXTS = (
    "The old bridge was closed in 1987, and for eleven years nobody crossed there except in winter.",
    "def mean(values: list[float]) -> float:\n    return sum(values) / len(values)\n",
    "1. Preheat the oven to 180 °C.\n2. Mix flour, sugar and butter.\n3. Bake for 25 minutes.\n",
)
"""Plain texts to score beside the chats: prose, code, a list."""

NFC_ONLY = "the original composes characters (Unicode NFC) and GGUF runtimes do not: give them text in NFC"

Prompts = Callable[["PreTrainedTokenizerBase", Chat], list[int]]


@dataclass(frozen=True)
class Exportee:
    """What an export is held against: the merged model, and base and adapter where they are known."""

    model: Path
    adapter: Path | None = None
    base: Path | None = None


def prove(
    of: Exportee,
    exported: Callable[[], PreTrainedModel],
    reader: PreTrainedTokenizerBase,
    prompts: Prompts,
    kind: str,
    chats: Sequence[Chat] = (),
) -> Parity:
    """Return how far an export is from its original; at most two models' logits and one model are in memory.

    ``exported`` loads the model back, ``reader`` is its tokenizer, ``prompts`` what its runtime makes of a
    chat, ``kind`` names the bounds. ``chats`` (the last message a user's) are used beside the built-in ones.
    """
    tokenizer = forms.load_tokenizer(of.model)
    composes = _composes(tokenizer) and not _composes(reader)
    asked = [_composed(c) if composes else c for c in (*CHATS, *chats)]
    probe = _probe(tokenizer, asked)
    differing = tokens_differing(probe.prompts, [prompts(reader, c) for c in asked])
    merged = observe(forms.load_model(of.model), probe)
    comparisons = [_against("exported against merged", of, exported, probe, merged, kind, differing)]
    if of.adapter and of.base:
        comparisons += _against_adapter(of.base, of.adapter, of.model, exported, probe)
    tokens = sum(map(len, probe.texts))
    return Parity(
        comparisons,
        chats=len(asked),
        texts=len(probe.texts),
        tokens=tokens,
        notes=(NFC_ONLY,) if composes else (),
    )


def template_prompt(tokenizer: PreTrainedTokenizerBase, messages: Chat) -> list[int]:
    """Return a chat's prompt as servers make it: the template's text, tokenized in one piece."""
    text = chat.render(tokenizer, messages, prompt=True)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _composes(tokenizer: PreTrainedTokenizerBase) -> bool:
    described: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    return (described.get("normalizer") or {}).get("type") == "NFC"


def _composed(messages: Chat) -> Chat:
    return [{**m, "content": unicodedata.normalize("NFC", str(m["content"]))} for m in messages]


def _probe(tokenizer: PreTrainedTokenizerBase, chats: Sequence[Chat]) -> Probe:
    texts = [*TEXTS, *(chat.render(tokenizer, c) for c in chats)]
    scored = [ids[:TEXT_TOKENS] for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    return Probe(scored, chat.prompt_ids(tokenizer, chats), chat.stop_ids(tokenizer))


def _against(
    name: str,
    of: Exportee,
    load: Callable[[], PreTrainedModel],
    probe: Probe,
    reference: Observed,
    kind: str,
    differing: int,
) -> Comparison:
    model = load()
    figures = behaviour(probe, reference, observe(model, probe), choices(model, probe, reference.answers))
    weights = forms.worst_weight(of.model, model)
    return compared(
        name, FORMAT_BOUNDS[kind], prompt_tokens_differing=differing, weight_difference=weights, **figures
    )


def _against_adapter(
    base: Path, adapter: Path, merged: Path, exported: Callable[[], PreTrainedModel], probe: Probe
) -> list[Comparison]:
    reference = observe(forms.load_adapted(base, adapter), probe)
    pairs: list[tuple[str, Callable[[], PreTrainedModel], Bounds | None]] = [
        ("merged against base and adapter", partial(forms.load_model, merged), FORMAT_BOUNDS["merged"]),
        # For the record: each of its two legs has bounds of its own.
        ("exported against base and adapter", exported, None),
    ]
    found = []
    for name, load, bounds in pairs:
        model = load()
        figures = behaviour(probe, reference, observe(model, probe), choices(model, probe, reference.answers))
        found.append(compared(name, bounds, **figures))
    return found
