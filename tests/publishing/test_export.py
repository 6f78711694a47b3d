"""An export is the model that it was made from, or there is no export."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline_lib import chat
from pipeline_lib.core.errors import ConfigError, DataError
from pipeline_lib.publishing.export import export_model
from pipeline_lib.publishing.export.gguf import interleave, write_gguf
from pipeline_lib.publishing.export.layout import CHATS, find_layout, trims
from pipeline_lib.publishing.export.ollama import go_template
from pipeline_lib.publishing.export.parity import tokens_differing, weight_difference
from pipeline_lib.publishing.export.vocabulary import NAMED_SPLITS
from tests.publishing.tiny_llama import (
    CHATML_TEMPLATE,
    LLAMA3_TEMPLATE,
    make_adapter,
    make_model,
    make_tokenizer,
    merge,
)

pytestmark = pytest.mark.usefixtures("one_thread")
needs_gguf = pytest.mark.skipif(find_spec("gguf") is None, reason="needs the export extra (gguf)")
GGUF = [pytest.param("gguf", q, marks=needs_gguf) for q in ("bf16", "f16", "q8_0")]
LLAMA3_SPLIT = next(split for split, name in NAMED_SPLITS.items() if name == "llama-bpe")
QWEN2_SPLIT = next(split for split, name in NAMED_SPLITS.items() if name == "qwen2")
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
DEFAULT_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|system|>\\nYou help.<|endoftext|>\\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + '<|endoftext|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
NUMBERED = (
    "{% for m in messages %}{{ loop.index ~ m['role'] + ':' + m['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """A base model, an adapter on it, and their sum."""

    base: Path
    adapter: Path
    merged: Path


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    root = tmp_path_factory.mktemp("models")
    base = make_model(root / "base")
    adapter = make_adapter(root / "adapter", base)
    return Family(base, adapter, merge(root / "merged", base, adapter))


@pytest.mark.parametrize(("form", "quantization"), [("safetensors", "bf16"), ("vllm", "bf16"), *GGUF])
def test_every_format_says_what_base_and_adapter_say(
    family: Family, tmp_path: Path, form: Any, quantization: Any
) -> None:
    exported = export_model(
        family.merged,
        form,
        tmp_path / "out",
        adapter=family.adapter,
        base=family.base,
        quantization=quantization,
    )
    written = json.loads((exported.path / "parity.json").read_text())
    names = [comparison["name"] for comparison in written["comparisons"]]
    assert names == [
        "exported against merged",
        "merged against base and adapter",
        "exported against base and adapter",
    ]
    assert written["comparisons"][0]["figures"]["prompt_tokens_differing"] == 0
    assert not any(comparison.beyond() for comparison in exported.parity.comparisons)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@needs_gguf
def test_bf16_weights_pass_through_gguf_unchanged_and_q8_0_rounds_them(
    family: Family, tmp_path: Path
) -> None:
    exact = export_model(family.merged, "gguf", tmp_path / "a").parity.comparisons[0].figures
    coarse = (
        export_model(family.merged, "gguf", tmp_path / "b", quantization="q8_0").parity.comparisons[0].figures
    )
    assert exact["weight_difference"] == exact["logit_kl_mean"] == 0
    assert 0.001 < coarse["weight_difference"] < 0.01
    assert coarse["logit_kl_mean"] > 0


@needs_gguf
@pytest.mark.parametrize(
    ("kind", "split", "shape"),
    [
        ("Mistral", None, {"sliding_window": None}),
        ("Qwen2", QWEN2_SPLIT, {}),
        ("Qwen3", QWEN2_SPLIT, {"head_dim": 32}),
        (
            "Llama",
            LLAMA3_SPLIT,
            {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": False, "vocab_size": 320},
        ),
    ],
)
def test_architectures_beside_plain_llama_pass_too(
    tmp_path: Path, kind: str, split: str | None, shape: dict[str, Any]
) -> None:
    model = make_model(tmp_path / "model", make_tokenizer(split=split), kind=kind, **shape)
    parity = export_model(model, "gguf", tmp_path / "out").parity
    figures = parity.comparisons[0].figures
    assert bool(parity.notes) == (
        kind == "Qwen2"
    )  # its tokenizer class composes characters, GGUF runtimes do not
    assert figures["weight_difference"] == 0
    assert figures["greedy_agreement"] == 1


@needs_gguf
def test_a_file_without_the_rotary_permutation_is_caught(family: Family, tmp_path: Path) -> None:
    from pipeline_lib.publishing.export import forms
    from pipeline_lib.publishing.export.proof import Exportee, prove, template_prompt

    _without_permutation(family.merged, tmp_path / "crooked")
    (tmp_path / "out").mkdir()
    write_gguf(tmp_path / "crooked", tmp_path / "out" / "m.gguf", "bf16")
    load = partial(forms.load_gguf, tmp_path / "out", "m.gguf", family.merged)
    reader = forms.load_tokenizer(tmp_path / "out", "m.gguf")
    parity = prove(Exportee(family.merged), load, reader, template_prompt, "q8_0")
    with pytest.raises(DataError, match="exported against merged"):
        parity.require()
    beyond = " ".join(parity.comparisons[0].beyond())
    assert all(figure in beyond for figure in ("weight_difference", "logit_kl_mean", "greedy_agreement"))


@needs_gguf
def test_weights_that_q8_0_ruins_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    model = _with_outliers(make_model(tmp_path / "model"))
    with pytest.raises(DataError, match="logit_kl_mean"):
        export_model(model, "gguf", tmp_path / "out", quantization="q8_0")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@needs_gguf
@pytest.mark.skipif(shutil.which("llama-quantize") is None, reason="needs llama.cpp's llama-quantize")
def test_q4_k_m_is_what_llama_cpp_makes_of_it(tmp_path: Path) -> None:
    from gguf import GGMLQuantizationType as Type
    from gguf import GGUFReader

    # Wide enough for blocks of 256, and calm: random weights of the usual spread are chaos at this width.
    model = make_model(tmp_path / "model", hidden_size=256, intermediate_size=512, initializer_range=0.02)
    exported = export_model(model, "gguf", tmp_path / "out", quantization="q4_k_m")
    assert [file.name for file in exported.files] == ["model-q4_k_m.gguf", "parity.json"]
    types = {tensor.tensor_type for tensor in GGUFReader(exported.files[0]).tensors}
    assert types == {Type.F32, Type.Q4_K, Type.Q6_K}
    figures = exported.parity.comparisons[0].figures
    assert figures["prompt_tokens_differing"] == 0
    assert 0.02 < figures["weight_difference"] < 0.12


@pytest.mark.parametrize(
    ("program", "error", "says"),
    [
        (None, ConfigError, "llama-quantize, which is not on the PATH"),
        ("#!/bin/sh\necho 'tensor is all wrong'\nexit 3\n", DataError, "code 3: tensor is all wrong"),
    ],
)
@needs_gguf
def test_without_a_quantizer_that_works_nothing_is_written(
    program: str | None,
    error: type[Exception],
    says: str,
    family: Family,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = tmp_path / "bin"
    place.mkdir()
    if program:
        (place / "llama-quantize").write_text(program)
        (place / "llama-quantize").chmod(0o755)
    monkeypatch.setenv("PATH", str(place))
    with pytest.raises(error, match=says):
        export_model(family.merged, "gguf", tmp_path / "out", quantization="q4_k_m")
    assert [found.name for found in tmp_path.iterdir()] == ["bin"]


def test_a_merged_model_that_is_not_base_and_adapter_is_refused(family: Family, tmp_path: Path) -> None:
    other = make_adapter(tmp_path / "other", family.base, seed=7)
    with pytest.raises(DataError, match="merged against base and adapter"):
        export_model(family.merged, "safetensors", tmp_path / "out", adapter=other, base=family.base)
    assert [p.name for p in tmp_path.iterdir()] == ["other"]


def test_an_export_replaces_another_only_by_force(family: Family, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    with pytest.raises(ConfigError, match="is there already"):
        export_model(family.merged, "safetensors", out)
    assert [p.name for p in out.iterdir()] == ["mine.txt"]
    exported = export_model(family.merged, "safetensors", out, force=True)
    assert not (out / "mine.txt").exists()
    assert {"model.safetensors", "tokenizer.json", "parity.json"} <= {p.name for p in exported.files}
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@needs_gguf
def test_a_vocabulary_larger_than_the_embedding_is_refused(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    make_model(tmp_path / "model", tokenizer)
    tokenizer.add_tokens(["<|late|>"])
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(DataError, match="resize the embedding"):
        export_model(tmp_path / "model", "gguf", tmp_path / "out")


@needs_gguf
def test_what_the_writer_cannot_hold_is_sent_to_llama_cpps_converter(tmp_path: Path) -> None:
    shape = {"hidden_act": "gelu"}
    make_model(tmp_path / "gelu", **shape)
    make_model(tmp_path / "gemma", kind="Gemma")
    make_model(tmp_path / "cut", make_tokenizer(split=r"\s+"))
    for name in ("gelu", "gemma", "cut"):
        with pytest.raises(ConfigError, match=r"convert_hf_to_gguf\.py"):
            export_model(tmp_path / name, "gguf", tmp_path / "out")


def test_an_adapter_by_itself_is_no_export(family: Family, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="merged"):
        export_model(family.adapter, "safetensors", tmp_path / "out")
    with pytest.raises(ConfigError, match="both adapter and base"):
        export_model(family.merged, "vllm", tmp_path / "out", adapter=family.adapter)


@needs_gguf
def test_the_modelfile_prompts_token_for_token_as_training_did(family: Family, tmp_path: Path) -> None:
    exported = export_model(family.merged, "ollama", tmp_path / "out")
    modelfile = (exported.path / "Modelfile").read_text()
    assert (
        "{{ range .Messages }}<|{{ .Role }}|>\n{{ .Content }}<|endoftext|>\n{{ end }}<|assistant|>\n"
        in modelfile
    )
    assert 'PARAMETER stop "<|endoftext|>"' in modelfile
    assert exported.parity.comparisons[0].figures["prompt_tokens_differing"] == 0


@needs_gguf
def test_a_bos_that_the_runtime_adds_is_not_in_the_modelfiles_template(tmp_path: Path) -> None:
    from tokenizers import processors

    tokenizer = make_tokenizer(
        LLAMA3_TEMPLATE, ("<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"), bos="<|begin_of_text|>"
    )
    begin = (tokenizer.bos_token, tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin[0]} $A", special_tokens=[begin]
    )
    model = make_model(tmp_path / "model", tokenizer)
    exported = export_model(model, "ollama", tmp_path / "out")
    modelfile = (exported.path / "Modelfile").read_text()
    assert "begin_of_text" not in modelfile
    assert 'PARAMETER stop "<|eot_id|>"' in modelfile
    assert "takes spaces off" in modelfile
    assert exported.parity.comparisons[0].figures["prompt_tokens_differing"] == 0


@pytest.mark.parametrize("template", [chat.MARKER_TEMPLATE, CHATML_TEMPLATE, LLAMA3_TEMPLATE, DEFAULT_SYSTEM])
def test_a_plain_template_is_found_by_rendering(template: str) -> None:
    tokenizer = make_tokenizer(template)
    layout = find_layout(tokenizer)
    assert layout
    assert layout.default_system == ("You help." if template == DEFAULT_SYSTEM else None)
    assert all(layout.prompt(c) == chat.render(tokenizer, c, prompt=True) for c in CHATS)
    assert trims(tokenizer) == (template == LLAMA3_TEMPLATE)


def test_a_template_with_logic_is_not_translated() -> None:
    assert find_layout(make_tokenizer(NUMBERED)) is None


def test_chatml_in_gos_language_is_as_ollama_writes_it() -> None:
    layout = find_layout(make_tokenizer(CHATML_TEMPLATE))
    assert layout
    turns = "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}"
    assert go_template(layout, adds_bos=False) == turns + "<|im_start|>assistant\n{{ .Response }}"


def test_vllm_gets_a_rank_that_it_takes_or_the_reason_why_not(family: Family, tmp_path: Path) -> None:
    from pipeline_lib.publishing.export.vllm import write_commands

    out = tmp_path / "out"
    export_model(family.merged, "vllm", out, adapter=family.adapter, base=family.base)
    commands = (out / "vllm.txt").read_text()
    assert f"--enable-lora --max-lora-rank 8 --lora-modules out={out / 'adapter'}" in commands
    described = json.loads((out / "adapter" / "adapter_config.json").read_text())
    for more, said in (({"r": 48}, "--max-lora-rank 64"), ({"use_dora": True}, "no adapter with use_dora")):
        (out / "adapter" / "adapter_config.json").write_text(json.dumps(described | more))
        write_commands(out, out, family.base)
        assert said in (out / "vllm.txt").read_text()


def test_interleaving_turns_the_pairs_of_each_head_into_neighbours() -> None:
    rows = np.arange(8, dtype=np.float32)[:, None]
    assert interleave(rows, heads=2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_figures_are_what_a_hand_would_find() -> None:
    assert tokens_differing([[1, 2, 3], [4]], [[1, 9], [4]]) == 2
    assert weight_difference(
        np.array([3.0, 4.0], np.float32), np.array([3.0, 4.5], np.float32)
    ) == pytest.approx(0.1)


def _without_permutation(model: Path, out: Path) -> None:
    """Copy a model with query and key rows that the writer's permutation puts back in their old order."""
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(model, out)
    weights = load_file(out / "model.safetensors")
    for name, heads in (("q_proj", 4), ("k_proj", 2)):
        for key in [key for key in weights if name in key]:
            weight = weights[key]
            weights[key] = (
                weight.reshape(heads, -1, 2, weight.shape[1])
                .swapaxes(1, 2)
                .reshape(weight.shape)
                .contiguous()
            )
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})


def _with_outliers(model: Path) -> Path:
    """Give every 32 weights of one matrix one that is so large that 8 bits leave nothing of the others."""
    from safetensors.torch import load_file, save_file

    weights = load_file(model / "model.safetensors")
    key = next(key for key in weights if "up_proj" in key)
    weights[key][:, ::32] = 64.0
    weights[key][:, 1:32] *= 0.5
    weights["model.layers.0.mlp.gate_proj.weight"][:, ::32] = 8.0
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    return model
