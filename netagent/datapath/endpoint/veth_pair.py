"""An endpoint's veth pair: find its ends by name, alias and peer index; set up the host's end."""

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
"""Per bridge (BR_PORT_BITS of net/bridge/br_private.h). One of them is the network's VXLAN device."""


def netns_path(endpoint: LocalEndpoint) -> str:
    """Return the path of the endpoint's namespace, for messages."""
    return "" if endpoint.netns is None else endpoint.netns.path


async def bridge_of(endpoint: LocalEndpoint, netlink: Netlink) -> LinkMessage:
    """Return the bridge for the host's end. FailedError `network-not-programmed`."""
    name = bridge_name(endpoint.vni)
    bridge = await link_called(netlink, name)
    if bridge is None:
        raise FailedError(
            f"the network's bridge {name} does not exist",
            code="network-not-programmed",
            thing=endpoint.network_id,
            hint="`netagent status` says why the datapath could not create it",
        )
    return bridge


async def turn_ipv6_off(settings: Settings | None, name: str) -> None:
    """Turn IPv6 off on the host's end, before it is up. In a thread: the kernel waits for other changes of the
    host's network."""
    if settings is not None:
        await trio.to_thread.run_sync(settings.turn_ipv6_off, name)


def host_side(name: str, mtu_bytes: int, bridge_index: int) -> list[NetlinkRequest]:
    """Put the host's end into the bridge; repeating it is harmless."""
    return [
        set_link(name, mtu_bytes=mtu_bytes, master=bridge_index),
        set_port(name, CONTAINER_PORT),
        set_link(name, up=True),
    ]


def endpoint_on(link: LinkMessage) -> EndpointId | None:
    """Return the endpoint that the interface belongs to, by its alias."""
    endpoint_id = endpoint_of(link.alias) if link.kind == LinkKind.VETH.value else None
    return None if endpoint_id is None else EndpointId(endpoint_id)


async def peer_of(link: LinkMessage, inside: Netlink) -> LinkMessage | None:
    """Return the other end of a pair, if it is in the namespace of `inside`: each names the other's index."""
    found = None if link.peer is None else await inside.find(link_at(link.peer))
    peer = None if found is None else decode_link(found.body)
    return peer if peer is not None and (peer.kind, peer.peer) == (link.kind, link.index) else None


async def link_called(netlink: Netlink, name: str) -> LinkMessage | None:
    """Find one link by name, at a cost independent of the number of links."""
    found = await netlink.find(link_named(name))
    link = None if found is None else decode_link(found.body)
    return link if link is not None and link.name == name else None


async def free_index(netlink: Netlink) -> int:
    """Return an index for a new link that no link of the namespace has. The undo of a creation removes by index, and
    must not remove another link."""
    index = choose_index()
    while await netlink.find(link_at(index)) is not None:
        index = choose_index()
    return index


async def all_links(netlink: Netlink) -> list[LinkMessage]:
    """Read all links of a namespace."""
    return [decode_link(message.body) for message in await netlink.dump(link_dump())]


def raise_if_full(endpoint: LocalEndpoint, refused: Iterable[OSError | None]) -> None:
    """Raise RefusedError `bridge-full` if the kernel refused the host's end because the bridge has no free port."""
    # EXFULL: the kernel's br_add_if finds none of its 1,024 port numbers free, the first of which is never used.
    if any(error is not None and error.errno == errno.EXFULL for error in refused):
        raise RefusedError(
            f"the bridge of network {endpoint.network_id[:12]} has {MAX_PORTS:,} ports on this host, "
            "the most that the kernel allows",
            code="bridge-full",
            thing=endpoint.network_id,
            hint="detach another container of this network on this host, or attach this one on another host",
        )
