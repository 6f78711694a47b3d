"""Split: train, validation and test, with no near-duplicate on two sides.

Conversations are linked where their texts are near duplicates, where their prompts are the same, and where
they share a group (a metadata key). A linked cluster falls on one side as a whole, by a hash of its first
name (a group, or an id): a conversation keeps its side when others are added, as long as none links it to a
name before that. A cluster so large that a split could not bear it is for training, and so is what `augment`
wrote, with its seeds. ``sides`` has the other ways to choose a side: numbers, strata, time.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from pipeline_lib.canaries import CanaryConfig
from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.errors import DataError
from pipeline_lib.core.output import Output
from pipeline_lib.core.stage import stage
from pipeline_lib.curation.deduplicate import compared
from pipeline_lib.kinds import Dataset
from pipeline_lib.settings import settings

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline_lib.curation.near_duplicates import Index
    from pipeline_lib.curation.sides import Hashes, Members, Positions, Sides
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


@stage(produces=Dataset, version=2)
def split(out: Output, config: SplitConfig, conversations: Dataset) -> None:
    """Every conversation in train, validation or test; clusters and groups whole, the proof in the stats."""
    import numpy as np

    from pipeline_lib import records
    from pipeline_lib.curation.sides import sides_of

    index, members = _read(out, config, conversations)
    sides = sides_of(members, config)
    read = 0
    with records.DatasetWriter(out.path, PARTS) as writer:
        for batch in records.tracked(out, conversations, "writing"):
            here = sides[read : read + batch.num_rows]
            for side, part in enumerate(PARTS):
                writer.write(part, records.select(batch, here == side))
            read += batch.num_rows
        planted = _plant(out, config, writer)
    sizes = np.unique(members.roots, return_counts=True)[1]
    out.stats = {
        **writer.stats(read),
        "clusters": len(sizes),
        "largest_cluster": int(sizes.max(initial=0)),
    }
    if planted:
        out.stats["planted"] = planted
    del members  # Their columns are mapped, and the audit takes the most memory.
    out.stats["leaks"] = _audit(index, sides, config.threshold)
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


def _read(out: Output, config: SplitConfig, conversations: Dataset) -> tuple[Index, Members]:
    """Return the index of the whole texts, and what decides about each conversation, linked as they are."""
    from pipeline_lib.curation.clusters import joined
    from pipeline_lib.curation.indexing import Columns, index_texts
    from pipeline_lib.curation.near_duplicates import Index
    from pipeline_lib.curation.sides import Members, hashes, places
    from pipeline_lib.curation.times import ranks, times

    # 32 bands of 4 miss one pair in 7,000 at Jaccard 0.7, one in 8 at 0.5; 64 of 2 miss one in 400 at 0.3.
    bands, rows = (32, 4) if config.threshold >= 0.7 else (64, 2)
    index = Index(
        bands=bands,
        rows=rows,
        workers=settings().workers,
        directory=out.work / "index",
        engine=settings().engine,
    )

    def read(block: pa.RecordBatch) -> tuple[pa.LargeStringArray, Columns]:
        groups = _values(block, config.group)
        names = [group or name for group, name in zip(groups, block.column("id").to_pylist(), strict=True)]
        columns = {
            "prompt": hashes(compared(block, "prompt").to_pylist()),
            "name": hashes(names),
            "place": places(names, config.seed),
            "family": hashes(_families(block)),
        }
        if config.group:
            columns["group"] = hashes(groups)
        if config.stratify:
            columns["stratum"] = hashes(_strata(block, config.stratify))
        if config.time:
            columns |= times(_values(block, config.time))
        return compared(block, "conversation"), columns

    known = index_texts(out, conversations, index, read)
    for field, column in (("group", "group"), ("stratify", "stratum"), ("time", "time_kind")):
        key = getattr(config, field)
        if key and len(index) and not known[column].any():
            raise DataError(f"split.{field}: no conversation has the metadata key {key!r}")
    roots = _link(index.clusters(config.threshold).roots, known["prompt"], known.get("group"))
    roots = joined(roots, known["family"])
    ages = ranks(known) if config.time else None
    return index, Members(roots, known["name"], known["place"], known.get("stratum"), ages, known["family"])


def _families(batch: pa.RecordBatch) -> list[str | None]:
    """Return the family of what `augment` wrote and of its seeds, None for all others."""
    import pyarrow.compute as pc

    from pipeline_lib.curation.synthesis import FAMILY

    metadata = batch.column("metadata")
    if not pc.any(pc.match_substring(metadata, f'"{FAMILY}"')).as_py():
        return [None] * batch.num_rows
    return _values(batch, FAMILY)


def _strata(batch: pa.RecordBatch, key: str) -> list[str | None]:
    found: list[str | None] = batch.column("source").to_pylist() if key == "source" else _values(batch, key)
    return found


def _values(batch: pa.RecordBatch, key: str | None) -> list[str | None]:
    """Return the value of a metadata key as text for every conversation, None where it has none."""
    if key is None:
        return [None] * batch.num_rows
    found = (json.loads(metadata or "{}").get(key) for metadata in batch.column("metadata").to_pylist())
    return [None if value is None else str(value) for value in found]


def _link(roots: Positions, prompts: Hashes, groups: Hashes | None) -> Positions:
    """Return the roots of near duplicates once those with the same prompt or group are joined to them."""
    import numpy as np

    from pipeline_lib.curation.clusters import joined
    from pipeline_lib.curation.sides import FEW

    values, counts = np.unique(prompts, return_counts=True)
    common = values[counts > max(FEW, COMMON_PROMPT_SHARE * len(prompts))]
    roots = joined(roots, np.where(np.isin(prompts, common), 0, prompts))
    return roots if groups is None else joined(roots, groups)


def _audit(index: Index, sides: Sides, threshold: float) -> dict[str, float]:
    """Return how many test conversations have a near duplicate in train, and the largest similarity found."""
    import numpy as np

    from pipeline_lib.curation.sides import TEST, TRAIN

    train, test = np.flatnonzero(sides == TRAIN), np.flatnonzero(sides == TEST)
    nearest = index.matches_between(train, test, min(threshold, 0.5)).jaccards
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
