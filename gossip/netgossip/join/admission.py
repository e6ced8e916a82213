"""How a node enters a cluster: a member creates an invitation, and the newcomer redeems it once.

The token carries the inviter's addresses, the fingerprint of its public key, and a secret. Redeeming is one
conversation on the record port, distinguished from record traffic by its first byte:

    newcomer                                             inviter
    'J' hello(invitation id, ephemeral key, nonce)  ─►
                              ◄─  answer(ephemeral key, public key, signature over both hellos)
    sealed(public key, name, signature over both)   ─►
                              ◄─  sealed(cluster id, name, keys, members …)   or     refusal(reason)

The newcomer knows the inviter by its fingerprint; the inviter knows the newcomer by the secret, which goes into the
derivation of the sealing keys and is never sent. An eavesdropper learns nothing, even with the secret later: the
ephemeral keys are gone. An invitation exists in the inviter's memory only: a crash can void it, but nothing can make
it redeemable twice. The same newcomer may redeem it again while it is valid, because its connection may have broken
after the inviter's last message.

Each redemption gives the keys of that moment. So an invitation must not outlive what the cluster has decided about a
node that knows its secret: see `ShutOut`.

Both sides are machines without clock or socket. Refusals are sent in plain text before the newcomer has proven
itself; they say no more than the token's holder knows.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import msgpack
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from netgossip.errors import WireError
from netgossip.join.conversation_keys import ConversationKeys, transcript_of
from netgossip.join.identity import PUBLIC_KEY_BYTES, Identity, node_id_of, verify
from netgossip.join.invitation import ID_BYTES, SECRET_BYTES, VERSION, Token
from netgossip.join.wire import (
    NOT_YET,
    Frames,
    Refusal,
    addresses_of,
    frame_of,
    printable,
    refusal_frame,
    refusal_untrusted,
    sized,
    typed,
    unpack_untrusted,
)
from netgossip.types import Address, NodeId

STREAM_MAGIC = b"J"
_PURPOSE = b"netagent join 1"
MAX_INVITATIONS = 256
"""Bound of open invitations; beyond it: a further one is refused."""

_NO_SUCH_INVITATION: Final = (
    "this member has no such invitation: it has expired, or the agent was restarted since"
)

RandomBytes: TypeAlias = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a newcomer receives: all that a member of the cluster needs to know."""

    cluster_id: str
    cluster: str
    domain: str
    keys: tuple[bytes, ...] = field(repr=False)
    members: tuple[Address, ...] = ()
    """Gossip ports of some live members."""
    encrypts: bool = False
    """The cluster encrypts what it carries for others. A newcomer must know that before it carries anything."""
    allows_unsigned: bool | None = None
    """Whether nodes may be members that prove nothing; None: not decided yet."""


@dataclass(frozen=True, slots=True)
class ShutOut:
    """The nodes that a cluster has put out. What counts for an invitation are those that were put out since it was
    created: who creates one later knows of them, and may mean them."""

    evicted: Collection[NodeId] = ()
    """They do not redeem it."""
    revoked: Collection[NodeId] = ()
    """Nor, if one of them has redeemed it, does any other node: whoever has that one's disk knows the secret, and can
    make another identity. Each of them is evicted, too."""
    compromised: Collection[NodeId] = ()
    """No node redeems it: who acts for one of them may have seen other invitations as well. Each of them is revoked,
    too."""


@dataclass(slots=True)
class _Invitation:
    secret: bytes
    uses_left: int
    expires_at: float
    shut_out: ShutOut
    """Those of the time when it was created."""
    redeemed_by: set[bytes] = field(default_factory=set)

    def objection(self, public_key: bytes, now: ShutOut) -> str:
        """Return why a node must not redeem it, as things are now; empty: it may."""
        before, node_id = self.shut_out, node_id_of(public_key)
        if any(one not in before.compromised for one in now.compromised):
            return "a host was revoked since the invitation was created, and may know it"
        if any(
            _is_new(node_id_of(one), now.revoked, before.revoked) for one in self.redeemed_by - {public_key}
        ):
            return "a host that has used the invitation was forgotten or revoked since"
        if _is_new(node_id, now.evicted, before.evicted) or _is_new(node_id, now.revoked, before.revoked):
            return "the cluster has forgotten or revoked this host since the invitation was created"
        if public_key not in self.redeemed_by and self.uses_left <= 0:
            return "the invitation has been redeemed already"
        return ""


def _is_new(node_id: NodeId, now: Collection[NodeId], before: Collection[NodeId]) -> bool:
    return node_id in now and node_id not in before


class Invitations:
    """All open invitations of one member, and the conversations that redeem them."""

    def __init__(
        self,
        identity: Identity,
        random_bytes: RandomBytes,
        credentials: Callable[[], Credentials],
        admitted: Callable[[NodeId, str], None],
        *,
        shut_out: Callable[[], ShutOut] = ShutOut,
        why_not_yet: Callable[[], str] = str,
    ) -> None:
        """`credentials` and `shut_out` are called at each redemption; `admitted(node id, name)` reports each.
        `why_not_yet` says why no node gets the keys for some seconds; empty: they do."""
        self._identity = identity
        self._random_bytes = random_bytes
        self._credentials = credentials
        self._admitted = admitted
        self._shut_out = shut_out
        self._why_not_yet = why_not_yet
        self._open: dict[bytes, _Invitation] = {}

    def create(self, addresses: tuple[Address, ...], now: float, *, ttl_s: float, uses: int) -> Token:
        """Create an invitation. Raises ValueError when too many are open."""
        self._forget_old(now)
        if len(self._open) >= MAX_INVITATIONS:
            raise ValueError(f"{MAX_INVITATIONS} invitations are open already")
        invitation_id, secret = self._random_bytes(ID_BYTES), self._random_bytes(SECRET_BYTES)
        self._open[invitation_id] = _Invitation(secret, uses, now + ttl_s, self._shut_out())
        mine = self._credentials()
        return Token(
            mine.cluster,
            mine.cluster_id,
            addresses,
            hashlib.sha256(self._identity.public_key).digest(),
            invitation_id,
            secret,
        )

    def revoke(self, invitation_id: bytes | None) -> int:
        """Make an invitation worthless, or all open ones (None); return how many that were. A newcomer whose
        conversation is under way is refused as well, unless it has its credentials already."""
        revoked = [key for key in self._open if invitation_id in (None, key)]
        for key in revoked:
            del self._open[key]
        return len(revoked)

    def converse(self) -> InviterConversation:
        """Begin a join conversation on a new stream; GossipNode's `join_handler`."""
        return InviterConversation(self, self._identity, self._random_bytes)

    def _forget_old(self, now: float) -> None:
        for key in [k for k, invitation in self._open.items() if invitation.expires_at <= now]:
            del self._open[key]

    def secret_of(self, invitation_id: bytes, now: float) -> bytes | None:
        """Return the secret while the invitation is valid (spent ones too, for a newcomer that must ask again)."""
        self._forget_old(now)
        invitation = self._open.get(invitation_id)
        return invitation.secret if invitation else None

    def redeem(self, invitation_id: bytes, public_key: bytes, name: str) -> Credentials | Refusal:
        """Use the invitation up and return the credentials; a refusal when the node must not have them."""
        invitation = self._open.get(invitation_id)
        if invitation is None:
            return Refusal(_NO_SUCH_INVITATION)
        # Also for one that has redeemed it before: it gets today's keys, and may have been put out since.
        objection = invitation.objection(public_key, self._shut_out())
        if objection:
            return Refusal(objection)
        wait = self._why_not_yet()
        if wait:
            return Refusal(NOT_YET + wait)
        if public_key not in invitation.redeemed_by:
            invitation.uses_left -= 1
            invitation.redeemed_by.add(public_key)
        self._admitted(node_id_of(public_key), name)
        return self._credentials()


class InviterConversation:
    """The inviter's half of one conversation."""

    def __init__(self, invitations: Invitations, identity: Identity, random_bytes: RandomBytes) -> None:
        self._invitations = invitations
        self._identity = identity
        self._random_bytes = random_bytes
        self._frames = Frames(STREAM_MAGIC)
        self._invitation_id = b""
        self._keys: ConversationKeys | None = None

    def receive(self, data: bytes, now: float) -> tuple[bytes, bool]:
        """Return the bytes to send, and whether to close then. Raises WireError for bytes that are not a join
        conversation."""
        reply, done = b"", False
        for frame in self._frames.feed_untrusted(data):
            if done:
                raise WireError("more was said than a join conversation has")
            if self._keys is None:
                reply, done = self._answer_hello(frame, now)
            else:
                reply, done = self._answer_proof(frame, self._keys), True
        return reply, done

    def _answer_hello(self, frame: bytes, now: float) -> tuple[bytes, bool]:
        fields = unpack_untrusted(frame, "hello")
        try:
            version, invitation_id, theirs, _nonce = fields
            self._invitation_id = sized(invitation_id, ID_BYTES)
            theirs = sized(theirs, 32)
        except ValueError as error:
            raise WireError(f"malformed hello: {error}") from None
        if version != VERSION:
            return refusal_frame(
                f"this member speaks version {VERSION} of joining, not {version!r:.20}"
            ), True
        secret = self._invitations.secret_of(self._invitation_id, now)
        if secret is None:
            return refusal_frame(_NO_SUCH_INVITATION), True
        key = X25519PrivateKey.from_private_bytes(self._random_bytes(32))
        mine = key.public_key().public_bytes_raw()
        transcript = transcript_of(frame, mine, self._identity.public_key)
        self._keys = ConversationKeys(key, theirs, transcript, purpose=_PURPOSE, secret=secret)
        body = [VERSION, mine, self._identity.public_key, self._identity.sign(b"inviter" + transcript)]
        return frame_of(msgpack.packb(body)), False

    def _answer_proof(self, frame: bytes, keys: ConversationKeys) -> bytes:
        try:
            body = keys.open_from_dialler_untrusted(frame)
        except WireError:
            # Not counted against the invitation: its id is sent unencrypted, so an observer of one join could void it
            # for all later newcomers. 128 bits cannot be guessed.
            return refusal_frame("the invitation's secret is not the one that this member created")
        fields = unpack_untrusted(body, "proof")
        try:
            public_key, name, signature = fields
            public_key, name = sized(public_key, PUBLIC_KEY_BYTES), printable(typed(name, str)[:63])
            if not verify(public_key, typed(signature, bytes), b"newcomer" + keys.transcript):
                raise ValueError("the signature is wrong")
        except ValueError as error:
            raise WireError(f"malformed proof: {error}") from None
        credentials = self._invitations.redeem(self._invitation_id, public_key, name)
        if isinstance(credentials, Refusal):
            return refusal_frame(credentials.reason)
        reply: list[object] = [
            bytes.fromhex(credentials.cluster_id),
            credentials.cluster,
            credentials.domain,
            list(credentials.keys),
            [list(address) for address in credentials.members],
        ]
        if credentials.encrypts or credentials.allows_unsigned is not None:
            # Newcomers of the release before accept five fields only. They can't encrypt, so they must not enter.
            reply.append(credentials.encrypts)
        if credentials.allows_unsigned is not None:
            reply.append(credentials.allows_unsigned)
        return frame_of(keys.seal_to_dialler(msgpack.packb(reply)))


class NewcomerConversation:
    """The newcomer's half. Feed it bytes until `result` is set."""

    def __init__(self, token: Token, identity: Identity, name: str, random_bytes: RandomBytes) -> None:
        self._token = token
        self._identity = identity
        self._name = name
        self._key = X25519PrivateKey.from_private_bytes(random_bytes(32))
        self._hello = msgpack.packb(
            [VERSION, token.invitation_id, self._key.public_key().public_bytes_raw(), random_bytes(16)]
        )
        self._frames = Frames(b"")
        self._keys: ConversationKeys | None = None
        self.result: Credentials | Refusal | None = None

    def open(self) -> bytes:
        """Return the first bytes to send."""
        return STREAM_MAGIC + frame_of(self._hello)

    def receive(self, data: bytes) -> bytes:
        """Return the bytes to send. Raises WireError for bytes that are not a join conversation."""
        reply = b""
        for frame in self._frames.feed_untrusted(data):
            if self.result is not None:
                raise WireError("more was said than a join conversation has")
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
        transcript = transcript_of(self._hello, theirs, public_key)
        known = hmac.compare_digest(hashlib.sha256(public_key).digest(), self._token.fingerprint)
        if not known or not verify(public_key, signature, b"inviter" + transcript):
            self.result = Refusal("another agent answers there, not the member that created the invitation")
            return b""
        keys = self._keys = ConversationKeys(
            self._key, theirs, transcript, purpose=_PURPOSE, secret=self._token.secret
        )
        proof = [self._identity.public_key, self._name, self._identity.sign(b"newcomer" + transcript)]
        return frame_of(keys.seal_to_member(msgpack.packb(proof)))

    def _accept(self, frame: bytes, keys: ConversationKeys) -> Credentials | Refusal:
        fields = unpack_untrusted(keys.open_from_member_untrusted(frame), "credentials")
        try:
            cluster_id, cluster, domain, ring, members, *further = fields
            if not isinstance(ring, list) or not ring:
                raise ValueError("no keys")
            credentials = Credentials(
                sized(cluster_id, 16).hex(),
                typed(cluster, str),
                typed(domain, str),
                tuple(typed(key, bytes) for key in ring),
                addresses_of(members),
                encrypts=bool(further) and typed(further[0], bool),
                allows_unsigned=typed(further[1], bool) if len(further) > 1 else None,
            )
        except ValueError as error:
            raise WireError(f"malformed credentials: {error}") from None
        if credentials.cluster_id != self._token.cluster_id:
            return Refusal("the member that created the invitation has moved to another cluster since")
        return credentials
