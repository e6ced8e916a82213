"""Fixtures of the lab tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from lab.harness import Cluster
from netlab.lab import Lab
from netlab.topology import of_hosts


@pytest.fixture
def bare_lab(new_lab: Callable[[], Lab]) -> Lab:
    """Three hosts without agents."""
    lab = new_lab()
    lab.up(of_hosts(3), agents=False)
    return lab


@pytest.fixture
def unknown_sources(new_lab: Callable[[], Lab]) -> Iterator[Cluster]:
    """Three hosts whose agents run and belong to no cluster; nothing passes between the hosts yet."""
    lab = new_lab()
    lab.up(of_hosts(3), agents=False)
    lab.cut("h1", "h2")
    lab.cut("h1", "h3")
    lab.cut("h2", "h3")
    for host in ("h1", "h2", "h3"):
        with lab.changing(host) as changing:
            changing.start_agent()
    with ThreadPoolExecutor(8) as pool:
        yield Cluster(lab, pool)


@pytest.fixture
def cluster(new_lab: Callable[[], Lab]) -> Iterator[Cluster]:
    """Three hosts that are one cluster."""
    lab = new_lab()
    lab.up(of_hosts(3))
    with ThreadPoolExecutor(8) as pool:
        yield Cluster(lab, pool)


@pytest.fixture
def app(cluster: Cluster) -> Cluster:
    """The cluster with a network `app` and one container on each host: c1, c2 and c3."""
    return inhabited(cluster)


@pytest.fixture(scope="module")
def lasting(new_lasting_lab: Callable[[], Lab]) -> Iterator[Cluster]:
    """As `app`, for all tests of a file: each leaves c1, c2 and c3 as they were, and all agents running."""
    lab = new_lasting_lab()
    lab.up(of_hosts(3))
    with ThreadPoolExecutor(24) as pool:
        yield inhabited(Cluster(lab, pool))


def inhabited(cluster: Cluster) -> Cluster:
    """With what `app` says."""
    cluster.netagent("h1", "network", "create", "app")
    for number in (1, 2, 3):
        cluster.attach(f"h{number}", f"c{number}")
    containers = ("c1", "c2", "c3")
    for container in containers:  # a host's names follow its kernel
        cluster.wait(partial(cluster.finds, container, *containers), 5.0, f"{container} lacks names")
    return cluster
