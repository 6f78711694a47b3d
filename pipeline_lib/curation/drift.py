"""Drift: how far fresh data are from those that a model was last trained on.

The distance is the square root of the Jensen-Shannon divergence, in bits, between the two distributions of
words (Endres and Schindelin, A new metric for probability distributions, 2003): 0 for the same, 1 for nothing
in common. Words are counted in BUCKETS hashed places, so that memory does not grow with the vocabulary; two
words that share a place can only bring the distributions closer. A conversation is new where no old one has
the same texts in the same order.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.output import Output
from pipeline_lib.core.stage import stage
from pipeline_lib.kinds import Dataset, Verdict

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

BUCKETS = 1 << 18
PARTS = ("kept", "train", "validation", "test")


class DriftConfig(StageConfig):
    """From which change of the data on a training is worth its cost."""

    distance: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Jensen-Shannon distance of the words, old to new, from which on data count as changed.",
    )
    new_share: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="Share of conversations not seen before from which on the data count as changed.",
    )


@stage(produces=Verdict, version=2)
def drift(out: Output, config: DriftConfig, old: Dataset, new: Dataset) -> None:
    """Open where the data changed enough to train again, with both figures and their limits."""
    before, after = _Picture(old), _Picture(new)
    distance = before.distance(after)
    share = after.share_not_in(before)
    rules = [
        _rule("distance", distance, config.distance),
        _rule("new_share", share, config.new_share),
    ]
    verdict = {"open": any(rule["passed"] for rule in rules), "rules": rules}
    (out.path / "verdict.json").write_text(json.dumps(verdict, indent=1) + "\n", encoding="utf-8")
    out.stats = {
        "open": verdict["open"],
        "distance": distance,
        "new_share": share,
        "old": len(before.conversations),
        "new": len(after.conversations),
    }


def _rule(name: str, value: float, threshold: float) -> dict[str, Any]:
    passed = value >= threshold
    reason = f"{name} {value:.4f}, {'reaches' if passed else 'below'} {threshold:g}"
    return {"rule": name, "value": value, "threshold": threshold, "passed": passed, "reason": reason}


class _Picture:
    """How often each word occurs in a dataset, and a hash of each of its conversations."""

    def __init__(self, dataset: Dataset) -> None:
        import numpy as np
        import pyarrow.parquet as pq

        self.words: NDArray[np.int64] = np.zeros(BUCKETS, np.int64)
        hashes = []
        for shard in (shard for part in PARTS for shard in dataset.shards(part)):
            for batch in pq.ParquetFile(shard).iter_batches(columns=["messages"]):
                hashes.append(self._add(batch.column("messages")))
        empty = np.zeros(0, np.uint64)
        self.conversations: NDArray[np.uint64] = np.unique(np.concatenate([empty, *hashes]))

    def _add(self, messages: pa.ListArray) -> NDArray[np.uint64]:
        import numpy as np
        import pyarrow.compute as pc
        import xxhash

        texts = pc.fill_null(pc.struct_field(messages.flatten(), "content"), "")
        counted = pc.value_counts(pc.utf8_split_whitespace(pc.utf8_lower(texts)).flatten())
        words, counts = counted.field("values").cast("binary").to_pylist(), counted.field("counts").to_numpy()
        places = np.fromiter(
            (xxhash.xxh3_64_intdigest(word) % BUCKETS for word in words), np.int64, len(words)
        )
        self.words += np.bincount(places, weights=counts, minlength=BUCKETS).astype(np.int64)
        single = np.fromiter(
            (xxhash.xxh3_64_intdigest(text) for text in texts.cast("binary").to_pylist()),
            np.uint64,
            len(texts),
        )
        lengths = pc.fill_null(pc.list_value_length(messages), 0).to_numpy()
        ends = np.cumsum(lengths)
        parts = (single[end - length : end].tobytes() for length, end in zip(lengths, ends, strict=True))
        return np.fromiter((xxhash.xxh3_64_intdigest(part) for part in parts), np.uint64, len(lengths))

    def distance(self, other: _Picture) -> float:
        """Return the Jensen-Shannon distance of the words, 0 to 1; 1 where one of the two has none."""
        import numpy as np

        if not self.words.any() or not other.words.any():
            return float(self.words.any() != other.words.any())
        p, q = self.words / self.words.sum(), other.words / other.words.sum()
        middle = (p + q) / 2
        divergence = sum(
            float(np.sum(one[one > 0] * np.log2(one[one > 0] / middle[one > 0]))) for one in (p, q)
        )
        return round(float(np.sqrt(max(divergence / 2, 0.0))), 6)

    def share_not_in(self, other: _Picture) -> float:
        """Return the share of these conversations that the other does not have; 0 where there are none."""
        import numpy as np

        if not len(self.conversations):
            return 0.0
        return round(float(np.mean(~np.isin(self.conversations, other.conversations))), 6)
