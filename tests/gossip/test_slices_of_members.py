"""A push/pull of ten thousand members is encoded, parsed and merged in slices, as is a vector of as many logs.
What each call of a machine does is counted.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from netgossip.codec import parse
from netgossip.codec.lzw import BYTES_PER_SLICE, decode_untrusted
from netgossip.codec.messages import VSN, encode_node, encode_push_pull
from netgossip.codec.parse import parse_stream_untrusted
from netgossip.codec.sealing import Keyring
from netgossip.config import GossipConfig
from netgossip.errors import WireError
from netgossip.membership import timers
from netgossip.membership.state_updates import StateUpdates
from netgossip.membership.streams import Purpose
from netgossip.membership.swim import SHORT_BYTES, WORKS_LIMIT, Swim
from netgossip.node import GossipNode
from netgossip.records import handlers, table, wire
from netgossip.records.record_log import RecordLog
from netgossip.records.replication import Replication
from netgossip.slices import ENTRIES_PER_SLICE, MEMBERS_PER_SLICE, ROWS_PER_SLICE, at_once
from netgossip.types import (
    CLUSTER_SCOPE,
    Address,
    Channel,
    Entry,
    Log,
    Member,
    MemberChanged,
    MemberState,
    StreamClose,
    StreamId,
    StreamOpen,
    StreamSend,
    Version,
)

MANY = 10_000
KEYRING = Keyring([bytes(16)])
LABEL = b"label"
NOW = 1.0
A, B = 1, 2


def id_of(number: int) -> str:
    return f"{number:032x}"


def address_of(number: int) -> Address:
    return f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 7956


def member(number: int, incarnation: int = 1) -> Member:
    return Member(id_of(number), address_of(number), MemberState.ALIVE, incarnation, b"m" * 60, VSN)


OTHERS = tuple(map(member, range(100, 100 + MANY)))


def swim(number: int, *, remembered: tuple[Member, ...] = (), seeds: tuple[int, ...] = ()) -> Swim:
    return Swim(
        config=GossipConfig.lan(),
        node_id=id_of(number),
        address=address_of(number),
        meta=b"",
        incarnation=0,
        keyring=KEYRING,
        label=LABEL,
        rng=random.Random(number),
        now=NOW,
        new_stream_id=itertools.count(1000 * number).__next__,
        remembered=remembered,
        seeds=tuple(map(address_of, seeds)),
    )


class Counted:
    """Calls of some functions since `taken`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *places: tuple[Any, str]) -> None:
        self.calls: Counter[str] = Counter()
        for owner, name in places:
            monkeypatch.setattr(owner, name, self._counting(name, getattr(owner, name)))

    def _counting(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] += 1
            return function(*args, **kwargs)

        return counting

    def taken(self) -> Counter[str]:
        found, self.calls = self.calls, Counter()
        return found


class Exchanging:
    """Machines whose streams lead to each other. Every call of one is a go, whose work is counted."""

    def __init__(self, counted: Counted, **machines: Swim) -> None:
        self.counted = counted
        self.machines = {
            machine.members()[node_id].address: machine for machine, node_id in self._ids(machines)
        }
        self.ends: dict[tuple[int, StreamId], tuple[Swim, StreamId]] = {}
        self.goes: list[Counter[str]] = []
        self.accepted = itertools.count(1)
        self.closed: list[StreamId] = []

    @staticmethod
    def _ids(machines: dict[str, Swim]) -> list[tuple[Swim, str]]:
        return [(one, id_of({"a": A, "b": B}[name])) for name, one in machines.items()]

    def go(self, function: Callable[..., Any], *args: Any) -> Any:
        self.counted.taken()
        result = function(*args)
        self.goes.append(self.counted.taken())
        return result

    def run(self, *, between: Callable[[], None] = lambda: None) -> None:
        """Until nothing moves."""
        moved = True
        while moved:
            moved = False
            for machine in self.machines.values():
                for command in self.go(machine.drain).streams:
                    moved |= self.obey(machine, command)
                if machine.has_pending_work:
                    moved = True
                    between()
                    self.go(machine.run_step)

    def obey(self, machine: Swim, command: Any) -> bool:
        match command:
            case StreamOpen(stream_id, Channel.GOSSIP, destination) if destination in self.machines:
                other, theirs = self.machines[destination], next(self.accepted)
                self.ends[id(machine), stream_id] = other, theirs
                self.ends[id(other), theirs] = machine, stream_id
                self.go(other.accept_stream, theirs, machine.members()[id_of(B)].address, NOW)
            case StreamSend(stream_id, data) if (id(machine), stream_id) in self.ends:
                other, theirs = self.ends[id(machine), stream_id]
                for start in range(0, len(data), 65_536):
                    self.go(other.handle_stream_data, theirs, data[start : start + 65_536], NOW)
            case StreamClose(stream_id) if (id(machine), stream_id) in self.ends:
                self.closed.append(stream_id)
            case _:
                return False
        return True


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(
        monkeypatch,
        (parse, "_member"),
        (StateUpdates, "_merge_one"),
        (timers, "encode_node"),
        (StateUpdates, "_hold"),
    )


def test_a_push_pull_of_all_members_runs_in_slices(counted: Counted) -> None:
    a, b = swim(A, remembered=OTHERS), swim(B, seeds=(A,))
    exchanging = Exchanging(counted, a=a, b=b)
    checks: list[int] = []

    def check() -> None:
        if len(checks) % 20 == 0:
            a.check_invariants()
            b.check_invariants()
        checks.append(len(b.members()))

    exchanging.run(between=check)
    assert set(b.members()) == {*(one.node_id for one in OTHERS), id_of(A), id_of(B)}
    total: Counter[str] = Counter()
    for go in exchanging.goes:
        total += go
        assert all(count <= MEMBERS_PER_SLICE for count in go.values()), go
    assert min(total["_member"], total["_merge_one"], total["_hold"]) >= MANY
    assert total["encode_node"] >= MANY - 2 * MEMBERS_PER_SLICE, "some was written before we counted"
    assert len(set(checks)) > 1, "others run while a part of the members is known"
    assert all(one.purpose is Purpose.JOIN for one in a._streams._streams.values()), (
        "to those who only are remembered"
    )
    assert (a.has_pending_work, b.has_pending_work) == (False, False)
    a.check_invariants()
    b.check_invariants()


def test_a_later_push_pull_of_known_members_runs_in_slices_as_well(counted: Counted) -> None:
    a, b = swim(A, remembered=OTHERS), swim(B, remembered=OTHERS)
    exchanging = Exchanging(counted, a=a, b=b)
    b._timers.dial(address_of(A), Purpose.PUSH_PULL, NOW)
    assert b.has_pending_work
    exchanging.run()
    assert a.statistics()["push_pulls"] == b.statistics()["push_pulls"] == 1
    assert all(count <= MEMBERS_PER_SLICE for go in exchanging.goes for count in go.values())
    assert sum(go["_merge_one"] for go in exchanging.goes) >= 2 * MANY


def test_a_claim_between_two_slices_is_not_reverted(counted: Counted) -> None:
    """A broadcast that comes while an older claim of the same member waits to be merged."""
    a, b = swim(A, remembered=OTHERS), swim(B, seeds=(A,))
    newer = member(100 + MANY - 1, incarnation=7)
    reported = False

    def broadcast() -> None:
        nonlocal reported
        if not reported and len(b.members()) > 2:
            reported = True
            at_once(b._state_updates.merge((newer,), lambda: NOW, peer=address_of(9)))
            b._settle(NOW)

    Exchanging(counted, a=a, b=b).run(between=broadcast)
    assert reported
    assert b.members()[newer.node_id].incarnation == 7


def filled(swim_: Swim, stream_id: StreamId, peer: int, members: tuple[Member, ...]) -> None:
    """A member's full exchange comes whole."""
    source = swim(peer)
    stream = source._streams.open(address_of(A), Purpose.PUSH_PULL, timeout_s=10, now=NOW)
    source._streams.write(stream, encode_push_pull([encode_node(one) for one in members], join=False))
    (data,) = [
        one.data
        for one in source.drain().streams
        if isinstance(one, StreamSend) and one.stream_id == stream.stream_id
    ]
    swim_.accept_stream(stream_id, (address_of(peer)[0], 5000), NOW)
    swim_.handle_stream_data(stream_id, data, NOW)


def test_waiting_push_pulls_are_bounded_and_short_ones_are_processed_all_the_same() -> None:
    some = OTHERS[: 4 * MEMBERS_PER_SLICE]
    a = swim(A)
    assert len(encode_push_pull([encode_node(one) for one in some], join=False)) > SHORT_BYTES
    for number in range(WORKS_LIMIT + 8):
        filled(a, 10 + number, 3 + number, some)
    assert a.statistics()["exchanges_in_pieces"] == WORKS_LIMIT
    assert a.statistics()["refused_busy"] >= 8
    before = a.statistics()["push_pulls"]
    filled(a, 500, 60, (member(99),))
    assert a.statistics()["push_pulls"] == before + 1
    assert id_of(99) in a.members()
    while a.has_pending_work:
        a.run_step()
    assert all(one.node_id in a.members() for one in some)
    assert len(a._streams) == 0


def test_a_stream_that_breaks_while_it_is_read_leaves_nothing_and_counts_all_the_same() -> None:
    a = swim(A)
    filled(a, 10, 3, OTHERS)
    assert a.has_pending_work
    a.handle_stream_end(10, NOW, "reset")
    a.handle_stream_data(10, b"more", NOW)
    assert len(a._streams) == 0
    a.drain()
    while a.has_pending_work:
        a.run_step()
    assert len(a.members()) == MANY + 1
    assert not [one for one in a.drain().streams if getattr(one, "stream_id", 0) == 10]


def test_a_malformed_message_read_in_slices_counts_for_nothing() -> None:
    body = encode_push_pull([encode_node(one) for one in OTHERS[:1000]], join=True) + b"x"
    pieces = parse_stream_untrusted(body, limit_bytes=1 << 22, max_nodes=MANY)
    for _ in range(1000 // MEMBERS_PER_SLICE):
        next(pieces)
    with pytest.raises(WireError, match="wrong length"):
        next(pieces)


def test_compressed_bytes_are_read_in_slices() -> None:
    packed, bits = bytearray(), 0
    codes = [256, *([65] * 200)] * 40  # cleared often, so that all codes have 9 bits
    for number, code in enumerate([*codes, 257]):
        bits |= code << 9 * number
    packed += bits.to_bytes((9 * (len(codes) + 1) + 7) // 8, "little")
    pieces = decode_untrusted(bytes(packed), limit_bytes=1 << 20)
    for _ in range(len(packed) // BYTES_PER_SLICE):
        next(pieces)
    with pytest.raises(StopIteration) as end:
        next(pieces)
    assert end.value.value == at_once(decode_untrusted(bytes(packed), limit_bytes=1 << 20)) == b"A" * 8000
    assert len(packed) > BYTES_PER_SLICE


def test_a_node_alternates_slices_of_members_and_of_records() -> None:
    a = GossipNode(
        config=GossipConfig.lan(),
        node_id=id_of(A),
        address=address_of(A),
        record_port=7957,
        meta=b"",
        keyring=Keyring([bytes(32)]),
        label=LABEL,
        identity=None,
        rng=random.Random(1),
        now=NOW,
    )
    done: list[str] = []

    def work(name: str) -> Any:
        for _ in range(4):
            done.append(name)
            yield

    for machine, name in ((a.membership, "members"), (a.records, "records")):
        machine._works.begin(work(name))
    while a.has_pending_work:
        a.run_step()
    assert sorted(done) == ["members"] * 4 + ["records"] * 4
    assert done[2:] == ["members", "records"] * 3


# Vectors


def replication(number: int, logs: int, length: int = 1) -> Replication:
    made = Replication(
        config=GossipConfig.lan(),
        node_id=id_of(number),
        boot_epoch=1,
        keyring=Keyring([bytes(32)]),
        cluster_label=LABEL,
        identity=None,
        rng=random.Random(number),
        now=0.0,
        new_stream_id=itertools.count(1000 * number).__next__,
        replicas=[log_of(100 + owner, length) for owner in range(logs)],
    )
    other = A if number == B else B
    made.set_peer(id_of(other), (address_of(other)[0], 7957), 0.0, live=True)
    return made


def log_of(owner: int, length: int) -> Log:
    entries = [
        Entry(CLUSTER_SCOPE, id_of(owner), b"%d" % number, b"value", Version(1, number))
        for number in range(1, length + 1)
    ]
    return Log(CLUSTER_SCOPE, id_of(owner), 1, length, 0, {entry.key: entry for entry in entries})


def converse(counted: Counted, a: Replication, b: Replication) -> list[Counter[str]]:
    """Until a while after nothing more moves. What each call did."""
    goes: list[Counter[str]] = []
    ends: dict[tuple[int, StreamId], tuple[Replication, StreamId]] = {}
    accepted = itertools.count(1)

    def go(function: Callable[..., Any], *args: Any) -> Any:
        counted.taken()
        result = function(*args)
        goes.append(counted.taken())
        return result

    for step in range(40):
        now = 0.5 * step
        for source, target in ((a, b), (b, a)):
            go(source.handle_deadline, now)
            while True:
                output = go(source.drain)
                for datagram in output.datagrams:
                    go(target.handle_datagram, datagram.payload, address_of(A), now)
                for command in output.streams:
                    match command:
                        case StreamOpen(stream_id):
                            theirs = next(accepted)
                            ends[id(source), stream_id] = target, theirs
                            ends[id(target), theirs] = source, stream_id
                            go(target.accept_stream, theirs, address_of(A), now)
                        case StreamSend(stream_id, data):
                            other, theirs = ends[id(source), stream_id]
                            go(other.handle_stream_data, theirs, data, now)
                        case StreamClose(stream_id):
                            other, theirs = ends[id(source), stream_id]
                            go(other.handle_stream_end, theirs, now, None)
                if not source.has_pending_work:
                    break
                go(source.run_step)
    return goes


@pytest.mark.parametrize("held", [0, MANY // 2])
def test_vectors_of_ten_thousand_logs_are_encoded_and_compared_in_slices(
    monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    counted = Counted(
        monkeypatch,
        (table, "Row"),
        (handlers.MessageHandlers, "_compare_one"),
        (table.Table, "version"),
        (table.Table, "delta"),
    )
    a, b = replication(A, MANY), replication(B, held)
    goes = converse(counted, a, b)
    assert set(b.outline(CLUSTER_SCOPE)) == set(a.outline(CLUSTER_SCOPE))
    assert b._table.fingerprint(CLUSTER_SCOPE) == a._table.fingerprint(CLUSTER_SCOPE)
    most: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for one in goes:
        most |= one
        total += one
    assert most["Row"] <= ROWS_PER_SLICE
    assert most["_compare_one"] <= ROWS_PER_SLICE
    assert most["version"] <= 4 * ROWS_PER_SLICE
    assert most["delta"] <= ROWS_PER_SLICE
    assert total["Row"] >= MANY
    assert total["_compare_one"] >= MANY - held
    assert total["version"] <= 20 * MANY, "as logs come, those that came before are not looked at again"
    assert b.unacknowledged(CLUSTER_SCOPE) == frozenset()


def test_many_short_logs_are_pulled_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is shorter than a slice. A network that a node enters has a log of each host in it."""
    hosts, length = 300, 33
    counted = Counted(monkeypatch, (RecordLog, "put"))
    rows_of = wire._rows

    def counting_rows(message: Any) -> Iterator[Any]:
        for row in rows_of(message):
            counted.calls["encoded"] += isinstance(message, wire.Delta)
            yield row

    monkeypatch.setattr(wire, "_rows", counting_rows)
    a, b = replication(A, hosts, length), replication(B, 0)
    goes = converse(counted, a, b)
    assert sum(entries for _, entries in b.outline(CLUSTER_SCOPE).values()) == hosts * length
    for work in ("encoded", "put"):
        assert sum(go[work] for go in goes) >= hosts * length
        assert max(go[work] for go in goes) < ENTRIES_PER_SLICE + length


def test_a_peer_that_is_dropped_while_its_vector_is_read_leaves_nothing_behind() -> None:
    a, b = replication(A, MANY), replication(B, 0)
    for step in range(40):
        for source, target in ((a, b), (b, a)):
            source.handle_deadline(0.1 * step)
            while True:
                for datagram in source.drain().datagrams:
                    target.handle_datagram(datagram.payload, address_of(A), 0.1 * step)
                if not source.has_pending_work:
                    break
                source.run_step()
                if source is a:
                    a.set_peer(id_of(B), None, 0.1 * step, live=False)
    while a.has_pending_work:
        a.run_step()
    a.drain()
    a.check_invariants()
    assert a.statistics()["standings"] == 0


def test_members_are_reported_as_they_come(counted: Counted) -> None:
    """The application gets members slice by slice, each once."""
    a, b = swim(A, remembered=OTHERS), swim(B, seeds=(A,))
    exchanging = Exchanging(counted, a=a, b=b)
    events: list[list[str]] = []
    drain = b.drain

    def noting() -> Any:
        output = drain()
        events.append([one.member.node_id for one in output.events if isinstance(one, MemberChanged)])
        return output

    b.drain = noting  # type: ignore[method-assign]
    exchanging.run()
    assert max(map(len, events)) <= MEMBERS_PER_SLICE + 1
    heard = [one for some in events for one in some]
    assert len(heard) == len(set(heard)) == MANY + 1
