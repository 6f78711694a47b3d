"""A dataset's texts in a near-duplicate index, block by block, with what else a stage wants of each.

What was worked out of a block is kept for later builds (``kept_blocks``), so that a dataset with one per cent
of new conversations costs little more than that one per cent to sign.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy.typing as npt
import pyarrow as pa

from pipeline_lib import records
from pipeline_lib.core.output import Output
from pipeline_lib.curation.blocks import cut, digested
from pipeline_lib.curation.columns import Column
from pipeline_lib.curation.kept_blocks import KeptBlocks
from pipeline_lib.curation.near_duplicates import Index, Signed
from pipeline_lib.curation.shingles import Texts
from pipeline_lib.curation.workers import Submit, in_order, known_or
from pipeline_lib.kinds import Dataset
from pipeline_lib.settings import settings

Columns = dict[str, npt.NDArray[Any]]
Read = Callable[[pa.RecordBatch], tuple[Texts, Columns]]
"""A block's texts (n), and what a stage wants to know about them (n each)."""


def index_texts(out: Output, conversations: Dataset, index: Index, read: Read) -> Columns:
    """Add every conversation's text to ``index``; return what ``read`` says about all of them.

    It is mapped from files below ``out.work``: memory is taken where something is looked at.
    """
    kept = KeptBlocks(out.blocks)
    _, nothing = read(records.from_rows([]))
    columns = {name: Column(none.dtype, out.work / f"column-{name}") for name, none in nothing.items()}
    blocks = cut(records.batches(conversations.shards()))
    with _engine(partial(_signed, index, read)) as submit:
        found = in_order(digested(blocks, kept), partial(_begun, kept, submit))
        for one in out.track(found, "reading", conversations.count(), lambda one: len(one["sizes"])):
            index.extend(Signed(*(one[name] for name in Signed._fields)))
            for name, column in columns.items():
                column.append(one[name])
    return {name: column.array() for name, column in columns.items()}


def _signed(index: Index, read: Read, block: pa.RecordBatch) -> Columns:
    texts, columns = read(block)
    return columns | index.sign(texts)._asdict()


@contextmanager
def _engine(sign: Callable[[pa.RecordBatch], Columns]) -> Iterator[Submit[pa.RecordBatch, Columns]]:
    """Give a way to have blocks signed: by Ray, or in threads, as the compiled loops leave the lock."""
    if settings().engine == "ray":
        from pipeline_lib.curation.on_ray import working_on_cluster

        with working_on_cluster(sign) as submit:
            yield submit
        return
    with ThreadPoolExecutor(settings().workers) as pool:
        yield lambda block: pool.submit(sign, block).result


def _begun(
    kept: KeptBlocks, submit: Submit[pa.RecordBatch, Columns], piece: tuple[str, pa.RecordBatch]
) -> Callable[[], Columns]:
    key, block = piece
    return known_or(kept.read_arrays(key), lambda: submit(block), lambda made: kept.write_arrays(key, made))
