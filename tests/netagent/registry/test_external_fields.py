"""Records of external services and own names: round trips, and refusal of what no host should act on."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import msgpack
import pytest
from fakes.external import alias, at, data, service, state
from hypothesis import given
from hypothesis import strategies as st

from netagent.model.locality import MAX_WEIGHT
from netagent.model.records import (
    MAX_TURN,
    AddressState,
    DnsName,
    ExternalServiceRecord,
    ExternalStateRecord,
    FixedAddresses,
    Health,
    HostProgram,
    NameAlias,
    NameData,
    OwnNameRecord,
    Port,
    Resolution,
    TargetAddress,
)
from netagent.registry.external_fields import address_key, in_order
from netagent.registry.record_codec import (
    MAX_RECORD_BYTES,
    RecordError,
    Unknown,
    decode_untrusted,
    encode,
    key_of,
)
from netgossip.types import CLUSTER_SCOPE

ids = st.binary(min_size=16, max_size=16).map(bytes.hex)
names = st.from_regex(r"\A[a-z0-9]([a-z0-9_-]{0,20}[a-z0-9])?\Z")
outside = st.integers(1, 254).map(lambda n: f"203.0.113.{n}") | st.integers(1, 254).map(
    lambda n: f"2001:db8::{n:x}"
)
addresses = st.lists(outside, max_size=8).map(in_order)
ports = st.integers(1, 65535)
times = st.integers(0, 4_000_000_000)
accounts = st.sampled_from(["anna", "root", "x" * 64])
targets = st.one_of(
    st.builds(HostProgram, ports),
    st.builds(DnsName, st.lists(names, min_size=2, max_size=4).map(".".join), st.none() | ports),
    st.sets(st.builds(TargetAddress, outside, st.none() | ports), min_size=1, max_size=8).map(
        lambda some: FixedAddresses(tuple(sorted(some, key=address_key)))
    ),
)
services = st.builds(
    ExternalServiceRecord,
    service_id=ids,
    network_id=ids,
    name=names,
    target=targets,
    added_s=times,
    added_by=accounts,
    ports=st.lists(st.builds(Port, names, ports, st.sampled_from(["tcp", "udp", "sctp"])), max_size=4).map(
        tuple
    ),
    weight=st.integers(0, MAX_WEIGHT),
    checks=st.lists(st.sampled_from(["tcp:5432", "http:80/ fall=2"]), max_size=3).map(tuple),
    ttl_s=st.none() | st.integers(1, 86_400),
)
states = st.builds(
    ExternalStateRecord,
    service_id=ids,
    network_id=ids,
    turn=st.integers(0, MAX_TURN),
    states=addresses.flatmap(
        lambda some: st.tuples(
            *(
                st.builds(AddressState, st.just(one), st.sampled_from(Health), times, st.just("refused"))
                for one in some
            )
        )
    ),
    resolution=st.none()
    | st.builds(Resolution, addresses, st.integers(0, 86_400), st.sampled_from(["", "no such name"])),
    expired_s=st.none() | st.integers(1, 4_000_000_000),
)
labels = st.lists(names, min_size=1, max_size=4).map(".".join)
own_names = st.builds(
    OwnNameRecord,
    name_id=ids,
    network_id=ids,
    name=labels | labels.map("*.{}".format),
    value=st.builds(NameAlias, ids, names | st.tuples(names, names).map(".".join))
    | st.builds(NameData, addresses, st.lists(st.just("v=1"), max_size=2).map(tuple)).filter(
        lambda one: bool(one.addresses or one.texts)
    ),
    added_s=times,
    added_by=accounts,
)
records = st.one_of(services, states, own_names)


@given(records)
def test_a_record_comes_back_as_it_was_also_with_positions_of_a_later_release(record: Any) -> None:
    assert decode_untrusted(encode(record)) == record
    items = msgpack.unpackb(encode(record))
    assert decode_untrusted(msgpack.packb([*items, "new", {"more": 1}])) == record


@given(records, st.data())
def test_damaged_records_give_a_record_or_one_error(record: Any, data: st.DataObject) -> None:
    encoded = bytearray(encode(record))
    for _ in range(data.draw(st.integers(1, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(RecordError):
        decode_untrusted(bytes(encoded[: data.draw(st.integers(0, len(encoded)))]))


@pytest.mark.parametrize(
    ("record", "changes", "message"),
    [
        (service(), {"name": "*"}, "name"),
        (service(), {"target": FixedAddresses(())}, "missing"),
        (service(), {"target": at("203.0.113.51", "203.0.113.50")}, "sorted"),
        (service(), {"target": at(*(f"203.0.113.{n}" for n in range(1, 34)))}, "at most 32"),
        (service(), {"target": at("127.0.0.1")}, "loopback"),
        (service(), {"target": at("169.254.169.254")}, "link-local"),
        (service(), {"target": at("fe80::1")}, "link-local"),
        (service(), {"target": HostProgram(0)}, "target"),
        (service(), {"target": DnsName("Db.example.com")}, "domain name"),
        (service(), {"target": DnsName("a" * 254)}, "253"),
        (service(), {"checks": ("tcp:1",) * 9}, "checks"),
        (service(), {"checks": ("tcp:1\x1b[2J",)}, "shown"),
        (service(), {"weight": MAX_WEIGHT + 1}, "weight"),
        (service(), {"added_by": "anna\n"}, "shown"),
        (state(), {"turn": MAX_TURN + 1}, "turn"),
        (state(), {"resolution": Resolution(("127.0.0.1",), 5)}, "loopback"),
        (alias(), {"name": "*"}, "misspelt"),
        (alias(), {"name": "a.*.b"}, "not names"),
        (alias(), {"name": "a.b.c.d.e"}, "5 labels"),
        (alias(to="a.b.c"), {}, "not one name or two"),
        (data(), {}, "empty"),
        (data(addresses=("127.0.0.1",)), {}, "loopback"),
        (data(texts=("é" * 200,)), {}, "255 bytes"),
    ],
)
def test_what_no_host_should_act_on_does_not_leave_this_host(
    record: ExternalServiceRecord | ExternalStateRecord | OwnNameRecord, changes: Any, message: str
) -> None:
    with pytest.raises(RecordError, match=message):
        encode(dataclasses.replace(record, **changes))


def test_the_largest_record_is_far_below_the_bound() -> None:
    largest = service(
        name="n" * 63,
        target=at(*(f"2001:db8::{n:x}" for n in range(1, 33))),
        ports=tuple(Port("p" * 60 + str(n), n + 1) for n in range(64)),
        checks=("x" * 512,) * 8,
    )
    assert len(encode(largest)) < MAX_RECORD_BYTES / 2


def test_keys_and_what_a_release_before_makes_of_these_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    record = service()
    assert key_of(record) == (CLUSTER_SCOPE, b"x" + bytes.fromhex(record.service_id))
    assert key_of(state()) == (CLUSTER_SCOPE, b"s" + bytes.fromhex(state().service_id))
    assert key_of(alias()) == (CLUSTER_SCOPE, b"d" + bytes.fromhex(alias().name_id))
    encoded = [encode(one) for one in (record, state(), alias())]
    readers = "netagent.registry.record_codec._READERS"
    monkeypatch.setattr(readers, {})
    assert [decode_untrusted(one) for one in encoded] == [
        Unknown(kind, one) for kind, one in zip((9, 10, 11), encoded, strict=True)
    ]
