"""How the cluster differs from a file: the steps, what is refused before the first, and that they end it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
from fakes.external import alias, at, data, service
from fakes.registry import H1, H2, H3, N1, N2, N3, Writer, host, network
from fakes.service_addresses import service_address, service_range
from hypothesis import given
from hypothesis import strategies as st

from netagent.access.tokens import Token, TokenNetwork, Tokens
from netagent.cli.file_commands import content_untrusted, toml_of
from netagent.commands.apply.differences import (
    GiveAddress,
    MakeNetwork,
    MakeToken,
    Plan,
    Publish,
    PutName,
    PutService,
    SetAddress,
    SetNetwork,
    Step,
    UseCases,
    plan,
)
from netagent.commands.apply.export import exported
from netagent.commands.apply.problem import refusal
from netagent.control.conversion import fields_untrusted
from netagent.control.request_parsing import publication_of
from netagent.endpoints.network_defaults import NetworkConstraints, plan_network
from netagent.errors import InputError, NetagentError, RefusedError
from netagent.external.additions import MAX_OWN_NAMES
from netagent.interface.description import ApplyCommand
from netagent.interface.role import Role
from netagent.model.ids import ClusterId, HostId, NetworkId
from netagent.model.locality import AnswerOrder, Balance
from netagent.model.records import (
    DnsName,
    HostProgram,
    NetworkOption,
    Policy,
    PublishedServiceRecord,
    Record,
    ServiceAddressOrigin,
    ServiceKey,
    ServicePort,
)
from netagent.model.request import ServiceAddressRequest
from netagent.registry.state_store import StateStore
from netagent.registry.view import RegistryView
from netagent.services.addresses import ServiceAddresses, with_change
from netagent.services.published import PublishedServices
from netgossip.slices import at_once

DOMAIN = "mesh.internal"


def view_of(*written: Record, others: tuple[Record, ...] = ()) -> RegistryView:
    view = RegistryView(H1)
    for owner, records in ((H1, (host("h1"), *written)), (H2, (host("h2"), *others))):
        writer = Writer(HostId(owner))
        for record in records:
            view = view.with_entries(writer.put(record))
    return view


def use_cases(view: RegistryView, kept: Sequence[Token]) -> UseCases:
    """Those of a host without kernel, which has these tokens."""
    live, unused = StateStore(view, {}), cast("Any", None)
    return UseCases(
        lambda view, request, network_id: plan_network(request, network_id, _surroundings(view)),
        ServiceAddresses(live, unused, unused, surroundings=_surroundings, is_closed=lambda: False).planned,
        PublishedServices(live, unused).refuse,
        lambda: Tokens(kept),
    )


def _surroundings(view: RegistryView) -> NetworkConstraints:
    return NetworkConstraints(
        cluster_id=ClusterId("ab" * 16),
        pools=("10.160.0.0/12",),
        networks=tuple(one.record for one in view.networks.values()),
        hosts=tuple(one.record for one in view.hosts.values() if one.record is not None),
        underlay="192.0.2.1",
        underlay_mtu_bytes=1500,
        tunnel_bytes=80,
        ranges=view.range_records,
    )


def file(**content: Any) -> ApplyCommand:
    return fields_untrusted(ApplyCommand, content)


def plan_of(view: RegistryView, kept: Sequence[Token] = (), **content: Any) -> Plan:
    return at_once(plan(view, DOMAIN, file(**content), use_cases(view, kept)))


def planned(view: RegistryView, **content: Any) -> list[Step]:
    found = plan_of(view, **content)
    if found.problems:
        raise refusal(found.problems)
    return found.steps


def places(view: RegistryView, **content: Any) -> list[str]:
    """Return where the problems of a file are, each with the code of its error."""
    return [f"{one.place}: {one.error.code}" for one in plan_of(view, **content).problems]


APP = network(answer=AnswerOrder.ZONE)


def test_what_the_file_gives_and_the_cluster_has_is_no_step() -> None:
    view = view_of(
        APP,
        service(target=at("203.0.113.50", "203.0.113.51"), checks=("tcp:5432",)),
        alias(name="shop", to="web"),
        data(2, "printer", addresses=("203.0.113.9",)),
    )
    given: dict[str, Any] = {
        "networks": [{"name": "app", "answer_order": "zone", "subnets": [], "policy": "open"}],
        "services": [
            {
                "network": "app",
                "name": "pg",
                "addresses": ["203.0.113.51:5432", "203.0.113.50:5432"],
                "checks": ["tcp:5432"],
            }
        ],
        "names": [
            {"name": "shop.app", "cname": "web"},
            {"name": "printer.app.mesh.internal", "addresses": ["203.0.113.9"]},
        ],
    }
    assert plan_of(view, **given) == Plan()
    assert plan_of(view).unmentioned == [
        "network app",
        "service pg of network app",
        "name printer.app",
        "name shop.app",
    ]


def test_networks_come_first_and_a_missing_one_may_have_services_and_names() -> None:
    made, added, named = planned(
        view_of(APP),
        names=[{"name": "shop.db", "cname": "web"}],
        services=[{"network": "db", "name": "pg", "dns_name": "pg.example.com:5432"}],
        networks=[{"name": "db", "policy": "audit", "multicast": True}],
    )
    assert isinstance(made, MakeNetwork)
    assert (made.request.policy, made.request.multicast) == (Policy.OPEN, True)
    assert made.options == {NetworkOption.POLICY: "audit"}, "which only a change can be"
    assert isinstance(added, PutService)
    assert [one.target for one in added.add] == [DnsName("pg.example.com", 5432)]
    assert isinstance(named, PutName)
    assert not named.replaces


def test_options_that_differ_are_set_and_those_not_given_stay() -> None:
    (step,) = planned(view_of(APP), networks=[{"name": "app", "policy": "links", "shared_names": "answer"}])
    assert step == SetNetwork("app", {NetworkOption.POLICY: "links"}, "policy links (now open)")


def test_what_is_in_the_way_of_a_service_goes() -> None:
    view = view_of(
        APP,
        service(1),
        service(2, target=at("203.0.113.60")),
        service(3, target=HostProgram(9100)),
        service(4, target=at("203.0.113.70"), ttl_s=60),
    )
    wanted = [{"network": "app", "name": "pg", "addresses": [f"203.0.113.{n}:5432"]} for n in (60, 61)]
    (step,) = planned(view, services=wanted)
    assert isinstance(step, PutService)
    assert [one.target for one in step.add] == [at("203.0.113.61")]
    assert step.remove == (service(1).service_id,), (
        "programs of hosts, and what ends by itself, are not the file's"
    )


def test_a_name_that_leads_elsewhere_is_replaced() -> None:
    (step,) = planned(view_of(APP, alias()), names=[{"name": "shop.app", "cname": "api"}])
    assert isinstance(step, PutName)
    assert step.replaces


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"networks": [{"name": "app", "subnets": ["10.99.0.0/24"]}]}, "has the subnets 10.1.0.0/24"),
        ({"networks": [{"name": "app", "mtu_bytes": 1400}]}, "an MTU of"),
        ({"networks": [{"name": "app"}, {"name": "app"}]}, "the network app is in the file twice"),
        ({"networks": [{"name": "No"}]}, "'No'"),
        (
            {"services": [{"network": "none", "name": "pg", "addresses": ["203.0.113.1"]}]},
            "no network 'none'",
        ),
        ({"services": [{"network": "app", "name": "pg"}]}, "not clear where service pg is"),
        ({"services": [{"network": "app", "name": "far", "addresses": ["203.0.113.1"]}]}, "added on host h2"),
        ({"names": [{"name": "shop", "cname": "web"}]}, "does not say in which network"),
        ({"names": [{"name": "shop.app"}]}, "not clear what shop.app leads to"),
        ({"names": [{"name": "far.app", "cname": "web"}]}, "added on host h2"),
        ({"names": [{"name": "shop.app", "cname": "www.example.com"}]}, "no name of the cluster"),
    ],
)
def test_what_cannot_be_is_refused_before_the_first_step(content: dict[str, Any], said: str) -> None:
    others = (service(9, name="far", target=at("203.0.113.99")), data(9, "far", texts=("x",)))
    view = view_of(APP, alias(), others=others)
    with pytest.raises(NetagentError) as caught:
        planned(view, **{"networks": [{"name": "db"}], **content})
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        # networks: with the cluster, with a host's route, with each other, and what no network can have
        ({"networks": [{"name": "db", "subnets": ["10.1.0.0/16"]}]}, ["[network.db] subnets: subnet-in-use"]),
        ({"networks": [{"name": "db", "subnets": ["10.9.1.0/24"]}]}, ["[network.db] subnets: subnet-in-use"]),
        (
            {
                "networks": [
                    {"name": "a", "subnets": ["10.7.0.0/24"]},
                    {"name": "b", "subnets": ["10.7.0.0/16"]},
                ]
            },
            ["[network.b] subnets: subnet-in-use"],
        ),
        ({"networks": [{"name": "db", "subnets": ["10.7.0.1/24"]}]}, ["[network.db] subnets: bad-input"]),
        ({"networks": [{"name": "db", "subnets": ["127.1.0.0/24"]}]}, ["[network.db] subnets: bad-input"]),
        ({"networks": [{"name": "db", "mtu_bytes": 9000}]}, ["[network.db] mtu_bytes: mtu-too-large"]),
        (
            {"networks": [{"name": "db", "policy": "links", "multicast": True}]},
            ["[network.db] policy: bad-input"],
        ),
        (
            {"networks": [{"name": "app", "policy": "links", "multicast": True}]},
            ["[network.app] policy: options-exclude-each-other"],
        ),
        (
            {"networks": [{"name": "app", "mtu_bytes": 1400, "feed_labels": False}]},
            ["[network.app] mtu_bytes: network-exists", "[network.app] feed_labels: network-exists"],
        ),
        # a network that the file makes internal, or that the cluster has so
        ({"networks": [{"name": "app", "internal": True}]}, ["[network.app] internal: network-in-use"]),
        (
            {
                "networks": [{"name": "db", "internal": True}],
                "services": [{"network": "db", "name": "x", "addresses": ["203.0.113.9"]}],
            },
            ["[[service]] 1 (x) network: network-internal"],
        ),
        # addresses that are containers', now or after the file's own networks are made
        (
            {"services": [{"network": "app", "name": "x", "addresses": ["10.1.0.7"]}]},
            ["[[service]] 1 (x) addresses: inside-address"],
        ),
        (
            {
                "networks": [{"name": "db", "subnets": ["10.7.0.0/24"]}],
                "names": [{"name": "x.app", "addresses": ["10.7.0.7"]}],
            },
            ["[[name]] 1 (x.app) addresses: inside-address"],
        ),
        (
            {"services": [{"network": "app", "name": "x", "addresses": ["127.0.0.1"]}]},
            ["[[service]] 1 (x) addresses: bad-input"],
        ),
        # names that collide
        (
            {
                "services": [{"network": "app", "name": "x", "dns_name": "x.example.com"}],
                "names": [{"name": "x.app", "cname": "web"}],
            },
            ["[[name]] 1 (x.app) name: name-in-use"],
        ),
        ({"names": [{"name": "pg.app", "cname": "web"}]}, ["[[name]] 1 (pg.app) name: name-in-use"]),
        (
            {"services": [{"network": "app", "name": "shop", "addresses": ["203.0.113.9"]}]},
            ["[[service]] 1 (shop) name: name-in-use"],
        ),
        (
            {"names": [{"name": "x.app", "cname": "web"}, {"name": "x.app.mesh.internal", "cname": "api"}]},
            ["[[name]] 2 (x.app.mesh.internal) name: bad-input"],
        ),
        (
            {"names": [{"name": "a.app", "cname": "b"}, {"name": "b.app", "cname": "a"}]},
            ["[[name]] 2 (b.app): bad-input"],
        ),
        (
            {
                "services": [
                    {"network": "app", "name": "x", "dns_name": "x.example.com", "addresses": ["203.0.113.9"]}
                ]
            },
            ["[[service]] 1 (x) name: bad-input"],
        ),
        (
            {
                "services": [
                    {"network": "app", "name": "x", "addresses": ["203.0.113.9"]},
                    {"network": "app", "name": "x", "addresses": ["203.0.113.9"], "weight": 7},
                ]
            },
            ["[[service]] 2 (x) name: service-exists"],
        ),
        # what follows from a problem is not one more
        (
            {
                "networks": [{"name": "db", "subnets": ["10.1.0.0/24"]}],
                "services": [{"network": "db", "name": "x", "addresses": ["203.0.113.9"]}],
                "names": [{"name": "y.db", "cname": "x"}, {"name": "y.none", "cname": "x"}],
            },
            ["[network.db] subnets: subnet-in-use", "[[name]] 2 (y.none) name: no-such-network"],
        ),
    ],
)
def test_every_problem_says_where_it_is(content: dict[str, Any], found: list[str]) -> None:
    view = view_of(APP, alias(), service(), others=())
    writer = Writer(HostId(H3))
    view = view.with_entries(writer.put(host("h3", routes=("10.9.0.0/16",))))
    assert places(view, **content) == found


# -- addresses of services, published services, tokens ---------------------------------------------------------------

RANGE = service_range()
WEB = service_address("web", origin=ServiceAddressOrigin.OPERATOR)


def test_a_missing_address_is_given_with_the_options_of_the_file() -> None:
    wanted = {"network": "app", "name": "api", "ports": ["80:8080"], "balance": "nearest", "sticky": True}
    (step,) = planned(view_of(APP), service_addresses=[wanted])
    assert isinstance(step, GiveAddress)
    assert step.request == ServiceAddressRequest(
        service=ServiceKey("api"), ports=(ServicePort(80, 8080),), balance=Balance.NEAREST, is_sticky=True
    )


def test_of_a_given_address_only_what_the_file_says_otherwise_is_set() -> None:
    known = replace(WEB, ports=(ServicePort(80, 80),), host_weights=(("h1", 3), ("h2", 5)))
    view = view_of(APP, RANGE, known)
    same = {"network": "app", "name": "web", "weights": ["h2=5", "h1=3"]}
    assert planned(view, service_addresses=[same]) == []
    (step,) = planned(view, service_addresses=[{**same, "weights": ["h2=7"], "ports": ["none"]}])
    assert isinstance(step, SetAddress)
    assert with_change(known, step.change) == replace(known, ports=(), host_weights=(("h2", 7),))


def test_an_address_that_a_label_made_becomes_the_operators() -> None:
    view = view_of(APP, RANGE, replace(WEB, origin=ServiceAddressOrigin.LABEL, is_sticky=True))
    (step,) = planned(view, service_addresses=[{"network": "app", "name": "web"}])
    assert step == GiveAddress(
        "app",
        ServiceAddressRequest(service=ServiceKey("web"), is_sticky=True),
        "kept while it has no replica",
    )


def test_a_port_that_leads_to_the_service_already_is_no_step() -> None:
    known = PublishedServiceRecord(N1, ServiceKey("web"), publication_of("80:8080"))
    wanted = {"network": "app", "name": "web", "port": "80:8080/tcp"}
    assert planned(view_of(APP, others=(known,)), published=[wanted]) == [], "whichever host did so"
    (step,) = planned(view_of(APP), published=[{**wanted, "group": "shop"}])
    assert isinstance(step, Publish)
    assert (step.service, step.wanted) == (ServiceKey("web", "shop"), publication_of("80:8080"))


def token(
    name: str = "ci", role: Role = Role.ATTACH, *networks: NetworkId, ttl_s: int | None = None
) -> Token:
    return Token(
        token_id="00000001",
        name=name,
        role=role,
        networks=tuple(TokenNetwork(one, "app") for one in networks) or None,
        created_at_s=1000,
        expires_at_s=None if ttl_s is None else 1000 + ttl_s,
        created_by="root",
        digest="0" * 64,
    )


def test_a_missing_token_is_made_last_and_one_that_is_as_in_the_file_stays() -> None:
    wanted = [
        {"name": "grafana", "role": "read", "networks": ["db"], "ttl_s": 60},
        {"name": "ci", "role": "attach", "networks": ["app"]},
    ]
    kept = [token("ci", Role.ATTACH, N1, ttl_s=90)]
    made, given = planned_with(kept, view_of(APP), networks=[{"name": "db"}], tokens=wanted)
    assert isinstance(made, MakeNetwork)
    assert isinstance(given, MakeToken)
    assert (given.request.name, given.request.read, given.request.ttl_s) == ("grafana", True, 60)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (
            {"role": "admin"},
            ["[[token]] 1 (ci) role: token-exists", "[[token]] 1 (ci) networks: token-exists"],
        ),
        ({"role": "attach"}, ["[[token]] 1 (ci) networks: token-exists"]),
        ({"role": "attach", "networks": ["app", "db"]}, ["[[token]] 1 (ci) networks: token-exists"]),
        ({"role": "attach", "networks": ["app"], "ttl_s": 61}, ["[[token]] 1 (ci) ttl_s: token-exists"]),
        ({"role": "attach", "networks": ["app"], "ttl_s": 60}, []),
        ({"role": "admin", "networks": ["app"], "name": "x"}, ["[[token]] 1 (x): bad-input"]),
        ({"role": "read", "networks": ["none"], "name": "x"}, ["[[token]] 1 (x) networks: no-such-network"]),
        ({"role": "read", "name": "X"}, ["[[token]] 1 (X) name: bad-input"]),
    ],
)
def test_a_token_that_differs_is_refused(wanted: dict[str, Any], found: list[str]) -> None:
    kept = [token("ci", Role.ATTACH, N1, ttl_s=60)]
    content = {"networks": [{"name": "db"}], "tokens": [{"name": "ci", **wanted}]}
    problems = plan_of(view_of(APP), kept, **content).problems
    assert [f"{one.place}: {one.error.code}" for one in problems] == found


def planned_with(kept: Sequence[Token], view: RegistryView, **content: Any) -> list[Step]:
    found = plan_of(view, kept, **content)
    assert found.problems == []
    return found.steps


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (
            {
                "service_addresses": [{"network": "app", "name": "x"}],
                "names": [{"name": "x.app", "cname": "web"}],
            },
            ["[[name]] 1 (x.app) name: name-in-use"],
        ),
        (
            {"service_addresses": [{"network": "app", "name": "shop"}]},
            ["[[service_address]] 1 (shop) name: name-in-use"],
        ),
        (
            {"service_addresses": [{"network": "app", "name": "x", "weights": ["h9=1"]}]},
            ["[[service_address]] 1 (x): not-found"],
        ),
        (
            {"service_addresses": [{"network": "app", "name": "x"}, {"network": "app", "name": "x"}]},
            ["[[service_address]] 2 (x) name: bad-input"],
        ),
        (
            {"service_addresses": [{"network": "app", "name": "far", "sticky": True}]},
            ["[[service_address]] 1 (far) name: other-host"],
        ),
        (
            {"published": [{"network": "app", "name": n, "port": "80:8080"} for n in ("x", "y")]},
            ["[[publish]] 2 (y) port: port-in-use"],
        ),
        (
            {
                "networks": [{"name": "db", "internal": True}],
                "published": [{"network": "db", "name": "x", "port": "80:80"}],
            },
            ["[[publish]] 1 (x) port: internal"],
        ),
        (
            {"published": [{"network": "app", "name": "x", "port": "10.0.0.1:80:80"}]},
            ["[[publish]] 1 (x) port: bad-input"],
        ),
    ],
)
def test_what_services_cannot_have_is_refused_where_it_is(content: dict[str, Any], found: list[str]) -> None:
    far = service_address("far", 9, origin=ServiceAddressOrigin.OPERATOR)
    assert places(view_of(APP, RANGE, alias(), others=(far,)), **content) == found


# -- there and back --------------------------------------------------------------------------------------------------

LABELS = st.sampled_from(["a", "b-1", "c_2", "web", "pg"])


@st.composite
def clusters(draw: st.DrawFn) -> tuple[list[Record], list[Token]]:
    """Return what one host may have written of two networks, and its tokens."""
    flags = draw(st.lists(st.booleans(), min_size=8, max_size=8))
    networks = [
        network(
            N1, "app", policy=draw(st.sampled_from(Policy)), refuses_shared_names=flags[0], internal=False
        ),
        network(
            N2,
            "db",
            subnets=("10.2.0.0/24",),
            vni=2000,
            mtu_bytes=1400,
            answer=draw(st.sampled_from(AnswerOrder)),
            feed_rules=("*.example.com",) if flags[1] else None,
            feed_labels=flags[2],
            internal=flags[3],
        ),
    ]
    written: list[Record] = [*networks, RANGE]
    for number, name in enumerate(sorted(draw(st.sets(LABELS)))):
        kind, place = draw(st.sampled_from(["service", "dns", "alias", "data", "address"])), number + 20
        choices: dict[str, Record] = {
            "service": service(
                place,
                name=name,
                target=at(f"203.0.113.{number}", port=draw(st.sampled_from([None, 80]))),
                weight=draw(st.integers(0, 1000)),
                checks=("tcp:80",) if flags[4] else (),
            ),
            "dns": service(place, name=name, target=DnsName("x.example.com", 25 if flags[5] else None)),
            "alias": alias(place, name=name, to="web"),
            "data": data(place, name, addresses=("203.0.113.9",), texts=('say "x"\\',)),
            "address": replace(
                service_address(name, place, origin=ServiceAddressOrigin.OPERATOR),
                ports=(ServicePort(80, 80 + number),) if flags[6] else (),
                balance=draw(st.sampled_from(Balance)),
                host_weights=(("h1", number),) if flags[7] else (),
                is_sticky=flags[0],
                keeps_failing=flags[1],
            ),
        }
        written.append(choices[kind])
    if flags[2]:
        written.append(
            PublishedServiceRecord(N1, ServiceKey("web", "shop"), publication_of("80-81:8080-8081/udp"))
        )
    limits: list[tuple[NetworkId, ...]] = [(), (N1,), (N1, N2)]
    tokens = [token("ci", Role.READ, *draw(st.sampled_from(limits)), ttl_s=60 if flags[3] else None)]
    return written, tokens if flags[4] else []


@given(clusters())
def test_what_is_exported_changes_nothing(cluster: tuple[list[Record], list[Token]]) -> None:
    written, tokens = cluster
    view = view_of(*written)
    text = "\n".join(toml_of(exported(view, tokens)))
    assert plan_of(view, tokens, **content_untrusted(text, "x.toml")) == Plan()


def test_a_token_whose_network_is_removed_is_left_out() -> None:
    answer = exported(view_of(APP), [token("ci", Role.READ, N1, N3), token("all", Role.ADMIN)])
    assert [one["name"] for one in answer["tokens"]] == ["all"], "without its network it would reach all"
    assert answer["left_out"] == ["token ci, of a network that is removed"]


def test_the_limits_of_a_host_count_before_the_first_step() -> None:
    written = [data(n, f"n{n}", texts=("x",)) for n in range(MAX_OWN_NAMES - 2)]
    names = [{"name": f"other{n}.app", "cname": "web"} for n in range(3)]
    assert places(view_of(APP, *written), names=names) == ["[[name]] 3 (other2.app): too-many-records"]


def test_a_refused_file_names_its_first_problem_and_counts_the_others() -> None:
    names = [{"name": "x.none", "cname": "web"}, {"name": "y.none", "cname": "web"}]
    error = refusal(plan_of(view_of(APP), names=names).problems)
    assert isinstance(error, RefusedError)
    assert error.message == "[[name]] 1 (x.none) name: there is no network 'none'"
    assert error.hint.endswith("1 more things are wrong with the file")


def test_networks_without_subnets_get_those_that_the_others_leave() -> None:
    file_networks = [{"name": "any"}, {"name": "given", "subnets": ["10.160.0.0/12"]}]
    error = plan_of(view_of(APP), networks=file_networks).problems
    assert [one.place for one in error] == ["[network.any] subnets"], "the given ones are taken as they are"
    first, second = planned(
        view_of(APP), networks=[{"name": "any"}, {"name": "x", "subnets": ["10.7.0.0/24"]}]
    )
    assert isinstance(first, MakeNetwork)
    assert isinstance(second, MakeNetwork)
    assert (first.request.name, second.request.name) == ("x", "any")


def test_a_file_of_more_than_fits_is_refused() -> None:
    with pytest.raises(InputError, match="at most 64"):
        file(names=[{"name": f"n{n}.app", "cname": "web"} for n in range(65)])
