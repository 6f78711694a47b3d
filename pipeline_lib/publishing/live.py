"""Live: a training's curves and the machine's load in MLflow, while it trains.

A process of its own reads the training's journal and sends what is new: nothing waits for it, and nothing
fails with it. Where MLflow is away the journal keeps the points, which are sent once it is back. The run it
writes is a draft beside the pipeline's own, which `tracking` writes complete when all is done and which then
takes the draft in as the nested run ``training``. The draft of a pipeline that failed stays, marked FAILED.
"""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_lib.core.errors import FinetuneError
from pipeline_lib.kinds import HISTORY

if TYPE_CHECKING:
    from mlflow import MlflowClient

SECONDS = 2.0
"""Between two looks at the journal."""
AWAY_SECONDS, AWAY_TRIES = 15.0, 20
"""Until a registry that did not answer is asked again; how often, once there is nothing more to tell it."""
TAG = "training"
"""Names the fingerprint of the training whose draft a run is."""


class Follower:
    """The parent's side: starts the process with a training, and tells it how that ended."""

    def __init__(self, experiment: str) -> None:
        """Follow nothing yet."""
        self._experiment = experiment
        self._child: subprocess.Popen[str] | None = None

    def follow(self, work: Path, fingerprint: str) -> None:
        """Send the points of the training that works in ``work`` until `trained` or `leave`."""
        self.leave()
        spec = {"journal": str(work / HISTORY), "experiment": self._experiment, "fingerprint": fingerprint}
        self._child = subprocess.Popen(
            [sys.executable, "-m", __name__, json.dumps(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        # It ends when it has sent everything, which nobody waits for.
        threading.Thread(target=self._child.wait, daemon=True).start()

    def trained(self, history: Path) -> None:
        """Say that the training is done and where its whole journal is now."""
        self._tell({"history": str(history)})

    def belongs_to(self, run_id: str) -> None:
        """Say which run tells of the whole pipeline; the draft goes below it."""
        self._tell({"parent": run_id})

    def leave(self) -> None:
        """Let the process end; a draft that was not told of a parent is marked FAILED."""
        if self._child is not None and self._child.stdin is not None:
            with contextlib.suppress(OSError):
                self._child.stdin.close()
        self._child = None

    def _tell(self, news: dict[str, str]) -> None:
        if self._child is not None and self._child.stdin is not None:
            with contextlib.suppress(OSError):  # it has ended: MLflow refused what it wrote
                self._child.stdin.write(json.dumps(news) + "\n")
                self._child.stdin.flush()


class Draft:
    """The child's side: one run that gets each point of the journal once."""

    def __init__(self, spec: dict[str, str]) -> None:
        """Begin with nothing sent."""
        self.spec = spec
        self.journal = Path(spec["journal"])
        self.run_id: str | None = None
        self.parent: str | None = None
        self.is_over = False
        """Whether the pipeline has ended, one way or another."""
        self._sent: set[tuple[str, int]] = set()

    def send(self, client: MlflowClient) -> None:
        """Send the points that are new; the run is made with the first of them."""
        from pipeline_lib.publishing.figures import curves, taken
        from pipeline_lib.publishing.tracking import METRICS_PER_CALL, chunks

        points = {(name, step): (name, value, step) for name, value, step in curves(self.journal)}
        fresh = [key for key in points if key not in self._sent]
        if not fresh:
            return
        if self.run_id is None:
            self.run_id = self._made(client)
        for some in chunks(fresh, METRICS_PER_CALL):
            client.log_batch(self.run_id, metrics=taken(points[key] for key in some))
            self._sent.update(some)

    def hear(self, news: dict[str, str] | None) -> None:
        """Take in what the parent process said; None where it says no more."""
        if news is None:
            self.is_over = True
            return
        self.journal = Path(news.get("history", self.journal))
        self.parent = news.get("parent", self.parent)

    def end(self, client: MlflowClient) -> None:
        """Close the run, below the pipeline's where there is one."""
        from pipeline_lib.publishing.tracking import PARENT_TAG, end_run

        if self.run_id is None:
            return
        if self.parent is not None:
            client.set_tag(self.run_id, PARENT_TAG, self.parent)
        end_run(client, self.run_id, "FAILED" if self.parent is None else "FINISHED")

    def _made(self, client: MlflowClient) -> str:
        """Make the run, in the place of drafts that earlier tries of the same training left."""
        from pipeline_lib.publishing.tracking import SOURCE, SOURCE_TAG, discard, experiment_id

        experiment = experiment_id(client, self.spec["experiment"])
        for earlier in client.search_runs([experiment], f"tags.{TAG} = '{self.spec['fingerprint']}'"):
            if earlier.info.status in ("RUNNING", "FAILED"):
                discard(client, earlier.info.run_id)
        tags = {"mlflow.runName": "training", SOURCE_TAG: SOURCE, TAG: self.spec["fingerprint"]}
        run_id: str = client.create_run(experiment, tags=tags).info.run_id
        return run_id


def main() -> None:
    """Follow the journal that the command line names until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it, and closes the pipe
    draft, news = Draft(json.loads(sys.argv[1])), _news()
    tries = AWAY_TRIES
    while tries:
        try:
            _follow(draft, news)
            return
        except FinetuneError:
            tries -= draft.is_over
            time.sleep(AWAY_SECONDS)


def _follow(draft: Draft, news: queue.Queue[dict[str, str] | None]) -> None:
    """Send what is new until the pipeline has ended; ServiceError where MLflow does not answer."""
    from pipeline_lib.publishing.connection import connected

    with connected() as client, contextlib.ExitStack() as load:
        is_watched, begun = False, draft.journal
        while not draft.is_over:
            draft.send(client)
            if draft.run_id and not is_watched:
                is_watched = True
                load.enter_context(_system_metrics(draft.run_id))
            with contextlib.suppress(queue.Empty):
                draft.hear(news.get(timeout=SECONDS))
            if draft.journal != begun:
                load.close()
        draft.send(client)
        draft.end(client)


@contextlib.contextmanager
def _system_metrics(run_id: str) -> Iterator[None]:
    """Have MLflow log the load of processor, memory, disk, network and GPUs every ten seconds."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor: Any = SystemMetricsMonitor(run_id)  # type: ignore[no-untyped-call]
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()


def _news() -> queue.Queue[dict[str, str] | None]:
    """Return what the parent says, a line at a time; None once it says no more, or is no more."""
    found: queue.Queue[dict[str, str] | None] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            found.put(json.loads(line))
        found.put(None)

    threading.Thread(target=listen, daemon=True).start()
    return found


if __name__ == "__main__":
    main()
