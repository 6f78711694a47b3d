"""Deduplicate: one conversation of every cluster of exact or near duplicates."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.errors import DataError
from pipeline_lib.core.output import Output
from pipeline_lib.core.stage import stage
from pipeline_lib.kinds import Dataset, Likeness
from pipeline_lib.settings import settings

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from pipeline_lib.curation.clusters import Clusters
    from pipeline_lib.curation.near_duplicates import Index

    Flags = npt.NDArray[np.bool_]
    Keys = npt.NDArray[np.uint64]
    Positions = npt.NDArray[np.int64]
    Worth = npt.NDArray[np.float64]

PROMPT_ROLES = ("system", "user", "tool", "text")
ROLES = {
    "conversation": (*PROMPT_ROLES, "assistant"),
    "prompt": PROMPT_ROLES,
    "answer": ("assistant", "text"),
}
SIDES = ("chosen", "rejected")
CLUSTER_ROWS = 1 << 20
"""Rows of `clusters.parquet` that are made at a time."""
Compared = Literal["conversation", "prompt", "answer"]


class DeduplicateConfig(StageConfig):
    """When two conversations say the same, and which of them stays."""

    compare: Compared = Field(
        default="conversation",
        description="The text that is compared: the whole conversation, its prompt, or its answer.",
    )
    threshold: float = Field(
        default=0.8,
        ge=0.3,
        le=1.0,
        description="Jaccard similarity of the word n-grams from which on two texts are near duplicates.",
    )
    ngram: int = Field(
        default=5, ge=1, le=32, description="Words in an n-gram (FineWeb and datatrove use 5)."
    )
    bands: int = Field(
        default=32,
        ge=1,
        le=256,
        description="MinHash bands; with 4 rows, 32 find 99.98 % of pairs at Jaccard 0.75.",
    )
    rows: int = Field(default=4, ge=1, le=32, description="Hashes in a band.")
    keep: Literal["first", "longest", "best"] = Field(
        default="first",
        description="Which conversation of a cluster stays; the best has the highest `score`, or else passes "
        "the quality rules of `filter` with their defaults, and is the longest of such.",
    )
    score: str | None = Field(
        default=None, description="Metadata key with a number by which the best of a cluster is known."
    )
    seed: int = Field(default=42, ge=0, description="Seed of the MinHash permutations.")

    @model_validator(mode="after")
    def _score_has_a_use(self) -> DeduplicateConfig:
        if self.score and self.keep != "best":
            raise ValueError(f"score is read with keep: best alone, not with keep: {self.keep}")
        return self


@stage(produces=Dataset, version=2)
def deduplicate(
    out: Output, config: DeduplicateConfig, conversations: Dataset, alike: Likeness | None = None
) -> None:
    """Keep one conversation of every cluster; the others name the one they follow and how alike they are.

    ``alike`` are pairs that mean the same whatever their words: they join clusters too.
    """
    import numpy as np

    from pipeline_lib import records

    index, blank, worth = _read(out, conversations, config)
    by_words = _blanks_apart(index.clusters(config.threshold), blank)
    clusters = _with_meanings(by_words, alike) if alike else by_words
    survivors = _survivors(clusters, worth)
    linked = _with_partners(clusters, survivors)
    names = _Names.read(conversations, (clusters.roots, linked.partners, survivors))
    fates = _Fates(linked, by_words.roots, survivors, names, index.keys)
    read = 0
    with records.DatasetWriter(out.path) as writer:
        for batch in records.tracked(out, conversations, "writing"):
            writer.sift(batch, fates.of(read, batch.num_rows))
            read += batch.num_rows
    _write_clusters(out, conversations, names, clusters)
    out.stats = {**writer.stats(read), "clusters": len(np.unique(clusters.roots[clusters.duplicates]))}


def compared(batch: pa.RecordBatch, compare: Compared) -> pa.LargeStringArray:
    """Return for each conversation the text that is compared: contents, tool calls, both sides of a pair."""
    from pipeline_lib import records

    columns = ("messages",) if compare == "prompt" else ("messages", *SIDES)
    return records.text_column(batch, ROLES[compare], columns, ("content", "tool_calls"))


def _read(out: Output, conversations: Dataset, config: DeduplicateConfig) -> tuple[Index, Flags, Worth]:
    """Return the texts' index, and for each conversation whether it lacks the text, and its worth."""
    import numpy as np
    import pyarrow.compute as pc

    from pipeline_lib.curation.indexing import Columns, index_texts
    from pipeline_lib.curation.near_duplicates import Index

    # In files, as the index of ten million texts is larger than what is meant to stay in memory.
    index = Index(
        ngram=config.ngram,
        bands=config.bands,
        rows=config.rows,
        seed=config.seed,
        workers=settings().workers,
        directory=out.work / "index",
        engine=settings().engine,
    )

    def read(block: pa.RecordBatch) -> tuple[pa.LargeStringArray, Columns]:
        texts = compared(block, config.compare)
        lengths = np.asarray(pc.utf8_length(texts))
        worth = enumerate(_worth(block, config, lengths))
        return texts, {"blank": lengths == 0} | {f"worth-{i}": column for i, column in worth}

    known = index_texts(out, conversations, index, read)
    worth = [known[name] for name in sorted(known) if name.startswith("worth-")]
    return index, known["blank"], np.array(worth).reshape(len(worth), len(index))


def _worth(batch: pa.RecordBatch, config: DeduplicateConfig, lengths: Positions) -> Worth:
    """Return what makes one conversation of a cluster better than another, the weightiest first (k by n)."""
    import numpy as np

    if config.keep == "first":
        return np.empty((0, len(lengths)))
    if config.keep == "longest":
        return np.array([lengths], np.float64)
    if config.score:
        scores = [json.loads(text or "{}").get(config.score) for text in batch.column("metadata").to_pylist()]
        return np.array([[_number(score) for score in scores], lengths], np.float64)
    from pipeline_lib.curation.quality.limits import InstructLimits, WebLimits
    from pipeline_lib.curation.quality.verdicts import verdicts

    faults = verdicts(batch, InstructLimits(), WebLimits())
    return np.array([[fault is None for fault in faults], lengths], np.float64)


def _number(score: object) -> float:
    """Return a score as a number; one that is none, or is missing, is below all others."""
    from pipeline_lib.curation.quality.limits import number_of

    number = number_of(score)
    return -math.inf if number is None else number


def _blanks_apart(clusters: Clusters, blank: Flags) -> Clusters:
    """Return the clusters with every empty text on its own: two conversations that lack it are no copies."""
    import numpy as np

    from pipeline_lib.curation.clusters import Clusters

    own = np.arange(len(blank))
    roots, partners = np.where(blank, own, clusters.roots), np.where(blank, own, clusters.partners)
    return Clusters(roots, partners, np.where(blank, 1.0, clusters.jaccards))


def _with_meanings(clusters: Clusters, alike: Likeness) -> Clusters:
    """Return the clusters once what means the same has joined them; DataError where it is of other data."""
    import pyarrow.parquet as pq

    from pipeline_lib.curation.clusters import with_pairs

    if alike.manifest.stats["conversations"] != len(clusters):
        raise DataError(
            f"deduplicate: {alike.address} compares {alike.manifest.stats['conversations']} conversations, "
            f"there are {len(clusters)}; build embed again"
        )
    pairs = pq.read_table(alike.file("pairs.parquet"))
    return with_pairs(clusters, *(pairs[name].to_numpy() for name in ("left", "right", "cosine")))


def _survivors(clusters: Clusters, worth: Worth) -> Positions:
    """Return for each conversation the place of the one of its cluster that stays: the first of the best."""
    import numpy as np

    order = np.lexsort((np.arange(len(clusters)), *(-worth[::-1]), clusters.roots))
    heads = order[np.diff(clusters.roots[order], prepend=-1) != 0]
    survivors = np.empty(len(clusters), np.int64)
    survivors[clusters.roots[heads]] = heads
    return survivors[clusters.roots]


def _with_partners(clusters: Clusters, survivors: Positions) -> Clusters:
    """Return the clusters with a partner for each root that a better one displaced: the first that has it."""
    import numpy as np

    from pipeline_lib.curation.clusters import Clusters

    own = np.arange(len(clusters))
    displaced = (clusters.partners == own) & (survivors != own)
    followers = np.flatnonzero(displaced[clusters.partners] & (clusters.partners != own))[::-1]
    partners, jaccards = clusters.partners.copy(), clusters.jaccards.copy()
    partners[clusters.partners[followers]] = followers
    jaccards[clusters.partners[followers]] = clusters.jaccards[followers]
    return Clusters(clusters.roots, partners, jaccards)


@dataclass(frozen=True)
class _Names:
    """The ids of those conversations that others name: few in memory where few are alike."""

    places: Positions
    ids: pa.StringArray

    @classmethod
    def read(cls, conversations: Dataset, naming: tuple[Positions, ...]) -> _Names:
        """Read the ids of all places that stand in one of the arrays at a place that is not their own."""
        import numpy as np
        import pyarrow as pa

        from pipeline_lib import records

        asked = np.zeros(len(naming[0]), np.bool_)
        for named in naming:
            asked[named[named != np.arange(len(named))]] = True
        kept, read = [pa.array([], pa.string())], 0
        for ids in records.column(conversations.shards(), "id"):
            kept.append(ids.filter(pa.array(asked[read : read + len(ids)])))
            read += len(ids)
        return cls(np.flatnonzero(asked), pa.concat_arrays(kept))

    def __getitem__(self, place: int) -> str:
        """Return the id of one such place."""
        return str(self.ids[int(self.places.searchsorted(place))].as_py())

    def of(self, places: Positions, own: pa.StringArray, begin: int) -> pa.Array:
        """Return the ids of places; ``own`` has those of the places from ``begin`` on, which most name."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        others = places != np.arange(begin, begin + len(places))
        found = self.ids.take(pa.array(self.places.searchsorted(places[others])))
        return pc.replace_with_mask(own, pa.array(others), found)


@dataclass(frozen=True)
class _Fates:
    """Why each conversation that follows another one is dropped."""

    clusters: Clusters
    by_words: Positions
    """The roots of the clusters that words alone make."""
    survivors: Positions
    names: _Names
    keys: tuple[Keys, Keys]

    def of(self, begin: int, count: int) -> list[tuple[str, str] | None]:
        """Return the verdicts on ``count`` conversations from the place ``begin`` on."""
        survivors = self.survivors[begin : begin + count].tolist()
        return [
            None if survivor == place else self._follows(place, survivor)
            for place, survivor in enumerate(survivors, start=begin)
        ]

    def _follows(self, place: int, survivor: int) -> tuple[str, str]:
        name = self.names[survivor]
        if all(half[place] == half[survivor] for half in self.keys):
            return "exact_duplicate", f"follows {name}"
        partner, similarity = int(self.clusters.partners[place]), float(self.clusters.jaccards[place])
        through = "" if partner == survivor else f" through {self.names[partner]}"
        if self.by_words[place] != self.by_words[partner]:
            return "semantic_duplicate", f"follows {name}{through} (cosine {similarity:.3f})"
        return "near_duplicate", f"follows {name}{through} (Jaccard {similarity:.3f})"


def _write_clusters(out: Output, conversations: Dataset, names: _Names, clusters: Clusters) -> None:
    """Keep every conversation's cluster, for whoever wants to look or to split by it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pipeline_lib import records

    schema = pa.schema([("id", pa.string()), ("cluster", pa.string()), ("similarity", pa.float32())])
    with pq.ParquetWriter(out.path / "clusters.parquet", schema, compression="zstd") as writer:
        if not len(clusters):
            writer.write_table(schema.empty_table())
        begin = 0
        for ids in records.column(conversations.shards(), "id", CLUSTER_ROWS):
            here = slice(begin, begin + len(ids))
            roots = names.of(clusters.roots[here], ids, begin)
            writer.write_table(pa.table([ids, roots, clusters.jaccards[here]], schema=schema))
            begin += len(ids)
