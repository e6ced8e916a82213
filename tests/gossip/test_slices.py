"""Long work is done in slices, whose sizes are counted here; and doing it in slices equals doing it at once."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netgossip.codec.sealing import Keyring
from netgossip.config import GossipConfig
from netgossip.errors import WireError
from netgossip.records import record_log, transport
from netgossip.records.frames import Sealer
from netgossip.records.record_log import RecordLog
from netgossip.records.replication import Replication
from netgossip.records.wire import Delta, Fetch, Message, Row, Vector, decode_untrusted, encode
from netgossip.slices import ENTRIES_PER_SLICE, SORTED_PER_SLICE, Slices, WorkQueue, at_once, merge_sort
from netgossip.types import (
    Address,
    EntriesChanged,
    Entry,
    Event,
    StreamClose,
    StreamCommand,
    StreamOpen,
    StreamSend,
    Version,
)

A, B = "aa" * 16, "bb" * 16
NET = bytes(range(16))
MANY = 5_000
ADDRESSES: dict[str, Address] = {A: ("192.0.2.1", 7957), B: ("192.0.2.2", 7957)}


def steps(name: str, count: int, log: list[str]) -> Slices[None]:
    for number in range(count):
        log.append(f"{name}{number}")
        if number < count - 1:
            yield


def test_a_work_begins_at_once_and_continues_after_the_works_that_wait() -> None:
    log: list[str] = []
    works = WorkQueue()
    works.begin(steps("a", 1, log))
    assert (log, len(works)) == (["a0"], 0), "what is short is over"
    works.begin(steps("b", 3, log))
    works.queue(steps("c", 2, log))
    works.begin(steps("d", 2, log))
    assert log == ["a0", "b0", "d0"]
    while works:
        works.run_step()
    assert log == ["a0", "b0", "d0", "b1", "b2", "c0", "c1", "d1"]
    works.queue(steps("e", 1, log))
    assert (log[-1], len(works)) == ("e0", 0)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers())), st.integers(0, 3))
def test_sorted_in_slices_is_sorted(items: list[tuple[int, int]], times: int) -> None:
    items *= times * SORTED_PER_SLICE // max(len(items), 1) + 1
    assert at_once(merge_sort(items, lambda one: one[0])) == sorted(items, key=lambda one: one[0])


def test_sorting_stops_at_each_run_and_at_each_item_that_is_merged() -> None:
    count = 10 * SORTED_PER_SLICE
    stops, _ = counted(merge_sort(range(count, 0, -1), lambda one: one))
    assert stops == 10 + count


def counted(pieces: Slices[object]) -> tuple[int, object]:
    """How often it could stop, and the result."""
    for stops in itertools.count():
        try:
            next(pieces)
        except StopIteration as end:
            return stops, end.value
    raise AssertionError


def entries_of(count: int) -> tuple[Entry, ...]:
    return tuple(
        Entry(NET, B, b"key %d" % number, None if number % 7 == 0 else b"v" * 150, Version(1, number))
        for number in range(1, count + 1)
    )


def delta_of(count: int) -> Delta:
    return Delta(NET, B, 1, 0, count, 0, 77, entries_of(count))


def plainly(message: Delta | Vector | Fetch) -> list[object]:
    """All fields of a message in the order of the wire."""
    match message:
        case Delta():
            head = [message.epoch, message.base, message.head, message.collected]
            rows = [one for e in message.entries for one in (e.key, e.version.sequence, e.value)]
            digest = message.digest.to_bytes(16, "big")
            number = len(message.entries)
            return [3, NET, bytes.fromhex(message.owner), *head, digest, b"", number, *rows]
        case Vector():
            rows = [
                one
                for row in message.rows
                for one in (bytes.fromhex(row.owner), *row.version, row.digest.to_bytes(16, "big"))
            ]
            return [7, NET, message.holding, len(message.rows), *rows]
        case Fetch():
            rows = [one for owner, version in message.rows for one in (bytes.fromhex(owner), *version)]
            return [8, NET, len(message.rows), *rows]


@pytest.mark.parametrize(
    "count", [0, 1, ENTRIES_PER_SLICE - 1, ENTRIES_PER_SLICE, ENTRIES_PER_SLICE + 1, MANY]
)
def test_encoding_and_parsing_in_slices_equals_doing_it_at_once(count: int) -> None:
    owners = [f"{number:032x}" for number in range(count)]
    messages: list[Message] = [
        delta_of(count),
        Vector(NET, True, tuple(Row(one, Version(1, 5), 9) for one in owners)),
        Fetch(NET, tuple((one, Version(1, 2)) for one in owners)),
    ]
    for message in messages:
        assert isinstance(message, Delta | Vector | Fetch)
        stops, body = counted(encode(message))
        assert body == msgpack.packb(plainly(message))
        assert stops == count // ENTRIES_PER_SLICE
        assert isinstance(body, bytes)
        stops, read = counted(decode_untrusted(body))
        assert read == [message]
        assert stops == count // ENTRIES_PER_SLICE


# Two machines


def machine(node_id: str) -> Replication:
    made = Replication(
        config=GossipConfig.lan(),
        node_id=node_id,
        boot_epoch=1,
        keyring=Keyring([bytes(32)]),
        cluster_label=b"label",
        identity=None,
        rng=random.Random(node_id),
        now=0.0,
        new_stream_id=itertools.count(1).__next__,
    )
    other = A if node_id == B else B
    made.enter_scope(NET, 0.0)
    made.set_peer(other, ADDRESSES[other], 0.0, live=True)
    made.set_scope_members(NET, frozenset({A, B}), 0.0)
    return made


class Work:
    """Entries that were put into logs, and frames that were sealed, since `taken`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.put = self.sealed = 0
        put, seal = RecordLog.put, Sealer.seal

        def counting_put(log: RecordLog, entry: Entry) -> None:
            self.put += 1
            put(log, entry)

        def counting_seal(sealer: Sealer, recipient: str, body: bytes, **how: Any) -> bytes:
            self.sealed += 1
            return seal(sealer, recipient, body, **how)

        monkeypatch.setattr(record_log.RecordLog, "put", counting_put)
        monkeypatch.setattr(Sealer, "seal", counting_seal)

    def taken(self) -> tuple[int, int]:
        found = self.put, self.sealed
        self.put = self.sealed = 0
        return found


class Pair:
    """B, which has said a lot, and A. Counted is what either does in one go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
        self.a, self.b = machine(A), machine(B)
        for start in range(0, count, 200):
            changes = [(NET, b"key %d" % n, b"v" * 150) for n in range(start, min(start + 200, count))]
            self.b.commit(self.b.prepare(changes), 0.0)
        self.b.drain()
        self.streams: dict[int, int] = {}
        self.held_back: list[StreamCommand] | None = None
        """What would go over streams, if it is not to be delivered."""
        self.events: list[Event] = []
        self.work = Work(monkeypatch)
        self.goes: list[tuple[int, int]] = []

    def run(self, rounds: int = 60) -> None:
        """Until nothing moves; all deadlines at once."""
        now = 0.0
        for _ in range(rounds):
            now += 0.5
            for source, target in ((self.b, self.a), (self.a, self.b)):
                source.handle_deadline(now)
                self.goes.append(self.work.taken())
                self.carry(source, target, now)

    def carry(self, source: Replication, target: Replication, now: float) -> None:
        for datagrams, commands in self.said(source):
            for payload in datagrams:
                target.handle_datagram(payload, ADDRESSES[A], now)
                self.goes.append(self.work.taken())
            for command in commands:
                if self.held_back is None:
                    self.obey(source, target, command, now)
                    self.goes.append(self.work.taken())
                else:
                    self.held_back.append(command)

    def said(self, source: Replication) -> Iterator[tuple[list[bytes], list[StreamCommand]]]:
        while True:
            output = source.drain()
            self.goes.append(self.work.taken())
            if source is self.a:
                self.events += output.events
            yield [one.payload for one in output.datagrams], list(output.streams)
            if not source.has_pending_work:
                return
            source.run_step()
            self.goes.append(self.work.taken())

    def obey(self, source: Replication, target: Replication, command: StreamCommand, now: float) -> None:
        match command:
            case StreamOpen(stream_id):
                self.streams[stream_id] = 1000 + len(self.streams)
                target.accept_stream(self.streams[stream_id], ADDRESSES[B], now)
            case StreamSend(stream_id, data):
                target.handle_stream_data(self.streams[stream_id], data, now)
            case StreamClose(stream_id):
                ours = {theirs: own for own, theirs in self.streams.items()}
                source_is_dialler = stream_id in self.streams
                target.handle_stream_end(
                    self.streams[stream_id] if source_is_dialler else ours[stream_id], now, None
                )


def test_a_large_log_is_sent_and_merged_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(monkeypatch, MANY)
    pair.run()
    assert pair.a.own_log(NET) is None
    (log,) = pair.a.logs(NET)
    assert log == pair.b.own_log(NET)
    assert pair.b.unacknowledged(NET) == frozenset()
    (changed,) = [one for one in pair.events if isinstance(one, EntriesChanged)]
    assert (changed.owner, len(changed.entries)) == (B, MANY)
    assert max(put for put, _ in pair.goes) <= ENTRIES_PER_SLICE
    assert max(sealed for _, sealed in pair.goes) <= transport.FRAMES_PER_SLICE + 1
    assert sum(put for put, _ in pair.goes) >= MANY


def with_a_stream_to_be_read(monkeypatch: pytest.MonkeyPatch) -> Pair:
    """A has all the bytes of B's log, and has read nothing of them."""
    pair = Pair(monkeypatch, MANY)
    pair.held_back = []
    pair.run(rounds=3)
    opening, *rest = pair.held_back
    assert isinstance(opening, StreamOpen)
    pair.a.accept_stream(9, ADDRESSES[B], 2.0)
    for command in rest:
        assert isinstance(command, StreamSend)
        assert pair.a.has_pending_work is False
        pair.a.handle_stream_data(9, command.data, 2.0)
    assert pair.a.has_pending_work
    return pair


def test_nothing_is_reported_of_a_log_until_all_of_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither an event nor an ack, nor is the stream closed, which would say that it arrived."""
    pair = with_a_stream_to_be_read(monkeypatch)
    pieces = 0
    while True:
        output = pair.a.drain()
        if output.events:
            break
        assert (output.datagrams, output.streams) == ((), ())
        assert pair.a.logs(NET) == ()
        pair.a.check_invariants()
        pair.a.run_step()
        pieces += 1
    assert pieces >= 2 * (MANY // ENTRIES_PER_SLICE), "read, then merged"
    assert any(isinstance(one, EntriesChanged) for one in output.events)
    assert len(output.datagrams) == 1
    assert output.streams == (StreamClose(9),)


def test_a_peer_that_is_dropped_in_between_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = with_a_stream_to_be_read(monkeypatch)
    for _ in range(30):
        pair.a.run_step()
    assert pair.a.has_pending_work
    pair.a.set_peer(B, None, 2.0, live=False)
    while pair.a.has_pending_work:
        pair.a.run_step()
        pair.a.drain()
    pair.a.check_invariants()
    assert pair.a.statistics()["standings"] == 0


def test_a_scope_that_is_left_in_between_stays_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = with_a_stream_to_be_read(monkeypatch)
    for _ in range(30):
        pair.a.run_step()
    assert pair.a.has_pending_work
    pair.a.exit_scope(NET)
    while pair.a.has_pending_work:
        pair.a.run_step()
        assert not any(isinstance(one, EntriesChanged) for one in pair.a.drain().events)
    assert pair.a.logs(NET) == ()


def test_a_body_that_ends_in_nonsense_counts_for_nothing_and_stops_in_between() -> None:
    pieces = decode_untrusted(at_once(encode(delta_of(MANY))) + b"\xc1")
    for _ in range(MANY // ENTRIES_PER_SLICE):
        next(pieces)
    with pytest.raises(WireError, match="malformed"):
        next(pieces)
