"""What users are told of services' own addresses."""

from __future__ import annotations

import ipaddress
from typing import Unpack

import pytest
from fakes.external import at, service
from fakes.registry import H1, H2, H3, N1, EndpointFields, Writer, endpoint, host, network
from fakes.service_addresses import service_address, service_range

from netagent.control.present import Presenter
from netagent.control.present_services import NOTHING_SEEN, HostSight, address_parts, no_backends
from netagent.interface import schema
from netagent.model.ids import HostId
from netagent.model.locality import Balance
from netagent.model.records import (
    Health,
    HealthNote,
    Record,
    ServiceAddressOrigin,
    ServiceKey,
    ServicePort,
)
from netagent.registry.view import RegistryView
from netgossip.slices import at_once

WEB = ServiceKey("web")


def packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


class World:
    """Three hosts and a network; each record is put on the host that it is given with."""

    def __init__(self, *records: tuple[HostId, Record]) -> None:
        self.view = RegistryView(H1)
        self.writers = {one: Writer(one) for one in (H1, H2, H3)}
        for number, one in enumerate((H1, H2, H3), start=1):
            self.put(one, host(f"h{number}", underlay=f"192.0.2.{number}", probe_address=f"fd00::{number}"))
        self.put(H1, network())
        self.put(H1, service_range())
        for owner, record in records:
            self.put(owner, record)

    def put(self, owner: HostId, record: Record) -> None:
        self.view = self.view.with_entries(self.writers[owner].put(record))

    @property
    def present(self) -> Presenter:
        return Presenter(self.view, "mesh.internal")

    def parts(self, sight: HostSight = NOTHING_SEEN, key: ServiceKey = WEB) -> list[schema.ServiceAddress]:
        return at_once(address_parts(self.present, N1, key, sight))

    def others(self, sight: HostSight = NOTHING_SEEN, key: ServiceKey = WEB) -> list[schema.NoBackend]:
        return at_once(no_backends(self.present, N1, key, self.parts(sight, key)[0]))


def replica(number: int, **fields: Unpack[EndpointFields]) -> Record:
    return endpoint(number, offset=number + 1, **fields)


def test_a_service_without_an_address_has_none() -> None:
    assert World((H1, replica(1))).parts() == []


def test_an_address_has_its_options_and_backends() -> None:
    record = service_address(
        ports=(ServicePort(80, 8080),),
        host_weights=(("h2", 5),),
        is_sticky=True,
        keeps_failing=True,
        keeps_connections=True,
        origin=ServiceAddressOrigin.LABEL,
    )
    world = World((H1, replica(1)), (H2, replica(2)), (H2, record))
    places = {
        record.addresses[0]: (packed("10.1.0.2"),) * 61 + (packed("10.1.0.3"),) * 3,
        record.addresses[1]: (packed("fd00:1::2"),) * 61 + (packed("fd00:1::3"),) * 3,
    }
    (part,) = world.parts(HostSight(places.get, {H1: 0.5, H2: 0.0003}.get))
    backends = part.pop("backends")  # type: ignore[misc] # the rest is compared as a whole
    assert part == {
        "addresses": ["10.9.1.5", "fd00:9:1::5"],
        "owner": "h2",
        "owner_id": H2,
        "origin": "label",
        "ports": [{"number": 80, "target": 8080}],
        "balance": "spread",
        "host_weights": {"h2": 5},
        "sticky": True,
        "all_failing": "keep",
        "keep_connections": True,
        "in_names": True,
    }
    assert [(one["name"], one["host"], one["weight"], one["places"], one["rtt_s"]) for one in backends] == [
        ("web1", "h1", 100, 61, None),
        ("web2", "h2", 5, 3, 0.0003),
    ]
    assert backends[0]["addresses"] == ["10.1.0.2", "fd00:1::2"]


def test_without_a_table_the_places_are_not_known() -> None:
    world = World((H1, replica(1)), (H1, service_address()))
    assert [one["places"] for one in world.parts()[0]["backends"]] == [None]


def test_of_two_addresses_the_one_of_the_smaller_host_is_in_names() -> None:
    world = World((H1, replica(1)), (H3, service_address(offset=7)), (H2, service_address(offset=6)))
    assert [(one["owner"], one["in_names"], len(one["backends"])) for one in world.parts()] == [
        ("h2", True, 1),
        ("h3", False, 1),
    ]


def test_an_external_service_is_a_backend() -> None:
    world = World((H2, service(name="web", target=at("203.0.113.50"))), (H1, service_address()))
    (backend,) = world.parts()[0]["backends"]
    assert (backend["host"], backend["addresses"]) == ("", ["203.0.113.50"])
    assert world.others() == []


def test_an_external_service_with_another_port_is_none() -> None:
    record = service_address(ports=(ServicePort(80, 8080),))
    world = World((H2, service(name="web", target=at("203.0.113.50"))), (H1, record))
    (other,) = world.others()
    assert (other["name"], other["host"]) == ("203.0.113.50:5432", "h2")
    assert other["reason"] == "connections are led to port 8080, and it has another"


@pytest.mark.parametrize(
    ("balance", "said"),
    [
        (Balance.NEAREST, "another replica is nearer to this host"),
        (Balance.FIRST, "web1 on h1 is the first, and it is up"),
    ],
)
def test_the_balance_says_why_a_replica_is_none(balance: Balance, said: str) -> None:
    world = World((H1, replica(1)), (H2, replica(2)), (H1, service_address(balance=balance)))
    assert world.others() == [{"name": "web2", "host": "h2", "reason": said}]


def test_a_replica_that_is_not_up_says_why() -> None:
    sick = replica(2, health=Health.UNHEALTHY, health_note=HealthNote(60, "http 503 from 80/"))
    world = World((H1, replica(1)), (H2, sick), (H1, service_address()))
    (other,) = world.others()
    assert other["reason"].startswith("unhealthy: http 503 from 80/")


def test_a_replica_without_a_place_says_why() -> None:
    record = service_address(host_weights=(("h2", 0),))
    world = World((H1, replica(1)), (H2, replica(2)), (H1, record))
    sight = HostSight(lambda _address: (packed("10.1.0.2"),) * 64)
    assert world.others(sight) == [
        {"name": "web2", "host": "h2", "reason": "its weight is 0, and that of others is not"}
    ]
    assert world.others(NOTHING_SEEN) == [], "where no connection is translated, none has a place"
