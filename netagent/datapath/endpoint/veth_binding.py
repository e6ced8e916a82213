"""One endpoint's pair made or finished, from whatever is there: the container's end is born in its namespace."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from netagent.datapath.endpoint.guest_config import address_requests, route_requests
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
from netagent.datapath.endpoint.wait_link_up import wait_ready
from netagent.datapath.host.sysctls import Setting, Settings, ipv6_settings
from netagent.datapath.netlink.link import (
    LinkMessage,
    VethPair,
    create_veth,
    delete_link_index,
    label_link,
    rename_link,
    set_link,
    set_link_down,
)
from netagent.datapath.netlink.route_socket import Netlink
from netagent.datapath.reconcile.desired import LocalEndpoint
from netagent.datapath.reconcile.drift import Damage, DamageKind
from netagent.datapath.state import LinkKind, endpoint_alias
from netagent.errors import RefusedError
from netagent.model.ids import veth_name

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
