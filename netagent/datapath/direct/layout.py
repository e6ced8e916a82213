"""What a TCP segment looks like in the tunnel without VXLAN, and the tables of the programs that make it so. Pure.

The tunnel carries it as TCP over IPv6, whose addresses hold what VXLAN's headers would say:

    octet    source                                    destination
    0        0xfd: an IPv4 packet; 0xfc: an IPv6 one   the same
    1 to 4   the host's number in the tunnel (28 bits), then
    4 to 5   the upper half of the VNI (12 bits)       the lower half
    6 to 11  the MAC of the sender                     of the receiver
    12 to 15 the IPv4 address, or the last 32 bits of the IPv6 address of either

All IPv6 addresses of a network begin with the same 96 bits, which both hosts know. The first 36 bits are what
WireGuard allows a peer as its own (netagent.model.address.tunnel), so a host can't send in another's name.

The tables:

    NEAR    device of a network  ->  its VNI, how this host's addresses begin, the tunnel's device, the 96 bits
    FAR     VNI, MAC             ->  how the addresses of the host where it is begin, as destination and as source;
                                     whether it takes segments without VXLAN
    INWARD  VNI                  ->  device of the network, the 96 bits

Numbers are in the byte order of the machine, but for what is copied into packets.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from netagent.datapath.bpf.maps import MapKind, MapShape

IPV4_FIRST, IPV6_FIRST = 0xFD, 0xFC
HEAD_BYTES: Final = 6
"""Of an address, before the MAC."""
COMMON_BYTES: Final = 12
"""The 96 bits."""
MOST_NETWORKS: Final = 4096
"""Bound of networks whose segments go without VXLAN; beyond it: others send this host none."""
MOST_MACS: Final = 65_536
"""Bound of other hosts' containers to which segments go without VXLAN; beyond it: others send this host none."""

_NEAR: Final = struct.Struct("=I6s2xI12s")
NEAR_VNI, NEAR_HEAD, NEAR_TUNNEL, NEAR_COMMON = 0, 4, 12, 16
_FAR_KEY: Final = struct.Struct("=I6s2x")
_FAR: Final = struct.Struct("=6s6sI")
FAR_TO, FAR_FROM, FAR_TAKES = 0, 6, 12
_INWARD: Final = struct.Struct("=I12s")
INWARD_DEVICE, INWARD_COMMON = 0, 4
_NUMBER: Final = struct.Struct("=I")

NEAR: Final = MapShape("netagent_dnear", MapKind.HASH, _NUMBER.size, _NEAR.size, MOST_NETWORKS)
FAR: Final = MapShape("netagent_dfar", MapKind.HASH, _FAR_KEY.size, _FAR.size, MOST_MACS)
INWARD: Final = MapShape("netagent_dback", MapKind.HASH, _NUMBER.size, _INWARD.size, MOST_NETWORKS)
SHAPES: Final = (NEAR, FAR, INWARD)


@dataclass(frozen=True, slots=True)
class DirectNetwork:
    """A network whose segments go without VXLAN."""

    vni: int
    common: bytes
    """The first 96 bits of its IPv6 addresses; of a network without IPv6, zeros."""
    fits: bool = True
    """Whether this host's tunnel carries its packets whole. If not, this host sends none without VXLAN, and takes
    those of hosts whose tunnel does."""


@dataclass(frozen=True, slots=True)
class DirectHost:
    """Another host."""

    number: int
    """In the tunnel."""
    takes: bool
    """Whether it takes segments without VXLAN. It may send some before this host knows that it takes them."""


@dataclass(frozen=True, slots=True)
class DirectInput:
    """What follows from the records."""

    number: int
    """This host's in the tunnel."""
    tunnel: str
    """The tunnel's device."""
    networks: Mapping[str, DirectNetwork]
    """By VXLAN device."""
    hosts: Mapping[str, DirectHost]
    """By address in the tunnel."""


def source_head(number: int, vni: int) -> bytes:
    """Return how the source address of an IPv4 packet begins."""
    return _head(number, vni >> 12)


def destination_head(number: int, vni: int) -> bytes:
    """Return how the destination address of an IPv4 packet begins."""
    return _head(number, vni & 0xFFF)


def _head(number: int, half: int) -> bytes:
    return bytes([IPV4_FIRST]) + (number << 12 | half).to_bytes(5, "big")


def pack_number(number: int) -> bytes:
    """Return the key of a device or a VNI."""
    return _NUMBER.pack(number)


def pack_near(vni: int, number: int, tunnel: int, common: bytes) -> bytes:
    """Return an element of NEAR. `number`: this host's; `tunnel`: the index of the tunnel's device."""
    return _NEAR.pack(vni, source_head(number, vni), tunnel, common)


def pack_far_key(vni: int, mac: str) -> bytes:
    """Return a key of FAR."""
    return _FAR_KEY.pack(vni, bytes.fromhex(mac.replace(":", "")))


def pack_far(vni: int, host: DirectHost) -> bytes:
    """Return an element of FAR. `host`: where the MAC is."""
    return _FAR.pack(destination_head(host.number, vni), source_head(host.number, vni), host.takes)


def pack_inward(device: int, common: bytes) -> bytes:
    """Return an element of INWARD."""
    return _INWARD.pack(device, common)
