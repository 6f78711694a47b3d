"""The training benchmark: lengths spread as told, batches whole, overhead by hand, every side walked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import training, training_work
from benchmarks.harness import main


@given(shares=st.lists(st.floats(0, 1), min_size=2, max_size=2).map(sorted))
def test_lengths_lie_between_the_known_ones_and_never_fall(shares: list[float]) -> None:
    short, long = (training_work.spread(share, training_work.ANSWER_WORDS) for share in shares)
    assert 1 <= short <= long <= training_work.ANSWER_WORDS[-1]


def test_known_shares_have_the_known_lengths_and_what_is_between_lies_straight() -> None:
    for share, words in zip(training_work.SHARES, training_work.PROMPT_WORDS, strict=True):
        assert training_work.spread(share, training_work.PROMPT_WORDS) == words
    assert training_work.spread(0.375, training_work.ANSWER_WORDS) == 20


def test_rates_are_medians_of_turns_and_overhead_is_that_of_five_minutes() -> None:
    turns = [(10.0, 9.9), (20.0, 12.0), (8.0, 7.9)]
    ours = [{"tokens": 1000.0, "seconds": s, "loop": loop, "whole": loop + 6.0} for s, loop in turns]
    bare = [{"tokens": 1000.0, "seconds": 9.5}]
    assert training.rate(ours) == 100.0
    # 300 s of the bare loop are 31,579 tokens: 312.6 s of our steps, and 6 s once.
    cost = training.overhead(ours, bare)
    assert cost.once == pytest.approx(6)
    assert cost.percent == pytest.approx(100 * (312.632 + 6 - 300) / 300, abs=1e-3)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    place = tmp_path_factory.mktemp("made")
    told = training_work.make(str(place), "40")
    assert told["dropped"] == 0
    return place, told["tokens"]


def test_the_bare_loop_gets_every_conversation_once_and_learns_no_padding(made: tuple[Path, int]) -> None:
    place, tokens = made
    batches = training_work.batches(place / "tokens", 0)
    assert [len(batch["cu_seq_lens_q"]) - 1 for batch in batches] == [16, 16, 8]
    assert sum(batch["input_ids"].numel() for batch in batches) == tokens
    for batch in batches:
        assert ((batch["labels"] == batch["input_ids"]) | (batch["labels"] == -100)).all()


def test_peers_read_the_conversations_that_the_stage_has_as_tokens(made: tuple[Path, int]) -> None:
    import pyarrow.parquet as pq
    from transformers import AutoTokenizer

    place, _ = made
    rows = json.loads((place / "alpaca.json").read_text())
    tokens = pq.read_table(place / "tokens" / "train-00000.parquet").to_pylist()
    tokenizer = AutoTokenizer.from_pretrained(place / "tokens" / "tokenizer")
    assert len(rows) == len(tokens) == 40
    for i, sequence in enumerate(tokens):
        said = tokenizer.decode(sequence["input_ids"])
        assert sequence["id"] == str(i)
        assert rows[i]["instruction"] in said
        assert rows[i]["output"] in said


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_side_that_is_installed_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FINETUNE_BENCH", str(tmp_path))
    monkeypatch.setattr(training, "QUICK_CONVERSATIONS", 32)
    main("training", training.cases, None, ["--quick", "--json"])
    cases = {case["peer"]: case for case in json.loads(capsys.readouterr().out)["cases"]}
    assert "a run without --quick installs it" in cases["LLaMA-Factory"]["skipped"]
    assert set(cases) == {"plain TRL script", "LLaMA-Factory", "bare torch loop", None}
    for peer in ("plain TRL script", "bare torch loop"):
        assert cases[peer]["ours"] > 0
        assert cases[peer]["theirs"] > 0
    assert cases[None]["unit"] == "%"
