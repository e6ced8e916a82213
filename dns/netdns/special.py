"""Names that never leave a host, whichever server owns them: resolvers answer them locally by convention.

`localhost` is loopback, always. The rest are empty zones: their apex exists and holds nothing, and nothing exists
below it. Forwarding them would reveal the inside of this network to outside servers and get a late "no".

Two things are left to upstream, because a validating resolver in a container would take our unsigned answers for
forged ones. The DS of an empty zone belongs to the zone above (RFC 4035 3.1.4.1), which proves by it that the empty
one is not signed. And a single label is a short name only if an address is wanted; for other types (DS, DNSKEY, NS,
SOA) it is a top-level domain.
"""

from __future__ import annotations

import ipaddress
from typing import Final

from netdns import constants as c
from netdns import name, rdata
from netdns.source import Answer, Found, Name, NoData, NoSuchName, NotOurs, RRset, Zone

_TTL_S: Final = 3600
"""These answers never change; an hour spares clients the question."""
_SINGLE_LABEL_TTL_S: Final = 1
"""A short name that does not exist may be given to a container in the next second."""

_ADDRESS_TYPES: Final = frozenset({c.A, c.AAAA, c.HTTPS, c.SVCB, c.ANY})
"""Types that a client asks for in order to connect (RFC 9460 2.4.1: SVCB and HTTPS beside A and AAAA)."""

_LOCALHOST: Final = name.from_text("localhost")
_LOOPBACK: Final = {
    c.A: RRset(c.A, _TTL_S, (rdata.a("127.0.0.1"),)),
    c.AAAA: RRset(c.AAAA, _TTL_S, (rdata.aaaa("::1"),)),
}
_LOOPBACK_PTR: Final = RRset(c.PTR, _TTL_S, (rdata.ptr(_LOCALHOST),))
_LOOPBACK_REVERSE: Final = frozenset(
    name.reverse(ipaddress.ip_address(address)) for address in ("127.0.0.1", "::1")
)

_EMPTY_NAMES: Final = (
    "invalid",  # RFC 6761 6.4
    "local",  # RFC 6762 22.1: multicast DNS
    "onion",  # RFC 7686
    "alt",  # RFC 9476
    "home.arpa",  # RFC 8375
    "resolver.arpa",  # RFC 9462 6.5
)
_EMPTY_IPV4: Final = (  # RFC 6303 4.2, RFC 7793
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.2.0/24",
    "192.168.0.0/16",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "255.255.255.255/32",
)
_EMPTY_IPV6: Final = (  # RFC 6303 4.3 to 4.6; fc00::/7 and fe80::/10 do not end at a nibble
    "::/128",
    "::1/128",
    "fc00::/7",
    "fe80::/10",
    "2001:db8::/32",
)


def _reverse_zones(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> list[Name]:
    """Return the reverse zones that cover a network exactly: one, or several where it ends inside a label."""
    step = 8 if network.version == 4 else 4
    prefix = max(step, -(-network.prefixlen // step) * step)
    kept = 2 + prefix // step
    return [
        name.from_labels(name.labels(name.reverse(subnet.network_address))[-kept:])
        for subnet in network.subnets(new_prefix=prefix)
    ]


_EMPTY_ZONES: Final[frozenset[Name]] = frozenset(
    [name.from_text(text) for text in _EMPTY_NAMES]
    + [zone for text in (*_EMPTY_IPV4, *_EMPTY_IPV6) for zone in _reverse_zones(ipaddress.ip_network(text))]
)


def empty_zone(apex: Name, ttl_s: int = _TTL_S) -> Zone:
    """Return a zone as RFC 6303 3 describes it: its own name server, without a mailbox."""
    rname = name.from_text("nobody.invalid")
    return Zone(apex, rdata.soa(apex, rname, serial=1, minimum_s=ttl_s), ttl_s)


ROOT_ZONE: Final = empty_zone(name.ROOT, _SINGLE_LABEL_TTL_S)
"""For single labels that do not exist: a host's short names must not reach the root servers."""


def lookup_before(qname: Name, rtype: int) -> Answer:
    """Answer names that no source may override: localhost and names below it, and the reverse of loopback
    addresses."""
    if name.is_within(qname, _LOCALHOST):
        found = _LOOPBACK.get(rtype)
        return Found(found) if found else NoData(empty_zone(_LOCALHOST))
    if qname in _LOOPBACK_REVERSE:
        return Found(_LOOPBACK_PTR) if rtype == c.PTR else NoData(empty_zone(qname))
    return NotOurs()


def lookup_after(qname: Name, rtype: int) -> Answer:
    """Answer for a name that the source does not own, if it must not be forwarded."""
    for _, suffix in name.suffixes(qname):
        if suffix in _EMPTY_ZONES:
            if suffix != qname:
                return NoSuchName(empty_zone(suffix))
            return NotOurs() if rtype == c.DS else NoData(empty_zone(suffix))
    if rtype in _ADDRESS_TYPES and qname != name.ROOT and qname[qname[0] + 1] == 0:
        return NoSuchName(ROOT_ZONE)
    return NotOurs()
