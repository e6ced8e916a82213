"""Docker's networks follow ours, and no others are touched."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import trio
from fakes.docker_world import World, until
from fakes.registry import H1, N1, N2, Writer, network
from fakes.virtual import virtual

from netagent.integrations.docker.container import DockerNetwork
from netagent.integrations.docker.mirror import creation, plan_mirror
from netagent.model.ids import NetworkId
from netagent.model.records import NetworkRecord, RemovalRecord
from netagent.registry.view import RegistryView
from netagent.registry.views import NetworkView

ID = "d" * 64


def view_of(*records: Any) -> RegistryView:
    writer, view = Writer(H1), RegistryView(H1)
    for record in records:
        view = view.with_entries(writer.put(record))
    return view


def docker(name: str = "app", **fields: Any) -> DockerNetwork:
    return replace(DockerNetwork(docker_id=ID, name=name, driver="netagent", mirror_of=N1), **fields)


def names(networks: tuple[DockerNetwork, ...] | tuple[NetworkView, ...]) -> list[str]:
    return [getattr(one, "unique_name", None) or one.name for one in networks]


@pytest.mark.parametrize(
    ("records", "observed", "create", "remove", "trouble"),
    [
        ([network()], [], ["app"], [], ""),
        ([network()], [docker()], [], [], ""),
        ([network(), network(N2, "shop", subnets=("10.2.0.0/24",))], [docker()], ["shop"], [], ""),
        ([network(), RemovalRecord(N1)], [docker()], [], ["app"], ""),
        ([], [docker()], [], [], ""),
        ([network()], [docker(driver="bridge", mirror_of="")], [], [], "of its own (driver bridge)"),
        ([network()], [docker(mirror_of="", ipam_driver="netagent", ipam_network="app")], [], [], ""),
        ([network()], [docker(mirror_of="", ipam_driver="netagent", ipam_network=N1)], [], [], ""),
        (
            [network()],
            [docker(mirror_of="", ipam_driver="netagent", ipam_network="shop")],
            [],
            [],
            "of its own",
        ),
        ([network(subnets=("fd00::/64",))], [], [], [], "need IPv4"),
        ([network(), RemovalRecord(N1), network(N2)], [docker()], ["app"], ["app"], ""),
        ([network(), RemovalRecord(N1)], [docker(driver="overlay")], [], [], ""),
    ],
)
def test_the_plan(
    records: list[NetworkRecord] | list[NetworkRecord | RemovalRecord],
    observed: list[DockerNetwork],
    create: list[str],
    remove: list[str],
    trouble: str,
) -> None:
    plan = plan_mirror(view_of(*records), observed, "netagent")
    assert (names(plan.create), names(plan.remove)) == (create, remove)
    assert trouble in "".join(plan.troubles.values())
    assert bool(trouble) == bool(plan.troubles)


def test_a_mirror_has_all_that_docker_needs_for_addresses_typed_by_users() -> None:
    view = view_of(network(internal=True))
    body = creation(view.networks[NetworkId(N1)], "netagent")
    assert body["IPAM"]["Config"] == [{"Subnet": "10.1.0.0/24"}, {"Subnet": "fd00:1::/64"}]
    assert body["IPAM"]["Options"] == {"netagent.network": N1}
    assert body["Labels"] == {"netagent.network": N1}
    assert (body["Internal"], body["EnableIPv6"], body["Driver"]) == (True, True, "netagent")
    only4 = creation(view_of(network(subnets=("10.1.0.0/24",))).networks[NetworkId(N1)], "netagent")
    assert not only4["EnableIPv6"]


def docker_names(world: World) -> list[str]:
    return sorted(one["Name"] for one in world.docker.networks.values())


@virtual
async def test_a_mirror_comes_with_the_network_is_made_again_and_goes_with_it(world: World) -> None:
    async with world.running() as one:
        await world.with_network()
        with trio.fail_after(1):
            await one.wait_mirrored(N1)
        assert docker_names(world) == ["app"]
        await trio.sleep(5)
        await world.docker.network_remove(world.docker.network_named("app")["Id"])  # `docker network prune`
        await until(lambda: docker_names(world) == ["app"], 2.0)
        await world.host.publisher.put(RemovalRecord(N1))
        await until(lambda: docker_names(world) == [], 2.0)
        assert one.troubles() == ()


@virtual
async def test_a_foreign_network_is_left_alone_reported_and_replaced_once_it_is_gone(world: World) -> None:
    foreign = await world.docker.network_create("app", driver="bridge", ipam="default")
    async with world.running() as one:
        await world.with_network()
        with trio.fail_after(3):
            await one.wait_mirrored(N1)
        assert "of its own (driver bridge)" in one.troubles()[0]
        await trio.sleep(10)
        assert docker_names(world) == ["app"]
        await world.docker.network_remove(foreign)
        await until(
            lambda: world.docker.networks and world.docker.network_named("app")["Driver"] == "netagent", 3.0
        )
        assert one.troubles() == ()


@virtual
async def test_a_mirror_with_containers_goes_when_the_last_one_has_left(world: World) -> None:
    async with world.running() as one:
        await world.with_network()
        await until(lambda: docker_names(world) == ["app"])
        container_id = await world.docker.run("web", "app")
        await world.host.publisher.put(RemovalRecord(N1))
        await until(lambda: "has containers" in "".join(one.troubles()))
        await world.docker.remove(container_id)
        await until(lambda: docker_names(world) == [], 3.0)
        assert one.troubles() == ()


@virtual
async def test_leaving_the_cluster_removes_the_mirrors_and_a_start_in_none_does_not(world: World) -> None:
    async with world.running():
        await world.with_network()
        await until(lambda: docker_names(world) == ["app"])
    world.begin()
    world.in_cluster = False
    async with world.running():
        await trio.sleep(10)
        assert docker_names(world) == ["app"]
        world.in_cluster = True
        await trio.sleep(2)
        world.in_cluster = False
        await until(lambda: docker_names(world) == [])


@virtual
async def test_docker_that_comes_late_gets_its_mirrors(world: World) -> None:
    world.docker.is_up = False
    async with world.running():
        await world.with_network()
        await trio.sleep(20)
        world.docker.is_up = True
        await until(lambda: docker_names(world) == ["app"], 3.0)


@virtual
async def test_without_the_key_nothing_is_mirrored(world: World) -> None:
    async with world.running(mirror=False):
        await world.with_network()
        await trio.sleep(5)
        assert docker_names(world) == []
