"""Ingest: every source's rows as conversations, each with an id from its content and the place it came from.

A *row* is what stands at one place of a file; a *conversation* is what its format makes of it. A row that
cannot be read is dropped as ``unreadable``, one without its format's keys as ``unrecognised``, one that the
source's weight leaves out as ``not_sampled``. Every file is opened, and its container and format found,
before anything is written. Neighbours: ``sources`` (which files), ``readers`` (rows), ``shapes`` (what a row
means), ``reading`` (rows to conversations), ``intake`` (all of it, on every core), ``arrivals`` (ids).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.errors import DataError
from pipeline_lib.core.output import Output
from pipeline_lib.core.progress import mention
from pipeline_lib.core.stage import stage
from pipeline_lib.curation.sources import Source, source_digests
from pipeline_lib.kinds import Dataset

if TYPE_CHECKING:
    from pipeline_lib.curation.intake import OpenSource


class IngestConfig(StageConfig):
    """Where the conversations come from."""

    sources: tuple[Source, ...] = Field(
        default=(), description="Where conversations come from, read in this order."
    )

    @field_validator("sources", mode="before")
    @classmethod
    def _is_a_list(cls, sources: object) -> object:
        if isinstance(sources, str | dict):
            given = sources if isinstance(sources, str) else "…"
            raise ValueError(f"sources is a list: write [{{path: {given}}}]")
        return sources


@stage(produces=Dataset, version=2, outside=source_digests)
def ingest(out: Output, config: IngestConfig) -> None:
    """Keep every row that is a conversation, in the order of the sources."""
    from pipeline_lib.curation.arrivals import Arrivals
    from pipeline_lib.curation.intake import open_sources, outcomes
    from pipeline_lib.records import DatasetWriter

    digests = source_digests(config)
    opened = open_sources(config.sources)
    arrivals, read = Arrivals(), 0
    suspect: Counter[str] = Counter()
    found = out.track(outcomes(opened, out), size=lambda one: one.batch.num_rows)
    with DatasetWriter(out.path) as writer:
        for one in found:
            writer.sift(arrivals.named(one.batch), one.verdicts)
            suspect.update(one.counts["suspect"])
            read += one.batch.num_rows
        _check(opened)
        if source_digests(config) != digests:
            raise DataError("a source changed while it was read; run again when nothing writes to it")
    out.stats.update(writer.stats(read))
    out.stats["suspect"] = dict(suspect)
    out.stats["sources"] = [one.stats() | {"digest": digests[f"source.{i}"]} for i, one in enumerate(opened)]


def _check(opened: Sequence[OpenSource]) -> None:
    """Say which sources gave nothing; DataError where there is not one row."""
    if not any(one.rows for one in opened):
        raise DataError("; ".join([*(one.nothing() for one in opened), "check ingest.sources"]))
    for one in opened:
        if not one.kept:
            mention(one.nothing())
