"""Reverse names against the standard library's spelling of them; resolv.conf."""

from __future__ import annotations

import ipaddress
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from fakes.names import subnet
from fakes.work import instructions_of
from hypothesis import given
from hypothesis import strategies as st

from netagent.resolver.reverse import parse_reverse
from netagent.resolver.system.host_servers import parse_servers_untrusted, read_servers


def labels_of(name: str) -> tuple[bytes, ...]:
    return tuple(label.encode() for label in name.split("."))


@given(st.ip_addresses())
def test_whole_addresses(address: IPv4Address | IPv6Address) -> None:
    found = parse_reverse(labels_of(address.reverse_pointer))
    assert found is not None
    assert found.address == address.packed


@given(
    st.lists(st.binary(min_size=1, max_size=4), max_size=40), st.sampled_from(("in-addr.arpa", "ip6.arpa"))
)
def test_any_labels_are_read(labels: list[bytes], tree: str) -> None:
    found = parse_reverse((*labels, *labels_of(tree)))
    assert found is not None
    assert found.junk_labels + found.prefix_bits // found.label_bits == len(labels)
    assert found.prefix < 1 << max(found.prefix_bits, 1)


@given(st.ip_addresses(), st.integers(0, 128), st.integers(0, 32), st.ip_addresses())
def test_overlap_is_that_of_networks(
    address: IPv4Address | IPv6Address, prefix: int, kept: int, other: IPv4Address | IPv6Address
) -> None:
    prefix = min(prefix, address.max_prefixlen)
    network = ipaddress.ip_network((address, prefix), strict=False)
    labels = labels_of(other.reverse_pointer)
    part = labels[-(min(kept, len(labels) - 2) + 2) :]
    found = parse_reverse(part)
    assert found is not None
    if found.prefix_bits and network.version == other.version:
        asked = ipaddress.ip_network((other, found.prefix_bits), strict=False)
        assert found.overlaps(subnet(str(network))) == asked.overlaps(network)
    else:
        assert not found.overlaps(subnet(str(network)))


@pytest.mark.parametrize(
    ("network", "labels"),
    [
        ("10.0.0.0/8", 3),
        ("10.160.0.0/20", 5),
        ("10.1.2.0/24", 5),
        ("10.1.2.0/28", 5),
        ("fd00::/64", 18),
        ("fd00::/126", 33),
    ],
)
def test_zones_end_on_a_label(network: str, labels: int) -> None:
    found = parse_reverse(labels_of(ipaddress.ip_network(network).network_address.reverse_pointer))
    assert found is not None
    assert found.zone_labels(subnet(network)) == labels


def test_other_names_are_none() -> None:
    assert parse_reverse(()) is None
    assert parse_reverse((b"arpa",)) is None
    assert parse_reverse((b"10", b"in-addr", b"com")) is None


def test_servers_are_read_like_the_c_library_does() -> None:
    text = (
        "# c\nsearch a b\nnameserver 192.0.2.1\n nameserver\t2001:db8::1 junk\nnameserver bad\nnameserver\n"
    )
    assert parse_servers_untrusted(text + "nameserver 192.0.2.1\nnameserver fe80::1%eth0\n") == (
        "192.0.2.1",
        "2001:db8::1",
        "fe80::1%eth0",
    )


def test_a_file_that_is_not_there_says_nothing(tmp_path: Path) -> None:
    assert read_servers(tmp_path / "resolv.conf") is None
    (tmp_path / "resolv.conf").write_bytes(b"\xff\xfenameserver\n" * 9)
    assert read_servers(tmp_path / "resolv.conf") == ()


@given(st.text(max_size=200))
def test_any_text_is_read(text: str) -> None:
    assert len(parse_servers_untrusted("nameserver 192.0.2.1\n" + text)) >= 1


@pytest.mark.parametrize(
    "line", ["nameserver x\n", "nameserver ::x\n", "nameserver ::%x\n", "\n", "a ", "nameserver\f"]
)
def test_a_file_costs_what_its_octets_cost(line: str, tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(line * (2**20 // len(line)))
    instructions_of(read_servers, path, most=60 * 64 * 1024)
