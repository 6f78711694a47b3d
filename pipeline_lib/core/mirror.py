"""A mirrored store: a local store whose artifacts are shared through a remote (``s3://bucket/prefix``, …).

Stages see local paths: the *mirror* is a store directory, the *remote* holds what all machines share.

Layout of the remote::

    <stage>/<fingerprint>/manifest.json        what is valid; written last
    <stage>/<fingerprint>/<edition>/<path>     the files
    runs/<machine>/<run>.json                  {use: "<stage>/<fingerprint>"}, so that any machine can see
                                               what is referred to
    .leases/<stage>-<fingerprint>.json         who builds (`pipeline_lib.core.lease`)

An *edition* is the hash of all of an artifact's files, logs included. Two builders of one recipe whose bytes
differ (training need not repeat to the bit) write to two editions, and the manifest, one object written at
once, names the files of one of them: the last manifest wins whole, and a reader never sees a mix. Every file
that is pulled is held against the manifest's sha256.

An artifact in the mirror is *whole*, or *known*: its manifest is there and files are yet to be pulled. What
takes up to WHOLE bytes comes whole when it is found; larger ones stay known until a stage is about to read
them (or `MirroredStore.fetch` is called), so an up-to-date run downloads no weights. Each file is
renamed into place only after its hash was right: a file that is there is right.

A push that was cut short leaves a mark in ``.unpushed`` and no manifest in the remote: others do not see
the artifact, and this machine pushes it, without building it again, at its next use or run record. A file
in the remote that is damaged or gone stops the run with its name, once: its edition is written down in
``.refused``, and the next run builds the artifact again. Planning writes nothing to the remote.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from pydantic import ValidationError

from pipeline_lib.core.artifact import Artifact
from pipeline_lib.core.errors import StoreError
from pipeline_lib.core.fingerprint import digest_entries, digest_file
from pipeline_lib.core.lease import Lease
from pipeline_lib.core.locks import hold
from pipeline_lib.core.manifest import MANIFEST, FileEntry, Manifest
from pipeline_lib.core.remote import Remote, without_user
from pipeline_lib.core.runs import RUNS
from pipeline_lib.core.stage import Recipe
from pipeline_lib.core.store import Materialized, Store, writable

A = TypeVar("A", bound=Artifact)
WHOLE = 16 << 20
"""Bytes; scores, verdicts and reports are below, weights and large datasets above."""
TRANSFERS = 8
"""Files that are on their way at a time."""
LEASE_SECONDS = 60.0


class UnusableError(StoreError):
    """A file in the remote is not what the manifest says."""


def open_store(url: str, mirrors: Path) -> Store:
    """Return the store at a directory or an fsspec URL; each one elsewhere has its mirror below ``mirrors``.

    Raises ConfigError where no file system answers for the URL.
    """
    scheme, separator, _ = url.partition("://")
    if not separator:
        return Store(Path(url))
    if scheme in ("file", "local"):
        return Store(Path(unquote(urlsplit(url).path)))
    shown = without_user(url)
    name = PurePosixPath(shown).name or scheme
    return MirroredStore(mirrors / f"{name}-{hashlib.sha256(shown.encode()).hexdigest()[:8]}", Remote.at(url))


@dataclass(frozen=True)
class MirroredStore(Store):
    """A local mirror of what machines share through a remote."""

    remote: Remote
    lease_seconds: float = LEASE_SECONDS

    def find(self, recipe: Recipe[A]) -> A | None:
        """Return the artifact of ``recipe`` from mirror or remote; a large one's files may be yet to come.

        Raises StoreError where the remote does not answer, or a file of a small artifact is damaged there.
        """
        place = self.place(recipe)
        manifest = self._local(place)
        if manifest is None or manifest.target != recipe.target:
            manifest = self._remote(place)
            if manifest is None or manifest.target != recipe.target:
                return None
            self._know(place, manifest)
        if sum(entry.bytes for entry in manifest.files) <= WHOLE:
            self._pull(place, manifest)
        return _kind(recipe, manifest.kind)(place, manifest.digest, manifest.fingerprint)

    def manifest_at(self, address: str) -> Manifest | None:
        """Return the manifest of the artifact ``<stage>/<fingerprint>`` from mirror or remote."""
        place = self.root / address
        manifest = self._local(place)
        if manifest is None and (manifest := self._remote(place)):
            self._know(place, manifest)
        return manifest

    def materialize(self, recipe: Recipe[A], *, force: bool = False) -> Materialized[A]:
        """Find the artifact of ``recipe`` or build and push it; one builder at a time among all machines."""
        done = super().materialize(recipe, force=force)
        self._finish_push(done.artifact.path)
        return done

    def fetch(self, artifact: A) -> A:
        """Return ``artifact`` with all its files on this machine, and the manifests of what it was made from.

        Raises StoreError where a file is damaged or gone in the remote.
        """
        self._pull(artifact.path, artifact.manifest)
        self._know_ancestors(artifact.manifest, {artifact.address})
        return artifact

    def recorded(self, run: str, artifacts: Mapping[str, Artifact]) -> None:
        """Push what the run used and was not pushed, then the run's record."""
        for artifact in artifacts.values():
            self._finish_push(artifact.path)
        record = {use: artifact.address for use, artifact in sorted(artifacts.items())}
        self.remote.write(f"{RUNS}/{platform.node()}/{run}.json", json.dumps(record, indent=1).encode())

    def records(self) -> dict[Path, list[str]]:
        """Return the addresses that runs of all machines used, by ``<machine>/<run>``."""
        found = {}
        for machine in self.remote.names(RUNS):
            for name in self.remote.names(f"{RUNS}/{machine}"):
                data = self.remote.read(f"{RUNS}/{machine}/{name}")
                found[Path(machine, name.removesuffix(".json"))] = list(json.loads(data or b"{}").values())
        return found

    def forgotten(self, record: Path) -> None:
        """Remove the record of a run from the remote."""
        self.remote.remove(f"{RUNS}/{record}.json")

    def places(self, stage: str | None = None) -> Iterator[Path]:
        """Yield the place of every artifact in mirror or remote, or of one stage's; it may be empty."""
        elsewhere: set[Path] = set()
        for name in [stage] if stage else self.remote.names():
            if name != RUNS and not name.startswith("."):
                elsewhere.update(self._know_all(name))
        yield from sorted(elsewhere.union(super().places(stage)))

    def lacks(self, place: Path, entry: FileEntry) -> bool:
        """Return whether a file of an artifact is neither here nor named by the remote's manifest."""
        return super().lacks(place, entry) and self._remote(place) is None

    def faults(self, place: Path) -> Iterator[str]:
        """Yield what is wrong with the remote's copy, having read every byte of it."""
        key = f"{_address(place)}/{MANIFEST}"
        data = self.remote.read(key)
        manifest = _parse(data, place) if data else None
        if data and manifest is None:
            yield f"{self.remote.url}/{key}: unreadable"
        if manifest is None:
            return
        for entry in manifest.files:
            key = self._key(place, manifest, entry)
            digest = self.remote.digest(key)
            if digest != entry.sha256:
                yield f"{self.remote.url}/{key}: {'its bytes have changed' if digest else 'missing'}"

    def withdraw(self, place: Path) -> None:
        """Take a damaged copy out of the remote: pushed again where it is whole here, else forgotten."""
        self.remote.remove(f"{_address(place)}/{MANIFEST}")
        manifest = self._local(place)
        if manifest and not _missing(place, manifest):
            self._will_push(place)
            self._finish_push(place)
        else:
            self._put_aside(place)

    def discard(self, place: Path) -> bool:
        """Remove an artifact from the remote, unless another machine is about to build it."""
        if self.remote.read(f".leases/{place.parent.name}-{place.name}.json"):
            return False
        self.remote.remove(f"{_address(place)}/{MANIFEST}")
        self.remote.remove_all(_address(place))
        self._mark(".unpushed", place).unlink(missing_ok=True)
        return True

    def copies(self, place: Path) -> list[FileEntry]:
        """Return the files of a large artifact that are here, where the remote has every one of them too."""
        manifest, there = self._local(place), self._remote(place)
        if manifest is None or there is None or _edition(there) != _edition(manifest):
            return []
        if sum(entry.bytes for entry in manifest.files) <= WHOLE or self._mark(".unpushed", place).exists():
            return []
        if any(self.remote.size(self._key(place, there, entry)) != entry.bytes for entry in there.files):
            return []
        return [entry for entry in manifest.files if (place / entry.path).exists()]

    @contextmanager
    def alone(self, recipe: Recipe[Any]) -> Iterator[None]:
        """Be the only builder of ``recipe``: on this machine by a lock, among machines by a lease."""
        name = f"{recipe.stage.name}-{recipe.fingerprint}"
        owner = f"{platform.node()}:{self.root.resolve()}"
        lease = Lease(self.remote, f".leases/{name}.json", owner, self.lease_seconds)
        with super().alone(recipe), lease.held():
            yield

    def _build(self, recipe: Recipe[A]) -> A:
        for artifact in recipe.artifacts.values():
            self.fetch(artifact)
        return super()._build(recipe)

    def _publish(self, scratch: Path, place: Path) -> Path:
        self._will_push(place)
        super()._publish(scratch, place)
        self._push(place)
        return place

    def _will_push(self, place: Path) -> None:
        mark = self._mark(".unpushed", place)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()

    def _finish_push(self, place: Path) -> None:
        """Push an artifact whose push was cut short; wait for one that is under way."""
        if not self._mark(".unpushed", place).exists():
            return
        with writable(self.root), hold(self.root / ".locks" / f"{place.parent.name}-{place.name}.lock"):
            if self._mark(".unpushed", place).exists():
                self._push(place)

    def _push(self, place: Path) -> None:
        manifest = self._local(place)
        if manifest and not _missing(place, manifest):
            self._each(manifest.files, lambda entry: self._push_file(place, manifest, entry))
            self.remote.push(place / MANIFEST, f"{_address(place)}/{MANIFEST}")
            self._mark(".refused", place).unlink(missing_ok=True)
        self._mark(".unpushed", place).unlink(missing_ok=True)

    def _push_file(self, place: Path, manifest: Manifest, entry: FileEntry) -> None:
        self.remote.push(place / entry.path, self._key(place, manifest, entry))

    def _pull(self, place: Path, manifest: Manifest) -> None:
        missing = _missing(place, manifest)
        if not missing:
            return
        scratch = self.root / ".scratch" / f"pull-{uuid.uuid4().hex}"
        with writable(self.root):
            scratch.mkdir(parents=True)
            try:
                self._each(missing, lambda entry: self._pull_file(place, manifest, entry, scratch))
            except UnusableError:
                self._refuse(place, manifest)
                raise
            finally:
                shutil.rmtree(scratch, ignore_errors=True)

    def _pull_file(self, place: Path, manifest: Manifest, entry: FileEntry, scratch: Path) -> None:
        key = self._key(place, manifest, entry)
        fresh = scratch / uuid.uuid4().hex
        try:
            self.remote.pull(key, fresh)
            if digest_file(fresh) != entry.sha256:  # bytes may be lost on the way, too
                self.remote.pull(key, fresh)
            fault = "" if digest_file(fresh) == entry.sha256 else "damaged, its bytes have changed"
        except FileNotFoundError:
            fault = "gone, though the manifest names it"
        if fault:
            raise UnusableError(f"{self.remote.url}/{key}: {fault}; run again to build it anew")
        (place / entry.path).parent.mkdir(parents=True, exist_ok=True)
        fresh.replace(place / entry.path)

    def _refuse(self, place: Path, manifest: Manifest) -> None:
        """Forget an artifact that cannot be pulled, and its edition for good."""
        mark = self._mark(".refused", place)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(_edition(manifest), encoding="utf-8")
        self._put_aside(place)

    def _put_aside(self, place: Path) -> None:
        aside = self.root / ".scratch" / f"refused-{uuid.uuid4().hex}"
        if place.exists():
            aside.parent.mkdir(parents=True, exist_ok=True)
            place.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)

    def _local(self, place: Path) -> Manifest | None:
        return Manifest.read(place / MANIFEST) if (place / MANIFEST).exists() else None

    def _remote(self, place: Path) -> Manifest | None:
        """Return the remote's manifest for ``place``; one that cannot be read or is refused is none."""
        data = self.remote.read(f"{_address(place)}/{MANIFEST}")
        manifest = _parse(data, place) if data else None
        mark = self._mark(".refused", place)
        if manifest and mark.exists() and mark.read_text(encoding="utf-8") == _edition(manifest):
            return None
        return manifest

    def _know(self, place: Path, manifest: Manifest) -> None:
        """Place a manifest in the mirror, without its files."""
        scratch = self.root / ".scratch" / f"known-{uuid.uuid4().hex}"
        with writable(self.root):
            scratch.mkdir(parents=True)
            manifest.write(scratch)
            try:
                super()._publish(scratch, place)
            except OSError:
                # Another process of this machine placed the same manifest a moment ago.
                if not (place / MANIFEST).exists():
                    raise
            finally:
                shutil.rmtree(scratch, ignore_errors=True)

    def _know_all(self, stage: str) -> list[Path]:
        """Place the manifests of a stage that the mirror lacks; return where the remote has artifacts."""
        places = [self.root / stage / name for name in self.remote.names(stage)]
        new = [place for place in places if not (place / MANIFEST).exists()]
        with ThreadPoolExecutor(TRANSFERS) as pool:
            for place, manifest in zip(new, pool.map(self._remote, new), strict=True):
                if manifest:
                    self._know(place, manifest)
        return places

    def _know_ancestors(self, manifest: Manifest, seen: set[str]) -> None:
        for address in (ref.address for ref in manifest.inputs.values()):
            if address.startswith("outside:") or address in seen:
                continue
            seen.add(address)
            place = self.root / address
            parent = self._local(place)
            if parent is None and (parent := self._remote(place)):
                self._know(place, parent)
            if parent:
                self._know_ancestors(parent, seen)

    def _key(self, place: Path, manifest: Manifest, entry: FileEntry) -> str:
        return f"{_address(place)}/{_edition(manifest)}/{entry.path}"

    def _mark(self, what: str, place: Path) -> Path:
        return self.root / what / f"{place.parent.name}-{place.name}"

    def _each(self, entries: list[FileEntry], move: Callable[[FileEntry], None]) -> None:
        with ThreadPoolExecutor(TRANSFERS) as pool:
            for _ in pool.map(move, entries):
                pass


def _address(place: Path) -> str:
    return f"{place.parent.name}/{place.name}"


def _edition(manifest: Manifest) -> str:
    return digest_entries((entry.path, entry.sha256) for entry in manifest.files)[:16]


def _missing(place: Path, manifest: Manifest) -> list[FileEntry]:
    return [entry for entry in manifest.files if not (place / entry.path).exists()]


def _kind(recipe: Recipe[A], name: str) -> type[A]:
    """Return the kind of artifact that a manifest names: the stage's, or a sub-kind of it."""
    produces = recipe.stage.produces
    return next((kind for kind in _kinds(produces) if kind.__name__ == name), produces)


def _kinds(kind: type[A]) -> Iterator[type[A]]:
    yield kind
    for sub in kind.__subclasses__():
        yield from _kinds(sub)


def _parse(data: bytes, place: Path) -> Manifest | None:
    """Return the manifest if it is one and belongs at ``place``: whoever can write to the remote wrote it."""
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError:
        return None
    inside = all(_is_inside(entry.path) for entry in manifest.files)
    return manifest if inside and _address(place) == f"{manifest.stage}/{manifest.fingerprint}" else None


def _is_inside(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return bool(parts) and not PurePosixPath(path).is_absolute() and ".." not in parts
