"""What of ours is in the kernel: dumps into a KernelState, and which notifications are news.

Ours is a device whose alias says so, of a kind that we make, and whatever sits on it; also one that was ours at the
last look, by its index, should somebody have taken the alias away. Not counted as ours: entries
that the kernel makes by itself (a bridge's own MACs, MACs learnt from containers, neighbours that are not permanent).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from netagent.datapath.link import (
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_NEWADDR,
    RTM_NEWLINK,
    LinkMessage,
    address_dump,
    decode_address,
    decode_link,
    link_dump,
)
from netagent.datapath.neighbour import (
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
)
from netagent.datapath.netlink import Message, Netlink, Request
from netagent.datapath.state import ZERO_MAC, Device, KernelState, Kind, is_ours

_KINDS = {kind.value: kind for kind in Kind}


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """The kernel at one moment."""

    state: KernelState = field(default_factory=KernelState)
    names: Mapping[int, str] = field(default_factory=dict)
    """Index -> name, of our devices only."""
    strangers: frozenset[str] = frozenset()
    """Names of devices that are not ours."""
    foreign_tunnels: Mapping[int, str] = field(default_factory=dict)
    """VNI -> name of a VXLAN device that is not ours."""


class Entry(NamedTuple):
    """One neighbour or FDB entry on a device of ours."""

    table: Literal["neighbour", "master", "self", "flood"]
    key: tuple[str, str]
    value: str
    """Empty for a flood, which is all key."""


async def observe(netlink: Netlink, known: Collection[int] = ()) -> Observation:
    """Read links, addresses, neighbours and FDB. `known`: indexes of what was ours. OSError as Netlink.dump."""
    links = [decode_link(message.body) for message in await netlink.dump(link_dump())]
    ours = [link for link in links if link.kind in _KINDS and (is_ours(link.alias) or link.index in known)]
    names = {link.index: link.name for link in ours}
    devices = {link.name: device_of_link(link, names) for link in ours}
    foreign = [link for link in links if link.index not in names]
    tables = await _observe_entries(netlink, names, devices)
    return Observation(
        state=KernelState(
            devices=devices,
            addresses=await _observe_addresses(netlink, names),
            neighbours=tables["neighbour"],
            masters=tables["master"],
            selves=tables["self"],
            floods=frozenset(tables["flood"]),
        ),
        names=names,
        strangers=frozenset(link.name for link in foreign),
        foreign_tunnels={link.tunnel.vni: link.name for link in foreign if link.tunnel is not None},
    )


async def _observe_addresses(netlink: Netlink, names: Mapping[int, str]) -> frozenset[tuple[str, str]]:
    found = [decode_address(message.body) for message in await netlink.dump(address_dump())]
    return frozenset((names[index], cidr) for index, cidr in found if index in names)


async def _observe_entries(
    netlink: Netlink, names: Mapping[int, str], devices: Mapping[str, Device]
) -> dict[str, dict[tuple[str, str], str]]:
    tables: dict[str, dict[tuple[str, str], str]] = {"neighbour": {}, "master": {}, "self": {}, "flood": {}}
    if not names:
        return tables
    for family in (0, AF_BRIDGE):
        request = Request(RTM_GETNEIGH, 0, encode(NeighbourMessage(family, 0, 0, 0, None, None, None)))
        for message in await netlink.dump(request):
            entry = entry_of(decode(message.body), names, devices)
            if entry is not None:
                tables[entry.table][entry.key] = entry.value
    return tables


def device_of_link(link: LinkMessage, names: Mapping[int, str]) -> Device:
    """A link of ours as a Device; its master is named only if that is ours too, otherwise shown as `if<index>`."""
    kind = _KINDS[link.kind]
    return Device(
        name=link.name,
        kind=kind,
        alias=link.alias,
        mtu_bytes=link.mtu_bytes,
        mac=None if kind is Kind.VETH else link.mac,
        master=names.get(link.master, f"if{link.master}") if link.master is not None else None,
        port=link.port,
        tunnel=link.tunnel,
        mcast_snooping=link.mcast_snooping,
        up=link.up,
    )


def entry_of(
    message: NeighbourMessage,
    names: Mapping[int, str],
    devices: Mapping[str, Device],
    *,
    deleted: bool = False,
) -> Entry | None:
    """The entry that a message shows, or None if it is not ours. Of a deleted entry only table and key are right."""
    name = names.get(message.ifindex)
    if name is None:
        return None
    device = devices.get(name)
    if message.family != AF_BRIDGE:
        if message.address is None or not (deleted or message.state & NUD_PERMANENT):
            return None
        return Entry("neighbour", (name, message.address), message.mac or "")
    if message.mac is None:
        return None
    if message.flags & NTF_SELF:
        if device is None or device.kind is not Kind.VXLAN:
            return None
        if message.mac == ZERO_MAC:
            return Entry("flood", (name, message.address or ""), "")
        return Entry("self", (name, message.mac), message.address or "")
    bridge = names.get(message.master) if message.master is not None else None
    if bridge is None or message.state & NUD_PERMANENT or not (deleted or message.state & NUD_NOARP):
        return None
    return Entry("master", (bridge, message.mac), name)


def is_news(message: Message, names: Mapping[int, str], belief: KernelState) -> bool:
    """False for a notification that tells what is believed already, or that is not about us.

    Most notifications are echoes of our own writes; without this every write would cost a dump.
    """
    if message.type in {RTM_NEWNEIGH, RTM_DELNEIGH}:
        deleted = message.type == RTM_DELNEIGH
        entry = entry_of(decode(message.body), names, belief.devices, deleted=deleted)
        if entry is None:
            return False
        if entry.table == "flood":
            return (entry.key in belief.floods) is deleted
        table = {"neighbour": belief.neighbours, "master": belief.masters, "self": belief.selves}[entry.table]
        return table.get(entry.key) != (None if deleted else entry.value)
    if message.type in {RTM_NEWLINK, RTM_DELLINK}:
        return _is_link_news(message, names, belief)
    if message.type in {RTM_NEWADDR, RTM_DELADDR}:
        index, cidr = decode_address(message.body)
        known = (names.get(index), cidr) in belief.addresses
        return index in names and known is not (message.type == RTM_NEWADDR)
    return False


def _is_link_news(message: Message, names: Mapping[int, str], belief: KernelState) -> bool:
    if message.body[0] == AF_BRIDGE:
        # A port's flags or state changed; the message has them in another form, so look.
        return int.from_bytes(message.body[4:8], NATIVE) in names
    link = decode_link(message.body)
    if message.type == RTM_DELLINK:
        return link.name in belief.devices
    if not is_ours(link.alias) or link.kind not in _KINDS:
        return link.index in names or link.name in belief.devices
    if names.get(link.index) != link.name:
        return True
    return belief.devices.get(link.name) != device_of_link(link, names)
