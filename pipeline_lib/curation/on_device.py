"""What a model measures of conversations, block by block, in child processes on its device.

The child (``model_worker``) keeps the arrays of every block under the digest of the block's rows, apart by
model and, as all kept blocks, by config. So a child that was killed goes on where it was, and a dataset with
one per cent of new conversations costs the model little more than that one per cent. Batches are made within
a block: what is measured of a conversation does not depend on what the dataset holds elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline_lib import records
from pipeline_lib.core.errors import StageError
from pipeline_lib.core.output import Output
from pipeline_lib.curation.blocks import cut, digest
from pipeline_lib.curation.kept_blocks import KeptBlocks
from pipeline_lib.kinds import Dataset, Model
from pipeline_lib.launch import device, run_child

Columns = dict[str, npt.NDArray[Any]]
Measure = Literal["likelihoods", "embeddings"]


def measured(
    out: Output, conversations: Dataset, model: Model, measure: Measure, config: Mapping[str, Any]
) -> Iterator[tuple[pa.RecordBatch, Columns]]:
    """Yield every block with the arrays that ``measure`` gives of it, their first axis being its rows.

    ``config`` are JSON values for the child. Raises StageError where the child left a block out.
    """
    directory = (out.blocks or out.work / "blocks") / model.digest
    kept = KeptBlocks(directory)
    if any(kept.read_arrays(digest(block)) is None for block in _blocks(conversations)):
        spec = {
            "config": dict(config),
            "measure": measure,
            "shards": [str(shard) for shard in conversations.shards()],
            "total": conversations.count(),
            "model": str(model.path),
            "blocks": str(directory),
            "device": device(),
        }
        run_child("pipeline_lib.curation.model_worker", spec, out.work, f"{out.stage}: {measure}")
    for block in _blocks(conversations):
        columns = kept.read_arrays(digest(block))
        if columns is None:
            raise StageError(f"{out.stage}: {directory} lacks {measure} that were made; run again")
        yield block, columns


def _blocks(conversations: Dataset) -> Iterator[pa.RecordBatch]:
    return cut(records.batches(conversations.shards()))


def quantiles(values: npt.NDArray[np.float64]) -> dict[str, float]:
    """Return some quantiles of the values, by their names in per cent; none of no values."""
    shares = (1, 5, 10, 25, 50, 75, 90, 95, 99) if len(values) else ()
    return {f"{share}%": float(f"{np.percentile(values, share):.4g}") for share in shares}
