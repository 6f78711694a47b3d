"""A config tells all its mistakes at once, reads numbers and words as meant, and explains its fields."""

from pathlib import Path
from typing import Any

import pytest

from flows.settled import BLOCK, explain
from pipeline_lib.config import PipelineConfig, block_models, load
from pipeline_lib.core.errors import ConfigError
from pipeline_lib.curation.split import SplitConfig

BASE = "name: small\nbase_model: bundled/x\ningest: {sources: [{path: a.jsonl}, {path: b.jsonl}]}\n"
CONF = Path(__file__).parents[1] / "conf"


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Return a function that writes a config after the base and gives its path."""

    def written(text: str = "", base: str = BASE) -> Path:
        path = tmp_path / "small.yaml"
        path.write_text(base + text, encoding="utf-8")
        return path

    return written


def failure(path: Path, *overrides: str) -> list[str]:
    """Return the lines of the error."""
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    return str(caught.value).splitlines()


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.name)
def test_the_configs_that_come_with_the_project_load(path: Path) -> None:
    assert load(path).name


def test_an_unknown_key_names_the_file_the_place_and_the_likely_key(write: Any) -> None:
    path = write("deduplicate: {treshold: 0.7}\n")
    assert failure(path) == [f"{path}: deduplicate.treshold: unknown key; did you mean 'threshold'?"]


def test_an_unknown_key_unlike_any_lists_those_that_are_known(write: Any) -> None:
    (line,) = failure(write("scrub: {zzzz: 1}\n"))
    assert line.endswith(
        "scrub.zzzz: unknown key; known: kinds, action, names, names_model, names_revision, "
        "names_language, names_threshold, seed"
    )


def test_keys_of_lists_and_of_the_whole_are_checked_too(write: Any) -> None:
    path = write("spilt: {}\n", BASE.replace("path: b.jsonl", "pth: b.jsonl"))
    lines = failure(path)
    assert any("spilt: unknown key; did you mean 'split'?" in line for line in lines)
    assert any("ingest.sources.1.pth: unknown key; did you mean 'path'?" in line for line in lines)


def test_all_mistakes_are_told_at_once_with_their_values(write: Any) -> None:
    path = write("split: {test: -1}\ntrain: {learning_rate: fast}\nnormalise: {}\n")
    lines = failure(path)
    assert len(lines) == 3
    assert all(line.startswith(f"{path}: ") for line in lines)
    assert any("split.test" in line and "(given: '-1')" in line for line in lines)
    assert any("train.learning_rate" in line and "'fast'" in line for line in lines)
    assert any("normalise: unknown key; did you mean 'normalize'?" in line for line in lines)


@pytest.mark.parametrize("number", ["2e-4", "0.0002", "2.0E-4", "+2e-4", ".2e-3"])
def test_a_number_is_a_number_however_it_is_written(write: Any, number: str) -> None:
    assert load(write(f"train: {{learning_rate: {number}}}\n")).train.learning_rate == 0.0002
    assert load(write(), [f"train.learning_rate={number}"]).train.learning_rate == 0.0002


@pytest.mark.parametrize(
    ("word", "meant"), [("yes", True), ("on", True), ("no", False), ("off", False), ("true", True)]
)
def test_words_for_true_and_false_are_read_where_a_switch_stands(write: Any, word: str, meant: bool) -> None:
    assert load(write(f"normalize: {{fix_encoding: {word}}}\n")).normalize.fix_encoding is meant


@pytest.mark.parametrize("word", ["yes", "on", "no", "off", "n", "2024-01-01", "1:30", "010"])
def test_words_stay_words_where_a_text_stands(write: Any, word: str) -> None:
    assert load(write(f"format: {{system: {word}}}\n")).format.system == word


@pytest.mark.parametrize("word", ["on", "off", "yes", "no"])
def test_such_words_are_keys_like_any_other(write: Any, word: str) -> None:
    (line,) = failure(write(f"deduplicate: {{{word}: answer}}\n"))
    assert f"deduplicate.{word}: unknown key" in line


def test_a_key_given_twice_is_refused_at_its_line(write: Any) -> None:
    path = write("split:\n  test: 0.1\n  test: 0.2\n")
    assert failure(path) == [f"{path}:6: key 'test' is given twice"]


def test_a_block_may_be_taken_from_an_anchor(write: Any) -> None:
    path = write("split: &shares {test: 0.2}\n")
    path.write_text(
        path.read_text().replace("{test: 0.2}", "\n  test: 0.2\ndeduplicate:\n  <<: {ngram: 3}\n  bands: 8")
    )
    assert (load(path).deduplicate.ngram, load(path).deduplicate.bands) == (3, 8)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("split: {test: 0.1\n", ":5: "),
        ("\tsplit: 1\n", ":4: "),
        ("1: x\n", "1: "),
        ("? [a]\n: 1\n", "unhashable"),
    ],
)
def test_what_is_no_yaml_or_no_key_is_told_in_one_line(write: Any, text: str, told: str) -> None:
    (line,) = failure(write(text))
    assert told in line


def test_a_config_is_a_mapping_in_a_file_that_is_there(write: Any, tmp_path: Path) -> None:
    assert "a config is a mapping of blocks, this is a list" in failure(write("- a\n", ""))[0]
    assert "this is empty" in failure(write("", ""))[0]
    (line,) = failure(tmp_path / "smal.yaml")
    assert "cannot be read (No such file or directory)" in line
    assert line.endswith("did you mean " + str(tmp_path / "small.yaml") + "?")
    (tmp_path / "bytes.yaml").write_bytes(b"name: \xff\n")
    assert "is no UTF-8 text" in failure(tmp_path / "bytes.yaml")[0]


def test_overrides_reach_into_blocks_and_lists(write: Any) -> None:
    overrides = [
        "seed=7",
        "ingest.sources=[{path: c.jsonl, columns: {prompt: q}}, {name: pydocs}]",
        "ingest.sources.0.limit=5",
        "split.test=0.2",
        "format.system='a=b: c'",
        "evaluate=null",
    ]
    made = load(write(), overrides)
    assert [source.path for source in made.ingest.sources] == ["c.jsonl", None]
    assert (made.ingest.sources[0].limit, made.ingest.sources[0].columns) == (5, {"prompt": "q"})
    assert (made.seed, made.split.test, made.format.system, made.evaluate) == (7, 0.2, "a=b: c", None)


def test_an_override_makes_the_block_that_it_needs(write: Any) -> None:
    made = load(write(), ["base_model.revision=v2", "train.epochs=3"])
    assert made.base_model is not None
    assert (made.base_model.source, made.base_model.revision, made.train.epochs) == ("bundled/x", "v2", 3)
    fresh = load(write(), ["base_model=null", "initialize.layers=2"])
    assert fresh.initialize is not None
    assert fresh.initialize.layers == 2


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train", "write it as key=value"),
        ("=1", "write it as key=value"),
        ("train.epochs=[1", "is not YAML"),
        ("ingest.sources.5.limit=1", "'5' is no place in a list of 2"),
        ("ingest.sources.x.limit=1", "'x' is no place in a list of 2"),
        ("train.epoch=1", "train.epoch: unknown key; did you mean 'epochs'?"),
    ],
)
def test_an_override_that_means_nothing_is_told(write: Any, override: str, told: str) -> None:
    (line,) = failure(write(), override)
    assert told in line


def test_the_seed_reaches_every_stage_that_does_not_set_its_own(write: Any) -> None:
    made = load(write("seed: 7\nsplit: {seed: 3}\ntrain: {epochs: 1}\n"))
    held = {
        name: getattr(made, name).seed
        for name, model in block_models().items()
        if "seed" in model.model_fields and getattr(made, name) is not None
    }
    assert held.pop("split") == 3
    assert {"scrub", "deduplicate", "train"} <= set(held)
    assert set(held.values()) == {7}
    assert load(write("seed: 7\nevaluate: null\n")).evaluate is None


def test_without_a_seed_every_stage_has_its_default(write: Any) -> None:
    assert load(write()).split == SplitConfig()


@pytest.mark.parametrize("text", ["", "base_model: a/b\ninitialize: {}\n"])
def test_training_starts_from_exactly_one_of_two(write: Any, text: str) -> None:
    path = write(text, BASE.replace("base_model: bundled/x\n", ""))
    assert failure(path) == [
        f"{path}: name either base_model or initialize: training starts from one of them"
    ]


def test_every_field_has_a_type_its_bounds_a_default_and_a_description() -> None:
    told = {field.key: field for field in explain()}
    assert len(told) == len(list(explain()))
    for block, model in block_models().items():
        fields = {field.alias or name for name, field in model.model_fields.items()}
        assert {f"{block}.{name}" for name in fields} <= set(told)
    for field in told.values():
        assert field.type, field
        assert "Annotated" not in field.type, field
        assert field.required <= (field.default is None), field
        assert field.description.strip().endswith((".", ")")), field
        assert "\n" not in field.description, field
    assert told["split.canaries"].type == BLOCK
    assert told["train.learning_rate"].type == "float, over 0 under 1"
    assert told["filter.gopher_min_words"].type == "int or null, from 0"
    assert told["ingest.sources[].path"].default is None
    assert PipelineConfig.model_json_schema()["properties"]["split"]
