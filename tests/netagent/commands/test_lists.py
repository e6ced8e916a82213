"""What lists, counts and look-ups find by an index is what a look at every endpoint finds."""

from __future__ import annotations

from typing import Any

import pytest
from fakes.registry import H1, H2, H3, N1, N2, N3, Writer, endpoint, host, network
from fakes.work import instructions_of
from hypothesis import given, settings
from hypothesis import strategies as st

from netagent.commands.lists import _filter, _known
from netagent.commands.status import count_hidden
from netagent.endpoints.find import is_called, may_be_called
from netagent.interface.questions import EndpointsCommand
from netagent.model.ids import HostId
from netagent.model.origin_labels import COMPOSE_SERVICE, CONTAINER_ID, ORIGINAL_NAME
from netagent.model.records import Drain, ForgetRecord, Group, Health, Record, RemovalRecord
from netagent.registry.view import RegistryView
from netagent.resolver.explain_name import explain
from netgossip.slices import at_once
from netgossip.types import Member, MemberState

WORDS = ["web", "db", "shop", "cache", "facade", "x-1234567"]
hosts = st.sampled_from([H1, H2, H3])
labels = st.dictionaries(
    st.sampled_from([COMPOSE_SERVICE, CONTAINER_ID, ORIGINAL_NAME]),
    st.sampled_from([*WORDS, "facade99"]),
    max_size=3,
)
endpoints = st.builds(
    endpoint,
    st.integers(1, 6),
    st.sampled_from([N1, N2]),
    st.integers(2, 6),
    name=st.sampled_from(WORDS),
    service=st.sampled_from(WORDS),
    aliases=st.sampled_from([(), ("cache",), ("cache", "shop")]),
    group=st.sampled_from([None, Group("shop"), Group("shop", "db"), Group("web", "web")]),
    health=st.sampled_from(Health),
    drain=st.sampled_from([None, None, Drain(1, "anna")]),
    labels=labels.map(lambda known: tuple(sorted(known.items()))),
)
changes = st.lists(
    st.tuples(
        hosts,
        st.one_of(
            endpoints,
            endpoints,
            st.builds(RemovalRecord, st.just(N2)),
            st.builds(ForgetRecord, hosts, settled=st.just(True)),
            st.builds(host, st.sampled_from(["h2", "h3"]), drain=st.sampled_from([None, Drain(1, "anna")])),
        ),
        st.booleans(),
    ),
    max_size=14,
)
members = st.lists(
    st.builds(Member, hosts, st.just(("192.0.2.1", 7956)), st.sampled_from(MemberState), st.just(1)),
    max_size=3,
)


def view_of(written: Any, seen: Any = ()) -> RegistryView:
    writers, view = {one: Writer(one) for one in (H1, H2, H3)}, RegistryView(H1)
    for record in (network(N1), network(N2, "back", subnets=("10.1.0.0/24", "fd00:1::/64"))):
        view = view.with_entries(writers[H1].put(record))
    for owner, record, is_gone in written:
        view = view.with_entries(writers[owner].put(record))
        if is_gone:
            view = view.with_entries(writers[owner].delete(record))
    for member in seen:
        view = view.with_member(member).with_host_answers({HostId(member.node_id): False})
    return view


@settings(max_examples=200)
@given(changes, members)
def test_indexes_find_what_a_look_at_every_endpoint_finds(written: Any, seen: Any) -> None:
    view = view_of(written, seen)
    view.check_invariants()
    every = [*view.endpoints.values()]
    assert at_once(count_hidden(view)) == sum(not view.is_visible(one) for one in every)
    for owner in (H1, H2, H3):
        own = sorted(view.endpoints_of(owner), key=lambda one: one.endpoint_id)
        assert own == sorted((one for one in every if one.owner == owner), key=lambda one: one.endpoint_id)
    for word in (*WORDS, "web.shop", "db.shop", "web.web", "facade9", "x-1234", "nothing"):
        found = {one.endpoint_id for one in may_be_called(view, word) if is_called(one, word)}
        assert found == {one.endpoint_id for one in every if is_called(one, word)}, word


@pytest.fixture(scope="module")
def crowd() -> RegistryView:
    """Two thousand endpoints of one service, and one that is alone in its own."""
    view, writers = view_of([]), {one: Writer(one) for one in (H2, H3)}
    records: list[tuple[HostId, Record]] = [(H2, host("h2")), (H3, host("h3"))]
    records.append((H2, network(N3, "large", subnets=("10.3.0.0/16",))))
    for number in range(2, 2002):
        address, mac = (
            f"10.3.{number >> 8}.{number & 255}",
            f"06:00:00:00:{number >> 8:02x}:{number & 255:02x}",
        )
        record = endpoint(number, N3, name=f"n{number}", service="many", addresses=(address,), mac=mac)
        records.append((H2, record))
    records.append((H3, endpoint(1, N3, name="only", service="alone", addresses=("10.3.200.1",))))
    for owner, one in records:
        view = view.with_entries(writers[owner].put(one))
    assert len(view.endpoints) == 2001
    return view


@pytest.mark.parametrize("condition", [{"service": "alone"}, {"host": "h3"}])
def test_a_filter_costs_what_it_selects(crowd: RegistryView, condition: dict[str, Any]) -> None:
    request = EndpointsCommand(**condition)

    def select() -> None:
        is_wanted = _filter(crowd, request)
        assert [one.record.name for one in _known(crowd, request) if is_wanted(one)] == ["only"]

    assert instructions_of(select, most=20_000) > 0


def test_counting_hidden_endpoints_costs_what_is_hidden(crowd: RegistryView) -> None:
    assert instructions_of(lambda: at_once(count_hidden(crowd)), most=20_000) > 0
    away = crowd.with_member(Member(H3, ("192.0.2.3", 7956), MemberState.LEFT, 1))
    assert at_once(count_hidden(away)) == 1


def test_a_look_up_reads_no_endpoint_of_other_names(crowd: RegistryView) -> None:
    looking = explain(crowd, {}, domain="mesh.internal", name="alone.large", rtype="A", beyond=[N3])
    assert sum(1 for _ in looking) < 50
    hidden = crowd.with_member(Member(H3, ("192.0.2.3", 7956), MemberState.LEFT, 1))
    found = at_once(explain(hidden, {}, domain="mesh.internal", name="alone.large", rtype="A", beyond=[N3]))
    assert "only on h3 (its host has left)" in found.reason
