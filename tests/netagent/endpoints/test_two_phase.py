"""Attaching in stages: each can fail, be repeated, or be the last that a runtime ever asks for."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from fakes.agent_host import AgentHost, Namespaces
from fakes.registry import N1, host, network
from fakes.virtual import virtual

from netagent.endpoints.two_phase import BIND_S, HOLD_S
from netagent.errors import FailedError, NetagentError, NotFoundError, RefusedError
from netagent.journal.journal import DiskFullError
from netagent.journal.rows import LocalEndpointRow, Reserved
from netagent.model.records import Health
from netagent.model.request import AttachRequest

ORIGIN = "docker:e1"


async def started(namespaces: Namespaces, *names: str) -> AgentHost:
    one = AgentHost()
    await one.publisher.put(host("h1"), network(N1, "app"))
    one.steps.done.clear()
    namespaces.make(*names)
    return one


def request(**fields: Any) -> AttachRequest:
    return AttachRequest(target="docker:web", network=N1, **fields)


async def reserved(one: AgentHost, origin: str = ORIGIN) -> LocalEndpointRow:
    return await one.endpoints.staged.reserve(request(), origin=origin)


async def entered(
    one: AgentHost, namespaces: Namespaces, origin: str = ORIGIN, name: str = "web", netns: str = "web"
) -> LocalEndpointRow:
    staged = one.endpoints.staged
    await reserved(one, origin)
    await staged.create(origin)
    return await staged.bind(origin, str(namespaces.folder / netns), name=name, behind_runtime=True)


def is_free(one: AgentHost, count: int = 253) -> bool:
    return one.allocator.free_count(N1) == (count, 253)


@virtual
async def test_the_stages_from_an_address_to_a_name_and_back(namespaces: Namespaces) -> None:
    one = await started(namespaces, "web")
    staged = one.endpoints.staged
    held = await staged.hold(N1)
    assert one.journal.load_endpoints() == []
    row = await staged.reserve(request(addresses=held), origin=ORIGIN)
    assert (row.addresses, row.stage) == (held, Reserved())
    assert one.journal.load_endpoints() == [row]
    assert one.own_endpoints() == set()
    assert await staged.create(ORIGIN) == f"nc{row.endpoint_id[:8]}"
    assert one.own_endpoints() == {row.endpoint_id}, "others know the way to it"
    assert not one.live.view.is_visible(one.live.view.endpoints[row.endpoint_id]), "and no name"
    row = await staged.bind(ORIGIN, str(namespaces.folder / "web"), name="web", behind_runtime=True)
    assert row.netns is not None
    assert (row.name, row.service, row.is_published, row.netns.behind_runtime) == ("web", "web", True, True)
    assert one.live.view.is_visible(one.live.view.endpoints[row.endpoint_id])
    assert one.resolvers.sandboxes
    await staged.unbind(ORIGIN)
    assert one.own_endpoints() == set()
    assert not one.attacher.devices
    assert not one.resolvers.sandboxes
    await one.endpoints.detach_origin(ORIGIN)
    assert one.traces() == {}


@virtual
async def test_every_stage_may_be_asked_for_twice(namespaces: Namespaces) -> None:
    one = await started(namespaces, "web")
    staged = one.endpoints.staged
    assert await reserved(one) == await reserved(one)
    assert await staged.create(ORIGIN) == await staged.create(ORIGIN)
    path = str(namespaces.folder / "web")
    row = await staged.bind(ORIGIN, path, name="web", behind_runtime=True)
    assert await staged.bind(ORIGIN, path, name="web", behind_runtime=True) == row
    await staged.unbind(ORIGIN)
    await staged.unbind(ORIGIN)
    assert await one.endpoints.detach_origin(ORIGIN) is not None
    assert await one.endpoints.detach_origin(ORIGIN) is None
    await staged.unbind(ORIGIN)
    assert one.traces() == {}


@virtual
async def test_a_held_address_has_one_holder_and_dropping_gives_it_back(namespaces: Namespaces) -> None:
    one = await started(namespaces)
    staged = one.endpoints.staged
    held = await staged.hold(N1, ("10.1.0.77",))
    assert held == ("10.1.0.77", "fd00:1::4d")
    with pytest.raises(RefusedError) as error:
        await staged.hold(N1, ("10.1.0.77",))
    assert error.value.code == "address-in-use"
    await staged.drop(N1, "fd00:1::4d")
    await staged.drop(N1, "10.1.0.77")
    assert is_free(one)
    assert await staged.hold(N1, ("10.1.0.77",)) == held


@virtual
async def test_dropping_the_address_of_an_endpoint_changes_nothing(namespaces: Namespaces) -> None:
    one = await started(namespaces)
    row = await reserved(one)
    await one.endpoints.staged.drop(N1, row.addresses[0])
    assert one.journal.load_endpoints() == [row]
    assert is_free(one, 252)


@virtual
async def test_what_is_never_completed_is_removed_after_its_time(namespaces: Namespaces) -> None:
    one = await started(namespaces, "web")
    staged = one.endpoints.staged
    await staged.hold(N1)
    await reserved(one)
    await trio.sleep(HOLD_S - 1)
    await staged.create(ORIGIN)  # a sign of life
    await trio.sleep(2)
    await staged.sweep()
    assert is_free(one, 252)
    await trio.sleep(HOLD_S)
    await staged.sweep()
    assert one.traces() == {}
    kept = await entered(one, namespaces)
    await trio.sleep(2 * HOLD_S)
    await staged.sweep()
    assert list(one.live.rows.values()) == [kept]


@virtual
async def test_a_reserved_endpoint_outlives_the_agent_and_a_restarted_one_finishes_it(
    namespaces: Namespaces,
) -> None:
    one = await started(namespaces, "web")
    row = await reserved(one)
    one.restart()
    await one.garbage_collector.recover()
    assert one.journal.load_endpoints() == [row]
    await one.endpoints.staged.create(ORIGIN)
    assert (
        await one.endpoints.staged.bind(
            ORIGIN, str(namespaces.folder / "web"), name="web", behind_runtime=True
        )
    ).name


@virtual
async def test_an_interface_that_never_comes_leaves_the_endpoint_reserved(namespaces: Namespaces) -> None:
    one = await started(namespaces, "web")
    one.attacher.has_moved = False
    before = trio.current_time()
    with pytest.raises(FailedError) as error:
        await entered(one, namespaces)
    assert "docker:web did not get its interface" in str(error.value)
    assert trio.current_time() - before == pytest.approx(BIND_S, abs=0.1)
    (row,) = one.live.rows.values()
    assert row.stage == Reserved()
    assert not one.live.view.is_visible(one.live.view.endpoints[row.endpoint_id])
    assert not one.resolvers.sandboxes


@pytest.mark.parametrize("position", range(9))
@virtual
async def test_a_stage_that_fails_anywhere_can_be_ended(namespaces: Namespaces, position: int) -> None:
    one = await started(namespaces, "web")
    one.steps.fault = (position, DiskFullError("/var: the disk is full"))
    with pytest.raises(NetagentError):
        await entered(one, namespaces)
    assert not any(map(one.live.view.is_visible, one.live.view.endpoints.values()))
    await one.endpoints.detach_origin(ORIGIN)
    assert one.traces() == {}


@virtual
async def test_a_record_that_was_published_but_not_noted_before_a_crash_goes_at_the_start(
    namespaces: Namespaces,
) -> None:
    one = await started(namespaces, "web")
    before = await reserved(one)
    row = await entered(one, namespaces)
    await one.journal.save_endpoint(before)
    one.restart()
    assert one.own_endpoints() == {row.endpoint_id}
    await one.garbage_collector.recover()
    assert one.own_endpoints() == set()
    # The runtime's container lives: it is entered again, and reported again.
    again = await entered(one, namespaces)
    assert again == row
    assert one.own_endpoints() == {row.endpoint_id}


@virtual
async def test_a_name_that_is_taken_gets_a_part_of_the_id(namespaces: Namespaces) -> None:
    one = await started(namespaces, "web", "other")
    await entered(one, namespaces)
    row = await entered(one, namespaces, "docker:e2", netns="other")
    assert (row.name, row.service) == (f"web-{row.endpoint_id[:4]}", "web")


@virtual
async def test_an_endpoint_in_use_that_could_not_be_removed_has_its_names_again(
    namespaces: Namespaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await started(namespaces, "web")
    row = await entered(one, namespaces)

    async def fail(_: LocalEndpointRow) -> LocalEndpointRow:
        assert not one.live.view.is_visible(one.live.view.endpoints[row.endpoint_id])
        raise DiskFullError("/var: the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(one.endpoints.removal, "take_down", fail)
        with pytest.raises(DiskFullError):
            await one.endpoints.detach_origin(ORIGIN, may_be_in_use=True)
    assert one.live.view.is_visible(one.live.view.endpoints[row.endpoint_id])
    await one.endpoints.detach_origin(ORIGIN, may_be_in_use=True)
    assert one.traces() == {}


@virtual
async def test_what_a_runtime_learns_later_is_published_when_it_shows(namespaces: Namespaces) -> None:
    one = await started(namespaces, "web")
    row = await entered(one, namespaces)
    one.steps.done.clear()
    change = one.endpoints.change
    assert await change(row.endpoint_id, health=Health.UNKNOWN) == row
    assert one.steps.done == []
    changed = await change(row.endpoint_id, health=Health.UNHEALTHY, aliases=("shop",), name="front")
    record = one.live.view.endpoints[row.endpoint_id].record
    assert (record.health, record.aliases, record.name) == (Health.UNHEALTHY, ("shop",), "front")
    assert one.journal.load_endpoints() == [changed]
    await one.endpoints.detach_origin(ORIGIN)
    assert await change(row.endpoint_id, health=Health.HEALTHY) is None


@pytest.mark.parametrize("position", range(2))
@virtual
async def test_a_change_that_could_not_be_published_is_published_when_it_is_tried_again(
    namespaces: Namespaces, position: int
) -> None:
    one = await started(namespaces, "web")
    row = await entered(one, namespaces)
    one.steps.done.clear()
    one.steps.fault = (position, DiskFullError("/var: the disk is full"))
    with pytest.raises(DiskFullError):
        await one.endpoints.change(row.endpoint_id, health=Health.UNHEALTHY)
    assert one.live.rows[row.endpoint_id].health is Health.UNKNOWN
    await one.endpoints.change(row.endpoint_id, health=Health.UNHEALTHY)
    assert one.live.view.endpoints[row.endpoint_id].record.health is Health.UNHEALTHY
    assert one.journal.load_endpoints() == [one.live.rows[row.endpoint_id]]


@virtual
async def test_stages_of_unknown_origins_are_refused_and_those_of_many_do_not_wait(
    namespaces: Namespaces,
) -> None:
    one = await started(namespaces, *(f"c{n}" for n in range(20)))
    with pytest.raises(NotFoundError) as error:
        await one.endpoints.staged.create("docker:unknown")
    assert error.value.code == "no-such-endpoint"
    async with trio.open_nursery() as nursery:
        for n in range(20):
            nursery.start_soon(entered, one, namespaces, f"docker:e{n}", f"c{n}", f"c{n}")
    rows = list(one.live.rows.values())
    assert len({address for row in rows for address in row.addresses}) == 40
    assert all(row.is_published for row in rows)
    assert not len(one.endpoints.context.locks)
