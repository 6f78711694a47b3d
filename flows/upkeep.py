"""Upkeep of the store: what nothing refers to is removed, and what is damaged is found.

An artifact is *referred to* by a run's links, by a registered model, or by such an artifact's inputs; where
machines share a store, by any machine's runs. Nothing that is being built is touched.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.lines import size
from pipeline_lib import kinds
from pipeline_lib.core.artifact import Artifact
from pipeline_lib.core.errors import ConfigError, StoreError
from pipeline_lib.core.fingerprint import digest_file
from pipeline_lib.core.locks import try_hold
from pipeline_lib.core.manifest import MANIFEST, FileEntry, Manifest, content_digest
from pipeline_lib.core.progress import track
from pipeline_lib.core.runs import RUNS, forget, links, newest_first, pipeline_of, runs_of
from pipeline_lib.core.store import Store, writable

DAMAGED = ".damaged"
LEFTOVERS = (".scratch", ".work", ".blocks", DAMAGED)
MOST_FAULTS = 5


@dataclass
class Pruned:
    """What was removed, or would be: runs by name, directories with their sizes in bytes."""

    runs: list[str] = field(default_factory=list)
    directories: list[tuple[Path, int]] = field(default_factory=list)
    in_use: list[Path] = field(default_factory=list)
    """Left alone, because another process is working on them."""

    @property
    def bytes(self) -> int:
        """The size of what was removed."""
        return sum(count for _, count in self.directories)

    def as_json(self) -> dict[str, Any]:
        """Return what was removed as JSON values."""
        return {
            "runs": self.runs,
            "directories": [{"path": str(path), "bytes": count} for path, count in self.directories],
            "in_use": [str(path) for path in self.in_use],
            "bytes": self.bytes,
        }

    def lines(self, *, dry_run: bool) -> Iterator[str]:
        """Yield what was removed, line by line, and the sum."""
        yield from (f"{'run':>9}  {name}" for name in self.runs)
        yield from (
            f"{size(count):>9}  {path.parent.name}/{path.name[:40]}" for path, count in self.directories
        )
        yield from (f"{'in use':>9}  {path.parent.name}/{path.name[:40]}" for path in self.in_use)
        done = "would be removed" if dry_run else "removed"
        if self.runs or self.directories:
            yield f"{size(self.bytes)} in {len(self.directories)} directories {done}" + (
                f", {len(self.runs)} runs forgotten" if self.runs and not dry_run else ""
            )
        else:
            yield "nothing to remove"


def prune(
    store: Store, registered: Iterable[Path], *, keep_runs: int | None = None, dry_run: bool = False
) -> Pruned:
    """Remove what no registered model and none of the newest ``keep_runs`` runs (None: all) refers to."""
    pruned = Pruned()
    places, runs = list(store.places()), _runs(store)
    old = [] if keep_runs is None else list(_old_runs(runs, keep_runs))
    pruned.runs = sorted({run.name for run in old}, reverse=True)
    kept = [path for run, uses in runs.items() if run not in old for path in uses]
    # A machine writes down where its own mirror has a registered model.
    registered = [here for path in registered for here in (path, store.root.joinpath(*path.parts[-2:]))]
    needed = referred(store, [*kept, *registered])
    with writable(store.root):
        for run in [] if dry_run else old:
            _forget(store, run)
        for path in [*places, *_leftovers(store)]:
            if path.is_dir() and path.resolve() not in needed:
                _remove(store, path, pruned, dry_run=dry_run)
    return pruned


def _runs(store: Store) -> dict[Path, list[Path]]:
    """Return what runs used: this machine's by the directory of links, all others' by ``<machine>/<run>``."""
    own = {run: list(links(run).values()) for run in runs_of(store.root)}
    shared = {
        record: [store.root / address for address in addresses]
        for record, addresses in store.records().items()
    }
    return own | shared


def _old_runs(runs: Iterable[Path], keep: int) -> Iterator[Path]:
    seen: dict[str, set[str]] = {}
    for run in newest_first(runs):
        names = seen.setdefault(pipeline_of(run), set())
        names.add(run.name)
        if len(names) > keep:
            yield run


def _forget(store: Store, run: Path) -> None:
    if run.parent == store.root / RUNS:
        forget(run)
    else:
        store.forgotten(run)


def referred(store: Store, paths: Iterable[Path]) -> set[Path]:
    """Return the artifacts at ``paths`` and all that they were made from, as far as the store has them."""
    found: set[Path] = set()
    ahead = [path.resolve() for path in paths]
    while ahead:
        path = ahead.pop()
        if path in found or not path.is_dir():
            continue
        found.add(path)
        try:
            inputs = Manifest.read(path / MANIFEST).inputs.values()
        except StoreError:
            continue
        ahead += [
            (store.root / ref.address).resolve() for ref in inputs if not ref.address.startswith("outside:")
        ]
    return found


def _leftovers(store: Store) -> Iterator[Path]:
    for name in LEFTOVERS:
        yield from sorted((store.root / name).glob("*"))


def _remove(store: Store, path: Path, pruned: Pruned, *, dry_run: bool) -> None:
    with try_hold(lock_of(store, path)) as ours:
        if not ours:
            pruned.in_use.append(path)
            return
        if not (dry_run or path.parent.name in LEFTOVERS or store.discard(path)):
            pruned.in_use.append(path)
            return
        pruned.directories.append((path, _size(path)))
        if not dry_run:
            shutil.rmtree(_out_of_sight(store, path, "pruned", ".scratch"), ignore_errors=True)


def lock_of(store: Store, path: Path) -> Path:
    """Return the lock under which the store builds what stands, or is being made, at ``path``."""
    recipe = path.name.split(".")[0] if path.parent.name in LEFTOVERS else f"{path.parent.name}-{path.name}"
    return store.root / ".locks" / f"{recipe}.lock"


def _out_of_sight(store: Store, path: Path, why: str, where: str) -> Path:
    """Move a directory away in one step, so that no one ever sees half of it; return where it is now."""
    away = store.root / where / f"{why}-{path.parent.name}-{path.name[:12]}.{uuid.uuid4().hex[:8]}"
    away.parent.mkdir(parents=True, exist_ok=True)
    return path.rename(away)


def _size(path: Path) -> int:
    """Return the bytes below ``path``, or what its manifest names where not all of it is on this machine."""
    here = sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir() or file.is_symlink())
    try:
        return max(here, sum(entry.bytes for entry in Manifest.read(path / MANIFEST).files))
    except StoreError:
        return here


@dataclass(frozen=True)
class Damage:
    """An artifact that is not what its manifest says, and in which ways."""

    path: Path
    faults: tuple[str, ...]
    moved_to: Path | None = None
    """Where it was put out of the way, so that the next run fetches it or builds it again."""
    withdrawn: bool = False
    """Whether a damaged copy was taken from the other machines, and this one's put there if it is whole."""


@dataclass(frozen=True)
class Verified:
    """How many artifacts were read, and which of them are damaged."""

    count: int
    damaged: tuple[Damage, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        damaged = [
            {
                "path": str(one.path),
                "faults": list(one.faults),
                "moved_to": str(one.moved_to) if one.moved_to else None,
                "withdrawn": one.withdrawn,
            }
            for one in self.damaged
        ]
        return {"artifacts": self.count, "damaged": damaged}

    def lines(self) -> Iterator[str]:
        """Yield every damaged artifact with its faults, and the count."""
        for one in self.damaged:
            yield f"damaged  {one.path}"
            yield from (f"         {fault}" for fault in one.faults[:MOST_FAULTS])
            if len(one.faults) > MOST_FAULTS:
                yield f"         and {len(one.faults) - MOST_FAULTS} more"
            if one.moved_to:
                yield f"         moved to {one.moved_to}; the next run fetches it or builds it again"
            if one.withdrawn:
                yield "         taken out of the shared store, and replaced if this machine has it whole"
        left = [one for one in self.damaged if not (one.moved_to or one.withdrawn)]
        remedy = "; `finetune verify --repair` puts them out of the way, then run again" if left else ""
        yield (
            f"{len(self.damaged)} of {self.count} artifacts damaged{remedy}"
            if self.damaged
            else f"{self.count} artifacts, all whole"
        )


def verify(store: Store, stage: str | None = None, *, repair: bool = False) -> Verified:
    """Read every artifact (of one stage) again, here and where it is shared, and hold it to its manifest."""
    paths = list(store.places(stage))
    if stage and not paths:
        known = sorted({path.parent.name for path in store.places()})
        raise ConfigError(
            f"the store has no artifact of a stage {stage!r}; it has {', '.join(known) or 'none at all'}"
        )
    damaged = []
    for path in track(paths, "verify", len(paths)):
        here = tuple(faults_of(store, path)) if path.is_dir() else ()
        elsewhere = tuple(store.faults(path))
        if here or elsewhere:
            moved = _put_away(store, path) if repair and here else None
            if repair and elsewhere:
                store.withdraw(path)
            damaged.append(Damage(path, here + elsewhere, moved, repair and bool(elsewhere)))
    return Verified(len(paths), tuple(damaged))


def faults_of(store: Store, path: Path) -> Iterator[str]:
    """Yield every way in which the artifact at ``path`` differs from its manifest on this machine."""
    if not (path / MANIFEST).exists():
        yield f"{MANIFEST}: missing"
        return
    try:
        manifest = Manifest.read(path / MANIFEST)
    except StoreError:
        yield f"{MANIFEST}: unreadable"
        return
    if (manifest.stage, manifest.fingerprint) != (path.parent.name, path.name):
        yield f"{MANIFEST}: is that of {manifest.stage}/{manifest.fingerprint[:12]}"
    for entry in manifest.files:
        if (path / entry.path).exists() or store.lacks(path, entry):
            yield from _faults_of_file(path, entry)
    known = {entry.path for entry in manifest.files} | {MANIFEST}
    there = (file.relative_to(path).as_posix() for file in sorted(path.rglob("*")) if file.is_file())
    yield from (f"{name}: not in the manifest" for name in there if name not in known)
    kind = getattr(kinds, manifest.kind, Artifact)
    if content_digest(manifest.files, kind.beside) != manifest.digest:
        yield f"{MANIFEST}: its digest is not that of its files"


def _faults_of_file(directory: Path, entry: FileEntry) -> Iterator[str]:
    file = directory / entry.path
    try:
        count = file.stat().st_size
        if count != entry.bytes:
            yield f"{entry.path}: {count} bytes, {entry.bytes} in the manifest"
        elif digest_file(file) != entry.sha256:
            yield f"{entry.path}: its bytes have changed"
    except FileNotFoundError:
        yield f"{entry.path}: missing"
    except OSError as error:
        yield f"{entry.path}: cannot be read ({error.strerror})"


def _put_away(store: Store, path: Path) -> Path | None:
    with writable(store.root), try_hold(lock_of(store, path)) as ours:
        return _out_of_sight(store, path, "damaged", DAMAGED) if ours else None
