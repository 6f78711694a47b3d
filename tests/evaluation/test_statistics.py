"""Intervals and differences held against slow loops, the libraries' own bootstrap, and simulated truth."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU
from scipy import stats

from pipeline_lib.core.errors import DataError
from pipeline_lib.evaluation import statistics
from pipeline_lib.evaluation.metrics import STATISTICS, score_answers
from pipeline_lib.evaluation.statistics import bootstrap, exponential_ratio, paired_bootstrap, perplexity

VALUES = np.random.default_rng(5).gamma(2.0, size=60)


def picked_rows(rows: int, draws: int, seed: int) -> list[npt.NDArray[np.int64]]:
    generator = np.random.default_rng(seed)
    return [generator.integers(rows, size=rows) for _ in range(draws)]


def test_the_interval_is_that_of_a_loop_over_draws() -> None:
    means = [VALUES[rows].mean() for rows in picked_rows(60, 400, seed=9)]
    interval = bootstrap(VALUES, draws=400, seed=9, confidence=0.9)
    assert interval.value == pytest.approx(VALUES.mean())
    assert [interval.low, interval.high] == pytest.approx(np.quantile(means, [0.05, 0.95]))
    assert interval.standard_error == pytest.approx(np.std(means, ddof=1))


def test_the_interval_of_a_ratio_is_that_of_a_loop_over_draws() -> None:
    tokens = np.arange(1, 61)
    loop = [np.exp(VALUES[rows].sum() / tokens[rows].sum()) for rows in picked_rows(60, 400, seed=9)]
    interval = perplexity(VALUES, tokens, draws=400, seed=9)
    assert interval.value == pytest.approx(np.exp(VALUES.sum() / tokens.sum()))
    assert [interval.low, interval.high] == pytest.approx(np.quantile(loop, [0.025, 0.975]))


def test_the_paired_difference_is_that_of_a_loop_over_draws() -> None:
    other = VALUES + np.random.default_rng(6).normal(0.1, 0.5, size=60)
    loop = np.array([VALUES[rows].mean() - other[rows].mean() for rows in picked_rows(60, 400, seed=3)])
    difference = paired_bootstrap(VALUES, other, draws=400, seed=3)
    assert difference.value == pytest.approx((VALUES - other).mean())
    assert [difference.low, difference.high] == pytest.approx(np.quantile(loop, [0.025, 0.975]))
    assert difference.p_value == pytest.approx(2 * (1 + (loop >= 0).sum()) / 401)


def test_memory_is_bounded_without_changing_a_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.column_stack([VALUES, np.ones(60)])
    whole = statistics.resampled_sums(rows, draws=101)
    monkeypatch.setattr(statistics, "COUNTS_AT_ONCE", 500)
    assert np.array_equal(statistics.resampled_sums(rows, draws=101), whole)


def texts(generator: np.random.Generator, rows: int) -> tuple[list[str], list[str]]:
    """Answers that share most words with their references."""
    references = [[f"w{word}" for word in generator.zipf(1.5, size=12)] for _ in range(rows)]
    predictions = [[word if generator.random() < 0.8 else "other" for word in words] for words in references]
    return [" ".join(words) for words in predictions], [" ".join(words) for words in references]


def test_draws_of_bleu_are_scores_of_the_text_taken() -> None:
    predictions, references = texts(np.random.default_rng(1), rows=12)
    scores = score_answers(predictions, references)
    sums = statistics.resampled_sums(scores.statistics("bleu"), draws=20, seed=4)
    taken = picked_rows(12, 20, seed=4)
    expected = [
        BLEU().corpus_score([predictions[i] for i in rows], [[references[i] for i in rows]]).score
        for rows in taken
    ]
    assert STATISTICS["bleu"](sums) == pytest.approx(expected)


def test_the_interval_of_bleu_is_about_sacrebleus() -> None:
    predictions, references = texts(np.random.default_rng(2), rows=150)
    ours = score_answers(predictions, references).interval("bleu")
    theirs = BLEU().corpus_score(predictions, [references], n_bootstrap=1000)
    assert (ours.high - ours.low) / 2 == pytest.approx(theirs._ci, rel=0.15)


def test_the_standard_error_of_a_mean_is_the_textbooks() -> None:
    assert bootstrap(VALUES, draws=4000).standard_error == pytest.approx(stats.sem(VALUES), rel=0.05)


def test_a_95_percent_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(7)
    samples = generator.exponential(size=(400, 80))
    intervals = [bootstrap(sample, draws=400, seed=seed) for seed, sample in enumerate(samples)]
    covered = np.mean([interval.low <= 1 <= interval.high for interval in intervals])
    assert 0.91 <= covered <= 0.98


def test_the_perplexity_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(8)
    covered = []
    for seed in range(400):
        tokens = generator.integers(1, 60, size=80)
        likelihoods = tokens * generator.gamma(4.0, 0.5, size=80)
        interval = perplexity(likelihoods, tokens, draws=400, seed=seed)
        covered.append(interval.low <= np.exp(2.0) <= interval.high)
    assert 0.90 <= np.mean(covered) <= 0.98


def test_equal_systems_are_called_different_about_as_rarely_as_p_says() -> None:
    generator = np.random.default_rng(9)
    pairs = generator.normal(size=(400, 2, 60)) + generator.normal(size=(400, 1, 60))
    p_values = [paired_bootstrap(a, b, draws=400, seed=seed).p_value for seed, (a, b) in enumerate(pairs)]
    assert np.mean(np.array(p_values) < 0.05) <= 0.085


def test_p_agrees_with_the_paired_t_test_on_normal_differences() -> None:
    generator = np.random.default_rng(10)
    a = generator.normal(size=200)
    b = a + generator.normal(0.1, 0.6, size=200)
    expected = stats.ttest_rel(a, b).pvalue
    assert paired_bootstrap(a, b, draws=20_000).p_value == pytest.approx(expected, rel=0.2)


def test_pairing_sees_what_two_intervals_cannot() -> None:
    better = VALUES + 0.05 + np.random.default_rng(11).normal(0, 0.05, size=60)
    assert bootstrap(better).low < bootstrap(VALUES).high
    difference = paired_bootstrap(better, VALUES)
    assert difference.low > 0
    assert difference.p_value < 0.01


def test_a_system_against_itself_differs_by_nothing() -> None:
    difference = paired_bootstrap(VALUES, VALUES)
    assert (difference.value, difference.low, difference.high, difference.p_value) == (0, 0, 0, 1)


@given(st.lists(st.floats(-1e3, 1e3), min_size=6, max_size=30), st.integers(0, 99))
def test_p_is_below_a_twentieth_only_where_the_interval_leaves_zero_out(
    differences: list[float], seed: int
) -> None:
    difference = paired_bootstrap(differences, np.zeros(len(differences)), draws=200, seed=seed)
    if difference.p_value < 0.05:
        assert difference.low > 0 or difference.high < 0
    assert difference.low <= difference.high


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_a_few_rows_prove_no_more_than_a_sign_test_could(rows: int) -> None:
    assert paired_bootstrap(np.ones(rows), np.zeros(rows)).p_value == stats.binomtest(rows, rows).pvalue


@pytest.mark.parametrize("values", [[0.25], [0.0, 0.0, 0.0]])
def test_rows_that_cannot_show_any_spread_are_flagged(values: list[float]) -> None:
    interval = bootstrap(values)
    assert (interval.low, interval.high, interval.standard_error) == (values[0], values[0], 0)
    assert interval.degenerate
    assert not bootstrap([0.0, 1.0]).degenerate


def test_perplexity_leaves_out_and_counts_rows_without_a_token() -> None:
    interval = perplexity([2.0, 0.0, 4.0], [1, 0, 2])
    assert (interval.rows, interval.excluded) == (2, 1)
    assert interval.value == pytest.approx(np.exp(2))


def test_perplexity_weighs_by_tokens_not_by_answers() -> None:
    rows = statistics.likelihoods([1.0, 30.0], [1, 10])
    assert bootstrap(rows, exponential_ratio).value == pytest.approx(np.exp(31 / 11))


@pytest.mark.parametrize(
    "call",
    [
        lambda: bootstrap([]),
        lambda: bootstrap([1.0, float("nan")]),
        lambda: paired_bootstrap([1.0], [1.0, 2.0]),
        lambda: perplexity([], []),
        lambda: perplexity([0.0], [0]),
        lambda: perplexity([1.0, 2.0], [1]),
    ],
)
def test_what_cannot_be_scored_is_an_error_of_one_line(call: Callable[[], object]) -> None:
    with pytest.raises(DataError, match=r"^(bootstrap|paired bootstrap|perplexity): [^\n]*$"):
        call()
