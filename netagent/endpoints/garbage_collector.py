"""The garbage collector of endpoints: containers that vanished, removed networks, leftovers of a crash.

An endpoint's sandbox is known by the identity of its namespace. While the path by which it was attached still leads
there, or a process runs in it, the endpoint stays; otherwise it is withdrawn, never by guess.
"""

from __future__ import annotations

import logging
import os
import select
import weakref
from collections.abc import Awaitable, Callable, Collection, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import trio

from netagent.datapath.endpoint.netns import reopened_netns
from netagent.endpoints.fencing import sweep_fenced
from netagent.endpoints.lifecycle import Endpoints
from netagent.endpoints.targets import is_at_its_path
from netagent.errors import NetagentError
from netagent.journal.rows import LocalEndpointRow, Published, Reserved
from netagent.log import Limited
from netagent.model.author import KERNEL, acting_as
from netagent.model.ids import EndpointId, NetworkId
from netagent.model.sandbox import Netns
from netagent.periodic import Turns
from netagent.periodic_task import PeriodicTask
from netagent.registry.local_rows import LocalRows
from netagent.registry.state_store import StateStore
from netagent.registry.view import RegistryView

INTERVAL_S = 1.0
"""Seconds between checks for changes: one check of the folders of named namespaces, one stat(2) for each namespace of
a process, and all of them when the kernel reports that something was mounted or unmounted."""
WHOLE_S = 20.0
"""Seconds between checks of endpoints without a sign of change, in case one was missed: of all of them, or, if there
are more than one run checks (netagent.periodic), of those whose turn it is. With 1,000 endpoints each has its turn
within 200 s."""
ROWS_AT_ONCE = 20
"""Endpoints checked before other tasks run: about a millisecond."""
RECOVER_S = 5.0
"""How long the start waits until the endpoints of the journal are complete; `run` continues with the rest."""

logger = logging.getLogger("netagent.endpoints.garbage_collector")
_limited = Limited(logger)


class _Watch:
    """Selects the endpoints to check: their row or record has changed, or their namespace may have."""

    def __init__(self) -> None:
        self.again: set[EndpointId] = set()
        """Endpoints whose check failed."""
        self._seen: tuple[LocalRows, RegistryView] | None = None
        self._whole_at = 0.0
        self._turns: Turns[EndpointId] = Turns()
        self._folders: dict[str, _Folder] = {}
        self._mounts = _Mounts()

    def due(self, live: StateStore, now: float) -> set[EndpointId] | None:
        """Return the endpoints to check; None: all."""
        seen, self._seen = self._seen, (live.rows, live.view)
        rows = live.rows.touched_since(seen[0]) if seen is not None else None
        touched = live.view.touched_since(seen[1]) if seen is not None else None
        moved = set(self._moved(live.rows))
        if seen is None or rows is None or touched is None:
            self._whole_at = now + WHOLE_S
            self.again.clear()
            return None
        if live.view.networks is not seen[1].networks:
            self.again.clear()
            return None  # one was removed, or has other rules
        turn: Collection[EndpointId] = ()
        if now >= self._whole_at:
            self._whole_at, turn = now + WHOLE_S, self._turns.take(live.rows.keys())
        due = {*moved, *turn, *self.again, *(one for _, one in touched.endpoints if one in live.rows)}
        self.again.clear()
        for endpoint_id in rows:
            row = live.rows.get(endpoint_id) or seen[0].get(endpoint_id)
            # The record of an endpoint depends on the links of all endpoints in its sandbox.
            due.update(mate.endpoint_id for mate in (live.rows.mates_of(row) if row is not None else ()))
        return due | (rows & live.rows.keys())

    def _moved(self, rows: LocalRows) -> Iterator[EndpointId]:
        """Yield endpoints whose path may lead to another namespace than before."""
        are_mounts_changed = self._mounts.are_changed()
        for gone in self._folders.keys() - rows.folders.keys():
            del self._folders[gone]
        for folder, inhabitants in rows.folders.items():
            if folder.startswith("/proc/") or are_mounts_changed:
                yield from (one for one, row in inhabitants.items() if not is_at_its_path(row))
            if not folder.startswith("/proc/"):
                for name in self._folders.setdefault(folder, _Folder(folder)).changed():
                    yield from (row.endpoint_id for row in rows.with_path(f"{folder}/{name}"))


class _Mounts:
    """The mounts of this process's mount namespace. When a network namespace is unmounted, its name and the time of
    its folder do not change."""

    def __init__(self) -> None:
        file = os.open("/proc/self/mounts", os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, file)
        self._poll = select.poll()
        self._poll.register(file, select.POLLPRI)

    def are_changed(self) -> bool:
        """True if anything was mounted or unmounted since the last call: poll(2) tells, without reading the list."""
        return bool(self._poll.poll(0))


class _Folder:
    """A folder with the names of namespaces. While its time is the same, no name was added or removed; a name that
    was removed and added again is another file."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._seen = self._settled = -1
        self._names: dict[str, int] = {}

    def changed(self) -> set[str]:
        """Return names that changed since the last call. A folder with a new time is read twice: the clock of a file
        system ticks every few milliseconds, and a change in the same tick as the reading must not be missed."""
        try:
            at = os.stat(self._path).st_mtime_ns  # noqa: PTH116 - all the time, and a Path takes five times as long
            if at == self._settled:
                return set()
            names = {entry.name: entry.inode() for entry in os.scandir(self._path)}
        except OSError:
            at, names = -1, {}
        self._seen, self._settled = at, at if at == self._seen else -1
        before, self._names = self._names, names
        return {name for name, _ in before.items() ^ names.items()}


class GarbageCollector:
    """Call `recover` once at the start, then `run`."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints
        self._context = endpoints.context
        self._live = endpoints.context.live
        self._unresumed: set[EndpointId] = set()
        """Endpoints of the journal that have not been completed or removed yet."""
        self._watch = _Watch()
        endpoints.look_after = self.look_after

    async def recover(self) -> None:
        """Complete or remove every endpoint of the journal.

        `run` tries again what fails now because the disk is full or the resolver process does not run.
        """
        await _bearing("remove interfaces and records without an owner", self._remove_orphans)
        self._context.resolv_confs.remove_stale()
        self._unresumed.update(self._live.rows)
        with trio.move_on_after(RECOVER_S):
            await self._look_around()
        await self._context.resolvers.keep_only({row.sandbox_id for row in self._rows() if row.sandbox_id})

    async def run(self) -> None:
        """Run until cancelled."""
        task = PeriodicTask(INTERVAL_S)
        while True:
            await task.wait()
            await self._look_around()

    async def sweep(self, network_id: NetworkId) -> None:
        """Check the endpoints in one network now, before a removal is refused because of them."""
        for row in list(self._live.rows.in_network(network_id).values()):
            await self.look_after(row)

    async def look_after(self, row: LocalEndpointRow) -> None:
        """Check one endpoint now, before an attach is refused because of it."""
        await _bearing(f"check {row.name}", partial(self._look_after, row))

    async def _look_around(self) -> None:
        live, records, context = self._live, self._context.records, self._context
        again = {
            *self._unresumed,
            *self._endpoints.removal.half_done,
            *records.nameless,
            *records.unpublished,
        }
        records.unpublished.clear()
        due = self._watch.due(live, trio.current_time())
        for number, endpoint_id in enumerate(live.rows if due is None else due | again):
            if number % ROWS_AT_ONCE == ROWS_AT_ONCE - 1:
                await trio.lowlevel.checkpoint()
            row = live.rows.get(endpoint_id)
            if row is not None and not await _bearing(f"check {row.name}", partial(self._look_after, row)):
                self._watch.again.add(endpoint_id)
        await _bearing("redirect queries to the resolver", context.resolvers.repair)
        await _bearing("remove leftovers of a runtime", self._endpoints.staged.sweep)
        await _bearing("drop notes", partial(sweep_fenced, live, context.journal, context.boot_id))

    async def _look_after(self, row: LocalEndpointRow) -> None:
        is_old = row.endpoint_id in self._unresumed
        if row.endpoint_id in self._endpoints.removal.half_done:
            await self._remove(row, "it was being detached")
            return
        match row.stage:
            case Published(netns) if not is_old or netns.boot_id == self._context.boot_id:
                await self._look_after_published(row, netns)
            case Reserved() if is_old and self._endpoints.staged.adopt(row):
                if _is_known(self._live.view, row.endpoint_id):
                    # The agent died between publishing it and marking it as published.
                    await self._context.records.withdraw(row)
                self._unresumed.discard(row.endpoint_id)
            case _ if is_old:
                await self._remove(row, "its attach was interrupted by the last stop")
            case _:
                return  # an attach is in progress

    async def _look_after_published(self, row: LocalEndpointRow, netns: Netns) -> None:
        if self._live.view.is_removed(row.network_id):
            await self._remove(row, "its network was removed")
        elif not await self._still_there(row, netns):
            with acting_as(KERNEL):
                await self._remove(row, "its namespace is gone")
        elif row.endpoint_id not in self._unresumed:
            await self._republish(row)
        elif row.network_id in self._live.view.networks:
            await self._resume(row)

    def _rows(self) -> list[LocalEndpointRow]:
        return list(self._live.rows.values())

    async def _remove(self, row: LocalEndpointRow, why: str) -> None:
        await self._endpoints.remove(row, why)
        self._unresumed.discard(row.endpoint_id)

    async def _remove_orphans(self) -> None:
        """Remove interfaces and records of endpoints that the journal does not have."""
        attacher, wanted = self._context.attacher, self._live.rows.keys()
        for endpoint_id in await attacher.list_endpoint_devices():
            if endpoint_id not in wanted:
                logger.info("removing the interface of %s, which has no endpoint", endpoint_id[:8])
                await attacher.unbind(endpoint_id)
        view = self._live.view
        known = [*view.endpoints.values(), *view.fenced.values()]
        orphans = [e.record for e in known if e.owner == view.local and e.endpoint_id not in wanted]
        if orphans:
            logger.info("withdrawing %d records of endpoints that do not exist here", len(orphans))
            await self._context.publisher.withdraw(*orphans)

    async def _still_there(self, row: LocalEndpointRow, netns: Netns) -> bool:
        if is_at_its_path(row):
            return True
        # The process of the path may have ended while others still run in the namespace.
        path = await trio.to_thread.run_sync(_path_of_namespace, netns.identity)
        if path is None:
            return False
        async with self._context.held(row) as now:
            if now is not None and isinstance(now.stage, Published) and netns.is_same_as(now.netns):
                # The namespace has lost its name but still exists: the file is for the name's present holder.
                self._context.resolv_confs.refresh(now)
                stage = replace(now.stage, netns=replace(now.stage.netns, path=path))
                await self._context.save(replace(now, stage=stage))
        return True

    async def _resume(self, row: LocalEndpointRow) -> None:
        """Start the resolver in its sandbox, and publish its record if others do not have it."""
        context = self._context
        async with context.held(row) as now:
            if now is None or now.netns is None:
                return
            with reopened_netns(now.netns) as fd:
                await context.resolvers.ensure_listening(
                    now.netns.sandbox_id, fd, behind_runtime=now.netns.behind_runtime
                )
            self._context.resolv_confs.refresh(now)
            await context.participation.take_part(now.network_id)
            await self._context.records.refresh(now)
            self._unresumed.discard(row.endpoint_id)

    async def _republish(self, row: LocalEndpointRow) -> None:
        """Publish changes that could not be published when they happened, such as a link that an endpoint has
        through its sandbox."""
        if self._context.records.is_current(row):
            return
        async with self._context.held(row) as now:
            if now is not None and now.is_published:
                await self._context.records.refresh(now)


async def _bearing(what: str, step: Callable[[], Awaitable[None]]) -> bool:
    """Run the step and return True; False if it failed: a full disk, a refusal of the kernel or a missing resolver
    must not end the agent."""
    try:
        await step()
    except (NetagentError, OSError) as error:
        _limited.warning(what, f"cannot {what} yet: {error}")
        return False
    return True


def _is_known(view: RegistryView, endpoint_id: EndpointId) -> bool:
    """True when others have the endpoint's record, even one that lost its address to another endpoint."""
    return endpoint_id in view.endpoints or any(
        e.endpoint_id == endpoint_id and e.owner == view.local for e in view.fenced.values()
    )


def _path_of_namespace(identity: tuple[int, int]) -> str | None:
    """Return `/proc/PID/ns/net` of a process in the namespace; None when there is none."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            path = folder / "ns" / "net"
            try:
                status = path.stat()
            except OSError:
                continue
            if (status.st_dev, status.st_ino) == identity:
                return str(path)
    return None
