"""The child that compares embeddings on the device: every pair, a square of them at a time.

A square's products are made in fp32; what comes near the threshold is worked out again in fp64 from the
embeddings themselves, so that neither the square nor the device decides a pair. Of the pairs found only those
are kept that join two groups (a spanning forest, fewer than n), in an order fixed by the data. Memory: n by d
in fp16 on the device, and one square.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline_lib.curation.clusters import Forest
from pipeline_lib.launch import child_main

if TYPE_CHECKING:
    import torch

SIDE = 2048
"""Rows and columns of a square: at most four million pairs at a time."""
SLACK = 1e-3
"""How far a product in fp32, or in the device's own half precision, may be from the true cosine."""
DIGITS = 4
"""Decimals of a cosine that are told and compared: the last bits differ from machine to machine."""

Positions = npt.NDArray[np.int64]


def work(spec: dict[str, Any], tell: Callable[..., None]) -> None:
    """Write the pairs that join groups, and how many conversations are in such groups."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch

    vectors = np.load(spec["embeddings"], mmap_mode="r")
    on_device = torch.from_numpy(np.array(vectors)).to(spec["device"])
    forest = Forest(len(vectors))
    for left, right in candidates(on_device, spec["threshold"] - SLACK, tell):
        apart = forest.roots[left] != forest.roots[right]
        left, right = left[apart], right[apart]
        found = cosines(vectors, left, right)
        good = found >= spec["threshold"]
        forest.link(left[good], right[good], found[good])
    clusters = forest.clusters()
    members = np.flatnonzero(clusters.duplicates)
    table = {
        "left": clusters.partners[members],
        "right": members,
        "cosine": clusters.jaccards[members],
    }
    pq.write_table(pa.table(table), spec["pairs"])
    groups = len(np.unique(clusters.roots[members]))
    Path(spec["stats"]).write_text(json.dumps({"alike": len(members) + groups, "groups": groups}))


def candidates(
    vectors: torch.Tensor, least: float, tell: Callable[..., None] = lambda **_: None
) -> Iterator[tuple[Positions, Positions]]:
    """Yield the pairs (left < right) whose product reaches ``least``, square by square."""
    import torch

    count = len(vectors)
    done = 0
    for top in range(0, count, SIDE):
        rows = vectors[top : top + SIDE].float()
        for side in range(top, count, SIDE):
            products = rows @ vectors[side : side + SIDE].float().T
            left, right = (products >= least).nonzero(as_tuple=True)
            pairs = torch.stack([left + top, right + side]).cpu().numpy()
            yield tuple(pairs[:, pairs[0] < pairs[1]])
        done += len(rows)
        tell(done=done, total=count)


def cosines(vectors: npt.NDArray[np.float16], left: Positions, right: Positions) -> npt.NDArray[np.float64]:
    """Return the cosine of each pair of embeddings, worked out in fp64; 0 where one has no text."""
    found = np.empty(len(left))
    for begin in range(0, len(left), SIDE):
        part = slice(begin, begin + SIDE)
        one, two = vectors[left[part]].astype(np.float64), vectors[right[part]].astype(np.float64)
        lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
        found[part] = np.einsum("ij,ij->i", one, two) / np.where(lengths > 0, lengths, 1.0)
    return np.round(found, DIGITS)


if __name__ == "__main__":
    child_main(work)
