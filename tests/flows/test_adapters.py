"""Adapters in `finetune chat`: one base in memory, each adapter itself, taking turns by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.chat import base_of, find_adapters, open_conversation
from pipeline_lib.core.errors import ConfigError, DataError


@pytest.mark.parametrize("named", ["nameless", "=somewhere", "base=somewhere", "one=nowhere"])
def test_an_adapter_that_is_none_is_named(named: str) -> None:
    with pytest.raises(ConfigError, match=named.rpartition("=")[2]):
        find_adapters([named])


def test_a_base_that_is_gone_is_named(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "gone/base"}')
    with pytest.raises(ConfigError, match="gone/base"):
        base_of(tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_adapters_take_turns_on_one_base_and_answer_as_each_would_alone(tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from pipeline_lib.chat import prompt_ids
    from tests.publishing.tiny_llama import make_adapter, make_model

    base = make_model(tmp_path / "base")
    adapters = {name: make_adapter(tmp_path / name, base, seed) for seed, name in enumerate(("one", "two"))}
    asked = [{"role": "user", "content": "What is a list?"}]

    def alone(adapter: Path | None) -> str:
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(base)
        model = PeftModel.from_pretrained(model, adapter) if adapter else model
        ids = torch.tensor(prompt_ids(tokenizer, [asked]))
        whole = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False
        )
        return str(tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True))

    expected = {**{name: alone(path) for name, path in adapters.items()}, "base": alone(None)}
    assert len(set(expected.values())) == 3
    settings = {"max_new_tokens": 12, "temperature": 0, "system": None}
    talk = open_conversation(base_of(adapters["one"]), adapters, **settings)
    assert talk.speaking == "one"
    for name in ("one", "two", "base", "one", "base", "two"):
        talk.turn_to(name)
        assert "".join(talk.ask("What is a list?")) == expected[name]
    with pytest.raises(ConfigError, match="one, two, base"):
        talk.turn_to("three")
    other = make_model(tmp_path / "other", hidden_size=32)
    with pytest.raises(DataError, match="is no adapter for"):
        open_conversation(other, adapters, **settings)
    (adapters["one"] / "adapter_model.safetensors").rename(adapters["one"] / "adapter_model.bin")
    with pytest.raises(DataError, match="no adapter as safetensors"):
        open_conversation(base_of(adapters["two"]), adapters, **settings)
