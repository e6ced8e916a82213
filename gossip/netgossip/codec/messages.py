"""memberlist's messages and their bytes, versions 0.5 and 0.6 (the same on the wire).

    message  = type(1) body         body: one msgpack map, except for the three below
    compound = 07 count(1) count*length(u16) messages
    user     = 08 bytes             on a stream: 08 map{UserMsgLen} bytes
    pushPull = 06 map{Join, Nodes, UserStateLen} Nodes*map bytes
    crc      = 0C crc32(u32) message          outermost only
    compress = 09 map{Algo, Buf}              Buf: LZW of a message

Go's codec decides what may be written: the old raw family for strings and bytes alike (a `bin` for a string makes
older nodes drop the packet), keys sorted bytewise, nil for an absent byte string, IPv4 addresses in 4 bytes (Go
compares them bytewise). We write neither compression nor CRC: a receiver must take messages without them, and sealed
messages need no CRC.

Reading is in parse.py.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import msgpack

from netgossip.errors import GossipUsageError
from netgossip.types import Address, Member

PING, INDIRECT_PING, ACK, SUSPECT, ALIVE, DEAD, PUSH_PULL, COMPOUND, USER, COMPRESS = range(10)
NACK, CRC, ERROR = 11, 12, 13

VSN: Final = b"\x01\x05\x02\x00\x00\x00"
"""What we declare: protocols 1 to 5, speaking 2; no delegate protocol."""
META_LIMIT_BYTES: Final = 512
NAME_LIMIT_BYTES: Final = 128
"""Serf's ValidateNodeNames; memberlist itself has no limit."""
COMPOUND_LIMIT: Final = 255
COMPOUND_PART_BYTES: Final = 2
"""Bytes of each part's length in the compound's header."""
COMPOUND_HEADER_BYTES: Final = 2


@dataclass(frozen=True, slots=True)
class Ping:
    """Ask whether `node` is alive. The answer goes to `reply_to`, or to the datagram's source."""

    sequence: int
    node: str
    source: str | None = None
    reply_to: Address | None = None


@dataclass(frozen=True, slots=True)
class IndirectPing:
    """Ask the receiver to ping `node` at `target` for the sender."""

    sequence: int
    node: str
    target: Address
    wants_nack: bool
    source: str | None = None
    reply_to: Address | None = None


@dataclass(frozen=True, slots=True)
class Ack:
    """Answer the ping of this sequence."""

    sequence: int
    payload: bytes = b""


@dataclass(frozen=True, slots=True)
class Nack:
    """Tell the requester that its indirect ping has no answer so far."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Alive:
    """State that `node` is alive at `address`."""

    node: str
    incarnation: int
    address: Address
    meta: bytes = b""
    vsn: bytes = VSN


@dataclass(frozen=True, slots=True)
class Suspect:
    """State that `accuser` got no answer from `node`."""

    node: str
    incarnation: int
    accuser: str


@dataclass(frozen=True, slots=True)
class Dead:
    """State that `accuser` declares `node` dead. `node` itself sends this when it leaves."""

    node: str
    incarnation: int
    accuser: str
    proof: bytes = field(default=b"", repr=False)
    """The node's own, that it leaves (membership/claims.py). An addition of ours, which other memberlists skip."""


@dataclass(frozen=True, slots=True)
class PushPull:
    """All that one side knows about the members."""

    join: bool
    nodes: tuple[Member, ...]
    user_state: bytes = b""


@dataclass(frozen=True, slots=True)
class UserMessage:
    """An application's message in memberlist; we don't use it."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """The peer could not use what we wrote on a stream."""

    text: str


StateClaim: TypeAlias = Alive | Suspect | Dead
DatagramMessage: TypeAlias = Ping | IndirectPing | Ack | Nack | Alive | Suspect | Dead | UserMessage
StreamMessage: TypeAlias = Ping | Ack | PushPull | UserMessage | ErrorReply
Message: TypeAlias = DatagramMessage | PushPull | ErrorReply


def _packed(fields: dict[str, Any]) -> bytes:
    packed: bytes = msgpack.packb(fields, use_bin_type=False)
    return packed


def _address_bytes(host: str) -> bytes:
    return ipaddress.ip_address(host).packed


def check_meta(meta: bytes) -> bytes:
    """Return `meta` if it is valid. Raises GossipUsageError."""
    if len(meta) > META_LIMIT_BYTES:
        raise GossipUsageError(f"a node's meta has at most {META_LIMIT_BYTES} bytes, not {len(meta)}")
    return meta


def encode(message: Message) -> bytes:
    """Encode one message, for a datagram or a stream alike. The user message is never sent."""
    match message:
        case Ping():
            fields: dict[str, Any] = {"Node": message.node, "SeqNo": message.sequence}
            return b"\x00" + _packed(fields | _source_fields(message))
        case IndirectPing():
            host, port = message.target
            fields = {
                "Nack": message.wants_nack,
                "Node": message.node,
                "Port": port,
                "SeqNo": message.sequence,
            }
            return b"\x01" + _packed(fields | _source_fields(message) | {"Target": _address_bytes(host)})
        case Ack():
            return b"\x02" + _packed({"Payload": message.payload or None, "SeqNo": message.sequence})
        case Nack():
            return b"\x0b" + _packed({"SeqNo": message.sequence})
        case Suspect() | Dead():
            kind = b"\x03" if isinstance(message, Suspect) else b"\x05"
            fields = {"From": message.accuser, "Incarnation": message.incarnation, "Node": message.node}
            if isinstance(message, Dead) and message.proof:
                fields["Proof"] = message.proof
            return kind + _packed(fields)
        case Alive():
            host, port = message.address
            return b"\x04" + _packed(
                {
                    "Addr": _address_bytes(host),
                    "Incarnation": message.incarnation,
                    "Meta": message.meta or None,
                    "Node": message.node,
                    "Port": port,
                    "Vsn": message.vsn,
                }
            )
        case PushPull():
            return encode_push_pull(
                [encode_node(node) for node in message.nodes],
                join=message.join,
                user_state=message.user_state,
            )
        case UserMessage():
            return b"\x08" + message.payload
        case ErrorReply():
            return b"\x0d" + _packed({"Error": message.text})


def _source_fields(message: Ping | IndirectPing) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if message.reply_to is not None:
        fields["SourceAddr"] = _address_bytes(message.reply_to[0])
    if message.source is not None:
        fields["SourceNode"] = message.source
    if message.reply_to is not None:
        fields["SourcePort"] = message.reply_to[1]
    return fields


def encode_node(member: Member) -> bytes:
    """Encode one member's part of a push/pull. Callers cache it as long as the member is unchanged."""
    host, port = member.address
    return _packed(
        {
            "Addr": _address_bytes(host),
            "Incarnation": member.incarnation,
            "Meta": member.meta or None,
            "Name": member.node_id,
            "Port": port,
            **({"Proof": member.leave_proof} if member.leave_proof else {}),
            "State": member.state.value,
            "Vsn": member.vsn,
        }
    )


def encode_push_pull(nodes: Sequence[bytes], *, join: bool, user_state: bytes = b"") -> bytes:
    """Encode a push/pull of nodes from `encode_node`."""
    header = _packed({"Join": join, "Nodes": len(nodes), "UserStateLen": len(user_state)})
    return b"".join((b"\x06", header, *nodes, user_state))


def encode_compound(parts: Sequence[bytes]) -> bytes:
    """Encode several messages as one, at most 255."""
    if len(parts) == 1:
        return parts[0]
    lengths = b"".join(len(part).to_bytes(2, "big") for part in parts)
    return bytes((COMPOUND, len(parts))) + lengths + b"".join(parts)
