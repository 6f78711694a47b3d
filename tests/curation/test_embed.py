"""What means the same is found as by brute force, and joins the clusters that words make."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline_lib import records
from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.errors import DataError
from pipeline_lib.core.output import Output
from pipeline_lib.core.stage import stage
from pipeline_lib.core.store import Store
from pipeline_lib.curation import alike_worker
from pipeline_lib.curation.deduplicate import DeduplicateConfig, deduplicate
from pipeline_lib.curation.embed import EmbedConfig, embed
from pipeline_lib.curation.model_worker import Loaded, embeddings
from pipeline_lib.kinds import Dataset, Likeness, Model
from pipeline_lib.training.base_model import BUNDLED, BaseModelConfig, base_model
from tests.curation.conftest import Row, Workshop, chat, found, message, pair
from tests.curation.test_deduplicate import WORDS

Vectors = npt.NDArray[np.float16]


def vectors(count: int, size: int, seed: int) -> Vectors:
    """Return directions of which many lie close to earlier ones, and some are nothing."""
    draw = np.random.default_rng(seed)
    made = draw.normal(size=(count, size))
    for place in range(1, count):
        if draw.random() < 0.4:
            made[place] = made[draw.integers(place)] + draw.normal(size=size) * draw.choice([0.02, 0.2, 0.4])
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    made[:: count // 3] = 0
    return made.astype(np.float16)


def components(given: Vectors, threshold: float) -> list[int]:
    """Return for each row the first of its component, by comparing all pairs."""
    exact = given.astype(np.float64)
    lengths = np.linalg.norm(exact, axis=1)
    lengths[lengths == 0] = 1
    products = np.round(exact @ exact.T / np.outer(lengths, lengths), alike_worker.DIGITS)
    roots = list(range(len(given)))
    for one, two in zip(*np.nonzero(np.triu(products >= threshold, 1)), strict=True):
        low, high = sorted((roots[one], roots[two]))
        roots = [low if root == high else root for root in roots]
    return roots


@pytest.mark.parametrize("side", [16, 64, 1000])
@pytest.mark.parametrize("threshold", [0.9, 0.97])
def test_the_groups_are_those_of_all_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int, threshold: float
) -> None:
    monkeypatch.setattr(alike_worker, "SIDE", side)
    given = vectors(150, 24, seed=side)
    np.save(tmp_path / "v.npy", given)
    spec = {
        "embeddings": str(tmp_path / "v.npy"),
        "threshold": threshold,
        "device": "cpu",
        "pairs": str(tmp_path / "pairs.parquet"),
        "stats": str(tmp_path / "stats.json"),
    }
    told: list[Any] = []
    alike_worker.work(spec, lambda **event: told.append(event))
    pairs = pq.read_table(tmp_path / "pairs.parquet").to_pylist()
    expected, roots = components(given, threshold), list(range(len(given)))
    for one in pairs:
        assert one["cosine"] >= threshold
        low, high = sorted((roots[one["left"]], roots[one["right"]]))
        assert low != high
        roots = [low if root == high else root for root in roots]
    assert roots == expected
    groups = {root for place, root in enumerate(expected) if root != place}
    assert len(groups) > 5
    assert json.loads((tmp_path / "stats.json").read_text()) == {
        "alike": sum(root in groups for root in expected),
        "groups": len(groups),
    }
    assert told[-1] == {"done": 150, "total": 150}


def test_an_embedding_is_the_mean_of_the_last_hidden_states() -> None:
    from transformers import AutoModel, AutoTokenizer

    directory = BUNDLED / "pydocs-5m"
    model = AutoModel.from_pretrained(directory, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    loaded = Loaded(model, tokenizer, {"compare": "answer", "max_tokens": 24})
    rows = [
        chat("Which?", "Return the list of names.", name="1"),
        chat("Which?", "word " * 100, name="2"),
        {"id": "3", "messages": [message("user", "Nobody answers.")]},
        pair("Which?", "the first", "the second", "4"),
    ]
    made = embeddings(loaded, records.from_rows(rows))["embeddings"]
    for place, written in (
        (0, "Return the list of names."),
        (1, "word " * 100),
        (3, "the first\n\nthe second"),
    ):
        ids = tokenizer(written)["input_ids"][:24]
        with torch.no_grad():
            states = model(input_ids=torch.tensor([ids])).last_hidden_state[0].double()
        mean = states.mean(0)
        np.testing.assert_allclose(made[place], (mean / mean.norm()).numpy(), atol=2e-3)
    assert not made[2].any()


class PairsConfig(StageConfig):
    """Pairs as JSON, and of how many conversations."""

    pairs: str
    of: int


@stage(produces=Likeness, version=1)
def pairs_given(out: Output, config: PairsConfig) -> None:
    """The pairs."""
    left, right, cosine = zip(*json.loads(config.pairs), strict=True)
    pq.write_table(pa.table({"left": left, "right": right, "cosine": cosine}), out.path / "pairs.parquet")
    out.stats = {"conversations": config.of}


def unlike(name: str, seed: int) -> Row:
    """Return a conversation that shares no word with one of another seed."""
    return chat(
        " ".join(WORDS[seed * 30 : seed * 30 + 10]),
        " ".join(WORDS[seed * 30 + 10 : seed * 30 + 30]),
        name=name,
    )


ROWS = [
    unlike("a", 0),
    unlike("b", 1),
    {**unlike("a2", 0), "metadata": '{"rating": 3}'},
    unlike("c", 2),
    unlike("d", 3),
]


def deduplicated(shop: Workshop, pairs: list[tuple[int, int, float]], of: int, **values: Any) -> Dataset:
    given = shop.store.materialize(pairs_given.recipe(PairsConfig(pairs=json.dumps(pairs), of=of))).artifact
    recipe = deduplicate.recipe(DeduplicateConfig(**values), shop.dataset(ROWS), given)
    return shop.store.materialize(recipe).artifact


def test_pairs_that_mean_the_same_join_the_clusters_of_words(workshop: Workshop) -> None:
    made = deduplicated(workshop, [(2, 3, 0.97), (1, 4, 0.96)], 5)
    assert [row["id"] for row in found(made)] == ["a", "b"]
    details = {row["id"]: (row["reason"], row["detail"]) for row in found(made, "dropped")}
    assert details == {
        "a2": ("exact_duplicate", "follows a"),
        "c": ("semantic_duplicate", "follows a through a2 (cosine 0.970)"),
        "d": ("semantic_duplicate", "follows b (cosine 0.960)"),
    }
    clusters = pq.read_table(made.path / "clusters.parquet").to_pylist()
    assert [row["cluster"] for row in clusters] == ["a", "b", "a", "a", "b"]


def test_the_best_of_what_means_the_same_stays(workshop: Workshop) -> None:
    made = deduplicated(workshop, [(0, 3, 0.97)], 5, keep="best", score="rating")
    assert [row["id"] for row in found(made)] == ["b", "a2", "d"]
    (row,) = (row for row in found(made, "dropped") if row["id"] == "c")
    assert re.fullmatch(r"follows a2 through a \(cosine 0\.970\)", row["detail"])


def test_pairs_of_other_conversations_are_refused(workshop: Workshop) -> None:
    with pytest.raises(DataError, match="compares 4 conversations, there are 5"):
        deduplicated(workshop, [(0, 3, 0.97)], 4)


@pytest.mark.slow
def test_the_stage_finds_in_child_processes_what_says_the_same(tmp_path: Path) -> None:
    shop = Workshop(Store(tmp_path / "store"))
    model: Model = shop.store.materialize(
        base_model.recipe(BaseModelConfig(source="bundled/pydocs-5m"))
    ).artifact
    rows = [
        chat(
            "What does os.getcwd do?", "Return a string representing the current working directory.", name="1"
        ),
        chat("What does json.dumps do?", "Serialize obj to a JSON formatted str.", name="2"),
        chat(
            "What does os.getcwd do",
            "Return a string that represents the current working directory.",
            name="3",
        ),
    ]
    dataset = shop.dataset(rows)
    recipe = embed.recipe(EmbedConfig(threshold=0.9), dataset, model)
    made = shop.store.materialize(recipe).artifact
    assert pq.read_table(made.path / "pairs.parquet").select(["left", "right"]).to_pylist() == [
        {"left": 0, "right": 2}
    ]
    assert made.manifest.stats == {"conversations": 3, "alike": 2, "groups": 1}
    nothing = embed.recipe(EmbedConfig(), shop.dataset([]), model)
    assert shop.store.materialize(nothing).artifact.manifest.stats["conversations"] == 0
