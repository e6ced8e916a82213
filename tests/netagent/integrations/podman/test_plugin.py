"""netavark's calls, from its JSON to ours and back."""

from __future__ import annotations

import json
from typing import Any, NoReturn

import pytest
from fakes.agent_host import Namespaces, netns_of
from fakes.podman import C1, C2, PodmanHost, netavark_call, plugging
from fakes.registry import H2, N1, N2, N3, Writer, endpoint, host, network
from fakes.virtual import virtual

from netagent.endpoints import resolv_conf
from netagent.errors import RefusedError
from netagent.integrations.podman.plugin import NetavarkPlugin
from netagent.model.ids import NetworkId
from netagent.model.records import RemovalRecord


@pytest.fixture(autouse=True)
def _host_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolv_conf, "host_search", lambda: ("corp.example",))


async def ask(plugin: NetavarkPlugin, command: str, *words: str, **given: Any) -> Any:
    """(exit status, what is printed as JSON or None)."""
    answer = await plugin.answer(netavark_call(command, *words, **given))
    return answer.exit_status, json.loads(answer.output) if answer.output else None


async def refusal(plugin: NetavarkPlugin, command: str, *words: str, **given: Any) -> str:
    status, output = await ask(plugin, command, *words, **given)
    assert status == 1, output
    assert set(output) == {"error"}
    return str(output["error"])


def in_no_cluster() -> NoReturn:
    raise RefusedError(
        "this host belongs to no cluster", code="no-cluster", hint="start a cluster with `netagent init`"
    )


@virtual
async def test_a_container_is_attached_torn_down_and_torn_down_again(namespaces: Namespaces) -> None:
    one = await PodmanHost.started(namespaces, "ns1")
    plugin = NetavarkPlugin(lambda: one.access)
    given = plugging(aliases=["Shop.Front", C1[:12], "web"])
    status, output = await ask(plugin, "setup", one.path("ns1"), **given)
    (row,) = one.live.rows.values()
    assert status == 0
    assert output == {
        "dns_server_ips": ["127.0.0.11"],
        "dns_search_domains": ["app.mesh.internal", "mesh.internal", "corp.example"],
        "interfaces": {
            "eth0": {
                "mac_address": row.mac,
                "subnets": [
                    {"ipnet": f"{row.addresses[0]}/24", "gateway": "10.1.0.1"},
                    {"ipnet": f"{row.addresses[1]}/64", "gateway": "fd00:1::1"},
                ],
            }
        },
    }
    assert (row.name, row.service, row.target, row.origin) == (
        "web",
        "web",
        "podman:web",
        f"podman:{C1}/eth0",
    )
    assert row.aliases == (C1[:12], "shop-front")
    for _ in range(2):
        assert await ask(plugin, "teardown", one.path("ns1"), **given) == (0, None)
        assert not one.traces()


@virtual
async def test_the_same_setup_again_gives_the_same_answer_also_after_labels_were_read(
    namespaces: Namespaces,
) -> None:
    one = await PodmanHost.started(namespaces, "ns1")
    plugin = NetavarkPlugin(lambda: one.access)
    first = await ask(plugin, "setup", one.path("ns1"), **plugging())
    (row,) = one.live.rows.values()
    await one.endpoints.change(row.endpoint_id, service="shop")
    assert await ask(plugin, "setup", one.path("ns1"), **plugging()) == first
    assert list(one.live.rows) == [row.endpoint_id]


@virtual
async def test_a_container_that_was_never_torn_down_starts_again_in_another_namespace(
    namespaces: Namespaces,
) -> None:
    one = await PodmanHost.started(namespaces, "ns1", "ns2")
    plugin = NetavarkPlugin(lambda: one.access)
    await ask(plugin, "setup", one.path("ns1"), **plugging())
    status, _ = await ask(plugin, "setup", one.path("ns2"), **plugging())
    (row,) = one.live.rows.values()
    assert (status, netns_of(row).path) == (0, one.path("ns2"))


MAPPINGS = [
    {"host_ip": "", "host_port": 18080, "container_port": 80, "range": 1, "protocol": "tcp"},
    {"host_ip": "192.0.2.1", "host_port": 15000, "container_port": 5000, "range": 3, "protocol": "tcp,udp"},
    {"host_ip": "", "host_port": 19000, "container_port": 9000, "range": 1, "protocol": "sctp"},
]


@virtual
async def test_what_podman_publishes_its_first_network_that_may_be_reached_publishes(
    namespaces: Namespaces,
) -> None:
    one = await PodmanHost.started(namespaces, "ns1", "ns2")
    await one.publisher.put(network(N3, "deep", subnets=("10.3.0.0/24",), internal=True))
    plugin = NetavarkPlugin(lambda: one.access)
    for network_id, ifname in ((N3, "eth0"), (N1, "eth1"), (N2, "eth2")):
        given = {**plugging(network_id=network_id, ifname=ifname), "port_mappings": MAPPINGS}
        assert (await ask(plugin, "setup", one.path("ns1"), **given))[0] == 0
    published = {row.ifname: [port.text for port in row.publish] for row in one.live.rows.values()}
    udp = "192.0.2.1:15000-15002:5000-5002/udp"
    every = [udp.replace("udp", "tcp"), udp, "18080:80/tcp"]
    assert published == {"eth0": [], "eth1": every, "eth2": []}
    given = {**plugging(container_id=C2, name="other"), "port_mappings": MAPPINGS[:1]}
    status, said = await ask(plugin, "setup", one.path("ns2"), **given)
    assert status == 1
    assert "published by web (18080:80/tcp)" in said["error"]
    assert len(one.live.rows) == 3
    for wrong in ("x", [{"host_port": "80", "container_port": 80}], [{"host_port": 0, "container_port": 80}]):
        given = {**plugging(container_id=C2, name="other"), "port_mappings": wrong}
        assert (await ask(plugin, "setup", one.path("ns2"), **given))[0] == 1


@virtual
async def test_a_container_in_two_networks_gets_its_server_once(namespaces: Namespaces) -> None:
    one = await PodmanHost.started(namespaces, "ns1", "ns2")
    plugin = NetavarkPlugin(lambda: one.access)
    path = one.path("ns1")
    _, first = await ask(plugin, "setup", path, **plugging())
    _, second = await ask(plugin, "setup", path, **plugging(network_id=N2, ifname="eth1"))
    assert (first["dns_server_ips"], second["dns_server_ips"]) == (["127.0.0.11"], [])
    assert second["dns_search_domains"][0] == "back.mesh.internal"
    assert (await ask(plugin, "setup", path, **plugging()))[1] == first
    _, other = await ask(plugin, "setup", one.path("ns2"), **plugging(container_id=C2, name="db"))
    assert other["dns_server_ips"] == ["127.0.0.11"]


@virtual
async def test_a_name_that_is_taken_keeps_no_container_from_starting(namespaces: Namespaces) -> None:
    one = await PodmanHost.started(namespaces, "ns1", "ns2")
    plugin = NetavarkPlugin(lambda: one.access)
    await ask(plugin, "setup", one.path("ns1"), **plugging(name="web"))
    status, _ = await ask(plugin, "setup", one.path("ns2"), **plugging(container_id=C2, name="Web"))
    rows = list(one.live.rows.values())
    assert status == 0
    second = f"web-{rows[1].endpoint_id[:4]}"
    assert [(row.name, row.service) for row in rows] == [("web", "web"), (second, "web")]


@virtual
async def test_what_the_user_asked_for_is_what_the_container_gets(namespaces: Namespaces) -> None:
    one = await PodmanHost.started(namespaces, "ns1")
    given = plugging(
        name="Web.1",
        ifname="ov0",
        static_ips=["10.1.0.9", "fd00:1::0009"],
        static_mac="06:00:00:00:00:AA",
    )
    status, output = await ask(NetavarkPlugin(lambda: one.access), "setup", one.path("ns1"), **given)
    assert status == 0, output
    assert output["interfaces"] == {
        "ov0": {
            "mac_address": "06:00:00:00:00:aa",
            "subnets": [
                {"ipnet": "10.1.0.9/24", "gateway": "10.1.0.1"},
                {"ipnet": "fd00:1::9/64", "gateway": "fd00:1::1"},
            ],
        }
    }
    (row,) = one.live.rows.values()
    labels = {"netagent.original-name": "Web.1", "netagent.container-id": given["container_id"]}
    assert (row.name, dict(row.labels)) == ("web-1", labels)


@virtual
async def test_a_setup_that_cannot_be_done_says_why_and_leaves_nothing(namespaces: Namespaces) -> None:
    one = await PodmanHost.started(namespaces, "ns1")
    plugin, writer = NetavarkPlugin(lambda: one.access), Writer(H2)
    one.meet(H2)
    for record in (host("h2"), endpoint(1, N1, 9)):
        one.hear(writer.put(record))
    path = one.path("ns1")
    taken = await refusal(plugin, "setup", path, **plugging(static_ips=["10.1.0.9"]))
    assert "10.1.0.9 belongs to web1 on host h2" in taken
    outside = await refusal(plugin, "setup", path, **plugging(static_ips=["10.9.0.9"]))
    assert "not a usable address of network app" in outside
    assert "no network namespace" in await refusal(plugin, "setup", one.path("ns9"), **plugging())
    unknown = await refusal(plugin, "setup", path, **plugging(network_id=NetworkId("e" * 32)))
    assert "not in this cluster any more" in unknown
    await one.publisher.put(RemovalRecord(N1))
    assert "`podman network rm app`" in await refusal(plugin, "setup", path, **plugging())
    assert not one.traces()


@virtual
async def test_outside_of_a_cluster_a_setup_is_refused_and_a_teardown_has_nothing_to_do(
    namespaces: Namespaces,
) -> None:
    plugin = NetavarkPlugin(in_no_cluster)
    assert "belongs to no cluster; start a cluster" in await refusal(
        plugin, "setup", "/run/netns/x", **plugging()
    )
    assert "belongs to no cluster; start a cluster" in await refusal(plugin, "create", name="app")
    assert await ask(plugin, "teardown", "/run/netns/x", **plugging()) == (0, None)


@virtual
async def test_an_option_that_we_do_not_know_is_refused_by_name_and_hinders_no_teardown(
    namespaces: Namespaces,
) -> None:
    one = await PodmanHost.started(namespaces)
    plugin = NetavarkPlugin(lambda: one.access)
    misspelt = plugging(options={"speed": "9"})
    assert "no option 'speed'" in await refusal(plugin, "setup", "/run/netns/x", **misspelt)
    assert await ask(plugin, "teardown", "/run/netns/x", **misspelt) == (0, None)


@virtual
async def test_a_network_is_made_for_one_of_ours_by_option_or_by_name(namespaces: Namespaces) -> None:
    one = await PodmanHost.started(namespaces)
    plugin = NetavarkPlugin(lambda: one.access)
    given = {"name": "other", "id": "f" * 64, "driver": "netagent", "internal": False, "new_field": 1}
    for asked in ("back", N2):
        options = {"netagent.network": asked}
        status, output = await ask(plugin, "create", **given, options=options)
        assert status == 0
        assert output == {
            **given,
            "ipv6_enabled": False,
            "subnets": [{"subnet": "10.2.0.0/24", "gateway": "10.2.0.1"}],
            "ipam_options": {"driver": "none"},
            "options": {"netagent.network": N2},
        }
    status, output = await ask(plugin, "create", **{**given, "name": "app"})
    assert (status, output["options"], output["ipv6_enabled"]) == (0, {"netagent.network": N1}, True)


@virtual
async def test_a_network_that_the_cluster_does_not_have_is_refused_with_the_lines_to_type(
    namespaces: Namespaces,
) -> None:
    one = await PodmanHost.started(namespaces)
    text = await refusal(NetavarkPlugin(lambda: one.access), "create", name="mine", driver="netagent")
    assert "there is no network 'mine'" in text
    assert "netagent network create mine" in text
    assert "--opt netagent.network=NETWORK mine" in text


@virtual
async def test_flags_that_a_network_of_ours_decides_itself_are_refused_by_name(
    namespaces: Namespaces,
) -> None:
    one = await PodmanHost.started(namespaces)
    text = await refusal(
        NetavarkPlugin(lambda: one.access),
        "create",
        name="app",
        internal=True,
        subnets=[{"subnet": "10.9.0.0/24"}],
        ipam_options={"driver": "host-local"},
        network_dns_servers=["1.1.1.1"],
        routes=[{"destination": "10.8.0.0/24", "gateway": "10.9.0.1"}],
        network_interface="br0",
    )
    for flag in (
        "--internal",
        "--subnet",
        "--ipam-driver host-local",
        "--dns",
        "--route",
        "--interface-name",
    ):
        assert flag in text
    assert "10.1.0.0/24, fd00:1::/64" in text


@virtual
async def test_info_needs_no_cluster_and_an_unknown_command_is_named(namespaces: Namespaces) -> None:
    plugin = NetavarkPlugin(in_no_cluster)
    status, output = await ask(plugin, "info")
    assert (status, output["api_version"]) == (0, "1.0.0")
    assert "has no call 'update x'" in await refusal(plugin, "update", "x")
    assert "setup NETNS" in await refusal(plugin, "setup")
