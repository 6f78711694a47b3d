"""Live: a training's curves and the machine's load in MLflow, while it trains.

A process of its own reads the training's journal and sends what is new: nothing waits for it, and nothing
fails with it. Where MLflow is away the journal keeps the points, which are sent once it is back. The run it
writes is named ``training`` and stands by itself until `register` writes the pipeline's own, complete, and
takes it in below that one. Where the training failed it stays, marked FAILED.
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
from collections.abc import Callable, Iterator
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


@contextlib.contextmanager
def followed(experiment: str, work: Path, fingerprint: str) -> Iterator[Callable[[Path], None]]:
    """Send the points of the training that works in ``work`` while the block lasts.

    Give a way to say that it is done, and where its whole journal is now; without that it has failed. The
    sending process ends when it has sent everything, which nobody waits for.
    """
    spec = {"journal": str(work / HISTORY), "experiment": experiment, "fingerprint": fingerprint}
    child = subprocess.Popen(
        [sys.executable, "-m", __name__, json.dumps(spec)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    threading.Thread(target=child.wait, daemon=True).start()
    assert child.stdin
    pipe = child.stdin

    def trained(history: Path) -> None:
        with contextlib.suppress(OSError):  # it has ended: MLflow refused what it wrote
            pipe.write(f"{history}\n")

    try:
        yield trained
    finally:
        with contextlib.suppress(OSError):
            pipe.close()


def take_in(client: MlflowClient, run_id: str, fingerprint: str) -> None:
    """Put what was written of a training, here or on another machine, below the run of its pipeline.

    What belongs to an earlier run, which trained it, stays there.
    """
    from pipeline_lib.publishing.tracking import PARENT_TAG

    experiment = client.get_run(run_id).info.experiment_id
    for draft in client.search_runs([experiment], f"tags.{TAG} = '{fingerprint}'"):
        if PARENT_TAG not in draft.data.tags:
            client.set_tag(draft.info.run_id, PARENT_TAG, run_id)


class Draft:
    """The child's side: one run that gets each point of the journal once."""

    def __init__(self, spec: dict[str, str]) -> None:
        """Begin with nothing sent."""
        self.spec = spec
        self.journal = Path(spec["journal"])
        self.run_id: str | None = None
        self.is_trained = False
        self.is_over = False
        """Whether the training has ended, one way or another."""
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

    def hear(self, history: str | None) -> None:
        """Take in where the parent process says the whole journal is; None where it says no more."""
        if history is None:
            self.is_over = True
        else:
            self.journal, self.is_trained = Path(history), True

    def end(self, client: MlflowClient) -> None:
        """Close the run."""
        from pipeline_lib.publishing.tracking import end_run

        if self.run_id is not None:
            end_run(client, self.run_id, "FINISHED" if self.is_trained else "FAILED")

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


def _follow(draft: Draft, news: queue.Queue[str | None]) -> None:
    """Send what is new until the training has ended; ServiceError where MLflow does not answer."""
    from pipeline_lib.publishing.connection import connected

    with connected() as client, contextlib.ExitStack() as load:
        is_watched = False
        while not draft.is_over:
            draft.send(client)
            if draft.run_id and not is_watched:
                is_watched = True
                load.enter_context(_system_metrics(draft.run_id))
            with contextlib.suppress(queue.Empty):
                draft.hear(news.get(timeout=SECONDS))
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


def _news() -> queue.Queue[str | None]:
    """Return what the parent says, a line at a time; None once it says no more, or is no more."""
    found: queue.Queue[str | None] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            found.put(line.rstrip("\n"))
        found.put(None)

    threading.Thread(target=listen, daemon=True).start()
    return found


if __name__ == "__main__":
    main()
