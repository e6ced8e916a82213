"""The loop that keeps the kernel equal to the desired state, whichever of them changes.

Three things wake it: a new desired state, a notification from the kernel that contradicts the belief, and a timer. A
new desired state is compared with the believed kernel state, and only where they may differ: one endpoint costs no
more among ten thousand than alone. A notification leads to a look at the entries that it concerns, or at the devices;
the timer, and any failure, to a look at everything. That takes long, so it is done in slices. What failed stays
dirty, is shown with its reason, and is tried again after growing pauses. Nothing is changed before the first desired
state has been given, and nothing when the loop ends: the kernel keeps its state.
"""

from __future__ import annotations

import errno
import logging
import math
import socket
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from operator import is_
from typing import Final

import trio

from netagent.datapath.host.sysctls import Settings
from netagent.datapath.netlink.link import RTM_DELLINK
from netagent.datapath.netlink.route_socket import Netlink, split_messages
from netagent.datapath.reconcile.apply import OPERATIONS_PER_SLICE, Failure, apply, names_after
from netagent.datapath.reconcile.drift import (
    Damage,
    Drift,
    damages_between,
    damages_within,
)
from netagent.datapath.reconcile.entry_kinds import ENTRY_KINDS
from netagent.datapath.reconcile.failures import Failures, RetryPlan, explained
from netagent.datapath.reconcile.observe import (
    Extent,
    LinkNews,
    News,
    Observation,
    devices_of,
    news_of,
    observe,
    observe_devices,
    observe_entries,
    observe_veths,
    ports_of,
)
from netagent.datapath.reconcile.operations import Operation, after, device_of, takes_ipv6
from netagent.datapath.reconcile.plan import guest_keys, may_cost_entries, plan, plan_within
from netagent.datapath.reconcile.schedule import INTERVAL_S, Schedule
from netagent.datapath.state import (
    TABLES,
    DesiredChange,
    Device,
    EntryKey,
    KernelState,
    LinkKind,
    endpoint_of,
)
from netagent.events.channel import REPAIRED
from netagent.log import Limited
from netagent.model.ids import EndpointId
from netgossip.histogram import Histogram
from netgossip.slice_runner import in_slices
from netgossip.slices import Slices

_log = logging.getLogger(__name__)
_limited = Limited(_log, period_s=INTERVAL_S)  # a program that keeps changing one thing must not fill the log
DURATIONS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
MOST_NEWS = 500
"""Bound of notifications about single entries; beyond it: everything is read instead. Looking at everything is then
less work than looking at each."""
MOST_VETHS = 16
"""Veths that are read one by one; with more of them all links are read."""
MOST_OPEN = 2_000
"""Bound of entries compared one by one; beyond it: all are compared, in slices."""
NOTIFICATIONS_AT_ONCE = 2 * OPERATIONS_PER_SLICE
"""Bound of notifications read at once; beyond it: other tasks run before the rest is read. Each is a separate
datagram, and each entry that we write is echoed as one: reading has to be faster than writing, or the kernel drops
some while tens of thousands of entries are written."""
_NOTIFICATION_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcileStatus:
    """The datapath's state for `status` and `doctor`."""

    generation: int
    """Of the last desired state given; -1 before the first."""
    programmed_generation: int
    devices: int
    entries: int
    """Neighbours and FDB entries believed to be in the kernel."""
    kinds: dict[str, int]
    """The same by kind."""
    looks: int
    looked_at: float
    """When the kernel was last read, on the clock of the loop; -inf: not yet."""
    drift: dict[str, int]
    """Repairs of changes by other programs, by kind (netagent.datapath.reconcile.drift), since the start."""
    failures: int
    """Number of operations that fail now."""
    dirty: tuple[tuple[str, str], ...]
    """(command, reason) of the first 100 of them."""
    absent_endpoints: tuple[EndpointId, ...]
    trouble: str
    """Why the kernel could not be read or written at all; empty when it could."""


class Reconciler:
    """Keeps the kernel equal to the desired state. One task: `run`.

    `notifications` is a socket of `open_notification_socket`, opened in the namespace of `netlink`; the reconciler
    owns it. `settings`: of the same namespace. `devices_changed` gets index and name of all our devices, and of
    those that are in a bridge, whenever they may have changed.
    """

    def __init__(
        self,
        netlink: Netlink,
        notifications: socket.socket,
        *,
        drift: Drift | None = None,
        devices_changed: Callable[[Mapping[int, str], Mapping[int, str]], None] | None = None,
        settings: Settings | None = None,
        interval_s: float = INTERVAL_S,
    ) -> None:
        notifications.setblocking(False)
        self._plain_notifications = notifications
        self.drift = drift if drift is not None else Drift()
        self._netlink = netlink
        self._devices_changed = devices_changed
        self._settings = settings
        self._notifications = trio.socket.from_stdlib_socket(notifications)
        self._interval_s = interval_s
        self._desired: KernelState | None = None
        self._open: set[EntryKey] | None = None
        """Entries in which the desired and the believed state may differ; None: any."""
        self._news: set[News] = set()
        self._generation = -1
        self._programmed_generation = -1
        self._belief = Observation()
        """What was last seen, and what was done since."""
        self._is_sound = False
        """Whether a difference from the belief means that another program changed something."""
        self._settled: tuple[object, object] = (None, None)
        """Devices desired and believed, as long as everything possible was done about their differences."""
        self._ported: tuple[object, object] = (None, None)
        """Devices and names last passed to the bridge netfilter bypass."""
        self._compared: tuple[object, object] = (None, None)
        self._lacking: frozenset[EndpointId] = frozenset()
        """Endpoints whose interface is missing, for the devices desired and believed in `_compared`."""
        self._in_kernel: Mapping[str, Device] = {}
        """Our devices at the end of the last pass."""
        self._at_work: KernelState | None = None
        """The desired state of the last pass, also while it is under way."""
        self._looked_at = -math.inf
        self._schedule = Schedule()
        self._failing = Failures()
        self._absent: frozenset[EndpointId] = frozenset()
        self._changed = trio.Event()
        self.durations = Histogram(DURATIONS_S)
        """How long the passes took, those that found nothing to do among them."""

    async def run(self) -> None:
        """Work until cancelled; leave the kernel as it is."""
        with self._notifications:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen)
                while True:
                    await self._wait_work()
                    await self._pass()

    def set_desired(self, wanted: DesiredChange, generation: int) -> None:
        """Set what the kernel should hold from now on; `generation` grows from call to call."""
        self._desired, self._generation = wanted.state, generation
        self._reopen(wanted.touched)
        self._schedule.wake()

    def _reopen(self, keys: Collection[EntryKey] | None) -> None:
        if keys is None or self._open is None or len(keys) + len(self._open) > MOST_OPEN:
            self._open = None
        else:
            self._open.update(keys)

    @property
    def programmed_generation(self) -> int:
        """The newest desired state of which every operation has been tried. -1: none yet.

        Refused operations do not hold it back: otherwise one bad record would stop everything. See `trouble_with`.
        """
        return self._programmed_generation

    async def wait_programmed(self, generation: int) -> None:
        """Return once `programmed_generation` has reached `generation`. The caller sets the deadline."""
        while self._programmed_generation < generation:
            await self._changed.wait()

    async def wait_in_kernel(self, devices: Collection[str], generation: int) -> None:
        """Return once these devices are in the kernel to stay, or `wait_programmed` would return.

        Where containers come by the hundred, the state is never the newest one, but the devices exist all the time.
        """
        while self._programmed_generation < generation and not self._are_in_kernel(devices):
            await self._changed.wait()

    def is_in_kernel(self, device: str) -> bool:
        """Return whether a device of ours was in the kernel at the end of the last pass."""
        return device in self._in_kernel

    def _are_in_kernel(self, devices: Collection[str]) -> bool:
        wanted = (self._at_work, self._desired)
        return all(
            name in self._in_kernel and all(one is not None and name in one.devices for one in wanted)
            for name in devices
        ) and not any(map(self.trouble_with, devices))

    @property
    def absent_endpoints(self) -> frozenset[EndpointId]:
        """Desired local endpoints whose interface was missing at a look: not bound yet, or removed.

        An interface that exists when its endpoint becomes part of the desired state is never listed by mistake.
        """
        return self._absent

    async def wait_absent_changed(self, known: frozenset[EndpointId]) -> frozenset[EndpointId]:
        """Return `absent_endpoints` once it differs from `known`."""
        while self._absent == known:
            await self._changed.wait()
        return self._absent

    def trouble_with(self, device: str) -> str | None:
        """Return why an operation on this device fails, if one does."""
        return self._failing.reason_of(device)

    def status(self) -> ReconcileStatus:
        """Return what the datapath holds and what is wrong with it."""
        state = self._belief.state
        return ReconcileStatus(
            generation=self._generation,
            programmed_generation=self._programmed_generation,
            devices=len(state.devices),
            entries=state.entry_count,
            kinds={ENTRY_KINDS[table].words: len(state.table(table)) for table in TABLES},
            looks=self._schedule.looks,
            looked_at=self._looked_at,
            drift=self.drift.kinds,
            failures=len(self._failing.failures),
            dirty=self._failing.shown(),
            absent_endpoints=tuple(sorted(self._absent)),
            trouble=self._schedule.trouble,
        )

    async def _listen(self) -> None:
        while True:
            try:
                self._handle_notifications(await self._notifications.recv(_NOTIFICATION_BYTES))
                for _ in range(NOTIFICATIONS_AT_ONCE - 1):
                    self._handle_notifications(self._plain_notifications.recv(_NOTIFICATION_BYTES))
            except BlockingIOError:
                continue
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._look_soon(Extent.ALL)  # some were lost

    def _handle_notifications(self, datagram: bytes) -> None:
        for message in split_messages(datagram):
            news = news_of(message, self._belief.names, self._belief.state)
            if news is not None:
                self._look_soon(news)
            elif self._failing.failures and message.type == RTM_DELLINK:
                # The device that has just gone may have been what an operation conflicted with.
                self._look_soon(Extent.ALL)

    def _look_soon(self, news: News) -> None:
        self._news.add(news)
        if len(self._news) > MOST_NEWS:
            self._news = {Extent.ALL}
        self._schedule.look_soon()

    async def _wait_work(self) -> None:
        while self._desired is None or not self._schedule.is_due():
            with trio.move_on_at(self._schedule.look_at if self._desired is not None else math.inf):
                await self._schedule.woken.wait()
            self._schedule.sleep()

    async def _pass(self) -> None:
        desired, generation = self._desired, self._generation
        if desired is None:
            return
        self._schedule.is_desired_new = False
        self._at_work = desired
        began_at = trio.current_time()
        open_, self._open = self._open, set()
        is_looking = self._schedule.is_look_due()
        try:
            if is_looking:
                looked_at = await self._look(desired)
                open_ = None if open_ is None or looked_at is None else open_ | looked_at
            await self._program(desired, open_)
        except OSError as error:
            # The socket or a dump failed as a whole: it is unknown which operations were done.
            self._open, self._is_sound = None, False
            self._schedule.failed(str(error))
            _log.warning("datapath: %s", error)
            return
        self.durations.observe(trio.current_time() - began_at)
        self._programmed_generation = generation
        standing = self._belief.state.devices
        ported = standing, self._belief.names
        if self._devices_changed is not None and not all(map(is_, ported, self._ported)):
            self._devices_changed(devices_of(self._belief), ports_of(self._belief))
            self._ported = ported
        compared = desired.devices, standing
        if not all(map(is_, compared, self._compared)):
            self._lacking, self._compared = _absent_endpoints(desired, self._belief.state), compared
        self._in_kernel, absent = standing, self._lacking
        # Without a look, an interface created a moment ago is not known yet; it must not count as one that is gone.
        self._absent = absent if is_looking else absent & self._absent
        self._changed.set()
        self._changed = trio.Event()

    async def _look(self, desired: KernelState) -> set[EntryKey] | None:
        """Look at the notified objects only, if they are why; return the entries read, None: everything."""
        started_at, must_be_whole = self._schedule.start_look()
        news, self._news = self._news, set()
        keys = None
        if not must_be_whole and self._is_sound:
            keys = await self._look_closely(news, desired)
        if keys is None:
            await self._look_at_all()
        self._schedule.end_look(started_at, self._interval_s, is_whole=keys is None)
        return keys

    async def _look_at_all(self) -> None:
        before = self._belief.state
        seen = await observe(self._netlink, self._belief.names.keys(), before, self._belief.links)
        self._belief = seen if self._desired is None else _with_devices_of(seen, self._desired)
        self._looked_at = trio.current_time()
        was_sound, self._is_sound = self._is_sound, True
        if was_sound:
            self._tell(
                await in_slices(damages_between(before, self._belief.state, self._failing.doubtful_devices()))
            )

    async def _look_closely(self, news: set[News], desired: KernelState) -> set[EntryKey] | None:
        """Read what the notifications concern. None: a device has changed in a way that may have removed entries."""
        if Extent.ALL in news:
            return None
        before = self._belief.state
        seen = self._belief
        keys = {one for one in news if not isinstance(one, (Extent, LinkNews))}
        veths = {one.index for one in news if isinstance(one, LinkNews)}
        is_alone = Extent.DEVICES not in news and len(veths) <= MOST_VETHS
        at_these = await observe_veths(self._netlink, seen, veths) if veths and is_alone else None
        if at_these is not None:
            seen = at_these
            keys |= guest_keys(desired, before.devices, seen.state.devices)
        elif Extent.DEVICES in news or veths:
            belief = self._belief
            seen = await observe_devices(self._netlink, belief.names.keys(), belief.links)
            seen = _with_devices_of(seen, desired)
            if may_cost_entries(before, seen.state):
                return None
            seen = replace(seen, state=seen.state.with_tables_of(before))
            keys |= guest_keys(desired, before.devices, seen.state.devices)
        try:
            entries = await observe_entries(self._netlink, seen, keys)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:  # Linux before 5.0
                return None
            raise
        # Notifications that arrived in the meantime are compared with the new belief.
        self._belief = replace(seen, state=seen.state.with_entries(entries))
        self._tell(damages_within(before, self._belief.state, keys, self._failing.doubtful_devices()))
        return keys

    def _tell(self, damages: Iterable[Damage]) -> None:
        for sentence in self.drift.note(damages):
            _limited.warning(
                sentence, f"datapath: repaired a change made by another program: {sentence}", REPAIRED
            )

    async def _program(self, desired: KernelState, keys: set[EntryKey] | None) -> None:
        seen = self._belief
        before = seen.state
        operations, outcome, keys = await in_slices(self._plan(desired, before, keys))
        if operations:
            # Believed before it is done, so that the notifications of our own writes are no news.
            self._belief = replace(seen, state=outcome, names=names_after(operations, seen.names))
        failures = await self._apply(operations)
        if any(failure.errno == errno.EEXIST for failure in failures):
            # The conflicting object may have appeared since the last look.
            seen = await observe_devices(self._netlink, self._belief.names)
        failures = [explained(failure, seen) for failure in failures]
        self._settled = desired.devices, self._belief.state.devices
        self._follow(self._failing.note(failures, keys), before)

    def _plan(
        self, desired: KernelState, believed: KernelState, keys: set[EntryKey] | None
    ) -> Slices[tuple[list[Operation], KernelState, set[EntryKey] | None]]:
        """Return what to do, the state afterwards, and the entries in which the two could differ; None: any."""
        operations = None
        if keys is not None:
            is_settled = all(map(is_, self._settled, (desired.devices, believed.devices)))
            operations = yield from plan_within(desired, believed, keys, are_devices_settled=is_settled)
        if operations is None:
            keys, operations = None, (yield from plan(desired, believed))
        return operations, (yield from after(believed, operations)), keys

    async def _apply(self, operations: list[Operation]) -> list[Failure]:
        """Apply operations; repeat those refused because IPv6 was off on a device of ours, after turning it on."""
        failures = await apply(self._netlink, operations, self._belief.names)
        devices = {device_of(one.operation) for one in failures if takes_ipv6(one.operation)}
        if not devices or self._settings is None or not self._settings.turn_ipv6_on(devices):
            return failures
        return await apply(self._netlink, [one.operation for one in failures], self._belief.names)

    def _follow(self, verdict: RetryPlan, before: KernelState) -> None:
        """Take the outcome of a plan that was made when `before` was believed."""
        if verdict.is_unknown:
            self._open = None
            self._schedule.failed("")
        elif verdict.refused:
            unchanged = self._belief.state.with_entries({key: before.entry(key) for key in verdict.refused})
            self._belief = replace(self._belief, state=unchanged)
            self._news |= {Extent.ALL if key[0] == "flood" else key for key in verdict.refused}
            self._schedule.retry()
        elif not self._failing.failures:
            self._schedule.succeeded()


def _with_devices_of(seen: Observation, desired: KernelState) -> Observation:
    """Replace devices by the desired objects where they are equal: these are compared again and again, and the same
    object compares fastest."""
    wanted = desired.devices
    devices = {
        name: own if (own := wanted.get(name)) is not None and (own is device or own == device) else device
        for name, device in seen.state.devices.items()
    }
    return replace(seen, state=replace(seen.state, devices=devices))


def _absent_endpoints(desired: KernelState, observed: KernelState) -> frozenset[EndpointId]:
    absent = [device for name, device in desired.devices.items() if name not in observed.devices]
    missing = (endpoint_of(device.alias) for device in absent if device.kind is LinkKind.VETH)
    return frozenset(EndpointId(endpoint_id) for endpoint_id in missing if endpoint_id is not None)
