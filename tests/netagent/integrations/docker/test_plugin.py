"""dockerd's calls, in its order, against the real use-cases; and calls that no dockerd should make."""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping
from typing import Any

import pytest
import trio
from fakes.agent_host import HANG
from fakes.docker import RefusedByPluginError
from fakes.docker_world import World, until
from fakes.registry import N1, N2
from fakes.virtual import virtual

from netagent.integrations.docker import plugin
from netagent.journal.journal import DiskFullError

OPTIONS = {"netagent.network": "app"}
EID = "e" * 64


async def docker_network(world: World, name: str = "app", **options: Any) -> str:
    return await world.docker.network_create(name, options=OPTIONS, **options)


@virtual
async def test_a_container_comes_and_goes(world: World) -> None:
    await world.with_network()
    await docker_network(world)
    container_id = await world.docker.create("web", "app")
    joined = await world.docker.join(container_id, "app")
    row = world.row(container_id)
    assert not row.is_published
    assert joined["InterfaceName"] == {"SrcName": f"nc{row.endpoint_id[:8]}", "DstPrefix": "eth"}
    assert not joined["DisableGatewayService"]
    await world.docker.remove(container_id)
    assert world.host.traces() == {}


@virtual
async def test_address_and_mac_that_the_user_typed_are_taken(world: World) -> None:
    await world.with_network()
    await docker_network(world)
    container_id = await world.docker.create("web", "app")
    await world.docker.join(container_id, "app", ip="10.1.0.9", ip6="fd00:1::9", mac="06:00:00:00:00:77")
    row = world.row(container_id)
    assert (row.addresses, row.mac) == (("10.1.0.9", "fd00:1::9"), "06:00:00:00:00:77")


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"ip": "10.1.0.9"}, "the address 10.1.0.9 belongs to"),
        ({"ip": "10.1.0.1"}, "10.1.0.1 is not a usable address"),
        ({"ip6": "fd00:1::99"}, "type both: --ip 10.1.0.153 --ip6 fd00:1::99"),
        ({"ip": "10.1.0.8", "ip6": "fd00:1::99"}, "do not have the same offset"),
        ({"mac": "06:00:00:00:00:77"}, "06:00:00:00:00:77"),
    ],
)
@virtual
async def test_what_cannot_be_had_is_refused_and_nothing_is_left(
    world: World, asked: dict[str, str], sentence: str
) -> None:
    await world.with_network()
    await docker_network(world)
    first = await world.docker.create("first", "app")
    await world.docker.join(first, "app", ip="10.1.0.9", mac="06:00:00:00:00:77")
    second = await world.docker.create("second", "app")
    with pytest.raises(RefusedByPluginError, match=sentence.replace("(", r"\(")):
        await world.docker.join(second, "app", **asked)
    await world.docker.remove(first)
    assert world.host.traces() == {}
    assert world.host.allocator.free_count(N1) == (253, 253)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"ipam": "default"},
            "Docker's own IPAM.*--ipam-driver netagent --ipam-opt netagent.network=app --ipv6 app",
        ),
        ({"options": {}}, "does not name the netagent network.*--ipam-opt netagent.network=app"),
        ({"options": {"netagent.network": "nope"}}, "no network 'nope'"),
        ({"ipv6": False}, "add --ipv6"),
        ({"subnets": ["10.9.0.0/24"]}, "not 10.9.0.0/24"),
        ({"generic": {"mtu": "1400"}}, "no option 'mtu'"),
    ],
)
@virtual
async def test_a_network_made_by_hand_is_refused_with_the_line_to_type(
    world: World, options: Any, sentence: str
) -> None:
    await world.with_network()
    with pytest.raises(RefusedByPluginError, match=sentence):
        await world.docker.network_create("app", **{"options": OPTIONS, **options})


@virtual
async def test_a_network_made_by_hand_takes_no_range(world: World) -> None:
    await world.with_network()
    pool = {"AddressSpace": "netagent", "Pool": "", "Options": OPTIONS, "V6": False}
    whole = await world.docker.ask("IpamDriver.RequestPool", **pool, SubPool="")
    assert await world.docker.ask("IpamDriver.RequestPool", **pool, SubPool=whole["Pool"]) == whole
    with pytest.raises(RefusedByPluginError, match="--ip-range is not possible"):
        await world.docker.ask("IpamDriver.RequestPool", **pool, SubPool="10.1.0.128/25")


@virtual
async def test_docker_does_not_ask_for_ever_where_the_host_has_a_route(world: World) -> None:
    """It keeps a pool that overlaps a route, and asks for another one."""
    await world.with_network()
    pool = {"AddressSpace": "netagent", "Pool": "", "SubPool": "", "Options": OPTIONS}
    for version in (False, True):
        offered = await world.docker.ask("IpamDriver.RequestPool", **pool, V6=version)
        with pytest.raises(RefusedByPluginError, match=rf"add --subnet .*{offered['Pool']}"):
            await world.docker.ask("IpamDriver.RequestPool", **pool, V6=version)
        # Later ones are others' requests: each is offered the pool once.
        await world.docker.ask("IpamDriver.RequestPool", **pool, V6=version)
        chosen = {**pool, "Pool": offered["Pool"]}
        for _ in range(2):
            assert await world.docker.ask("IpamDriver.RequestPool", **chosen, V6=version) == offered


@virtual
async def test_docker_may_make_a_second_network_for_one_of_ours(world: World) -> None:
    await world.with_network()
    await docker_network(world)
    await world.docker.network_create("front", options=OPTIONS)


@virtual
async def test_an_internal_network_gives_no_way_out(world: World) -> None:
    await world.with_network(internal=True)
    await docker_network(world)
    container_id = await world.docker.create("web", "app")
    assert (await world.docker.join(container_id, "app"))["DisableGatewayService"]


@virtual
async def test_a_network_without_ipv6_and_one_without_ipv4(world: World) -> None:
    await world.with_network(subnets=("10.1.0.0/24",))
    await world.with_network(N2, "six", subnets=("fd00:2::/64",))
    with pytest.raises(RefusedByPluginError, match="leave out --ipv6"):
        await docker_network(world)
    await docker_network(world, ipv6=False)
    container_id = await world.docker.create("web", "app")
    await world.docker.join(container_id, "app")
    assert len(world.row(container_id).addresses) == 1
    with pytest.raises(RefusedByPluginError, match="no IPv4 subnet"):
        await world.docker.network_create("six", options={"netagent.network": "six"})


@virtual
async def test_the_same_calls_again_change_nothing(world: World) -> None:
    await world.with_network()
    network_id = await docker_network(world)
    container_id = await world.docker.create("web", "app")
    await world.docker.join(container_id, "app")
    row = world.row(container_id)
    ids = {"NetworkID": network_id, "EndpointID": world.docker.endpoints_of(container_id)[0]}
    interface = {"Address": "10.1.0.2/32", "AddressIPv6": "fd00:1::2/64", "MacAddress": ""}
    again = await world.docker.ask("NetworkDriver.CreateEndpoint", **ids, Interface=interface)
    assert again == {"Interface": {"MacAddress": row.mac}}
    await world.docker.ask("NetworkDriver.Join", **ids, SandboxKey="/run/x")
    for _ in range(2):
        await world.docker.ask("NetworkDriver.Leave", **ids)
    for _ in range(2):
        await world.docker.ask("NetworkDriver.DeleteEndpoint", **ids)
    assert world.host.own_endpoints() == set()


@virtual
async def test_in_no_cluster_starting_is_refused_and_ending_is_not(world: World) -> None:
    await world.with_network()
    await docker_network(world)
    world.in_cluster = False
    container_id = await world.docker.create("web", "app")
    with pytest.raises(RefusedByPluginError, match="belongs to no cluster"):
        await world.docker.join(container_id, "app")
    for method in ("NetworkDriver.Leave", "NetworkDriver.DeleteEndpoint"):
        assert await world.docker.ask(method, NetworkID=EID, EndpointID=EID) == {}
    assert await world.docker.ask("IpamDriver.ReleaseAddress", PoolID=f"{N1}/4", Address="10.1.0.2") == {}


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"EndpointID": 7}', b'{"PoolID": {}}', b"\xff" * 100]
)
@virtual
async def test_any_body_is_answered_in_the_protocols_own_way(world: World, body: bytes) -> None:
    one = world.docker_integration._plugin
    for method in one._handlers:
        status, answer = await one.answer(method, body)
        assert status == 200
        assert isinstance(answer, dict)


@virtual
async def test_an_unknown_method_is_not_implemented(world: World) -> None:
    status, answer = await world.docker_integration._plugin.answer("NetworkDriver.AllocateNetwork", b"{}")
    assert status == 404
    assert "AllocateNetwork" in answer["Err"]


@virtual
async def test_a_handler_that_hangs_or_breaks_is_answered_with_a_sentence(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await world.with_network()
    one = world.docker_integration._plugin

    async def hang(_: Mapping[str, Any]) -> dict[str, Any]:
        await trio.sleep_forever()
        raise AssertionError

    async def break_down(_: Mapping[str, Any]) -> dict[str, Any]:
        raise ZeroDivisionError

    one._handlers = {"IpamDriver.A": hang, "NetworkDriver.B": break_down}
    before = trio.current_time()
    assert "within 10 s" in (await one.answer("IpamDriver.A", b"{}"))[1]["Error"]
    assert trio.current_time() - before == pytest.approx(plugin.HANDLER_S)
    assert "unexpectedly" in (await one.answer("NetworkDriver.B", b"{}"))[1]["Err"]
    assert "ZeroDivisionError" in caplog.text


@virtual
async def test_many_at_once_get_an_address_each(world: World) -> None:
    await world.with_network()
    await docker_network(world)
    made = [await world.docker.create(f"w{n}", "app") for n in range(200)]
    # dockerd holds its network's lock over the two addresses and the endpoint, not over Join.
    lock = trio.Lock()

    async def join(container_id: str) -> None:
        async with lock:
            await world.docker.join(container_id, "app")

    async with trio.open_nursery() as nursery:
        for container_id in made:
            nursery.start_soon(join, container_id)
    rows = [world.row(container_id) for container_id in made]
    assert len({address for row in rows for address in row.addresses}) == 400
    for container_id in made:
        await world.docker.remove(container_id)
    assert world.host.traces() == {}


@virtual
async def test_a_removal_that_takes_long_or_fails_is_finished_without_docker_waiting(world: World) -> None:
    async with world.running(mirror=False):
        await world.with_network()
        network_id = await docker_network(world)
        for fault in (HANG, DiskFullError("/var: the disk is full")):
            container_id = await world.docker.create("web", "app")
            await world.docker.join(container_id, "app")
            ids = {"NetworkID": network_id, "EndpointID": world.docker.endpoints_of(container_id)[0]}
            world.host.steps.fault = ("unbind", fault)
            before = trio.current_time()
            assert await world.docker.ask("NetworkDriver.DeleteEndpoint", **ids) == {}
            assert trio.current_time() - before <= plugin.DEPARTURE_S + 0.1
            assert world.host.traces() != {}
            await until(lambda: not world.host.traces())


@virtual
async def test_the_application_serves_the_calls(world: World) -> None:
    app = world.docker_integration._plugin.app()
    sent = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/Plugin.Activate", "headers": [], "query_string": b""}
    await app(scope, receive, send)
    assert sent[0]["status"] == 200
    assert (b"content-type", b"application/vnd.docker.plugins.v1.2+json") in sent[0]["headers"]
    assert json.loads(sent[1]["body"]) == {"Implements": ["NetworkDriver", "IpamDriver"]}
