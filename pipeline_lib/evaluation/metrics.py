"""What an answer is worth against its reference: ROUGE, BLEU, chrF, exact match, token F1, and how it reads.

A *prediction* is a generated answer, a *reference* the answer in the test split. Every metric gives each
answer one row of numbers that add up (`Scores.statistics`), and a function from their sums to the score
(`STATISTICS`), so that any subset and any bootstrap draw (`statistics`) is scored without reading text again.
Figures are those of `rouge_score` and sacreBLEU, counted by `overlap` because those two count in Python, ten
times as slow; the tests hold them against each other. `offline_metrics` has the same as `evaluate` metrics.

ROUGE is without stemming: `rouge_score`'s default, and Porter's stemmer would favour English.
"""

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from pipeline_lib.core.errors import DataError
from pipeline_lib.evaluation import overlap
from pipeline_lib.evaluation.statistics import Floats, Interval, Statistic, bootstrap, ratio

Rows = npt.NDArray[np.integer] | npt.NDArray[np.bool_]

BLEU_ORDER = 4  # Papineni et al. 2002, section 2.3
CHRF_ORDER = 6  # Popović 2015
CHRF_BETA = 2  # recall counts twice: Popović 2016, sacreBLEU's default
REPETITION_ORDER = 3

_LINE_BREAK = 0
_ROUGE_WORD = re.compile(r"[a-z0-9]+|\n")
_ARTICLE = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def rouge(predictions: Sequence[str], references: Sequence[str]) -> Floats:
    """F1 of ROUGE-1, -2, -L and -Lsum for every pair, in 0..1, shape (rows, 4), as `rouge_score` gives it.

    Lin 2004. Words are runs of a-z and 0-9 after lower-casing; ROUGE-Lsum takes lines as sentences.
    """
    vocabulary = {"\n": _LINE_BREAK}
    lines, other_lines = (
        overlap.interned(map(_rouge_words, texts), vocabulary) for texts in (predictions, references)
    )
    prediction, reference = _without_breaks(lines), _without_breaks(other_lines)
    longest = overlap.subsequences(prediction, reference)
    united = overlap.union_subsequences(lines, other_lines, _LINE_BREAK)
    hits = np.column_stack([overlap.matches(prediction, reference, 2), longest, united])
    ours, theirs = (overlap.windows(side, 2)[:, [0, 1, 0, 0]] for side in (prediction, reference))
    return _f1(hits, ours, theirs)


def bleu_statistics(predictions: Sequence[str], references: Sequence[str]) -> overlap.Integers:
    """What BLEU adds up, in sacreBLEU's order, shape (rows, 10).

    Lengths of prediction and reference, shared 1- to 4-grams, the prediction's 1- to 4-grams; in sacreBLEU's
    tokens "13a", case kept.
    """
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    tokenize, vocabulary = Tokenizer13a(), dict[str, int]()  # type: ignore[no-untyped-call]
    prediction, reference = (
        overlap.interned((tokenize(text.rstrip()).split() for text in texts), vocabulary)
        for texts in (predictions, references)
    )
    shared = overlap.matches(prediction, reference, BLEU_ORDER)
    totals = overlap.windows(prediction, BLEU_ORDER)
    return np.column_stack([prediction.lengths, reference.lengths, shared, totals])


def corpus_bleu(sums: Floats) -> Floats:
    """BLEU in 0..100 from summed statistics, shape (..., 10) to (...).

    With sacreBLEU's default smoothing, NIST's: the first order without a match counts as 1/2, the next 1/4.
    """
    lengths, references = sums[..., 0], sums[..., 1]
    matches, totals = sums[..., 2 : 2 + BLEU_ORDER], sums[..., 2 + BLEU_ORDER :]
    smoothed = np.where(matches > 0, matches, 0.5 ** np.cumsum(matches == 0, axis=-1))
    logarithms = np.log(100.0 * smoothed / np.maximum(totals, 1)).sum(axis=-1) / BLEU_ORDER
    brevity = np.minimum(1.0, np.exp(1 - references / np.maximum(lengths, 1)))
    defined = np.any(matches > 0, axis=-1) & np.all(totals > 0, axis=-1)
    return np.where(defined, brevity * np.exp(logarithms), 0.0)


def chrf_statistics(predictions: Sequence[str], references: Sequence[str]) -> overlap.Integers:
    """What chrF adds up, in sacreBLEU's order, shape (rows, 18).

    For n = 1..6 the prediction's, the reference's and the shared n-grams of characters without white space.
    """
    prediction, reference = (
        overlap.ragged([_characters(text) for text in texts]) for texts in (predictions, references)
    )
    ours, theirs = overlap.windows(prediction, CHRF_ORDER), overlap.windows(reference, CHRF_ORDER)
    counted = np.where(theirs > 0, ours, 0)  # sacreBLEU counts no order that the reference is too short for
    shared = overlap.matches(prediction, reference, CHRF_ORDER)
    return np.stack([counted, theirs, shared], axis=-1).reshape(len(shared), 3 * CHRF_ORDER)


def corpus_chrf(sums: Floats) -> Floats:
    """chrF2 in 0..100 from summed statistics, shape (..., 18) to (...), over the orders both sides have."""
    ours, theirs, shared = np.moveaxis(sums.reshape(*sums.shape[:-1], CHRF_ORDER, 3), -1, 0)
    defined = (ours > 0) & (theirs > 0)
    orders = np.maximum(defined.sum(axis=-1), 1)
    precision = (np.where(defined, shared, 0) / np.where(defined, ours, 1)).sum(axis=-1) / orders
    recall = (np.where(defined, shared, 0) / np.where(defined, theirs, 1)).sum(axis=-1) / orders
    weight = CHRF_BETA**2
    divisor = weight * precision + recall
    return np.asarray(100.0 * (1 + weight) * precision * recall / np.where(divisor > 0, divisor, 1.0))


def exact_match(predictions: Sequence[str], references: Sequence[str]) -> Floats:
    """1 where both texts are the same but for surrounding white space, else 0, shape (rows,)."""
    pairs = zip(predictions, references, strict=True)
    return np.array([prediction.strip() == reference.strip() for prediction, reference in pairs], np.float64)


def token_f1(predictions: Sequence[str], references: Sequence[str]) -> Floats:
    """F1 over words without case, punctuation and English articles, in 0..1, shape (rows,).

    As SQuAD 2.0's evaluation script: where either side has no such word, 1 if neither has and else 0.
    """
    vocabulary: dict[str, int] = {}
    prediction, reference = (
        overlap.interned(map(squad_words, texts), vocabulary) for texts in (predictions, references)
    )
    hits = overlap.matches(prediction, reference, 1)[:, 0]
    neither = (prediction.lengths == 0) & (reference.lengths == 0)
    return np.where(neither, 1.0, _f1(hits, prediction.lengths, reference.lengths))


def squad_words(text: str) -> list[str]:
    """Words as SQuAD compares them: lower case, no punctuation, no English articles.

    Rajpurkar et al. 2016, section 6.1.
    """
    return _ARTICLE.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split()


def lengths_and_repetition(predictions: Sequence[str]) -> tuple[Floats, Floats]:
    """Words of every answer, and the share of its trigrams that it said before, each of shape (rows,).

    An answer of fewer than three words repeats nothing.
    """
    words = overlap.interned((text.split() for text in predictions), {})
    trigrams = overlap.windows(words, REPETITION_ORDER)[:, -1]
    different = overlap.distinct(words, REPETITION_ORDER)[:, -1]
    return words.lengths.astype(np.float64), (trigrams - different) / np.maximum(trigrams, 1)


ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")
"""The columns of `rouge`."""

REFERENCED = (*ROUGE, "bleu", "chrf", "exact_match", "token_f1")
"""Metrics that compare with a reference."""

ALONE = ("words", "repetition", "empty")
"""Metrics of the answer alone."""

STATISTICS: dict[str, Statistic] = {
    **dict.fromkeys((*REFERENCED, *ALONE), ratio),
    "bleu": corpus_bleu,
    "chrf": corpus_chrf,
}
"""From sums of a metric's statistics to its score."""


@dataclass(frozen=True)
class Scores:
    """One number or row of numbers per answer and metric, in the answers' order, and what they come to.

    `columns` has every name of `REFERENCED` and `ALONE`: shape (answers,), but (answers, 10) for bleu and
    (answers, 18) for chrf. Answers without a reference hold NaN, zeros in bleu and chrf, and take no part.
    """

    columns: dict[str, npt.NDArray[np.float64]]
    referenced: npt.NDArray[np.bool_]

    def excluded(self, metric: str, rows: Rows | None = None) -> int:
        """How many of the answers have no reference although the metric needs one."""
        return 0 if metric in ALONE else int((~self._referenced(rows)).sum())

    def statistics(self, metric: str, rows: Rows | None = None) -> Floats:
        """What adds up to the metric, shape (answers that have it, columns).

        `rows` chooses answers, as a mask or by index. Raises DataError where none of them has a reference.
        """
        column = self.columns[metric] if rows is None else self.columns[metric][rows]
        if metric in REFERENCED:
            column = column[self._referenced(rows)]
        if not len(column):
            raise DataError(f"{metric}: no answer that can be scored; it needs at least one with a reference")
        return column if column.ndim == 2 else np.column_stack([column, np.ones(len(column))])

    def value(self, metric: str, rows: Rows | None = None) -> float:
        """The corpus score of all answers or of the chosen rows."""
        return float(STATISTICS[metric](self.statistics(metric, rows).sum(axis=0)))

    def interval(self, metric: str, rows: Rows | None = None) -> Interval:
        """The corpus score with its bootstrap interval."""
        excluded = self.excluded(metric, rows)
        return bootstrap(self.statistics(metric, rows), STATISTICS[metric], excluded=excluded)

    def _referenced(self, rows: Rows | None) -> npt.NDArray[np.bool_]:
        return self.referenced if rows is None else np.asarray(self.referenced[rows])


def score_answers(predictions: Sequence[str], references: Sequence[str | None]) -> Scores:
    """Every metric of every answer; None is a missing reference, an empty text a text like any other.

    Raises DataError without answers, or where predictions and references differ in number.
    """
    _check(predictions, references)
    referenced = np.array([reference is not None for reference in references])
    pairs = [
        (ours, theirs) for ours, theirs in zip(predictions, references, strict=True) if theirs is not None
    ]
    compared = _compare([ours for ours, _ in pairs], [theirs for _, theirs in pairs])
    words, repetition = lengths_and_repetition(predictions)
    empty = np.array([not prediction.strip() for prediction in predictions], np.float64)
    columns = {name: _spread(column, referenced) for name, column in compared.items()}
    return Scores({**columns, "words": words, "repetition": repetition, "empty": empty}, referenced)


@cache
def signatures() -> dict[str, str]:
    """What exactly was computed: sacreBLEU's own signatures, and one in the same manner for ROUGE."""
    from importlib.metadata import version

    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    bleu, chrf = BLEU(), CHRF(char_order=CHRF_ORDER, beta=CHRF_BETA)
    for metric in (bleu, chrf):  # sacreBLEU knows the number of references only after a score
        metric.corpus_score(["text"], [["text"]])
    ours = f"nrefs:1|case:lc|stem:no|tok:a-z0-9|lsum:lines|version:{version('rouge_score')}"
    return {"rouge": ours, "bleu": str(bleu.get_signature()), "chrf": str(chrf.get_signature())}


def _check(predictions: Sequence[str], references: Sequence[str | None]) -> None:
    if not predictions:
        raise DataError("score: no answers to score; generate for at least one test conversation")
    if len(predictions) != len(references):
        raise DataError(f"score: {len(predictions)} answers for {len(references)} references; one of each")


def _compare(predictions: Sequence[str], references: Sequence[str]) -> dict[str, npt.NDArray[np.generic]]:
    """The columns of `REFERENCED` for answers that have a reference."""
    return {
        **dict(zip(ROUGE, rouge(predictions, references).T, strict=True)),
        "bleu": bleu_statistics(predictions, references),
        "chrf": chrf_statistics(predictions, references),
        "exact_match": exact_match(predictions, references),
        "token_f1": token_f1(predictions, references),
    }


def _spread(column: npt.NDArray[np.generic], referenced: npt.NDArray[np.bool_]) -> Floats:
    """A column of the answers with a reference as one of all answers, else NaN or counts of zero."""
    missing = np.nan if column.ndim == 1 else 0.0
    whole = np.full((len(referenced), *column.shape[1:]), missing)
    whole[referenced] = column
    return whole


def _f1(hits: npt.NDArray[np.int64], ours: npt.NDArray[np.int64], theirs: npt.NDArray[np.int64]) -> Floats:
    """Harmonic mean of precision and recall, 0 without a hit; in `rouge_score`'s order of operations."""
    precision, recall = hits / np.maximum(ours, 1), hits / np.maximum(theirs, 1)
    return 2 * precision * recall / np.where(hits > 0, precision + recall, 1.0)


def _rouge_words(text: str) -> list[str]:
    """Words and line breaks of a text as `rouge_score.tokenize` and its splitting into lines find them."""
    return _ROUGE_WORD.findall(text.lower())


def _without_breaks(lines: overlap.Ragged) -> overlap.Ragged:
    """The same sequences without their line breaks."""
    words = lines.values != _LINE_BREAK
    before = np.concatenate([[0], np.cumsum(words)])
    return overlap.Ragged(lines.values[words], before[lines.offsets])


def _characters(text: str) -> npt.NDArray[np.uint32]:
    """The code points of a text without its white space."""
    return np.frombuffer("".join(text.split()).encode("utf-32-le", "surrogatepass"), np.uint32)
