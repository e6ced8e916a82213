"""What a successor writes of evicted hosts is always valid, whatever those hosts wrote."""

from __future__ import annotations

import dataclasses

from fakes.external import alias, name_id, service, service_id, state
from fakes.registry import H1, H2, H3, N1, N2, Writer, entry, event, host, network
from fakes.service_addresses import service_address, service_range

from netagent.eviction.succession import MAX_ADDITIONS, amended_evictions, eviction_records
from netagent.external.view import external_service, own_names
from netagent.model.ids import HostId, KeyId
from netagent.model.locality import AnswerOrder
from netagent.model.records import (
    MAX_TURN,
    AddressState,
    ForgetRecord,
    Health,
    HostProgram,
    NetworkRecord,
    OwnNameRecord,
    Record,
    ServiceAddressRecord,
    ServiceKey,
    ServiceRangeRecord,
)
from netagent.model.subnet import addresses_of
from netagent.registry.record_codec import decode_untrusted, encode
from netagent.registry.service_rules import MAX_SERVICE_ADDRESSES
from netagent.registry.view import RegistryView
from netgossip.types import Member, MemberState


def test_a_network_with_the_highest_forged_revision_is_taken_over() -> None:
    view = RegistryView(H1)
    writers = {owner: Writer(owner) for owner in (H1, H2, H3)}
    for owner, record in ((H1, host("h1")), (H2, network()), (H3, network(revision=2**32 - 1))):
        view = view.with_entries(writers[owner].put(record))
    assert view.networks[N1].owner == H3
    written = eviction_records(view, {H3})
    for one in written:
        assert decode_untrusted(encode(one)) == one
        view = view.with_entries(writers[H1].put(one))
    assert {type(one) for one in written} == {ForgetRecord, NetworkRecord}
    assert view.networks[N1].owner == H1
    assert view.networks[N1].record.subnets == network().subnets


def test_a_network_keeps_what_it_was_made_with() -> None:
    made = network(
        answer=AnswerOrder.NEAREST,
        feed_rules=("*.example.com", "a rule of a later release"),
        feed_labels=True,
        refuses_shared_names=True,
        service_addresses=True,
    )
    view, writers = RegistryView(H1), {owner: Writer(owner) for owner in (H1, H3)}
    view = view.with_entries(writers[H1].put(host("h1"))).with_entries(writers[H3].put(made))
    for one in eviction_records(view, {H3}):
        view = view.with_entries(writers[H1].put(one))
    assert view.networks[N1].owner == H1
    assert view.networks[N1].record == dataclasses.replace(made, revision=made.revision + 1)


def test_what_operators_added_is_taken_over_with_what_was_found_out_last() -> None:
    view = RegistryView(H1)
    writers = {owner: Writer(owner) for owner in (H1, H2, H3)}
    up, down = ((AddressState("203.0.113.50", health, 9),) for health in (Health.HEALTHY, Health.UNHEALTHY))
    checked = service(1, checks=("tcp:5432",))
    written = (
        (H1, network()),
        (H3, checked),
        (H3, service(2, target=HostProgram(9100), name="node")),
        (H3, alias()),
        # This host had asked once, while the owner was away; the owner went on, and its word counts.
        (H1, dataclasses.replace(state(1, turn=1), states=down)),
        (H3, dataclasses.replace(state(1, turn=2), states=up)),
    )
    for owner, record in written:
        view = view.with_entries(writers[owner].put(record))
    for one in eviction_records(view, {H3}):
        view = view.with_entries(writers[H1].put(one))
    found = external_service(view, checked.network_id, service_id(1))
    assert found is not None
    assert (found.owner, found.found_by, len(found.answering)) == (H1, H1, 1)
    assert external_service(view, checked.network_id, service_id(2)) is None, (
        "it ran on the host that is gone"
    )
    assert [(one.owner, one.counts) for one in own_names(view, checked.network_id)] == [(H1, True)]


def test_a_forged_turn_is_followed() -> None:
    view = RegistryView(H1)
    writers = {owner: Writer(owner) for owner in (H1, H3)}
    forged = state(1, turn=MAX_TURN)
    for owner, record in ((H1, network()), (H1, service(1, ttl_s=30)), (H3, forged)):
        view = view.with_entries(writers[owner].put(record))
    written = eviction_records(view, {H3})
    for one in written:
        assert decode_untrusted(encode(one)) == one
    assert forged in written


def test_a_host_with_a_log_full_of_own_names_can_be_evicted() -> None:
    view = RegistryView(H1)
    writers = {owner: Writer(owner) for owner in (H1, H2, H3)}
    names = [
        dataclasses.replace(alias(1), name_id=name_id(number), name=f"a{number}")
        for number in range(MAX_ADDITIONS + 50)
    ]
    view = view.with_entries(writers[H2].put(network()))
    entries = (entry(H3, one, number) for number, one in enumerate(names, 1))
    view = view.with_entries(event(H3, *entries))
    written = eviction_records(view, {H3})
    assert sum(isinstance(one, OwnNameRecord) for one in written) == MAX_ADDITIONS
    assert any(isinstance(one, ForgetRecord) for one in written)


def test_ranges_and_addresses_of_services_are_taken_over_as_they_are() -> None:
    view = RegistryView(H1)
    writers = {owner: Writer(owner) for owner in (H1, H2, H3)}
    written: tuple[tuple[HostId, Record], ...] = (
        (H1, network()),
        (H1, service_range(1)),
        (H1, service_address("web", 5)),
        (H3, service_range(2)),
        (H3, service_address("web", 7, within=2, is_sticky=True)),
        (H3, service_address("db", 8, group="shop", within=2)),
        (H3, service_range(3, N2)),  # of a network that is gone
        (H3, service_address("old", 9, N2, within=3)),
        (H3, service_address("lost", 9, within=4)),
        (H2, service_address("both", 11)),
        (H3, service_address("loser", 11)),
    )
    for owner, record in written:
        view = view.with_entries(writers[owner].put(record))
    before = addresses_in(view)
    taken = eviction_records(view, {H3})
    assert not [one for one in taken if isinstance(one, ServiceRangeRecord) and one.network_id != N1]
    view = view.with_entries(event(H1, *(entry(H1, one, 100 + n) for n, one in enumerate(taken))))
    view.check_invariants()
    assert addresses_in(view) == before == {"10.9.1.5", "10.9.2.7", "10.9.2.8", "10.9.1.11"}
    assert {one.owner for one in view.service_addresses(N1)[ServiceKey("web")]} == {H1}
    found = view.service_by_address("10.9.2.7")
    assert found is not None
    assert found.record.is_sticky


def addresses_in(view: RegistryView) -> set[str]:
    every = view.service_addresses(N1).values()
    return {one.record.addresses[0] for views in every for one in views}


def test_a_successor_repeats_no_more_addresses_than_may_be_in_force() -> None:
    view = RegistryView(H1)
    writers = {owner: Writer(owner) for owner in (H1, H2)}
    subnets = ("10.80.0.0/16", "fd00:9::/64")
    for owner, record in (
        (H1, network(subnets=("10.64.0.0/16", "fd00:1::/64"))),
        (H2, ServiceRangeRecord(N1, subnets)),
        (H1, service_address("mine", addresses=addresses_of(subnets, 9000))),
    ):
        view = view.with_entries(writers[owner].put(record))
    flood = [
        service_address(f"s{n}", addresses=addresses_of(subnets, n + 2)) for n in range(MAX_SERVICE_ADDRESSES)
    ]
    view = view.with_entries(event(H3, *(entry(H3, one, n) for n, one in enumerate(flood, 1))))
    written = eviction_records(view, {H3})
    assert sum(isinstance(one, ServiceAddressRecord) for one in written) == MAX_SERVICE_ADDRESSES - 1


def test_a_successor_repeats_revocations_as_such_but_not_of_the_host_s_accusers() -> None:
    view, writers = RegistryView(H1), {owner: Writer(owner) for owner in (H1, H2, H3)}
    old, four = HostId("9" * 32), HostId("4" * 32)
    revoked = ForgetRecord(old, settled=True, revoked=True, key_ids=(KeyId("ab" * 16),))
    accused = ForgetRecord(four, settled=True, revoked=True, compromised=True)
    view = view.with_entries(writers[H1].put(host("h1")))
    view = view.with_entries(writers[H1].put(ForgetRecord(old, settled=True)))
    for record in (host("h3"), revoked, accused):
        view = view.with_entries(writers[H3].put(record))
    view = view.with_entries(Writer(four).put(ForgetRecord(H3, settled=True, revoked=True, compromised=True)))

    def word(host_id: HostId) -> ForgetRecord:
        return ForgetRecord(host_id, settled=True, revoked=True, compromised=True)

    written = eviction_records(view, {H3}, word)
    assert [one for one in written if isinstance(one, ForgetRecord)] == [word(H3), revoked]


def test_no_host_takes_the_revocation_of_a_compromised_host_back() -> None:
    view, writers = RegistryView(H1), {owner: Writer(owner) for owner in (H1, H2)}
    view = view.with_entries(writers[H2].put(ForgetRecord(H1, settled=True)))
    view = view.with_entries(
        writers[H1].put(ForgetRecord(H2, settled=True, revoked=True, compromised=True))
    ).with_member(Member(H2, ("192.0.2.2", 7956), MemberState.ALIVE, 1))
    assert amended_evictions(view, ()) == ([], [])
