"""One endpoint's interface: a veth whose peer is in the container's namespace. The bind step of an attachment.

The peer is created in its namespace with its final name, MAC and MTU. So the container never sees a half-made
interface under a wrong name, and a name that is taken fails the creation as a whole. The container gets its
addresses, the routes to its subnets and, through one of its endpoints, a default route that comes after any other.

A pair is found again by its alias. So `bind` after a crash at any line completes what is there, and `unbind` does not
need to know where the endpoint was. When the namespace goes, the kernel removes both ends.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress

from netagent.datapath.endpoint.guest_watch import GuestNews, open_inside, open_news
from netagent.datapath.endpoint.link_delete import LinkDeletion
from netagent.datapath.endpoint.netns import netns_identity, own_netns, reopened_netns, run_in_netns
from netagent.datapath.endpoint.veth_binding import VethBinding
from netagent.datapath.endpoint.veth_pair import (
    all_links,
    bridge_of,
    endpoint_on,
    free_index,
    host_side,
    link_called,
    netns_path,
    peer_of,
    raise_if_full,
    turn_ipv6_off,
)
from netagent.datapath.host.sysctls import Settings
from netagent.datapath.netlink.link import LinkMessage, VethPair, create_veth, delete_link_index
from netagent.datapath.netlink.route_socket import Netlink, open_socket
from netagent.datapath.reconcile.desired import LocalEndpoint
from netagent.datapath.reconcile.drift import Damage
from netagent.datapath.state import endpoint_alias
from netagent.errors import FailedError, InputError, RefusedError
from netagent.model.ids import EndpointId, peer_name, veth_name
from netagent.model.sandbox import Netns

_IFNAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}")
_RESERVED_IFNAMES = {"all", "default", "lo"}
"""`all` and `default` are folders of /proc/sys next to those of the interfaces."""


class Attacher:
    """Creates and removes the interfaces of endpoints.

    The network's bridge must exist (Reconciler.wait_programmed). `netlink` belongs to the host's namespace, whose
    identity is `host_netns` (default: the calling thread's); attaching that namespace is refused. `settings` belongs
    to it as well; without `settings` the host's ends keep IPv6.
    """

    def __init__(
        self,
        netlink: Netlink,
        *,
        host_netns: tuple[int, int] | None = None,
        settings: Settings | None = None,
    ) -> None:
        self._netlink = netlink
        self._settings = settings
        self._removal = LinkDeletion(netlink)
        self._host_netns = host_netns or own_netns().identity
        self.routed_ranges = RoutedRanges()
        self._options: dict[EndpointId, tuple[bool, tuple[str, ...]]] = {}
        """What follows from the options of its network, as this agent has last set it in the endpoint's sandbox."""

    async def bind(self, endpoint: LocalEndpoint) -> str:
        """Create the interface, or complete an existing one; return its name inside the namespace.

        InputError for a bad interface name; RefusedError `namespace-gone`, `host-namespace`, `interface-taken`;
        FailedError when the bridge is missing or the kernel refuses. When it raises, also by cancellation, nothing is
        left of an interface that it began to create.
        """
        if endpoint.ifname:
            _check_ifname(endpoint.ifname)
        with reopened_netns(endpoint.netns) as netns_fd:
            if netns_identity(netns_fd) == self._host_netns:
                path = netns_path(endpoint)
                raise RefusedError(
                    f"{path} is the host's own network namespace",
                    code="host-namespace",
                    thing=path,
                    hint="attach a container's namespace",
                )
            with _failing("create", endpoint), closing(await open_inside(netns_fd)) as inside:
                binding = VethBinding(self._netlink, inside, netns_fd, endpoint, self._settings)

                async def follow_ranges(ifname: str) -> None:
                    # Refused ones prevent no attach: the sandbox does without service addresses, and `repair` says
                    # why.
                    with suppress(OSError):
                        await self._follow_ranges(binding, ifname)

                ifname = await binding.complete(follow_ranges)
                self._options[endpoint.endpoint_id] = _options_of(endpoint)
                return ifname

    async def repair(self, endpoint: LocalEndpoint) -> list[Damage]:
        """Check whether a bound endpoint's interface is as `bind` left it, and repair it; return what was repaired.

        Costs about a millisecond if nothing changed. RefusedError and FailedError as `bind`; then the interface is
        unchanged or partly repaired.
        """
        with (
            reopened_netns(endpoint.netns) as netns_fd,
            _failing("repair", endpoint),
            closing(await open_inside(netns_fd)) as inside,
        ):
            binding = VethBinding(self._netlink, inside, netns_fd, endpoint, self._settings)
            await turn_ipv6_off(self._settings, veth_name(endpoint.endpoint_id))
            if self._options.get(endpoint.endpoint_id) != _options_of(endpoint):
                # No other program has done damage here: options have changed, perhaps while no agent was running.
                await binding.follow_options()
                self._options[endpoint.endpoint_id] = _options_of(endpoint)
            damages = await binding.damages()
            ifname = await binding.complete() if damages else endpoint.ifname
            return damages + (await self._follow_ranges(binding, ifname) if ifname else [])

    async def _follow_ranges(self, binding: VethBinding, ifname: str) -> list[Damage]:
        endpoint = binding.endpoint
        known = self.routed_ranges.of(endpoint.endpoint_id)
        if not endpoint.service_ranges and known == frozenset():
            return []
        try:
            damages = await binding.follow_ranges(ifname, known or ())
        except BaseException:
            self.routed_ranges.note(endpoint.endpoint_id, ())
            self.routed_ranges.note_changed()
            raise
        self.routed_ranges.note(endpoint.endpoint_id, endpoint.service_ranges)
        return damages

    async def open_news(self, netns: Netns) -> GuestNews:
        """Open a netlink subscription in the namespace, which reports all changes there. The socket keeps the
        namespace alive until the caller closes it. RefusedError `namespace-gone`; OSError."""
        return await open_news(netns)

    async def create(self, endpoint: LocalEndpoint) -> str:
        """Create the pair with both ends in the host's namespace, for a runtime that moves the container's end
        itself; return that end's name. An existing pair is kept. FailedError as `bind`; then nothing is left."""
        peer = peer_name(endpoint.endpoint_id)
        host_end = veth_name(endpoint.endpoint_id)
        bridge = await bridge_of(endpoint, self._netlink)
        if await link_called(self._netlink, host_end) is not None:
            if await link_called(self._netlink, peer) is not None:
                return peer
            await self.unbind(
                endpoint.endpoint_id
            )  # this pair leads to the namespace that the endpoint had before
        pair = VethPair(
            name=host_end,
            alias=endpoint_alias(endpoint.endpoint_id),
            mtu_bytes=endpoint.mtu_bytes,
            peer_name=peer,
            peer_mac=endpoint.mac,
            peer_netns_fd=None,
        )
        index = await free_index(self._netlink)
        errors = [error for error in await self._netlink.execute(create_veth(pair, index)) if error]
        if not errors:
            await turn_ipv6_off(self._settings, host_end)
            requests = host_side(host_end, endpoint.mtu_bytes, bridge.index)
            errors = [error for error in await self._netlink.execute(requests) if error]
        if errors:
            await self._netlink.execute([delete_link_index(index)])
            raise_if_full(endpoint, errors)
            raise FailedError(
                f"cannot create the interface of {endpoint.endpoint_id}: {errors[0].strerror}",
                code="bind-failed",
                thing=endpoint.endpoint_id,
            )
        return peer

    async def has_entered(self, endpoint: LocalEndpoint) -> bool:
        """Return whether the runtime is done: the container's end is in the namespace, and up.

        Bringing the end up is the last thing that libnetwork does. If our addresses came before its own, it would
        fail with "file exists", and the container with it. RefusedError `namespace-gone`.
        """
        with reopened_netns(endpoint.netns) as netns_fd:
            existing = await link_called(self._netlink, veth_name(endpoint.endpoint_id))
            if existing is None or not existing.has_carrier:
                return False  # the usual case while a caller polls every few milliseconds: no look inside
            inside = Netlink(await run_in_netns(netns_fd, open_socket))
            with closing(inside):
                return await peer_of(existing, inside) is not None

    async def unbind(self, endpoint_id: EndpointId) -> None:
        """Remove the endpoint's interface. When this returns, neither end can be found, though the kernel may need
        another 45 ms for its cleanup (netagent.datapath.endpoint.link_delete). No error if there is none."""
        self.routed_ranges.note(endpoint_id, None)
        self._options.pop(endpoint_id, None)
        link = await self._link_of(endpoint_id)
        if link is None:
            return
        try:
            await self._removal.remove(link.index)
        except OSError as error:
            raise FailedError(
                f"cannot remove the interface {link.name}: {error.strerror}",
                code="unbind-failed",
                thing=endpoint_id,
            ) from error

    async def list_endpoint_devices(self) -> dict[EndpointId, str]:
        """Return the host-side name of every endpoint interface that exists, including leftovers."""
        found = ((endpoint_on(link), link) for link in await all_links(self._netlink))
        return {endpoint_id: link.name for endpoint_id, link in found if endpoint_id is not None}

    async def _link_of(self, endpoint_id: EndpointId) -> LinkMessage | None:
        """Find the host's end under its own name, or by its alias if it was renamed."""
        link = await link_called(self._netlink, veth_name(endpoint_id))
        if link is not None and endpoint_on(link) == endpoint_id:
            return link
        return next(
            (link for link in await all_links(self._netlink) if endpoint_on(link) == endpoint_id), None
        )


class RoutedRanges:
    """To which service ranges the sandboxes of this host's endpoints have routes, as this agent has set them.

    `note_changed` is called after each change; the owner sets it.
    """

    def __init__(self) -> None:
        self._ranges: dict[EndpointId, frozenset[str]] = {}
        self._changed: set[EndpointId] = set()
        self.note_changed: Callable[[], None] = lambda: None

    def of(self, endpoint_id: EndpointId) -> frozenset[str] | None:
        """Return the ranges, none if the kernel refused; None: this agent has not looked there yet."""
        return self._ranges.get(endpoint_id)

    def note(self, endpoint_id: EndpointId, ranges: Iterable[str] | None) -> None:
        """Note the ranges; None: not known."""
        before, now = self._ranges.get(endpoint_id), None if ranges is None else frozenset(ranges)
        if now is None:
            self._ranges.pop(endpoint_id, None)
        else:
            self._ranges[endpoint_id] = now
        if before != now:
            self._changed.add(endpoint_id)
        if (before or None) != (now or None):  # the first look at a sandbox without any is no news
            self.note_changed()

    def take_changed(self) -> set[EndpointId]:
        """Return the endpoints whose ranges have changed since the last call."""
        changed, self._changed = self._changed, set()
        return changed


def _options_of(endpoint: LocalEndpoint) -> tuple[bool, tuple[str, ...]]:
    return endpoint.multicast, endpoint.gateways


def _check_ifname(ifname: str) -> None:
    """Be stricter than the kernel, which takes `%d` as a pattern and any byte but `/`, `:` and white space."""
    if _IFNAME.fullmatch(ifname) is None or ifname in _RESERVED_IFNAMES:
        raise InputError(
            f"{ifname!r} is not a valid interface name",
            code="bad-ifname",
            thing=ifname,
            hint="use 1 to 15 letters, digits, '-', '_' or '.', such as eth1",
        )


@contextmanager
def _failing(do: str, endpoint: LocalEndpoint) -> Iterator[None]:
    """Turn the kernel's refusals into FailedError."""
    try:
        yield
    except OSError as error:
        raise FailedError(
            f"cannot {do} the interface of {endpoint.endpoint_id} in {netns_path(endpoint)}: {error.strerror}",
            code="bind-failed",
            thing=endpoint.endpoint_id,
        ) from error
