"""Whatever happens to containers, agents and networks: at rest all hosts agree, and nothing is left over.

A failure names its seed; `NETAGENT_CHURN_SEED=… pytest …` has the same wishes again.
"""

from __future__ import annotations

import os
import threading
import time

import pytest
from lab.churn import MAIN, Actor
from lab.harness import Cluster
from lab.invariants import Expectation, flaws, log_flaws, memory

from netagent.control.client import Client

pytestmark = pytest.mark.lab

CHURN_S = 22.0
KILLS = 60
SOAK_S = float(os.environ.get("NETAGENT_SOAK_S", "600"))
SOAK_PARTS = 10
MAX_GROWTH_BYTES = 4 << 20
"""After the third minute, when all code is loaded and all pools are warm."""
ASKED = int(os.environ.get("NETAGENT_ASKED", "8000"))
"""Requests that are counted; half as many before, when code is loaded and pools fill."""
ASKED_PER_S = 100
"""At most; a busy machine takes longer for the same number."""
ASKERS = 4
MAX_GROWTH_BYTES_PER_REQUEST = 400
"""Of an agent that is asked so often. It was 1.2 kB, 430 MB an hour. The containers that come and go meanwhile cost
some hundred kilobytes, which are counted as well."""
REST_S = 20.0
"""Until all is as it must be: a host that vanished from view is noticed in 5 s, a namespace in 1 s."""
LOOKS = 4
"""At least so many, however long one takes: each is put together from many programs' words, while agents go on
talking to each other."""


@pytest.fixture
def witnessed(cluster: Cluster) -> Cluster:
    """The cluster with the network `app`, and on each host one container that stays: w1, w2, w3."""
    cluster.netagent("h1", "network", "create", MAIN)
    for number, host in enumerate(cluster.hosts, 1):
        cluster.lab.host(host).must(["ip", "netns", "add", f"w{number}"])
        cluster.netagent(host, "attach", f"netns:w{number}", "--network", MAIN, "--name", f"w{number}")
    return cluster


def actors(cluster: Cluster, seed: str) -> list[Actor]:
    main_id = cluster.netagent("h1", "network", "inspect", MAIN)["id"]
    return [Actor(cluster, host, seed, main_id) for host in cluster.hosts]


def assert_at_rest(cluster: Cluster, *all_actors: Actor, names: bool = True) -> None:
    """Within REST_S and LOOKS; the message has all that is wrong, and what was done."""
    expected = Expectation()
    main_id = all_actors[0].main_id
    expected.present |= {(f"w{number}", main_id) for number in range(1, len(cluster.hosts) + 1)}
    for one in all_actors:
        expected.present |= one.expectation.present
        expected.absent |= one.expectation.absent
    until = time.monotonic() + REST_S
    looks = 1
    while (found := flaws(cluster, expected, names=names)) and (looks < LOOKS or time.monotonic() < until):
        looks += 1
    found += [failure for one in all_actors for failure in one.failures]
    if found:
        logs = "\n".join(f"--- {host}\n{cluster.lab.host(host).log_tail(60)}" for host in cluster.hosts)
        did = "\n".join(f"{a.host} did {dict(a.done)}" for a in all_actors)
        pytest.fail("\n".join([logs, did, *found]), pytrace=False)
    assert not log_flaws(cluster), log_flaws(cluster)[0]


@pytest.mark.timeout(150)
def test_after_any_churn_all_hosts_agree_and_nothing_is_left(witnessed: Cluster, churn_seed: str) -> None:
    all_actors = actors(witnessed, churn_seed)
    for future in [witnessed.in_background(actor.run_for, CHURN_S) for actor in all_actors]:
        future.result()
    for actor in all_actors:
        print(actor.host, dict(actor.done), dict(actor.refusals), sep="\n  ")
    assert_at_rest(witnessed, *all_actors)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_an_agent_killed_anywhere_in_attach_and_detach_leaves_all_or_nothing(
    witnessed: Cluster, churn_seed: str
) -> None:
    _, actor, _ = actors(witnessed, churn_seed)
    for turn in range(KILLS):
        (actor.die_attaching, actor.die_attaching, actor.die_detaching, actor.die_detaching)[turn % 4]()
        assert_at_rest(witnessed, actor, names=False)
    print(actor.host, dict(actor.done), dict(actor.refusals), sep="\n  ")
    assert_at_rest(witnessed, actor)


@pytest.mark.long
@pytest.mark.timeout(SOAK_S + 300)
def test_ten_minutes_of_coming_and_going_cost_no_memory_and_no_files(
    witnessed: Cluster, churn_seed: str
) -> None:
    all_actors = actors(witnessed, churn_seed)
    for actor in all_actors:
        actor.accidents = False
    sizes = []
    for _ in range(SOAK_PARTS):
        part_s = SOAK_S / SOAK_PARTS
        for future in [witnessed.in_background(actor.run_for, part_s) for actor in all_actors]:
            future.result()
        assert_at_rest(witnessed, *all_actors, names=False)
        sizes.append(memory(witnessed))
        print(sizes[-1])
    assert_at_rest(witnessed, *all_actors)
    first, last = sizes[SOAK_PARTS // 3], sizes[-1]
    grown = {one: last[one] - first[one] for one in first if last[one] - first[one] > MAX_GROWTH_BYTES}
    assert not grown, f"bytes gained by {grown} since {SOAK_S * (SOAK_PARTS // 3 + 1) / SOAK_PARTS:.0f} s"


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_hundred_requests_a_second_cost_no_memory(witnessed: Cluster, churn_seed: str) -> None:
    """Asked of the agent of h1, while containers come and go on the others."""
    all_actors = actors(witnessed, churn_seed)[1:]
    sizes = []
    for actor in all_actors:
        actor.accidents = False
    for count in (ASKED // 2, ASKED):
        stop = threading.Event()
        begun = time.monotonic()
        churning = [witnessed.in_background(_churn, actor, stop) for actor in all_actors]
        asking = [witnessed.in_background(_ask, witnessed, count // ASKERS) for _ in range(ASKERS)]
        try:
            for future in asking:
                future.result()
        finally:
            stop.set()
        print(f"{count} requests in {time.monotonic() - begun:.0f} s")
        assert min(future.result() for future in churning) > 0
        sizes.append(memory(witnessed)["h1", "agent"])
    per_request = (sizes[1] - sizes[0]) / ASKED
    print(f"{sizes} bytes: {per_request:.0f} a request")
    assert per_request < MAX_GROWTH_BYTES_PER_REQUEST


def _churn(actor: Actor, stop: threading.Event) -> int:
    """The number of steps until `stop`."""
    count = 0
    while not stop.is_set():
        actor.step()
        count += 1
    return count


def _ask(cluster: Cluster, count: int) -> None:
    """One of ASKERS."""
    client = Client(str(cluster.lab.host("h1").path("/run/netagent/netagent.sock")))
    paths = ("/v1/endpoints", "/v1/status", "/v1/networks", "/v1/services")
    began = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, began + number * ASKERS / ASKED_PER_S - time.monotonic()))
        client.call("GET", paths[number % len(paths)])
