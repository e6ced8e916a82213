"""The tables that the programs at the sockets and the agent share, as bytes. Pure.

An *end* is an address and a port as packets carry them: IPv6, an IPv4 address as ::ffff:a.b.c.d.

    service address  ->  network, count, flags, 64 places with the address of a backend each
    service end      ->  the port of its backends; only of services that name their ports
    cookie, network  ->  256 marks: to which backends this member was ever led
    socket           ->  four origins, each the end of a backend and that of the service which led there; in a ring

Numbers are in the byte order of the machine, addresses and ports as packets have them. A change of a layout takes new
names of maps: an agent adopts the maps of another release by name and size.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from netagent.datapath.bpf.maps import MapKind, MapShape
from netagent.model.ids import HostId
from netagent.model.records import ServicePort

PLACES: Final = 64
"""Of a service's table. A backend's share is the part of the places that it has."""
ORIGINS: Final = 4
"""Bound of the origins that one socket remembers; beyond it: the oldest one is replaced, and an answer of a datagram
from there shows the backend's address instead of the service's."""
MOST_SERVICES: Final = 16_384
"""Bound of service addresses of one family in the kernel's table; beyond it: those that come later are not
translated, names give their replicas, and `status` says so."""
MOST_PORTS: Final = 16_384
"""Bound of ports of all services together in the kernel's table; beyond it: as for service addresses.

One member has at most as many as are left free (netagent.datapath.sockets.port_shares)."""
MOST_MEMBERS: Final = 16_384
"""Bound of pairs of a namespace and a network in the kernel's table; beyond it: those that come later are no members,
and names answer them with replicas."""

MARKS: Final = 256
"""Of a member, for the backends that its namespace was led to. An octet each, since processors that set two bits of
one octet at the same time could lose one. Two backends may share a mark."""
MARK_SHIFT: Final = 24
"""Which bits of a hash of 32 are the number of the mark."""
GOLDEN: Final = 2654435761
"""The odd number nearest to 2^32 divided by the golden ratio: products with it are spread evenly (Knuth, volume 3,
6.4)."""

STICKY, HAS_PORTS = 1 << 0, 1 << 1  # flags of a service

HEAD: Final = struct.Struct("=IHH")
"""Of a service: network, count, flags."""
COUNT_AT, FLAGS_AT, PLACES_AT = 4, 6, 8
END_BYTES: Final = 20
"""An address of 16 octets, a port of two, and two that are zero."""
PORT_AT: Final = 16
"""Of a port, in an end."""
ORIGIN_BYTES: Final = 2 * END_BYTES
ORIGINS_AT: Final = 4
"""Behind the number of the origin that is replaced next."""
ORIGINS_BYTES: Final = ORIGINS_AT + ORIGINS * ORIGIN_BYTES

SERVICES4: Final = MapShape("netagent_svc4", MapKind.HASH, 4, PLACES_AT + PLACES * 4, MOST_SERVICES)
SERVICES6: Final = MapShape("netagent_svc6", MapKind.HASH, 16, PLACES_AT + PLACES * 16, MOST_SERVICES)
PORTS: Final = MapShape("netagent_ports", MapKind.HASH, END_BYTES, 4, MOST_PORTS)
MEMBERS: Final = MapShape("netagent_users", MapKind.HASH, 16, MARKS, MOST_MEMBERS)
ORIGINS_OF_SOCKETS: Final = MapShape("netagent_origin", MapKind.SOCKET_STORAGE, 4, ORIGINS_BYTES, 0)
SHAPES: Final = (SERVICES4, SERVICES6, PORTS, MEMBERS, ORIGINS_OF_SOCKETS)

MAPPED: Final = bytes(10) + b"\xff\xff"
"""What stands before an IPv4 address in an end."""
_MEMBER: Final = struct.Struct("=QII")
_WORD: Final = struct.Struct("=I")
_PORT: Final = struct.Struct("!H")
_END: Final = struct.Struct("!16sHxx")


@dataclass(frozen=True, slots=True)
class ServiceEntry:
    """One address of one service, as the kernel should lead it. Addresses are as packets have them, of 4 or 16
    octets."""

    address: bytes
    network: int
    """The VNI."""
    places: tuple[bytes, ...]
    """At most PLACES addresses of backends, of the same family; empty: there is no backend, and connections are
    refused."""
    ports: tuple[ServicePort, ...] = ()
    """Only these are served; empty: all, each led to the same port."""
    is_sticky: bool = False
    """All connections of one namespace go to one place."""
    owner: HostId | None = None
    """The member whose record it is, to which its ports are counted; None: to none."""


class Member(NamedTuple):
    """A network namespace in which the service addresses of a network are led to backends."""

    cookie: int
    """Of the namespace (SO_NETNS_COOKIE); the kernel uses it once per boot."""
    network: int
    """The VNI."""


@dataclass(frozen=True, slots=True)
class SocketEnd:
    """An address, 4 or 16 octets, and a port."""

    address: bytes
    port: int


@dataclass(frozen=True, slots=True)
class Origin:
    """What the real peer of a socket stands for."""

    backend: SocketEnd
    service: SocketEnd


def services_of(address: bytes) -> MapShape:
    """Return the map that an address belongs to."""
    return SERVICES4 if len(address) == 4 else SERVICES6


def pack_service(entry: ServiceEntry) -> bytes:
    """Return the value of a service's element; its key is the address."""
    if len(entry.places) > PLACES:
        raise ValueError(f"{len(entry.places)} places")
    flags = (STICKY if entry.is_sticky else 0) | (HAS_PORTS if entry.ports else 0)
    head = HEAD.pack(entry.network, len(entry.places), flags)
    return (head + b"".join(entry.places)).ljust(services_of(entry.address).value_bytes, b"\0")


def unpack_places(value: bytes) -> tuple[bytes, ...]:
    """Return the places of a service's element."""
    size = 4 if len(value) == SERVICES4.value_bytes else 16
    _network, count, _flags = HEAD.unpack_from(value)
    return tuple(
        value[at : at + size] for at in range(PLACES_AT, PLACES_AT + min(count, PLACES) * size, size)
    )


def pack_ports(entry: ServiceEntry) -> dict[bytes, bytes]:
    """Return the elements for a service's ports."""
    return {
        pack_end(SocketEnd(entry.address, port.number)): _PORT.pack(port.target) + bytes(2)
        for port in entry.ports
    }


def pack_member(member: Member) -> bytes:
    """Return the key of a member's element."""
    return _MEMBER.pack(*member, 0)


def unpack_member(key: bytes) -> Member:
    """Return the member of an element."""
    cookie, network, _zero = _MEMBER.unpack(key)
    return Member(cookie, network)


UNUSED, USED = bytes(MARKS), b"\1" * MARKS
"""Values of a member's element: no mark, and all."""


def mark_of(backend: bytes) -> int:
    """Return the number of the mark of a packed address."""
    hashed = 0
    for (word,) in _WORD.iter_unpack(backend):
        hashed ^= word
    return (hashed * GOLDEN & 0xFFFFFFFF) >> MARK_SHIFT


def pack_end(end: SocketEnd) -> bytes:
    """Return an end as the tables have it."""
    return _END.pack(end.address if len(end.address) == 16 else MAPPED + end.address, end.port)


def unpack_end(raw: bytes) -> SocketEnd:
    """Return the end that these END_BYTES mean."""
    address, port = _END.unpack(raw)
    return SocketEnd(address[len(MAPPED) :] if address.startswith(MAPPED) else address, port)


def unpack_origins(value: bytes) -> tuple[Origin, ...]:
    """Return what is stored at a socket, as the kernel tells it: sock_diag(7) with INET_DIAG_SK_BPF_STORAGES."""
    return tuple(_origins(value[ORIGINS_AT:ORIGINS_BYTES]))


def _origins(raw: bytes) -> Iterator[Origin]:
    for at in range(0, len(raw) - ORIGIN_BYTES + 1, ORIGIN_BYTES):
        backend, service = raw[at : at + END_BYTES], raw[at + END_BYTES : at + ORIGIN_BYTES]
        if any(backend):
            yield Origin(unpack_end(backend), unpack_end(service))


def is_shape_of(shapes: Iterable[MapShape]) -> bool:
    """Return whether these maps are those of this release."""
    return sorted(shape.name for shape in SHAPES) == sorted(shape.name for shape in shapes) and {*shapes} == {
        *SHAPES
    }
