"""What this host knows of external services and own names."""

from __future__ import annotations

import dataclasses

from fakes.external import ADDED_S, alias, at, data, name_id, service, service_id, state
from fakes.registry import H1, H2, H3, N1, N2, Writer, host, network

from netagent.external.view import (
    ExternalService,
    ExternalState,
    external_service,
    external_services,
    own_name,
    own_names,
)
from netagent.model.ids import HostId
from netagent.model.records import (
    AddressState,
    DnsName,
    ExternalServiceRecord,
    ForgetRecord,
    Health,
    HostAddressRecord,
    HostProgram,
    Record,
    Resolution,
    TargetAddress,
)
from netagent.registry.view import RegistryView
from netgossip.types import Member, MemberState


class Known:
    def __init__(self) -> None:
        self.view = RegistryView(H1)
        self.writers = {one: Writer(one) for one in (H1, H2, H3)}
        self.put(H1, network(), host("h1"))
        self.put(H2, host("h2", underlay="192.0.2.2"))

    def put(self, owner: HostId, *records: Record) -> None:
        for record in records:
            self.view = self.view.with_entries(self.writers[owner].put(record))
        self.view.check_invariants()

    def delete(self, owner: HostId, record: Record) -> None:
        self.view = self.view.with_entries(self.writers[owner].delete(record))
        self.view.check_invariants()

    def service(self, number: int = 1) -> ExternalService:
        found = external_service(self.view, N1, service_id(number))
        assert found is not None
        return found


def said(address: str, health: Health, reason: str = "") -> AddressState:
    return AddressState(address, health, ADDED_S + 5, reason)


def test_a_service_without_check_is_answered_at_once_and_goes_with_its_record() -> None:
    known = Known()
    known.put(H2, service())
    assert known.service().answering == (TargetAddress("203.0.113.50", 5432),)
    assert known.service().owner == H2
    known.delete(H2, service())
    assert external_service(known.view, N1, service_id(1)) is None
    assert list(external_services(known.view, N1)) == []


def test_a_checked_service_is_answered_after_its_first_success_and_by_address() -> None:
    known = Known()
    known.put(H2, service(target=at("203.0.113.50", "203.0.113.51"), checks=("tcp:5432",)))
    assert [one.state for one in known.service().addresses] == [ExternalState.STARTING] * 2
    found = (said("203.0.113.50", Health.HEALTHY), said("203.0.113.51", Health.UNHEALTHY, "refused"))
    known.put(H2, dataclasses.replace(state(), states=found))
    assert known.service().answering == (TargetAddress("203.0.113.50", 5432),)
    assert known.service().addresses[1].reason == "refused"


def test_the_state_with_the_highest_turn_is_in_force_whoever_wrote_it_last() -> None:
    known = Known()
    known.put(H2, service(checks=("tcp:5432",)))
    up, down = (said("203.0.113.50", health) for health in (Health.HEALTHY, Health.UNHEALTHY))
    known.put(H3, dataclasses.replace(state(turn=1), states=(up,)))
    known.put(H2, dataclasses.replace(state(turn=0), states=(down,)))
    assert known.service().answering
    assert known.service().found_by == H3
    known.put(H2, dataclasses.replace(state(turn=2), states=(down,)))
    assert not known.service().answering
    assert known.service().found_by == H2
    # A state that names another network is not of this service.
    known.put(H3, dataclasses.replace(state(turn=9, network_id=N2), states=(up,)))
    assert known.service().found_by == H2


def test_a_service_that_is_not_renewed_is_in_no_name() -> None:
    known = Known()
    known.put(H2, service(ttl_s=30))
    assert known.service().answering
    known.put(H2, dataclasses.replace(state(), expired_s=ADDED_S + 40))
    assert not known.service().answering
    assert known.service().addresses[0].state is ExternalState.EXPIRED
    assert "30 s" in known.service().addresses[0].reason


def test_a_dns_name_has_the_addresses_and_the_ttl_of_its_latest_answer() -> None:
    known = Known()
    known.put(H2, service(target=DnsName("db.example.com", 5432)))
    assert known.service().addresses == ()
    known.put(H2, dataclasses.replace(state(), resolution=Resolution(("198.51.100.7",), 300)))
    assert known.service().answering == (TargetAddress("198.51.100.7", 5432),)
    assert known.service().ttl_s == 300


def test_a_program_of_a_host_is_where_its_host_is_and_hidden_with_it() -> None:
    known = Known()
    known.put(H2, service(target=HostProgram(9100)))
    assert known.service().addresses == ()
    before = known.view
    known.put(H2, HostAddressRecord(N1, 9, "06:00:00:00:00:01"))
    touched = known.view.touched_since(before)
    assert touched is not None
    assert touched.services == {(N1, service_id(1))}
    assert known.service().answering == (
        TargetAddress("10.1.0.9", 9100),
        TargetAddress("fd00:1::9", 9100),
    )
    known.view = known.view.with_member(Member(H2, ("192.0.2.2", 7956), MemberState.DEAD, 1))
    assert known.service().answering, "a dead agent alone hides nothing"
    known.view = known.view.with_host_answers({H2: False})
    assert [one.state for one in known.service().addresses] == [ExternalState.HIDDEN] * 2


def test_the_death_of_an_owner_hides_no_outside_address() -> None:
    known = Known()
    known.put(H2, service())
    known.view = known.view.with_member(Member(H2, ("192.0.2.2", 7956), MemberState.DEAD, 1))
    known.view = known.view.with_host_answers({H2: False})
    assert known.service().answering


def test_nothing_of_an_evicted_owner_counts() -> None:
    known = Known()
    known.put(H2, service(), state(), alias())
    known.put(H1, ForgetRecord(H2, settled=True))
    assert list(external_services(known.view, N1)) == []
    assert list(own_names(known.view, N1)) == []


def test_one_of_two_records_with_one_id_counts_and_only_in_its_network() -> None:
    known = Known()
    known.put(H3, service())
    known.put(H2, service(network_id=N2))
    assert external_service(known.view, N1, service_id(1)) is None
    found = external_service(known.view, N2, service_id(1))
    assert found is not None
    assert isinstance(found.record, ExternalServiceRecord)
    assert found.owner == H2


def test_of_two_own_names_the_first_host_s_counts_and_the_other_one_after_it() -> None:
    known = Known()
    known.put(H3, data(3, addresses=("203.0.113.9",)))
    known.put(H2, alias(2))
    assert [(one.owner, one.counts) for one in own_names(known.view, N1)] == [(H2, True), (H3, False)]
    assert own_name(known.view, name_id(3)) is None
    before = known.view
    known.delete(H2, alias(2))
    touched = known.view.touched_since(before)
    assert touched is not None
    assert touched.own_names == {(N1, name_id(2)), (N1, name_id(3))}
    assert own_name(known.view, name_id(3)) == data(3, addresses=("203.0.113.9",))
