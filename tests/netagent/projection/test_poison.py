"""Poisonous records of every kind that the codec knows, in everything that an agent makes of its view: no part fails,
none makes more than in proportion to the records, and what is of honest hosts stays as it is.

A record that another release adds needs a strategy in tests/fakes/poison.py: a test here fails without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import pytest
from fakes.external import alias, at, data, service, state
from fakes.poison import CROWDS, K1, POISON, can_be_said, every_poison, poison
from fakes.registry import H1, H2, H3, N1, N2, Writer, endpoint, entry, event, grant, host, network
from fakes.service_addresses import service_address, service_range
from fakes.whole_agent import OWN, Made, calls_of, everything, names_in
from hypothesis import given, settings
from hypothesis import strategies as st

from netagent.daemon.encryption import peers_of
from netagent.keys.picture import ring_record
from netagent.model.ids import HostId, mac_of
from netagent.model.records import (
    AttachmentRecord,
    EncryptionRecord,
    ForgetRecord,
    HostAddressRecord,
    HostRecord,
    NetworkOptionsRecord,
    NetworkRecord,
    Policy,
    Record,
    RemovalRecord,
    TunnelRecord,
)
from netagent.model.ring_key import HeldKey, RingKeysRecord, SealedKeysRecord
from netagent.registry import record_codec
from netagent.registry.view import RegistryView
from netagent.resolver.name_table import RowKind
from netgossip.types import Member, MemberState

HONEST = (H1, H2)
LIAR = H3
FEW = 30


def view_of(*written: tuple[HostId, Record], start: RegistryView | None = None) -> RegistryView:
    view = RegistryView(H1) if start is None else start
    writers = {one: Writer(one) for one in (H1, H2, H3, HostId("0" * 32))}
    for writer in writers.values():
        writer.sequence = 0 if start is None else 1000
    for owner, record in written:
        view = view.with_entries(writers[owner].put(record))
    return view


def good() -> RegistryView:
    """h1 and h2 have endpoints and services in two networks; h3 is a member like them."""
    view = view_of(
        (H1, host("h1")),
        (H1, network(policy=Policy.LINKS)),
        (H1, AttachmentRecord(N1)),
        (H1, AttachmentRecord(N2)),
        (H1, grant(N1, 128, 191, H2)),
        (
            H1,
            endpoint(1, offset=9, name="own", service="own", links=("web",), mac=OWN.mac),
        ),
        (H1, service_range(1)),
        (H1, service_address("web", 5)),
        (H1, alias(1, "shop", "web")),
        (H2, host("h2", underlay="192.0.2.2", probe_address="fd00::2")),
        (H2, network(N2, "back", subnets=("10.2.0.0/24",))),
        (H2, AttachmentRecord(N1)),
        (H2, endpoint(2, offset=130)),
        (H2, endpoint(3, N2, addresses=("10.2.0.9",), name="db", service="db")),
        (H2, service(1, target=at("203.0.113.50"), checks=("tcp:1",))),
        (H2, state(1)),
        (H2, data(2, "info", texts=("v=1",))),
        (H3, host("h3", underlay="192.0.2.3", probe_address="fd00::3")),
    )
    for number, owner in enumerate((H1, H2, H3), 1):
        view = view.with_member(Member(owner, (f"192.0.2.{number}", 7956), MemberState.ALIVE, 1))
    return view


GOOD = good()
ASKED = ("web", "own", "db", "shop", "pg", "10.1.0.9", "h2", "app")
GOOD_MADE = everything(GOOD, GOOD, ASKED)
ids = st.sampled_from([LIAR, LIAR, HostId("0" * 32), H2])


def test_each_kind_that_the_codec_knows_has_poison() -> None:
    assert set(POISON) == set(get_args(Record))
    assert len(POISON) == len(record_codec._READERS)


@settings(max_examples=60)
@given(st.data(), st.sampled_from(list(POISON)), ids)
def test_no_part_fails_on_one_record(source: st.DataObject, kind: type[Record], owner: HostId) -> None:
    record = source.draw(poison(kind))
    view = view_of((owner, record), start=GOOD)
    view.check_invariants()
    made = everything(view, GOOD, (*ASKED, *names_in([record])))
    if owner == LIAR:
        assert_honest_rows_stay(view, made, [record])


@settings(max_examples=60)
@given(st.lists(st.tuples(ids, every_poison), min_size=2, max_size=8))
def test_no_part_fails_on_records_that_meet(written: list[tuple[HostId, Record]]) -> None:
    view = view_of(*written, start=GOOD)
    view.check_invariants()
    everything(view, GOOD, (*ASKED, *names_in(record for _, record in written)))


def may_take(record: Record) -> bool:
    """True for what any member may do (SECURITY.md): remove or change a network, evict a host, or make a network that
    has the name or the VNI of another."""
    return isinstance(record, RemovalRecord | ForgetRecord | NetworkOptionsRecord | NetworkRecord)


def assert_honest_rows_stay(view: RegistryView, made: Made, records: list[Record]) -> None:
    if any(map(may_take, records)):
        return
    for one in GOOD.endpoints.values():
        assert view.endpoints.get(one.endpoint_id) == one
    for host_id in HONEST:
        assert view.hosts[host_id] == GOOD.hosts[host_id]
    for key, row in GOOD_MADE.names.items():
        if key[0] in (RowKind.ENDPOINT, RowKind.SANDBOX):
            assert made.names[key] == row, key
    for name in GOOD_MADE.kernel.devices:
        assert name in made.kernel.devices, name


def test_each_kind_of_which_a_host_may_write_many_has_a_crowd() -> None:
    only_one = {HostRecord, RingKeysRecord, TunnelRecord, EncryptionRecord}
    assert set(CROWDS) == set(POISON) - only_one


CROWD_CASES = [(kind, make) for kind, makes in CROWDS.items() for make in makes]


@pytest.mark.parametrize(("kind", "make"), CROWD_CASES, ids=[kind.__name__ for kind, _ in CROWD_CASES])
def test_work_grows_as_the_records_do(kind: type[Record], make: Callable[[int], Record]) -> None:
    """Four times as many records may cost little more than four times the work, so that a log that is full of them
    blocks no host."""

    def work(count: int) -> int:
        records = [make(number) for number in range(count)]
        assert all(isinstance(one, kind) and can_be_said(one) for one in records)
        entries = [entry(LIAR, one, 1000 + number) for number, one in enumerate(records)]

        def take() -> None:
            view = GOOD.with_entries(event(LIAR, *entries)) if entries else GOOD
            everything(view, GOOD, ("web",))

        return calls_of(take)

    nothing, some, more = work(0), work(FEW), work(4 * FEW)
    assert more - nothing <= 5 * (some - nothing) + nothing // 4


def test_of_thousands_of_endpoints_with_one_address_a_change_concerns_two() -> None:
    """All of them were decided anew for each one of them: 20,000 endpoints of one member stopped every other host's
    agent for minutes."""
    crowd = [endpoint(100 + number, offset=40, mac="0a:00:00:00:00:77") for number in range(300)]
    view = view_of(*((LIAR, one) for one in crowd), start=GOOD)
    assert crowd[0].endpoint_id in view.endpoints
    for number, concerned in ((0, 2), (200, 1)):
        writer = Writer(LIAR)
        writer.sequence = 5000
        later = view.with_entries(writer.delete(crowd[number]))
        later.check_invariants()
        touched = later.touched_since(view)
        assert touched is not None
        assert len(touched.endpoints) == concerned
        assert len(later.fenced) == len(crowd) - 2


def test_no_endpoint_draws_packets_by_the_mac_that_follows_from_another_address() -> None:
    """Packets for another host's container went to the host whose endpoint had its MAC, if its id was larger."""
    start = view_of((H2, endpoint(5, offset=150, mac=mac_of(N1, 150))), start=GOOD)
    liars = endpoint(99, offset=151, mac=mac_of(N1, 150))
    before, after = (everything(one, GOOD).kernel for one in (start, view_of((LIAR, liars), start=start)))
    assert "192.0.2.2" in [to for (_, mac), to in before.selves.items() if mac == mac_of(N1, 150)]
    assert (after.selves, after.neighbours) == (before.selves, before.neighbours)


@pytest.mark.parametrize(
    "record",
    [
        HostAddressRecord(N1, 7, endpoint(2).mac),
        HostAddressRecord(N1, 130, "06:00:00:00:00:99"),
        HostAddressRecord(N1, 6, "06:00:00:00:00:99"),
        HostAddressRecord(N1, 7, "06:00:00:00:00:02"),
        host("h3", underlay="192.0.2.3", probe_address="fd00::2", probe_mac="02:00:00:00:00:33"),
        host("h3", underlay="192.0.2.3", probe_address="fd00::33", probe_mac="02:00:00:00:00:22"),
    ],
    ids=[
        "mac of an endpoint",
        "address of an endpoint",
        "address of a host",
        "mac of a host",
        "probe",
        "probe mac",
    ],
)
def test_no_host_takes_what_others_have_by_an_address_of_its_own(record: Record) -> None:
    """Packets for another host's container went to the host that named the container's address, or its MAC, as its
    own address in the network."""
    start = view_of(
        (H2, host("h2", underlay="192.0.2.2", probe_address="fd00::2", probe_mac="02:00:00:00:00:22")),
        (H2, HostAddressRecord(N1, 6, "06:00:00:00:00:02")),
        start=GOOD,
    )
    before, after = (
        everything(one, GOOD).kernel
        for one in (start, view_of((LIAR, AttachmentRecord(N1)), (LIAR, record), start=start))
    )
    assert before.neighbours
    for table in ("neighbours", "selves", "masters"):
        was, now = dict(getattr(before, table)), dict(getattr(after, table))
        mine = {key for key in was if was[key] == "192.0.2.3" or "fd00::3" in key}
        assert {key: now.get(key) for key in was.keys() - mine} == {
            key: was[key] for key in was.keys() - mine
        }


def test_no_host_takes_the_place_of_another_in_the_tunnel_by_its_public_key() -> None:
    """A peer of WireGuard is its public key: a host that named another's as its own cut that one off."""
    theirs = bytes([2] * 32)
    start = view_of((H1, TunnelRecord(bytes([1] * 32), 7955)), (H2, TunnelRecord(theirs, 7955)), start=GOOD)
    for taken in (theirs, bytes([1] * 32)):
        view = view_of((LIAR, TunnelRecord(taken, 80)), start=start)
        assert peers_of(view, 4) == peers_of(start, 4)
    assert peers_of(start, 4)[theirs].endpoint == ("192.0.2.2", 7955)


def test_a_host_is_looked_up_at_once_among_the_keys_that_it_gives() -> None:
    """Each of its sealed keys was held against all of them: 10,000 cost a minute, each second."""
    ring = RingKeysRecord(bytes(32), K1, (HeldKey(K1, 2),))
    view = view_of((LIAR, ring), *((LIAR, CROWDS[SealedKeysRecord][0](number)) for number in range(200)))
    assert ring_record(view, LIAR) == ring
    assert calls_of(lambda: ring_record(view, LIAR)) < 20
