"""The use-cases attach, detach and link: their order, and how each step is undone.

    attach   reserve an address (journalled) -> bind the interface -> resolver in the sandbox -> publish the record
    detach   withdraw the record -> resolver -> interface -> address

An address is on disk before it is in the kernel, and what is published is reachable on its own host. The name goes
before the container does. Whatever fails in the middle of an attach leaves nothing behind; whatever fails in the
middle of a detach is taken up again by the janitor (netagent.usecases.janitor): a detach begins by writing down that
the endpoint is only reserved from now on, so that not even a restart makes it whole again.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator, Set
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Protocol

import trio

from netagent.datapath import netns
from netagent.datapath.attach import Attacher
from netagent.errors import FailedError, InputError, NoError, RefusedError
from netagent.ipam.allocator import Allocator
from netagent.membership.participation import Participation, Publishes
from netagent.model.ids import EndpointId, NetworkId, bridge_name, vxlan_name
from netagent.model.records import Link
from netagent.model.request import AttachRequest
from netagent.model.sandbox import SandboxId
from netagent.projection.intent import local_endpoint
from netagent.registry import statement
from netagent.registry.journal import Journal
from netagent.registry.live import Live
from netagent.registry.row import LocalEndpointRow, Stage
from netagent.registry.view import NetworkView
from netagent.usecases import resolv_conf, targets
from netagent.usecases.endpoint_rules import (
    asked_offset,
    existing_endpoint,
    record_of,
    refuse_alias_in_use,
    refuse_unsupported,
    sandbox_of,
)
from netagent.usecases.finding import local_endpoint_called, network_called
from netagent.usecases.undo import UndoStack, all_or_nothing

SETTLED_S = 2.0
"""How long an attach or detach waits for this host's own kernel and resolver to have followed. Longer than that
something is wrong with them, which `status` shows; the endpoint itself is done."""
BRIDGE_S = 5.0
"""How long an attach waits for the network's devices to exist."""

logger = logging.getLogger("netagent.usecases.endpoints")


class Projection(Protocol):
    """What makes kernel and resolver follow (netagent.projection.loop)."""

    async def wait_followed(self, revision: int) -> None:
        """Until the kernel and then the names are those of `revision` or later."""

    async def wait_programmed(self, revision: int) -> None:
        """Until the kernel is."""

    def trouble_with(self, device: str) -> str | None:
        """Why the kernel refused something about this device."""


class Resolvers(Protocol):
    """The part of the resolver's supervisor that is used here."""

    async def ensure_listening(self, sandbox: SandboxId, netns_fd: int) -> None:
        """Make the sockets in the namespace, unless the resolver has them."""

    async def remove_sandbox(self, sandbox: SandboxId) -> None:
        """Close them."""

    async def keep_only(self, wanted: Set[SandboxId]) -> None:
        """Close all others."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EndpointParts:
    """What attaching needs."""

    live: Live
    journal: Journal
    publisher: Publishes
    allocator: Allocator
    participation: Participation
    attacher: Attacher
    resolvers: Resolvers
    projection: Projection
    domain: str
    boot_id: str


class Endpoints:
    """Attach, detach, link. One at a time in a sandbox, any number beside each other."""

    def __init__(self, parts: EndpointParts) -> None:
        self._parts = parts
        self._live = parts.live
        self._locks: dict[tuple[int, int], trio.Lock] = {}
        self._names_in_work: set[tuple[NetworkId, str]] = set()
        self._closed = False
        self.half_removed: set[EndpointId] = set()
        """Endpoints whose removal failed in the middle."""

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Attach nothing for the length of a block that ends the membership, and again if it fails."""
        self._closed = True
        try:
            yield
        except BaseException:
            self._closed = False
            raise

    # -- attach ----------------------------------------------------------------------------------------------

    async def attach(self, request: AttachRequest) -> tuple[LocalEndpointRow, bool]:
        """The endpoint, and whether it is new. InputError, RefusedError or FailedError; then nothing is left."""
        refuse_unsupported(request)
        if self._closed:
            raise RefusedError(
                "this host is leaving its cluster",
                code="leaving",
                thing=request.target,
                hint="join one first",
            )
        target = targets.resolve(request.target)
        network = network_called(self._live.view, request.network)
        with netns.opened_netns(target.path) as fd:
            async with self._sandbox_lock(netns.netns_identity(fd)):
                name = request.name or self._name_in(netns.netns_identity(fd)) or target.default_name
                if not name:
                    raise InputError(
                        f"{request.target} gives no name for the endpoint",
                        thing=request.target,
                        hint="add --name NAME",
                    )
                wanted = self._row(request, target, network, name, netns.netns_identity(fd))
                existing = existing_endpoint(self._live.rows.values(), wanted, request)
                if existing is not None:
                    return existing, False
                for link in request.links:
                    refuse_alias_in_use(self._live.rows.values(), sandbox_of(wanted), link)
                with self._claimed_name(wanted):
                    return await self._attach_new(wanted, request, target, fd), True

    async def _attach_new(
        self, row: LocalEndpointRow, request: AttachRequest, target: targets.Target, fd: int
    ) -> LocalEndpointRow:
        parts = self._parts
        await parts.participation.take_part(row.network_id)
        offset = asked_offset(self._live.view, request, self._network(row.network_id))
        async with all_or_nothing() as undo:
            row = await parts.allocator.reserve(row, offset)
            undo.push("address", lambda: parts.allocator.release(row))
            row = await self._bind(row, undo)
            await self._open_resolver(row, target, fd, undo)
            await parts.publisher.put(record_of(row))
            undo.push("record", lambda: parts.publisher.withdraw(record_of(row)))
            row = await self._save(dataclasses.replace(row, stage=Stage.PUBLISHED))
        await self._settle()
        logger.info("attached %s to %s as %s", row.target, row.network_id[:8], row.name)
        return row

    async def _bind(self, row: LocalEndpointRow, undo: UndoStack) -> LocalEndpointRow:
        parts, network = self._parts, self._network(row.network_id)
        self._live.set_row(row)
        undo.push("row", lambda: _async(lambda: self._live.drop_row(row.endpoint_id)))
        await self._wait_built(network)
        undo.push("interface", lambda: parts.attacher.unbind(row.endpoint_id))
        try:
            ifname = await parts.attacher.bind(
                local_endpoint(row, network), vni=network.record.vni, mtu_bytes=network.record.mtu_bytes
            )
        except FailedError:
            self._network(row.network_id)  # if it was removed, and the bridge with it, that is what to say
            raise
        if not netns_is(row):
            raise RefusedError(
                f"the network namespace of {row.target} vanished", code="namespace-gone", thing=row.target
            )
        return await self._save(dataclasses.replace(row, ifname=ifname, stage=Stage.BOUND))

    async def _wait_built(self, network: NetworkView) -> None:
        """Until the network's devices are in the kernel. What is published must be reachable, also from elsewhere."""
        projection, name = self._parts.projection, network.unique_name
        with trio.move_on_after(BRIDGE_S) as scope:
            await projection.wait_programmed(self._live.revision)
        if scope.cancelled_caught:
            text = f"the devices of network {name} were not there within {BRIDGE_S:.0f} s"
            raise FailedError(text, code="datapath", thing=name, hint="see `netagent status`")
        for device in (bridge_name(network.record.vni), vxlan_name(network.record.vni)):
            trouble = projection.trouble_with(device)
            if trouble:
                raise RefusedError(
                    f"network {name} can't be built on this host: {trouble}",
                    code="datapath",
                    thing=name,
                    hint="remove what is in the way, then attach again",
                )

    async def _open_resolver(
        self, row: LocalEndpointRow, target: targets.Target, fd: int, undo: UndoStack
    ) -> None:
        parts, sandbox = self._parts, sandbox_of(row)
        if not self._others_in_sandbox(row):
            undo.push("resolver", lambda: parts.resolvers.remove_sandbox(sandbox))
        await parts.resolvers.ensure_listening(sandbox, fd)
        if target.netns_name:
            undo.push("resolv.conf", lambda: _async(lambda: self.refresh_resolv_conf(row, gone=True)))
            self.refresh_resolv_conf(row)

    # -- detach ----------------------------------------------------------------------------------------------

    async def detach(self, text: str) -> LocalEndpointRow:
        """By id or name. InputError when several fit, RefusedError when it is another host's."""
        row = local_endpoint_called(self._live, text)
        await self.remove(row)
        return row

    async def remove(self, row: LocalEndpointRow) -> None:
        """Take an endpoint down, whether or not its namespace still exists. May be called again after a failure."""
        parts = self._parts
        async with self.held(row) as now:
            if now is None:
                return
            row = dataclasses.replace(now, stage=Stage.RESERVED)
            await self._mark(row)
            self.half_removed.add(row.endpoint_id)
            await parts.publisher.withdraw(record_of(row))
            await self._settle()
            if not self._others_in_sandbox(row):
                await parts.resolvers.remove_sandbox(sandbox_of(row))
            await parts.attacher.unbind(row.endpoint_id)
            self.refresh_resolv_conf(row, gone=True)
            await parts.allocator.release(row)
            self._live.drop_row(row.endpoint_id)
            self.half_removed.discard(row.endpoint_id)
        logger.info("detached %s (%s) from %s", row.name, row.target, row.network_id[:8])

    # -- links -----------------------------------------------------------------------------------------------

    async def link(self, text: str, link: Link) -> LocalEndpointRow:
        """In the endpoint's sandbox the alias means the service from now on; the same again changes nothing."""
        async with self._called(text) as row:
            refuse_alias_in_use(self._live.rows.values(), sandbox_of(row), link)
            if link in row.links:
                return row
            return await self._set_links(row, (*row.links, link))

    async def unlink(self, text: str, link: Link) -> LocalEndpointRow:
        """The reverse; NoError when there is no such link."""
        async with self._called(text) as row:
            if link not in row.links:
                raise NoError(f"{row.name} has no link {link.service}:{link.alias}", thing=row.name)
            return await self._set_links(row, tuple(known for known in row.links if known != link))

    # -- parts ---------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def held(self, row: LocalEndpointRow) -> AsyncIterator[LocalEndpointRow | None]:
        """The endpoint as it is now (None: gone), while nobody else changes anything in its sandbox."""
        async with self._sandbox_lock((row.netns_dev, row.netns_inode)):
            yield self._live.rows.get(row.endpoint_id)

    @asynccontextmanager
    async def _called(self, text: str) -> AsyncIterator[LocalEndpointRow]:
        async with self.held(local_endpoint_called(self._live, text)) as row:
            # Gone while we waited: say so in the same words as for one that never was.
            yield row if row is not None else local_endpoint_called(self._live, text)

    def _network(self, network_id: NetworkId) -> NetworkView:
        network = self._live.view.networks.get(network_id)
        if network is None:
            raise RefusedError(
                "the network was removed at the same moment", code="network-removed", thing=network_id[:8]
            )
        return network

    def _row(
        self,
        request: AttachRequest,
        target: targets.Target,
        network: NetworkView,
        name: str,
        identity: tuple[int, int],
    ) -> LocalEndpointRow:
        return LocalEndpointRow(
            endpoint_id=EndpointId(os.urandom(16).hex()),
            network_id=network.network_id,
            name=name,
            service=request.service or name,
            target=request.target,
            netns_path=target.path,
            netns_dev=identity[0],
            netns_inode=identity[1],
            boot_id=self._parts.boot_id,
            ifname=request.ifname,
            links=request.links,
            aliases=tuple(sorted(set(request.aliases))),
            ports=request.ports,
            labels=request.labels,
        )

    def _claimed_name(self, row: LocalEndpointRow) -> _Claim:
        key = (row.network_id, row.name)
        taken = key in self._names_in_work or any(
            other.network_id == row.network_id and other.name == row.name
            for other in self._live.rows.values()
        )
        if taken:
            raise RefusedError(
                f"the name {row.name!r} is used on this host in that network already",
                code="name-in-use",
                thing=row.name,
                hint="take another --name; give both the same --service to answer together",
            )
        return _Claim(self._names_in_work, key)

    def _name_in(self, identity: tuple[int, int]) -> str:
        for row in self._live.rows.values():
            if (row.netns_dev, row.netns_inode) == identity:
                return row.name
        return ""

    def _others_in_sandbox(self, row: LocalEndpointRow) -> bool:
        return any(
            sandbox_of(other) == sandbox_of(row) and other.endpoint_id != row.endpoint_id
            for other in self._live.rows.values()
        )

    def refresh_resolv_conf(self, row: LocalEndpointRow, *, gone: bool = False) -> None:
        """Have the sandbox's resolv.conf say what networks it is in; `gone`: as if the endpoint were not there."""
        target = targets.resolve(row.target)
        if not target.netns_name:
            return
        networks = [
            self._live.view.networks[mate.network_id].unique_name
            for mate in self._live.rows.values()
            if sandbox_of(mate) == sandbox_of(row)
            and not (gone and mate.endpoint_id == row.endpoint_id)
            and mate.network_id in self._live.view.networks
        ]
        try:
            if networks:
                text = resolv_conf.render(networks, self._parts.domain, resolv_conf.host_search())
                resolv_conf.write(target.netns_name, text)
            else:
                resolv_conf.remove(target.netns_name)
        except OSError as error:
            logger.warning("cannot write the resolv.conf of %s: %s", row.target, error)

    async def _mark(self, row: LocalEndpointRow) -> None:
        # Not `save_endpoint`: on a full disk that is refused, and detaching is what makes room.
        await self._parts.journal.transaction(statement.save_endpoint(row))
        self._live.set_row(row)

    async def _save(self, row: LocalEndpointRow) -> LocalEndpointRow:
        await self._parts.journal.save_endpoint(row)
        self._live.set_row(row)
        return row

    async def _set_links(self, row: LocalEndpointRow, links: tuple[Link, ...]) -> LocalEndpointRow:
        row = await self._save(dataclasses.replace(row, links=links))
        await self._settle()
        return row

    async def _settle(self) -> None:
        with trio.move_on_after(SETTLED_S):
            await self._parts.projection.wait_followed(self._live.revision)

    @asynccontextmanager
    async def _sandbox_lock(self, identity: tuple[int, int]) -> AsyncIterator[None]:
        lock = self._locks.setdefault(identity, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            # Whoever waits holds the lock by now, or is about to.
            if not lock.locked() and not lock.statistics().tasks_waiting:
                self._locks.pop(identity, None)


class _Claim:
    """A name that an attach in progress holds."""

    def __init__(self, names: set[tuple[NetworkId, str]], key: tuple[NetworkId, str]) -> None:
        self._names, self._key = names, key

    def __enter__(self) -> None:
        self._names.add(self._key)

    def __exit__(self, *_: object) -> None:
        self._names.discard(self._key)


def netns_is(row: LocalEndpointRow) -> bool:
    """True while the path still means the namespace that the endpoint was attached to."""
    try:
        status = Path(row.netns_path).stat()
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == (row.netns_dev, row.netns_inode)


async def _async(step: Callable[[], object]) -> None:
    step()
