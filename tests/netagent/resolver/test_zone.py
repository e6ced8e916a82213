"""From the registry's view to rows, and `lookup` on top of both."""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Mapping
from typing import Any

import pytest
from fakes.external import alias, at, service
from fakes.external import data as own_data
from fakes.names import ask, source_of, subnet
from fakes.registry import H1, H2, H3, N1, N2, N3, Writer, endpoint, host, network
from fakes.service_addresses import service_address, service_range
from fakes.zone import whole_table

from netagent.model.ids import HostId
from netagent.model.locality import AnswerOrder, Balance
from netagent.model.records import (
    STOP,
    AttachmentRecord,
    Drain,
    Health,
    HealthNote,
    Link,
    Port,
    Record,
    ServiceAddressOrigin,
    ServiceKey,
)
from netagent.model.sandbox import Netns, Sandbox, SandboxId
from netagent.registry.view import EndpointView, RegistryView
from netagent.resolver import explain_name, zone
from netagent.resolver.explain_name import NameExplanation, explain
from netagent.resolver.name_table import EndpointRow, Key, NetworkRow, Row, RowKind, ServiceAddressRow
from netagent.resolver.row import fields_of, read_change_untrusted
from netagent.resolver.zone import ZoneBuilder
from netgossip.slices import at_once
from netgossip.types import Member, MemberState

C = Sandbox(sandbox_id=SandboxId("c"), networks=(N1,), links=(Link("web", "site"),))


class World:
    """A registry that is written to, and a maker that has seen each state of it."""

    def __init__(self) -> None:
        self.view = RegistryView(H1)
        self.writers = {one: Writer(one) for one in (H1, H2, H3)}
        self.maker = ZoneBuilder("mesh.internal")
        for number, one in enumerate((H1, H2, H3), start=1):
            self.put(one, host(f"h{number}", underlay=f"192.0.2.{number}"))
        self.put(H1, network(), network(N2, "back", subnets=("10.2.0.0/24",)), AttachmentRecord(N1))
        self.put(H2, endpoint(1, offset=11))
        self.put(
            H3, endpoint(2, offset=12), endpoint(3, N2, addresses=("10.2.0.9",), name="db", service="db")
        )

    def put(self, owner: HostId, *records: Record) -> None:
        for record in records:
            self.view = self.view.with_entries(self.writers[owner].put(record))

    def member(self, owner: HostId, state: MemberState) -> None:
        self.view = self.view.with_member(Member(owner, ("192.0.2.1", 7956), state, 1))

    def table(self, *sandboxes: Sandbox) -> Mapping[Key, Row]:
        boxes = {one.sandbox_id: one for one in sandboxes or (C,)}
        made = at_once(self.maker.build(self.view, boxes)).table
        assert dict(made) == whole_table(self.view, boxes.values(), "mesh.internal")
        return made

    def ask(self, name: str, rtype: str = "A") -> list[str] | str:
        return ask(source_of(self.table()), name, rtype)

    def explain(
        self,
        name: str,
        rtype: str = "A",
        sandbox: str = C.sandbox_id,
        boxes: Mapping[SandboxId, Sandbox] | None = None,
        **options: Any,
    ) -> NameExplanation:
        asker = SandboxId(sandbox)

        def explained() -> NameExplanation:
            return at_once(
                explain(
                    self.view,
                    boxes or {C.sandbox_id: C},
                    domain="mesh.internal",
                    name=name,
                    rtype=rtype,
                    sandbox_id=asker,
                    **options,
                )
            )

        found = explained()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(explain_name, "_labels_needed", lambda *_: None)
            assert found == explained(), "the endpoints that the name needs give the answer of all"
        return found


@pytest.fixture
def world() -> World:
    return World()


def test_a_sandbox_has_an_id_that_tells_boots_apart() -> None:
    assert (
        Netns("/x", (4, 4026532000), "0123abcd-9f00-1111-2222-333344445555").sandbox_id
        == "0123abcd-4026532000"
    )


def test_the_table_holds_what_its_sandboxes_may_ask(world: World) -> None:
    kinds = [key[0] for key in world.table()]
    assert [kinds.count(kind) for kind in RowKind] == [1, 3, 1, 1, 2, 0, 0, 0, 0, 0]
    both = Sandbox(sandbox_id=SandboxId("d"), networks=(N1, N2))
    assert len(world.table(C, both)) == len(world.table()) + 3
    assert [key[0] for key in world.table(Sandbox(sandbox_id=SandboxId("e")))].count(RowKind.ENDPOINT) == 0
    assert world.ask("web") == ["10.1.0.11", "10.1.0.12"]


def test_containers_go_on_with_the_name_that_their_network_lost(world: World) -> None:
    inside = Sandbox(sandbox_id=SandboxId("c"), networks=(N3,))
    # Of another part of the cluster, in use there, and with the larger id.
    world.put(H3, network(N3, subnets=("10.3.0.0/24",)), AttachmentRecord(N3))
    world.put(H3, endpoint(4, N3, addresses=("10.3.0.9",)))
    lost = f"app-{N3[:4]}"
    assert world.view.networks[N3].unique_name == lost
    for sandboxes, expected in (((inside,), ["10.3.0.9"]), ((C,), ["10.1.0.11", "10.1.0.12"])):
        source = source_of(world.table(*sandboxes))
        assert ask(source, "web.app.mesh.internal") == expected
    assert ask(source_of(world.table(inside)), f"web.{lost}.mesh.internal") == ["10.3.0.9"]


def test_rows_that_did_not_change_are_the_same_objects(world: World) -> None:
    before = world.table()
    world.put(H2, endpoint(4, offset=14))
    after = world.table()
    assert len(after) == len(before) + 1
    assert all(after[key] is before[key] for key in before if key[0] in (RowKind.ENDPOINT, RowKind.SANDBOX))


def test_what_is_hidden_has_no_row(world: World) -> None:
    for hidden in (
        endpoint(1, offset=11, health=Health.UNHEALTHY),
        endpoint(1, offset=11, drain=Drain(1, STOP)),
    ):
        world.put(H2, hidden)
        assert world.ask("web") == ["10.1.0.12"]
    world.put(H2, endpoint(1, offset=11))
    world.member(H3, MemberState.DEAD)
    assert world.ask("web") == ["10.1.0.11", "10.1.0.12"], "a dead agent hides nothing"
    world.view = world.view.with_host_answers({H3: False})
    assert world.ask("web") == ["10.1.0.11"]
    assert str(world.ask("h3.node.mesh.internal")).startswith("nxdomain")
    world.view = world.view.with_host_answers({H3: True})
    assert world.ask("web") == ["10.1.0.11", "10.1.0.12"]
    world.put(H3, host("h3", going_down=True))
    assert world.ask("web") == ["10.1.0.11"]
    world.put(H3, host("h3", drain=Drain(0, "anna")))
    assert world.ask("web") == ["10.1.0.11"]
    assert world.ask("h3.node.mesh.internal") == ["192.0.2.1"], "the host itself goes on"


def test_two_hosts_with_one_name_have_two_labels(world: World) -> None:
    world.put(H3, host("h2", underlay="192.0.2.3"))
    label = f"h2-{H3[:4]}"
    assert world.ask("h2.node.mesh.internal") == ["192.0.2.2"]
    assert world.ask(f"{label}.node.mesh.internal") == ["192.0.2.3"]
    assert world.ask("12.0.1.10.in-addr.arpa", "PTR") == [f"web2.{label}.app.mesh.internal."]


def test_a_long_name_twice_still_fits_a_label(world: World) -> None:
    long = "h" * 63
    world.put(H2, host(long))
    world.put(H3, host(long, underlay="192.0.2.3"))
    assert world.ask(f"{'h' * 58}-{H3[:4]}.node.mesh.internal") == ["192.0.2.3"]


# --- lookup -------------------------------------------------------------------------------------------------------


def data(explanation: NameExplanation) -> list[str]:
    return [one.data for one in explanation.records]


def test_the_search_list_is_followed(world: World) -> None:
    found = world.explain("web")
    assert found.name == "web.app.mesh.internal."
    assert (found.status, data(found)) == ("NOERROR", ["10.1.0.11", "10.1.0.12"])
    assert "web1 on h2" in found.reason
    assert world.explain("web.app").name == "web.app."
    assert world.explain("h2.node").records[0].data == "192.0.2.2"
    assert world.explain("web.app.mesh.internal.", "AAAA").records[0].rtype == "AAAA"


def test_a_link_is_named(world: World) -> None:
    found = world.explain("site")
    assert data(found) == ["10.1.0.11", "10.1.0.12"]
    assert "site is this container's link to web" in found.reason


def test_the_host_sees_the_networks_it_takes_part_in(world: World) -> None:
    assert data(world.explain("web", sandbox="")) == ["10.1.0.11", "10.1.0.12"]
    assert world.explain("db", sandbox="").status == "NXDOMAIN"


def test_a_name_is_explained_without_the_endpoints_that_do_not_have_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    make_row = zone._endpoint_row

    def counted(view: RegistryView, one: EndpointView) -> EndpointRow | None:
        made.append(one.record.name)
        return make_row(view, one)

    world.put(
        H3,
        *(
            endpoint(number, offset=number, name=f"x{number}", service=f"x{number}")
            for number in range(50, 90)
        ),
    )
    monkeypatch.setattr(zone, "_endpoint_row", counted)
    plain = {SandboxId("plain"): dataclasses.replace(C, sandbox_id=SandboxId("plain"), links=())}
    found = at_once(
        explain(
            world.view, plain, domain="mesh.internal", name="x77", rtype="A", sandbox_id=SandboxId("plain")
        )
    )
    assert found.name == "x77.app.mesh.internal."
    assert made == ["x77"]


def test_an_address_asks_for_its_name(world: World) -> None:
    found = world.explain("10.1.0.12")
    assert (found.rtype, data(found)) == ("PTR", ["web2.h3.app.mesh.internal."])


def test_reasons_for_no(world: World) -> None:
    missing = world.explain("wep")
    assert (missing.status, missing.records) == ("NXDOMAIN", ())
    assert "did you mean web?" in missing.reason
    assert world.explain("web", "TXT").status == "NOERROR"
    assert "without records of type TXT; ask for A" in world.explain("web", "TXT").reason
    assert world.explain("example.com").status == "FORWARDED"
    assert world.explain("localhost").status == "NOERROR"
    with pytest.raises(KeyError):
        world.explain("web", "WKS")
    with pytest.raises(KeyError):
        world.explain("web", sandbox="nobody")


def test_what_was_left_out_is_said(world: World) -> None:
    world.put(H2, endpoint(1, offset=11, health=Health.UNHEALTHY))
    world.member(H3, MemberState.DEAD)
    world.view = world.view.with_host_answers({H3: False})
    found = world.explain("web")
    assert found.status == "NXDOMAIN"
    assert "web1 on h2 (its health check fails)" in found.reason
    assert "web2 on h3 (its host's agent is dead and its kernel does not answer)" in found.reason
    backwards = world.explain("10.1.0.12")
    assert backwards.status == "NXDOMAIN"
    assert backwards.reason == (
        "no visible endpoint has the address 10.1.0.12 in app; "
        "left out: web2 on h3 (its host's agent is dead and its kernel does not answer)"
    )
    docker_asked = world.explain("web", behind_runtime=True)
    assert docker_asked.status == "FORWARDED"
    assert "Docker's own resolver" in docker_asked.reason
    assert "web1 on h2 (its health check fails)" in docker_asked.reason
    world.put(H2, endpoint(1, offset=11, drain=Drain(0, "anna")))
    world.put(H3, host("h3", drain=Drain(60, "bob")))
    world.member(H3, MemberState.ALIVE)
    reason = world.explain("web").reason
    assert "web1 on h2 (drained by anna, since 1970-01-01 00:00:00 UTC)" in reason
    assert "web2 on h3 (its host is drained by bob, since 1970-01-01 00:01:00 UTC)" in reason


def test_in_front_of_dockers_resolver_other_names_are_its(world: World) -> None:
    for name in ("cache", "example.com", "172.18.0.9"):
        assert world.explain(name, behind_runtime=True).status == "FORWARDED"
    assert world.explain("web", behind_runtime=True).status == "NOERROR"
    assert world.explain("cache.app.mesh.internal.", behind_runtime=True).status == "NXDOMAIN"
    assert world.explain("localhost", behind_runtime=True).status == "NOERROR"


def test_a_name_leads_to_no_host_that_is_not_reached_unless_there_is_no_other(world: World) -> None:
    world.put(H2, endpoint(4, offset=14, name="one", service="one"))

    def web() -> tuple[list[str] | str, list[str] | str]:
        return world.ask("web.app.mesh.internal"), world.ask("web.app.mesh.internal", "AAAA")

    both = (["10.1.0.11", "10.1.0.12"], ["fd00:1::b", "fd00:1::c"])
    assert web() == both
    world.view = world.view.with_unreached(frozenset({H3}))
    assert web() == (["10.1.0.11"], ["fd00:1::b"])
    assert world.ask("web2.h3.app.mesh.internal") == ["10.1.0.12"], "a name of one endpoint leads there"
    assert world.ask("12.0.1.10.in-addr.arpa", "PTR") != []
    found = world.explain("web")
    assert [record.data for record in found.records] == ["10.1.0.11"]
    assert (
        "web1 on h2; not to web2 on h3: this host gets no answer from there over the overlay" in found.reason
    )
    world.view = world.view.with_unreached(frozenset({H2, H3}))
    assert web() == both, "never to nothing"
    assert "but the name has no other endpoint" in world.explain("web").reason
    assert world.ask("one.app.mesh.internal") == ["10.1.0.14"]
    world.member(H3, MemberState.DEAD)
    world.view = world.view.with_host_answers({H3: False})
    assert web() == (["10.1.0.11"], ["fd00:1::b"]), "who is gone is hidden, as ever"
    world.view = world.view.with_unreached(frozenset())
    assert web() == (["10.1.0.11"], ["fd00:1::b"])


def test_an_unhealthy_replica_that_keeps_its_names_has_them_only_while_no_other_is_up(world: World) -> None:
    sick = HealthNote(60, "http 503 from 80/, failed 3 of 3 times", keeps_names=True)
    world.put(H2, endpoint(1, offset=11, health=Health.UNHEALTHY, health_note=sick))
    assert world.ask("web.app.mesh.internal") == ["10.1.0.12"]
    assert "not to web1 on h2: a check fails there (--all-failing keep)" in world.explain("web").reason
    world.put(H3, endpoint(2, offset=12, health=Health.UNHEALTHY, health_note=HealthNote(60, "other")))
    assert world.ask("web.app.mesh.internal") == ["10.1.0.11"], "and not to the one that does not keep them"
    assert (
        "a check fails there (--all-failing keep), but the name has no other" in world.explain("web").reason
    )
    assert world.ask("web1.h2.app.mesh.internal") == ["10.1.0.11"]
    world.put(H2, endpoint(1, offset=11, health=Health.UNHEALTHY, health_note=sick, drain=Drain(60, "anna")))
    assert world.ask("web.app.mesh.internal") == "nxdomain mesh.internal.", "a drain counts all the same"
    world.put(H2, endpoint(1, offset=11, health=Health.STARTING, health_note=sick))
    assert world.ask("web.app.mesh.internal") == "nxdomain mesh.internal.", "never before its first success"
    world.put(H2, endpoint(1, offset=11, health=Health.UNHEALTHY, health_note=sick))
    world.member(H2, MemberState.DEAD)
    world.view = world.view.with_host_answers({H2: False})
    assert world.ask("web.app.mesh.internal") == "nxdomain mesh.internal."


def test_the_resolver_process_reads_a_kept_row_as_one_of_last_resort(world: World) -> None:
    sick = HealthNote(60, "http 503", keeps_names=True)
    world.put(H2, endpoint(1, offset=11, health=Health.UNHEALTHY, health_note=sick))
    (kept,) = (row for row in world.table().values() if isinstance(row, EndpointRow) and row.is_kept)
    key = (RowKind.ENDPOINT, kept.endpoint_id)
    assert read_change_untrusted(fields_of((key, kept))) == (key, dataclasses.replace(kept, is_kept=False))
    assert kept.is_behind


def test_distance_zone_and_weight_reach_the_table_and_are_explained(world: World) -> None:
    world.put(H3, endpoint(2, offset=12))
    assert world.ask("nearest.web") == ["10.1.0.11", "10.1.0.12"], "neither has been measured"
    world.view = world.view.with_distances({H2: 4, H3: 1})
    assert world.ask("nearest.web") == ["10.1.0.12"]
    world.put(H2, host("h2", zone="Rack 7"))
    assert world.ask("rack-7.zone.web") == ["10.1.0.11"]
    found = world.explain("nearest.web", rtt_s={H2: 0.0402, H3: 0.0003}.get)
    assert [record.data for record in found.records] == ["10.1.0.12"]
    assert "nearest first: web2 on h3 (0.3 ms away), web1 on h2 (40 ms away, zone rack-7)" in found.reason
    found = world.explain("nosuch.zone.web")
    assert "no endpoint is in zone nosuch; nearest first: web2 on h3 (at most 1 ms away)" in found.reason
    assert "did you mean web?" in world.explain("nearest.wep.app").reason
    world.put(
        H3, endpoint(2, offset=12, weight=50, health=Health.HEALTHY, health_note=HealthNote(1_700_000_000))
    )
    found = world.explain("web", now_s=1_700_000_000)
    assert "share of first places: web1 on h2 92%, web2 on h3 8% while it warms up" in found.reason
    assert "share of first places: web1 on h2 67%, web2 on h3 33%" in world.explain("web").reason
    world.put(H1, host("h1", zone="Rack 7"))
    assert world.ask("web") == ["10.1.0.11", "10.1.0.12"]
    world.put(H1, network(answer=AnswerOrder.ZONE))
    assert world.ask("web") == ["10.1.0.11"]
    assert "zone rack-7 first: web1 on h2" in world.explain("web").reason
    assert world.explain("all.web").reason.endswith(
        "all endpoints are in the answer, those included that this host does not reach; "
        "share of first places: web1 on h2 67%, web2 on h3 33%"
    )


def test_types_of_service_records_are_shown_in_words(world: World) -> None:
    spoken = Port("https", 443, "tcp", ("h2",))
    labels = (("netagent.txt.note", 'say "hi"'), ("netagent.txt.path", "/a"), ("other", "x"))
    world.put(H2, endpoint(1, offset=11, ports=(spoken,), labels=labels))
    assert [one.data for one in world.explain("web", "TXT").records] == [r'"note=say \"hi\"" "path=/a"']
    assert [one.data for one in world.explain("web", "HTTPS").records] == [
        "1 web1.h2.app.mesh.internal. alpn=h2 no-default-alpn port=443 ipv4hint=10.1.0.11 ipv6hint=fd00:1::b"
    ]


def test_an_external_service_and_own_names_are_answered_and_explained(world: World) -> None:
    world.put(H2, service(target=at("203.0.113.50")), alias(to="web"), own_data(2, "note", texts=('v="1"',)))
    assert world.ask("pg") == ["203.0.113.50"]
    assert world.ask("shop.app.mesh.internal") == ["10.1.0.11", "10.1.0.12"]
    assert "external service pg, added on h2" in world.explain("pg").reason
    found = world.explain("shop")
    assert [(one.name, one.rtype, one.data) for one in found.records] == [
        ("shop.app.mesh.internal.", "CNAME", "web.app.mesh.internal."),
        ("web.app.mesh.internal.", "A", "10.1.0.11"),
        ("web.app.mesh.internal.", "A", "10.1.0.12"),
    ]
    assert found.reason == "an operator made it another name of web.app"
    assert world.explain("shop", "CNAME").records[0].data == "web.app.mesh.internal."
    text = world.explain("note", "TXT")
    assert text.records[0].data == '"v=\\"1\\""'
    assert text.reason == "found in network app: an operator added the name"


def test_a_container_keeps_its_name_also_while_it_is_unhealthy(world: World) -> None:
    world.put(H2, service(name="web"), alias(name="db1", to="web"))
    assert world.ask("web") == ["10.1.0.11", "10.1.0.12"]
    sick = endpoint(5, offset=15, name="db1", service="db1", health=Health.UNHEALTHY)
    assert world.ask("db1") == ["10.1.0.11", "10.1.0.12"]
    world.put(H3, sick)
    assert world.ask("db1.app.mesh.internal") == "nxdomain mesh.internal."
    assert "the name that an operator added (container db1 has it)" in world.explain("db1").reason
    assert "external service web (container web" in world.explain("web").reason
    world.view = world.view.with_entries(world.writers[H3].delete(sick))
    assert world.ask("db1") == ["10.1.0.11", "10.1.0.12"]


def test_additions_with_one_label_are_looked_at_again_only_when_endpoints_get_or_lose_it(
    world: World,
) -> None:
    for number in range(1, 200):
        world.put(
            H2,
            service(number, name="web"),
            service(200 + number, name="pg"),
            own_data(number, "pg", texts=("a",)),
        )
    world.table()
    # One step for each, so that none is long.
    for number, label, steps in ((20, "web", range(4)), (21, "pg", range(200, 210)), (22, "pg", range(4))):
        world.put(H3, endpoint(number, offset=number, name=f"n{number}", service=label))
        assert sum(1 for _ in world.maker.build(world.view, {C.sandbox_id: C})) in steps
        world.table()


def test_why_an_external_service_is_not_answered(world: World) -> None:
    world.put(H2, service(checks=("tcp:5432",)))
    assert world.ask("pg.app.mesh.internal") == "nxdomain mesh.internal."
    assert "203.0.113.50:5432: no check has succeeded yet" in world.explain("pg").reason


TRANSLATING = dataclasses.replace(C, translates=frozenset({N1}))


def test_service_addresses_and_ranges_reach_the_table(world: World) -> None:
    world.put(H2, service_range())
    world.put(H1, service_address(offset=7))
    world.put(
        H3, service_address(offset=8, origin=ServiceAddressOrigin.NETWORK), service_address("db", 9, N2)
    )
    table = world.table(TRANSLATING)
    network = table[RowKind.NETWORK, N1]
    assert isinstance(network, NetworkRow)
    assert network.service_ranges == (subnet("10.9.1.0/24"), subnet("fd00:9:1::/64"))
    rows = [row for row in table.values() if isinstance(row, ServiceAddressRow)]
    assert sorted((row.service, row.owner, row.is_chosen) for row in rows) == [
        (ServiceKey("web"), H1, True),
        (ServiceKey("web"), H3, False),
    ]
    source = source_of(table)
    assert ask(source, "web") == ["10.9.1.7"]
    assert ask(source, "web", "AAAA") == ["fd00:9:1::7"]
    assert ask(source, "all.web") == ["10.1.0.11", "10.1.0.12"]
    assert ask(source, "8.1.9.10.in-addr.arpa", "PTR") == ["web.app.mesh.internal."]


def test_the_address_of_a_service_is_explained(world: World) -> None:
    world.put(H2, service_range())
    world.put(H1, service_address(offset=7), service_address("db", 8, group="shop"))
    boxes = {C.sandbox_id: TRANSLATING}
    for asker in (C.sandbox_id, ""):  # the host answers as its containers are answered
        found = world.explain("web", sandbox=asker, boxes=boxes)
        assert data(found) == ["10.9.1.7"]
        assert found.reason == (
            "found in network app: the own address of service web, from which the kernel leads each connection to "
            "one of web1 on h2, web2 on h3; all.web names them"
        )
    for balance, which in (
        (Balance.NEAREST, "to one of the nearest of web1"),
        (Balance.ZONE, "to one in this host's zone, or else one of the nearest, of web1"),
        (Balance.FIRST, "to the one with the most weight of web1"),
    ):
        world.put(H1, service_address(offset=7, balance=balance))
        assert which in world.explain("web", boxes=boxes).reason
    found = world.explain("db.shop", boxes=boxes)
    assert found.reason == (
        "found in network app: the own address of service db of group shop, which has no replica that is up, so "
        "connections are refused"
    )
    assert (
        "this container's link to web; found in network app: the own"
        in world.explain("site", boxes=boxes).reason
    )
    reverse = world.explain("fd00:9:1::7", boxes=boxes)
    assert (reverse.reason, data(reverse)) == (
        "found in network app: the own address of service web",
        ["web.app.mesh.internal."],
    )
    assert "the own address" not in world.explain("all.web", boxes=boxes).reason


def test_replicas_instead_of_the_address_of_a_service_are_explained(world: World) -> None:
    world.put(H2, service_range())
    world.put(H1, service_address(offset=7), service_address("api", 8))
    found = world.explain("web", untranslated="the kernel is older than Linux 5.8")
    assert data(found) == ["10.1.0.11", "10.1.0.12"]
    assert found.reason == (
        "found in network app: web1 on h2, web2 on h3; not its own address (10.9.1.7, fd00:9:1::7), which the kernel "
        "does not translate for this container: the kernel is older than Linux 5.8"
    )
    refused = {ipaddress.ip_address("fd00:9:1::7").packed: "the kernel's table is full"}
    boxes = {C.sandbox_id: TRANSLATING}
    found = world.explain("web", boxes=boxes, refused=refused)
    assert data(found) == ["10.1.0.11", "10.1.0.12"]
    assert found.reason.endswith("does not translate for this container: the kernel's table is full")
    assert data(world.explain("api", boxes=boxes, refused=refused)) == ["10.9.1.8"]
    assert "own address" not in world.explain("nearest.web").reason
    api = world.explain("api")
    assert (api.status, api.name) == ("NOERROR", "api.app.mesh.internal.")
    assert "service api has no replica that is up; not its own address (10.9.1.8" in api.reason


def test_another_name_of_a_service_with_an_address_is_explained(world: World) -> None:
    world.put(H2, service_range())
    world.put(H1, service_address(offset=7), alias(1, "old", "web"))
    found = world.explain("old", boxes={C.sandbox_id: TRANSLATING})
    assert [one.data for one in found.records] == ["web.app.mesh.internal.", "10.9.1.7"]
    assert found.reason.startswith(
        "an operator made it another name of web.app; found in network app: the own address of service web"
    )
