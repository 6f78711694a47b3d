"""Intake: an opened source as runs of rows, and what came of them.

Opening a source opens every file, finds its container and its format, and so meets whatever cannot be read at
all before anything is written. ``reading`` makes conversations of a run, ``arrivals`` gives them their ids.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline_lib.core.errors import DataError, did_you_mean
from pipeline_lib.core.output import Output
from pipeline_lib.curation import shapes
from pipeline_lib.curation.blocks import Outcome
from pipeline_lib.curation.kept_blocks import KeptBlocks
from pipeline_lib.curation.readers import Container, identify, read
from pipeline_lib.curation.reading import Reading, Run, conversations_of, renamer, suspects
from pipeline_lib.curation.rows import Row, parsed
from pipeline_lib.curation.sources import File, Source, files_of
from pipeline_lib.curation.turns import FormatError
from pipeline_lib.curation.workers import Submit, in_order, known_or, working

SAMPLE_ROWS = 100
"""Rows at the head of a file that its format is detected from."""
RUN_ROWS = 2_048
RUN_BYTES = 4 << 20
"""A run of rows ends at so many rows, or bytes of text."""


@dataclass(frozen=True)
class _OpenFile:
    file: File
    container: Container
    format: str


@dataclass
class OpenSource:
    """A source whose files are known, with what was counted while they were read."""

    source: Source
    label: str
    files: list[_OpenFile]
    rows: int = 0
    kept: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    first: str = ""
    """The evidence of the first row that was dropped."""

    @property
    def is_full(self) -> bool:
        """Whether the source's limit is reached."""
        return self.kept == self.source.limit

    def runs(self) -> Iterator[Run]:
        """Yield the source's rows in the order of its files, in runs, until its limit is reached."""
        for reading, rows in self._documented() if self.source.name else map(self._opened, self.files):
            for run in _cut(rows):
                if self.is_full:
                    return
                yield Run(reading, run)

    def taken(self, outcome: Outcome) -> Outcome:
        """Count what came of a run and return as much of it as the limit allows; for runs in their order."""
        counts = outcome.counts
        if self.source.limit is not None:
            kept = np.cumsum([verdict is None for verdict in outcome.verdicts])
            most = self.source.limit - self.kept
            end = int(np.searchsorted(kept, most)) + 1 if most else 0
            if end < len(outcome.verdicts):
                begins = np.cumsum([0, *counts["items"][:-1]])
                batch = outcome.batch.slice(0, end)
                counts = {"items": counts["items"][: int((begins < end).sum())], "suspect": suspects(batch)}
                outcome = Outcome(batch, outcome.verdicts[:end], counts)
        self.rows += len(counts["items"])
        self.kept += sum(verdict is None for verdict in outcome.verdicts)
        dropped = [verdict for verdict in outcome.verdicts if verdict]
        self.reasons.update(reason for reason, _ in dropped)
        self.first = self.first or next((detail for _, detail in dropped), "")
        return outcome

    def nothing(self) -> str:
        """Return in words why nothing was kept of the source."""
        if not self.rows:
            return f"{self.source.place}: no row at all"
        why = ", ".join(f"{reason} {count}" for reason, count in sorted(self.reasons.items()))
        return f"{self.source.place}: 0 of {self.rows} rows kept ({why}; the first: {self.first})"

    def stats(self) -> dict[str, Any]:
        """Return what the manifest says about the source."""
        return {
            "source": self.label,
            "container": _named(str(file.container) for file in self.files),
            "format": _named(file.format for file in self.files) or "openai",
            "files": len(self.files),
            "bytes": sum(file.file.bytes for file in self.files),
            "rows": self.rows,
            "kept": self.kept,
            "dropped": self.reasons.total(),
            "reasons": dict(sorted(self.reasons.items())),
        }

    def _opened(self, opened: _OpenFile) -> tuple[Reading, Iterator[Row]]:
        unit = "line" if opened.container.counts_lines else "row"
        columns, weight = self.source.columns, self.source.weight
        reading = Reading(self.label, opened.file.name, unit, opened.format, columns, weight)
        return reading, read(opened.file.open, opened.file.place, opened.container)

    def _documented(self) -> Iterator[tuple[Reading, Iterator[Row]]]:
        from pipeline_lib.curation.pydocs import read_pydocs

        rows = (Row(number, value) for number, value in enumerate(read_pydocs(), start=1))
        yield Reading(self.label, "pydocs", "row", "pydocs", weight=self.source.weight), rows


def outcomes(opened: Sequence[OpenSource], out: Output | None = None) -> Iterator[Outcome]:
    """Yield what came of every run of the sources, in order; what ``out`` has kept is not worked out anew."""
    kept = KeptBlocks(out.blocks if out else None)
    pairs = ((one, run) for one in opened for run in one.runs())
    with working(conversations_of) as submit:
        for one, outcome in in_order(pairs, lambda pair: _begun(*pair, kept, submit)):
            taken = one.taken(outcome)
            if taken.batch.num_rows:
                yield taken


def _begun(
    one: OpenSource, run: Run, kept: KeptBlocks, submit: Submit[Run, Outcome]
) -> Callable[[], tuple[OpenSource, Outcome]]:
    key = None if kept.off else run.key()
    known = kept.read(key) if key else None
    found = known_or(
        Outcome(*known) if known else None,
        lambda: submit(run),
        lambda made: kept.write(key, made.batch, made.verdicts, made.counts) if key else None,
    )
    return lambda: (one, found())


def _cut(rows: Iterator[Row]) -> Iterator[list[Row]]:
    """Yield the rows in runs that are the same for the same rows, whatever follows them."""
    held: list[Row] = []
    size = 0
    for row in rows:
        held.append(row)
        size += len(row.value) if isinstance(row.value, bytes | str) else 0
        if len(held) == RUN_ROWS or size >= RUN_BYTES:
            yield held
            held, size = [], 0
    if held:
        yield held


def open_sources(sources: Sequence[Source]) -> list[OpenSource]:
    """Return the sources with their files opened once; DataError where one cannot be read at all."""
    labels: Counter[str] = Counter()
    opened = []
    for source in sources:
        labels[source.label] += 1
        count = labels[source.label]
        label = source.label if count == 1 else f"{source.label}#{count}"
        opened.append(OpenSource(source, label, [] if source.name else _open_files(source)))
    return opened


def _open_files(source: Source) -> list[_OpenFile]:
    rename = renamer(source.columns)

    def recognise(value: Any) -> bool:
        return shapes.detect(rename(value)) is not None

    files = [(file, identify(file.open, file.place, recognise)) for file in files_of(source)]
    heads = [
        [parsed(row) for row in itertools.islice(read(file.open, file.place, container), SAMPLE_ROWS)]
        for file, container in files
    ]
    _check_columns(source, heads)
    formats = [_format(source, file, head, rename) for (file, _), head in zip(files, heads, strict=True)]
    usual = next((name for name, _ in Counter(name for name in formats if name).most_common(1)), None)
    if usual is None and any(heads):
        error = next(row for head in heads for row in head if row.error)
        raise DataError(
            f"{source.place}: none of its first rows can be read; row {error.place} {error.error}"
        )
    return [
        _OpenFile(file, container, name or usual or "text")
        for (file, container), name in zip(files, formats, strict=True)
    ]


def _format(source: Source, file: File, head: list[Row], rename: Callable[[Any], Any]) -> str | None:
    """Return the format of most rows at the head of a file; None where none of them can be read."""
    values = [rename(row.value) for row in head if not row.error]
    if source.format:
        if values and not any(_fits(source.format, value) for value in values):
            raise DataError(
                f"{file.place}: none of its first {len(values)} rows is {source.format}; leave format out to "
                "have it found, or map its columns, such as columns: {prompt: …, completion: …}"
            )
        return source.format
    found = Counter(name for value in values if (name := shapes.detect(value)))
    if found:
        return found.most_common(1)[0][0]
    if not values:
        return None
    keys = (
        ", ".join(map(str, values[0])) if isinstance(values[0], Mapping) else f"a {type(values[0]).__name__}"
    )
    raise DataError(
        f"{file.place}: no format has rows like its first ({keys[:200]}); "
        f"name the format ({', '.join(shapes.FORMATS)}) "
        "and map its columns, such as columns: {prompt: …, completion: …}"
    )


def _fits(name: str, value: Any) -> bool:
    try:
        shapes.shape(name)(value)
    except FormatError:
        return False
    return True


def _check_columns(source: Source, heads: list[list[Row]]) -> None:
    present = {key for head in heads for row in head if isinstance(row.value, Mapping) for key in row.value}
    if source.columns and not present and any(not row.error for head in heads for row in head):
        raise DataError(f"{source.place}: its rows are texts without columns; leave columns out")
    for ours, theirs in source.columns.items():
        if present and theirs not in present:
            hint = did_you_mean(theirs, sorted(map(str, present)))[:200]
            if ours in present and theirs in shapes.COLUMNS:
                hint = f"our name comes first: {{{theirs}: {ours}}}"
            raise DataError(f"{source.place}: columns.{ours}: the file has no column {theirs!r}; {hint}")


def _named(names: Iterable[str]) -> str:
    return ", ".join(sorted(set(names)))
