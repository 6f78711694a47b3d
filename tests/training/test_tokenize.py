"""Tokens unpack to what was said, every conversation is accounted for, and hopeless data stop the run."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline_lib import records
from pipeline_lib.chat import MARKER_TEMPLATE
from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.errors import ConfigError, DataError
from pipeline_lib.core.output import Output
from pipeline_lib.core.stage import stage
from pipeline_lib.core.store import Store
from pipeline_lib.curation.fates import trace, unlearnt
from pipeline_lib.kinds import Dataset, Model, Tokens
from pipeline_lib.settings import settings
from pipeline_lib.training.token_shards import load_tokenizer
from pipeline_lib.training.tokenize import TokenizeConfig, as_document, tokenize
from tests.curation.conftest import Row, chat, message, pair, text

END = "<|endoftext|>"
POSITIONS = 1024
REFUSING = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    + MARKER_TEMPLATE
)
ENDLESS = MARKER_TEMPLATE.replace("+ eos_token", "")
FORGETFUL = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ 'Q: ' + m['content'] + '\nA:' }}"
    "{% elif loop.last %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
"""Renders an answer only where it is the last turn."""


class Given(StageConfig):
    """Rows of both splits, or a chat template and the number of embeddings."""

    train: str = "[]"
    validation: str = "[]"
    template: str = ""
    rows: int = 0


@stage(produces=Dataset, version=1)
def splits(out: Output, config: Given) -> None:
    """The rows as splits."""
    with records.DatasetWriter(out.path, ("train", "validation", "test")) as writer:
        for part in ("train", "validation"):
            writer.write(part, records.from_rows(json.loads(getattr(config, part))))


@stage(produces=Model, version=1)
def bytes_only(out: Output, config: Given) -> None:
    """A tokenizer with one token for each byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    ends = {
        "no end": {"pad_token": "<|pad|>"},
        "no end, no pad": {},
    }.get(config.template, {"eos_token": END})
    made = PreTrainedTokenizerFast(
        tokenizer_object=bpe, clean_up_tokenization_spaces=False, model_max_length=256, **ends
    )
    made.chat_template = config.template
    made.save_pretrained(out.path)
    shape = {"max_position_embeddings": POSITIONS, "vocab_size": config.rows or len(made)}
    (out.path / "config.json").write_text(json.dumps(shape))


def run(
    root: Path,
    rows: list[Row],
    config: TokenizeConfig,
    template: str = MARKER_TEMPLATE,
    validation: list[Row] | None = None,
    rows_of_base: int = 0,
) -> Tokens:
    """Return the tokens of the rows, having counted that none was lost."""
    store = Store(root)
    given = Given(train=json.dumps(rows), validation=json.dumps(validation or []))
    dataset = store.materialize(splits.recipe(given)).artifact
    base = store.materialize(bytes_only.recipe(Given(template=template, rows=rows_of_base))).artifact
    made = store.materialize(tokenize.recipe(config, dataset, base)).artifact
    stats = made.manifest.stats["train"]
    assert stats["read"] == len(rows) == stats["kept"] + stats["dropped"]
    assert stats["dropped"] == len(dropped(made))
    return made


def table(tokens: Tokens, part: str = "train") -> list[Row]:
    """Return the sequences of a part."""
    return [row for shard in tokens.shards(part) for row in pq.read_table(shard).to_pylist()]


def dropped(tokens: Tokens) -> dict[str, tuple[str, str]]:
    """Return reason and detail of what is not trained on."""
    rows = pq.read_table(tokens.path / "dropped-train.parquet").to_pylist()
    return {row["id"]: (row["reason"], row["detail"]) for row in rows}


def learnt(tokens: Tokens, row: Row) -> str:
    """Return the text of the tokens that are learnt."""
    ids = [token for token, learn in zip(row["input_ids"], row["learn"], strict=True) if learn]
    return str(load_tokenizer(tokens.tokenizer).decode(ids))


CHAT = TokenizeConfig(max_length=128)
ROWS = [chat("a", f"answer {i}", "b", "second", name=f"r{i}") for i in range(5)]


def test_answers_and_end_tokens_are_learnt_in_every_turn_or_in_the_last(tmp_path: Path) -> None:
    every = run(tmp_path, ROWS, CHAT, validation=ROWS[:2])
    assert [learnt(every, row) for row in table(every)] == [f"answer {i}{END}second{END}" for i in range(5)]
    assert len(table(every, "validation")) == 2
    last = run(tmp_path, ROWS, TokenizeConfig(max_length=128, learn="last_turn"))
    assert [learnt(last, row) for row in table(last)] == [f"second{END}"] * 5
    assert [row["input_ids"] for row in table(last)] == [row["input_ids"] for row in table(every)]


def test_what_is_too_long_is_dropped_and_the_library_foretells_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers.utils import logging

    rows = [*ROWS, chat("a", "x" * 300, name="long")]
    monitored = logging.get_logger("transformers")
    monitored.addHandler(caplog.handler)
    try:
        assert dropped(run(tmp_path, rows, CHAT)).keys() == {"long"}
    finally:
        monitored.removeHandler(caplog.handler)
    assert not [record for record in caplog.records if "indexing errors" in record.getMessage()]


def test_the_account_counts_tokens_and_what_is_learnt_of_them(tmp_path: Path) -> None:
    tokens = run(tmp_path, ROWS, CHAT)
    stats, rows = tokens.manifest.stats["train"], table(tokens)
    assert stats["tokens"] == sum(len(row["input_ids"]) for row in rows)
    assert stats["learnt_tokens"] == sum(sum(row["learn"]) for row in rows)
    assert stats["longest"] == max(len(row["input_ids"]) for row in rows)
    assert (stats["sequences"], stats["without_stop"], stats["truncated"]) == (5, 0, 0)


MIXED = [
    *ROWS,
    chat("a", "x" * 300, name="long"),
    pair("a", "b", "c", "pair"),
    text("A text.", "text"),
    {**chat("a", "bad", name="unwanted"), "label": False},
    {**chat("a", "good", name="wanted"), "label": True},
    {"id": "question", "messages": [message("user", "a")]},
    chat("a", "b", name="refused", system="x"),
]


def test_what_no_chat_can_teach_is_dropped_with_the_reason(tmp_path: Path) -> None:
    config = TokenizeConfig(max_length=128, max_unlearnable=0.5)
    tokens = run(tmp_path, MIXED, config, template=REFUSING)
    gone = dropped(tokens)
    assert {name: reason for name, (reason, _) in gone.items()} == {
        "long": "too_long",
        "pair": "not_a_chat",
        "text": "not_a_chat",
        "unwanted": "unwanted_answer",
        "question": "nothing_to_learn",
        "refused": "not_rendered",
    }
    assert "no system here" in gone["refused"][1]
    assert "at most 128" in gone["long"][1]
    assert [row["id"] for row in table(tokens)] == [*(f"r{i}" for i in range(5)), "wanted"]


def test_a_conversation_is_followed_to_its_tokens_or_to_why_it_has_none(tmp_path: Path) -> None:
    tokens = run(tmp_path, MIXED, TokenizeConfig(max_length=128, max_unlearnable=0.5), template=REFUSING)
    source = tokens.manifest.inputs["dataset"]
    dataset = Dataset(tmp_path / source.address, source.digest)
    followed = {name: trace({"split": dataset, "tokenize": tokens}, name)[1] for name in ("r0", "long")}
    assert [fate.part for fate in followed["r0"]] == ["train", "train"]
    assert [(fate.part, fate.reason) for fate in followed["long"]] == [("train", ""), ("dropped", "too_long")]
    assert {row["id"] for row in unlearnt(tokens, 99)} == set(dropped(tokens))
    assert len(unlearnt(tokens, 2)) == 2


def test_a_conversation_cut_to_its_length_learns_what_is_left_of_it(tmp_path: Path) -> None:
    rows = [*ROWS, chat("a", "x" * 300, name="long")]
    config = TokenizeConfig(max_length=128, too_long="truncate", max_without_stop=0.2)
    tokens = run(tmp_path, rows, config)
    longest = table(tokens)[-1]
    assert len(longest["input_ids"]) == 128
    assert set(learnt(tokens, longest)) == {"x"}
    stats = tokens.manifest.stats["train"]
    assert (stats["truncated"], stats["without_stop"]) == (1, 1)


@pytest.mark.parametrize(
    ("rows", "changes", "template", "told"),
    [
        (
            ROWS,
            {"max_length": 16},
            MARKER_TEMPLATE,
            r"left to learn \(too_long 5, such as: \d+ tokens, at most 16\)",
        ),
        ([], {}, MARKER_TEMPLATE, "left to learn .the split is empty"),
        (
            [pair("a", "b", "c", str(i)) for i in range(3)],
            {},
            MARKER_TEMPLATE,
            "not_a_chat 3, such as: a preference pair",
        ),
        (
            [*ROWS, *({"id": f"q{i}", "messages": [message("user", "a")]} for i in range(2))],
            {},
            MARKER_TEMPLATE,
            r"29% of the train split has nothing to learn, over tokenize\.max_unlearnable=0\.2",
        ),
        (
            [*ROWS, *(chat("a", "b", name=f"s{i}", system="x") for i in range(3))],
            {},
            REFUSING,
            "not_rendered 3.*no system here",
        ),
        (ROWS, {}, ENDLESS, r"in 5 of 5 conversations no end-of-turn token is learnt"),
        (
            [*ROWS, chat("a", "x" * 300, name="long")],
            {"too_long": "truncate"},
            MARKER_TEMPLATE,
            r"in 1 of 6 .* over tokenize\.max_without_stop=0\.1",
        ),
        (ROWS, {}, FORGETFUL, r"for 100% .* another prompt .*set tokenize\.learn=last_turn"),
        (
            [*(chat("q", "a", name=f"{i}") for i in range(200)), *ROWS],
            {},
            FORGETFUL,
            r"for 2% .* over tokenize\.max_prompt_differs=0\.01",
        ),
        (
            [pair("a", "same", "same", f"p{i}") for i in range(2)] + [pair("a", "b", "c", "p")] * 3,
            {"objective": "preference"},
            MARKER_TEMPLATE,
            r"40% of the train split has nothing to learn.*equal_answers 2",
        ),
        (
            [pair("a", "b", "c", "p")],
            {"objective": "preference"},
            ENDLESS,
            r"in 1 of 1 conversations no end-of-turn token is learnt",
        ),
        (ROWS, {"max_length": 30, "too_long": "truncate"}, MARKER_TEMPLATE, "no end-of-turn token is learnt"),
    ],
)
def test_hopeless_data_stop_the_run_and_say_why(
    tmp_path: Path, rows: list[Row], changes: dict[str, Any], template: str, told: str
) -> None:
    with pytest.raises(DataError, match=told):
        run(tmp_path, rows, TokenizeConfig.model_validate({"max_length": 128, **changes}), template)


def test_what_a_template_forgets_of_former_turns_is_no_harm_to_the_last(tmp_path: Path) -> None:
    last = TokenizeConfig(max_length=128, learn="last_turn")
    tokens = run(tmp_path, ROWS, last, FORGETFUL)
    assert [learnt(tokens, row) for row in table(tokens)] == [f" second{END}"] * 5


def test_a_sequence_over_the_models_positions_is_refused(tmp_path: Path) -> None:
    rows = [*ROWS, chat("a", "x" * POSITIONS, name="long")]
    with pytest.raises(
        ConfigError, match=r"over the base model's 1024 positions; lower tokenize\.max_length"
    ):
        run(tmp_path, rows, TokenizeConfig(max_length=2048))
    assert run(tmp_path, rows, TokenizeConfig(max_length=POSITIONS)).manifest.stats["train"]["kept"] == 5


def test_a_token_without_an_embedding_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"257 tokens, the model 256 embeddings: none for <\|endoftext\|>"):
        run(tmp_path, ROWS, CHAT, rows_of_base=256)


def test_a_tokenizer_without_pad_and_end_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"neither a pad nor an end token.*set eos_token"):
        run(tmp_path, ROWS, CHAT, template="no end, no pad")


def test_a_base_without_a_template_needs_one_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tokenize\.template=chatml"):
        run(tmp_path, ROWS, CHAT, template="")
    tokens = run(tmp_path, ROWS, TokenizeConfig(max_length=128, template="markers"), template="")
    assert load_tokenizer(tokens.tokenizer).chat_template == MARKER_TEMPLATE


DOCUMENTS = TokenizeConfig(objective="language_modelling", max_length=32)
TEXTS = ["short", "a longer text with a few words in it, and more of them", "é" * 40, "x"]


@pytest.mark.parametrize("length", [16, 32, 1024])
def test_documents_lie_end_to_end_and_unpack_to_the_texts(tmp_path: Path, length: int) -> None:
    rows = [text(said, str(i)) for i, said in enumerate(TEXTS)]
    tokens = run(tmp_path, rows, DOCUMENTS.model_copy(update={"max_length": length}))
    blocks = table(tokens)
    assert all(len(row["input_ids"]) == length for row in blocks[:-1])
    assert all(all(row["learn"]) for row in blocks)
    laid = [token for row in blocks for token in row["input_ids"]]
    assert load_tokenizer(tokens.tokenizer).decode(laid).removesuffix(END).split(END) == TEXTS
    assert tokens.manifest.stats["train"]["sequences"] == len(blocks)


def test_pairs_unwanted_answers_and_empty_documents_are_not_modelled(tmp_path: Path) -> None:
    rows = [
        text("A text.", "1"),
        pair("a", "b", "c", "2"),
        text(" ", "3"),
        {**chat("a", "b", name="4"), "label": False},
    ]
    gone = dropped(run(tmp_path, rows, DOCUMENTS))
    assert {name: reason for name, (reason, _) in gone.items()} == {
        "2": "not_a_document",
        "3": "empty_document",
        "4": "unwanted_answer",
    }


def test_a_conversation_reads_as_the_layout_says() -> None:
    row = {**chat("a", "b", "c", "d", name="1"), "metadata": '{"signature": "f(x)", "answer": "no"}'}
    assert as_document(row, "{signature}: {prompt} -> {answer}") == "f(x): a\n\nc -> b\n\nd"
    for layout in ("{sinature}", "{}", "{0}", "{prompt", "{prompt.size}"):
        with pytest.raises(ConfigError, match=r"tokenize\.document: "):
            as_document(row, layout)


def test_documents_need_an_end_token(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no end token"):
        run(tmp_path, [text("x", "1")], DOCUMENTS, template="no end")


def test_worker_count_and_another_run_change_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = set()
    for workers, place in (("1", "a"), ("2", "b"), ("1", "c")):
        monkeypatch.setenv("FINETUNE_WORKERS", workers)
        settings.cache_clear()
        digests.add(run(tmp_path / place, ROWS, CHAT).digest)
    assert len(digests) == 1
