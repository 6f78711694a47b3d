"""What an A/B test on logged traffic came to, as lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from flows.lines import table


def lines_of(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield both arms as a table, how they differ, and whether the log is long enough to tell."""
    rows = [("arm", "requests", "good", "interval", "median ms", "95 % ms")]
    for arm, one in found["arms"].items():
        good, took = one["good"], one["milliseconds"]
        interval = f"{good['low']:.1%} … {good['high']:.1%}"
        shown = (f"{good['value']:.1%}", interval, f"{took['median']:.1f}", f"{took['p95']:.1f}")
        rows.append((arm, f"{good['of']:,}", *shown))
    yield from table(rows)
    good, took = found["good"], found["milliseconds"]
    yield ""
    bounds = f"{good['low']:+.1%} … {good['high']:+.1%}"
    yield f"good          b {good['value']:+.1%} ({bounds}), p = {good['p_value']:.3g}"
    yield f"milliseconds  b slower in {took['b_slower']:.1%} of pairs, p = {took['p_value']:.3g}"
    state = "enough" if found["enough"] else "too few"
    yield (
        f"{state} requests: {found['needed']:,} an arm find a difference of {found['effect']:.1%} "
        "four times in five"
    )
