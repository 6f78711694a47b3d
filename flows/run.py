"""Run: look at what is there, build what is not, record what was used, and say where things are."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.call import Call, Outlook, look
from flows.dispatch import DispatchingRunner, lacking
from flows.lines import plan_line, result_line
from flows.screen import Screen
from pipeline_lib.core import progress
from pipeline_lib.core.artifact import Artifact
from pipeline_lib.core.errors import ConfigError
from pipeline_lib.core.plan import Step
from pipeline_lib.core.remote import without_user
from pipeline_lib.core.runs import forget, new_run, run_with
from pipeline_lib.core.stage import Recipe
from pipeline_lib.core.store import link_run, writable
from pipeline_lib.kinds import Model, Profile, Registration, Report, Verdict
from pipeline_lib.settings import home, settings
from tasks.wrap import PrefectRunner

REGISTER = "register"
"""The stage after which one run of MLflow tells of the whole pipeline."""


@dataclass(frozen=True)
class Outcome:
    """What a run came to: its record, its stages as they ended, and why a gate is closed."""

    run: Path | None
    """The directory of links; the earlier run's where nothing was built."""
    steps: tuple[Step, ...]
    closed: tuple[str, ...]
    """The reasons of closed gates; none where every gate is open or there is none."""

    @property
    def built(self) -> bool:
        """Whether any stage was built."""
        return any(step.status == "built" for step in self.steps)

    @property
    def exit_code(self) -> int:
        """0, or 1 where a gate is closed."""
        return 1 if self.closed else 0

    def as_json(self) -> dict[str, Any]:
        """Return the outcome as JSON values."""
        return {
            "run": self.run.name if self.run else None,
            "result": "built" if self.built else "nothing to do",
            "stages": {step.name: _stage_json(step) for step in self.steps},
            "closed": list(self.closed),
        }


def _stage_json(step: Step) -> Mapping[str, Any]:
    assert step.artifact
    return {
        "fingerprint": step.artifact.fingerprint,
        "digest": step.artifact.digest,
        "path": str(step.artifact.path),
        "status": step.status,
        "seconds": round(step.seconds, 3),
        "stats": step.artifact.manifest.stats,
    }


def run(call: Call, screen: Screen) -> Outcome:
    """Return what the call came to, having built what was due; raises what stopped it."""
    outlook = _possible(call)
    if not outlook.due:
        return _nothing_to_do(call, outlook, screen)
    for step in outlook.due:
        screen.mention(plan_line(step, _width(outlook)))
    # Prefect makes its own directory in there, but not its parents, and then waits in vain for its server.
    home().mkdir(parents=True, exist_ok=True)
    screen.busy("starting Prefect")
    return _build(
        call,
        outlook,
        screen,
        _runner_of(call, outlook),
        lambda runner, name: call.process.run(runner, name, call.config),
    )


def run_inside(call: Call, screen: Screen, before: Callable[[Recipe[Any]], None] = lambda _: None) -> Outcome:
    """Return what the call came to within the Prefect flow run that is going on; cached stages show too.

    ``before`` is called with the recipe of every stage that is about to be built.
    """
    outlook = _possible(call)
    runner = _runner_of(call, outlook)
    runner.before = before
    return _build(
        call, outlook, screen, runner, lambda runner, name: call.process.run_inside(runner, call.config)
    )


def _possible(call: Call) -> Outlook:
    outlook = look(call)
    outlook.require_inputs()
    outlook.require_outside()
    if lacks := lacking(outlook):
        raise ConfigError("\n".join(lacks))
    return outlook


def _runner_of(call: Call, outlook: Outlook) -> DispatchingRunner:
    # A run that registers tells of its training in the end: it shows it from the beginning.
    experiment = call.config.register_.experiment if REGISTER in outlook.wanted else None
    return DispatchingRunner(
        call.store, outlook.names, outlook.wanted, call.selection.force, experiment=experiment
    )


def _nothing_to_do(call: Call, outlook: Outlook, screen: Screen) -> Outcome:
    for step in outlook.asked:
        screen.say(result_line(step, _width(outlook)))
        if step.notice:
            screen.mention(f"note: {step.notice}")
    screen.say("nothing to do")
    known = run_with(call.store.root, call.pipeline, outlook.artifacts)
    return Outcome(
        known or _record(call, outlook.artifacts), tuple(outlook.asked), closed_gates(outlook.artifacts)
    )


def _record(call: Call, artifacts: dict[str, Artifact]) -> Path:
    with writable(call.store.root):
        name = new_run(call.store.root, call.pipeline)
    return link_run(call.store, name, artifacts)


def _build(
    call: Call,
    outlook: Outlook,
    screen: Screen,
    runner: DispatchingRunner,
    go: Callable[[DispatchingRunner, str], None],
) -> Outcome:
    record = _record(call, {})
    steps: list[Step] = []
    runner.tell = _teller(call, outlook, screen, record, runner, steps)
    try:
        with progress.listening(screen):
            go(runner, record.name)
    finally:
        kept = _settle(call, record, runner.artifacts, built=any(step.status == "built" for step in steps))
    return Outcome(kept, tuple(steps), closed_gates(runner.artifacts))


def _teller(
    call: Call, outlook: Outlook, screen: Screen, record: Path, runner: PrefectRunner, steps: list[Step]
) -> Callable[[Step], None]:
    """Return what is called after every stage: it records the artifact at once, for a run may be killed."""

    def tell(step: Step) -> None:
        link_run(call.store, record.name, runner.artifacts)
        steps.append(step)
        screen.say(result_line(step, _width(outlook)))
        if step.notice:
            screen.mention(f"note: {step.notice}")
        if step.name != outlook.wanted[-1]:
            screen.busy(outlook.names[outlook.names.index(step.name) + 1])

    return tell


def _settle(call: Call, record: Path, artifacts: dict[str, Artifact], *, built: bool) -> Path | None:
    """Return the run that holds the record: an earlier one where this one built nothing new."""
    same = None if built else run_with(call.store.root, call.pipeline, artifacts, apart_from=record)
    if same or not artifacts:
        forget(record)
    return same or (record if artifacts else None)


def _width(outlook: Outlook) -> int:
    return max(map(len, outlook.wanted))


def closed_gates(artifacts: Mapping[str, Artifact]) -> tuple[str, ...]:
    """Return why gates among the artifacts are closed, rule by rule."""
    verdicts = [artifact.read() for artifact in artifacts.values() if isinstance(artifact, Verdict)]
    closed = [verdict for verdict in verdicts if not verdict["open"]]
    return tuple(str(rule["reason"]) for verdict in closed for rule in verdict["rules"] if not rule["passed"])


def log_outcome(call: Call, outcome: Outcome) -> str | None:
    """Leave a run in MLflow about what is there, unless registering has just done so; return its id."""
    if any(step.status == "built" and isinstance(step.artifact, Registration) for step in outcome.steps):
        return None
    from tasks.registry import log_run

    artifacts = {step.name: step.artifact for step in outcome.steps if step.artifact}
    return log_run(
        artifacts, call.config.register_.experiment, outcome.run.name if outcome.run else call.pipeline
    )


def closing_lines(
    outcome: Outcome, config: Path, overrides: list[str], logged: str | None = None
) -> list[str]:
    """Return where things are, and what to try next."""
    artifacts = {step.name: step.artifact for step in outcome.steps if step.artifact}
    report = next((name for name, artifact in artifacts.items() if isinstance(artifact, Report)), None)
    data = next((name for name, artifact in artifacts.items() if isinstance(artifact, Profile)), None)
    registered = next(
        (artifact.read() for artifact in artifacts.values() if isinstance(artifact, Registration)), None
    )
    lines = [("run", str(outcome.run))]
    if report:
        lines.append(("report", f"{outcome.run}/{report}/report.html"))
    if data:
        lines.append(("data", f"{outcome.run}/{data}/profile.html"))
    if registered:
        aliases = f" ({', '.join(registered['aliases'])})" if registered["aliases"] else ""
        lines.append(("model", f"{registered['name']} version {registered['version']}{aliases}"))
    if logged:
        lines.append(("MLflow", f"run {logged}"))
    where = [f"{name:<8}{text}" for name, text in lines]
    if not registered or not any(isinstance(artifact, Model) for artifact in artifacts.values()):
        return where
    return [
        *where,
        "",
        "Try next:",
        f"  {'look at the run':<22}{look_at_runs()}",
        f"  {'talk to the model':<22}{_typed('finetune')} chat {_given(config, overrides)}",
        f"  {'change one number':<22}{_typed('finetune')} run {_given(config, _changed(overrides))}",
    ]


def _given(config: Path, overrides: list[str]) -> str:
    return " ".join([shlex.quote(str(config)), *(f"--set {shlex.quote(override)}" for override in overrides)])


def _changed(overrides: list[str]) -> list[str]:
    """Return the overrides with another learning rate than they have."""
    key = "train.learning_rate="
    rate = "2e-4" if f"{key}1e-4" in overrides else "1e-4"
    return [*(one for one in overrides if not one.startswith(key)), key + rate]


def look_at_runs() -> str:
    """Return how to open MLflow where its runs are: the command, or the server's address."""
    uri = settings().mlflow_tracking_uri
    if uri.startswith("http"):
        return without_user(uri)
    return f"{_typed('mlflow')} ui --backend-store-uri {uri if '@' not in uri else '$MLFLOW_TRACKING_URI'}"


def _typed(command: str) -> str:
    """Return a command as it can be typed here: with its directory where the environment is not active."""
    installed = Path(sys.executable).parent / command
    if shutil.which(command) == str(installed):
        return command
    here = Path.cwd()
    return str(installed.relative_to(here) if installed.is_relative_to(here) else installed)
