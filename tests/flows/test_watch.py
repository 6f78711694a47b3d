"""What Prefect's progress artifact says of the time that is left."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from flows import watch


def test_the_time_left_follows_the_pace_since_the_first_move(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(watch, "SECONDS", 1e9)
    bar = watch.ProgressBar("train", 400)
    # A resumed training begins where an earlier try was: that is no pace.
    bar.advance(100)
    assert bar._left() == ""
    clock[0] = 30.0
    bar.advance(50)
    assert bar._left() == "2 min 30 s left"
    bar.advance(250)
    assert bar._left() == ""
