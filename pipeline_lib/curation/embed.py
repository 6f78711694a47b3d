"""Embed: which conversations mean nearly the same though their words differ.

Every conversation's text becomes the mean of a model's last hidden states, of length 1; two are alike where
the cosine of theirs reaches the threshold (SemDeDup, Abbas et al. 2023, arXiv 2303.09540, which compares
within k-means clusters; here every pair is compared, block by block on the device, so none is missed).
``pairs.parquet`` holds those pairs that join the groups of what is alike, which is all that `deduplicate`
needs. Neighbours: ``model_worker`` makes the embeddings, ``alike_worker`` compares them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import Field

from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.output import Output
from pipeline_lib.core.stage import stage
from pipeline_lib.curation.deduplicate import Compared
from pipeline_lib.kinds import Dataset, Likeness, Model


class EmbedConfig(StageConfig):
    """When two conversations mean the same; by which model, `embedder` says."""

    compare: Compared = Field(
        default="conversation",
        description="The text that is compared: the whole conversation, its prompt, or its answer.",
    )
    threshold: float = Field(
        default=0.95,
        ge=0,
        le=1,
        description="Cosine of the embeddings from which on two conversations mean the same; models differ, "
        "so look at what is dropped before you lower it.",
    )
    max_tokens: int = Field(
        default=512, ge=16, description="Tokens of a text that are embedded; the rest is left out."
    )
    precision: Literal["bf16", "fp16", "fp32"] = Field(
        default="fp32", description="Number format of weights and computation; embeddings are kept in fp16."
    )


@stage(produces=Likeness, version=1)
def embed(out: Output, config: EmbedConfig, conversations: Dataset, embedder: Model) -> None:
    """The pairs of conversations, as places among those read, that join the groups of what means the same."""
    from pipeline_lib.launch import device, run_child

    vectors = out.work / "embeddings.npy"
    read = _write_embeddings(out, config, conversations, embedder, vectors)
    spec = {
        "embeddings": str(vectors),
        "threshold": config.threshold,
        "pairs": str(out.path / "pairs.parquet"),
        "stats": str(out.work / "stats.json"),
        "device": device(),
        "processes": 1,
    }
    run_child("pipeline_lib.curation.alike_worker", spec, out.work, "embed: comparing")
    out.stats = {"conversations": read, **json.loads((out.work / "stats.json").read_text(encoding="utf-8"))}


def _write_embeddings(
    out: Output, config: EmbedConfig, conversations: Dataset, embedder: Model, path: Path
) -> int:
    """Write the embeddings (n by d, fp16) of all conversations in their order; return n."""
    import numpy as np

    from pipeline_lib.curation.on_device import measured

    count, written = conversations.count(), 0
    vectors = None
    for block, columns in measured(
        out, conversations, embedder, "embeddings", config.model_dump(mode="json", exclude={"threshold"})
    ):
        part = columns["embeddings"]
        if vectors is None:
            vectors = np.lib.format.open_memmap(
                path, mode="w+", dtype=np.float16, shape=(count, part.shape[1])
            )
        vectors[written : written + block.num_rows] = part
        written += block.num_rows
    if vectors is None:
        np.save(path, np.empty((0, 1), np.float16))
    else:
        vectors.flush()
    return written
