"""Keep this host's own routes to service addresses, in networks in which it has an address (`--host-access`).

What they are for: netagent.datapath.host.service_routes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final, NamedTuple

import trio

from netagent.datapath.host.service_routes import follow_local_routes, local_routes
from netagent.datapath.netlink.link import decode_link, link_named
from netagent.datapath.netlink.route import LocalRoute
from netagent.datapath.netlink.route_socket import Netlink
from netagent.datapath.reconcile.drift import Damage, DamageKind, Drift
from netagent.events.channel import REPAIRED
from netagent.log import Limited
from netagent.periodic_task import PeriodicTask

PERIOD_S: Final = 1.5
"""Seconds between two looks: a change is repaired within two seconds."""

_log = logging.getLogger(__name__)
_limited = Limited(_log, period_s=10.0)


class HostRoutes(NamedTuple):
    """What this host should route to itself at one of its bridges."""

    bridge: str
    vni: int
    ranges: tuple[str, ...]
    addresses: tuple[str, ...]
    """This host's own in the network, without prefix length."""


class HostServiceRoutes:
    """Keeps the host's own routes to service addresses. One task: `run`."""

    def __init__(self, netlink: Netlink, drift: Drift) -> None:
        self._netlink = netlink
        self._drift = drift
        self._wanted: frozenset[HostRoutes] = frozenset()
        self._generation = self._tried_generation = -1
        self._kept: frozenset[HostRoutes] | None = None
        """What the last step has set; None: not known."""
        self._there: frozenset[LocalRoute] = frozenset()
        self._task = PeriodicTask(PERIOD_S)
        self._changed = trio.Event()

    @property
    def trouble(self) -> str:
        """Why a route can't be set; empty when all are."""
        return self._task.trouble

    async def run(self) -> None:
        """Work until cancelled; leave the routes as they are."""
        await self._task.run(self._step, _log, "cannot route service addresses to this host itself", PERIOD_S)

    def set_desired(self, wanted: Iterable[HostRoutes], generation: int) -> None:
        """Set what is wanted; `generation` grows from call to call."""
        self._wanted, self._generation = frozenset(wanted), generation
        if self._kept == self._wanted:
            self._note_tried(generation)
        else:
            self._task.wake()

    async def wait_tried(self, generation: int) -> None:
        """Return once the routes are those of `generation` or later, or were refused: see `trouble`."""
        while self._tried_generation < generation:
            await self._changed.wait()

    def has_routes(self, bridge: str) -> bool:
        """Return whether the kernel has those of this bridge."""
        return self._kept is not None and any(one.bridge == bridge for one in self._kept)

    async def _step(self) -> None:
        wanted, generation = self._wanted, self._generation
        if generation < 0 or (not wanted and self._kept == wanted):
            return
        try:
            routes: set[LocalRoute] = set()
            built = set()
            for one in wanted:
                link = await self._netlink.find(link_named(one.bridge))
                if link is not None:  # otherwise the bridge is about to come, or to come back
                    routes |= local_routes(one.ranges, one.addresses, decode_link(link.body).index)
                    built.add(one)
            missing = await follow_local_routes(self._netlink, routes)
            lost = [f"local {one.subnet} of this host" for one in sorted(missing & self._there)]
            for sentence in self._drift.note(Damage(DamageKind.ROUTE_DELETED, one) for one in lost):
                _limited.warning(
                    sentence, f"datapath: repaired a change made by another program: {sentence}", REPAIRED
                )
            self._there, self._kept = frozenset(routes), frozenset(built)
        except BaseException:
            self._there, self._kept = frozenset(), None
            raise
        finally:
            self._note_tried(generation)

    def _note_tried(self, generation: int) -> None:
        self._tried_generation = max(self._tried_generation, generation)
        self._changed.set()
        self._changed = trio.Event()
