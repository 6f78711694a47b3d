"""Training and merging: real child processes on a model of a few thousand weights."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.errors import DataError, StageError
from pipeline_lib.core.output import Output
from pipeline_lib.core.stage import stage
from pipeline_lib.core.store import Store
from pipeline_lib.kinds import Adapter, Model, Tokens, Trained
from pipeline_lib.training.merge import MergeConfig, merge
from pipeline_lib.training.train import LoraConfig, TrainConfig, train
from tests.evaluation.tiny_model import tiny_model

LORA = LoraConfig(rank=4, alpha=8, dropout=0.0, target_modules=("q_proj", "v_proj", "down_proj"))
QUICK = TrainConfig(
    lora=LORA, learning_rate=3e-2, epochs=4, batch_size=4, logging_steps=1, save_steps=2, precision="fp32"
)


class NoConfig(StageConfig):
    seed: int = 0


@stage(produces=Model, version=1)
def tiny_base(out: Output, config: NoConfig) -> None:
    """A random model of a few thousand weights."""
    tiny_model(out.path)


@stage(produces=Tokens, version=1)
def tiny_tokens(out: Output, config: NoConfig, base: Model) -> None:
    """Twenty-four short sequences whose second half is learnt."""
    from pipeline_lib.training.token_shards import TokenWriter, load_tokenizer

    tokenizer = load_tokenizer(base.path)
    for part, count in (("train", 24), ("validation", 4)):
        with TokenWriter(out.path, part) as writer:
            for i in range(count):
                ids = [5 + (i * 7 + j) % 50 for j in range(6 + i % 5)] + [tokenizer.eos_token_id]
                learn = [j >= len(ids) // 2 for j in range(len(ids))]
                writer.keep(f"{part}-{i}", ids, learn, stops=True, truncated=False)
    tokenizer.save_pretrained(out.path / "tokenizer")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def made(store: Store) -> tuple[Model, Tokens]:
    base = store.materialize(tiny_base.recipe(NoConfig())).artifact
    return base, store.materialize(tiny_tokens.recipe(NoConfig(), base)).artifact


def weights(trained: Trained) -> dict[str, list[float]]:
    from safetensors.torch import load_file

    return {
        name: tensor.flatten().tolist()
        for name, tensor in load_file(trained.path / "adapter_model.safetensors").items()
    }


def test_an_adapter_learns_merges_and_leaves_no_pickle_and_no_path(store: Store) -> None:
    base, tokens = made(store)
    adapter = store.materialize(train.recipe(QUICK, tokens, base)).artifact
    assert isinstance(adapter, Adapter)
    history = [
        json.loads(line) for line in (adapter.path / "logs" / "history.jsonl").read_text().splitlines()
    ]
    losses = [point["loss"] for point in history if "loss" in point]
    assert len(losses) == 24
    assert sum(losses[-4:]) < sum(losses[:4])
    assert any("eval_loss" in point for point in history)
    assert not list(adapter.path.glob("*.bin"))
    assert str(store.root) not in (adapter.path / "adapter_config.json").read_text()
    model = store.materialize(merge.recipe(MergeConfig(dtype="float32"), adapter, base)).artifact
    assert model.manifest.kind == "Model"
    assert model.manifest.stats["merged_max_difference"] < 1e-4
    assert_merged_equals_adapter(base, adapter, model)


def assert_merged_equals_adapter(base: Model, adapter: Adapter, model: Model) -> None:
    """Independently of the stage: both answer the same logits in this process."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    ids = torch.tensor([[5, 9, 13, 21, 34]])
    apart = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32), adapter.path
    )
    merged = AutoModelForCausalLM.from_pretrained(model.path)
    with torch.no_grad():
        assert torch.allclose(apart.eval()(ids).logits, merged.eval()(ids).logits, atol=1e-4)


def test_a_killed_trainer_resumes_to_the_same_bits(store: Store, tmp_path: Path) -> None:
    base, tokens = made(store)
    whole = store.materialize(train.recipe(QUICK, tokens, base)).artifact
    other = Store(tmp_path / "other")
    base, tokens = made(other)
    slow = train.recipe(QUICK, tokens, base)
    killer = threading.Thread(target=kill_after_a_checkpoint, args=(other.root,))
    killer.start()
    with pytest.raises(StageError, match=r"killed by signal|exit code"):
        other.materialize(slow)
    killer.join()
    assert not list(other.root.glob("train/*"))
    resumed = other.materialize(slow).artifact
    assert weights(resumed) == weights(whole)
    curves = [
        [
            json.loads(line)["loss"]
            for line in (t.path / "logs" / "history.jsonl").read_text().splitlines()
            if "learning_rate" in line
        ]
        for t in (whole, resumed)
    ]
    assert curves[0] == curves[1]


def kill_after_a_checkpoint(root: Path) -> None:
    """Kill the trainer itself (not its launcher) as soon as a whole checkpoint stands."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(root.glob(".work/train-*/checkpoints/checkpoint-*/whole")):
        time.sleep(0.005)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if (
            b"pipeline_lib.training.worker" in command
            and b"accelerate.commands.launch" not in command
            and any(str(root).encode() in part for part in command)
        ):
            os.kill(int(process.name), signal.SIGKILL)


def test_a_target_module_that_does_not_exist_is_a_clear_error(store: Store) -> None:
    base, tokens = made(store)
    config = QUICK.model_copy(update={"lora": LORA.model_copy(update={"target_modules": ("nothing_proj",)})})
    with pytest.raises(DataError, match=r"nothing_proj.*q_proj"):
        store.materialize(train.recipe(config, tokens, base))
