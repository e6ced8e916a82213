"""Sends the echo requests that `liveness` decides on, and hands it the replies."""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
from collections.abc import Callable

import trio

from netagent.model.ids import HostId
from netagent.probes.liveness import Liveness

ECHO_REQUEST, ECHO_REPLY = 128, 129  # RFC 4443 section 4
_ICMP6_FILTER = 1
_HEADER = struct.Struct("!BBHHH")
_IDLE_S = 60.0

logger = logging.getLogger("netagent.probes")


def _filter() -> bytes:
    """ICMP6_FILTER (RFC 3542 section 3.2) that lets echo replies through only: a set bit blocks a type."""
    words = [0xFFFFFFFF] * 8
    words[ECHO_REPLY >> 5] &= ~(1 << (ECHO_REPLY & 31))
    return struct.pack("=8I", *words)


class EchoProber:
    """One raw ICMPv6 socket for all peers."""

    def __init__(
        self, liveness: Liveness, identifier: int, on_change: Callable[[HostId, bool], None]
    ) -> None:
        self._liveness = liveness
        self._identifier = identifier & 0xFFFF
        self._on_change = on_change
        self._wake = trio.Event()

    def set_peers(self, peers: dict[HostId, tuple[str, bool]]) -> None:
        """See Liveness.set_peers."""
        self._liveness.set_peers(peers, trio.current_time())
        self._wake.set()

    def rtt_s(self, host_id: HostId) -> float | None:
        """Of the last answer over the overlay."""
        return self._liveness.rtt_s(host_id)

    async def run(self) -> None:
        """Until cancelled."""
        with trio.socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as sock:
            sock.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, _filter())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._receive, sock)
                while True:
                    self._wake = trio.Event()
                    with trio.move_on_at(min(self._liveness.next_deadline(), trio.current_time() + _IDLE_S)):
                        await self._wake.wait()
                    self._liveness.handle_deadline(trio.current_time())
                    await self._flush(sock)

    async def _receive(self, sock: trio.socket.SocketType) -> None:
        while True:
            payload, source = await sock.recvfrom(2048)
            if len(payload) < _HEADER.size:
                continue
            kind, _code, _checksum, identifier, sequence = _HEADER.unpack_from(payload)
            if kind == ECHO_REPLY and identifier == self._identifier:
                self._liveness.handle_answer(sequence, source[0].partition("%")[0], trio.current_time())
                await self._flush(sock)

    async def _flush(self, sock: trio.socket.SocketType) -> None:
        requests, changes = self._liveness.drain()
        for change in changes:
            self._on_change(change.host_id, change.answers)
        for request in requests:
            packet = _HEADER.pack(ECHO_REQUEST, 0, 0, self._identifier, request.sequence) + b"netagent"
            # No route to the probe network: the device is not there yet, or was taken away. Silence says the same.
            with contextlib.suppress(OSError):
                await sock.sendto(packet, (request.address, 0, 0, 0))
