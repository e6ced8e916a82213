"""`inspect --why`: each object with its state, and why one is not needed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from fakes.doctor_world import CLUSTER, World
from fakes.registry import H1, H2, H3, N1, N2, endpoint, grant, host, network
from fakes.service_addresses import service_address, service_range

from netagent.datapath.state import KernelState
from netagent.doctor import explain
from netagent.doctor.checks.guest_checks import GuestFacts, GuestLink, inside_lines
from netagent.doctor.checks.object_status import ObjectStatus, State
from netagent.doctor.checks.resolver_checks import ResolverAnswer, ResolverQuestion, questions_about
from netagent.model.ids import HostId, bridge_name, mac_of, vxlan_name
from netagent.model.locality import AnswerOrder
from netagent.model.records import ForgetRecord, Health, Policy
from netagent.registry.record_codec import key_of
from netgossip.types import MemberState

NAMES = ("web.app.mesh.internal", "web2.app.mesh.internal")


def lines_of(
    world: World,
    number: int = 2,
    *,
    observed: KernelState | None = None,
    replies: dict[ResolverQuestion, None] | dict[ResolverQuestion, ResolverAnswer] | None = None,
    inside: GuestFacts | None = None,
    **more: dict[str, str],
) -> list[ObjectStatus]:
    """The lines from the whole kernel, which are those from the part that they need."""
    whole, one = world.evidence(observed, **more), world.endpoint(number)
    found = list(explain.endpoint_lines(whole, one, inside, NAMES, replies))
    extract = explain.extract_of_endpoints(world.view, [one])
    if extract is not None:
        part = world.extracted(extract, whole.observed, **more)
        assert list(explain.endpoint_lines(part, one, inside, NAMES, replies)) == found
    return found


def host_lines_of(world: World, host_id: HostId, observed: KernelState | None = None) -> list[ObjectStatus]:
    whole, one = world.evidence(observed), world.view.hosts[host_id]
    found = list(explain.host_lines(whole, one))
    extract = explain.extract_of_host(world.view, one, CLUSTER)
    assert extract is not None
    assert list(explain.host_lines(world.extracted(extract, whole.observed), one)) == found
    return found


def states(lines: list[ObjectStatus]) -> set[tuple[str, State]]:
    return {(line.kind, line.state) for line in lines}


def answered(
    world: World, number: int = 2, *, rcode: int = 0, with_address: bool = True
) -> dict[ResolverQuestion, ResolverAnswer]:
    pairs = questions_about(world.endpoint(number), NAMES)
    return {
        q: ResolverAnswer(rcode, frozenset({address} if with_address else ()), False) for q, address in pairs
    }


def test_a_remote_endpoint_is_all_there(world: World) -> None:
    lines = lines_of(world, replies=answered(world))
    assert {line.state for line in lines} == {State.PRESENT}
    assert [line.kind for line in lines] == [
        *["neighbour"] * 2,
        "bridge entry",
        "tunnel entry",
        "order",
        *["name"] * 2,
    ]


def test_what_decides_between_replicas_is_said(world: World) -> None:
    (line,) = [one for one in lines_of(world) if one.kind == "order"]
    assert line.thing == "web2 has weight 100"
    assert line.reason == "all replicas are answered, each as often as its weight says"
    world.view = world.view.with_distances({H2: 1})
    world.put(H2, host("h2", zone="rack7"))
    world.put(H2, replace(world.endpoint(2).record, weight=10))
    world.put(H1, network(answer=AnswerOrder.NEAREST))
    (line,) = [one for one in lines_of(world) if one.kind == "order"]
    assert line.thing == "web2 has weight 10, h2 is at most 1 ms away, in zone rack7"
    assert line.reason == "in network app names lead to the nearest replicas"


def test_a_name_that_leads_to_nearer_replicas_is_no_fault(world: World) -> None:
    nearer = {
        question: ResolverAnswer(0, frozenset({bytes([10, 1, 0, 99])}), False)
        for question, _ in questions_about(world.endpoint(2), NAMES)
    }
    assert ("name", State.MISSING) in states(lines_of(world, replies=nearer))
    world.put(H1, network(answer=AnswerOrder.NEAREST))
    found = [line for line in lines_of(world, replies=nearer) if line.kind == "name"]
    assert {line.state for line in found} == {State.NOT_NEEDED}
    assert "it resolves to nearer endpoints" in found[0].reason


def test_in_a_network_with_multicast_its_host_is_sent_that_as_well(world: World) -> None:
    world.put(H1, network(multicast=True))
    assert ("flood entry", State.PRESENT) in states(lines_of(world))
    wrong = [o for o in lines_of(world, observed=world.kernel(floods={})) if o.is_wrong]
    assert [one.thing for one in wrong] == ["multicast of nx-1161 to 192.0.2.2"]


def test_where_only_linked_services_may_be_reached_it_says_by_whom(world: World) -> None:
    world.put(H1, network(policy=Policy.LINKS))
    lines = [one for one in lines_of(world) if one.kind == "policy"]
    assert [(one.thing, one.state) for one in lines] == [
        ("web2 may be reached by no endpoint", State.NOT_NEEDED),
        ("web2 may reach no endpoint", State.NOT_NEEDED),
    ]
    assert "in network app only linked services may be reached" in lines[0].reason
    assert "`netagent link ENDPOINT web`" in lines[0].reason
    world.put(H1, replace(world.endpoint(1).record, links=("web",)))
    lines = [one for one in lines_of(world) if one.kind == "policy"]
    assert lines[0].thing == "web2 may be reached by web1"
    assert not any(one.is_wrong for one in lines)


def test_its_record_is_shown_with_the_host_and_the_version(world: World) -> None:
    remote = world.endpoint(2)
    origin = explain.origin_of_endpoint(remote)
    assert (origin.owner, origin.version) == (H2, remote.version)
    own = explain.origin_of_network(world.evidence(), world.view.networks[N1])
    assert (own.owner, own.version) == (H1, world.view.version_of(H1, network()))
    assert own.version is not None
    host = explain.origin_of_host(world.evidence(), world.view.hosts[H2])
    assert host.version is not None
    assert (host.name, host.version.sequence) == ("h2", 1)
    assert key_of(network())[1] == b"n" + bytes.fromhex(N1)


@pytest.mark.parametrize("table", ["neighbours", "masters", "selves"])
def test_a_missing_entry_is_named_with_its_fix(world: World, table: str) -> None:
    kernel = world.kernel()
    mine = endpoint(2, offset=3)
    entries = {k: v for k, v in getattr(kernel, table).items() if k[1] not in {mine.mac, *mine.addresses}}
    damaged: dict[str, Any] = {table: entries}
    wrong = [one for one in lines_of(world, observed=replace(kernel, **damaged)) if one.is_wrong]
    assert {one.state for one in wrong} == {State.MISSING}
    assert len(wrong) == (2 if table == "neighbours" else 1)
    assert all(one.fix for one in wrong)


def test_an_altered_entry_says_what_it_is_and_why_it_stays_so(world: World) -> None:
    kernel = world.kernel()
    tunnel = vxlan_name(world.view.networks[N1].record.vni)
    observed = replace(kernel, selves={**kernel.selves, (tunnel, endpoint(2).mac): "203.0.113.9"})
    (wrong,) = [one for one in lines_of(world, observed=observed) if one.is_wrong]
    assert (wrong.kind, wrong.state, wrong.reason) == (
        "tunnel entry",
        State.ALTERED,
        "maps to 203.0.113.9 instead of 192.0.2.2",
    )
    (refused,) = [
        one for one in lines_of(world, observed=observed, refusals={wrong.fix: "no"}) if one.is_wrong
    ]
    assert refused.reason == "maps to 203.0.113.9 instead of 192.0.2.2; the kernel refuses it: no"


def test_a_host_that_left_needs_nothing_and_what_is_there_is_left_over(world: World) -> None:
    before = world.kernel()
    world.member(H2, MemberState.LEFT)
    lines = lines_of(world, replies=answered(world, rcode=3, with_address=False))
    assert {line.state for line in lines} == {State.NOT_NEEDED}
    assert {line.reason for line in lines} == {
        "host h2 has left the cluster",
        "hidden: host h2 has left the cluster",
    }
    left = [one for one in lines_of(world, observed=before) if one.kind != "name"]
    assert {line.state for line in left} == {State.LEFT_OVER}
    assert all(line.fix for line in left)


def test_a_host_of_the_other_family_of_addresses_needs_nothing_and_says_why(world: World) -> None:
    world.put(H2, host("h2", underlay="2001:db8::2", probe_address="fd00::2"))
    lines = [line for line in lines_of(world) if line.kind != "name"]
    lines += host_lines_of(world, H2)
    assert {line.state for line in lines} == {State.NOT_NEEDED}
    (reason,) = {line.reason for line in lines}
    assert reason.startswith("host h2 has the address 2001:db8::2 and this host 192.0.2.1: ")
    assert "`advertise`" in reason
    assert not world.kernel().selves


def test_a_silent_host_keeps_its_paths_and_loses_its_names(world: World) -> None:
    world.member(H2, MemberState.DEAD)
    world.view = world.view.with_host_answers({H2: False})
    lines = lines_of(world, replies=answered(world, rcode=3, with_address=False))
    assert ("neighbour", State.PRESENT) in states(lines)
    assert ("name", State.NOT_NEEDED) in states(lines)
    assert "its kernel does not answer" in lines[-1].reason


def test_a_name_that_still_answers_although_it_is_hidden_is_left_over(world: World) -> None:
    world.put(H2, replace(endpoint(2, offset=3), health=Health.UNHEALTHY))
    wrong = [one for one in lines_of(world, replies=answered(world)) if one.is_wrong]
    assert {(one.kind, one.state) for one in wrong} == {("name", State.LEFT_OVER)}
    assert wrong[0].reason == "hidden: its health check fails"


def test_a_name_that_leads_to_others_because_its_host_is_not_reached_is_as_it_should_be(world: World) -> None:
    others = {
        question: ResolverAnswer(0, frozenset({b"\x0a\x01\x00\x63"}), False) for question in answered(world)
    }
    assert any(line.state is State.MISSING for line in lines_of(world, replies=others))
    world.view = world.view.with_unreached(frozenset({H2}))
    names = [line for line in lines_of(world, replies=others) if line.kind == "name"]
    assert {(line.state, line.reason) for line in names} == {
        (
            State.NOT_NEEDED,
            "it resolves to other endpoints: this host gets no answer from h2 over the overlay",
        )
    }
    # If it has nothing else it must lead there.
    nothing = lines_of(world, replies=answered(world, rcode=3, with_address=False))
    assert any(line.state is State.MISSING for line in nothing)


def test_a_name_that_leads_to_the_own_address_of_the_service_is_as_it_should_be(world: World) -> None:
    own = {
        question: ResolverAnswer(0, frozenset({bytes([10, 9, 1, 7])}), False) for question in answered(world)
    }

    def names() -> set[tuple[State, str]]:
        found = lines_of(world, replies=own)
        return {(line.state, line.reason) for line in found if line.kind == "name"}

    assert names() == {(State.MISSING, "the answer is NOERROR without its address")}
    service = world.endpoint(2).record.service
    world.put(H2, service_range(), service_address(service, 7))
    assert names() == {(State.PRESENT, "it resolves to the own address of its service")}
    world.put(H2, replace(endpoint(2, offset=3), health=Health.UNHEALTHY))
    assert {state for state, _ in names()} == {State.NOT_NEEDED}


def test_a_name_without_its_address_is_missing(world: World) -> None:
    lines = lines_of(world, replies=answered(world, rcode=3, with_address=False))
    missing = [line for line in lines if line.kind == "name"]
    assert {(line.state, line.reason) for line in missing} == {
        (State.MISSING, "the answer is NXDOMAIN without its address")
    }
    silent = lines_of(world, replies=dict.fromkeys(answered(world)))
    assert {line.reason for line in silent if line.kind == "name"} == {"no resolver answers"}


def test_a_forgotten_host_and_a_fenced_endpoint_say_so(world: World) -> None:
    world.put(H2, replace(endpoint(3, offset=2), name="web3"))
    assert "it is fenced: " in lines_of(world, 3)[-3].reason
    forgotten = world.endpoint(2)
    world.put(H1, ForgetRecord(H2, settled=True))
    lines = list(explain.endpoint_lines(world.evidence(), forgotten, None, NAMES, None))
    assert {line.state for line in lines} == {State.NOT_NEEDED}
    assert all("was forgotten" in line.reason for line in lines)


def test_without_a_container_in_the_network_nothing_is_needed(world: World) -> None:
    world.rows.clear()
    lines = lines_of(world)
    assert {line.state for line in lines} == {State.NOT_NEEDED}
    assert lines[0].reason == "no container of this host is in network app"


def test_a_network_that_lost_its_vni_is_not_built(world: World) -> None:
    vni = world.view.networks[N1].record.vni
    world.put(H2, network(N2, "back", vni=vni, subnets=("10.2.0.0/24",)), grant(N2, 4, 7, H1))
    loser = next(one for one in world.view.networks.values() if not one.holds_vni)
    lines = list(explain.network_lines(world.evidence(), loser))
    assert "another network has its VNI" in lines[0].reason


def test_a_network_counts_its_entries(world: World) -> None:
    kernel = world.kernel()
    bridge = bridge_name(world.view.networks[N1].record.vni)
    lines = list(explain.network_lines(world.evidence(), world.view.networks[N1]))
    assert {line.state for line in lines} == {State.PRESENT}
    damaged = replace(kernel, neighbours={k: v for k, v in kernel.neighbours.items() if k[0] != bridge})
    (wrong,) = [
        o for o in explain.network_lines(world.evidence(damaged), world.view.networks[N1]) if o.is_wrong
    ]
    assert (wrong.kind, wrong.state, wrong.reason) == ("neighbours", State.MISSING, "4 missing")


@pytest.mark.parametrize("field", ["mcast_snooping", "stp", "noarp", "up"])
def test_a_network_shows_each_switch_of_its_bridge_that_was_turned(world: World, field: str) -> None:
    kernel = world.kernel()
    bridge = kernel.devices[bridge_name(world.view.networks[N1].record.vni)]
    switched: dict[str, Any] = {field: not getattr(bridge, field)}
    turned = replace(bridge, **switched)
    damaged = replace(kernel, devices={**kernel.devices, bridge.name: turned})
    (wrong,) = [
        o for o in explain.network_lines(world.evidence(damaged), world.view.networks[N1]) if o.is_wrong
    ]
    assert (wrong.kind, wrong.state) == ("device", State.ALTERED)


def test_a_device_that_must_be_made_anew_has_the_command_that_works(world: World) -> None:
    kernel = world.kernel()
    tunnel = kernel.devices[vxlan_name(world.view.networks[N1].record.vni)]
    assert tunnel.tunnel is not None
    other = replace(tunnel, tunnel=replace(tunnel.tunnel, vni=7))
    damaged = replace(kernel, devices={**kernel.devices, tunnel.name: other})
    (wrong,) = [
        o for o in explain.network_lines(world.evidence(damaged), world.view.networks[N1]) if o.is_wrong
    ]
    assert (wrong.state, wrong.fix) == (State.ALTERED, f"ip link del {tunnel.name}")
    assert wrong.reason == "its kind, VNI or port is different"


def test_a_host_is_reached_over_the_probe_network_and_its_tunnel_entries(world: World) -> None:
    lines = list(host_lines_of(world, H2))
    assert {line.state for line in lines} == {State.PRESENT}
    assert lines[-1].thing.endswith("to 192.0.2.2 (network app)")
    kernel = world.kernel()
    wrong = [one for one in host_lines_of(world, H2, replace(kernel, selves={})) if one.is_wrong]
    assert [one.kind for one in wrong] == ["tunnel entry", "tunnel entries"]
    own = list(host_lines_of(world, H1))
    assert [(one.kind, one.state) for one in own] == [("device", State.PRESENT), ("address", State.PRESENT)]


def right_inside(world: World) -> GuestFacts:
    (row,) = world.rows.values()
    record = world.view.networks[N1].record
    everywhere = ["::/0" if ":" in gateway else "0.0.0.0/0" for gateway in record.gateways]
    return GuestFacts(
        links={"eth0": GuestLink(row.mac, record.mtu_bytes, True)},
        addresses=frozenset(("eth0", address) for address in row.addresses),
        routes=frozenset(("eth0", where) for where in (*record.subnets, *everywhere)),
        resolver_sockets=frozenset({"udp", "tcp"}),
        has_feeds=True,
    )


def test_an_own_endpoint_is_there_inside_and_outside(world: World) -> None:
    lines = lines_of(world, 1, inside=right_inside(world), replies=answered(world, 1))
    assert {line.state for line in lines} == {State.PRESENT}
    kinds = {"device", "bridge entry", "interface", "address", "route", "resolver", "feeds", "order", "name"}
    assert kinds == {line.kind for line in lines}


def test_routes_to_service_ranges_are_there_missing_or_left_over(world: World) -> None:
    (row,) = world.rows.values()
    own = {":" in address: address for address in row.addresses}

    def routes(ranges: Iterable[str], *there: tuple[str, str, str]) -> list[tuple[str, State, str]]:
        inside = replace(right_inside(world), local_routes=frozenset(there))
        lines = inside_lines(row, world.rows.values(), world.view, inside, {N1: tuple(ranges)})
        return [(one.thing, one.state, one.fix) for one in lines if one.thing.startswith("local ")]

    ranges = ("10.9.0.0/24", "fd00:9::/64")
    right = [("eth0", one, own[":" in one]) for one in ranges]
    things = [f"local {one} dev eth0 in {row.target}" for one in ranges]
    assert routes(ranges, *right) == [(one, State.PRESENT, "") for one in things]
    missing = routes(ranges, right[1])[0]
    assert missing[:2] == (things[0], State.MISSING)
    assert missing[2].endswith(f"ip route add local 10.9.0.0/24 dev eth0 src {own[False]} proto 78")
    left = routes((), right[0])[0]
    assert left[:2] == (things[0], State.LEFT_OVER)
    assert left[2].endswith("ip route del local 10.9.0.0/24 dev eth0 table local proto 78")


@pytest.mark.parametrize(("port", "told"), [(61053, "redirected to port 61053"), (53, "can't use this port")])
def test_where_port_53_is_led_is_told(world: World, port: int, told: str) -> None:
    lines = lines_of(world, 1, inside=replace(right_inside(world), resolver_port=port))
    found = [(line.thing, line.state, line.reason) for line in lines if line.kind == "resolver"]
    assert [thing for thing, _, _ in found] == [
        f"127.0.0.11 port 53 {one} in netns:web1" for one in ("udp", "tcp")
    ]
    assert all(state is State.PRESENT and told in reason for _, state, reason in found)


def test_a_container_that_has_the_port_of_feeds_is_told_so(world: World) -> None:
    facts = replace(right_inside(world), has_feeds=False, is_feed_port_taken=True)
    (line,) = [one for one in lines_of(world, 1, inside=facts) if one.kind == "feeds"]
    assert (line.thing, line.is_wrong) == ("127.0.0.11 port 7953 tcp in netns:web1", False)
    assert "a program of the container has this port" in line.reason


def test_the_way_out_is_the_default_route_of_one_endpoint(world: World) -> None:
    def defaults(**change: Any) -> list[tuple[str, State]]:
        lines = lines_of(world, 1, inside=replace(right_inside(world), **change))
        return [(line.thing, line.state) for line in lines if line.thing.startswith("default")]

    record = world.view.networks[N1].record
    things = [f"default via {cidr.partition('/')[0]} dev eth0 in netns:web1" for cidr in record.gateways]
    assert defaults() == [(thing, State.PRESENT) for thing in things]
    by_another = {*(("eth0", subnet) for subnet in record.subnets), ("eth9", "0.0.0.0/0")}
    assert defaults(routes=frozenset(by_another))[0] == (things[0], State.NOT_NEEDED)
    assert defaults(routes=frozenset())[0] == (things[0], State.MISSING)
    world.put(H1, network(internal=True))
    assert defaults() == []


@pytest.mark.parametrize(
    ("change", "kind", "told"),
    [
        ({"links": {}}, "interface", ("has no such interface", "attach it again")),
        ({"links": {"eth0": ("02::9", 1450, True)}}, "interface", ("its MAC is", "address")),
        ({"links": {"eth0": (None, 900, True)}}, "interface", ("its MTU is 900", "mtu 1450")),
        ({"links": {"eth0": (None, 1450, False)}}, "interface", ("it is down", "up")),
        ({"addresses": frozenset()}, "address", ("", "ip addr add")),
        ({"routes": frozenset()}, "route", ("", "ip route add")),
        ({"resolver_sockets": frozenset({"udp"})}, "resolver", ("no resolver listens", "restart the agent")),
        ({"has_feeds": False}, "feeds", ("no feeds are served", "restart the agent")),
    ],
)
def test_what_is_wrong_inside_is_named(world: World, change: Any, kind: str, told: tuple[str, ...]) -> None:
    (row,) = world.rows.values()
    if change.get("links"):
        mac, mtu, up = change["links"]["eth0"]
        change = {"links": {"eth0": GuestLink(mac or row.mac, mtu, up)}}
    lines = lines_of(world, 1, inside=replace(right_inside(world), **change))
    wrong = [line for line in lines if line.is_wrong]
    assert {line.kind for line in wrong} == {kind}
    assert told[0] in wrong[0].reason
    assert told[1] in wrong[0].fix


def test_a_namespace_that_is_gone_is_not_known(world: World) -> None:
    lines = lines_of(world, 1, inside=GuestFacts(problem="no network namespace at /run/netns/web1"))
    assert [line.reason for line in lines if line.state is State.NOT_KNOWN] == [
        "no network namespace at /run/netns/web1"
    ]


def test_a_part_of_the_kernel_is_enough_where_two_want_one_entry(world: World) -> None:
    """A MAC that is derived from an address is no claim, so another endpoint may have it as well."""
    mac = mac_of(N1, 7)
    world.put(H2, endpoint(7, offset=7, mac=mac), endpoint(8, offset=8, mac=mac))
    world.put(
        H3, host("h3", underlay="192.0.2.3", probe_mac="02:00:00:00:00:03"), endpoint(9, offset=9, mac=mac)
    )
    assert len({world.endpoint(number).record.mac for number in (7, 8, 9)}) == 1
    for number in (7, 8, 9):
        assert lines_of(world, number)
    assert any(line.is_wrong for line in lines_of(world, 7, observed=KernelState()))


def test_a_part_of_the_kernel_is_enough_for_a_fenced_endpoint(world: World) -> None:
    taken = world.endpoint(2).record.addresses
    world.put(H3, host("h3", underlay="192.0.2.3"), endpoint(9, addresses=taken))
    assert world.endpoint(9) in world.view.fenced.values()
    assert lines_of(world, 9)


def test_the_whole_kernel_is_read_for_floods_and_for_many_endpoints(world: World) -> None:
    one = world.endpoint(2)
    assert explain.extract_of_endpoints(world.view, [one] * explain.MAX_KEYS) is None
    world.put(H1, network(multicast=True))
    assert explain.extract_of_endpoints(world.view, [one]) is None
