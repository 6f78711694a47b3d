"""Every method learns, leaves what PEFT loads, and merges into the same answers; survives what stops it."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.core.errors import ConfigError, DataError
from pipeline_lib.training.train import LoraConfig, TrainConfig
from pipeline_lib.training.trainers import batch
from tests.training.tiny_training import (
    LIBRARIES_WARN,
    LORA,
    Place,
    Run,
    killable,
    merge_here,
    place,
    sequences,
    spec_of,
    train_here,
)

pytestmark = LIBRARIES_WARN


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return place(tmp_path_factory.mktemp("methods"))


@pytest.fixture(scope="module")
def whole(where: Place) -> Run:
    """A LoRA training from its beginning to its end."""
    return train_here(where, "whole")


MERGED = {
    "dora": {"lora": LORA.model_copy(update={"use_dora": True})},
    "rslora": {"lora": LORA.model_copy(update={"use_rslora": True})},
    "pissa": {"lora": LORA.model_copy(update={"init": "pissa"})},
    "loraplus": {"lora": LORA.model_copy(update={"loraplus_lr_ratio": 4.0})},
    "all_linear": {"lora": LORA.model_copy(update={"target_modules": "all-linear"})},
    "ia3": {"method": "ia3"},
    "oft": {
        "method": "peft",
        "peft": {"peft_type": "OFT", "oft_block_size": 8, "target_modules": ["q_proj"]},
    },
}


@pytest.mark.parametrize("name", MERGED)
def test_an_adapter_learns_and_answers_the_same_once_merged(name: str, where: Place) -> None:
    run = train_here(where, name, epochs=1, **MERGED[name])
    assert 0 < run.stats["trainable_parameters"] < run.stats["parameters"]
    merged, stats = merge_here(where, run)
    assert stats["merged_max_difference"] < 1e-3
    assert_answers_alike(where.base, run.out, merged)
    written = (run.out / "adapter_config.json").read_text()
    assert str(where.root) not in written
    # PEFT holds them in a set, whose order is another in every process.
    assert (targets := json.loads(written).get("target_modules")) == (targets and sorted(targets))


def assert_answers_alike(base: Path, adapter: Path, merged: Path) -> None:
    """Load both afresh: the base under its adapter, and the merged model, give the same logits."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    ids = torch.tensor([[5, 9, 13, 21, 34]])
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        before = plain.eval()(ids).logits.clone()
        apart = PeftModel.from_pretrained(plain, adapter).eval()(ids).logits
        once = AutoModelForCausalLM.from_pretrained(merged).eval()(ids).logits
    assert torch.allclose(apart, once, atol=1e-3)
    assert not torch.allclose(before, once, atol=1e-2)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("prefix_tuning", {"prefix_tuning": {"num_virtual_tokens": 4}}),
        ("prompt_tuning", {"prompt_tuning": {"init_text": "Answer the question"}}),
        ("p_tuning", {"p_tuning": {"num_virtual_tokens": 4}}),
    ],
)
def test_virtual_tokens_are_learnt_and_load_without_a_path_in_them(
    name: str, values: dict[str, Any], where: Place
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    run = train_here(where, name, epochs=1, method=name, **values)
    assert str(where.root) not in (run.out / "adapter_config.json").read_text()
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(where.base), run.out)
    assert not TrainConfig(method=name).merges  # type: ignore[arg-type]


def test_full_training_changes_every_weight(where: Place) -> None:
    run = train_here(where, "full", method="full", learning_rate=3e-3)
    assert run.stats["trainable_parameters"] == run.stats["parameters"]
    before = Run(where.base, where.base).weights("model.safetensors")
    assert all((weight != before[name]).any() for name, weight in run.weights("model.safetensors").items())


def test_qlora_trains_over_four_bits_or_says_what_to_install(where: Place) -> None:
    from pipeline_lib.training.loading import BITSANDBYTES, check_quantization

    if importlib.util.find_spec(BITSANDBYTES) is None:
        with pytest.raises(ConfigError, match=r"finetune-flows\[gpu\]"):
            check_quantization("qlora", "adamw_torch")
        return
    run = train_here(where, "qlora", method="qlora")
    assert run.losses[-1] < run.losses[0]
    # TRL would train them in bf16.
    assert {str(weight.dtype) for weight in run.weights().values()} == {"torch.float32"}
    assert merge_here(where, run)[1]["merged_max_difference"] < 1e-3
    # Looking at the validation split changes nothing: on some CPUs bitsandbytes repacks what it evaluates.
    looked = train_here(where, "looked", method="qlora", eval_steps=1, max_steps=6)
    assert looked.losses == train_here(where, "ahead", method="qlora", eval_steps=6, max_steps=6).losses


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"lora": LORA.model_copy(update={"target_modules": ("nothing_proj",)})}, r"nothing_proj.*q_proj"),
        ({"method": "peft", "peft": {"peft_type": "LARO"}}, r"no LARO.*LOHA"),
        ({"method": "peft", "peft": {"peft_type": "OFT", "rr": 4}}, r"refuses the OFT config.*rr"),
    ],
)
def test_an_adapter_that_does_not_fit_is_told_before_weights_are_loaded(
    values: dict[str, Any],
    told: str,
    where: Place,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    from pipeline_lib.training import trainers

    monkeypatch.setattr(trainers, "load_base", lambda *_, **__: pytest.fail("weights were loaded"))
    with pytest.raises(ConfigError, match=told):
        train_here(where, request.node.callspec.id, **values)


@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys did not match:RuntimeWarning")
def test_a_mixture_of_experts_takes_adapters_without_dropout_and_is_told_so(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, MixtralConfig

    where = place(tmp_path)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = MixtralConfig(**shape, num_key_value_heads=1, num_local_experts=2, vocab_size=2000)
    AutoModelForCausalLM.from_config(config).save_pretrained(where.base)
    with pytest.raises(ConfigError, match=r"train\.lora: this adapter does not go on .* dropout 0 for those"):
        train_here(where, "refused", lora=LoraConfig(rank=4, alpha=8))
    run = train_here(where, "taken", lora=LoraConfig(rank=4, alpha=8, dropout=0.0), epochs=1)
    assert merge_here(where, run)[1]["merged_max_difference"] < 1e-3


def test_a_smaller_forward_pass_gives_the_same_loss_curve(where: Place, whole: Run) -> None:
    shared = train_here(where, "shared", batch_size=2, gradient_accumulation_steps=2)
    assert shared.losses == pytest.approx(whole.losses, abs=2e-4)
    spec = {**spec_of(where, "halved"), "halvings": 1}
    from pipeline_lib.training.worker import work

    work(spec, lambda **event: None)
    halved = Run(Path(spec["out"]), Path(spec["work"]))
    assert halved.losses == pytest.approx(whole.losses, abs=2e-4)


def test_a_step_takes_the_same_batch_however_many_processes_share_it() -> None:
    config = {"batch_size": 8, "gradient_accumulation_steps": 2}
    for processes in (1, 2, 4, 8, 16):
        for halvings in range(4):
            micro, passes = batch(config, processes, halvings)
            assert micro * passes * processes == 16
            assert micro <= 8 >> halvings
    with pytest.raises(ConfigError, match="3 processes cannot share"):
        batch(config, 3)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_training_goes_on_to_the_same_bits(how: signal.Signals, where: Place, whole: Run) -> None:
    spec = spec_of(where, f"stopped-{how.name}")
    first = killable(spec)
    wait_for_a_checkpoint(Path(spec["work"]), first)
    assert first.pid
    os.kill(first.pid, how)
    first.join(300)
    assert first.exitcode
    assert not (Path(spec["work"]) / "stats.json").exists()
    saved = [path.parent.name for path in Path(spec["work"]).glob("checkpoints/checkpoint-*/whole")]
    assert saved
    second = killable(spec)
    second.join(300)
    resumed = Run(Path(spec["out"]), Path(spec["work"]))
    assert resumed.losses == whole.losses
    assert all((weight == whole.weights()[name]).all() for name, weight in resumed.weights().items())


def wait_for_a_checkpoint(work: Path, process: Any) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.is_alive():
        if list(work.glob("checkpoints/checkpoint-*/whole")):
            return
        time.sleep(0.002)
    pytest.fail("no checkpoint was written")


def test_checkpoints_of_another_config_are_refused_before_the_model_is_loaded(
    where: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline_lib.training import trainers

    train_here(where, "first", max_steps=3)
    monkeypatch.setattr(trainers, "load_base", lambda *_, **__: pytest.fail("weights were loaded"))
    with pytest.raises(DataError, match="another config"):
        train_here(where, "first", max_steps=4)


def test_training_ends_early_and_the_best_checkpoint_is_kept(where: Place) -> None:
    run = train_here(
        where,
        "early",
        method="full",
        learning_rate=0.2,
        epochs=10,
        eval_steps=1,
        load_best_model_at_end=True,
        early_stopping_patience=2,
    )
    looks = {point["step"]: point["eval_loss"] for point in run.history if "eval_loss" in point}
    assert len(looks) < 60
    assert run.stats["best_step"] == min(looks, key=lambda step: looks[step])
    assert run.stats["eval_loss"] == min(looks.values())
    assert run.stats["steps"] == run.stats["best_step"] + 2


def test_a_loss_that_is_no_number_stops_the_training_with_the_remedy(where: Place) -> None:
    from safetensors.torch import load_file, save_file

    broken = Place(where.root / "broken")
    shutil.copytree(where.base, broken.base)
    weights = load_file(broken.base / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, broken.base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FloatingPointError, match=r"at step 1; lower train.learning_rate"):
        train_here(broken, "nan", where.tokens)


@pytest.mark.parametrize(
    "values",
    [
        {"precision": "bf16"},
        pytest.param({"precision": "fp16"}, marks=pytest.mark.slow),  # most CPUs emulate it
        {"neftune_noise_alpha": 5},
        {"activation_checkpointing": True},
        {"schedule": "cosine_with_min_lr", "schedule_options": {"min_lr_rate": 0.1}},
        pytest.param(
            {"method": "full", "trained_weights": "bf16", "precision": "bf16", "learning_rate": 3e-3},
            marks=pytest.mark.slow,
        ),
        {"optimizer": "adafactor"},
    ],
    ids=lambda values: "-".join(map(str, values.values()))[:30],
)
def test_what_the_field_offers_trains(values: dict[str, Any], where: Place, request: Any) -> None:
    run = train_here(where, request.node.name.replace("/", "_"), max_steps=6, **values)
    assert run.stats["steps"] == 6


def test_recomputed_activations_give_the_same_losses(where: Place, whole: Run) -> None:
    run = train_here(where, "recomputed", activation_checkpointing=True, max_steps=4)
    again = train_here(where, "kept", max_steps=4)
    assert run.losses == pytest.approx(again.losses, abs=1e-5)


def test_two_adapters_combine_by_their_weights(where: Place, whole: Run) -> None:
    import torch

    tokens = sequences(where.root / "other-tokens", where.base, count=16)
    other = train_here(where, "other", tokens, seed=7)
    merged, _ = merge_here(where, whole, adapters=[{"path": str(other.out), "weight": 0.25}], weight=0.75)
    name = "model.layers.0.self_attn.q_proj"
    base = Run(where.base, where.base).weights("model.safetensors")[f"{name}.weight"]
    # PEFT's linear combination adds the factors: A = sum sqrt(w s) A_i, B = sum sqrt(w s) B_i.
    factors = [
        sum(
            (weight * 2) ** 0.5 * run.weights()[f"base_model.model.{name}.lora_{side}.weight"]
            for run, weight in ((whole, 0.75), (other, 0.25))
        )
        for side in ("B", "A")
    ]
    after = Run(merged, merged).weights("model.safetensors")[f"{name}.weight"]
    assert torch.allclose(after, base + factors[0] @ factors[1], atol=1e-5)  # type: ignore[operator]


@pytest.mark.parametrize("combination", ["cat", "ties", "dare_ties"])
def test_adapters_combine_alike_each_time(where: Place, whole: Run, combination: str) -> None:
    """DARE drops values at random."""
    found = []
    for name in ("once", "again"):
        run = Run(where.root / f"{combination}-{name}" / "out", whole.work)
        shutil.copytree(whole.out, run.out)
        merged, stats = merge_here(where, run, adapters=[{"path": str(whole.out)}], combination=combination)
        assert stats["merged_max_difference"] < 1e-3
        found.append((merged / "model.safetensors").read_bytes())
    assert found[0] == found[1]


def test_two_halves_of_an_adapter_are_the_adapter(where: Place) -> None:
    """Also where its scale is alpha/sqrt(rank), which PEFT counts once too often in what it combines."""
    import torch

    run = train_here(where, "steady", lora=LORA.model_copy(update={"use_rslora": True}), max_steps=4)
    halves = Run(where.root / "halves" / "out", run.work)
    shutil.copytree(run.out, halves.out)
    alone = merge_here(where, run)[0]
    adapters = [{"path": str(run.out), "weight": 0.5}]
    together = merge_here(where, halves, weight=0.5, adapters=adapters, combination="cat")[0]
    one, other = (Run(place, place).weights("model.safetensors") for place in (alone, together))
    assert all(torch.allclose(weight, other[name], atol=1e-5) for name, weight in one.items())


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"use_dora": True}, "DoRA's magnitudes"),
        ({"modules_to_save": ["lm_head"]}, r"trained in full \(lm_head\)"),
        ({"peft_type": "IA3"}, "of the type IA3"),
    ],
)
def test_what_a_combination_would_leave_out_is_told(
    values: dict[str, Any], told: str, tmp_path: Path
) -> None:
    from pipeline_lib.training.merge import check_combination

    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **values}))
    with pytest.raises(ConfigError, match=told):
        check_combination([tmp_path])


def test_an_adapter_of_another_base_is_told(where: Place, whole: Run, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from pipeline_lib.training.merge import MergeConfig, outside

    strange = tmp_path / "strange"
    shutil.copytree(whole.out, strange)
    wider = {name: weight.repeat(2, 2) for name, weight in whole.weights().items()}
    save_file(wider, strange / "adapter_model.safetensors")
    run = Run(tmp_path / "run" / "out", whole.work)
    shutil.copytree(whole.out, run.out)
    with pytest.raises(ConfigError, match=r"strange does not fit this base model .*trained on it"):
        merge_here(where, run, adapters=[{"path": str(strange)}])
    (strange / "adapter_model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"holds no adapter \(adapter_model\.safetensors is not there"):
        outside(MergeConfig.model_validate({"adapters": [{"path": str(strange)}]}))


def test_an_optimizer_of_eight_bits_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline_lib.training.loading import check_quantization

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"paged_adamw_8bit needs bitsandbytes.*optimizer=adamw_torch"):
        check_quantization("lora", "paged_adamw_8bit")
    check_quantization("lora", "adamw_torch")
