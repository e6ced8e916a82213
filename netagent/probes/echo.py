"""Send what `liveness`, `path` and `checksum` decide, and pass them the answers, and `distance` the round-trip times.

One raw ICMPv6 socket receives for all; the echo requests of the first two differ by identifier. Echo requests from
other hosts are let through only while they matter: in a large cluster they are many, and they only tell something
about a path that is down. Datagrams have two more sockets: a UDP socket, whose checksums the kernel leaves to the
card as it does for TCP, and a raw one that only sends packets with complete checksums.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

import trio

from netagent.model.ids import HostId
from netagent.probes import packet
from netagent.probes.checksum import ChecksumProbe, Checksums
from netagent.probes.distance import Distances
from netagent.probes.liveness import Liveness, LivenessReport, SilentHost
from netagent.probes.packet import Echo, PacketError
from netagent.probes.path import Paths
from netagent.probes.quality import PathStatus, PathTarget

_ICMP6_FILTER = 1
_IPV6_MTU_DISCOVER, _PMTUDISC_PROBE, _IPV6_DONTFRAG, _IPV6_FREEBIND = 23, 3, 62, 78
CLOSED_PORT = 7959
"""UDP port without a listener. The next one after the agents' own, so that no program gets it by accident."""
_PATH_BIT = 0x8000
"""Bit of the identifier: sent for `path`, not for `liveness`."""
_HEAD_BYTES = 2048
"""How much of a message is read: of a larger one the beginning is enough."""
_MESSAGES_AT_ONCE = 16
"""Read before other tasks run."""
_IDLE_S = 60.0
TESTIMONY_S = 1.2
"""Two requests without answer, of which one was already on its way, and some margin."""

logger = logging.getLogger("netagent.probes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listeners:
    """Callbacks for results."""

    on_answers: Callable[[dict[HostId, bool]], None]
    """Whether the kernels of some hosts answer now: all that one step has found, because a loose cable silences
    hundreds."""
    on_doubt: Callable[[HostId], None]
    """A host's kernel missed some requests: check its agent."""
    on_path: Callable[[HostId, PathStatus], None]
    """The path to a host has changed."""
    on_checksums: Callable[[bool | None], None]
    """Whether the card's checksums may be used, as Checksums.verdict says; called after each answer."""


@dataclass(frozen=True, slots=True)
class ProbeMachines:
    """The state machines that decide what is sent."""

    liveness: Liveness
    paths: Paths
    checksums: Checksums
    distances: Distances


@dataclass(frozen=True, slots=True)
class _Sockets:
    """Plain non-blocking sockets: sending through trio costs a round of the event loop, more than the send itself. A
    packet for which the buffer has no room is lost, as on the path."""

    icmp: socket.socket
    udp: socket.socket
    raw: socket.socket


def _filter(kinds: set[int]) -> bytes:
    """Return an ICMP6_FILTER (RFC 3542 section 3.2) that passes only these types: a set bit blocks a type."""
    words = [0xFFFFFFFF] * 8
    for kind in kinds:
        words[kind >> 5] &= ~(1 << (kind & 31))
    return struct.pack("=8I", *words)


class EchoProber:
    """Sends for all peers. `address` is this host's on the probe network."""

    def __init__(self, machines: ProbeMachines, address: str, identifier: int, listeners: Listeners) -> None:
        self._liveness = machines.liveness
        self._paths = machines.paths
        self._checksums = machines.checksums
        self._distances = machines.distances
        self._address = address
        self._identifier = identifier & (_PATH_BIT - 1)
        self._listeners = listeners
        self._is_listening = False
        self._timer = trio.CancelScope()
        """Ends when one of the machines has something to do."""
        self._news = trio.Event()
        self._losses = trio.Event()
        self._has_losses = False
        """Whether `missing` was not empty at the last look."""

    def set_peers(self, peers: dict[HostId, tuple[str, bool]]) -> None:
        """See Liveness.set_peers."""
        self._liveness.set_peers(peers, trio.current_time())
        self._set_timer()

    def set_paths(self, targets: dict[HostId, tuple[str, int]]) -> None:
        """See Paths.set_targets."""
        self._paths.set_targets(
            {h: PathTarget(*target) for h, target in targets.items()}, trio.current_time()
        )
        self._checksums.set_targets({h: address for h, (address, _) in targets.items()}, trio.current_time())
        self._set_timer()

    @property
    def broken_checksums(self) -> frozenset[HostId]:
        """Return hosts at which checksums that this host's card computes arrive wrong."""
        return self._checksums.broken

    @property
    def missing(self) -> dict[HostId, SilentHost]:
        """See Liveness.missing."""
        return self._liveness.missing

    async def wait_losses(self) -> None:
        """Return when there is news of missing hosts; never while there are none."""
        await self._losses.wait()

    async def testify(self, hosts: tuple[HostId, ...]) -> tuple[LivenessReport, ...]:
        """Test whether the kernels of these hosts answer, from now on; return the results after TESTIMONY_S at
        most."""
        since = trio.current_time()
        for host_id in hosts:
            self._liveness.look(host_id, since)
        self._set_timer()
        known = [one for one in hosts if one in self._liveness]
        with trio.move_on_after(TESTIMONY_S):
            while any(self._liveness.word(one, since) is LivenessReport.UNKNOWN for one in known):
                await self._news.wait()
        return tuple(self._liveness.word(one, since) for one in hosts)

    def rtt_s(self, host_id: HostId) -> float | None:
        """Return the round trip time of the last answer over the overlay."""
        return self._liveness.rtt_s(host_id)

    def fastest_rtt_s(self, host_id: HostId) -> float | None:
        """Return the fastest of the last round-trip times, which decides how far the host is."""
        return self._distances.rtt_s(host_id)

    def path(self, host_id: HostId) -> PathStatus | None:
        """Return what is known of the path to a host; None if it shares no network with this one."""
        return self._paths.status(host_id, trio.current_time())

    async def run(self) -> None:
        """Work until cancelled."""
        with (
            socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as icmp,
            socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as udp,
            socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw,
        ):
            sockets = _Sockets(icmp, udp, raw)
            for sock in (icmp, udp, raw):
                sock.setblocking(False)
            self._set_filter(icmp, is_listening=False)
            for sock in (icmp, udp):
                # Sent at full size, whatever the kernel thinks of the path: what passes is to be found out.
                sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)
                sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_DONTFRAG, 1)
            udp.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)  # the device may bring the address later
            udp.bind((self._address, 0))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._receive, sockets)
                while True:
                    with trio.CancelScope() as self._timer:
                        self._set_timer()
                        await trio.sleep_forever()
                    now = trio.current_time()
                    self._liveness.handle_deadline(now)
                    self._paths.handle_deadline(now)
                    self._checksums.handle_deadline(now)
                    self._flush(sockets)

    def _set_timer(self) -> None:
        """Move the timer's deadline without waking its task: after an answer nothing but the deadline changes."""
        deadline = min(self._next_deadline(), trio.current_time() + _IDLE_S)
        if self._timer.deadline != deadline:
            self._timer.deadline = deadline

    def _next_deadline(self) -> float:
        return min(one.next_deadline() for one in (self._liveness, self._paths, self._checksums))

    def _set_filter(self, sock: socket.socket, *, is_listening: bool) -> None:
        kinds = {packet.ECHO_REPLY, packet.UNREACHABLE} | ({packet.ECHO_REQUEST} if is_listening else set())
        sock.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, _filter(kinds))
        self._is_listening = is_listening

    async def _receive(self, sockets: _Sockets) -> None:
        port = sockets.udp.getsockname()[1]
        while True:
            await trio.lowlevel.wait_readable(sockets.icmp)
            is_new = False
            for _ in range(_MESSAGES_AT_ONCE):
                try:
                    message, source = sockets.icmp.recvfrom(_HEAD_BYTES)
                except BlockingIOError:
                    break
                is_new |= self._heard(message, source[0].partition("%")[0], port)
            if is_new:
                self._flush(sockets)
                self._set_timer()

    def _heard(self, message: bytes, address: str, port: int) -> bool:
        """Handle a message; return whether it concerns us. `port`: of the UDP socket."""
        try:
            heard = packet.parse_untrusted(message)
        except PacketError:
            return False
        now = trio.current_time()
        if isinstance(heard, Echo):
            self._take(heard, address, now)
        elif heard.source_port == port:
            self._checksums.handle_answer(heard.sequence, address, now)
        else:
            return False
        return True

    def _take(self, echo: Echo, address: str, now: float) -> None:
        if not echo.is_reply:
            self._paths.handle_heard(address, now)
        elif echo.identifier == self._identifier:
            host_id = self._liveness.handle_answer(echo.sequence, address, now)
            if host_id is not None and (rtt_s := self._liveness.rtt_s(host_id)) is not None:
                self._distances.handle_rtt(host_id, rtt_s, now)
        elif echo.identifier == self._identifier | _PATH_BIT:
            self._paths.handle_answer(echo.sequence, address, now)

    def _flush(self, sockets: _Sockets) -> None:
        sock = sockets.icmp
        requests, changes, doubts = self._liveness.drain()
        for host_id in doubts:
            self._listeners.on_doubt(host_id)
        if changes:
            self._listeners.on_answers({change.host_id: change.answers for change in changes})
        for change in changes:
            self._paths.handle_liveness(change.host_id, trio.current_time())
        probes, path_changes = self._paths.drain()
        for path_change in path_changes:
            self._listeners.on_path(path_change.host_id, path_change.status)
            size_bytes = path_change.status.size_bytes
            self._checksums.handle_size(path_change.host_id, size_bytes, trio.current_time())
        if self._is_listening != self._paths.is_listening:
            self._set_filter(sock, is_listening=self._paths.is_listening)
        self._news.set()
        self._news = trio.Event()
        had_losses, self._has_losses = self._has_losses, bool(self._liveness.missing)
        if had_losses or self._has_losses:
            self._losses.set()
            self._losses = trio.Event()
        path_identifier = self._identifier | _PATH_BIT
        for request in requests:
            _send(sock, request.address, self._identifier, request.sequence, packet.SMALLEST_BYTES)
        for probe in probes:
            _send(sock, probe.address, path_identifier, probe.sequence, probe.size_bytes)
        self._listeners.on_checksums(self._checksums.verdict(trio.current_time()))
        for datagram in self._checksums.drain():
            self._send_datagram(sockets, datagram)

    def _send_datagram(self, sockets: _Sockets, datagram: ChecksumProbe) -> None:
        payload = packet.datagram(datagram.sequence, datagram.size_bytes)
        with contextlib.suppress(OSError):  # as in _send
            if datagram.is_whole:
                ends, ports = (self._address, datagram.address), (sockets.udp.getsockname()[1], CLOSED_PORT)
                whole = packet.whole_packet(ends, ports, payload)
                sockets.raw.sendto(whole, (datagram.address, 0, 0, 0))
            else:
                sockets.udp.sendto(payload, (datagram.address, CLOSED_PORT, 0, 0))


def _send(sock: socket.socket, address: str, identifier: int, sequence: int, size_bytes: int) -> None:
    # Errors: no route to the probe network, because the device is missing; or larger than the device's MTU. They
    # count as silence.
    with contextlib.suppress(OSError):
        sock.sendto(packet.echo_request(identifier, sequence, size_bytes), (address, 0, 0, 0))
