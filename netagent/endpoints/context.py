"""The single steps of attaching and detaching, and the locks that serialise callers.

One caller at a time works on an endpoint: it holds the lock of the endpoint's origin, if a runtime made it, and then
the lock of its sandbox. All callers take them in this order, so they cannot deadlock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import trio

from netagent.datapath.endpoint.attach import Attacher
from netagent.datapath.reconcile.desired import LocalEndpoint
from netagent.endpoints import resolv_conf, targets
from netagent.endpoints.locks import Locks, NameLocks
from netagent.endpoints.published_ports import Ports
from netagent.endpoints.rollback import Rollback
from netagent.endpoints.validation import (
    fenced_by,
    has_default_route,
    is_told,
    links_told,
    record_of,
    without_names,
)
from netagent.errors import FailedError, NetagentError, RefusedError
from netagent.ipam.allocator import Allocator
from netagent.journal import statements
from netagent.journal.journal import Journal
from netagent.journal.rows import Bound, LocalEndpointRow, Published
from netagent.membership.participation import Participation
from netagent.model.ids import MAX_NAME, EndpointId, NetworkId, bridge_name, vxlan_name
from netagent.model.records import EndpointRecord
from netagent.model.sandbox import Netns, NetnsIdentity
from netagent.projection.controller import Projection
from netagent.projection.datapath_input import local_endpoint
from netagent.projection.resolver_sockets import ResolverSockets
from netagent.registry.publish import Publisher
from netagent.registry.state_store import StateStore
from netagent.registry.view import NetworkView

SETTLED_S = 2.0
"""How long an attach or detach waits until this host's kernel and resolver have caught up. If they take longer,
something is wrong with them, which `status` shows; the endpoint itself is complete."""
BRIDGE_S = 5.0
"""How long an attach waits for the network's devices to exist."""

logger = logging.getLogger("netagent.endpoints.context")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EndpointParts:
    """The parts that attaching needs."""

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
    runtimes: targets.RuntimeTargets
    domain: str
    boot_id: str


class EndpointContext:
    """One method per step; netagent.endpoints.lifecycle and netagent.endpoints.two_phase call them in order."""

    def __init__(self, parts: EndpointParts) -> None:
        self.parts = parts
        self.live = parts.live
        self.locks = Locks()
        self.names_in_work = NameLocks()
        self.ports_in_work = Ports()
        self.is_closed = False
        """True while the host is leaving: refuse attaches."""
        self.half_removed: set[EndpointId] = set()
        """Endpoints whose removal failed half way."""
        self.retreating: set[EndpointId] = set()
        """Endpoints whose names are withdrawn, because they are about to be detached."""
        self.untold: set[EndpointId] = set()
        """Endpoints whose changed record could not be published yet."""

    # -- locks -------------------------------------------------------------------------------------------------

    def locked(self, key: str | NetnsIdentity | None) -> contextlib.AbstractAsyncContextManager[None]:
        """Lock the endpoint of a runtime's origin, or a namespace. There is nothing to lock where an endpoint was
        attached by hand, or before its namespace is known."""
        return contextlib.nullcontext() if key is None else self.locks.held(key)

    @asynccontextmanager
    async def held(self, row: LocalEndpointRow) -> AsyncIterator[LocalEndpointRow | None]:
        """Yield the endpoint as it is now (None: gone) while the caller holds the locks of origin and sandbox."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.locked(row.origin))
            # The previous holder of the origin's lock may have bound the endpoint to a namespace.
            row = self.live.rows.get(row.endpoint_id, row)
            await stack.enter_async_context(self.locked(row.netns_identity))
            yield self.live.rows.get(row.endpoint_id)

    def record(self, row: LocalEndpointRow) -> EndpointRecord:
        """Return the record of an endpoint as it is to be published now."""
        others = [one for one in self.live.rows.mates_of(row) if one.endpoint_id != row.endpoint_id]
        network = self.live.view.networks.get(row.network_id)
        record = record_of(row, links_told(row, others, network, self.parts.domain))
        return without_names(record) if row.endpoint_id in self.retreating else record

    async def retell_mates(self, row: LocalEndpointRow) -> None:
        """Publish the records of the other endpoints in a row's sandbox that change with it; the garbage collector
        repeats what fails."""
        news = [
            record
            for mate in self.live.rows.mates_of(row)
            if mate.is_published
            and mate.endpoint_id != row.endpoint_id
            and not is_told(self.live.view, record := self.record(mate))
        ]
        if news:
            try:
                await self.parts.publisher.put(*news)
            except NetagentError:
                self.untold.update(record.endpoint_id for record in news)

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

    def with_origin(self, origin: str) -> LocalEndpointRow | None:
        """Return the endpoint with this origin, or None."""
        return self.live.rows.with_origin(origin)

    def is_name_taken(
        self, network_id: NetworkId, name: str, *, except_for: EndpointId | None = None
    ) -> bool:
        """True if another endpoint of this host has the name in the network, or is just getting it."""
        return (network_id, name) in self.names_in_work or any(
            other.endpoint_id != except_for for other in self.live.rows.called(network_id, name)
        )

    def free_name(
        self, network_id: NetworkId, wanted: str, endpoint_id: EndpointId, *, now: str | None = None
    ) -> str:
        """Return `wanted`, with a part of the endpoint's id appended if another endpoint has that name. `now`: its
        name until now.

        For names from a runtime: a name that is in use must not prevent its container from starting."""
        if not self.is_name_taken(network_id, wanted, except_for=endpoint_id):
            return wanted
        other = f"{wanted[: MAX_NAME - 5]}-{endpoint_id[:4]}"
        if other != now:
            logger.warning(
                "the name %s is already used on this host in that network: using %s", wanted, other
            )
        return other

    def others_in_sandbox(self, row: LocalEndpointRow) -> bool:
        """True if the namespace has further endpoints."""
        return any(other.endpoint_id != row.endpoint_id for other in self.live.rows.mates_of(row))

    def endpoint(self, row: LocalEndpointRow, network: NetworkView) -> LocalEndpoint:
        """Return the row in the datapath's form, with the gateways if it carries the sandbox's default route."""
        endpoint = local_endpoint(row, network)
        networks = self.live.view.networks
        internal = frozenset(one for one, known in networks.items() if known.record.internal)
        rows = [one for one in self.live.rows.mates_of(row) if one.endpoint_id not in self.half_removed]
        if not has_default_route(row, rows, internal):
            return endpoint
        return dataclasses.replace(
            endpoint, gateways=tuple(cidr.partition("/")[0] for cidr in network.record.gateways)
        )

    # -- steps ---------------------------------------------------------------------------------------------------

    async def wait_built(self, network: NetworkView) -> None:
        """Wait until the kernel has the network's devices, and the rules for all endpoints known by now: a published
        endpoint must be reachable, also from other hosts, and the firewall must check its packets from the first."""
        projection, name = self.parts.projection, network.unique_name
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
        resolvers = self.parts.resolvers
        if not self.others_in_sandbox(row):
            undo.push("resolver", lambda: resolvers.remove_sandbox(netns.sandbox_id))
        await resolvers.ensure_listening(netns.sandbox_id, fd, behind_runtime=netns.behind_runtime)

    async def publish(self, row: LocalEndpointRow, stage: Published) -> LocalEndpointRow:
        """Publish the record, and mark the row as published in the same write: the last step, with no undo."""
        row = dataclasses.replace(row, stage=stage)
        replaced = fenced_by(self.live.fenced, row)
        also = [*statements.save_endpoint(row), *(statements.unfence(one) for one in replaced)]
        await self.parts.publisher.change(put=[self.record(row)], also=also)
        self.live.set_row(row)
        if replaced:
            self.live.drop_fenced(replaced)
        if row.links:
            await self.retell_mates(row)
        return row

    async def take_down(self, row: LocalEndpointRow) -> LocalEndpointRow:
        """Withdraw the name, then remove the resolver and the interface; it counts as half removed until the caller
        says otherwise.

        The write that withdraws the name also marks the endpoint as only reserved, so that a restart does not
        complete it again."""
        if isinstance(row.stage, Published):
            row = dataclasses.replace(row, stage=Bound(row.stage.netns, row.stage.ifname))
        # Not `save`, which is refused on a full disk: detaching frees space.
        await self.parts.publisher.change(withdraw=[record_of(row)], also=statements.save_endpoint(row))
        self.live.set_row(row)
        self.half_removed.add(row.endpoint_id)
        await self.settle()
        if row.netns is not None and not self.others_in_sandbox(row):
            await self.parts.resolvers.remove_sandbox(row.netns.sandbox_id)
        await self.parts.attacher.unbind(row.endpoint_id)
        await self._hand_way_out_on(row)
        return row

    async def _hand_way_out_on(self, row: LocalEndpointRow) -> None:
        """Move the default route to the sandbox's next endpoint."""
        for mate in self.live.rows.mates_of(row):
            if not mate.is_published or not is_at_its_path(mate):
                continue
            try:
                network = self.network(mate.network_id)
                endpoint = self.endpoint(mate, network)
                if endpoint.gateways:
                    await self.parts.attacher.bind(endpoint)
            except NetagentError as error:  # netagent.endpoints.interfaces repairs it later
                logger.warning(
                    "cannot move the default route of %s to %s: %s", mate.target, mate.ifname, error
                )

    async def remove(self, row: LocalEndpointRow) -> None:
        """Take an endpoint down, whether or not its namespace still exists. May be called again after a failure."""
        async with self.held(row) as now:
            if now is None:
                return
            row = await self.take_down(now)
            self.refresh_resolv_conf(row, gone=True)
            await self.parts.allocator.release(row)
            self.live.drop_row(row.endpoint_id)
            self.half_removed.discard(row.endpoint_id)
            self.retreating.discard(row.endpoint_id)
            if row.links:
                await self.retell_mates(row)
            if self.others_in_sandbox(row):
                # Until then the sandbox may still resolve names of the network that it left.
                await self.settle()
        logger.info("detached %s (%s) from %s", row.name, row.target, row.network_id[:8])

    def refresh_resolv_conf(self, row: LocalEndpointRow, *, gone: bool = False) -> None:
        """Rewrite the resolv.conf of the row's namespace for the networks that it is in; `gone`: without the
        endpoint."""
        self._refresh_file(targets.named_netns(row), except_for=row.endpoint_id if gone else None)

    def remove_stale_resolv_confs(self) -> None:
        """Remove the files of names that no endpoint of this host uses: the journal was lost, or restored from a
        backup."""
        used = {targets.named_netns(row) for row in self.live.rows.values()}
        for netns_name in resolv_conf.written_names():
            if netns_name not in used:
                logger.info("removing the resolv.conf of %s, which no endpoint uses", netns_name)
                resolv_conf.remove(netns_name)

    def _refresh_file(self, netns_name: str, *, except_for: EndpointId | None = None) -> None:
        """The file belongs to a name, and so to the namespace that has the name now. That may be another one than the
        endpoint was attached to: then the endpoint does not count, and its end does not change the file that the
        later endpoint got."""
        if not netns_name:
            return
        identity = identity_at(str(targets.NETNS_FOLDER / netns_name))
        mates = [
            row
            for row in (self.live.rows.in_namespace(identity) if identity is not None else ())
            # An inode number means nothing in another boot.
            if row.netns and row.netns.boot_id == self.parts.boot_id and row.endpoint_id != except_for
        ]
        is_named = any(targets.named_netns(mate) == netns_name for mate in mates)
        networks = [
            self.live.view.networks[mate.network_id].unique_name
            for mate in mates
            if mate.network_id in self.live.view.networks
        ]
        try:
            if is_named and networks:
                text = resolv_conf.render(networks, self.parts.domain, resolv_conf.host_search())
                resolv_conf.write(netns_name, text)
            else:
                resolv_conf.remove(netns_name)
        except OSError as error:
            logger.warning("cannot write the resolv.conf of namespace %s: %s", netns_name, error)

    async def save(self, row: LocalEndpointRow) -> LocalEndpointRow:
        """Write the row to disk, then make it known to the state store."""
        await self.parts.journal.save_endpoint(row)
        self.live.set_row(row)
        return row

    async def settle(self) -> None:
        """Give this host's kernel and resolver time to catch up."""
        with trio.move_on_after(SETTLED_S):
            await self.parts.projection.wait_followed(self.live.revision)

    def name_in(self, identity: NetnsIdentity) -> str:
        """Return the name of the first endpoint of a namespace; '' when it has none."""
        return next((row.name for row in self.live.rows.in_namespace(identity)), "")


@contextlib.contextmanager
def closed(steps: EndpointContext) -> Iterator[None]:
    """Refuse attaches during a block that ends the membership; allow them again only if the block fails."""
    steps.is_closed = True
    try:
        yield
    except BaseException:
        steps.is_closed = False
        raise


def drawn_id() -> EndpointId:
    """Draw a random id for a new endpoint."""
    return EndpointId(os.urandom(16).hex())


def identity_at(path: str) -> NetnsIdentity | None:
    """Return device and inode of the namespace at this path now; None when there is none."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def is_at_its_path(row: LocalEndpointRow) -> bool:
    """True while the path still leads to the namespace that the endpoint was attached to."""
    return row.netns is not None and identity_at(row.netns.path) == row.netns.identity


async def as_async(step: Callable[[], object]) -> None:
    """Call a synchronous step where an asynchronous one is expected."""
    step()
