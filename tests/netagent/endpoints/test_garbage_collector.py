"""What an agent makes of its journal at a start, and how it notices what no runtime reported."""

from __future__ import annotations

import dataclasses
import errno
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import trio
from fakes.agent_host import BOOT, AgentHost, Identity, Namespaces
from fakes.registry import H2, N1, N2, Writer, host, network
from fakes.virtual import virtual

from netagent import periodic
from netagent.endpoints import garbage_collector as module
from netagent.endpoints import resolv_conf
from netagent.endpoints.records import record_of
from netagent.endpoints.targets import is_at_its_path
from netagent.errors import FailedError, RefusedError
from netagent.journal import statements
from netagent.journal.journal import DiskFullError
from netagent.journal.rows import Bound, LocalEndpointRow, Published
from netagent.model.ids import EndpointId
from netagent.model.publication import Publication
from netagent.model.records import RemovalRecord
from netagent.model.request import AttachRequest

Processes: TypeAlias = dict[Identity, str]


class World(Namespaces):
    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, processes: Processes) -> None:
        super().__init__(folder, monkeypatch)
        self.processes = processes


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Processes:
    """Namespaces that live on in some process: identity -> path. Looked up without a thread, for virtual time."""
    found: Processes = {}

    async def run_sync(function: Callable[..., Any], identity: Identity) -> str | None:
        await trio.lowlevel.checkpoint()
        assert function is module._path_of_namespace
        return found.get(identity)

    monkeypatch.setattr(
        module,
        "trio",
        types.SimpleNamespace(**vars(trio) | {"to_thread": types.SimpleNamespace(run_sync=run_sync)}),
    )
    return found


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: Processes) -> World:
    return World(tmp_path, monkeypatch, processes)


async def attached(world: World, name: str = "web") -> tuple[AgentHost, LocalEndpointRow]:
    one = AgentHost()
    await one.publisher.put(host("h1"), network(N1, "app"))
    world.make(name)
    row, _ = await one.endpoints.attach(AttachRequest(target=f"netns:{name}", network="app"))
    one.steps.done.clear()
    return one, row


def path_of(row: LocalEndpointRow) -> str:
    assert row.netns is not None
    return row.netns.path


async def crashed(world: World, stage: type[Any]) -> tuple[AgentHost, LocalEndpointRow]:
    """A host whose agent died when an attach had come to a stage; the stage's kernel objects are there."""
    one, row = await attached(world)
    if stage is Bound:
        assert row.netns is not None
        row = dataclasses.replace(row, stage=Bound(row.netns))
        await one.journal.transaction(statements.save_endpoint(row))
        await one.publisher.withdraw(record_of(row))
        resolv_conf.remove("web")
        one.attacher.devices.clear()
        one.resolvers.sandboxes.clear()
    return one, row


async def started_again(one: AgentHost, **options: str) -> None:
    one.steps.done.clear()
    one.restart(**options)
    one.participation.resume()
    await one.garbage_collector.recover()


@virtual
async def test_a_restart_changes_nothing_that_is_whole(world: World) -> None:
    one, row = await crashed(world, Published)
    heard, before = len(one.node.heard), one.traces()
    await started_again(one)
    assert one.steps.done == ["list", "listen"]
    assert len(one.node.heard) == heard
    assert one.traces() == before
    assert one.live.rows[row.endpoint_id] == row


@virtual
async def test_an_endpoint_that_was_forgotten_is_published_and_a_reserved_one_taken_back(
    world: World,
) -> None:
    one, row = await crashed(world, Published)
    await one.publisher.withdraw(record_of(row))
    resolv_conf.remove("web")
    await started_again(one)
    assert one.live.rows[row.endpoint_id].is_published
    assert one.own_endpoints() == {row.endpoint_id}
    assert one.journal.load_endpoints()[0].is_published
    assert one.traces()["resolv.conf"] != []

    one, row = await crashed(world, Bound)
    await started_again(one)
    assert one.traces() == {}


@pytest.mark.parametrize("stage", [Bound, Published])
@virtual
async def test_what_went_with_its_namespace_is_gone_everywhere(world: World, stage: type[Any]) -> None:
    one, _ = await crashed(world, stage)
    world.remove("web")
    await started_again(one)
    assert one.traces() == {}


@pytest.mark.parametrize("stage", [Bound, Published])
@virtual
async def test_another_namespace_under_the_same_name_is_another_sandbox(
    world: World, stage: type[Any]
) -> None:
    one, _ = await crashed(world, stage)
    world.replace("web")
    await started_again(one)
    assert one.traces() == {}


@pytest.mark.parametrize("stage", [Bound, Published])
@virtual
async def test_nothing_survives_a_reboot_not_even_with_the_same_inode(world: World, stage: type[Any]) -> None:
    one, _ = await crashed(world, stage)
    await started_again(one, boot_id=BOOT.replace("1", "2"))
    assert one.traces() == {}


@pytest.mark.parametrize("stage", [Bound, Published])
@virtual
async def test_a_network_removed_meanwhile_takes_its_endpoints_along(world: World, stage: type[Any]) -> None:
    one, _ = await crashed(world, stage)
    await one.publisher.put(RemovalRecord(N1))
    await started_again(one)
    assert one.traces() == {}


@virtual
async def test_a_namespace_that_processes_live_on_in_stays(world: World) -> None:
    one, row = await crashed(world, Published)
    (world.folder / "elsewhere").hardlink_to(world.folder / "web")
    world.remove("web")
    elsewhere = str(world.folder / "elsewhere")
    assert row.netns_identity is not None
    world.processes[row.netns_identity] = elsewhere
    await started_again(one)
    assert path_of(one.live.rows[row.endpoint_id]) == elsewhere
    assert not (resolv_conf.NETNS_ETC / "web").exists(), "no program enters it by this name any more"
    assert path_of(one.journal.load_endpoints()[0]) == elsewhere
    assert one.own_endpoints() == {row.endpoint_id}


@virtual
async def test_interfaces_records_and_resolvers_that_the_journal_does_not_know_go(world: World) -> None:
    one, row = await crashed(world, Published)
    await one.journal.transaction([statements.delete_endpoint(row.endpoint_id)])
    await started_again(one)
    assert one.traces() == {}
    assert "unbind" in one.steps.done


@virtual
async def test_a_file_that_no_row_accounts_for_goes_at_a_start_and_others_stay(world: World) -> None:
    """A state folder was put back that is older than the containers."""
    one, row = await attached(world)
    world.make("db", "cache")
    await one.endpoints.attach(AttachRequest(target="netns:db", network="app"))
    cache, _ = await one.endpoints.attach(AttachRequest(target="netns:cache", network="app"))
    (resolv_conf.NETNS_ETC / "other").mkdir()
    (resolv_conf.NETNS_ETC / "other" / "resolv.conf").write_text("nameserver 192.0.2.9\n")
    (resolv_conf.NETNS_ETC / "half").mkdir()
    (resolv_conf.NETNS_ETC / "half" / ".resolv.conf.netagent").write_text("")
    for gone in one.live.rows.keys() - {row.endpoint_id, cache.endpoint_id}:
        await one.journal.transaction([statements.delete_endpoint(gone)])
    await started_again(one)
    assert sorted(path.name for path in resolv_conf.NETNS_ETC.iterdir()) == ["cache", "other", "web"]


FAULTS = [
    FailedError("the kernel says no"),
    OSError(errno.ENOBUFS, "no"),
    DiskFullError("/var: the disk is full"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
@pytest.mark.parametrize("step", ["list", "unbind", "listen", "journal", "silence"])
@pytest.mark.parametrize("stage", [Bound, Published])
@pytest.mark.parametrize("is_gone", [True, False], ids=["gone", "there"])
@virtual
async def test_a_start_goes_on_when_something_fails_and_tries_it_again(
    world: World, stage: type[Any], is_gone: bool, step: str, fault: Any
) -> None:
    one, row = await crashed(world, stage)
    if is_gone:
        world.remove("web")
        one.attacher.devices[EndpointId("0" * 32)] = "eth9"
    one.steps.fault = (step, fault)
    await started_again(one)
    one.steps.fault = None
    await one.garbage_collector._look_around()
    one.attacher.devices.pop(
        EndpointId("0" * 32), None
    )  # a leftover interface is the next start's, and the reconciler's
    expected = set() if is_gone or stage is Bound else {row.endpoint_id}
    assert one.own_endpoints() == expected
    assert set(one.live.rows) == set(one.attacher.devices) == expected
    assert {found.endpoint_id for found in one.journal.load_endpoints()} == expected


@virtual
async def test_an_endpoint_whose_network_is_not_known_yet_is_resumed_when_it_is(world: World) -> None:
    one, row = await crashed(world, Published)
    await one.publisher.withdraw(record_of(row))
    own = one.node.heard
    networks = [event for event in own if any(entry.key.startswith(b"n") for entry in event.entries)]
    one.node.heard = [event for event in own if event not in networks]
    one.steps.done.clear()
    one.restart()
    await one.garbage_collector.recover()
    assert one.own_endpoints() == set()
    for event in networks:
        one.hear(event)
    await one.garbage_collector._look_around()
    assert one.own_endpoints() == {row.endpoint_id}
    assert one.live.rows[row.endpoint_id].is_published
    assert one.resolvers.sandboxes


@virtual
async def test_a_resolver_that_is_away_holds_a_start_up_for_a_bounded_time(world: World) -> None:
    one, row = await crashed(world, Published)
    one.steps.delay_s["listen"] = lambda: 1000.0
    begun = trio.current_time()
    await started_again(one)
    assert trio.current_time() - begun == pytest.approx(module.RECOVER_S)
    assert one.own_endpoints() == {row.endpoint_id}
    one.steps.delay_s.clear()
    await one.garbage_collector._look_around()
    assert one.garbage_collector._unresumed == set()


# -- while it runs --------------------------------------------------------------------------------------------------


@virtual
async def test_a_container_that_vanishes_is_withdrawn_within_seconds(world: World) -> None:
    one, _ = await attached(world)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.garbage_collector.run)
        await trio.sleep(5)
        assert one.own_endpoints()
        world.remove("web")
        await trio.sleep(2 * module.INTERVAL_S)
        assert one.traces() == {}
        nursery.cancel_scope.cancel()


@virtual
async def test_the_end_of_a_replaced_container_leaves_its_successor_what_it_was_given(
    world: World,
) -> None:
    one, old = await attached(world)
    await one.publisher.put(network(N2, "back"))
    world.replace("web")
    request = AttachRequest(target="netns:web", network="back")
    new, _ = await one.endpoints.attach(request)
    path = resolv_conf.NETNS_ETC / "web" / "resolv.conf"
    given = path.read_text()
    assert "back.mesh.internal" in given
    await one.garbage_collector._look_around()
    assert one.live.rows.keys() == {new.endpoint_id}, "the one before has ended"
    assert path.read_text() == given
    await one.endpoints.detach(new.name)
    assert one.traces() == {}
    assert path_of(old) == path_of(new)


@virtual
async def test_a_container_that_was_started_again_has_its_name_address_and_port_at_once(
    world: World,
) -> None:
    one, old = await attached(world)
    publish = (Publication(8080, 80, "tcp"),)
    await one.endpoints.publish("web", Publication(8080, 80, "tcp"))
    world.replace("web")
    request = AttachRequest(target="netns:web", network="app", addresses=old.addresses, publish=publish)
    new, is_new = await one.endpoints.attach(request, holds_ports=True)
    assert is_new
    assert (new.name, new.addresses, new.publish) == ("web", old.addresses, publish)
    assert one.live.rows.keys() == {new.endpoint_id}


@virtual
async def test_a_name_whose_container_lives_on_without_a_path_stays_taken(world: World) -> None:
    one, old = await attached(world)
    (world.folder / "elsewhere").hardlink_to(world.folder / "web")
    assert old.netns_identity is not None
    world.processes[old.netns_identity] = str(world.folder / "elsewhere")
    world.replace("web")
    with pytest.raises(RefusedError, match="'web' is already used on this host"):
        await one.endpoints.attach(AttachRequest(target="netns:web", network="app"))
    assert one.live.rows.keys() == {old.endpoint_id}


@virtual
async def test_the_late_end_of_a_replaced_container_takes_back_what_is_no_longer_used(
    world: World,
) -> None:
    one, _ = await attached(world)
    world.replace("web")
    await one.garbage_collector._look_around()
    assert one.traces() == {}


@virtual
async def test_a_file_goes_with_the_last_endpoint_that_was_attached_by_its_name(world: World) -> None:
    one, by_name = await attached(world)
    await one.publisher.put(network(N2, "back"))
    (world.folder.parent / "pid").hardlink_to(world.folder / "web")
    request = AttachRequest(target=str(world.folder.parent / "pid"), network="back", name="beside")
    beside, _ = await one.endpoints.attach(request)
    await one.endpoints.detach(by_name.name)
    await one.endpoints.detach(beside.name)
    assert one.traces() == {}


@virtual
async def test_a_namespace_that_is_unmounted_and_keeps_its_name_is_withdrawn_within_seconds(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, row = await attached(world)
    for _ in range(3):
        await one.garbage_collector._look_around()
    # Its folder is as it was; only the kernel tells.
    monkeypatch.setattr(module, "is_at_its_path", lambda other: other.endpoint_id != row.endpoint_id)
    monkeypatch.setattr(module._Mounts, "are_changed", lambda _: False)
    await one.garbage_collector._look_around()
    assert one.own_endpoints()
    monkeypatch.setattr(module._Mounts, "are_changed", lambda _: True)
    await one.garbage_collector._look_around()
    assert not one.own_endpoints()


def noting(looked_at: list[str]) -> Callable[[LocalEndpointRow], bool]:
    """Notes the names of those that are looked at."""

    def looking(row: LocalEndpointRow) -> bool:
        looked_at.append(row.name)
        return is_at_its_path(row)

    return looking


@virtual
async def test_at_rest_no_endpoint_is_looked_at_however_many_there_are(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = await attached(world)
    names = [f"c{number}" for number in range(40)]
    world.make(*names)
    for name in names:
        await one.endpoints.attach(AttachRequest(target=f"netns:{name}", network="app"))
    for _ in range(3):
        await one.garbage_collector._look_around()
    looked_at: list[str] = []
    monkeypatch.setattr(module, "is_at_its_path", noting(looked_at))
    # What others on this machine mount is no matter of this test.
    monkeypatch.setattr(module._Mounts, "are_changed", lambda _: False)
    for _ in range(5):
        await one.garbage_collector._look_around()
    assert looked_at == []
    world.replace("c7")
    await one.garbage_collector._look_around()
    assert looked_at == ["c7"]
    assert len(one.live.rows) == 40
    # A new name beside them is no reason to look at any.
    world.make("other")
    for _ in range(3):
        await one.garbage_collector._look_around()
    assert looked_at == ["c7"]
    await trio.sleep(module.WHOLE_S)
    await one.garbage_collector._look_around()
    assert len(looked_at) == 41


@virtual
async def test_of_many_endpoints_without_news_each_is_looked_at_in_its_turn(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(periodic, "MOST_A_LOOK", 3)
    one, _ = await attached(world)
    names = [f"c{number}" for number in range(8)]
    world.make(*names)
    for name in names:
        await one.endpoints.attach(AttachRequest(target=f"netns:{name}", network="app"))
    for _ in range(3):
        await one.garbage_collector._look_around()
    looked_at: list[str] = []
    monkeypatch.setattr(module, "is_at_its_path", noting(looked_at))
    monkeypatch.setattr(module._Mounts, "are_changed", lambda _: False)
    for turns in (1, 2, 3):
        await trio.sleep(module.WHOLE_S)
        await one.garbage_collector._look_around()
        await one.garbage_collector._look_around()
        assert len(looked_at) == 3 * turns
    assert len(set(looked_at)) == len(one.live.rows) == 9


@virtual
async def test_a_removed_network_is_detached_and_a_failure_is_tried_again(world: World) -> None:
    one, _ = await attached(world)
    one.hear(Writer(H2).put(RemovalRecord(N1)))
    one.steps.fault = ("unbind", FailedError("busy"))
    await one.garbage_collector._look_around()
    assert "interfaces" in one.traces()
    await one.garbage_collector._look_around()
    assert one.traces() == {}


@virtual
async def test_an_attach_at_work_is_left_alone(world: World) -> None:
    one = AgentHost()
    await one.publisher.put(host("h1"), network(N1, "app"))
    world.make("web")
    one.steps.delay_s["bind"] = lambda: 10.0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.endpoints.attach, AttachRequest(target="netns:web", network="app"))
        nursery.start_soon(one.garbage_collector.run)
        await trio.sleep(30)
        nursery.cancel_scope.cancel()
    (row,) = one.live.rows.values()
    assert row.is_published


@virtual
async def test_a_moved_namespace_found_during_a_detach_does_not_bring_the_endpoint_back(
    world: World,
) -> None:
    one, row = await attached(world)
    world.remove("web")
    assert row.netns_identity is not None
    world.processes[row.netns_identity] = "/proc/7/ns/net"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.endpoints.remove, row)
        nursery.start_soon(one.garbage_collector._look_around)
    assert one.traces() == {}


@virtual
async def test_a_container_that_has_just_vanished_keeps_no_network_from_being_removed(
    world: World,
) -> None:
    one, row = await attached(world)
    with pytest.raises(RefusedError, match="in use by web on h1"):
        await one.networks.remove("app", force=False)
    world.remove("web")
    await one.networks.remove("app", force=False)
    assert one.live.view.is_removed(row.network_id)
    assert one.traces() == {}


def test_a_living_process_is_found_by_its_namespace() -> None:
    status = Path("/proc/self/ns/net").stat()
    path = module._path_of_namespace((status.st_dev, status.st_ino))
    assert path is not None
    assert Path(path).stat().st_ino == status.st_ino
    assert module._path_of_namespace((0, 0)) is None
