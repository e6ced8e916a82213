"""Sessions of peers: how they come about, what opens under them, and what a holder of the ring key can't do."""

from __future__ import annotations

import contextlib
import itertools
import random

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from netgossip.codec.sealing import Keyring
from netgossip.config import GossipConfig
from netgossip.errors import WireError
from netgossip.join.identity import Identity
from netgossip.records.frames import HEADER_BYTES, Opener, Sealer, parse_header_untrusted
from netgossip.records.sessions import (
    ANSWERS_AT_ONCE,
    ANSWERS_RESERVED,
    LIFETIME_S,
    OVERLAP_S,
    REKEY_FRAMES,
    REKEY_S,
    SESSIONS_LIMIT,
    SWEEP_S,
    Sessions,
)
from netgossip.records.transport import RecordTransport
from netgossip.records.wire import (
    NO_VERSION,
    NONCE_BYTES,
    DeltaAck,
    Digest,
    Hello,
    Message,
    Request,
    Response,
    Vector,
    Welcome,
    decode_untrusted,
    encode,
)
from netgossip.slices import WorkQueue, at_once
from netgossip.types import CLUSTER_SCOPE, Address

RING_KEY, LABEL = bytes(32), b"label"
ONE, OTHER = sorted((Identity(bytes([n]) * 32) for n in (1, 2)), key=lambda one: one.node_id)
STRANGER = Identity(bytes([3]) * 32)
A, B = ONE.node_id, OTHER.node_id
ADDRESSES: dict[str, Address] = {A: ("192.0.2.1", 7957), B: ("192.0.2.2", 7957)}
NONCE = bytes(NONCE_BYTES)


def transport(identity: Identity, *, start: int = 1, speaks: bool = True) -> RecordTransport:
    made = RecordTransport(
        config=GossipConfig.lan(),
        node_id=identity.node_id,
        boot_epoch=start,
        keyring=Keyring([RING_KEY]),
        label=LABEL,
        rng=random.Random(f"{identity.node_id} {start}"),
        new_stream_id=itertools.count(1).__next__,
        join_handler=None,
        works=WorkQueue(),
        identity=identity if speaks else None,
    )
    (peer,) = {A, B} - {identity.node_id}
    made.set_peer(peer, ADDRESSES[peer], 0.0)
    made.begin_handshake(peer, 0.0)
    return made


def send(source: RecordTransport, now: float = 0.0) -> list[bytes]:
    source.handle_deadline(now)
    return [datagram.payload for datagram in source.drain()[0]]


def pump(one: RecordTransport, other: RecordTransport, now: float = 0.0) -> tuple[list[Message], list[bytes]]:
    """Pass datagrams between two until nothing is left: the messages believed, and a capture."""
    believed: list[Message] = []
    capture: list[bytes] = []
    for _ in range(10):
        for source, target in ((one, other), (other, one)):
            for payload in send(source, now):
                capture.append(payload)
                believed += [item.message for item in target.handle_datagram(payload, now)]
    return believed, capture


def met(**changes: bool) -> tuple[RecordTransport, RecordTransport]:
    a, b = transport(ONE), transport(OTHER, **changes)
    pump(a, b)
    return a, b


def frames_of(payload: bytes) -> list[bytes]:
    frames = []
    while payload:
        end = HEADER_BYTES + parse_header_untrusted(payload).sealed_bytes
        frames.append(payload[:end])
        payload = payload[end:]
    return frames


def opened_with_the_ring_key(capture: list[bytes]) -> list[Message]:
    """All that the holder of the ring key reads in a capture."""
    messages: list[Message] = []
    for recipient in (A, B):
        opener = Opener(node_id=recipient, keyring=Keyring([RING_KEY]), label=LABEL)
        opener.know(A)
        opener.know(B)
        for frame in (frame for payload in capture for frame in frames_of(payload)):
            try:
                opened = opener.open_untrusted(parse_header_untrusted(frame), frame)
            except WireError:
                continue
            messages += at_once(decode_untrusted(opened.body))
    return messages


def open_with(key: AESGCM, frame: bytes, *, recipient: str) -> bytes:
    """The body of a frame in a datagram."""
    nonce = parse_header_untrusted(frame).counter.to_bytes(12, "big")
    additional = frame[:HEADER_BYTES] + bytes.fromhex(recipient) + b"datagram"
    return key.decrypt(nonce, frame[HEADER_BYTES:], additional)


def say(source: RecordTransport, message: Message) -> None:
    (peer,) = source._peers
    at_once(source.send(peer, message))


def sessions(identity: Identity, keyring: Keyring | None = None, epoch: int = 7) -> Sessions:
    return Sessions(
        node_id=identity.node_id,
        epoch=epoch,
        identity=identity,
        keyring=keyring or Keyring([RING_KEY]),
        label=LABEL,
        rng=random.Random(identity.node_id),
    )


def test_two_that_meet_agree_on_one_session_and_speak_under_it_alone() -> None:
    a, b = met()
    one, other = a._sessions.for_sending(B, 0.0), b._sessions.for_sending(A, 0.0)
    assert one is not None
    assert other is not None
    assert one.session_id == other.session_id, "both asked at once"
    assert one.asked_by == other.asked_by == A
    say(a, Request(1, b"secret"))
    say(b, Response(1, b"secret"))
    believed, capture = pump(a, b)
    assert believed == [Request(1, b"secret"), Response(1, b"secret")]
    assert opened_with_the_ring_key(capture) == []


def test_a_peer_is_admitted_in_one_round_trip_and_what_is_said_with_the_welcome_is_believed() -> None:
    a, b = transport(ONE), transport(OTHER)
    b.stop_handshake(A)
    (hello,) = send(a)
    b.handle_datagram(hello, 0.0)
    say(b, Vector(CLUSTER_SCOPE, True, ()))
    (welcome,) = send(b)
    assert [item.message for item in a.handle_datagram(welcome, 0.0)] == [Vector(CLUSTER_SCOPE, True, ())]
    assert a.take_admitted() == [B]
    (confirmation,) = send(a)
    assert b.handle_datagram(confirmation, 0.0) == []
    assert b.take_admitted() == [A], "the first frame under the session proves the one who asked"


def test_past_content_opens_with_no_key_that_outlives_the_session() -> None:
    """A capture of all datagrams, the ring key and both private identities: only ephemeral keys are missing."""
    a, b = transport(ONE), transport(OTHER)
    _, capture = pump(a, b)
    say(a, Request(1, b"the secret"))
    capture += pump(a, b)[1]
    read = opened_with_the_ring_key(capture)
    assert {type(message) for message in read} == {Hello, Welcome}
    thief_a, thief_b = sessions(ONE, epoch=0), sessions(OTHER, epoch=0)
    for message, frame in itertools.product(read, (f for payload in capture for f in frames_of(payload))):
        header = parse_header_untrusted(frame)
        if not header.in_session or not isinstance(message, Hello):
            continue
        # The thief does as each node did, with another ephemeral key: all that it can make.
        for thief, peer in ((thief_a, B), (thief_b, A)):
            thief.offer(peer, message.nonce, 0.0)
            try:
                thief.answer(peer, header.epoch, message.nonce, message.offer, 0.0)
            except WireError:
                continue
            for session in thief._sessions[peer]:
                for guess in (session.opening, session.sealing):
                    with pytest.raises(InvalidTag):
                        open_with(guess, frame, recipient=thief._node_id)
    key = b._sessions.for_sending(A, 0.0)
    assert key is not None
    frame = frames_of(capture[-1])[-1]
    assert open_with(key.opening, frame, recipient=B).endswith(b"the secret"), "the session's own key does"
    for node in (a, b):
        assert not node._sessions._offers, "the ephemeral private keys are gone"


def test_who_has_the_ring_key_can_ask_nothing_in_anothers_name() -> None:
    a, b = met()
    forger = Sealer(node_id=A, epoch=a._sealer._epoch, keyring=Keyring([RING_KEY]), label=LABEL)
    forger._counter = 10_000
    later = Sealer(node_id=A, epoch=1 << 60, keyring=Keyring([RING_KEY]), label=LABEL)
    messages: list[Message] = [
        Request(1, b"grant me"),
        DeltaAck(CLUSTER_SCOPE, True, NO_VERSION, NO_VERSION),
        Vector(CLUSTER_SCOPE, True, ()),
    ]
    for sealer, message in itertools.product((forger, later), messages):
        assert b.handle_datagram(sealer.seal(B, at_once(encode(message))), 0.0) == []
    # It reads our Hello, and answers it: without an answer to the offer, and with one of its own.
    b._handshakes.begin(A, 10.0)
    (hello,) = (m for m in opened_with_the_ring_key(send(b, 10.0)) if isinstance(m, Hello))
    impostor = sessions(ONE)
    impostor._identity = STRANGER
    answer = impostor.answer(B, b._sessions._epoch, hello.nonce, hello.offer, 0.0)
    assert answer
    for forged in (b"", answer, ONE.public_key + answer[32:]):
        welcome = at_once(encode(Welcome(hello.nonce, 0, forged))) + at_once(encode(messages[0]))
        assert b.handle_datagram(later.seal(B, welcome), 10.0) == []
    say(a, messages[0])
    assert pump(a, b, 10.0)[0] == [messages[0]], "the true one is heard as before"
    assert b.take_admitted() == [A]
    assert b.counts["refused_welcome_without_session"] == 1


def test_forged_and_recorded_hellos_displace_no_session_and_are_bounded() -> None:
    a, b = met()
    current = b._sessions.for_sending(A, 0.0)
    for start in range(2, 30):
        old = transport(ONE, start=start)
        (recording,) = send(old)
        b.handle_datagram(recording, float(start) / 10)
        b.handle_datagram(recording, float(start) / 10)
    b.check_invariants()
    assert len(b._sessions._sessions[A]) <= SESSIONS_LIMIT + 2
    assert b._sessions.for_sending(A, 10.0) is current
    say(a, Request(1, b"?"))
    assert Request(1, b"?") in pump(a, b, 10.0)[0]


def test_handshakes_without_end_leave_a_bounded_number_of_sessions_and_the_latest_is_used() -> None:
    """Who plays a recording leads two hosts to one after the other; sessions are replaced, and end a minute later."""
    one, other = sessions(ONE), sessions(OTHER)
    for number in range(3 * SESSIONS_LIMIT):
        nonce = bytes([number]) * NONCE_BYTES
        answer = other.answer(A, 7, nonce, one.offer(B, nonce, 0.0), 0.0)
        assert answer is not None
        assert one.take_answer(B, 7, nonce, answer, 0.0)
        used = one.for_sending(B, 0.0)
        assert used is not None
        found = other.find(A, used.session_id)
        assert found is not None
        assert other.note_heard(found, 0.0)
        one.check_invariants()
        other.check_invariants()
        assert other.for_sending(A, 0.0) is found


def test_a_frame_under_a_session_counts_once_and_on_its_own_channel() -> None:
    a, b = met()
    say(a, Request(1, b"?"))
    (payload,) = send(a)
    assert len(b.handle_datagram(payload, 0.0)) == 1
    assert b.handle_datagram(payload, 0.0) == []
    assert b.counts["refused_replayed"] == 1
    session = a._sessions.for_sending(B, 0.0)
    frame = a._sealer.seal(B, at_once(encode(Vector(CLUSTER_SCOPE, True, ()))), session=session, stream=True)
    assert b.handle_datagram(frame, 0.0) == [], "not what came over a stream"


def test_a_release_without_sessions_is_spoken_to_as_before() -> None:
    a, b = met(speaks=False)
    say(a, Request(1, b"?"))
    say(b, Response(1, b"!"))
    assert pump(a, b)[0] == [Request(1, b"?"), Response(1, b"!")]
    assert not a._sessions.speaks(B)


def test_a_peer_that_goes_back_to_a_release_without_sessions_is_not_believed() -> None:
    a, _ = met()
    back = transport(OTHER, start=2, speaks=False)
    pump(a, back, 10.0)
    say(back, Request(1, b"?"))
    say(back, Digest(CLUSTER_SCOPE, 1))
    assert pump(a, back, 20.0)[0] == [Digest(CLUSTER_SCOPE, 1)], "what a recording may say"
    assert B not in a.take_admitted()[1:]


@pytest.mark.parametrize("restarts", [ONE, OTHER])
def test_a_peer_that_restarts_has_a_new_session_at_once(restarts: Identity) -> None:
    nodes = {A: transport(ONE), B: transport(OTHER)}
    pump(nodes[A], nodes[B])
    (other,) = {A, B} - {restarts.node_id}
    nodes[other].take_admitted()
    nodes[restarts.node_id] = transport(restarts, start=2)
    pump(nodes[A], nodes[B], 10.0)
    assert nodes[other].take_admitted() == [restarts.node_id]
    for source in nodes.values():
        say(source, Request(1, b"?"))
    assert pump(nodes[A], nodes[B], 10.0)[0] == [Request(1, b"?")] * 2
    known = nodes[other]._sessions._sessions[restarts.node_id]
    epochs = {one.epoch for one in known if one.is_confirmed}
    assert epochs == {nodes[restarts.node_id]._sealer._epoch}, "those of the former start are gone"


def test_a_restart_that_only_the_restarted_one_knows_of_is_found_out_by_the_first_frame() -> None:
    a, b = met()
    b = transport(OTHER, start=2)
    b.stop_handshake(A)
    say(a, Request(1, b"?"))
    pump(a, b, 10.0)
    assert (b.counts["early"], b.counts["refused_no_such_session"]) == (1, 0)
    pump(a, b, 11.0)
    say(a, Request(2, b"?"))
    assert pump(a, b, 12.0)[0] == [Request(2, b"?")]


def test_sessions_are_renewed_hourly_and_the_old_one_opens_for_a_while() -> None:
    a, b = met()
    old = a._sessions.for_sending(B, 0.0)
    assert old is not None
    say(a, Request(1, b"late"))
    (late,) = send(a)
    now = REKEY_S + SWEEP_S
    pump(a, b, now)
    new = a._sessions.for_sending(B, now)
    assert new is not None
    assert new.session_id != old.session_id
    assert [item.message for item in b.handle_datagram(late, now)] == [Request(1, b"late")]
    a.take_admitted()
    b.take_admitted()
    say(b, Response(1, b"heard under the new one"))
    pump(a, b, now)
    pump(a, b, now + OVERLAP_S + SWEEP_S)
    for node, peer in ((a, B), (b, A)):
        assert node._sessions.find(peer, old.session_id) is None
        assert node.take_admitted() == [], "no new start"


def test_sessions_are_renewed_after_a_bound_of_frames() -> None:
    a, b = met()
    old = a._sessions.for_sending(B, 0.0)
    assert old is not None
    old.sealed = REKEY_FRAMES
    pump(a, b, SWEEP_S)
    new = b._sessions.for_sending(A, SWEEP_S)
    assert new is not None
    assert new.session_id != old.session_id


def test_a_session_with_a_peer_that_is_away_ends_and_another_begins_when_it_comes_back() -> None:
    a, b = met()
    for node, peer in ((a, B), (b, A)):
        node.stop_handshake(peer)
        node.handle_deadline(LIFETIME_S + OVERLAP_S + SWEEP_S)
        assert node._sessions._sessions == {}
        assert node.drain()[0] == []
    now = 2 * LIFETIME_S
    for node, peer in ((a, B), (b, A)):
        node.begin_handshake(peer, now)
    pump(a, b, now)
    say(a, Request(1, b"?"))
    assert pump(a, b, now)[0] == [Request(1, b"?")]


def test_two_rings_that_differ_but_for_one_key_agree_on_it() -> None:
    shared, next_key = RING_KEY, bytes([1]) * 32
    one, other = sessions(ONE, Keyring([next_key, shared])), sessions(OTHER, Keyring([shared]))
    answer = other.answer(A, 7, NONCE, one.offer(B, NONCE, 0.0), 0.0)
    assert answer
    assert one.take_answer(B, 7, NONCE, answer, 0.0)
    assert not one.take_answer(B, 7, NONCE, answer, 0.0), "once"


@pytest.mark.parametrize("position", range(128))
def test_every_bit_of_an_offer_is_signed(position: int) -> None:
    one, other = sessions(ONE), sessions(OTHER)
    offer = bytearray(one.offer(B, NONCE, 0.0))
    offer[position] ^= 1
    with pytest.raises(WireError):
        other.answer(A, 7, NONCE, bytes(offer), 0.0)
    assert not other.speaks(A)


@pytest.mark.parametrize("position", range(132))
def test_every_bit_of_an_answer_is_signed(position: int) -> None:
    one, other = sessions(ONE), sessions(OTHER)
    answer = bytearray(other.answer(A, 7, NONCE, one.offer(B, NONCE, 0.0), 0.0) or b"")
    answer[position] ^= 1
    with contextlib.suppress(WireError):
        assert not one.take_answer(B, 7, NONCE, bytes(answer), 0.0), "of a ring key that we lack"
    assert not one.speaks(B)
    assert one.for_sending(B, 0.0) is None


def test_the_work_for_answers_is_bounded() -> None:
    one, other = sessions(ONE), sessions(OTHER)
    offer = one.offer(B, NONCE, 0.0)
    other._answers_left = ANSWERS_RESERVED + 3.0
    answers = [other.answer(A, 7, NONCE, offer, 0.0) for _ in range(5)]
    assert [answer is not None for answer in answers] == [True] * 3 + [False] * 2
    assert other.answer(A, 7, NONCE, offer, 1.0) is not None
    assert other._answers_left < ANSWERS_AT_ONCE


def test_one_peer_does_not_use_up_the_answers_of_the_others() -> None:
    one, other, third = sessions(ONE), sessions(OTHER), Identity(bytes([9]) * 32)
    offer = one.offer(B, NONCE, 0.0)
    while other.answer(A, 7, NONCE, offer, 0.0) is not None:
        pass
    assert other._answers_left == ANSWERS_RESERVED
    assert other.answer(third.node_id, 7, NONCE, sessions(third).offer(B, NONCE, 0.0), 0.0) is not None
    other._answers_left = 0.0
    assert other.answer(third.node_id, 7, NONCE, sessions(third).offer(B, NONCE, 0.0), 0.0) is None


class Pair:
    """Two nodes, and a network that does as a test says. Counts what is heard."""

    def __init__(self) -> None:
        self.identities = {A: ONE, B: OTHER}
        self.starts = {A: 1, B: 1}
        self.nodes = {A: transport(ONE), B: transport(OTHER)}
        self.on_the_way: list[tuple[str, bytes]] = []
        self.heard: list[tuple[str, int, int]] = []
        self.now = 0.0
        self.said = 0

    def act(self, name: str, what: str | float) -> None:
        self.collect()
        if isinstance(what, str):
            {"say": self.say, "greet": self.greet, "restart": self.restart}[name](what)
        elif name == "wait":
            self.now += what
        elif self.on_the_way:
            place = int(what) % len(self.on_the_way)
            to, payload = self.on_the_way[place] if name == "repeat" else self.on_the_way.pop(place)
            if name != "drop":
                self.deliver(to, payload)
        for node in self.nodes.values():
            node.check_invariants()

    def say(self, sender: str) -> tuple[str, int, int]:
        self.said += 1
        say(self.nodes[sender], Request(self.said, b"?"))
        (peer,) = {A, B} - {sender}
        return peer, self.starts[peer], self.said

    def greet(self, sender: str) -> None:
        (peer,) = {A, B} - {sender}
        self.nodes[sender]._handshakes.begin(peer, self.now)

    def restart(self, node_id: str) -> None:
        self.starts[node_id] += 1
        self.nodes[node_id] = transport(self.identities[node_id], start=self.starts[node_id])

    def collect(self) -> None:
        for node_id, node in self.nodes.items():
            (peer,) = {A, B} - {node_id}
            self.on_the_way += [(peer, payload) for payload in send(node, self.now)]

    def deliver(self, to: str, payload: bytes) -> None:
        for item in self.nodes[to].handle_datagram(payload, self.now):
            if isinstance(item.message, Request):
                assert item.proven
                self.heard.append((to, self.starts[to], item.message.request_id))

    def settle(self) -> None:
        for _ in range(6):
            self.collect()
            while self.on_the_way:
                self.deliver(*self.on_the_way.pop(0))


steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["say", "say", "greet", "restart"]), st.sampled_from([A, B])),
        st.tuples(st.sampled_from(["deliver", "deliver", "drop", "repeat"]), st.integers(0, 30)),
        st.tuples(st.just("wait"), st.sampled_from([0.1, 3.0, REKEY_S])),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(steps)
def test_whatever_the_network_does_two_converge_and_no_message_counts_twice(
    chosen: list[tuple[str, str | float]],
) -> None:
    """Loss, reordering, duplication, handshakes at once, restarts, renewals."""
    pair = Pair()
    for name, what in chosen:
        pair.act(name, what)
    assert len(set(pair.heard)) == len(pair.heard), "no request counts twice"
    for _ in range(8):
        pair.now += 2.0
        pair.settle()
    said = [pair.say(A), pair.say(B)]
    pair.collect()
    assert not [
        one for one in opened_with_the_ring_key([p for _, p in pair.on_the_way]) if isinstance(one, Request)
    ]
    pair.settle()
    assert set(said) <= set(pair.heard), "each hears the other at once"


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1 << 32))
def test_renewals_lose_nothing_though_datagrams_are_reordered_and_repeated(seed: int) -> None:
    chance, pair = random.Random(seed), Pair()
    pair.settle()
    said = []
    while pair.now < 3 * REKEY_S:
        wait_s = chance.choice([0.001, 1.0, SWEEP_S, REKEY_S / 8])
        if wait_s >= SWEEP_S:
            pair.settle()  # no datagram is on its way for longer than an old session opens
        pair.now += wait_s
        said += [pair.say(A), pair.say(B)]
        pair.collect()
        chance.shuffle(pair.on_the_way)
        for _ in range(chance.randrange(len(pair.on_the_way) + 1)):
            to, payload = pair.on_the_way.pop()
            pair.deliver(to, payload)
            if chance.random() < 0.2:
                pair.deliver(to, payload)
    pair.settle()
    assert sorted(pair.heard) == sorted(said)
    assert len(pair.nodes[A]._sessions._sessions[B]) <= SESSIONS_LIMIT
