"""Check the container's end of a pair from inside its namespace, and report changes there.

Only our own configuration is checked; anything that a container adds stays. The expected state comes from the very
requests that create it (netagent.datapath.endpoint.veth_binding), so that the two can't differ.

Each sandbox has one notification socket, opened in its namespace: at rest it costs nothing, and only a change leads
to a check, which takes about a millisecond. Settings, for which the kernel sends no notifications, are read in
addition. A namespace lives as long as a socket in it, so the owner of the news closes it when the endpoint goes.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import trio

from netagent.datapath.endpoint.netns import reopened_netns, run_in_netns
from netagent.datapath.host.sysctls import Setting, Settings, WatchedSettings, open_settings
from netagent.datapath.netlink import route
from netagent.datapath.netlink.link import (
    RTM_NEWADDR,
    LinkMessage,
    address_dump,
    decode_address,
    decode_link,
    link_named,
)
from netagent.datapath.netlink.route_socket import Netlink, NetlinkRequest, open_socket
from netagent.datapath.reconcile.drift import Damage, DamageKind
from netagent.model.sandbox import Netns

_MARK = "netagent-inside "
"""Alias prefix of the container's end, before the endpoint's id. It differs from the host side's: a runtime may move
the end back into the host's namespace, where it must not be mistaken for the host's end."""

# Links, addresses and routes of both families: RTMGRP_* of <linux/rtnetlink.h>.
_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
_NEWS_BYTES = 1 << 16
_NEWS_AT_ONCE = 64
_MOST_WATCHED = 32
"""Interfaces per namespace whose settings' files stay open."""


def inside_alias(endpoint_id: str) -> str:
    """Return the alias of the container's end of an endpoint's veth."""
    return _MARK + endpoint_id


@dataclass(frozen=True, slots=True)
class DesiredGuest:
    """The desired state of the container's end."""

    ifname: str
    mac: str
    mtu_bytes: int
    writes: Sequence[NetlinkRequest]
    """The requests that give it its addresses and routes."""
    settings: Sequence[Setting]


@dataclass(frozen=True, slots=True)
class GuestNamespace:
    """Handles for work on a namespace from outside. Close it."""

    netlink: Netlink
    settings: Settings

    def close(self) -> None:
        """Close both handles."""
        self.netlink.close()
        self.settings.close()


async def open_inside(netns_fd: int) -> GuestNamespace:
    """Open the handles. OSError when the namespace can't be entered."""
    sock, settings = await run_in_netns(netns_fd, lambda: _with_settings(open_socket()))
    return GuestNamespace(Netlink(sock), settings)


def _with_settings(sock: socket.socket) -> tuple[socket.socket, Settings]:
    try:
        return sock, open_settings()
    except BaseException:
        sock.close()
        raise


async def damages_inside(inside: GuestNamespace, peer: LinkMessage, wanted: DesiredGuest) -> list[Damage]:
    """Return what was changed at the container's end. OSError as Netlink.dump."""
    found: list[Damage] = []
    if peer.name != wanted.ifname:
        found.append(Damage(DamageKind.DEVICE_RENAMED, f"{wanted.ifname} is now {peer.name}"))
    if peer.mac != wanted.mac:
        found.append(Damage(DamageKind.MAC_CHANGED, wanted.ifname))
    if peer.mtu_bytes != wanted.mtu_bytes:
        found.append(Damage(DamageKind.MTU_CHANGED, wanted.ifname))
    loopback = await inside.netlink.find(link_named("lo"))
    is_loopback_up = loopback is not None and decode_link(loopback.body).up
    down = [name for name, up in ((wanted.ifname, peer.up), ("lo", is_loopback_up)) if not up]
    found += [Damage(DamageKind.DEVICE_DOWN, name) for name in down]
    found += await _missing(inside.netlink, peer.index, wanted, is_up=not down)
    if peer.name == wanted.ifname:
        found += [
            Damage(DamageKind.DEVICE_ALTERED, name) for name, _ in inside.settings.differing(wanted.settings)
        ]
    return found


async def _missing(netlink: Netlink, index: int, wanted: DesiredGuest, *, is_up: bool) -> Iterable[Damage]:
    """Return missing addresses and routes. Routes go when a link goes down, which is reported already."""
    seen = {decode_address(message.body) for message in await netlink.dump(address_dump())}
    addresses = [decode_address(one.body) for one in wanted.writes if one.type == RTM_NEWADDR]
    lost = [cidr for at, cidr in addresses if (at, cidr) not in seen]
    damages = [Damage(DamageKind.ADDRESS_DELETED, f"{cidr} of {wanted.ifname}") for cidr in lost]
    if lost or not is_up:
        return damages
    destinations = [route.decode(one.body) for one in wanted.writes if one.type == route.RTM_NEWROUTE]
    needed = {one.destination for one in destinations if one is not None}
    # The kernel creates the route of an IPv6 address by itself.
    needed |= {ipaddress.IPv6Interface(cidr).network for _, cidr in addresses if ":" in cidr}
    for family in {socket.AF_INET6 if one.version == 6 else socket.AF_INET for one in needed}:
        request = NetlinkRequest(route.RTM_GETROUTE, 0, route.request_body_at(family, index))
        there = map(route.decode_main, [one.body for one in await netlink.dump(request, strict=True)])
        needed -= {one.destination for one in there if one is not None and one.ifindex == index}
    return damages + [Damage(DamageKind.ROUTE_DELETED, f"{one} of {wanted.ifname}") for one in needed]


async def own_routes_at(netlink: Netlink, index: int) -> set[route.OwnRoute]:
    """Return our routes in the main table at one link. OSError as Netlink.dump."""
    found: set[route.OwnRoute] = set()
    for family in (socket.AF_INET, socket.AF_INET6):
        request = NetlinkRequest(route.RTM_GETROUTE, 0, route.request_body_at(family, index))
        every = map(route.decode_own, [one.body for one in await netlink.dump(request, strict=True)])
        found |= {one for one in every if one is not None and one.ifindex == index}
    return found


class GuestNews:
    """Signals any change in a namespace. Close it."""

    def __init__(self, sock: socket.socket, settings: Settings) -> None:
        sock.setblocking(False)
        self._settings = settings
        self._watched: dict[tuple[Setting, ...], WatchedSettings] = {}
        self._plain = sock
        self._socket = trio.socket.from_stdlib_socket(sock)

    async def wait(self) -> None:
        """Return when there are notifications; `clear` discards the others that came with the first."""
        with suppress(OSError):  # ENOBUFS: some were lost, which counts as a change as well
            await self._socket.recv(_NEWS_BYTES)

    def clear(self) -> None:
        """Discard the notifications received so far."""
        for _ in range(_NEWS_AT_ONCE):
            try:
                self._plain.recv(_NEWS_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    return

    def are_altered(self, settings: Sequence[Setting]) -> bool:
        """Return whether these settings differ, for which there are no notifications; also if they are unreadable."""
        key = tuple(settings)
        watched = self._watched.get(key)
        if watched is None:
            if len(self._watched) >= _MOST_WATCHED:
                self._close_watched()  # of interfaces that no longer exist
            watched = self._watched[key] = WatchedSettings(self._settings, key)
        return watched.are_altered()

    def close(self) -> None:
        """Release the namespace."""
        self._close_watched()
        self._socket.close()
        self._settings.close()

    def _close_watched(self) -> None:
        while self._watched:
            self._watched.popitem()[1].close()


async def open_news(netns: Netns) -> GuestNews:
    """Subscribe to the namespace. RefusedError when another one is at its path; OSError."""
    with reopened_netns(netns) as fd:
        return GuestNews(*await run_in_netns(fd, _open_news))


def _open_news() -> tuple[socket.socket, Settings]:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    sock.bind((0, _GROUPS))
    return _with_settings(sock)
