"""A stage wrapped for Prefect, in one place.

`as_task` makes a task of a stage; `flow` marks a function that reads as the process. A task hands its recipe
to the runner in charge: a planner (no Prefect), or `PrefectRunner`, which materializes it as a Prefect task
run whose state says ``Built`` or ``Cached``. Prefect caches nothing: the store does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from pipeline_lib.core.artifact import Artifact
from pipeline_lib.core.errors import ConfigError, DataError, ServiceError, StoreError
from pipeline_lib.core.interrupts import TerminatedError, spared
from pipeline_lib.core.plan import Done, Step, Use, code_notice, current_runner, running
from pipeline_lib.core.progress import mention
from pipeline_lib.core.provenance import shown_at
from pipeline_lib.core.remote import without_user
from pipeline_lib.core.stage import Recipe, Stage
from pipeline_lib.core.store import Materialized, Store
from pipeline_lib.settings import home, settings

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

P = ParamSpec("P")
A = TypeVar("A", bound=Artifact)
T = TypeVar("T")
_flow: ContextVar[str] = ContextVar("flow", default="")


def current_flow() -> str:
    """Return the name of the innermost flow that is being walked through."""
    return _flow.get()


@dataclass(frozen=True)
class Task(Generic[P, A]):
    """A stage under the name of one use of it, called with a config and artifacts."""

    stage: Stage[P, A]
    use: Use

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> A:
        """Return the artifact, found or built by the runner in charge."""
        return current_runner().step(self.use, self.stage.recipe(*args, **kwargs))

    @property
    def foreseen(self) -> bool:
        """Whether the run knew of this use when it began; what appears meanwhile waits for the next run."""
        runner = current_runner()
        return not isinstance(runner, PrefectRunner) or self.use.name in runner.names


def as_task(
    stage: Stage[P, A],
    *,
    name: str | None = None,
    retries: int = 0,
    retry_delay_seconds: float | tuple[float, ...] = 1.0,
    timeout_seconds: float | None = None,
    tags: tuple[str, ...] = (),
) -> Task[P, A]:
    """Return ``stage`` as a task, under its own name or that of one use of it."""
    return Task(stage, Use(name or stage.name, retries, retry_delay_seconds, timeout_seconds, tags))


@dataclass
class PrefectRunner:
    """Materializes each stage as a Prefect task run."""

    store: Store
    names: Sequence[str]
    """Every stage of the process, in order."""
    wanted: Sequence[str]
    """Those of them that may be built."""
    force: frozenset[str] = frozenset()
    tell: Callable[[Step], None] = lambda step: None
    """Called after every stage."""
    artifacts: dict[str, Artifact] = field(default_factory=dict)

    def step(self, use: Use, recipe: Recipe[A]) -> A:
        """Return the artifact of ``recipe``, found or built; raises what the stage raised."""
        if self.names.index(use.name) > self.names.index(self.wanted[-1]):
            raise Done
        if use.name not in self.wanted:
            return self._there(use, recipe)
        done = self.materialize(use, recipe)
        self.artifacts[use.name] = done.artifact
        notice = "" if done.built else code_notice(self.store, recipe, done.artifact)
        self.tell(
            Step(
                use.name,
                recipe.stage.name,
                "built" if done.built else "cached",
                artifact=done.artifact,
                notice=notice,
                seconds=done.seconds,
            )
        )
        return done.artifact

    def _there(self, use: Use, recipe: Recipe[A]) -> A:
        found = self.store.find(recipe)
        if found is None:
            raise ConfigError(
                f"{self.wanted[0]} needs the artifact of {use.name}, which is not in the store; "
                f"run with --until {use.name} first"
            )
        self.artifacts[use.name] = found
        return found

    def materialize(self, use: Use, recipe: Recipe[A]) -> Materialized[A]:
        """Return the artifact of ``recipe``, found or built here in a task run of its own."""
        from prefect import task
        from prefect.cache_policies import NO_CACHE
        from prefect.states import Completed

        result: list[Materialized[A]] = []

        def materialize() -> State[Any]:
            shown_at.set(_flow_run_url())
            result[:] = [self.store.materialize(recipe, force=use.name in self.force)]
            done = result[0]
            state = "Built" if done.built else "Cached"
            return Completed(
                name=state, message=f"{recipe.stage.name}/{done.artifact.fingerprint[:12]} {state.lower()}"
            )

        wrapped = task(
            name=use.name,
            description=recipe.stage.function.__doc__,
            retries=use.retries,
            timeout_seconds=use.timeout_seconds,
            retry_delay_seconds=_delays(use.retry_delay_seconds),
            retry_condition_fn=_may_pass,
            cache_policy=NO_CACHE,
            persist_result=False,
        )(materialize)
        wrapped()
        return result[0]


def _flow_run_url() -> str | None:
    """Return where a browser shows the flow run that is going on; None on a temporary server."""
    from prefect.runtime import flow_run

    url: str | None = flow_run.ui_url if settings().prefect_api_url else None
    return url


def _delays(seconds: float | tuple[float, ...]) -> float | list[float]:
    return list(seconds) if isinstance(seconds, tuple) else seconds


def _may_pass(task: Any, run: Any, state: Any) -> bool:
    """Return whether another try may do better, and say so: not where config, data or store are at fault."""
    error = state.result(raise_on_failure=False)
    again = not isinstance(error, ConfigError | DataError | StoreError)
    if again:
        mention(f"{task.name} is tried again: {error}")
    return again


@dataclass(frozen=True)
class Flow(Generic[P, T]):
    """A function that reads as the process; inside a run it is called as it stands."""

    function: Callable[P, T]

    @property
    def name(self) -> str:
        """The flow's name in Prefect."""
        return self.function.__name__

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the stages of this flow under the runner in charge."""
        token = _flow.set(self.name)
        try:
            return self.function(*args, **kwargs)
        finally:
            _flow.reset(token)

    def run_inside(self, runner: PrefectRunner, *args: P.args, **kwargs: P.kwargs) -> None:
        """Run the stages within the Prefect flow run that is going on."""
        with running(runner):
            try:
                self(*args, **kwargs)
            except Done:
                return

    def run(self, runner: PrefectRunner, run_name: str, *args: P.args, **kwargs: P.kwargs) -> None:
        """Run as a Prefect flow run named ``run_name``, on the settings' server or a temporary one."""
        set_environment()
        from prefect import flow as prefect_flow

        _find_or_start_server()

        def body() -> None:
            self.run_inside(runner, *args, **kwargs)

        wrapped = prefect_flow(
            name=self.name,
            flow_run_name=run_name,
            description=self.function.__doc__,
            validate_parameters=False,
            persist_result=False,
        )(body)
        try:
            wrapped()
        except BaseException as error:
            # A signal to all processes ends the temporary server too, which then cannot be told of it.
            if wish := _wish_behind(error):
                raise wish from None
            raise


def _wish_behind(error: BaseException) -> BaseException | None:
    """Return the wish that a run may end, where that is what an error came of."""
    from prefect.exceptions import TerminationSignal

    found: BaseException | None = error
    while found is not None:
        if isinstance(found, TerminationSignal):
            return TerminatedError()
        if isinstance(found, KeyboardInterrupt | TerminatedError):
            return found
        found = found.__context__
    return None


def _find_or_start_server() -> None:
    """Start Prefect's temporary server, where no other is named, deaf to Ctrl-C.

    It is to hear how an interrupted run ended, says nothing of its own about it, and ends with this process.
    """
    from prefect.settings import PREFECT_API_URL

    if PREFECT_API_URL.value():
        require_answer()
        return
    # Imports all of the server, two seconds of it.
    from prefect.server.api.server import SubprocessASGIServer

    with spared():
        SubprocessASGIServer().start()


def require_answer() -> None:
    """Raise ServiceError where the Prefect server of the settings does not answer."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        error, url = client.api_healthcheck(), without_user(str(client.api_url))
    if error:
        raise ServiceError(
            f"Prefect at {url.rstrip('/')} does not answer ({error}); start it, or check PREFECT_API_URL"
        )


def flow(function: Callable[P, T]) -> Flow[P, T]:
    """Mark ``function`` as a flow of the pipeline."""
    return Flow(function)


def set_environment() -> None:
    """Set what Prefect reads on import, where the user has not: quiet, its files beside the store."""
    import os

    defaults = {
        "PREFECT_HOME": str((home() / "prefect").resolve()),
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # A busy machine takes longer than Prefect's 20 s to start the temporary server.
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "DO_NOT_TRACK": "1",
    }
    if not settings().prefect_api_url:
        # The temporary server that is gone stays gone: asking it six times would take a minute.
        defaults["PREFECT_CLIENT_MAX_RETRIES"] = "2"
    for key, value in defaults.items():
        os.environ.setdefault(key, value)
    # Where the directory is missing Prefect waits for its server until the timeout.
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
