"""What the process knows for feeds: the same as the agent, once a change is complete."""

from __future__ import annotations

import ipaddress

import pytest
from fakes import external, names
from fakes.registry import H1, H2, N1, N2, Writer, endpoint, host, network
from fakes.service_addresses import service_address, service_range
from fakes.zone import whole_table

from netagent.commands.feed import feed_table
from netagent.control.present import Presenter
from netagent.feeds.table import FeedTable
from netagent.model.ids import NetworkId
from netagent.model.records import Drain, Group, Health, Port, ServicePort
from netagent.model.sandbox import Sandbox, SandboxId
from netagent.registry.view import RegistryView
from netagent.resolver.feed_source import FeedSource, IncompleteError
from netagent.resolver.name_table import Change, NetworkRow, RowKind
from netagent.resolver.zone_source import ZoneSource
from netgossip.slices import at_once

DOMAIN = "mesh.internal"
C = SandboxId("c")
BOX = Sandbox(sandbox_id=C, networks=(N1, N2))


def a_view() -> RegistryView:
    """Containers in every state in two networks, and a service that is none."""
    here, there = Writer(H1), Writer(H2)
    view = RegistryView(H1)
    for record in (
        host("h1", zone="rack1"),
        network(N1, feed_rules=("*.a.example",)),
        network(N2, "back", subnets=("10.2.0.0/24",)),
        endpoint(1, offset=2, labels=(("a", "b"),), ports=(Port("http", 80),), weight=7),
        endpoint(2, offset=3, health=Health.UNHEALTHY, group=Group("shop", "front")),
        endpoint(3, N2, addresses=("10.2.0.9",), drain=Drain(1, "anna")),
        external.service(name="pg", target=external.at("192.0.2.50", "192.0.2.51"), weight=0),
        service_range(),
        service_address("web", 6),
        service_address("web", 7),
        service_address("front", 8, group="shop", ports=(ServicePort(80, 8080),)),
    ):
        view = view.with_entries(here.put(record))
    for record in (host("h2"), endpoint(4, offset=5, name="far", service="far")):
        view = view.with_entries(there.put(record))
    return view.with_unreached(frozenset({H2}))


class Process:
    """The rows of a resolver process."""

    def __init__(self) -> None:
        self.source = ZoneSource()
        self.feeds = FeedSource(self.source)

    def apply(self, *changes: Change) -> None:
        self.source.apply(changes)
        self.feeds.apply(changes)

    def table(self, *networks: NetworkId) -> FeedTable:
        return at_once(self.feeds.table(networks, "http://x"))


def test_a_container_and_the_host_read_the_same() -> None:
    view, process = a_view(), Process()
    process.apply(*whole_table(view, [BOX], DOMAIN, {N1, N2}).items())
    process.feeds.commit()
    told = process.table(*process.feeds.networks_of(C))
    known = at_once(feed_table(Presenter(view, DOMAIN), [view.networks[N1], view.networks[N2]]))
    assert told.endpoints == known.endpoints
    assert told.networks == known.networks
    assert len(told.endpoints) == 6
    pg = [one for one in told.endpoints if one.service == "pg"]
    assert [one.addresses for one in pg] == [("192.0.2.50",), ("192.0.2.51",)]
    assert {port.number for one in pg for port in one.ports} == {5432}


def test_addresses_without_room_in_the_kernel_are_in_no_feed() -> None:
    """The next one of the service is, if it has one."""
    view = a_view()
    first, second = (ipaddress.ip_address(f"10.9.1.{number}").packed for number in (6, 7))
    every = a_table(view).service_addresses
    for refused, given in ((frozenset([first]), "10.9.1.7"), (frozenset([second]), "10.9.1.6")):
        found = a_table(view, refused)
        assert found.service_addresses["web", "app"].addresses[0] == given
        assert found.service_addresses.keys() == every.keys()
        known = at_once(feed_table(Presenter(view, DOMAIN), [view.networks[N1]], refused))
        assert known.service_addresses == found.service_addresses
    assert a_table(view, frozenset([first, second])).service_addresses.keys() == every.keys() - {
        ("web", "app")
    }


def a_table(view: RegistryView, refused: frozenset[bytes] = frozenset()) -> FeedTable:
    process = Process()
    process.apply(*whole_table(view, [BOX], DOMAIN, {N1}, refused).items())
    process.feeds.commit()
    return process.table(N1)


def test_a_network_is_known_when_its_change_is_complete_and_as_long_as_it_is_said_to_be() -> None:
    process = Process()
    rows = whole_table(a_view(), [BOX], DOMAIN, {N1})
    process.apply(*rows.items())
    assert not process.feeds.is_complete((N1,))
    with pytest.raises(IncompleteError):
        process.table(N1)
    process.feeds.commit()
    assert process.feeds.is_complete((N1,))
    assert not process.feeds.is_complete((N1, N2))
    assert not process.feeds.is_complete(())
    row = rows[RowKind.NETWORK, N1]
    assert isinstance(row, NetworkRow)
    process.apply(((RowKind.NETWORK, N1), NetworkRow(row.label, row.subnets)))
    assert not process.feeds.is_complete((N1,)), "at once, before its rows go"


def test_the_version_changes_with_the_feed_of_these_networks_only() -> None:
    process = Process()
    rows = whole_table(a_view(), [BOX], DOMAIN, {N1, N2})
    process.apply(*rows.items())
    process.feeds.commit()
    before = process.feeds.version_of((N1,)), process.feeds.version_of((N2,))
    key, row = next((key, row) for key, row in rows.items() if key[0] is RowKind.EXTERNAL)
    process.apply((key, None))
    assert process.feeds.version_of((N1,)) != before[0]
    assert process.feeds.version_of((N2,)) == before[1]
    assert "pg" not in {one.service for one in process.table(N1).endpoints}
    process.apply((key, row))
    assert "pg" in {one.service for one in process.table(N1).endpoints}
    process.apply(names.settings("other.example"))
    assert process.feeds.version_of((N2,)) != before[1]


def test_what_is_wanted_is_said_once() -> None:
    feeds = Process().feeds
    assert feeds.want((N1, N2))
    assert not feeds.want((N2,))
    assert feeds.wanted == {N1, N2}


def test_nothing_is_kept_of_what_has_gone() -> None:
    process = Process()
    rows = whole_table(a_view(), [BOX], DOMAIN, {N1, N2})
    process.apply(*rows.items())
    process.feeds.commit()
    process.apply(*((key, None) for key in rows))
    for kept in ("_packed", "_network_of", "_external", "_versions", "_complete", "_arriving"):
        assert not getattr(process.feeds, kept), kept
