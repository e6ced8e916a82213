"""What large clusters cost, as benchmarks/gossip_scale.py counts it: smaller ones, whose counts are known."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import gossip_scale


def test_a_change_is_sent_to_each_of_many_peers_once() -> None:
    peers = gossip_scale.push(3000)
    assert peers.now > 2 * peers.owner._config.resend_min_s, (
        "telling all takes longer than the wait for an ack"
    )
    assert peers.deltas == 3000


def test_a_change_of_more_than_a_datagram_costs_no_stream() -> None:
    peers = gossip_scale.records(200)
    assert (peers.deltas, peers.streams) == (200, 0)
    assert peers.datagrams == 200 * 5
    former = gossip_scale.records(200, assembles=0)
    assert (former.deltas, former.streams) == (200, 200)


def test_a_newcomer_gets_each_record_once() -> None:
    found = gossip_scale.newcomer(80)
    assert found.deltas <= 88
    assert found.streams <= 4


def test_hosts_that_start_at_once_send_each_other_little_that_is_not_needed() -> None:
    found = gossip_scale.start(40)
    assert found.deltas <= 2.5 * found.needed
