"""Register: a version of the model in the registry, with the MLflow run that tells all about it.

The version gets the alias ``candidate``, and ``champion`` where the gate is open. A try that was killed
leaves a run without a version: the next one marks it KILLED, deletes it and starts anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.errors import ConfigError, ServiceError
from pipeline_lib.core.output import Output
from pipeline_lib.core.progress import mention
from pipeline_lib.core.remote import without_user
from pipeline_lib.core.stage import stage
from pipeline_lib.kinds import (
    Adapter,
    Audit,
    Dataset,
    Evaluation,
    Model,
    Profile,
    Registration,
    Report,
    Trained,
    Verdict,
)
from pipeline_lib.publishing.connection import connected, registry_target, tracking_uri

if TYPE_CHECKING:
    from pathlib import Path

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
    logged: Literal["merged", "adapter"] = Field(
        default="merged",
        description="What MLflow holds: the merged model, or the adapter alone with the path of its base.",
    )
    license: str = Field(
        default="unknown",
        min_length=1,
        description="Licence of the model, as the model card's header names it (apache-2.0, …).",
    )
    base_license: str = Field(
        default="unknown", min_length=1, description="Licence of the base model, for the model card."
    )
    data_license: str = Field(
        default="unknown", min_length=1, description="Licence of the training data, for the model card."
    )
    language: str = Field(
        default="en", min_length=1, description="Language code of the model for its card's header."
    )
    intended_use: str = Field(
        default="", description="What the model is for, in the model card; empty leaves a general sentence."
    )


@stage(produces=Registration, version=3, target=registry_target)
def register(
    out: Output,
    config: RegisterConfig,
    model: Model,
    adapter: Trained,
    base: Evaluation,
    tuned: Evaluation,
    verdict: Verdict,
    report: Report,
    datasets: tuple[Dataset, ...],
    audit: Audit | None = None,
    champion: Evaluation | None = None,
    profile: Profile | None = None,
) -> None:
    """One version in the registry, candidate or champion, and one MLflow run behind it."""
    from pipeline_lib.publishing.card import model_card
    from pipeline_lib.publishing.champion import held_against, remember
    from pipeline_lib.publishing.live import take_in
    from pipeline_lib.publishing.registry import require_name
    from pipeline_lib.publishing.tracking import RunContents

    fingerprint = register.recipe(
        config, model, adapter, base, tuned, verdict, report, datasets, audit, champion, profile
    ).fingerprint
    measured = {"base": base, "tuned": tuned, **({"champion": champion} if champion else {})}
    contents = RunContents(
        (*datasets, adapter, model, *measured.values(), *([audit] if audit else []), verdict, report),
        adapter,
        measured,
        verdict,
        report,
        datasets,
        audit,
        profile,
    )
    card = out.path / Registration.CARD
    card.write_text(model_card(config, model, contents), encoding="utf-8")
    with _registering(), connected() as client:
        require_name(client, config.model_name)
        version = _find(client, config, fingerprint)
        if version is None:
            _clear_killed(client, config, fingerprint)
            version = _publish(client, config, model, contents, card, fingerprint)
        _complete(client, config, version, verdict, held_against(verdict, champion))
        take_in(client, str(version.run_id), adapter.fingerprint)
        registered = {
            "name": config.model_name,
            "version": int(version.version),
            "aliases": sorted(client.get_model_version(config.model_name, version.version).aliases),
            "run_id": version.run_id,
            "tracking_uri": without_user(tracking_uri()),
            "experiment": config.experiment,
        }
        remember(client, config.model_name)
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
    from pipeline_lib.publishing.registry import quoted

    found = client.search_model_versions(
        f"name = '{quoted(config.model_name)}' and tags.fingerprint = '{fingerprint}'"
    )
    return max(found, key=lambda version: int(version.version)) if found else None


def _clear_killed(client: MlflowClient, config: RegisterConfig, fingerprint: str) -> None:
    """Mark and delete the runs of earlier tries of the same recipe: without a version they are halves."""
    from pipeline_lib.publishing.logged_model import delete_logged
    from pipeline_lib.publishing.tracking import delete_halves, experiment_id

    for run_id in delete_halves(client, experiment_id(client, config.experiment), fingerprint):
        delete_logged(client, run_id)


def _publish(
    client: MlflowClient,
    config: RegisterConfig,
    model: Model,
    contents: RunContents,
    card: Path,
    fingerprint: str,
) -> ModelVersion:
    from pipeline_lib.publishing.answers import first_prompt
    from pipeline_lib.publishing.logged_model import (
        MODELS,
        loads_in_mlflow,
        log_reference,
        log_weights,
        size_mb,
    )
    from pipeline_lib.publishing.tracking import FINGERPRINT_TAG, end_run, log_file, log_run

    assert contents.verdict
    adapter = _adapter(config, contents)
    tags = {FINGERPRINT_TAG: fingerprint, "kind": "registration", "model_name": config.model_name}
    run_id = log_run(
        client,
        contents,
        experiment=config.experiment,
        name=f"{config.model_name} {fingerprint[:8]}",
        tags=tags,
    )
    try:
        log_file(client, run_id, card)
        text = card.read_text(encoding="utf-8")
        size = size_mb((adapter or model).path)
        by_value = size <= config.max_logged_mb and loads_in_mlflow(model)
        uri = (
            log_weights(run_id, model, text, first_prompt(contents.evaluations["tuned"]), adapter)
            if by_value
            else log_reference(client, run_id, model)
        )
        return client.create_model_version(
            config.model_name,
            uri,
            run_id=run_id,
            model_id=uri.removeprefix(MODELS),
            tags={
                "fingerprint": fingerprint,
                "digest": model.digest,
                "path": str(model.path.resolve()),
                "stored": ("adapter" if adapter else "weights") if by_value else "reference",
                "verdict": "open" if contents.verdict.read()["open"] else "closed",
            },
            description=_summary(contents.verdict),
        )
    except BaseException:
        end_run(client, run_id, "FAILED")
        raise


def _adapter(config: RegisterConfig, contents: RunContents) -> Adapter | None:
    """Return the adapter where it is to be logged alone; ConfigError where none was trained."""
    if config.logged == "merged":
        return None
    if not isinstance(contents.training, Adapter):
        raise ConfigError(
            "register.logged: adapter needs a training that made one (lora, qlora); set it to merged"
        )
    return contents.training


def _complete(
    client: MlflowClient, config: RegisterConfig, version: ModelVersion, verdict: Verdict, against: str | None
) -> None:
    """Give a new version its aliases and close its run; a version that has had them keeps what it has now.

    Where another became champion since the model was judged, its verdict does not stand: it stays candidate.
    """
    from pipeline_lib.publishing.champion import overtaken
    from pipeline_lib.publishing.registry import CANDIDATE, HELD_AGAINST, crown
    from pipeline_lib.publishing.tracking import end_run

    name, number = config.model_name, int(version.version)
    if version.tags.get(DONE) == "true":
        return
    client.set_registered_model_alias(name, CANDIDATE, str(number))
    if late := overtaken(client, name, version.tags["digest"], against):
        mention(
            f"{name} version {number} stays candidate: it was not held against version {late.version}, "
            f"champion since; run again to judge it, or `finetune promote {name} {number}`"
        )
    else:
        if against:
            client.set_model_version_tag(name, str(number), HELD_AGAINST, against)
        if verdict.read()["open"]:
            crown(client, name, number, "the gate opened", "register")
    client.set_model_version_tag(name, str(number), DONE, "true")
    end_run(client, str(version.run_id))


def _summary(verdict: Verdict) -> str:
    """Return the verdict in Markdown, what failed first, for the version's page."""
    read = verdict.read()
    rules = sorted(read["rules"], key=lambda rule: bool(rule["passed"]))
    lines = [f"- {'met' if rule['passed'] else 'not met'}: {rule['reason']}" for rule in rules]
    return "\n".join([f"The gate is {'open' if read['open'] else 'closed'}.", "", *lines])[:4000]
