from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netagent.control import conversion, request_parsing
from netagent.control.conversion import fields_untrusted
from netagent.control.request_parsing import attach_untrusted
from netagent.errors import InputError
from netagent.interface.catalogue import COMMANDS
from netagent.interface.cluster import InviteCommand
from netagent.interface.containers import NetworkCreateCommand, PublishCommand
from netagent.model.publication import Publication
from netagent.model.records import Link, Policy, Port
from netagent.model.request import NetworkRequest

ATTACH = {"target": "netns:web1", "network": "app"}


def network_untrusted(value: dict[str, Any]) -> NetworkRequest:
    return request_parsing.network_request(fields_untrusted(NetworkCreateCommand, value))


def invite_untrusted(value: dict[str, Any]) -> tuple[float, int]:
    request = fields_untrusted(InviteCommand, value)
    return request.ttl_s, request.uses


def test_a_full_attach_request() -> None:
    parsed = attach_untrusted(
        {
            **ATTACH,
            "name": "web1",
            "service": "web",
            "aliases": ["www"],
            "links": [{"service": "db", "alias": "database"}, {"service": "cache.infra"}],
            "ports": [{"name": "http", "number": 80}, {"number": 53, "protocol": "udp"}],
            "publish": ["8080:80/tcp"],
            "labels": {"b": "2", "a": "1"},
            "ip": ["FD00::0001", "10.0.0.9"],
            "mac": "02-AA-bb-00-00-01",
            "ifname": "eth7",
        }
    )
    assert parsed.links == (Link("db", "database"), Link("cache.infra", "cache"))
    assert parsed.ports == (Port("http", 80), Port("53", 53, "udp"))
    assert parsed.labels == (("a", "1"), ("b", "2"))
    assert parsed.addresses == ("10.0.0.9", "fd00::1")
    assert (parsed.mac, parsed.ifname, parsed.publish) == (
        "02:aa:bb:00:00:01",
        "eth7",
        (Publication(8080, 80),),
    )


def test_what_is_not_given_is_empty() -> None:
    parsed = attach_untrusted({**ATTACH, "mac": None, "links": None})
    assert (parsed.name, parsed.service, parsed.aliases, parsed.addresses, parsed.mac) == ("", "", (), (), "")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"target": "web1"}, "write netns:NAME"),
        ({"target": "netns:a/b"}, "does not name"),
        ({"target": "pid:0"}, "pid:PID"),
        ({"target": 5}, "target is not a text"),
        ({"network": ""}, "network is missing"),
        ({"name": "Web"}, "did you mean 'web'"),
        ({"name": "-x"}, "cannot be a name"),
        ({"netwrok": "app"}, "did you mean 'network'"),
        ({"zzz": 1}, "known are"),
        ({"aliases": "www"}, "not a list"),
        ({"aliases": ["a"] * 65}, "--alias is given 65 times; give it at most 64 times"),
        ({"aliases": [""]}, "--alias has an empty text"),
        ({"links": [{"alias": "x"}]}, "service is missing"),
        ({"links": [{"service": "a..b"}]}, "not the name of a service"),
        ({"links": ["db"]}, "not a list of objects"),
        ({"ports": [{"number": 0}]}, "a port's number cannot be 0; give a whole number from 1 to 65535"),
        ({"ports": [{"number": 1}] * 65}, "--expose is given 65 times"),
        ({"labels": {str(number): "x" for number in range(65)}}, "--label is given 65 times"),
        ({"ip": [""]}, "--ip has an empty text"),
        ({"ifname": "a\x1b"}, "--ifname is not a text of at most"),
        ({"ports": [{"name": "http"}]}, "number is missing"),
        ({"ports": [{"number": True}]}, "from 1 to 65535"),
        ({"ports": [{"number": 1, "protocol": "tpc"}]}, "use tcp"),
        ({"ports": [{"number": 443, "alpn": ["H2"]}]}, "'H2' is not an ALPN protocol such as h2 or http/1.1"),
        ({"ports": [{"number": 443, "alpn": [f"h{n}" for n in range(9)]}]}, "at most 8 different ALPN"),
        (
            {
                "ports": [
                    {"number": n, "alpn": [f"{one}{'a' * 31}" for one in range(8)]} for n in range(1, 18)
                ]
            },
            "the ALPN protocols of all ports have more than 4,096 characters",
        ),
        ({"ports": [{"number": 443, "alpn": "h2"}]}, "not a list"),
        ({"weight": -1}, "from 0 to 1000"),
        ({"weight": 1001}, "from 0 to 1000"),
        ({"weight": "10"}, "from 0 to 1000"),
        ({"labels": {"netagent.txt.a=b": "x"}}, "the key of a TXT record"),
        ({"labels": {"netagent.txt.a": "x" * 254}}, "at most 255 bytes long"),
        ({"labels": ["a=b"]}, "not an object"),
        ({"labels": {"": "x"}}, "label"),
        ({"labels": {"a": 1}}, "not a text"),
        ({"ip": ["10.0.0.1/24"]}, "prefix length"),
        ({"ip": ["10.0.0.1", "10.0.0.2"]}, "second IPv4"),
        ({"mac": "03:00:00:00:00:01"}, "MAC address"),
        ({"mac": "00:00:00:00:00:00"}, "MAC address"),
        ({"ifname": "a" * 16}, "name of an interface"),
        ({"ifname": "lo"}, "name of an interface"),
        ({"ifname": "a b"}, "name of an interface"),
        ({"name": "a\x1b"}, "printable"),
        ({"network": "x" * 5000}, "at most 4096"),
    ],
)
def test_attach_refuses(change: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as caught:
        attach_untrusted({**ATTACH, **change})
    assert says in str(caught.value)


@pytest.mark.parametrize("target", ["netns:a b", "docker:", "unit:", "host:x", "", "./x", "netns:"])
def test_targets_that_are_none(target: str) -> None:
    with pytest.raises(InputError):
        request_parsing.target_of(target)


@pytest.mark.parametrize(
    "target",
    ["netns:web1", "/proc/1/ns/net", "pid:1", "docker:web", "podman:w_1", "unit:a.service", "machine:m1"],
)
def test_targets(target: str) -> None:
    assert request_parsing.target_of(target) == target


def test_the_label_that_asks_for_an_address_is_true_or_false() -> None:
    for text in ("true", "false"):
        labels = attach_untrusted({**ATTACH, "labels": {"netagent.address": text}}).labels
        assert labels == (("netagent.address", text),)
    with pytest.raises(InputError, match=r"the label netagent\.address cannot be 'yes'; write true or false"):
        attach_untrusted({**ATTACH, "labels": {"netagent.address": "yes"}})


def test_rules_for_feeds_are_sorted() -> None:
    parsed = network_untrusted({"name": "db", "feed_rules": ["b.example", "*.a.example", "b.example"]})
    assert (parsed.feed_rules, parsed.feed_labels) == (("*.a.example", "b.example"), True)
    assert not parsed.refuses_shared_names
    assert network_untrusted({"name": "db", "shared_names": "refuse"}).refuses_shared_names
    assert not parsed.service_addresses
    assert network_untrusted({"name": "db", "service_addresses": "on"}).service_addresses
    parsed = network_untrusted({"name": "db", "no_feed_labels": True})
    assert (parsed.feed_rules, parsed.feed_labels) == (None, False)


def test_a_network_request() -> None:
    parsed = network_untrusted(
        {
            "name": "db",
            "subnets": ["fd01::/64", "10.170.0.0/24"],
            "mtu_bytes": 1400,
            "internal": True,
            "policy": "links",
        }
    )
    assert parsed.subnets == ("10.170.0.0/24", "fd01::/64")
    assert (parsed.mtu_bytes, parsed.internal, parsed.policy, parsed.multicast) == (
        1400,
        True,
        Policy.LINKS,
        False,
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": ""}, "name is missing"),
        ({"name": "node"}, "are the names of hosts"),
        ({"name": "a.b"}, "cannot be"),
        ({"subnets": ["10.0.0.5/24"]}, "did you mean 10.0.0.0/24"),
        ({"subnets": ["x"]}, "not a subnet"),
        ({"subnets": ["10.0.0.0/31"]}, "no usable size"),
        ({"subnets": ["0.0.0.0/0"]}, "no usable size"),
        ({"subnets": ["fd00::/120"]}, "no usable size"),
        ({"subnets": ["10.0.0.0/24", "10.1.0.0/24"]}, "second IPv4"),
        ({"subnets": ["127.0.0.0/8"]}, "not for hosts"),
        ({"subnets": ["224.0.0.0/8"]}, "not for hosts"),
        ({"subnets": ["fe80::/64"]}, "not for hosts"),
        ({"mtu_bytes": 100}, "--mtu cannot be 100; give a whole number from 576 to 65535"),
        ({"subnets": ["x"] * 65}, "--subnet is given 65 times"),
        ({"internal": "yes"}, "true nor false"),
        ({"policy": "closed"}, "open or links"),
        ({"feed_rules": ["https://a.example"]}, "is no domain for --feed-rule"),
        ({"feed_rules": ["Shop.example.com"]}, "in lower case"),
        ({"feed_rules": ["a.example"] * 65}, "--feed-rule is given 65 times"),
    ],
)
def test_network_refuses(change: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as caught:
        network_untrusted({"name": "db", **change})
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"ttl_s": 0}, "use --ttl 1s to 30d"),
        ({"ttl_s": float("nan")}, "--ttl"),
        ({"ttl_s": 1e9}, "--ttl"),
        ({"ttl_s": "1h"}, "--ttl"),
        ({"ttl_s": True}, "--ttl"),
        ({"uses": 0}, "--uses cannot be 0"),
        ({"uses": 1001}, "from 1 to 1000"),
    ],
)
def test_invite_refuses(value: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as caught:
        invite_untrusted(value)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        {"mtu_bytes": 1},
        {"subnets": [""]},
        {"subnets": ["x\n"]},
        {"uses": 0},
        {"ttl_s": 0},
        {"aliases": [""]},
        {"links": [{"service": "x\n"}]},
        {"ports": [{"number": 0}]},
    ],
    ids=str,
)
def test_no_error_speaks_in_words_that_only_the_api_knows(value: dict[str, Any]) -> None:
    said = []
    for parse, base in (
        (network_untrusted, {"name": "app"}),
        (attach_untrusted, ATTACH),
        (invite_untrusted, {}),
    ):
        try:
            parse({**base, **value})
        except InputError as error:
            if "there is no field" not in error.message:
                said.append(str(error))
    assert len(said) == 1
    assert not [word for word in ("mtu_bytes", "subnets", "ttl_s", "aliases", "ports") if word in said[0]]


def test_invite_and_join() -> None:
    assert invite_untrusted({}) == (3600.0, 1)
    assert invite_untrusted({"ttl_s": 60, "uses": 5}) == (60.0, 5)
    assert request_parsing.seeds_of(["h1:7957", "[fd00::1]:7957"])
    for bad in ("h1:x", "a b"):
        with pytest.raises(InputError):
            request_parsing.seeds_of([bad])


@pytest.mark.parametrize("body", [b"{", b"[]", b"5", b"\xff", b'{"a":' * 100_000])
def test_bodies_that_are_no_object(body: bytes) -> None:
    with pytest.raises(InputError):
        conversion.object_untrusted(body)


@pytest.mark.parametrize("name", ["web\x1b[2J", "x" * 5000])
def test_fields_in_the_path_are_read_as_those_in_the_body(name: str) -> None:
    with pytest.raises(InputError, match="the endpoint is not a text of at most 4096 printable characters"):
        fields_untrusted(PublishCommand, {"port": "80:80"}, path={"endpoint": name})


def test_no_body_is_an_empty_object() -> None:
    assert conversion.object_untrusted(b"") == {}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    [
        "target",
        "network",
        "name",
        "service",
        "aliases",
        "links",
        "ports",
        "publish",
        "labels",
        "ip",
        "mac",
        "ifname",
        "subnets",
        "mtu_bytes",
        "internal",
        "policy",
        "multicast",
        "host_access",
        "feed_rules",
        "no_feed_labels",
        "shared_names",
        "service_addresses",
        "ttl_s",
        "uses",
        "addresses",
        "token",
        "cluster",
        "alias",
        "number",
    ]
)


@given(
    st.binary(max_size=200)
    | st.dictionaries(FIELDS, JSON, max_size=5).map(lambda value: json.dumps(value).encode())
)
def test_whatever_comes_is_a_request_or_an_input_error(body: bytes) -> None:
    try:
        value = conversion.object_untrusted(body)
    except InputError:
        return
    for command in COMMANDS:
        try:
            fields_untrusted(command, value)
        except InputError as error:
            assert str(error)  # noqa: PT017 - most examples are refused, some are not
    for parse in (attach_untrusted, network_untrusted):
        try:
            parse(value)
        except InputError as error:
            assert str(error)  # noqa: PT017 - as above


@pytest.mark.parametrize(
    ("text", "publication", "again"),
    [
        ("8080:80", Publication(8080, 80), "8080:80/tcp"),
        ("53:5353/UDP", Publication(53, 5353, "udp"), "53:5353/udp"),
        ("192.0.2.1:8080-8089:80-89/tcp", Publication(8080, 80, "tcp", 10, "192.0.2.1"), None),
        (
            "[2001:DB8:0::1]:1-3:1-3/udp",
            Publication(1, 1, "udp", 3, "2001:db8::1"),
            "[2001:db8::1]:1-3:1-3/udp",
        ),
        ("0.0.0.0:8080:80/tcp", Publication(8080, 80, address="0.0.0.0"), None),
        ("[::0]:8080:80", Publication(8080, 80, address="::"), "[::]:8080:80/tcp"),
        (
            "127.0.0.1:65535:65535",
            Publication(65535, 65535, address="127.0.0.1"),
            "127.0.0.1:65535:65535/tcp",
        ),
    ],
)
def test_a_published_port_is_read_and_written(text: str, publication: Publication, again: str | None) -> None:
    assert request_parsing.publication_of(text) == publication
    assert publication.text == (again or text)
    assert request_parsing.publication_of(publication.text) == publication


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("80", "is not a port of the host"),
        ("x:80", "is not a port of the host"),
        ("8080:80/icmp", "cannot be published"),
        ("8080:80/sctp", "cannot be published"),
        ("8080-8082:80-81", "different lengths"),
        ("8080:80-81", "different lengths"),
        ("8082-8080:82-80", "different lengths"),
        ("0:80", "not a port"),
        ("65530-65536:1-7", "not a port"),
        ("1-2000:1-2000", "2000 ports"),
        ("999.0.0.1:8080:80", "is not an address"),
        ("[::1]:8080:80", "ports cannot be published at ::1"),
    ],
)
def test_a_published_port_that_can_t_be(text: str, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        request_parsing.publication_of(text)


def test_one_port_of_the_host_is_published_once() -> None:
    with pytest.raises(
        InputError, match=r"8080:80/tcp and 8000-8099:8000-8099/tcp share a port|share a port"
    ):
        request_parsing.publications_of(["8080:80", "8000-8099:8000-8099"])
    assert (
        len(request_parsing.publications_of(["8080:80", "8080:80/udp", "192.0.2.1:81:81", "192.0.2.2:81:81"]))
        == 4
    )
