"""Report: one page on what became of the data, how training went and what the model is worth.

``report.html`` is self-contained (no script, no request to anywhere), ``report.md`` its short form. Both hold
nothing that changes from run to run (times, hosts): the same inputs give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.output import Output
from pipeline_lib.core.stage import stage
from pipeline_lib.kinds import Audit, Dataset, Evaluation, Ratings, Report, Tokens, Trained, Verdict

if TYPE_CHECKING:
    from markupsafe import Markup

    from pipeline_lib.publishing.scores import ScoreRow

NO_FIGURES = dict.fromkeys(("metric", "value", "low", "high", "asked", "reason"))
VOLATILE = ("seconds", "tokens_per_second", "peak_memory_gib", "tflops", "model_flop_utilisation")


class ReportConfig(StageConfig):
    """What the report shows."""

    title: str = Field(default="Fine-tuning report", min_length=1, description="Heading of the report.")
    answers: int = Field(default=12, ge=0, le=200, description="Number of sample answers shown side by side.")


@stage(produces=Report, version=7)
def report(
    out: Output,
    config: ReportConfig,
    curation: tuple[Dataset, ...],
    tokens: Tokens,
    training: Trained,
    base_evaluation: Evaluation,
    evaluation: Evaluation,
    verdict: Verdict,
    audit: Audit | None = None,
    ratings: Ratings | None = None,
    champion: Evaluation | None = None,
) -> None:
    """One page on data, training, scores, audit, answers, verdict and lineage, and its short form."""
    from pipeline_lib.pages.funnel import funnel
    from pipeline_lib.pages.rendering import environment
    from pipeline_lib.publishing.answers import sample_answers
    from pipeline_lib.publishing.audited import audit_rows, mask_audit, passages, ratings_of
    from pipeline_lib.publishing.lineage import lineage
    from pipeline_lib.publishing.scores import general_rows, score_rows, slice_rows

    read = verdict.read()
    scores = evaluation.scores()
    page = {
        "config": config,
        "open": read["open"],
        "rules": [NO_FIGURES | rule for rule in read["rules"]],
        "scores": score_rows(base_evaluation.scores(), scores, read.get("comparison", {})),
        "champion": {row.metric: row for row in _against(champion, scores, read)},
        "slices": slice_rows(read.get("slices", {})),
        "general": general_rows(read.get("general", {})),
        "audit": audit_rows(audit.read()) if audit else [],
        "passages": passages(audit) if audit else [],
        "ratings": ratings_of(ratings),
        "mask_audit": mask_audit(tokens),
        "count": scores["count"],
        "answered": scores["answered"],
        "signatures": scores.get("signatures", {}),
        "funnel": funnel(counts(curation, tokens)),
        "training": training_facts(training),
        "curves": _curves(training),
        "lengths": _lengths(tokens, base_evaluation, evaluation, champion),
        "answers": sample_answers(evaluation, base_evaluation, config.answers, champion),
        "lineage": lineage(
            filter(
                None, (*curation, tokens, training, base_evaluation, evaluation, champion, audit, verdict)
            ),
            evaluation,
        ),
    }
    for name in ("report.html", "report.md"):
        text = environment("pipeline_lib.publishing").get_template(f"{name}.j2").render(page)
        (out.path / name).write_text(text, encoding="utf-8", errors="replace")
    out.stats = {"open": read["open"], "answers": len(page["answers"])}


def _against(
    champion: Evaluation | None, scores: Mapping[str, Any], verdict: Mapping[str, Any]
) -> list[ScoreRow]:
    from pipeline_lib.publishing.scores import score_rows

    return score_rows(champion.scores(), scores, verdict.get("champion", {})) if champion else []


def counts(curation: Sequence[Dataset], tokens: Tokens) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the stages that read conversations with what they counted, in pipeline order."""
    for dataset in curation:
        yield dataset.manifest.stage, dataset.manifest.stats
    for part, stats in tokens.manifest.stats.items():
        if isinstance(stats, Mapping):
            yield f"{tokens.manifest.stage} {part}", stats


def training_facts(training: Trained) -> list[tuple[str, str]]:
    """Return what the training counted as (name, figure) pairs, without what differs from run to run."""
    from pipeline_lib.pages.rendering import figure

    facts = []
    for key, value in training.manifest.stats.items():
        if key in VOLATILE or isinstance(value, bool | dict | list) or value is None:
            continue
        facts.append((key.replace("_", " "), figure(value) if isinstance(value, int | float) else str(value)))
    return facts


def _curves(training: Trained) -> list[Markup]:
    from pipeline_lib.pages.charts import Series, curves
    from pipeline_lib.publishing.figures import points

    steps = list(points(training.history))

    def series(name: str, key: str) -> Series:
        return Series(name, [(p["step"], float(p[key])) for p in steps if p.get(key) is not None])

    objective = training.manifest.stats["objective"]
    unit = "nats per token" if objective == "sft" else objective
    drawn = [
        curves([series("train", "loss"), series("validation", "eval_loss")], "step", f"Loss ({unit})"),
        curves([series("learning rate", "learning_rate")], "step", "Learning rate"),
    ]
    return [figure for figure in drawn if figure]


def _lengths(
    tokens: Tokens, base: Evaluation, tuned: Evaluation, champion: Evaluation | None
) -> list[Markup]:
    from pipeline_lib.pages.charts import histogram
    from pipeline_lib.publishing.answers import answer_lengths

    words = [
        ("reference", answer_lengths(tuned, "reference")),
        ("base", answer_lengths(base, "answer")),
        ("tuned", answer_lengths(tuned, "answer")),
        *([("champion", answer_lengths(champion, "answer"))] if champion else []),
    ]
    drawn = [
        histogram(
            [(part, token_lengths(tokens, part)) for part in ("train", "validation")],
            "tokens",
            "Conversations by length (%)",
        ),
        histogram(words, "words", "Answers on the test split by length (%)"),
    ]
    return [figure for figure in drawn if figure]


def token_lengths(tokens: Tokens, part: str) -> list[int]:
    """Return the number of tokens in every row of one part, of a preference its prompt and both answers."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    lengths: list[int] = []
    for shard in tokens.shards(part):
        table = pq.read_table(shard)
        columns = [pc.list_value_length(table[name]) for name in table.column_names if name.endswith("_ids")]
        lengths += map(sum, zip(*(column.to_pylist() for column in columns), strict=True))
    return lengths
