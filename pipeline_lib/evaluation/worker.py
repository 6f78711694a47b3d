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

from pipeline_lib.evaluation.generate import Decoding, Said, first_token, generate_answers, read_out
from pipeline_lib.evaluation.judge import rewards
from pipeline_lib.evaluation.loading import load_model, positions_of
from pipeline_lib.evaluation.questions import (
    Excluded,
    Question,
    chosen,
    read_questions,
)
from pipeline_lib.evaluation.served import agreement, served_answers
from pipeline_lib.evaluation.suites import run_suites
from pipeline_lib.launch import child_main
from pipeline_lib.likelihood import Likelihood, Share, negative_log_likelihoods

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T", Likelihood, Said)


def work(spec: dict[str, Any], tell: Callable[..., None]) -> None:
    """Measure this process's share of the questions and write what came out into the work directory."""
    from pipeline_lib import chat

    config, directory = spec["config"], Path(spec["work"])
    model, tokenizer = load_model(spec)
    positions = positions_of(model)
    questions, excluded = _read(spec, tokenizer, positions)
    asked = chosen([question for question in questions if question.wanted], config["max_conversations"])
    decoding = Decoding(
        config["max_new_tokens"],
        config["temperature"],
        chat.stop_ids(tokenizer),
        tokenizer.pad_token_id,
        config["seed"],
    )
    share = Share(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
    clock = _Clock(tell, (len(questions) + len(asked)) // share.of_how_many)
    pad = decoding.pad_id
    scored = negative_log_likelihoods(model, questions, pad, share, every_token=True)
    likelihoods = clock.watch("score", scored)
    rejected = _rejected(spec, tokenizer, positions, questions)
    others = clock.watch("score_rejected", negative_log_likelihoods(model, rejected, pad, share))
    served = config["endpoint"]
    if served:
        # One process asks: the endpoint batches by itself, and its pace is one for all.
        mine = asked if share.first == 0 else []
        said = clock.watch("generate", served_answers(spec, tokenizer, mine, decoding, positions))
    else:
        generated = generate_answers(model, asked, decoding, positions, share)
        said = clock.watch("generate", (read_out(tokenizer, batch) for batch in generated))
    rows = _rows(likelihoods, others, said)
    if config["reward_model"]:
        _add_rewards(spec, rows)
    part = {"rows": rows, "speed": clock.speed(), "excluded": [], "cut": 0, "endpoint": None, "suites": {}}
    if share.first == 0:
        part |= {
            "excluded": [vars(item) for item in excluded],
            "cut": sum(question.cut for question in questions),
        }
        if served:
            part["endpoint"] = {"model": served["model"], **agreement(spec, model, tokenizer, asked, said)}
        else:
            part["speed"] = clock.speed() | {"first_token": first_token(model, asked, decoding)}
        if config["suites"]:
            tell(note="suites of lm-eval")
            part["suites"] = run_suites(config, model, tokenizer)
    (directory / f"part-{share.first}.json").write_text(json.dumps(part), encoding="utf-8")


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


def _rejected(
    spec: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    positions: int,
    measured: Sequence[Question],
) -> list[Question]:
    """Return the rejected answers of the pairs whose chosen answer is measured, where both are whole."""
    whole = {question.row for question in measured if not question.cut}
    shards = [Path(shard) for shard in spec["shards"]]
    read = read_questions(shards, tokenizer, positions, side="rejected")
    return [item for item in read if isinstance(item, Question) and not item.cut and item.row in whole]


def _add_rewards(spec: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Add to every row with an answer what the reward model gives it."""
    told = {row["row"]: row["answer"] for row in rows if "answer" in row}
    found = rewards(spec, told)
    for row in rows:
        row["reward"] = found.get(row["row"])


def _rows(
    likelihoods: Sequence[Likelihood], rejected: Sequence[Likelihood], answers: Sequence[Said]
) -> list[dict[str, Any]]:
    rows: dict[int, dict[str, Any]] = {}
    for item in likelihoods:
        rows[item.row] = vars(item)
    for item in rejected:
        rows[item.row] = {**rows.get(item.row, {"row": item.row}), "rejected_nll": item.nll}
    for said in answers:
        found = {"answer": said.text, "stopped": said.stopped, "answer_tokens": said.tokens}
        rows[said.row] = {**rows.get(said.row, {"row": said.row}), **found}
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
