"""The view: what it shows, and how contradicting records are decided."""

from __future__ import annotations

import dataclasses
import itertools
import random
from typing import TypeVar

import pytest
from fakes.external import data as own_data
from fakes.external import name_id
from fakes.registry import (
    H1,
    H2,
    H3,
    N1,
    N2,
    N3,
    Writer,
    endpoint,
    entry,
    event,
    grant,
    grants_of,
    host,
    identifier,
    network,
)

from netagent.external.view import own_name
from netagent.membership.approach import approach
from netagent.model.ids import EndpointId, HostId, KeyId, mac_of, new_endpoint_id
from netagent.model.records import (
    AttachmentRecord,
    Drain,
    ForgetRecord,
    Health,
    HostAddressRecord,
    NetworkRecord,
    Record,
    RemovalRecord,
)
from netagent.registry.record_codec import scope_of
from netagent.registry.view import AgentState, Conflict, ConflictKind, RegistryView, compromised_keys
from netgossip.slices import at_once
from netgossip.types import CLUSTER_SCOPE, EntriesChanged, Entry, Member, MemberState, Version

T = TypeVar("T")


def found(one: T | None) -> T:
    assert one is not None
    return one


@pytest.fixture
def writers() -> dict[str, Writer]:
    return {one: Writer(one) for one in (H1, H2, H3)}


def see(view: RegistryView, *events: EntriesChanged) -> RegistryView:
    for one in events:
        view = view.with_entries(one)
    view.check_invariants()
    return view


def member(host_id: HostId, state: MemberState = MemberState.ALIVE, incarnation: int = 1) -> Member:
    return Member(host_id, ("192.0.2.1", 7956), state, incarnation)


def kinds(view: RegistryView) -> set[str]:
    return {conflict.kind for conflict in view.conflicts}


def test_an_older_view_is_not_changed(writers: dict[str, Writer]) -> None:
    before = see(RegistryView(H1), writers[H1].put(network()))
    after = see(before, writers[H1].put(endpoint()))
    assert not before.endpoints
    assert [one.record for one in after.endpoints.values()] == [endpoint()]
    assert after.generation == before.generation + 1


def test_what_is_known_already_changes_nothing(writers: dict[str, Writer]) -> None:
    change = writers[H1].put(network())
    view = see(RegistryView(H1), change)
    assert view.with_entries(change) is view
    view = view.with_member(member(H2))
    assert view.with_member(member(H2)) is view
    assert view.with_host_answers({H2: None}) is view


def test_an_older_version_never_overwrites(writers: dict[str, Writer]) -> None:
    old, new = writers[H1].put(endpoint(name="old")), writers[H1].put(endpoint(name="new"))
    view = see(RegistryView(H1), new, old)
    assert [one.record.name for one in view.endpoints.values()] == ["new"]


def test_a_deleted_record_leaves_every_index(writers: dict[str, Writer]) -> None:
    view = see(RegistryView(H1), writers[H1].put(network()), writers[H1].put(endpoint()))
    view = see(view, writers[H1].delete(endpoint()))
    assert not view.endpoints
    assert not view.endpoints_in(N1)
    assert view.endpoint_by_address("10.1.0.2") is None


def test_a_replaced_log_drops_what_it_does_not_name() -> None:
    first = event(H1, entry(H1, endpoint(1), 1), entry(H1, endpoint(2, offset=3), 2))
    view = see(RegistryView(H2), first, event(H1, entry(H1, endpoint(2, offset=3), 2), replaced=True))
    assert [one.record.name for one in view.endpoints.values()] == ["web2"]
    view = see(view, dataclasses.replace(first, entries=(), replaced=True))
    assert not view.endpoints


def test_bad_records_are_refused_one_by_one(writers: dict[str, Writer]) -> None:
    scope, key = CLUSTER_SCOPE, b"h"
    bad = event(H1, Entry(scope, H1, key, b"\xff", Version(1, 1)), entry(H1, network(), 2))
    view = see(RegistryView(H2), bad)
    assert N1 in view.networks
    assert [(owner, one) for owner, one, _ in view.refused] == [(H1, b"h")]
    view = see(view, event(H1, entry(H1, host(), 3)))
    assert not view.refused


def test_a_record_in_a_foreign_place_is_refused(writers: dict[str, Writer]) -> None:
    good = entry(H1, endpoint(), 1)
    view = see(RegistryView(H2), event(H1, dataclasses.replace(good, scope=CLUSTER_SCOPE)))
    assert not view.endpoints
    assert "does not belong to it" in view.refused[0][2]


def test_records_of_a_later_release_are_no_error() -> None:
    future = Entry(CLUSTER_SCOPE, H1, b"zzz", b"\x92\x63\x01", Version(1, 1))
    view = see(RegistryView(H2), event(H1, future))
    assert not view.refused


# -- hosts -----------------------------------------------------------------------------------------------------


def test_two_hosts_of_one_name_get_unique_ones(writers: dict[str, Writer]) -> None:
    view = see(RegistryView(H1), writers[H1].put(host("db")), writers[H2].put(host("db")))
    assert view.hosts[H1].unique_name == "db"
    assert view.hosts[H2].unique_name == "db-0000"
    assert found(view.host_named("db")).host_id == H1
    assert found(view.host_named("db-0000")).host_id == H2
    assert kinds(view) == {ConflictKind.HOST_NAME.value}
    view = see(view, writers[H1].put(host("other")))
    assert view.hosts[H2].unique_name == "db"
    assert not view.conflicts


def test_a_host_that_left_contests_no_name(writers: dict[str, Writer]) -> None:
    view = see(RegistryView(H1), writers[H1].put(host("db")), writers[H2].put(host("db")))
    view = view.with_member(member(H1, MemberState.LEFT))
    assert view.hosts[H2].unique_name == "db"
    assert not view.conflicts


def test_a_host_without_record_shows_its_id() -> None:
    view = RegistryView(H1).with_member(member(H2))
    assert view.hosts[H2].name == view.hosts[H2].unique_name == H2[:8]


@pytest.mark.parametrize(
    ("state", "answers", "hidden"),
    [
        (MemberState.ALIVE, True, False),
        (MemberState.ALIVE, False, False),
        (MemberState.SUSPECT, False, False),
        (MemberState.DEAD, True, False),
        (MemberState.DEAD, None, False),
        (MemberState.DEAD, False, True),
        (MemberState.LEFT, True, True),
        (None, False, False),
    ],
)
def test_a_host_is_hidden_only_when_agent_and_kernel_are_silent(
    state: MemberState | None, answers: bool | None, hidden: bool
) -> None:
    view = RegistryView(H1).with_host_answers({H2: answers})
    if state is not None:
        view = view.with_member(member(H2, state))
    assert view.is_host_hidden(H2) is hidden


@pytest.mark.parametrize(
    ("state", "hidden"),
    [
        (MemberState.ALIVE, False),
        (MemberState.SUSPECT, True),
        (MemberState.DEAD, True),
        (None, False),
    ],
)
def test_what_several_hosts_agree_on_counts_as_soon_as_the_agent_is_suspected(
    state: MemberState | None, hidden: bool
) -> None:
    view = RegistryView(H1).with_host_answers({H2: True}).with_silent(frozenset({H2}))
    if state is not None:
        view = view.with_member(member(H2, state))
    view.check_invariants()
    assert view.is_host_hidden(H2) is hidden
    assert view.with_silent(frozenset({H2})) is view
    assert not view.with_silent(frozenset()).is_host_hidden(H2)
    assert H2 not in view.without_host(H2).hosts


def test_an_unreached_host_is_not_hidden() -> None:
    view = RegistryView(H1).with_host_answers({H2: True})
    unreached = view.with_unreached(frozenset({H2}))
    unreached.check_invariants()
    assert unreached.unreached == {H2}
    assert unreached.hosts[H2].is_unreached
    assert not unreached.is_host_hidden(H2)
    assert H2 in found(unreached.touched_since(view)).hosts
    assert unreached.with_unreached(frozenset({H2})) is unreached
    assert not unreached.with_unreached(frozenset()).hosts[H2].is_unreached
    assert unreached.without_host(H2).unreached == frozenset()


def test_a_host_that_goes_down_is_hidden_by_its_own_record(writers: dict[str, Writer]) -> None:
    view = see(RegistryView(H1), writers[H2].put(host(going_down=True)))
    assert view.is_host_hidden(H2)


def test_nothing_of_an_evicted_host_counts(writers: dict[str, Writer]) -> None:
    w1, w2 = writers[H1], writers[H2]
    view = see(RegistryView(H1), w2.put(host("h2")), w2.put(network()), w2.put(endpoint())).with_member(
        member(H2)
    )
    view = see(view, w2.put(grant(N1, 0, 9, H3)), w2.put(AttachmentRecord(N1)))
    intended = see(view, w1.put(ForgetRecord(H2)))
    assert intended.about_to_evict(H2) == {H1}
    assert not intended.is_host_hidden(H2), "an intention changes nothing"
    assert intended.endpoints
    gone = see(intended, w1.put(ForgetRecord(H2, settled=True)))
    assert gone.is_host_hidden(H2)
    assert H2 not in gone.hosts
    assert not any((gone.endpoints, gone.fenced, gone.networks, gone.grant_map(N1), gone.attachments(N1)))
    late = see(gone, w2.put(endpoint(2, offset=3))).with_member(member(H2, incarnation=9))
    assert not late.endpoints
    assert H2 not in late.hosts
    back = see(late, w1.delete(ForgetRecord(H2)))
    assert set(back.hosts) == {H2}
    assert len(back.endpoints) == 2


def test_hosts_have_addresses_of_their_own_until_they_are_evicted(writers: dict[str, Writer]) -> None:
    own = HostAddressRecord(N1, 5, "06:00:00:00:00:01")
    view = see(RegistryView(H1), writers[H2].put(own))
    view.check_invariants()
    assert dict(view.host_addresses(N1)) == {H2: own}
    assert view.own_host_addresses == []
    assert see(RegistryView(H2), writers[H2].put(own)).own_host_addresses == [own]
    gone = see(view, writers[H1].put(ForgetRecord(H2, settled=True)))
    gone.check_invariants()
    assert not gone.host_addresses(N1)
    assert not see(view, writers[H2].delete(own)).host_addresses(N1)


def test_an_evicted_host_sees_what_it_wrote_itself(writers: dict[str, Writer]) -> None:
    view = see(RegistryView(H2), writers[H2].put(network()), writers[H2].put(endpoint()))
    view = see(view, writers[H1].put(ForgetRecord(H2, settled=True)))
    assert H2 in view.evicted
    assert view.endpoints
    assert view.networks


def test_hosts_that_forgot_each_other_lived_on_two_sides_of_a_cut(writers: dict[str, Writer]) -> None:
    w1, w2 = writers[H1], writers[H2]
    view = see(
        RegistryView(H3), w1.put(ForgetRecord(H2, settled=True)), w1.put(ForgetRecord(H3, settled=True))
    )
    assert set(view.evicted) == {H2, H3}
    view = see(view, w2.put(host("h2")), w2.put(ForgetRecord(H1, settled=True)))
    assert not view.evicted
    assert set(view.store.evictions) == {H1, H2, H3}
    assert set(view.hosts) == {H2}
    view = see(view, w1.delete(ForgetRecord(H2)))
    assert dict(view.evicted) == {H3: {H1}, H1: {H2}}


def test_a_disputed_eviction_does_not_count_and_a_newer_one_does(writers: dict[str, Writer]) -> None:
    w1, w2 = writers[H1], writers[H2]
    both = see(
        RegistryView(H3), w1.put(ForgetRecord(H2, settled=True)), w2.put(ForgetRecord(H1, settled=True))
    )
    # The first to take it back; the other has not yet, and others receive the two in any order.
    taken_back = see(both, w2.put(ForgetRecord(H1, disputed=(1, w1.sequence))))
    for view in (both, taken_back):
        assert not view.evicted
        view.check_invariants()
    assert (H1, H2) in taken_back.store.disputed
    assert not taken_back.store.evictions.get(H1)
    # Much later it goes, and is evicted for good.
    gone = see(taken_back, w1.delete(ForgetRecord(H2)), w1.put(ForgetRecord(H2, settled=True)))
    assert dict(gone.evicted) == {H2: {H1}}
    gone.check_invariants()


KEY_A, KEY_B = KeyId("a1" * 16), KeyId("b2" * 16)


def revocation(host_id: HostId, *keys: KeyId) -> ForgetRecord:
    return ForgetRecord(host_id, settled=True, revoked=True, key_ids=keys, compromised=True)


def test_a_host_that_was_forgotten_by_name_is_revoked_and_may_contest(writers: dict[str, Writer]) -> None:
    w1, w2 = writers[H1], writers[H2]
    view = see(RegistryView(H3), w1.put(ForgetRecord(H2, settled=True, revoked=True, key_ids=(KEY_A,))))
    assert dict(view.revoked) == {H2: {H1}}
    assert not view.compromised
    assert compromised_keys(view) == {KEY_A}
    contested = see(view, w2.put(ForgetRecord(H1, settled=True, revoked=True)))
    assert not contested.evicted
    assert not contested.revoked
    contested.check_invariants()


def test_a_compromised_host_cannot_contest(writers: dict[str, Writer]) -> None:
    w1, w2 = writers[H1], writers[H2]
    view = see(RegistryView(H3), w1.put(revocation(H2, KEY_A, KEY_B)), w2.put(ForgetRecord(H1, settled=True)))
    assert dict(view.compromised) == dict(view.revoked) == dict(view.evicted) == {H2: {H1}}
    assert compromised_keys(view) == {KEY_A, KEY_B}
    disputing = see(view, w2.put(ForgetRecord(H1, disputed=(1, w1.sequence))))
    assert dict(disputing.evicted) == {H2: {H1}}
    view.check_invariants()
    disputing.check_invariants()
    withdrawn = see(view, w1.put(ForgetRecord(H2, settled=True)))
    assert not withdrawn.revoked
    assert not withdrawn.evicted, "the two evict each other"
    withdrawn.check_invariants()


def test_hosts_that_revoke_each_other_are_out_until_a_third_host_says_which(
    writers: dict[str, Writer],
) -> None:
    w1, w2, w3 = writers[H1], writers[H2], writers[H3]
    view = see(RegistryView(H3), w2.put(host("h2")), w1.put(revocation(H2)), w2.put(revocation(H1)))
    assert dict(view.revoked) == {H1: {H2}, H2: {H1}}
    assert not view.hosts
    back = see(view, w3.put(revocation(H1)))
    assert dict(back.revoked) == {H1: {H2, H3}}
    assert set(back.hosts) == {H2}
    for one in (view, back):
        one.check_invariants()


def test_what_a_revoked_host_says_of_others_ends(writers: dict[str, Writer]) -> None:
    w1, w2 = writers[H1], writers[H2]
    view = see(RegistryView(H1), w2.put(revocation(H3)), w2.put(ForgetRecord(H3, settled=True)))
    view = see(view, w2.put(revocation(H3)))
    assert set(view.revoked) == {H3}
    view = see(view, w1.put(revocation(H2)))
    assert dict(view.evicted) == {H2: {H1}}
    view.check_invariants()


def test_an_eviction_may_be_disputed_before_it_arrives(writers: dict[str, Writer]) -> None:
    w1, w2 = writers[H1], writers[H2]
    intention = w1.put(ForgetRecord(H2))
    view = see(RegistryView(H3), w2.put(ForgetRecord(H1, disputed=(1, w1.sequence))), intention)
    assert (H1, H2) in view.store.disputed
    view.check_invariants()


def test_a_network_that_was_taken_over_is_in_use(writers: dict[str, Writer]) -> None:
    taken = network(N2, revision=1)
    view = see(RegistryView(H3), writers[H1].put(network(N1)), writers[H2].put(taken))
    assert found(view.network_named("app")).network_id == N2
    assert view.networks[N2].creator is None


def test_a_host_can_be_dropped_whole(writers: dict[str, Writer]) -> None:
    view = see(
        RegistryView(H1), writers[H2].put(host()), writers[H2].put(network()), writers[H2].put(endpoint())
    )
    view = view.with_member(member(H2)).with_host_answers({H2: True}).without_host(H2)
    view.check_invariants()
    assert not view.hosts
    assert not view.networks
    assert not view.endpoints


def test_records_stay_when_the_membership_removes_a_host(writers: dict[str, Writer]) -> None:
    view = see(RegistryView(H1), writers[H2].put(host())).with_member(member(H2)).without_member(H2)
    assert view.hosts[H2].agent is AgentState.UNKNOWN


def test_leaving_a_scope_drops_its_endpoints_a_few_at_a_time(writers: dict[str, Writer]) -> None:
    scope = bytes.fromhex(N1)
    view = see(RegistryView(H1), writers[H2].put(network()), writers[H1].put(endpoint(9, offset=9)))
    view = see(
        view, *(writers[owner].put(endpoint(n, offset=n + 1)) for owner, n in ((H2, 1), (H2, 2), (H3, 3)))
    )
    refused = Entry(scope, H3, b"odd", b"no record", Version(1, 5))
    view = see(view, event(H3, refused, scope=scope))
    left = []
    while (less := view.without_some(scope, 2)) is not view:
        view = less
        view.check_invariants()
        left.append(len(view.endpoints) + len(view.refused))
    assert left == [3, 1], "two at a time, and never our own"
    assert [one.owner for one in view.endpoints.values()] == [H1]
    view = view.without_own_log(scope)
    view.check_invariants()
    assert not view.endpoints
    assert N1 in view.networks


# -- networks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (RemovalRecord(N1), {9}),
        (network(revision=1, name="other"), set()),
        (network(revision=1, subnets=("10.1.0.0/30",)), {1, 2, 9}),
    ],
    ids=["removed", "renamed", "another subnet"],
)
def test_a_network_that_changes_costs_the_endpoints_that_are_judged_by_it(
    writers: dict[str, Writer], record: NetworkRecord | RemovalRecord, expected: set[int]
) -> None:
    outside = endpoint(9, addresses=("10.9.0.1", "fd00:1::9"))
    view = see(RegistryView(H1), writers[H1].put(network()))
    for one in (endpoint(1), endpoint(2, offset=3), outside):
        view = see(view, writers[H2].put(one))
    after = see(view, writers[H1].put(record))
    touched = {endpoint_id for _, endpoint_id in found(after.touched_since(view)).endpoints}
    assert touched == {identifier(0xE000 + number) for number in expected}


def test_a_removal_wins_for_ever(writers: dict[str, Writer]) -> None:
    view = see(RegistryView(H1), writers[H2].put(RemovalRecord(N1)), writers[H1].put(network()))
    assert not view.networks
    assert view.network_named("app") is None
    assert view.is_removed(N1)


def test_networks_made_at_once_end_as_the_smallest(writers: dict[str, Writer]) -> None:
    made = [
        writers[one].put(network(net, vni=50 + i))
        for i, (one, net) in enumerate(((H1, N2), (H2, N1), (H3, N3)))
    ]
    for order in (made, made[::-1]):
        view = see(RegistryView(H1), *order)
        assert list(view.networks) == [N1]
        assert [one.network_id for one in view.yielded_networks] == [N2, N3]
        assert not view.conflicts


def test_an_unused_network_yields_to_a_used_one(writers: dict[str, Writer]) -> None:
    view = see(
        RegistryView(H1), writers[H1].put(network(N1)), writers[H2].put(network(N2, subnets=("10.2.0.0/24",)))
    )
    view = see(view, writers[H2].put(AttachmentRecord(N2)))
    assert list(view.networks) == [N2]
    assert not view.conflicts


def test_an_attachment_of_another_host_is_no_use_by_the_creator(writers: dict[str, Writer]) -> None:
    view = see(RegistryView(H1), writers[H1].put(network(N1)), writers[H2].put(network(N2)))
    assert list(see(view, writers[H3].put(AttachmentRecord(N2))).networks) == [N1]


def test_two_used_networks_of_one_name_stay_two(writers: dict[str, Writer]) -> None:
    view = see(
        RegistryView(H1), writers[H1].put(network(N1)), writers[H2].put(network(N2, subnets=("10.2.0.0/24",)))
    )
    view = see(view, writers[H1].put(grant(N1, 128, 191, H2)), writers[H2].put(grant(N2, 128, 191, H1)))
    assert found(view.network_named("app")).network_id == N1
    assert found(view.network_named("app-0000")).network_id == N2
    assert kinds(view) == {ConflictKind.NETWORK_NAME.value}
    view = see(view, writers[H3].put(RemovalRecord(N1)))
    assert found(view.network_named("app")).network_id == N2
    assert not view.conflicts


def test_of_two_networks_with_one_vni_the_smaller_is_built(writers: dict[str, Writer]) -> None:
    other = network(N2, "other", vni=77, subnets=("10.2.0.0/24",))
    view = see(RegistryView(H1), writers[H1].put(other), writers[H2].put(network(N1, vni=77)))
    assert [view.networks[one].holds_vni for one in (N1, N2)] == [True, False]
    assert kinds(view) == {ConflictKind.VNI.value}
    view = see(view, writers[H2].delete(network(N1)))
    assert view.networks[N2].holds_vni
    assert not view.conflicts


def test_overlapping_subnets_are_reported(writers: dict[str, Writer]) -> None:
    other = network(N2, "other", subnets=("10.1.0.0/16",))
    view = see(RegistryView(H1), writers[H1].put(network(N1)), writers[H2].put(other))
    (conflict,) = view.conflicts
    assert (conflict.kind, conflict.loser, conflict.holder) == ("subnet", N2, N1)
    assert "10.1.0.0/24" in conflict.text


def test_the_highest_revision_is_in_force_and_the_creator_stays(writers: dict[str, Writer]) -> None:
    taken_over = network(N1, revision=1)
    view = see(RegistryView(H1), writers[H2].put(taken_over), writers[H1].put(network(N1)))
    assert (view.networks[N1].owner, view.networks[N1].creator) == (H2, H1)
    assert see(RegistryView(H1), Writer(H2).put(taken_over)).networks[N1].creator is None


@pytest.mark.parametrize(
    "changes",
    [{"name": "renamed"}, {"subnets": ("10.9.0.0/24",)}, {"vni": 7}, {"mtu_bytes": 1300}, {"internal": True}],
)
def test_a_revision_changes_nothing_of_what_a_network_is(
    writers: dict[str, Writer],
    changes: dict[str, bool] | dict[str, int] | dict[str, str] | dict[str, tuple[str, ...]],
) -> None:
    """Any member can write one; it used to move all containers of all hosts out of the network's subnets."""
    lie = network(N1, revision=9, **changes)
    view = see(RegistryView(H1), writers[H1].put(network(N1)), writers[H3].put(lie))
    assert view.networks[N1].record == network(N1)
    view.check_invariants()


# -- endpoints -------------------------------------------------------------------------------------------------


def test_endpoints_are_found_by_all_their_keys(writers: dict[str, Writer]) -> None:
    view = see(RegistryView(H1), writers[H1].put(network()), writers[H1].put(endpoint(1)))
    view = see(view, writers[H2].put(endpoint(2, offset=3)))
    one, two = (view.endpoints[EndpointId(identifier(0xE000 + number))] for number in (1, 2))
    assert view.endpoint_by_address("10.1.0.3") == two
    assert view.endpoint_by_address("fd00:1::2", N1) == one
    assert view.endpoint_by_address("10.1.0.3", N2) is None
    assert view.endpoints_named("web1") == (one,)
    assert view.service(N1, "web").endpoints == (one, two)
    assert view.service(N1, "web").endpoints
    assert set(view.endpoints_in(N1).values()) == {one, two}
    assert two.owner == H2


def test_visible_means_network_health_and_host(writers: dict[str, Writer]) -> None:
    view = see(RegistryView(H1), writers[H2].put(endpoint()))
    assert not view.is_visible(next(iter(view.endpoints.values())))
    view = see(view, writers[H1].put(network()))
    assert view.is_visible(next(iter(view.endpoints.values())))
    dead = view.with_member(member(H2, MemberState.DEAD)).with_host_answers({H2: False})
    assert not dead.is_visible(next(iter(dead.endpoints.values())))
    back = dead.with_host_answers({H2: True})
    assert back.is_visible(next(iter(back.endpoints.values())))
    for hidden in (endpoint(health=Health.UNHEALTHY), endpoint(drain=Drain(1, "anna"))):
        view = see(view, writers[H2].put(hidden))
        assert not view.is_visible(next(iter(view.endpoints.values())))


def test_one_address_goes_to_the_smaller_host(writers: dict[str, Writer]) -> None:
    base = see(RegistryView(H1), writers[H1].put(network()))
    one, two = writers[H1].put(endpoint(1)), writers[H2].put(endpoint(2))
    for order in ((one, two), (two, one)):
        view = see(base, *order)
        assert [found.owner for found in view.endpoints.values()] == [H1]
        assert [found.owner for found in view.fenced.values()] == [H2]
        assert kinds(view) == {ConflictKind.ADDRESS.value}
        assert not view.is_visible(next(iter(view.fenced.values())))
    freed = see(view, writers[H1].delete(endpoint(1)))
    assert [found.owner for found in freed.endpoints.values()] == [H2]
    assert not freed.conflicts


def test_every_kind_of_conflict_has_a_cure_that_exists() -> None:
    for kind in ConflictKind:
        cure = Conflict(kind.value, "", "", "").cure
        assert "rename" not in cure, "nothing can be renamed but a host, by its configuration"
        assert "`" in cure


def test_one_mac_that_two_users_gave_goes_to_the_smaller_host(writers: dict[str, Writer]) -> None:
    one = writers[H1].put(endpoint(1, offset=2, mac="06:00:00:00:00:01"))
    two = writers[H2].put(endpoint(2, offset=3, mac="06:00:00:00:00:01"))
    for order in ((one, two), (two, one)):
        view = see(RegistryView(H1), writers[H1].put(network()), *order)
        assert [found.owner for found in view.endpoints.values()] == [H1]
        assert [found.owner for found in view.fenced.values()] == [H2]
        (conflict,) = view.conflicts
        assert (conflict.kind, conflict.holder) == (ConflictKind.MAC.value, endpoint(1).endpoint_id)
        assert "is fenced: 06:00:00:00:00:01 belongs to host" in conflict.text
        view.check_invariants()
    assert see(view, writers[H1].delete(endpoint(1))).conflicts == ()


@pytest.mark.parametrize("offset", [2, 9], ids=["an address in use", "a free address"])
def test_the_mac_of_another_address_is_refused_whoever_has_it(
    writers: dict[str, Writer], offset: int
) -> None:
    """Nobody claims a MAC that follows from an address: of two endpoints with one the larger id got the packets."""
    theirs = writers[H1].put(endpoint(1, offset=2, mac=mac_of(N1, 2)))
    liar = writers[H2].put(endpoint(9, offset=3, mac=mac_of(N1, offset)))
    created = writers[H1].put(network())
    for order in ((created, theirs, liar), (liar, theirs, created)):
        view = see(RegistryView(H1), *order)
        assert [found.owner for found in view.endpoints.values()] == [H1]
        assert [found.owner for found in view.fenced.values()] == [H2]
        (conflict,) = view.conflicts
        assert (conflict.kind, conflict.loser, conflict.holder) == (
            ConflictKind.MAC.value,
            endpoint(9).endpoint_id,
            "",
        )
        assert f"its MAC {mac_of(N1, offset)} belongs to another address of network app" in conflict.text
        view.check_invariants()
    own = see(view, writers[H2].put(endpoint(9, offset=3, mac=mac_of(N1, 3))))
    assert not own.fenced
    assert not own.conflicts


def test_one_address_in_two_networks_is_no_conflict(writers: dict[str, Writer]) -> None:
    view = see(RegistryView(H1), writers[H1].put(endpoint(1, N1)), writers[H2].put(endpoint(2, N2)))
    assert len(view.endpoints) == 2


def test_one_endpoint_id_of_two_hosts_goes_to_the_smaller(writers: dict[str, Writer]) -> None:
    view = see(
        RegistryView(H1),
        writers[H2].put(endpoint(1)),
        writers[H1].put(endpoint(1, offset=9, mac="0a:00:00:00:00:09")),
    )
    assert [found.owner for found in view.endpoints.values()] == [H1]
    assert kinds(view) == {ConflictKind.ENDPOINT_ID.value}


@pytest.mark.parametrize(
    "addresses",
    [
        ("10.9.0.2", "fd00:1::2"),
        ("10.1.0.2",),
        ("10.1.0.2", "fd00:1::3"),
        ("10.1.0.1", "fd00:1::1"),
        ("10.1.0.255", "fd00:1::ff"),
        ("fd00:1::2", "10.1.0.2"),
    ],
)
def test_an_address_that_is_not_the_networks_is_fenced(
    writers: dict[str, Writer], addresses: tuple[str, ...]
) -> None:
    view = see(RegistryView(H1), writers[H2].put(endpoint(addresses=addresses)))
    assert len(view.endpoints) == 1, "no network record yet: nothing to judge by"
    view = see(view, writers[H1].put(network()))
    assert not view.endpoints
    assert kinds(view) == {ConflictKind.OUTSIDE.value}
    view = see(view, writers[H2].put(endpoint()))
    assert not view.fenced


def test_grants_and_attachments(writers: dict[str, Writer]) -> None:
    view = see(
        RegistryView(H1),
        writers[H1].put(grant(N1, 128, 255, H2)),
        writers[H2].put(grant(N1, 128, 159, H3, 2)),
    )
    view = see(view, writers[H3].put(AttachmentRecord(N1)))
    assert grants_of(view, N1) == ((H1, grant(N1, 128, 255, H2)), (H2, grant(N1, 128, 159, H3, 2)))
    assert view.attachments(N1) == {H3}
    unrelated = see(view, writers[H1].put(host()))
    assert unrelated.grant_map(N1) is view.grant_map(N1)


@pytest.mark.parametrize("seed", range(20))
def test_approaching_another_view_leads_to_what_that_has(seed: int) -> None:
    """However the two came apart; what others wrote in the scopes that are kept stays."""
    rng = random.Random(seed)
    writers = {owner: Writer(owner) for owner in (H1, H2, H3)}
    base = RegistryView(H1).with_entries(writers[H1].put(network(N1, "app")))
    mine = base

    def change(view: RegistryView) -> RegistryView:
        owner, number = rng.choice([H1, H2, H3]), rng.randrange(1, 9)
        network_id = rng.choice([N1, N1, N3])
        action = rng.randrange(4)
        if action == 0:
            return view.with_member(Member(owner, ("192.0.2.9", 7956), rng.choice(list(MemberState)), 1))
        if action == 1:
            return view.with_host_answers({owner: rng.choice([True, False, None])})
        record = endpoint(number, network_id, offset=rng.randrange(2, 9), service=rng.choice("ab"))
        writer = writers[owner]
        return view.with_entries(writer.put(record) if rng.random() < 0.7 else writer.delete(record))

    for _ in range(6):
        for _ in range(rng.randrange(20)):
            base = change(base)
        fetched = Writer(H2)
        fetched.sequence = 1000
        mine = mine.with_entries(fetched.put(endpoint(99, N2, offset=7)))
        mine = at_once(approach(mine, base, frozenset({scope_of(N2)})))
        mine.check_invariants()
        assert mine.endpoints_in(N1) == base.endpoints_in(N1)
        assert mine.endpoints_in(N3) == base.endpoints_in(N3)
        assert (mine.hosts, mine.networks, mine.refused) == (base.hosts, base.networks, base.refused)
        assert len(mine.endpoints_in(N2)) == 1
    again = at_once(approach(mine, base, frozenset({scope_of(N2)})))
    assert again is mine, "nothing differs"
    alone = at_once(approach(mine, base, frozenset()))
    assert alone.endpoints == base.endpoints
    alone.check_invariants()


def test_one_more_of_many_own_names_with_one_name_touches_itself_and_the_one_that_counts() -> None:
    entries = [entry(H2, own_data(number, "db", texts=("a",)), number) for number in range(2, 3000)]
    view = RegistryView(H1).with_entries(event(H2, *entries))
    for number in (3001, 1):  # the last of all, and the first, which counts from now on
        known, view = (
            view,
            view.with_entries(event(H2, entry(H2, own_data(number, "db", texts=("a",)), 3000 + number))),
        )
        touched = found(view.touched_since(known)).own_names
        assert (N1, name_id(number)) in touched
        assert touched <= {(N1, name_id(one)) for one in (number, 1, 2)}
    assert own_name(view, name_id(1)) is not None
    assert own_name(view, name_id(2)) is None
    view.check_invariants()


# -- whose an address is ---------------------------------------------------------------------------------------


def owned() -> tuple[RegistryView, dict[str, Writer]]:
    """H2 has made the network, given offsets 128 to 191 to H3, and keeps the rest; each has an endpoint."""
    writers: dict[str, Writer] = {one: Writer(one) for one in (H1, H2, H3)}
    own = endpoint(2, offset=9)
    own = dataclasses.replace(own, endpoint_id=new_endpoint_id(H2, bytes(8)), mac=mac_of(N1, 9))
    theirs = endpoint(3, offset=130, mac=mac_of(N1, 130))
    theirs = dataclasses.replace(theirs, endpoint_id=new_endpoint_id(H3, bytes(8)))
    view = see(
        RegistryView(H2),
        writers[H2].put(network()),
        writers[H2].put(grant(N1, 128, 191, H3)),
        writers[H3].put(grant(N1, 128, 191, H3)),
        writers[H2].put(own),
        writers[H3].put(theirs),
    )
    assert len(view.endpoints) == 2
    return view, writers


@pytest.mark.parametrize("offset", [9, 130])
def test_who_has_an_address_keeps_it_from_a_host_with_a_smaller_id(offset: int) -> None:
    """A member with the smallest id could take the addresses and the ids of all endpoints."""
    start, writers = owned()
    known = start.endpoint_by_address(f"10.1.0.{offset}")
    assert known is not None
    for stolen in (
        dataclasses.replace(known.record, mac="06:00:00:00:00:01"),
        dataclasses.replace(known.record, endpoint_id=endpoint(9).endpoint_id, mac="06:00:00:00:00:01"),
        dataclasses.replace(endpoint(9, offset=200, mac="06:00:00:00:00:01"), endpoint_id=known.endpoint_id),
    ):
        for claim in ((), (grant(N1, 0, 255, H1, 1 << 20),)):
            view = see(start, writers[H1].put(stolen), *map(writers[H1].put, claim))
            assert all(view.endpoints.get(one) == endpoint for one, endpoint in start.endpoints.items())
            assert [one.owner for one in view.fenced.values()] == [H1]
            assert all(one.holder == known.endpoint_id for one in view.conflicts)
            view = see(view, writers[H1].delete(stolen))
            assert not view.fenced


def test_where_an_address_was_handed_on_by_its_first_owner_the_smaller_id_keeps_it() -> None:
    start, writers = owned()
    view = see(start, writers[H3].put(grant(N1, 130, 130, H1, 2)))
    taken = endpoint(9, offset=130)
    view = see(view, writers[H1].put(taken))
    assert view.endpoints[taken.endpoint_id].owner == H1
    view = see(view, writers[H3].delete(grant(N1, 130, 130, H1, 2)))
    assert taken.endpoint_id not in view.endpoints, "decided anew where the grants say otherwise"


def test_whichever_order_the_records_come_in_the_same_endpoint_keeps_an_address() -> None:
    """Also without the record of the network, and before its grants."""
    _, writers = owned()
    records: list[tuple[HostId, Record]] = [
        (H2, network()),
        (H2, grant(N1, 128, 191, H3)),
        (H3, endpoint(3, offset=130)),
        (H1, endpoint(9, offset=130)),
    ]
    for order in itertools.permutations(records):
        view = see(RegistryView(H2), *(writers[owner].put(record) for owner, record in order))
        assert [one.owner for one in view.endpoints.values()] == [H3]
