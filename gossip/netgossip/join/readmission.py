"""How a member that holds none of the keys of today gets back in: by its identity.

A host that was away while the ring key changed, or that was restored from a backup, seals with a key that others may
not accept any more, and understands none of their frames. So does each side of a partition in which both sides have
changed the key. Returning is one conversation on the record port, distinguished by its first byte:

    returner                                                    member
    'R' hello(cluster id, public key, ephemeral key, nonce)  ─►
                                       ◄─  answer(ephemeral key, public key, signature over both)
    sealed(signature over both, its ring)                    ─►
                                       ◄─  sealed(ring)                  or     refusal(reason)

Each side knows the other by its host's id, the hash of its public key: the member answers only a host of the cluster
that no operator has revoked (such a host gets a text that says so), and the returner believes only a member that it
knows from before. So no token is needed, nor a person. Both learn the other's keys: of two sides that have changed
the key, neither knows the other's. The keys are sealed under ephemeral ones; who listens, and knows an old ring key
or later one of the identities, learns nothing.

An unknown identity is refused before any cryptography. For known ones, which a stranger can name as well, a member
does at most CONVERSATIONS_S signatures a second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import msgpack
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from netgossip.codec.sealing import KEY_BYTES
from netgossip.errors import WireError
from netgossip.join.admission import STREAM_MAGIC as JOIN_MAGIC
from netgossip.join.admission import InviterConversation, RandomBytes
from netgossip.join.conversation_keys import ConversationKeys, transcript_of
from netgossip.join.identity import PUBLIC_KEY_BYTES, Identity, node_id_of, verify
from netgossip.join.wire import (
    Frames,
    Refusal,
    frame_of,
    refusal_frame,
    refusal_untrusted,
    sized,
    typed,
    unpack_untrusted,
)
from netgossip.types import NodeId

RETURN_MAGIC: Final = b"R"
CONVERSATIONS_S: Final = 20
"""Bound of returns answered within one second; beyond it: refused; the host tries another member, or later. 0.5 % of
a processor."""
MAX_KEYS: Final = 32
_VERSION: Final = 1
_PURPOSE: Final = b"netagent return 1"
_MEMBER: Final = b"netagent return 1 member"
_RETURNER: Final = b"netagent return 1 returner"


@dataclass(frozen=True, slots=True)
class NumberedKey:
    """A ring key, and which of several it is."""

    key: bytes = field(repr=False)
    number: int


@dataclass(frozen=True, slots=True)
class PeerRing:
    """The keys that the other side holds; it seals with the first."""

    node_id: NodeId
    keys: tuple[NumberedKey, ...]
    """Empty: it has none that others need."""


IsMember: TypeAlias = Callable[[NodeId], bool]


class Readmissions:
    """A member's side: answers hosts that return."""

    def __init__(
        self,
        identity: Identity,
        cluster_id: bytes,
        random_bytes: RandomBytes,
        *,
        is_member: IsMember,
        refusal: Callable[[NodeId], str],
        ring: Callable[[], Sequence[NumberedKey]],
        returned: Callable[[PeerRing], None],
    ) -> None:
        """`is_member`: a host that may return. `refusal`: a text of the application for one that may not; empty:
        none. `returned` gets the keys that the host holds."""
        self.identity = identity
        self.cluster_id = cluster_id
        self.random_bytes = random_bytes
        self.is_member = is_member
        self.refusal = refusal
        self.ring = ring
        self.returned = returned
        self._since = 0.0
        self._begun = 0

    def may_begin(self, now: float) -> bool:
        """True if one more conversation may cost a signature; counts it."""
        if now >= self._since + 1.0:
            self._since, self._begun = now, 0
        self._begun += 1
        return self._begun <= CONVERSATIONS_S

    def converse(self) -> MemberConversation:
        """Begin a conversation on a new stream."""
        return MemberConversation(self)


class MemberConversation:
    """The member's half of one conversation."""

    def __init__(self, readmissions: Readmissions) -> None:
        self._common = readmissions
        self._frames = Frames(RETURN_MAGIC)
        self._public_key = b""
        self._keys: ConversationKeys | None = None

    def receive(self, data: bytes, now: float) -> tuple[bytes, bool]:
        """Return the bytes to send, and whether to close then. Raises WireError for bytes that are no such
        conversation."""
        reply, done = b"", False
        for frame in self._frames.feed_untrusted(data):
            if done:
                raise WireError("more was said than a return has")
            if self._keys is None:
                reply, done = self._answer_hello(frame, now)
            else:
                reply, done = self._answer_proof(frame, self._keys), True
        return reply, done

    def _answer_hello(self, frame: bytes, now: float) -> tuple[bytes, bool]:
        fields = unpack_untrusted(frame, "hello")
        try:
            version, cluster_id, public_key, theirs, _nonce = fields
            self._public_key = sized(public_key, PUBLIC_KEY_BYTES)
            cluster_id, theirs = sized(cluster_id, 16), sized(theirs, 32)
        except ValueError as error:
            raise WireError(f"malformed hello: {error}") from None
        common = self._common
        if version != _VERSION or cluster_id != common.cluster_id:
            return refusal_frame("this host is in another cluster, or of another release"), True
        if not common.is_member(node_id_of(self._public_key)):
            return self._refusal_frame(), True
        if not common.may_begin(now):
            return refusal_frame("too many hosts return at once"), True
        key = X25519PrivateKey.from_private_bytes(common.random_bytes(32))
        mine = key.public_key().public_bytes_raw()
        transcript = transcript_of(frame, mine, common.identity.public_key)
        self._keys = ConversationKeys(key, theirs, transcript, purpose=_PURPOSE, secret=None)
        signature = common.identity.sign(_MEMBER + transcript)
        return frame_of(msgpack.packb([_VERSION, mine, common.identity.public_key, signature])), False

    def _answer_proof(self, frame: bytes, keys: ConversationKeys) -> bytes:
        fields = unpack_untrusted(keys.open_from_dialler_untrusted(frame), "proof")
        try:
            signature, ring = fields
            signature, theirs = typed(signature, bytes), _ring_of(ring)
        except ValueError as error:
            raise WireError(f"malformed proof: {error}") from None
        node_id = node_id_of(self._public_key)
        if not verify(self._public_key, signature, _RETURNER + keys.transcript):
            raise WireError("a return that is not signed by its host")
        if not self._common.is_member(node_id):  # evicted since it said hello
            return self._refusal_frame()
        # First ours: what it holds must not come back to it as ours.
        reply = keys.seal_to_dialler(msgpack.packb([_fields_of(self._common.ring())]))
        self._common.returned(PeerRing(node_id, theirs))
        return frame_of(reply)

    def _refusal_frame(self) -> bytes:
        text = self._common.refusal(node_id_of(self._public_key))
        return refusal_frame(text or "this member knows no such host in its cluster")


class ReturnerConversation:
    """The returner's half. Feed it bytes until `result` is set."""

    def __init__(
        self,
        identity: Identity,
        cluster_id: bytes,
        random_bytes: RandomBytes,
        *,
        is_member: IsMember,
        ring: Sequence[NumberedKey],
    ) -> None:
        self._identity = identity
        self._is_member = is_member
        self._ring = ring
        self._key = X25519PrivateKey.from_private_bytes(random_bytes(32))
        ephemeral = self._key.public_key().public_bytes_raw()
        self._hello = msgpack.packb([_VERSION, cluster_id, identity.public_key, ephemeral, random_bytes(16)])
        self._frames = Frames(b"")
        self._member: NodeId = ""
        self._keys: ConversationKeys | None = None
        self.result: PeerRing | Refusal | None = None

    def open(self) -> bytes:
        """Return the first bytes to send."""
        return RETURN_MAGIC + frame_of(self._hello)

    def receive(self, data: bytes) -> bytes:
        """Return the bytes to send. Raises WireError for bytes that are no such conversation."""
        reply = b""
        for frame in self._frames.feed_untrusted(data):
            if self.result is not None:
                raise WireError("more was said than a return has")
            refusal = refusal_untrusted(frame)
            if refusal is not None:
                self.result = refusal
            elif self._keys is None:
                reply = self._prove(frame)
            else:
                self.result = self._accept(frame, self._keys)
        return reply

    def _prove(self, frame: bytes) -> bytes:
        fields = unpack_untrusted(frame, "answer")
        try:
            _version, theirs, public_key, signature = fields
            theirs, public_key = sized(theirs, 32), sized(public_key, PUBLIC_KEY_BYTES)
            signature = typed(signature, bytes)
        except ValueError as error:
            raise WireError(f"malformed answer: {error}") from None
        self._member = node_id_of(public_key)
        transcript = transcript_of(self._hello, theirs, public_key)
        # Before anything of ours is sent: a stranger in the member's place must not get our ring.
        if not self._is_member(self._member) or not verify(public_key, signature, _MEMBER + transcript):
            self.result = Refusal("another program answers there, not a member that this host knows")
            return b""
        keys = self._keys = ConversationKeys(self._key, theirs, transcript, purpose=_PURPOSE, secret=None)
        proof = [self._identity.sign(_RETURNER + transcript), _fields_of(self._ring)]
        return frame_of(keys.seal_to_member(msgpack.packb(proof)))

    def _accept(self, frame: bytes, keys: ConversationKeys) -> PeerRing:
        fields = unpack_untrusted(keys.open_from_member_untrusted(frame), "ring")
        try:
            return PeerRing(self._member, _ring_of(fields[0]))
        except ValueError as error:
            raise WireError(f"malformed ring: {error}") from None


class EntryConversation:
    """A conversation with a host that wants to join or to return: its first byte says which."""

    def __init__(
        self, join: Callable[[], InviterConversation], readmit: Callable[[], MemberConversation]
    ) -> None:
        self._begin: dict[bytes, Callable[[], InviterConversation | MemberConversation]] = {
            JOIN_MAGIC: join,
            RETURN_MAGIC: readmit,
        }
        self._chosen: InviterConversation | MemberConversation | None = None

    def receive(self, data: bytes, now: float) -> tuple[bytes, bool]:
        """Return the bytes to send, and whether to close then. Raises WireError."""
        if self._chosen is None:
            begin = self._begin.get(data[:1])
            if begin is None:
                raise WireError("neither a join conversation nor a return")
            self._chosen = begin()
        return self._chosen.receive(data, now)


def _fields_of(ring: Sequence[NumberedKey]) -> list[object]:
    return [[one.key, one.number] for one in ring]


def _ring_of(value: object) -> tuple[NumberedKey, ...]:
    """Return the keys of a ring, else raise ValueError."""
    found = []
    for item in typed(value, list):
        key, number = typed(item, list)
        if len(typed(key, bytes)) not in KEY_BYTES or not 0 <= typed(number, int) < 2**32:
            raise ValueError("a ring key expected")
        found.append(NumberedKey(key, number))
    if len(found) > MAX_KEYS:
        raise ValueError(f"at most {MAX_KEYS} keys expected")
    return tuple(found)
