"""Likelihoods from flat rows are those of padded ones, batch by batch and share by share."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib import likelihood
from pipeline_lib.evaluation.questions import Question
from pipeline_lib.likelihood import Share, flat_batches, foreseen, negative_log_likelihoods
from tests.evaluation.tiny_model import tiny_model

VOCABULARY = 256


@given(lengths=st.lists(st.integers(1, 3 * likelihood.FLAT_TOKENS // 2), max_size=40))
def test_a_flat_row_has_room_for_its_sequences_unless_one_alone_is_longer(lengths: list[int]) -> None:
    batches = list(flat_batches(lengths))
    assert sorted(place for batch in batches for place in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or sum(lengths[place] for place in batch) <= likelihood.FLAT_TOKENS


def questions() -> list[Question]:
    """Sequences of many lengths: one of a token, one learnt from its start, one with nothing learnt."""
    draw = random.Random(5)
    made = []
    for row, length in enumerate([1, 2, 9, 40, 17, 23, 60, 5]):
        ids = [draw.randrange(VOCABULARY) for _ in range(length)]
        mask = [row != 7 and (row == 2 or place >= length // 2) for place in range(length)]
        made.append(Question(row, str(row), ids, mask, length // 2))
    return made


def model(directory: Path, **config: Any) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    path = tiny_model(directory / "m")
    if not config:
        return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "initializer_range": 0.3}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": VOCABULARY}
    shape = AutoConfig.for_model(**{**small, **heads, **config})
    return AutoModelForCausalLM.from_config(shape).eval()


def measured(loaded: Any, asked: Sequence[Question], share: Share) -> list[tuple[int, float, int, int]]:
    said = [item for batch in foreseen(loaded, asked, 0, share) for item in batch]
    found = [item for batch in negative_log_likelihoods(loaded, asked, 0, share) for item in batch]
    return sorted(
        (one.row, one.nll, one.tokens, two.right) for one, two in zip(found, said, strict=True) if one.tokens
    )


def test_flat_and_padded_rows_have_the_same_likelihoods(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, asked = model(tmp_path), questions()
    monkeypatch.setattr(likelihood, "FLAT_TOKENS", 50)
    flat = measured(loaded, asked, Share())
    assert loaded.config._attn_implementation == "sdpa"
    shares = sorted(item for first in range(3) for item in measured(loaded, asked, Share(first, 3)))
    assert shares == flat
    monkeypatch.setattr(likelihood, "keeps_apart", lambda _: False)
    padded = measured(loaded, asked, Share())
    assert [item[2:] for item in flat] == [item[2:] for item in padded]
    assert [item[2] for item in flat] == [1, 8, 20, 9, 12, 30]
    assert [item[1] for item in flat] == pytest.approx([item[1] for item in padded], rel=1e-5)


def test_a_model_that_sees_a_window_alone_has_the_likelihoods_of_one_sequence_at_a_time(
    tmp_path: Path,
) -> None:
    loaded, asked = model(tmp_path, model_type="mistral", sliding_window=4), questions()
    alone = [item for question in asked for item in measured(loaded, [question], Share())]
    together = measured(loaded, asked, Share())
    assert [item[1] for item in together] == pytest.approx([item[1] for item in alone], rel=1e-5)
