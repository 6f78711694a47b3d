"""One MLflow run for one run of the pipeline, complete even where every stage came from the store.

Everything is read back from the artifacts: parameters from their manifests, `figures` from logs and scores.
Below it stands one run for each model that was measured, so that MLflow compares them metric by metric.
`register` and the command line's ``--log`` both call `log_run`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline_lib.core.artifact import Artifact
from pipeline_lib.core.provenance import git_commit, shown_at
from pipeline_lib.kinds import Audit, Dataset, Evaluation, Profile, Report, Trained, Verdict
from pipeline_lib.publishing.answers import sample_answers
from pipeline_lib.publishing.connection import artifact_location
from pipeline_lib.publishing.figures import metrics, scores, speed, taken
from pipeline_lib.publishing.lineage import Ancestor, lineage

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Metric, Param, RunTag

T = TypeVar("T")
METRICS_PER_CALL = 1000  # MLflow's own limits for one log_batch
PARAMS_PER_CALL = TAGS_PER_CALL = 100
PARAM_LENGTH = 6000
DATASET_DIGEST_LENGTH = 36
DATA_PARTS = ("train", "validation", "test", "kept")
FINGERPRINT_TAG = "fingerprint"
PARENT_TAG, SOURCE_TAG, SOURCE = "mlflow.parentRunId", "mlflow.source.name", "finetune"
USES = {"base": "evaluate_base", "tuned": "evaluate", "champion": "evaluate_champion"}
"""Which use of `evaluate` measures which model."""


@dataclass(frozen=True)
class RunContents:
    """What one MLflow run shows; what a pipeline does not have is None."""

    artifacts: tuple[Artifact, ...]
    training: Trained | None = None
    evaluations: Mapping[str, Evaluation] = field(default_factory=dict)
    """By role: base, tuned, champion."""
    verdict: Verdict | None = None
    report: Report | None = None
    datasets: tuple[Dataset, ...] = ()
    audit: Audit | None = None
    profile: Profile | None = None

    @property
    def result(self) -> Artifact | None:
        """What the run was for: the tuned model's evaluation, or before there is one its training."""
        return self.evaluations.get("tuned") or self.training


def contents_of(artifacts: Mapping[str, Artifact]) -> RunContents:
    """Return what a pipeline's artifacts (by name, in pipeline order) have to show.

    Of each kind the last is the result.
    """
    items = tuple(artifacts.values())
    trained = [a for a in items if isinstance(a, Trained) and a.history.exists()]
    return RunContents(
        artifacts=items,
        training=trained[-1] if trained else None,
        evaluations={
            role: a for role, use in USES.items() if isinstance(a := artifacts.get(use), Evaluation)
        },
        verdict=next((a for a in reversed(items) if isinstance(a, Verdict)), None),
        report=next((a for a in reversed(items) if isinstance(a, Report)), None),
        datasets=tuple(a for a in items if isinstance(a, Dataset)),
        audit=next((a for a in reversed(items) if isinstance(a, Audit)), None),
        profile=next((a for a in reversed(items) if isinstance(a, Profile)), None),
    )


def log_run(
    client: MlflowClient, contents: RunContents, *, experiment: str, name: str, tags: Mapping[str, str]
) -> str:
    """Write one run that is left open (RUNNING), and return its id; the caller ends it.

    Raises MLflow's own errors; `connection.connected` turns them into one line.
    """
    own = {"mlflow.runName": name, SOURCE_TAG: SOURCE, **tags}
    run = client.create_run(experiment_id(client, experiment), tags=own)
    run_id: str = run.info.run_id
    ancestors = lineage(contents.artifacts, contents.result)
    _log_batches(client, run_id, metrics(contents, ancestors), _params(ancestors), _tags(contents, ancestors))
    if inputs := _data_inputs(contents.datasets):
        client.log_inputs(run_id, inputs)
    _log_files(client, run_id, contents)
    if "tuned" in contents.evaluations:
        _log_answers(client, run_id, contents.evaluations)
    for role, evaluation in contents.evaluations.items():
        _log_measured(client, run_id, run.info.experiment_id, role, evaluation, contents.datasets)
    return run_id


def _log_measured(
    client: MlflowClient,
    parent: str,
    experiment: str,
    role: str,
    evaluation: Evaluation,
    datasets: Sequence[Dataset],
) -> None:
    """Write the nested run of one model that was measured: its scores under their plain names."""
    from mlflow.entities import Param, RunTag

    manifest = evaluation.manifest
    tags = {
        "mlflow.runName": role,
        PARENT_TAG: parent,
        SOURCE_TAG: SOURCE,
        "kind": "measured",
        "role": role,
        "evaluate.fingerprint": evaluation.fingerprint,
        "evaluate.digest": evaluation.digest,
        **{f"{name}.digest": reference.digest for name, reference in manifest.inputs.items()},
    }
    run_id: str = client.create_run(experiment).info.run_id
    params = [Param(key, value[:PARAM_LENGTH]) for key, value in flatten(manifest.config, "evaluate")]
    figures = taken((key, value, 0) for key, value in (*scores(evaluation), *speed(evaluation)))
    _log_batches(client, run_id, figures, params, [RunTag(key, value) for key, value in tags.items()])
    if inputs := _data_inputs(datasets, ("test",)):
        client.log_inputs(run_id, inputs)
    client.log_artifact(run_id, str(evaluation.file("scores.json")))
    end_run(client, run_id)


def delete_halves(client: MlflowClient, experiment: str, fingerprint: str) -> Iterator[str]:
    """Delete the runs of tries that did not end, with those below them; yield each try's id before."""
    for run in client.search_runs([experiment], f"tags.{FINGERPRINT_TAG} = '{fingerprint}'"):
        yield run.info.run_id
        below = client.search_runs([experiment], f"tags.{PARENT_TAG} = '{run.info.run_id}'")
        for half in (run, *below):
            discard(client, half.info.run_id)


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
    for some_params in chunks(params, PARAMS_PER_CALL):
        client.log_batch(run_id, params=some_params)
    for some_tags in chunks(tags, TAGS_PER_CALL):
        client.log_batch(run_id, tags=some_tags)
    for some_metrics in chunks(metrics, METRICS_PER_CALL):
        client.log_batch(run_id, metrics=some_metrics)


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield the items in order, at most ``size`` at a time."""
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
        tags[f"{ancestor.label}.fingerprint"] = ancestor.manifest.fingerprint
        tags[f"{ancestor.label}.digest"] = ancestor.manifest.digest
    if commit := git_commit():
        tags["mlflow.source.git.commit"] = commit
    if address := shown_at.get():
        tags["prefect.run"] = address
    if contents.training and (method := contents.training.manifest.stats.get("method")):
        tags["method"] = str(method)
    if contents.verdict:
        tags["verdict"] = "open" if contents.verdict.read()["open"] else "closed"
    if contents.report:
        tags["mlflow.note.content"] = contents.report.file("report.md").read_text(encoding="utf-8")[:8000]
    return [RunTag(key, value) for key, value in tags.items()]


def _data_inputs(datasets: Sequence[Dataset], parts: Sequence[str] = DATA_PARTS) -> list[DatasetInput]:
    """Describe the parts that there are, the last dataset's first: what was trained on leads the page."""
    return [_data_input(d, part) for d in reversed(datasets) for part in parts if d.shards(part)]


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
        (contents.profile, "profile.html"),
        (contents.profile, "profile.json"),
        (contents.evaluations.get("tuned"), "scores.json"),
        (contents.verdict, "verdict.json"),
        (contents.audit, "audit.json"),
    ]
    for artifact, name in wanted:
        if artifact:
            client.log_artifact(run_id, str(artifact.file(name)))


def _log_answers(client: MlflowClient, run_id: str, evaluations: Mapping[str, Evaluation]) -> None:
    base, champion = evaluations.get("base"), evaluations.get("champion")
    samples = sample_answers(evaluations["tuned"], base, champion=champion)
    shown = ("prompt", "reference", "base", "tuned", *(["champion"] if champion else []))
    columns = {name: [getattr(sample, name) for sample in samples] for name in shown}
    client.log_table(run_id, columns, "sample_answers.json")


def end_run(client: MlflowClient, run_id: str, status: str = "FINISHED") -> None:
    """Close a run with its status: FINISHED, FAILED or KILLED."""
    client.set_terminated(run_id, status)


def discard(client: MlflowClient, run_id: str) -> None:
    """End a run as KILLED, and delete it."""
    end_run(client, run_id, "KILLED")
    client.delete_run(run_id)


def log_file(client: MlflowClient, run_id: str, path: Path) -> None:
    """Put one more file beside the run's report."""
    client.log_artifact(run_id, str(path))
