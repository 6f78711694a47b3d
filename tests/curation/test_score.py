"""Perplexity and IFD are those of the plainest loop, and stand where the filter reads them."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from pipeline_lib import chat as rendering
from pipeline_lib import records
from pipeline_lib.core.store import Store
from pipeline_lib.curation.filter import FilterConfig, filter
from pipeline_lib.curation.model_worker import Loaded, likelihoods
from pipeline_lib.curation.score import ScoreConfig, _with_scores, score, scores_of
from pipeline_lib.kinds import Model
from pipeline_lib.training.base_model import BaseModelConfig, base_model
from tests.curation.conftest import Row, Workshop, chat, found, message, pair, reasons, text
from tests.evaluation.tiny_model import tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")
POSITIONS = 160
ROWS = [
    chat("What is 2 + 2?", "4, of course.", name="one"),
    chat("Hi", "Hello", "Bye", "See you soon", name="two", system="Be brief."),
    text("A plain text of some words.", "text"),
    pair("Which?", "this one", "that", "pair"),
    chat("Say much", "much " * 60, name="long"),
    {**chat("Nobody answers", name="unanswered")},
    {
        "id": "tools",
        "messages": [message("user", "Time?"), message("assistant", "", tool_calls='[{"f": 1}]')],
    },
]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory = tiny_model(tmp_path_factory.mktemp("m"), POSITIONS)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    return Loaded(model, AutoTokenizer.from_pretrained(directory), ScoreConfig().model_dump(mode="json"))


def mean_loss(loaded: Loaded, conversations: list[list[Row]]) -> float:
    """Return the mean loss of all answers, one conversation at a time, with all logits."""
    losses: list[float] = []
    for messages in conversations:
        (encoded,) = rendering.encode(loaded.tokenizer, [rendering.pieces(loaded.tokenizer, messages)])
        with torch.no_grad():
            logits = loaded.model(input_ids=torch.tensor([encoded.ids])).logits[0].double()
        chances = torch.log_softmax(logits, dim=-1)
        learnt = [i for i in range(1, len(encoded.ids)) if encoded.mask[i]]
        losses += [-float(chances[i - 1, encoded.ids[i]]) for i in learnt]
    return sum(losses) / len(losses)


def scored(loaded: Loaded, rows: list[Row]) -> dict[str, tuple[float, float]]:
    columns = likelihoods(loaded, records.from_rows(rows))
    scores = scores_of(columns["nll"], columns["tokens"]).tolist()
    return {row["id"]: (perplexity, ifd) for row, (perplexity, ifd) in zip(rows, scores, strict=True)}


def test_scores_are_those_of_one_conversation_at_a_time(loaded: Loaded) -> None:
    measured = scored(loaded, ROWS)
    for row in (ROWS[0], ROWS[1], ROWS[3]):
        said = [*row["messages"], *(row.get("chosen") or ())]
        answers = [one for one in said if one["role"] == "assistant"]
        given = mean_loss(loaded, [said])
        alone = mean_loss(loaded, [[records.message("user", ""), answer] for answer in answers])
        assert measured[row["id"]] == pytest.approx((math.exp(given), given / alone), rel=1e-4)


def test_a_plain_text_has_a_perplexity_and_no_difficulty(loaded: Loaded) -> None:
    perplexity, ifd = scored(loaded, ROWS)["text"]
    ids = loaded.tokenizer(ROWS[2]["messages"][0]["content"], add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        chances = torch.log_softmax(loaded.model(input_ids=torch.tensor([ids])).logits[0].double(), dim=-1)
    loss = -sum(float(chances[i - 1, ids[i]]) for i in range(1, len(ids))) / (len(ids) - 1)
    assert perplexity == pytest.approx(math.exp(loss), rel=1e-4)
    assert math.isnan(ifd)


def test_what_is_too_long_or_has_no_answer_gets_no_score(loaded: Loaded) -> None:
    measured = scored(loaded, ROWS)
    assert {name for name, scores in measured.items() if math.isnan(scores[0])} >= {"long", "unanswered"}
    short = Loaded(loaded.model, loaded.tokenizer, {**loaded.config, "max_tokens": 16})
    assert all(math.isnan(scores[0]) for name, scores in scored(short, ROWS).items() if name != "text")


def test_a_conversation_scores_the_same_in_any_company(loaded: Loaded) -> None:
    together, alone = scored(loaded, ROWS), {}
    for row in ROWS:
        alone |= scored(loaded, [row])
    for name, scores in together.items():
        assert alone[name] == pytest.approx(scores, rel=1e-5, nan_ok=True)


def test_scores_stand_in_the_metadata_beside_what_was_there() -> None:
    rows = [
        chat("a", "b", name="1", metadata='{"line": 7, "ifd": "their own"}'),
        chat("c", "d", name="2", metadata='{"line": 8}'),
    ]
    made = _with_scores(records.from_rows(rows), np.array([[12.3456789, 0.9], [np.nan, np.nan]])).to_pylist()
    assert json.loads(made[0]["metadata"]) == {
        "line": 7,
        "column.ifd": "their own",
        "perplexity": 12.346,
        "ifd": 0.9,
    }
    assert json.loads(made[1]["metadata"]) == {"line": 8}


def test_the_filter_drops_by_the_bounds_of_a_score(workshop: Workshop) -> None:
    rows = [
        chat("a", "b", name="low", metadata='{"ifd": 0.2}'),
        chat("a", "b", name="good", metadata='{"ifd": "0.7"}'),
        chat("a", "b", name="high", metadata='{"ifd": 1.2}'),
        chat("a", "b", name="none", metadata='{"ifd": null}'),
    ]
    config = FilterConfig.model_validate({"scores": {"ifd": {"min": 0.5, "max": 1}}})
    made = workshop.run(filter, config, rows)
    assert reasons(made) == {"low": "poor_score", "high": "poor_score", "none": "no_score"}
    assert {row["detail"] for row in found(made, "dropped")} == {
        "ifd 0.2 < 0.5",
        "ifd 1.2 > 1",
        "no number ifd",
    }
    with pytest.raises(ValidationError, match="a min, a max or both"):
        FilterConfig.model_validate({"scores": {"ifd": {}}})


@pytest.mark.slow
def test_the_stage_scores_in_a_child_and_only_what_is_new(tmp_path: Path, workshop: Workshop) -> None:
    model = stored(workshop.store, tiny_model(tmp_path / "model", POSITIONS))
    config = ScoreConfig(precision="fp32")
    first = workshop.store.materialize(score.recipe(config, workshop.dataset(ROWS), model)).artifact
    known = {row["id"]: json.loads(row["metadata"] or "{}") for row in found(first)}
    assert first.manifest.stats["scored"] == {"perplexity": 5, "ifd": 4}
    assert set(known["one"]) == {"perplexity", "ifd"}
    assert known["long"] == known["unanswered"] == {}
    (kept,) = (workshop.store.root / ".blocks").rglob("*.npz")
    before = kept.stat().st_mtime_ns
    ends = [{**row, "id": f"00{place}{row['id']}"} for place, row in enumerate(ROWS[:1])]
    more = workshop.store.materialize(score.recipe(config, workshop.dataset([*ROWS, *ends]), model)).artifact
    assert {row["id"]: json.loads(row["metadata"] or "{}") for row in found(more)} | known == {
        **known,
        "000one": known["one"],
    }
    assert kept.stat().st_mtime_ns == before


def stored(store: Store, directory: Path) -> Model:
    """Return a model's directory as an artifact."""
    return store.materialize(base_model.recipe(BaseModelConfig(source=str(directory)))).artifact
