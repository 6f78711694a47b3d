"""How likely a model finds a text: streamed negative log-likelihoods, the stuff of perplexity.

Only hidden states at learnt positions reach the output layer, and only one batch's logits are ever there. A
CPU is given flat rows where the model keeps their sequences apart, and a GPU padded ones.
Evaluation measures reference answers with it, curation the answers of its conversations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pipeline_lib.core.errors import DataError
from pipeline_lib.flat_rows import by_sequence_in, keeps_apart

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

T = TypeVar("T")

BATCH_ROWS = 64
BATCH_TOKENS = {"cuda": 8_192, "cpu": 1_024}
"""Padded tokens in one forward pass: few rows are of more nearly one length, and few keep a CPU busy."""
FLAT_TOKENS = 1_024
"""Tokens of a flat row."""
LOGITS_AT_ONCE = 1 << 27
"""Logits of one forward pass: half a gigabyte in fp32."""
FLOAT_ROWS = 512
"""Positions whose logits are held in fp32 at a time."""


class Masked(Protocol):
    """A text as a model sees it."""

    @property
    def row(self) -> int:
        """Place among the texts that are measured."""
        ...

    @property
    def ids(self) -> list[int]:
        """Token ids, no more than the model has positions."""
        ...

    @property
    def mask(self) -> list[bool]:
        """Which of them are measured."""
        ...


@dataclass(frozen=True)
class Share:
    """One process's share of the batches: every ``of_how_many``-th, from ``first`` on."""

    first: int = 0
    of_how_many: int = 1

    def of(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield the batches that are this process's."""
        return islice(batches, self.first, None, self.of_how_many)


ALL = Share()


@dataclass(frozen=True)
class Foreseen:
    """How many of a text's learnt tokens were each the model's first choice, given all before it."""

    row: int
    right: int
    tokens: int


@dataclass(frozen=True)
class Likelihood:
    """A text's summed negative log-likelihood (nats) and the number of tokens summed over.

    Those of the learnt tokens, and of all that were measured.
    """

    row: int
    nll: float
    tokens: int
    whole_nll: float
    whole_tokens: int


def negative_log_likelihoods(
    model: PreTrainedModel,
    questions: Sequence[Masked],
    pad: int,
    share: Share = ALL,
    *,
    every_token: bool = False,
) -> Iterator[list[Likelihood]]:
    """Yield the likelihoods of a share of the questions' batches, longest questions first.

    Teacher forcing: each learnt token, or with ``every_token`` those of prompts too, given all true tokens
    before it. A token at the very start has nothing before it and is not counted. Raises DataError where a
    likelihood is not a finite number.
    """
    for asked, sums, counts in _summed(model, questions, pad, share, _losses, every_token=every_token):
        if not all(math.isfinite(whole) for _, whole in sums):
            raise DataError(
                "the model gives a likelihood that is no finite number; "
                "its weights are damaged, or the precision is too coarse for it"
            )
        yield [
            Likelihood(q.row, nll, tokens, whole_nll, whole_tokens)
            for q, (nll, whole_nll), (tokens, whole_tokens) in zip(asked, sums, counts, strict=True)
        ]


def foreseen(
    model: PreTrainedModel, questions: Sequence[Masked], pad: int, share: Share = ALL
) -> Iterator[list[Foreseen]]:
    """Yield for a share of the questions' batches which learnt tokens the model would have said itself.

    Where all of them are right, greedy decoding from the first says exactly these tokens; one pass tells.
    """
    for asked, sums, counts in _summed(model, questions, pad, share, _hits):
        yield [
            Foreseen(q.row, int(hits), tokens)
            for q, (hits, _), (tokens, _) in zip(asked, sums, counts, strict=True)
        ]


def score_batches(lengths: Sequence[int], device: str) -> Iterator[list[int]]:
    """Yield places in batches whose padded tokens fit in one forward pass."""
    return packed(lengths, BATCH_ROWS, lambda rows, longest: rows * longest <= BATCH_TOKENS[device])


@dataclass(frozen=True)
class _Batch:
    """Questions as the model takes them, and where in them the tokens stand that are measured."""

    inputs: dict[str, torch.Tensor]
    rows: torch.Tensor
    columns: torch.Tensor
    """Row and column before each token, shape (positions,)."""
    targets: torch.Tensor
    """The tokens."""
    owners: torch.Tensor
    """Which of the questions each belongs to."""
    learnt: torch.Tensor
    """Whether it is learnt."""


def _summed(
    model: PreTrainedModel,
    questions: Sequence[Masked],
    pad: int,
    share: Share,
    figures: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    *,
    every_token: bool = False,
) -> Iterator[tuple[list[Masked], list[list[float]], list[list[int]]]]:
    """Yield a share of the batches with each question's sums of a figure of its tokens, and their numbers.

    Of the learnt tokens first, then of all that are measured. ``figures`` makes of logits (positions,
    vocabulary) and tokens (positions,) one figure a position.
    """
    import torch

    flat = model.device.type == "cpu" and keeps_apart(model.config.to_dict())
    lengths = [len(question.ids) for question in questions]
    batches = flat_batches(lengths) if flat else score_batches(lengths, model.device.type)
    most = max(1, LOGITS_AT_ONCE // model.config.get_text_config().vocab_size)
    for places in share.of(batches):
        asked = [questions[place] for place in places]
        batch = _flat(asked, every_token) if flat else _padded(asked, every_token, pad, model.device)
        weights = torch.stack([batch.learnt, torch.ones_like(batch.learnt)], dim=1).double()
        sums, counts = (torch.zeros(len(asked), 2, dtype=torch.float64, device=model.device) for _ in "ab")
        counts.index_add_(0, batch.owners, weights)
        # One pass but for very long answers under a very large vocabulary: those pay with time, not memory.
        for some in torch.split(torch.arange(len(batch.targets), device=model.device), most):
            with (
                torch.inference_mode(),
                by_sequence_in(model) if flat else nullcontext(),
                _only_at(model, batch.rows[some], batch.columns[some]),
            ):
                logits = model(**batch.inputs, use_cache=False).logits[0]
                found = figures(logits, batch.targets[some]).double()
                sums.index_add_(0, batch.owners[some], found[:, None] * weights[some])
        yield asked, sums.tolist(), counts.long().tolist()


def flat_batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield places, longest first, in batches whose tokens make one flat row."""
    batch: list[int] = []
    room = FLAT_TOKENS
    for place in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        if batch and lengths[place] > room:
            yield batch
            batch, room = [], FLAT_TOKENS
        batch.append(place)
        room -= lengths[place]
    if batch:
        yield batch


def _flat(questions: Sequence[Masked], every_token: bool) -> _Batch:
    """The questions in one row, for a CPU."""
    import torch

    lengths = torch.tensor([len(question.ids) for question in questions])
    ends = lengths.cumsum(0)
    ids = torch.tensor([token for question in questions for token in question.ids])
    learnt = torch.tensor([learnt for question in questions for learnt in question.mask])
    measured = torch.ones_like(learnt) if every_token else learnt.clone()
    measured[ends - lengths] = False
    places = measured.nonzero()[:, 0]
    owners = torch.arange(len(questions)).repeat_interleave(lengths)
    inputs = {
        "input_ids": ids[None],
        "position_ids": (torch.arange(len(ids)) - (ends - lengths)[owners])[None],
        "cu_seq_lens_q": torch.nn.functional.pad(ends, (1, 0)).int(),
    }
    return _Batch(inputs, torch.zeros_like(places), places - 1, ids[places], owners[places], learnt[places])


def _padded(questions: Sequence[Masked], every_token: bool, pad: int, device: torch.device) -> _Batch:
    """The questions in a row each, padded on the right to the longest."""
    import torch

    longest = max(len(question.ids) for question in questions)
    ids = torch.tensor([q.ids + [pad] * (longest - len(q.ids)) for q in questions], device=device)
    attention = torch.tensor(
        [[1] * len(q.ids) + [0] * (longest - len(q.ids)) for q in questions], device=device
    )
    learnt = torch.tensor([q.mask + [False] * (longest - len(q.mask)) for q in questions], device=device)
    measured = attention.bool() if every_token else learnt
    rows, columns = measured[:, 1:].nonzero(as_tuple=True)
    inputs = {"input_ids": ids, "attention_mask": attention}
    return _Batch(inputs, rows, columns, ids[rows, columns + 1], rows, learnt[rows, columns + 1])


def _losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The negative log-likelihood of each token, in fp32."""
    import torch
    from torch.nn.functional import cross_entropy

    parts = zip(torch.split(logits, FLOAT_ROWS), torch.split(targets, FLOAT_ROWS), strict=True)
    return torch.cat([cross_entropy(some.float(), token, reduction="none") for some, token in parts])


def _hits(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """1 for each token that is the likeliest, 0 for any other."""
    return logits.argmax(dim=-1) == targets


@contextmanager
def _only_at(model: PreTrainedModel, rows: torch.Tensor, columns: torch.Tensor) -> Iterator[None]:
    """Let only the hidden states at (row, column) into the output layer, as one sequence.

    A hook rather than a call of the layer: some models scale or cap their logits behind it.
    """

    def select(_: Any, hidden: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        return (hidden[0][rows, columns].unsqueeze(0),)

    head: torch.nn.Module = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def packed(lengths: Sequence[int], max_rows: int, fits: Callable[[int, int], bool]) -> Iterator[list[int]]:
    """Yield the places of ``lengths`` in batches, longest first, each of at most ``max_rows`` rows.

    ``fits(rows, longest)`` says whether that many rows of that length may go together; one row always may.
    The batches depend on the lengths alone, so a model's figures are the same on any machine of one kind.
    """
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        if batch and (len(batch) == max_rows or not fits(len(batch) + 1, lengths[batch[0]])):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch
