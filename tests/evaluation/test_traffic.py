"""An A/B log is dealt by request id, and compared as the textbooks do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2_contingency
from typer.testing import CliRunner

from flows.cli import app
from pipeline_lib.core.errors import DataError
from pipeline_lib.evaluation.traffic import arm_of, compare_arms, needed_requests


def log_of(path: Path, good: dict[str, float], took: dict[str, float], count: int = 4000) -> Path:
    """A log in which both arms have their own share of good requests and their own latency."""
    draw = np.random.default_rng(5)
    with path.open("w") as file:
        for i in range(count):
            arm = arm_of(f"r{i}")
            row = {
                "request": f"r{i}",
                "arm": arm,
                "good": bool(draw.random() < good[arm]),
                "milliseconds": float(draw.lognormal(np.log(took[arm]), 0.5)),
            }
            file.write(json.dumps(row) + "\n")
    return path


@given(st.text(min_size=1), st.text())
def test_a_request_keeps_its_arm_and_a_larger_share_takes_none_away(request: str, test: str) -> None:
    assert arm_of(request, 0.0, test) == "a"
    assert arm_of(request, 1.0, test) == "b"
    taken = [share for share in np.linspace(0, 1, 21) if arm_of(request, share, test) == "b"]
    assert taken == [share for share in np.linspace(0, 1, 21) if share >= min(taken)]


def test_arms_get_their_share_and_another_test_deals_anew() -> None:
    names = [f"request {i}" for i in range(20_000)]
    first = [arm_of(name, 0.2) == "b" for name in names]
    second = [arm_of(name, 0.2, "second") == "b" for name in names]
    assert np.mean(first) == pytest.approx(0.2, abs=0.01)
    assert np.mean(np.array(first) & np.array(second)) == pytest.approx(0.04, abs=0.006)


def test_a_better_and_slower_model_is_found_to_be_so(tmp_path: Path) -> None:
    log = log_of(tmp_path / "log.jsonl", {"a": 0.7, "b": 0.76}, {"a": 200, "b": 230})
    found = compare_arms(log)
    good = found["good"]
    assert 0 < good["low"] < good["value"] < good["high"]
    counts = [
        [one["good"]["count"], one["good"]["of"] - one["good"]["count"]] for one in found["arms"].values()
    ]
    assert good["p_value"] == pytest.approx(chi2_contingency(counts, correction=False).pvalue, rel=1e-9)
    assert found["milliseconds"]["p_value"] < 1e-6
    assert 0.5 < found["milliseconds"]["b_slower"] < 0.7
    assert found["enough"]


def test_arms_alike_are_not_told_apart(tmp_path: Path) -> None:
    found = compare_arms(log_of(tmp_path / "log.jsonl", {"a": 0.7, "b": 0.7}, {"a": 200, "b": 200}))
    assert found["good"]["low"] < 0 < found["good"]["high"]
    assert min(found["good"]["p_value"], found["milliseconds"]["p_value"]) > 0.05


@pytest.mark.parametrize(
    ("share", "effect", "needed"), [(0.5, 0.1, 388), (0.1, 0.05, 686), (0.97, 0.05, 326)]
)
def test_the_least_sample_finds_the_effect_four_times_in_five(
    share: float, effect: float, needed: int
) -> None:
    """The first two are in every textbook; the power is simulated."""
    assert needed_requests(share, effect) == pytest.approx(needed, rel=0.02)
    other = share + effect if share + effect <= 1 else share - effect
    size = needed_requests(share, effect)
    draw = np.random.default_rng(1)
    a, b = (draw.binomial(size, p, 4000) / size for p in (share, other))
    pooled = (a + b) / 2
    z = np.abs(a - b) / np.sqrt(np.maximum(pooled * (1 - pooled) * 2 / size, 1e-12))
    assert np.mean(z > 1.96) == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "is no request"),
        ("[]", "is no request .not an object"),
        ("{}", "has no request and no good and no milliseconds;"),
        ('{"request": "x", "good": true}', "has no milliseconds;"),
        ('{"request": "x", "good": true, "milliseconds": "soon"}', "is no request"),
        ('{"request": "x", "good": "yes", "milliseconds": 3}', "true or false"),
        ('{"request": "x", "good": true, "milliseconds": -1}', "from 0 on"),
        ('{"request": "x", "good": true, "milliseconds": 1, "arm": "c"}', "its id says"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path: Path, line: str, says: str) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"request": "r1", "good": true, "milliseconds": 5}\n\n' + line + "\n")
    with pytest.raises(DataError, match=says) as caught:
        compare_arms(log)
    assert "log.jsonl:3" in str(caught.value)


def test_one_arm_alone_is_no_comparison(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"request": "r1", "good": true, "milliseconds": 5}\n')
    with pytest.raises(DataError, match="no request of arm"):
        compare_arms(log)


def test_the_command_tells_whether_there_are_enough_requests(tmp_path: Path) -> None:
    log = log_of(tmp_path / "log.jsonl", {"a": 0.7, "b": 0.7}, {"a": 200, "b": 200}, count=200)
    told = CliRunner().invoke(app, ["ab", str(log)])
    assert told.exit_code == 0
    assert "too few requests" in told.output
    read: dict[str, Any] = json.loads(CliRunner().invoke(app, ["ab", str(log), "--json"]).output)
    assert read["arms"]["a"]["good"]["of"] + read["arms"]["b"]["good"]["of"] == 200
