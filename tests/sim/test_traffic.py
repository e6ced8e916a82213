"""What a quiet cluster costs each host: bytes on the wire, and work."""

from __future__ import annotations

import time

import pytest
from sim.fleet import Fleet

from netagent.probes.liveness import CALM_REQUESTS_PER_S
from netagent.probes.packet import SMALLEST_BYTES

WARM_S, MEASURED_S = 20.0, 60.0
UDP_BYTES = 14 + 20 + 8
"""Ethernet, IPv4 and UDP around a gossip datagram."""
ECHO_BYTES = SMALLEST_BYTES + 14 + 50
"""An echo's frame inside of VXLAN over IPv4, Ethernet included; the same again for its answer."""
GOSSIP_LIMIT_BYTES_PER_S = 5_000.0
"""A probe and its answer each way are some 500; full exchanges with one member grow with the cluster, and stretch."""


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("hosts", [40, pytest.param(300, marks=pytest.mark.long)])
def test_a_quiet_cluster_costs_a_host_some_kilobytes_a_second(hosts: int) -> None:
    fleet = Fleet(seed=10, hosts=hosts)
    fleet.cluster.run_for(WARM_S)
    datagrams, sent = fleet.cluster.datagrams_sent, fleet.cluster.bytes_sent
    echoes = sum(one.echoes for one in fleet.hosts.values())
    begun = time.process_time()
    fleet.cluster.run_for(MEASURED_S)
    host_seconds = hosts * MEASURED_S
    work_ms = 1000 * (time.process_time() - begun) / host_seconds
    datagrams_per_s = (fleet.cluster.datagrams_sent - datagrams) / host_seconds
    gossip = (fleet.cluster.bytes_sent - sent) / host_seconds + datagrams_per_s * UDP_BYTES
    echoes_per_s = (sum(one.echoes for one in fleet.hosts.values()) - echoes) / host_seconds
    print(
        f"{hosts} hosts, each sends: gossip {gossip:.0f} bytes/s in {datagrams_per_s:.1f} datagrams/s, "
        f"echoes {2 * echoes_per_s * ECHO_BYTES:.0f} bytes/s in {2 * echoes_per_s:.0f} packets/s; "
        f"{work_ms:.2f} ms of simulation a second"
    )
    assert fleet.hidings == []
    assert gossip <= GOSSIP_LIMIT_BYTES_PER_S
    assert echoes_per_s <= 1.05 * CALM_REQUESTS_PER_S
