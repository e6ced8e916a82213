"""What `status` warns of about records that contradict each other, where there are thousands of them."""

from __future__ import annotations

from collections import Counter

import pytest
from fakes.registry import H1, H2, H3, Writer, endpoint, entry, event, host, identifier, network
from fakes.work import instructions_of

from netagent.commands.notices.conflict_notices import SHOWN, conflict_notices
from netagent.control.present import Presenter
from netagent.model.ids import HostId, NetworkId
from netagent.model.records import EndpointRecord, Record
from netagent.registry.view import ConflictKind, RegistryView
from netgossip.slices import at_once

MANY = 3000
ADDRESS = ConflictKind.ADDRESS.value


def addressed(number: int, offset: int) -> EndpointRecord:
    return endpoint(
        number,
        addresses=(f"10.1.{offset >> 8}.{offset & 255}",),
        mac=f"0a:00:00:00:{number >> 8:02x}:{number & 255:02x}",
    )


def view_of(*written: tuple[HostId, list[Record]]) -> RegistryView:
    view = RegistryView(H1)
    for owner, records in written:
        entries = [entry(owner, record, sequence) for sequence, record in enumerate(records, start=1)]
        for scope in dict.fromkeys(one.scope for one in entries):
            view = view.with_entries(event(owner, *(one for one in entries if one.scope == scope)))
    return view


@pytest.fixture(scope="module")
def restored() -> RegistryView:
    """h2 and h3 were restored from old copies: all their endpoints have addresses of h1's by now."""
    held, offsets = 3 * MANY, range(2, MANY + 2)
    one: list[Record] = [host("h1"), network(subnets=("10.1.0.0/16",))]
    one += [addressed(number, offset) for number, offset in enumerate(offsets)]
    two: list[Record] = [host("h2"), *(addressed(MANY + n, offset) for n, offset in enumerate(offsets))]
    three: list[Record] = [host("h3"), *(addressed(held + n, 2 + n) for n in range(10))]
    return view_of((H1, one), (H2, two), (H3, three))


def test_of_thousands_of_fenced_endpoints_a_few_are_named(restored: RegistryView) -> None:
    notices = conflict_notices(Presenter(restored, "mesh.internal"), restored.conflicts)
    assert Counter(one["code"] for one in notices) == {ADDRESS: SHOWN + 1}
    assert all("is fenced" in one["message"] for one in notices[:SHOWN])
    further = MANY + 10 - SHOWN
    message = f"{further:,} further addresses of endpoints belong to others, so these endpoints are fenced"
    assert notices[-1]["message"] == f"{message}; their hosts: h2 ({MANY - SHOWN:,}), h3 (10)"
    assert "`netagent doctor`" in notices[-1]["cure"]


def test_why_one_endpoint_is_fenced_costs_no_look_at_all_others(restored: RegistryView) -> None:
    fenced = next(iter(restored.fenced.values()))
    present = Presenter(RegistryView(H1, store=restored.store), "mesh.internal")  # has found no conflict yet
    assert instructions_of(present.state, fenced, most=5000) > 0
    state, reason = present.state(fenced)
    assert (state, reason) == (
        "fenced",
        next(o.text for o in restored.conflicts if o.loser == fenced.endpoint_id),
    )


def test_conflicts_are_found_in_small_slices_and_kept(restored: RegistryView) -> None:
    view = RegistryView(H1, store=restored.store)
    assert sum(1 for _ in view.search_conflicts()) > len(restored.fenced)
    assert at_once(view.search_conflicts()) == restored.conflicts
    assert sum(1 for _ in view.search_conflicts()) == 0


def test_a_handful_is_named_one_by_one() -> None:
    view = view_of((H1, [host("h1"), network(), endpoint(1)]), (H2, [host("h2"), endpoint(2)]))
    notices = conflict_notices(Presenter(view, "mesh.internal"), view.conflicts)
    assert [one["message"] for one in notices] == [one.text for one in view.conflicts]


def test_networks_that_overlap_are_named_once_each() -> None:
    view = RegistryView(H1)
    subnets = [
        "10.0.0.0/8",
        "10.1.0.0/16",
        "10.1.1.0/24",
        "10.2.0.0/16",
        "fd00::/64",
        "fd00::/64",
        "192.0.2.0/24",
    ]
    writer = Writer(H1)
    for number, subnet in enumerate(subnets):
        one = network(NetworkId(identifier(0xA0 + number)), f"n{number}", vni=number + 1, subnets=(subnet,))
        view = view.with_entries(writer.put(one))
    assert [one.text for one in view.conflicts] == [
        "networks n0 and n1 overlap in 10.1.0.0/16",
        "networks n1 and n2 overlap in 10.1.1.0/24",
        "networks n0 and n3 overlap in 10.2.0.0/16",
        "networks n4 and n5 overlap in fd00::/64",
    ]


def test_many_equal_subnets_are_not_the_square_of_them() -> None:
    ids = [NetworkId(identifier(0xA000 + number)) for number in range(200)]
    every = [network(one, f"n{number}", vni=number + 1) for number, one in enumerate(ids)]
    view = view_of((H1, list(every)))
    assert len(view.conflicts) == len(ids) - 1
    notices = conflict_notices(Presenter(view, "mesh.internal"), view.conflicts)
    further = f"{len(ids) - 1 - SHOWN} further networks overlap another one, or a host's address"
    assert notices[-1]["message"] == further
