"""What every test shares: no network, no settings from outside, a home of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from hypothesis import settings as hypothesis_settings

from pipeline_lib import settings

# A first example may compile a kernel, and a machine may be busy: how long one takes is no claim here.
hypothesis_settings.register_profile("untimed", deadline=None)
hypothesis_settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let every test have its own store, registry and memo, and none of the user's settings."""
    for name in list(os.environ):
        if name.startswith(("FINETUNE_", "MLFLOW_", "PREFECT_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("FINETUNE_STORE", str(tmp_path / "home" / "store"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'home' / 'mlflow.db'}")
    settings.settings.cache_clear()
    yield
    settings.settings.cache_clear()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Let tiny matrices not wait for a second thread."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
