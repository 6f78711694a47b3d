"""A new model has the shape asked for, random weights, and a tokenizer that loses no character."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline_lib.core.errors import DataError
from pipeline_lib.core.store import Store
from pipeline_lib.curation.split import SplitConfig, split
from pipeline_lib.kinds import Model
from pipeline_lib.training.initialize import END, PAD, ROLE_TOKENS, InitializeConfig, initialize
from pipeline_lib.training.token_shards import load_tokenizer
from tests.curation.conftest import Workshop, chat

TINY = InitializeConfig(
    vocab_size=512, hidden_size=32, intermediate_size=48, layers=2, heads=2, max_positions=64
)
WORDS = [
    a + b + c
    for a in ("str", "pl", "qu", "ba")
    for b in ("ea", "o", "u", "i")
    for c in ("nd", "mp", "st", "k", "rt")
]
ROWS = [
    chat(
        f"What does {WORDS[i]}_{WORDS[-i]} return?",
        f"It returns the number {WORDS[i * 7 % 80]} of {WORDS[::-1][i].upper()}, or {i * 977}.",
        name=str(i),
    )
    for i in range(80)
]


def made(root: Path, config: InitializeConfig = TINY) -> Model:
    """Return a new model for the rows, in a store of its own."""
    shop = Workshop(Store(root))
    dataset = shop.run(split, SplitConfig(minimum=0), ROWS)
    return shop.store.materialize(initialize.recipe(config, dataset)).artifact


def test_the_model_has_its_shape_and_generates_tokens_of_its_tokenizer(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(made(tmp_path).path)
    assert (model.config.num_hidden_layers, model.config.hidden_size, model.config.vocab_size) == (2, 32, 512)
    assert model.config.tie_word_embeddings
    assert model.get_input_embeddings().weight.std() < 0.05


def test_the_tokenizer_reads_any_text_back_and_knows_turns(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(made(tmp_path).path)
    for written in ("naïve\n\n\tx = 1  # ünïcode 你好 \U0001f600", "It returns the number 7"):
        assert tokenizer.decode(tokenizer(written)["input_ids"]) == written
    assert (tokenizer.eos_token, tokenizer.pad_token, len(tokenizer)) == (END, PAD, 512)
    assert all(len(tokenizer(token)["input_ids"]) == 1 for token in (END, PAD, *ROLE_TOKENS))
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    assert rendered == f"<|user|>\nx{END}\n"
    assert len(tokenizer("returns the number")["input_ids"]) < 8


def test_the_same_recipe_makes_the_same_bytes_and_another_seed_other_weights(tmp_path: Path) -> None:
    first, again = made(tmp_path / "a"), made(tmp_path / "b")
    assert first.digest == again.digest
    assert made(tmp_path / "a", TINY.model_copy(update={"seed": 1})).digest != first.digest


def test_too_little_text_for_the_vocabulary_stops_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"yields \d+ tokens, not 5000; lower initialize\.vocab_size"):
        made(tmp_path, TINY.model_copy(update={"vocab_size": 5000}))


@pytest.mark.parametrize(("width", "heads"), [(100, 3), (48, 16)])
def test_heads_that_do_not_divide_the_width_are_refused(width: int, heads: int) -> None:
    with pytest.raises(ValidationError, match=f"hidden_size {width} does not give {heads} heads"):
        InitializeConfig(hidden_size=width, heads=heads)
