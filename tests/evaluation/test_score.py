"""Likelihoods and answers against the plainest loop: one conversation at a time, all logits, no cache."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline_lib import chat, likelihood, records
from pipeline_lib.evaluation import generate
from pipeline_lib.evaluation.generate import Decoding, generate_answers, generate_batches
from pipeline_lib.evaluation.questions import Question, chosen, read_questions, settle_template
from pipeline_lib.likelihood import Share, negative_log_likelihoods, packed
from tests.evaluation.tiny_model import tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")
POSITIONS = 160
WORDS = ("list", "dict", "open", "the", "a", "of", "returns", "value", "None", "key", "while", "x1", "naïve")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        tiny_model(tmp_path_factory.mktemp("m"), POSITIONS), dtype=torch.float32
    ).eval()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model(tmp_path_factory.mktemp("t"), POSITIONS))


def conversations(count: int, seed: int = 0) -> list[list[dict[str, Any]]]:
    chance = random.Random(seed)

    def text() -> str:
        return " ".join(chance.choices(WORDS, k=chance.randint(1, 6)))

    made = []
    for _ in range(count):
        turns = [records.message("system", text())] * chance.randint(0, 1)
        for _ in range(chance.randint(1, 2)):
            turns += [records.message("user", text()), records.message("assistant", text())]
        made.append(turns)
    return made


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> list[Question]:
    directory = tmp_path_factory.mktemp("d")
    rows = [{"id": f"id{i}", "messages": messages} for i, messages in enumerate(conversations(24))]
    with records.DatasetWriter(directory, parts=("test",)) as writer:
        writer.write("test", records.from_rows(rows))
    read = read_questions([directory / "test-00000.parquet"], tokenizer, POSITIONS)
    return [item for item in read if isinstance(item, Question)]


def plain_likelihood(model: Any, question: Question) -> tuple[float, int]:
    ids = torch.tensor([question.ids])
    with torch.no_grad():
        chances = torch.log_softmax(model(input_ids=ids).logits[0].double(), dim=-1)
    learnt = [i for i in range(1, len(question.ids)) if question.mask[i]]
    return -sum(float(chances[i - 1, question.ids[i]]) for i in learnt), len(learnt)


def plain_answer(model: Any, prompt: list[int], stops: list[int], room: int) -> list[int]:
    ids = list(prompt)
    for _ in range(room):
        with torch.no_grad():
            token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        ids.append(token)
        if token in stops:
            break
    return ids[len(prompt) :]


def test_a_question_is_the_training_tokens_and_its_prompt_the_generation_prompt(
    questions: list[Question], tokenizer: Any
) -> None:
    talks = conversations(24)
    trained = chat.encode(tokenizer, [chat.pieces(tokenizer, messages) for messages in talks])
    prompts = chat.prompt_ids(tokenizer, [messages[:-1] for messages in talks])
    fits = [i for i, encoded in enumerate(trained) if len(encoded.ids) <= POSITIONS]
    asked = {question.row: question for question in questions}
    assert len(fits) > 10
    for i in fits:
        assert (asked[i].ids, asked[i].mask, asked[i].prompt) == (trained[i].ids, trained[i].mask, prompts[i])


def test_batched_likelihoods_are_those_of_one_conversation_at_a_time(
    model: Any, questions: list[Question]
) -> None:
    found = {item.row: item for batch in negative_log_likelihoods(model, questions, pad=1) for item in batch}
    assert set(found) == {question.row for question in questions}
    for question in questions:
        nll, tokens = plain_likelihood(model, question)
        assert found[question.row].tokens == tokens
        assert found[question.row].nll == pytest.approx(nll, rel=1e-4)


@pytest.mark.parametrize("flat", [True, False])
def test_every_token_is_measured_beside_the_learnt_ones(
    model: Any, questions: list[Question], flat: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(likelihood, "keeps_apart", lambda _: flat)
    batches = negative_log_likelihoods(model, questions, pad=1, every_token=True)
    found = {item.row: item for batch in batches for item in batch}
    for question in questions:
        one, whole = found[question.row], replace(question, mask=[True] * len(question.ids))
        assert (one.tokens, one.whole_tokens) == (sum(question.mask[1:]), len(question.ids) - 1)
        assert one.nll == pytest.approx(plain_likelihood(model, question)[0], rel=1e-4)
        assert one.whole_nll == pytest.approx(plain_likelihood(model, whole)[0], rel=1e-4)


def test_a_limit_on_logits_costs_passes_and_changes_nothing(
    model: Any, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [item for batch in negative_log_likelihoods(model, questions, pad=1) for item in batch]
    monkeypatch.setattr(likelihood, "LOGITS_AT_ONCE", 7 * model.config.vocab_size)
    parts = [item for batch in negative_log_likelihoods(model, questions, pad=1) for item in batch]
    assert [item.tokens for item in parts] == [item.tokens for item in whole]
    assert [item.nll for item in parts] == pytest.approx([item.nll for item in whole], rel=1e-5)


@pytest.mark.parametrize("thin_from", [2, 1000])
def test_batched_answers_are_those_of_one_prompt_at_a_time(
    model: Any, questions: list[Question], monkeypatch: pytest.MonkeyPatch, thin_from: int
) -> None:
    monkeypatch.setattr(generate, "THIN_FROM", thin_from)
    # Every fifth token stops: rows finish at different times, so batches thin out more than once.
    stops = list(range(0, model.config.vocab_size, 5))
    decoding = Decoding(max_new_tokens=24, temperature=0.0, stop_ids=stops, pad_id=1)
    found = {
        answer.row: answer
        for batch in generate_answers(model, questions, decoding, POSITIONS)
        for answer in batch
    }
    lengths = set()
    for question in questions:
        said = plain_answer(model, question.prompt, stops, min(24, POSITIONS - question.prompt_length))
        answer = found[question.row]
        assert answer.ids + said[len(answer.ids) :] == said
        assert answer.stopped == (said[-1] in stops)
        assert answer.tokens == len(said)
        lengths.add(len(said))
    assert len(lengths) > 3


OTHERS: dict[str, dict[str, Any]] = {
    "bamba": {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 4, "attn_layer_indices": [1]},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "gemma3_text": {
        "head_dim": 16,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "recurrent_gemma": {
        "head_dim": 16,
        "lru_width": 32,
        "attention_window_size": 64,
        "block_types": ["recurrent", "attention"],
    },
}
"""States and convolutions, which a cache has beside keys and values; a window; one that looks at padding."""


@pytest.mark.parametrize("kind", OTHERS)
def test_other_architectures_answer_and_score_in_batches_as_one_by_one(
    questions: list[Question], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    monkeypatch.setattr(generate, "THIN_FROM", 2)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    rest = {"num_key_value_heads": 1, "vocab_size": 300, "max_position_embeddings": POSITIONS}
    config = AutoConfig.for_model(kind, **{**shape, **rest, "initializer_range": 0.2, **OTHERS[kind]})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    assert generate.looks_at_padding(model, questions[0].prompt, 1) == (kind == "recurrent_gemma")
    stops = list(range(0, 300, 5))
    decoding = Decoding(max_new_tokens=12, temperature=0.0, stop_ids=stops, pad_id=1)
    some = questions[:10]
    for answer in (one for batch in generate_answers(model, some, decoding, POSITIONS) for one in batch):
        question = next(one for one in some if one.row == answer.row)
        said = plain_answer(model, question.prompt, stops, min(12, POSITIONS - question.prompt_length))
        assert answer.ids == (said[:-1] if answer.stopped else said)
    for likely in (one for batch in negative_log_likelihoods(model, some, 1) for one in batch):
        question = next(one for one in some if one.row == likely.row)
        assert (likely.nll, likely.tokens) == pytest.approx(plain_likelihood(model, question), rel=1e-5)


def test_the_shares_of_several_processes_make_up_the_whole(
    model: Any, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(likelihood, "BATCH_ROWS", 5)
    whole = [item for batch in negative_log_likelihoods(model, questions, pad=1) for item in batch]
    shares = [
        item
        for first in range(3)
        for batch in negative_log_likelihoods(model, questions, 1, Share(first, 3))
        for item in batch
    ]
    assert sorted(shares, key=lambda item: item.row) == sorted(whole, key=lambda item: item.row)


def test_samples_depend_on_the_seed_alone(model: Any, questions: list[Question]) -> None:
    def sampled(seed: int) -> list[list[int]]:
        decoding = Decoding(max_new_tokens=8, temperature=1.0, stop_ids=[0], pad_id=1, seed=seed)
        return [
            answer.ids
            for batch in generate_answers(model, questions, decoding, POSITIONS)
            for answer in batch
        ]

    assert sampled(1) == sampled(1) != sampled(2)


def test_no_row_is_generated_beyond_the_models_positions() -> None:
    lengths = [3, 90, 95, 97, 50, 3]
    for padded in (True, False):
        batches = list(generate_batches(lengths, 16, 100, padded=padded))
        assert sorted(place for places, _ in batches for place in places) == list(range(6))
        for places, room in batches:
            assert all(room == min(16, 100 - lengths[place]) for place in places)
            assert padded or len({lengths[place] for place in places}) == 1


def test_batches_hold_every_place_once_and_keep_their_limits() -> None:
    chance = random.Random(3)
    lengths = [chance.randint(1, 90) for _ in range(200)]
    batches = list(packed(lengths, 8, lambda rows, longest: rows * longest <= 300))
    assert sorted(place for batch in batches for place in batch) == list(range(200))
    assert all(len(batch) <= 8 for batch in batches)
    assert all(len(batch) * max(lengths[place] for place in batch) <= 300 for batch in batches)


def test_the_choice_of_questions_is_stable_when_others_are_added(questions: list[Question]) -> None:
    some = {question.id for question in chosen(questions[:20], 10)}
    more = {question.id for question in chosen(questions, 10)}
    assert len(some) == 10
    assert len(some - more) <= len(questions) - 20
    assert chosen(questions[::-1], 10) == chosen(questions, 10)


def test_a_tokenizer_without_a_template_gets_the_markers(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    bare = AutoTokenizer.from_pretrained(tiny_model(tmp_path / "bare", template=None))
    settle_template(bare, None)
    assert bare.chat_template == chat.MARKER_TEMPLATE
