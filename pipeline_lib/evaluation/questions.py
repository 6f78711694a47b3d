"""The test split as a model sees it: what it is asked, what it is expected to say, and what it may say.

A *question* is one test conversation as tokens. Its ids and loss mask are those of training (`chat`); its
prompt is the part before the last assistant turn. `score` reads the ids, `generate` the prompt.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline_lib import chat, records

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")

ROWS_AT_ONCE = 512
FALLBACK_TEMPLATE = "markers"


@dataclass(frozen=True)
class Question:
    """One test conversation that a model of the given positions can take."""

    row: int
    """Place in the test split."""
    id: str
    ids: list[int]
    """Token ids of the conversation to the end of its last assistant turn, cut to the model's positions."""
    mask: list[bool]
    """Which of them are answers."""
    prompt_length: int
    """How many of them stand before the last assistant turn."""
    cut: bool = False
    """Whether the end of the last answer is missing for want of positions."""

    @property
    def prompt(self) -> list[int]:
        """The tokens to generate from."""
        return self.ids[: self.prompt_length]


@dataclass(frozen=True)
class Excluded:
    """One test conversation that cannot be measured."""

    row: int
    reason: str
    detail: str


@dataclass(frozen=True)
class Share:
    """One process's share of the batches: every ``of_how_many``-th, from ``first`` on."""

    first: int = 0
    of_how_many: int = 1

    def of(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield the batches that are this process's."""
        return islice(batches, self.first, None, self.of_how_many)


ALL = Share()


def settle_template(tokenizer: PreTrainedTokenizerBase, template: str | None) -> None:
    """Give the tokenizer the named template; without a name its own, or the markers where it has none.

    A base model that was never a chat model has no template. Any would do for it, so it gets ours.
    """
    chat.set_template(tokenizer, template or (None if tokenizer.chat_template else FALLBACK_TEMPLATE))


def read_questions(
    shards: Sequence[Path], tokenizer: PreTrainedTokenizerBase, positions: int, *, last_only: bool = False
) -> Iterator[Question | Excluded]:
    """Yield every conversation of the shards, in their order, as a question or with why it is none."""
    row = 0
    for batch in records.batches(shards, ROWS_AT_ONCE):
        items = batch.to_pylist()
        cuts = [_cut(tokenizer, item, last_only=last_only) for item in items]
        prompts = chat.encode(tokenizer, [cut[:-1] for cut in cuts])
        answers = chat.encode(tokenizer, [cut[-1:] for cut in cuts])
        for item, prompt, answer in zip(items, prompts, answers, strict=True):
            yield _question(row, item["id"], prompt, answer, positions)
            row += 1


def _cut(tokenizer: PreTrainedTokenizerBase, item: dict[str, Any], *, last_only: bool) -> list[chat.Piece]:
    if all(message["role"] != "assistant" for message in item["messages"]):
        return []
    tools = json.loads(item["tools"]) if item["tools"] else None
    cut = chat.pieces(tokenizer, item["messages"], tools=tools, last_only=last_only)
    return cut if cut and cut[-1].learn else []


def _question(
    row: int, name: str, prompt: chat.Encoded, answer: chat.Encoded, positions: int
) -> Question | Excluded:
    if not answer.ids:
        return Excluded(row, "no_answer", "no assistant turn with a token in it")
    if len(prompt.ids) > positions - 1:
        return Excluded(
            row, "prompt_too_long", f"{len(prompt.ids)} tokens, the model takes {positions - 1} and an answer"
        )
    ids, mask = prompt.ids + answer.ids, prompt.mask + answer.mask
    return Question(row, name, ids[:positions], mask[:positions], len(prompt.ids), cut=len(ids) > positions)


def chosen(questions: Sequence[Question], limit: int | None) -> list[Question]:
    """Return at most ``limit`` questions: those whose ids have the smallest hashes.

    As good as random, the same for every model, and little changed when conversations are added.
    """
    return sorted(
        questions, key=lambda question: (hashlib.sha256(question.id.encode()).digest(), question.row)
    )[:limit]


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
