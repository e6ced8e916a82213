"""Apply what is known: first to the kernel, then to the names, on every change.

One task gives the reconciler, and the firewall's guard, the state that follows from the latest registry and the
latest local endpoints. Another takes a snapshot, waits until its state is in the kernel, and only then gives the
resolver the names of that same snapshot. So an answer names no endpoint before its path exists. A kernel that refuses
or hangs delays names by PROGRAM_GRACE_S at most: a stuck datapath must not take DNS down with it. Nor does a missing
resolver delay the kernel.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

import trio

from netagent.datapath.host.forwarding import Forwarding
from netagent.datapath.reconcile.host_service_routes import HostRoutes, HostServiceRoutes
from netagent.datapath.reconcile.reconciler import Reconciler
from netagent.datapath.state import DesiredChange, KernelState
from netagent.firewall.guard import Guard
from netagent.firewall.inputs import FirewallInput
from netagent.registry.state_store import Snapshot, StateStore
from netgossip.slice_runner import in_slices
from netgossip.slices import Slices

PROGRAM_GRACE_S = 2.0
CLEAR_S = 2.0
"""Deleting some hundred devices takes the kernel half a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectionSteps:
    """The steps of the loop, as functions of a snapshot."""

    desired: Callable[[Snapshot], Slices[DesiredChange]]
    guarded: Callable[[Snapshot], FirewallInput]
    routed: Callable[[Snapshot], Collection[str]]
    routed_to_host: Callable[[Snapshot], Collection[HostRoutes]]
    publish_names: Callable[[Snapshot], Awaitable[None]]
    probe: Callable[[Snapshot], None]
    direct: Callable[[Snapshot, DesiredChange], None]


class Projection:
    """Runs the loop, and lets other tasks wait for it."""

    def __init__(
        self,
        live: StateStore,
        reconciler: Reconciler,
        guard: Guard,
        forwarding: Forwarding,
        *,
        host_service_routes: HostServiceRoutes,
        steps: ProjectionSteps,
    ) -> None:
        self._live = live
        self._reconciler = reconciler
        self._guard = guard
        self._forwarding = forwarding
        self._host_service_routes = host_service_routes
        self._steps = steps
        self._given = 0
        self._followed = 0
        self._progress = trio.Event()
        self._running = trio.CancelScope()

    async def run(self) -> None:
        """Work until cancelled or cleared."""
        with self._running:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._drive_kernel)
                nursery.start_soon(self._drive_routing)
                nursery.start_soon(self._drive_names)

    async def clear(self) -> None:
        """Stop, and remove everything of ours from the kernel: this host leaves for good."""
        self._running.cancel()
        last = self._live.revision + 1
        self._reconciler.set_desired(DesiredChange(KernelState()), last)
        with trio.move_on_after(CLEAR_S):
            await self._reconciler.wait_programmed(last)
        self._forwarding.set_desired((), last)
        self._host_service_routes.set_desired((), last)
        with trio.move_on_after(CLEAR_S):
            await self._forwarding.wait_tried(last)
            await self._host_service_routes.wait_tried(last)
        self._guard.set_desired(None, last)
        with trio.move_on_after(CLEAR_S):
            await self._guard.wait_tried(last)

    async def _drive_kernel(self) -> None:
        while True:
            known = self._live.now
            wanted = await in_slices(self._steps.desired(known))
            guarded = self._steps.guarded(known)
            self._guard.set_desired(guarded, known.revision)
            if guarded.is_fenced:
                # Before any device or entry by which a packet could leave: it would leave in the clear.
                self._given = known.revision
                self._note_progress()
                await self._guard.wait_tunnel_only()
            # Before the entries by which containers answer: what they say without VXLAN is known by then.
            self._steps.direct(known, wanted)
            self._reconciler.set_desired(wanted, known.revision)
            self._steps.probe(known)
            self._given = known.revision
            self._note_progress()
            await self._live.wait_newer(known.revision)

    async def _drive_routing(self) -> None:
        """Update the routing sysctls, after the bridges: a bridge's sysctls exist once it does."""
        while True:
            known = self._live.now
            await self._reconciler.wait_programmed(known.revision)
            self._forwarding.set_desired(self._steps.routed(known), known.revision)
            self._host_service_routes.set_desired(self._steps.routed_to_host(known), known.revision)
            await self._live.wait_newer(known.revision)

    async def _drive_names(self) -> None:
        while True:
            known = self._live.now
            with trio.move_on_after(PROGRAM_GRACE_S):
                await self.wait_programmed(known.revision)
            await self._steps.publish_names(known)
            self._followed = known.revision
            self._note_progress()
            await self._live.wait_newer(known.revision)

    async def wait_programmed(self, revision: int) -> None:
        """Return once the kernel state of `revision` or a later one has been tried."""
        while self._given < revision:
            await self._progress.wait()
        await self._reconciler.wait_programmed(revision)
        await self._guard.wait_tried(revision)
        await self._forwarding.wait_tried(revision)
        await self._host_service_routes.wait_tried(revision)

    async def wait_guarded(self, revision: int) -> str:
        """Wait until the firewall is that of `revision` or a later one; return why it can't be, or an empty text.
        Returns at once when there should be no firewall any more."""
        while self._given < revision and not self._running.cancel_called:
            await self._progress.wait()
        if not self._running.cancel_called:
            await self._guard.wait_tried(revision)
        return self._guard.trouble

    async def wait_followed(self, revision: int) -> None:
        """Return once kernel and names are those of `revision` or a later one."""
        while self._followed < revision:
            await self._progress.wait()

    async def wait_in_kernel(self, devices: Collection[str], revision: int) -> None:
        """Return once these devices are in the kernel to stay, or the kernel state of `revision` has been tried."""
        while self._given < revision:
            await self._progress.wait()
        await self._reconciler.wait_in_kernel(devices, revision)

    def trouble_with(self, device: str) -> str | None:
        """Return why the kernel refused something about this device."""
        return self._reconciler.trouble_with(device)

    def _note_progress(self) -> None:
        self._progress.set()
        self._progress = trio.Event()
