"""What a worker runs: the process, its flows, one stage again, and one recipe on order.

These are Prefect flows; `flows.deployments` registers them and `flows.maintenance` has those that run by the
clock. A run that a crash has ended is scheduled again by an automation; it gives up after TRIES.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefect import flow as prefect_flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.call import Call, look, open_store
from flows.dispatch import BUILD, Order
from flows.pipeline import pipeline as process
from flows.run import Outcome, run_inside
from flows.watch import Watch, leave
from pipeline_lib.config import PipelineConfig
from pipeline_lib.core import progress
from pipeline_lib.core.errors import StageError
from pipeline_lib.core.plan import Selection
from pipeline_lib.core.stage import Recipe
from pipeline_lib.kinds import Registration, Verdict
from tasks.registry import live_in_mlflow
from tasks.wrap import PrefectRunner

TRIES = 3
SECONDS_PER_HOUR = 3600
POLL_SECONDS = 5


def run_name() -> str:
    """Return the name of the flow run that begins: the pipeline's, and the time it was due."""
    from prefect.runtime import flow_run

    given = flow_run.parameters["config"]
    name = given["name"] if isinstance(given, dict) else given.name
    return f"{name}-{flow_run.scheduled_start_time:%Y%m%d-%H%M%S}"


def _served(name: str, says: str) -> Any:
    """Return the Prefect flow for one flow of the process, or for all of it."""

    @prefect_flow(name=name, description=says, flow_run_name=run_name, persist_result=False)
    def body(config: PipelineConfig, approve: bool = False) -> State[Any]:
        return run_selection(config, _stretch(config, name), approve=approve)

    return body


def _stretch(config: PipelineConfig, name: str) -> Selection:
    if name == process.name:
        return Selection()
    outlook = look(Call(process, config, open_store()))
    if name not in outlook.flows:
        raise StageError(f"this config's process has no flow {name!r}; it has {', '.join(outlook.flows)}")
    stages = outlook.flows[name]
    return Selection(start=stages[0], until=stages[-1])


pipeline = _served("pipeline", "From raw text to a registered model; what is there is not built again.")
curate = _served("curate", "From raw text to train, validation and test.")
train = _served("train", "From conversations and a base model to a model of our own.")
evaluate = _served("evaluate", "Base and tuned model on the same questions, and a verdict.")
publish = _served("publish", "A report to read and a version to serve.")


@prefect_flow(
    name="stage",
    description="One stage again, with the same or a changed config.",
    flow_run_name=run_name,
    persist_result=False,
)
def stage(
    config: PipelineConfig, stage: str, force: bool = False, onward: bool = True, approve: bool = False
) -> State[Any]:
    """Build one stage again; with ``onward`` what follows it too, where its bytes changed."""
    forced = frozenset({stage} if force else ())
    selection = Selection(start=stage, force=forced) if onward else Selection(only=stage, force=forced)
    return run_selection(config, selection, approve=approve)


@prefect_flow(name=BUILD, description="One recipe, sent by a run that waits for it.", persist_result=False)
def build(order: Order) -> State[Any]:
    """Materialize what was ordered in this worker's process."""
    stop_after_crashes()
    store = open_store()
    recipe = order.recipe(store)
    runner = PrefectRunner(store, [order.name], [order.name], frozenset({order.name} if order.force else ()))
    with progress.listening(Watch()), live_in_mlflow(order.experiment, store, recipe) as tell:
        done = runner.materialize(order.use, recipe)
        tell(done)
    name = "Built" if done.built else "Cached"
    return Completed(
        name=name, message=f"{done.artifact.address[: len(recipe.stage.name) + 13]} {name.lower()}"
    )


def run_selection(config: PipelineConfig, selection: Selection, *, approve: bool) -> State[Any]:
    """Run part of the process in the Prefect flow run that is going on, and return the state it ends in."""
    stop_after_crashes()
    call = Call(process, config, open_store(), selection)
    outcome = run_inside(call, Watch(), _asking(config) if approve else lambda recipe: None)
    leave(outcome)
    return ended(outcome)


def ended(outcome: Outcome) -> State[Any]:
    """Return the state of a run that came to its end: what it built, or why its gate is closed."""
    if outcome.closed:
        return Completed(name="GateClosed", message="gate closed: " + "; ".join(outcome.closed))
    built = [step.name for step in outcome.steps if step.status == "built"]
    return Completed(message=f"built {', '.join(built)}" if built else "nothing to do")


def stop_after_crashes() -> None:
    """Raise StageError where this flow run has crashed and been started again too often."""
    from prefect.runtime import flow_run

    tries = flow_run.run_count or 1
    if tries > TRIES:
        raise StageError(f"its process has died {tries - 1} times; see the worker's log (out of memory?)")


def _asking(config: PipelineConfig) -> Callable[[Recipe[Any]], None]:
    """Return what pauses the run before a version is registered that would be champion.

    The verdict stands beside the run; a person resumes it, which is consent, or cancels it.
    """

    def ask(recipe: Recipe[Any]) -> None:
        verdicts = [item.read() for item in recipe.artifacts.values() if isinstance(item, Verdict)]
        if not issubclass(recipe.stage.produces, Registration) or not all(read["open"] for read in verdicts):
            return
        from prefect import pause_flow_run
        from prefect.artifacts import create_markdown_artifact

        told = "\n".join(f"- {rule['reason']}" for read in verdicts for rule in read["rules"])
        create_markdown_artifact(
            f"The gate is open. Resume this run to register the champion, or cancel it.\n\n{told}\n",
            key="verdict",
            description="What a person is asked to agree to.",
        )
        pause_flow_run(
            timeout=int(config.operations.approve_hours * SECONDS_PER_HOUR),
            poll_interval=POLL_SECONDS,
            key="promotion",
        )

    return ask
