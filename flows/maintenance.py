"""What runs by the clock: the champion is measured again, the data are watched, the store is pruned."""

from __future__ import annotations

from typing import Any

from prefect import flow as prefect_flow
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows import upkeep
from flows.call import Call, open_store
from flows.curate import curate
from flows.run import run_inside
from flows.serving import run_name, stop_after_crashes
from flows.watch import Watch
from pipeline_lib import kinds
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

SPLIT = "split"
"""The last stage of curation: what models are trained and measured on."""


def reevaluation(champion: Model) -> Flow[[PipelineConfig], None]:
    """Return the process that measures ``champion`` on the data as they are now."""

    @flow
    def reevaluation(config: PipelineConfig) -> None:
        """Fresh data, and the champion's scores on them."""
        assert config.evaluate
        evaluate(config.evaluate, curate(config)[-1], champion)

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
    champion = artifact_at(store, f"{version.path.split('/')[-2]}/{version.path.split('/')[-1]}")
    if not isinstance(champion, Model):
        raise DataError(f"{version.path}: is no whole model that could be measured")
    own = config.model_copy(update={"name": f"{config.name}-reevaluation"})
    outcome = run_inside(Call(reevaluation(champion), own, store), Watch())
    measured = next(step.artifact for step in outcome.steps if isinstance(step.artifact, Evaluation))
    assert isinstance(measured, Evaluation)
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
    own = config.model_copy(update={"name": f"{config.name}-drift"})
    outcome = run_inside(Call(drifting(last_data(store, config.name)), own, store), Watch())
    verdict = next(step.artifact for step in outcome.steps if isinstance(step.artifact, Verdict))
    assert isinstance(verdict, Verdict)
    read = verdict.read()
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


def last_data(store: Store, pipeline: str) -> Dataset:
    """Return the data of the newest recorded run of a pipeline that has any; DataError where none has."""
    for run in runs_of(store.root, pipeline):
        there = links(run).get(SPLIT)
        if there and (there / MANIFEST).exists():
            manifest = Manifest.read(there / MANIFEST)
            return Dataset(there, manifest.digest, manifest.fingerprint)
    raise DataError(f"no run of {pipeline} has left data to compare with; run the pipeline once")


def artifact_at(store: Store, address: str) -> Artifact:
    """Return the artifact at an address of the store; DataError where it is not there."""
    manifest = store.manifest_at(address)
    if manifest is None:
        raise DataError(f"{address}: not in the store; the registry names it as the champion")
    kind: type[Artifact] = getattr(kinds, manifest.kind, Artifact)
    return kind(store.root / address, manifest.digest, manifest.fingerprint)
