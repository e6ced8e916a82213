"""Read our objects in the kernel: dumps into a KernelState, and which notifications need another look.

Ours is a device with our alias, of a kind that we create, and everything on it; also a device that was ours at the
last look, by its index, in case another program removed the alias. Entries that the kernel creates by itself do not
count (a bridge's own MACs, MACs learnt from containers, neighbours that are not permanent).
"""

from __future__ import annotations

import enum
import errno
import socket
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_interface
from types import MappingProxyType
from typing import Final, NamedTuple, TypeAlias

from netagent.datapath.netlink.link import (
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_NEWADDR,
    RTM_NEWLINK,
    LinkMessage,
    ReadLink,
    address_dump,
    decode_address,
    decode_bridge_port,
    decode_link,
    link_at,
    link_dump,
    read_link,
)
from netagent.datapath.netlink.neighbour import (
    AF_BRIDGE,
    NATIVE,
    NTF_SELF,
    NUD_NOARP,
    NUD_PERMANENT,
    RTM_DELNEIGH,
    RTM_GETNEIGH,
    RTM_NEWNEIGH,
    NeighbourMessage,
    decode,
    encode,
    head_of,
)
from netagent.datapath.netlink.route import (
    RTM_DELROUTE,
    RTM_GETROUTE,
    RTM_NEWROUTE,
    Route,
    decode_main,
    request_body_at,
    request_body_of_subnets,
)
from netagent.datapath.netlink.route_socket import Netlink, NetlinkMessage, NetlinkRequest
from netagent.datapath.reconcile.entry_kinds import ENTRY_KINDS
from netagent.datapath.state import (
    TABLES,
    ZERO_MAC,
    AddressKey,
    Device,
    EntryKey,
    KernelState,
    LinkKind,
    Table,
    assigned,
    is_ours,
)
from netgossip.slice_runner import in_slices
from netgossip.slices import Slices

_NOTHING: Final = KernelState()
_KINDS = {kind.value: kind for kind in LinkKind}
_NONE_READ: Final[Mapping[int, ReadLink]] = MappingProxyType({})
_ENTRIES_PER_SLICE: Final = 256
_LINKS_PER_SLICE: Final = 16
_FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """The kernel's state at one moment."""

    state: KernelState = field(default_factory=KernelState)
    names: Mapping[int, str] = field(default_factory=dict)
    """Index -> name, of our devices only."""
    foreign_names: frozenset[str] = frozenset()
    """Names of devices that are not ours."""
    foreign_tunnels: Mapping[int, str] = field(default_factory=dict)
    """VNI -> name of a VXLAN device that is not ours."""
    links: Mapping[int, ReadLink] = field(default_factory=dict)
    """Our veths as they were last decoded, by index, for the next look."""


class NeighbourEntry(NamedTuple):
    """One neighbour or FDB entry on a device of ours."""

    key: EntryKey
    value: str
    """Empty for a flood entry, which consists of its key."""


class Extent(enum.Enum):
    """How much of the kernel to read again."""

    DEVICES = enum.auto()
    """Links, their addresses, and the routes to these."""
    ALL = enum.auto()


@dataclass(frozen=True, slots=True)
class LinkNews:
    """One veth of ours, by its index: it can be read alone, because nothing else depends on it."""

    index: int


News: TypeAlias = EntryKey | Extent | LinkNews


async def observe(
    netlink: Netlink,
    known: Collection[int] = (),
    believed: KernelState = _NOTHING,
    links: Mapping[int, ReadLink] = _NONE_READ,
) -> Observation:
    """Read links, addresses, routes to these, neighbours and FDB. `known`: indexes of devices that were ours. OSError
    as Netlink.dump.

    `believed`: the expected contents. A table that matches is returned as the very same object: it need not be
    compared, and no second one is built, which could only be freed in one go. `links`: what an earlier look decoded.
    """
    seen = await observe_devices(netlink, known, links)
    if not seen.names:
        return seen
    messages: list[NetlinkMessage] = []
    for family in (0, AF_BRIDGE):
        request = NetlinkRequest(RTM_GETNEIGH, 0, encode(NeighbourMessage(family, 0, 0, 0, None, None, None)))
        messages += await netlink.dump(request)
    return replace(seen, state=await in_slices(read_entries(messages, believed, seen)))


async def observe_veths(netlink: Netlink, seen: Observation, indexes: Collection[int]) -> Observation | None:
    """Return `seen` with these veths read again. None: one of them is no longer a veth of ours, so everything must be
    read. OSError."""
    names = dict(seen.names)
    gone: set[str] = set()
    links: list[LinkMessage] = []
    for index in indexes:
        message = await netlink.find(link_at(index))
        known = names.pop(index, None)
        if known is not None:
            gone.add(known)
        if message is None:
            continue
        link = decode_link(message.body)
        if link.kind != LinkKind.VETH.value or not (is_ours(link.alias) or known is not None):
            return None
        links.append(link)
        names[index] = link.name
    if len(set(names.values())) < len(names):
        return None  # a veth has another's name, so that one must have been renamed as well
    changed: dict[str, Device | None] = dict.fromkeys(gone)
    for link in links:
        device = device_of_link(link, names)
        before = seen.state.devices.get(link.name)
        changed[link.name] = (
            before if before == device else device
        )  # equal devices are recognised by being the same object
    devices = assigned(seen.state.devices, changed)
    there = {link.name for link in links}
    return replace(
        seen,
        state=replace(seen.state, devices=devices),
        names=names,
        foreign_names=seen.foreign_names - there,
    )


async def observe_devices(
    netlink: Netlink, known: Collection[int] = (), links: Mapping[int, ReadLink] = _NONE_READ
) -> Observation:
    """Read devices only, without neighbours and FDB."""
    read = await in_slices(_read_links(await netlink.dump(link_dump()), links))
    ours = [
        one.link
        for one in read
        if one.link.kind in _KINDS and (is_ours(one.link.alias) or one.link.index in known)
    ]
    names = {link.index: link.name for link in ours}
    foreign = [one.link for one in read if one.link.index not in names]
    addresses = [decode_address(message.body) for message in await netlink.dump(address_dump())]
    on_ours = {(index, cidr) for index, cidr in addresses if index in names}
    up = {link.index for link in ours if link.up}
    unrouted = await _unrouted(netlink, {(index, cidr) for index, cidr in on_ours if index in up})
    return Observation(
        state=KernelState(
            devices={link.name: device_of_link(link, names) for link in ours},
            addresses=frozenset((names[index], cidr) for index, cidr in on_ours),
            unrouted=frozenset((names[index], cidr) for index, cidr in unrouted),
        ),
        names=names,
        foreign_names=frozenset(link.name for link in foreign),
        foreign_tunnels={link.tunnel.vni: link.name for link in foreign if link.tunnel is not None},
        links={
            one.link.index: one
            for one in read
            if one.link.index in names and one.link.kind == LinkKind.VETH.value
        },
    )


def _read_links(messages: list[NetlinkMessage], before: Mapping[int, ReadLink]) -> Slices[list[ReadLink]]:
    read: list[ReadLink] = []
    for number, message in enumerate(messages):
        known = before.get(int.from_bytes(message.body[4:8], NATIVE))
        is_still = known is not None and known.is_still(message.body)
        read.append(known if known is not None and is_still else read_link(message.body))
        if number % _LINKS_PER_SLICE == 0:
            yield
    return read


async def _unrouted(netlink: Netlink, addresses: set[tuple[int, str]]) -> set[tuple[int, str]]:
    """Return the (index, "address/prefix length") to whose subnet no route leads by their device."""
    missing = {
        one: Route(subnet, one[0])
        for one in addresses
        if (subnet := ip_interface(one[1]).network).num_addresses > 1
    }
    # First all routes that the kernel created, in one go; the rest may have been created again by another program.
    versions = {route.destination.version for route in missing.values()}
    bodies = [request_body_of_subnets(_FAMILIES[version]) for version in sorted(versions)]
    missing = await _without_routes(netlink, bodies, missing)
    bodies = [
        request_body_at(_FAMILIES[route.destination.version], route.ifindex) for route in missing.values()
    ]
    return set(await _without_routes(netlink, bodies, missing))


async def _without_routes(
    netlink: Netlink, bodies: Sequence[bytes], wanted: Mapping[tuple[int, str], Route]
) -> dict[tuple[int, str], Route]:
    found: set[Route | None] = set()
    for body in bodies:
        try:
            messages = await netlink.dump(NetlinkRequest(RTM_GETROUTE, 0, body), strict=True)
        except OSError as error:
            if error.errno != errno.ENODEV:  # otherwise gone since the links were read, with its routes
                raise
            continue
        found |= {decode_main(message.body) for message in messages}
    return {one: route for one, route in wanted.items() if route not in found}


async def observe_entries(
    netlink: Netlink, seen: Observation, keys: Collection[EntryKey]
) -> dict[EntryKey, str | None]:
    """Read the entry at each key, on the devices as they were seen; not for floods. OSError."""
    indexes = {name: index for index, name in seen.names.items()}
    found: dict[EntryKey, str | None] = {}
    for key in keys:
        table, (device, what) = key
        index, question = indexes.get(device), ENTRY_KINDS[table].question
        found[key] = None
        if index is None or question is None:
            continue
        message = await netlink.find(NetlinkRequest(RTM_GETNEIGH, 0, encode(question(index, what))))
        entry = (
            entry_of(decode(message.body), seen.names, seen.state.devices) if message is not None else None
        )
        if entry is not None and entry.key == key:
            found[key] = entry.value
    return found


def read_entries(
    messages: list[NetlinkMessage], believed: KernelState, seen: Observation
) -> Slices[KernelState]:
    """Return the devices in `seen` with the entries in the messages. Empties the list as it goes: freeing tens of
    thousands at once takes long."""
    unseen: dict[Table, set[tuple[str, str]]] = {table: set() for table in TABLES}
    for table, places in unseen.items():
        for number, place in enumerate(believed.table(table), 1):
            places.add(place)
            if number % _ENTRIES_PER_SLICE == 0:
                yield
    state = seen.state.with_tables_of(believed)
    changes: dict[EntryKey, str | None] = {}
    messages.reverse()
    while messages:
        body = messages.pop().body
        entry = entry_of(decode(body), seen.names, state.devices) if may_be_entry(body, state, seen) else None
        if entry is not None:
            unseen[entry.key[0]].discard(entry.key[1])
            if entry.key in changes or state.entry(entry.key) != entry.value:
                changes[entry.key] = entry.value
        if len(changes) >= _ENTRIES_PER_SLICE:
            state, changes = state.with_entries(changes), {}
        yield
    state, changes = state.with_entries(changes), {}
    for key in ((table, place) for table, places in unseen.items() for place in places):
        changes[key] = None
        if len(changes) >= _ENTRIES_PER_SLICE:
            state, changes = state.with_entries(changes), {}
            yield
    return state.with_entries(changes)


def may_be_entry(body: bytes, state: KernelState, seen: Observation) -> bool:
    """Return whether a message may show an entry of ours, judging by its head. The kernel has some of its own for
    each veth, more than ours."""
    family, index, nud, flags = head_of(body)
    if family != AF_BRIDGE:
        return bool(nud & NUD_PERMANENT) and index in seen.names
    if flags & NTF_SELF:
        device = state.devices.get(seen.names.get(index, ""))
        return device is not None and device.kind is LinkKind.VXLAN
    return nud & (NUD_NOARP | NUD_PERMANENT) == NUD_NOARP and index in seen.names


def device_of_link(link: LinkMessage, names: Mapping[int, str]) -> Device:
    """Return a link of ours as a Device; its master is named only if that is ours too, otherwise as `if<index>`."""
    kind = _KINDS[link.kind]
    return Device(
        name=link.name,
        kind=kind,
        alias=link.alias,
        mtu_bytes=link.mtu_bytes,
        mac=None if kind is LinkKind.VETH else link.mac,
        master=names.get(link.master, f"if{link.master}") if link.master is not None else None,
        port=link.port,
        tunnel=link.tunnel,
        forwarding=link.forwarding,
        mcast_snooping=link.mcast_snooping,
        stp=link.stp,
        noarp=link.noarp,
        up=link.up,
    )


def entry_of(
    message: NeighbourMessage,
    names: Mapping[int, str],
    devices: Mapping[str, Device],
    *,
    deleted: bool = False,
) -> NeighbourEntry | None:
    """Return the entry in a message, or None if it is not ours. For a deleted entry only table and key are right."""
    name = names.get(message.ifindex)
    if name is None:
        return None
    device = devices.get(name)
    if message.family != AF_BRIDGE:
        if message.address is None or not (deleted or message.state & NUD_PERMANENT):
            return None
        return NeighbourEntry(("neighbour", (name, message.address)), message.mac or "")
    if message.mac is None:
        return None
    if message.flags & NTF_SELF:
        if device is None or device.kind is not LinkKind.VXLAN:
            return None
        if message.mac == ZERO_MAC:
            return NeighbourEntry(("flood", (name, message.address or "")), "")
        return NeighbourEntry(("self", (name, message.mac)), message.address or "")
    bridge = names.get(message.master) if message.master is not None else None
    if bridge is None or message.state & NUD_PERMANENT or not (deleted or message.state & NUD_NOARP):
        return None
    return NeighbourEntry(("master", (bridge, message.mac)), name)


def devices_of(seen: Observation) -> dict[int, str]:
    """Return index -> name of our devices."""
    return {index: name for index, name in seen.names.items() if name in seen.state.devices}


def ports_of(seen: Observation) -> dict[int, str]:
    """Return index -> name of our devices that are in a bridge."""
    devices = seen.state.devices
    return {index: name for index, name in seen.names.items() if name in devices and devices[name].master}


def news_of(message: NetlinkMessage, names: Mapping[int, str], belief: KernelState) -> News | None:
    """Return what to read again; None for a notification that confirms the belief, or does not concern us.

    Most notifications are echoes of our own writes; without this check every write would cost a look.
    """
    if message.type in {RTM_NEWNEIGH, RTM_DELNEIGH}:
        return _entry_news(message, names, belief)
    if message.type in {RTM_NEWLINK, RTM_DELLINK}:
        return _link_news(message, names, belief) if _is_link_news(message, names, belief) else None
    if message.type in {RTM_NEWADDR, RTM_DELADDR}:
        index, cidr = decode_address(message.body)
        known = (names.get(index), cidr) in belief.addresses
        return Extent.DEVICES if index in names and known is not (message.type == RTM_NEWADDR) else None
    if message.type in {RTM_NEWROUTE, RTM_DELROUTE}:
        return Extent.DEVICES if _is_route_news(message, names, belief) else None
    return None


def _is_route_news(message: NetlinkMessage, names: Mapping[int, str], belief: KernelState) -> bool:
    """True if our route to a subnet is gone, or another one has come or gone, which may have replaced ours."""
    route = decode_main(message.body)
    if route is None:
        return False
    devices = _devices_by_subnet(belief.addresses).get(route.destination, ())
    return bool(devices) and (message.type == RTM_DELROUTE or names.get(route.ifindex) not in devices)


@lru_cache(maxsize=4)
def _devices_by_subnet(
    addresses: frozenset[AddressKey],
) -> dict[IPv4Network | IPv6Network, set[str]]:
    """Map subnets to our devices. Cached, because it rarely changes between notifications, and on some hosts routes
    come and go by the thousand."""
    found: dict[IPv4Network | IPv6Network, set[str]] = {}
    for device, cidr in addresses:
        found.setdefault(ip_interface(cidr).network, set()).add(device)
    return found


def _entry_news(message: NetlinkMessage, names: Mapping[int, str], belief: KernelState) -> News | None:
    decoded = decode(message.body)
    place = entry_of(decoded, names, belief.devices, deleted=True)
    if place is None:
        return None
    is_there = message.type == RTM_NEWNEIGH and entry_of(decoded, names, belief.devices) is not None
    if belief.entry(place.key) == (place.value if is_there else None):
        return None
    # Of the many entries of the zero MAC the kernel returns only one, so all must be read.
    return Extent.ALL if place.key[0] == "flood" else place.key


def _link_news(message: NetlinkMessage, names: Mapping[int, str], belief: KernelState) -> News:
    index = int.from_bytes(message.body[4:8], NATIVE)
    known = belief.devices.get(names.get(index, ""))
    if known is not None:
        return LinkNews(index) if known.kind is LinkKind.VETH else Extent.DEVICES
    if message.body[0] == AF_BRIDGE:
        return Extent.DEVICES
    link = decode_link(message.body)
    is_new_veth = link.kind == LinkKind.VETH.value and is_ours(link.alias) and link.name not in belief.devices
    return LinkNews(index) if is_new_veth else Extent.DEVICES


def _is_port_as_believed(message: NetlinkMessage, known: Device | None, names: Mapping[int, str]) -> bool:
    """True if nothing changed: a bridge reports a port more often than that, also 15 s after it was added."""
    if known is None or message.type == RTM_DELLINK:
        return False
    bridge, flags, is_open = decode_bridge_port(message.body)
    return is_open and known.forwarding and (names.get(bridge or 0), flags) == (known.master, known.port)


def _is_link_news(message: NetlinkMessage, names: Mapping[int, str], belief: KernelState) -> bool:
    if message.body[0] == AF_BRIDGE:
        name = names.get(int.from_bytes(message.body[4:8], NATIVE))
        return name is not None and not _is_port_as_believed(message, belief.devices.get(name), names)
    link = decode_link(message.body)
    if message.type == RTM_DELLINK:
        return link.name in belief.devices
    if not is_ours(link.alias) or link.kind not in _KINDS:
        return link.index in names or link.name in belief.devices
    if names.get(link.index) != link.name:
        return True
    return belief.devices.get(link.name) != device_of_link(link, names)
