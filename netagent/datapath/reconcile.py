"""The loop that keeps the kernel equal to the desired state, whoever changed either.

Three things wake it: a new desired state, a notification from the kernel that is not what we believe, and a timer. A
new desired state is compared with what we believe to be there, which costs no dump; the other two look first. What
failed stays dirty, is shown with its reason, and is tried again with growing pauses. Nothing is touched before the
first desired state has been given, and nothing when the loop ends: the kernel keeps what it has.
"""

from __future__ import annotations

import errno
import logging
import math
import socket
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import trio

from netagent.datapath.apply import Failure, apply, choose_indexes
from netagent.datapath.netlink import Netlink, split_messages
from netagent.datapath.observe import Observation, is_news, observe
from netagent.datapath.operations import CreateDevice, after, device_of, render
from netagent.datapath.plan import plan
from netagent.datapath.state import Device, KernelState, Kind, endpoint_of
from netagent.model.ids import EndpointId

_log = logging.getLogger(__name__)

INTERVAL_S = 10.0
"""Between looks when nothing happens: notifications can be lost, and tell nothing of some changes."""
SETTLE_S = 0.05
"""From the first piece of news to the look: changes come in bursts (a container's start is some twenty messages)."""
RETRY_MIN_S, RETRY_MAX_S = 0.5, INTERVAL_S
"""Pauses before what failed is tried again; the timer looks at it in any case."""
_SHOWN_FAILURES = 100
_NOTIFICATION_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcileStatus:
    """What `status` and `doctor` show of the datapath."""

    generation: int
    """Of the last desired state given; -1 before the first."""
    programmed_generation: int
    devices: int
    entries: int
    """Neighbours and FDB entries believed to be in the kernel."""
    looks: int
    looked_at: float
    """When the kernel was last read, on the clock of the loop; -inf: not yet."""
    drift: dict[str, int]
    """Differences that somebody else made and we repaired, by kind of operation, since the start."""
    failures: int
    """Operations that fail now."""
    dirty: tuple[tuple[str, str], ...]
    """(command, reason) of the first 100 of them."""
    absent_endpoints: tuple[EndpointId, ...]
    trouble: str
    """Why the kernel could not be read or written at all; empty when it could."""


class Reconciler:
    """Keeps the kernel equal to the desired state. One task: `run`.

    `notifications` is a socket of `open_notification_socket`, made in the namespace of `netlink`; owned by this.
    """

    def __init__(
        self, netlink: Netlink, notifications: socket.socket, *, interval_s: float = INTERVAL_S
    ) -> None:
        notifications.setblocking(False)
        self._netlink = netlink
        self._notifications = trio.socket.from_stdlib_socket(notifications)
        self._interval_s = interval_s
        self._desired: KernelState | None = None
        self._generation = -1
        self._programmed_generation = -1
        self._belief = Observation()
        """What we saw last, and what we did since."""
        self._standing: Mapping[str, Device] = {}
        """Devices of ours as of the end of the last pass."""
        self._at_work: KernelState | None = None
        """The desired state of the last pass, also while it is under way."""
        self._looked_at = -math.inf
        self._schedule = _Schedule()
        self._failures: Sequence[Failure] = ()
        self._vanished: Sequence[Failure] = ()
        """Failures of the last pass for want of a device: it may have gone since the kernel was read, as with a
        container that ends. The next pass looks first; only what fails again is a failure, shown and told."""
        self._drift: Counter[str] = Counter()
        self._absent: frozenset[EndpointId] = frozenset()
        self._changed = trio.Event()

    async def run(self) -> None:
        """Work until cancelled; leaves the kernel as it is."""
        with self._notifications:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen)
                while True:
                    await self._wait_work()
                    await self._pass()

    def set_desired(self, state: KernelState, generation: int) -> None:
        """What the kernel should hold from now on; `generation` grows from call to call."""
        self._desired, self._generation = state, generation
        self._schedule.wake()

    @property
    def programmed_generation(self) -> int:
        """The newest desired state of which every operation has been tried. -1: none yet.

        What the kernel refused does not hold it back: one bad record would stop everybody. See `trouble_with`.
        """
        return self._programmed_generation

    async def wait_programmed(self, generation: int) -> None:
        """Return once `programmed_generation` has come to `generation`. The caller sets the deadline."""
        while self._programmed_generation < generation:
            await self._changed.wait()

    async def wait_standing(self, devices: Collection[str], generation: int) -> None:
        """Return once these devices are in the kernel to stay, or `wait_programmed` would.

        Where containers come by the hundred, the state is never the newest one; the devices stand all the time.
        """
        while self._programmed_generation < generation and not self._stand(devices):
            await self._changed.wait()

    def _stand(self, devices: Collection[str]) -> bool:
        wanted = (self._at_work, self._desired)
        return all(
            name in self._standing and all(one is not None and name in one.devices for one in wanted)
            for name in devices
        ) and not any(map(self.trouble_with, devices))

    @property
    def absent_endpoints(self) -> frozenset[EndpointId]:
        """Desired local endpoints whose interface was not there at a look: not bound yet, or removed.

        One that is there when it becomes part of the desired state is never among them by mistake.
        """
        return self._absent

    async def wait_absent_changed(self, known: frozenset[EndpointId]) -> frozenset[EndpointId]:
        """Return `absent_endpoints` once it differs from `known`."""
        while self._absent == known:
            await self._changed.wait()
        return self._absent

    def trouble_with(self, device: str) -> str | None:
        """Why an operation on this device fails, if one does."""
        return next(
            (failure.reason for failure in self._failures if device_of(failure.operation) == device), None
        )

    def status(self) -> ReconcileStatus:
        """What the datapath holds and what is wrong with it."""
        state = self._belief.state
        return ReconcileStatus(
            generation=self._generation,
            programmed_generation=self._programmed_generation,
            devices=len(state.devices),
            entries=len(state.neighbours) + len(state.masters) + len(state.selves),
            looks=self._schedule.looks,
            looked_at=self._looked_at,
            drift=dict(self._drift),
            failures=len(self._failures),
            dirty=tuple((render(f.operation), f.reason) for f in self._failures[:_SHOWN_FAILURES]),
            absent_endpoints=tuple(sorted(self._absent)),
            trouble=self._schedule.trouble,
        )

    async def _listen(self) -> None:
        while True:
            try:
                data = await self._notifications.recv(_NOTIFICATION_BYTES)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._schedule.look_soon()  # some were lost
                continue
            if any(
                is_news(message, self._belief.names, self._belief.state) for message in split_messages(data)
            ):
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
        is_looking = self._schedule.is_look_due()
        try:
            if is_looking:
                await self._look()
            await self._program(desired)
        except OSError as error:
            # The socket or a dump failed as a whole; nothing is known of what was done.
            self._schedule.failed(str(error))
            _log.warning("datapath: %s", error)
            return
        self._programmed_generation = generation
        self._standing = self._belief.state.devices
        absent = _absent_endpoints(desired, self._belief.state)
        # Without a look an interface made a moment ago is not known yet; that must not pass for one that is gone.
        self._absent = absent if is_looking else absent & self._absent
        self._changed.set()
        self._changed = trio.Event()

    async def _look(self) -> None:
        before, is_first = self._belief.state, self._schedule.looks == 0
        started_at = self._schedule.start_look()
        self._belief = await observe(self._netlink)
        self._looked_at = trio.current_time()
        self._schedule.end_look(started_at, self._interval_s)
        is_sound = not is_first and not self._failures and not self._vanished
        if is_sound and before != self._belief.state:
            self._drift.update(type(operation).__name__ for operation in plan(before, self._belief.state))

    async def _program(self, desired: KernelState) -> None:
        operations = plan(desired, self._belief.state)
        seen = self._belief
        if operations:
            # Believed before it is done, so that the notifications of our own writes are no news.
            names = {**seen.names, **choose_indexes(operations)}
            self._belief = replace(seen, state=after(seen.state, operations), names=names)
        failures = [_explained(f, seen) for f in await apply(self._netlink, operations, self._belief.names)]
        known = [*self._failures, *self._vanished]
        self._vanished = [f for f in failures if f.errno == errno.ENODEV and f not in known]
        confirmed = [f for f in failures if f not in self._vanished]
        for failure in confirmed:
            if failure not in self._failures:
                _log.warning("datapath: %s: %s", render(failure.operation), failure.reason)
        self._failures = confirmed
        if failures:
            self._schedule.failed("")
        else:
            self._schedule.succeeded()


@dataclass(slots=True)
class _Schedule:
    """When to work, and whether to look first."""

    woken: trio.Event = field(default_factory=trio.Event)
    is_desired_new: bool = False
    look_at: float = -math.inf
    """-inf: before anything else."""
    earliest_look_at: float = -math.inf
    """Looking takes at most a fifth of the time, however much news there is."""
    must_look: bool = True
    """What we believe is unsound: look before planning, whatever the reason for planning."""
    retry_s: float = RETRY_MIN_S
    looks: int = 0
    trouble: str = ""

    def wake(self) -> None:
        """A new desired state is there."""
        self.is_desired_new = True
        self.woken.set()

    def sleep(self) -> None:
        """The loop has woken; the next event is a new one."""
        if self.woken.is_set():
            self.woken = trio.Event()

    def look_soon(self) -> None:
        """Something is not as we believe."""
        at = max(trio.current_time() + SETTLE_S, self.earliest_look_at)
        if at < self.look_at:
            self.look_at = at
            self.woken.set()

    def is_look_due(self) -> bool:
        """True when the loop should dump before it plans."""
        return self.must_look or trio.current_time() >= self.look_at

    def is_due(self) -> bool:
        """True when there is something to do now."""
        return self.is_desired_new or trio.current_time() >= self.look_at

    def start_look(self) -> float:
        """The time. From now on news calls for another look: it may be of a table that has been read already."""
        self.look_at = math.inf
        return trio.current_time()

    def end_look(self, started_at: float, interval_s: float) -> None:
        """It went well; the next is the timer's, if no news came meanwhile."""
        now = trio.current_time()
        self.looks += 1
        self.must_look = False
        self.trouble = ""
        self.earliest_look_at = now + 4 * (now - started_at)
        self.look_at = max(min(self.look_at, now + interval_s), self.earliest_look_at)

    def failed(self, trouble: str) -> None:
        """Look and try again after a pause that doubles."""
        self.trouble = trouble
        self.must_look = True
        self.look_at = min(self.look_at, trio.current_time() + self.retry_s)
        self.retry_s = min(2 * self.retry_s, RETRY_MAX_S)

    def succeeded(self) -> None:
        """All that was planned was done."""
        self.retry_s = RETRY_MIN_S


def _absent_endpoints(desired: KernelState, observed: KernelState) -> frozenset[EndpointId]:
    missing = (
        endpoint_of(device.alias)
        for name, device in desired.devices.items()
        if device.kind is Kind.VETH and name not in observed.devices
    )
    return frozenset(EndpointId(endpoint_id) for endpoint_id in missing if endpoint_id is not None)


def _explained(failure: Failure, seen: Observation) -> Failure:
    """The kernel's `File exists` with the name of what exists."""
    if not isinstance(failure.operation, CreateDevice) or failure.errno != errno.EEXIST:
        return failure
    device = failure.operation.device
    if device.name in seen.strangers:
        return replace(failure, reason=f"a device named {device.name} exists that is not ours")
    if device.tunnel is not None and device.tunnel.vni in seen.foreign_tunnels:
        holder = seen.foreign_tunnels[device.tunnel.vni]
        return replace(failure, reason=f"VNI {device.tunnel.vni} is used by {holder}, which is not ours")
    return failure
