"""The GPU benchmark walks its way on a CPU at toy size, and says in a line that its figures need a GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import gpu, gpu_work
from benchmarks.harness import main


def test_without_a_gpu_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(SystemExit, match="needs an NVIDIA GPU; --toy") as told:
        main("gpu", gpu.cases, {"toy": ""}, [])
    assert "\n" not in str(told.value)


def test_the_tokens_fill_the_rows_and_packing_changes_no_logit(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    size = gpu.TOY_SIZE
    gpu_work.make(str(tmp_path), json.dumps(size.shape), str(size.sequence), str(size.rows * size.steps))
    lengths = [len(ids) for ids in pq.read_table(tmp_path / "tokens" / "train-00000.parquet")["input_ids"]]
    assert sum(lengths) >= size.rows * size.steps * size.sequence
    assert max(lengths) <= size.sequence // 2
    for kernel in gpu_work.parity(str(tmp_path)):
        assert kernel["skipped"] is None
        assert kernel["difference"] <= gpu.SAME[kernel["precision"]]


def test_both_products_are_timed() -> None:
    found = gpu_work.four_bits("fp32", *map(str, gpu.TOY_SIZE.matrix))
    assert found["nf4"] > 0
    assert found["plain"] > 0


@pytest.mark.slow
def test_every_case_is_measured_at_toy_size(tmp_path: Path) -> None:
    main("gpu", gpu.cases, {"toy": ""}, ["--toy", "--json", "--output", str(tmp_path)])
    cases = json.loads((tmp_path / "gpu.json").read_text())["cases"]
    skipped = [case["name"] for case in cases if "skipped" in case]
    assert skipped == ["out of memory: half the rows, and on"]
    assert all(case["ours"] > 0 for case in cases if "skipped" not in case)
    assert {case["name"].split(",")[0] for case in cases} >= {"lora", "qlora", "full", "matrix rate"}
    assert all(case["name"] in (tmp_path / "gpu.txt").read_text() for case in cases)
