"""What Prefect's UI shows of a run: log lines, progress, the funnel, the report, the way to MLflow."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

from flows.lines import duration
from flows.screen import Screen
from pipeline_lib.core.progress import Bar
from pipeline_lib.kinds import Dataset, Profile, Registration, Report
from pipeline_lib.pages.funnel import FunnelRow, funnel

if TYPE_CHECKING:
    from uuid import UUID

    from flows.run import Outcome

SECONDS = 5.0
"""Between two writings of a bar, and until the first: short work leaves no bar."""


class Watch(Screen):
    """A screen within a Prefect flow run: lines go to its log, bars are progress artifacts."""

    def __init__(self) -> None:
        """Begin to watch."""
        super().__init__(lines=False)

    def say(self, line: str = "") -> None:
        """Write a result line to the run's log."""
        self.mention(line)

    def mention(self, line: str) -> None:
        """Write a line to the run's log."""
        from prefect import get_run_logger

        if line:
            get_run_logger().info(_plain(line))

    def busy(self, what: str) -> None:
        """The task runs show what is being worked on."""

    def __call__(self, what: str, total: float | None) -> Bar:
        """Open a bar."""
        return ProgressBar(what, total)


class ProgressBar:
    """A progress artifact, made and moved every few seconds at most."""

    def __init__(self, what: str, total: float | None) -> None:
        """Begin at nothing; the artifact is made when the work has lasted a while."""
        self._what, self._total, self._note = what, total, ""
        self._done, self._shown = 0.0, time.monotonic()
        self._first: tuple[float, float] | None = None
        self._id: UUID | None = None

    def advance(self, amount: float) -> None:
        """Move on by ``amount`` of the total."""
        self._done += amount
        # The first move may be over what an earlier try had done.
        self._first = self._first or (time.monotonic(), self._done)
        self._show()

    def total(self, amount: float | None) -> None:
        """Say how long the whole is, where it is known by now."""
        self._total = amount if amount is not None else self._total

    def note(self, text: str) -> None:
        """Show a few words beside the bar."""
        self._note = text
        self._show()

    def close(self) -> None:
        """Leave the bar where it ended."""
        if self._id:
            self._write()

    def _show(self) -> None:
        if self._total and time.monotonic() - self._shown >= SECONDS:
            self._shown = time.monotonic()
            self._write()

    def _write(self) -> None:
        from httpx import HTTPError
        from prefect.artifacts import create_progress_artifact, update_progress_artifact

        share = min(100.0, 100 * self._done / self._total) if self._total else 0.0
        words = "  ".join(filter(None, (self._what, self._note, self._left())))
        try:
            if self._id is None:
                made: Any = create_progress_artifact(share, key=slug(self._what), description=words)
                self._id = made
            else:
                update_progress_artifact(self._id, share, description=words)
        except HTTPError:
            return  # a picture of the work; the work goes on without it

    def _left(self) -> str:
        """Return how long the rest takes at the pace since the first move, where that is known."""
        since, began = self._first or (0.0, 0.0)
        if not self._total or self._done <= began or self._done >= self._total:
            return ""
        pace = (time.monotonic() - since) / (self._done - began)
        return f"{duration(pace * (self._total - self._done)).strip()} left"


def slug(text: str) -> str:
    """Return ``text`` as the key of an artifact: small letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _plain(line: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", line)


def leave(outcome: Outcome) -> None:
    """Leave funnel, profile, report and link of a run beside it in Prefect's UI."""
    from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

    artifacts = {step.name: step.artifact for step in outcome.steps if step.artifact}
    rows = funnel((name, one.manifest.stats) for name, one in artifacts.items() if isinstance(one, Dataset))
    if rows:
        create_table_artifact(
            list(map(_funnel_cells, rows)),
            key="funnel",
            description="Conversations that each stage read, kept and dropped.",
        )
    for name, artifact in artifacts.items():
        if isinstance(artifact, Report):
            text = artifact.file("report.md").read_text(encoding="utf-8")
            create_markdown_artifact(text, key=slug(name), description="Report of this run.")
        if isinstance(artifact, Profile):
            text = artifact.file("profile.md").read_text(encoding="utf-8")
            create_markdown_artifact(text, key=slug(name), description="The data before and after curation.")
        if isinstance(artifact, Registration):
            from tasks.registry import run_url

            read = artifact.read()
            if url := run_url(read["run_id"]):
                create_link_artifact(
                    url,
                    f"{read['name']} version {read['version']} in MLflow",
                    key="mlflow",
                    description="The MLflow run behind the registered version.",
                )


def _funnel_cells(row: FunnelRow) -> dict[str, Any]:
    """Return a row of the funnel as Prefect shows it, with the most frequent reasons."""
    return {
        "stage": row.stage,
        "read": row.read,
        "kept": row.kept,
        "dropped": row.dropped,
        "most frequent reasons": ", ".join(f"{reason} {count}" for reason, count, _ in row.reasons[:3]),
    }
