"""Record data as octets: the vectors of RFC 9460 (appendix D.2), and what dnspython reads."""

from __future__ import annotations

import struct

import dns.rdata
import dns.rdataclass
import dns.rdatatype
import pytest

from netdns import constants as c
from netdns import name, rdata
from netdns.errors import UsageError

FOO = name.from_text("foo.example.com")
PORT_53 = struct.pack("!H", 53)


@pytest.mark.parametrize(
    ("priority", "target", "parameters", "octets"),
    [
        # Figure 2: AliasMode; 3: TargetName is "."; 4: a port.
        (0, FOO, {}, "000003666f6f076578616d706c6503636f6d00"),
        (1, name.ROOT, {}, "000100"),
        (16, FOO, {c.KEY_PORT: PORT_53}, "001003666f6f076578616d706c6503636f6d00000300020035"),
        # Figure 7: two IPv6 hints.
        (
            1,
            FOO,
            {c.KEY_IPV6HINT: rdata.aaaa("2001:db8::1") + rdata.aaaa("2001:db8::53:1")},
            "000103666f6f076578616d706c6503636f6d000006002020010db800000000000000000000000120010db8000000000000000000530001",
        ),
        # Figure 9, without its `mandatory`: keys are written in rising order, whatever their order before.
        (
            16,
            name.from_text("foo.example.org"),
            {c.KEY_IPV4HINT: rdata.a("192.0.2.1"), c.KEY_ALPN: rdata.alpn([b"h2", b"h3-19"])},
            "001003666f6f076578616d706c65036f726700000100090268320568332d313900040004c0000201",
        ),
    ],
)
def test_svcb_vectors(priority: int, target: bytes, parameters: dict[int, bytes], octets: str) -> None:
    assert rdata.svcb(priority, target, parameters).hex() == octets


def test_a_client_reads_a_whole_https_record() -> None:
    parameters = {
        c.KEY_ALPN: rdata.alpn([b"h2", b"h3"]),
        c.KEY_NO_DEFAULT_ALPN: b"",
        c.KEY_PORT: struct.pack("!H", 8443),
        c.KEY_IPV4HINT: rdata.a("10.0.0.1"),
        c.KEY_IPV6HINT: rdata.aaaa("fd00::1"),
    }
    wire = rdata.svcb(1, FOO, parameters)
    theirs = dns.rdata.from_wire(dns.rdataclass.IN, dns.rdatatype.HTTPS, wire, 0, len(wire))
    assert (
        theirs.to_text() == '1 foo.example.com. alpn="h2,h3" no-default-alpn port="8443" '
        'ipv4hint="10.0.0.1" ipv6hint="fd00::1"'
    )


def test_no_default_protocol_without_any_other_is_refused() -> None:
    with pytest.raises(UsageError, match="without alpn"):
        rdata.svcb(1, FOO, {c.KEY_NO_DEFAULT_ALPN: b""})
