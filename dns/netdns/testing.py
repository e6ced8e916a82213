"""Two test doubles: a record source in memory, and an upstream server with programmable behaviour.

`TableSource` is also an example to copy. It has a table for all clients and one for each client, and it follows the
rules that are easy to get wrong: empty non-terminals exist (RFC 8020), a wildcard stands neither for its own parent
nor for anything below a name that exists (RFC 4592), and a name that a client may not see is as absent for it as one
that does not exist.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import trio

from netdns import name, rdata, special
from netdns.config import Transport
from netdns.source import Answer, Client, Found, Name, NoData, NoSuchName, NotOurs, RRset, Zone

_WILDCARD = b"\x01*"


class TableSource:
    """Answers for `zones` (texts such as "mesh.test"), and for single labels that were put."""

    def __init__(self, *zones: str, serial: int = 1, negative_ttl_s: int = 5) -> None:
        self._apexes = sorted((name.from_text(zone).lower() for zone in zones), key=len, reverse=True)
        self._serial = serial
        self._negative_ttl_s = negative_ttl_s
        self._tables: dict[Client, dict[Name, dict[int, RRset]]] = {}
        self._existing: dict[Client, frozenset[Name]] = {}
        self._version = 1

    def put(
        self, owner: str, rtype: int, rdatas: Sequence[bytes], *, client: Client = None, ttl_s: int = 5
    ) -> None:
        """Set the records of a name and type for one client, or for all clients (None)."""
        wire = name.from_text(owner).lower()
        self._tables.setdefault(client, {}).setdefault(wire, {})[rtype] = RRset(rtype, ttl_s, tuple(rdatas))
        self._changed(client)

    def remove(self, owner: str, *, client: Client = None) -> None:
        """Remove all records of a name."""
        self._tables.get(client, {}).pop(name.from_text(owner).lower(), None)
        self._changed(client)

    def _changed(self, client: Client) -> None:
        names = [suffix for wire in self._tables.get(client, ()) for _, suffix in name.suffixes(wire)]
        self._existing[client] = frozenset(names)
        self._version += 1

    def version(self, client: Client) -> int:
        """Count changes; the same for all clients."""
        del client
        return self._version

    def lookup(self, wire: Name, rtype: int, client: Client) -> Answer:
        """Look in the client's own table first, then in the one for all clients."""
        zone = self._zone_of(wire)
        for table in self._seen_by(client):
            sets = table.get(wire)
            if sets is not None:
                return Found(sets[rtype]) if rtype in sets else NoData(zone or special.ROOT_ZONE)
        if zone is None:
            return NotOurs()
        if wire == zone.apex or self._exists(wire, client):
            return NoData(zone)
        return self._wildcard(wire, rtype, client, zone)

    def _wildcard(self, wire: Name, rtype: int, client: Client, zone: Zone) -> Answer:
        for _, suffix in list(name.suffixes(wire))[1:]:
            for table in self._seen_by(client):
                sets = table.get(_WILDCARD + suffix)
                if sets is not None:
                    return Found(sets[rtype]) if rtype in sets else NoData(zone)
            if self._exists(suffix, client):
                break  # RFC 4592 3.3.1: the closest name that exists decides
        return NoSuchName(zone)

    def _seen_by(self, client: Client) -> Iterator[dict[Name, dict[int, RRset]]]:
        for key in dict.fromkeys((client, None)):
            if key in self._tables:
                yield self._tables[key]

    def _exists(self, wire: Name, client: Client) -> bool:
        return any(wire in self._existing.get(key, ()) for key in (client, None))

    def _zone_of(self, wire: Name) -> Zone | None:
        for apex in self._apexes:
            if name.is_within(wire, apex):
                soa = rdata.soa(b"\x02ns" + apex, b"\x0ahostmaster" + apex, serial=self._serial)
                return Zone(apex, soa, self._negative_ttl_s)
        return None


class ReceivedQuery(NamedTuple):
    """One query that an UpstreamDouble received."""

    payload: bytes
    peer_port: int
    transport: Transport


Behaviour: TypeAlias = Callable[[ReceivedQuery], Iterable[tuple[float, bytes]]]
"""Returns what to send back: (delay in s, payload) each; nothing is silence."""


class UpstreamDouble:
    """A server on 127.0.0.1, UDP and TCP on one port, that answers as `behave` says and records all queries."""

    def __init__(self, behave: Behaviour) -> None:
        self.behave = behave
        self.heard: list[ReceivedQuery] = []
        self._udp, self._tcp = listening_pair()
        self.address: tuple[str, int] = self._udp.getsockname()

    async def run(self) -> None:
        """Serve until cancelled."""
        tcp = trio.SocketListener(trio.socket.from_stdlib_socket(self._tcp))
        with trio.socket.from_stdlib_socket(self._udp) as udp:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.serve_listeners, self._connection, [tcp])
                while True:
                    payload, peer = await udp.recvfrom(4096)
                    heard = ReceivedQuery(payload, peer[1], Transport.UDP)
                    self.heard.append(heard)
                    for delay_s, reply in self.behave(heard):
                        nursery.start_soon(_send_later, udp, delay_s, reply, peer)

    async def _connection(self, stream: trio.SocketStream) -> None:
        received = b""
        while data := await stream.receive_some():
            received += data
            end = 2 + int.from_bytes(received[:2], "big")
            if len(received) < max(end, 2):
                continue
            heard = ReceivedQuery(received[2:end], stream.socket.getpeername()[1], Transport.TCP)
            received = received[end:]
            self.heard.append(heard)
            for delay_s, reply in self.behave(heard):
                await trio.sleep(delay_s)
                await stream.send_all(len(reply).to_bytes(2, "big") + reply)


async def _send_later(
    udp: trio.socket.SocketType, delay_s: float, payload: bytes, peer: tuple[str, int]
) -> None:
    await trio.sleep(delay_s)
    await udp.sendto(payload, peer)


def listening_pair(host: str = "127.0.0.1") -> tuple[socket.socket, socket.socket]:
    """Return UDP and TCP sockets on one free port of `host`, non-blocking, ready for Server.add_listener."""
    for _ in range(100):
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.setblocking(False)
        udp.bind((host, 0))
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        tcp.setblocking(False)
        try:
            tcp.bind(udp.getsockname())
        except OSError:
            udp.close()
            tcp.close()
            continue
        tcp.listen(128)
        return udp, tcp
    raise OSError("no port is free for both UDP and TCP")
