"""Names go where a model that the user names finds them: the real recognisers, with models made here."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline_lib.core.errors import ConfigError
from pipeline_lib.curation import scrub as scrub_module
from pipeline_lib.curation.scrub import ScrubConfig, scrub
from pipeline_lib.personal_data.recognise import (
    OVERLAP,
    WINDOW,
    gliner_recogniser,
    presidio_recogniser,
    windows,
)
from tests.curation.conftest import Workshop, chat, found, said

LIBRARIES = pytest.mark.filterwarnings("ignore")
"""What GLiNER, spaCy and Presidio warn of is theirs."""
TEXT = "Ann Lee of Zürich\u2019s Acme wrote on Monday."


@given(st.text(alphabet="ab \n", max_size=40), st.integers(1, 120))
def test_windows_hold_every_character_and_every_short_name_whole(unit: str, times: int) -> None:
    text = unit * times
    parts = list(windows(text))
    assert all(text[begin : begin + len(part)] == part for begin, part in parts)
    assert max(len(part) for _, part in parts) <= WINDOW
    last = parts[-1]
    assert (parts[0][0], last[0] + len(last[1])) == (0, len(text))
    for (begin, part), (following, _) in itertools.pairwise(parts):
        assert begin < following <= begin + len(part) - OVERLAP


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"names": "gliner"}, "needs names_model"),
        ({"names": "gliner", "names_model": "owner/name"}, "names_revision"),
        ({"names": "gliner", "names_model": "owner/name", "names_revision": "main"}, "names_revision"),
    ],
)
def test_a_gliner_model_is_named_to_the_commit(values: Any, told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        ScrubConfig.model_validate(values)


def test_another_model_in_the_same_directory_is_another_recipe(tmp_path: Path) -> None:
    digests = []
    for weights in ("one", "two"):
        (tmp_path / "weights").write_text(weights)
        digests.append(ScrubConfig(names="gliner", names_model=str(tmp_path)).names_digest())
    assert digests[0] != digests[1]
    assert ScrubConfig(names_model=str(tmp_path)).names_digest() == {}


@pytest.fixture(scope="module")
def gliner_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GLiNER model of a few thousand random weights over bytes."""
    gliner = pytest.importorskip("gliner")
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    directory = tmp_path_factory.mktemp("gliner")
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    alphabet = [*special.values(), *sorted(pre_tokenizers.ByteLevel.alphabet())]
    model = models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[], unk_token="[UNK]")
    characters = Tokenizer(model)
    characters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=characters, **special).save_pretrained(directory / "encoder")
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    encoder = BertConfig(vocab_size=len(alphabet), max_position_embeddings=2048, **shape)
    BertModel(encoder).save_pretrained(directory / "encoder")
    config = gliner.GLiNERConfig(
        model_name=str(directory / "encoder"), hidden_size=16, fine_tune=False, max_width=4, num_rnn_layers=0
    )
    gliner.GLiNER.from_config(config).save_pretrained(str(directory / "model"))
    return directory / "model"


@LIBRARIES
def test_gliner_names_stand_where_it_says_in_texts_of_any_length(gliner_model: Path) -> None:
    recognise = gliner_recogniser(str(gliner_model), threshold=0.0)
    for text in (TEXT, " ".join([TEXT] * 60)):
        spans = recognise(text)
        assert {span.kind for span in spans} <= {"person", "location", "organisation"}
        assert all(text[span.start : span.end].strip() for span in spans)
        assert min(span.start for span in spans) == 0
        assert max(span.end for span in spans) >= len(text) - 1


@LIBRARIES
def test_scrub_asks_gliner(workshop: Workshop, gliner_model: Path) -> None:
    scrub_module._recognisers.cache_clear()
    rows = [chat("I am Ann.", "Hello Ann, mail ann@acme.io.", name="1")]
    config = ScrubConfig(names="gliner", names_model=str(gliner_model), names_threshold=0.0)
    made = workshop.run(scrub, config, rows)
    assert "Ann" not in json.dumps(said(found(made)[0]))
    assert set(made.manifest.stats["found"]) & {"person", "location", "organisation"}


@LIBRARIES
def test_a_gliner_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    pytest.importorskip("gliner")
    with pytest.raises(ConfigError, match="no model"):
        gliner_recogniser(str(tmp_path))


@pytest.fixture(scope="module")
def spacy_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spaCy pipeline that knows two names."""
    pytest.importorskip("presidio_analyzer")
    spacy = pytest.importorskip("spacy")
    pipeline, directory = spacy.blank("en"), tmp_path_factory.mktemp("spacy")
    ruler = pipeline.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "PERSON", "pattern": "Ann Lee"}, {"label": "GPE", "pattern": "Zürich"}])
    pipeline.to_disk(directory)
    return directory


@LIBRARIES
def test_presidio_finds_what_the_named_model_knows(spacy_model: Path) -> None:
    spans = presidio_recogniser("en", 0.5, str(spacy_model))(TEXT)
    assert [(span.kind, TEXT[span.start : span.end]) for span in spans] == [
        ("person", "Ann Lee"),
        ("location", "Zürich"),
    ]
