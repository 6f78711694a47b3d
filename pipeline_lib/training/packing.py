"""Packing: several sequences in one row, none of which sees another, and none of which is cut.

Rows are filled best-fit decreasing. The model is given position ids that begin anew with each sequence, from
which Transformers makes the block-diagonal mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasets import Dataset

IGNORED = -100


def pack(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Return rows of places in ``lengths`` that together take at most ``room`` tokens, fullest fit first.

    Best-fit decreasing: each sequence, longest first, goes where the least room stays. One that is longer
    than ``room`` has a row of its own, whole. The same lengths always give the same rows.
    """
    rows: list[list[int]] = []
    with_room: dict[int, list[int]] = {}
    rooms = 0  # bit r is set where a row has room for r tokens
    for place in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[place]
        fitting = rooms >> length
        if fitting and length <= room:
            left = length + (fitting & -fitting).bit_length() - 1
            row = with_room[left].pop()
            if not with_room[left]:
                rooms &= ~(1 << left)
        else:
            row, left = len(rows), max(room, length)
            rows.append([])
        rows[row].append(place)
        left -= length
        if left:
            with_room.setdefault(left, []).append(row)
            rooms |= 1 << left
    return rows


def packed(data: Dataset, room: int) -> Dataset:
    """Return rows of ids, labels, ``seq_lengths`` and ``length`` made of the data's sequences."""
    import numpy as np
    import pyarrow as pa
    from datasets import Dataset

    rows = pack(data["length"], room)
    table = data.with_format("arrow")[:].combine_chunks()
    order = pa.array([place for row in rows for place in row], pa.int64())
    lengths = table["length"].take(order).to_numpy()
    ends = np.cumsum([len(row) for row in rows])
    tokens = np.concatenate([[0], np.cumsum(lengths)])[np.concatenate([[0], ends])].astype(np.int32)
    made = {
        name: pa.ListArray.from_arrays(pa.array(tokens), _flat(table[name].take(order)))
        for name in ("input_ids", "labels")
    }
    sequences = pa.array(np.concatenate([[0], ends]).astype(np.int32))
    made["seq_lengths"] = pa.ListArray.from_arrays(sequences, pa.array(lengths))
    made["length"] = pa.array(np.diff(tokens).astype(np.int64))
    return Dataset(pa.table(made))


def _flat(column: Any) -> Any:
    import pyarrow as pa

    return pa.concat_arrays([chunk.flatten() for chunk in column.chunks])


def packed_collator(pad_token_id: int, *, flat: bool) -> Any:
    """Return what makes a batch of packed rows: one row a sample, or one flat row of all sequences."""
    if not flat:
        return PackedCollator(pad_token_id)
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    return DataCollatorForLanguageModeling(pad_token_id, padding_free=True)


@dataclass
class PackedCollator:
    """Packed rows as a batch: ids, labels, and positions that begin anew with each sequence.

    Padding at a row's end is a sequence of its own, from which nothing is learnt and which nothing sees.
    There is no attention mask: with one, Transformers would not look at the positions.
    """

    pad_token_id: int

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return tensors [rows, longest]."""
        width = max(len(row["input_ids"]) for row in rows)
        return _tensors([self._row(row, width) for row in rows])

    def _row(self, row: dict[str, Any], width: int) -> dict[str, list[int]]:
        empty = width - len(row["input_ids"])
        labels = list(row["labels"])
        start = 0
        positions: list[int] = []
        for length in row["seq_lengths"]:
            # A sequence's first token would be guessed from the end of the one before.
            labels[start] = IGNORED
            positions += range(length)
            start += length
        return {
            "input_ids": [*row["input_ids"], *[self.pad_token_id] * empty],
            "labels": [*labels, *[IGNORED] * empty],
            "position_ids": [*positions, *range(empty)],
        }


def _tensors(rows: list[dict[str, list[int]]]) -> dict[str, Any]:
    import torch

    return {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}
