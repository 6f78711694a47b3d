"""The blind sheet: questions with the answers of several models, in an order that tells nothing."""

from __future__ import annotations

import csv
import hashlib
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline_lib.core.errors import DataError
from pipeline_lib.evaluation.sheet_page import PAGE
from pipeline_lib.kinds import Evaluation

LETTERS = "ABCDEFGH"
SCALE = (1, 2, 3, 4, 5)
COLUMNS = ("sheet", "item", "answer", "rating", "rater")
"""Columns that ratings come back in; the sheet as CSV has the texts beside them."""


@dataclass(frozen=True)
class Item:
    """One question with an answer of each model, in the order in which they are shown."""

    id: str
    prompt: str
    models: tuple[str, ...]
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Sheet:
    """What people are asked to rate."""

    name: str
    """A hash of everything on it: ratings of another sheet do not fit."""
    items: tuple[Item, ...]

    @property
    def models(self) -> list[str]:
        """The models whose answers are on it."""
        return sorted(self.items[0].models)


def make(evaluations: Mapping[str, Evaluation], count: int, seed: int) -> Sheet:
    """Return a sheet of ``count`` questions that all models answered; DataError where there is none."""
    tables = {name: _answers(evaluation) for name, evaluation in evaluations.items()}
    shared = set.intersection(*(set(rows) for rows in tables.values()))
    if not shared:
        raise DataError("human: the models answered no common question; evaluate them on one test split")
    chosen = sorted(shared, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())[:count]
    items = tuple(_item(name, tables, seed) for name in chosen)
    text = json.dumps([(item.id, item.models, item.answers) for item in items])
    return Sheet(hashlib.sha256(text.encode()).hexdigest()[:12], items)


def _answers(evaluation: Evaluation) -> dict[str, dict[str, Any]]:
    table = pq.read_table(evaluation.file("answers.parquet"), columns=["id", "prompt", "answer"])
    return {row["id"]: row for row in table.filter(pc.is_valid(table["answer"])).to_pylist()}


def _item(name: str, tables: Mapping[str, Mapping[str, Mapping[str, Any]]], seed: int) -> Item:
    order = sorted(tables)
    random.Random(f"{seed}:{name}").shuffle(order)
    messages = json.loads(tables[order[0]][name]["prompt"])
    prompt = "\n\n".join(
        f"{m['role']}: {m.get('content') or ''}" if len(messages) > 1 else str(m.get("content") or "")
        for m in messages
    )
    return Item(name, prompt, tuple(order), tuple(tables[model][name]["answer"].strip() for model in order))


def write(directory: Path, sheet: Sheet) -> None:
    """Write ``sheet.html``, ``sheet.csv`` and ``key.json``."""
    _write_csv(directory / "sheet.csv", sheet)
    page = PAGE.replace("{{sheet}}", sheet.name)
    body = "\n".join(_section(number, item) for number, item in enumerate(sheet.items, 1))
    (directory / "sheet.html").write_text(page.replace("{{items}}", body), encoding="utf-8", errors="replace")
    key = {item.id: dict(zip(LETTERS, item.models, strict=False)) for item in sheet.items}
    text = json.dumps({"sheet": sheet.name, "items": key}, indent=1, ensure_ascii=False)
    (directory / "key.json").write_text(text + "\n", encoding="utf-8")


def _write_csv(path: Path, sheet: Sheet) -> None:
    with path.open("w", encoding="utf-8", newline="", errors="replace") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS, "question", "text"])
        for item in sheet.items:
            for letter, answer in zip(LETTERS, item.answers, strict=False):
                # A text that a spreadsheet would take for a formula is shown as a text.
                texts = [f"'{text}" if text[:1] in "=+-@" else text for text in (item.prompt, answer)]
                writer.writerow([sheet.name, item.id, letter, "", "", *texts])


def _section(number: int, item: Item) -> str:
    answers = "\n".join(
        _answer(item.id, letter, text) for letter, text in zip(LETTERS, item.answers, strict=False)
    )
    return (
        f'<section><h2>{number}</h2><div class="text">{escape(item.prompt)}</div>'
        f'<div class="answers">{answers}</div></section>'
    )


def _answer(item: str, letter: str, text: str) -> str:
    name = escape(f"{item}|{letter}")
    marks = "".join(
        f'<label><input type="radio" name="{name}" value="{mark}">{mark}</label>' for mark in SCALE
    )
    shown = escape(text) if text.strip() else "<i>(empty)</i>"
    return f'<div><h3>{letter}</h3><div class="text">{shown}</div><div class="marks">{marks}</div></div>'


def key_of(sheet: Sheet) -> dict[tuple[str, str], str]:
    """Return the model behind every (item, letter)."""
    return {
        (item.id, letter): model
        for item in sheet.items
        for letter, model in zip(LETTERS, item.models, strict=False)
    }
