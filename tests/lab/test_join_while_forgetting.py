"""A host joins in the seconds in which another one is forgotten, for which the ring key changes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from lab.harness import Cluster
from netlab.lab import Lab
from netlab.topology import of_hosts

pytestmark = pytest.mark.lab

MEMBERS = ("h1", "h2", "h4")
ALIVE = dict.fromkeys(MEMBERS, "alive")
CHANGED_S = 90.0
"""The old key is accepted for 30 s after its retirement."""


@pytest.fixture
def three_of_four(new_lab: Callable[[], Lab]) -> Iterator[Cluster]:
    """h1, h2 and h3 are a cluster, whose h3 has no power; h4 has an agent and is in none."""
    lab = new_lab()
    lab.up(of_hosts(4), agents=False)
    for host in ("h1", "h2", "h3", "h4"):
        with lab.changing(host) as changing:
            changing.start_agent()
    with ThreadPoolExecutor(8) as pool:
        cluster = Cluster(lab, pool)
        cluster.netagent("h1", "init")
        for host in ("h2", "h3"):
            token = cluster.netagent("h1", "invite")["token"]
            cluster.netagent(host, "join", "--token-file", "-", stdin=token)
        cluster.wait(
            lambda: all(cluster.agents(host).get("h3") == "alive" for host in ("h1", "h2")),
            20.0,
            "h3 is not there",
        )
        lab.power_off("h3")
        cluster.wait(lambda: cluster.agents("h1")["h3"] == "dead", 30.0, "h3 is not away")
        yield cluster


def keys(cluster: Cluster, host: str) -> dict[str, str]:
    return {key["id"]: key["state"] for key in cluster.netagent(host, "keys", "list")}


@pytest.mark.parametrize(
    "after_s", [pytest.param(-0.5, marks=pytest.mark.long), 0.0, pytest.param(2.0, marks=pytest.mark.long)]
)
def test_scenario_65_a_host_joins_while_another_is_forgotten(three_of_four: Cluster, after_s: float) -> None:
    cluster = three_of_four
    (old,) = keys(cluster, "h1")
    token = cluster.netagent("h2", "invite")["token"]

    def forget() -> None:
        time.sleep(max(0.0, -after_s))
        done = cluster.try_netagent("h1", "forget", "h3", timeout_s=60.0)
        assert done.status == 0, done.stderr

    def join() -> None:
        time.sleep(max(0.0, after_s))
        done = cluster.try_netagent("h4", "join", "--token-file", "-", stdin=token, timeout_s=60.0)
        assert done.status == 0, done.stderr

    both = [cluster.in_background(forget), cluster.in_background(join)]
    for one in both:
        one.result()

    def is_whole() -> bool:
        rings = [keys(cluster, host) for host in MEMBERS]
        return (
            rings[0] == rings[1] == rings[2]
            and list(rings[0].values()) == ["primary"]
            and old not in rings[0]
        )

    cluster.wait(is_whole, CHANGED_S, lambda: f"keys: {[keys(cluster, host) for host in MEMBERS]}")
    for host in MEMBERS:
        cluster.wait(lambda host=host: cluster.agents(host) == ALIVE, 20.0, f"{host}: {cluster.agents(host)}")  # type: ignore[misc]
    cluster.netagent("h1", "network", "create", "app")
    cluster.attach("h1", "c1")
    cluster.attach("h4", "c4")
    cluster.wait(lambda: cluster.finds("c1", "c4") and cluster.finds("c4", "c1"), 10.0, "names are not found")
