"""An endpoint's veth pair: its ends found again by name, alias and each other; the host's end set up."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import Final

import trio

from netagent.datapath.host.sysctls import Settings
from netagent.datapath.netlink.link import (
    LinkMessage,
    choose_index,
    decode_link,
    link_at,
    link_dump,
    link_named,
    set_link,
    set_port,
)
from netagent.datapath.netlink.route_socket import Netlink, NetlinkRequest
from netagent.datapath.reconcile.desired import LocalEndpoint
from netagent.datapath.state import CONTAINER_PORT, LinkKind, endpoint_of
from netagent.errors import FailedError, RefusedError
from netagent.model.ids import EndpointId, bridge_name

MAX_PORTS: Final = 1023
"""Of a bridge (BR_PORT_BITS of net/bridge/br_private.h). One of them is the network's VXLAN device."""


async def bridge_of(endpoint: LocalEndpoint, netlink: Netlink, vni: int) -> LinkMessage:
    """What the host's end goes into. FailedError `network-not-programmed`."""
    bridge = await link_called(netlink, bridge_name(vni))
    if bridge is None:
        raise FailedError(
            f"the network's bridge {bridge_name(vni)} does not exist",
            code="network-not-programmed",
            thing=endpoint.network_id,
            hint="`netagent status` says why the datapath could not make it",
        )
    return bridge


async def turn_ipv6_off(settings: Settings | None, name: str) -> None:
    """On the host's end, before it is up. In a thread: the kernel waits for whoever else changes its network."""
    if settings is not None:
        await trio.to_thread.run_sync(settings.turn_ipv6_off, name)


def host_side(name: str, mtu_bytes: int, bridge_index: int) -> list[NetlinkRequest]:
    """Put the host's end into the bridge, each step harmless when done again."""
    return [
        set_link(name, mtu_bytes=mtu_bytes, master=bridge_index),
        set_port(name, CONTAINER_PORT),
        set_link(name, up=True),
    ]


def endpoint_on(link: LinkMessage) -> EndpointId | None:
    """Whose interface it is, by its alias."""
    endpoint_id = endpoint_of(link.alias) if link.kind == LinkKind.VETH.value else None
    return None if endpoint_id is None else EndpointId(endpoint_id)


async def peer_of(link: LinkMessage, inside: Netlink) -> LinkMessage | None:
    """The other end of a pair, if that is in the namespace of `inside`: each names the other's index."""
    found = None if link.peer is None else await inside.find(link_at(link.peer))
    peer = None if found is None else decode_link(found.body)
    return peer if peer is not None and (peer.kind, peer.peer) == (link.kind, link.index) else None


async def link_called(netlink: Netlink, name: str) -> LinkMessage | None:
    """One link, however many there are."""
    found = await netlink.find(link_named(name))
    link = None if found is None else decode_link(found.body)
    return link if link is not None and link.name == name else None


async def free_index(netlink: Netlink) -> int:
    """An index for a link to be made that no link of the namespace has. What undoes the making goes by it, and must
    not remove another's link."""
    index = choose_index()
    while await netlink.find(link_at(index)) is not None:
        index = choose_index()
    return index


async def all_links(netlink: Netlink) -> list[LinkMessage]:
    """Of a namespace."""
    return [decode_link(message.body) for message in await netlink.dump(link_dump())]


def raise_if_full(endpoint: LocalEndpoint, refused: Iterable[OSError | None]) -> None:
    """RefusedError `bridge-full` if the kernel refused the host's end for want of a number for the bridge's port."""
    # EXFULL: br_add_if of the kernel finds none of its 1,024 numbers free, of which none is the first.
    if any(error is not None and error.errno == errno.EXFULL for error in refused):
        raise RefusedError(
            f"the bridge of network {endpoint.network_id[:12]} has {MAX_PORTS:,} ports on this host, "
            "and the kernel gives a bridge no more",
            code="bridge-full",
            thing=endpoint.network_id,
            hint="detach another container of this network here, or attach this one on another host",
        )
