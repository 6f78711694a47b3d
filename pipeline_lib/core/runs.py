"""Runs: which artifacts one execution of a pipeline used, as links ``runs/<pipeline>-<time>/<use>``.

A run is recorded while it goes on, so that what it has built is referred to even if it is killed.
`store.link_run` writes the links; this module names and reads them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from pipeline_lib.core.artifact import Artifact

RUNS = "runs"
_TIME = r"\d{8}-\d{6}(?:-\d+)?"


def new_run(root: Path, pipeline: str) -> str:
    """Return a name for a run of ``pipeline`` that starts now (UTC), and take it."""
    moment = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    for count in range(1, 1000):
        name = f"{pipeline}-{moment}" + (f"-{count}" if count > 1 else "")
        try:
            (root / RUNS / name).mkdir(parents=True)
        except FileExistsError:
            continue
        return name
    raise FileExistsError(f"{root / RUNS}: a thousand runs of {pipeline} started within one second")


def runs_of(root: Path, pipeline: str | None = None) -> list[Path]:
    """Return the recorded runs of one pipeline, or of all, newest first."""
    pattern = re.compile(rf"{re.escape(pipeline) if pipeline else '.+'}-{_TIME}")
    return newest_first([path for path in _entries(root / RUNS) if pattern.fullmatch(path.name)])


def newest_first(runs: Iterable[Path]) -> list[Path]:
    """Return runs by the time in their names, the newest first."""

    def started(run: Path) -> tuple[tuple[str, int], str]:
        return _moment(run.name.removeprefix(f"{pipeline_of(run)}-")), run.name

    return sorted(runs, key=started, reverse=True)


def pipeline_of(run: Path) -> str:
    """Return the name of the pipeline that a recorded run is one of."""
    return re.sub(rf"-{_TIME}$", "", run.name)


def _entries(directory: Path) -> Iterable[Path]:
    return directory.iterdir() if directory.is_dir() else ()


def _moment(text: str) -> tuple[str, int]:
    day, clock, *count = text.split("-")
    return f"{day}-{clock}", int(count[0]) if count else 1


def links(run: Path) -> dict[str, Path]:
    """Return the directories that a run's links stand for, there or not, by the name of the use."""
    named = {link.name: link for link in run.iterdir() if link.is_symlink() and not link.name.startswith(".")}
    return {name: Path(os.path.normpath(run / link.readlink())) for name, link in sorted(named.items())}


def run_with(
    root: Path, pipeline: str, artifacts: Mapping[str, Artifact], apart_from: Path | None = None
) -> Path | None:
    """Return the newest other run of ``pipeline`` that used all of ``artifacts`` under the same names."""
    wanted = {(name, Path(os.path.normpath(artifact.path))) for name, artifact in artifacts.items()}
    return next(
        (run for run in runs_of(root, pipeline) if run != apart_from and wanted <= set(links(run).items())),
        None,
    )


def forget(run: Path) -> None:
    """Remove a run's links; what they stand for stays."""
    for entry in run.iterdir():
        entry.unlink()
    run.rmdir()
