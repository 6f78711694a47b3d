"""The score table: base and tuned model metric by metric, with intervals and the difference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline_lib.pages.rendering import ABSENT, figure

TITLES = {
    "perplexity": "Perplexity",
    "perplexity_whole": "Perplexity, prompts too",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "rougeLsum": "ROUGE-Lsum",
    "bleu": "BLEU",
    "chrf": "chrF",
    "exact_match": "Exact match",
    "token_f1": "Token F1",
    "stopped": "Stops by itself",
    "answer_words": "Words per answer",
    "repetition": "Repetition",
    "empty": "Empty answers",
    "prefers_chosen": "Prefers the chosen answer",
    "reward_accuracy": "Reward accuracy",
    "reward_chosen": "Reward of chosen answers (nats)",
    "reward_rejected": "Reward of rejected answers (nats)",
    "reward_margin": "Reward margin (nats)",
    "raises_chosen": "Raises chosen answers",
    "lowers_rejected": "Lowers rejected answers",
    "reward": "Reward",
    "win_rate": "Wins by reward",
}
LOWER_IS_BETTER = ("perplexity", "perplexity_whole", "repetition", "empty", "reward_rejected")
NEUTRAL = ("answer_words",)


@dataclass(frozen=True)
class ScoreRow:
    """One metric of the table; figures are texts, ready to be read."""

    metric: str
    title: str
    direction: str
    base: str
    base_interval: str
    tuned: str
    tuned_interval: str
    difference: str
    difference_interval: str
    p_value: str
    outcome: str
    """``better``, ``worse``, or empty where the difference's interval holds zero or neither is better."""


def score_rows(
    base: Mapping[str, Any] | None, tuned: Mapping[str, Any], comparison: Mapping[str, Any]
) -> list[ScoreRow]:
    """Return one row per metric of the tuned model's scores, known metrics first in their usual order.

    Metrics that take two models stand in the comparison alone.
    """
    given = tuned["scores"]
    order = [m for m in TITLES if m in given or m in comparison]
    order += sorted(m for m in given if m not in TITLES)
    others = base["scores"] if base else {}
    compared = {m: comparison.get(m) or {} for m in order}
    return [
        _row(
            m,
            others.get(m) or {},
            given.get(m) or {"value": compared[m].get("tuned")},
            compared[m].get("difference") or {},
        )
        for m in order
    ]


@dataclass(frozen=True)
class SliceRow:
    """One group of a slice: both models' figures, ready to be read."""

    slice: str
    group: str
    count: int
    scores: tuple[ScoreRow, ...]


def slice_rows(slices: Mapping[str, Any]) -> list[SliceRow]:
    """Return one row per group of every slice of a verdict; a slice of one group says nothing new."""
    return [
        SliceRow(name, group, compared["count"], tuple(general_rows(compared)))
        for name, groups in slices.items()
        if len(groups) > 1
        for group, compared in groups.items()
    ]


def general_rows(compared: Mapping[str, Any]) -> list[ScoreRow]:
    """Return one row per metric of a comparison by itself, without intervals of the single scores."""
    return [
        _row(metric, {"value": both["base"]}, {"value": both["tuned"]}, both["difference"])
        for metric, both in compared.items()
        if isinstance(both, Mapping)
    ]


def _row(
    metric: str, base: Mapping[str, Any], tuned: Mapping[str, Any], difference: Mapping[str, Any]
) -> ScoreRow:
    return ScoreRow(
        metric=metric,
        title=TITLES.get(metric, metric),
        direction=_direction(metric, tuned),
        base=figure(base.get("value")),
        base_interval=interval(base),
        tuned=figure(tuned.get("value")),
        tuned_interval=interval(tuned),
        difference=signed(difference.get("value")),
        difference_interval=interval(difference),
        p_value=p_value(difference.get("p_value")),
        outcome=_outcome(metric, difference),
    )


def _direction(metric: str, score: Mapping[str, Any]) -> str:
    """Return which way is better; suites of lm-eval say so themselves."""
    if metric in NEUTRAL:
        return ""
    return "higher" if score.get("higher_is_better", metric not in LOWER_IS_BETTER) else "lower"


def _outcome(metric: str, difference: Mapping[str, Any]) -> str:
    low, high = difference.get("low"), difference.get("high")
    if low is None or high is None or low <= 0 <= high or metric in NEUTRAL:
        return ""
    return "better" if (high < 0) == (metric in LOWER_IS_BETTER) else "worse"


def signed(value: float | None) -> str:
    """Return a difference with its sign."""
    text = figure(value)
    return f"+{text}" if value is not None and value > 0 and text != ABSENT else text


def interval(score: Mapping[str, Any]) -> str:
    """Return ``low … high``; empty where the score has no interval."""
    if score.get("low") is None or score.get("high") is None:
        return ""
    return f"{figure(score['low'])} … {figure(score['high'])}"


def p_value(value: float | None) -> str:
    """Return a p-value to three digits."""
    return "" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"
