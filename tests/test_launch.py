"""A child names its failure, and its parent knows it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.launch import DeviceMemoryError, run_child

CHILD = """
from pipeline_lib.launch import child_main

def work(spec, tell):
    import torch
    torch.empty(2**52)

child_main(work)
"""


def test_a_cpu_with_too_little_memory_is_a_device_with_too_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "child_that_wants_petabytes.py").write_text(CHILD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    spec: dict[str, Any] = {"device": "cpu", "config": {}}
    with pytest.raises(DeviceMemoryError, match="can't allocate memory"):
        run_child("child_that_wants_petabytes", spec, tmp_path / "work", "train")
