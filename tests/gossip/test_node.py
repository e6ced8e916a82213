"""GossipNode: what it adds to the two machines that it owns."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netgossip.codec.meta import META_LIMIT_BYTES, record_address, unwrap_meta_untrusted, wrap_meta
from netgossip.codec.sealing import Keyring
from netgossip.config import GossipConfig
from netgossip.errors import GossipUsageError, WireError
from netgossip.node import GossipNode
from netgossip.testing import SimCluster, SimHost
from netgossip.types import (
    CLUSTER_SCOPE,
    Address,
    Channel,
    MemberChanged,
    MemberState,
    NodeOutput,
    ScopeSynced,
)


def node(**changes: object) -> GossipNode:
    arguments: dict[str, object] = {
        "config": GossipConfig.lan(),
        "node_id": "aa" * 16,
        "address": ("192.0.2.1", 7956),
        "record_port": 7957,
        "meta": b"me",
        "keyring": Keyring([bytes(32)]),
        "label": b"label",
        "identity": None,
        "rng": random.Random(1),
        "now": 0.0,
    }
    return GossipNode(**(arguments | changes))  # type: ignore[arg-type]


def address_seen(by: SimHost, other: SimHost) -> Address | None:
    return record_address(by.running.membership.members()[other.node_id])


def test_meta_there_and_back() -> None:
    assert unwrap_meta_untrusted(wrap_meta(7957, b"mine")) == (7957, b"mine")
    with pytest.raises(GossipUsageError):
        node(meta=bytes(META_LIMIT_BYTES + 1))
    assert len(wrap_meta(65535, bytes(META_LIMIT_BYTES))) <= 512


@given(st.binary(max_size=60))
def test_any_meta_is_ours_or_wire_error(meta: bytes) -> None:
    try:
        port, _ = unwrap_meta_untrusted(meta)
        assert 1 <= port <= 65535
    except WireError:
        pass


def test_the_application_sees_its_own_part_of_the_meta() -> None:
    one = node()
    assert one.members()[one.node_id].meta == b"me"
    assert record_address(one.membership.members()[one.node_id]) == ("192.0.2.1", 7957)
    one.set_meta(b"other", 1.0)
    assert one.members()[one.node_id].meta == b"other"


def test_members_come_back_as_they_were_shown() -> None:
    cluster = SimCluster(seed=1, nodes=3)
    cluster.run_until(cluster.converged, timeout_s=10)
    n1, n2 = cluster["n1"], cluster["n2"]
    n1.put(CLUSTER_SCOPE, b"k", b"v")
    cluster.run_for(1)
    cluster.restart("n2")
    assert address_seen(n2, n1) == (n1.ip, 7957)
    n2.events.clear()
    took = cluster.run_until(lambda: ScopeSynced(CLUSTER_SCOPE) in n2.events, timeout_s=5)
    assert took < 0.05, "remembered peers are asked at once"
    cluster.run_for(2)
    assert n2.running.membership.members()[n1.node_id] == n1.running.membership.members()[n1.node_id]


def test_meta_travels_and_gives_the_record_address() -> None:
    cluster = SimCluster(seed=1, nodes=2)
    cluster.run_until(cluster.converged, timeout_s=10)
    n1, n2 = cluster["n1"], cluster["n2"]
    reported = [e.member.meta for e in n1.events if isinstance(e, MemberChanged)]
    assert reported == [b"n2"]
    assert address_seen(n1, n2) == (n2.ip, 7957)
    with n2.commanding() as running:
        running.set_meta(b"renamed", cluster.now)
    cluster.run_until(lambda: n1.running.members()[n2.node_id].meta == b"renamed", timeout_s=5)


def test_a_second_drain_is_empty_and_early_deadlines_do_nothing() -> None:
    one = node()
    one.handle_deadline(0.0)
    one.drain()
    assert one.drain() == NodeOutput()
    before = one.next_deadline()
    one.handle_deadline(min(before, 0.0))
    assert one.drain() == NodeOutput()
    assert one.next_deadline() == before


def test_streams_have_one_numbering() -> None:
    one = node()
    ids = [one.accept_stream(channel, ("192.0.2.9", 5), 0.0) for channel in (*Channel, *Channel)]
    assert len(set(ids)) == 4
    one.handle_stream_end(ids[0], 0.0, None)
    one.handle_stream_data(ids[0], b"late", 0.0)
    one.handle_stream_end(4711, 0.0, None)


@given(st.lists(st.tuples(st.sampled_from(list(Channel)), st.binary(max_size=120)), max_size=30))
def test_any_bytes_on_any_port_change_nothing(inputs: list[tuple[Channel, bytes]]) -> None:
    one = node()
    before = dict(one.members())
    for channel, data in inputs:
        one.handle_datagram(channel, data, ("203.0.113.1", 5), 1.0)
        stream_id = one.accept_stream(channel, ("203.0.113.1", 5), 1.0)
        one.handle_stream_data(stream_id, data, 1.0)
    assert dict(one.members()) == before
    assert one.records.logs(CLUSTER_SCOPE) == ()
    one.check_invariants()


def test_leaving_is_seen_as_left_and_keeps_the_records_until_dropped() -> None:
    cluster = SimCluster(seed=1, nodes=3)
    cluster.run_until(cluster.converged, timeout_s=10)
    n1, n3 = cluster["n1"], cluster["n3"]
    n3.put(CLUSTER_SCOPE, b"k", b"v")
    cluster.run_for(1)
    with n3.commanding() as running:
        running.membership.leave(cluster.now)
    cluster.run_until(lambda: n3.running.membership.has_left(cluster.now), timeout_s=10)
    cluster.run_until(lambda: n1.state_of(n3) is MemberState.LEFT, timeout_s=10)
    assert (n3.node_id, b"k") in n1.records()
    with n1.commanding() as running:
        running.records.drop_owner(n3.node_id)
    assert (n3.node_id, b"k") not in n1.records()


def test_an_address_that_changes_is_followed() -> None:
    cluster = SimCluster(seed=1, nodes=3, config=replace(GossipConfig.local()))
    cluster.run_until(cluster.converged, timeout_s=10)
    n1, n3 = cluster["n1"], cluster["n3"]
    cluster._by_ip["203.0.113.9"] = n3
    del cluster._by_ip[n3.ip]
    n3.ip = "203.0.113.9"
    with n3.commanding() as running:
        running.membership.set_address(("203.0.113.9", 7956), cluster.now)
    cluster.run_until(
        lambda: address_seen(n1, n3) == ("203.0.113.9", 7957),
        timeout_s=30,
    )
    n1.put(CLUSTER_SCOPE, b"k", b"v")
    cluster.run_until(lambda: (n1.node_id, b"k") in n3.records(), timeout_s=10)
