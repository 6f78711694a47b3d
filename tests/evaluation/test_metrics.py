"""Metrics held against the libraries that define them, on the same text."""

import socket
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from pipeline_lib.core.errors import ConfigError, DataError
from pipeline_lib.evaluation import metrics
from pipeline_lib.evaluation.metrics import score_answers
from pipeline_lib.evaluation.statistics import Floats

Pairs = list[tuple[str, str]]

PREDICTIONS = [
    "Return the number of items in a container.",
    "",
    "the the the the the the the",
    "Ein Gürtel für 3,5 € — naïve café, 東京タワー 😀 e\u0301",
    "First line of text.\nSecond line of text, the first again.\n\nThird & last: 1-2.\n",
    "İstanbul'da ΣΊΣΥΦΟΣ K",
    "x",
    " \n\t ",
]
REFERENCES = [
    "Returns the number of items of a container.",
    "Something was expected here.",
    "the cat sat on the mat",
    "Der Gürtel kostet 3,5 €, naïve cafés in 東京 😀😀 \u00e9",
    "Second line of text.\nFirst line, the first of text again!\nThird &amp; last: 1-\n2.",
    "İSTANBUL σίσυφος k",
    "",
    "x y",
]
PIECES = ["a", "the", "cat", "sat", "on", "mat", "12", "3.5", "é", "東", "-", ",", "I'm"]
MARKUP = ["-\n", "<skipped>", "&amp;", "\n"]
WORDS = st.sampled_from([*PIECES, *MARKUP])
TEXT = st.one_of(st.lists(WORDS, max_size=25).map(" ".join), st.text(max_size=30))
PAIRS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=6)


def rouge_by_library(predictions: list[str], references: list[str]) -> Floats:
    scorer = RougeScorer(list(metrics.ROUGE), use_stemmer=False)
    scores = [scorer.score(theirs, ours) for ours, theirs in zip(predictions, references, strict=True)]
    return np.array([[score[name].fmeasure for name in metrics.ROUGE] for score in scores])


def unzipped(pairs: Pairs) -> tuple[list[str], list[str]]:
    return [ours for ours, _ in pairs], [theirs for _, theirs in pairs]


def test_rouge_is_what_rouge_score_gives_to_the_last_bit() -> None:
    assert np.array_equal(metrics.rouge(PREDICTIONS, REFERENCES), rouge_by_library(PREDICTIONS, REFERENCES))


@settings(max_examples=200)
@given(PAIRS)
def test_rouge_is_what_rouge_score_gives_on_any_text(pairs: Pairs) -> None:
    predictions, references = unzipped(pairs)
    assert np.array_equal(metrics.rouge(predictions, references), rouge_by_library(predictions, references))


@settings(max_examples=200)
@given(PAIRS)
def test_bleu_and_chrf_are_what_sacrebleu_gives_row_by_row_and_for_the_corpus(pairs: Pairs) -> None:
    predictions, references = unzipped(pairs)
    bleu, chrf = BLEU(), CHRF()
    rows, chrf_rows = (
        np.array(metric._extract_corpus_statistics(predictions, [references])) for metric in (bleu, chrf)
    )
    scores = score_answers(predictions, references)
    assert np.array_equal(scores.columns["bleu"], rows)
    assert np.array_equal(scores.columns["chrf"], chrf_rows)
    assert scores.value("bleu") == pytest.approx(
        bleu.corpus_score(predictions, [references]).score, rel=1e-12
    )
    assert scores.value("chrf") == pytest.approx(
        chrf.corpus_score(predictions, [references]).score, rel=1e-12
    )


def test_any_subset_is_scored_from_its_rows_as_sacrebleu_scores_its_text() -> None:
    scores = score_answers(PREDICTIONS, REFERENCES)
    generator = np.random.default_rng(0)
    for _ in range(50):
        rows = generator.integers(len(PREDICTIONS), size=generator.integers(1, 12))
        predictions, references = [PREDICTIONS[i] for i in rows], [REFERENCES[i] for i in rows]
        expected = BLEU().corpus_score(predictions, [references]).score
        assert scores.value("bleu", rows) == pytest.approx(expected, rel=1e-12)
        expected = CHRF().corpus_score(predictions, [references]).score
        assert scores.value("chrf", rows) == pytest.approx(expected, rel=1e-12)
        expected = rouge_by_library(predictions, references)[:, 3].mean()
        assert scores.value("rougeLsum", rows) == pytest.approx(expected, rel=1e-12)


def test_signatures_are_sacrebleus_own() -> None:
    bleu, chrf = BLEU(), CHRF()
    bleu.corpus_score(PREDICTIONS, [REFERENCES])
    chrf.corpus_score(PREDICTIONS, [REFERENCES])
    assert metrics.signatures()["bleu"] == str(bleu.get_signature())
    assert metrics.signatures()["chrf"] == str(chrf.get_signature())
    assert "stem:no" in metrics.signatures()["rouge"]


@given(PAIRS)
def test_token_f1_is_what_squads_script_computes(pairs: Pairs) -> None:
    predictions, references = unzipped(pairs)
    expected = [squad_f1(ours, theirs) for ours, theirs in pairs]
    assert metrics.token_f1(predictions, references) == pytest.approx(expected)


def squad_f1(prediction: str, reference: str) -> float:
    """F1 of SQuAD 2.0's evaluation script, written out."""
    ours, theirs = Counter(metrics.squad_words(prediction)), Counter(metrics.squad_words(reference))
    if not ours or not theirs:
        return float(ours == theirs)
    same = (ours & theirs).total()
    precision, recall = same / ours.total(), same / theirs.total()
    return 2 * precision * recall / (precision + recall) if same else 0.0


def test_squad_words_have_no_case_punctuation_or_articles() -> None:
    assert metrics.squad_words("The U.S.'s  An-swer, a thing; theory") == ["uss", "answer", "thing", "theory"]


def test_exact_match_ignores_only_surrounding_white_space() -> None:
    matches = metrics.exact_match([" yes\n", "Yes", "a  b", ""], ["yes", "yes", "a b", " "])
    assert matches.tolist() == [1, 0, 0, 1]


def test_length_and_repetition_by_hand() -> None:
    words, repetition = metrics.lengths_and_repetition(
        ["a b c a b c", "one two", "", "na na na na na", "a b c d"]
    )
    assert words.tolist() == [6, 2, 0, 5, 4]
    assert repetition == pytest.approx([1 / 4, 0, 0, 2 / 3, 0])


@given(st.lists(TEXT, min_size=1, max_size=5))
def test_repetition_is_one_less_the_share_of_distinct_trigrams(texts: list[str]) -> None:
    for text, repetition in zip(texts, metrics.lengths_and_repetition(texts)[1], strict=True):
        words = text.split()
        trigrams = list(zip(words, words[1:], words[2:], strict=False))
        assert repetition == pytest.approx(1 - len(set(trigrams)) / len(trigrams) if trigrams else 0)


def test_an_empty_answer_scores_zero_and_is_counted() -> None:
    scores = score_answers(["", "  "], ["something", "else"])
    assert {scores.value(metric) for metric in metrics.REFERENCED} == {0.0}
    assert scores.value("empty") == 1
    assert scores.value("words") == 0


def test_an_answer_without_a_reference_is_left_out_and_counted() -> None:
    whole = score_answers([*PREDICTIONS, "an answer of five words"], [*REFERENCES, None])
    compared = score_answers(PREDICTIONS, REFERENCES)
    for metric in metrics.REFERENCED:
        assert whole.value(metric) == compared.value(metric)
        interval = whole.interval(metric)
        assert (interval.rows, interval.excluded) == (len(PREDICTIONS), 1)
    assert whole.interval("words").rows == len(PREDICTIONS) + 1
    assert whole.excluded("rouge1", np.arange(len(PREDICTIONS))) == 0


def test_without_any_reference_only_what_compares_is_an_error() -> None:
    scores = score_answers(["some words"], [None])
    assert scores.value("words") == 2
    with pytest.raises(DataError, match="bleu: no answer"):
        scores.value("bleu")


@pytest.mark.parametrize(("predictions", "references"), [([], []), (["a"], []), (["a"], ["b", "c"])])
def test_nothing_to_score_or_a_wrong_number_is_an_error_of_one_line(
    predictions: list[str], references: list[str]
) -> None:
    with pytest.raises(DataError, match=r"^score: [^\n]*$"):
        score_answers(predictions, references)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.usefixtures("no_network")
def test_evaluate_metrics_load_offline_and_give_the_pipelines_figures() -> None:
    from pipeline_lib.evaluation.offline_metrics import COMPUTE, load_metric

    scores = score_answers(PREDICTIONS, REFERENCES)
    for name in COMPUTE:
        computed = load_metric(name).compute(predictions=PREDICTIONS, references=REFERENCES)
        assert computed.pop("signature", None) == metrics.signatures().get(name)
        assert computed == pytest.approx({metric: scores.value(metric) for metric in computed})


def test_an_unknown_evaluate_metric_names_those_there_are() -> None:
    from pipeline_lib.evaluation.offline_metrics import load_metric

    with pytest.raises(ConfigError, match="'rogue' is not known; take one of rouge, bleu"):
        load_metric("rogue")
