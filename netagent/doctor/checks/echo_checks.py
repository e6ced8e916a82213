"""Echo requests, and the conclusions from their replies: `netagent ping`. Pure.

Each address gets packets of two sizes: a small one, which passes wherever anything passes, and one as large as the
network allows, as bulk transfers use. If replies are missing, the layers that a packet needs are examined in order,
and the first one that is wrong is named.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from netagent.doctor.checks.object_status import ObjectStatus
from netagent.probes.schedule import EchoSchedule

INTERVAL_S = 0.02
PATIENCE_S = 1.0
"""After the last packet was sent."""
SMALL_BYTES = 84
"""The default packet size of `ping` over IPv4."""
_ICMP = struct.Struct("!BBHHH")
_REQUEST = {4: 8, 6: 128}
_REPLY = {4: 0, 6: 129}
_IP_BYTES = {4: 20, 6: 40}


class EchoError(ValueError):
    """The bytes are not an echo reply."""


@dataclass(frozen=True, slots=True)
class PacketCounts:
    """Results of the packets of one size to one address, or of one connection to a port."""

    address: str
    sent: int
    rtts_s: tuple[float, ...] = ()
    """One for each packet that was answered."""
    size_bytes: int | None = None
    """Size of the whole IP packet; None for a connection."""
    port: int | None = None
    trouble: str = ""
    """The kernel's error: `refused`, `no route to host`, …"""

    @property
    def is_lost(self) -> bool:
        """True if no reply came back."""
        return not self.rtts_s


class EchoSeries:
    """Packets to one address, `count` of each size, one every INTERVAL_S. The caller sends them."""

    def __init__(self, address: str, sizes: Sequence[int], count: int, now: float) -> None:
        self._address = address
        self._sizes = [size for _ in range(count) for size in sizes]
        self._schedule: EchoSchedule[int] = EchoSchedule()
        for number in range(len(self._sizes)):
            self._schedule.plan(number, now + number * INTERVAL_S)
        self._ends_at = now
        self._rtts_s: dict[int, list[float]] = {size: [] for size in sizes}
        self._troubles: dict[int, str] = {}

    def handle_deadline(self, now: float) -> list[tuple[int, int]]:
        """Return the packets to send now: sequence number and size."""
        due = []
        while (number := self._schedule.take_due(now)) is not None:
            due.append((self._schedule.send(number, now), self._sizes[number]))
            self._ends_at = now + PATIENCE_S
        return due

    def handle_answer(self, sequence: int, now: float) -> None:
        """Note an echo reply."""
        if (sent := self._schedule.sent(sequence)) is not None:
            number, sent_at = sent
            self._schedule.end([sequence])
            self._rtts_s[self._sizes[number]].append(now - sent_at)

    def note_trouble(self, size_bytes: int, trouble: str) -> None:
        """Note why the kernel did not send a packet."""
        self._troubles[size_bytes] = trouble

    def next_deadline(self) -> float:
        """Return when to send the next packet, or when to stop waiting."""
        return min(self._schedule.next_deadline(), self._ends_at)

    def is_over(self, now: float) -> bool:
        """True once all packets were sent, and answered or given up."""
        is_all_sent = self._schedule.next_deadline() == math.inf
        return is_all_sent and (not self._schedule.waiting() or now >= self._ends_at)

    def counts(self) -> tuple[PacketCounts, ...]:
        """Return the results, by size."""
        return tuple(
            PacketCounts(
                self._address,
                self._sizes.count(size),
                tuple(rtts_s),
                size,
                trouble="" if rtts_s else self._troubles.get(size, ""),
            )
            for size, rtts_s in self._rtts_s.items()
        )


@dataclass(frozen=True, slots=True)
class Hop:
    """One layer on the packet's path, and its state."""

    layer: str
    """`name`, `container`, `kernel`, `policy`, `path`, `host`."""
    thing: str
    is_wrong: bool
    says: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class LossVerdict:
    """Where packets get lost: a layer, `endpoint` for the far end itself, or empty; and a sentence."""

    lost_at: str
    says: str


def echo_request(version: int, identifier: int, sequence: int, size_bytes: int) -> bytes:
    """Return an ICMP message that makes a packet of `size_bytes`. For IPv6 the kernel fills in the checksum."""
    payload = bytes(byte & 0xFF for byte in range(max(0, size_bytes - _IP_BYTES[version] - _ICMP.size)))
    checksum = 0
    if version == 4:
        checksum = _checksum(_ICMP.pack(_REQUEST[4], 0, 0, identifier, sequence) + payload)
    return _ICMP.pack(_REQUEST[version], 0, checksum, identifier, sequence) + payload


def reply_untrusted(version: int, message: bytes) -> tuple[int, int]:
    """Parse an echo reply as a raw socket receives it (IPv4 with its header): (identifier, sequence). EchoError."""
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
    """Turn an object of `inspect --why` into a hop."""
    says = line.state.value + (f": {line.reason}" if line.reason else "")
    return Hop(layer, f"{line.kind} {line.thing}", line.is_wrong, says, line.fix)


def judge(tallies: Sequence[PacketCounts], hops: Sequence[Hop], to: str) -> LossVerdict:
    """Conclude from the packets and the layers where packets get lost."""
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
        return LossVerdict(wrong.layer, f"no reply from {what}: {wrong.thing}: {wrong.says}")
    trouble = next((f" ({one.trouble})" for one in lost if one.trouble), "")
    return LossVerdict(
        "endpoint",
        f"no reply from {what}{trouble}, although every layer up to it is correct: check the other end",
    )


def _refused(
    refused: Sequence[PacketCounts], tallies: Sequence[PacketCounts], hops: Sequence[Hop], to: str
) -> LossVerdict:
    """Name the reason of a refused connection. A firewall that rejects looks like a closed port, so a policy that
    forbids the connection comes first."""
    where = ", ".join(one.address for one in refused)
    partly = "" if len(refused) == len(tallies) else f" at {where}"
    policy = next((hop for hop in hops if hop.is_wrong and hop.layer == "policy"), None)
    if policy is not None:
        says = f"the connection to {to} is refused{partly}: {policy.thing}: {policy.says}"
        return LossVerdict("policy", says)
    return LossVerdict(
        "endpoint", f"{to} is reachable, but nothing listens at its port {refused[0].port}{partly}"
    )
