"""The bundled base model: small, loadable, and ignorant of what the quickstart is tested on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline_lib.config import load
from pipeline_lib.core.plan import Use, running
from pipeline_lib.core.stage import Recipe
from pipeline_lib.core.store import Store
from pipeline_lib.kinds import Dataset
from pipeline_lib.training.base_model import BUNDLED, BaseModelConfig, local_directory

ROOT = Path(__file__).resolve().parents[2]
LIMIT_BYTES = 12_000_000


class Builder:
    """Materializes without Prefect."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def step(self, use: Use, recipe: Recipe[Dataset]) -> Dataset:
        return self.store.materialize(recipe).artifact


def test_it_is_small_and_loads_with_its_template_and_card() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory = local_directory(BaseModelConfig.model_validate("bundled/pydocs-5m"))
    assert directory == BUNDLED / "pydocs-5m"
    assert sum(path.stat().st_size for path in directory.iterdir()) < LIMIT_BYTES
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(directory),
        AutoTokenizer.from_pretrained(directory),
    )
    assert str(model.dtype) == "torch.bfloat16"
    assert len(tokenizer) == model.config.vocab_size
    assert tokenizer.chat_template
    assert "conf/pretrain.yaml" in (directory / "README.md").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("default")
def test_what_it_was_made_from_holds_no_conversation_of_the_quickstarts_test_split(tmp_path: Path) -> None:
    from flows.curate import curate

    names = {}
    for name in ("quickstart", "pretrain"):
        with running(Builder(Store(tmp_path / "store"))):
            dataset = curate(load(ROOT / "conf" / f"{name}.yaml"))[-1]
        names[name] = {part: names_of(dataset, part) for part in ("train", "validation", "test")}
    tested = names["quickstart"]["test"]
    assert len(tested) > 500
    assert not tested & (names["pretrain"]["train"] | names["pretrain"]["validation"])


def names_of(dataset: Dataset, part: str) -> set[str]:
    from pipeline_lib import records

    return {json.loads(row["metadata"])["name"] for row in records.rows(dataset.shards(part))}
