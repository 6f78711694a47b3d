"""A/B on logged traffic: which model answers a request, and what the log says about the two.

A log is JSON Lines: ``request`` (an id), ``good`` (whether the request went well, in whatever sense counts),
``milliseconds`` (how long it took), and where the server noted it ``arm`` (a or b). The arm of a request
follows from its id alone, so server and reader agree without a word, and a request that is repeated meets the
same model.

Shares are compared by the two-proportion z test with a pooled variance (Fleiss, Levin & Paik 2003,
Statistical Methods for Rates and Proportions, chapter 3), latencies, which are far from normal, by the
Mann-Whitney U test.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline_lib.core.errors import DataError
from pipeline_lib.evaluation.statistics import CONFIDENCE, share

Arm = Literal["a", "b"]
ARMS: tuple[Arm, Arm] = ("a", "b")
REQUIRED = ("request", "good", "milliseconds")
POWER = 0.8
"""How often a difference as large as asked for is to be found (Cohen 1988, section 2.4)."""


@dataclass(frozen=True)
class Request:
    """One answered request of the log."""

    arm: Arm
    good: bool
    milliseconds: float


def arm_of(request: str, share_of_b: float = 0.5, test: str = "") -> Arm:
    """Return which model answers a request; another ``test`` name deals the requests anew."""
    drawn = int.from_bytes(hashlib.sha256(f"{test}:{request}".encode()).digest()[:8], "big") / 2**64
    return "b" if drawn < share_of_b else "a"


def compare_arms(log: Path, share_of_b: float = 0.5, test: str = "", effect: float = 0.05) -> dict[str, Any]:
    """Return both arms' shares and latencies, how they differ and how surely, and how many requests it takes.

    ``effect`` is the difference of shares that must not go unseen. DataError where a line cannot be used, or
    an arm has no request.
    """
    requests = list(_read(log, share_of_b, test))
    by_arm = {arm: [one for one in requests if one.arm == arm] for arm in ARMS}
    for arm, some in by_arm.items():
        if not some:
            raise DataError(f"{log}: no request of arm {arm} among {len(requests)}; log both arms")
    arms = {arm: _arm(some) for arm, some in by_arm.items()}
    needed = needed_requests(arms["a"]["good"]["value"], effect)
    return {
        "arms": arms,
        "good": _shares_differ(by_arm["a"], by_arm["b"]),
        "milliseconds": _latencies_differ(by_arm["a"], by_arm["b"]),
        "needed": needed,
        "enough": min(len(some) for some in by_arm.values()) >= needed,
        "effect": effect,
    }


def needed_requests(share_of_a: float, effect: float) -> int:
    """Return how many requests each arm needs for a difference of ``effect`` to be found with power 0.8.

    Two-sided at 0.05; Fleiss, Levin & Paik 2003, chapter 4, without correction for continuity.
    """
    from scipy.stats import norm

    other = share_of_a + effect if share_of_a + effect <= 1 else share_of_a - effect
    mean = (share_of_a + other) / 2
    chance = norm.ppf(1 - (1 - CONFIDENCE) / 2) * math.sqrt(2 * mean * (1 - mean))
    power = norm.ppf(POWER) * math.sqrt(share_of_a * (1 - share_of_a) + other * (1 - other))
    return math.ceil(float(((chance + power) / effect) ** 2))


def _read(log: Path, share_of_b: float, test: str) -> Iterator[Request]:
    try:
        lines = log.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise DataError(f"{log}: cannot be read ({why}); name a JSON Lines file") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _request(f"{log}:{number}", line, share_of_b, test)


def _request(where: str, line: str, share_of_b: float, test: str) -> Request:
    try:
        row = json.loads(line)
        if not isinstance(row, dict):
            raise TypeError("not an object")
        if missing := [key for key in REQUIRED if key not in row]:
            raise DataError(f"{where}: has no {' and no '.join(missing)}; a line has {', '.join(REQUIRED)}")
        name, good, took = str(row["request"]), row["good"], float(row["milliseconds"])
    except (ValueError, TypeError) as error:
        raise DataError(f"{where}: is no request ({error}); a line has {', '.join(REQUIRED)}") from error
    if not isinstance(good, bool) or not (math.isfinite(took) and took >= 0):
        raise DataError(f"{where}: good is true or false, and milliseconds a number from 0 on")
    arm = arm_of(name, share_of_b, test)
    if row.get("arm", arm) != arm:
        raise DataError(
            f"{where}: request {name} was answered by arm {row['arm']}, and its id says {arm}; "
            "give the share and the name of the test that the server had"
        )
    return Request(arm, good, took)


def _arm(requests: Sequence[Request]) -> dict[str, Any]:
    import numpy as np

    median, most = np.quantile([one.milliseconds for one in requests], [0.5, 0.95])
    return {
        "good": share(sum(one.good for one in requests), len(requests)),
        "milliseconds": {"median": float(median), "p95": float(most)},
    }


def _shares_differ(a: Sequence[Request], b: Sequence[Request]) -> dict[str, float]:
    """Return b minus a with its interval, and the p-value of there being no difference."""
    from scipy.stats import norm

    first, second = (sum(one.good for one in arm) / len(arm) for arm in (a, b))
    pooled = (first * len(a) + second * len(b)) / (len(a) + len(b))
    error = math.sqrt(pooled * (1 - pooled) * (1 / len(a) + 1 / len(b)))
    apart = math.sqrt(first * (1 - first) / len(a) + second * (1 - second) / len(b))
    reach = float(norm.ppf(1 - (1 - CONFIDENCE) / 2)) * apart
    p_value = 2 * float(norm.sf(abs(second - first) / error)) if error else 1.0
    difference = second - first
    return {"value": difference, "low": difference - reach, "high": difference + reach, "p_value": p_value}


def _latencies_differ(a: Sequence[Request], b: Sequence[Request]) -> dict[str, float]:
    """Return how often b takes longer than a (1/2 is never sooner nor later), and the p-value."""
    from scipy.stats import mannwhitneyu

    found = mannwhitneyu([one.milliseconds for one in b], [one.milliseconds for one in a])
    return {"b_slower": float(found.statistic) / (len(a) * len(b)), "p_value": float(found.pvalue)}
