"""Drift: the distance is SciPy's, the share is counted by hand, and the verdict follows the limits."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.spatial.distance import jensenshannon

from pipeline_lib.core.output import Output
from pipeline_lib.curation.drift import DriftConfig, drift
from pipeline_lib.kinds import Dataset

OLD = ["north wind and rain", "south wind and sun", "snow on the hill"]
NEW = ["north wind and rain", "stock prices fell today", "the market closed early"]


def dataset(place: Path, texts: list[str]) -> Dataset:
    place.mkdir()
    rows = [{"messages": [{"role": "user", "content": text}]} for text in texts]
    pq.write_table(pa.Table.from_pylist(rows), place / "train-00000.parquet")
    return Dataset(place, "digest")


def told(tmp_path: Path, old: list[str], new: list[str], **limits: float) -> tuple[dict[str, float], bool]:
    out = Output("drift", tmp_path / "out", tmp_path / "work")
    out.path.mkdir()
    drift.function(out, DriftConfig(**limits), dataset(tmp_path / "old", old), dataset(tmp_path / "new", new))
    verdict = json.loads((out.path / "verdict.json").read_text())
    assert verdict["open"] == out.stats["open"]
    return {rule["rule"]: rule["value"] for rule in verdict["rules"]}, verdict["open"]


def test_the_same_data_have_not_changed(tmp_path: Path) -> None:
    assert told(tmp_path, OLD, OLD) == ({"distance": 0.0, "new_share": 0.0}, False)


def test_the_distance_is_that_of_scipy_and_the_share_is_counted(tmp_path: Path) -> None:
    found, changed = told(tmp_path, OLD, NEW)
    counts = [Counter(" ".join(texts).split()) for texts in (OLD, NEW)]
    words = sorted(set(counts[0]) | set(counts[1]))
    expected = jensenshannon(*([count[word] for word in words] for count in counts), base=2)
    assert found["distance"] == pytest.approx(expected, abs=1e-6)
    assert found["new_share"] == pytest.approx(2 / 3, abs=1e-6)
    assert changed


def test_either_limit_is_enough_and_below_both_nothing_changed(tmp_path: Path) -> None:
    assert told(tmp_path, OLD, NEW, distance=1.0, new_share=0.9)[1] is False
