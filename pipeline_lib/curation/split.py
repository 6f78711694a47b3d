"""Split: train, validation and test, with no near-duplicate on two sides.

Conversations are linked where their texts are near duplicates, where their prompts are the same, and where
they share a group (a metadata key). A linked cluster falls on one side as a whole, by a hash of its smallest
member's name (its group, or its id): a conversation keeps its side when others are added, as long as none
links it to a smaller name. A cluster so large that a split could not bear it is for training. ``sides`` has
the other ways to choose a side: numbers, strata, time.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from pipeline_lib.canaries import CanaryConfig
from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.errors import DataError
from pipeline_lib.core.output import Output
from pipeline_lib.core.stage import stage
from pipeline_lib.curation.deduplicate import compared
from pipeline_lib.curation.sides import FEW, Member, Time, sides_of
from pipeline_lib.kinds import Dataset

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline_lib.records import DatasetWriter

PARTS = ("train", "validation", "test")
COMMON_PROMPT_SHARE = 0.01
"""A prompt that more than this share of the conversations has (a constant instruction) links nothing."""


class SplitConfig(StageConfig):
    """How large the splits are and what must not straddle them."""

    validation: float = Field(
        default=0.1,
        ge=0,
        description="Conversations for validation: their share (under 1) or their number (1 and more).",
    )
    test: float = Field(
        default=0.1, ge=0, description="Conversations for the test: their share, or their number."
    )
    stratify: str | None = Field(
        default=None,
        description="`source` or a metadata key, each of whose values is split in the same shares.",
    )
    time: str | None = Field(
        default=None,
        description="Metadata key with a number or an ISO date; the newest become the test, those before "
        "them validation.",
    )
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
    canaries: CanaryConfig = Field(
        default=CanaryConfig(),
        description="Secrets planted in train, by which `audit` measures what the model gives away.",
    )
    seed: int = Field(
        default=42, ge=0, description="Seed of the hash that chooses the side, and of planted secrets."
    )

    @model_validator(mode="after")
    def _leaves_something(self) -> SplitConfig:
        if sum(wanted for wanted in (self.validation, self.test) if wanted < 1) >= 1:
            raise ValueError(f"validation {self.validation} and test {self.test} leave nothing to train on")
        if any(wanted > 1 and wanted != int(wanted) for wanted in (self.validation, self.test)):
            raise ValueError("validation and test are shares under 1, or whole numbers")
        return self

    @property
    def by_rank(self) -> bool:
        """Whether sides are given in order up to what was asked for, rather than by hash alone."""
        return bool(self.stratify or self.time) or max(self.validation, self.test) >= 1


@stage(produces=Dataset, version=1)
def split(out: Output, config: SplitConfig, conversations: Dataset) -> None:
    """Every conversation in train, validation or test; clusters and groups whole, the proof in the stats."""
    from pipeline_lib import records

    members, texts, prompts, groups = _read(out, config, conversations)
    roots = _link(config, texts, prompts, groups)
    sides = sides_of(
        [member._replace(root=root) for member, root in zip(members, roots, strict=True)], config
    )
    read = 0
    with records.DatasetWriter(out.path, PARTS) as writer:
        for batch in records.tracked(out, conversations, "writing"):
            here = sides[read : read + batch.num_rows]
            for part in PARTS:
                writer.write(part, records.select(batch, [side == part for side in here]))
            read += batch.num_rows
        planted = _plant(out, config, writer)
    out.stats = {
        **writer.stats(read),
        "clusters": len(set(roots)),
        "largest_cluster": max(Counter(roots).values(), default=0),
    }
    if planted:
        out.stats["planted"] = planted
    out.stats["leaks"] = audit(texts, sides, config.threshold)
    _check(config, out.stats)


def _plant(out: Output, config: SplitConfig, writer: DatasetWriter) -> int:
    """Write the config's canaries at the end of train, and what they are beside it; return how many rows."""
    from pipeline_lib import canaries, records

    secrets = canaries.canaries_of(config.canaries, config.seed)
    rows = [
        {
            "id": canaries.conversation_id(canary, repeat),
            "source": canaries.SOURCE,
            "messages": [
                records.message("user", canary.question),
                records.message("assistant", canary.answer()),
            ],
            "metadata": "{}",
        }
        for repeat in range(config.canaries.repeats)
        for canary in secrets
    ]
    if rows:
        writer.write("train", records.from_rows(rows))
        canaries.write(out.path, secrets)
    return len(rows)


def _read(
    out: Output, config: SplitConfig, conversations: Dataset
) -> tuple[list[Member], pa.ChunkedArray, list[str], list[str | None]]:
    import pyarrow as pa

    from pipeline_lib import records

    members: list[Member] = []
    prompts: list[str] = []
    groups: list[str | None] = []
    chunks = []
    for batch in records.tracked(out, conversations, "reading"):
        here = list(_values(batch, config.group))
        members += _members(batch, config, here)
        chunks.append(pa.array(compared(batch, "conversation"), pa.large_string()))
        prompts += compared(batch, "prompt")
        groups += here
    if config.time and members and not any(member.time[0] for member in members):
        raise DataError(f"split.time: no conversation has the metadata key {config.time!r}")
    return members, pa.chunked_array(chunks, pa.large_string()), prompts, groups


def _members(batch: pa.RecordBatch, config: SplitConfig, groups: list[str | None]) -> Iterator[Member]:
    by_source = config.stratify == "source"
    strata = batch.column("source").to_pylist() if by_source else _values(batch, config.stratify)
    times = _values(batch, config.time)
    ids = batch.column("id").to_pylist()
    for name, group, stratum, time in zip(ids, groups, strata, times, strict=True):
        yield Member(0, group or name, stratum or "", _moment(time))


def _moment(value: str | None) -> Time:
    """Return what orders conversations in time: numbers by size, texts as ISO dates are ordered."""
    if value is None:
        return (0, 0.0, "")
    try:
        return (1, float(value), "")
    except ValueError:
        return (2, 0.0, value)


def _values(batch: pa.RecordBatch, key: str | None) -> Iterator[str | None]:
    """Yield the value of a metadata key as text for every conversation, None where it has none."""
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
        # A number that is asked for and smaller than the minimum was meant to be small.
        least = min(config.minimum, share) if share > 1 else config.minimum
        if share and stats[part] < least:
            raise DataError(
                f"split: {part} has {stats[part]} of {stats['read']} conversations, fewer than "
                f"split.minimum={config.minimum}; "
                "add data, loosen the filters, or set another share"
            )
