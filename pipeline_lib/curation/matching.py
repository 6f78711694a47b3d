"""The best partner in a corpus for each query, gathered from verified pairs in any order."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Positions: TypeAlias = npt.NDArray[np.int64]
Similarities: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Matches:
    """The queries that have a partner: ``queries[k]``'s best one is ``partners[k]``, at ``jaccards[k]``."""

    queries: Positions
    partners: Positions
    jaccards: Similarities


class BestPartners:
    """For each of n distinct texts, the best partner of a smaller index seen so far."""

    def __init__(self, count: int) -> None:
        """Begin with no partner for any text."""
        self._partners: Positions = np.zeros(count, np.int64)
        self._jaccards: Similarities = np.zeros(count, np.float64)

    def improve(self, left: Positions, right: Positions, jaccards: Similarities) -> None:
        """Take in verified pairs; of equally similar partners the smallest index wins."""
        partners, queries = np.minimum(left, right), np.maximum(left, right)
        order = np.lexsort((partners, -jaccards, queries))
        queries, partners, jaccards = queries[order], partners[order], jaccards[order]
        heads = np.flatnonzero(np.diff(queries, prepend=-1))
        queries, partners, jaccards = queries[heads], partners[heads], jaccards[heads]
        known = self._jaccards[queries]
        better = (jaccards > known) | ((jaccards == known) & (partners < self._partners[queries]))
        self._partners[queries[better]] = partners[better]
        self._jaccards[queries[better]] = jaccards[better]

    def matches(self, first: Positions, distinct: Positions, boundary: int) -> Matches:
        """Return the matches of the texts from ``boundary`` on, numbered from 0; an exact copy is one at 1.

        ``distinct`` are the texts that were compared, ``first`` names for each text its first equal.
        """
        heads = first[boundary:]
        places = np.searchsorted(distinct, heads)
        copies = heads < boundary
        partners = np.where(copies, heads, distinct[self._partners[places]])
        jaccards = np.where(copies, 1.0, self._jaccards[places])
        queries = np.flatnonzero(jaccards > 0)
        return Matches(queries, partners[queries], jaccards[queries])
