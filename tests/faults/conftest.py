"""One world for all faults; each test puts right what it broke."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.world import World, world


@pytest.fixture(scope="session")
def everything() -> Iterator[World]:
    with world() as made:
        yield made


@pytest.fixture
def broken(everything: World) -> Iterator[World]:
    """The world, with no worker of an earlier test."""
    everything.stop_workers()
    yield everything
    everything.stop_workers()
