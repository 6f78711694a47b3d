"""How sure a score is: bootstrap intervals, paired differences, corpus perplexity.

A score of many answers is a function of sums over the answers (a mean: values over count; perplexity:
negative log likelihoods over tokens; BLEU: matches, lengths). So each answer gives one row of *statistics*,
a *draw* is the sum over as many rows taken with replacement, and the scores of a thousand draws are one
function call on a thousand sums: no text is read again. `metrics` makes the rows; nothing here knows of text.

Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapters 6 and 13 (standard error, percentile
interval); Koehn 2004, Statistical Significance Tests for Machine Translation Evaluation (paired draws).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline_lib.core.errors import DataError

Floats = npt.NDArray[np.float64]
Statistic = Callable[[Floats], Floats]
"""From sums of statistics, shape (..., columns), to scores, shape (...)."""

DRAWS = 1000
CONFIDENCE = 0.95
SEED = 2004
COUNTS_AT_ONCE = 4_000_000  # 32 MB of resampling counts, whatever the number of answers


@dataclass(frozen=True)
class Interval:
    """A score with its percentile interval and standard error.

    `rows` were resampled, `excluded` could not be scored. A `degenerate` interval (a single row, or rows that
    are all alike) has no width because the bootstrap sees no spread, not because the score is certain.
    """

    value: float
    low: float
    high: float
    standard_error: float
    rows: int
    excluded: int = 0
    degenerate: bool = False


@dataclass(frozen=True)
class Difference:
    """First minus second score on the same rows, with its percentile interval and two-sided p-value."""

    value: float
    low: float
    high: float
    p_value: float
    rows: int
    degenerate: bool = False


def ratio(sums: Floats) -> Floats:
    """Sum of the first column over sum of the second: a mean where the second column counts rows."""
    return np.asarray(sums[..., 0] / sums[..., 1])


def exponential_ratio(sums: Floats) -> Floats:
    """Perplexity from sums of negative log likelihood (nats) and of tokens."""
    return np.asarray(np.exp(ratio(sums)))


def difference_of_ratios(sums: Floats) -> Floats:
    """Ratio of the first two columns less that of the last two: a difference of two groups' means."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(ratio(sums[..., :2]) - ratio(sums[..., 2:]))


def bootstrap(
    statistics: npt.ArrayLike,
    statistic: Statistic = ratio,
    draws: int = DRAWS,
    seed: int = SEED,
    confidence: float = CONFIDENCE,
    excluded: int = 0,
) -> Interval:
    """The score of rows with its interval; plain values, shape (rows,), are scored by their mean.

    `statistics` has shape (rows, columns); the count of `excluded` rows is only passed on. Percentile
    interval: Efron & Tibshirani 1993, section 13.3, over the draws that have a score (one that takes no row
    of a group has no mean of it). Raises DataError without rows or where one is not finite.
    """
    rows = _rows(statistics)
    scores = _defined(statistic(resampled_sums(rows, draws, seed)))
    low, high = _percentiles(scores, confidence)
    return Interval(
        value=float(statistic(rows.sum(axis=0))),
        low=low,
        high=high,
        standard_error=float(scores.std(ddof=1)),
        rows=len(rows),
        excluded=excluded,
        degenerate=_all_alike(rows),
    )


def paired_bootstrap(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    statistic: Statistic = ratio,
    draws: int = DRAWS,
    seed: int = SEED,
    confidence: float = CONFIDENCE,
) -> Difference:
    """The difference of two systems' scores on the same answers, each draw taking the same rows of both.

    Koehn 2004, section 4.2, made two-sided: p is twice the share of draws in which the worse system is not
    the worse, with one added to both counts so that it is never 0 (Davison & Hinkley 1997, section 4.2.3). It
    falls below 1 - confidence where the interval leaves 0 out. A few rows cannot prove much: p is at least
    2^(1 - rows), the least that a sign test could give. Raises DataError where the sides differ in rows.
    """
    a, b = _rows(first), _rows(second)
    if a.shape != b.shape:
        raise DataError(
            f"paired bootstrap: {len(a)} rows of {a.shape[1]} statistics against {len(b)} of {b.shape[1]}; "
            "score both systems on the same answers"
        )
    columns = a.shape[1]
    sums = resampled_sums(np.hstack([a, b]), draws, seed)
    differences = _defined(statistic(sums[:, :columns]) - statistic(sums[:, columns:]))
    low, high = _percentiles(differences, confidence)
    return Difference(
        value=float(statistic(a.sum(axis=0)) - statistic(b.sum(axis=0))),
        low=low,
        high=high,
        p_value=max(_two_sided(differences), 2.0 ** (1 - len(a))),
        rows=len(a),
        degenerate=_all_alike(np.hstack([a, b])),
    )


def share(count: int, of: int, confidence: float = CONFIDENCE) -> dict[str, float | int]:
    """Return a share with its count and its interval (Wilson 1927), which has a width at 0 and 1 too.

    Of nothing the share is 0 and the interval all there is.
    """
    if not of:
        return {"value": 0.0, "low": 0.0, "high": 1.0, "count": 0, "of": 0}
    from scipy.stats import binomtest

    bounds = binomtest(count, of).proportion_ci(confidence, method="wilson")
    return {
        "value": count / of,
        "low": float(bounds.low),
        "high": float(bounds.high),
        "count": count,
        "of": of,
    }


def perplexity(
    nll_sums: npt.ArrayLike,
    token_counts: npt.ArrayLike,
    draws: int = DRAWS,
    seed: int = SEED,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Corpus perplexity, exp(sum of negative log likelihoods in nats / sum of tokens), answers resampled.

    Rows without a token have no perplexity and count as excluded. Raises DataError where no row has a token.
    """
    rows = likelihoods(nll_sums, token_counts)
    scored = rows[rows[:, 1] > 0]
    if not len(scored):
        raise DataError(f"perplexity: none of {len(rows)} answers has a token; look at the loss mask")
    return bootstrap(scored, exponential_ratio, draws, seed, confidence, excluded=len(rows) - len(scored))


def likelihoods(nll_sums: npt.ArrayLike, token_counts: npt.ArrayLike) -> Floats:
    """Statistics rows of perplexity, shape (rows, 2): summed negative log likelihood, tokens."""
    sums, counts = np.asarray(nll_sums, np.float64), np.asarray(token_counts, np.float64)
    if sums.shape != counts.shape:
        raise DataError(f"perplexity: {sums.size} likelihoods for {counts.size} token counts; one per answer")
    return np.column_stack([sums, counts])


def resampled_sums(statistics: Floats, draws: int = DRAWS, seed: int = SEED) -> Floats:
    """Sums over rows drawn with replacement, shape (draws, columns); the same seed draws the same rows.

    Takes 0.1 s and 0.1 GB for 1,000 draws of 10,000 rows.
    """
    generator = np.random.default_rng(seed)
    step = max(1, COUNTS_AT_ONCE // len(statistics))
    sizes = [min(step, draws - start) for start in range(0, draws, step)]
    taken = (_taken(generator, size, len(statistics)) for size in sizes)
    # not `counts @ statistics`: the last digit of BLAS depends on its number of threads
    return np.concatenate([np.einsum("dr,rc->dc", counts, statistics) for counts in taken])


def _taken(generator: np.random.Generator, draws: int, rows: int) -> Floats:
    """How often each draw takes each row, shape (draws, rows)."""
    picks = generator.integers(rows, size=(draws, rows))
    picks += np.arange(draws)[:, None] * rows
    return np.bincount(picks.ravel(), minlength=draws * rows).reshape(draws, rows).astype(np.float64)


def _rows(statistics: npt.ArrayLike) -> Floats:
    """Statistics as rows; plain values get a column of ones so that `ratio` is their mean."""
    rows = np.asarray(statistics, np.float64)
    if rows.ndim == 1:
        rows = np.column_stack([rows, np.ones(len(rows))])
    if not len(rows):
        raise DataError("bootstrap: no rows to resample; at least one scored answer is needed")
    unusable = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(unusable):
        raise DataError(f"bootstrap: row {unusable[0]} is not finite; leave out rows without a score")
    return rows


def _defined(scores: Floats) -> Floats:
    return scores[np.isfinite(scores)]


def _percentiles(scores: Floats, confidence: float) -> tuple[float, float]:
    """The bounds that leave out the same share of draws below and above."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(scores, [tail, 1 - tail])
    return float(low), float(high)


def _two_sided(differences: Floats) -> float:
    """Twice the smaller share of draws on either side of 0, ties on both."""
    opposed = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, 2 * (1 + opposed) / (1 + len(differences)))


def _all_alike(rows: Floats) -> bool:
    """Whether resampling can only ever return the same sums."""
    return bool((rows == rows[0]).all())
