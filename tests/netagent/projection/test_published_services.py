"""Which replicas of this host a port leads to that is published for a service."""

from __future__ import annotations

from dataclasses import replace

from fakes.registry import H1, H2, N1, Writer, endpoint, host, network
from fakes.rows import PUBLISHED, local_row

from netagent.firewall.inputs import ServiceForward
from netagent.journal.rows import LocalEndpointRow, Reserved
from netagent.model.ids import EndpointId, HostId
from netagent.model.publication import Publication
from netagent.model.records import (
    EndpointRecord,
    Health,
    NetworkOption,
    NetworkOptionsRecord,
    OptionChange,
    PublishedServiceRecord,
    Record,
    ServiceKey,
)
from netagent.projection import published_services
from netagent.projection.firewall_input import firewall_input
from netagent.projection.published_services import published_ports, service_forwards
from netagent.registry.view import RegistryView

WEB = ServiceKey("web")
HTTP = PublishedServiceRecord(N1, WEB, Publication(80, 8080))


def view_of(*records: tuple[HostId, Record]) -> RegistryView:
    writers = {owner: Writer(owner) for owner in (H1, H2)}
    view = RegistryView(H1)
    every: tuple[tuple[HostId, Record], ...] = ((H1, host("h1")), (H2, host("h2")), (H1, network()), *records)
    for owner, record in every:
        view = view.with_entries(writers[owner].put(record))
    return view


def rows_of(*records: EndpointRecord, is_whole: bool = True) -> dict[EndpointId, LocalEndpointRow]:
    rows = [
        local_row(one.endpoint_id, N1, addresses=one.addresses, stage=PUBLISHED if is_whole else Reserved())
        for one in records
    ]
    return {row.endpoint_id: row for row in rows}


def test_only_replicas_of_this_host_that_names_lead_to_count() -> None:
    near, sick = endpoint(1), endpoint(2, offset=3, health=Health.UNHEALTHY)
    far = endpoint(3, offset=4)
    view = view_of((H1, near), (H1, sick), (H2, far), (H2, HTTP))
    (port,) = published_ports(view, rows_of(near, sick))
    assert [row.endpoint_id for row in port.replicas] == [near.endpoint_id]
    assert (port.protocol, port.host_port, port.port) == ("tcp", 80, 8080)
    assert published_ports(view, rows_of(near, is_whole=False)) == ()
    assert published_ports(view_of((H2, far), (H2, HTTP)), {}) == ()


def test_no_port_leads_into_an_internal_network() -> None:
    near = endpoint(1)
    closing = NetworkOptionsRecord(N1, (OptionChange(NetworkOption.INTERNAL, "yes", 1, 0, "root"),))
    view = view_of((H1, near), (H1, HTTP), (H2, closing))
    assert published_ports(view, rows_of(near)) == ()
    (given,) = (replace(row, publish=(Publication(81, 8080),)) for row in rows_of(near).values())
    for known, count in ((view, 0), (view_of((H1, near)), 2)):
        made = firewall_input(known, (given,), vxlan_port=4799, limits={})
        assert len(made.port_forwards) == count


def test_both_families_are_led_on_and_a_port_that_a_program_uses_is_not() -> None:
    one, two = endpoint(1), endpoint(2, offset=3)
    ports = published_ports(view_of((H1, one), (H1, two), (H1, HTTP)), rows_of(one, two))
    assert service_forwards(ports, frozenset(), [one.endpoint_id]) == (
        ServiceForward(
            protocol="tcp",
            host_port=80,
            containers=(("10.1.0.2", 8080), ("10.1.0.3", 8080)),
            snat=frozenset({"10.1.0.3"}),
        ),
        ServiceForward(
            protocol="tcp",
            host_port=80,
            containers=(("fd00:1::2", 8080), ("fd00:1::3", 8080)),
            snat=frozenset({"fd00:1::3"}),
        ),
    )
    assert service_forwards(ports, {("tcp", 80)}, ()) == ()
    assert len(service_forwards(ports, {("udp", 80)}, ())) == 2


def test_one_port_that_two_records_publish_leads_to_the_first_on_all_hosts() -> None:
    db = endpoint(2, name="db", service="db", offset=3)
    web = endpoint(1)
    other = PublishedServiceRecord(N1, ServiceKey("db"), Publication(80, 5432))
    for writers in ((H1, H2), (H2, H1)):
        view = view_of((H1, web), (H1, db), (writers[0], HTTP), (writers[1], other))
        (port,) = published_ports(view, rows_of(web, db))
        assert port.record == (HTTP if writers[0] == H1 else other)


def test_a_member_that_publishes_everything_takes_a_bounded_number_of_ports() -> None:
    web = endpoint(1)
    many = [
        (H2, PublishedServiceRecord(N1, WEB, Publication(1 + 64 * number, 1, "tcp", 64)))
        for number in range(40)
    ]
    ports = published_ports(view_of((H1, web), *many), rows_of(web))
    assert len(ports) == published_services.MAX_PORTS
