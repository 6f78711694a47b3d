"""The estimate is held to the field's table, published peaks, autograd's own list and a real training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.config import load
from pipeline_lib.core.errors import ConfigError
from pipeline_lib.sample_sizes import SampleSizes, conversations_needed
from pipeline_lib.training.devices import GPUS, HEADROOM, Gpu, place
from pipeline_lib.training.estimate import (
    METHODS,
    Estimate,
    estimate,
    estimate_for,
    layer_bytes_per_token,
)
from pipeline_lib.training.model_shape import ModelShape, llama_shape, shape_of
from pipeline_lib.training.recommendation import Case, learning_rate, recommend
from pipeline_lib.training.setup import Method, Setup
from pipeline_lib.training.train import TrainConfig

CONF = Path(__file__).resolve().parents[2] / "conf"
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
LLAMA_3_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
}
QWEN_7B = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": False,
}
TINY: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256,
}


@pytest.fixture(scope="module")
def llama() -> ModelShape:
    return shape_of(LLAMA_3_8B)


@pytest.fixture(scope="module")
def qwen() -> ModelShape:
    return shape_of(QWEN_7B)


def _one(shape: ModelShape, method: Method, batch: int, rank: int = 16, **other: Any) -> Estimate:
    optimizer = "paged_adamw_8bit" if method == "qlora" else "adamw_torch"
    values = {"target_modules": ATTENTION, "trained_weights": "bf16", "optimizer": optimizer, **other}
    return estimate(shape, [method], Setup(batch_size=batch, rank=rank, **values))[0]


@pytest.mark.parametrize(
    ("method", "rank", "batch", "seven", "eight"),
    [
        ("full", 16, 4, 103, 108),
        ("lora", 16, 8, 24, 25),
        ("lora", 64, 8, 26, 28),
        ("qlora", 16, 4, 11, 12),
        ("qlora", 64, 4, 13, 14),
    ],
)
def test_the_fields_table_is_reproduced_within_15_percent(
    llama: ModelShape, qwen: ModelShape, method: Method, rank: int, batch: int, seven: float, eight: float
) -> None:
    assert _one(qwen, method, batch, rank).memory_gb == pytest.approx(seven, rel=0.15)
    assert _one(llama, method, batch, rank).memory_gb == pytest.approx(eight, rel=0.15)


def test_qlora_at_the_tables_batch_of_16_takes_twice_the_tables_memory(llama: ModelShape) -> None:
    # 16 sequences at the table's own 0.75 GB each would be 12 GB of activations, and it says 4.
    needs = _one(llama, "qlora", 16)
    assert needs.memory_gb == pytest.approx(25.9, abs=0.1)
    assert needs.activations_gb == pytest.approx(18.4, abs=0.1)


@pytest.mark.parametrize(("method", "gib"), [("lora", 16.2), ("qlora", 7.4)])
def test_peaks_published_for_8b_at_batch_2_are_met_within_15_percent(
    llama: ModelShape, method: Method, gib: float
) -> None:
    # torchtune's README (RTX 4090, sequence 2048): the allocator's peak, without context.
    needs = _one(llama, method, 2)
    peak = needs.sharded_gb + needs.activations_gb
    assert peak == pytest.approx(gib * 1.073742, rel=0.15)


def test_an_8b_shape_has_the_parameters_of_its_name(llama: ModelShape, qwen: ModelShape) -> None:
    assert llama.parameters == 8_030_261_248
    assert qwen.parameters == 7_615_616_512
    assert llama.adapter_parameters(16, ATTENTION) == 16 * 32 * (2 * (4096 + 4096) + 2 * (4096 + 1024))


def test_plain_numbers_give_the_same_shape_as_a_config(llama: ModelShape) -> None:
    plain = llama_shape(4096, 14336, 32, 32, 128256, kv_heads=8)
    assert plain.parameters == llama.parameters
    assert plain.linears == llama.linears


def test_adapters_of_a_4096_wide_model_without_grouped_heads_follow_the_fields_formula() -> None:
    shape = llama_shape(4096, 11008, 32, 32, 32000)
    assert shape.adapter_parameters(16, ATTENTION) == 4 * 2 * 4096 * 16 * 32


# PEFT 0.21 still reads a property that Transformers 5.23 has renamed.
peft_reads_an_old_name = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@peft_reads_an_old_name
def test_adapter_parameters_are_pefts() -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    for config in (TINY, {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 256}):
        values = dict(config)
        shape = AutoConfig.for_model(values.pop("model_type"), **values)
        model = AutoModelForCausalLM.from_config(shape)  # type: ignore[no-untyped-call]
        # GPT-2 keeps its weights the other way round, which PEFT finds out by itself and wants to be told.
        transposed = config["model_type"] == "gpt2"
        lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", fan_in_fan_out=transposed)
        adapted, _ = get_peft_model(model, lora).get_nb_trainable_parameters()
        assert shape_of(config).adapter_parameters(4, "all-linear") == adapted


def _saved_by_autograd(layers: int, tokens: int, regime: str) -> int:
    """Bytes that autograd keeps for the backward pass, weights and their copies left out."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    values = {k: v for k, v in TINY.items() if k != "model_type"} | {"num_hidden_layers": layers}
    model: Any = LlamaForCausalLM(LlamaConfig(**values))
    model = model.to(torch.bfloat16) if regime in ("bf16", "lora") else model
    if regime == "lora":
        from peft import LoraConfig, get_peft_model

        model.enable_input_require_grads()
        lora = LoraConfig(r=8, lora_dropout=0.0, target_modules=list(ATTENTION), task_type="CAUSAL_LM")
        model = get_peft_model(model, lora).base_model.model
    kept: dict[int, Any] = {}

    def keep(tensor: Any) -> Any:
        # Activations have a dimension of this many tokens, weights have not.
        if tokens in tensor.shape:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    ids = torch.arange(tokens).remainder(256)[None]
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=regime in ("autocast", "lora"))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), autocast:
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
    total = sum(storage.nbytes() for storage in kept.values())
    del hidden
    return int(total)


@pytest.mark.parametrize(
    ("regime", "method", "setup"),
    [
        ("fp32", "full", Setup(precision="fp32")),
        ("bf16", "full", Setup(trained_weights="bf16")),
        ("autocast", "full", Setup()),
        ("lora", "lora", Setup(rank=8, target_modules=ATTENTION)),
    ],
)
@peft_reads_an_old_name
def test_activations_of_a_layer_are_those_autograd_keeps(regime: str, method: Method, setup: Setup) -> None:
    tokens = 131
    shape = shape_of(TINY)
    kept = (_saved_by_autograd(3, tokens, regime) - _saved_by_autograd(2, tokens, regime)) / tokens
    # Without dropout there is no mask: one byte an input of every target.
    mask = 4 * shape.hidden if method == "lora" else 0
    assert kept == pytest.approx(layer_bytes_per_token(shape, method, setup) - mask, rel=0.001)


def test_checkpointing_a_fused_loss_and_fewer_bits_each_take_less_memory(llama: ModelShape) -> None:
    least = _one(llama, "lora", 4).activations_gb
    assert least < _one(llama, "lora", 4, fused_loss=False).activations_gb
    assert least < _one(llama, "lora", 4, activation_checkpointing=False).activations_gb / 5
    full, lora, qlora = (_one(llama, method, 4).memory_gb for method in METHODS)
    assert full > 3 * lora > 3 * qlora


def test_time_follows_the_rule_of_six_and_four(llama: ModelShape) -> None:
    setup = Setup(activation_checkpointing=False)
    full, lora = estimate(llama, ["full", "lora"], setup, tokens=10**9, gpus=[Gpu("large", 500, 1000)])
    assert full.flop_per_token == 6 * llama.parameters
    assert lora.flop_per_token == 4 * llama.parameters
    assert full.hours == pytest.approx(6 * llama.parameters * 1e9 / (1000e12 * 0.4) / 3600)


def test_the_smallest_gpu_that_holds_it_is_named(llama: ModelShape) -> None:
    names = {method: _one(llama, method, 2).placement for method in METHODS}
    assert names["qlora"]
    assert names["qlora"].gpu.name == "RTX 4090"
    assert names["full"]
    assert (names["full"].gpu.name, names["full"].count) == ("H200 141 GB", 1)
    for found in _one(llama, "full", 2).placements:
        assert found.used_gb <= found.gpu.memory_gb * (1 - HEADROOM)


def test_what_one_gpu_does_not_hold_is_divided_and_what_each_needs_is_not() -> None:
    gpu = Gpu("of ten", 10, 100)
    assert place(gpu, 5, 3) == place(gpu, 5, 3, gathered_gb=9)
    divided = place(gpu, 20, 3, gathered_gb=1)
    assert divided
    assert (divided.count, divided.used_gb) == (4, 9)
    assert place(gpu, 1, 9.5) is None


def test_the_table_of_gpus_is_ordered_by_memory_then_speed() -> None:
    assert list(GPUS) == sorted(GPUS, key=lambda gpu: (gpu.memory_gb, -gpu.bf16_tflops))


def test_disk_counts_checkpoints_with_their_optimizer(llama: ModelShape) -> None:
    needs = _one(llama, "lora", 1)
    assert needs.adapter_gb == pytest.approx(13_631_488 * 4 / 1e9)
    assert needs.checkpoints_gb == pytest.approx(3 * 13_631_488 * 12 / 1e9)
    assert needs.merged_gb == pytest.approx(16.06, abs=0.01)


def test_the_config_of_a_stage_is_estimated_from_a_directory_with_a_config_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TINY), encoding="utf-8")
    config = TrainConfig(epochs=2)
    needs = estimate_for(config, 512, tmp_path, conversations=1000, tokens_per_conversation=100)
    assert [one.method for one in needs] == list(METHODS)
    assert needs[1].hours == pytest.approx(200_000 / (needs[1].tokens_per_second or 0) / 3600)
    assert json.loads(json.dumps(needs[0].record()))["memory_gb"] == needs[0].memory_gb


def test_what_an_objective_and_the_weights_format_need_enters(qwen: ModelShape) -> None:
    def of(**values: Any) -> list[Estimate]:
        return estimate_for(TrainConfig.model_validate({"precision": "bf16", **values}), 512, qwen, 1000)

    (full, lora, _), (paired, adapted, _) = of(), of(objective="dpo")
    scored = of(objective="reward")[1]
    # A pair is two sequences; where every weight is trained the reference is a model of its own.
    assert adapted.activations_gb == scored.activations_gb == pytest.approx(2 * lora.activations_gb)
    assert (adapted.weights_gb, paired.weights_gb) == (lora.weights_gb, 2 * full.weights_gb)
    assert adapted.flop_per_token == lora.flop_per_token + 2 * qwen.parameters
    assert scored.hours == pytest.approx(2 * (lora.hours or 0))
    (narrow, *_) = of(trained_weights="bf16")
    assert narrow.weights_gb == pytest.approx(full.weights_gb / 2)


def test_what_cannot_be_estimated_is_refused_with_what_there_is(llama: ModelShape, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no query_key_value.*q_proj"):
        _one(llama, "lora", 1, target_modules=("query_key_value",))
    with pytest.raises(ConfigError, match="longer than the model's 8192"):
        _one(llama, "lora", 1, sequence_length=10_000)
    with pytest.raises(ConfigError, match=r"optimizer nothing is unknown"):
        _one(llama, "lora", 1, optimizer="nothing")
    with pytest.raises(ConfigError, match=r"no config that Transformers can read"):
        shape_of(tmp_path)


def test_without_the_hub_the_error_says_how_to_go_on(tmp_path: Path) -> None:
    program = (
        "from pipeline_lib.core.errors import ServiceError\n"
        "from pipeline_lib.training.model_shape import shape_of\n"
        "try: shape_of('owner/absent')\nexcept ServiceError as error: print(error)"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert "hf download owner/absent config.json" in done.stdout


@pytest.mark.parametrize(
    ("conversations", "memory", "method", "rank"),
    [
        (800, 80, "lora", 8),
        (5_000, 24, "lora", 16),
        (5_000, 16, "qlora", 16),
        (50_000, 80, "lora", 16),
        (200_000, 80, "lora", 64),
        (200_000, 200, "full", None),
    ],
)
def test_the_method_follows_data_size_and_memory(
    llama: ModelShape, conversations: int, memory: float, method: str, rank: int | None
) -> None:
    advice = recommend(llama, Case(conversations, memory))
    assert (advice.method, advice.rank) == (method, rank)
    assert advice.fits
    assert advice.memory_gb <= memory * (1 - HEADROOM)


def test_too_little_memory_is_said_with_the_smallest_that_would_do(llama: ModelShape) -> None:
    advice = recommend(llama, Case(5_000, 6))
    assert not advice.fits
    assert (advice.method, advice.batch_size) == ("qlora", 1)
    assert any("shorten the sequences" in warning for warning in advice.warnings)


def test_few_conversations_and_changing_knowledge_are_warned_of(llama: ModelShape) -> None:
    assert any("prompting" in w for w in recommend(llama, Case(50, 80)).warnings)
    assert any("retrieved" in w for w in recommend(llama, Case(50_000, 80, knowledge_changes=True)).warnings)
    assert recommend(llama, Case(50_000, 80)).warnings == ()
    assert conversations_needed("complex", "weak") == SampleSizes(1_000, 10_000, 100_000)


def test_learning_rate_falls_with_the_model_and_rises_with_the_data() -> None:
    assert learning_rate("lora", 8 * 10**9, 5_000) == 2e-4
    assert learning_rate("lora", 13 * 10**9, 5_000) == 1.4e-4
    assert learning_rate("qlora", 70 * 10**9, 200_000) == 1.2e-4
    assert learning_rate("full", 8 * 10**9, 500) == 8e-6


@pytest.mark.parametrize("preset", ["sft-lora", "dpo", "kto", "reward", "grpo"])
def test_the_advice_for_an_objective_is_the_rate_of_its_preset(llama: ModelShape, preset: str) -> None:
    config = load(CONF / f"{preset}.yaml").train
    advice = recommend(llama, Case(5_000, 80, objective=config.objective))
    assert (advice.method, advice.learning_rate) == (config.method, config.learning_rate)
    alone = recommend(llama, Case(5_000, 80))
    assert (advice.memory_gb > alone.memory_gb) == (config.objective in ("dpo", "reward"))


STEP = """
import json, sys, torch
from transformers import LlamaConfig, LlamaForCausalLM

def resident():
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * 4096

torch.set_num_threads(1)
ids = torch.arange(16)[None]
small = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
warm = LlamaForCausalLM(LlamaConfig(num_attention_heads=2, **small))

def step(model, lora):
    if lora:
        from peft import LoraConfig, get_peft_model
        model = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], foreach=False)
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    return model, optimizer

lora = sys.argv[1] == "lora"
held = step(warm, lora)
before = resident()
values = json.loads(sys.argv[2])
values.pop("model_type")
held = step(LlamaForCausalLM(LlamaConfig(**values)), lora)
print(resident() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads resident memory from /proc")
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_step_on_the_cpu_holds_the_weights_gradients_and_optimizer_estimated(method: Method) -> None:
    config = TINY | {
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_hidden_layers": 7,
        "vocab_size": 8192,
    }
    # Large blocks go back to the system at once: what is resident is then what is held.
    environment = {"MALLOC_MMAP_THRESHOLD_": "65536", "HF_HUB_OFFLINE": "1", "PATH": ""}
    call = [sys.executable, "-c", STEP, method, json.dumps(config)]
    measured = float(subprocess.check_output(call, env=environment, stderr=subprocess.DEVNULL).split()[-1])
    needs = estimate(shape_of(config), [method], Setup(precision="fp32"))[0]
    assert measured / 1e9 == pytest.approx(needs.sharded_gb, rel=0.25)
