"""Components of near-duplicate pairs, and for every member the partner that put it there.

Pairs come in a fixed order and join components by union-find, the smaller index being the root; those that
join two components form a forest, along which every text finds its **partner**. The partition is that of
the graph of all pairs given, in whatever order; only which partner is named depends on the order.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline_lib.curation.similarity_kernel import link, towards_roots

Hashes: TypeAlias = npt.NDArray[np.uint64]
Positions: TypeAlias = npt.NDArray[np.int64]
Similarities: TypeAlias = npt.NDArray[np.float64]
Edges: TypeAlias = tuple[Positions, Positions, Similarities]


@dataclass(frozen=True)
class Clusters:
    """The near-duplicate clusters of n texts.

    ``roots`` (n): the smallest index of each text's cluster, its own where it is the first or alone.
    ``partners`` (n): a text of the same cluster that it was verified against, nearer to the root and often
    the root itself; the text itself where it is a root. ``jaccards`` (n): their similarity, 1 for a root.
    """

    roots: Positions
    partners: Positions
    jaccards: Similarities

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.roots)

    @property
    def duplicates(self) -> npt.NDArray[np.bool_]:
        """Return which texts are not the first of their cluster."""
        return np.not_equal(self.roots, np.arange(len(self)))

    @property
    def sizes(self) -> Positions:
        """Return the size of each text's cluster."""
        return np.bincount(self.roots, minlength=len(self))[self.roots]

    def groups(self) -> list[Positions]:
        """Return the members of every cluster of two texts or more, ordered by root and within."""
        order = np.argsort(self.roots, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(self.roots[order])) + 1)
        return [group for group in groups if len(group) > 1]


class Forest:
    """Union-find over n texts that remembers the pairs which joined two components."""

    def __init__(self, count: int) -> None:
        """Begin with every text on its own."""
        self.roots: Positions = np.arange(count, dtype=np.int64)
        self._edges: list[Edges] = []

    def link(self, left: Positions, right: Positions, jaccards: Similarities) -> Edges:
        """Join the components of each pair, in order, and return those that joined two.

        ``roots`` is up to date afterwards.
        """
        tree = np.empty(len(left), np.int64)
        tree = tree[: link(self.roots, left, right, tree)]
        edges = left[tree], right[tree], jaccards[tree]
        if len(tree):
            self._edges.append(edges)
        return edges

    def clusters(self) -> Clusters:
        """Return the components, each text's partner being its neighbour on the way to the root."""
        count = len(self.roots)
        partners = np.arange(count, dtype=np.int64)
        jaccards = np.ones(count, np.float64)
        if self._edges:
            left, right, weights = (np.concatenate(column) for column in zip(*self._edges, strict=True))
            owners = np.concatenate([left, right])
            order = np.argsort(owners, kind="stable")
            starts = np.concatenate([np.zeros(1, np.int64), np.bincount(owners, minlength=count).cumsum()])
            via = np.full(count, -1, np.int64)
            neighbours = np.concatenate([right, left])[order]
            towards_roots(self.roots, starts, neighbours, order % len(left), partners, via)
            jaccards[via >= 0] = weights[via[via >= 0]]
        return Clusters(self.roots.copy(), partners, jaccards)


def with_pairs(clusters: Clusters, left: Positions, right: Positions, similarities: Similarities) -> Clusters:
    """Return the clusters once these pairs have joined some of them, after those that were there."""
    forest = Forest(len(clusters))
    members = np.flatnonzero(clusters.duplicates)
    forest.link(clusters.partners[members], members, clusters.jaccards[members])
    forest.link(left, right, similarities)
    return forest.clusters()


def joined(roots: Positions, keys: Hashes) -> Positions:
    """Return the roots of all texts once those with equal keys are joined; the key 0 joins nothing."""
    named = np.flatnonzero(keys)
    order = named[np.argsort(keys[named], kind="stable")]
    same = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
    roots = roots.copy()
    link(roots, order[same], order[same + 1], np.empty(len(same), np.int64))
    return roots
