"""Fixtures: hosts with Docker and Podman whose agents serve them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from netlab.lab import Lab
from netlab.topology import of_hosts
from runtimes.harness import Fleet, fleet_of


@pytest.fixture
def fleet(new_lab: Callable[[], Lab]) -> Iterator[Fleet]:
    """One for a test that kills things."""
    lab = new_lab()
    lab.up(of_hosts(3), runtimes=True)
    with ThreadPoolExecutor(8) as pool:
        yield fleet_of(lab, pool)


@pytest.fixture(scope="module")
def shared_fleet() -> Iterator[Fleet]:
    """One for all tests of a file; use it through `docker_hosts`."""
    lab = Lab(Path(f"/run/natlab-fleet{os.getpid()}"))
    try:
        lab.up(of_hosts(3), runtimes=True)
        with ThreadPoolExecutor(8) as pool:
            yield fleet_of(lab, pool)
    finally:
        lab.down()


@pytest.fixture
def docker_hosts(shared_fleet: Fleet) -> Iterator[Fleet]:
    """h1 and h2 run Docker, h3 Podman. What a test leaves is removed, and nothing of it may stay."""
    yield shared_fleet
    shared_fleet.empty()
