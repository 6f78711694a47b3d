"""Packed sequences do not see each other, none is cut, and rows are as full as TRL's."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline_lib.core.errors import ConfigError
from pipeline_lib.flat_rows import BY_ATTENTION_ALONE, BY_SEQUENCE, register
from pipeline_lib.training.attention import takes_flat_rows
from pipeline_lib.training.packing import IGNORED, PackedCollator, pack, packed, packed_collator
from pipeline_lib.training.train import TrainConfig
from tests.training import tiny_training as tiny

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=60)


@given(lengths=LENGTHS, room=st.integers(8, 64))
def test_every_sequence_is_in_one_row_whole_and_no_row_is_over_its_room(
    lengths: list[int], room: int
) -> None:
    rows = pack(lengths, room)
    assert sorted(place for row in rows for place in row) == list(range(len(lengths)))
    for row in rows:
        assert len(row) == 1 or sum(lengths[place] for place in row) <= room


@pytest.mark.parametrize("seed", range(4))
def test_rows_are_at_least_as_full_as_trls(seed: int) -> None:
    from datasets import Dataset
    from trl.data_utils import pack_dataset

    lengths = random.Random(seed).choices(range(1, 41), k=300)
    data = Dataset.from_dict({"input_ids": [[1] * length for length in lengths]})
    assert len(pack(lengths, 40)) <= len(pack_dataset(data, 40))


def sequences(lengths: list[int]) -> Any:
    """Return sequences of distinct tokens, as the worker holds them."""
    import pyarrow as pa
    from datasets import Dataset

    ids = [[3 + (7 * i + j) % 90 for j in range(length)] for i, length in enumerate(lengths)]
    table = {"input_ids": ids, "labels": ids, "length": lengths}
    return Dataset(
        pa.table(
            table,
            schema=pa.schema(
                [
                    ("input_ids", pa.list_(pa.int32())),
                    ("labels", pa.list_(pa.int32())),
                    ("length", pa.int32()),
                ]
            ),
        )
    )


COMPILED = (pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning"))


@pytest.mark.usefixtures("one_thread")  # a sum over several is another one, by more than is allowed here
@pytest.mark.parametrize("kernel", ["sdpa", "eager", pytest.param("flex_attention", marks=COMPILED)])
def test_packed_logits_are_those_of_each_sequence_alone(tmp_path: Path, kernel: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    tiny.tiny_model(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path / "base", dtype=torch.float32, attn_implementation=kernel
    ).eval()
    alone = sequences([9, 5, 14, 3, 7, 1, 12])
    rows = packed(alone, 20)
    batch = PackedCollator(0)(rows.to_list())
    assert batch["input_ids"].shape == (len(rows), 20)
    with torch.no_grad():
        together = model(
            **{key: value for key, value in batch.items() if key != "labels"}, use_cache=False
        ).logits
        seen = []
        for i, row in enumerate(rows):
            start = 0
            for length in row["seq_lengths"]:
                ids = row["input_ids"][start : start + length]
                seen.append(tuple(ids))
                apart = model(torch.tensor([ids]), use_cache=False).logits[0]
                torch.testing.assert_close(together[i, start : start + length], apart, atol=1e-5, rtol=0)
                assert batch["labels"][i, start : start + length].tolist() == [IGNORED, *ids[1:]]
                start += length
            assert (batch["labels"][i, start:] == IGNORED).all()
    assert sorted(seen) == sorted(map(tuple, alone["input_ids"]))


def test_a_kernel_without_a_mask_gets_one_flat_row_and_where_each_sequence_ends(
    tmp_path: Path,
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    tiny.tiny_model(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32).eval()
    lengths = [9, 5, 14, 3, 7]
    rows = packed(sequences(lengths), 20)
    batch = packed_collator(0, flat=takes_flat_rows("flash_attention_2"))(rows.to_list())
    laid = [length for row in rows["seq_lengths"] for length in row]
    assert batch["input_ids"].shape == (1, sum(lengths))
    assert batch["cu_seq_lens_q"].diff().tolist() == laid
    assert batch["max_length_q"] == max(lengths)
    assert int((batch["labels"] == IGNORED).sum()) == len(lengths)
    positions = {name: batch[name] for name in ("input_ids", "position_ids")}
    with torch.no_grad():
        together = model(**positions, use_cache=False).logits[0].split(laid)
        for part, ids in zip(together, batch["input_ids"][0].split(laid), strict=True):
            alone = model(ids[None], use_cache=False).logits[0]
            torch.testing.assert_close(part, alone, atol=1e-5, rtol=0)


@tiny.LIBRARIES_WARN
def test_a_packed_training_has_the_loss_of_an_unpacked_one(tmp_path: Path) -> None:
    where = tiny.place(tmp_path)
    whole = {"batch_size": 24, "epochs": 3, "warmup_ratio": 0.0}
    one = tiny.train_here(where, "padded", batching="random", **whole)
    two = tiny.train_here(where, "packed", batching="packed", packed_length=40, **whole)
    assert two.losses == pytest.approx(one.losses, abs=1e-5)
    assert two.stats["tokens"] == one.stats["tokens"]
    assert two.stats["eval_loss"] == pytest.approx(one.stats["eval_loss"], abs=1e-5)
    assert 0 < two.stats["model_flop_utilisation"] < 1


@tiny.LIBRARIES_WARN
@pytest.mark.parametrize("batching", ["packed", "group_by_length"])
def test_a_training_says_how_far_neighbours_in_a_row_were_seen(tmp_path: Path, batching: str) -> None:
    done = tiny.train_here(tiny.place(tmp_path), "done", batching=batching, epochs=1)
    assert done.stats["neighbour_influence"] < 1e-4


READS_ON: dict[str, dict[str, Any]] = {
    "mamba": {"state_size": 4},
    "bloom": {"n_layer": 2, "n_head": 2},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "gpt_oss": {"head_dim": 16, "num_local_experts": 2, "num_experts_per_tok": 1},
}
"""A state; positions counted by an attention mask; a convolution; positions not passed on."""


@tiny.LIBRARIES_WARN
@pytest.mark.parametrize("kind", READS_ON)
def test_a_model_that_reads_on_to_the_next_sequence_of_a_row_is_not_trained(
    tmp_path: Path, kind: str
) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    where = tiny.place(tmp_path)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    heads = {"num_key_value_heads": 1, "vocab_size": 2000, "pad_token_id": 0, "initializer_range": 0.2}
    config = AutoConfig.for_model(kind, **{**shape, **heads, **READS_ON[kind]})
    AutoModelForCausalLM.from_config(config).save_pretrained(where.base)
    with pytest.raises(ConfigError, match=f"a {kind} model reads on .* take train.batching=group_by_length"):
        tiny.train_here(where, "packed", method="full", batching="packed", packed_length=40)
    done = tiny.train_here(where, "padded", method="full", epochs=1)
    assert done.stats["neighbour_influence"] is None


MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "phi3": {"pad_token_id": 0},
    "gemma": {"head_dim": 16},
    "olmo2": {},
    "smollm3": {"pad_token_id": 0},
    "granite": {},
}


@pytest.mark.parametrize("kind", BY_ATTENTION_ALONE)
def test_each_sequence_of_a_flat_row_attends_to_itself_alone(kind: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = AutoConfig.for_model(
        kind,
        vocab_size=100,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        **MODELS[kind],
    )
    register()
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(shape, attn_implementation=BY_SEQUENCE).eval()
    lengths = [9, 5, 14, 3]
    data = sequences(lengths)
    batch = packed_collator(0, flat=True)(data.select_columns(["input_ids", "labels"]).to_list())
    with torch.no_grad():
        row = model(**{name: batch[name] for name in batch if name != "labels"}, use_cache=False)
        model.set_attn_implementation("eager")
        for part, ids in zip(row.logits[0].split(lengths), data["input_ids"], strict=True):
            alone = model(torch.tensor([ids]), use_cache=False).logits[0]
            torch.testing.assert_close(part, alone, atol=1e-5, rtol=0)


@tiny.LIBRARIES_WARN
def test_a_training_over_flat_rows_has_the_figures_of_a_padded_one(tmp_path: Path) -> None:
    where = tiny.place(tmp_path)
    flat = tiny.train_here(where, "flat", batching="random", eval_steps=1)
    padded = tiny.train_here(where, "padded", batching="random", eval_steps=1, attn_implementation="sdpa")
    assert flat.losses == pytest.approx(padded.losses, abs=1e-4)
    for name in ("eval_loss", "mean_token_accuracy", "grad_norm"):
        ours, theirs = ([point[name] for point in run.history if name in point] for run in (flat, padded))
        assert ours == pytest.approx(theirs, abs=1e-3)
        assert ours


def test_packing_is_refused_where_rows_of_several_sequences_mean_nothing() -> None:
    for values in ({"objective": "dpo"}, {"method": "prefix_tuning"}):
        with pytest.raises(ValidationError, match="batching packed is for the objective sft"):
            TrainConfig.model_validate({"batching": "packed", **values})
