"""The auditing child process: which answers the model completes to the letter, and how sure it is of secrets.

It writes ``asked.json``. Work is small, so the first process does it all.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_lib import canaries
from pipeline_lib.canaries import Canary
from pipeline_lib.evaluation.loading import load_model, positions_of
from pipeline_lib.evaluation.questions import Question, read_questions
from pipeline_lib.evaluation.statistics import share
from pipeline_lib.launch import child_main
from pipeline_lib.likelihood import foreseen, negative_log_likelihoods

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SHORTEST = 8
"""Tokens that a continuation must have: a shorter one is easily guessed."""


def work(spec: dict[str, Any], tell: Callable[..., None]) -> None:
    """Measure extraction and canaries with the model and write what came out."""
    if os.environ.get("RANK", "0") != "0":
        return
    config = spec["config"]
    model, tokenizer = load_model(spec)
    tell(note="extraction")
    asked: dict[str, Any] = {}
    if config["extraction_conversations"]:
        asked["extracted"] = {
            part: _extraction(model, tokenizer, Path(sample), config)
            for part, sample in spec["samples"].items()
        }
    if spec["canaries"]:
        tell(note="canaries")
        planted = canaries.read(Path(spec["canaries"]))
        asked["canaries"] = _canaries(model, tokenizer, planted, config)
    Path(spec["result"]).write_text(json.dumps(asked), encoding="utf-8")


def _extraction(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sample: Path, config: dict[str, Any]
) -> dict[str, Any]:
    """The share of answers whose continuation the model says to the letter, given their beginning."""
    read = read_questions([sample], tokenizer, positions_of(model), last_only=True)
    questions = [
        cut
        for question in read
        if isinstance(question, Question)
        and question.wanted
        and (cut := continuation(question, config["prefix_tokens"], config["extracted_tokens"]))
    ]
    found = [item for batch in foreseen(model, questions, tokenizer.pad_token_id) for item in batch]
    exact = sum(item.right == item.tokens for item in found)
    return {
        **share(exact, len(found)),
        "tokens_right": sum(item.right for item in found) / max(1, sum(item.tokens for item in found)),
    }


def continuation(question: Question, prefix: int, most: int) -> Question | None:
    """The question with only the tokens after the answer's beginning to say; None where they are too few."""
    length = len(question.ids) - question.prompt_length
    begin = question.prompt_length + min(prefix, length // 2)
    end = min(begin + most, len(question.ids))
    if end - begin < SHORTEST:
        return None
    mask = [begin <= place < end for place in range(end)]
    return replace(question, ids=question.ids[:end], mask=mask)


def _canaries(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    planted: Sequence[Canary],
    config: dict[str, Any],
) -> dict[str, Any]:
    found = [_exposure(model, tokenizer, canary, config) for canary in planted]
    return {
        "planted": len(found),
        "extracted": sum(item["extracted"] for item in found),
        "exposure": max(item["exposure"] for item in found),
        "most_possible": math.log2(config["canary_alternatives"] + 1),
        "each": found,
    }


def _exposure(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, canary: Canary, config: dict[str, Any]
) -> dict[str, Any]:
    """A secret's rank among alternatives by likelihood, and exposure log2(alternatives + 1) - log2(rank).

    Carlini et al. 2019, section 4.2, estimated by sampling: 0 is the last rank, and log2(alternatives + 1)
    the first. *Extracted* is a secret that greedy decoding says when it is asked for.
    """
    others = canary.alternatives(config["canary_alternatives"], config["seed"])
    questions = _with_secrets(tokenizer, canary, [canary.secret, *others])
    pad = tokenizer.pad_token_id
    losses = {
        item.row: item.nll for batch in negative_log_likelihoods(model, questions, pad) for item in batch
    }
    # Of equal likelihood counts as likelier: a model that knows nothing must not look as if it did.
    rank = 1 + sum(losses[row] <= losses[0] for row in range(1, len(questions)))
    said = next(item for batch in foreseen(model, questions[:1], pad) for item in batch)
    return {
        "name": canary.name,
        "repeats": canary.repeats,
        "rank": rank,
        "alternatives": len(others),
        "exposure": math.log2(len(questions)) - math.log2(rank),
        "extracted": said.right == said.tokens,
    }


def _with_secrets(
    tokenizer: PreTrainedTokenizerBase, canary: Canary, secrets: Sequence[str]
) -> list[Question]:
    """The canary's conversation with each of the secrets in turn, as training renders it."""
    from pipeline_lib import chat

    asked = {"role": "user", "content": canary.question}
    cuts = [
        chat.pieces(tokenizer, [asked, {"role": "assistant", "content": canary.answer(secret)}])
        for secret in secrets
    ]
    return [
        Question(row, canary.name, encoded.ids, encoded.mask, encoded.mask.index(True))
        for row, encoded in enumerate(chat.encode(tokenizer, cuts))
    ]


if __name__ == "__main__":
    child_main(work)
