"""Messages into datagrams and streams, sessions, joins, and everything that is refused on the way."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from netgossip.codec.sealing import Keyring
from netgossip.config import GossipConfig
from netgossip.errors import WireError
from netgossip.join.admission import Invitations, InviterConversation
from netgossip.join.identity import Identity
from netgossip.records.accepted_streams import (
    PARTIAL_LIMIT_BYTES,
    PER_HOST_LIMIT,
    REASONS_LIMIT,
    UNKNOWN_SOURCES_LIMIT,
    UNPROVEN_MESSAGE_BYTES,
    UNPROVEN_STREAMS,
    JoinHandler,
    count_refusal,
)
from netgossip.records.handshake import HELLO_HEARD_S, HELLO_MAX_S
from netgossip.records.transport import RecordTransport
from netgossip.records.wire import (
    ASSEMBLED_BYTES,
    NO_VERSION,
    PARTS_LIMIT,
    Delta,
    DeltaAck,
    Digest,
    Fetch,
    Hello,
    Message,
    Part,
    Request,
    Vector,
    encode,
)
from netgossip.slices import WorkQueue, at_once
from netgossip.types import (
    CLUSTER_SCOPE,
    Address,
    Channel,
    Datagram,
    Entry,
    StreamClose,
    StreamCommand,
    StreamId,
    StreamOpen,
    StreamSend,
    Version,
)

A, B, C = "aa" * 16, "bb" * 16, "cc" * 16
CONFIG = GossipConfig.lan()


def address(node_id: str) -> Address:
    return (f"192.0.2.{int(node_id[:2], 16)}", 7957)


class Carrying(RecordTransport):
    """Runs all slices at once."""

    def __init__(self, works: WorkQueue, **arguments: Any) -> None:
        super().__init__(works=works, **arguments)
        self.works = works

    def drain(self) -> tuple[list[Datagram], list[StreamCommand]]:
        datagrams, commands = super().drain()
        while self.works:
            self.works.run_step()
            commands += super().drain()[1]
        return datagrams, commands

    def hear_stream(self, stream_id: StreamId, data: bytes) -> list[Message]:
        heard = []
        for arrived in self.handle_stream_data(stream_id, data, 0.0):
            heard += [item.message for item in at_once(self.parse(arrived, 0.0))]
            self.finish(arrived)
        return heard


def transport(node_id: str, *, epoch: int = 1, join: JoinHandler | None = None, seed: int = 0) -> Carrying:
    made = Carrying(
        WorkQueue(),
        config=CONFIG,
        node_id=node_id,
        boot_epoch=epoch,
        keyring=Keyring([bytes(32)]),
        label=b"label",
        rng=random.Random(f"{node_id} {epoch} {seed}"),
        new_stream_id=itertools.count(1).__next__,
        join_handler=join,
    )
    for other in {A, B} - {node_id}:
        made.set_peer(other, address(other), 0.0)
    return made


def pump(one: Carrying, other: Carrying, now: float = 0.0) -> list[Message]:
    """Pass datagrams between two until nothing is left; the messages that either believed."""
    believed = []
    for _ in range(10):
        moved = False
        for source, target in ((one, other), (other, one)):
            source.handle_deadline(now)
            for datagram in source.drain()[0]:
                moved = True
                believed += [r.message for r in target.handle_datagram(datagram.payload, now)]
        if not moved:
            break
    return believed


def delta(count: int, size: int = 100) -> Delta:
    entries = tuple(
        Entry(CLUSTER_SCOPE, A, b"%d" % number, bytes(size), Version(1, number))
        for number in range(1, count + 1)
    )
    return Delta(CLUSTER_SCOPE, A, 1, 0, count, 0, 0, entries)


def test_the_first_contact_proves_both_starts() -> None:
    a, b = transport(A), transport(B)
    a.begin_handshake(B, 0.0)
    b.begin_handshake(A, 0.0)
    pump(a, b)
    assert a.take_admitted() == [B]
    assert b.take_admitted() == [A]
    at_once(a.send(B, Request(1, b"?")))
    assert pump(a, b) == [Request(1, b"?")]


def test_what_may_be_repeated_is_believed_before_any_proof_and_the_rest_is_not() -> None:
    a, b = transport(A), transport(B)
    digest = Digest(CLUSTER_SCOPE, 1)
    at_once(a.send(B, digest))
    at_once(a.send(B, Request(1, b"?")))
    (datagram,) = a.drain()[0]
    received = b.handle_datagram(datagram.payload, 0.0)
    assert [item.message for item in received] == [digest]
    assert (b.counts["early"], b.counts["refused_unproven"]) == (1, 0), "the peers have not met before"


def test_what_a_start_that_is_over_says_is_refused_and_counted() -> None:
    a, b, old = transport(A, epoch=2), transport(B), transport(A, epoch=1)
    b.begin_handshake(A, 0.0)
    pump(a, b)
    at_once(old.send(B, Request(1, b"?")))
    (datagram,) = old.drain()[0]
    assert b.handle_datagram(datagram.payload, 0.0) == []
    assert (b.counts["early"], b.counts["refused_unproven"]) == (0, 1)
    a = transport(A, epoch=3)
    at_once(a.send(B, Request(1, b"?")))
    (datagram,) = a.drain()[0]
    assert b.handle_datagram(datagram.payload, 0.0) == []
    assert (b.counts["early"], b.counts["refused_unproven"]) == (1, 1), "a newer start may prove itself yet"


def test_a_hello_before_we_know_its_sender_is_not_counted_as_an_unknown_source() -> None:
    a, b = transport(A), transport(B)
    b.set_peer(A, None, 0.0)
    for sender in (a, transport(C)):
        sender.set_peer(B, address(B), 0.0)
        sender.begin_handshake(B, 0.0)
        sender.handle_deadline(0.0)
        (datagram,) = sender.drain()[0]
        assert b.handle_datagram(datagram.payload, 0.0) == []
    assert b.counts["refused_sender_is_not_a_member"] == 2
    b.set_peer(A, address(A), 1.0)
    assert (b.counts["early"], b.counts["refused_sender_is_not_a_member"]) == (1, 1)


def test_a_new_start_gets_a_hello_and_is_admitted_by_itself() -> None:
    a, b = transport(A), transport(B)
    b.begin_handshake(A, 0.0)
    pump(a, b)
    b.take_admitted()
    a = transport(A, epoch=2)
    at_once(a.send(B, Digest(CLUSTER_SCOPE, 1)))
    pump(a, b)
    pump(a, b, HELLO_HEARD_S)
    assert b.take_admitted() == [A]


def test_a_replayed_request_is_refused_before_and_after_a_restart_of_the_receiver() -> None:
    a, b = transport(A), transport(B)
    b.begin_handshake(A, 0.0)
    pump(a, b)
    at_once(a.send(B, Request(1, b"grant me")))
    (recorded,) = a.drain()[0]
    assert len(b.handle_datagram(recorded.payload, 0.0)) == 1
    assert b.handle_datagram(recorded.payload, 0.0) == []
    assert b.counts["refused_replayed"] == 1
    b = transport(B, epoch=2)
    assert b.handle_datagram(recorded.payload, 0.0) == []
    pump(a, b, 1.0)
    assert b.take_admitted() == [A]
    assert b.handle_datagram(recorded.payload, 1.0) == []


def test_messages_to_one_peer_share_datagrams_and_none_is_too_large() -> None:
    a = transport(A)
    for number in range(100):
        at_once(a.send(B, DeltaAck(CLUSTER_SCOPE, True, Version(1, number), Version(1, 1))))
    datagrams, streams = a.drain()
    assert streams == []
    assert 2 <= len(datagrams) <= 5
    assert max(len(datagram.payload) for datagram in datagrams) <= CONFIG.record_datagram_bytes
    assert {datagram.channel for datagram in datagrams} == {Channel.RECORD}


def carry(commands: Sequence[StreamCommand], target: Carrying, stream_id: StreamId = 99) -> list[Message]:
    """Replay what a dialler sent into another transport."""
    target.accept_stream(stream_id, address(A), 0.0)
    messages = []
    for command in commands:
        if isinstance(command, StreamSend):
            for start in range(0, len(command.data), 1000):
                messages += target.hear_stream(stream_id, command.data[start : start + 1000])
    return messages


@pytest.mark.parametrize("count", [12, 5000])
def test_what_is_larger_than_a_datagram_takes_a_stream(count: int) -> None:
    a, b = transport(A), transport(B)
    at_once(a.send(B, delta(count)))
    datagrams, commands = a.drain()
    assert datagrams == []
    assert commands[0] == StreamOpen(1, Channel.RECORD, address(B))
    assert carry(list(commands), b) == [delta(count)]
    assert b.drain()[1] == [StreamClose(99)]
    a.handle_stream_end(1, 0.1, None)
    assert a.drain()[1] == [StreamClose(1)]


def test_much_at_once_takes_a_stream_and_acks_never_do() -> None:
    a = transport(A)
    for _ in range(200):
        at_once(a.send(B, delta(1)))
    at_once(a.send(B, DeltaAck(CLUSTER_SCOPE, True, Version(1, 1), Version(1, 1))))
    datagrams, commands = a.drain()
    assert len(datagrams) == 1
    assert isinstance(commands[0], StreamOpen)


def test_one_stream_to_a_peer_at_a_time_and_a_bounded_backlog() -> None:
    a = transport(A)
    for _ in range(30):
        at_once(a.send(B, delta(20, 60_000)))
        a.drain()
    assert a.counts["streams_dialled"] == 1
    assert a.counts["dropped_backlog"] > 0
    a.handle_stream_end(1, 1.0, "refused")
    _, commands = a.drain()
    assert commands[0] == StreamClose(1)
    assert isinstance(commands[1], StreamOpen)


def test_streams_that_stand_still_end() -> None:
    a, b = transport(A), transport(B)
    at_once(a.send(B, delta(100)))
    a.drain()
    b.accept_stream(7, address(A), 0.0)
    for machine, stream_id in ((a, 1), (b, 7)):
        machine.handle_deadline(machine.next_deadline())
        assert StreamClose(stream_id) in machine.drain()[1]


def test_too_many_streams_and_foreign_bytes_are_refused() -> None:
    b = transport(B)
    for number in range(UNKNOWN_SOURCES_LIMIT + 1):
        b.accept_stream(number, (f"203.0.113.{number}", 5), 0.0)
    (closed,) = b.drain()[1]
    assert isinstance(closed, StreamClose)
    assert closed.stream_id != UNKNOWN_SOURCES_LIMIT, "the newest has a place"
    b.handle_stream_data(UNKNOWN_SOURCES_LIMIT, b"GET / HTTP/1.1\r\n" + bytes(100), 0.0)
    assert b.drain()[1] == [StreamClose(UNKNOWN_SOURCES_LIMIT)]
    assert b.counts["refused_not_a_record_frame"] == 1


def test_one_host_cannot_keep_the_others_out() -> None:
    b = transport(B)
    for number in range(UNPROVEN_STREAMS):
        b.accept_stream(number, ("203.0.113.1", number + 1), 0.0)
    assert b.counts["refused_too_many_streams"] == UNPROVEN_STREAMS - PER_HOST_LIMIT
    b.drain()
    b.accept_stream(99, address(A), 0.0)
    assert b.drain()[1] == []


def test_any_number_of_unknown_sources_keeps_no_member_out() -> None:
    """Before and after: a stream of a member is read whatever streams unknown sources hold."""
    a, b = transport(A), transport(B)
    a.begin_handshake(B, 0.0)
    b.begin_handshake(A, 0.0)
    pump(a, b)
    unknown_sources = itertools.count(1000)
    for number in range(1000):
        b.accept_stream(next(unknown_sources), (f"2001:db8::{number // 2:x}", 5), 0.0)
    b.drain()
    at_once(a.send(B, delta(5000)))
    opened, *sent = a.drain()[1]
    assert isinstance(opened, StreamOpen)
    b.accept_stream(1, address(A), 0.0)
    for number in range(1000):
        b.accept_stream(next(unknown_sources), (f"2001:db8:1::{number:x}", 5), 0.0)
    heard = b.hear_stream(1, b"".join(one.data for one in sent[:2] if isinstance(one, StreamSend)))
    for _ in range(1000):
        b.accept_stream(
            next(unknown_sources), address(A), 0.0
        )  # a container there reaches us under the host's address
    heard += b.hear_stream(1, b"".join(one.data for one in sent[2:] if isinstance(one, StreamSend)))
    assert [type(one) for one in heard] == [Delta]
    b.check_invariants()


def test_a_recorded_stream_proves_nothing_and_is_read_once() -> None:
    a, b = transport(A), transport(B)
    a.begin_handshake(B, 0.0)
    b.begin_handshake(A, 0.0)
    pump(a, b)
    wants = [
        Fetch(CLUSTER_SCOPE, tuple((f"{n:032x}", NO_VERSION) for n in range(i, i + 400))) for i in range(9)
    ]
    for want in wants:
        at_once(a.send(B, want))
    recorded = a.drain()[1]
    assert carry(recorded, b) == wants
    b.drain()
    assert carry(recorded, b) == [], "what asks for whole logs is heard once"
    assert b.counts["refused_unproven"] == len(wants)


def test_a_stream_that_is_not_proven_fills_no_memory() -> None:
    a, b = transport(A), transport(B)
    at_once(a.send(B, delta(2 * UNPROVEN_MESSAGE_BYTES // 1000, 1000)))
    assert carry(a.drain()[1], b) == []
    assert b.counts["refused_message_too_large"] == 1


def test_messages_that_never_end_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the worst that members can build: each sends a message of which the last frame is missing."""
    monkeypatch.setattr("netgossip.records.accepted_streams.PARTIAL_LIMIT_BYTES", 10 * 64 * 1024)
    assert PARTIAL_LIMIT_BYTES <= 128 * 1024 * 1024
    b = transport(B)
    members = [f"{number:02x}" * 16 for number in range(1, 40)]
    for number, member in enumerate(members, 1):
        one = transport(member)
        b.set_peer(member, address(member), 0.0)
        b.begin_handshake(member, 0.0)
        pump(one, b)
        at_once(one.send(B, delta(2000)))
        opened, first, *_ = one.drain()[1]
        assert isinstance(opened, StreamOpen)
        assert isinstance(first, StreamSend)
        b.accept_stream(number, address(member), 0.0)
        assert b.hear_stream(number, first.data) == []
        b.check_invariants()
    assert b.counts["refused_too_much_at_once_on_all_streams"] == 29


def test_frame_lengths_of_an_unknown_source_are_one_counter() -> None:
    invitations = Invitations(Identity(bytes(32)), bytes, lambda: None, lambda *_: None)  # type: ignore[arg-type, return-value]
    b = transport(B, join=invitations.converse)
    before = len(b.counts)
    for length in range(32_769, 65_536, 64):
        b.accept_stream(length, ("203.0.113.1", 5), 0.0)
        b.handle_stream_data(length, b"J" + length.to_bytes(2, "big"), 0.0)
    assert len(b.counts) - before <= 2


def test_refusals_for_invented_reasons_have_a_bound() -> None:
    counts: Counter[str] = Counter()
    for number in range(10_000):
        count_refusal(counts, WireError(f"reason {number}"))
    assert len(counts) <= REASONS_LIMIT + 1
    assert sum(counts.values()) == 10_000


def test_recorded_fetches_and_vectors_count_for_nothing_after_a_restart() -> None:
    a, b = transport(A), transport(B)
    b.begin_handshake(A, 0.0)
    pump(a, b)
    want, vector = Fetch(CLUSTER_SCOPE, ((A, NO_VERSION),)), Vector(CLUSTER_SCOPE, True, ())
    at_once(a.send(B, want))
    at_once(a.send(B, vector))
    (recorded,) = a.drain()[0]
    assert [item.message for item in b.handle_datagram(recorded.payload, 0.0)] == [want, vector]
    b = transport(B, epoch=2)
    assert b.handle_datagram(recorded.payload, 0.0) == []
    pump(a, b, 1.0)
    assert b.take_admitted() == [A]
    assert b.handle_datagram(recorded.payload, 1.0) == []


def test_a_recorded_stream_of_another_sender_does_not_mix_in() -> None:
    a, b, c = transport(A), transport(B), transport(C)
    c.set_peer(B, address(B), 0.0)
    b.set_peer(C, address(C), 0.0)
    at_once(a.send(B, delta(5000)))
    at_once(c.send(B, delta(5000)))
    mixed = [*a.drain()[1][:3], *c.drain()[1][3:]]
    assert carry(list(mixed), b) == []
    assert b.counts["refused_two_senders_on_one_stream"] == 1


class Echo(InviterConversation):
    """A join conversation that answers all, and ends on an exclamation mark."""

    def __init__(self) -> None:
        """Without an invitation."""

    def receive(self, data: bytes, now: float) -> tuple[bytes, bool]:
        if b"?" in data:
            raise WireError("no questions")
        return data.upper(), data.endswith(b"!")


def test_a_stream_that_opens_with_j_is_a_join() -> None:
    b = transport(B, join=Echo)
    b.accept_stream(1, ("203.0.113.1", 5), 0.0)
    assert b.handle_stream_data(1, b"Join", 0.0) == []
    b.handle_stream_data(1, b"me!", 0.0)
    assert b.drain()[1] == [StreamSend(1, b"JOIN"), StreamSend(1, b"ME!"), StreamClose(1)]


def test_a_join_that_goes_wrong_or_is_not_wanted_is_closed_and_counted() -> None:
    asking, unwanted = transport(B, join=Echo), transport(B)
    for machine, counted in (
        (asking, "refused_no_questions"),
        (unwanted, "refused_this_node_accepts_no_joins"),
    ):
        machine.accept_stream(1, ("203.0.113.1", 5), 0.0)
        machine.handle_stream_data(1, b"J?", 0.0)
        assert machine.drain()[1] == [StreamClose(1)]
        assert machine.counts[counted] == 1


def test_hellos_without_an_answer_become_rare() -> None:
    a = transport(A)
    a.begin_handshake(B, 0.0)
    times: list[float] = []
    while len(times) < 12:
        times.append(a.next_deadline())
        a.handle_deadline(times[-1])
        assert len(a.drain()[0]) == 1
    assert times[1] - times[0] <= 0.1
    assert round(times[-1] - times[-2], 6) == HELLO_MAX_S
    a.stop_handshake(B)
    assert a.next_deadline() == float("inf")


def test_a_peer_that_is_heard_gets_a_hello_soon_however_long_it_was_silent() -> None:
    """After a partition its answers come through again, and only the pace of Hellos would keep it out."""
    a, b = transport(A), transport(B)
    a.begin_handshake(B, 0.0)
    now = 0.0
    while a.next_deadline() < now + HELLO_MAX_S:
        now = a.next_deadline()
        a.handle_deadline(now)
        a.drain()  # lost
    for after_s in (0.1, 0.4, 0.9):
        at_once(b.send(A, Digest(CLUSTER_SCOPE, 1)))
        (datagram,) = b.drain()[0]
        a.handle_datagram(datagram.payload, now + after_s)
        assert a.next_deadline() == now + 0.1 + HELLO_HEARD_S, "others do not put it off, nor hurry it"
    pump(a, b, a.next_deadline())
    assert a.take_admitted() == [B]


def acquainted() -> tuple[Carrying, Carrying]:
    """Two that have proven their starts to each other."""
    a, b = transport(A), transport(B)
    a.begin_handshake(B, 0.0)
    b.begin_handshake(A, 0.0)
    pump(a, b)
    return a, b


def test_a_message_of_a_few_datagrams_comes_whole_and_without_a_stream() -> None:
    a, b = acquainted()
    long = delta(32, 150)
    at_once(a.send(B, long))
    datagrams, commands = a.drain()
    assert commands == []
    assert 2 <= len(datagrams) <= PARTS_LIMIT
    assert all(len(datagram.payload) <= CONFIG.record_datagram_bytes for datagram in datagrams)
    heard = [b.handle_datagram(datagram.payload, 0.0) for datagram in reversed(datagrams)]
    assert [[item.message for item in one] for one in heard] == [[]] * (len(datagrams) - 1) + [[long]]
    assert heard[-1][0].fresh
    assert heard[-1][0].proven
    assert [b.handle_datagram(datagram.payload, 0.0) for datagram in datagrams] == [[]] * len(datagrams)
    assert b.counts["refused_replayed"] == len(datagrams)
    b.check_invariants()


def test_when_a_part_is_lost_the_same_goes_over_a_stream() -> None:
    a, b = acquainted()
    long = delta(32, 150)
    at_once(a.send(B, long))
    for datagram in a.drain()[0][1:]:
        assert b.handle_datagram(datagram.payload, 0.0) == []
    at_once(a.send(B, long))
    datagrams, commands = a.drain()
    assert datagrams == []
    assert isinstance(commands[0], StreamOpen)
    b.accept_stream(9, address(A), 0.0)
    heard = [one for c in commands if isinstance(c, StreamSend) for one in b.hear_stream(9, c.data)]
    assert heard == [long]
    b.handle_deadline(b.next_deadline())
    assert b.next_deadline() == float("inf"), "what came of the first attempt is dropped"


def test_a_release_that_knows_no_parts_gets_a_stream_and_announces_nothing() -> None:
    a, old = transport(A), transport(B)
    old._assembles = 0
    a.begin_handshake(B, 0.0)
    old.begin_handshake(A, 0.0)
    pump(a, old)
    assert (a.take_admitted(), old.take_admitted()) == ([B], [A])
    at_once(a.send(B, delta(32, 150)))
    datagrams, commands = a.drain()
    assert datagrams == []
    assert isinstance(commands[0], StreamOpen)


def test_nothing_goes_in_parts_while_a_stream_is_under_way() -> None:
    a, _ = acquainted()
    at_once(a.send(B, delta(200, 150)))
    assert isinstance(a.drain()[1][0], StreamOpen)
    at_once(a.send(B, delta(32, 150)))
    assert a.drain() == ([], [])


def test_parts_of_a_start_that_has_proven_nothing_are_refused() -> None:
    a, b = transport(A), transport(B)
    a._peers[B].cutter.limit_bytes = ASSEMBLED_BYTES  # B's Welcome has come, and not yet A's to B
    at_once(a.send(B, delta(32, 150)))
    datagrams, _ = a.drain()
    assert len(datagrams) > 1
    assert [b.handle_datagram(datagram.payload, 0.0) for datagram in datagrams] == [[]] * len(datagrams)
    assert b.counts["early"] == len(datagrams)
    assert len(b._assembly) == 0
    assert b.next_deadline() <= HELLO_HEARD_S, "it is asked to prove its start"


def test_one_datagram_holds_one_part_that_counts() -> None:
    """Else one of 64 KiB could end thousands of messages."""
    a, b = acquainted()
    body = b"".join(at_once(encode(Part(n, i, 2, b"\x91\x63"))) for n in range(100) for i in range(2))
    frame = a._sealer.seal(B, body)
    assert b.handle_datagram(frame, 0.0) == []
    assert len(b._assembly) == 1


@pytest.mark.parametrize(
    "inner", [Request(1, b"?"), Digest(CLUSTER_SCOPE, 1), Hello(bytes(8)), Part(1, 0, 2, b"x")]
)
def test_only_what_may_be_long_counts_in_parts(inner: Message) -> None:
    a, b = acquainted()
    whole = at_once(encode(inner)) + at_once(encode(delta(1)))
    for index, data in enumerate((whole[:3], whole[3:])):
        assert b.handle_datagram(a._sealer.seal(B, at_once(encode(Part(1, index, 2, data)))), 0.0) == []
    assert b.counts["refused_in_parts_what_never_is"] == 1
    assert b.drain() == ([], [])
