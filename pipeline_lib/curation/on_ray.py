"""Pieces worked on and bands joined on a Ray cluster (``FINETUNE_ENGINE=ray``), or on one of this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline_lib.core.errors import ConfigError, ServiceError
from pipeline_lib.settings import settings

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pipeline_lib.curation.candidates import Rows, Step
    from pipeline_lib.curation.clusters import Forest

    Keys = npt.NDArray[np.uint32]

P = TypeVar("P")
T = TypeVar("T")


@contextmanager
def cluster() -> Iterator[Any]:
    """Join the cluster at ``FINETUNE_RAY_ADDRESS``, or start one of ``FINETUNE_WORKERS`` CPUs for the block.

    Yields the module ``ray``. Raises ConfigError where Ray is not installed, ServiceError where the cluster
    does not answer. A cluster that the process joined before is used and left as it is.
    """
    try:
        # By name, as the type checker need not find an extra.
        ray: Any = import_module("ray")
    except ImportError as error:
        raise ConfigError("FINETUNE_ENGINE=ray needs Ray; pip install 'finetune-flows[ray]'") from error
    if ray.is_initialized():
        yield ray
        return
    address = settings().ray_address
    here = {} if address else {"num_cpus": settings().workers, "include_dashboard": False}
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False, **here)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise ServiceError(
            f"Ray at {address or 'this machine'} does not answer ({str(error).splitlines()[0][:200]}); "
            "check FINETUNE_RAY_ADDRESS, or set FINETUNE_ENGINE=local"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


@contextmanager
def working_on_cluster(work: Callable[[P], T]) -> Iterator[Callable[[P], Callable[[], T]]]:
    """Give a way to have pieces worked on by the cluster's workers, to which ``work`` is sent once."""
    with cluster() as ray:
        shared = ray.put(work)
        task = ray.remote(_done)

        def submit(piece: P) -> Callable[[], T]:
            result = task.remote(shared, piece)
            return partial(ray.get, result)

        yield submit


def _done(work: Callable[[P], T], piece: P) -> T:
    return work(piece)


def forest_of(bands: Iterable[Keys], rows: Rows, threshold: float, workers: int) -> Forest:
    """Return the texts joined by their verified pairs, each band looked through by a task of the cluster.

    A task links what its band brings together and returns the pairs that joined two components. What it
    left out was connected by pairs before it, so that linking the bands' pairs in order gives the very forest
    that one process finds.
    """
    from pipeline_lib.curation.candidates import Crowd, alike
    from pipeline_lib.curation.clusters import Forest

    forest = Forest(len(rows.sizes))
    crowd = Crowd(forest.roots)
    with cluster() as ray:
        shared, task = ray.put(rows), ray.remote(_band)
        for found in [task.remote(shared, band, threshold) for band in bands]:
            for step, jaccards in ray.get(found):
                left, right = step.pairs
                forest.link(left, right, jaccards)
                crowd.note(step)
    for pairs in crowd.pairs(rows, threshold):
        forest.link(*alike(rows, pairs, threshold, workers))
    return forest


def _band(rows: Rows, band: Keys, threshold: float) -> list[tuple[Step, npt.NDArray[np.float64]]]:
    """Return one band's steps with the verified pairs alone that joined two components, and their Jaccard."""
    from pipeline_lib.curation.candidates import Step, alike, steps
    from pipeline_lib.curation.clusters import Forest

    forest, found = Forest(len(band)), []
    for step in steps(band, forest.roots):
        left, right, jaccards = forest.link(*alike(rows, step.pairs, threshold))
        found.append((Step((left, right), step.bucket), jaccards))
    return found
