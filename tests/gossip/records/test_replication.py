"""Replication alone: what single messages do to it. Whole clusters are in tests/sim."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netgossip.codec.sealing import Keyring
from netgossip.config import GossipConfig
from netgossip.errors import GossipUsageError
from netgossip.join.identity import Identity
from netgossip.records.frames import Opener, Sealer, parse_header_untrusted
from netgossip.records.handlers import UNPROVEN_EVERY_S, UNPROVEN_LIMIT
from netgossip.records.replication import RECHECK_S, Replication
from netgossip.records.table import OWN_DROPPED_LIMIT, OWN_SCOPES_LIMIT, REPORTED_LIMIT
from netgossip.records.wire import (
    NO_VERSION,
    NONCE_BYTES,
    Delta,
    DeltaAck,
    Digest,
    Fetch,
    Hello,
    Message,
    Row,
    Vector,
    Welcome,
    decode_untrusted,
    encode,
)
from netgossip.slices import at_once
from netgossip.types import (
    CLUSTER_SCOPE,
    Address,
    Channel,
    EntriesChanged,
    Entry,
    Log,
    Scope,
    ScopeSynced,
    UnprovenLogHeard,
    Version,
)

A, B, C = "aa" * 16, "bb" * 16, "cc" * 16
NET = bytes(range(16))
LABEL = b"label"
ADDRESSES: dict[str, Address] = {A: ("192.0.2.1", 7957), B: ("192.0.2.2", 7957), C: ("192.0.2.3", 7957)}


def replication(
    node_id: str,
    *peers: str,
    expect_peers: bool = False,
    own_logs: Sequence[Log] = (),
    replicas: Sequence[Log] = (),
    identity: Identity | None = None,
) -> Replication:
    made = Replication(
        config=GossipConfig.lan(),
        node_id=node_id,
        boot_epoch=1,
        keyring=Keyring([bytes(32)]),
        cluster_label=LABEL,
        identity=identity,
        rng=random.Random(node_id),
        now=0.0,
        new_stream_id=itertools.count(1).__next__,
        expect_peers=expect_peers,
        own_logs=own_logs,
        replicas=replicas,
    )
    for peer in peers:
        made.set_peer(peer, ADDRESSES[peer], 0.0, live=True)
    return made


def pump(machines: dict[str, Replication], now: float) -> None:
    """Pass datagrams around until nothing moves."""
    by_address = {ADDRESSES[node_id]: machine for node_id, machine in machines.items()}
    for _ in range(20):
        moved = False
        for machine in machines.values():
            machine.handle_deadline(now)
            for datagram in machine.drain().datagrams:
                moved = True
                if datagram.destination in by_address:
                    by_address[datagram.destination].handle_datagram(datagram.payload, ("0.0.0.0", 0), now)
        if not moved:
            return


def pass_on(source: Replication, target: Replication, now: float) -> None:
    """What one has to say to the other; to a third nothing gets through."""
    for datagram in source.drain().datagrams:
        if datagram.destination == ADDRESSES[target._node_id]:
            target.handle_datagram(datagram.payload, ("0.0.0.0", 0), now)


def commit(machine: Replication, key: bytes, value: bytes | None, scope: Scope = CLUSTER_SCOPE) -> None:
    machine.commit(machine.prepare([(scope, key, value)]), 0.0)


def synced(machine: Replication, scope: Scope = CLUSTER_SCOPE) -> bool:
    return ScopeSynced(scope) in machine.drain().events


def test_what_is_lost_after_a_comparison_was_answered_is_asked_for_again() -> None:
    """No host resends what a third host wrote, so it used to come with the next round, five seconds later."""
    machines = {node_id: replication(node_id, *sorted({A, B, C} - {node_id})) for node_id in (A, B, C)}
    for now in (0.0, 1.0, 10.0):
        pump(machines, now)  # the next rounds are at 14 at the earliest
    a, b, c = machines.values()
    commit(c, b"last", b"words")
    last_words = [one for one in c.drain().datagrams if one.destination == ADDRESSES[B]]
    b.handle_datagram(last_words[0].payload, ADDRESSES[C], 10.0)
    b.drain()
    a.set_peer(C, ADDRESSES[C], 10.1, live=True, suspect=True)
    a.handle_deadline(10.1)
    pass_on(a, b, 10.1)
    pass_on(b, a, 10.1)
    pass_on(a, b, 10.1)
    assert b.drain().datagrams, "what A wants, and it is lost"
    assert a.logs(CLUSTER_SCOPE) == ()
    del machines[C]
    for now in (10.2, 10.4, 10.6, 10.8, 11.0):
        pump(machines, now)
    assert [set(log.entries) for log in a.logs(CLUSTER_SCOPE)] == [{b"last"}]


class Insider:
    """A member that says what it likes, with the right key."""

    def __init__(self, node_id: str = B) -> None:
        self.node_id = node_id
        self.sealer = Sealer(node_id=node_id, epoch=1, keyring=Keyring([bytes(32)]), label=LABEL)

    def tell(self, target: Replication, *messages: Message, recipient: str = A, now: float = 0.0) -> None:
        frame = self.sealer.seal(recipient, b"".join(at_once(encode(one)) for one in messages))
        target.handle_datagram(frame, ADDRESSES[self.node_id], now)

    def enter(self, target: Replication) -> None:
        """Prove this start of ours, as members do."""
        target._transport.begin_handshake(self.node_id, 0.0)
        target.handle_deadline(0.0)
        for message in self.heard(target):
            if isinstance(message, Hello):
                self.tell(target, Welcome(message.nonce))

    def heard(self, target: Replication) -> list[Message]:
        """What the target has to say to us now."""
        opener = Opener(node_id=self.node_id, keyring=Keyring([bytes(32)]), label=LABEL)
        opener.know(A)
        messages = []
        for datagram in target.drain().datagrams:
            if datagram.destination == ADDRESSES[self.node_id]:
                header = parse_header_untrusted(datagram.payload)
                messages += at_once(decode_untrusted(opener.open_untrusted(header, datagram.payload).body))
        return messages


def test_a_member_that_invents_owners_causes_few_reports() -> None:
    target, insider = replication(A, B, identity=Identity(bytes(32))), Insider()
    forged = []
    for number in range(1, 2 * UNPROVEN_LIMIT + 1):
        owner = Identity(number.to_bytes(32, "big"))
        proof = owner.public_key + bytes(64)
        forged.append(Delta(CLUSTER_SCOPE, owner.node_id, 1, 0, 1, 0, 0, (), proof))
    for now in (0.0, 1.0, UNPROVEN_EVERY_S):
        for one in forged:
            insider.tell(target, one, now=now)
        reports = [event for event in target.drain().events if isinstance(event, UnprovenLogHeard)]
        assert len(reports) == (0 if now == 1.0 else UNPROVEN_LIMIT)
    assert target.statistics()["refused_log_forged"] == 3 * len(forged)


def test_a_sender_that_is_not_a_member_is_refused_and_counted() -> None:
    target = replication(A)
    Insider().tell(target, Digest(CLUSTER_SCOPE, 5))
    assert target.statistics()["refused_sender_is_not_a_member"] == 1
    assert target.drain().datagrams == ()
    target.set_peer(B, ADDRESSES[B], 0.0, live=True)
    Insider().tell(target, Digest(CLUSTER_SCOPE, 5))
    target.set_peer(B, None, 0.0, live=False)
    target.drain()
    Insider().tell(target, Digest(CLUSTER_SCOPE, 5))
    assert target.statistics()["refused_sender_is_not_a_member"] == 1
    assert target.statistics()["early"] == 1, "the first one, which became a member"


def test_a_revoked_sender_that_is_a_member_again_makes_no_counter_negative() -> None:
    target = replication(A)
    target.refuse_peer(B, 0.0)
    Insider().tell(target, Digest(CLUSTER_SCOPE, 5))
    target.readmit_peer(B)
    target.set_peer(B, ADDRESSES[B], 0.0, live=True)
    assert target.statistics()["refused_sender_is_revoked"] == 1
    assert target.statistics()["refused_sender_is_not_a_member"] == 0


def test_proofs_from_the_disk_are_checked_a_few_at_a_time() -> None:
    owners = [Identity(bytes([number]) * 32) for number in range(1, 21)]
    logs = [Log(CLUSTER_SCOPE, one.node_id, 1, 1, 0, {}, one.public_key + bytes(64)) for one in owners]
    target = replication(A, identity=Identity(bytes(32)), replicas=logs)
    found = []
    for go in range(1, 4):
        assert target.next_deadline() <= go * RECHECK_S
        target.handle_deadline(go * RECHECK_S)
        found.append(target.statistics()["restored_unproven"])
    assert found == [8, 16, 20]
    assert not any(log.proof for log in target.logs(CLUSTER_SCOPE))


def test_answers_go_to_the_member_never_to_where_a_datagram_came_from() -> None:
    target = replication(A, B)
    target.handle_deadline(0.0)
    target.drain()
    frame = Insider().sealer.seal(A, at_once(encode(Digest(CLUSTER_SCOPE, 5))))
    target.handle_datagram(frame, ("203.0.113.66", 53), 0.0)
    assert {d.destination for d in target.drain().datagrams} == {ADDRESSES[B]}


def test_a_forged_delta_of_our_own_log_changes_no_content() -> None:
    target = replication(A, B)
    commit(target, b"k", b"mine")
    target.drain()
    forged = Entry(CLUSTER_SCOPE, A, b"k", b"forged", Version(1, 9))
    Insider().tell(target, Delta(CLUSTER_SCOPE, A, 1, 0, 9, 0, 0, (forged,)))
    assert not target.drain().events
    own = target.own_log(CLUSTER_SCOPE)
    assert own is not None
    assert (own.epoch, own.entries[b"k"].value) == (1, b"mine")


def test_a_commit_is_on_its_way_at_the_next_drain() -> None:
    machines = {A: replication(A, B), B: replication(B, A)}
    pump(machines, 0.0)
    commit(machines[A], b"k", b"v")
    output = machines[A].drain()
    assert [datagram.channel for datagram in output.datagrams] == [Channel.RECORD]
    assert len(output.events) == 1
    machines[B].handle_datagram(output.datagrams[0].payload, ADDRESSES[A], 0.0)
    (event,) = machines[B].drain().events
    assert isinstance(event, EntriesChanged)
    assert (event.owner, event.entries[0].value) == (A, b"v")


def test_unacknowledged_until_both_hold_each_others_heads() -> None:
    machines = {A: replication(A, B), B: replication(B, A)}
    commit(machines[A], b"k", b"v")
    assert machines[A].unacknowledged(CLUSTER_SCOPE) == {B}
    pump(machines, 0.0)
    assert machines[A].unacknowledged(CLUSTER_SCOPE) == frozenset()
    assert machines[A].head(CLUSTER_SCOPE) == 1
    for sequence in (5, 3):  # the older one was overtaken
        late = Entry(CLUSTER_SCOPE, B, b"k", b"v", Version(1, sequence))
        Insider().tell(machines[A], Delta(CLUSTER_SCOPE, B, 1, sequence - 1, sequence, 0, 0, (late,)))
    commit(machines[B], b"k", b"v")
    commit(machines[B], b"k", b"w")
    commit(machines[B], b"k", b"x")
    pump(machines, 0.0)
    assert machines[A].unacknowledged(CLUSTER_SCOPE) == {B}
    machines[A].set_peer(B, ADDRESSES[B], 0.0, live=False)
    assert machines[A].unacknowledged(CLUSTER_SCOPE) == frozenset(), "only the living are waited for"


def test_a_peer_that_never_entered_a_scope_gets_no_further_push_and_is_not_waited_for() -> None:
    machines = {A: replication(A, B), B: replication(B, A)}
    machines[A].set_scope_members(NET, frozenset({A, B}), 0.0)
    machines[A].enter_scope(NET, 0.0)
    pump(machines, 0.0)
    commit(machines[A], b"e", b"1", NET)
    pump(machines, 0.0)
    assert machines[A].unacknowledged(NET) == frozenset()
    assert machines[B].logs(NET) == ()
    assert machines[A].statistics()["pushes_pending"] == 0
    machines[B].set_scope_members(NET, frozenset({A, B}), 1.0)
    machines[B].enter_scope(NET, 1.0)
    pump(machines, 1.0)
    assert [log.owner for log in machines[B].logs(NET)] == [A]
    assert machines[A].unacknowledged(NET) == frozenset()


def test_synced_alone_with_others_and_with_others_yet_unknown() -> None:
    alone = replication(A)
    alone.handle_deadline(0.0)
    assert synced(alone)
    waiting = replication(A, expect_peers=True)
    waiting.handle_deadline(0.5)
    assert not synced(waiting)
    waiting.handle_deadline(1.0)
    assert synced(waiting)
    accompanied = replication(A, B)
    accompanied.handle_deadline(10.0)
    assert not synced(accompanied), "a live peer that does not answer may know more"
    accompanied.set_peer(B, ADDRESSES[B], 10.0, live=False)
    assert synced(accompanied)


def test_a_scope_waits_for_its_members_to_be_named() -> None:
    target = replication(A, B)
    target.enter_scope(NET, 0.0)
    target.handle_deadline(60.0)
    assert not synced(target, NET)
    target.set_scope_members(NET, frozenset({A}), 60.0)
    assert synced(target, NET)


def test_all_members_are_in_the_clusters_scope() -> None:
    target = replication(A, B)
    with pytest.raises(GossipUsageError):
        target.set_scope_members(CLUSTER_SCOPE, frozenset({A}), 0.0)
    with pytest.raises(GossipUsageError):
        target.exit_scope(CLUSTER_SCOPE)


def test_a_peer_that_invents_scopes_makes_nothing_grow() -> None:
    target, insider = replication(A, B), Insider()
    insider.enter(target)
    for number in range(100):
        scope = number.to_bytes(16, "little")[::-1]
        if scope == CLUSTER_SCOPE:
            continue
        insider.tell(
            target,
            Digest(scope, 1),
            DeltaAck(scope, True, NO_VERSION, Version(1, 1)),
            Vector(scope, True, (Row(B, Version(1, 1), 0),)),
            Delta(scope, B, 1, 0, 1, 0, 0, ()),
        )
    target.drain()
    assert target.statistics()["standings"] <= 1


def tell_of(target: Replication, insider: Insider, first: int, count: int) -> None:
    """The peer holds logs of ours in this many scopes."""
    for number in range(first, first + count):
        insider.tell(target, DeltaAck(number.to_bytes(16, "big"), True, Version(3, 7), NO_VERSION))


def test_a_peer_that_invents_scopes_in_which_we_were_shuts_out_neither_ours_nor_what_others_tell_of() -> None:
    target, insider, honest = replication(A, B, C), Insider(), Insider(C)
    for number in range(1, OWN_SCOPES_LIMIT + 1):  # what we use counts not, however much it is
        commit(target, b"k", b"v", number.to_bytes(16, "big"))
    insider.enter(target)
    honest.enter(target)
    tell_of(target, insider, 1 << 20, REPORTED_LIMIT + 100)
    assert len(target.own_scopes()) == OWN_SCOPES_LIMIT + REPORTED_LIMIT
    tell_of(target, honest, 1 << 30, REPORTED_LIMIT)
    assert len(target.own_scopes()) == OWN_SCOPES_LIMIT + 2 * REPORTED_LIMIT
    commit(target, b"k", b"v")
    insider.tell(target, DeltaAck(CLUSTER_SCOPE, True, Version(3, 7), NO_VERSION))
    log = target.own_log(CLUSTER_SCOPE)
    assert log is not None
    assert (log.epoch, log.head) == (4, 1), "a scope that concerns us is not among those that count"
    scope = (1 << 20).to_bytes(16, "big")
    commit(target, b"k", b"v", scope)
    tell_of(target, insider, 1 << 21, 100)
    assert len(target.own_scopes()) == OWN_SCOPES_LIMIT + 2 * REPORTED_LIMIT + 2, (
        "the one that we use now counts no more"
    )
    target.check_invariants()


def test_peers_that_invent_scopes_make_only_so_many_logs_grow_also_over_restarts() -> None:
    saved: list[Log] = []
    for number in range(OWN_SCOPES_LIMIT // REPORTED_LIMIT + 2):
        target, insider = replication(A, B, own_logs=saved), Insider()
        insider.enter(target)
        tell_of(target, insider, 1 + number * REPORTED_LIMIT, REPORTED_LIMIT)
        saved = [log for scope in target.own_scopes() if (log := target.own_log(scope)) is not None]
    assert len(saved) == OWN_SCOPES_LIMIT
    target.drop_own_log(saved[0].scope)
    tell_of(target, insider, 1 << 20, 2)
    assert len(target.own_scopes()) == OWN_SCOPES_LIMIT


def test_what_is_dropped_of_invented_scopes_displaces_nothing_of_ours() -> None:
    target, insider = replication(A, B), Insider()
    insider.enter(target)
    commit(target, b"k", b"v", NET)
    target.drop_own_log(NET)
    for number in range(1, OWN_DROPPED_LIMIT + 100):
        tell_of(target, insider, number, 1)
        target.drop_own_log(number.to_bytes(16, "big"))
    table = target._table
    assert len(table._reported_dropped) == OWN_DROPPED_LIMIT
    insider.tell(target, DeltaAck(NET, True, Version(1, 1), NO_VERSION))
    assert target.own_log(NET) is None
    for number in range(1, OWN_DROPPED_LIMIT + 100):
        scope = (1 << 40 | number).to_bytes(16, "big")
        commit(target, b"k", b"v", scope)
        target.drop_own_log(scope)
    assert len(table._own_dropped) == OWN_DROPPED_LIMIT


def test_a_restored_host_goes_above_its_log_of_an_unknown_scope_and_pushes_it_to_the_reporting_peer() -> None:
    target, insider = replication(A, B), Insider()
    insider.enter(target)
    target.drain()
    insider.tell(target, Digest(NET, 1))
    assert insider.heard(target)[-1] == Vector(NET, False, ())
    insider.tell(target, DeltaAck(NET, True, Version(1, 9), NO_VERSION))
    assert insider.heard(target)[-1] == Delta(NET, A, 2, 0, 0, 0, 0, ())
    target.drop_own_log(NET)
    insider.tell(target, DeltaAck(NET, True, Version(2, 0), NO_VERSION))
    assert target.own_log(NET) is None, "a late ack does not bring back what was dropped"


def test_what_would_not_be_sent_is_not_encoded() -> None:
    target, insider = replication(A, B), Insider()
    insider.enter(target)
    for number in range(40):
        commit(target, b"%d" % number, bytes(60_000))
    target.drain()
    for _ in range(20):
        insider.tell(target, Fetch(CLUSTER_SCOPE, ((A, NO_VERSION),)))
    assert target.statistics()["dropped_backlog"] == 0


def test_a_peer_that_takes_no_part_is_waited_for_until_its_own_log_is_here() -> None:
    machines = {A: replication(A, B), B: replication(B, A)}
    pump(machines, 0.0)
    commit(machines[B], b"k", b"v", NET)
    machines[A].set_scope_members(NET, frozenset({A, B}), 0.0)
    machines[A].enter_scope(NET, 0.0)
    events: list[object] = []
    for now in (0.0, 0.1, 0.2, 0.3):
        machines[A].handle_deadline(now)
        for one, other in ((A, B), (B, A), (A, B), (B, A)):
            output = machines[one].drain()
            events += output.events if one == A else ()
            for datagram in output.datagrams:
                machines[other].handle_datagram(datagram.payload, ADDRESSES[one], now)
    reported = [event for event in events if getattr(event, "scope", None) == NET]
    assert [type(event) for event in reported] == [EntriesChanged, ScopeSynced]


small = st.integers(0, 3)
versions = st.builds(Version, small, small)
owners = st.sampled_from([A, B, C])
scopes = st.sampled_from([CLUSTER_SCOPE, NET])
digests = st.integers(0, 2)


@st.composite
def deltas(draw: st.DrawFn) -> Delta:
    scope, owner, epoch, base = draw(scopes), draw(owners), draw(st.integers(1, 3)), draw(small)
    count = draw(small)
    entries = tuple(
        Entry(scope, owner, b"%d" % n, draw(st.none() | st.just(b"v")), Version(epoch, base + n + 1))
        for n in range(count)
    )
    return Delta(scope, owner, epoch, base, base + count, 0, draw(digests), entries)


nonsense = st.one_of(
    deltas(),
    st.builds(DeltaAck, scopes, st.booleans(), versions, versions),
    st.builds(Digest, scopes, digests),
    st.builds(
        Vector,
        scopes,
        st.booleans(),
        st.lists(st.builds(Row, owners, versions, digests), max_size=3).map(tuple),
    ),
    st.builds(Fetch, scopes, st.lists(st.tuples(owners, versions), max_size=3).map(tuple)),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(nonsense, max_size=12))
def test_an_insiders_nonsense_never_breaks_the_machine_nor_our_own_records(messages: list[Message]) -> None:
    target, insider = replication(A, B, C), Insider()
    target.enter_scope(NET, 0.0)
    insider.enter(target)
    commit(target, b"k", b"mine")
    for message in messages:
        insider.tell(target, message)
        target.handle_deadline(0.0)
        output = target.drain()
        target.check_invariants()
        assert len(output.datagrams) <= 12
        for datagram in output.datagrams:
            assert parse_header_untrusted(datagram.payload).sender == A
    own = target.own_log(CLUSTER_SCOPE)
    assert own is not None
    assert {key: entry.value for key, entry in own.entries.items()} == {b"k": b"mine"}


def test_recordings_of_a_former_start_are_answered_once_a_second() -> None:
    """Replayed again and again they used to cost an answer of any size, and a Hello each."""
    a, b = replication(A, B), replication(B, A)
    for number in range(200):
        commit(b, b"%d" % number, b"value")
        b.set_peer(f"{number:032x}", ("192.0.2.9", 7957), 0.0, live=False)
    commit(a, b"key", b"value")
    pump({A: a, B: b}, 0.0)
    old = Sealer(node_id=A, epoch=7, keyring=Keyring([bytes(32)]), label=LABEL)
    delta = a._table.delta(CLUSTER_SCOPE, A, NO_VERSION)
    assert delta is not None
    kinds: list[Message] = [Digest(CLUSTER_SCOPE, 1), Hello(bytes(NONCE_BYTES)), delta]
    recordings = [old.seal(B, at_once(encode(message))) for message in kinds]
    b.drain()
    answers: list[int] = []
    for number in range(1000):
        now = 20.0 + number / 1000
        for payload in recordings:
            b.handle_datagram(payload, ADDRESSES[A], now)
        b.handle_deadline(now)
        answers += [len(d.payload) for d in b.drain().datagrams if d.destination == ADDRESSES[A]]
    assert b.statistics()["unanswered"] > 2900
    assert len(answers) <= 1 + 20 + 12, (
        "content once, greetings as often as a host greets, and what is due anyway"
    )
