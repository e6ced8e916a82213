"""The tables that the programs at the ports and the agent share, as bytes. Pure.

    number, protocol, destination  ->  openings counted, refused ones, when the first and the last one was
    place                          ->  its number, how many flows it has, how many openings found no room: its share
    device                         ->  slots, each with the ends of a recent datagram flow and when it was used last

A *place* is where openings come from: the host's end of a container's veth (its *port*), or a bridge, by which the
host opens to containers, and by which outsiders do through published ports; each has a share of its own. It is the
device's index, with a bit that says which (Opener). Its *number* is one that the agent gives it, of 16 bits: the
program that counts writes it beside the packet (tc_index), so that the one that sees the packet refused knows from
where it came. No two places that have flows have one number. So a container can neither count in another's name nor
fill another's share.

Numbers are in the byte order of the machine, addresses and ports as packets have them, an IPv4 address as
::ffff:a.b.c.d. A change of a layout takes new names of maps: an agent adopts the maps of another release by name and
size.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from netagent.datapath.bpf.maps import MapKind, MapShape

MOST_FLOWS_OF_PORT: Final = 256
"""Bound of flows counted for one container's interface; beyond it: openings of further ones are counted together as
left out, until one has not been used for an hour."""
MOST_FLOWS_OF_BRIDGE: Final = 1024
"""Bound of flows counted from the host, and of those from all outsiders, to the containers of one network; beyond it:
as for one container's interface. Outsiders are not told apart, so only the number of published ports matters."""
MOST_FLOWS: Final = 65_536
"""Bound of flows counted on a host; beyond it: as for one interface."""
MOST_NUMBER: Final = 0xFFFF
MOST_PORTS: Final = 16_384
"""Bound of containers' interfaces whose flows are counted, a bridge takes the room of two; beyond it: those that come
later are not counted, and `port_troubles` says so."""
SLOTS: Final = 512
"""Bound of recent datagram flows remembered for one interface, each in the one place that its ends choose; beyond it:
a flow replaces another, whose next datagram counts as an opening once more."""
SLOT_BYTES: Final = 8

KEY: Final = struct.Struct("=IHBx16s")
VALUE: Final = struct.Struct("=QQQQ")
OPENINGS_AT, REFUSED_AT, FIRST_AT, LAST_AT = 0, 8, 16, 24
_SHARE: Final = struct.Struct("=QQQ")
FLOWS_AT, LEFT_OUT_AT, NUMBER_AT = 0, 8, 16
TAG_AT, TIME_AT = 0, 4
"""In a slot."""

FLOWS: Final = MapShape("netagent_flows", MapKind.HASH, KEY.size, VALUE.size, MOST_FLOWS)
SHARES: Final = MapShape("netagent_fshare", MapKind.HASH, 4, _SHARE.size, MOST_PORTS)
RECENT: Final = MapShape("netagent_recent", MapKind.HASH, 4, SLOTS * SLOT_BYTES, MOST_PORTS)
SHAPES: Final = (FLOWS, SHARES, RECENT)

MAPPED: Final = bytes(10) + b"\xff\xff"
"""What stands before an IPv4 address."""


class Opener(IntEnum):
    """Who opens what is counted at a device. The kernel gives no device an index that has one of these bits."""

    CONTAINER = 0
    HOST = 1 << 29
    OUTSIDE = 1 << 30
    """By a published port."""


@dataclass(frozen=True, slots=True)
class FlowKey:
    """Who opened what."""

    source: int
    """Number of the place that it came from."""
    protocol: int
    """As in the IP header."""
    address: bytes
    """Of the destination: 4 or 16 octets."""
    port: int | None
    """The destination's; None for protocols without ports."""


@dataclass(frozen=True, slots=True)
class FlowCount:
    """What was counted of one flow; times by the kernel's monotonic clock."""

    openings: int
    refused: int
    first_ns: int
    last_ns: int


@dataclass(frozen=True, slots=True)
class Share:
    """How much of its share a place uses."""

    number: int
    flows: int
    left_out: int
    """Openings that were not counted with a flow of their own."""


_WITHOUT_PORTS: Final = frozenset({1, 58})
NO_RECENT: Final = bytes(RECENT.value_bytes)


def network_order(number: int) -> int:
    """Return what this machine reads where a packet has a number of 16 bits, and back."""
    return int.from_bytes(number.to_bytes(2, "big"), sys.byteorder)


def pack_port(index: int, opener: Opener = Opener.CONTAINER) -> bytes:
    """Return the key of a place's share, or of a device's slots."""
    return struct.pack("=I", index | opener)


def port_of(key: bytes) -> int:
    """Return the place that a share is of, or the number that a flow is of."""
    place: int = struct.unpack_from("=I", key)[0]
    return place


def split_place(place: int) -> tuple[int, Opener]:
    """Return the device of a place, and who opens there."""
    opener = next((one for one in (Opener.OUTSIDE, Opener.HOST) if place & one), Opener.CONTAINER)
    return place & ~opener, opener


def pack_share(share: Share) -> bytes:
    """Return the element of a share."""
    return _SHARE.pack(share.flows, share.left_out, share.number)


def unpack_share(value: bytes) -> Share:
    """Return the share that an element says."""
    flows, left_out, number = _SHARE.unpack(value)
    return Share(number, flows, left_out)


def last_ns(value: bytes) -> int:
    """Return when the last opening of a flow was, by its element."""
    moment: int = VALUE.unpack(value)[3]
    return moment


def unpack_flow(key: bytes, value: bytes) -> tuple[FlowKey, FlowCount]:
    """Return what a flow's element says."""
    index, number, protocol, address = KEY.unpack(key)
    whole = address[len(MAPPED) :] if address.startswith(MAPPED) else address
    port = None if protocol in _WITHOUT_PORTS else network_order(number)
    return FlowKey(index, protocol, whole, port), FlowCount(*VALUE.unpack(value))


def is_shape_of(shapes: Iterable[MapShape]) -> bool:
    """Return whether these maps are those of this release."""
    return {*shapes} == {*SHAPES}
