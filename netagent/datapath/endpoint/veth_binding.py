"""One endpoint's pair made or finished, from whatever is there: the container's end is born in its namespace.

What a container's interface is to have: addresses and routes, as the requests that make them.

Until a new interface passes packets: what a container sends in its first moment must not be lost.

All requests are done when these lines run, and two things are still to come, each by a task of the kernel's own:

    a carrier     makes the link operational (RFC 2863): its queue is started, the bridge's port forwards
    an address    of IPv6 is put among the host's own, whether or not duplicates are looked for

Until then what is sent, or comes in answer, is dropped without a word. Both take about a millisecond.
"""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import trio

from netagent.datapath.endpoint.guest_watch import DesiredGuest, GuestNamespace, damages_inside, inside_alias
from netagent.datapath.endpoint.veth_pair import (
    all_links,
    bridge_of,
    free_index,
    host_side,
    link_called,
    peer_of,
    raise_if_full,
    turn_ipv6_off,
)
from netagent.datapath.host.sysctls import Setting, Settings, ipv6_settings
from netagent.datapath.netlink.link import (
    LinkMessage,
    VethPair,
    create_veth,
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
    RTM_GETROUTE,
    RTM_NEWROUTE,
    default_body,
    is_local,
    on_link_body,
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
"""The first look mostly finds it so: recent kernels see to a link when somebody asks for it. Others delay what comes
within a second of the last change of links."""


async def wait_ready(ends: Iterable[tuple[Netlink, str]], inside: Netlink, addresses: Iterable[str]) -> None:
    """Until both ends of a pair (where to ask for it, its name) and its IPv6 `addresses` do their work.

    Returns as well when one does not: somebody has set it down or taken it away in the same moment, which the
    reconciler sees to. OSError as Netlink.find.
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


_IPV4_EVERYBODY = ("224.0.0.0/4", "255.255.255.255/32")


def address_requests(endpoint: LocalEndpoint, index: int) -> list[NetlinkRequest]:
    """IPv4 without its subnet, which goes on a route of its own.

    Inside one subnet glibc's getaddrinfo(3) sorts IPv4 addresses by the longest common prefix with the client's
    (RFC 6724 rule 9): every client would stick to one replica of a service, whatever the order of the answer.
    """
    requests = [set_address(index, cidr) for cidr in endpoint.addresses if ":" in cidr]
    for one in _interfaces(endpoint):
        everybody = str(one.network.broadcast_address) if endpoint.multicast else None
        requests.append(set_address(index, f"{one.ip}/32", everybody))
    return requests


def route_requests(endpoint: LocalEndpoint, index: int) -> list[NetlinkRequest]:
    """The IPv4 subnet is on the link, and all multicast and broadcast where the network carries them: a program
    that names no interface goes by the routes. IPv6's the kernel derives from the address. Last, the way out."""
    everybody = _IPV4_EVERYBODY if endpoint.multicast else ()
    routes = [
        # Appended, never replaced: a route of somebody else's to the same place stays.
        NetlinkRequest(
            RTM_NEWROUTE, NLM_F_CREATE | NLM_F_APPEND, on_link_body(destination, index, str(one.ip))
        )
        for one in _interfaces(endpoint)
        for destination in (str(one.network), *everybody)
    ]
    # Never appended: of two IPv6 routes that makes one, with half of the traffic for each.
    flags = NLM_F_CREATE | NLM_F_EXCL
    return routes + [
        NetlinkRequest(RTM_NEWROUTE, flags, default_body(gateway, index)) for gateway in endpoint.gateways
    ]


def _interfaces(endpoint: LocalEndpoint) -> list[ipaddress.IPv4Interface]:
    return [ipaddress.IPv4Interface(cidr) for cidr in endpoint.addresses if ":" not in cidr]


_UNDO_LIMIT_S = 5.0
"""Removing a veth takes the kernel 17 ms; on a machine that is busy beyond this nothing is promised."""
_ETH_LIMIT = 256
"""Networks that one container can be in by automatic names."""


@dataclass(frozen=True, slots=True)
class VethBinding:
    """One call of `bind` or `mend`: both sides, the target and what is wanted there."""

    outside: Netlink
    inside: GuestNamespace
    netns_fd: int
    endpoint: LocalEndpoint
    mtu_bytes: int
    outside_settings: Settings | None = None

    async def complete(self, vni: int) -> str:
        """The whole of it; the name inside the namespace."""
        bridge = await bridge_of(self.endpoint, self.outside, vni)
        existing = await link_called(self.outside, veth_name(self.endpoint.endpoint_id))
        ifname = await self._adopt(existing) if existing is not None else None
        if ifname is not None:
            await self._finish(ifname, bridge.index)
            return ifname
        orphan = await self._orphan()
        if orphan is not None:
            await self.inside.netlink.execute_one(delete_link_index(orphan.index))
        index = await free_index(self.outside)
        try:
            ifname = await self._create(index)
            await self._finish(ifname, bridge.index)
        except BaseException:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _UNDO_LIMIT_S):
                # By our index: if the creation failed, there is none, whoever else has the name.
                await self.outside.execute([delete_link_index(index)])
            raise
        return ifname

    async def damages(self) -> list[Damage]:
        """What is not as `complete` left it."""
        existing = await link_called(self.outside, veth_name(self.endpoint.endpoint_id))
        peer = await peer_of(existing, self.inside.netlink) if existing is not None else None
        if peer is None:
            # A pair of which either end is elsewhere; without a host's end it may be gone altogether.
            is_moved = existing is not None or await self._orphan() is not None
            kind = DamageKind.DEVICE_MOVED if is_moved else DamageKind.DEVICE_DELETED
            return [Damage(kind, self.endpoint.ifname)]
        ifname = self.endpoint.ifname or peer.name
        wanted = DesiredGuest(
            ifname=ifname,
            mac=self.endpoint.mac,
            mtu_bytes=self.mtu_bytes,
            writes=[*address_requests(self.endpoint, peer.index), *route_requests(self.endpoint, peer.index)],
            settings=self._settings(ifname),
        )
        return await damages_inside(self.inside, peer, wanted)

    async def _adopt(self, existing: LinkMessage) -> str | None:
        """The name inside of a pair that is ours and reaches this namespace; None when a new pair is to be made."""
        if existing.alias != endpoint_alias(self.endpoint.endpoint_id):
            raise _host_end_taken(existing.name)
        peer = await peer_of(existing, self.inside.netlink)
        if peer is None:
            await self.outside.execute_one(delete_link_index(existing.index))  # it leads elsewhere
            return None
        ifname = self.endpoint.ifname or peer.name
        if peer.name != ifname:
            await self._rename(peer.index, ifname)
        if peer.mac != self.endpoint.mac:
            await self.inside.netlink.execute_one(set_link(ifname, mac=self.endpoint.mac))
        return ifname

    async def _rename(self, index: int, ifname: str) -> None:
        """Kernels before 6.2 rename only what is down."""
        rename = rename_link(index, ifname)
        (error,) = await self.inside.netlink.execute([rename])
        if error is not None and error.errno == errno.EBUSY:
            _, error = await self.inside.netlink.execute([set_link_down(index), rename])
        if error is not None and error.errno == errno.EEXIST:
            raise self._name_taken(ifname)
        if error is not None:
            raise error

    async def _orphan(self) -> LinkMessage | None:
        """A container's end whose host's end is not where it should be: somebody moved that to another namespace."""
        alias, mac = inside_alias(self.endpoint.endpoint_id), self.endpoint.mac
        for link in await all_links(self.inside.netlink):
            # Ends that an earlier release made have no mark.
            if link.kind == LinkKind.VETH.value and (
                link.alias == alias or (link.alias, link.mac) == ("", mac)
            ):
                return link
        return None

    async def _create(self, index: int) -> str:
        """Make the pair under the wanted name, or the first `eth<N>` that is free."""
        wanted = self.endpoint.ifname
        taken = {link.name for link in await all_links(self.inside.netlink)}
        names = [wanted] if wanted else [f"eth{n}" for n in range(_ETH_LIMIT)]
        for ifname in (name for name in names if name not in taken):
            pair = VethPair(
                name=veth_name(self.endpoint.endpoint_id),
                alias=endpoint_alias(self.endpoint.endpoint_id),
                mtu_bytes=self.mtu_bytes,
                peer_name=ifname,
                peer_mac=self.endpoint.mac,
                peer_netns_fd=self.netns_fd,
            )
            error, mark_error = await self.outside.execute(create_veth(pair, index))
            if error is None and mark_error is None:
                return ifname
            if error is None or error.errno != errno.EEXIST:
                raise error or mark_error or OSError
            # The kernel says the same of the host's end.
            if (existing := await link_called(self.outside, pair.name)) is not None:
                raise _host_end_taken(existing.name)
        raise self._name_taken(wanted or names[-1])

    def _name_taken(self, ifname: str) -> RefusedError:
        return RefusedError(
            f"{self.endpoint.netns_path} has an interface named {ifname} already",
            code="interface-taken",
            thing=ifname,
            hint="give another name with --ifname, or none for the next free eth<N>",
        )

    async def _finish(self, ifname: str, bridge_index: int) -> None:
        """Everything after creation, each step harmless when done again."""
        link = await link_called(self.inside.netlink, ifname)
        if link is None:
            raise OSError(errno.ENODEV, f"{ifname} was taken away in the same moment")
        await turn_ipv6_off(self.outside_settings, veth_name(self.endpoint.endpoint_id))
        outside = host_side(veth_name(self.endpoint.endpoint_id), self.mtu_bytes, bridge_index)
        inside = [
            set_link("lo", up=True),
            set_link(ifname, mtu_bytes=self.mtu_bytes),
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
        return ipv6_settings(ifname, self.endpoint.addresses, self.mtu_bytes)


def _raise_first(errors: Sequence[OSError | None]) -> None:
    for error in errors:
        if error is not None:
            raise error


def _host_end_taken(name: str) -> RefusedError:
    return RefusedError(
        f"the interface name {name} is taken on this host by another device",
        code="interface-taken",
        thing=name,
        hint=f"see `ip -d link show {name}`; remove that device, then attach again",
    )
