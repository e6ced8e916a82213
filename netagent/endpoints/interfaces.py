"""Repairs every endpoint's interface, on both ends, when another program changes it.

Changes inside a sandbox arrive as events from its namespace (netagent.datapath.endpoint.guest_watch), changes of the
host's end from the reconciler. Service ranges, to which sandboxes have routes, come and go with the records, and so
do the routes that follow from a network's options. Settings under /proc/sys are read periodically. A first check
covers the time before the events started, and a slow timer any event that was missed. Each of these leads to a check
of the sandbox's endpoints, which repairs netagent's own settings. What cannot be repaired is shown with its reason,
and tried again with growing pauses.

An attach or detach holds the lock of the sandbox: a check waits for it, and then finds its result.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import TypeAlias

import trio

from netagent.datapath.endpoint.attach import Attacher
from netagent.datapath.endpoint.guest_watch import GuestNews
from netagent.datapath.host.sysctls import Setting, ipv6_settings
from netagent.datapath.reconcile.drift import Drift
from netagent.endpoints.context import EndpointContext
from netagent.endpoints.targets import is_at_its_path
from netagent.errors import NetagentError
from netagent.events.channel import event
from netagent.events.kinds import EventKind
from netagent.journal.rows import LocalEndpointRow, Published
from netagent.log import Limited
from netagent.model.author import KERNEL
from netagent.model.ids import EndpointId, NetworkId
from netagent.model.sandbox import NetnsIdentity
from netagent.periodic import Turns
from netagent.periodic_task import PeriodicTask
from netagent.registry.local_rows import LocalRows
from netagent.registry.state_store import StateStore
from netagent.registry.view import NetworkView
from netgossip.slice_runner import in_slices
from netgossip.slices import Slices

SETTLE_S = 0.05
"""Seconds from the first event to the check: changes come in bursts."""
PAUSE_S = 0.25
"""Least seconds between two checks of one sandbox, however much its own programs change there."""
VERIFY_S = 30.0
"""Seconds between checks without an event, in case one was missed."""
VERIFIED_PER_S = 0.2
"""Least seconds between two such checks in all sandboxes together: with seven or more each has its turn later."""
UNHEARD_S = 1.0
"""Seconds to the first check of a new sandbox: changes before the subscription was open cause no event. They are
still repaired within two seconds, and a container that ends at once is not checked at all."""
SETTINGS_S = 1.5
"""Seconds between readings of the settings under /proc/sys, whose changes cause no event. With the check that
follows, a change is repaired within two seconds. With more sandboxes than one reading covers (netagent.periodic) it
takes as many readings as all of them need: 15 s with 1,000."""
RETRY_MIN_S, RETRY_MAX_S = 0.5, 10.0
"""Pauses before a failed repair is tried again, like those of the reconciler."""

WaitAbsentChanged: TypeAlias = Callable[[frozenset[EndpointId]], Awaitable[frozenset[EndpointId]]]
"""`Reconciler.wait_absent_changed`."""

logger = logging.getLogger("netagent.endpoints.interfaces")
_limited = Limited(logger, period_s=10.0)


class Interfaces:
    """`run` watches and repairs the interfaces of all published endpoints."""

    def __init__(self, live: StateStore, attacher: Attacher, context: EndpointContext, drift: Drift) -> None:
        self._live = live
        self._attacher = attacher
        self._context = context
        self._drift = drift
        self._sandboxes: dict[NetnsIdentity, _Sandbox] = {}
        self._troubles: dict[EndpointId, str] = {}
        self._turns: Turns[NetnsIdentity] = Turns()

    async def run(self, wait_absent_changed: WaitAbsentChanged) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._heed_absent, wait_absent_changed)
            nursery.start_soon(self._heed_settings)
            rows: LocalRows | None = None
            ranges, networks = self._context.service_ranges(), self._live.view.networks
            revision = 0
            while True:
                if self._live.rows is not rows:
                    before, rows = rows, self._live.rows
                    # An attach of this agent needs no immediate check; an interface of an earlier agent does.
                    self._follow(nursery, rows, before, look=before is None)
                if self._context.service_ranges() is not ranges:
                    before_it, ranges = ranges, self._context.service_ranges()
                    changed = {one for one in {*ranges, *before_it} if ranges.get(one) != before_it.get(one)}
                    await in_slices(self._look_in(changed))
                if self._live.view.networks is not networks:
                    before_them, networks = networks, self._live.view.networks
                    await in_slices(self._look_in(_with_other_routes(networks, before_them)))
                revision = await self._live.wait_newer(revision)

    @property
    def troubles(self) -> dict[EndpointId, str]:
        """Return the endpoints whose interface cannot be repaired, and why."""
        return dict(self._troubles)

    def _follow(
        self, nursery: trio.Nursery, rows: LocalRows, before: LocalRows | None, *, look: bool
    ) -> None:
        touched = rows.touched_since(before) if before is not None else None
        if touched is None:
            found = {row.netns.identity for row in rows.values() if row.netns} | self._sandboxes.keys()
            self._troubles = {one: why for one, why in self._troubles.items() if one in rows}
        else:
            versions = (known.get(one) for one in touched for known in (rows, before) if known is not None)
            found = {row.netns.identity for row in versions if row is not None and row.netns}
            for gone in touched - rows.keys():
                self._troubles.pop(gone, None)
        for identity in found:
            is_wanted = any(row.is_published for row in rows.in_namespace(identity))
            sandbox = self._sandboxes.get(identity)
            if sandbox is not None:
                sandbox.settings.clear()
            if is_wanted and sandbox is None:
                sandbox = self._sandboxes[identity] = _Sandbox()
                if look:
                    sandbox.look.set()
                nursery.start_soon(self._keep, identity, sandbox)
            elif sandbox is not None and not is_wanted:
                self._sandboxes.pop(identity).scope.cancel()

    def _look_in(self, networks: Collection[NetworkId]) -> Slices[None]:
        """Look at the sandboxes in networks whose service ranges or options have changed."""
        for network_id in networks:
            for row in self._live.rows.in_network(network_id).values():
                sandbox = self._sandboxes.get(row.netns_identity) if row.netns_identity else None
                if sandbox is not None:
                    sandbox.look.set()
                yield

    async def _heed_absent(self, wait_absent_changed: WaitAbsentChanged) -> None:
        """Check absent interfaces again while any is absent: if one disappears again before the kernel was read, the
        reconciler reports no change."""
        absent: frozenset[EndpointId] = frozenset()
        pause_s = RETRY_MIN_S
        while True:
            with trio.move_on_after(pause_s if absent else math.inf):
                absent, pause_s = await wait_absent_changed(absent), RETRY_MIN_S / 2
            for endpoint_id in absent:
                row = self._live.rows.get(endpoint_id)
                sandbox = self._sandboxes.get(row.netns_identity) if row and row.netns_identity else None
                if sandbox is not None:
                    sandbox.look.set()
            pause_s = min(2 * pause_s, RETRY_MAX_S)

    async def _heed_settings(self) -> None:
        task = PeriodicTask(SETTINGS_S)
        while True:
            await task.wait()
            await in_slices(self._read_settings())

    def _read_settings(self) -> Slices[None]:
        for identity in self._turns.take(self._sandboxes.keys()):
            yield
            sandbox = self._sandboxes.get(identity)
            if sandbox is None or sandbox.news is None:
                continue
            if not sandbox.settings:
                sandbox.settings.update(self._settings_of(identity))
            for endpoint_id, wanted in sandbox.settings.items():
                # One that could not be repaired is checked again with growing pauses.
                if endpoint_id not in self._troubles and sandbox.news.are_altered(wanted):
                    sandbox.look.set()
                    self._turns.hurry()

    def _settings_of(self, identity: NetnsIdentity) -> Iterator[tuple[EndpointId, Sequence[Setting]]]:
        for row in self._rows_of(identity):
            # Read once: a network's MTU and subnets never change.
            network = self._live.view.networks.get(row.network_id)
            if network is not None and isinstance(row.stage, Published):
                yield (
                    row.endpoint_id,
                    ipv6_settings(row.stage.ifname, row.addresses, network.record.mtu_bytes),
                )

    async def _keep(self, identity: NetnsIdentity, sandbox: _Sandbox) -> None:
        """Watch one sandbox while it has endpoints. The subscription keeps the namespace alive only that long."""
        with sandbox.scope:
            news = await self._open_news(identity)
            while news is None:
                await trio.sleep(RETRY_MAX_S)  # the namespace is about to disappear, and the endpoint with it
                news = await self._open_news(identity)
            with closing(news), sandbox.hearing(news):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(sandbox.pass_on, news)
                    await self._look_again_and_again(identity, sandbox, news)

    async def _open_news(self, identity: NetnsIdentity) -> GuestNews | None:
        for row in self._rows_of(identity):
            try:
                return await self._attacher.open_news(row.netns) if row.netns else None
            except (NetagentError, OSError) as error:
                _limited.warning(row.endpoint_id, f"cannot watch the namespace of {row.name}: {error}")
        return None

    async def _look_again_and_again(
        self, identity: NetnsIdentity, sandbox: _Sandbox, news: GuestNews
    ) -> None:
        retry_s, look_within_s = RETRY_MIN_S, UNHEARD_S
        while True:
            with trio.move_on_after(look_within_s):
                await sandbox.look.wait()
                await trio.sleep(SETTLE_S)
            sandbox.look = trio.Event()
            news.clear()
            if await self._look(identity):
                retry_s, look_within_s = RETRY_MIN_S, max(VERIFY_S, len(self._sandboxes) / VERIFIED_PER_S)
            else:
                retry_s, look_within_s = min(2 * retry_s, RETRY_MAX_S), retry_s
            await trio.sleep(PAUSE_S)

    async def _look(self, identity: NetnsIdentity) -> bool:
        """Check all endpoints of a sandbox; False when one could not be repaired."""
        is_well = True
        # First those without the default route: one of them may still have it, and the kernel takes no second one.
        for row in sorted(self._rows_of(identity), key=self._has_default_route):
            try:
                await self._repair(row)
                self._troubles.pop(row.endpoint_id, None)
            except (NetagentError, OSError) as error:
                if self._live.rows.get(row.endpoint_id) is not None and is_at_its_path(row):
                    is_well = False
                    self._troubles[row.endpoint_id] = str(error)
                    _limited.warning(row.endpoint_id, f"the interface of {row.name}: {error}")
        return is_well

    def _has_default_route(self, row: LocalEndpointRow) -> bool:
        network = self._live.view.networks.get(row.network_id)
        return network is not None and bool(self._context.in_datapath(row, network).gateways)

    async def _repair(self, row: LocalEndpointRow) -> None:
        async with self._context.held(row) as now:
            network = self._live.view.networks.get(row.network_id)
            if now is None or network is None or not now.is_published or not is_at_its_path(now):
                return
            damages = await self._attacher.repair(self._context.in_datapath(now, network))
            for sentence in self._drift.note(damages):
                _limited.warning(
                    f"{row.endpoint_id} {sentence}",
                    f"repaired a change of the interface of {now.name} by another program: {sentence}",
                    event(EventKind.REPAIR, now.name, author=KERNEL),
                )

    def _rows_of(self, identity: NetnsIdentity) -> list[LocalEndpointRow]:
        return self._live.rows.in_namespace(identity)


def _with_other_routes(
    networks: Mapping[NetworkId, NetworkView], before: Mapping[NetworkId, NetworkView]
) -> list[NetworkId]:
    """Return the networks of which options have changed that give sandboxes routes."""
    return [
        network_id
        for network_id, network in networks.items()
        if (former := before.get(network_id)) is not None
        and former is not network
        and _routing(former) != _routing(network)
    ]


def _routing(network: NetworkView) -> tuple[bool, bool, bool]:
    record = network.record
    return record.internal, record.multicast, record.egress is not None


class _Sandbox:
    """A namespace that is being watched."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.look = trio.Event()
        """Set when there is a reason for a check."""
        self.news: GuestNews | None = None
        """The events, while the subscription is open."""
        self.settings: dict[EndpointId, Sequence[Setting]] = {}
        """Required settings of its endpoints; empty: to be determined again."""

    @contextmanager
    def hearing(self, news: GuestNews) -> Iterator[None]:
        """Receive events during a block."""
        self.news = news
        try:
            yield
        finally:
            self.news = None

    async def pass_on(self, news: GuestNews) -> None:
        """Take each event as a reason for a check."""
        while True:
            await news.wait()
            self.look.set()
            await trio.sleep(PAUSE_S)
