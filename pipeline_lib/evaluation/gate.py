"""Gate: may the tuned model become champion? Named rules over scores, with every figure and its threshold.

A closed gate is a result, not an error: the verdict is written either way. A rule is a function below
(`RULES`); its name is the rule's name in ``verdict.json``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.output import Output
from pipeline_lib.core.stage import stage
from pipeline_lib.kinds import Evaluation, Verdict

if TYPE_CHECKING:
    from pipeline_lib.evaluation.tables import Measured

COMPARED = ("perplexity", "rouge1", "rouge2", "rougeL", "bleu", "chrf", "exact_match", "token_f1", "stopped")


class GateConfig(StageConfig):
    """What the tuned model must show; a rule whose threshold is none does not apply."""

    max_p_value: float | None = Field(
        default=0.05,
        gt=0,
        lt=1,
        description="Perplexity must be lower than the base model's, with p below this (paired bootstrap).",
    )
    min_stopped: float | None = Field(
        default=0.95, ge=0, le=1, description="Least share of answers that end by themselves."
    )
    min_rouge_ratio: float | None = Field(
        default=None, gt=0, description="Least ROUGE-L, as a multiple of the base model's."
    )
    max_perplexity: float | None = Field(
        default=None, gt=1, description="Highest perplexity over answer tokens."
    )


@dataclass(frozen=True)
class Rule:
    """One rule's figure, its threshold and whether it holds."""

    rule: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    threshold: float
    passed: bool
    reason: str


Scores = Mapping[str, Mapping[str, float]]
Comparison = Mapping[str, Mapping[str, Any]]


@stage(produces=Verdict, version=1)
def gate(out: Output, config: GateConfig, base: Evaluation, tuned: Evaluation) -> None:
    """Open where every rule of the config holds; with both models compared on the same conversations."""
    from pipeline_lib.evaluation.tables import measure, paired

    ours, theirs = paired(tuned, base)
    comparison = compare(measure(theirs), measure(ours))
    rules = judge(config, tuned.scores()["scores"], comparison)
    verdict = {
        "open": all(rule.passed for rule in rules),
        "rules": [asdict(rule) for rule in rules],
        "comparison": comparison,
    }
    text = json.dumps(verdict, indent=1, ensure_ascii=False, allow_nan=False)
    (out.path / "verdict.json").write_text(text + "\n", encoding="utf-8")
    out.stats = {
        "open": verdict["open"],
        "conversations": ours.num_rows,
        "failed": [rule.rule for rule in rules if not rule.passed],
    }


def judge(config: GateConfig, scores: Scores, comparison: Comparison) -> list[Rule]:
    """Return the outcome of every rule that the config asks for."""
    outcomes = (rule(config, scores, comparison) for rule in RULES)
    return [outcome for outcome in outcomes if outcome is not None]


def compare(base: Measured, tuned: Measured) -> dict[str, dict[str, Any]]:
    """Return every metric of both models with tuned minus base and its paired bootstrap."""
    from pipeline_lib.evaluation.statistics import paired_bootstrap

    compared = {}
    for metric in (name for name in COMPARED if name in base.rows and name in tuned.rows):
        statistic = tuned.statistic(metric)
        difference = paired_bootstrap(tuned.rows[metric], base.rows[metric], statistic)
        compared[metric] = {
            "base": float(statistic(base.rows[metric].sum(axis=0))),
            "tuned": float(statistic(tuned.rows[metric].sum(axis=0))),
            "difference": {key: getattr(difference, key) for key in ("value", "low", "high", "p_value")},
        }
    return compared


def beats_base(config: GateConfig, scores: Scores, comparison: Comparison) -> Rule | None:
    """Perplexity below the base model's, beyond chance.

    In every draw perplexity and its logarithm differ in the same sense, so the p-value is that of both.
    """
    if config.max_p_value is None:
        return None
    both, difference = comparison["perplexity"], comparison["perplexity"]["difference"]
    passed = difference["value"] < 0 and difference["p_value"] < config.max_p_value
    reason = (
        f"perplexity {both['tuned']:.4g} against {both['base']:.4g} of the base model, "
        f"p = {difference['p_value']:.3g}; it must be lower with p below {config.max_p_value:g}"
    )
    return Rule(
        "beats_base",
        "perplexity",
        difference["value"],
        difference["low"],
        difference["high"],
        config.max_p_value,
        passed,
        reason,
    )


def stops_by_itself(config: GateConfig, scores: Scores, comparison: Comparison) -> Rule | None:
    """Enough answers end with an end-of-turn token before they run out of tokens."""
    if config.min_stopped is None:
        return None
    share = scores["stopped"]
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
    )


def gains_rouge(config: GateConfig, scores: Scores, comparison: Comparison) -> Rule | None:
    """ROUGE-L a multiple of the base model's."""
    if config.min_rouge_ratio is None:
        return None
    both = comparison["rougeL"]
    ratio = both["tuned"] / both["base"] if both["base"] else None
    passed = both["tuned"] >= config.min_rouge_ratio * both["base"]
    reason = (
        f"ROUGE-L {both['tuned']:.4g} against {both['base']:.4g} of the base model; "
        f"at least {config.min_rouge_ratio:g} times that is asked"
    )
    return Rule("gains_rouge", "rougeL", ratio, None, None, config.min_rouge_ratio, passed, reason)


def low_perplexity(config: GateConfig, scores: Scores, comparison: Comparison) -> Rule | None:
    """Perplexity within an absolute limit."""
    if config.max_perplexity is None:
        return None
    score = scores["perplexity"]
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
    )


RULES: tuple[Callable[[GateConfig, Scores, Comparison], Rule | None], ...] = (
    beats_base,
    stops_by_itself,
    gains_rouge,
    low_perplexity,
)
