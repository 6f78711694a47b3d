"""What runs by the clock: the champion is measured again, the data are watched, the store is pruned."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from prefect import flow as prefect_flow
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows import upkeep
from flows.call import Call, artifact_at, open_store
from flows.curate import curate
from flows.run import run_inside
from flows.serving import run_name, stop_after_crashes
from flows.watch import Watch
from pipeline_lib.config import PipelineConfig
from pipeline_lib.core.artifact import Artifact
from pipeline_lib.core.errors import ConfigError, DataError
from pipeline_lib.core.manifest import MANIFEST, Manifest
from pipeline_lib.core.runs import links, runs_of
from pipeline_lib.core.store import Store
from pipeline_lib.kinds import Dataset, Evaluation, Model, Verdict
from tasks.curation import drift as measure_drift
from tasks.evaluation import evaluate
from tasks.registry import find_version, registered_paths
from tasks.wrap import Flow, flow

A = TypeVar("A", bound=Artifact)
SPLIT, TRAIN = "split", "train"
"""The last stage of curation, whose data models are trained and measured on; and the training."""


def reevaluation(champion: Model) -> Flow[[PipelineConfig], None]:
    """Return the process that measures ``champion`` on the data as they are now."""

    @flow
    def reevaluation(config: PipelineConfig) -> None:
        """Fresh data, and the champion's scores on them."""
        assert config.evaluate
        evaluate(config.evaluate.of("champion"), curate(config)[-1], champion)

    return reevaluation


def drifting(old: Dataset) -> Flow[[PipelineConfig], None]:
    """Return the process that holds the data as they are now against ``old``."""

    @flow
    def drifting(config: PipelineConfig) -> None:
        """Fresh data, and how far they are from the old."""
        measure_drift(config.drift, old, curate(config)[-1])

    return drifting


@prefect_flow(
    name="reevaluate",
    description="The champion measured again on fresh data.",
    flow_run_name=run_name,
    persist_result=False,
)
def reevaluate(config: PipelineConfig) -> State[Any]:
    """Leave the champion's scores on fresh data beside those that it was registered with."""
    stop_after_crashes()
    if config.evaluate is None:
        raise ConfigError("this config measures no models (evaluate: null), so there is nothing to do again")
    store = open_store()
    version = find_version(config.register_.model_name, "champion")
    champion = artifact_at(store, "/".join(Path(version.path).parts[-2:]))
    if not isinstance(champion, Model):
        raise DataError(f"{version.path}: the registry's champion is no whole model in the store")
    measured = _outcome(reevaluation(champion), config, "reevaluation", store, Evaluation)
    rows = [{"metric": name, **score} for name, score in measured.scores()["scores"].items()]
    create_table_artifact(
        rows, key="champion", description=f"{version.name} version {version.version} on the data of today."
    )
    return Completed(message=f"{version.name} version {version.version} measured on fresh data")


@prefect_flow(
    name="drift",
    description="How far the data are from the last run's; a training starts where that is far enough.",
    flow_run_name=run_name,
    persist_result=False,
)
def drift(config: PipelineConfig, start: bool = True) -> State[Any]:
    """Compare the data with those of the last run; with ``start`` a run of the pipeline follows a change."""
    stop_after_crashes()
    store = open_store()
    read = _outcome(drifting(last_data(store, config.name)), config, "drift", store, Verdict).read()
    create_table_artifact(read["rules"], key="drift", description="The data of today against the last run's.")
    told = "; ".join(rule["reason"] for rule in read["rules"])
    if read["open"] and start:
        from prefect.deployments import run_deployment

        run_deployment(f"pipeline/{config.name}", timeout=0, as_subflow=False)
        told += "; a run of the pipeline was started"
    return Completed(name="Changed" if read["open"] else "Unchanged", message=told)


@prefect_flow(
    name="prune",
    description="What no recent run and no registered model refers to is removed from the store.",
    flow_run_name=run_name,
    persist_result=False,
)
def prune(config: PipelineConfig, dry_run: bool = False) -> State[Any]:
    """Remove what nothing refers to, and leave the list."""
    stop_after_crashes()
    pruned = upkeep.prune(
        open_store(), registered_paths(), keep_runs=config.operations.keep_runs, dry_run=dry_run
    )
    watch = Watch()
    for line in pruned.lines(dry_run=dry_run):
        watch.say(line)
    return Completed(message=list(pruned.lines(dry_run=dry_run))[-1])


def _outcome(
    process: Flow[[PipelineConfig], None], config: PipelineConfig, purpose: str, store: Store, kind: type[A]
) -> A:
    """Return what a process is run for, its artifact of ``kind``; its runs have a name of their own."""
    own = config.model_copy(update={"name": f"{config.name}-{purpose}"})
    steps = run_inside(Call(process, own, store), Watch()).steps
    return next(step.artifact for step in steps if isinstance(step.artifact, kind))


def last_data(store: Store, pipeline: str) -> Dataset:
    """Return the data that a pipeline's newest recorded training learnt from; DataError where there is none.

    A run that read new data and trained nothing, since it failed or was cancelled, is none to compare with:
    the change would never be trained on.
    """
    for run in runs_of(store.root, pipeline):
        used = links(run)
        there = used.get(SPLIT)
        if there and TRAIN in used and (there / MANIFEST).exists():
            manifest = Manifest.read(there / MANIFEST)
            return Dataset(there, manifest.digest, manifest.fingerprint)
    raise DataError(f"no run of {pipeline} has trained on data to compare with; run the pipeline once")
