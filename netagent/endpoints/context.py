"""What attach, detach and change share: the locks that serialise callers, and common steps.

One caller at a time works on an endpoint: it holds the lock of the endpoint's origin, if a runtime made it, and then
the lock of its sandbox. All callers take them in this order, so they cannot deadlock.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from dataclasses import dataclass, field, replace
from typing import Final

import trio

from netagent.datapath.endpoint.attach import Attacher
from netagent.datapath.reconcile.desired import LocalEndpoint
from netagent.endpoints.attach_times import AttachTimes
from netagent.endpoints.claims import Claims
from netagent.endpoints.records import EndpointRecords
from netagent.endpoints.resolv_conf import ResolvConfs
from netagent.endpoints.rollback import Rollback
from netagent.endpoints.targets import RuntimeTargets
from netagent.endpoints.validation import fenced_by, has_default_route, ways_out
from netagent.errors import FailedError, RefusedError
from netagent.events.channel import event
from netagent.events.kinds import EventKind
from netagent.ipam.allocator import Allocator
from netagent.journal import statements
from netagent.journal.journal import Journal
from netagent.journal.rows import LocalEndpointRow, Published
from netagent.membership.participation import Participation
from netagent.model.ids import (
    MAX_NAME,
    EndpointId,
    HostId,
    NetworkId,
    bridge_name,
    new_endpoint_id,
    vxlan_name,
)
from netagent.model.sandbox import Netns, NetnsIdentity
from netagent.projection.controller import Projection
from netagent.projection.datapath_input import local_endpoint
from netagent.projection.resolver_sockets import ResolverSockets
from netagent.projection.service_ranges import Ranges
from netagent.registry.publish import Publisher
from netagent.registry.state_store import StateStore
from netagent.registry.view import NetworkView

SETTLED_S = 2.0
"""How long an attach or detach waits until this host's kernel and resolver have caught up. If they take longer,
something is wrong with them, which `status` shows; the endpoint itself is complete."""
BRIDGE_S = 5.0
"""How long an attach waits for the network's devices to exist."""

_NO_RANGES: Final[Ranges] = {}

logger = logging.getLogger("netagent.endpoints.context")


class Locks:
    """One lock for each key in use."""

    def __init__(self) -> None:
        self._locks: dict[Hashable, trio.Lock] = {}

    def __len__(self) -> int:
        return len(self._locks)

    @asynccontextmanager
    async def held(self, key: Hashable) -> AsyncIterator[None]:
        """Hold the lock of this key during a block."""
        lock = self._locks.setdefault(key, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            # If a task waits, it holds the lock by now or is about to: keep it.
            if not lock.locked() and not lock.statistics().tasks_waiting:
                self._locks.pop(key, None)


@dataclass(kw_only=True, eq=False)
class EndpointContext:
    """The parts that attach, detach and change need, the locks, and the steps that more than one of them takes."""

    live: StateStore
    journal: Journal
    publisher: Publisher
    allocator: Allocator
    participation: Participation
    attacher: Attacher
    resolvers: ResolverSockets
    projection: Projection
    wait_hidden: Callable[[LocalEndpointRow], Awaitable[None]]
    """Waits, for a bounded time, until other hosts have the endpoint's record without names."""
    runtimes: RuntimeTargets
    domain: str
    boot_id: str
    service_ranges: Callable[[], Ranges] = lambda: _NO_RANGES
    """Returns the service ranges to which sandboxes in a network have routes; the same mapping while it is equal."""
    locks: Locks = field(default_factory=Locks, init=False)
    is_closed: bool = field(default=False, init=False)
    """True while the host is leaving: refuse attaches."""

    def __post_init__(self) -> None:
        self.claims = Claims(self.live)
        self.times = AttachTimes()
        self.records = EndpointRecords(self.live, self.publisher, self.domain)
        self.resolv_confs = ResolvConfs(self.live, self.domain, self.boot_id)

    # -- locks -------------------------------------------------------------------------------------------------

    def locked(self, key: str | NetnsIdentity | None) -> AbstractAsyncContextManager[None]:
        """Lock the endpoint of a runtime's origin, or a namespace. There is nothing to lock where an endpoint was
        attached by hand, or before its namespace is known."""
        return nullcontext() if key is None else self.locks.held(key)

    @asynccontextmanager
    async def held(self, row: LocalEndpointRow) -> AsyncIterator[LocalEndpointRow | None]:
        """Yield the endpoint as it is now (None: gone) while the caller holds the locks of origin and sandbox."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.locked(row.origin))
            # The previous holder of the origin's lock may have bound the endpoint to a namespace.
            row = self.live.rows.get(row.endpoint_id, row)
            await stack.enter_async_context(self.locked(row.netns_identity))
            yield self.live.rows.get(row.endpoint_id)

    def refuse_if_closed(self, thing: str) -> None:
        """Raise RefusedError while the host leaves its cluster."""
        if self.is_closed:
            raise RefusedError(
                "this host is leaving its cluster", code="leaving", thing=thing, hint="join one first"
            )

    # -- facts ---------------------------------------------------------------------------------------------------

    def network(self, network_id: NetworkId) -> NetworkView:
        """Return the network; RefusedError when it was removed meanwhile."""
        network = self.live.view.networks.get(network_id)
        if network is None:
            raise RefusedError(
                "the network was removed at the same moment", code="network-removed", thing=network_id[:8]
            )
        return network

    def free_name(
        self, network_id: NetworkId, wanted: str, endpoint_id: EndpointId, *, now: str | None = None
    ) -> str:
        """Return `wanted`, with a part of the endpoint's id appended if another endpoint has that name. `now`: its
        name until now.

        For names from a runtime: a name that is in use must not prevent its container from starting."""
        if not self.claims.is_name_taken(network_id, wanted, except_for=endpoint_id):
            return wanted
        other = f"{wanted[: MAX_NAME - 5]}-{endpoint_id[:4]}"
        if other != now:
            logger.warning(
                "the name %s is already used on this host in that network: using %s", wanted, other
            )
        return other

    def called(self, row: LocalEndpointRow) -> str:
        """Return the name of an endpoint's network, or what is left of it when that is gone."""
        network = self.live.view.networks.get(row.network_id)
        return row.network_id[:8] if network is None else network.unique_name

    def tell_attached(self, row: LocalEndpointRow) -> None:
        """Log that an endpoint is complete."""
        logger.info(
            "attached %s (%s) to %s: %s",
            row.name,
            row.target,
            self.called(row),
            ", ".join(row.addresses),
            extra=event(EventKind.ATTACH, row.name),
        )

    def others_in_sandbox(self, row: LocalEndpointRow) -> bool:
        """True if the namespace has further endpoints."""
        return any(other.endpoint_id != row.endpoint_id for other in self.live.rows.mates_of(row))

    def in_datapath(self, row: LocalEndpointRow, network: NetworkView) -> LocalEndpoint:
        """Return the row in the datapath's form, with the gateways if it carries the sandbox's default route."""
        endpoint = local_endpoint(row, network)
        endpoint = replace(endpoint, service_ranges=self.service_ranges().get(row.network_id, ()))
        rows = [
            one
            for one in self.live.rows.mates_of(row)
            if one.is_published or one.endpoint_id == row.endpoint_id
        ]
        if not has_default_route(row, rows, ways_out(self.live.view.networks)):
            return endpoint
        return replace(endpoint, gateways=tuple(cidr.partition("/")[0] for cidr in network.record.gateways))

    # -- steps ---------------------------------------------------------------------------------------------------

    async def wait_built(self, network: NetworkView) -> None:
        """Wait until the kernel has the network's devices, and the rules for all endpoints known by now: a published
        endpoint must be reachable, also from other hosts, and the firewall must check its packets from the first."""
        projection, name = self.projection, network.unique_name
        devices = (bridge_name(network.record.vni), vxlan_name(network.record.vni))
        with trio.move_on_after(BRIDGE_S) as scope:
            await projection.wait_in_kernel(devices, self.live.revision)
            guard_trouble = await projection.wait_guarded(self.live.revision)
        if scope.cancelled_caught:
            text = f"the devices and rules of network {name} were not set up within {BRIDGE_S:.0f} s"
            raise FailedError(text, code="datapath", thing=name, hint="see `netagent status`")
        for device in devices:
            trouble = projection.trouble_with(device)
            if trouble:
                raise RefusedError(
                    f"network {name} cannot be set up on this host: {trouble}",
                    code="datapath",
                    thing=name,
                    hint="remove the cause, then attach again",
                )
        if guard_trouble:
            raise RefusedError(
                f"the firewall of network {name} cannot be set up on this host: {guard_trouble}",
                code="firewall",
                thing=name,
            )

    async def open_resolver(self, row: LocalEndpointRow, netns: Netns, fd: int, undo: Rollback) -> None:
        """Start the resolver in the row's namespace, which is open as `fd`."""
        resolvers = self.resolvers
        if not self.others_in_sandbox(row):
            undo.push("resolver", lambda: resolvers.remove_sandbox(netns.sandbox_id))
        await resolvers.ensure_listening(netns.sandbox_id, fd, behind_runtime=netns.behind_runtime)

    async def publish(self, row: LocalEndpointRow, stage: Published) -> LocalEndpointRow:
        """Publish the record, and mark the row as published in the same write: the last step, with no undo."""
        row = replace(row, stage=stage)
        replaced = fenced_by(self.live.fenced, row)
        also = [*statements.save_endpoint(row), *(statements.unfence(one) for one in replaced)]
        await self.publisher.change(put=[self.records.of(row)], also=also)
        self.live.set_row(row)
        if replaced:
            self.live.drop_fenced(replaced)
        if row.links:
            await self.records.refresh_mates(row)
        return row

    async def save(self, row: LocalEndpointRow) -> LocalEndpointRow:
        """Write the row to disk, then make it known to the state store."""
        await self.journal.save_endpoint(row)
        self.live.set_row(row)
        return row

    async def settle(self) -> None:
        """Give this host's kernel and resolver time to catch up."""
        with trio.move_on_after(SETTLED_S):
            await self.projection.wait_followed(self.live.revision)

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Refuse attaches during a block that ends the membership; allow them again only if the block fails."""
        self.is_closed = True
        try:
            yield
        except BaseException:
            self.is_closed = False
            raise


def drawn_id(owner: HostId) -> EndpointId:
    """Draw an id for a new endpoint of this host."""
    return new_endpoint_id(owner, os.urandom(8))
