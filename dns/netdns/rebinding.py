"""Addresses that no server outside has to give: a name of a stranger's must not lead to what is inside.

A page from evil.example may read what evil.example answers, and if that name has the address 127.0.0.1 for a moment,
the page reads what listens there. So an answer of upstream's with such an address in ANSWER is replaced by an empty
one.

Of loopback that is 127.0.0.1, and 0.0.0.0, which Linux takes for it, and the same of IPv6. The rest of 127.0.0.0/8
passes: block lists of mail servers answer with 127.0.0.2 and others (RFC 5782 2.1).

Pure.
"""

from __future__ import annotations

from typing import Final

_MAPPED: Final = bytes(10) + b"\xff\xff"
_LOOPBACK: Final = frozenset({bytes(4), bytes([127, 0, 0, 1]), bytes(16), bytes(15) + b"\x01"})


def unmapped(address: bytes) -> bytes:
    """Return the IPv4 address inside an IPv4-mapped IPv6 address; any other as it is."""
    return address[12:] if len(address) == 16 and address.startswith(_MAPPED) else address


def is_loopback(address: bytes) -> bool:
    """Say whether packets to this address (4 or 16 octets) stay in the container."""
    return unmapped(address) in _LOOPBACK
