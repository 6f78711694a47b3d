"""Answers to the test questions: batched generation by Transformers, thinned as rows finish.

A batch generates until half of its rows have stopped; those leave with their part of the cache, and the rest
goes on. The token loop itself is `generate`'s.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

from pipeline_lib.evaluation.questions import Question
from pipeline_lib.likelihood import ALL, Share, packed

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH_ROWS = 128
BATCH_TOKENS = 32_768
"""Tokens that a batch may have in its cache when every row runs to its end."""
FIRST_TOKENS = 16
"""Prompts whose wait for the first token is timed."""
THIN_FROM = 8
"""Rows from which it pays to stop and let the finished ones go."""
PADDING = 8
"""Places put before a prompt to see whether the model looks at them."""
SEEN, SEEN_IN_HALF = 1e-3, 0.1
"""Change of the logits, in their standard deviations, that is more than rounding."""


@dataclass(frozen=True)
class Decoding:
    """How to generate."""

    max_new_tokens: int
    temperature: float
    stop_ids: Sequence[int]
    pad_id: int
    seed: int = 0


@dataclass(frozen=True)
class Answer:
    """A question's answer: the generated ids up to its stop token, left out, and whether there was one."""

    row: int
    ids: list[int]
    stopped: bool

    @property
    def tokens(self) -> int:
        """Tokens that were generated, the stop token among them."""
        return len(self.ids) + self.stopped


@dataclass(frozen=True)
class Said:
    """A question's answer as text."""

    row: int
    text: str
    stopped: bool
    """Whether the model ended it by itself."""
    tokens: int
    """Tokens that were generated, the stop token among them."""


def read_out(tokenizer: PreTrainedTokenizerBase, answers: Sequence[Answer]) -> list[Said]:
    """Return the answers as text, without special tokens."""
    texts = tokenizer.batch_decode([answer.ids for answer in answers], skip_special_tokens=True)
    return [
        Said(answer.row, text, answer.stopped, answer.tokens)
        for answer, text in zip(answers, texts, strict=True)
    ]


def generate_answers(
    model: PreTrainedModel,
    questions: Sequence[Question],
    decoding: Decoding,
    positions: int,
    share: Share = ALL,
) -> Iterator[list[Answer]]:
    """Yield the answers of a share of the batches; a row never goes beyond the model's ``positions``.

    A model that looks at padding (some with a state, some with code of their own) gets prompts of one length
    in a batch.
    """
    import torch

    lengths = [question.prompt_length for question in questions]
    padded = not questions or not looks_at_padding(model, questions[0].prompt, decoding.pad_id)
    for batch, room in share.of(generate_batches(lengths, decoding.max_new_tokens, positions, padded=padded)):
        asked = [questions[place] for place in batch]
        # Seeded by what is in the batch, so that samples do not depend on which process draws them.
        torch.manual_seed(decoding.seed + asked[0].row)
        generated = _generate(model, [question.prompt for question in asked], decoding, room)
        yield [
            _answer(question.row, ids, decoding.stop_ids)
            for question, ids in zip(asked, generated, strict=True)
        ]


def first_token(
    model: PreTrainedModel, questions: Sequence[Question], decoding: Decoding
) -> dict[str, float | int]:
    """Return how long a prompt that comes alone waits for its first token: median and 95 % of waits in ms."""
    import numpy as np

    waits = []
    for question in questions[:FIRST_TOKENS]:
        start = time.perf_counter()
        _generate(model, [question.prompt], decoding, 1)
        waits.append(1000 * (time.perf_counter() - start))
    median, most = np.quantile(waits, [0.5, 0.95]) if waits else (0.0, 0.0)
    return {"requests": len(waits), "median_ms": round(float(median), 2), "p95_ms": round(float(most), 2)}


def looks_at_padding(model: PreTrainedModel, prompt: Sequence[int], pad: int) -> bool:
    """Return whether padding before a prompt changes what comes after it."""
    import torch

    config = _generation_config(Decoding(1, 0.0, (), pad), 1)
    config.output_logits = True
    logits = []
    for places in (0, PADDING):
        ids, attention = _left_padded([[pad] * places + list(prompt)], pad, model.device)
        attention[:, :places] = 0
        with torch.inference_mode():
            generate: Any = model.generate
            [first] = generate(ids, attention_mask=attention, generation_config=config).logits
        logits.append(first[0].float())
    alone, padded = logits
    most = SEEN if model.dtype == torch.float32 else SEEN_IN_HALF
    return bool((padded - alone).abs().mean() > most * alone.std())


def generate_batches(
    lengths: Sequence[int], max_new_tokens: int, positions: int, *, padded: bool = True
) -> Iterator[tuple[list[int], int]]:
    """Yield (places, new tokens allowed): length-sorted batches in which every row has the same room.

    And the same length where they may not be ``padded``.
    """
    rooms = [min(max_new_tokens, positions - length) for length in lengths]
    alike = [(room, 0 if padded else length) for room, length in zip(rooms, lengths, strict=True)]
    together = sorted(range(len(lengths)), key=lambda place: alike[place])
    for (room, _), group in groupby(together, key=lambda place: alike[place]):
        places = list(group)
        for batch in packed([lengths[place] for place in places], BATCH_ROWS, partial(_fits, room)):
            yield [places[i] for i in batch], room


def _fits(room: int, rows: int, longest: int) -> bool:
    return rows * (longest + room) <= BATCH_TOKENS


def _generate(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], decoding: Decoding, room: int
) -> list[list[int]]:
    """The generated ids of every prompt, in order; whatever stands behind a row's stop token is arbitrary."""
    import torch

    ids, attention = _left_padded(prompts, decoding.pad_id, model.device)
    width, cache = ids.shape[1], None
    places = torch.arange(len(prompts), device=model.device)
    stops = torch.tensor(decoding.stop_ids, device=model.device, dtype=torch.long)
    generated: list[list[int]] = [[] for _ in prompts]
    while len(places):
        ids, cache = _round(model, ids, attention, cache, decoding, room - (ids.shape[1] - width))
        open_rows = ~torch.isin(ids[:, width:], stops).any(dim=1)
        if ids.shape[1] - width >= room:
            open_rows = torch.zeros_like(open_rows)
        for place, row in zip(places[~open_rows].tolist(), ids[~open_rows, width:].tolist(), strict=True):
            generated[place] = row
        attention = torch.nn.functional.pad(attention, (0, ids.shape[1] - attention.shape[1]), value=1)
        ids, attention, places, cache = (
            ids[open_rows],
            attention[open_rows],
            places[open_rows],
            _thinned(cache, open_rows),
        )
    return generated


def _round(
    model: PreTrainedModel,
    ids: torch.Tensor,
    attention: torch.Tensor,
    cache: Any,
    decoding: Decoding,
    room: int,
) -> tuple[torch.Tensor, Any]:
    """The rows with what they said until half of them finished or ``room`` is used up, and the cache."""
    import torch
    from transformers import StoppingCriteriaList

    thin = StoppingCriteriaList([_half_done(ids.shape, decoding.stop_ids)] if len(ids) >= THIN_FROM else [])
    with torch.inference_mode():
        generate: Any = model.generate
        result = generate(
            ids,
            attention_mask=attention,
            past_key_values=cache,
            generation_config=_generation_config(decoding, room),
            stopping_criteria=thin,
        )
    return result.sequences, result.past_key_values


def _generation_config(decoding: Decoding, room: int) -> Any:
    from transformers import GenerationConfig

    sampling = (
        {"do_sample": True, "temperature": decoding.temperature, "top_k": 0}
        if decoding.temperature
        else {"do_sample": False}
    )
    return GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=room,
        eos_token_id=list(decoding.stop_ids) or None,
        pad_token_id=decoding.pad_id,
        return_dict_in_generate=True,
        **sampling,
    )


def _half_done(shape: torch.Size, stop_ids: Sequence[int]) -> Any:
    """A criterion that ends the round once half of the rows have said a stop token since it began."""
    import torch

    rows, start = shape
    done: torch.Tensor | None = None

    def criterion(ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        nonlocal done
        last = torch.isin(ids[:, -1], torch.tensor(stop_ids, device=ids.device, dtype=torch.long))
        done = last if done is None or ids.shape[1] == start + 1 else done | last
        return torch.full((rows,), bool(2 * done.sum() >= rows), device=ids.device)

    return criterion


def _thinned(cache: Any, keep: torch.Tensor) -> Any:
    """The cache of the rows that go on; None where this kind of cache cannot be cut, and is made again."""
    from transformers import DynamicCache

    if not isinstance(cache, DynamicCache) or not keep.any():
        return None
    # As beam search does it: only so are the states of linear attention cut too.
    cache.reorder_cache(keep.nonzero().squeeze(1))  # type: ignore[arg-type]
    return cache


def _left_padded(
    prompts: Sequence[Sequence[int]], pad: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    longest = max(map(len, prompts))
    ids = [[pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    attention = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(attention, device=device)


def _answer(row: int, ids: Sequence[int], stop_ids: Sequence[int]) -> Answer:
    end = next((i for i, token in enumerate(ids) if token in stop_ids), None)
    return Answer(row, list(ids[:end]), end is not None)
