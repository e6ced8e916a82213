"""The single steps of attaching and detaching, and what keeps two callers apart while they take them.

An endpoint is worked on by one caller at a time: under the lock of its origin, if a runtime made it, and then under
that of its sandbox. In this order always, so that nobody waits for somebody who waits for him.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Set
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Protocol

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
    sandbox_of,
    without_names,
)
from netagent.errors import FailedError, NetagentError, RefusedError
from netagent.ipam.allocator import Allocator
from netagent.journal import statements
from netagent.journal.journal import Journal
from netagent.journal.rows import LocalEndpointRow, Stage
from netagent.membership.participation import Participation, RecordPublisher
from netagent.model.ids import MAX_NAME, EndpointId, NetworkId, bridge_name, vxlan_name
from netagent.model.records import EndpointRecord
from netagent.model.sandbox import SandboxId
from netagent.projection.datapath_input import local_endpoint
from netagent.registry.state_store import StateStore
from netagent.registry.view import NetworkView

SETTLED_S = 2.0
"""How long an attach or detach waits for this host's own kernel and resolver to have followed. Longer than that
something is wrong with them, which `status` shows; the endpoint itself is done."""
BRIDGE_S = 5.0
"""How long an attach waits for the network's devices to exist."""

logger = logging.getLogger("netagent.endpoints.context")


class ProjectionBarrier(Protocol):
    """What makes kernel and resolver follow (netagent.projection.controller)."""

    async def wait_followed(self, revision: int) -> None:
        """Until the kernel and then the names are those of `revision` or later."""

    async def wait_in_kernel(self, devices: Collection[str], revision: int) -> None:
        """Until these devices are in the kernel to stay, or the kernel state of `revision` has been tried."""

    async def wait_guarded(self, revision: int) -> str:
        """Until the firewall is that of `revision` or a later one; why it can't be, or nothing."""

    def trouble_with(self, device: str) -> str | None:
        """Why the kernel refused something about this device."""


class SandboxResolvers(Protocol):
    """The part of the resolver's supervisor that is used here."""

    async def ensure_listening(self, sandbox: SandboxId, netns_fd: int, *, behind_runtime: bool) -> None:
        """Make the sockets in the namespace, unless the resolver has them."""

    async def remove_sandbox(self, sandbox: SandboxId) -> None:
        """Close them."""

    async def keep_only(self, wanted: Set[SandboxId]) -> None:
        """Close all others."""

    async def repair(self) -> None:
        """Make anew what queries are led to them by, where it is gone."""


class NameWithdrawal(Protocol):
    """Other hosts, whose names are waited for (netagent.daemon.withdraw)."""

    async def wait_endpoint_hidden(self, row: LocalEndpointRow) -> None:
        """Until no name leads to the endpoint, which was told without its names; not for long."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EndpointParts:
    """What attaching needs."""

    live: StateStore
    journal: Journal
    publisher: RecordPublisher
    allocator: Allocator
    participation: Participation
    attacher: Attacher
    resolvers: SandboxResolvers
    projection: ProjectionBarrier
    withdrawal: NameWithdrawal
    runtimes: targets.RuntimeTargets
    domain: str
    boot_id: str


class EndpointContext:
    """One step each; the order is that of netagent.endpoints.lifecycle and netagent.endpoints.two_phase."""

    def __init__(self, parts: EndpointParts) -> None:
        self.parts = parts
        self.live = parts.live
        self.locks = Locks()
        self.names_in_work = NameLocks()
        self.ports_in_work = Ports()
        self.is_closed = False
        """The host is leaving: attach nothing."""
        self.half_removed: set[EndpointId] = set()
        """Endpoints whose removal failed in the middle."""
        self.retreating: set[EndpointId] = set()
        """Endpoints that have no names any more, because they are about to go."""
        self.untold: set[EndpointId] = set()
        """Endpoints of which others could not be told what has changed."""

    # -- who works on what -------------------------------------------------------------------------------------

    def origin_lock(self, origin: str) -> contextlib.AbstractAsyncContextManager[None]:
        """Alone with what a runtime calls so; nothing to lock for endpoints attached by hand."""
        return self.locks.held(origin) if origin else contextlib.nullcontext()

    def sandbox_lock(self, identity: tuple[int, int]) -> contextlib.AbstractAsyncContextManager[None]:
        """Alone in a namespace; nothing to lock before it is known."""
        return self.locks.held(identity) if identity != (0, 0) else contextlib.nullcontext()

    @asynccontextmanager
    async def held(self, row: LocalEndpointRow) -> AsyncIterator[LocalEndpointRow | None]:
        """The endpoint as it is now (None: gone), while nobody else changes anything in its sandbox."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.origin_lock(row.origin))
            # Whoever had the origin may have found the namespace.
            row = self.live.rows.get(row.endpoint_id, row)
            await stack.enter_async_context(self.sandbox_lock((row.netns_dev, row.netns_inode)))
            yield self.live.rows.get(row.endpoint_id)

    def record(self, row: LocalEndpointRow) -> EndpointRecord:
        """What others are told of an endpoint now."""
        others = [one for one in self.live.rows.mates_of(row) if one.endpoint_id != row.endpoint_id]
        network = self.live.view.networks.get(row.network_id)
        record = record_of(row, links_told(row, others, network, self.parts.domain))
        return without_names(record) if row.endpoint_id in self.retreating else record

    async def retell_mates(self, row: LocalEndpointRow) -> None:
        """Tell what has changed about the others in a row's sandbox with it; what fails, the janitor does later."""
        news = [
            record
            for mate in self.live.rows.mates_of(row)
            if mate.stage is Stage.PUBLISHED
            and mate.endpoint_id != row.endpoint_id
            and not is_told(self.live.view, record := self.record(mate))
        ]
        if news:
            try:
                await self.parts.publisher.put(*news)
            except NetagentError:
                self.untold.update(record.endpoint_id for record in news)

    def refuse_if_closed(self, thing: str) -> None:
        """RefusedError while the host leaves its cluster."""
        if self.is_closed:
            raise RefusedError(
                "this host is leaving its cluster", code="leaving", thing=thing, hint="join one first"
            )

    # -- facts ---------------------------------------------------------------------------------------------------

    def network(self, network_id: NetworkId) -> NetworkView:
        """RefusedError when it was removed meanwhile."""
        network = self.live.view.networks.get(network_id)
        if network is None:
            raise RefusedError(
                "the network was removed at the same moment", code="network-removed", thing=network_id[:8]
            )
        return network

    def with_origin(self, origin: str) -> LocalEndpointRow | None:
        """The endpoint that a runtime calls so."""
        return self.live.rows.with_origin(origin)

    def is_name_taken(
        self, network_id: NetworkId, name: str, *, except_for: EndpointId | None = None
    ) -> bool:
        """Whether another endpoint of this host has the name in the network, or is just getting it."""
        return (network_id, name) in self.names_in_work or any(
            other.endpoint_id != except_for for other in self.live.rows.called(network_id, name)
        )

    def free_name(self, row: LocalEndpointRow, wanted: str) -> str:
        """`wanted`, or with a part of the endpoint's id behind it when another endpoint has it.

        For names that a runtime gave: its container starts whether or not we like what it is called."""
        if not self.is_name_taken(row.network_id, wanted, except_for=row.endpoint_id):
            return wanted
        other = f"{wanted[: MAX_NAME - 5]}-{row.endpoint_id[:4]}"
        if other != row.name:
            logger.warning("the name %s is used on this host in that network already: %s", wanted, other)
        return other

    def others_in_sandbox(self, row: LocalEndpointRow) -> bool:
        """Whether the namespace has more endpoints than this one."""
        return any(other.endpoint_id != row.endpoint_id for other in self.live.rows.mates_of(row))

    def endpoint(self, row: LocalEndpointRow) -> LocalEndpoint:
        """The row as the datapath wants it, with the sandbox's way out if that leads by it. RefusedError as
        `network`."""
        network = self.network(row.network_id)
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
        """Until the network's devices are in the kernel, and the rules for all endpoints known by now. What is
        published must be reachable, also from elsewhere, and what comes out of it is judged from the first packet."""
        projection, name = self.parts.projection, network.unique_name
        devices = (bridge_name(network.record.vni), vxlan_name(network.record.vni))
        with trio.move_on_after(BRIDGE_S) as scope:
            await projection.wait_in_kernel(devices, self.live.revision)
            guard_trouble = await projection.wait_guarded(self.live.revision)
        if scope.cancelled_caught:
            text = f"the devices and rules of network {name} were not there within {BRIDGE_S:.0f} s"
            raise FailedError(text, code="datapath", thing=name, hint="see `netagent status`")
        for device in devices:
            trouble = projection.trouble_with(device)
            if trouble:
                raise RefusedError(
                    f"network {name} can't be built on this host: {trouble}",
                    code="datapath",
                    thing=name,
                    hint="remove what is in the way, then attach again",
                )
        if guard_trouble:
            raise RefusedError(
                f"network {name} can't be guarded on this host: {guard_trouble}", code="firewall", thing=name
            )

    async def open_resolver(self, row: LocalEndpointRow, fd: int, undo: Rollback) -> None:
        """Have names answered in the row's sandbox, whose namespace `fd` is."""
        parts, sandbox = self.parts, sandbox_of(row)
        if not self.others_in_sandbox(row):
            undo.push("resolver", lambda: parts.resolvers.remove_sandbox(sandbox))
        await parts.resolvers.ensure_listening(sandbox, fd, behind_runtime=row.behind_runtime)

    async def publish(self, row: LocalEndpointRow) -> LocalEndpointRow:
        """Tell the others, and note in the same write that they may know: the last step, which needs no undoing."""
        row = dataclasses.replace(row, stage=Stage.PUBLISHED)
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
        """Withdraw the name, then the resolver and the interface; half removed until the caller says otherwise.

        With the name's end is written down that the endpoint is only reserved from now on, so that not even a restart
        makes it whole again."""
        row = dataclasses.replace(row, stage=Stage.RESERVED)
        # Not `save`: on a full disk that is refused, and detaching is what makes room.
        await self.parts.publisher.change(withdraw=[record_of(row)], also=statements.save_endpoint(row))
        self.live.set_row(row)
        self.half_removed.add(row.endpoint_id)
        await self.settle()
        if row.netns_inode and not self.others_in_sandbox(row):
            await self.parts.resolvers.remove_sandbox(sandbox_of(row))
        await self.parts.attacher.unbind(row.endpoint_id)
        await self._hand_way_out_on(row)
        return row

    async def _hand_way_out_on(self, row: LocalEndpointRow) -> None:
        """The sandbox's next endpoint gives the default route from now on."""
        for mate in self.live.rows.mates_of(row):
            if mate.stage is not Stage.PUBLISHED or not netns_is(mate):
                continue
            try:
                endpoint, record = self.endpoint(mate), self.network(mate.network_id).record
                if endpoint.gateways:
                    await self.parts.attacher.bind(endpoint, vni=record.vni, mtu_bytes=record.mtu_bytes)
            except NetagentError as error:  # whoever looks after interfaces sees it, too
                logger.warning("cannot give %s its way out by %s: %s", mate.target, mate.ifname, error)

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
                # Until then the sandbox may still look up names of the network that it left.
                await self.settle()
        logger.info("detached %s (%s) from %s", row.name, row.target, row.network_id[:8])

    def refresh_resolv_conf(self, row: LocalEndpointRow, *, gone: bool = False) -> None:
        """Have the resolv.conf of the row's namespace say what networks that is in; `gone`: as if the endpoint were
        not there."""
        if not row.origin:  # a runtime writes its containers' files itself
            self._refresh_file(
                targets.netns_name_of(row.netns_path), except_for=row.endpoint_id if gone else None
            )

    def leave_netns_name(self, row: LocalEndpointRow) -> None:
        """The row's namespace lost its name and lives on: the file of that name follows from who has it now."""
        if not row.origin:
            self._refresh_file(targets.netns_name_of(row.netns_path))

    def remove_stale_resolv_confs(self) -> None:
        """Take away the files of names by which no endpoint of this host is attached: the journal was lost, or is an
        older one."""
        used = {targets.netns_name_of(row.netns_path) for row in self.live.rows.values() if not row.origin}
        for netns_name in resolv_conf.written_names():
            if netns_name not in used:
                logger.info("removing the resolv.conf of %s, which no endpoint uses", netns_name)
                resolv_conf.remove(netns_name)

    def _refresh_file(self, netns_name: str, *, except_for: EndpointId | None = None) -> None:
        """The file belongs to a name, and so to the namespace that has the name at this moment, which may be another
        than the one that an endpoint was attached to: then the endpoint has no part in it, and its end changes
        nothing of what its successor was given."""
        if not netns_name:
            return
        identity = identity_at(str(targets.NETNS_FOLDER / netns_name))
        mates = [
            row
            for row in (self.live.rows.in_namespace(identity) if identity is not None else ())
            # An inode's number means nothing in another boot.
            if row.boot_id == self.parts.boot_id and row.endpoint_id != except_for
        ]
        is_named = any(
            targets.netns_name_of(mate.netns_path) == netns_name and not mate.origin for mate in mates
        )
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
        """On disk, then known."""
        await self.parts.journal.save_endpoint(row)
        self.live.set_row(row)
        return row

    async def settle(self) -> None:
        """Give this host's own kernel and resolver the time to follow."""
        with trio.move_on_after(SETTLED_S):
            await self.parts.projection.wait_followed(self.live.revision)

    def name_in(self, identity: tuple[int, int]) -> str:
        """What the first endpoint of a namespace is called; '' when it has none."""
        return next((row.name for row in self.live.rows.in_namespace(identity)), "")


@contextlib.contextmanager
def closed(steps: EndpointContext) -> Iterator[None]:
    """Attach nothing for the length of a block that ends the membership, and again if it fails."""
    steps.is_closed = True
    try:
        yield
    except BaseException:
        steps.is_closed = False
        raise


def drawn_id() -> EndpointId:
    """A new endpoint's."""
    return EndpointId(os.urandom(16).hex())


def identity_at(path: str) -> tuple[int, int] | None:
    """Device and inode of the namespace that the path means now; None when there is none."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def netns_is(row: LocalEndpointRow) -> bool:
    """True while the path still means the namespace that the endpoint was attached to."""
    return identity_at(row.netns_path) == (row.netns_dev, row.netns_inode)


async def as_async(step: Callable[[], object]) -> None:
    """A step that does not wait, where one that may is expected."""
    step()
