"""Who may ask whom follows from the records, on both hosts of a pair."""

from __future__ import annotations

from fakes.registry import H1, H2, N2, Writer, endpoint, host, network
from fakes.rows import local_row

from netagent.firewall.inputs import FirewallInput
from netagent.model.ids import HostId, veth_name, vxlan_name
from netagent.model.records import ForgetRecord, Policy, Record
from netagent.projection.firewall_input import firewall_input
from netagent.registry.links import linked_from, linked_to
from netagent.registry.view import RegistryView

TUNNEL = vxlan_name(network().vni)


def view_of(local: HostId, *reported: tuple[HostId, Record]) -> RegistryView:
    writers = {owner: Writer(owner) for owner in (H1, H2)}
    view = RegistryView(local)
    common: list[tuple[HostId, Record]] = [(H1, host("h1")), (H2, host("h2", underlay="192.0.2.2"))]
    for owner, record in [*common, (H1, network(policy=Policy.LINKS)), *reported]:
        view = view.with_entries(writers[owner].put(record))
    view.check_invariants()
    return view


def guarded(view: RegistryView) -> FirewallInput:
    own = [one.record for one in view.endpoints.values() if one.owner == view.local]
    rows = [
        local_row(record.endpoint_id, record.network_id, addresses=record.addresses, mac=record.mac)
        for record in own
    ]
    return firewall_input(view, rows, vxlan_port=4799, limits={})


def both(port: str, source: int, destination: int) -> frozenset[tuple[str, str, str]]:
    return frozenset(
        {
            (port, f"10.1.0.{source}", f"10.1.0.{destination}"),
            (port, f"fd00:1::{source:x}", f"fd00:1::{destination:x}"),
        }
    )


def test_both_hosts_let_a_link_s_requests_pass_one_way_and_its_answers_the_other() -> None:
    server, client = endpoint(1, offset=2, service="db"), endpoint(2, offset=3, links=("db",))
    reported = ((H1, server), (H2, client))
    db, web = veth_name(server.endpoint_id), veth_name(client.endpoint_id)
    there, here = guarded(view_of(H1, *reported)), guarded(view_of(H2, *reported))
    assert (there.requests, there.answers) == (both(TUNNEL, 3, 2), both(db, 2, 3))
    assert (here.requests, here.answers) == (both(web, 3, 2), both(TUNNEL, 2, 3))
    assert [one.restricted for one in here.networks] == [True]
    assert [one.bridge for one in here.endpoints] == [here.networks[0].bridge]


def test_on_one_host_it_is_the_containers_own_ports_that_count() -> None:
    server, client = endpoint(1, offset=2, service="db"), endpoint(2, offset=3, links=("db",))
    given = guarded(view_of(H1, (H1, server), (H1, client)))
    assert given.requests == both(veth_name(client.endpoint_id), 3, 2)
    assert given.answers == both(veth_name(server.endpoint_id), 2, 3)


def test_a_link_means_services_names_and_aliases_of_its_network_or_one_endpoint_of_a_host() -> None:
    client = endpoint(9, offset=9, links=("api", "web4.h2"))
    reported: list[tuple[HostId, Record]] = [
        (H1, client),
        (H2, endpoint(1, offset=2, service="api")),
        (H2, endpoint(2, offset=3, name="api", service="other")),
        (H2, endpoint(3, offset=4, service="other", aliases=("api",))),
        (H2, endpoint(4, offset=5, service="other")),
        (H1, endpoint(5, offset=6, name="web4", service="other")),
        (H2, network(N2, "back", subnets=("10.2.0.0/24", "fd00:2::/64"))),
        (H2, endpoint(6, N2, offset=7, service="api", addresses=("10.2.0.7", "fd00:2::7"))),
    ]
    view = view_of(H1, *reported)
    own = view.endpoints[client.endpoint_id]
    assert [one.record.addresses[0] for one in linked_from(view, own)] == [
        "10.1.0.2",
        "10.1.0.3",
        "10.1.0.4",
        "10.1.0.5",
    ]
    for one in view.endpoints.values():
        assert (linked_to(view, one) == (own,)) == (one in linked_from(view, own))


def test_only_linked_endpoints_ask_and_open_networks_need_no_link() -> None:
    given = guarded(view_of(H1, (H1, endpoint(1)), (H1, endpoint(2, offset=3))))
    assert given.requests == given.answers == frozenset()
    linked = endpoint(2, offset=3, links=("web",))
    given = guarded(view_of(H1, (H1, network(policy=Policy.OPEN)), (H1, endpoint(1)), (H1, linked)))
    assert given.requests == frozenset()
    assert [one.restricted for one in given.networks] == [False]


def test_a_forgotten_host_s_containers_have_no_links() -> None:
    reported = [(H1, endpoint(1)), (H1, endpoint(2, offset=3, links=("web",)))]
    given = guarded(view_of(H1, *reported, (H2, ForgetRecord(H1, settled=True))))
    assert given.requests == given.answers == frozenset()
