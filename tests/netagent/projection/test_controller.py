"""Kernel first, names of the same moment after it; neither holds the other back for long."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
import trio
import trio.lowlevel
from fakes.registry import H1, Writer, endpoint, network
from fakes.virtual import virtual

from netagent.datapath.state import DesiredChange, KernelState
from netagent.firewall.inputs import FirewallInput
from netagent.projection.controller import PROGRAM_GRACE_S, Projection, ProjectionSteps
from netagent.registry.state_store import Snapshot, StateStore
from netagent.registry.view import RegistryView


class Kernel:
    """A reconciler that programs after `delay_s`; None: never."""

    def __init__(self) -> None:
        self.delay_s: float | None = 0.0
        self.given: list[Any] = []
        self.programmed = 0
        self._changed = trio.Event()

    def set_desired(self, wanted: DesiredChange, generation: int) -> None:
        self.given.append((wanted.state, generation))

    async def wait_programmed(self, generation: int) -> None:
        if self.delay_s is None:
            await trio.sleep_forever()
        await trio.sleep(self.delay_s)
        self.programmed = max(self.programmed, generation)

    def trouble_with(self, device: str) -> str:
        return f"no {device}"


class Guard:
    """A firewall that is tried as soon as it is given."""

    def __init__(self) -> None:
        self.given: list[Any] = []
        self.trouble = ""
        self.is_tunnel_only = trio.Event()

    async def wait_tunnel_only(self) -> None:
        await self.is_tunnel_only.wait()

    def set_desired(self, state: object, generation: int) -> None:
        self.given.append((state, generation))

    async def wait_tried(self, generation: int) -> None:
        await trio.lowlevel.checkpoint()


class Forwarding:
    """Switches that are turned as soon as they are named."""

    def __init__(self) -> None:
        self.given: list[Any] = []

    def set_desired(self, bridges: object, generation: int) -> None:
        self.given.append((bridges, generation))

    async def wait_tried(self, generation: int) -> None:
        await trio.lowlevel.checkpoint()


def desired_of(_known: Snapshot) -> Generator[None, None, DesiredChange]:
    """In two slices."""
    yield
    return DesiredChange(KernelState())


def revision_of(known: Snapshot) -> Any:
    """A moment in place of what would be made of it."""
    return known.revision


class World:
    def __init__(self) -> None:
        self.live = StateStore(RegistryView(H1), {})
        self.kernel = Kernel()
        self.published: list[tuple[int, int, int]] = []
        self.probed: list[Snapshot] = []
        self.names_delay_s = 0.0
        self.writer = Writer(H1)
        self.guard = Guard()
        self.is_fenced = False
        steps = ProjectionSteps(
            desired=desired_of,
            guarded=lambda _: FirewallInput(vxlan_port=4799, is_fenced=self.is_fenced),
            routed=revision_of,
            routed_to_host=revision_of,
            publish_names=self._publish,
            probe=self.probed.append,
            direct=lambda _known, _change: None,
        )
        self.forwarding = Forwarding()
        parts: tuple[Any, Any, Any] = (self.kernel, self.guard, self.forwarding)
        host_routes: tuple[Any] = (Forwarding(),)
        self.projection = Projection(self.live, *parts, host_service_routes=host_routes[0], steps=steps)

    async def _publish(self, known: Snapshot) -> None:
        await trio.sleep(self.names_delay_s)
        self.published.append((known.revision, len(known.view.endpoints), self.kernel.programmed))

    def change(self, number: int = 1) -> int:
        self.live.update_view(
            lambda view: view.with_entries(self.writer.put(endpoint(number, offset=number + 1)))
        )
        return self.live.revision


@virtual
async def test_names_are_published_after_the_kernel_and_never_of_a_later_moment() -> None:
    world = World()
    world.kernel.delay_s = 0.5
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.projection.run)
        await trio.sleep(2)
        for number in range(1, 20):
            world.change(number)
            await trio.sleep(0.2)
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    assert world.published[-1][1] == 19
    for revision, _, programmed in world.published:
        assert programmed >= revision, "named before its path existed"


@virtual
async def test_a_kernel_that_hangs_holds_names_back_by_the_grace_only() -> None:
    world = World()
    world.kernel.delay_s = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.projection.run)
        await trio.lowlevel.checkpoint()
        revision = world.change()
        begun = trio.current_time()
        await world.projection.wait_followed(revision)
        assert trio.current_time() - begun <= 2 * PROGRAM_GRACE_S
        nursery.cancel_scope.cancel()


@virtual
async def test_a_resolver_that_hangs_does_not_hold_the_kernel_back() -> None:
    world = World()
    world.names_delay_s = 1000.0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.projection.run)
        await trio.sleep(1)
        revision = world.change()
        begun = trio.current_time()
        await world.projection.wait_programmed(revision)
        assert trio.current_time() == begun
        assert world.kernel.given[-1][1] == revision
        nursery.cancel_scope.cancel()


@virtual
async def test_every_change_in_the_end_reaches_both_and_the_probes() -> None:
    world = World()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.projection.run)
        for number in range(1, 30):
            revision = world.change(number)
        await world.projection.wait_followed(revision)
        nursery.cancel_scope.cancel()
    assert world.published[-1][:2] == (revision, 29)
    assert world.probed[-1].revision == revision
    generations = [generation for _, generation in world.kernel.given]
    assert generations == sorted(set(generations))


@virtual
async def test_clearing_is_the_last_word() -> None:
    world = World()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.projection.run)
        await trio.sleep(1)
        await world.projection.clear()
        world.change()
        await trio.sleep(10)
    assert world.kernel.given[-1][0] == KernelState()


@virtual
async def test_where_packets_must_be_encrypted_the_kernel_gets_nothing_before_the_firewall_refuses_others() -> (
    None
):
    world = World()
    world.is_fenced = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.projection.run)
        await trio.sleep(10)
        assert world.kernel.given == []
        world.guard.is_tunnel_only.set()
        await trio.sleep(1)
        assert world.kernel.given
        nursery.cancel_scope.cancel()


@virtual
async def test_waiting_for_the_kernel_waits_until_it_was_given_the_state() -> None:
    world = World()
    with trio.move_on_after(1) as scope:
        await world.projection.wait_programmed(1)
    assert scope.cancelled_caught
    assert world.projection.trouble_with("na-1") == "no na-1"


def test_the_view_of_a_moment_does_not_follow() -> None:
    world = World()
    before: Any = world.live.now
    world.live.update_view(lambda view: view.with_entries(world.writer.put(network())))
    assert (len(before.view.networks), len(world.live.now.view.networks)) == (0, 1)
    with pytest.raises(AttributeError):
        before.revision = 7
