"""Dispatch: a stage is built here, or by a worker of the pool that the settings name for it.

The caller sends the recipe by its address (stage, config, addresses of the inputs) to the deployment
``build/<pool>``, waits for that flow run and takes the artifact out of the store by its fingerprint. Nothing
large goes through Prefect: both sides share the store's URL. What a worker would build under another
fingerprint (its code or its files differ) is refused there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from flows.call import Outlook, artifact_at
from pipeline_lib.core.artifact import Artifact
from pipeline_lib.core.errors import ConfigError, ServiceError, StageError, StoreError
from pipeline_lib.core.fingerprint import canonical
from pipeline_lib.core.plan import Use
from pipeline_lib.core.progress import mention
from pipeline_lib.core.remote import without_user
from pipeline_lib.core.stage import Recipe, Stage
from pipeline_lib.core.store import Materialized, Store
from pipeline_lib.settings import settings
from tasks.needs import require
from tasks.wrap import PrefectRunner

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, State

A = TypeVar("A", bound=Artifact)
BUILD = "build"
"""The flow that builds one recipe; its deployments are named after the pools."""
GPU, CPU = "gpu", "cpu"
POLL_SECONDS = 1.0
WAIT_SECONDS = 30.0
"""After which a run that nobody takes is mentioned."""
SILENCE_SECONDS = 300.0
"""How long the server may be away before waiting for it is given up."""
Address = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*/[0-9a-f]{64}$")]


class Order(BaseModel):
    """A recipe in the few words that a worker needs to build it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="Name of the stage's use, as the process calls it.")
    stage: str = Field(pattern=r"^[\w.]+:\w+$", description="Where the stage is: module:name.")
    config: dict[str, Any] = Field(description="The stage's config.")
    inputs: dict[str, Address | list[Address]] = Field(description="Addresses of the inputs in the store.")
    fingerprint: str = Field(description="What must come out, else caller and worker differ.")
    retries: int = Field(default=0, ge=0, description="Tries after a failed one.")
    retry_delay_seconds: float | tuple[float, ...] = Field(default=1.0, description="Pauses between tries.")
    timeout_seconds: float | None = Field(default=None, description="Longest time of one try.")
    tags: tuple[str, ...] = Field(default=(), description="Tags of the task run.")
    force: bool = Field(default=False, description="Build though it is there.")
    experiment: str | None = Field(
        default=None, description="MLflow experiment that shows a training while it goes on."
    )

    @classmethod
    def of(cls, use: Use, recipe: Recipe[Any], *, force: bool, experiment: str | None = None) -> Order:
        """Return the order for ``recipe``."""
        inputs: dict[str, str | list[str]] = {
            name: [item.address for item in value] if isinstance(value, tuple) else value.address
            for name, value in recipe.inputs.items()
        }
        return cls(
            name=use.name,
            stage=f"{recipe.stage.function.__module__}:{recipe.stage.name}",
            config=canonical(recipe.config),
            inputs=inputs,
            fingerprint=recipe.fingerprint,
            retries=use.retries,
            retry_delay_seconds=use.retry_delay_seconds,
            timeout_seconds=use.timeout_seconds,
            tags=use.tags,
            force=force,
            experiment=experiment,
        )

    @property
    def use(self) -> Use:
        """The use of the stage."""
        return Use(self.name, self.retries, self.retry_delay_seconds, self.timeout_seconds, self.tags)

    def recipe(self, store: Store) -> Recipe[Any]:
        """Return the recipe as it is here; ConfigError where its fingerprint is not the one ordered."""
        stage = _stage_at(self.stage)
        given = {
            name: tuple(_artifact_at(store, item) for item in value)
            if isinstance(value, list)
            else _artifact_at(store, value)
            for name, value in self.inputs.items()
        }
        recipe = stage.recipe(config=stage.parameters["config"].model_validate(self.config), **given)
        if recipe.fingerprint != self.fingerprint:
            raise ConfigError(
                f"{self.name}: this worker's recipe is not the caller's ({recipe.fingerprint[:12]}, ordered "
                f"{self.fingerprint[:12]}); give both the same release and the same files outside the store"
            )
        return recipe


def _stage_at(place: str) -> Stage[..., Any]:
    module, _, name = place.partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{place}: no such stage here ({error}); give the worker the caller's release"
        ) from None
    if not isinstance(found, Stage):
        raise ConfigError(f"{place}: is no stage")
    return found


def _artifact_at(store: Store, address: str) -> Artifact:
    found = artifact_at(store, address)
    if found is None:
        raise StoreError(
            f"{address}: not in {without_user(settings().store)}; "
            "caller and worker must share one store (FINETUNE_STORE)"
        )
    return found


def pool_of(use: Use) -> str | None:
    """Return the work pool that the settings name for a use of a stage; None builds it here."""
    return settings().gpu_pool if GPU in use.tags else settings().cpu_pool


def lacking(outlook: Outlook) -> list[str]:
    """Return what the stages that are to be built here need and do not have: an endpoint, a package."""
    found: dict[str, None] = {}
    for use, recipe in (outlook.recipes[step.name] for step in outlook.due):
        try:
            if pool_of(use) is None:
                require(recipe.stage.name, recipe.config)
        except ConfigError as error:
            found[str(error)] = None
    return list(found)


@dataclass
class DispatchingRunner(PrefectRunner):
    """Builds each stage here, or has it built by a worker of its pool."""

    before: Callable[[Recipe[Any]], None] = lambda recipe: None
    """Called with the recipe of a stage that is about to be built."""
    experiment: str | None = None
    """MLflow's, which shows a training while it goes on."""

    def materialize(self, use: Use, recipe: Recipe[A]) -> Materialized[A]:
        """Return the artifact of ``recipe``; raises StageError where the worker's run did not complete."""
        pool, force = pool_of(use), use.name in self.force
        found = None if force else self.store.find(recipe)
        if not found:
            self.before(recipe)
        if found:
            return super().materialize(use, recipe)
        if pool is None:
            from tasks.registry import live_in_mlflow

            with live_in_mlflow(self.experiment, self.store, recipe) as tell:
                done = super().materialize(use, recipe)
                tell(done)
            return done
        start = time.perf_counter()
        built = _send(pool, use, Order.of(use, recipe, force=force, experiment=self.experiment))
        artifact = self.store.find(recipe)
        if artifact is None:
            raise StoreError(
                f"{use.name}: pool {pool} has built it, but {without_user(settings().store)} "
                "does not have it; caller and worker must share one store (FINETUNE_STORE)"
            )
        return Materialized(artifact, built, time.perf_counter() - start)


def _send(pool: str, use: Use, order: Order) -> bool:
    """Have a worker of ``pool`` build ``order``; return whether it did, or found it built.

    A run whose worker died is sent again, as often as the stage may be tried again; training goes on from its
    checkpoint.
    """
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        for tries_left in range(use.retries, -1, -1):
            run, state = _wait(client, _submit(pool, order), pool, use.name)
            if state.is_completed():
                return state.name != "Cached"
            if not state.is_crashed() or not tries_left:
                break
            mention(f"{use.name}: its worker in pool {pool} died; sent again")
    reason = (state.message or "").strip().splitlines()[:1]
    raise StageError(f"{use.name}: {state.name} in pool {pool}, run {run.name}: {' '.join(reason)[:300]}")


def _submit(pool: str, order: Order) -> UUID:
    from prefect.deployments import run_deployment
    from prefect.exceptions import ObjectNotFound

    try:
        run: Any = run_deployment(
            f"{BUILD}/{pool}",
            parameters={"order": order.model_dump(mode="json")},
            flow_run_name=f"{order.name}-{order.fingerprint[:12]}",
            timeout=0,
        )
    except ObjectNotFound:
        raise ServiceError(
            f"no deployment {BUILD}/{pool} on this Prefect server; `finetune deploy` makes it"
        ) from None
    found: UUID = run.id
    return found


def _wait(client: SyncPrefectClient, run_id: UUID, pool: str, what: str) -> tuple[FlowRun, State[Any]]:
    """Return the flow run and its state when it has ended; where the caller is stopped, it is cancelled."""
    import httpx

    since, told = time.monotonic(), False
    answered = since
    try:
        while True:
            try:
                run = client.read_flow_run(run_id)
                answered = time.monotonic()
            except httpx.HTTPError as error:
                if time.monotonic() - answered > SILENCE_SECONDS:
                    raise ServiceError(
                        f"Prefect has not answered for {SILENCE_SECONDS:.0f} s ({error})"
                    ) from error
                time.sleep(POLL_SECONDS)
                continue
            if run.state and run.state.is_final():
                return run, run.state
            if (
                not told
                and run.state
                and run.state.is_scheduled()
                and time.monotonic() - since > WAIT_SECONDS
            ):
                mention(f"{what}: waits for a worker; `finetune worker --pool {pool}` starts one")
                told = True
            time.sleep(POLL_SECONDS)
    except BaseException:
        _cancel(client, run_id)
        raise


def _cancel(client: SyncPrefectClient, run_id: UUID) -> None:
    import contextlib

    from prefect.client.schemas.objects import State, StateType

    # Best effort: the server may be what went away.
    with contextlib.suppress(Exception):
        client.set_flow_run_state(run_id, State(type=StateType.CANCELLING, name="Cancelling"))


def pools() -> dict[str, str]:
    """Return the names of both work pools: the settings', else ``cpu`` and ``gpu``."""
    return {CPU: settings().cpu_pool or CPU, GPU: settings().gpu_pool or GPU}
