"""A call: which process a person asks for, with which config, and for which of its stages.

The *outlook* of a call is the state of every stage before anything is built. `flows.run` makes it true.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pipeline_lib import kinds
from pipeline_lib.core.artifact import Artifact
from pipeline_lib.core.errors import ConfigError, ServiceError
from pipeline_lib.core.mirror import open_store as open_url
from pipeline_lib.core.plan import Planner, Selection, Step, Use, latest_manifests, running
from pipeline_lib.core.stage import Recipe
from pipeline_lib.core.store import Store
from pipeline_lib.settings import home, settings
from tasks.wrap import Flow, current_flow

EVERYTHING = Selection()
A = TypeVar("A", bound=Artifact)


@dataclass(frozen=True)
class Call:
    """One process with its config, the stages of it that are asked for, and the store that it works in."""

    process: Flow[[Any], Any]
    config: Any
    """Has a ``name``: the pipeline's."""
    store: Store
    selection: Selection = EVERYTHING

    @property
    def pipeline(self) -> str:
        """The pipeline's name."""
        return str(self.config.name)


@dataclass(frozen=True)
class Outlook:
    """The state of every stage of a process, and the names of those that are asked for."""

    steps: tuple[Step, ...]
    wanted: tuple[str, ...]
    flows: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The stages that each flow of the process calls itself, in order."""
    recipes: Mapping[str, tuple[Use, Recipe[Any]]] = field(default_factory=dict)
    """How each stage is run, and from what."""

    @property
    def names(self) -> list[str]:
        """Every stage of the process, in order."""
        return [step.name for step in self.steps]

    @property
    def asked(self) -> list[Step]:
        """The stages that are asked for."""
        return [step for step in self.steps if step.name in self.wanted]

    @property
    def due(self) -> list[Step]:
        """The stages that are asked for and not there, or to be built again."""
        return [step for step in self.asked if step.status != "cached"]

    @property
    def before(self) -> list[Step]:
        """The stages that the first one asked for may need."""
        return list(self.steps[: self.names.index(self.wanted[0])])

    @property
    def artifacts(self) -> dict[str, Artifact]:
        """What the store has of all this, up to the last stage that is asked for."""
        return {step.name: step.artifact for step in [*self.before, *self.asked] if step.artifact}

    def require_inputs(self) -> None:
        """Raise ConfigError where a stage before those that are asked for is not in the store."""
        for step in self.before:
            if step.status != "cached":
                raise ConfigError(
                    f"{self.wanted[0]} needs the artifact of {step.name}, which is not in the store; "
                    f"run with --until {step.name} first, or with --from {step.name}"
                )

    def require_outside(self) -> None:
        """Raise what keeps a stage's data outside the store from being read, before anything is built."""
        for step in self.asked:
            if step.error:
                raise step.error

    @property
    def broken(self) -> bool:
        """Whether something that stands on this machine is missing; a server may answer another time."""
        return any(step.error and not isinstance(step.error, ServiceError) for step in self.asked)


@dataclass
class _Surveyor(Planner):
    """A planner that notes also which flow calls which stage, and how."""

    flows: dict[str, tuple[str, ...]] = field(default_factory=dict)
    recipes: dict[str, tuple[Use, Recipe[Any]]] = field(default_factory=dict)

    def step(self, use: Use, recipe: Recipe[A]) -> A:
        self.recipes[use.name] = use, recipe
        self.flows[current_flow()] = (*self.flows.get(current_flow(), ()), use.name)
        return super().step(use, recipe)


def look(call: Call) -> Outlook:
    """Return the outlook of a call; ConfigError where it asks for what the process does not have."""
    chosen = call.selection
    if chosen.only and (chosen.start or chosen.until):
        raise ConfigError(
            "--only names one stage; --from and --until name where a stretch of them begins and ends"
        )
    planner = _Surveyor(call.store, chosen.force, latest_manifests(call.store, call.pipeline))
    with running(planner):
        call.process(call.config)
    wanted = chosen.wanted([step.name for step in planner.steps])
    if not wanted:
        raise ConfigError(f"--from {chosen.start} comes after --until {chosen.until} in this pipeline")
    outside = sorted(chosen.force - set(wanted))
    if outside:
        raise ConfigError(f"--force {outside[0]} is not among the stages asked for: {', '.join(wanted)}")
    return Outlook(tuple(planner.steps), tuple(wanted), planner.flows, planner.recipes)


def call_of(config: Path, overrides: list[str], selection: Selection | None = None) -> Call:
    """Return the call of the pipeline that a config file describes; ConfigError with every mistake in it."""
    from flows.pipeline import pipeline
    from pipeline_lib.config import load

    return Call(pipeline, load(config, overrides), open_store(), selection or Selection())


def open_store() -> Store:
    """Return the store of the settings."""
    return open_url(settings().store, home() / "mirrors")


def account(outlook: Outlook, store: Store) -> dict[str, Mapping[str, Any]]:
    """Return what is known of every stage's artifact, by the stage's name in pipeline order."""
    return {step.name: _account_of(step, store) for step in outlook.steps}


def _account_of(step: Step, store: Store) -> Mapping[str, Any]:
    there = step.artifact
    place = store.root / step.stage / step.fingerprint if step.fingerprint else None
    return {
        "fingerprint": step.fingerprint or None,
        "digest": there.digest if there else None,
        "path": str(place) if place else None,
        "status": {"build": "missing"}.get(step.status, step.status),
        "stats": there.manifest.stats if there else None,
    }


def plan_json(outlook: Outlook) -> dict[str, Any]:
    """Return the outlook of the stages that are asked for as JSON values."""
    return {
        "stages": {
            step.name: {
                "status": step.status,
                "reason": step.reason,
                "notice": step.notice,
                "fingerprint": step.fingerprint or None,
            }
            for step in outlook.asked
        },
        "to_build": [step.name for step in outlook.due],
    }


def artifact_at(store: Store, address: str) -> Artifact | None:
    """Return the artifact at an address of the store, as the kind that its manifest says; None without."""
    manifest = store.manifest_at(address)
    if manifest is None:
        return None
    kind: type[Artifact] = getattr(kinds, manifest.kind, Artifact)
    return kind(store.root / address, manifest.digest, manifest.fingerprint)
