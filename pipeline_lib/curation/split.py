"""Split: train, validation and test, with no near-duplicate on two sides.

Conversations are linked where their texts are near duplicates, where their prompts are the same, and where
they share a group (a metadata key). A linked cluster falls on one side as a whole, by a hash of its smallest
member's name (its group, or its id): a conversation keeps its side when others are added, as long as none
links it to a smaller name. A cluster so large that a split could not bear it is for training.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.errors import DataError
from pipeline_lib.core.output import Output
from pipeline_lib.core.stage import stage
from pipeline_lib.curation.deduplicate import compared
from pipeline_lib.kinds import Dataset

if TYPE_CHECKING:
    import pyarrow as pa

PARTS = ("train", "validation", "test")
COMMON_PROMPT_SHARE = 0.01
"""A prompt that more than this share of the conversations has (a constant instruction) links nothing."""
LARGE_CLUSTER_SHARE = 0.02
"""A cluster of more than this share of the conversations would upset a split of a tenth: it goes to train."""
FEW = 10
"""Both shares count from this many conversations on: below it, a few are no sign of a template."""


class SplitConfig(StageConfig):
    """How large the splits are and what must not straddle them."""

    validation: float = Field(
        default=0.1, ge=0, lt=1, description="Share of the conversations for validation."
    )
    test: float = Field(default=0.1, ge=0, lt=1, description="Share of the conversations for the test.")
    threshold: float = Field(
        default=0.7,
        ge=0.3,
        le=1.0,
        description="Jaccard similarity of word 5-grams from which on two conversations stay on one side.",
    )
    group: str | None = Field(
        default=None, description="Metadata key; conversations that share its value stay on one side."
    )
    minimum: int = Field(
        default=10, ge=0, description="Conversations that each split with a share must at least have."
    )
    seed: int = Field(default=42, ge=0, description="Seed of the hash that chooses the side.")

    @model_validator(mode="after")
    def _leaves_something(self) -> SplitConfig:
        if self.validation + self.test >= 1:
            raise ValueError(f"validation {self.validation} and test {self.test} leave nothing to train on")
        return self


@stage(produces=Dataset, version=1)
def split(out: Output, config: SplitConfig, conversations: Dataset) -> None:
    """Every conversation in train, validation or test; clusters and groups whole, the proof in the stats."""
    from pipeline_lib import records

    keys, texts, prompts, groups = _read(out, config, conversations)
    roots = _link(config, texts, prompts, groups)
    sides = _sides(config, [group or key for group, key in zip(groups, keys, strict=True)], roots)
    read = 0
    with records.DatasetWriter(out.path, PARTS) as writer:
        for batch in out.track(
            records.batches(conversations.shards()), "writing", conversations.count(), len
        ):
            here = sides[read : read + batch.num_rows]
            for part in PARTS:
                writer.write(part, records.select(batch, [side == part for side in here]))
            read += batch.num_rows
    out.stats = {
        **writer.stats(read),
        "clusters": len(set(roots)),
        "largest_cluster": max(Counter(roots).values(), default=0),
    }
    out.stats["leaks"] = audit(texts, sides, config.threshold)
    _check(config, out.stats)


def _read(
    out: Output, config: SplitConfig, conversations: Dataset
) -> tuple[list[str], pa.ChunkedArray, list[str], list[str | None]]:
    import pyarrow as pa

    from pipeline_lib import records

    ids: list[str] = []
    prompts: list[str] = []
    groups: list[str | None] = []
    chunks = []
    for batch in out.track(records.batches(conversations.shards()), "reading", conversations.count(), len):
        ids += batch.column("id").to_pylist()
        chunks.append(pa.array(compared(batch, "conversation"), pa.large_string()))
        prompts += compared(batch, "prompt")
        groups += list(_groups(batch, config.group))
    return ids, pa.chunked_array(chunks, pa.large_string()), prompts, groups


def _groups(batch: pa.RecordBatch, key: str | None) -> Iterator[str | None]:
    for metadata in batch.column("metadata").to_pylist():
        value = json.loads(metadata or "{}").get(key) if key else None
        yield None if value is None else str(value)


def _link(
    config: SplitConfig, texts: pa.ChunkedArray, prompts: list[str], groups: list[str | None]
) -> list[int]:
    """Return for each conversation the smallest place of its linked cluster."""
    from pipeline_lib.curation.near_duplicates import cluster
    from pipeline_lib.settings import settings

    union = _Union(len(prompts))
    # 32 bands of 4 miss one pair in 7,000 at Jaccard 0.7, one in 8 at 0.5; 64 of 2 miss one in 400 at 0.3.
    bands, rows = (32, 4) if config.threshold >= 0.7 else (64, 2)
    clusters = cluster(texts, threshold=config.threshold, bands=bands, rows=rows, workers=settings().workers)
    for place, root in enumerate(clusters.roots.tolist()):
        union.join(place, root)
    most = max(FEW, COMMON_PROMPT_SHARE * len(prompts))
    common = {prompt for prompt, count in Counter(prompts).items() if count > most}
    for keys in ([None if prompt in common else prompt for prompt in prompts], groups):
        first: dict[str, int] = {}
        for place, key in enumerate(keys):
            if key:
                union.join(place, first.setdefault(key, place))
    return [union.root(place) for place in range(len(prompts))]


class _Union:
    """Disjoint sets of places; the root is the smallest place."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))

    def root(self, place: int) -> int:
        while self._parent[place] != place:
            self._parent[place] = self._parent[self._parent[place]]
            place = self._parent[place]
        return place

    def join(self, one: int, other: int) -> None:
        low, high = sorted((self.root(one), self.root(other)))
        self._parent[high] = low


def _sides(config: SplitConfig, names: list[str], roots: list[int]) -> list[str]:
    smallest: dict[int, str] = {}
    for name, root in zip(names, roots, strict=True):
        smallest[root] = min(smallest.get(root, name), name)
    most, sizes = max(FEW, LARGE_CLUSTER_SHARE * len(names)), Counter(roots)
    sides = {
        root: "train" if sizes[root] > most else side_of(name, config) for root, name in smallest.items()
    }
    return [sides[root] for root in roots]


def side_of(name: str, config: SplitConfig) -> str:
    """Return the split that a name falls on: a uniform hash against the shares."""
    word = hashlib.sha256(f"{config.seed}:{name}".encode()).digest()[:8]
    place = int.from_bytes(word, "big") / 2**64
    if place < config.test:
        return "test"
    return "validation" if place < config.test + config.validation else "train"


def audit(texts: pa.ChunkedArray, sides: list[str], threshold: float) -> dict[str, float]:
    """Return how many test conversations have a near duplicate in train, and the largest similarity found."""
    import pyarrow as pa

    from pipeline_lib.curation.near_duplicates import matches

    test = texts.filter(pa.array([side == "test" for side in sides], pa.bool_()))
    train = texts.filter(pa.array([side == "train" for side in sides], pa.bool_()))
    if not len(test) or not len(train):
        return {"test_in_train": 0, "largest_similarity": 0.0}
    found = matches(test, train, threshold=min(threshold, 0.5))
    nearest = found.jaccards
    return {
        "test_in_train": int((nearest >= threshold).sum()),
        "largest_similarity": round(float(nearest.max(initial=0.0)), 4),
    }


def _check(config: SplitConfig, stats: dict[str, Any]) -> None:
    if stats["leaks"]["test_in_train"]:
        raise DataError(
            f"split: {stats['leaks']['test_in_train']} test conversations have a near duplicate in train; "
            "this is a defect, please report it"
        )
    if not stats["read"]:
        raise DataError(
            "split: no conversation is left to split; loosen the filters, or see what they dropped: "
            "finetune show filter --dropped"
        )
    for part, share in (("train", 1.0), ("validation", config.validation), ("test", config.test)):
        if share and stats[part] < config.minimum:
            raise DataError(
                f"split: {part} has {stats[part]} of {stats['read']} conversations, fewer than "
                f"split.minimum={config.minimum}; "
                "add data, loosen the filters, or set another share"
            )
