"""Echoes and what they prove: `netagent ping`. Pure.

Two sizes go to each address: a small one, which passes wherever anything does, and one as large as the network
allows, which is what transfers are made of. What comes back is counted; where nothing does, the layers that a packet
needs are gone through in their order, and the first that is not as it should be is named.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from netagent.doctor.checks.object_status import ObjectStatus

SMALL_BYTES = 84
"""What `ping` sends over IPv4 when nobody says otherwise."""
_ICMP = struct.Struct("!BBHHH")
_REQUEST = {4: 8, 6: 128}
_REPLY = {4: 0, 6: 129}
_IP_BYTES = {4: 20, 6: 40}


class EchoError(ValueError):
    """The bytes are no echo reply."""


@dataclass(frozen=True, slots=True)
class PacketCounts:
    """What became of the packets of one size to one address, or of one connection to a port."""

    address: str
    sent: int
    rtts_s: tuple[float, ...] = ()
    """Of those that were answered."""
    size_bytes: int | None = None
    """Of the whole packet; None for a connection."""
    port: int | None = None
    trouble: str = ""
    """What the kernel said: `refused`, `no route to host`, …"""

    @property
    def is_lost(self) -> bool:
        """Nothing came back."""
        return not self.rtts_s


@dataclass(frozen=True, slots=True)
class Hop:
    """One layer on the way, and what it decided."""

    layer: str
    """`name`, `container`, `kernel`, `policy`, `path`, `host`."""
    thing: str
    is_wrong: bool
    says: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class LossVerdict:
    """Where packets get lost: a layer, `endpoint` for the far end itself, or nothing; and a sentence."""

    lost_at: str
    says: str


def echo_request(version: int, identifier: int, sequence: int, size_bytes: int) -> bytes:
    """An ICMP message that makes a packet of `size_bytes`; with its checksum for IPv4, the kernel makes IPv6's."""
    payload = bytes(byte & 0xFF for byte in range(max(0, size_bytes - _IP_BYTES[version] - _ICMP.size)))
    checksum = 0
    if version == 4:
        checksum = _checksum(_ICMP.pack(_REQUEST[4], 0, 0, identifier, sequence) + payload)
    return _ICMP.pack(_REQUEST[version], 0, checksum, identifier, sequence) + payload


def reply_untrusted(version: int, message: bytes) -> tuple[int, int]:
    """(identifier, sequence) of an echo reply, as a raw socket receives it: IPv4 with its header. EchoError."""
    if version == 4:
        message = message[(message[0] & 15) * 4 :] if message else b""
    if len(message) < _ICMP.size:
        raise EchoError("shorter than an ICMP header")
    kind, _code, _sum, identifier, sequence = _ICMP.unpack_from(message)
    if kind != _REPLY[version]:
        raise EchoError(f"type {kind}")
    return identifier, sequence


def _checksum(data: bytes) -> int:
    padded = data + bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    inverted: int = ~total & 0xFFFF
    return inverted


def hop_of(layer: str, line: ObjectStatus) -> Hop:
    """An object of `inspect --why` as a step on the way."""
    says = line.state.value + (f": {line.reason}" if line.reason else "")
    return Hop(layer, f"{line.kind} {line.thing}", line.is_wrong, says, line.fix)


def judge(tallies: Sequence[PacketCounts], hops: Sequence[Hop], to: str) -> LossVerdict:
    """What the packets and the layers together say."""
    lost = [one for one in tallies if one.is_lost]
    if not lost:
        return LossVerdict("", f"{to} answers")
    wrong = next((hop for hop in hops if hop.is_wrong), None)
    refused = [one for one in lost if one.trouble == "refused"]
    if refused:
        return _refused(refused, tallies, hops, to)
    if len(lost) < len(tallies):
        small = {one.address for one in tallies if not one.is_lost and one.size_bytes == SMALL_BYTES}
        large = next((one for one in lost if one.size_bytes is not None and one.address in small), None)
        if large is not None:
            return LossVerdict(
                "path",
                f"{to} answers small packets; those of {large.size_bytes} bytes are lost"
                + (f": {wrong.says}" if wrong is not None and wrong.layer == "path" else ""),
            )
    what = ", ".join(dict.fromkeys(one.address for one in lost))
    if wrong is not None:
        return LossVerdict(wrong.layer, f"nothing comes back from {what}: {wrong.thing}: {wrong.says}")
    trouble = next((f" ({one.trouble})" for one in lost if one.trouble), "")
    return LossVerdict(
        "endpoint",
        f"nothing comes back from {what}{trouble}, and nothing is wrong up to there: look at the other end",
    )


def _refused(
    refused: Sequence[PacketCounts], tallies: Sequence[PacketCounts], hops: Sequence[Hop], to: str
) -> LossVerdict:
    """A firewall that rejects answers as a closed port does: a policy that forbids the connection is the reason."""
    where = ", ".join(one.address for one in refused)
    partly = "" if len(refused) == len(tallies) else f" at {where}"
    policy = next((hop for hop in hops if hop.is_wrong and hop.layer == "policy"), None)
    if policy is not None:
        says = f"the connection to {to} is refused{partly}: {policy.thing}: {policy.says}"
        return LossVerdict("policy", says)
    return LossVerdict(
        "endpoint", f"{to} is reached, and nothing listens at its port {refused[0].port}{partly}"
    )
