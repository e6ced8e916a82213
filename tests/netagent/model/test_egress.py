"""What `--egress` takes: each text has one meaning, and each meaning one text."""

from __future__ import annotations

import re
from contextlib import suppress
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netagent.model.egress import (
    MAX_TARGET_CHARS,
    MAX_TARGETS,
    EgressTarget,
    may_reach,
    parse_egress,
    parse_target,
    place_of,
    text_of,
)

CIDRS = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.integers(0, 32)), st.tuples(st.ip_addresses(v=6), st.integers(0, 128))
)


def masked(address: object, length: int) -> str:
    return str(ip_network(f"{address}/{length}", strict=False))


TARGETS = st.builds(
    lambda cidr, port, protocol: EgressTarget(masked(*cidr), port, protocol if port else None),
    CIDRS,
    st.none() | st.integers(1, 65535),
    st.sampled_from((None, "tcp", "udp")),
)
EGRESSES = st.none() | st.lists(TARGETS, max_size=8).map(lambda all_: tuple(sorted(set(all_), key=place_of)))


@given(EGRESSES)
def test_the_text_is_read_as_what_it_was_written_of(egress: tuple[EgressTarget, ...] | None) -> None:
    assert parse_egress(text_of(egress)) == egress
    assert all(len(one.text) <= MAX_TARGET_CHARS for one in egress or ())


@given(st.text(max_size=80) | st.from_regex(r"[0-9a-f:./\[\]]{1,40}", fullmatch=True))
def test_any_other_text_is_refused_or_has_a_canonical_form(text: str) -> None:
    target = None
    with suppress(ValueError):
        target = parse_target(text)
    assert target is None or parse_target(target.text) == target


@pytest.mark.parametrize(
    ("typed", "canonical"),
    [
        ("open", "open"),
        ("none", "none"),
        ("192.0.2.1", "192.0.2.1/32"),
        ("192.0.2.0/24:443", "192.0.2.0/24:443"),
        ("192.0.2.7:53/udp, 192.0.2.0/24:443/tcp", "192.0.2.0/24:443/tcp,192.0.2.7/32:53/udp"),
        ("2001:DB8::/32", "2001:db8::/32"),
        ("[2001:db8::]:443", "[2001:db8::/128]:443"),
        ("[2001:db8::/32]:443/tcp,[2001:db8::/32]:443/tcp", "[2001:db8::/32]:443/tcp"),
    ],
)
def test_operators_may_write_it_shorter(typed: str, canonical: str) -> None:
    assert text_of(parse_egress(typed)) == canonical


@pytest.mark.parametrize(
    ("typed", "reason"),
    [
        ("", "is no address"),
        ("open,192.0.2.1", "'open' is no address"),
        ("example.org:443", "'example.org:443' is no address"),
        ("192.0.2.1/24", "has bits beyond its prefix: write 192.0.2.0/24"),
        ("192.0.2.1:0", "has no port 0"),
        ("192.0.2.1:70000", "has no port 70000"),
        ("192.0.2.1:443/sctp", "is no address"),
        ("192.0.2.1:٤", "is no address"),
        ("fe80::1%eth0", "names a device"),
        ("1" * 65, "is too long"),
        (",".join(["192.0.2.1"] * (MAX_TARGETS + 1)), "at most 64"),
    ],
)
def test_what_is_wrong_is_named(typed: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        parse_egress(typed)


def test_what_it_lets_through() -> None:
    listed = parse_egress("192.0.2.0/24:443,198.51.100.7,[2001:db8::/32]:53/udp")
    assert may_reach(None, "203.0.113.1", 25)
    assert not may_reach((), "203.0.113.1", None)
    assert may_reach(listed, "192.0.2.200", 443)
    assert may_reach(listed, "192.0.2.200", None)
    assert not may_reach(listed, "192.0.2.200", 80)
    assert may_reach(listed, "198.51.100.7", 80)
    assert may_reach(listed, "2001:db8::5", 53)
    assert not may_reach(listed, "2001:db9::5", 53)
