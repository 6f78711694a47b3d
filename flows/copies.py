"""Copies: the large files that this machine keeps of a shared store, and whether it needs to."""

from __future__ import annotations

from collections.abc import Iterator

from flows.upkeep import Pruned, lock_of
from pipeline_lib.core.errors import ConfigError, StoreError
from pipeline_lib.core.locks import try_hold
from pipeline_lib.core.mirror import MirroredStore
from pipeline_lib.core.store import Store, writable


def drop_copies(store: Store, *, dry_run: bool = False) -> Pruned:
    """Remove the files of large artifacts that the remote has whole; what reads them pulls them again.

    The manifests stay, so every run finds what it used. ConfigError where the store is no mirror, StoreError
    while a stage is being built here: it may be about to read what would go.
    """
    if not isinstance(store, MirroredStore):
        raise ConfigError(
            f"{store.root} is the store itself, no copy of one; FINETUNE_STORE names a URL there"
        )
    if at_work := list(_building(store)):
        raise StoreError(f"{', '.join(at_work)}: being built here, from copies; wait until that is done")
    pruned = Pruned()
    with writable(store.root):
        for place in Store.places(store):
            entries = store.copies(place)
            if entries:
                pruned.directories.append((place, sum(entry.bytes for entry in entries)))
            for entry in [] if dry_run else entries:
                (place / entry.path).unlink()
    return pruned


def _building(store: Store) -> Iterator[str]:
    for scratch in sorted((store.root / ".scratch").glob("*-*.*")):
        with try_hold(lock_of(store, scratch)) as ours:
            if not ours:
                yield scratch.name.rpartition("-")[0]
