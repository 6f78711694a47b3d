"""Charts as inline SVG: curves and histograms whose colours follow the page's light or dark theme.

Drawn by hand and not by matplotlib because the page must be one self-contained file whose bytes are the
same on every machine, whatever fonts there are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 560, 250
LEFT, RIGHT, TOP, BOTTOM = 58, 24, 14, 40
MOST_POINTS = 400
BINS = 24


@dataclass(frozen=True)
class Series:
    """One curve: its name and its points."""

    name: str
    points: Sequence[tuple[float, float]]


def curves(series: Sequence[Series], across: str, up: str) -> Markup:
    """Return the curves over whole numbers, such as steps; empty where no series has a finite point."""
    drawn = [Series(s.name, _thinned([p for p in s.points if math.isfinite(p[1])])) for s in series]
    drawn = [s for s in drawn if s.points]
    if not drawn:
        return Markup()
    xs = [x for s in drawn for x, _ in s.points]
    ys = [y for s in drawn for _, y in s.points]
    frame = _Frame(ticks(min(xs), max(xs), unit=1), ticks(min(ys), max(ys)))
    lines = Markup().join(_line(s, i, frame) for i, s in enumerate(drawn))
    return _svg(frame, lines, [s.name for s in drawn], across, up)


def histogram(groups: Sequence[tuple[str, Sequence[int]]], across: str, up: str) -> Markup:
    """Return the groups' distributions side by side in common bins, as shares of each group.

    The axis ends at the 99th percentile of all values; what lies beyond is counted in the last bin.
    """
    filled = [(name, values) for name, values in groups if values]
    if not filled:
        return Markup()
    everything = sorted(v for _, values in filled for v in values)
    top = everything[math.ceil(0.99 * len(everything)) - 1]
    width = max(1, math.ceil((top + 1) / BINS))
    bins = top // width + 1
    shares = [_shares(values, width, bins) for _, values in filled]
    frame = _Frame(ticks(0, bins * width, unit=1), ticks(0, max(max(s) for s in shares)))
    bars = Markup().join(_bars(s, i, len(shares), width, frame) for i, s in enumerate(shares))
    return _svg(frame, bars, [name for name, _ in filled], across, up)


def _shares(values: Sequence[int], width: int, bins: int) -> list[float]:
    counts = [0] * bins
    for value in values:
        counts[min(value // width, bins - 1)] += 1
    return [100 * count / len(values) for count in counts]


def ticks(low: float, high: float, count: int = 5, unit: float | None = None) -> list[float]:
    """Return about ``count`` round numbers that enclose ``low`` and ``high``, each a multiple of ``unit``."""
    if high <= low:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    rough = max((high - low) / count, unit or 0)
    power = 10.0 ** math.floor(math.log10(rough))
    steps = (m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    step = next(step for step in steps if unit is None or step % unit == 0)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def tick_text(value: float) -> str:
    """Return an axis label: no trailing zeros, powers of ten where the number is tiny."""
    if value and abs(value) < 1e-3:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:,.10g}" if abs(value) >= 1000 else f"{value:.6g}"


class _Frame:
    """Maps data to pixels within the axes."""

    def __init__(self, across: list[float], up: list[float]) -> None:
        self.across, self.up = across, up

    def x(self, value: float) -> float:
        low, high = self.across[0], self.across[-1]
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        low, high = self.up[0], self.up[-1]
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(points) <= MOST_POINTS:
        return list(points)
    return [points[round(i * (len(points) - 1) / (MOST_POINTS - 1))] for i in range(MOST_POINTS)]


def _line(series: Series, index: int, frame: _Frame) -> Markup:
    spots = [(frame.x(x), frame.y(y)) for x, y in series.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in spots) if len(spots) <= 15 else ""
    return Markup(f'<g class="line c{index}"><polyline points="{path}"/>{dots}</g>')


def _bars(shares: Sequence[float], index: int, groups: int, width: int, frame: _Frame) -> Markup:
    step = frame.x(width) - frame.x(0)
    wide = max(1.0, (step - 1) / groups)
    rects = []
    for i, share in enumerate(shares):
        top = frame.y(share)
        if share:
            left = frame.x(i * width) + 0.5 + index * wide
            rects.append(
                f'<rect x="{left:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{frame.y(0) - top:.1f}"/>'
            )
    return Markup(f'<g class="bar c{index}">{"".join(rects)}</g>')


def _svg(frame: _Frame, content: Markup, names: Sequence[str], across: str, up: str) -> Markup:
    label = escape(f"{up} over {across}: {', '.join(names)}")
    figure = Markup(
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        f"{_axes(frame, across)}{content}</svg>"
    )
    keys = Markup().join(
        Markup('<span class="key c{}">{}</span>').format(i, name) for i, name in enumerate(names)
    )
    caption = Markup("<figcaption><b>{}</b>{}</figcaption>").format(up, keys)
    return Markup("<figure>{}{}</figure>").format(caption, figure)


def _axes(frame: _Frame, across: str) -> Markup:
    floor, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for value in frame.up:
        y = frame.y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="end" x="{LEFT - 8}" y="{y + 4:.1f}">{tick_text(value)}</text>')
    for value in frame.across:
        parts.append(
            f'<text class="middle" x="{frame.x(value):.1f}" y="{floor + 17}">{tick_text(value)}</text>'
        )
    parts.append(
        f'<text class="middle" x="{(LEFT + right) / 2:.1f}" y="{HEIGHT - 5}">{escape(across)}</text>'
    )
    return Markup("".join(parts))
