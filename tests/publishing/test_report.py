"""The report is one safe, self-contained file that says the same for the same inputs."""

import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib.kinds import Tokens
from pipeline_lib.pages.charts import Series, curves, histogram, ticks
from pipeline_lib.pages.funnel import funnel
from pipeline_lib.pages.rendering import figure, markdown_text
from pipeline_lib.publishing.answers import sample_answers, spread
from pipeline_lib.publishing.audited import mask_audit
from pipeline_lib.publishing.report import ReportConfig, counts, report, token_lengths
from pipeline_lib.publishing.scores import score_rows
from tests.publishing.small_pipeline import EvaluateConfig, evaluate


class Page(HTMLParser):
    """Collects the tags, the links and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [
            value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")
        ]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page(pipeline) -> Page:
    return Page(pipeline["report"].file("report.html").read_text(encoding="utf-8"))


def test_the_page_asks_for_nothing_from_outside(page, pipeline):
    html = pipeline["report"].file("report.html").read_text(encoding="utf-8")
    assert page.links == []
    assert not re.search(r"https?://|url\(|@import", html)


def test_markup_in_the_data_is_shown_and_not_obeyed(page):
    assert "script" not in page.tags
    assert page.text.count('<script>alert("x")</script>') >= 12


def test_markup_in_the_data_is_plain_text_in_the_short_form(pipeline):
    text = pipeline["report"].file("report.md").read_text(encoding="utf-8")
    assert not re.search(r"(?<!\\)<script>", text)
    assert all(
        len(re.findall(r"(?<!\\)\|", line)) in (6, 7) for line in text.splitlines() if line.startswith("|")
    )


def test_the_same_inputs_give_the_same_bytes(pipeline, tmp_path: Path):
    inputs = ("tokens", "adapter", "base", "tuned", "verdict")
    recipe = report.recipe(
        ReportConfig(), (pipeline["ingest"], pipeline["split"]), *(pipeline[name] for name in inputs)
    )
    assert pipeline.store.materialize(recipe, force=True).artifact.digest == pipeline["report"].digest


def test_every_conversation_of_the_funnel_is_accounted_for(pipeline):
    rows = funnel(counts((pipeline["ingest"], pipeline["split"]), pipeline["tokens"]))
    assert [row.stage for row in rows] == ["ingest", "split", "tokenize train", "tokenize validation"]
    assert all(row.read == row.kept + row.dropped for row in rows)
    assert all(row.dropped == sum(count for _, count, _ in row.reasons) for row in rows)


def test_every_section_and_stage_is_on_the_page(page):
    for words in (
        "Scores",
        "Verdict",
        "Data",
        "Training",
        "Answers",
        "Lineage",
        "evaluate.2",
        "gate",
        "12.07",
        "−19.55",
        "&< 0.001"[1:],
    ):
        assert words in page.text


def test_a_rule_stands_with_what_was_measured_and_what_was_asked_of_it(page):
    assert "perplexity, less the base model's" in page.text
    assert "below 0 with p below 0.05" in page.text
    assert "Threshold" not in page.text


def test_token_lengths_are_those_of_the_shards(pipeline):
    assert token_lengths(pipeline["tokens"], "train") == [10 + 7 * i for i in range(20)]


def test_samples_go_from_the_best_to_the_worst_answer(pipeline):
    samples = sample_answers(pipeline["tuned"], pipeline["base"], 5)
    losses = [sample.loss for sample in samples]
    assert losses == sorted(losses)
    assert (losses[0], losses[-1]) == (0.0, 13.0)
    assert all(
        sample.base.startswith("base answer") and sample.tuned.startswith("tuned answer")
        for sample in samples
    )


def test_a_champion_stands_beside_base_and_tuned_in_scores_answers_and_lineage(pipeline):
    champion = pipeline.build(evaluate, EvaluateConfig(tuned=True, shift=1.5), pipeline["split"])
    samples = sample_answers(pipeline["tuned"], pipeline["base"], 5, champion)
    assert all(sample.champion.startswith("tuned answer") for sample in samples)
    inputs = (pipeline[name] for name in ("tokens", "adapter", "base", "tuned", "verdict"))
    written = pipeline.build(
        report, ReportConfig(), (pipeline["ingest"], pipeline["split"]), *inputs, None, None, champion
    )
    html = written.file("report.html").read_text(encoding="utf-8")
    assert html.count("<h3>Champion</h3>") == html.count("<h3>Tuned</h3>") == 12
    assert champion.fingerprint in html
    assert figure(champion.scores()["scores"]["perplexity"]["value"]) in Page(html).text
    table = [
        line for line in written.file("report.md").read_text(encoding="utf-8").splitlines() if "ROUGE" in line
    ]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {9}


@given(st.integers(0, 500), st.integers(0, 40))
def test_samples_are_distinct_and_within_the_split(length: int, count: int):
    chosen = spread(length, count)
    assert len(chosen) == len(set(chosen)) == min(length, count)
    assert all(0 <= i < length for i in chosen)


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_enclose_the_data(low: float, span: float):
    marks = ticks(low, low + span)
    # A span of a few units in the last place has no finer numbers to enclose it.
    slack = (marks[1] - marks[0]) * 1e-6 + math.ulp(max(abs(low), abs(low + span)))
    assert marks[0] <= low + slack
    assert marks[-1] >= low + span - slack
    assert 2 <= len(marks) <= 8


def test_a_flat_curve_and_one_point_are_drawn():
    assert curves([Series("train", [(1, 2.0), (2, 2.0)])], "step", "loss")
    assert curves([Series("train", [(1, 0.0)])], "step", "loss")


def test_nothing_to_draw_draws_nothing():
    assert not curves([Series("train", [(1, float("nan"))])], "step", "loss")
    assert not histogram([("train", [])], "tokens", "share")


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=200))
def test_a_histogram_holds_every_value(values: list[int]):
    from pipeline_lib.pages.charts import _shares

    assert sum(_shares(values, 7, 30)) == pytest.approx(100)


def test_a_difference_counts_only_where_its_interval_leaves_zero_out():
    def outcome(metric: str, low: float, high: float) -> str:
        compared = {
            metric: {"difference": {"value": (low + high) / 2, "low": low, "high": high, "p_value": 0.5}}
        }
        return score_rows(None, {"scores": {metric: {"value": 1.0}}}, compared)[0].outcome

    assert outcome("perplexity", -2, -1) == "better"
    assert outcome("perplexity", 1, 2) == "worse"
    assert outcome("rougeL", 0.1, 0.2) == "better"
    assert outcome("rougeL", -0.1, 0.2) == ""
    assert outcome("answer_words", 1, 2) == ""


def test_figures_that_are_not_there_are_a_dash():
    assert [figure(v) for v in (None, float("nan"), 0.12345, 12.5, 123.45, 12345.6, 7)] == [
        "–",
        "–",
        "0.123",
        "12.50",
        "123.5",
        "12,346",
        "7",
    ]


@given(st.text())
def test_markdown_text_holds_no_markup_and_no_line_break(text: str):
    safe = markdown_text(text)
    assert "\n" not in safe
    assert not re.search(r"(?<!\\)(?:\\\\)*[`*_\[\]<>|#]", safe)


def test_the_page_of_loss_masks_is_named_where_tokenize_left_one(tmp_path: Path):
    tokens = Tokens(tmp_path / "tokenize" / "f00d", "digest")
    tokens.path.mkdir(parents=True)
    assert mask_audit(tokens) is None
    (tokens.path / "audit.html").write_text("page")
    assert mask_audit(tokens) == "tokenize/f00d/audit.html"
