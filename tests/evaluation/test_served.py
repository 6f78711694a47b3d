"""An endpoint's answers stand in for the local model's: the same ones, asked for once, of the right model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import pipeline_lib
from pipeline_lib import completions, records
from pipeline_lib.core.errors import ConfigError, DataError, ServiceError
from pipeline_lib.core.store import Store
from pipeline_lib.evaluation.evaluate import EndpointConfig, EvaluateConfig, evaluate
from pipeline_lib.evaluation.worker import work
from pipeline_lib.kinds import Dataset, Model
from pipeline_lib.settings import settings
from tests.evaluation.served_model import Served, serving

BUNDLED = Path(pipeline_lib.__file__).parent / "bundled" / "pydocs-5m"
QUESTIONS = (
    "What does open do?",
    "What is a dict?",
    "Name a loop.",
    "What does len return?",
    "What is None?",
)
pytestmark = pytest.mark.usefixtures("one_thread")
KEY = "a-key-of-the-evaluation"


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep the replies out of the project."""
    monkeypatch.setenv("FINETUNE_STORE", str(tmp_path / "state" / "store"))
    monkeypatch.setattr(completions, "FIRST_WAIT", 0.02)
    settings.cache_clear()
    yield
    monkeypatch.undo()
    settings.cache_clear()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    directory = tmp_path_factory.mktemp("data")
    asked = ([records.message("user", q), records.message("assistant", "It is so.")] for q in QUESTIONS)
    rows = [{"id": f"c{i}", "source": "made", "messages": messages} for i, messages in enumerate(asked)]
    with records.DatasetWriter(directory, parts=("train", "validation", "test")) as writer:
        writer.write("test", records.from_rows(rows))
    return Dataset(directory, "digest of the data")


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving({"tuned": BUNDLED, "other": _other(tmp_path_factory.mktemp("m")), "mute": ""}) as state:
        yield state


def _other(directory: Path) -> Path:
    """The bundled model with other weights."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(BUNDLED)).save_pretrained(directory)
    AutoTokenizer.from_pretrained(BUNDLED).save_pretrained(directory)
    return directory


def point(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("FINETUNE_EVALUATE_ENDPOINT_URL", url)
    monkeypatch.setenv("FINETUNE_EVALUATE_ENDPOINT_KEY", KEY)
    settings.cache_clear()


def measured(dataset: Dataset, directory: Path, served: str | None, **more: Any) -> dict[str, Any]:
    endpoint = EndpointConfig(model=served) if served else None
    config = EvaluateConfig(max_new_tokens=12, precision="fp32", endpoint=endpoint, **more)
    directory.mkdir(exist_ok=True)
    spec = {
        "config": config.model_dump(mode="json"),
        "replies": str(directory / "replies"),
        "shards": [str(shard) for shard in dataset.shards("test")],
        "model": str(BUNDLED),
        "work": str(directory),
        "device": "cpu",
    }
    work(spec, lambda **_: None)
    part: dict[str, Any] = json.loads((directory / "part-0.json").read_text())
    return part


@pytest.mark.slow
def test_greedy_answers_of_the_endpoint_are_the_local_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: Dataset, endpoint: Served
) -> None:
    point(monkeypatch, endpoint.url)
    here, there = measured(dataset, tmp_path / "a", None), measured(dataset, tmp_path / "b", "tuned")
    for ours, theirs in zip(here["rows"], there["rows"], strict=True):
        assert theirs == pytest.approx(ours)
    assert len({row["answer"] for row in there["rows"]}) > 1
    assert there["endpoint"]["agreement"] > 0.9
    assert there["endpoint"]["compared_tokens"] > 20
    assert endpoint.keys == {f"Bearer {KEY}"}
    before = len(endpoint.asked)
    assert measured(dataset, tmp_path / "b", "tuned")["rows"] == there["rows"]
    assert len(endpoint.asked) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("served", "error", "said"),
    [
        ("nobody", ConfigError, r"404 .*`nobody` does not exist.*check evaluate\.endpoint"),
        ("other", DataError, r"'other' is not the model in .*serve these weights"),
        ("mute", DataError, r"all 5 answers of 'mute' are empty"),
    ],
)
def test_a_wrong_name_wrong_weights_and_silence_are_one_line_each_and_nothing_is_kept(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dataset: Dataset,
    endpoint: Served,
    served: str,
    error: type[Exception],
    said: str,
) -> None:
    point(monkeypatch, endpoint.url)
    with pytest.raises(error, match=said):
        measured(dataset, tmp_path, served)
    assert not list(tmp_path.glob("replies/*.json"))


def test_an_endpoint_that_is_away_or_not_named_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: Dataset
) -> None:
    with pytest.raises(ConfigError, match=r"evaluate\.endpoint needs .*FINETUNE_ENDPOINT_URL"):
        measured(dataset, tmp_path, "tuned")
    point(monkeypatch, "http://127.0.0.1:9/v1")
    with pytest.raises(ServiceError, match=r"no reply after \d+ tries"):
        measured(dataset, tmp_path, "tuned")


def test_each_model_of_a_run_has_its_own_name_alone() -> None:
    config = EvaluateConfig(endpoint=EndpointConfig(model="new", champion="old", agreement=0.5))
    assert config.of("champion").endpoint == EndpointConfig(model="old", agreement=0.5)
    assert config.of("base") == EvaluateConfig()
    assert EvaluateConfig().of("model") == EvaluateConfig()


@pytest.mark.slow
def test_neither_address_nor_key_is_written_into_the_artifact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: Dataset, endpoint: Served
) -> None:
    point(monkeypatch, endpoint.url)
    config = EvaluateConfig(
        max_conversations=3, max_new_tokens=8, precision="fp32", endpoint=EndpointConfig(model="tuned")
    )
    store = Store(tmp_path / "state" / "store")
    found = store.materialize(evaluate.recipe(config, dataset, Model(BUNDLED, "digest"))).artifact
    assert found.scores()["endpoint"]["agreement"] > 0.9
    texts = [path.read_bytes() for path in (tmp_path / "state").rglob("*") if path.is_file()]
    assert len(texts) > 5
    assert not [text for text in texts if KEY.encode() in text or endpoint.url.encode() in text]
