"""Register: a version of the model in the registry, with the MLflow run that tells all about it.

The version gets the alias ``candidate``, and ``champion`` where the gate is open. A try that was killed
leaves a run without a version: the next one marks it KILLED, deletes it and starts anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pydantic import Field

from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.errors import ServiceError
from pipeline_lib.core.output import Output
from pipeline_lib.core.stage import stage
from pipeline_lib.kinds import Audit, Dataset, Evaluation, Model, Registration, Report, Trained, Verdict
from pipeline_lib.publishing.connection import connected, registry_target, tracking_uri, without_credentials

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from pipeline_lib.publishing.tracking import RunContents

NAME = r"^[^/:]+$"
DONE = "registered"


class RegisterConfig(StageConfig):
    """Under which names a model is published, and what its card says."""

    model_name: str = Field(
        default="finetuned",
        pattern=NAME,
        max_length=200,
        description="Name of the registered model, the pipeline's where none is given; no slash or colon.",
    )
    experiment: str = Field(
        default="finetune-flows",
        min_length=1,
        max_length=200,
        description="MLflow experiment that gets the run; the pipeline's name where none is given.",
    )
    max_logged_mb: float = Field(
        default=500,
        ge=0,
        description="Largest model in MB (10^6 bytes) copied to MLflow; a larger one is logged by reference.",
    )
    license: str = Field(
        default="unknown",
        min_length=1,
        description="Licence of the model, as the model card's header names it (apache-2.0, …).",
    )
    language: str = Field(
        default="en", min_length=1, description="Language code of the model for its card's header."
    )
    intended_use: str = Field(
        default="", description="What the model is for, in the model card; empty leaves a general sentence."
    )


@stage(produces=Registration, version=1, target=registry_target)
def register(
    out: Output,
    config: RegisterConfig,
    model: Model,
    adapter: Trained,
    evaluation: Evaluation,
    verdict: Verdict,
    report: Report,
    datasets: tuple[Dataset, ...],
    audit: Audit | None = None,
) -> None:
    """One version in the registry, candidate or champion, and one MLflow run behind it."""
    from pipeline_lib.publishing.tracking import RunContents

    fingerprint = register.recipe(
        config, model, adapter, evaluation, verdict, report, datasets, audit
    ).fingerprint
    contents = RunContents(
        (*datasets, adapter, model, evaluation, *([audit] if audit else []), verdict, report),
        adapter,
        evaluation,
        verdict,
        report,
        datasets,
        audit,
    )
    with _registering(), connected() as client:
        version = _find(client, config, fingerprint)
        if version is None:
            _clear_killed(client, config, fingerprint)
            version = _publish(out, client, config, model, contents, fingerprint)
        _complete(client, config, version, verdict)
        registered = {
            "name": config.model_name,
            "version": int(version.version),
            "aliases": sorted(client.get_model_version(config.model_name, version.version).aliases),
            "run_id": version.run_id,
            "tracking_uri": without_credentials(tracking_uri()),
            "experiment": config.experiment,
        }
    (out.path / "registration.json").write_text(json.dumps(registered, indent=1) + "\n", encoding="utf-8")
    out.stats = {key: registered[key] for key in ("name", "version", "aliases")}


@contextmanager
def _registering() -> Iterator[None]:
    try:
        yield
    except ServiceError as error:
        raise ServiceError(f"{error}; `finetune publish CONFIG` registers it later") from error


def _find(client: MlflowClient, config: RegisterConfig, fingerprint: str) -> ModelVersion | None:
    """Return the version that an earlier try of the same recipe registered."""
    found = client.search_model_versions(
        f"name = '{_quoted(config.model_name)}' and tags.fingerprint = '{fingerprint}'"
    )
    return max(found, key=lambda version: int(version.version)) if found else None


def _clear_killed(client: MlflowClient, config: RegisterConfig, fingerprint: str) -> None:
    """Mark and delete the runs of earlier tries of the same recipe: without a version they are halves."""
    from pipeline_lib.publishing.logged_model import delete_logged
    from pipeline_lib.publishing.tracking import FINGERPRINT_TAG, end_run, experiment_id

    experiment = experiment_id(client, config.experiment)
    for run in client.search_runs([experiment], f"tags.{FINGERPRINT_TAG} = '{fingerprint}'"):
        delete_logged(client, run.info.run_id)
        end_run(client, run.info.run_id, "KILLED")
        client.delete_run(run.info.run_id)


def _publish(
    out: Output,
    client: MlflowClient,
    config: RegisterConfig,
    model: Model,
    contents: RunContents,
    fingerprint: str,
) -> ModelVersion:
    from pipeline_lib.publishing.answers import first_prompt
    from pipeline_lib.publishing.card import model_card
    from pipeline_lib.publishing.logged_model import log_reference, log_weights, size_mb
    from pipeline_lib.publishing.tracking import FINGERPRINT_TAG, end_run, log_file, log_run

    assert contents.evaluation
    assert contents.verdict
    tags = {FINGERPRINT_TAG: fingerprint, "kind": "registration", "model_name": config.model_name}
    run_id = log_run(
        client,
        contents,
        experiment=config.experiment,
        name=f"{config.model_name} {fingerprint[:8]}",
        tags=tags,
    )
    try:
        card = model_card(config, model, contents)
        (out.work / "model_card.md").write_text(card, encoding="utf-8")
        log_file(client, run_id, out.work / "model_card.md")
        by_value = size_mb(model.path) <= config.max_logged_mb
        uri = (
            log_weights(run_id, model, card, first_prompt(contents.evaluation))
            if by_value
            else log_reference(client, run_id, model)
        )
        _require_name(client, config.model_name)
        return client.create_model_version(
            config.model_name,
            uri,
            run_id=run_id,
            tags={
                "fingerprint": fingerprint,
                "digest": model.digest,
                "path": str(model.path.resolve()),
                "stored": "weights" if by_value else "reference",
                "verdict": "open" if contents.verdict.read()["open"] else "closed",
            },
            description=_summary(contents.verdict),
        )
    except BaseException:
        end_run(client, run_id, "FAILED")
        raise


def _require_name(client: MlflowClient, name: str) -> None:
    """Make the registered model unless it is there."""
    from mlflow import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _complete(client: MlflowClient, config: RegisterConfig, version: ModelVersion, verdict: Verdict) -> None:
    """Give a new version its aliases and close its run; a version that has had them keeps what it has now."""
    from pipeline_lib.publishing.registry import CANDIDATE, crown
    from pipeline_lib.publishing.tracking import end_run

    name, number = config.model_name, int(version.version)
    if version.tags.get(DONE) == "true":
        return
    client.set_registered_model_alias(name, CANDIDATE, str(number))
    if verdict.read()["open"]:
        crown(client, name, number, "the gate opened", "register")
    client.set_model_version_tag(name, str(number), DONE, "true")
    end_run(client, str(version.run_id))


def _summary(verdict: Verdict) -> str:
    read = verdict.read()
    closed = [str(rule["reason"]) for rule in read["rules"] if not rule["passed"]]
    return "The gate is open." if read["open"] else ("The gate is closed: " + "; ".join(closed))[:4000]


def _quoted(name: str) -> str:
    return name.replace("'", "''")
