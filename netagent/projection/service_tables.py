"""Lead connections to service addresses to the replicas that there are: on every change, and as replicas warm up.

Level-triggered, like all of the projection: each step takes the newest snapshot, has the entries made that can differ
(netagent.balancing.tables), and writes them. The order of a step decides what a client meets:

1. If a backend is new, wait until the path to it is in the kernel, as names do; a kernel that hangs delays that by
   PROGRAM_GRACE_S. A step that only takes places away waits for nothing.
2. Write the tables. From here on no connection is led to a backend that is gone.
3. Have the connections end that lead to those: one that was ended before the table was written would be led to the
   same backend again.

At a start the tables of the former agent go on working. They are read back, so that no place moves without need, and
what has died meanwhile is found in them. Before that the records of the cluster and of its networks are waited for,
since a replica that came in the last moments may be in the kernel and not in the journal. A table is made of the
journal after FIRST_SYNC_S at the latest, but no connection is ended for a replica that may be alive.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import trio

from netagent.balancing.tables import BuiltTables, ServiceTableBuilder
from netagent.datapath.sockets.reset import ConnectionResets
from netagent.datapath.sockets.service_tables import ServiceTables
from netagent.model.ids import NetworkId
from netagent.projection.datapath_input import networks_here, networks_taken_part
from netagent.registry.state_store import Snapshot, StateStore
from netagent.registry.view import NetworkView
from netgossip.slice_runner import in_slices

PROGRAM_GRACE_S: Final = 2.0
FIRST_SYNC_S: Final = 2.0
"""How long a start waits for the records of other hosts before it makes tables of what the journal says."""


class ServiceTableUpdates:
    """Runs the loop, and lets other tasks wait for it.

    `wait_programmed` waits for the paths of a snapshot; `wait_caught_up` for the records of the cluster and of the
    networks, after a start.
    """

    def __init__(
        self,
        live: StateStore,
        tables: ServiceTables,
        resets: ConnectionResets,
        *,
        wait_programmed: Callable[[int], Awaitable[None]],
        wait_caught_up: Callable[[], Awaitable[None]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._live = live
        self._tables = tables
        self._resets = resets
        self._wait_programmed = wait_programmed
        self._wait_caught_up = wait_caught_up
        self._settled = trio.Event()
        self._clock = clock
        self._builder = ServiceTableBuilder(live.view.local, tables.places_in_kernel)
        self._networks: tuple[Snapshot, Mapping[NetworkId, NetworkView]] | None = None
        self._followed = 0
        self._progress = trio.Event()

    async def run(self) -> None:
        """Work until cancelled; the tables stay in the kernel. Begin it once it is known what is there."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._settle)
            if self._tables.origins_fd is not None:
                with trio.move_on_after(FIRST_SYNC_S):
                    await self._settled.wait()
            while True:
                known = self._live.now
                next_s = await self._follow(known)
                self._followed = known.revision
                self._progress.set()
                self._progress = trio.Event()
                with trio.move_on_after(_pause_s(next_s, self._clock())):
                    await self._live.wait_newer(known.revision)

    async def _settle(self) -> None:
        await self._wait_caught_up()
        self._settled.set()
        self._live.note_change()

    def places(self, address: str) -> tuple[bytes, ...] | None:
        """Return the backend of each place of an address's table; None: this host's kernel translates none."""
        packed = ipaddress.ip_address(address).packed
        return self._tables.places_in_kernel(packed) if self._tables.is_in_kernel(packed) else None

    async def wait_followed(self, revision: int) -> None:
        """Return once the tables in the kernel are those of `revision` or a later one, or can't be."""
        while self._followed < revision:
            await self._progress.wait()

    async def _follow(self, known: Snapshot) -> int | None:
        """Take a step; return when the next one is due although nothing changes."""
        networks = self._networks_of(known)
        # Without an await since `known` was read: once it is set, all that was waited for is in there.
        is_settled = self._settled.is_set()
        built = await in_slices(
            self._builder.build(known.view, networks, int(self._clock()), is_settled=is_settled)
        )
        if built.gained:
            with trio.move_on_after(PROGRAM_GRACE_S):
                await self._wait_programmed(known.revision)
            self._resets.note_back(built.gained)
        await self._write(built)
        if built.gone:
            self._resets.note_gone(built.gone)
        return built.next_s

    async def _write(self, built: BuiltTables) -> None:
        if built.is_whole:
            await self._tables.replace_services(self._builder.entries)
        elif built.changed:
            await self._tables.set_services(built.changed)

    def _networks_of(self, known: Snapshot) -> Mapping[NetworkId, NetworkView]:
        """Return the networks whose services containers of this host may use; the same mapping as long as these are
        the same."""
        if self._networks is not None and _is_same(self._networks[0], known):
            return self._networks[1]
        taken = networks_taken_part(known.view, known.rows.networks)
        found = {network.network_id: network for network in networks_here(known.view, taken)}
        self._networks = known, found
        return found


def _is_same(before: Snapshot, now: Snapshot) -> bool:
    return (
        before.rows.networks is now.rows.networks
        and before.view.networks is now.view.networks
        and before.view.store.host_addresses is now.view.store.host_addresses
    )


def _pause_s(next_s: int | None, now_s: float) -> float:
    return float("inf") if next_s is None else max(0.0, next_s - now_s)
