"""The use-cases attach, detach, link and change: their order, and how each step is undone.

    attach   reserve an address (journalled) -> publish the record without names
             -> bind the interface -> resolver in the sandbox -> publish the record
    detach   withdraw the names on all hosts -> let requests finish
             -> withdraw the record -> resolver -> interface -> address

An address is on disk before it is in the kernel, and a published endpoint is reachable on its own host. The name goes
before the container does. An attach that fails half way leaves nothing behind; the garbage collector
(netagent.endpoints.garbage_collector) completes a detach that fails half way. A runtime that moves the interface
itself attaches in stages (netagent.endpoints.two_phase).
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from types import EllipsisType
from typing import Any

from netagent.datapath.endpoint.netns import netns_identity, opened_netns
from netagent.endpoints import targets
from netagent.endpoints.attach_times import Stages
from netagent.endpoints.claims import refuse_if_listening, refuse_unreachable
from netagent.endpoints.context import EndpointContext, drawn_id
from netagent.endpoints.drain import DETACH_DRAIN_S, REMEMBERED_S, Drains, until_idle
from netagent.endpoints.fencing import unfence
from netagent.endpoints.find import fenced_called, local_endpoint_called, network_called
from netagent.endpoints.news import tell_change
from netagent.endpoints.removal import Removal
from netagent.endpoints.rollback import Rollback, all_or_nothing
from netagent.endpoints.targets import is_at_its_path
from netagent.endpoints.two_phase import TwoPhaseAttach
from netagent.endpoints.validation import (
    NewEndpoint,
    asked_offset,
    existing_endpoint,
    health_of_new,
    refuse_alias_in_use,
    refuse_beyond,
    refuse_commands,
    refuse_mac_in_use,
    repeated,
)
from netagent.errors import FailedError, InputError, NetagentError, NotFoundError, RefusedError
from netagent.journal.rows import LocalEndpointRow, Published
from netagent.model.check import Check, CheckedHealth
from netagent.model.ids import EndpointId
from netagent.model.publication import Publication
from netagent.model.records import Group, Health, Link, Port
from netagent.model.request import AttachRequest
from netagent.model.sandbox import Netns, NetnsIdentity
from netagent.registry.view import NetworkView

logger = logging.getLogger("netagent.endpoints.lifecycle")


class Endpoints:
    """Attach, detach, link, change: one at a time in each sandbox, concurrently in different ones."""

    def __init__(self, context: EndpointContext) -> None:
        self.context = context
        self.removal = Removal(context)
        self.staged = TwoPhaseAttach(context, self.removal)
        self.drains = Drains(context)
        self._live = context.live
        self.look_after: Callable[[LocalEndpointRow], Awaitable[None]] = _leave_it
        """The garbage collector's check: withdraws an endpoint whose container is gone."""

    # -- attach ----------------------------------------------------------------------------------------------

    async def attach(
        self,
        request: AttachRequest,
        *,
        origin: str | None = None,
        target: targets.Target | None = None,
        holds_ports: bool = False,
        health: Health = Health.UNKNOWN,
    ) -> tuple[LocalEndpointRow, bool]:
        """Attach a sandbox; return the endpoint, and whether it is new. Raises InputError, RefusedError or
        FailedError, and then leaves nothing behind.

        A runtime passes its `origin` and, by `target`, the namespace. The same origin again is the same endpoint, and
        a name that is in use does not prevent its container from starting (EndpointContext.free_name).
        `holds_ports`: the runtime itself ensures that no other program listens on the published ports, and may listen
        there itself. `health`: of a new endpoint.
        """
        self.context.refuse_if_closed(request.target)
        refuse_commands(request, origin)
        target = target or await targets.resolve(request.target, self.context.runtimes)
        network = network_called(self._live.view, request.network)
        await self._sweep_rivals(request, network, request.name or target.default_name)
        with opened_netns(target.path) as fd:
            identity = netns_identity(fd)
            async with self.context.locked(origin), self.context.locked(identity):
                name = request.name or self._name_in(identity) or target.default_name
                if not name:
                    raise InputError(
                        f"no valid endpoint name can be derived from {request.target}",
                        thing=request.target,
                        hint="add --name NAME",
                    )
                netns = Netns(target.path, identity, self.context.boot_id, target.behind_runtime)
                group = request.group or self._group_in(identity)
                new = NewEndpoint.named(
                    name,
                    request=dataclasses.replace(request, group=group),
                    endpoint_id=drawn_id(self._live.view.local),
                    network=network,
                    netns=netns,
                    origin=origin,
                    health=health,
                )
                if origin is not None:
                    known = self._live.rows.with_origin(origin)
                    if known is not None:
                        return repeated(known, new), False
                    name = self.context.free_name(network.network_id, name, new.endpoint_id)
                    new = dataclasses.replace(new, request=dataclasses.replace(new.request, name=name))
                mates = self._live.rows.in_sandbox(netns)
                refuse_beyond(request.within, mates)
                existing = existing_endpoint(mates, new)
                if existing is not None:
                    return existing, False
                for link in request.links:
                    refuse_alias_in_use(mates, link)
                refuse_unreachable(request.publish, network)
                if not holds_ports:
                    await refuse_if_listening(request.publish)
                claims = self.context.claims
                with (
                    claims.name(network.network_id, new.request.name),
                    claims.ports(request.publish, new.endpoint_id),
                    self.context.times.attach(request.target, origin) as stages,
                ):
                    return await self._attach_new(new, netns, fd, stages), True

    async def _sweep_rivals(self, request: AttachRequest, network: NetworkView, name: str) -> None:
        """Withdraw endpoints of ended containers that have what a new one requests: the end of a container is not
        reported, and the garbage collector runs once per second. Call it before holding any lock: it takes the locks
        of the other endpoints."""
        rows = self._live.rows
        rivals = rows.called(network.network_id, name)
        rivals += [
            row for row in rows.publishing() if any(a.meets(b) for a in row.publish for b in request.publish)
        ]
        if request.addresses or request.mac:
            rivals += [
                row
                for row in rows.in_network(network.network_id).values()
                if row.mac == request.mac or not set(request.addresses).isdisjoint(row.addresses)
            ]
        for row in {row.endpoint_id: row for row in rivals}.values():
            if not is_at_its_path(row):
                await self.look_after(row)

    async def _attach_new(self, new: NewEndpoint, netns: Netns, fd: int, stages: Stages) -> LocalEndpointRow:
        context, request = self.context, new.request
        await context.participation.take_part(new.network.network_id)
        stages.end("network")
        context.refuse_if_closed(request.target)  # it may have taken seconds
        network = context.network(new.network.network_id)
        offset = asked_offset(self._live.view, request.addresses, network)
        refuse_mac_in_use(self._live, new, offset)
        async with all_or_nothing() as undo:
            held = await context.allocator.hold(network.network_id, offset)
            row = new.at(held, int(time.time()))
            await context.allocator.keep(row)
            undo.push("address", lambda: context.allocator.release(row))
            stages.end("address")
            # Containers that talked to the previous holder of the address still have its MAC in their neighbour
            # tables and answer the first packet at once: by then their bridges must know where that MAC is now.
            undo.push("record", lambda: context.records.withdraw(row))
            await context.records.publish_path(row)
            stages.end("record")
            ifname = await self._bind(row, network, undo)
            stages.end("interface")
            await context.open_resolver(row, netns, fd, undo)
            undo.push("resolv.conf", lambda: context.resolv_confs.refresh(row, gone=True))
            context.resolv_confs.refresh(row)
            stages.end("resolver")
            row = await context.publish(row, Published(netns, ifname))
            stages.end("publish")
        await context.settle()
        stages.end("settle")
        context.tell_attached(row)
        return row

    async def _bind(self, row: LocalEndpointRow, network: NetworkView, undo: Rollback) -> str:
        """Bind the interface; return its name."""
        attacher = self.context.attacher
        self._live.set_row(row)
        undo.push("row", lambda: self._live.drop_row(row.endpoint_id))
        await self.context.wait_built(network)
        undo.push("interface", lambda: attacher.unbind(row.endpoint_id))
        try:
            ifname = await attacher.bind(self.context.in_datapath(row, network))
        except FailedError:
            # If the network was removed, and its bridge with it, say so instead.
            self.context.network(row.network_id)
            raise
        if not is_at_its_path(row):
            raise RefusedError(
                f"the network namespace of {row.target} vanished", code="namespace-gone", thing=row.target
            )
        return ifname

    # -- detach ----------------------------------------------------------------------------------------------

    async def detach(self, text: str, drain_s: float | None = None) -> LocalEndpointRow:
        """Detach an endpoint by id or name. InputError when several match, RefusedError when it is another host's.

        With `drain_s`, clients with a cached address get that time; without, only open connections get a moment. For
        a fenced endpoint, this drops the note.
        """
        fenced = fenced_called(self._live, text)
        if fenced is not None:
            await unfence(self._live, self.context.journal, [fenced.endpoint_id])
            return fenced
        row = local_endpoint_called(self._live, text)
        await self._remove_in_use(row, drain_s)
        return row

    async def _remove_in_use(self, row: LocalEndpointRow, drain_s: float | None) -> None:
        """Remove an endpoint that clients may talk to. If that fails, it has its names again."""
        try:
            await self._withdraw_names(row, drain_s)
            await self.remove(row)
        except NetagentError:
            await self._restore_names(row)
            raise

    async def _withdraw_names(self, row: LocalEndpointRow, drain_s: float | None) -> None:
        """Withdraw the endpoint's names, and let open requests finish. The endpoint keeps working meanwhile."""
        async with self.context.held(row) as now:
            if now is None or not now.is_published:
                return
            before = self.context.records.of(now)
            self.context.records.nameless.add(now.endpoint_id)
            if self.context.records.of(now) != before:
                with suppress(NetagentError):  # on a full disk, continue: the removal frees space
                    await self.context.publisher.put(self.context.records.of(now))
        await self.context.wait_hidden(now)
        at_least_s, at_most_s = (0.0, DETACH_DRAIN_S) if drain_s is None else (REMEMBERED_S, drain_s)
        await until_idle([now], at_least_s=at_least_s, at_most_s=at_most_s)

    async def _restore_names(self, row: LocalEndpointRow) -> None:
        """Restore the names after a failed detach, unless the removal has begun."""
        self.context.records.nameless.discard(row.endpoint_id)
        async with self.context.held(row) as now:
            if now is not None and now.is_published:
                self.context.records.unpublished.add(now.endpoint_id)
                with suppress(NetagentError):
                    await self.context.publisher.put(self.context.records.of(now))

    async def detach_origin(self, origin: str, *, may_be_in_use: bool = False) -> LocalEndpointRow | None:
        """Detach the endpoint of a runtime's origin, at any stage; None when there is none.

        If it may be in use, the path stays until its names are gone on all hosts and open requests had a moment."""
        async with self.context.locked(origin):
            row = self._live.rows.with_origin(origin)  # read it again: an attach in progress has ended
        if row is not None:
            if may_be_in_use and is_at_its_path(row):
                await self._remove_in_use(row, None)
            else:
                await self.remove(row)
        return row

    async def remove(self, row: LocalEndpointRow, why: str = "") -> None:
        """Take an endpoint down, whether or not its namespace still exists. May be called again after a failure."""
        await self.removal.remove(row, why)

    async def remove_all(self, why: str = "") -> int:
        """Remove all endpoints while `closed`, including those of attaches in progress; return their number."""
        count = 0
        while rows := list(self._live.rows.values()):
            for row in rows:
                await self.remove(row, why)
            count += len(rows)
        return count

    def gateways_of(self, row: LocalEndpointRow) -> tuple[str, ...]:
        """Return the gateways of the sandbox's default route, if this endpoint carries it; without prefix length."""
        return self.context.in_datapath(row, self.context.network(row.network_id)).gateways

    # -- drain -----------------------------------------------------------------------------------------------

    async def drain(self, text: str, by: str, wait_s: float | None) -> tuple[LocalEndpointRow, bool | None]:
        """Withdraw an endpoint's names until `undrain`; return it when they are gone on all hosts that answer. With
        `wait_s`, also whether no connection is open by then, after clients have dropped cached addresses."""
        row = await self.drains.begin(local_endpoint_called(self._live, text).endpoint_id, by)
        if row is None:
            raise _incomplete(text)
        await self.context.wait_hidden(row)
        if wait_s is None:
            return row, None
        return row, await until_idle([row], at_least_s=REMEMBERED_S, at_most_s=wait_s)

    async def undrain(self, text: str) -> LocalEndpointRow:
        """Give the names of an endpoint back."""
        row = await self.drains.end(local_endpoint_called(self._live, text).endpoint_id)
        if row is None:
            raise _incomplete(text)
        await self.context.settle()
        return row

    # -- change ----------------------------------------------------------------------------------------------

    async def link(self, text: str, link: Link) -> LocalEndpointRow:
        """Make the alias resolve to the service in the endpoint's sandbox; repeating it changes nothing."""
        async with self._called(text) as row:
            refuse_alias_in_use(self._live.rows.mates_of(row), link)
            if link in row.links:
                return row
            return await self._set_links(row, (*row.links, link))

    async def unlink(self, text: str, link: Link) -> LocalEndpointRow:
        """Remove a link; NotFoundError when there is no such link."""
        async with self._called(text) as row:
            if link not in row.links:
                text = link.service if link.alias == link.service else f"{link.service}:{link.alias}"
                raise NotFoundError(f"{row.name} has no link {text}", thing=row.name)
            return await self._set_links(row, tuple(known for known in row.links if known != link))

    async def publish(self, text: str, publication: Publication) -> LocalEndpointRow:
        """Forward ports of this host to the endpoint; repeating it changes nothing."""
        async with self._called(text) as row:
            if publication in row.publish:
                return row
            refuse_unreachable([publication], self.context.network(row.network_id))
            if any(known.meets(publication) for known in row.publish):
                raise RefusedError(
                    f"port {publication.host_text}/{publication.protocol} of this host already leads to "
                    f"another port of {row.name}",
                    code="port-in-use",
                    thing=publication.text,
                    hint=f"`netagent unpublish {row.name} PORT` first",
                )
            await refuse_if_listening([publication])
            with self.context.claims.ports((publication,), row.endpoint_id):
                published = tuple(sorted((*row.publish, publication)))
                changed = await self.context.save(dataclasses.replace(row, publish=published))
        await self.context.settle()
        return changed

    async def unpublish(self, text: str, publication: Publication) -> LocalEndpointRow:
        """Stop forwarding ports; no error if they are not published."""
        async with self._called(text) as row:
            if publication not in row.publish:
                return row
            left = tuple(known for known in row.publish if known != publication)
            changed = await self.context.save(dataclasses.replace(row, publish=left))
        await self.context.settle()
        return changed

    async def change(
        self,
        endpoint_id: EndpointId,
        *,
        name: str | None = None,
        service: str | None = None,
        aliases: tuple[str, ...] | None = None,
        ports: tuple[Port, ...] | None = None,
        weight: int | None = None,
        labels: tuple[tuple[str, str], ...] | None = None,
        links: tuple[Link, ...] | None = None,
        health: Health | None = None,
        checks: tuple[Check, ...] | None = None,
        keeps_names: bool | None = None,
        group: Group | EllipsisType | None = ...,
    ) -> LocalEndpointRow | None:
        """Change fields that a runtime learns later; fields not given stay. None when the endpoint is gone."""
        row = self._live.rows.get(endpoint_id)
        if row is None:
            return None
        async with self.context.held(row) as now:
            if now is None:
                return None
            given: dict[str, Any] = {
                "service": service,
                "aliases": None if aliases is None else tuple(sorted(set(aliases))),
                "ports": ports,
                "weight": weight,
                "labels": labels,
                "links": links,
                "health": health,
                "checks": checks,
                "keeps_names": keeps_names,
                "name": self.context.free_name(now.network_id, name, now.endpoint_id, now=now.name)
                if name
                else None,
            }
            given = {key: value for key, value in given.items() if value is not None}
            changed = dataclasses.replace(now, group=now.group if group is ... else group, **given)
            if changed.health is not now.health:
                changed = dataclasses.replace(changed, health_since_s=int(time.time()))
            if changed.checks != now.checks:
                changed = dataclasses.replace(
                    changed, checked=health_of_new(changed.checks, int(time.time()))
                )
            if changed == now:
                return now
            return await self._save(now, changed)

    async def set_checked(self, seen: LocalEndpointRow, checked: CheckedHealth) -> None:
        """Set what the checks found; nothing if the endpoint has other checks or another namespace than `seen`."""
        async with self.context.held(seen) as now:
            if now is None or now.netns is None or not now.is_published:
                return
            if now.checks == seen.checks and now.netns.is_same_as(seen.netns):
                await self._save(now, dataclasses.replace(now, checked=checked))

    # -- parts ---------------------------------------------------------------------------------------------------

    def _name_in(self, identity: NetnsIdentity) -> str:
        """Return the name of the first endpoint of a namespace; '' when it has none."""
        return next((row.name for row in self._live.rows.in_namespace(identity)), "")

    def _group_in(self, identity: NetnsIdentity) -> Group | None:
        """Return the group of the first endpoint of a namespace that has one."""
        return next((row.group for row in self._live.rows.in_namespace(identity) if row.group), None)

    @asynccontextmanager
    async def _called(self, text: str) -> AsyncIterator[LocalEndpointRow]:
        async with self.context.held(local_endpoint_called(self._live, text)) as row:
            # It was removed while we waited for the lock: raise the same error as for one that never existed.
            yield row if row is not None else local_endpoint_called(self._live, text)

    async def _set_links(self, row: LocalEndpointRow, links: tuple[Link, ...]) -> LocalEndpointRow:
        row = await self._save(row, dataclasses.replace(row, links=links))
        await self.context.settle()
        return row

    async def _save(self, row: LocalEndpointRow, changed: LocalEndpointRow) -> LocalEndpointRow:
        # Publish before saving: if publishing fails, the next attempt still sees a change.
        if changed.is_published and self.context.records.of(changed) != self.context.records.of(row):
            await self.context.publisher.put(self.context.records.of(changed))
        changed = await self.context.save(changed)
        tell_change(row, changed)
        if changed.links != row.links:
            await self.context.records.refresh_mates(changed)
        return changed


def _incomplete(text: str) -> RefusedError:
    return RefusedError(
        f"{text} is being attached or detached", code="not-attached", thing=text, hint="try again in a moment"
    )


async def _leave_it(_row: LocalEndpointRow) -> None:
    """Used while there is no garbage collector: does nothing."""
