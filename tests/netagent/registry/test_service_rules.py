"""Service ranges and service addresses: which are in force, what the bounds are, and what a lying member achieves."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import msgpack
import pytest
from fakes.registry import H1, H2, H3, N1, N2, N3, Writer, entry, event, host, network
from fakes.service_addresses import service_address, service_range, subnets_of
from fakes.work import instructions_of
from hypothesis import given
from hypothesis import strategies as st

from netagent.model.ids import HostId
from netagent.model.locality import MAX_WEIGHT, Balance
from netagent.model.records import (
    MAX_HOST_WEIGHTS,
    MAX_SERVICE_PORTS,
    ForgetRecord,
    Record,
    RemovalRecord,
    ServiceAddressOrigin,
    ServiceAddressRecord,
    ServiceKey,
    ServicePort,
    ServiceRangeRecord,
)
from netagent.model.subnet import addresses_of
from netagent.registry import service_rules
from netagent.registry.record_codec import (
    MAX_RECORD_BYTES,
    RecordError,
    Unknown,
    decode_untrusted,
    encode,
    key_of,
)
from netagent.registry.service_rules import MAX_SERVICE_RANGES, range_prefix
from netagent.registry.view import RegistryView
from netgossip.types import CLUSTER_SCOPE

WEB = ServiceKey("web")

# -- bytes --------------------------------------------------------------------------------------------------------

ids = st.binary(min_size=16, max_size=16).map(bytes.hex)
names = st.from_regex(r"\A[a-z0-9]([a-z0-9_-]{0,20}[a-z0-9])?\Z")
ports = st.integers(1, 65535)
ranges = st.builds(
    ServiceRangeRecord,
    network_id=ids,
    subnets=st.sampled_from([("10.1.0.0/20",), ("100.64.0.0/24", "fd00::/64"), ("fd00:1::/64",)]),
)
addresses = st.builds(
    ServiceAddressRecord,
    network_id=ids,
    service=st.builds(ServiceKey, names, st.none() | names),
    addresses=st.sampled_from([("10.1.0.7",), ("10.1.0.7", "fd00::7"), ("fd00::7",)]),
    origin=st.sampled_from(ServiceAddressOrigin),
    ports=st.dictionaries(ports, ports, max_size=4).map(
        lambda some: tuple(ServicePort(*one) for one in sorted(some.items()))
    ),
    balance=st.sampled_from(Balance),
    host_weights=st.dictionaries(names, st.integers(0, MAX_WEIGHT), max_size=4).map(
        lambda some: tuple(sorted(some.items()))
    ),
    is_sticky=st.booleans(),
    keeps_failing=st.booleans(),
    keeps_connections=st.booleans(),
)


@given(ranges | addresses)
def test_a_record_comes_back_as_it_was_also_with_positions_of_a_later_release(record: Any) -> None:
    assert decode_untrusted(encode(record)) == record
    assert decode_untrusted(msgpack.packb([*msgpack.unpackb(encode(record)), "new", {"more": 1}])) == record


@given(ranges | addresses, st.data())
def test_damaged_records_give_a_record_or_one_error(record: Any, data: st.DataObject) -> None:
    encoded = bytearray(encode(record))
    for _ in range(data.draw(st.integers(1, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(RecordError):
        decode_untrusted(bytes(encoded[: data.draw(st.integers(0, len(encoded)))]))


@pytest.mark.parametrize(
    ("record", "changes", "message"),
    [
        (service_range(), {"subnets": ("8.8.8.0/24",)}, "not private"),
        (service_range(), {"subnets": ("10.9.0.0/24", "2001:4860::/64")}, "not private"),
        (service_range(), {"subnets": ("10.0.0.0/7",)}, "usable size"),
        (service_range(), {"subnets": ("127.0.0.0/24",)}, "loopback"),
        (service_range(), {"subnets": ("fd00::/64", "10.9.0.0/24")}, "IPv4 first"),
        (service_range(), {"subnets": ()}, "at most one"),
        (service_address(), {"addresses": ()}, "none"),
        (service_address(), {"service": ServiceKey("*")}, "not a name"),
        (service_address(), {"service": ServiceKey("web", "Shop")}, "not a name"),
        (service_address(), {"ports": (ServicePort(0, 1),)}, "between 1 and 65535"),
        (service_address(), {"ports": (ServicePort(80, 1), ServicePort(80, 2))}, "duplicates"),
        (service_address(), {"ports": (ServicePort(81, 1), ServicePort(80, 2))}, "not sorted"),
        (
            service_address(),
            {"ports": tuple(ServicePort(n, n) for n in range(1, MAX_SERVICE_PORTS + 2))},
            "at most 32",
        ),
        (service_address(), {"host_weights": (("h1", 1), ("h1", 2))}, "duplicates"),
        (service_address(), {"host_weights": (("h1", MAX_WEIGHT + 1),)}, "between 0"),
        (
            service_address(),
            {"host_weights": tuple((f"h{n:03}", 1) for n in range(MAX_HOST_WEIGHTS + 1))},
            "at most 64",
        ),
    ],
)
def test_what_no_host_should_act_on_does_not_leave_this_host(
    record: ServiceRangeRecord | ServiceAddressRecord, changes: Any, message: str
) -> None:
    with pytest.raises(RecordError, match=message):
        encode(dataclasses.replace(record, **changes))


def test_words_that_a_later_release_added_are_read_as_the_usual_ones() -> None:
    items = msgpack.unpackb(encode(service_address()))
    items[6], items[8] = "moon", "random"
    assert decode_untrusted(msgpack.packb(items)) == service_address()


def test_the_largest_record_is_far_below_the_bound() -> None:
    largest = service_address(
        "n" * 63,
        group="g" * 63,
        ports=tuple(ServicePort(n, n) for n in range(60_000, 60_000 + MAX_SERVICE_PORTS)),
        host_weights=tuple((f"{n:03}{'h' * 60}", MAX_WEIGHT) for n in range(MAX_HOST_WEIGHTS)),
    )
    assert len(encode(largest)) < MAX_RECORD_BYTES / 4


def test_keys_and_what_a_release_before_makes_of_these_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    some = bytes.fromhex(N1)
    assert key_of(service_range()) == (
        CLUSTER_SCOPE,
        b"w" + some + bytes([10, 9, 1, 0, 24]) + bytes.fromhex("fd0000090001") + bytes(10) + bytes([64]),
    )
    assert key_of(service_address()) == (
        CLUSTER_SCOPE,
        b"v" + some + bytes([10, 9, 1, 5]) + bytes.fromhex("fd0000090001") + bytes(9) + bytes([5]),
    )
    encoded = [encode(one) for one in (service_range(), service_address())]
    monkeypatch.setattr("netagent.registry.record_codec._READERS", {})
    assert [decode_untrusted(one) for one in encoded] == [Unknown(12, encoded[0]), Unknown(13, encoded[1])]


# -- in force -----------------------------------------------------------------------------------------------------


class Hosts:
    """Three hosts' logs, and the view of the first host."""

    def __init__(self, *records: tuple[HostId, Record]) -> None:
        self.writers = {owner: Writer(owner) for owner in (H1, H2, H3)}
        self.view = RegistryView(H1)
        self.put(*records)

    def put(self, *records: tuple[HostId, Record]) -> None:
        for owner, record in records:
            self.view = self.view.with_entries(self.writers[owner].put(record))
        self.view.check_invariants()

    def delete(self, owner: HostId, record: Record) -> None:
        self.view = self.view.with_entries(self.writers[owner].delete(record))
        self.view.check_invariants()

    def ranges(self, network_id: Any = N1) -> list[tuple[HostId, tuple[str, ...]]]:
        return [(one.owner, one.record.subnets) for one in self.view.service_ranges(network_id)]

    def owners(self, service: ServiceKey = WEB) -> list[HostId]:
        return [one.owner for one in self.view.service_addresses(N1).get(service, ())]

    def why(self) -> list[str]:
        return [one.text for one in self.view.conflicts]


def test_a_service_has_its_address_while_network_range_and_record_are_there() -> None:
    some = Hosts((H1, network()), (H2, service_range()), (H2, service_address()))
    assert some.owners() == [H2]
    found = some.view.service_by_address("10.9.1.5")
    assert found is not None
    assert found is some.view.service_by_address("fd00:9:1::5")
    assert (found.owner, found.network_id, found.service) == (H2, N1, WEB)
    some.delete(H2, service_range())
    assert some.owners() == []
    assert some.view.service_by_address("10.9.1.5") is None
    some.put((H2, service_range()))
    assert some.owners() == [H2]
    some.put((H3, RemovalRecord(N1)))
    assert (some.owners(), some.ranges()) == ([], [])
    assert some.why() == [], "a network that was removed needs no cure"


def test_what_was_made_on_both_sides_of_a_cut_is_in_force_and_names_give_the_first() -> None:
    some = Hosts((H1, network()), (H2, service_range(1)), (H2, service_address(within=1)))
    some.put((H1, service_range(2)), (H1, service_address(offset=9, within=2)))
    assert some.ranges() == [(H1, subnets_of(2)), (H2, subnets_of(1))]
    assert some.owners() == [H1, H2]
    assert some.view.service_by_address("10.9.1.5") == some.view.service_addresses(N1)[WEB][1]
    some.delete(H1, service_address(offset=9, within=2))
    assert some.owners() == [H2]


@pytest.mark.parametrize(
    ("subnets", "why"),
    [
        (("10.9.1.0/24",), "do not fit"),
        (("10.9.1.0/25", "fd00:9:1::/64"), "do not fit"),
        (("10.1.0.0/24", "fd00:9:1::/64"), "it overlaps network app"),
        (("10.2.0.0/24", "fd00:9:1::/64"), "it overlaps network db"),
        (("192.0.2.0/24", "fd00:9:1::/64"), "192.0.2.1 is the address of host h1"),
        (("10.9.1.0/24", "fd00::/64"), "fd00::1 is the address of host h1"),
    ],
)
def test_a_range_fits_its_network_and_has_the_addresses_of_nothing_else(
    subnets: tuple[str, ...], why: str
) -> None:
    some = Hosts((H1, network()), (H1, network(N2, "db", subnets=("10.2.0.0/20",))), (H1, host("h1")))
    some.put((H2, ServiceRangeRecord(N1, subnets)))
    assert some.ranges() == []
    assert [one for one in some.why() if why in one]


def test_a_range_ends_when_a_network_or_a_host_comes_to_its_place_and_is_back_after() -> None:
    some = Hosts((H1, network()), (H2, service_range()), (H2, service_address()))
    for rival in (network(N3, "late", subnets=("10.9.0.0/16",)), host("h3", underlay="10.9.1.77")):
        some.put((H3, rival))
        assert (some.ranges(), some.owners()) == ([], [])
        some.delete(H3, rival)
        assert (some.ranges(), some.owners()) == ([(H2, subnets_of(1))], [H2])


def test_of_two_ranges_the_smaller_network_wins() -> None:
    some = Hosts((H1, network()), (H1, network(N2, "db", subnets=("10.2.0.0/24", "fd00:2::/64"))))
    some.put((H1, ServiceRangeRecord(N2, subnets_of(1))))
    assert some.ranges(N2) == [(H1, subnets_of(1))]
    some.put((H3, service_range()))
    assert (some.ranges(N1), some.ranges(N2)) == ([(H3, subnets_of(1))], [])
    assert "it overlaps the one of network app" in some.why()[0]


def test_no_host_supersedes_the_ranges_of_others() -> None:
    """However many a member writes: of each owner the first come in turn."""
    some = Hosts((H1, network()), (H3, service_range(250)), (H3, service_address(within=250)))
    some.put(*((H2, service_range(number)) for number in range(1, 100)))
    assert some.ranges() == [(H2, subnets_of(number)) for number in (1, 2, 3)] + [(H3, subnets_of(250))]
    assert some.owners() == [H3]
    assert len(some.why()) == 1, "the others are counted, not listed"


def test_a_range_that_two_hosts_repeat_is_one_range() -> None:
    some = Hosts((H1, network()), *((owner, service_range()) for owner in (H3, H2)))
    assert some.ranges() == [(H2, subnets_of(1))]
    some.delete(H2, service_range())
    assert some.ranges() == [(H3, subnets_of(1))]
    assert some.why() == []


def test_an_address_belongs_to_the_first_of_the_hosts_that_claim_it() -> None:
    some = Hosts((H1, network()), (H2, service_range()), (H3, service_address()))
    some.put((H2, service_address("db")))
    assert (some.owners(), some.owners(ServiceKey("db"))) == ([], [H2])
    found = some.view.service_by_address("10.9.1.5")
    assert found is not None
    assert found.service == ServiceKey("db")
    assert "10.9.1.5 belongs to host" in some.why()[0]
    some.delete(H2, service_address("db"))
    assert some.owners() == [H3]


@pytest.mark.parametrize(
    "addresses",
    [
        ("10.9.1.5", "fd00:9:1::6"),  # two offsets
        ("10.9.1.5", "fd00:9:2::5"),  # outside
        ("10.9.1.5",),  # half
        ("10.9.1.1", "fd00:9:1::1"),  # no endpoint may have this offset
        ("10.9.1.255", "fd00:9:1::ff"),
        ("10.1.0.5", "fd00:1::5"),  # of the network itself
        ("192.0.2.1", "fd00::1"),  # of a host
        ("8.8.8.8", "2001:4860::8"),
    ],
)
def test_an_address_that_is_no_place_in_a_range_claims_nothing(addresses: tuple[str, ...]) -> None:
    """Otherwise a member with a small id could take the addresses of others by records that are never in force."""
    some = Hosts((H1, network()), (H2, service_range()), (H3, service_address()))
    some.put((H1, service_address("evil", addresses=addresses)))
    assert some.owners() == [H3]
    assert some.owners(ServiceKey("evil")) == []
    assert len(some.why()) == 1


def test_an_address_follows_its_record() -> None:
    some = Hosts((H1, network()), (H2, service_range()), (H2, service_address()))
    some.put((H2, service_address(balance=Balance.ZONE)))
    assert some.view.service_addresses(N1)[WEB][0].record.balance is Balance.ZONE
    some.put((H2, service_address("web", group="shop")))
    assert (some.owners(), some.owners(ServiceKey("web", "shop"))) == ([], [H2])


def test_nothing_of_an_evicted_host_is_in_force() -> None:
    some = Hosts((H1, network()), (H2, service_range()), (H2, service_address()))
    some.put((H1, ForgetRecord(H2, settled=True)))
    assert (some.ranges(), some.owners()) == ([], [])


def test_the_changelog_names_the_services_that_differ_and_no_others() -> None:
    some = Hosts((H1, network()), (H2, service_range()), (H2, service_address("db", 6)), (H2, host("h2")))
    before = some.view
    some.put((H2, service_address()), (H1, host("h1")))
    touched = some.view.touched_since(before)
    assert touched is not None
    assert touched.service_addresses == {(N1, WEB)}
    before = some.view
    some.delete(H2, service_range())
    touched = some.view.touched_since(before)
    assert touched is not None
    assert touched.service_addresses == {(N1, WEB), (N1, ServiceKey("db"))}


# -- bounds -------------------------------------------------------------------------------------------------------


def test_of_one_host_so_many_are_in_force_and_others_keep_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_rules, "MAX_SERVICE_ADDRESSES", 10)
    some = Hosts((H1, network()), (H2, service_range()), (H2, service_address("mine", 200)))
    flood = [service_address(f"s{offset}", offset) for offset in range(2, 40)]
    for one in flood[::-1]:
        some.put((H3, one))
    assert [key.name for key in sorted(some.view.service_addresses(N1))] == sorted(
        ["mine", *(f"s{offset}" for offset in range(2, 12))]
    )
    assert [one for one in some.why() if "28 addresses of services" in one]
    for one in flood[:20]:
        some.delete(H3, one)
    assert len(some.view.service_addresses(N1)) == 11
    for one in flood[20:30]:
        some.delete(H3, one)
    assert len(some.view.service_addresses(N1)) == 9


def test_a_flood_costs_what_it_is_long() -> None:
    """20,000 addresses of one service, in pieces as they arrive: the last piece costs little more than the first."""
    subnets = ("10.80.0.0/12", "fd00:9::/64")
    some = Hosts(
        (H1, network(subnets=("10.64.0.0/12", "fd00:1::/64"))), (H2, ServiceRangeRecord(N1, subnets))
    )
    entries = [
        entry(H3, ServiceAddressRecord(N1, WEB, addresses_of(subnets, number + 2)), number + 1)
        for number in range(20_000)
    ]
    before = some.view.with_entries(event(H3, *entries[:-40]))
    assert len(before.service_addresses(N1)[WEB]) == service_rules.MAX_SERVICE_ADDRESSES
    first, last = event(H3, *entries[:40]), event(H3, *entries[-40:])
    usual = instructions_of(some.view.with_entries, first, most=2_000_000)
    assert instructions_of(before.with_entries, last, most=2_000_000) < 2 * usual


@pytest.mark.parametrize(
    ("subnet", "expected"),
    [("10.1.0.0/20", (4, 20)), ("10.0.0.0/8", (4, 12)), ("10.0.0.0/30", (4, 30)), ("fd00::/64", (6, 64))],
)
def test_a_range_has_as_many_offsets_as_its_network(subnet: str, expected: tuple[int, int]) -> None:
    assert range_prefix(subnet) == expected


def test_a_network_of_the_largest_size_has_a_range() -> None:
    some = Hosts((H1, network(subnets=("10.0.0.0/9",))), (H1, ServiceRangeRecord(N1, ("172.16.0.0/12",))))
    assert some.ranges() == [(H1, ("172.16.0.0/12",))]
    assert MAX_SERVICE_RANGES == 4
