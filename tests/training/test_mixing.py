"""Several sources in one run: the shares of a pass, replay, and weights that are held on to."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib.core.errors import ConfigError
from pipeline_lib.training.mixing import MixConfig, places
from tests.training.tiny_training import LIBRARIES_WARN, Place, Run, place, train_here

SOURCES = ["large"] * 900 + ["small"] * 90 + ["tiny"] * 10


def counted(sources: list[str], config: MixConfig, seed: int = 0) -> Counter[str]:
    return Counter(sources[i] for i in places(sources, config, seed))


def test_proportional_sampling_is_every_sequence_once() -> None:
    assert list(places(SOURCES, MixConfig(), 0)) == list(range(1000))


def test_equal_sampling_gives_every_source_a_third_and_no_sequence_twice_more_than_another() -> None:
    chosen = places(SOURCES, MixConfig(sampling="equal"), 0)
    assert sorted(Counter(SOURCES[i] for i in chosen).values()) == [333, 333, 334]
    tiny = Counter(int(i) for i in chosen if SOURCES[i] == "tiny")
    assert len(tiny) == 10
    assert max(tiny.values()) - min(tiny.values()) <= 1


def test_blocks_of_documents_have_no_source_to_weigh() -> None:
    with pytest.raises(ConfigError, match=r"documents are laid end to end.*ingest\.sources"):
        places([""] * 5, MixConfig(sampling="equal"), 0)


def test_temperature_lies_between_the_two() -> None:
    """Shares go as the square root of the sizes: 30, 9.49 and 3.16 of 42.65."""
    shares = counted(SOURCES, MixConfig(sampling="temperature", temperature=2))
    assert shares == {"large": 703, "small": 223, "tiny": 74}


def test_replayed_data_are_the_share_that_was_asked_for() -> None:
    config = MixConfig(replay_sources=("large",), replay_share=0.2)
    shares = counted(SOURCES, config)
    assert shares == {"large": 25, "small": 90, "tiny": 10}


@given(
    st.lists(st.sampled_from("abcd"), min_size=1, max_size=60),
    st.sampled_from(["proportional", "equal", "temperature"]),
    st.integers(0, 5),
)
def test_without_replay_a_pass_is_as_long_as_the_split_and_the_same_for_a_seed(
    sources: list[str], sampling: str, seed: int
) -> None:
    config = MixConfig(sampling=sampling)  # type: ignore[arg-type]
    chosen = places(sources, config, seed)
    assert len(chosen) == len(sources)
    assert list(chosen) == list(places(sources, config, seed)) == sorted(chosen)


def test_an_unknown_replay_source_is_told_with_those_that_are_there() -> None:
    with pytest.raises(ConfigError, match="no source wiki; there are large, small, tiny"):
        places(SOURCES, MixConfig(replay_sources=("wiki",)), 0)
    with pytest.raises(ConfigError, match="all the data there is"):
        places(SOURCES, MixConfig(replay_sources=("large", "small", "tiny")), 0)


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return place(tmp_path_factory.mktemp("mixing"))


def distance(where: Place, run: Run) -> float:
    before = Run(where.base, where.base).weights("model.safetensors")
    return float(
        sum((w - before[name]).square().sum() for name, w in run.weights("model.safetensors").items()) ** 0.5
    )


@LIBRARIES_WARN
def test_consolidation_forgets_less_of_the_general_data_than_training_without(where: Place) -> None:
    """The loss on the replayed sequences, none of which is trained on, rises less."""
    import torch
    from transformers import AutoModelForCausalLM

    from pipeline_lib.training.token_shards import TokenWriter, load_tokenizer

    tokens = where.root / "two-sources"
    tokens.mkdir()
    general = [[200 + (i + j) % 40 for j in range(10)] for i in range(12)]
    task = [[5 + (i * 7 + j) % 50 for j in range(10)] for i in range(24)]
    for part in ("train", "validation"):
        with TokenWriter(tokens, part) as writer:
            for source, rows in (("general", general), ("task", task)):
                for i, ids in enumerate(rows):
                    writer.keep(f"{i}", ids, [True] * 10, stops=True, truncated=False, source=source)
    load_tokenizer(where.base).save_pretrained(tokens / "tokenizer")

    def forgotten(model: Path) -> float:
        held = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        ids = torch.tensor(general)
        with torch.no_grad():
            return float(held(ids, labels=ids).loss)

    values = {"method": "full", "learning_rate": 5e-3, "epochs": 2}
    mix = {"replay_sources": ["general"], "replay_share": 0.0}
    free = train_here(where, "free", tokens, mix=mix, **values)
    held = train_here(where, "held", tokens, mix={**mix, "ewc_strength": 100.0}, **values)
    assert free.stats["steps"] == held.stats["steps"] == 12
    assert free.stats["sources"] == {"task": 24}
    before = forgotten(where.base)
    assert forgotten(held.out) - before < 0.7 * (forgotten(free.out) - before)
    assert distance(where, held) < distance(where, free)
