"""The measuring child process: likelihoods of the reference answers, and answers of the model's own.

There is one process per device. Each takes its share of the batches and writes ``part-<rank>.json``: what
came out for every row, and from the first process what was not measured. `tables` joins them with the test
split.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline_lib.evaluation.generate import Answer, Decoding, generate_answers
from pipeline_lib.evaluation.questions import (
    Excluded,
    Question,
    Share,
    chosen,
    read_questions,
    settle_template,
)
from pipeline_lib.evaluation.score import Likelihood, negative_log_likelihoods
from pipeline_lib.launch import child_main

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

T = TypeVar("T", Likelihood, Answer)
UNLIMITED = 1 << 30


def work(spec: dict[str, Any], tell: Callable[..., None]) -> None:
    """Measure this process's share of the questions and write what came out into the work directory."""
    from pipeline_lib import chat

    config, directory = spec["config"], Path(spec["work"])
    model, tokenizer = load_model(spec)
    positions = positions_of(model)
    questions, excluded = _read(spec, tokenizer, positions)
    asked = chosen(questions, config["max_conversations"])
    decoding = Decoding(
        config["max_new_tokens"],
        config["temperature"],
        chat.stop_ids(tokenizer),
        tokenizer.pad_token_id,
        config["seed"],
    )
    share = Share(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
    clock = _Clock(tell, (len(questions) + len(asked)) // share.of_how_many)
    likelihoods = clock.watch("score", negative_log_likelihoods(model, questions, decoding.pad_id, share))
    answers = clock.watch("generate", generate_answers(model, asked, decoding, positions, share))
    part = {"rows": _rows(tokenizer, likelihoods, answers), "speed": clock.speed(), "excluded": [], "cut": 0}
    if share.first == 0:
        part |= {
            "excluded": [vars(item) for item in excluded],
            "cut": sum(question.cut for question in questions),
        }
    (directory / f"part-{share.first}.json").write_text(json.dumps(part), encoding="utf-8")


def positions_of(model: PreTrainedModel) -> int:
    """Return how many tokens a model takes; very many where its config sets no limit."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None) or UNLIMITED


def load_model(spec: dict[str, Any]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the spec's model on its device in its precision, and the tokenizer with a template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[
        spec["config"]["precision"]
    ]
    model = AutoModelForCausalLM.from_pretrained(spec["model"], dtype=dtype)
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if spec["device"] == "cuda" else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(spec["model"])
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    settle_template(tokenizer, spec["config"]["template"])
    on_device: Any = model.to  # its signature in transformers hides what it takes
    return on_device(device).eval(), tokenizer


def _read(
    spec: dict[str, Any], tokenizer: PreTrainedTokenizerBase, positions: int
) -> tuple[list[Question], list[Excluded]]:
    shards = [Path(shard) for shard in spec["shards"]]
    read = list(
        read_questions(shards, tokenizer, positions, last_only=spec["config"]["learn"] == "last_turn")
    )
    return [item for item in read if isinstance(item, Question)], [
        item for item in read if isinstance(item, Excluded)
    ]


def _rows(
    tokenizer: PreTrainedTokenizerBase, likelihoods: Sequence[Likelihood], answers: Sequence[Answer]
) -> list[dict[str, Any]]:
    rows: dict[int, dict[str, Any]] = {}
    for item in likelihoods:
        rows[item.row] = {"row": item.row, "nll": item.nll, "tokens": item.tokens}
    texts = tokenizer.batch_decode([answer.ids for answer in answers], skip_special_tokens=True)
    for answer, text in zip(answers, texts, strict=True):
        said = {"row": answer.row, "answer": text, "stopped": answer.stopped, "answer_tokens": answer.tokens}
        rows[answer.row] = {**rows.get(answer.row, {}), **said}
    return [rows[row] for row in sorted(rows)]


class _Clock:
    """Counts tokens and seconds of each phase, and tells how far the work is."""

    def __init__(self, tell: Callable[..., None], total: int) -> None:
        self._tell, self._total, self._done = tell, total, 0
        self._phases: dict[str, dict[str, float]] = {}

    def watch(self, phase: str, batches: Iterable[list[T]]) -> list[T]:
        """Return everything in ``batches``, timed under the name of the phase."""
        started, tokens = time.perf_counter(), 0
        gathered: list[T] = []
        for batch in batches:
            gathered += batch
            tokens += sum(item.tokens for item in batch)
            self._done += len(batch)
            seconds = time.perf_counter() - started
            self._tell(done=self._done, total=self._total, note=f"{phase} {tokens / seconds:,.0f} tok/s")
            self._phases[phase] = {
                "tokens": tokens,
                "seconds": round(seconds, 3),
                "tokens_per_second": round(tokens / seconds, 1),
            }
        return gathered

    def speed(self) -> dict[str, dict[str, float]]:
        """Return tokens, seconds and tokens per second of every phase."""
        return self._phases


if __name__ == "__main__":
    child_main(work)
