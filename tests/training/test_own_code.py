"""A model that brings its own code runs only where that is wanted, and keeps what is its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline_lib.chat import MARKER_TEMPLATE
from pipeline_lib.core.errors import DataError
from pipeline_lib.core.store import Store
from pipeline_lib.training.base_model import BaseModelConfig, base_model
from tests.evaluation.tiny_model import tiny_model
from tests.training.tiny_training import LIBRARIES_WARN, Place, merge_here, sequences, train_here

CODE = Path(__file__).with_name("wedlm_like.py")
MASK, WINDOW = 7, 8

pytestmark = LIBRARIES_WARN


def with_own_code(directory: Path) -> None:
    """Write a base model with its own modelling file, as a hub gives it."""
    tiny_model(directory)
    shutil.copy(CODE, directory / "modeling_wedlm.py")
    path = directory / "config.json"
    config = json.loads(path.read_text())
    config |= {
        "model_type": "wedlm",
        "architectures": ["WeDLMForCausalLM"],
        "auto_map": {
            "AutoConfig": "modeling_wedlm.WeDLMConfig",
            "AutoModelForCausalLM": "modeling_wedlm.WeDLMForCausalLM",
        },
        "mask_token_id": MASK,
        "wedlm_window_size": WINDOW,
    }
    path.write_text(json.dumps(config))


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Place:
    made = Place(tmp_path_factory.mktemp("wedlm"))
    with_own_code(made.base)
    sequences(made.tokens, made.base)
    return made


def test_code_stays_out_of_the_store_unless_it_is_trusted(where: Place, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with pytest.raises(DataError, match=r"base_model\.trust_remote_code"):
        store.materialize(base_model.recipe(BaseModelConfig(source=str(where.base))))
    trusted = BaseModelConfig(source=str(where.base), trust_remote_code=True)
    assert (store.materialize(base_model.recipe(trusted)).artifact.path / "modeling_wedlm.py").exists()


def test_code_from_a_hub_is_pinned_to_a_commit() -> None:
    with pytest.raises(ValidationError, match=r"pin base_model\.revision"):
        BaseModelConfig(source="owner/model", trust_remote_code=True)
    BaseModelConfig(source="owner/model", trust_remote_code=True, revision="0" * 40)


@pytest.mark.parametrize("values", [{"method": "full", "learning_rate": 3e-3}, {}], ids=["full", "lora"])
def test_mask_token_window_tokenizer_and_code_survive_training_merging_and_saving(
    values: dict[str, Any], where: Place, request: Any
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = train_here(where, request.node.callspec.id, **values)
    merged, stats = merge_here(where, run)
    assert str(where.root) not in (merged / "config.json").read_text()
    loaded = AutoModelForCausalLM.from_pretrained(merged, trust_remote_code=True)
    assert type(loaded).__name__ == "WeDLMForCausalLM"
    assert (loaded.config.mask_token_id, loaded.config.wedlm_window_size) == (MASK, WINDOW)
    base, after = (AutoTokenizer.from_pretrained(path) for path in (where.base, merged))
    assert after.get_vocab() == base.get_vocab()
    assert after.chat_template == base.chat_template
    assert stats.get("merged_max_difference", 0.0) < 1e-3
    ids = torch.tensor([[5, 12, 19, 26, 33, 40, 47, 54]])
    with torch.no_grad():
        assert torch.isfinite(loaded(ids, labels=ids).loss)


def test_the_loss_is_the_models_own(where: Place) -> None:
    """One step over one batch of all sequences: its logged loss is what the model itself says of them."""
    import torch
    from transformers import AutoModelForCausalLM

    run = train_here(where, "own", batch_size=24, max_steps=1, batching="random")
    model = AutoModelForCausalLM.from_pretrained(where.base, trust_remote_code=True, dtype=torch.float32)
    import pyarrow.parquet as pq

    rows = pq.read_table(where.tokens / "train-00000.parquet").to_pylist()
    width = max(len(row["input_ids"]) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full((len(rows), width), -100)
    attention = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        for j, (token, learn) in enumerate(zip(row["input_ids"], row["learn"], strict=True)):
            ids[i, j], attention[i, j] = token, 1
            labels[i, j] = token if learn else -100
    with torch.no_grad():
        expected = model(ids, attention_mask=attention, labels=labels).loss.item()
    assert run.losses[0] == pytest.approx(expected, abs=1e-4)
    # Passes of six sequences: as many tokens each but for a few, and no multiple of the loss.
    passes = {"batch_size": 6, "gradient_accumulation_steps": 4, "max_steps": 1, "batching": "random"}
    assert train_here(where, "passes", **passes).losses[0] == pytest.approx(expected, rel=0.05)


def test_the_merged_model_is_loaded_with_its_code_wherever_it_is_used(where: Place) -> None:
    """By evaluation, chat and export; MLflow gets a reference, since it would load it without."""
    from pipeline_lib.evaluation import loading, talk
    from pipeline_lib.publishing.export import forms

    run = train_here(where, "used", max_steps=2)
    merged, _ = merge_here(where, run)
    spec = {"model": str(merged), "device": "cpu", "config": {"precision": "fp32", "template": None}}
    models = [loading.load_model(spec)[0], talk.load(merged).model, forms.load_model(merged)]
    assert {type(model).__name__ for model in models} == {"WeDLMForCausalLM"}
    assert forms.load_tokenizer(merged).chat_template == MARKER_TEMPLATE
