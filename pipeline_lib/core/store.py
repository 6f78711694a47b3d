"""The store: finds the artifact of a recipe, or runs the stage and keeps what it wrote.

Layout below the root: ``<stage>/<fingerprint>/`` with ``manifest.json`` in each, and hidden beside
them ``.scratch`` (artifacts in the making), ``.work`` (checkpoints between tries), ``.blocks`` (results for
parts of inputs, between builds of one stage with one config), ``.locks`` and ``.memo`` (hashes of stages'
code). A stage writes into scratch; the manifest comes last; a rename makes the artifact visible whole or not
at all.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from pipeline_lib.core.artifact import Artifact
from pipeline_lib.core.errors import FinetuneError, StageError, StoreError
from pipeline_lib.core.fingerprint import canonical, fingerprint
from pipeline_lib.core.locks import hold
from pipeline_lib.core.manifest import (
    MANIFEST,
    FileEntry,
    InputRef,
    Manifest,
    Provenance,
    content_digest,
    describe_files,
)
from pipeline_lib.core.output import Output
from pipeline_lib.core.provenance import code_digest, describe_machine
from pipeline_lib.core.runs import RUNS
from pipeline_lib.core.stage import Recipe

A = TypeVar("A", bound=Artifact)


@dataclass(frozen=True)
class Materialized(Generic[A]):
    """An artifact and whether it was built just now."""

    artifact: A
    built: bool
    seconds: float


@dataclass(frozen=True)
class Store:
    """A directory of artifacts, addressed by what they were made from."""

    root: Path

    def place(self, recipe: Recipe[Any]) -> Path:
        """Return where the artifact of ``recipe`` stands, whether it is there or not."""
        return self.root / recipe.stage.name / recipe.fingerprint

    def find(self, recipe: Recipe[A]) -> A | None:
        """Return the artifact of ``recipe`` if the store has it, written to the same target."""
        place = self.place(recipe)
        if not (place / MANIFEST).exists():
            return None
        manifest = Manifest.read(place / MANIFEST)
        if manifest.target != recipe.target:
            return None
        return _open(recipe, place, manifest)

    def manifest_at(self, address: str) -> Manifest | None:
        """Return the manifest of the artifact ``<stage>/<fingerprint>``, or None where the store has none."""
        path = self.root / address / MANIFEST
        return Manifest.read(path) if path.exists() else None

    def materialize(self, recipe: Recipe[A], *, force: bool = False) -> Materialized[A]:
        """Find the artifact of ``recipe`` or build it; one builder per fingerprint at a time.

        Raises StageError where the stage fails and StoreError where the store cannot be written;
        in both cases nothing of the unfinished artifact remains.
        """
        start = time.perf_counter()
        if not force and (found := self.find(recipe)):
            return Materialized(found, False, time.perf_counter() - start)
        with writable(self.root), self.alone(recipe):
            if not force and (found := self.find(recipe)):
                return Materialized(found, False, time.perf_counter() - start)
            if force:
                shutil.rmtree(self._blocks(recipe), ignore_errors=True)
            built = self._build(recipe)
        return Materialized(built, True, time.perf_counter() - start)

    @contextmanager
    def alone(self, recipe: Recipe[Any]) -> Iterator[None]:
        """Be the only builder of ``recipe`` for the block, waiting for as long as there is another."""
        with hold(self.root / ".locks" / f"{recipe.stage.name}-{recipe.fingerprint}.lock"):
            yield

    def fetch(self, artifact: A) -> A:
        """Return ``artifact`` with all its files on this machine; here they always are."""
        return artifact

    def recorded(self, run: str, artifacts: Mapping[str, Artifact]) -> None:
        """Share the record of a run with other machines; here its links are all there is."""

    def records(self) -> dict[Path, list[str]]:
        """Return the addresses that runs of all machines used, by ``<machine>/<run>``; here links say it."""
        return {}

    def forgotten(self, record: Path) -> None:
        """Take the record of a run back; here there is none."""

    def places(self, stage: str | None = None) -> Iterator[Path]:
        """Yield the directory of every artifact, or of one stage's, whole or damaged, in path order."""
        for path in sorted(self.root.glob(f"{stage or '[!.]*'}/*")):
            if path.is_dir() and path.parent.name != RUNS:
                yield path

    def lacks(self, place: Path, entry: FileEntry) -> bool:
        """Return whether a file of an artifact is nowhere; a mirror may have it elsewhere."""
        return not (place / entry.path).exists()

    def faults(self, place: Path) -> Iterator[str]:
        """Yield what is wrong with the copy that other machines read; here there is none."""
        yield from ()

    def withdraw(self, place: Path) -> None:
        """Take a damaged copy away from other machines; here there is none."""

    def discard(self, place: Path) -> bool:
        """Remove what other machines see of an artifact, and say whether nobody is about to build it."""
        return True

    def work_of(self, recipe: Recipe[Any]) -> Path:
        """Return the directory that a recipe's build works in, and that a failed try leaves to the next."""
        return self.root / ".work" / f"{recipe.stage.name}-{recipe.fingerprint}"

    def _build(self, recipe: Recipe[A]) -> A:
        name = f"{recipe.stage.name}-{recipe.fingerprint}"
        self._sweep(name)
        scratch = self.root / ".scratch" / f"{name}.{uuid.uuid4().hex[:8]}"
        work = self.work_of(recipe)
        try:
            scratch.mkdir(parents=True)
            work.mkdir(parents=True, exist_ok=True)
            artifact = self._run(recipe, Output(recipe.stage.name, scratch, work, self._blocks(recipe)))
            shutil.rmtree(work, ignore_errors=True)
            return artifact
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _blocks(self, recipe: Recipe[Any]) -> Path:
        """Return where a stage keeps results for parts of its input, for one config and code."""
        stage = recipe.stage
        # What lies outside is the input itself of a stage that has no other.
        outside = recipe.outside if recipe.inputs else {}
        same = fingerprint(stage.name, stage.version, recipe.config, {**outside, "code": code_digest()})
        return self.root / ".blocks" / f"{stage.name}-{same}"

    def _run(self, recipe: Recipe[A], out: Output) -> A:
        started, clock = datetime.now(UTC), time.perf_counter()
        with failures_named(recipe.stage.name):
            recipe.stage.function(out, recipe.config, **recipe.inputs)
        files = describe_files(out.path)
        manifest = Manifest(
            stage=recipe.stage.name,
            version=recipe.stage.version,
            kind=recipe.stage.produces.kind_of(out.path).__name__,
            fingerprint=recipe.fingerprint,
            digest=content_digest(files, recipe.stage.produces.beside),
            code=recipe.stage.code,
            config=canonical(recipe.config),
            inputs=_input_refs(recipe),
            files=files,
            stats=canonical(out.stats, "stats"),
            target=recipe.stage.target(recipe.config) if recipe.stage.target else None,
            provenance=Provenance(
                **describe_machine(),
                started=started.isoformat(timespec="seconds"),
                seconds=round(time.perf_counter() - clock, 3),
                peak_memory_mb=peak_memory_mb(),
            ),
        )
        manifest.write(out.path)
        return _open(recipe, self._publish(out.path, self.place(recipe)), manifest)

    def _publish(self, scratch: Path, place: Path) -> Path:
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.exists():
            old = self.root / ".scratch" / f"replaced-{uuid.uuid4().hex}"
            place.rename(old)
            scratch.rename(place)
            shutil.rmtree(old, ignore_errors=True)
        else:
            scratch.rename(place)
        return place

    def _sweep(self, name: str) -> None:
        """Remove what a killed builder of the same recipe left; its lock is ours now."""
        for stale in (self.root / ".scratch").glob(f"{name}.*"):
            shutil.rmtree(stale, ignore_errors=True)

    def manifests(self, stage: str | None = None) -> Iterator[tuple[Path, Manifest]]:
        """Yield (directory, manifest) of every artifact, or of one stage's, in path order."""
        for path in self.places(stage):
            if (path / MANIFEST).exists():
                yield path, Manifest.read(path / MANIFEST)


def _open(recipe: Recipe[A], place: Path, manifest: Manifest) -> A:
    # kind_of answers with the stage's kind or a sub-kind of it, so the type holds.
    kind = cast("type[A]", recipe.stage.produces.kind_of(place))
    return kind(place, manifest.digest, manifest.fingerprint)


def _input_refs(recipe: Recipe[Any]) -> dict[str, InputRef]:
    refs = {name: InputRef(address=a.address, digest=a.digest) for name, a in recipe.artifacts.items()}
    refs.update({name: InputRef(address=f"outside:{name}", digest=d) for name, d in recipe.outside.items()})
    return refs


def peak_memory_mb() -> float:
    """Return the highest resident size in MB that this process or a finished child of it reached."""
    both = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return round(max(both) / 1024, 1)


@contextmanager
def failures_named(stage: str) -> Iterator[None]:
    """Turn whatever a stage raises into one line that names the stage; a full disk is the store's error."""
    try:
        yield
    except FinetuneError:
        raise
    except OSError as error:
        raise _os_error(error, stage) from error
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise StageError(
            f"{stage} failed: {type(error).__name__}: {reason[0] if reason else 'no message'}"
        ) from error


@contextmanager
def writable(root: Path) -> Iterator[None]:
    """Turn a store that cannot be written into one clear line."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise _os_error(error, "store") from error


def _os_error(error: OSError, where: str) -> FinetuneError:
    place = error.filename or ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(
            f"{where}: no space left on the disk {place}; free some (`finetune prune`) and run again, "
            "what is done is kept"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
        return StoreError(
            f"{where}: cannot write {place} ({error.strerror}); "
            "set FINETUNE_STORE to a directory that you may write"
        )
    return StageError(f"{where} failed: {error}")


def link_run(store: Store, run: str, artifacts: dict[str, Artifact]) -> Path:
    """Record which artifacts a run used as links ``runs/<run>/<name>``."""
    directory = store.root / RUNS / run
    with writable(store.root):
        directory.mkdir(parents=True, exist_ok=True)
        for name, artifact in artifacts.items():
            link, fresh = directory / name, directory / f".{name}.{os.getpid()}"
            fresh.symlink_to(os.path.relpath(artifact.path, directory))
            fresh.replace(link)
    store.recorded(run, artifacts)
    return directory
