"""Sides: which split each linked cluster of conversations falls on, always as a whole.

By **hash**, a cluster's side depends on its name, the seed and the shares alone, so that a conversation
keeps its side when others are added; the shares come out as chance has it (within 0.5 points, in 19 cases
of 20, from some 15,000 clusters on). By **rank**, the clusters of each stratum are put in order, by their
hash or from the newest to the oldest, and fill test, then validation, up to what was asked for; a
conversation near the border may change its side when others are added. Shares alone go by hash; numbers,
strata and time go by rank.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pipeline_lib.curation.split import SplitConfig

LARGE_CLUSTER_SHARE = 0.02
"""A cluster of more than this share of the conversations would upset a split of a tenth: it goes to train."""
FEW = 10
"""Shares count from this many conversations on: below it, a few are no sign of a template."""

Time = tuple[int, float, str]
"""Numbers before texts; conversations without a time are the oldest."""


class Member(NamedTuple):
    """What of a conversation decides about its cluster's side."""

    root: int
    """The smallest place of its linked cluster."""
    name: str
    """Its group, or its id."""
    stratum: str = ""
    time: Time = (0, 0.0, "")


def sides_of(members: Sequence[Member], config: SplitConfig) -> list[str]:
    """Return the split of every conversation, in their order."""
    sizes = Counter(member.root for member in members)
    names: dict[int, str] = {}
    for member in members:
        names[member.root] = min(names.get(member.root, member.name), member.name)
    if config.by_rank:
        sides = _by_rank(members, names, sizes, config)
    else:
        most = max(FEW, LARGE_CLUSTER_SHARE * len(members))
        sides = {
            root: "train" if sizes[root] > most else side_of(name, config) for root, name in names.items()
        }
    return [sides[member.root] for member in members]


def side_of(name: str, config: SplitConfig) -> str:
    """Return the split that a name falls on: a uniform hash against the shares."""
    place = _place(name, config.seed)
    if place < config.test:
        return "test"
    return "validation" if place < config.test + config.validation else "train"


def _place(name: str, seed: int) -> float:
    word = hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8]
    return int.from_bytes(word, "big") / 2**64


def _by_rank(
    members: Sequence[Member], names: dict[int, str], sizes: Counter[int], config: SplitConfig
) -> dict[int, str]:
    newest: dict[int, Time] = {}
    strata: dict[int, str] = {}
    for member in members:
        newest[member.root] = max(newest.get(member.root, member.time), member.time)
        strata.setdefault(member.root, member.stratum)
    order = sorted(names, key=lambda root: _place(names[root], config.seed))
    if config.time:
        order.sort(key=lambda root: newest[root], reverse=True)
    room = {
        part: _quotas(Counter(member.stratum for member in members), wanted)
        for part, wanted in (("test", config.test), ("validation", config.validation))
    }
    sides = {}
    for root in order:
        stratum, size = strata[root], sizes[root]
        side = next((part for part, left in room.items() if size <= left[stratum]), "train")
        sides[root] = side
        if side != "train":
            room[side][stratum] -= size
    return sides


def _quotas(strata: Counter[str], wanted: float) -> dict[str, int]:
    """Return how many conversations of each stratum a split takes: a share, or a number, in proportion."""
    total = strata.total()
    number = round(wanted * total) if wanted < 1 else min(int(wanted), total)
    exact = {name: number * size / total for name, size in strata.items()} if total else {}
    quotas = {name: int(value) for name, value in exact.items()}
    # The largest remainders get what rounding down left over.
    for name in sorted(exact, key=lambda one: (quotas[one] - exact[one], one))[
        : number - sum(quotas.values())
    ]:
        quotas[name] += 1
    return quotas
