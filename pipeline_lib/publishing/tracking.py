"""One MLflow run for one run of the pipeline, complete even where every stage came from the store.

Everything is read back from the artifacts: parameters from their manifests, curves from the training's
``logs/history.jsonl``, scores and answers from the evaluations. `register` and the command line's
``--log`` both call `log_run`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline_lib.core.artifact import Artifact
from pipeline_lib.core.provenance import git_commit
from pipeline_lib.kinds import Audit, Dataset, Evaluation, Report, Trained, Verdict
from pipeline_lib.publishing.answers import sample_answers
from pipeline_lib.publishing.connection import artifact_location
from pipeline_lib.publishing.lineage import Ancestor, base_evaluation, lineage

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Metric, Param, RunTag

T = TypeVar("T")
METRICS_PER_CALL = 1000  # MLflow's own limits for one log_batch
PARAMS_PER_CALL = TAGS_PER_CALL = 100
PARAM_LENGTH = 6000
DATASET_DIGEST_LENGTH = 36
CURVES = {"loss": "train.loss", "eval_loss": "eval.loss"}
DATA_PARTS = ("train", "validation", "test", "kept")
FINGERPRINT_TAG = "fingerprint"


@dataclass(frozen=True)
class RunContents:
    """What one MLflow run shows; what a pipeline does not have is None."""

    artifacts: tuple[Artifact, ...]
    training: Trained | None = None
    evaluation: Evaluation | None = None
    verdict: Verdict | None = None
    report: Report | None = None
    datasets: tuple[Dataset, ...] = ()
    audit: Audit | None = None


def contents_of(artifacts: Mapping[str, Artifact]) -> RunContents:
    """Return what a pipeline's artifacts (by name, in pipeline order) have to show.

    Of each kind the last is the result.
    """
    items = tuple(artifacts.values())
    trained = [a for a in items if isinstance(a, Trained) and (a.path / "logs" / "history.jsonl").exists()]
    return RunContents(
        artifacts=items,
        training=trained[-1] if trained else None,
        evaluation=next((a for a in reversed(items) if isinstance(a, Evaluation)), None),
        verdict=next((a for a in reversed(items) if isinstance(a, Verdict)), None),
        report=next((a for a in reversed(items) if isinstance(a, Report)), None),
        datasets=tuple(a for a in items if isinstance(a, Dataset))[-1:],
        audit=next((a for a in reversed(items) if isinstance(a, Audit)), None),
    )


def log_run(
    client: MlflowClient, contents: RunContents, *, experiment: str, name: str, tags: Mapping[str, str]
) -> str:
    """Write one run that is left open (RUNNING), and return its id; the caller ends it.

    Raises MLflow's own errors; `connection.connected` turns them into one line.
    """
    run = client.create_run(experiment_id(client, experiment), run_name=name, tags=dict(tags))
    run_id: str = run.info.run_id
    ancestors = lineage(contents.artifacts)
    _log_batches(
        client, run_id, _metrics(contents, ancestors), _params(ancestors), _tags(contents, ancestors)
    )
    if inputs := _data_inputs(contents.datasets):
        client.log_inputs(run_id, inputs)
    _log_files(client, run_id, contents)
    if contents.evaluation:
        _log_answers(client, run_id, contents, ancestors)
    return run_id


def experiment_id(client: MlflowClient, name: str) -> str:
    """Return the id of the experiment, made where it is not there yet."""
    from mlflow import MlflowException

    if found := client.get_experiment_by_name(name):
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)
    try:
        return str(client.create_experiment(name, artifact_location=artifact_location()))
    except MlflowException:
        # Another process may have made it between the two calls.
        if found := client.get_experiment_by_name(name):
            return str(found.experiment_id)
        raise


def _log_batches(
    client: MlflowClient, run_id: str, metrics: list[Metric], params: list[Param], tags: list[RunTag]
) -> None:
    for some_params in _chunks(params, PARAMS_PER_CALL):
        client.log_batch(run_id, params=some_params)
    for some_tags in _chunks(tags, TAGS_PER_CALL):
        client.log_batch(run_id, tags=some_tags)
    for some_metrics in _chunks(metrics, METRICS_PER_CALL):
        client.log_batch(run_id, metrics=some_metrics)


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _params(ancestors: Sequence[Ancestor]) -> list[Param]:
    from mlflow.entities import Param

    seen: list[tuple[str, dict[str, Any]]] = []
    params = []
    for ancestor in reversed(ancestors):
        known = (ancestor.manifest.stage, ancestor.manifest.config)
        if known in seen:
            continue
        seen.append(known)
        params += [
            Param(key, value[:PARAM_LENGTH])
            for key, value in flatten(ancestor.manifest.config, ancestor.label)
        ]
    return params


def flatten(config: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    """Yield a config as (dotted key, text) pairs; lists stay whole, as JSON."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}.{key}")
        else:
            yield (
                f"{prefix}.{key}",
                value if isinstance(value, str) else json.dumps(value, ensure_ascii=False),
            )


def _tags(contents: RunContents, ancestors: Sequence[Ancestor]) -> list[RunTag]:
    from mlflow.entities import RunTag

    tags = {}
    for ancestor in ancestors:
        tags[f"fingerprint.{ancestor.label}"] = ancestor.manifest.fingerprint
        tags[f"digest.{ancestor.label}"] = ancestor.manifest.digest
    if commit := git_commit():
        tags["mlflow.source.git.commit"] = commit
    if contents.training and (method := contents.training.manifest.stats.get("method")):
        tags["method"] = str(method)
    if contents.verdict:
        tags["verdict"] = "open" if contents.verdict.read()["open"] else "closed"
    if contents.report:
        tags["mlflow.note.content"] = contents.report.file("report.md").read_text(encoding="utf-8")[:8000]
    return [RunTag(key, value) for key, value in tags.items()]


def _metrics(contents: RunContents, ancestors: Sequence[Ancestor]) -> list[Metric]:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    figures = dict(_costs(ancestors))
    if contents.evaluation:
        figures |= dict(_scores(contents.evaluation, "tuned"))
        base = (
            base_evaluation(ancestors, contents.evaluation, contents.training) if contents.training else None
        )
        figures |= dict(_scores(base, "base")) if base else {}
    if contents.verdict:
        figures |= dict(_differences(contents.verdict))
    if contents.audit:
        figures |= dict(_audited("audit", contents.audit.read()))
    single = [Metric(key, value, now, 0) for key, value in figures.items() if math.isfinite(value)]
    curves = [Metric(key, value, now, step) for key, value, step in _curves(contents.training)]
    return single + curves


def _scores(evaluation: Evaluation, who: str) -> Iterator[tuple[str, float]]:
    for metric, score in evaluation.scores()["scores"].items():
        for part, suffix in (("value", ""), ("low", "_low"), ("high", "_high")):
            if score.get(part) is not None:
                yield f"{who}.{metric}{suffix}", float(score[part])


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


def _curves(training: Artifact | None) -> Iterator[tuple[str, float, int]]:
    for point in history(training) if training else ():
        for key, value in point.items():
            if key not in ("step", "epoch") and isinstance(value, int | float) and math.isfinite(value):
                yield CURVES.get(key, f"train.{key}"), float(value), int(point["step"])


def history(training: Artifact) -> Iterator[dict[str, Any]]:
    """Yield the points of the training's log, in order; none where it has no log."""
    path = training.path / "logs" / "history.jsonl"
    if path.exists():
        with path.open(encoding="utf-8") as lines:
            yield from (json.loads(line) for line in lines if line.strip())


def _data_inputs(datasets: Sequence[Dataset]) -> list[DatasetInput]:
    return [_data_input(d, part) for d in datasets for part in DATA_PARTS if d.shards(part)]


def _data_input(dataset: Dataset, part: str) -> DatasetInput:
    """Describe one part as MLflow's MetaDataset does: where it stands, how many rows, nothing loaded."""
    from mlflow.data.dataset_source_registry import resolve_dataset_source
    from mlflow.entities import Dataset as Described
    from mlflow.entities import DatasetInput, InputTag

    rows = str(dataset.count(part))
    source = resolve_dataset_source(dataset.path.resolve().as_uri())
    described = Described(
        name=f"{dataset.manifest.stage}.{part}",
        digest=dataset.digest[:DATASET_DIGEST_LENGTH],
        source_type=source._get_source_type(),
        source=source.to_json(),
        profile=json.dumps({"rows": int(rows)}),
    )
    tags = {"mlflow.data.context": part, "digest": dataset.digest, "rows": rows}
    return DatasetInput(described, [InputTag(key, value) for key, value in tags.items()])


def _log_files(client: MlflowClient, run_id: str, contents: RunContents) -> None:
    wanted: list[tuple[Artifact | None, str]] = [
        (contents.report, "report.html"),
        (contents.report, "report.md"),
        (contents.evaluation, "scores.json"),
        (contents.verdict, "verdict.json"),
        (contents.audit, "audit.json"),
    ]
    for artifact, name in wanted:
        if artifact:
            client.log_artifact(run_id, str(artifact.file(name)))


def _log_answers(
    client: MlflowClient, run_id: str, contents: RunContents, ancestors: Sequence[Ancestor]
) -> None:
    assert contents.evaluation
    base = base_evaluation(ancestors, contents.evaluation, contents.training) if contents.training else None
    samples = sample_answers(contents.evaluation, base)
    columns = {
        "prompt": [s.prompt for s in samples],
        "reference": [s.reference for s in samples],
        "base": [s.base for s in samples],
        "tuned": [s.tuned for s in samples],
    }
    client.log_table(run_id, columns, "sample_answers.json")


def end_run(client: MlflowClient, run_id: str, status: str = "FINISHED") -> None:
    """Close a run with its status: FINISHED, FAILED or KILLED."""
    client.set_terminated(run_id, status)


def log_file(client: MlflowClient, run_id: str, path: Path) -> None:
    """Put one more file beside the run's report."""
    client.log_artifact(run_id, str(path))
