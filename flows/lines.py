"""How a stage reads in one line: what came of it, and why it is to be built."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline_lib.core.artifact import Artifact
from pipeline_lib.core.plan import Step

SUMMARY_WIDTH = 48
COLOURS = {
    "built": "green",
    "build": "yellow",
    "waits": "yellow",
    "missing": "yellow",
    "ok": "green",
    "note": "yellow",
    "bad": "red",
}
HEADLINES: Mapping[str, Sequence[tuple[str, str]]] = {
    "Dataset": [(part, part) for part in ("kept", "train", "validation", "test", "dropped")],
    "Adapter": [("train_loss", "loss"), ("eval_loss", "validation loss"), ("steps", "steps")],
    "Model": [
        ("train_loss", "loss"),
        ("eval_loss", "validation loss"),
        ("steps", "steps"),
        ("parameters", "parameters"),
        ("files", "files"),
    ],
    "Evaluation": [
        ("perplexity", "perplexity"),
        ("rougeL", "ROUGE-L"),
        ("stopped", "stopped"),
    ],
    "Profile": [("train", "train"), ("tokens_to_train_on", "tokens"), ("warnings", "warnings")],
    "Registration": [("name", ""), ("version", "version")],
}
"""Which stats say most about an artifact of each kind: the key, and the word before the figure."""


def result_line(step: Step, width: int) -> str:
    """Return ``deduplicate  26cb8d75ac9b  built   kept 812  dropped 48  1.3 s``, the name ``width`` wide."""
    assert step.artifact
    line = (
        f"{step.name:<{width}}  {step.artifact.fingerprint[:12]}  {paint(f'{step.status:<6}', step.status)}  "
    )
    told = summary(step.artifact)
    return (
        f"{line}{told:<{SUMMARY_WIDTH}}  {duration(step.seconds):>7}"
        if step.status == "built"
        else line + told
    ).rstrip()


def plan_line(step: Step, width: int) -> str:
    """Return ``deduplicate  build (config.threshold 0.8 -> 0.9)``, ``… cached`` or ``… depends on …``."""
    if step.status == "waits":
        return f"{step.name:<{width}}  {paint(step.reason, 'waits')}"
    reason = f" ({step.reason})" if step.status == "build" else ""
    return f"{step.name:<{width}}  {paint(step.status, step.status)}{reason}"


def summary(artifact: Artifact) -> str:
    """Return the figures of an artifact that matter most, from its manifest."""
    stats, kind = artifact.manifest.stats, artifact.manifest.kind
    if kind == "Tokens":
        return "  ".join(_tokens(stats))
    if kind == "Verdict":
        return f"gate {'open' if stats.get('open') else 'closed'}" if "open" in stats else ""
    chosen = [
        f"{word} {figure(stats[key])}".strip()
        for key, word in HEADLINES.get(kind, ())
        if _is_plain(stats.get(key))
    ]
    if kind == "Registration":
        return " ".join([*chosen, *(f"@{alias}" for alias in stats.get("aliases", ()))])
    return "  ".join(
        chosen
        or [f"{key.replace('_', ' ')} {figure(value)}" for key, value in stats.items() if _is_plain(value)][
            :3
        ]
    )


def _tokens(stats: Mapping[str, Any]) -> Iterator[str]:
    parts = [part for part in stats.values() if isinstance(part, Mapping)]
    for key, word in (("kept", "kept"), ("dropped", "dropped"), ("tokens", "tokens")):
        figures = [part[key] for part in parts if key in part]
        if figures:
            yield f"{word} {sum(figures)}"


def _is_plain(value: Any) -> bool:
    return isinstance(value, int | float | str) and not isinstance(value, bool) and len(str(value)) <= 40


def figure(value: Any) -> str:
    """Return a number as a person reads it: whole ones whole, others to four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """Return a time as a person reads it: ``1.3 s``, ``12 min 05 s``, ``3 h 20 min``."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = int(seconds + 0.5) // 60
    return (
        f"{minutes} min {int(seconds + 0.5) % 60:02d} s"
        if minutes < 60
        else f"{minutes // 60} h {minutes % 60:02d} min"
    )


def size(count: float) -> str:
    """Return a number of bytes as a person reads it, in powers of 1,000."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def paint(text: str, status: str) -> str:
    """Return ``text`` in the colour of a status; what is not a terminal gets it plain from `typer.echo`."""
    import typer

    colour = COLOURS.get(status)
    return typer.style(text, fg=colour) if colour and not os.environ.get("NO_COLOR") else text


def plan_lines(steps: Sequence[Step]) -> list[str]:
    """Return a plan as lines: every stage, what is worth knowing about it, and the count."""
    width = max(len(step.name) for step in steps)
    due = sum(step.status != "cached" for step in steps)
    notes = [f"note: {step.notice}" for step in steps if step.notice]
    count = (
        f"{due} of {len(steps)} stages to build, or fewer where a stage comes out the same"
        if due
        else "nothing to do"
    )
    return [*(plan_line(step, width) for step in steps), *notes, count]


def artifact_lines(steps: Sequence[Step], root: Path) -> list[str]:
    """Return every stage with its artifact's place and figures."""
    width = max(len(step.name) for step in steps)
    lines = []
    for step in steps:
        status = "missing" if step.status == "build" else step.status
        told = summary(step.artifact) if step.artifact else step.reason
        state = paint(f"{status:<7}", status)
        lines.append(f"{step.name:<{width}}  {step.fingerprint[:12] or '-':<12}  {state}  {told}".rstrip())
    return [*lines, "", f"store  {root}"]


def table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield rows of cells as lines, each column as wide as its widest cell."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
