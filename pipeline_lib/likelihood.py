"""How likely a model finds a text: streamed negative log-likelihoods, the stuff of perplexity.

Only hidden states at learnt positions reach the output layer, and only one batch's logits are ever there.
Evaluation measures reference answers with it, curation the answers of its conversations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pipeline_lib.core.errors import DataError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

T = TypeVar("T")

BATCH_ROWS = 64
BATCH_TOKENS = {"cuda": 8_192, "cpu": 1_024}
"""Padded tokens in one forward pass: few rows are of more nearly one length, and few keep a CPU busy."""
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
    """A text's summed negative log-likelihood (nats) and the number of tokens summed over."""

    row: int
    nll: float
    tokens: int


def negative_log_likelihoods(
    model: PreTrainedModel, questions: Sequence[Masked], pad: int, share: Share = ALL
) -> Iterator[list[Likelihood]]:
    """Yield the likelihoods of a share of the questions' batches, longest questions first.

    Teacher forcing: each learnt token given all true tokens before it. A token at the very start has
    nothing before it and is not counted. Raises DataError where a likelihood is not a finite number.
    """
    vocabulary = model.config.get_text_config().vocab_size
    most = max(1, LOGITS_AT_ONCE // vocabulary)
    for batch in share.of(score_batches([len(question.ids) for question in questions], model.device.type)):
        yield _score([questions[place] for place in batch], model, pad, most)


def foreseen(
    model: PreTrainedModel, questions: Sequence[Masked], pad: int, share: Share = ALL
) -> Iterator[list[Foreseen]]:
    """Yield for a share of the questions' batches which learnt tokens the model would have said itself.

    Where all of them are right, greedy decoding from the first says exactly these tokens; one pass tells.
    """
    import torch

    most = max(1, LOGITS_AT_ONCE // model.config.get_text_config().vocab_size)
    for batch in share.of(score_batches([len(question.ids) for question in questions], model.device.type)):
        asked = [questions[place] for place in batch]
        ids, attention, learnt = _right_padded(asked, pad, model.device)
        rows, columns = learnt[:, 1:].nonzero(as_tuple=True)
        right = torch.zeros(len(asked), dtype=torch.long, device=model.device)
        for some, places in zip(torch.split(rows, most), torch.split(columns, most), strict=True):
            with torch.inference_mode(), _only_at(model, some, places):
                logits = model(input_ids=ids, attention_mask=attention, use_cache=False).logits[0]
            right.index_add_(0, some, (logits.argmax(dim=-1) == ids[some, places + 1]).long())
        counts = torch.bincount(rows, minlength=len(asked)).tolist()
        yield [
            Foreseen(q.row, hits, count) for q, hits, count in zip(asked, right.tolist(), counts, strict=True)
        ]


def score_batches(lengths: Sequence[int], device: str) -> Iterator[list[int]]:
    """Yield places in batches whose padded tokens fit in one forward pass."""
    return packed(lengths, BATCH_ROWS, lambda rows, longest: rows * longest <= BATCH_TOKENS[device])


def _score(questions: Sequence[Masked], model: PreTrainedModel, pad: int, most: int) -> list[Likelihood]:
    import torch

    ids, attention, learnt = _right_padded(questions, pad, model.device)
    rows, columns = learnt[:, 1:].nonzero(as_tuple=True)
    sums = torch.zeros(len(questions), dtype=torch.float64, device=model.device)
    # One pass but for very long answers under a very large vocabulary: those pay with time, not with memory.
    for some_rows, some_columns in zip(torch.split(rows, most), torch.split(columns, most), strict=True):
        losses = _losses(model, ids, attention, some_rows, some_columns)
        sums.index_add_(0, some_rows, losses.double())
    counts = torch.bincount(rows, minlength=len(questions)).tolist()
    if not torch.isfinite(sums).all():
        raise DataError(
            "the model gives a likelihood that is no finite number; "
            "its weights are damaged, or the precision is too coarse for it"
        )
    return [
        Likelihood(q.row, nll, count) for q, nll, count in zip(questions, sums.tolist(), counts, strict=True)
    ]


def _right_padded(
    questions: Sequence[Masked], pad: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids, attention and loss mask, each of shape (questions, longest)."""
    import torch

    longest = max(len(question.ids) for question in questions)
    ids = [question.ids + [pad] * (longest - len(question.ids)) for question in questions]
    attention = [[1] * len(question.ids) + [0] * (longest - len(question.ids)) for question in questions]
    learnt = [question.mask + [False] * (longest - len(question.mask)) for question in questions]
    return (
        torch.tensor(ids, device=device),
        torch.tensor(attention, device=device),
        torch.tensor(learnt, device=device),
    )


def _losses(
    model: PreTrainedModel,
    ids: torch.Tensor,
    attention: torch.Tensor,
    rows: torch.Tensor,
    columns: torch.Tensor,
) -> torch.Tensor:
    """The negative log-likelihood of the token after each (row, column), in fp32, shape (positions,)."""
    import torch
    from torch.nn.functional import cross_entropy

    with torch.inference_mode(), _only_at(model, rows, columns):
        logits = model(input_ids=ids, attention_mask=attention, use_cache=False).logits[0]
        labels = ids[rows, columns + 1]
        parts = zip(torch.split(logits, FLOAT_ROWS), torch.split(labels, FLOAT_ROWS), strict=True)
        return torch.cat([cross_entropy(some.float(), label, reduction="none") for some, label in parts])


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
