"""Tokenize: conversations as token ids with their loss mask, and an account of what is learnt.

``supervised`` learns the assistant's turns of a chat, ``language_modelling`` learns every token of documents
laid end to end (packed) in blocks; pairs, labelled answers and prompts are ``preferences.py``'s.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from pipeline_lib.chat_templates import TemplateName
from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.errors import ConfigError, DataError
from pipeline_lib.core.output import Output
from pipeline_lib.core.stage import stage
from pipeline_lib.kinds import Dataset, Model, Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from pipeline_lib.chat import Piece
    from pipeline_lib.training.token_shards import TokenWriter

PARTS = ("train", "validation")


class TokenizeConfig(StageConfig):
    """How conversations become tokens, and which of them are learnt."""

    objective: Literal["supervised", "language_modelling", "preference", "feedback", "prompts"] = Field(
        default="supervised",
        description="Learn the assistant's turns, every token of plain documents, pairs of answers, labelled "
        "answers, or answers to prompts that a reward judges; train.objective sets it where it is not given.",
    )
    max_length: int = Field(default=1024, ge=16, description="Longest sequence, in tokens.")
    too_long: Literal["drop", "truncate"] = Field(
        default="drop",
        description="What becomes of a conversation over max_length: dropped with the reason, or cut at "
        "the end.",
    )
    learn: Literal["every_turn", "last_turn"] = Field(
        default="every_turn", description="Which assistant turns are learnt."
    )
    template: TemplateName | None = Field(
        default=None, description="Named chat template in place of the tokenizer's own."
    )
    document: str = Field(
        default="{prompt}\n\n{answer}",
        description="How a conversation reads as a document, from its prompt, answer and the keys of its "
        "metadata.",
    )
    max_unlearnable: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="Share of conversations with nothing to learn above which the run stops.",
    )
    max_without_stop: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Share of conversations in which no end of a turn is learnt above which the run stops.",
    )
    max_prompt_differs: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="Share of conversations whose prompt the template renders otherwise for generation than "
        "in training above which the run stops.",
    )


@stage(produces=Tokens, version=6)
def tokenize(out: Output, config: TokenizeConfig, dataset: Dataset, base: Model) -> None:
    """Every conversation of train and validation as tokens with a loss mask, or dropped with the reason."""
    from pipeline_lib.chat import stop_ids
    from pipeline_lib.training.gates import check_model, check_positions, check_tokens
    from pipeline_lib.training.mask_page import write_page
    from pipeline_lib.training.preferences import write_part
    from pipeline_lib.training.token_shards import TokenWriter, load_tokenizer

    tokenizer = load_tokenizer(base.path)
    check_model(base.path, tokenizer)
    for part in PARTS:
        if config.objective in ("preference", "feedback", "prompts"):
            out.stats[part] = write_part(out, config, tokenizer, dataset, part)
            continue
        with TokenWriter(out.path, part) as writer:
            if config.objective == "supervised":
                _tokenize_chats(out, config, tokenizer, dataset, part, writer)
            else:
                _tokenize_documents(out, config, tokenizer, dataset, part, writer)
        out.stats[part] = writer.stats()
    check_tokens(out, config)
    longest = max(out.stats[part]["longest"] for part in PARTS)
    check_positions(base.path, longest, "tokenize", "lower tokenize.max_length or take another base model")
    counted = {part: out.stats[part] for part in PARTS}
    page = out.path / "audit.html"
    write_page(page, out.path, tokenizer, counted, set(stop_ids(tokenizer)), config.objective)
    tokenizer.save_pretrained(out.path / "tokenizer")


def _tokenize_chats(
    out: Output,
    config: TokenizeConfig,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    part: str,
    writer: TokenWriter,
) -> None:
    from pipeline_lib import chat, records
    from pipeline_lib.training.token_shards import ROWS_AT_ONCE

    chat.set_template(tokenizer, config.template)
    stops = set(chat.stop_ids(tokenizer))
    for batch in records.tracked(out, dataset, f"{part} conversations", part, ROWS_AT_ONCE):
        rows, cut = [], []
        for row in batch.to_pylist():
            found = _cut(tokenizer, row, config)
            if isinstance(found, tuple):
                writer.drop(row["id"], *found)
            else:
                rows.append(row)
                cut.append(found)
        for row, encoded in zip(rows, chat.encode(tokenizer, cut), strict=True):
            if len(encoded.ids) > config.max_length and config.too_long == "drop":
                writer.drop(row["id"], "too_long", f"{len(encoded.ids)} tokens, at most {config.max_length}")
                continue
            ids, mask = encoded.ids[: config.max_length], encoded.mask[: config.max_length]
            if not any(mask):
                writer.drop(row["id"], "nothing_to_learn", "no token of an assistant's turn is left to learn")
                continue
            truncated = len(ids) < len(encoded.ids)
            stopped = any(learn and token in stops for token, learn in zip(ids, mask, strict=True))
            writer.keep(row["id"], ids, mask, stops=stopped, truncated=truncated, source=row["source"])


def _cut(
    tokenizer: PreTrainedTokenizerBase, row: dict[str, Any], config: TokenizeConfig
) -> list[Piece] | tuple[str, str]:
    """Return a conversation's pieces, or the (reason, detail) for which it is not learnt from."""
    from pipeline_lib import chat

    if row["chosen"] is not None or any(message["role"] == "text" for message in row["messages"]):
        return "not_a_chat", "a preference pair" if row["chosen"] is not None else "a plain text"
    if row["label"] is False:
        return "unwanted_answer", "its label is false"
    tools = json.loads(row["tools"]) if row["tools"] else None
    try:
        return chat.pieces(tokenizer, row["messages"], tools=tools, last_only=config.learn == "last_turn")
    except chat.PromptDiffersError as error:
        return "prompt_differs", str(error)
    except DataError as error:
        return "not_rendered", str(error)


def _tokenize_documents(
    out: Output,
    config: TokenizeConfig,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    part: str,
    writer: TokenWriter,
) -> None:
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            "tokenize: the tokenizer has no end token to put between documents; take another base model"
        )
    held: list[int] = []
    blocks = documents = 0

    def write(block: list[int]) -> None:
        writer.keep(
            f"{part}-{blocks}", block, [True] * len(block), stops=True, truncated=False, conversations=0
        )

    for ids in _documents(out, config, tokenizer, dataset, part, writer):
        held += [*ids, tokenizer.eos_token_id]
        documents += 1
        while len(held) >= config.max_length:
            write(held[: config.max_length])
            held, blocks = held[config.max_length :], blocks + 1
    if len(held) > 1:
        write(held)
    writer.count(documents)


def _documents(
    out: Output,
    config: TokenizeConfig,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    part: str,
    writer: TokenWriter,
) -> Iterator[list[int]]:
    from pipeline_lib import records
    from pipeline_lib.training.token_shards import ROWS_AT_ONCE

    for batch in records.tracked(out, dataset, f"{part} documents", part, ROWS_AT_ONCE):
        texts = []
        for row in batch.to_pylist():
            text = as_document(row, config.document)
            if row["chosen"] is not None:
                writer.drop(row["id"], "not_a_document", "a preference pair")
            elif row["label"] is False:
                writer.drop(row["id"], "unwanted_answer", "its label is false")
            elif not text.strip():
                writer.drop(row["id"], "empty_document", "no text to learn")
            else:
                texts.append(text)
        if texts:
            yield from tokenizer(texts, add_special_tokens=False)["input_ids"]


def as_document(row: dict[str, Any], layout: str) -> str:
    """Return a conversation as one plain text: its own where it is one, else laid out by ``layout``."""
    contents: dict[str, list[str]] = {}
    for message in row["messages"]:
        contents.setdefault(message["role"], []).append(message["content"] or "")
    if set(contents) == {"text"}:
        return "\n\n".join(contents["text"])
    fields = {
        **json.loads(row["metadata"] or "{}"),
        "prompt": "\n\n".join(contents.get("user", [])),
        "answer": "\n\n".join(contents.get("assistant", [])),
    }
    try:
        return layout.format_map(fields)
    except (KeyError, ValueError, IndexError, AttributeError) as error:
        raise ConfigError(
            f"tokenize.document: {error} is no field of conversation {row['id']}; it has "
            f"{', '.join(sorted(fields))}"
        ) from error
