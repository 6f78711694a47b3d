"""The stage keeps or drops every conversation, with the reason and the evidence, as its preset says."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenizers import Tokenizer

from pipeline_lib import records
from pipeline_lib.core.errors import ConfigError
from pipeline_lib.core.output import Output
from pipeline_lib.core.store import Store
from pipeline_lib.curation.filter import FilterConfig, filter
from pipeline_lib.curation.quality.verdicts import verdicts
from pipeline_lib.kinds import Dataset, Model
from pipeline_lib.training.base_model import BaseModelConfig, base_model
from tests.curation.conftest import Workshop
from tests.evaluation.tiny_model import tiny_model

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
Row = dict[str, Any]


def exchange(prompt: str, answer: str, **extra: Any) -> Row:
    """Return a conversation of one prompt and one answer."""
    return {"messages": [records.message("user", prompt), records.message("assistant", answer)], **extra}


def text(content: str) -> Row:
    """Return a plain text."""
    return {"messages": [records.message("text", content)]}


def reasons(rows: list[Row], **config: Any) -> list[str | None]:
    """Return the reason of each row's drop, or None."""
    limits = FilterConfig(**config)
    found = verdicts(records.from_rows(rows), limits, limits)
    return [verdict[0] if verdict else None for verdict in found]


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., tuple[Output, list[Row], list[Row]]]:
    """Return a function that runs the stage on rows in shards of the given sizes."""

    def ran(rows: list[Row], shard: int, name: str, **config: Any) -> tuple[Output, list[Row], list[Row]]:
        source, target = tmp_path / f"{name}-in", tmp_path / f"{name}-out"
        source.mkdir()
        target.mkdir()
        for start in range(0, max(len(rows), 1), shard):
            table = pa.Table.from_batches([records.from_rows(rows[start : start + shard])])
            pq.write_table(table, source / f"kept-{start:05d}.parquet")
        out = Output("filter", target, tmp_path / "work")
        filter.function(out, FilterConfig(**config), Dataset(source, "digest"))
        written = Dataset(target, "digest")
        return out, list(records.rows(written.shards("kept"))), list(records.rows(written.shards("dropped")))

    return ran


def mixed() -> list[Row]:
    """Return rows of which every third is dropped."""
    answers = (
        "Blue, as a rule.",
        "",
        "TODO",
        "Green in the evening.",
        "Red.",
        "As an AI language model, I see none.",
    )
    return [exchange(f"Which colour has thing {i}?", answers[i % 6], id=f"{i:03d}") for i in range(60)]


def test_what_is_read_is_kept_or_dropped_to_the_row(run: Any) -> None:
    out, kept, dropped = run(mixed(), 17, "a")
    assert out.stats == {
        "read": 60,
        "kept": 30,
        "dropped": 30,
        "reasons": {"empty_answer": 10, "placeholder": 10, "refusal": 10},
    }
    assert sorted(row["id"] for row in kept + dropped) == [row["id"] for row in mixed()]
    assert [row["id"] for row in kept] == sorted(row["id"] for row in kept)
    assert {row["detail"] for row in dropped} == {
        "answer 1 of 1 is empty",
        "'TODO'",
        "'as an ai language model'",
    }


def test_how_rows_are_sharded_does_not_change_a_byte(run: Any, tmp_path: Path) -> None:
    run(mixed(), 60, "one")
    run(mixed(), 7, "many")
    names = sorted(path.name for path in (tmp_path / "one-out").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "many-out").iterdir())
    for name in names:
        assert (tmp_path / "one-out" / name).read_bytes() == (tmp_path / "many-out" / name).read_bytes()


def test_an_empty_dataset_stays_empty(run: Any) -> None:
    out, kept, dropped = run([], 1, "empty")
    assert (out.stats["read"], kept, dropped) == (0, [], [])


def test_a_pair_needs_two_different_answers_and_a_good_one_to_prefer() -> None:
    def pair(chosen: str, rejected: str) -> Row:
        messages = [records.message("user", "Who wrote Faust?")]
        answers = {
            "chosen": [records.message("assistant", chosen)],
            "rejected": [records.message("assistant", rejected)],
        }
        return {"messages": messages, **answers}

    rows = [
        pair("Goethe.", "Schiller."),
        pair("Goethe.", "Goethe."),
        pair("TODO", "Goethe."),
        pair("Goethe.", "TODO"),
    ]
    assert reasons([*rows, pair("Goethe.", "")]) == [None, "equal_pair", "placeholder", None, "empty_answer"]


def test_an_answer_labelled_bad_is_kept_as_it_is() -> None:
    rows = [exchange("Who?", "As an AI language model, no.", label=label) for label in (True, False, None)]
    assert reasons(rows) == ["refusal", None, "refusal"]


def test_web_rules_judge_texts_and_answers_only_where_the_config_says_so() -> None:
    rows = [text("Too short a page."), exchange("Why?", "Because it rained.")]
    assert reasons(rows) == [None, None]
    assert reasons(rows, web_rules="texts") == ["too_few_words", None]
    assert reasons(rows, preset="web") == ["too_few_words", "too_few_words"]
    assert reasons(rows, preset="web", web_rules="texts") == ["too_few_words", None]


def test_code_may_end_and_repeat_as_it_likes() -> None:
    rows = [exchange("Print it.", "print(1)\n" * 40), exchange("Page?", "<div><p>text</p>")]
    assert reasons(rows) == ["repetition", "broken_markup"]
    assert reasons(rows, preset="code") == [None, None]


@given(st.lists(st.tuples(st.text(max_size=40), st.text(max_size=40)), min_size=1, max_size=5))
def test_the_preset_none_keeps_everything(pairs: list[tuple[str, str]]) -> None:
    rows = [exchange(prompt, answer) for prompt, answer in pairs] + [text(answer) for _, answer in pairs]
    assert reasons(rows, preset="none") == [None] * len(rows)


@given(st.lists(st.text(max_size=200), min_size=1, max_size=8))
def test_a_conversation_is_judged_alone(answers: list[str]) -> None:
    rows = [exchange("Why?", answer) for answer in answers] + [text(answer) for answer in answers]
    limits = {"web_rules": "texts"}
    assert reasons(rows, **limits) == [reasons([row], **limits)[0] for row in rows]


def test_what_the_config_states_wins_over_its_preset() -> None:
    assert FilterConfig(preset="code").cut_off is False
    assert FilterConfig(preset="code", cut_off=True).cut_off is True
    assert FilterConfig.model_validate({"max_answer_characters": False}).max_answer_characters is None
    stated = FilterConfig(preset="chat")
    assert FilterConfig.model_validate(stated.model_dump()) == stated


def test_every_rule_is_switched_off_by_the_preset_none() -> None:
    off = FilterConfig(preset="none")
    families = ("gopher", "c4", "fineweb")
    assert off.web_rules == "none"
    assert [name for name, value in off if value is True and not name.startswith(families)] == []
    assert (off.min_answer_characters, off.max_word_share, off.toxic_words) == (None, None, ())


def test_every_threshold_says_what_it_is() -> None:
    assert [name for name, field in FilterConfig.model_fields.items() if not field.description] == []


@pytest.mark.parametrize(
    "values",
    [
        {"preset": "prose"},
        {"min_answer_characters": -1},
        {"max_word_share": 2},
        {"max_word_share": True},
        {"treshold": 1},
    ],
)
def test_a_wrong_config_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FilterConfig.model_validate(values)


@pytest.mark.parametrize(
    ("file", "preset", "most"),
    [
        ("alpagasus/data/random/random_9k.json", "instruct", 0.005),
        ("alpagasus/data/filtered/dolly_3k.json", "instruct", 0.005),
        ("chatdoctor/chatdoctor5k.json", "instruct", 0.002),
        ("codealpaca/data/code_alpaca_2k.json", "code", 0.005),
    ],
)
def test_defaults_leave_real_instruction_data_standing(file: str, preset: str, most: float) -> None:
    if not (DATA / file).exists():
        pytest.skip("the public data sets are not on this machine")
    listed = json.loads((DATA / file).read_text(encoding="utf-8"))
    rows = [exchange(f"{row['instruction']}\n{row['input']}", row["output"]) for row in listed]
    found = Counter(reasons(rows, preset=preset))
    empty = sum(not row["output"].strip() for row in listed)
    assert found["empty_answer"] == empty
    assert (len(rows) - found[None]) / len(rows) <= most


def test_unfilled_templates_are_found_in_real_data() -> None:
    file = DATA / "llama-factory" / "data" / "identity.json"
    if not file.exists():
        pytest.skip("the public data sets are not on this machine")
    listed = json.loads(file.read_text(encoding="utf-8"))
    rows = [exchange(row["instruction"], row["output"]) for row in listed]
    assert Counter(reasons(rows)) == {"placeholder": 85, None: 6}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The bundled base model in a store."""
    store = Store(tmp_path_factory.mktemp("store"))
    return store.materialize(base_model.recipe(BaseModelConfig(source="bundled/pydocs-5m"))).artifact


def test_lengths_in_tokens_are_those_of_the_models_own_tokenizer(workshop: Workshop, base: Model) -> None:
    tokenizer = Tokenizer.from_file(str(base.path / "tokenizer.json"))
    words = ("list", "of", "naïve", "Zürich", "values;", "x = y[1]")
    rows = [exchange(" ".join(words), " ".join(words * i), id=f"{i:02d}") for i in range(1, 13)]
    answers, asked = (
        [len(tokenizer.encode(row["messages"][i]["content"]).ids) for row in rows] for i in (1, 0)
    )
    cases: list[tuple[str, list[int], Callable[[int], bool], str]] = [
        ("min_answer_tokens", answers, lambda length: length < 60, "few_answer_tokens"),
        ("max_answer_tokens", answers, lambda length: length > 60, "many_answer_tokens"),
        (
            "max_conversation_tokens",
            [a + b + 1 for a, b in zip(answers, asked, strict=True)],
            lambda length: length > 60,
            "long_conversation",
        ),
    ]
    for field, lengths, falls, reason in cases:
        config = FilterConfig.model_validate({"preset": "none", field: 60})
        made = workshop.store.materialize(filter.recipe(config, workshop.dataset(rows), base)).artifact
        dropped = {row["id"]: row["reason"] for row in records.rows(made.shards("dropped"))}
        expected = {row["id"]: reason for row, n in zip(rows, lengths, strict=True) if falls(n)}
        assert dropped == expected
        assert 0 < len(dropped) < len(rows)


def test_limits_in_tokens_need_a_tokenizer(workshop: Workshop) -> None:
    recipe = filter.recipe(FilterConfig(max_answer_tokens=9), workshop.dataset(mixed()))
    with pytest.raises(ConfigError, match="base_model"):
        workshop.store.materialize(recipe)


def test_what_was_kept_of_one_tokenizer_is_not_taken_for_another(
    workshop: Workshop, base: Model, tmp_path: Path
) -> None:
    other = workshop.store.materialize(
        base_model.recipe(BaseModelConfig(source=str(tiny_model(tmp_path / "bytes"))))
    ).artifact
    rows = workshop.dataset([exchange("Say it.", "a list of the values", id="1")])
    config = FilterConfig(preset="none", max_answer_tokens=12)
    kept = [
        workshop.store.materialize(filter.recipe(config, rows, model)).artifact.count()
        for model in (base, other)
    ]
    assert kept == [1, 0]
