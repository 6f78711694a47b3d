"""Deduplicate: one conversation of every cluster of exact or near duplicates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.output import Output
from pipeline_lib.core.stage import stage
from pipeline_lib.kinds import Dataset

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline_lib.curation.clusters import Clusters

PROMPT_ROLES = ("system", "user", "tool", "text")
ROLES = {
    "conversation": (*PROMPT_ROLES, "assistant"),
    "prompt": PROMPT_ROLES,
    "answer": ("assistant", "text"),
}
SIDES = ("chosen", "rejected")
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
    keep: Literal["first", "longest"] = Field(
        default="first", description="Which conversation of a cluster stays."
    )
    seed: int = Field(default=42, ge=0, description="Seed of the MinHash permutations.")


@stage(produces=Dataset, version=1)
def deduplicate(out: Output, config: DeduplicateConfig, conversations: Dataset) -> None:
    """Keep one conversation of every cluster; the others name the one they follow and how alike they are."""
    from pipeline_lib import records
    from pipeline_lib.curation.near_duplicates import cluster
    from pipeline_lib.curation.shingles import exact_keys
    from pipeline_lib.settings import settings

    ids, lengths, texts = _read(out, conversations, config.compare)
    clusters = cluster(
        texts,
        threshold=config.threshold,
        ngram=config.ngram,
        bands=config.bands,
        rows=config.rows,
        seed=config.seed,
        workers=settings().workers,
    )
    clusters = _blanks_apart(clusters, lengths)
    keys = [tuple(key) for key in exact_keys(texts, workers=settings().workers).tolist()]
    survivors = _survivors(clusters, lengths, config.keep)
    read = 0
    with records.DatasetWriter(out.path) as writer:
        for batch in out.track(
            records.batches(conversations.shards()), "writing", conversations.count(), len
        ):
            places = range(read, read + batch.num_rows)
            writer.sift(batch, [_verdict(i, clusters, survivors, ids, keys) for i in places])
            read += batch.num_rows
    _write_clusters(out, ids, clusters)
    out.stats = {
        **writer.stats(read),
        "clusters": len({clusters.roots[i] for i in range(read) if clusters.roots[i] != i}),
    }


def compared(batch: pa.RecordBatch, compare: Compared) -> list[str]:
    """Return for each conversation the text that is compared: contents, tool calls, both sides of a pair."""
    from pipeline_lib import records

    columns = ("messages",) if compare == "prompt" else ("messages", *SIDES)
    return records.text_of(batch, ROLES[compare], columns, ("content", "tool_calls"))


def _read(
    out: Output, conversations: Dataset, compare: Compared
) -> tuple[list[str], list[int], pa.ChunkedArray]:
    import pyarrow as pa

    from pipeline_lib import records

    ids: list[str] = []
    chunks: list[pa.Array] = []
    for batch in out.track(records.batches(conversations.shards()), "reading", conversations.count(), len):
        ids += batch.column("id").to_pylist()
        chunks.append(pa.array(compared(batch, compare), pa.large_string()))
    lengths = [len(text) for chunk in chunks for text in chunk.to_pylist()]
    return ids, lengths, pa.chunked_array(chunks, pa.large_string())


def _blanks_apart(clusters: Clusters, lengths: list[int]) -> Clusters:
    """Return the clusters with every empty text on its own: two conversations that lack it are no copies."""
    import numpy as np

    from pipeline_lib.curation.clusters import Clusters

    blank, own = np.array(lengths, np.int64) == 0, np.arange(len(lengths))
    roots, partners = np.where(blank, own, clusters.roots), np.where(blank, own, clusters.partners)
    return Clusters(roots, partners, np.where(blank, 1.0, clusters.jaccards))


def _survivors(clusters: Clusters, lengths: list[int], keep: str) -> dict[int, int]:
    """Return for every cluster (by its root) the place of the conversation that stays."""
    best: dict[int, int] = {}
    for place, root in enumerate(clusters.roots.tolist()):
        held = best.setdefault(root, place)
        if keep == "longest" and lengths[place] > lengths[held]:
            best[root] = place
    return best


def _verdict(
    place: int, clusters: Clusters, survivors: dict[int, int], ids: list[str], keys: list[tuple[int, ...]]
) -> tuple[str, str] | None:
    survivor = survivors[int(clusters.roots[place])]
    if survivor == place:
        return None
    if keys[place] == keys[survivor]:
        return "exact_duplicate", f"follows {ids[survivor]}"
    # The root that the longest one displaced has no partner of its own; its cluster's members were verified.
    partner = int(clusters.partners[place])
    through = "" if partner in (survivor, place) else f" through {ids[partner]}"
    return (
        "near_duplicate",
        f"follows {ids[survivor]}{through} (Jaccard {float(clusters.jaccards[place]):.3f})",
    )


def _write_clusters(out: Output, ids: list[str], clusters: Clusters) -> None:
    """Keep every conversation's cluster, for whoever wants to look or to split by it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "id": ids,
            "cluster": [ids[root] for root in clusters.roots.tolist()],
            "similarity": pa.array(clusters.jaccards, pa.float32()),
        }
    )
    pq.write_table(table, out.path / "clusters.parquet", compression="zstd")
