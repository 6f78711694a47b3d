"""Blocks judged on a Ray cluster (``FINETUNE_ENGINE=ray``), or on one that is started here and stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pipeline_lib.core.errors import ConfigError, ServiceError
from pipeline_lib.settings import settings

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline_lib.curation.blocks import Judge, Outcome, Submit


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
def judging(judge: Judge) -> Iterator[Submit]:
    """Give a way to have blocks judged by the cluster's workers, to which ``judge`` is sent once."""
    with cluster() as ray:
        shared = ray.put(judge)
        task = ray.remote(_judge)

        def submit(block: pa.RecordBatch) -> Callable[[], Outcome]:
            result = task.remote(shared, block)
            return partial(ray.get, result)

        yield submit


def _judge(judge: Judge, block: pa.RecordBatch) -> Outcome:
    return judge(block)
