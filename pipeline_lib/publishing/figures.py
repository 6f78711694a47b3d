"""The figures of one MLflow run: scores, differences, the audit's counts, costs, and training's curves.

Everything is read back from the artifacts, so a run is as complete where every stage came from the store.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_lib.kinds import Evaluation, Verdict
from pipeline_lib.publishing.lineage import Ancestor

if TYPE_CHECKING:
    from mlflow.entities import Metric

    from pipeline_lib.publishing.tracking import RunContents

CURVES = {"loss": "train.loss", "eval_loss": "eval.loss"}


def metrics(contents: RunContents, ancestors: Sequence[Ancestor]) -> list[Metric]:
    """Return all figures of a run and its curves; what is not finite is left out."""
    figures = dict(_costs(ancestors))
    for role, evaluation in contents.evaluations.items():
        figures |= dict(scores(evaluation, f"{role}.")) | dict(speed(evaluation, f"{role}."))
    if contents.verdict:
        figures |= dict(_differences(contents.verdict))
    if contents.audit:
        figures |= dict(_audited("audit", contents.audit.read()))
    training = contents.training
    curve_points = list(curves(training.history)) if training else []
    return taken([(key, value, 0) for key, value in figures.items()] + curve_points)


def taken(points: Iterable[tuple[str, float, int]]) -> list[Metric]:
    """Return (name, value, step) as metrics of this moment, without what is not finite."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [Metric(key, value, now, step) for key, value, step in points if math.isfinite(value)]


def scores(evaluation: Evaluation, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield an evaluation's scores and the ends of their intervals (``perplexity_low``)."""
    for metric, score in evaluation.scores()["scores"].items():
        for part, suffix in (("value", ""), ("low", "_low"), ("high", "_high")):
            if score.get(part) is not None:
                yield f"{prefix}{metric}{suffix}", float(score[part])


def speed(evaluation: Evaluation, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield tokens per second of each phase, over all processes, and how long a prompt waits for a token.

    Nothing where the evaluation's store kept no ``logs/speed.json``.
    """
    path = evaluation.path / "logs" / "speed.json"
    processes = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    for phase in sorted({phase for process in processes for phase in process}):
        for key in ("tokens_per_second", "median_ms", "p95_ms"):
            found = [process[phase][key] for process in processes if key in process.get(phase, {})]
            if found:
                yield f"{prefix}speed.{phase}_{key}", float(sum(found))


def _differences(verdict: Verdict) -> Iterator[tuple[str, float]]:
    for metric, compared in verdict.read().get("comparison", {}).items():
        for part, value in (compared.get("difference") or {}).items():
            if value is not None:
                yield f"difference.{metric}" + ("" if part == "value" else f"_{part}"), float(value)


def _audited(prefix: str, found: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the audit's figures under dotted names; single secrets stay in the file."""
    for key, value in found.items():
        if isinstance(value, Mapping):
            yield from _audited(f"{prefix}.{key}", value)
        elif isinstance(value, int | float):
            yield f"{prefix}.{key}", float(value)


def _costs(ancestors: Sequence[Ancestor]) -> Iterator[tuple[str, float]]:
    for ancestor in ancestors:
        yield f"seconds.{ancestor.label}", ancestor.manifest.provenance.seconds
        for key in ("kept", "dropped"):
            if isinstance(count := ancestor.manifest.stats.get(key), int):
                yield f"{key}.{ancestor.label}", float(count)


def curves(journal: Path) -> Iterator[tuple[str, float, int]]:
    """Yield name, value and step of every point of a training's journal."""
    for point in points(journal):
        for key, value in point.items():
            if key not in ("step", "epoch") and isinstance(value, int | float):
                yield CURVES.get(key, f"train.{key}"), float(value), int(point["step"])


def points(journal: Path) -> Iterator[dict[str, Any]]:
    """Yield the points of a training's journal, in order; none where there is no journal."""
    if journal.exists():
        with journal.open(encoding="utf-8") as lines:
            # The last line may be in the making.
            yield from (json.loads(line) for line in lines if line.endswith("\n"))
