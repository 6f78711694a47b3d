"""The gate's rules over scores: each a figure, its threshold, and whether it holds, in words.

A rule that the config does not ask for, or that there is no evidence for, is None. Those over what the audit
found stand in ``audit_rules.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline_lib.evaluation.gate import GateConfig


@dataclass(frozen=True)
class Rule:
    """One rule's figure, its threshold and whether it holds."""

    rule: str
    metric: str
    """What the value is a figure of."""
    value: float | None
    low: float | None
    high: float | None
    threshold: float
    passed: bool
    reason: str
    asked: str
    """What the value must be, in words."""


def at_least(threshold: float) -> str:
    """Return in words that a value may not be under a threshold."""
    return f"at least {threshold:g}"


def at_most(threshold: float) -> str:
    """Return in words that a value may not be over a threshold."""
    return f"at most {threshold:g}"


Comparison = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Evidence:
    """What the rules look at."""

    scores: Mapping[str, Mapping[str, float]]
    """The tuned model's scores with their intervals."""
    comparison: Comparison
    """Base and tuned model on the test split."""
    audit: Mapping[str, Any] | None = None
    general: Comparison | None = None
    """Base and tuned model on the general set."""
    champion: Comparison | None = None
    """The registry's champion and the tuned model on the test split; None where nothing is champion yet."""


def beats_base(config: GateConfig, evidence: Evidence) -> Rule | None:
    """Perplexity below the base model's, beyond chance.

    In every draw perplexity and its logarithm differ in the same sense, so the p-value is that of both.
    """
    if config.max_p_value is None:
        return None
    both, difference = evidence.comparison["perplexity"], evidence.comparison["perplexity"]["difference"]
    passed = difference["value"] < 0 and difference["p_value"] < config.max_p_value
    reason = (
        f"perplexity {both['tuned']:.4g} against {both['base']:.4g} of the base model, "
        f"p = {difference['p_value']:.3g}; it must be lower with p below {config.max_p_value:g}"
    )
    return Rule(
        "beats_base",
        "perplexity, less the base model's",
        difference["value"],
        difference["low"],
        difference["high"],
        config.max_p_value,
        passed,
        reason,
        f"below 0 with p below {config.max_p_value:g}",
    )


def holds_against_champion(config: GateConfig, evidence: Evidence) -> Rule | None:
    """Perplexity not above the champion's beyond chance; without a champion there is none to lose against."""
    if config.champion_p_value is None:
        return None
    name, metric = "holds_against_champion", "perplexity, less the champion's"
    threshold, asked = config.champion_p_value, f"not above 0 with p below {config.champion_p_value:g}"
    if evidence.champion is None:
        reason = "the registry had no other champion to hold it against"
        return Rule(name, metric, None, None, None, threshold, True, reason, asked)
    both, difference = evidence.champion["perplexity"], evidence.champion["perplexity"]["difference"]
    passed = not (difference["value"] > 0 and difference["p_value"] < threshold)
    reason = (
        f"perplexity {both['tuned']:.4g} against {both['champion']:.4g} of the champion, "
        f"p = {difference['p_value']:.3g}; it may not be higher with p below {threshold:g}"
    )
    return Rule(
        name,
        metric,
        difference["value"],
        difference["low"],
        difference["high"],
        threshold,
        passed,
        reason,
        asked,
    )


def stops_by_itself(config: GateConfig, evidence: Evidence) -> Rule | None:
    """Enough answers end with an end-of-turn token before they run out of tokens."""
    if config.min_stopped is None:
        return None
    share = evidence.scores["stopped"]
    reason = f"{share['value']:.1%} of answers end by themselves; at least {config.min_stopped:.1%} must"
    return Rule(
        "stops_by_itself",
        "stopped",
        share["value"],
        share["low"],
        share["high"],
        config.min_stopped,
        share["value"] >= config.min_stopped,
        reason,
        at_least(config.min_stopped),
    )


def gains_rouge(config: GateConfig, evidence: Evidence) -> Rule | None:
    """ROUGE-L a multiple of the base model's."""
    if config.min_rouge_ratio is None:
        return None
    both = evidence.comparison["rougeL"]
    ratio = both["tuned"] / both["base"] if both["base"] else None
    passed = both["tuned"] >= config.min_rouge_ratio * both["base"]
    reason = (
        f"ROUGE-L {both['tuned']:.4g} against {both['base']:.4g} of the base model; "
        f"at least {config.min_rouge_ratio:g} times that is asked"
    )
    least = config.min_rouge_ratio
    metric = "rougeL, as a multiple of the base model's"
    return Rule("gains_rouge", metric, ratio, None, None, least, passed, reason, at_least(least))


def learns_preferences(config: GateConfig, evidence: Evidence) -> Rule | None:
    """Training raised chosen answers above the rejected ones, or answers as they are labelled."""
    what = "of preferences were learnt: chosen answers gained more than rejected ones"
    return _at_least("learns_preferences", "reward_accuracy", config.min_reward_accuracy, evidence, what)


def parts_answers(config: GateConfig, evidence: Evidence) -> Rule | None:
    """Chosen answers gained more than rejected ones, beyond chance."""
    name, metric, least = "parts_answers", "reward_margin", config.min_reward_margin
    if least is None:
        return None
    if metric not in evidence.comparison:
        return _unmeasured(name, metric, least)
    found = evidence.comparison[metric]["difference"]
    reason = (
        f"chosen answers gained {found['value']:.3g} nats more than rejected ones "
        f"({found['low']:.3g} to {found['high']:.3g}); the whole interval must be over {least:g}"
    )
    return Rule(
        name,
        metric,
        found["value"],
        found["low"],
        found["high"],
        least,
        found["low"] > least,
        reason,
        f"the whole interval above {least:g}",
    )


def wins(config: GateConfig, evidence: Evidence) -> Rule | None:
    """The reward model prefers the answers to the base model's."""
    what = "of answers the reward model prefers to the base model's"
    return _at_least("wins", "win_rate", config.min_win_rate, evidence, what)


def _at_least(name: str, metric: str, least: float | None, evidence: Evidence, what: str) -> Rule | None:
    if least is None:
        return None
    if metric not in evidence.comparison:
        return _unmeasured(name, metric, least)
    both = evidence.comparison[metric]
    value, difference = both["tuned"], both["difference"]
    # The base model's figure is no estimate, so the difference's interval is that of the figure.
    low, high = (both["base"] + difference[side] for side in ("low", "high"))
    reason = f"{value:.1%} {what}; at least {least:.1%} must"
    return Rule(name, metric, value, low, high, least, value >= least, reason, at_least(least))


def _unmeasured(name: str, metric: str, least: float) -> Rule:
    reason = f"{metric} was asked for and not measured"
    return Rule(name, metric, None, None, None, least, False, reason, at_least(least))


def low_perplexity(config: GateConfig, evidence: Evidence) -> Rule | None:
    """Perplexity within an absolute limit."""
    if config.max_perplexity is None:
        return None
    score = evidence.scores["perplexity"]
    reason = f"perplexity {score['value']:.4g}; at most {config.max_perplexity:g} is allowed"
    return Rule(
        "low_perplexity",
        "perplexity",
        score["value"],
        score["low"],
        score["high"],
        config.max_perplexity,
        score["value"] <= config.max_perplexity,
        reason,
        at_most(config.max_perplexity),
    )


def keeps_general(config: GateConfig, evidence: Evidence) -> Rule | None:
    """What the base model could do beside the task is not lost: perplexity on the general set."""
    if config.max_general_loss is None or evidence.general is None:
        return None
    both = evidence.general["perplexity"]
    loss = both["tuned"] / both["base"] - 1
    reason = (
        f"perplexity on the general set {both['tuned']:.4g} against {both['base']:.4g} of the base model "
        f"({loss:+.1%}); at most {config.max_general_loss:+.1%} is allowed"
    )
    bounds = [both["difference"][side] / both["base"] for side in ("low", "high")]
    return Rule(
        "keeps_general",
        "perplexity on the general set, rise over the base model's",
        loss,
        bounds[0],
        bounds[1],
        config.max_general_loss,
        loss <= config.max_general_loss,
        reason,
        at_most(config.max_general_loss),
    )


RULES: tuple[Callable[[GateConfig, Evidence], Rule | None], ...] = (
    beats_base,
    holds_against_champion,
    stops_by_itself,
    gains_rouge,
    learns_preferences,
    parts_answers,
    wins,
    low_perplexity,
    keeps_general,
)
