"""Tokenized conversations on disk: Parquet shards of token ids and loss masks."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_lib.core.errors import ConfigError
from pipeline_lib.kinds import brings_code

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
        ("learn", pa.list_(pa.bool_())),
    ]
)
DROPPED = pa.schema(
    [("id", pa.string()), ("part", pa.string()), ("reason", pa.string()), ("detail", pa.string())]
)
SHARD_ROWS = 20_000
ROWS_AT_ONCE = 1_024
"""Conversations that are rendered and tokenized together."""


class TokenWriter:
    """Writes one part's token shards and counts what is learnt."""

    def __init__(
        self, directory: Path, part: str, schema: pa.Schema = SCHEMA, further: tuple[str, ...] = ()
    ) -> None:
        """Write ``<part>-*.parquet`` and ``dropped-<part>.parquet``; ``further`` are counts of its own."""
        self.directory, self.part, self.schema = directory, part, schema
        self._rows: list[dict[str, Any]] = []
        self._dropped: list[dict[str, str]] = []
        self._shards = 0
        self._counts = {
            "kept": 0,
            "sequences": 0,
            "tokens": 0,
            "learnt_tokens": 0,
            **dict.fromkeys(further, 0),
            "without_stop": 0,
            "truncated": 0,
            "longest": 0,
        }
        self._reasons: dict[str, int] = {}

    def __enter__(self) -> TokenWriter:
        """Return the writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what is held back, unless the block failed."""
        if kind is None:
            if self._rows or not self._shards:
                self._flush()
            pq.write_table(
                pa.Table.from_pylist(self._dropped, DROPPED),
                self.directory / f"dropped-{self.part}.parquet",
                compression="zstd",
            )

    def keep(
        self,
        name: str,
        ids: list[int],
        learn: list[bool],
        *,
        stops: bool,
        truncated: bool,
        conversations: int = 1,
        source: str = "",
    ) -> None:
        """Append one sequence with its mask; a block of several documents counts none, see ``count``."""
        self.add(
            {"id": name, "source": source, "input_ids": ids, "learn": learn},
            longest=len(ids),
            kept=conversations,
            sequences=1,
            tokens=len(ids),
            learnt_tokens=sum(learn),
            without_stop=not stops,
            truncated=truncated,
        )

    def add(self, row: dict[str, Any], *, longest: int, **counts: int) -> None:
        """Append a row, with the tokens of its longest sequence and what it adds to every other count."""
        self._rows.append(row)
        self._counts["longest"] = max(self._counts["longest"], longest)
        for name, number in counts.items():
            self._counts[name] += number
        if len(self._rows) == SHARD_ROWS:
            self._flush()

    def count(self, conversations: int) -> None:
        """Count conversations whose rows count none: laid end to end in blocks, or of several rows each."""
        self._counts["kept"] += conversations

    def drop(self, name: str, reason: str, detail: str) -> None:
        """Record a conversation that is not trained on."""
        self._dropped.append({"id": name, "part": self.part, "reason": reason, "detail": detail})
        self._reasons[reason] = self._reasons.get(reason, 0) + 1

    def stats(self) -> dict[str, Any]:
        """Return what was kept, dropped and learnt."""
        dropped = len(self._dropped)
        read = self._counts["kept"] + dropped
        return {
            "read": read,
            "dropped": dropped,
            **self._counts,
            "reasons": dict(sorted(self._reasons.items())),
        }

    def _flush(self) -> None:
        table = pa.Table.from_pylist(self._rows, self.schema)
        pq.write_table(table, self.directory / f"{self.part}-{self._shards:05d}.parquet", compression="zstd")
        self._rows, self._shards = [], self._shards + 1


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer saved in ``directory``, with a pad token (its end token where it has none).

    ConfigError where it has neither.
    """
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        directory, trust_remote_code=brings_code(directory)
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise ConfigError(
            "base_model: the tokenizer has neither a pad nor an end token, so a model would not learn to "
            "stop; set eos_token in the tokenizer_config.json of what base_model names, or take another"
        )
    # What is too long is dropped or cut, and counted: the error that Transformers warns of never comes.
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    return tokenizer
