"""One endpoint's interface: a veth whose far end is in the container's namespace. The bind step of an attachment.

The far end is born in its namespace with its last name, MAC and MTU, so there is no moment with a half-made interface
under a wrong name, and a name that is taken fails the creation as a whole. The container gets its addresses, the
routes to its subnets and, by one of its endpoints, a default route that comes after any other.

A pair is found again by its alias, so `bind` after a crash at any line finishes what is there, and `unbind` needs no
memory of where the endpoint was. When the namespace goes, the kernel removes both ends.
"""

from __future__ import annotations

import errno
import ipaddress
import re
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from netagent.datapath.damage import Damage, DamageKind
from netagent.datapath.desired import LocalEndpoint
from netagent.datapath.inside import (
    Inside,
    InsideNews,
    Wanted,
    damages_inside,
    inside_alias,
    open_inside,
    open_news,
)
from netagent.datapath.link import (
    LinkMessage,
    VethPair,
    choose_index,
    create_veth,
    decode_link,
    delete_link_index,
    label_link,
    link_at,
    link_dump,
    link_named,
    rename_link,
    set_address,
    set_link,
    set_link_down,
    set_port,
)
from netagent.datapath.netlink import (
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_EXCL,
    Netlink,
    Request,
    open_socket,
)
from netagent.datapath.netns import netns_identity, opened_netns, run_in_netns
from netagent.datapath.readiness import wait_ready
from netagent.datapath.removal import Removal
from netagent.datapath.route import RTM_NEWROUTE, default_body, on_link_body
from netagent.datapath.settings import Setting, ipv6_settings
from netagent.datapath.state import CONTAINER_PORT, Kind, endpoint_alias, endpoint_of
from netagent.errors import FailedError, InputError, RefusedError
from netagent.model.ids import EndpointId, bridge_name, peer_name, veth_name

_UNDO_LIMIT_S = 5.0
"""Removing a veth takes the kernel 17 ms; on a machine that is busy beyond this nothing is promised."""
_IFNAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}")
_RESERVED_IFNAMES = {"all", "default", "lo"}
"""`all` and `default` are folders of /proc/sys beside those of the interfaces."""
_IPV4_EVERYBODY = ("224.0.0.0/4", "255.255.255.255/32")
_ETH_LIMIT = 256
"""Networks that one container can be in by automatic names."""


class Attacher:
    """Makes and removes endpoints' interfaces.

    The network's bridge must exist (Reconciler.wait_programmed). `netlink` is of the host's namespace, whose identity
    is `host_netns` (default: the calling thread's); attaching that one is refused.
    """

    def __init__(self, netlink: Netlink, *, host_netns: tuple[int, int] | None = None) -> None:
        self._netlink = netlink
        self._removal = Removal(netlink)
        self._host_netns = host_netns or _own_netns()

    async def bind(self, endpoint: LocalEndpoint, *, vni: int, mtu_bytes: int) -> str:
        """Make the interface, or finish it if it is there; return its name inside the namespace.

        InputError for a bad interface name; RefusedError `namespace-gone`, `host-namespace`, `interface-taken`;
        FailedError when the bridge is missing or the kernel says no. When it raises, also by cancellation, nothing is
        left of an interface that it began.
        """
        if endpoint.ifname:
            _check_ifname(endpoint.ifname)
        with opened_netns(endpoint.netns_path, endpoint.netns_identity) as netns_fd:
            if netns_identity(netns_fd) == self._host_netns:
                raise RefusedError(
                    f"{endpoint.netns_path} is the host's own network namespace",
                    code="host-namespace",
                    thing=endpoint.netns_path,
                    hint="attach a container's",
                )
            with _failing("make", endpoint), closing(await open_inside(netns_fd)) as inside:
                return await _Binding(self._netlink, inside, netns_fd, endpoint, mtu_bytes).complete(vni)

    async def mend(self, endpoint: LocalEndpoint, *, vni: int, mtu_bytes: int) -> list[Damage]:
        """See whether a bound endpoint's interface is as `bind` left it, and put right what is not; what that was.

        Costs a look of a millisecond where nothing is. RefusedError and FailedError as `bind`; then it is as it was,
        or a part of it is put right.
        """
        with (
            opened_netns(endpoint.netns_path, endpoint.netns_identity) as netns_fd,
            _failing("put right", endpoint),
            closing(await open_inside(netns_fd)) as inside,
        ):
            binding = _Binding(self._netlink, inside, netns_fd, endpoint, mtu_bytes)
            damages = await binding.damages()
            if damages:
                await binding.complete(vni)
            return damages

    async def open_news(self, netns_path: str, identity: tuple[int, int]) -> InsideNews:
        """Of all that changes in a namespace. Close it; until then the namespace is held in being. RefusedError
        `namespace-gone`; OSError."""
        return await open_news(netns_path, identity)

    async def plug(self, endpoint: LocalEndpoint, *, vni: int, mtu_bytes: int) -> str:
        """Make the pair with both ends in the host's namespace, for a runtime that moves the container's end itself;
        return that end's name. A pair that waits already is kept. FailedError as `bind`; then nothing is left."""
        peer = peer_name(endpoint.endpoint_id)
        host_side = veth_name(endpoint.endpoint_id)
        bridge = await _bridge_of(endpoint, self._netlink, vni)
        if await _link(self._netlink, host_side) is not None:
            if await _link(self._netlink, peer) is not None:
                return peer
            await self.unbind(endpoint.endpoint_id)  # it leads to where the endpoint was before
        pair = VethPair(
            name=host_side,
            alias=endpoint_alias(endpoint.endpoint_id),
            mtu_bytes=mtu_bytes,
            peer_name=peer,
            peer_mac=endpoint.mac,
            peer_netns_fd=None,
        )
        index = choose_index()
        requests = [*create_veth(pair, index), *_host_side(host_side, mtu_bytes, bridge.index)]
        errors = [error for error in await self._netlink.execute(requests) if error is not None]
        if errors:
            await self._netlink.execute([delete_link_index(index)])
            raise FailedError(
                f"can't make the interface of {endpoint.endpoint_id}: {errors[0].strerror}",
                code="bind-failed",
                thing=endpoint.endpoint_id,
            )
        return peer

    async def has_entered(self, endpoint: LocalEndpoint) -> bool:
        """Whether the runtime has done its part: the container's end is in the namespace, and up.

        Bringing it up is what libnetwork does last. An address of ours that came before its own would have it fail
        with "file exists", and the container with it. RefusedError `namespace-gone`.
        """
        with opened_netns(endpoint.netns_path, endpoint.netns_identity) as netns_fd:
            existing = await _link(self._netlink, veth_name(endpoint.endpoint_id))
            if existing is None or not existing.has_carrier:
                return False  # as most often while it is asked every few milliseconds: without a look inside
            inside = Netlink(await run_in_netns(netns_fd, open_socket))
            with closing(inside):
                return await _peer(existing, inside) is not None

    async def unbind(self, endpoint_id: EndpointId) -> None:
        """Remove the endpoint's interface, both ends. No error if there is none."""
        link = await self._link_of(endpoint_id)
        if link is None:
            return
        try:
            await self._removal.remove(link.index)
        except OSError as error:
            raise FailedError(
                f"can't remove interface {link.name}: {error.strerror}",
                code="unbind-failed",
                thing=endpoint_id,
            ) from error

    async def list_endpoint_devices(self) -> dict[EndpointId, str]:
        """Every endpoint's interface that exists, by its host side's name: also leftovers that nobody wants."""
        found = ((_endpoint_on(link), link) for link in await _links(self._netlink))
        return {endpoint_id: link.name for endpoint_id, link in found if endpoint_id is not None}

    async def _link_of(self, endpoint_id: EndpointId) -> LinkMessage | None:
        """The host's end: under its own name, or whatever somebody has called it since."""
        link = await _link(self._netlink, veth_name(endpoint_id))
        if link is not None and _endpoint_on(link) == endpoint_id:
            return link
        return next((link for link in await _links(self._netlink) if _endpoint_on(link) == endpoint_id), None)


@dataclass(frozen=True, slots=True)
class _Binding:
    """One call of `bind` or `mend`: both sides, the target and what is wanted there."""

    outside: Netlink
    inside: Inside
    netns_fd: int
    endpoint: LocalEndpoint
    mtu_bytes: int

    async def complete(self, vni: int) -> str:
        """The whole of it; the name inside the namespace."""
        bridge = await _bridge_of(self.endpoint, self.outside, vni)
        existing = await _link(self.outside, veth_name(self.endpoint.endpoint_id))
        ifname = await self._adopt(existing) if existing is not None else None
        if ifname is not None:
            await self._finish(ifname, bridge.index)
            return ifname
        orphan = await self._orphan()
        if orphan is not None:
            await self.inside.netlink.execute_one(delete_link_index(orphan.index))
        index = choose_index()
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
        existing = await _link(self.outside, veth_name(self.endpoint.endpoint_id))
        peer = await _peer(existing, self.inside.netlink) if existing is not None else None
        if peer is None:
            # A pair of which either end is elsewhere; without a host's end it may be gone altogether.
            is_moved = existing is not None or await self._orphan() is not None
            kind = DamageKind.DEVICE_MOVED if is_moved else DamageKind.DEVICE_DELETED
            return [Damage(kind, self.endpoint.ifname)]
        ifname = self.endpoint.ifname or peer.name
        wanted = Wanted(
            ifname=ifname,
            mac=self.endpoint.mac,
            mtu_bytes=self.mtu_bytes,
            writes=[*self._addresses(peer.index), *self._routes(peer.index)],
            settings=self._settings(ifname),
        )
        return await damages_inside(self.inside, peer, wanted)

    async def _adopt(self, existing: LinkMessage) -> str | None:
        """The name inside of a pair that is ours and reaches this namespace; None when a new pair is to be made."""
        if existing.alias != endpoint_alias(self.endpoint.endpoint_id):
            raise RefusedError(
                f"the interface name {existing.name} is taken on this host by another device",
                code="interface-taken",
                thing=existing.name,
            )
        peer = await _peer(existing, self.inside.netlink)
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
        for link in await _links(self.inside.netlink):
            # Ends that an earlier release made have no mark.
            if link.kind == Kind.VETH.value and (link.alias == alias or (link.alias, link.mac) == ("", mac)):
                return link
        return None

    async def _create(self, index: int) -> str:
        """Make the pair under the wanted name, or the first `eth<N>` that is free."""
        wanted = self.endpoint.ifname
        taken = {link.name for link in await _links(self.inside.netlink)}
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
        link = await _link(self.inside.netlink, ifname)
        if link is None:
            raise OSError(errno.ENODEV, f"{ifname} was taken away in the same moment")
        outside = _host_side(veth_name(self.endpoint.endpoint_id), self.mtu_bytes, bridge_index)
        inside = [
            set_link("lo", up=True),
            set_link(ifname, mtu_bytes=self.mtu_bytes),
            label_link(link.index, inside_alias(self.endpoint.endpoint_id)),
        ]
        _raise_first([*await self.outside.execute(outside), *await self.inside.netlink.execute(inside)])
        # After the MTU: a link whose MTU is too small for IPv6 has no such settings.
        self.inside.settings.write(self._settings(ifname))
        addresses = [*self._addresses(link.index), set_link(ifname, up=True)]
        _raise_first(await self.inside.netlink.execute(addresses))
        for error in await self.inside.netlink.execute(self._routes(link.index)):
            if error is not None and error.errno != errno.EEXIST:
                raise error
        ends = (self.outside, veth_name(self.endpoint.endpoint_id)), (self.inside.netlink, ifname)
        six = [address for cidr in self.endpoint.addresses if ":" in (address := cidr.partition("/")[0])]
        await wait_ready(ends, self.inside.netlink, six)

    def _addresses(self, index: int) -> list[Request]:
        """IPv4 without its subnet, which goes on a route of its own.

        Inside one subnet glibc's getaddrinfo(3) sorts IPv4 addresses by the longest common prefix with the client's
        (RFC 6724 rule 9): every client would stick to one replica of a service, whatever the order of the answer.
        """
        requests = [set_address(index, cidr) for cidr in self.endpoint.addresses if ":" in cidr]
        for one in self._interfaces():
            everybody = str(one.network.broadcast_address) if self.endpoint.multicast else None
            requests.append(set_address(index, f"{one.ip}/32", everybody))
        return requests

    def _settings(self, ifname: str) -> Sequence[Setting]:
        return ipv6_settings(ifname, self.endpoint.addresses, self.mtu_bytes)

    def _routes(self, index: int) -> list[Request]:
        """The IPv4 subnet is on the link, and all multicast and broadcast where the network carries them: a program
        that names no interface goes by the routes. IPv6's the kernel derives from the address. Last, the way out."""
        everybody = _IPV4_EVERYBODY if self.endpoint.multicast else ()
        routes = [
            # Appended, never replaced: a route of somebody else's to the same place stays.
            Request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_APPEND, on_link_body(destination, index, str(one.ip)))
            for one in self._interfaces()
            for destination in (str(one.network), *everybody)
        ]
        # Never appended: of two IPv6 routes that makes one, with half of the traffic for each.
        flags = NLM_F_CREATE | NLM_F_EXCL
        return routes + [
            Request(RTM_NEWROUTE, flags, default_body(gateway, index)) for gateway in self.endpoint.gateways
        ]

    def _interfaces(self) -> list[ipaddress.IPv4Interface]:
        return [ipaddress.IPv4Interface(cidr) for cidr in self.endpoint.addresses if ":" not in cidr]


async def _bridge_of(endpoint: LocalEndpoint, netlink: Netlink, vni: int) -> LinkMessage:
    bridge = await _link(netlink, bridge_name(vni))
    if bridge is None:
        raise FailedError(
            f"the network's bridge {bridge_name(vni)} does not exist",
            code="network-not-programmed",
            thing=endpoint.network_id,
            hint="`netagent status` says why the datapath could not make it",
        )
    return bridge


def _host_side(name: str, mtu_bytes: int, bridge_index: int) -> list[Request]:
    """Put the host's end into the bridge, each step harmless when done again."""
    return [
        set_link(name, mtu_bytes=mtu_bytes, master=bridge_index),
        set_port(name, CONTAINER_PORT),
        set_link(name, up=True),
    ]


def _check_ifname(ifname: str) -> None:
    """Stricter than the kernel, which takes `%d` as a pattern and any byte but `/`, `:` and white space."""
    if _IFNAME.fullmatch(ifname) is None or ifname in _RESERVED_IFNAMES:
        raise InputError(
            f"{ifname!r} can't be the name of an interface",
            code="bad-ifname",
            thing=ifname,
            hint="use 1 to 15 letters, digits, '-', '_' or '.', such as eth1",
        )


@contextmanager
def _failing(do: str, endpoint: LocalEndpoint) -> Iterator[None]:
    """The kernel's refusals as ours."""
    try:
        yield
    except OSError as error:
        raise FailedError(
            f"can't {do} the interface of {endpoint.endpoint_id} in {endpoint.netns_path}: {error.strerror}",
            code="bind-failed",
            thing=endpoint.endpoint_id,
        ) from error


def _raise_first(errors: Sequence[OSError | None]) -> None:
    for error in errors:
        if error is not None:
            raise error


def _endpoint_on(link: LinkMessage) -> EndpointId | None:
    """Whose interface it is, by its alias."""
    endpoint_id = endpoint_of(link.alias) if link.kind == Kind.VETH.value else None
    return None if endpoint_id is None else EndpointId(endpoint_id)


async def _peer(link: LinkMessage, inside: Netlink) -> LinkMessage | None:
    """The other end of a pair, if that is in the namespace of `inside`: each names the other's index."""
    found = None if link.peer is None else await inside.find(link_at(link.peer))
    peer = None if found is None else decode_link(found.body)
    return peer if peer is not None and (peer.kind, peer.peer) == (link.kind, link.index) else None


async def _link(netlink: Netlink, name: str) -> LinkMessage | None:
    """One link, however many there are."""
    found = await netlink.find(link_named(name))
    link = None if found is None else decode_link(found.body)
    return link if link is not None and link.name == name else None


async def _links(netlink: Netlink) -> list[LinkMessage]:
    return [decode_link(message.body) for message in await netlink.dump(link_dump())]


def _own_netns() -> tuple[int, int]:
    status = Path("/proc/thread-self/ns/net").stat()
    return status.st_dev, status.st_ino
