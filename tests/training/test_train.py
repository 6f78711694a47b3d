"""Training and merging: real child processes on a model of a few thousand weights."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from pipeline_lib import settings
from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.errors import ConfigError, StageError
from pipeline_lib.core.output import Output
from pipeline_lib.core.stage import stage
from pipeline_lib.core.store import Store
from pipeline_lib.kinds import Adapter, Model, Tokens, Trained
from pipeline_lib.training.merge import MergeConfig, merge
from pipeline_lib.training.train import TrainConfig, train
from tests.evaluation.tiny_model import tiny_model
from tests.training.tiny_training import QUICK, sequences

CONFIG = TrainConfig.model_validate({**QUICK, "epochs": 4})


class NoConfig(StageConfig):
    seed: int = 0


@stage(produces=Model, version=1)
def tiny_base(out: Output, config: NoConfig) -> None:
    """A random model of a few thousand weights."""
    tiny_model(out.path)


@stage(produces=Tokens, version=1)
def tiny_tokens(out: Output, config: NoConfig, base: Model) -> None:
    """Twenty-four short sequences whose second half is learnt."""
    for path in sequences(out.path / "made", base.path).iterdir():
        path.rename(out.path / path.name)
    (out.path / "made").rmdir()


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


def losses(trained: Trained) -> list[float]:
    lines = (trained.path / "logs" / "history.jsonl").read_text().splitlines()
    return [point["loss"] for point in map(json.loads, lines) if "loss" in point]


def test_an_adapter_learns_merges_and_leaves_no_pickle_and_no_path(store: Store) -> None:
    base, tokens = made(store)
    adapter = store.materialize(train.recipe(CONFIG, tokens, base)).artifact
    assert isinstance(adapter, Adapter)
    curve = losses(adapter)
    assert len(curve) == 24
    assert sum(curve[-4:]) < sum(curve[:4])
    assert adapter.manifest.stats["eval_loss"] < curve[0]
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


@pytest.mark.slow
def test_a_killed_trainer_resumes_to_the_same_bits(store: Store, tmp_path: Path) -> None:
    base, tokens = made(store)
    whole = store.materialize(train.recipe(CONFIG, tokens, base)).artifact
    other = Store(tmp_path / "other")
    base, tokens = made(other)
    slow = train.recipe(CONFIG, tokens, base)
    killer = threading.Thread(target=kill_after_a_checkpoint, args=(other.root,))
    killer.start()
    with pytest.raises(StageError, match=r"killed by signal|exit code"):
        other.materialize(slow)
    killer.join()
    assert not list(other.root.glob("train/*"))
    resumed = other.materialize(slow).artifact
    assert weights(resumed) == weights(whole)
    assert losses(resumed) == losses(whole)


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


@pytest.mark.slow
def test_two_processes_give_the_loss_curve_of_one(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, tokens = made(store)
    config = CONFIG.model_copy(update={"batching": "random"})
    one = store.materialize(train.recipe(config, tokens, base)).artifact
    monkeypatch.setenv("FINETUNE_PROCESSES", "2")
    settings.settings.cache_clear()
    other = Store(tmp_path / "other")
    base, tokens = made(other)
    two = other.materialize(train.recipe(config, tokens, base)).artifact
    assert (one.manifest.stats["processes"], two.manifest.stats["processes"]) == (1, 2)
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)


def test_tokens_of_another_objective_are_refused_before_any_process_starts(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline_lib import launch

    monkeypatch.setattr(launch, "run_child", lambda *_: pytest.fail("a process was started"))
    base, tokens = made(store)
    config = TrainConfig(objective="dpo")
    with pytest.raises(ConfigError, match=r"dpo needs tokenize.objective=preference"):
        store.materialize(train.recipe(config, tokens, base))
