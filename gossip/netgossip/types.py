"""The types that netgossip's state machines and their drivers share.

A machine never touches a socket. The driver feeds it bytes with the time at which they came, and drains its output:

    machine.handle_datagram(channel, payload, source, now)
    machine.handle_deadline(now)            # early or repeated calls do nothing
    output = machine.drain()                # datagrams may be lost, events and stream commands may not
    machine.next_deadline()                 # drain, then ask again, after every input and command
    while machine.has_pending_work:         # work of the node or its records that was too long for one input
        machine.run_step()                  # a millisecond of it; drain, and let other tasks run in between

Streams do the same for TCP. The machine names a stream by a number; the driver owns the socket:

    StreamOpen(7, RECORD, ("192.0.2.2", 7957))      the driver dials; failure comes back as handle_stream_end
    handle_stream_data(7, b"...", now)              bytes, split at any position
    handle_stream_end(7, now, error=None)           the peer half-closed or the stream broke
    StreamSend(7, b"..."), StreamClose(7)           what the machine wants done, in order

A stream that a peer opened gets its number from `accept_stream(channel, peer, now)`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

NodeId: TypeAlias = str
"""32 lower-case hex digits: the first 128 bits of SHA-256 of the node's Ed25519 public key. It is the node's
name in memberlist's messages."""

Address: TypeAlias = tuple[str, int]
"""(IP address in text without zone or brackets, port)."""

Scope: TypeAlias = bytes
"""16 bytes. CLUSTER_SCOPE reaches every node; any other scope reaches only the nodes that take part in it."""

CLUSTER_SCOPE: Scope = bytes(16)

StreamId: TypeAlias = int
"""Unique within one run of the machine, for dialled and accepted streams alike."""


class Channel(enum.Enum):
    """The port that a datagram or stream belongs to."""

    GOSSIP = "gossip"
    """Membership, in memberlist's wire format."""
    RECORD = "record"
    """Replicated records and joining, in netgossip's own format."""


class MemberState(enum.Enum):
    """The state in which gossip holds a node. The values are memberlist's on the wire."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3


@dataclass(frozen=True, slots=True)
class Member:
    """One node as the membership sees it. `meta` is opaque here, at most 512 bytes."""

    node_id: NodeId
    address: Address
    state: MemberState
    incarnation: int
    meta: bytes = b""
    vsn: bytes = b"\x01\x05\x02\x00\x00\x00"
    """Protocol versions: min, max, current, then the delegate's three."""
    leave_proof: bytes = field(default=b"", repr=False)
    """Of a member that has left: its own proof of that; empty: it came without."""


@dataclass(frozen=True, slots=True)
class Datagram:
    """One UDP payload, ready for the wire."""

    channel: Channel
    destination: Address
    payload: bytes


@dataclass(frozen=True, slots=True)
class StreamOpen:
    """Dial `destination`. The driver queues data that is sent before the connection is established."""

    stream_id: StreamId
    channel: Channel
    destination: Address


@dataclass(frozen=True, slots=True)
class StreamSend:
    """Append bytes to a stream."""

    stream_id: StreamId
    data: bytes


@dataclass(frozen=True, slots=True)
class StreamClose:
    """Send what is queued, then close. The number is never used again."""

    stream_id: StreamId


StreamCommand: TypeAlias = StreamOpen | StreamSend | StreamClose


class Version(NamedTuple):
    """The version of a record, assigned by its one writer. Ordered; both parts are persisted counters, never
    clocks."""

    epoch: int
    """Raised only when the writer finds that its own history is lost (a disk restored from a backup)."""
    sequence: int
    """Counts the writer's changes in one scope."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One replicated key and its value. `value` None is a tombstone: the owner deleted the key at `version`."""

    scope: Scope
    owner: NodeId
    key: bytes
    value: bytes | None
    version: Version


@dataclass(frozen=True, slots=True)
class Log:
    """All entries of one owner in one scope, and how far they reach.

    `head` is the sequence of the owner's last change; every change up to it is in `entries` or was superseded.
    `collected` is the highest sequence whose tombstone the owner has dropped: a holder whose head is lower cannot be
    brought up to date by a delta and gets the whole log anew.
    """

    scope: Scope
    owner: NodeId
    epoch: int
    head: int
    collected: int = 0
    entries: Mapping[bytes, Entry] = field(default_factory=dict)
    proof: bytes = b""
    """What the owner signed this version with; empty: nothing, or this node does not check it. Only of others' logs:
    a node signs its own anew."""


# Events: facts for the application, in the order in which they became true.


@dataclass(frozen=True, slots=True)
class MemberChanged:
    """A node became known, or changed its state, its address or its meta."""

    member: Member
    previous: MemberState | None
    """None when the node was unknown."""


@dataclass(frozen=True, slots=True)
class MemberReaped:
    """A node that left, or was dead for long enough, is no longer remembered."""

    node_id: NodeId


@dataclass(frozen=True, slots=True)
class EntriesChanged:
    """Entries of one owner in one scope became known, all of one delta together.

    The node's own changes are reported as well. With `replaced`, `entries` is the owner's whole log of the scope, and
    every key that is not in it is gone. Without entries: only the proof of a log that was held before has come.
    """

    scope: Scope
    owner: NodeId
    epoch: int
    head: int
    collected: int
    entries: tuple[Entry, ...]
    replaced: bool = False
    proof: bytes = b""
    """What another owner signed the log at this version with. Persist it with the log, and that the owner has signed
    beyond the log's life (History.signers)."""


@dataclass(frozen=True, slots=True)
class ScopeSynced:
    """Reported once, for the first of these since `enter_scope`: all live peers in the scope confirmed that we hold
    all they hold; one did, and the others stayed silent for `alone_grace_s`; or no other node takes part in the
    scope."""

    scope: Scope


@dataclass(frozen=True, slots=True)
class RequestReceived:
    """A peer sent a request; each is reported only once. Answer with `records.respond(event, payload)`."""

    peer: NodeId
    request_id: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class ResponseReceived:
    """The answer to `records.request(...)`; `payload` is None when the deadline passed without one."""

    peer: NodeId
    request_id: int
    payload: bytes | None


@dataclass(frozen=True, slots=True)
class UnknownSourceHeard:
    """A sender without our cluster's label or key sent us something. At most one event per minute and source."""

    source: Address
    reason: str
    """One of: no-label, other-label, wrong-key, not-encrypted."""


@dataclass(frozen=True, slots=True)
class IdentityConflict:
    """Another machine uses our node id."""

    address: Address


@dataclass(frozen=True, slots=True)
class IdentityContested:
    """Two machines use the node id of another member: one at the address that we hold, which answers, and one
    elsewhere."""

    node_id: NodeId
    held: Address
    other: Address


@dataclass(frozen=True, slots=True)
class UnprovenLogHeard:
    """Records came in the name of `owner` that it did not sign; they are refused. At most one event per minute and
    owner."""

    owner: NodeId
    sender: NodeId
    """The node that the message names as its sender. Each member can put another's name there."""


@dataclass(frozen=True, slots=True)
class RefusalHeard:
    """A member answered our push/pull with the text that its application gave for a node that it refuses
    (`GossipNode.refuse_peer`). Whoever has a key of the ring can send it: the application judges the text."""

    source: Address
    text: str


@dataclass(frozen=True, slots=True)
class ClaimSignerHeard:
    """A node has proven for the first time what it says about itself; without a proof nothing is believed of it any
    more. Persist it (History.claim_signers)."""

    node_id: NodeId


@dataclass(frozen=True, slots=True)
class SessionSpeakerHeard:
    """A peer has shown for the first time that it has sessions for records; from now on, what it does not say under
    one is believed only as far as a recording would be. Persist it (History.session_speakers)."""

    node_id: NodeId


@dataclass(frozen=True, slots=True)
class UnprovenClaimHeard:
    """A claim came in the name of a node (that it lives elsewhere, has another incarnation, or has left) without that
    node's proof, and is refused. At most one event per minute and node."""

    node_id: NodeId
    source: Address
    """Where the message came from. A member may have relayed it in good faith."""


@dataclass(frozen=True, slots=True)
class OwnLogRaised:
    """A peer holds newer history of our own log than we do; our log of the scope continues at this epoch.
    Persist it."""

    scope: Scope
    epoch: int


Event: TypeAlias = (
    MemberChanged
    | MemberReaped
    | EntriesChanged
    | ScopeSynced
    | RequestReceived
    | ResponseReceived
    | UnknownSourceHeard
    | IdentityConflict
    | IdentityContested
    | UnprovenLogHeard
    | RefusalHeard
    | ClaimSignerHeard
    | SessionSpeakerHeard
    | UnprovenClaimHeard
    | OwnLogRaised
)


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What the application persisted of a node's earlier runs, as events reported it; the defaults are those of a new
    node."""

    incarnation: int = 0
    """The highest that the node used."""
    boot_epoch: int = 1
    """Raise it at each start."""
    members: Sequence[Member] = ()
    """The other members."""
    departed: Sequence[tuple[NodeId, int]] = ()
    """Members that were reaped, each with its last incarnation, above which it may come back."""
    own_logs: Sequence[Log] = ()
    replicas: Sequence[Log] = ()
    """The logs of other owners."""
    signers: Sequence[NodeId] = ()
    """Other owners that have signed a log once: what they did not sign is refused from then on."""
    claim_signers: Sequence[NodeId] = ()
    """Other nodes that have proven once what they say about themselves: they are not believed without any more."""
    session_speakers: Sequence[NodeId] = ()
    """Other nodes that have once had a session for records: without one they are hardly believed any more."""


@dataclass(frozen=True, slots=True)
class NodeOutput:
    """Everything the driver must now do. Datagrams may be lost; streams and events may not."""

    datagrams: tuple[Datagram, ...] = ()
    streams: tuple[StreamCommand, ...] = ()
    events: tuple[Event, ...] = ()
