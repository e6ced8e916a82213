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
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import trio

from netagent.datapath.apply import Failure, apply, names_after
from netagent.datapath.damage import Drift, damages_between
from netagent.datapath.link import RTM_DELLINK
from netagent.datapath.netlink import Message, Netlink, split_messages
from netagent.datapath.observe import Observation, is_news, observe
from netagent.datapath.operations import CreateDevice, RenameDevice, SetDevice, after, device_of, render
from netagent.datapath.plan import plan
from netagent.datapath.schedule import INTERVAL_S, Schedule
from netagent.datapath.state import Device, KernelState, Kind, endpoint_of
from netagent.log import Limited
from netagent.model.ids import EndpointId

_log = logging.getLogger(__name__)
_limited = Limited(_log, period_s=INTERVAL_S)
"""Who changes the same thing all the time must not fill the log."""

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
    """Damage that somebody else did and we repaired, by kind (netagent.datapath.damage), since the start."""
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
        self,
        netlink: Netlink,
        notifications: socket.socket,
        *,
        drift: Drift | None = None,
        interval_s: float = INTERVAL_S,
    ) -> None:
        notifications.setblocking(False)
        self.drift = drift if drift is not None else Drift()
        self._netlink = netlink
        self._notifications = trio.socket.from_stdlib_socket(notifications)
        self._interval_s = interval_s
        self._desired: KernelState | None = None
        self._generation = -1
        self._programmed_generation = -1
        self._belief = Observation()
        """What we saw last, and what we did since."""
        self._is_sound = False
        """Whether it can be told from the belief what somebody else did."""
        self._standing: Mapping[str, Device] = {}
        """Devices of ours as of the end of the last pass."""
        self._at_work: KernelState | None = None
        """The desired state of the last pass, also while it is under way."""
        self._looked_at = -math.inf
        self._schedule = Schedule()
        self._failures: Sequence[Failure] = ()
        self._vanished: Sequence[Failure] = ()
        """Failures of the last pass for want of a device: it may have gone since the kernel was read, as with a
        container that ends. The next pass looks first; only what fails again is a failure, shown and told."""
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

    def is_standing(self, device: str) -> bool:
        """Whether a device of ours was in the kernel at the end of the last pass."""
        return device in self._standing

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
            entries=len(state.neighbours) + len(state.masters) + len(state.selves) + len(state.floods),
            looks=self._schedule.looks,
            looked_at=self._looked_at,
            drift=self.drift.kinds,
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
            if any(map(self._is_news, split_messages(data))):
                self._schedule.look_soon()

    def _is_news(self, message: Message) -> bool:
        # What was in the way of something may be the device that has just gone.
        is_way_free = bool(self._failures) and message.type == RTM_DELLINK
        return is_way_free or is_news(message, self._belief.names, self._belief.state)

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
            self._is_sound = False
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
        before = self._belief.state
        started_at = self._schedule.start_look()
        self._belief = await observe(self._netlink, self._belief.names.keys())
        self._looked_at = trio.current_time()
        self._schedule.end_look(started_at, self._interval_s)
        was_sound, self._is_sound = self._is_sound, True
        if was_sound and before != self._belief.state:
            # Of what failed we believe what we do not know.
            failing = {device_of(failure.operation) for failure in (*self._failures, *self._vanished)}
            for sentence in self.drift.note(damages_between(before, self._belief.state, failing)):
                _limited.warning(
                    sentence, f"datapath: somebody else changed what is ours; put right: {sentence}"
                )

    async def _program(self, desired: KernelState) -> None:
        operations = plan(desired, self._belief.state)
        seen = self._belief
        if operations:
            # Believed before it is done, so that the notifications of our own writes are no news.
            names = names_after(operations, seen.names)
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


def _absent_endpoints(desired: KernelState, observed: KernelState) -> frozenset[EndpointId]:
    missing = (
        endpoint_of(device.alias)
        for name, device in desired.devices.items()
        if device.kind is Kind.VETH and name not in observed.devices
    )
    return frozenset(EndpointId(endpoint_id) for endpoint_id in missing if endpoint_id is not None)


def _explained(failure: Failure, seen: Observation) -> Failure:
    """The kernel's `File exists` and `Address in use` with the name of what is in the way."""
    operation = failure.operation
    if isinstance(operation, SetDevice) and failure.errno == errno.EADDRINUSE and operation.device.tunnel:
        port = operation.device.tunnel.port
        return replace(failure, reason=f"UDP port {port} is used by another program or device")
    if failure.errno != errno.EEXIST or not isinstance(operation, CreateDevice | RenameDevice):
        return failure
    name = device_of(operation)
    if name in seen.strangers:
        return replace(failure, reason=f"a device named {name} exists that is not ours")
    tunnel = operation.device.tunnel if isinstance(operation, CreateDevice) else None
    if tunnel is not None and tunnel.vni in seen.foreign_tunnels:
        holder = seen.foreign_tunnels[tunnel.vni]
        return replace(failure, reason=f"VNI {tunnel.vni} is used by {holder}, which is not ours")
    return failure
