"""The test split as a model sees it: what it is asked, what it is expected to say, and what it may say.

A *question* is one test conversation as tokens. Its ids and loss mask are those of training (`chat`); its
prompt is the part before the last assistant turn. `likelihood` reads the ids, `generate` the prompt. Of a
pair of answers the chosen one is the reference. A rejected answer, or one labelled false, makes a question
for its likelihood alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline_lib import chat, records
from pipeline_lib.core.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Side = Literal["chosen", "rejected"]
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
    wanted: bool = True
    """Whether the answer is one to give; not where it is labelled false."""

    @property
    def prompt(self) -> list[int]:
        """The tokens to generate from."""
        return self.ids[: self.prompt_length]


@dataclass(frozen=True)
class _Unfit:
    """Why a conversation makes no question."""

    reason: str
    detail: str


NO_ANSWER = _Unfit("no_answer", "no assistant turn with a token in it")


@dataclass(frozen=True)
class Excluded:
    """One test conversation that cannot be measured."""

    row: int
    reason: str
    detail: str


def settle_template(tokenizer: PreTrainedTokenizerBase, template: str | None) -> None:
    """Give the tokenizer the named template; without a name its own, or the markers where it has none.

    A base model that was never a chat model has no template. Any would do for it, so it gets ours.
    """
    chat.set_template(tokenizer, template or (None if tokenizer.chat_template else FALLBACK_TEMPLATE))


def read_questions(
    shards: Sequence[Path],
    tokenizer: PreTrainedTokenizerBase,
    positions: int,
    *,
    last_only: bool = False,
    side: Side = "chosen",
) -> Iterator[Question | Excluded]:
    """Yield every conversation of the shards, in their order, as a question or with why it is none.

    ``side`` says which answer of a pair is meant; without a pair there is no rejected one.
    """
    row = 0
    for batch in records.batches(shards, ROWS_AT_ONCE):
        items = batch.to_pylist()
        cuts = [_cut(tokenizer, item, side, last_only=last_only) for item in items]
        prompts = chat.encode(tokenizer, [_pieces(cut)[:-1] for cut in cuts])
        answers = chat.encode(tokenizer, [_pieces(cut)[-1:] for cut in cuts])
        for item, cut, prompt, answer in zip(items, cuts, prompts, answers, strict=True):
            if isinstance(cut, _Unfit):
                yield Excluded(row, cut.reason, cut.detail)
            else:
                yield _question(row, item, prompt, answer, positions)
            row += 1


def judged_messages(item: Mapping[str, Any], side: Side = "chosen") -> list[dict[str, Any]]:
    """Return a conversation's messages to the answer that is measured: of a pair that of one side."""
    return [*item["messages"], *(item[side] or ())]


def prompt_messages(item: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the messages before the answer that is measured."""
    messages = judged_messages(item)
    return messages[: max(i for i, message in enumerate(messages) if message["role"] == "assistant")]


def _pieces(cut: list[chat.Piece] | _Unfit) -> list[chat.Piece]:
    return [] if isinstance(cut, _Unfit) else cut


def _cut(
    tokenizer: PreTrainedTokenizerBase, item: dict[str, Any], side: Side, *, last_only: bool
) -> list[chat.Piece] | _Unfit:
    """Return what is asked and, as the last piece, what is answered, or why there is no such thing."""
    messages, paired = judged_messages(item, side), bool(item["chosen"])
    if all(message["role"] != "assistant" for message in messages) or (side == "rejected" and not paired):
        return NO_ANSWER
    tools = json.loads(item["tools"]) if item["tools"] else None
    # What is chosen or labelled is the last answer.
    last_only = last_only or paired or item["label"] is not None
    try:
        cut = chat.pieces(tokenizer, messages, tools=tools, last_only=last_only)
    except DataError as error:
        return _Unfit("not_rendered", str(error))
    return cut if cut and cut[-1].learn else NO_ANSWER


def _question(
    row: int, item: Mapping[str, Any], prompt: chat.Encoded, answer: chat.Encoded, positions: int
) -> Question | Excluded:
    if not answer.ids:
        return Excluded(row, NO_ANSWER.reason, NO_ANSWER.detail)
    if len(prompt.ids) > positions - 1:
        return Excluded(
            row, "prompt_too_long", f"{len(prompt.ids)} tokens, the model takes {positions - 1} and an answer"
        )
    ids, mask = prompt.ids + answer.ids, prompt.mask + answer.mask
    return Question(
        row,
        item["id"],
        ids[:positions],
        mask[:positions],
        len(prompt.ids),
        cut=len(ids) > positions,
        wanted=item["label"] is not False,
    )


def chosen(questions: Sequence[Question], limit: int | None) -> list[Question]:
    """Return at most ``limit`` questions: those whose ids have the smallest hashes.

    As good as random, the same for every model, and little changed when conversations are added.
    """
    return sorted(
        questions, key=lambda question: (hashlib.sha256(question.id.encode()).digest(), question.row)
    )[:limit]
