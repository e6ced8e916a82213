"""Records as bytes: round trips, tolerance for later releases, and refusal of everything else."""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
from typing import Any, TypeVar

import msgpack
import pytest
from fakes.registry import endpoint, host, network
from hypothesis import given
from hypothesis import strategies as st

from netagent.config import load
from netagent.control.request_parsing import network_request
from netagent.endpoints.network_defaults import NetworkConstraints, plan_network
from netagent.errors import InputError
from netagent.feeds.host_rule import is_allowed
from netagent.interface.containers import NetworkCreateCommand
from netagent.model.allowed import is_particular, underlay_flaw
from netagent.model.egress import EgressTarget, parse_egress
from netagent.model.ids import ClusterId, EndpointId, HostId, KeyId, NetworkId
from netagent.model.locality import MAX_WEIGHT, AnswerOrder
from netagent.model.port import MAX_ALPN, MAX_ALPN_CHARS, MAX_ALPN_TOTAL_CHARS
from netagent.model.records import (
    MAX_ALIASES,
    MAX_TIME_S,
    AttachmentRecord,
    Drain,
    EncryptionRecord,
    EncryptionStage,
    EndpointRecord,
    ForgetRecord,
    GrantRecord,
    Group,
    Health,
    HealthNote,
    HostAddressRecord,
    HostRecord,
    NetworkRecord,
    Policy,
    Port,
    RemovalRecord,
    TunnelRecord,
)
from netagent.model.request import NetworkRequest
from netagent.model.ring_key import HeldKey, RingKeysRecord, SealedKey, SealedKeysRecord
from netagent.registry.record_codec import (
    MAX_RECORD_BYTES,
    RecordError,
    Unknown,
    decode_untrusted,
    encode,
    key_of,
)
from netgossip.types import CLUSTER_SCOPE

NET = NetworkId("ab" * 16)
LONG_ALPN = tuple(f"{number}{'a' * (MAX_ALPN_CHARS - 1)}" for number in range(MAX_ALPN))
TOO_MANY = MAX_ALPN_TOTAL_CHARS // (MAX_ALPN * MAX_ALPN_CHARS) + 1
AROUND = NetworkConstraints(ClusterId("ab" * 16), ("10.160.0.0/12",), (), (), "192.0.2.1", 1500, 80)

ids = st.binary(min_size=16, max_size=16).map(bytes.hex)
names = st.from_regex(r"\A[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?\Z").filter(lambda name: name != "node")
v4 = st.ip_addresses(v=4).map(str)
v6 = st.ip_addresses(v=6).map(str)
macs = (
    st.binary(min_size=6, max_size=6)
    .map(lambda b: bytes([b[0] & 0xFE | 2]) + b[1:])
    .map(lambda b: b.hex(":"))
)
texts = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=63)
labels = st.dictionaries(texts, texts, max_size=5).map(lambda pairs: tuple(sorted(pairs.items())))
cidrs = v4.map(lambda a: f"{a}/32").filter(lambda text: is_particular(ipaddress.ip_network(text)))
routes = st.sets(cidrs, max_size=5).map(lambda found: tuple(sorted(found)))
offsets = st.integers(0, 2**20)

drains = st.none() | st.builds(Drain, st.integers(0, MAX_TIME_S), st.sampled_from(["stop", "anna", "x" * 64]))
hosts = st.builds(
    HostRecord,
    name=names,
    public_key=st.binary(min_size=32, max_size=32),
    underlay=(v4 | v6).filter(lambda text: not underlay_flaw(text)),
    vxlan_port=st.integers(1, 65535),
    probe_address=v6.filter(lambda text: not underlay_flaw(text)),
    probe_mac=macs,
    zone=texts,
    agent_version=texts,
    going_down=st.booleans(),
    routes=routes,
    drain=drains,
    is_starting=st.booleans(),
)
networks = st.builds(
    NetworkRecord,
    network_id=ids,
    name=names,
    vni=st.integers(1, 2**24 - 1),
    subnets=st.sampled_from(
        [("10.1.0.0/20",), ("10.2.0.0/24", "fd00::/64"), ("fd00:1::/64",), ("10.0.0.0/30",)]
    ),
    mtu_bytes=st.integers(1280, 65465),
    internal=st.booleans(),
    policy=st.sampled_from(Policy),
    multicast=st.booleans(),
    host_access=st.booleans(),
    revision=st.integers(0, 2**32 - 1),
    feed_rules=st.none() | st.sampled_from([("*.example.com",), ("*.example.com", "shop.example.org")]),
    feed_labels=st.booleans(),
    refuses_shared_names=st.booleans(),
    service_addresses=st.booleans(),
).filter(lambda one: one.policy is Policy.OPEN or not (one.multicast or one.host_access))
grants = st.builds(
    lambda network_id, first, size, to, hop: GrantRecord(network_id, first, first + size, to, hop),
    ids,
    offsets,
    offsets,
    ids,
    st.integers(1, 1000),
)
host_addresses = st.builds(HostAddressRecord, ids, st.integers(2, 2**32 - 1), macs)
ports = st.builds(
    Port,
    names,
    st.integers(1, 65535),
    st.sampled_from(["tcp", "udp", "sctp"]),
    st.sampled_from([(), ("h2",), ("h3", "http/1.1")]),
)
endpoints = st.builds(
    EndpointRecord,
    endpoint_id=ids,
    network_id=ids,
    name=names,
    service=names,
    addresses=st.lists(v4 | v6, max_size=2).map(tuple),
    mac=macs,
    aliases=st.lists(names, max_size=4).map(tuple),
    ports=st.lists(ports, max_size=4).map(tuple),
    labels=labels,
    health=st.sampled_from(Health),
    links=st.sets(names | st.tuples(names, names).map(".".join), max_size=4).map(sorted).map(tuple),
    group=st.none()
    | st.builds(Group, names, st.none() | names, st.none() | st.binary(min_size=8, max_size=8)),
    drain=drains,
    health_note=st.none()
    | st.builds(
        HealthNote, st.integers(0, MAX_TIME_S), st.sampled_from(["", "http 503", "x" * 128]), st.booleans()
    ),
).filter(
    lambda one: one.group is None or one.group.service not in one.aliases
)  # as endpoints/records.py has it
records = st.one_of(
    hosts,
    networks,
    grants,
    host_addresses,
    endpoints,
    st.builds(RemovalRecord, ids),
    st.builds(AttachmentRecord, ids),
    st.builds(
        RingKeysRecord,
        st.binary(min_size=32, max_size=32),
        ids,
        st.dictionaries(ids, st.integers(0, 2**32 - 1), min_size=1, max_size=16).map(
            lambda held: tuple(HeldKey(KeyId(one), held[one]) for one in sorted(held))
        ),
        *[st.sets(ids, max_size=16).map(lambda found: tuple(map(KeyId, sorted(found)))) for _ in range(2)],
    ).map(lambda one: dataclasses.replace(one, primary=one.held[0].key_id)),
    st.builds(
        SealedKeysRecord,
        ids,
        st.integers(0, 2**32 - 1),
        st.integers(0, 255),
        st.dictionaries(ids, st.binary(max_size=48), min_size=1, max_size=4).map(
            lambda sealed: tuple(
                SealedKey(HostId(to), bytes(8), bytes(32), sealed[to]) for to in sorted(sealed)
            )
        ),
    ),
    st.builds(
        ForgetRecord,
        ids,
        settled=st.booleans(),
        disputed=st.none() | st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1)),
    ),
    st.builds(
        ForgetRecord,
        ids,
        settled=st.booleans(),
        revoked=st.just(True),
        key_ids=st.lists(ids.map(KeyId), max_size=16, unique=True).map(lambda found: tuple(sorted(found))),
    ),
    st.builds(TunnelRecord, st.binary(min_size=32, max_size=32), st.integers(1, 65535), st.integers(0, 255)),
    st.builds(
        EncryptionRecord,
        st.booleans(),
        st.integers(1, 2**31 - 1),
        st.integers(0, MAX_TIME_S),
        names,
        st.none() | st.just(HostId("ab" * 16)),
        st.sampled_from(EncryptionStage),
        st.booleans(),
    ),
)

HOST = HostRecord("h1", bytes(32), "192.0.2.1", 4789, "fd00::1", "02:00:00:00:00:01", routes=("10.0.0.0/8",))
NETWORK = NetworkRecord(NET, "app", 9_000_000, ("10.1.0.0/20", "fd00::/64"), 1450)
ENDPOINT = EndpointRecord(EndpointId("cd" * 16), NET, "web1", "web", ("10.1.0.2",), "02:ab:00:00:00:02")


@given(records)
def test_a_record_comes_back_as_it_was(record: Any) -> None:
    assert decode_untrusted(encode(record)) == record


@given(records)
def test_positions_of_a_later_release_are_ignored(record: Any) -> None:
    items = msgpack.unpackb(encode(record))
    items[1] = 7
    assert decode_untrusted(msgpack.packb([*items, "new", {"more": 1}])) == record


def test_a_kind_of_a_later_release_is_kept_as_bytes() -> None:
    data = msgpack.packb([99, 1, {"anything": [1, 2]}])
    assert decode_untrusted(data) == Unknown(99, data)


@given(st.binary(max_size=200))
def test_random_bytes_give_a_record_or_one_error(data: bytes) -> None:
    with contextlib.suppress(RecordError):
        decode_untrusted(data)


@given(records, st.data())
def test_damaged_records_give_a_record_or_one_error(record: Any, data: st.DataObject) -> None:
    encoded = bytearray(encode(record))
    for _ in range(data.draw(st.integers(1, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(RecordError):
        decode_untrusted(bytes(encoded[: data.draw(st.integers(0, len(encoded)))]))


def test_oversized_and_deeply_nested_values_are_refused() -> None:
    with pytest.raises(RecordError, match="limit"):
        decode_untrusted(bytes(MAX_RECORD_BYTES + 1))
    with pytest.raises(RecordError):
        decode_untrusted(b"\x91" * 20_000)


@pytest.mark.parametrize(
    ("record", "changes", "message"),
    [
        (HOST, {"name": "UPPER"}, "name"),
        (HOST, {"public_key": b"short"}, "public_key"),
        (HOST, {"probe_address": "10.0.0.1"}, "IPv6"),
        (HOST, {"probe_mac": "01:00:5e:00:00:01"}, "unicast"),
        (HOST, {"probe_mac": "00:00:00:00:00:00"}, "unicast"),
        (HOST, {"vxlan_port": 0}, "vxlan_port"),
        (HOST, {"zone": "a\x1b[2Jb"}, "shown"),
        (HOST, {"routes": ("10.1.0.0/16", "10.0.0.0/16")}, "sorted"),
        (HOST, {"routes": ("10.0.0.1/8",)}, "host bits"),
        (NETWORK, {"name": "node"}, "reserved"),
        (NETWORK, {"subnets": ()}, "subnets"),
        (NETWORK, {"subnets": ("10.0.0.0/31",)}, "no usable size"),
        (NETWORK, {"subnets": ("10.0.0.0/20", "fd00::/120")}, "no usable size"),
        (NETWORK, {"mtu_bytes": 1279}, "too small for IPv6"),
        (NETWORK, {"policy": Policy.LINKS, "multicast": True}, "excludes"),
        (NETWORK, {"policy": Policy.LINKS, "host_access": True}, "excludes"),
        (NETWORK, {"mtu_bytes": 65500}, "mtu"),
        (NETWORK, {"subnets": ("fd00::/64", "10.0.0.0/20")}, "IPv4 first"),
        (NETWORK, {"mtu_bytes": 100}, "mtu"),
        (NETWORK, {"network_id": "xyz"}, "identifier"),
        (NETWORK, {"feed_rules": ("b.example", "a.example")}, "sorted"),
        (NETWORK, {"feed_rules": ("a" * 254,)}, "feed_rules"),
        (ENDPOINT, {"addresses": ("10.0.0.1", "fd00::1", "fd00::2")}, "addresses"),
        (ENDPOINT, {"ports": (Port("web", 70000),)}, "ports"),
        (ENDPOINT, {"ports": (Port("web", 80, "icmp"),)}, "ports"),
        (ENDPOINT, {"aliases": ("bad name",)}, "aliases"),
        (ENDPOINT, {"labels": (("b", ""), ("a", ""))}, "sorted"),
        (ENDPOINT, {"addresses": ("FD00::1",)}, "short form"),
        (GrantRecord(NET, 5, 9, HostId("cd" * 16), 1), {"first": 10}, "above"),
        (GrantRecord(NET, 5, 9, HostId("cd" * 16), 1), {"hop": 0}, "hop"),
    ],
)
def test_what_others_would_refuse_does_not_leave_this_host(
    record: EndpointRecord | GrantRecord | HostRecord | NetworkRecord, changes: Any, message: str
) -> None:
    with pytest.raises(RecordError, match=message):
        encode(dataclasses.replace(record, **changes))


NO_SUBNETS = (
    *("0.0.0.0/0", "0.0.0.0/8", "127.0.0.0/8", "127.1.0.0/16", "126.0.0.0/7", "224.0.0.0/4", "239.1.0.0/16"),
    *(
        "169.254.0.0/16",
        "255.255.255.0/24",
        "::/0",
        "::/64",
        "fe80::/64",
        "ff05::/64",
        "::ffff:0:0/96",
        "ff00::/8",
    ),
)


@pytest.mark.parametrize("subnet", NO_SUBNETS)
def test_a_record_is_refused_whatever_subnet_a_request_is_refused_for(subnet: str) -> None:
    """One such forged record used to cut all containers of all hosts off from outside."""
    with pytest.raises(InputError):
        network_request(NetworkCreateCommand(name="app", subnets=[subnet]))
    with pytest.raises(InputError):
        plan_network(NetworkRequest(name="app", subnets=(subnet,)), NET, AROUND)
    with pytest.raises(RecordError):
        encode(dataclasses.replace(NETWORK, subnets=(subnet,)))


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "0.1.2.3", "127.0.0.1", "169.254.1.1", "224.0.0.1", "255.255.255.255"),
        *("::", "::1", "fe80::1", "ff02::1", "::ffff:10.0.0.1"),
    ],
)
def test_a_record_is_refused_whatever_address_a_host_may_not_advertise(address: str) -> None:
    with pytest.raises(RecordError, match="underlay"):
        encode(dataclasses.replace(HOST, underlay=address))
    with pytest.raises(RecordError, match="probe_address"):
        encode(dataclasses.replace(HOST, probe_address=address))
    if address not in ("0.0.0.0", "::"):
        with pytest.raises(InputError, match="advertise"):
            load(flags={"advertise": address}, environment={}, file=None)


@pytest.mark.parametrize(
    "route", ["0.0.0.0/0", "128.0.0.0/1", "127.0.0.0/8", "224.0.0.0/4", "::/0", "fe80::/64"]
)
def test_a_host_has_no_routes_that_would_refuse_every_network(route: str) -> None:
    with pytest.raises(RecordError, match="particular"):
        encode(dataclasses.replace(HOST, routes=(route,)))


def test_keys() -> None:
    network = bytes.fromhex("ab" * 16)
    assert key_of(HOST) == (CLUSTER_SCOPE, b"h")
    assert key_of(NETWORK) == (CLUSTER_SCOPE, b"n" + network)
    assert key_of(RemovalRecord(NET)) == (CLUSTER_SCOPE, b"r" + network)
    assert key_of(AttachmentRecord(NET)) == (CLUSTER_SCOPE, b"a" + network)
    assert key_of(HostAddressRecord(NET, 5, "06:00:00:00:00:01")) == (CLUSTER_SCOPE, b"o" + network)
    assert key_of(ENDPOINT) == (network, b"e" + bytes.fromhex("cd" * 16))
    assert key_of(ForgetRecord(HostId("cd" * 16))) == (CLUSTER_SCOPE, b"f" + bytes.fromhex("cd" * 16))
    grant = GrantRecord(NET, 0x102, 0x1FF, HostId("cd" * 16), 3)
    assert key_of(grant) == (CLUSTER_SCOPE, b"g" + network + b"\0\0\1\2\0\0\0\3")


def test_a_release_that_knows_no_revocation_reads_an_eviction() -> None:
    revoked = ForgetRecord(HostId("cd" * 16), settled=True, revoked=True, key_ids=(KeyId("ab" * 16),))
    read = decode_untrusted(msgpack.packb(msgpack.unpackb(encode(revoked))[:-3]))
    assert read == ForgetRecord(HostId("cd" * 16), settled=True)


@pytest.mark.parametrize(
    "fields",
    [
        [True, [], True, [b""]],
        [True, [], False, [], True],
        [True, [], True, [b"a" * 33]],
        [True, [], True, ["text"]],
        [True, [], True, [b"b", b"a"]],
        [True, [], True, [b"a", b"a"]],
        [True, [], True, [bytes([one]) for one in range(17)]],
        [True, [], False, [b"a"]],
        [True, [1, 2], True, []],
        [True, [], 1, []],
    ],
)
def test_a_revocation_that_contradicts_itself_or_is_too_large_is_refused(fields: list[object]) -> None:
    with pytest.raises(RecordError):
        decode_untrusted(msgpack.packb([7, 1, bytes(16), *fields]))


R = TypeVar("R", EndpointRecord, HostRecord, NetworkRecord)


def cut(record: R, last: int) -> R:
    """Read the record as a writer that does not know the `last` positions would have sent it."""
    read = decode_untrusted(msgpack.packb(msgpack.unpackb(encode(record))[:-last]))
    assert isinstance(read, type(record))
    return read


def test_a_release_that_does_not_know_starting_or_drains_reads_them_as_unhealthy() -> None:
    starting = endpoint(health=Health.STARTING)
    drained = endpoint(health=Health.HEALTHY, drain=Drain(1_700_000_000, "anna"))
    assert decode_untrusted(encode(starting)) == starting
    assert decode_untrusted(encode(drained)) == drained
    assert cut(starting, 5).health is Health.UNHEALTHY
    assert cut(drained, 3).health is Health.UNHEALTHY
    drained_host = host(drain=Drain(1_700_000_000, "anna"))
    assert decode_untrusted(encode(drained_host)) == drained_host
    assert cut(drained_host, 2) == host(going_down=True)
    assert cut(host(), 2) == host()


def test_a_release_that_does_not_know_that_a_host_starts_keeps_its_names_away() -> None:
    starting = host(going_down=True, is_starting=True)
    assert decode_untrusted(encode(starting)) == starting
    assert cut(starting, 1) == host(going_down=True)


def test_a_network_of_the_release_before_has_no_rules_for_feeds() -> None:
    plain = dataclasses.replace(NETWORK, feed_rules=None, feed_labels=True)
    ruled = dataclasses.replace(plain, feed_rules=("*.a.example", "b.example"), feed_labels=False)
    assert decode_untrusted(encode(ruled)) == ruled
    assert cut(ruled, 5) == plain


def test_a_network_with_values_of_a_later_release_is_read_and_its_rules_allow_nothing() -> None:
    rules = ("*.(a|b)", "*..", "Host(`a`)")
    later = dataclasses.replace(NETWORK, answer=AnswerOrder.NEAREST, feed_rules=rules)
    items = msgpack.unpackb(encode(later))
    assert items[12] == later.answer.value
    items[12] = "latency"
    found = decode_untrusted(msgpack.packb(items))
    assert found == dataclasses.replace(later, answer=AnswerOrder.SPREAD)
    assert decode_untrusted(encode(found)) == found, "a successor repeats the rules"
    assert not any(is_allowed(host, rules) for host in ("a", "a.b", "(a|b)", "x.(a|b)", "*.."))


def test_a_network_of_the_release_before_answers_shared_names() -> None:
    refusing = network(refuses_shared_names=True)
    assert decode_untrusted(encode(refusing)) == refusing
    assert cut(refusing, 3) == network()


def test_a_network_of_the_release_before_gives_no_service_an_address() -> None:
    giving = network(refuses_shared_names=True, service_addresses=True)
    assert decode_untrusted(encode(giving)) == giving
    assert cut(giving, 2) == network(refuses_shared_names=True)


def test_a_network_of_the_release_before_connects_everywhere() -> None:
    for text in ("none", "192.0.2.0/24:443,[2001:db8::/32]:53/udp"):
        held = network(egress=parse_egress(text))
        assert decode_untrusted(encode(held)) == held
        assert cut(held, 1) == network()


def test_an_egress_is_canonical_and_an_internal_network_has_none() -> None:
    one, other = EgressTarget("192.0.2.0/24"), EgressTarget("198.51.100.0/24", 443)
    for wrong in (
        network(egress=(other, one)),
        network(egress=(one, one)),
        network(egress=(EgressTarget("192.0.2.1/24"),)),
        network(egress=(EgressTarget("192.0.2.0/24", 0),)),
        network(egress=(EgressTarget("::/0", 1, "icmp"),)),
        network(egress=tuple(EgressTarget("::/0", port) for port in range(1, 66))),
        network(internal=True, egress=(one,)),
        network(internal=True, egress=()),
    ):
        with pytest.raises(RecordError, match="egress"):
            encode(wrong)


def test_the_reason_for_a_health_is_a_short_line() -> None:
    note = HealthNote(1_700_000_000, "http 503 from 8080/healthz, failed 3 of 3 times")
    sick = endpoint(health=Health.UNHEALTHY, health_note=note)
    assert decode_untrusted(encode(sick)) == sick
    for reason in ("x" * 129, "two\nlines"):
        with pytest.raises(RecordError, match="health note"):
            encode(endpoint(health_note=HealthNote(1, reason)))


@pytest.mark.parametrize("last", [1, 2, 3, 4, 5])
def test_a_record_of_an_earlier_release_has_what_it_says(last: int) -> None:
    assert cut(endpoint(), last) == endpoint()


def test_a_release_that_does_not_know_groups_has_their_services_as_aliases() -> None:
    grouped = endpoint(group=Group("shop", "db", b"12345678"), aliases=("one",))
    assert decode_untrusted(encode(grouped)) == grouped
    assert cut(grouped, 4) == endpoint(aliases=("one", "db"))
    same = endpoint(service="db", group=Group("shop", "db"))
    assert cut(same, 4) == endpoint(service="db")


def test_the_most_aliases_leave_no_room_for_the_service_of_a_group() -> None:
    most = tuple(f"a{number}" for number in range(MAX_ALIASES))
    grouped = endpoint(group=Group("shop", "db"), aliases=most)
    assert decode_untrusted(encode(grouped)) == grouped
    assert cut(grouped, 4) == endpoint(aliases=most)


def test_a_release_that_does_not_know_weights_or_protocols_reads_the_rest() -> None:
    spoken = Port("https", 443, "tcp", ("h2", "http/1.1"))
    assert cut(endpoint(weight=7, ports=(spoken,)), 1) == endpoint(ports=(spoken,))
    assert cut(network(answer=AnswerOrder.NEAREST), 6) == network()
    (kind, version, *fields) = msgpack.unpackb(encode(endpoint(ports=(spoken,))))
    assert fields[7] == [["https", 443, "tcp", ["h2", "http/1.1"]]]
    assert msgpack.unpackb(encode(endpoint(ports=(Port("http", 80),))))[9] == [["http", 80, "tcp"]]
    del kind, version


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (endpoint(weight=MAX_WEIGHT + 1), "weight"),
        (endpoint(weight=-1), "weight"),
        (endpoint(ports=(Port("a", 1, alpn=("H2",)),)), "ports"),
        (endpoint(ports=(Port("a", 1, alpn=("a" * (MAX_ALPN_CHARS + 1),)),)), "ports"),
        (endpoint(ports=tuple(Port("a", n, alpn=LONG_ALPN) for n in range(1, TOO_MANY + 1))), "ports"),
        (endpoint(ports=(Port("a", 1, alpn=tuple(f"a{n}" for n in range(MAX_ALPN + 1))),)), "ports"),
    ],
)
def test_weights_and_protocols_are_bounded(wrong: EndpointRecord, field: str) -> None:
    with pytest.raises(RecordError, match=field):
        encode(wrong)


def test_a_host_of_the_release_before_that_encrypts_is_fenced() -> None:
    before = msgpack.packb([19, 1, True, 1, 5, "root"])
    assert decode_untrusted(before) == EncryptionRecord(
        True, 1, 5, "root", stage=EncryptionStage.FENCED, is_reached=True
    )
