"""Blocks: stages that judge conversation by conversation, on all cores or a Ray cluster, nothing twice.

A *block* is a run of conversations that ends where an id says so (after about two thousand of them, at most
``MOST_ROWS``). Since ids come from content, most blocks of a dataset stay the same bytes when conversations
are added, taken out or moved. What a stage made of a block is kept in the store (``Output.blocks``) under
the digest of the block's bytes, so that a dataset with one per cent of new conversations costs little more
than that one per cent to judge. Results come in the order of the blocks whatever computed them: the bytes
that a stage writes are the same with and without what was kept, and for any number of workers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_lib import records
from pipeline_lib.core.artifact import Artifact
from pipeline_lib.core.output import Output
from pipeline_lib.curation.kept_blocks import KeptBlocks
from pipeline_lib.curation.workers import Submit, in_order, known_or, working
from pipeline_lib.kinds import Dataset

MOST_ROWS = 4_096
_END = "^00[01]"
"""How the id of a block's last conversation begins: one id of 2,048, as they are hashes."""


@dataclass(frozen=True)
class Outcome:
    """What a stage made of a block: as many rows as it was given, in their order."""

    batch: pa.RecordBatch
    verdicts: Sequence[records.Verdict]
    counts: Mapping[str, Any] = field(default_factory=dict)
    """JSON values that the stage adds up."""


Judge = Callable[[pa.RecordBatch], Outcome]
"""A stage's work on one block; it goes to other processes, so it can be pickled."""


def judged(
    out: Output, conversations: Dataset, judge: Judge, beside: Artifact | None = None
) -> Iterator[Outcome]:
    """Yield what ``judge`` makes of each block of the kept conversations, in order.

    ``beside`` is what it reads beside them: with another, nothing of what was kept holds.
    """
    kept = kept_blocks(out, beside)
    found = _judged(cut(records.batches(conversations.shards())), kept, judge)
    yield from out.track(found, total=conversations.count(), size=lambda one: one.batch.num_rows)


def kept_blocks(out: Output, beside: Artifact | None) -> KeptBlocks:
    """Return what was kept of former builds that read the same artifact beside their conversations."""
    return KeptBlocks(out.blocks / beside.digest if out.blocks and beside else out.blocks)


def sift(
    out: Output, conversations: Dataset, judge: Judge, beside: Artifact | None = None
) -> Iterator[Mapping[str, Any]]:
    """Write what is kept and dropped of the conversations, yield each block's counts, and set the stats."""
    read = 0
    with records.DatasetWriter(out.path) as writer:
        for outcome in judged(out, conversations, judge, beside):
            read += outcome.batch.num_rows
            writer.sift(outcome.batch, outcome.verdicts)
            yield outcome.counts
    out.stats.update(writer.stats(read))


def cut(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield the same rows in blocks that depend on the rows alone, not on the batches."""
    held: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        begin = 0
        lasts = pc.indices_nonzero(pc.match_substring_regex(pc.fill_null(batch.column("id"), ""), _END))
        ends = {place + 1 for place in lasts.to_pylist()}
        for end in sorted({*ends, batch.num_rows}):
            while begin < end:
                stop = min(end, begin + MOST_ROWS - size)
                held.append(batch.slice(begin, stop - begin))
                size, begin = size + stop - begin, stop
                if size == MOST_ROWS or begin in ends:
                    yield _whole(held)
                    held, size = [], 0
    if held:
        yield _whole(held)


def _whole(parts: list[pa.RecordBatch]) -> pa.RecordBatch:
    """Return the rows in buffers of their own: a slice's bytes depend on what it is a slice of."""
    rows = pa.concat_batches(parts)
    return rows.take(pa.array(np.arange(rows.num_rows)))


def digest(block: pa.RecordBatch) -> str:
    """Return the SHA-256 (hex) of a block's rows in Arrow's form."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, block.schema) as writer:
        writer.write_batch(block)
    return hashlib.sha256(sink.getvalue()).hexdigest()


def digested(blocks: Iterator[pa.RecordBatch], kept: KeptBlocks) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Yield each block with its digest; nobody asks for that where nothing is kept."""
    return (("" if kept.off else digest(block), block) for block in blocks)


def _judged(blocks: Iterator[pa.RecordBatch], kept: KeptBlocks, judge: Judge) -> Iterator[Outcome]:
    with working(partial(_made, judge)) as submit:
        begin = partial(_begun, kept, partial(_outcome, submit))
        yield from in_order(digested(blocks, kept), begin)


_Made = tuple[pa.RecordBatch | None, Sequence[records.Verdict], Mapping[str, Any]]


def _made(judge: Judge, block: pa.RecordBatch) -> _Made:
    """Return an outcome, without the block where it is as it was: it need not come from another process."""
    made = judge(block)
    return None if made.batch is block else made.batch, made.verdicts, made.counts


def _outcome(submit: Submit[pa.RecordBatch, _Made], block: pa.RecordBatch) -> Callable[[], Outcome]:
    begun = submit(block)

    def wait() -> Outcome:
        batch, verdicts, counts = begun()
        return Outcome(block if batch is None else batch, verdicts, counts)

    return wait


def _begun(
    kept: KeptBlocks, submit: Submit[pa.RecordBatch, Outcome], piece: tuple[str, pa.RecordBatch]
) -> Callable[[], Outcome]:
    key, block = piece
    known = kept.read(key, block)
    return known_or(
        Outcome(*known) if known else None,
        lambda: submit(block),
        lambda made: kept.write(key, made.batch, made.verdicts, made.counts, block),
    )
