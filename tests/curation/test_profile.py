"""The profile says what is there, on one safe page, the same for the same data, and warns where it must."""

import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib import records
from pipeline_lib.core.output import Output
from pipeline_lib.curation.advice import Evidence, advice
from pipeline_lib.curation.deduplicate import DeduplicateConfig, deduplicate
from pipeline_lib.curation.measures import Measures, measure
from pipeline_lib.curation.normalize import NormalizeConfig, normalize
from pipeline_lib.curation.profile import ProfileConfig, profile
from pipeline_lib.curation.scrub import ScrubConfig, scrub
from pipeline_lib.curation.split import SplitConfig, split
from pipeline_lib.kinds import Dataset, Model, Profile
from pipeline_lib.sample_sizes import conversations_needed
from pipeline_lib.training.base_model import BaseModelConfig, base_model
from tests.curation.conftest import Workshop, chat, pair

HOSTILE = '<script>alert("x")</script>'
Made = tuple[tuple[Dataset, ...], Model]


def _rows(count: int) -> list[dict[str, Any]]:
    draw = random.Random(7)

    def sentence(length: int) -> str:
        return " ".join("".join(draw.choices("abdeiklmnorstu", k=5)) for _ in range(length))

    rows = [chat(sentence(8), sentence(draw.randrange(5, 40)), name=f"{i:032x}") for i in range(count)]
    for i in range(3, 10):
        rows[i]["source"] = HOSTILE
    rows[1] = chat("Where do I write to?", "To jane.doe@acme.io, of course.", name="mail")
    rows[2] = {**rows[3], "id": "again"}
    return rows


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    from pipeline_lib.core.store import Store

    shop = Workshop(Store(tmp_path_factory.mktemp("profile") / "store"))
    raw = shop.dataset(_rows(400), shard=90)
    normal = shop.run(normalize, NormalizeConfig(), raw)
    clean = shop.run(scrub, ScrubConfig(), normal)
    unique = shop.run(deduplicate, DeduplicateConfig(), clean)
    final = shop.run(split, SplitConfig(), unique)
    model = shop.store.materialize(base_model.recipe(BaseModelConfig(source="bundled/pydocs-5m"))).artifact
    return (raw, normal, clean, unique, final), model


def _page(made: Made, shop: Workshop, **config: Any) -> Profile:
    return shop.store.materialize(profile.recipe(ProfileConfig(**config), *made), force=True).artifact


def _figures(page: Profile) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(page.file("profile.json").read_text(encoding="utf-8"))
    return read


def test_figures_are_those_of_the_rows_and_of_the_tokenizer(made: Made, workshop: Workshop) -> None:
    from transformers import AutoTokenizer

    curation, model = made
    tokenizer = AutoTokenizer.from_pretrained(model.path)
    rows = list(records.rows(curation[0].shards()))
    answers = sorted(
        len(tokenizer(row["messages"][1]["content"], add_special_tokens=False)["input_ids"]) for row in rows
    )
    found = _figures(_page(made, workshop))
    before, after = found["before"], found["after"]
    assert before["conversations"] == before["sampled"] == len(rows) == 400
    assert before["characters"] == sum(len(m["content"]) for row in rows for m in row["messages"])
    assert before["turns"] == {"2": 400}
    assert before["sources"] == dict(Counter(row["source"] for row in rows))
    assert before["lengths"]["answer"] == {
        "total": sum(answers),
        "median": answers[200],
        "p95": answers[380],
        "p99": answers[396],
        "longest": answers[-1],
    }
    assert after["conversations"] == 399 == sum(found["sizes"].values())


def test_a_sample_estimates_what_all_rows_say_and_does_not_depend_on_shards(
    made: Made, workshop: Workshop, tmp_path: Path
) -> None:
    rows = _rows(3000)

    def words(texts: list[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    def measured(shard: int, sample: int) -> Measures:
        out = Output("profile", tmp_path, tmp_path)
        return measure(out, workshop.dataset(rows, shard), ("kept",), sample, words)

    whole, some = measured(3000, 10_000), measured(3000, 500)
    assert some == measured(70, 500)
    assert whole.sampled == 3000
    assert 400 < some.sampled < 600
    assert some.turns == whole.turns
    assert some.total("answer") == pytest.approx(whole.total("answer"), rel=0.1)
    assert abs((some.quantile("answer", 0.5) or 0) - (whole.quantile("answer", 0.5) or 0)) <= 3


def test_the_page_is_one_file_that_obeys_no_data_and_shows_no_secret(made: Made, workshop: Workshop) -> None:
    page = _page(made, workshop)
    html = page.file("profile.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|url\(|@import|<script|<link|<img", html)
    assert "&lt;script&gt;" in html
    for name in ("profile.html", "profile.md", "profile.json"):
        assert "jane.doe" not in page.file(name).read_text(encoding="utf-8")
    assert "email" in html
    assert "j***" in html
    assert "exact_duplicate" in html
    assert "<script>" not in re.sub(r"\\<", "", page.file("profile.md").read_text(encoding="utf-8"))


def test_the_same_data_give_the_same_bytes(made: Made, workshop: Workshop) -> None:
    assert _page(made, workshop).digest == _page(made, workshop).digest


def test_preference_pairs_are_measured_with_their_preferred_answer(
    workshop: Workshop, tmp_path: Path
) -> None:
    out = Output("profile", tmp_path, tmp_path)
    data = workshop.dataset([pair("Why?", "Because it is so.", "No.", name="a")])
    found = measure(out, data, ("kept",), 100, lambda texts: [len(text) for text in texts])
    assert found.turns == {2: 1}
    assert found.characters == len("Why?Because it is so.")
    assert found.lengths["answer"] == [len("Because it is so.")]


def _said(
    *,
    train: int = 20_000,
    test: int = 1_000,
    knowledge_changes: bool = False,
    before: int = 0,
    left_out: int = 0,
    **after: Any,
) -> str:
    measures = Measures(conversations=train + test, sampled=100, **after)
    sizes = {"train": train, "validation": 0, "test": test}
    raw = Measures(conversations=before or train + test)
    needed = conversations_needed("simple", "medium")
    reasons = {"short_answer": 5, "not_sampled": left_out}
    given = Evidence(raw, measures, sizes, reasons, needed, knowledge_changes)
    return " ".join(one.text for one in advice(given))


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ({}, ""),
        ({"train": 60}, "prompting with examples first"),
        ({"train": 600}, "compare with a prompted base model"),
        ({"test": 96}, "unsure by ±10 points"),
        ({"test": 0}, "nothing is measured"),
        ({"answers": Counter({"yes": 60, "no": 40})}, "choice among labels"),
        ({"dated": 31}, "Retrieval"),
        ({"knowledge_changes": True}, "Retrieval"),
        ({"before": 200_000}, "short_answer"),
        ({"before": 200_000, "left_out": 150_000}, ""),
    ],
)
def test_advice_names_what_would_serve_better(case: dict[str, Any], words: str) -> None:
    said = _said(**case)
    assert words in said
    assert bool(said) == bool(words)
