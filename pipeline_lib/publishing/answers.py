"""Sample answers: the same prompts answered by base, tuned model and any champion, side by side.

The samples are spread evenly over the test split in the order of the tuned model's loss on the reference,
from the one that it finds likeliest to the one that it finds unlikeliest: neither picked nor by chance.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from pipeline_lib.kinds import Evaluation

SAMPLES = 12


@dataclass(frozen=True)
class SampleAnswer:
    """One prompt of the test split with its reference and the models' answers."""

    id: str
    source: str
    prompt: str
    reference: str
    base: str | None
    tuned: str
    champion: str | None
    """None without a champion, or where it was not asked."""
    stopped: bool
    loss: float | None
    """The tuned model's mean negative log-likelihood (nats per token) of the reference."""


def sample_answers(
    tuned: Evaluation, base: Evaluation | None, count: int = SAMPLES, champion: Evaluation | None = None
) -> list[SampleAnswer]:
    """Return up to ``count`` answers, best to worst by the tuned model's loss on the reference."""
    answered = [row for row in _read(tuned) if row["answer"] is not None]
    rows = sorted(answered, key=lambda row: (_loss(row), row["id"]))
    chosen = [rows[i] for i in spread(len(rows), count)]
    others, champions = _answers(base), _answers(champion)
    return [
        SampleAnswer(
            id=row["id"],
            source=row["source"] or "",
            prompt=prompt_text(row["prompt"]),
            reference=row["reference"] or "",
            base=others.get(row["id"]),
            tuned=row["answer"] or "",
            champion=champions.get(row["id"]),
            stopped=bool(row["stopped"]),
            loss=_loss(row) if math.isfinite(_loss(row)) else None,
        )
        for row in chosen
    ]


def _answers(evaluation: Evaluation | None) -> dict[str, str | None]:
    return {row["id"]: row["answer"] for row in _read(evaluation, ["id", "answer"])} if evaluation else {}


def spread(length: int, count: int) -> list[int]:
    """Return at most ``count`` indices below ``length``, evenly spaced, the first and the last among them."""
    if length <= count:
        return list(range(length))
    return (
        [round(i * (length - 1) / (count - 1)) for i in range(count)] if count > 1 else [length // 2][:count]
    )


def answer_lengths(evaluation: Evaluation, column: str) -> list[int]:
    """Return the number of words of each text in ``column`` (answer or reference)."""
    return [len((row[column] or "").split()) for row in _read(evaluation, ["id", column])]


def first_prompt(evaluation: Evaluation) -> list[dict[str, str]]:
    """Return the shortest prompt of the test split (the first by id), as role and content messages."""
    rows = sorted(_read(evaluation, ["id", "prompt"]), key=lambda row: (len(row["prompt"]), row["id"]))
    messages = json.loads(rows[0]["prompt"]) if rows else [{"role": "user", "content": "Hello"}]
    return [{"role": str(m["role"]), "content": str(m["content"] or "")} for m in messages]


def prompt_text(prompt: str) -> str:
    """Return a prompt (messages as JSON) as text, with the roles where there are several messages."""
    messages = json.loads(prompt)
    if len(messages) == 1:
        return str(messages[0]["content"] or "")
    return "\n\n".join(f"{m['role']}: {m['content'] or ''}" for m in messages)


def _loss(row: dict[str, Any]) -> float:
    return float(row["nll"]) / row["tokens"] if row["tokens"] and row["nll"] is not None else math.inf


def _read(evaluation: Evaluation, columns: list[str] | None = None) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    wanted = columns or ["id", "source", "prompt", "reference", "answer", "stopped", "nll", "tokens"]
    rows: list[dict[str, Any]] = pq.read_table(evaluation.file("answers.parquet"), columns=wanted).to_pylist()
    return rows
