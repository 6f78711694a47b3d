"""Sides: which split each linked cluster of conversations falls on, always as a whole.

A cluster goes by its first name, in the order of the names' hashes. By **hash**, its side depends on that
name, the seed and the shares alone, so that a conversation keeps its side when others are added; the shares
come out as chance has it (within 0.5 points, in 19 cases of 20, from some 15,000 clusters on). By **rank**,
the clusters of each stratum are put in order, by their place or from the newest to the oldest, and fill
test, then validation, up to what was asked for; a conversation near the border may change its side when
others are added. Shares alone go by hash; numbers, strata and time go by rank.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
import xxhash

if TYPE_CHECKING:
    from pipeline_lib.curation.split import SplitConfig

Hashes: TypeAlias = npt.NDArray[np.uint64]
Places: TypeAlias = npt.NDArray[np.float64]
Positions: TypeAlias = npt.NDArray[np.int64]
Sides: TypeAlias = npt.NDArray[np.int8]

TRAIN, VALIDATION, TEST = range(3)
LARGE_CLUSTER_SHARE = 0.02
"""A cluster of more than this share of the conversations would upset a split of a tenth: it goes to train."""
FEW = 10
"""Shares count from this many conversations on: below it, a few are no sign of a template."""


@dataclass(frozen=True)
class Members:
    """What of n conversations decides about the sides of their clusters."""

    roots: Positions
    """The smallest place of each one's linked cluster."""
    names: Hashes
    """Of its group, or its id."""
    places: Places
    """Where the seed puts its name, uniform in [0, 1)."""
    strata: Hashes | None
    ages: Positions | None
    """Its rank in time, the oldest 0; equal times have equal ranks."""
    families: Hashes
    """Of what a model wrote and its seeds, which are for training; 0 for all others."""


@dataclass(frozen=True)
class _Clusters:
    """The linked clusters of the members, by ascending root."""

    of: Positions
    """Each conversation's cluster."""
    sizes: Positions
    places: Places
    strata: Hashes
    newest: Positions
    trained: npt.NDArray[np.bool_]
    """Whether a family is among its members."""


def hashes(texts: Iterable[str | None]) -> Hashes:
    """Return a 64-bit hash of each text, 0 for none or an empty one."""
    return np.fromiter((xxhash.xxh3_64_intdigest(text.encode()) if text else 0 for text in texts), np.uint64)


def places(names: Iterable[str], seed: int) -> Places:
    """Return where a seed puts each name: the beginning of a hash of both, in [0, 1)."""
    digests = (hashlib.sha256(f"{seed}:{name}".encode()).digest() for name in names)
    return np.fromiter((int.from_bytes(digest[:8], "big") / 2**64 for digest in digests), np.float64)


def sides_of(members: Members, config: SplitConfig) -> Sides:
    """Return the side of every conversation: ``TRAIN``, ``VALIDATION`` or ``TEST``."""
    clusters = _clusters(members)
    sides = _by_rank(clusters, config) if config.by_rank else _by_hash(clusters, config)
    return sides[clusters.of]


def _clusters(members: Members) -> _Clusters:
    order = np.lexsort((members.names, members.roots))
    begins = np.diff(members.roots[order], prepend=-1) != 0
    firsts = order[begins]
    of = np.empty(len(order), np.int64)
    of[order] = begins.cumsum() - 1
    strata, newest = np.zeros(len(firsts), np.uint64), np.zeros(len(firsts), np.int64)
    if members.strata is not None:
        strata = members.strata[members.roots[firsts]]
    if members.ages is not None:
        np.maximum.at(newest, of, members.ages)
    trained = np.zeros(len(firsts), bool)
    trained[of[members.families != 0]] = True
    return _Clusters(of, np.bincount(of), members.places[firsts], strata, newest, trained)


def _by_hash(clusters: _Clusters, config: SplitConfig) -> Sides:
    most = max(FEW, LARGE_CLUSTER_SHARE * len(clusters.of))
    held_out = np.where(clusters.places < config.test, TEST, VALIDATION)
    beyond = clusters.places >= config.test + config.validation
    return np.where(beyond | clusters.trained | (clusters.sizes > most), TRAIN, held_out).astype(np.int8)


def _by_rank(clusters: _Clusters, config: SplitConfig) -> Sides:
    names, members = np.unique(clusters.strata, return_inverse=True)
    counts = np.bincount(members, clusters.sizes).astype(np.int64)
    room = [(TEST, _quotas(counts, config.test)), (VALIDATION, _quotas(counts, config.validation))]
    sides = np.full(len(members), TRAIN, np.int8)
    sizes, strata = clusters.sizes.tolist(), members.tolist()
    for cluster in np.lexsort((clusters.places, -clusters.newest)).tolist() if len(names) else ():
        stratum, size = strata[cluster], sizes[cluster]
        for side, left in () if clusters.trained[cluster] else room:
            if size <= left[stratum]:
                sides[cluster] = side
                left[stratum] -= size
                break
    return sides


def _quotas(strata: Positions, wanted: float) -> list[int]:
    """Return how many conversations of each stratum a split takes: a share, or a number, in proportion."""
    total = int(strata.sum())
    number = round(wanted * total) if wanted < 1 else min(int(wanted), total)
    exact = number * strata / max(total, 1)
    quotas = exact.astype(np.int64)
    # The largest remainders get what rounding down left over.
    quotas[np.argsort(quotas - exact, kind="stable")[: number - quotas.sum()]] += 1
    return [int(quota) for quota in quotas]
