"""What a person sees while stages run: lines on stdout, bars and words on stderr.

Bars are drawn where stderr is a terminal; elsewhere, and without a person looking, nothing is drawn.
The screen is the listener of `pipeline_lib.core.progress`.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

import typer

from pipeline_lib.core.progress import Bar

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

REFRESH_SECONDS = 0.1


class Screen:
    """Lines and bars that do not get in each other's way; what is shown goes when the block ends."""

    def __init__(self, *, lines: bool = True) -> None:
        """Open the screen; without ``lines`` stdout is left to what the caller writes there."""
        self._lines = lines
        self._looking = sys.stderr.isatty()
        self._drawn: Progress | None = None
        self._waiting: ShownBar | None = None
        self._open = 0

    def __enter__(self) -> Screen:
        """Return the screen itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take away what is drawn."""
        self._clear()

    def say(self, line: str = "") -> None:
        """Write a result line on stdout."""
        if self._lines:
            self._clear()
            typer.echo(line)

    def mention(self, line: str) -> None:
        """Write something that is no result on stderr."""
        self._clear()
        typer.echo(line, err=True)

    def busy(self, what: str) -> None:
        """Show that ``what`` is being worked on, until the next line."""
        if self._looking:
            self._waiting = ShownBar(self._progress(), what, None)

    def __call__(self, what: str, total: float | None) -> Bar:
        """Open a bar: the screen is a `progress.Listener`."""
        if not self._looking:
            return Unseen()
        if self._waiting:
            self._waiting.close()
            self._waiting = None
        return ShownBar(self._progress(), what, total)

    def _progress(self) -> Progress:
        if self._drawn is None:
            self._drawn = _new_progress()
            self._drawn.start()
        return self._drawn

    def _clear(self) -> None:
        self._waiting = None
        if self._drawn:
            self._drawn.stop()
            self._drawn = None


class ShownBar:
    """A bar on the terminal, moved ten times a second at most however often it is told to."""

    def __init__(self, progress: Progress, what: str, total: float | None) -> None:
        """Draw the bar at its beginning."""
        self._progress = progress
        self._id: TaskID = progress.add_task(what, total=total, note="")
        self._done, self._shown = 0.0, time.monotonic()

    def advance(self, amount: float) -> None:
        """Move on by ``amount`` of the total."""
        self._done += amount
        if time.monotonic() - self._shown >= REFRESH_SECONDS:
            self._shown = time.monotonic()
            self._progress.update(self._id, completed=self._done)

    def total(self, amount: float | None) -> None:
        """Say how long the whole is, where it is known by now."""
        if amount is not None:
            self._progress.update(self._id, total=amount)

    def note(self, text: str) -> None:
        """Show a few words beside the bar."""
        self._progress.update(self._id, completed=self._done, note=text)

    def close(self) -> None:
        """Take the bar away."""
        self._progress.update(self._id, visible=False)


class Unseen:
    """A bar where nobody looks."""

    def advance(self, amount: float) -> None:
        """Nobody looks."""

    def total(self, amount: float | None) -> None:
        """Nobody looks."""

    def note(self, text: str) -> None:
        """Nobody looks."""

    def close(self) -> None:
        """Nobody looks."""


def _new_progress() -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    # Stages may print through libraries; what they print must not end up in the bars.
    return Progress(
        *columns, console=Console(stderr=True), transient=True, redirect_stdout=False, redirect_stderr=True
    )
