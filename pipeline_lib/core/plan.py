"""Which stages of a process are there already, which must be built, and why.

A process is run through once with a `Planner` in place of the real thing: each stage is looked up in the
store. Where one is missing, what depends on it has no digest yet and waits.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from pipeline_lib.core.artifact import Artifact
from pipeline_lib.core.errors import (
    ConfigError,
    DataError,
    FinetuneError,
    ServiceError,
    StoreError,
    did_you_mean,
)
from pipeline_lib.core.fingerprint import canonical
from pipeline_lib.core.manifest import Manifest
from pipeline_lib.core.outside import FileDigests
from pipeline_lib.core.runs import runs_of
from pipeline_lib.core.stage import Recipe, code_of
from pipeline_lib.core.store import Store

A = TypeVar("A", bound=Artifact)
PENDING = "pending"
Status = Literal["cached", "built", "build", "waits"]


@dataclass(frozen=True)
class Use:
    """One use of a stage in a process: its name there, and how it is to be run."""

    name: str
    retries: int = 0
    retry_delay_seconds: float | tuple[float, ...] = 1.0
    """Between tries: always the same, or one for each try."""
    timeout_seconds: float | None = None
    tags: tuple[str, ...] = ()


class Runner(Protocol):
    """What a task hands its recipe to: a planner, or something that builds."""

    store: Store

    def step(self, use: Use, recipe: Recipe[A]) -> A:
        """Return the artifact of ``recipe`` for this use of the stage."""


_runner: ContextVar[Runner] = ContextVar("runner")


@contextmanager
def running(runner: Runner) -> Iterator[None]:
    """Let ``runner`` take every stage that is called within the block."""
    token = _runner.set(runner)
    try:
        yield
    finally:
        _runner.reset(token)


def current_runner() -> Runner:
    """Return the runner in charge; ConfigError where a task is called outside of a run."""
    try:
        return _runner.get()
    except LookupError:
        raise ConfigError(
            "a task was called outside of a run; use `finetune run`, or `running(...)` around the flow"
        ) from None


@dataclass(frozen=True)
class Step:
    """One use of a stage: what is there, and why not."""

    name: str
    stage: str
    status: Status
    reason: str = ""
    artifact: Artifact | None = None
    notice: str = ""
    seconds: float = 0.0
    fingerprint: str = ""
    """The recipe's fingerprint, where it is known by now."""
    error: FinetuneError | None = None
    """Why what the stage reads from outside the store has no digest: it cannot be built."""


@dataclass(frozen=True)
class Selection:
    """Which stages of a process a call is about; without any, all."""

    only: str | None = None
    start: str | None = None
    until: str | None = None
    force: frozenset[str] = frozenset()

    def wanted(self, names: Sequence[str]) -> list[str]:
        """Return the names that are to be materialized, in order; ConfigError for an unknown name."""
        for name in filter(None, (self.only, self.start, self.until, *sorted(self.force))):
            if name not in names:
                raise ConfigError(f"no stage {name!r} in this pipeline; {did_you_mean(name, names)}")
        if self.only:
            return [self.only]
        first = names.index(self.start) if self.start else 0
        last = names.index(self.until) if self.until else len(names) - 1
        return list(names[first : last + 1])


class Done(Exception):  # noqa: N818 - it is no error
    """The last stage that was asked for is finished; the rest of the process is not wanted."""


@dataclass
class Planner:
    """Walks through a process and notes for each stage whether the store has it."""

    store: Store
    force: frozenset[str] = frozenset()
    previous: dict[str, Manifest] = field(default_factory=dict)
    """The manifests of an earlier run by name, to say what changed."""
    steps: list[Step] = field(default_factory=list)

    def step(self, use: Use, recipe: Recipe[A]) -> A:
        """Note the state of one stage; what cannot be known yet comes back without a digest."""
        name = use.name
        pending = [artifact.path.name for artifact in recipe.artifacts.values() if artifact.digest == PENDING]
        try:
            _ = recipe.outside
        except (DataError, ServiceError) as error:
            self.steps.append(Step(name, recipe.stage.name, "build", str(error), error=error))
            return _pending(name, recipe)
        found = None if pending else self.store.find(recipe)
        if found and name not in self.force:
            notice = code_notice(self.store, recipe, found)
            self.steps.append(
                Step(
                    name,
                    recipe.stage.name,
                    "cached",
                    artifact=found,
                    notice=notice,
                    fingerprint=recipe.fingerprint,
                )
            )
            return found
        if lacking := self._lacking(name, recipe):
            self.steps.append(Step(name, recipe.stage.name, "build", str(lacking), error=lacking))
            return _pending(name, recipe)
        if pending:
            first = next(step.name for step in self.steps if step.name in pending)
            self.steps.append(Step(name, recipe.stage.name, "waits", f"depends on {first}"))
            return _pending(name, recipe)
        reason = "forced" if found else self.reason(name, recipe)
        self.steps.append(Step(name, recipe.stage.name, "build", reason, fingerprint=recipe.fingerprint))
        return _pending(name, recipe)

    def _lacking(self, name: str, recipe: Recipe[Any]) -> StoreError | None:
        """Return the error of an input that a process takes from elsewhere and the store no longer has."""
        for artifact in recipe.artifacts.values():
            if artifact.digest == PENDING:
                continue
            manifest = self.store.manifest_at(artifact.address)
            if manifest is None or manifest.digest != artifact.digest:
                state = "is not in the store" if manifest is None else "is not what it was"
                return StoreError(
                    f"{name} needs {artifact.address}, which {state}; run again what made it, or name another"
                )
        return None

    def reason(self, name: str, recipe: Recipe[Any]) -> str:
        """Return why the store has no artifact for ``recipe``, in the field's words."""
        before = self.previous.get(name) or nearest(self.store, recipe)
        return difference(before, recipe) if before else "never built"


def _pending(name: str, recipe: Recipe[A]) -> A:
    return recipe.stage.produces(Path(name), PENDING)


def nearest(store: Store, recipe: Recipe[Any]) -> Manifest | None:
    """Return the manifest of the same stage that differs in the fewest ways, or None."""
    candidates = []
    for place, manifest in store.manifests(recipe.stage.name):
        candidates.append((len(differences(manifest, recipe)), str(place), manifest))
    return min(candidates, key=lambda entry: entry[:2])[2] if candidates else None


def difference(before: Manifest, recipe: Recipe[Any]) -> str:
    """Return what sets ``recipe`` apart from an artifact: ``config.threshold 0.8 -> 0.9``, say."""
    found = differences(before, recipe)
    return (
        "; ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
        or "removed from the store"
    )


def differences(before: Manifest, recipe: Recipe[Any]) -> list[str]:
    """Return every way in which ``recipe`` differs from the one behind a manifest."""
    found = (
        [f"version {before.version} -> {recipe.stage.version}"]
        if before.version != recipe.stage.version
        else []
    )
    found += [
        f"{name} changed"
        for name, digest in recipe.digests.items()
        if name not in before.inputs or before.inputs[name].digest != digest
    ]
    found += [f"{name} taken away" for name in before.inputs if name not in recipe.digests]
    found += list(_config_differences("config", before.config, canonical(recipe.config)))
    if before.target != recipe.target:
        found.append(f"target {before.target} -> {recipe.target}")
    return found


def _config_differences(where: str, one: Any, other: Any) -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in [*one, *(k for k in other if k not in one)]:
            yield from _config_differences(f"{where}.{key}", one.get(key), other.get(key))
    elif one != other:
        yield f"{where} {_short(one)} -> {_short(other)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def code_notice(store: Store, recipe: Recipe[Any], artifact: Artifact) -> str:
    """Return a warning where the stage's code changed since the artifact was built, else an empty text."""
    if artifact.manifest.code == _codes(store.root).of(recipe.stage.module):
        return ""
    name = recipe.stage.name
    return f"{name}'s code changed since; raise its version or use --force {name} if the meaning changed"


@lru_cache(maxsize=8)
def _codes(root: Path) -> FileDigests:
    """Return the hashes of stages' code, remembered: to parse every module again takes 80 ms."""
    return FileDigests(root / ".memo" / f"code-{sys.implementation.cache_tag}.json", code_of)


def latest_manifests(store: Store, pipeline: str) -> dict[str, Manifest]:
    """Return the manifests of the latest recorded run of a pipeline, by name."""
    found: dict[str, Manifest] = {}
    for run in runs_of(store.root, pipeline)[:1]:
        for link in sorted(run.iterdir()):
            try:
                found[link.name] = Manifest.read(link / "manifest.json")
            except StoreError:
                continue
    return found
