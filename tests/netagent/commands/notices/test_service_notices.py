"""What `status` warns of about services' own addresses."""

from __future__ import annotations

import pytest
from fakes.registry import H1, H2, N1, Writer, endpoint, host, network
from fakes.service_addresses import service_address, service_range

from netagent.checks.all_failing import failing_services
from netagent.commands.notices.service_notices import SHOWN, service_notices, translation_notices
from netagent.control.present import Presenter
from netagent.interface import schema
from netagent.model.ids import HostId
from netagent.model.records import (
    AttachmentRecord,
    Health,
    HealthNote,
    Record,
    ServiceAddressOrigin,
)
from netagent.registry.view import RegistryView
from netgossip.slices import at_once


class World:
    """Two hosts, of which the first looks; each record is given with its owner."""

    def __init__(self, *records: tuple[HostId, Record], attached: bool = True) -> None:
        self.view, self.writers = RegistryView(H1), {H1: Writer(H1), H2: Writer(H2)}
        for number, one in enumerate((H1, H2), start=1):
            self.put(one, host(f"h{number}", underlay=f"192.0.2.{number}", probe_address=f"fd00::{number}"))
        first: list[Record] = [network(), service_range()]
        for record in [*first, AttachmentRecord(N1)] if attached else first:
            self.put(H1, record)
        for owner, record in records:
            self.put(owner, record)

    def put(self, owner: HostId, record: Record) -> None:
        self.view = self.view.with_entries(self.writers[owner].put(record))

    @property
    def present(self) -> Presenter:
        return Presenter(self.view, "mesh.internal")

    def notices(self) -> list[schema.Notice]:
        failing = at_once(failing_services(self.view))
        return at_once(service_notices(self.present, failing))


def test_an_address_with_a_backend_is_no_warning() -> None:
    assert World((H1, endpoint()), (H1, service_address())).notices() == []


def test_two_addresses_are_named_with_the_host_to_remove_one_on() -> None:
    world = World(
        (H2, service_address(offset=9, group="shop")), (H1, service_address(offset=5, group="shop"))
    )
    (found,) = world.notices()
    assert found == {
        "code": "service-address-twice",
        "message": "service web.shop of network app has 2 addresses, given while hosts could not reach each other: "
        "10.9.1.5 of h1, 10.9.1.9 of h2; all of them work, and names lead to 10.9.1.5",
        "cure": "once no program uses 10.9.1.9 any more, on h2 `netagent service rm web --network app --group shop`",
    }


def test_an_address_that_leads_nowhere_is_named() -> None:
    (found,) = World((H1, service_address())).notices()
    assert found["code"] == "no-backend"
    assert "`netagent service inspect web --network app`" in found["cure"]


def test_a_host_that_does_not_know_the_replicas_says_nothing() -> None:
    assert World((H1, service_address()), attached=False).notices() == []


@pytest.mark.parametrize("origin", [ServiceAddressOrigin.LABEL, ServiceAddressOrigin.NETWORK])
def test_an_address_that_goes_by_itself_is_no_warning(origin: ServiceAddressOrigin) -> None:
    assert World((H1, service_address(origin=origin))).notices() == []


def test_a_service_whose_replicas_all_fail_is_named_once() -> None:
    sick = endpoint(health=Health.UNHEALTHY, health_note=HealthNote(60, "http 503"))
    assert World((H1, sick), (H1, service_address())).notices() == []


def test_many_are_counted() -> None:
    many = [(H1, service_address(f"s{number}", offset=5 + number)) for number in range(SHOWN + 3)]
    found = World(*many).notices()
    assert len(found) == SHOWN + 1
    assert found[-1]["message"] == "3 services more have an address and no replica that is up"


def test_a_host_that_does_not_translate_says_so_where_services_have_addresses() -> None:
    world = World()
    assert list(translation_notices(world.present, "the kernel is too old", None)) == []
    world.put(H1, service_address())
    assert list(translation_notices(world.present, None, None)) == []
    (found,) = translation_notices(world.present, None, "the kernel's table is full")
    assert found["message"].endswith(
        "some addresses of services are refused: the kernel's table is full; in its containers names lead to the "
        "replicas of these services instead"
    )
    (found,) = translation_notices(world.present, "the kernel is too old", None)
    assert found["code"] == "not-translated"
    assert ": the kernel is too old; in its containers" in found["message"]
