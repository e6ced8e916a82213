"""The registry's values as the API shows them: above all, why something does not answer."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from fakes.registry import H1, H2, H3, N1, N2, Writer, endpoint, grant, host, identifier, network
from fakes.rows import PUBLISHED, local_row

from netagent.checks.spec import parse_checks_untrusted
from netagent.commands.inspect import inspect_thing
from netagent.commands.lookup import _meant
from netagent.commands.notices.missing_networks import notices
from netagent.control.present import Presenter, ProbeView
from netagent.endpoints.find import is_called
from netagent.errors import InputError, NotFoundError
from netagent.interface.schema import Endpoint
from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import EndpointId, HostId
from netagent.model.origin_labels import CONTAINER_ID
from netagent.model.records import (
    STOP,
    AttachmentRecord,
    Drain,
    ForgetRecord,
    Group,
    Health,
    HealthNote,
    HostAddressRecord,
    Link,
    Port,
    RemovalRecord,
)
from netagent.registry.cluster_overview import Gap, GapReason
from netagent.registry.view import RegistryView
from netgossip.slices import at_once
from netgossip.types import Member, MemberState


class World:
    """What h1 knows: h1 and h2, the network app with an endpoint on each."""

    def __init__(self) -> None:
        self.view = RegistryView(H1)
        self.writers = {owner: Writer(owner) for owner in (H1, H2, H3)}
        for number, owner in enumerate((H1, H2), 1):
            self.member(owner, MemberState.ALIVE)
            self.put(owner, host(f"h{number}", underlay=f"192.0.2.{number}"), AttachmentRecord(N1))
        self.put(H1, network(), endpoint(1, offset=2))
        self.put(H2, endpoint(2, offset=3, ports=(Port("http", 80),)))

    def put(self, owner: HostId, *records: Any) -> None:
        for record in records:
            self.view = self.view.with_entries(self.writers[owner].put(record))

    def member(self, owner: str, state: MemberState) -> None:
        self.view = self.view.with_member(Member(owner, ("192.0.2.9", 7956), state, 1))

    def present(self, local: dict[EndpointId, LocalEndpointRow] | None = None) -> Presenter:
        return Presenter(self.view, "mesh.internal", local or {})

    def endpoint(self, number: int = 2) -> Endpoint:
        every = [*self.view.endpoints.values(), *self.view.fenced.values()]
        (found,) = (one for one in every if one.record.name == f"web{number}")
        return self.present().endpoint(found)


def test_what_never_came_because_no_other_host_of_the_network_answers_is_said() -> None:
    (notice,) = notices(World().present(), [Gap(N1, GapReason.MISSING, (H2,))])
    assert notice["message"] == (
        "network app: no other host in it answers (h2); their latest records of it are missing here"
    )


CONTAINER = "c" * 64


def test_a_container_is_found_by_what_runtime_and_compose_call_it() -> None:
    world = World()
    labels = (
        ("netagent.compose-project", "shop"),
        ("netagent.compose-service", "front"),
        ("netagent.container-id", CONTAINER),
        ("netagent.original-name", "Front_1"),
        ("netagent.published-by-runtime", "8080:80/tcp,192.0.2.1:53:53/udp"),
    )
    for number in (5, 6):
        one = endpoint(number, offset=10 + number, service=f"shop-front-{number}", aliases=("front",))
        world.put(H2, dataclasses.replace(one, labels=labels if number == 5 else ()))
    for thing in (CONTAINER, CONTAINER[:12], "Front_1"):
        found = look(world, thing)
        assert (found["kind"], found["name"]) == ("endpoint", "web5"), thing
    assert found["container_id"] == CONTAINER
    assert (found["compose_project"], found["compose_service"]) == ("shop", "front")
    assert found["published"] == ["8080:80/tcp", "192.0.2.1:53:53/udp"]
    for thing in ("front", "front.app", "front.app.mesh.internal"):
        found = look(world, thing)
        assert (found["kind"], found["name"], found["endpoint_count"]) == ("service", "front", 2)
        assert found["alias_of"] == ["shop-front-5", "shop-front-6"]
        assert found["aliases"] == ["front"]
    (shown,) = (e for e in world.view.endpoints.values() if e.record.name == "web5")
    for thing in ("shop-front-5", "front", CONTAINER[:6], "Front_1"):
        assert is_called(shown, thing), thing
    for thing in ("web5", "", CONTAINER[:5], "b" * 12):
        assert not is_called(shown, thing), thing


def test_the_replicas_of_a_project_are_one_service_on_all_hosts() -> None:
    world = World()
    for number, project in ((5, "shop"), (6, "shop"), (7, "blog")):
        name, group = f"{project}-front-{number}", Group(project, "front")
        one = endpoint(number, offset=10 + number, name=name, service=name, group=group)
        world.put(H2 if number == 5 else H3, one)
    for thing in ("front.shop", "front.shop.app", "front.shop.app.mesh.internal"):
        found = look(world, thing)
        assert (found["kind"], found["name"], found["group"]) == ("service", "front", "shop"), thing
        assert (found["id"], found["fqdn"]) == ("front.shop.app", "front.shop.app.mesh.internal")
        assert (found["endpoint_count"], found["aliases"]) == (2, [])
    with pytest.raises(InputError, match=r"front\.blog\.app, front\.shop\.app"):
        look(world, "front")
    found = look(world, "shop-front-5")
    assert (found["kind"], found["group"], found["names"][0]) == (
        "endpoint",
        "shop",
        "front.shop.app.mesh.internal",
    )
    (shown,) = (e for e in world.view.endpoints.values() if e.record.name == "shop-front-5")
    assert all(is_called(shown, thing) for thing in ("front", "front.shop", "shop-front-5"))
    assert not is_called(shown, "front.blog")


def test_each_row_says_where_it_comes_from() -> None:
    world = World()
    sources = {
        number: (world.endpoint(number)["source"], world.endpoint(number)["told_by"]) for number in (1, 2)
    }
    assert sources == {1: ("own", []), 2: ("replicated", [])}
    present = Presenter(world.view, "mesh.internal", {}, {N1: (H2,)})
    (asked,) = (e for e in world.view.endpoints.values() if e.record.name == "web2")
    shown = present.endpoint(asked)
    assert (shown["source"], shown["told_by"]) == ("asked", ["h2"])
    service = at_once(present.service(world.view.service(N1, "web")))
    assert (service["source"], service["told_by"]) == ("asked", ["h2"])


def test_of_a_network_that_nobody_tells_of_no_endpoints_are_counted() -> None:
    world = World()
    (shown,) = world.view.networks.values()
    assert world.present().network(shown)["endpoint_count"] == 2
    unknown = Presenter(world.view, "mesh.internal", {}, {}, frozenset({N1}))
    assert unknown.network(shown)["endpoint_count"] is None


def test_an_endpoint_that_is_starting_is_hidden_and_says_so() -> None:
    world = World()
    world.put(H2, endpoint(3, offset=9, health=Health.STARTING))
    assert why(world.endpoint(3)) == ("starting", "its health check has not succeeded yet")


def test_an_endpoint_says_since_when_it_has_its_health_and_why() -> None:
    world = World()
    sick = HealthNote(60, "http 503 from 8080/healthz, failed 3 of 3 times")
    world.put(H2, endpoint(2, offset=3, health=Health.UNHEALTHY, health_note=sick))
    shown = world.endpoint(2)
    assert why(shown) == (
        "unhealthy",
        "http 503 from 8080/healthz, failed 3 of 3 times, since 1970-01-01 00:01:00 UTC",
    )
    assert (shown["health_since"], shown["health_reason"]) == ("1970-01-01T00:01:00Z", sick.reason)
    service = at_once(world.present().service(world.view.service(N1, shown["service"])))
    assert (service["unhealthy"], service["starting"]) == (1, 0)
    assert service["not_up"] == [f"{shown['name']} on h2: unhealthy, {shown['reason']}"]
    world.put(H2, endpoint(2, offset=3, health=Health.HEALTHY, health_note=HealthNote(120)))
    shown = world.endpoint(2)
    assert why(shown) == ("up", "")
    assert (shown["health_since"], shown["health_reason"]) == ("1970-01-01T00:02:00Z", "")


def test_a_service_whose_replicas_all_fail_counts_those_that_keep_their_names() -> None:
    world = World()
    kept = HealthNote(60, "http 503", keeps_names=True)
    world.put(H1, endpoint(1, offset=2, health=Health.UNHEALTHY, health_note=HealthNote(60, "http 503")))
    world.put(H2, endpoint(2, offset=3, health=Health.UNHEALTHY, health_note=kept))
    (name,) = {one.record.service for one in world.view.endpoints.values()}
    service = at_once(world.present().service(world.view.service(N1, name)))
    assert (service["answering"], service["unhealthy"], service["kept"]) == (1, 2, 1)
    assert service["addresses"] == ["10.1.0.3", "fd00:1::3"]
    assert world.endpoint(2)["reason"].endswith("; names lead to it if no other replica is up")
    world.put(H1, endpoint(1, offset=2))
    service = at_once(world.present().service(world.view.service(N1, name)))
    assert (service["answering"], service["addresses"]) == (1, ["10.1.0.2", "fd00:1::2"])


def test_only_the_own_host_shows_the_checks() -> None:
    world = World()
    assert world.endpoint(1)["checks"] == world.endpoint(2)["checks"] == []
    (own,) = (one for one in world.view.endpoints.values() if one.record.name == "web1")
    row = local_row(own.endpoint_id, N1, checks=parse_checks_untrusted(["tcp:80 fall=5"]))
    shown = world.present({own.endpoint_id: row}).endpoint(own)
    assert shown["checks"] == ["tcp:80 fall=5"]


def test_a_member_whose_agent_is_away_says_that_its_last_states_stand() -> None:
    world = World()
    for state, answers, is_outdated in (
        (MemberState.ALIVE, True, False),
        (MemberState.DEAD, True, True),
        (MemberState.DEAD, None, True),
        (MemberState.DEAD, False, False),
        (MemberState.LEFT, True, False),
    ):
        world.member(H2, state)
        host = dataclasses.replace(world.view.hosts[H2], answers=answers)
        assert world.present().member(host, ProbeView()).get("outdated") is is_outdated, (state, answers)


def test_an_endpoint_that_is_drained_or_stops_is_hidden_and_says_since_when() -> None:
    world = World()
    world.put(H2, endpoint(3, offset=9, drain=Drain(60, "anna")))
    assert why(world.endpoint(3)) == ("drained", "drained by anna, since 1970-01-01 00:01:00 UTC")
    assert world.endpoint(3)["drain"] == {"since": "1970-01-01T00:01:00Z", "by": "anna"}
    world.put(H2, endpoint(3, offset=9, drain=Drain(60, STOP)))
    assert at_once(world.present().service(world.view.service(N1, "web")))["drained"] == 1
    assert why(world.endpoint(3)) == ("stopping", "asked to stop, since 1970-01-01 00:01:00 UTC")
    world.put(H2, endpoint(3, offset=9))
    assert (*why(world.endpoint(3)), world.endpoint(3)["drain"]) == ("up", "", None)


def why(shown: Endpoint) -> tuple[str, ...]:
    return shown["state"], shown["reason"]


def test_an_endpoint_is_up_with_all_its_names() -> None:
    shown = World().endpoint()
    assert why(shown) == ("up", "")
    assert shown["names"] == [
        "web.app.mesh.internal",
        "web2.app.mesh.internal",
        "web2.h2.app.mesh.internal",
    ]
    assert (shown["host"], shown["local"], shown["target"], shown["links"]) == ("h2", False, "", [])


def test_what_only_its_own_host_knows_is_shown_there() -> None:
    world = World()
    (own,) = (one for one in world.view.endpoints.values() if one.owner == H1)
    facts = {
        own.endpoint_id: local_row(
            own.endpoint_id, N1, target="netns:web", stage=PUBLISHED, links=(Link("db", "database"),)
        )
    }
    shown = world.present(facts).endpoint(own)
    assert (shown["local"], shown["target"], shown["ifname"]) == (True, "netns:web", "eth0")
    assert shown["links"] == [{"service": "db", "alias": "database"}]


def test_a_dead_agent_alone_hides_nothing() -> None:
    world = World()
    world.member(H2, MemberState.DEAD)
    assert why(world.endpoint()) == ("up", "")
    world.view = world.view.with_host_answers({H2: True})
    assert why(world.endpoint()) == ("up", "")
    shown = world.present().member(world.view.hosts[H2], ProbeView(0.1))
    assert (shown["agent"], shown["host"], shown["path"]) == ("dead", "answers", "ok")


def test_what_is_not_reached_is_up_and_says_that_names_lead_elsewhere() -> None:
    world = World()
    world.view = world.view.with_unreached(frozenset({H2}))
    assert why(world.endpoint()) == (
        "up",
        "h2 does not answer this host through the overlay: names lead to it only if there is no other replica",
    )
    service = at_once(world.present().service(world.view.service(N1, "web")))
    assert (service["answering"], service["unreached"], service["endpoint_count"]) == (1, 1, 2)
    assert service["addresses"] == ["10.1.0.2", "fd00:1::2"]
    world.view = world.view.with_unreached(frozenset({H1, H2}))
    service = at_once(world.present().service(world.view.service(N1, "web")))
    assert (service["answering"], service["unreached"]) == (2, 2)


def test_each_reason_for_being_hidden_is_told_apart() -> None:
    world = World()
    world.member(H2, MemberState.DEAD)
    world.view = world.view.with_host_answers({H2: False})
    assert why(world.endpoint()) == ("hidden", "neither the agent nor the kernel of host h2 answers")
    service = at_once(world.present().service(world.view.service(N1, "web")))
    assert (service["endpoint_count"], service["answering"], service["hosts"]) == (2, 1, ["h1", "h2"])
    assert service["addresses"] == ["10.1.0.2", "fd00:1::2"]

    world = World()
    world.put(H2, host("h2", going_down=True))
    assert why(world.endpoint()) == ("hidden", "host h2 is about to stop")
    world.put(H2, host("h2", going_down=True, is_starting=True))
    assert why(world.endpoint()) == ("hidden", "host h2 has just started and restores its containers")
    world.member(H2, MemberState.LEFT)
    assert why(world.endpoint()) == ("hidden", "host h2 has left the cluster")
    shown = world.present().member(world.view.hosts[H2], ProbeView())
    assert (shown["agent"], shown["host"], shown["path"]) == ("left", "unknown", "unknown")
    world.put(H2, ForgetRecord(H1, settled=True))
    assert why(world.endpoint(1)) == ("hidden", "host h1 was forgotten"), (
        "what a forgotten host sees of itself"
    )


def test_an_endpoint_without_its_network_does_not_pass_for_unhealthy() -> None:
    world = World()
    world.put(H1, RemovalRecord(N1))
    shown = world.endpoint()
    assert why(shown) == ("hidden", "its network was removed")
    assert shown["network"] == N1[:8]
    world.put(H2, endpoint(5, N2, addresses=("10.9.0.4",)))
    assert why(world.endpoint(5)) == ("hidden", "its network is not known here")


def test_an_unhealthy_and_a_fenced_endpoint_say_why() -> None:
    world = World()
    world.put(H2, endpoint(2, offset=3, health=Health.UNHEALTHY))
    assert why(world.endpoint()) == ("unhealthy", "its health check fails")
    world.put(H2, endpoint(3, offset=2))
    state, reason = why(world.endpoint(3))
    assert state == "fenced"
    assert "10.1.0.2 belongs to host" in reason


def test_a_network_shows_its_gateways_hosts_and_clashes() -> None:
    world = World()
    shown = world.present().network(world.view.networks[N1])
    assert (shown["gateways"], shown["hosts"]) == (["10.1.0.1", "fd00:1::1"], ["h1", "h2"])
    assert (shown["attached"], shown["endpoint_count"], shown["clash"]) == (True, 2, "")
    world.put(H2, network(N2, "app", subnets=("10.2.0.0/24",)), grant(N2, 4, 7, H1))
    loser = world.present().network(world.view.networks[N2])
    assert loser["name"] == f"app-{N2[:4]}"
    assert loser["clash"] == "another network has the name app"


def test_ourselves_are_alive_and_need_no_path() -> None:
    world = World()
    shown = world.present().member(world.view.hosts[H1], ProbeView(0.5))
    assert (shown["agent"], shown["host"], shown["path"], shown["rtt_s"]) == (
        "alive",
        "answers",
        "local",
        None,
    )


def test_a_host_of_which_only_the_membership_knows() -> None:
    world = World()
    world.member(H3, MemberState.ALIVE)
    shown = world.present().member(world.view.hosts[H3], ProbeView())
    assert (shown["name"], shown["address"], shown["version"]) == (H3[:8], "192.0.2.9", "")


def test_addresses_of_a_service_are_sorted_by_value() -> None:
    world = World()
    for number, offset in ((5, 16), (6, 10), (7, 9)):
        world.put(H2, endpoint(number, offset=offset, service="many"))
    assert at_once(world.present().service(world.view.service(N1, "many")))["addresses"] == [
        "10.1.0.9", "10.1.0.10", "10.1.0.16", "fd00:1::9", "fd00:1::a", "fd00:1::10",
    ]  # fmt: skip


# -- inspect --------------------------------------------------------------------------------------------------------


def look(world: World, thing: str) -> Any:
    return at_once(inspect_thing(world.present(), thing, lambda host_id: ProbeView(0.25)))


@pytest.mark.parametrize(
    ("thing", "kind"),
    [
        ("web", "service"),
        ("web.app", "service"),
        ("web.app.mesh.internal.", "service"),
        ("web2", "endpoint"),
        ("web2.h2.app", "endpoint"),
        ("web2.h2.app.mesh.internal", "endpoint"),
        ("10.1.0.3", "endpoint"),
        ("FD00:1:0::3", "endpoint"),
        ("0a:00:00:00:00:02", "endpoint"),
        ("app", "network"),
        ("h2", "host"),
        (identifier(0xE002), "endpoint"),
    ],
)
def test_a_thing_is_found_by_any_of_its_names(thing: str, kind: str) -> None:
    shown = look(World(), thing)
    assert shown["kind"] == kind
    if kind == "endpoint":
        assert shown["name"] == "web2"


@pytest.mark.parametrize("thing", ["app", "h2", "web", "nobody"])
def test_a_thing_with_many_endpoints_is_shown_an_endpoint_at_a_time(thing: str) -> None:
    world, count = World(), 100
    for number in range(100, 100 + count):
        world.put(H2, endpoint(number, offset=number))
    pieces, stops = inspect_thing(world.present(), thing, lambda host_id: ProbeView()), 0
    while True:
        try:
            next(pieces)
        except (StopIteration, NotFoundError):
            break
        stops += 1
    assert stops >= (count if thing != "nobody" else 1), "to look at one more is little"


def test_a_host_is_shown_with_what_is_on_it() -> None:
    shown = look(World(), "h2")
    assert (shown["networks"], [one["name"] for one in shown["endpoints"]], shown["rtt_s"]) == (
        ["app"],
        ["web2"],
        0.25,
    )


@pytest.mark.parametrize("thing", ["10.1.0.7", "FD00:1:0::7", "06:00:00:00:00:07"])
def test_an_address_that_a_host_has_itself_in_a_network_leads_to_the_host(thing: str) -> None:
    world = World()
    world.put(H2, HostAddressRecord(N1, 7, "06:00:00:00:00:07"))
    shown = look(world, thing)
    assert (shown["kind"], shown["name"]) == ("host", "h2")
    world.put(H2, HostAddressRecord(N1, 4000, "06:00:00:00:00:08"))
    with pytest.raises(NotFoundError):
        look(world, thing)


def test_what_means_several_things_or_none_says_so() -> None:
    world = World()
    world.put(H1, network(N2, "back", subnets=("10.2.0.0/24",)), endpoint(9, N2, addresses=("10.2.0.9",)))
    with pytest.raises(InputError, match=r"'web' is ambiguous, 2 objects match: web\.app, web\.back"):
        look(world, "web")
    with pytest.raises(InputError, match=r"is ambiguous, .* match"):
        look(world, "000000")
    with pytest.raises(NotFoundError, match="nothing has the name, address or id 'nobody'"):
        look(world, "nobody")
    with pytest.raises(NotFoundError):
        look(world, "10.1.0.99")


def test_a_look_up_advises_no_name_that_does_not_lead_there_now() -> None:
    world = World()
    db = endpoint(2, offset=3, name="db", service="db", labels=((CONTAINER_ID, "c0ffee" * 8),))
    world.put(H2, db)

    def meant(name: str) -> list[str]:
        return at_once(_meant(Presenter(world.view, "mesh.internal"), name))

    advice = "is db on h2, whose name in network app is db.app.mesh.internal"
    assert (meant("db"), meant("c0ffeec0ffee")) == ([f"db {advice}"], [f"c0ffeec0ffee {advice}"])
    world.put(H2, dataclasses.replace(db, health=Health.UNHEALTHY))
    assert meant("db") == [], "the answer itself says that it is left out, and why"
    (hidden,) = meant("c0ffeec0ffee")
    assert hidden.startswith("c0ffeec0ffee is db on h2, which has no DNS name: ")
