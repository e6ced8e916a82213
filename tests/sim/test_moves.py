"""All hosts but one come back from a power cut under new addresses (DHCP), in any order, within seconds: they find
each other by the one that stayed where it was, which is the seed of all, though its agent may start last."""

from __future__ import annotations

import random

import pytest

from netgossip.config import GossipConfig
from netgossip.testing import PORTS, SimCluster
from netgossip.types import CLUSTER_SCOPE, Channel

WITHIN_S = 10.0
"""After the last start. It took up to 38 s: a host that had an answer to a ping dialled no more, though no peer had
heard of its new address."""


@pytest.mark.parametrize("seed", range(20))
def test_scenario_43_hosts_that_come_back_under_new_addresses_find_the_one_that_stayed(seed: int) -> None:
    rng = random.Random(f"{seed} moves")
    nodes = rng.randint(3, 5)
    cluster = SimCluster(seed=seed, nodes=nodes, config=GossipConfig.lan(), latency_s=(0.000_2, 0.02))
    cluster.run_until(cluster.converged, 60)
    names = list(cluster.hosts)
    for name in names:
        cluster.crash(name)
    for number, name in enumerate(names[1:], 1):
        cluster.move(name, f"198.18.9.{number}")
    rng.shuffle(names)
    for name in names:
        cluster.restart(name)
        cluster.run_for(rng.choice((0.0, rng.uniform(0, 0.1), rng.uniform(0, 2))))
    took = cluster.run_until(cluster.converged, WITHIN_S)
    print(f"seed {seed}: {nodes} hosts know each other {took:.2f} s after the last start")


@pytest.mark.parametrize("seed", range(12))
def test_scenario_43_what_is_said_while_a_host_moves_is_known_within_two_seconds(seed: int) -> None:
    """What was sent to the address that it left is lost, and so are the answers to what it sent before others knew
    of the new one. It took until the next comparison, five seconds."""
    rng = random.Random(f"{seed} said")
    cluster = SimCluster(seed=seed, nodes=4, config=GossipConfig.lan(), latency_s=(0.000_2, 0.02))
    cluster.run_until(cluster.converged, 60)
    cluster.run_for(rng.uniform(0, 10))
    moving = cluster["n2"]
    cluster.move("n2", "198.18.9.9")
    cluster.run_for(rng.uniform(0, 0.5))
    with moving.commanding() as node:
        node.membership.set_address((moving.ip, PORTS[Channel.GOSSIP]), cluster.now)
    for host in cluster.running():
        host.put(CLUSTER_SCOPE, b"said", b"meanwhile")
    cluster.run_until(cluster.converged, 2.0)


@pytest.mark.parametrize("seed", [1, 2, 3, 41, 71, 97, 134, 174, 191, 243, 267, 272, 318])
def test_two_hosts_that_exchange_their_addresses_are_found_within_two_seconds(seed: int) -> None:
    """While others check whether the old address is silent, what they spread does not reach the new one: each of the
    two could miss that the other has moved, for up to seven seconds (ten of 400 runs, most of these seeds)."""
    rng = random.Random(f"{seed} exchange")
    cluster = SimCluster(seed=seed, nodes=5, config=GossipConfig.lan(), loss=0.05, latency_s=(0.005, 0.05))
    cluster.run_until(cluster.converged, 60)
    one, other = (cluster[name] for name in rng.sample(sorted(cluster.hosts), 2))
    first, second = one.ip, other.ip
    for host, ip in ((one, "198.18.9.9"), (other, first), (one, second)):
        cluster.move(host.name, ip)
    for host in (one, other):
        with host.commanding() as node:
            node.membership.set_address((host.ip, PORTS[Channel.GOSSIP]), cluster.now)
        cluster.run_for(rng.uniform(0, 2))
    cluster.run_until(cluster.converged, 2.0)


def test_a_member_that_pings_us_unknown_is_met_at_once() -> None:
    """The second host of all has entered, and the first loses power before it has written that down: no peer
    announces it, and it answers pings."""
    cluster = SimCluster(seed=1, nodes=1, config=GossipConfig.lan())
    first = cluster["n1"]
    cluster.run_for(1)
    before = cluster.backup("n1")
    cluster.add("n2")
    cluster.run_until(cluster.converged, 5)
    cluster.restart("n1", disk=before)
    assert first.state_of(cluster["n2"]) is None
    cluster.run_until(cluster.converged, 3.0)
