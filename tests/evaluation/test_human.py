"""People rate answers without knowing whose they are, and what they say is summed up as it should be."""

from __future__ import annotations

import csv
import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline_lib.core.errors import DataError
from pipeline_lib.core.store import Store
from pipeline_lib.evaluation import ratings, sheet, tables
from pipeline_lib.evaluation.human import HumanConfig, human
from pipeline_lib.kinds import Evaluation, Ratings

needs_krippendorff = pytest.mark.skipif(find_spec("krippendorff") is None, reason="needs krippendorff")


def evaluation(directory: Path, who: str, rows: int = 12) -> Evaluation:
    directory.mkdir()
    made = [
        {
            "id": f"c{i}",
            "source": "made",
            "prompt": json.dumps([{"role": "user", "content": f"=Question {i}? <script>"}]),
            "reference": "r",
            "answer": f"{who} says {i} <b>" if i < rows else None,
            "metadata": "{}",
        }
        for i in range(rows + 1)
    ]
    tables.write(
        directory, pa.Table.from_pylist(made, tables.ANSWERS), pa.Table.from_pylist([], tables.EXCLUDED)
    )
    return Evaluation(directory, f"digest of {who}")


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Evaluation]:
    root = tmp_path_factory.mktemp("evaluations")
    return {"base": evaluation(root / "b", "One"), "tuned": evaluation(root / "t", "Two")}


def built(tmp_path: Path, evaluations: dict[str, Evaluation], **config: Any) -> Ratings:
    recipe = human.recipe(HumanConfig(**config), evaluations["base"], evaluations["tuned"])
    return Store(tmp_path / "store").materialize(recipe).artifact


def rated(artifact: Ratings, path: Path, rater: str, mark: Any) -> Path:
    """Fill in the sheet as a person would; ``mark(item, model)`` is the rating."""
    key = json.loads((artifact.path / "key.json").read_text())["items"]
    with (artifact.path / "sheet.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        for row in rows:
            value = mark(row["item"], key[row["item"]][row["answer"]])
            writer.writerow({**row, "rating": value, "rater": rater})
    return path


def test_the_sheet_is_blind_and_the_key_opens_it(tmp_path: Path, evaluations: dict[str, Evaluation]) -> None:
    artifact = built(tmp_path, evaluations, questions=12)
    page = (artifact.path / "sheet.html").read_text()
    assert "base" not in page
    assert "tuned" not in page
    assert "<script>" in page
    assert "Question 3? &lt;script&gt;" in page
    assert not re.search(r"(src|href)=", page.split("<script>")[0])
    key = json.loads((artifact.path / "key.json").read_text())["items"]
    assert {tuple(order.values()) for order in key.values()} == {("base", "tuned"), ("tuned", "base")}
    with (artifact.path / "sheet.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            who = {"base": "One", "tuned": "Two"}[key[row["item"]][row["answer"]]]
            assert row["text"] == f"{who} says {row['item'][1:]} <b>"
            assert row["question"].startswith("'=")
    assert artifact.read() is None


def test_the_same_answers_give_the_same_sheet(tmp_path: Path, evaluations: dict[str, Evaluation]) -> None:
    one, other = (built(tmp_path / name, evaluations, questions=5) for name in "ab")
    assert one.digest == other.digest
    assert built(tmp_path / "c", evaluations, questions=5, seed=7).digest != one.digest


@needs_krippendorff
def test_ratings_become_win_rates_and_agreement(tmp_path: Path, evaluations: dict[str, Evaluation]) -> None:
    blank = built(tmp_path, evaluations, questions=12)
    first = rated(blank, tmp_path / "a.csv", "Ann", lambda item, model: 4 if model == "tuned" else 2)
    second = rated(
        blank,
        tmp_path / "b.csv",
        "Bob",
        lambda item, model: "" if item == "c1" else 5 if model == "tuned" else 2,
    )
    found = built(tmp_path, evaluations, questions=12, ratings=(first, second)).read()
    assert found
    assert (found["raters"], found["ratings"]) == (2, 24 + 22)
    pair = found["pairs"][0]
    assert (pair["model"], pair["against"], pair["win_rate"]["value"]) == ("tuned", "base", 1.0)
    assert found["models"]["base"]["value"] == 2
    assert 0.5 < found["alpha"] < 1
    import krippendorff
    import numpy as np

    table = np.array([[4.0, 2] * 11, [5, 2] * 11])
    assert found["alpha"] == pytest.approx(
        krippendorff.alpha(table, level_of_measurement="ordinal", value_domain=[1, 2, 3, 4, 5])
    )


@needs_krippendorff
@pytest.mark.parametrize("raters", [1, 2])
def test_agreement_is_not_defined_for_one_person_or_for_ratings_all_alike(
    tmp_path: Path, evaluations: dict[str, Evaluation], raters: int
) -> None:
    blank = built(tmp_path, evaluations, questions=3)
    files = tuple(rated(blank, tmp_path / f"{i}.csv", f"P{i}", lambda *_: 3) for i in range(raters))
    found = built(tmp_path, evaluations, questions=3, ratings=files).read()
    assert found
    assert found["alpha"] is None
    assert found["pairs"][0]["win_rate"]["value"] == 0.5


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{sheet},c1,A,9,Ann", "rating '9'"),
        ("{sheet},c1,Z,3,Ann", "no answer 'Z'"),
        ("other,c1,A,3,Ann", "rating of sheet other"),
        ("{sheet},c1,A,3,Ann\n{sheet},c1,A,4,Ann", "twice"),
        ("{sheet},c1,A,,Ann", "no rating"),
    ],
)
def test_ratings_that_do_not_fit_are_named(
    tmp_path: Path, evaluations: dict[str, Evaluation], line: str, message: str
) -> None:
    made = sheet.make(evaluations, 12, 42)
    path = tmp_path / "r.csv"
    path.write_text("sheet,item,answer,rating,rater\n" + line.format(sheet=made.name) + "\n")
    with pytest.raises(DataError, match=message):
        ratings.read([path], made)


def test_a_missing_file_of_ratings_stops_before_anything_is_built(
    tmp_path: Path, evaluations: dict[str, Evaluation]
) -> None:
    with pytest.raises(DataError, match="gone"):
        built(tmp_path, evaluations, ratings=(tmp_path / "gone.csv",))
