"""Whatever arrives, in whatever order: every index follows from the records, and the way there does not matter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fakes.external import alias, data, name_id, service, service_id, state
from fakes.registry import H1, H2, H3, N1, N2, endpoint, entry, event, grant, host, network
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
from netagent.registry.view import RegistryView
from netgossip.types import CLUSTER_SCOPE, Entry, Member, MemberState

hosts = st.sampled_from([H1, H2, H3])
network_ids = st.sampled_from([N1, N2])
records = st.one_of(
    st.builds(host, st.sampled_from(["a", "b"]), going_down=st.booleans()),
    st.builds(
        network,
        network_ids,
        st.sampled_from(["app", "db"]),
        vni=st.sampled_from([7, 8]),
        revision=st.integers(0, 1),
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
    st.builds(HostAddressRecord, network_ids, st.integers(2, 4), st.just("06:00:00:00:00:09")),
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
                changed_names = {one for one in own if own_name(old, one) != own_name(new, one)}
                assert changed_names <= {one for _, one in touched.own_names}
            places = set(new.touched_labels(old, touched))
            for key in {*old.store.group_labels, *new.store.group_labels}:
                labels = [{*view.labels_of(*key).present} for view in (old, new)]
                assert {(key, one) for one in labels[0] ^ labels[1]} <= places
        assert old.touched_since(views[-1]) is None or old is views[-1]


def differs(old: Mapping[Any, Any], new: Mapping[Any, Any], key: str) -> bool:
    return old.get(key) != new.get(key)
