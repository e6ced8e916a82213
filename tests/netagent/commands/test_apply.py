"""How the cluster differs from a file: the steps, what is refused before the first, and that they end it."""

from __future__ import annotations

from typing import Any

import pytest
from fakes.external import alias, at, data, service
from fakes.registry import H1, H2, Writer, host, network

from netagent.commands.apply.differences import (
    MakeNetwork,
    PutName,
    PutService,
    SetNetwork,
    Step,
    steps,
    unmentioned,
)
from netagent.control.conversion import fields_untrusted
from netagent.errors import InputError, NetagentError
from netagent.interface.description import ApplyCommand
from netagent.model.ids import HostId
from netagent.model.locality import AnswerOrder
from netagent.model.records import DnsName, HostProgram, NetworkOption, Policy, Record
from netagent.registry.view import RegistryView

DOMAIN = "mesh.internal"


def view_of(*written: Record, others: tuple[Record, ...] = ()) -> RegistryView:
    view = RegistryView(H1)
    for owner, records in ((H1, (host("h1"), *written)), (H2, (host("h2"), *others))):
        writer = Writer(HostId(owner))
        for record in records:
            view = view.with_entries(writer.put(record))
    return view


def file(**content: Any) -> ApplyCommand:
    return fields_untrusted(ApplyCommand, content)


def planned(view: RegistryView, **content: Any) -> list[Step]:
    return steps(view, DOMAIN, file(**content))


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
    assert planned(view, **given) == []
    assert unmentioned(view, DOMAIN, file(**given)) == []
    assert unmentioned(view, DOMAIN, file()) == [
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
        ({"networks": [{"name": "app", "subnets": ["10.99.0.0/24"]}]}, "has subnets 10.1.0.0/24"),
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


def test_a_file_of_more_than_fits_is_refused() -> None:
    with pytest.raises(InputError, match="at most 64"):
        file(names=[{"name": f"n{n}.app", "cname": "web"} for n in range(65)])
