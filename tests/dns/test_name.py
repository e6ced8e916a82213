"""Names against dnspython, and the pointer rules by hand."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import dns.exception
import dns.name
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netdns import name
from netdns.errors import FormatError, UsageError

labels = st.lists(st.binary(min_size=1, max_size=63), max_size=8).filter(
    lambda parts: sum(len(part) + 1 for part in parts) < 255
)
wire_names = labels.map(name.from_labels)


@given(labels)
def test_wire_and_text_agree_with_dnspython(parts: list[bytes]) -> None:
    wire = name.from_labels(parts)
    theirs = dns.name.Name([*parts, b""])
    assert wire == theirs.to_wire()
    assert name.labels(wire) == tuple(parts)
    assert name.from_text(theirs.to_text()) == wire
    assert dns.name.from_text(name.to_text(wire)) == theirs
    assert name.from_text(name.to_text(wire)) == wire


@given(st.text(st.characters(max_codepoint=200), max_size=80))
def test_any_text_is_a_name_or_a_usage_error(text: str) -> None:
    try:
        wire = name.from_text(text)
    except UsageError:
        return
    assert name.from_text(name.to_text(wire)) == wire


@pytest.mark.parametrize(
    "text", ["", "a..b", ".a", "a" * 64, "a\\", "a\\25", "a\\999", "ä", ".".join(["a" * 63] * 4)]
)
def test_texts_that_are_no_names(text: str) -> None:
    with pytest.raises(UsageError):
        name.from_text(text)


@given(st.binary(max_size=300), st.integers(0, 20))
def test_any_octets_are_a_name_or_a_format_error(wire: bytes, offset: int) -> None:
    try:
        read, end = name.read_untrusted(wire, offset)
    except FormatError:
        return
    assert offset < end <= len(wire)
    assert name.from_labels(name.labels(read)) == read
    assert dns.name.from_wire(wire, offset)[0].to_wire() == read


@given(wire_names, wire_names)
def test_a_zone_is_a_suffix_at_a_label_boundary(inner: bytes, zone: bytes) -> None:
    ours = name.is_within(inner.lower(), zone.lower())
    assert ours == dns.name.from_wire(inner, 0)[0].is_subdomain(dns.name.from_wire(zone, 0)[0])
    joined = name.from_labels((*name.labels(inner)[:1], *name.labels(zone))) if len(zone) < 150 else zone
    assert name.is_within(joined, zone)


def test_a_suffix_inside_a_label_is_no_zone() -> None:
    assert not name.is_within(b"\x06a\x04test\x00", b"\x04test\x00")


def test_pointers_go_backwards_only() -> None:
    wire = b"\x04test\x00" + b"\x01a\xc0\x00" + b"\xc0\x06"
    assert name.read_untrusted(wire, 6) == (b"\x01a\x04test\x00", 10)
    assert name.read_untrusted(wire, 10) == (b"\x01a\x04test\x00", 12)
    for bad in (b"\xc0\x00", b"\x01a\xc0\x00", b"\xc0\x04\x00\x00\x00", b"\xc0", b"\x80", b"\x40", b""):
        with pytest.raises(FormatError):
            name.read_untrusted(bad, 0)


def test_a_name_of_255_octets_is_the_longest() -> None:
    longest = (b"\x3f" + b"a" * 63) * 3 + b"\x3d" + b"a" * 61 + b"\x00"
    assert len(longest) == 255
    assert name.read_untrusted(longest, 0) == (longest, 255)
    with pytest.raises(FormatError):
        name.read_untrusted(longest.replace(b"\x3d", b"\x3e").replace(b"\x00", b"a\x00"), 0)


@given(st.ip_addresses())
def test_reverse_names(address: IPv4Address | IPv6Address) -> None:
    assert name.to_text(name.reverse(address)) == address.reverse_pointer + "."


def test_lower_folds_ascii_letters_and_no_length() -> None:
    wire = name.from_labels([bytes(range(65, 91)), b"\xc3\x84"])
    assert wire.lower() == name.from_labels([bytes(range(97, 123)), b"\xc3\x84"])
