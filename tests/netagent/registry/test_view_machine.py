"""Whatever arrives, in whatever order: every index follows from the records, and the way there does not matter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from fakes.external import alias, data, name_id, service, service_id, state
from fakes.registry import H1, H2, H3, N1, N2, endpoint, entry, event, grant, host, network
from fakes.service_addresses import service_address, service_range
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies._internal.random import ArtificialRandom

from netagent.external.view import external_service, own_name
from netagent.model.ids import HostId
from netagent.model.records import (
    AttachmentRecord,
    ForgetRecord,
    Group,
    HostAddressRecord,
    RemovalRecord,
)
from netagent.model.ring_key import SealedKey, SealedKeysRecord
from netagent.registry import service_rules
from netagent.registry.view import RegistryView
from netgossip.types import CLUSTER_SCOPE, Entry, Member, MemberState

hosts = st.sampled_from([H1, H2, H3])
network_ids = st.sampled_from([N1, N2])
records = st.one_of(
    st.builds(
        host,
        st.sampled_from(["a", "b"]),
        going_down=st.booleans(),
        underlay=st.sampled_from(["192.0.2.1", "10.9.1.200"]),
    ),
    st.builds(
        network,
        network_ids,
        st.sampled_from(["app", "db"]),
        vni=st.sampled_from([7, 8]),
        revision=st.integers(0, 1),
        subnets=st.sampled_from([("10.1.0.0/24", "fd00:1::/64"), ("10.9.2.0/24", "fd00:1::/64")]),
    ),
    st.builds(RemovalRecord, network_ids),
    st.builds(AttachmentRecord, network_ids),
    st.builds(ForgetRecord, hosts, settled=st.booleans()),
    st.builds(ForgetRecord, hosts, disputed=st.tuples(st.just(1), st.integers(0, 9))),
    st.builds(grant, network_ids, st.sampled_from([0, 128]), st.just(200), hosts, st.integers(1, 2)),
    st.builds(service, st.integers(1, 2), network_ids, checks=st.sampled_from([(), ("tcp:1",)])),
    st.builds(state, st.integers(1, 2), st.integers(0, 2), network_ids),
    st.builds(alias, st.integers(1, 3), st.sampled_from(["shop", "*.shop"]), st.just("web"), network_ids),
    st.builds(data, st.integers(1, 3), texts=st.just(("v=1",))),
    st.builds(
        SealedKeysRecord,
        hosts,
        st.integers(1, 2),
        st.integers(0, 1),
        st.builds(SealedKey, hosts, st.just(bytes(8)), st.just(bytes(32)), st.just(bytes(48))).map(
            lambda one: (one,)
        ),
    ),
    st.builds(HostAddressRecord, network_ids, st.integers(2, 4), st.just("06:00:00:00:00:09")),
    st.builds(service_range, st.integers(1, 2), network_ids),
    st.builds(
        service_address,
        st.sampled_from(["web", "db"]),
        st.integers(1, 3),
        network_ids,
        within=st.integers(1, 2),
        is_sticky=st.booleans(),
    ),
    st.builds(
        endpoint,
        st.integers(1, 3),
        network_ids,
        st.integers(1, 4),
        name=st.sampled_from(["x", "y"]),
        mac=st.sampled_from(["06:00:00:00:00:01", "06:00:00:00:00:02", "02:00:00:00:00:03"]),
        group=st.sampled_from([None, Group("shop"), Group("shop", "db")]),
    ),
)
logs = st.dictionaries(hosts, st.lists(st.tuples(records, st.booleans()), max_size=12), max_size=3)
members = st.builds(
    Member, hosts, st.just(("192.0.2.1", 7956)), st.sampled_from(MemberState), st.integers(1, 2)
)


def by_scope(owner: str, written: Any) -> list[Entry]:
    """The owner's changes as (scope, entry), with one sequence per change."""
    return [entry(owner, record, number, deleted=gone) for number, (record, gone) in enumerate(written, 1)]


# Records that meet: the machine below tries many other kinds, and hardly ever enough of these.
addressed = st.one_of(
    st.builds(
        network, network_ids, subnets=st.sampled_from([("10.1.0.0/24", "fd00:1::/64"), ("10.9.2.0/24",)])
    ),
    st.builds(service_range, st.integers(1, 3), network_ids),
    st.builds(
        service_address,
        st.sampled_from(["web", "db"]),
        st.integers(1, 4),
        network_ids,
        within=st.integers(1, 3),
        is_sticky=st.booleans(),
    ),
    st.builds(host, underlay=st.sampled_from(["192.0.2.1", "10.9.1.200"])),
    st.builds(ForgetRecord, hosts, settled=st.just(True)),
)


@settings(max_examples=300)
@given(st.lists(st.tuples(hosts, addressed, st.booleans()), max_size=30), st.integers(1, 5))
def test_service_addresses_made_step_by_step_are_those_made_from_scratch(changes: Any, most: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(service_rules, "MAX_SERVICE_ADDRESSES", most)
        patched.setattr(service_rules, "MAX_SERVICE_RANGES", min(most, 2))
        view = RegistryView(H1)
        for owner in (H1, H2):
            view = view.with_entries(event(owner, entry(owner, network(N1 if owner == H1 else N2), 1)))
            view = view.with_entries(event(owner, entry(owner, service_range(1 if owner == H1 else 2), 2)))
        for number, (owner, record, gone) in enumerate(changes, 3):
            before = view
            view = view.with_entries(event(owner, entry(owner, record, number, deleted=gone)))
            view.check_invariants()
            touched = view.touched_since(before)
            assert touched is not None
            for network_id in (N1, N2):
                here = [one.service_addresses(network_id) for one in (before, view)]
                assert {
                    (network_id, one) for one in {*here[0], *here[1]} if differs(here[0], here[1], one)
                } == {one for one in touched.service_addresses if one[0] == network_id}
            addresses = list(view.store.by_service_address.values())
            for network_id in (N1, N2):
                for key, views in view.service_addresses(network_id).items():
                    assert [one.owner for one in views] == sorted(one.owner for one in views)
                    for one in views:
                        assert one.service == key
                        assert all(view.service_by_address(text) == one for text in one.record.addresses)
                        addresses = [left for left in addresses if left != one]
            assert not addresses, "an index has an address that is not in force"


@settings(max_examples=150)
@given(
    logs,
    st.lists(members | st.tuples(hosts, st.booleans() | st.none()) | st.frozensets(hosts), max_size=6),
    st.randoms(use_true_random=False),
)
def test_indexes_follow_and_order_does_not_matter(written: Any, seen: Any, rng: ArtificialRandom) -> None:
    changes = [(owner, one) for owner, log in written.items() for one in by_scope(owner, log)]
    views = []
    for shuffle in (False, True):
        view = RegistryView(H1)
        steps = changes + (rng.sample(changes, len(changes)) if shuffle else [])
        for owner, one in steps:
            view = view.with_entries(event(owner, one))
        for one in seen:
            view = noticed(view, one)
        view.check_invariants()
        views.append(view)
    # A late old change may bring back a key whose tombstone the view does not keep (netgossip never hands one out),
    # so the second way is only compared after the owners' whole logs have arrived again.
    final = [whole(view, written) for view in views]
    for name in ("hosts", "networks", "endpoints", "fenced", "conflicts", "refused"):
        assert getattr(final[0], name) == getattr(final[1], name)
    for name in ("service_ranges", "service_addresses", "by_service_address"):
        assert getattr(final[0].store, name) == getattr(final[1].store, name)


def noticed(
    view: RegistryView, one: frozenset[HostId] | Member | tuple[str, None] | tuple[str, bool]
) -> RegistryView:
    match one:
        case Member():
            return view.with_member(one)
        case frozenset():
            return view.with_silent(one).with_unreached(one).with_distances(dict.fromkeys(one, len(one)))
        case (host_id, answers):
            return view.with_host_answers({HostId(host_id): answers})


def whole(view: RegistryView, written: Any) -> RegistryView:
    for owner, log in written.items():
        latest = {}
        for one in by_scope(owner, log):
            latest[one.scope, one.key] = one
        for scope in {CLUSTER_SCOPE, bytes.fromhex(N1), bytes.fromhex(N2)}:
            entries = [one for one in latest.values() if one.scope == scope]
            view = view.with_entries(event(owner, *entries, replaced=True, scope=scope))
    view.check_invariants()
    return view


@settings(max_examples=100)
@given(
    st.lists(
        st.tuples(hosts, records, st.booleans()) | members | st.tuples(hosts, st.booleans() | st.none()),
        max_size=14,
    )
)
def test_what_no_change_touched_is_as_it_was(changes: Any) -> None:
    """Between any two views; that is what `touched_since` promises."""
    views = [RegistryView(H1)]
    for number, change in enumerate(changes, 1):
        view = views[-1]
        if isinstance(change, Member):
            views.append(view.with_member(change))
        elif len(change) == 2:
            host_id, answers = change
            views.append(view.with_host_answers({host_id: answers}))
        else:
            owner, record, gone = change
            views.append(view.with_entries(event(owner, entry(owner, record, number, deleted=gone))))
    for at, old in enumerate(views):
        for new in views[at:]:
            touched = new.touched_since(old)
            assert touched is not None
            assert {
                one for one in {*old.hosts, *new.hosts} if differs(old.hosts, new.hosts, one)
            } <= touched.hosts
            for network_id in (N1, N2):
                before, after = old.endpoints_in(network_id), new.endpoints_in(network_id)
                changed = {one for one in {*before, *after} if differs(before, after, one)}
                assert {(network_id, one) for one in changed} <= touched.endpoints
                services = (service_id(1), service_id(2))
                changed_services = {
                    one
                    for one in services
                    if external_service(old, network_id, one) != external_service(new, network_id, one)
                }
                assert {(network_id, one) for one in changed_services} <= touched.services
                own = (name_id(1), name_id(2), name_id(3))
                here = [one.service_addresses(network_id) for one in (old, new)]
                moved = {one for one in {*here[0], *here[1]} if differs(here[0], here[1], one)}
                assert {(network_id, one) for one in moved} <= touched.service_addresses
                changed_names = {one for one in own if own_name(old, one) != own_name(new, one)}
                assert changed_names <= {one for _, one in touched.own_names}
            places = set(new.touched_labels(old, touched))
            for key in {*old.store.group_labels, *new.store.group_labels}:
                labels = [{*view.labels_of(*key).present} for view in (old, new)]
                assert {(key, one) for one in labels[0] ^ labels[1]} <= places
        assert old.touched_since(views[-1]) is None or old is views[-1]


def differs(old: Mapping[Any, Any], new: Mapping[Any, Any], key: object) -> bool:
    return old.get(key) != new.get(key)
