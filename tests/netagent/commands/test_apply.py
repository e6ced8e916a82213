"""How the cluster differs from a file: the steps, what is refused before the first, and that they end it."""

from __future__ import annotations

from typing import Any

import pytest
from fakes.external import alias, at, data, service
from fakes.registry import H1, H2, H3, Writer, host, network

from netagent.commands.apply.differences import (
    MakeNetwork,
    Plan,
    PutName,
    PutService,
    SetNetwork,
    Step,
    plan,
)
from netagent.commands.apply.problem import refusal
from netagent.control.conversion import fields_untrusted
from netagent.endpoints.network_defaults import NetworkConstraints
from netagent.endpoints.network_defaults import plan_network as plan_network_among
from netagent.errors import InputError, NetagentError, RefusedError
from netagent.external.additions import MAX_OWN_NAMES
from netagent.interface.description import ApplyCommand
from netagent.model.ids import ClusterId, HostId, NetworkId
from netagent.model.locality import AnswerOrder
from netagent.model.records import DnsName, HostProgram, NetworkOption, NetworkRecord, Policy, Record
from netagent.model.request import NetworkRequest
from netagent.registry.view import RegistryView
from netgossip.slices import at_once

DOMAIN = "mesh.internal"


def view_of(*written: Record, others: tuple[Record, ...] = ()) -> RegistryView:
    view = RegistryView(H1)
    for owner, records in ((H1, (host("h1"), *written)), (H2, (host("h2"), *others))):
        writer = Writer(HostId(owner))
        for record in records:
            view = view.with_entries(writer.put(record))
    return view


def plan_network(view: RegistryView, request: NetworkRequest, network_id: NetworkId) -> NetworkRecord:
    around = NetworkConstraints(
        cluster_id=ClusterId("ab" * 16),
        pools=("10.160.0.0/12",),
        networks=tuple(one.record for one in view.networks.values()),
        hosts=tuple(one.record for one in view.hosts.values() if one.record is not None),
        underlay="192.0.2.1",
        underlay_mtu_bytes=1500,
        ranges=view.range_records,
    )
    return plan_network_among(request, network_id, around)


def file(**content: Any) -> ApplyCommand:
    return fields_untrusted(ApplyCommand, content)


def plan_of(view: RegistryView, **content: Any) -> Plan:
    return at_once(plan(view, DOMAIN, file(**content), plan_network))


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
    given = {
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
            ["[network.db] subnets: subnet-in-use", "[[name]] 2 (y.none): no-such-network"],
        ),
    ],
)
def test_every_problem_says_where_it_is(content: dict[str, Any], found: list[str]) -> None:
    view = view_of(APP, alias(), service(), others=())
    writer = Writer(HostId(H3))
    view = view.with_entries(writer.put(host("h3", routes=("10.9.0.0/16",))))
    assert places(view, **content) == found


def test_the_limits_of_a_host_count_before_the_first_step() -> None:
    written = [data(n, f"n{n}", texts=("x",)) for n in range(MAX_OWN_NAMES - 2)]
    names = [{"name": f"other{n}.app", "cname": "web"} for n in range(3)]
    assert places(view_of(APP, *written), names=names) == ["[[name]] 3 (other2.app): too-many-records"]


def test_a_refused_file_names_its_first_problem_and_counts_the_others() -> None:
    names = [{"name": "x.none", "cname": "web"}, {"name": "y.none", "cname": "web"}]
    error = refusal(plan_of(view_of(APP), names=names).problems)
    assert isinstance(error, RefusedError)
    assert error.message == "[[name]] 1 (x.none): there is no network 'none'"
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
