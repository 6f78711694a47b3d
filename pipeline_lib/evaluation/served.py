"""Answers from an OpenAI-compatible endpoint (vLLM serves one) in place of the local model's.

The endpoint is sent the token ids of the rendered prompt, those of training, by ``POST /completions``: it
renders and tokenizes nothing, so it cannot do so otherwise. What it serves is held against the local model:
greedy answers are, token by token, what the local model would have said.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_lib import chat
from pipeline_lib.completions import Endpoint, for_evaluate
from pipeline_lib.core.errors import DataError
from pipeline_lib.evaluation.generate import Decoding, Said
from pipeline_lib.evaluation.questions import Question
from pipeline_lib.likelihood import foreseen

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

COMPARED = 32
"""Answers that are held against the local model: some hundred tokens tell one model from another."""
MOST_STOPS = 4
"""Stop strings that the interface allows."""
UNDECODED = "\N{REPLACEMENT CHARACTER}"


def served_answers(
    spec: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    decoding: Decoding,
    positions: int,
) -> Iterator[list[Said]]:
    """Yield what the endpoint answers to each question; kept replies are not asked for again.

    ServiceError where it does not answer, ConfigError where it refuses the key or knows no such model,
    DataError where every answer is empty.
    """
    endpoint = Endpoint(for_evaluate(), Path(spec["replies"]))
    requests = [_request(spec, tokenizer, question, decoding, positions) for question in questions]
    empty = 0
    for question, reply in zip(questions, endpoint.replies(requests), strict=True):
        stopped = reply.finish == "stop"
        tokens = reply.tokens or len(_ids(tokenizer, reply.text)) + stopped
        empty += not reply.text
        yield [Said(question.row, reply.text, stopped, tokens)]
    if questions and empty == len(questions):
        shutil.rmtree(spec["replies"])
        raise DataError(
            f"evaluate.endpoint: all {empty} answers of {spec['config']['endpoint']['model']!r} are empty; "
            "look at what the endpoint serves under that name"
        )


def agreement(
    spec: Mapping[str, Any],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    answers: Sequence[Said],
) -> dict[str, float | int]:
    """Return the share of the tokens in the endpoint's answers that are the local model's own choice.

    Of the first answers that are text throughout; nothing where answers are sampled. DataError where it is
    less than the config asks for: the endpoint serves other weights, and its replies are forgotten.
    """
    if spec["config"]["temperature"]:
        return {}
    said = {answer.row: answer.text for answer in answers}
    compared = [
        _answered(question, _ids(tokenizer, said[question.row]))
        for question in questions
        if said[question.row] and UNDECODED not in said[question.row]
    ][:COMPARED]
    found = [item for batch in foreseen(model, compared, tokenizer.pad_token_id) for item in batch]
    tokens = sum(item.tokens for item in found)
    if not tokens:
        return {}
    share, served = sum(item.right for item in found) / tokens, spec["config"]["endpoint"]
    if share < served["agreement"]:
        shutil.rmtree(spec["replies"])
        raise DataError(
            f"evaluate.endpoint: {served['model']!r} is not the model in {spec['model']}: it would have said "
            f"{share:.0%} of the {tokens} tokens compared, {served['agreement']:.0%} is the least "
            "(evaluate.endpoint.agreement); serve these weights under that name, or name the one that does"
        )
    return {"agreement": round(share, 4), "compared_tokens": tokens}


def _request(
    spec: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    question: Question,
    decoding: Decoding,
    positions: int,
) -> dict[str, Any]:
    stops = chat.end_tokens(tokenizer)[:MOST_STOPS]
    return {
        "model": spec["config"]["endpoint"]["model"],
        "prompt": question.prompt,
        "max_tokens": min(decoding.max_new_tokens, positions - question.prompt_length),
        "temperature": decoding.temperature,
        # vLLM and SGLang leave special tokens out of the text in which they look for `stop`.
        "stop_token_ids": list(decoding.stop_ids),
        **({"stop": stops} if stops else {}),
        **({"seed": decoding.seed + question.row} if decoding.temperature else {}),
    }


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _answered(question: Question, ids: Sequence[int]) -> Question:
    """The question with another answer, of which all is measured."""
    whole = [*question.prompt, *ids]
    mask = [place >= question.prompt_length for place in range(len(whole))]
    return replace(question, ids=whole, mask=mask)
