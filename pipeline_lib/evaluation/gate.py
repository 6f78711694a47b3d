"""Gate: may the tuned model become champion? Named rules over scores, with every figure and its threshold.

A closed gate is a result, not an error: the verdict is written either way. A rule is a function in `rules` or
`audit_rules`; its name is the rule's name in ``verdict.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.output import Output
from pipeline_lib.core.stage import stage
from pipeline_lib.evaluation.audit_rules import AUDIT_RULES
from pipeline_lib.evaluation.rules import RULES, Comparison, Evidence, Rule
from pipeline_lib.kinds import Audit, Evaluation, Verdict

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline_lib.evaluation.tables import Measured

SLICED = ("perplexity", "rougeL")
COMPARED = (
    "perplexity",
    "perplexity_whole",
    "rouge1",
    "rouge2",
    "rougeL",
    "rougeLsum",
    "bleu",
    "chrf",
    "exact_match",
    "token_f1",
    "stopped",
    "answer_words",
    "repetition",
    "empty",
    "prefers_chosen",
    "reward_accuracy",
    "reward_chosen",
    "reward_rejected",
    "reward_margin",
    "raises_chosen",
    "lowers_rejected",
    "reward",
    "win_rate",
)


class GateConfig(StageConfig):
    """What the tuned model must show; a rule whose threshold is none does not apply."""

    max_p_value: float | None = Field(
        default=0.05,
        gt=0,
        lt=1,
        description="Perplexity must be lower than the base model's, with p below this (paired bootstrap).",
    )
    champion_p_value: float | None = Field(
        default=0.05,
        gt=0,
        lt=1,
        description="Perplexity may not be higher than the registry's champion's with p below this (paired "
        "bootstrap); none measures no champion.",
    )
    min_stopped: float | None = Field(
        default=0.95, ge=0, le=1, description="Least share of answers that end by themselves."
    )
    min_rouge_ratio: float | None = Field(
        default=None, gt=0, description="Least ROUGE-L, as a multiple of the base model's."
    )
    min_reward_accuracy: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Least share of the test's pairs and labelled answers whose preference was learnt: the "
        "chosen answer gained more than the rejected one, or one gained or lost as its label says.",
    )
    min_reward_margin: float | None = Field(
        default=None,
        description="By how many nats, at the lower end of the interval, training raised chosen answers (or "
        "those labelled true) more than rejected ones (or those labelled false).",
    )
    min_win_rate: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Least share of answers that the reward model prefers to the base model's.",
    )
    max_perplexity: float | None = Field(
        default=None, gt=1, description="Highest perplexity over answer tokens."
    )
    max_general_loss: float | None = Field(
        default=0.1,
        ge=0,
        description="Perplexity on the general set may be this much higher than the base model's, as a share "
        "of it; where there is a general set.",
    )
    no_canary_extracted: bool = Field(
        default=True, description="No planted secret may be said when it is asked for, where any is planted."
    )
    max_exposure: float | None = Field(
        default=None, ge=0, description="Highest exposure of a planted secret, in bits."
    )
    max_leaks: int | None = Field(
        default=0,
        ge=0,
        description="Most values of personal data in answers that stand in the training data and not in the "
        "prompt.",
    )
    max_memorized: float | None = Field(
        default=0.1, ge=0, le=1, description="Largest share of answers with a passage of the training data."
    )
    max_extracted: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Largest share of training answers that the model goes on with to the letter, less the "
        "share of test answers.",
    )
    max_contaminated: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Largest share of test conversations that stand in the training data as a whole.",
    )


@stage(produces=Verdict, version=5)
def gate(
    out: Output,
    config: GateConfig,
    base: Evaluation,
    tuned: Evaluation,
    audit: Audit | None = None,
    general_base: Evaluation | None = None,
    general: Evaluation | None = None,
    champion: Evaluation | None = None,
) -> None:
    """Open where every rule of the config holds; with the models compared on the same conversations."""
    from pipeline_lib.evaluation.tables import measure, paired

    ours, theirs = paired(tuned, base)
    evidence = Evidence(
        tuned.scores()["scores"],
        compare(measure(theirs, theirs), measure(ours, theirs)),
        audit.read() if audit else None,
        _against(general, general_base, "base"),
        _against(tuned, champion, "champion"),
    )
    rules = judge(config, evidence)
    verdict = {
        "open": all(rule.passed for rule in rules),
        "rules": [asdict(rule) for rule in rules],
        "comparison": evidence.comparison,
        "slices": by_slice(theirs, ours, tuned.scores().get("slices", {})),
    }
    if evidence.general:
        verdict["general"] = evidence.general
    if evidence.champion:
        verdict["champion"] = evidence.champion
    text = json.dumps(verdict, indent=1, ensure_ascii=False, allow_nan=False)
    (out.path / "verdict.json").write_text(text + "\n", encoding="utf-8")
    out.stats = {
        "open": verdict["open"],
        "conversations": ours.num_rows,
        "failed": [rule.rule for rule in rules if not rule.passed],
    }


def _against(tuned: Evaluation | None, other: Evaluation | None, role: str) -> Comparison | None:
    from pipeline_lib.evaluation.tables import measure, paired

    if tuned is None or other is None:
        return None
    ours, theirs = paired(tuned, other)
    return compare(measure(theirs, theirs), measure(ours, theirs), role=role)


def by_slice(base: pa.Table, tuned: pa.Table, slices: Mapping[str, Any]) -> dict[str, Any]:
    """Return the comparison of both models within every group of every slice that was measured."""
    from pipeline_lib.evaluation.tables import groups, measure

    return {
        name: {
            group: {
                "count": int(mask.sum()),
                **compare(measure(base.filter(mask)), measure(tuned.filter(mask)), SLICED),
            }
            for group, mask in groups(tuned, name)
        }
        for name in slices
    }


def judge(config: GateConfig, evidence: Evidence) -> list[Rule]:
    """Return the outcome of every rule that the config asks for and that there is evidence for."""
    outcomes = (rule(config, evidence) for rule in (*RULES, *AUDIT_RULES))
    return [outcome for outcome in outcomes if outcome is not None]


def compare(
    other: Measured, tuned: Measured, metrics: Sequence[str] = COMPARED, role: str = "base"
) -> dict[str, dict[str, Any]]:
    """Return the metrics of both models, the other's under its role, with tuned minus other.

    The differences are by paired bootstrap.
    """
    from pipeline_lib.evaluation.statistics import paired_bootstrap

    compared = {}
    for metric in (name for name in metrics if name in other.rows and name in tuned.rows):
        statistic = tuned.statistic(metric)
        difference = paired_bootstrap(tuned.rows[metric], other.rows[metric], statistic)
        compared[metric] = {
            role: float(statistic(other.rows[metric].sum(axis=0))),
            "tuned": float(statistic(tuned.rows[metric].sum(axis=0))),
            "difference": {key: getattr(difference, key) for key in ("value", "low", "high", "p_value")},
        }
    return compared
