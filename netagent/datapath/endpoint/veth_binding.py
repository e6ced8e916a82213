"""Create or complete one endpoint's veth pair, whatever part of it exists, and configure the container's end.

The addresses and routes of the container's end are netlink requests, and the same requests define what
netagent.datapath.endpoint.guest_watch checks later. The container's end is created in its namespace.

The last step waits until the interface passes packets, because packets that a container sends in its first moment
must not be lost. All requests have been answered by then, but two things are still to come, each done by a task of
the kernel:

    a carrier     makes the link operational (RFC 2863): its queue is started, the bridge's port forwards
    an address    of IPv6 becomes one of the host's own, whether or not duplicates are looked for

Until then the kernel silently drops what the container sends, and the answers. Both take about a millisecond.
"""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import trio

from netagent.datapath.endpoint.guest_watch import (
    DesiredGuest,
    GuestNamespace,
    damages_inside,
    inside_alias,
    own_routes_at,
)
from netagent.datapath.endpoint.veth_pair import (
    all_links,
    bridge_of,
    free_index,
    host_side,
    link_called,
    netns_path,
    peer_of,
    raise_if_full,
    turn_ipv6_off,
)
from netagent.datapath.host.service_routes import follow_local_routes, local_routes
from netagent.datapath.host.sysctls import Setting, Settings, ipv6_settings
from netagent.datapath.netlink.link import (
    LinkMessage,
    VethPair,
    address_dump,
    change_broadcast,
    create_veth,
    decode_address,
    decode_broadcast,
    decode_link,
    delete_link_index,
    label_link,
    link_named,
    rename_link,
    set_address,
    set_link,
    set_link_down,
)
from netagent.datapath.netlink.route import (
    RTM_DELROUTE,
    RTM_GETROUTE,
    RTM_NEWROUTE,
    decode_own,
    default_body,
    is_local,
    on_link_body,
    removal_body,
    request_body_to,
)
from netagent.datapath.netlink.route_socket import (
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_EXCL,
    Netlink,
    NetlinkRequest,
)
from netagent.datapath.reconcile.desired import LocalEndpoint
from netagent.datapath.reconcile.drift import Damage, DamageKind
from netagent.datapath.state import LinkKind, endpoint_alias
from netagent.errors import RefusedError
from netagent.model.ids import veth_name

_LIMIT_S, _LOOK_S = 1.0, 0.001
"""The first check usually succeeds: recent kernels update a link when a program asks for it. Others delay events that
follow within a second of the last change of links."""


async def wait_ready(ends: Iterable[tuple[Netlink, str]], inside: Netlink, addresses: Iterable[str]) -> None:
    """Wait until both ends of a pair (the netlink socket and the name of each) and its IPv6 `addresses` work.

    Also returns when an end does not work because another program has just set it down or removed it; the reconciler
    deals with that. OSError as Netlink.find.
    """
    with trio.move_on_after(_LIMIT_S):
        for netlink, name in ends:
            while (found := await netlink.find(link_named(name))) and not decode_link(
                found.body
            ).is_operational:
                await trio.sleep(_LOOK_S)
        for address in addresses:
            question = NetlinkRequest(RTM_GETROUTE, 0, request_body_to(address))
            while not await _is_own(inside, question):
                await trio.sleep(_LOOK_S)


async def _is_own(netlink: Netlink, question: NetlinkRequest) -> bool:
    try:
        found = await netlink.find(question)
    except OSError:  # unreachable
        return False
    return found is not None and is_local(found.body)


_IPV4_MULTICAST = ("224.0.0.0/4", "255.255.255.255/32")


def address_requests(endpoint: LocalEndpoint, index: int) -> list[NetlinkRequest]:
    """Return IPv4 addresses without their subnet, which gets a route of its own, and the IPv6 addresses.

    Inside one subnet glibc's getaddrinfo(3) sorts IPv4 addresses by the longest common prefix with the client's
    (RFC 6724 rule 9): every client would stick to one replica of a service, whatever the order of the answer.
    """
    requests = [set_address(index, cidr) for cidr in endpoint.addresses if ":" in cidr]
    requests += [
        set_address(index, f"{one.ip}/32", _broadcast_of(endpoint, one)) for one in _interfaces(endpoint)
    ]
    return requests


def _broadcast_of(endpoint: LocalEndpoint, one: ipaddress.IPv4Interface) -> str | None:
    return str(one.network.broadcast_address) if endpoint.multicast else None


def route_requests(endpoint: LocalEndpoint, index: int) -> list[NetlinkRequest]:
    """Return the routes: the IPv4 subnet is on the link, and so are multicast and broadcast if the network carries
    them, because a program that names no interface follows the routes. The kernel derives IPv6's. Last, the default
    route."""
    multicast = _IPV4_MULTICAST if endpoint.multicast else ()
    routes = [
        # Appended, never replaced: another program's route to the same destination stays.
        NetlinkRequest(
            RTM_NEWROUTE, NLM_F_CREATE | NLM_F_APPEND, on_link_body(destination, index, str(one.ip))
        )
        for one in _interfaces(endpoint)
        for destination in (str(one.network), *multicast)
    ]
    # Never appended: the kernel would make one multipath route of two IPv6 routes, with half of the traffic for each.
    flags = NLM_F_CREATE | NLM_F_EXCL
    return routes + [
        NetlinkRequest(RTM_NEWROUTE, flags, default_body(gateway, index)) for gateway in endpoint.gateways
    ]


def _interfaces(endpoint: LocalEndpoint) -> list[ipaddress.IPv4Interface]:
    return [ipaddress.IPv4Interface(cidr) for cidr in endpoint.addresses if ":" not in cidr]


_UNDO_LIMIT_S = 5.0
"""Removing a veth takes the kernel 17 ms; if a busy machine takes longer than this, the undo is not guaranteed."""
_ETH_LIMIT = 256
"""Networks that one container can be in with automatic interface names."""


@dataclass(frozen=True, slots=True)
class VethBinding:
    """One call of `bind` or `repair`: both namespaces, the target and its desired state."""

    outside: Netlink
    inside: GuestNamespace
    netns_fd: int
    endpoint: LocalEndpoint
    outside_settings: Settings | None = None

    async def complete(self, then: Callable[[str], Awaitable[None]] | None = None) -> str:
        """Do everything, and then what `then` does with the name inside the namespace; return that name. Cancelled or
        failed before its end, it leaves no interface that it made."""
        bridge = await bridge_of(self.endpoint, self.outside)
        existing = await link_called(self.outside, veth_name(self.endpoint.endpoint_id))
        ifname = await self._adopt(existing) if existing is not None else None
        if ifname is not None:
            await self._finish(ifname, bridge.index)
            await self.follow_options()
            if then is not None:
                await then(ifname)
            return ifname
        orphan = await self._orphan()
        if orphan is not None:
            await self.inside.netlink.execute_one(delete_link_index(orphan.index))
        index = await free_index(self.outside)
        try:
            ifname = await self._create(index)
            await self._finish(ifname, bridge.index)
            if then is not None:
                await then(ifname)
        except BaseException:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _UNDO_LIMIT_S):
                # By our own index: if the creation failed, no link has it, even if another link has the name.
                await self.outside.execute([delete_link_index(index)])
            raise
        return ifname

    async def damages(self) -> list[Damage]:
        """Return what is not as `complete` left it."""
        existing = await link_called(self.outside, veth_name(self.endpoint.endpoint_id))
        peer = await peer_of(existing, self.inside.netlink) if existing is not None else None
        if peer is None:
            # One end of the pair is elsewhere; without a host's end the pair may be gone altogether.
            is_moved = existing is not None or await self._orphan() is not None
            kind = DamageKind.DEVICE_MOVED if is_moved else DamageKind.DEVICE_DELETED
            return [Damage(kind, self.endpoint.ifname or "")]
        ifname = self.endpoint.ifname or peer.name
        wanted = DesiredGuest(
            ifname=ifname,
            mac=self.endpoint.mac,
            mtu_bytes=self.endpoint.mtu_bytes,
            writes=[*address_requests(self.endpoint, peer.index), *route_requests(self.endpoint, peer.index)],
            settings=self._settings(ifname),
        )
        return await damages_inside(self.inside, peer, wanted)

    async def follow_ranges(self, ifname: str, known: Collection[str]) -> list[Damage]:
        """Make the local routes those to the wanted service ranges. Return the missing ones, as far as they are to
        ranges that are `known` to have had one."""
        link = await link_called(self.inside.netlink, ifname)
        if link is None:
            raise OSError(errno.ENODEV, f"{ifname} was removed in the meantime")
        wanted = local_routes(self.endpoint.service_ranges, self.endpoint.addresses, link.index)
        missing = await follow_local_routes(self.inside.netlink, wanted, at=link.index)
        lost = sorted(one.subnet for one in missing if one.subnet in known)
        return [Damage(DamageKind.ROUTE_DELETED, f"local {subnet} of {ifname}") for subnet in lost]

    async def follow_options(self) -> None:
        """Make broadcast address and routes those that follow from the network's options, which may have changed
        since the interface was made. Does nothing for an interface that is not there, or is down."""
        existing = await link_called(self.outside, veth_name(self.endpoint.endpoint_id))
        peer = await peer_of(existing, self.inside.netlink) if existing is not None else None
        if peer is None or not peer.up:
            return
        netlink, index = self.inside.netlink, peer.index
        bodies = [message.body for message in await netlink.dump(address_dump())]
        seen = {decode_address(body): decode_broadcast(body) for body in bodies}
        requests: list[NetlinkRequest] = []
        for one in _interfaces(self.endpoint):
            place, broadcast = (index, f"{one.ip}/32"), _broadcast_of(self.endpoint, one)
            if place in seen and seen[place] != broadcast:
                requests += change_broadcast(index, str(one.ip), broadcast)
        wanted = route_requests(self.endpoint, index)
        superfluous = await own_routes_at(netlink, index) - {decode_own(one.body) for one in wanted}
        requests += [
            NetlinkRequest(RTM_DELROUTE, 0, removal_body(one))
            for one in sorted(superfluous, key=lambda one: (one.destination.version, one))
        ]
        for error in await netlink.execute([*requests, *wanted]):
            # Another program may have removed it, or added it, in the meantime.
            if error is not None and error.errno not in {errno.EEXIST, errno.ESRCH, errno.EADDRNOTAVAIL}:
                raise error

    async def _adopt(self, existing: LinkMessage) -> str | None:
        """Return the inner name of a pair of ours that reaches this namespace; None when a new pair is needed."""
        if existing.alias != endpoint_alias(self.endpoint.endpoint_id):
            raise _host_end_taken(existing.name)
        peer = await peer_of(existing, self.inside.netlink)
        if peer is None:
            await self.outside.execute_one(delete_link_index(existing.index))  # it leads to another namespace
            return None
        ifname = self.endpoint.ifname or peer.name
        if peer.name != ifname:
            await self._rename(peer.index, ifname)
        if peer.mac != self.endpoint.mac:
            await self.inside.netlink.execute_one(set_link(ifname, mac=self.endpoint.mac))
        return ifname

    async def _rename(self, index: int, ifname: str) -> None:
        """Rename the link; take it down first where the kernel (before 6.2) requires that."""
        rename = rename_link(index, ifname)
        (error,) = await self.inside.netlink.execute([rename])
        if error is not None and error.errno == errno.EBUSY:
            _, error = await self.inside.netlink.execute([set_link_down(index), rename])
        if error is not None and error.errno == errno.EEXIST:
            raise self._name_taken(ifname)
        if error is not None:
            raise error

    async def _orphan(self) -> LinkMessage | None:
        """Find a container's end whose host's end is missing because it was moved to another namespace."""
        alias, mac = inside_alias(self.endpoint.endpoint_id), self.endpoint.mac
        for link in await all_links(self.inside.netlink):
            # Ends that an earlier release created have no mark.
            if link.kind == LinkKind.VETH.value and (
                link.alias == alias or (link.alias, link.mac) == ("", mac)
            ):
                return link
        return None

    async def _create(self, index: int) -> str:
        """Create the pair under the wanted name, or the first free `eth<N>`."""
        wanted = self.endpoint.ifname
        taken = {link.name for link in await all_links(self.inside.netlink)}
        names = [wanted] if wanted else [f"eth{n}" for n in range(_ETH_LIMIT)]
        for ifname in (name for name in names if name not in taken):
            pair = VethPair(
                name=veth_name(self.endpoint.endpoint_id),
                alias=endpoint_alias(self.endpoint.endpoint_id),
                mtu_bytes=self.endpoint.mtu_bytes,
                peer_name=ifname,
                peer_mac=self.endpoint.mac,
                peer_netns_fd=self.netns_fd,
            )
            error, mark_error = await self.outside.execute(create_veth(pair, index))
            if error is None and mark_error is None:
                return ifname
            if error is None or error.errno != errno.EEXIST:
                raise error or mark_error or OSError
            # The kernel gives the same error if the name of the host's end is taken.
            if (existing := await link_called(self.outside, pair.name)) is not None:
                raise _host_end_taken(existing.name)
        raise self._name_taken(wanted or names[-1])

    def _name_taken(self, ifname: str) -> RefusedError:
        return RefusedError(
            f"{netns_path(self.endpoint)} already has an interface named {ifname}",
            code="interface-taken",
            thing=ifname,
            hint="choose another name with --ifname, or omit it to use the next free eth<N>",
        )

    async def _finish(self, ifname: str, bridge_index: int) -> None:
        """Do everything after the creation; repeating a step is harmless."""
        link = await link_called(self.inside.netlink, ifname)
        if link is None:
            raise OSError(errno.ENODEV, f"{ifname} was removed in the meantime")
        await turn_ipv6_off(self.outside_settings, veth_name(self.endpoint.endpoint_id))
        outside = host_side(veth_name(self.endpoint.endpoint_id), self.endpoint.mtu_bytes, bridge_index)
        inside = [
            set_link("lo", up=True),
            set_link(ifname, mtu_bytes=self.endpoint.mtu_bytes),
            label_link(link.index, inside_alias(self.endpoint.endpoint_id)),
        ]
        refused = await self.outside.execute(outside)
        raise_if_full(self.endpoint, refused)
        _raise_first([*refused, *await self.inside.netlink.execute(inside)])
        # After the MTU: a link whose MTU is too small for IPv6 has no such settings.
        self.inside.settings.write(self._settings(ifname))
        addresses = [*address_requests(self.endpoint, link.index), set_link(ifname, up=True)]
        _raise_first(await self.inside.netlink.execute(addresses))
        for error in await self.inside.netlink.execute(route_requests(self.endpoint, link.index)):
            if error is not None and error.errno != errno.EEXIST:
                raise error
        ends = (self.outside, veth_name(self.endpoint.endpoint_id)), (self.inside.netlink, ifname)
        six = [address for cidr in self.endpoint.addresses if ":" in (address := cidr.partition("/")[0])]
        await wait_ready(ends, self.inside.netlink, six)

    def _settings(self, ifname: str) -> Sequence[Setting]:
        return ipv6_settings(ifname, self.endpoint.addresses, self.endpoint.mtu_bytes)


def _raise_first(errors: Sequence[OSError | None]) -> None:
    for error in errors:
        if error is not None:
            raise error


def _host_end_taken(name: str) -> RefusedError:
    return RefusedError(
        f"another device on this host has the interface name {name}",
        code="interface-taken",
        thing=name,
        hint=f"see `ip -d link show {name}`; remove that device, then attach again",
    )
