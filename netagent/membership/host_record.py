"""This host's record, which tells the other hosts about it, kept current while the host changes."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import trio

from netagent import __version__
from netagent.datapath.host.probe_device import probe_address, probe_mac
from netagent.datapath.host.uplink import common_version
from netagent.model.ids import ClusterId, HostId
from netagent.model.records import Drain, HostRecord, Record
from netagent.periodic_task import PeriodicTask
from netagent.registry.publish import Publisher
from netagent.registry.state_store import StateStore
from netagent.registry.view import AgentState, RegistryView
from netgossip.types import CLUSTER_SCOPE

LOOK_S = 10.0
"""Interval for looking at the routes, which matter only when a network is created. A dump takes milliseconds."""
RETRY_S = 2.0
"""After the record could not be written."""
MAX_ROUTES = 256
"""Bound of routes in a host's record; beyond it: further ones are not published. More than any host but a BGP router
has; the prefixes of such a host do not matter for a network's choice anyway."""

logger = logging.getLogger("netagent.host")


@dataclass(slots=True, kw_only=True)
class HostRecordKeeper:
    """Writes this host's record, and writes it again when it is no longer true."""

    live: StateStore
    publisher: Publisher
    base: HostRecord
    routes: Callable[[], Awaitable[tuple[str, ...]]]
    is_starting: bool = False
    """Names lead to other hosts until `arrive`: they did before the start, or would lead to what the host has lost
    since."""
    drain: Drain | None = None
    """Set by an operator, until they take it back; also through restarts."""
    _is_going_down: bool = False
    """Names lead to other hosts from now on."""
    _drain_turn: trio.Lock = field(default_factory=trio.Lock)
    _task: PeriodicTask = field(default_factory=partial(PeriodicTask, LOOK_S))
    """Woken to write the record although nothing is known to have changed."""

    @asynccontextmanager
    async def going_down(self) -> AsyncIterator[None]:
        """Let names lead away from this host from now on; if the block fails, they lead here again."""
        self._is_going_down = True
        try:
            await self.publish()
            yield
        except BaseException:
            # `run` publishes it.
            self._is_going_down = False
            self._task.wake()
            raise

    async def arrive(self) -> None:
        """Let names lead here again: this host has what its records say."""
        if self.is_starting:
            self.is_starting = False
            await self.publish()

    async def move(self, underlay: str) -> None:
        """Publish another underlay address for this host. If the record can't be written now, `run` tries
        again soon."""
        self.base = replace(self.base, underlay=underlay)
        try:
            await self.publish()
        except BaseException:
            self._task.wake()
            raise

    async def set_drain(self, drain: Drain | None) -> None:
        """Let names lead away from this host's endpoints, or back to them; a drain that there is already stands.
        Nothing is changed by a failure."""
        async with self._drain_turn:  # the second one must see what came of the first
            if (self.drain is None) == (drain is None):
                return
            before, self.drain = self.drain, drain
            try:
                await self.publish()
            except BaseException:
                self.drain = before
                self._task.wake()
                raise

    async def publish(self) -> None:
        """Publish the record once, if it differs from the last one."""
        routes = await self.routes()
        # Records keep lists in the order of their texts, which differs from the order of the addresses.
        record = replace(
            self.base,
            going_down=self._is_going_down or self.is_starting,
            is_starting=self.is_starting and not self._is_going_down,
            routes=tuple(sorted(routes[:MAX_ROUTES])),
            drain=self.drain,
        )
        known: tuple[Record, ...] = self.live.view.records_of(self.live.view.local, CLUSTER_SCOPE)
        if record not in known:
            await self.publisher.put(record)

    async def run(self) -> None:
        """Keep the record current until cancelled."""
        await self._task.wait()
        await self._task.run(self.publish, logger, "cannot refresh this host's record", RETRY_S)


def host_record(
    *, name: str, public_key: bytes, underlay: str, vxlan_port: int, zone: str, ids: tuple[ClusterId, HostId]
) -> HostRecord:
    """Build the part of the record that does not change during a run."""
    return HostRecord(
        name=name,
        public_key=public_key,
        underlay=underlay,
        vxlan_port=vxlan_port,
        probe_address=probe_address(*ids),
        probe_mac=probe_mac(ids[1]),
        zone=zone,
        agent_version=__version__,
    )


def version_of_others(view: RegistryView) -> int | None:
    """The version of IP at which the cluster's other hosts are reached, also those that do not answer now. None if
    there are none, or as many of the one as of the other."""
    others = (host for host_id, host in view.hosts.items() if host_id not in {view.local, *view.evicted})
    return common_version(one.address for one in others if one.address and one.agent is not AgentState.LEFT)
