"""The doctor among ten thousand endpoints: nothing that it works out holds the agent's event loop up for long."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import replace

from fakes.doctor_world import World
from fakes.registry import H2, N2, endpoint, network

from netagent.doctor.checks.expected_objects import Situation, intended_state, owners
from netagent.doctor.checks.kernel_drift import KernelTable, differences
from netagent.doctor.checks.object_status import State
from netagent.doctor.checks.resolver_checks import source_of
from netagent.model.sandbox import Sandbox, SandboxId
from netgossip.slices import Slices, T

SUBNETS = ("10.2.0.0/16", "fd00:2::/64")
ENDPOINTS = 10_000
LOST = 2_000
"""Neighbours. With a whole table goes its device, which is one difference."""
LONGEST_S = 0.02
"""Of CPU, so that a busy machine makes no difference; collections of garbage are netagent.memory's affair."""


def timed(make: Callable[[], Slices[T]]) -> tuple[T, float]:
    """The result, and the seconds of CPU of the longest slice: of three times the best, as what comes from elsewhere
    (a page that is fetched, a virtual machine that waits) only adds."""
    return min((timed_once(make()) for _ in range(3)), key=lambda found: found[1])


def timed_once(slices: Slices[T]) -> tuple[T, float]:
    longest = 0.0
    gc.collect()
    gc.disable()
    try:
        while True:
            began = time.thread_time()
            try:
                next(slices)
            except StopIteration as end:
                result: T = end.value
                return result, max(longest, time.thread_time() - began)
            longest = max(longest, time.thread_time() - began)
    finally:
        gc.enable()


def test_no_part_of_an_examination_holds_the_loop_up(world: World, situation: Situation) -> None:
    world.put(H2, network(N2, "large", subnets=SUBNETS))
    world.rows = {one: replace(row, network_id=N2) for one, row in world.rows.items()}
    for number in range(256, 256 + ENDPOINTS):
        high, low = divmod(number, 256)
        addresses = (f"10.2.{high}.{low}", f"fd00:2::{number:x}")
        world.put(H2, endpoint(number, N2, addresses=addresses, mac=f"0a:00:00:01:{high:02x}:{low:02x}"))
    desired, longest_s = timed(lambda: intended_state(world.known, situation))
    assert len(desired.selves) > ENDPOINTS
    assert longest_s < LONGEST_S
    lost = set(list(desired.neighbours)[:LOST])
    observed = replace(
        desired,
        neighbours={place: mac for place, mac in desired.neighbours.items() if place not in lost},
    )
    found, longest_s = timed(lambda: differences(desired, observed))
    assert [one.state for one in found if one.part is KernelTable.NEIGHBOUR] == [State.MISSING] * LOST
    assert len(found) == LOST
    assert longest_s < LONGEST_S
    whose, longest_s = timed(lambda: owners(world.view))
    assert len(whose) > ENDPOINTS
    assert longest_s < LONGEST_S
    box = Sandbox(sandbox_id=SandboxId("4:7"), networks=tuple(world.view.networks))
    source, longest_s = timed(lambda: source_of(world.view, [box], "mesh.internal"))
    assert len(source.rows) > ENDPOINTS
    assert longest_s < LONGEST_S
