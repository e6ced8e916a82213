"""Addresses that an outside server must not return: an outside name must not lead to an inside address.

A page from evil.example may read what evil.example answers. If that name has the address 127.0.0.1 for a moment, the
page can read from any server that listens there. So an upstream answer with such an address in ANSWER is replaced by
an empty one.

Of loopback, these are 127.0.0.1, and 0.0.0.0, which Linux treats alike, and the same of IPv6. The rest of 127.0.0.0/8
passes: block lists of mail servers answer with 127.0.0.2 and others (RFC 5782 2.1).

The hints of SVCB and HTTPS records (RFC 9460 7.3) count as well: a browser connects to them without asking for any
other address. The record's target is a name, whose addresses are checked when the client asks for them.

Pure.
"""

from __future__ import annotations

import struct
from typing import Final

from netdns import name
from netdns.errors import FormatError

MAX_HINTS: Final = 256
"""Different addresses in the hints of one answer: services give a handful, and each is looked up in our subnets."""
_HINT_BYTES: Final = {4: 4, 6: 16}
"""Octets per address, by the key of the parameter: ipv4hint and ipv6hint."""
_PARAMETER: Final = struct.Struct("!HH")
_MAPPED: Final = bytes(10) + b"\xff\xff"
_LOOPBACK: Final = frozenset({bytes(4), bytes([127, 0, 0, 1]), bytes(16), bytes(15) + b"\x01"})


def unmapped(address: bytes) -> bytes:
    """Return the IPv4 address inside an IPv4-mapped IPv6 address; any other unchanged."""
    return address[12:] if len(address) == 16 and address.startswith(_MAPPED) else address


def is_loopback(address: bytes) -> bool:
    """Return whether packets to this address (4 or 16 octets) stay in the container."""
    return unmapped(address) in _LOOPBACK


def hints_untrusted(rdata: bytes) -> set[bytes]:
    """Return the addresses in the hints of an SVCB or HTTPS record. Raises FormatError for too many.

    The work is in proportion to the octets. Parameters in wrong order, duplicated or cut off are read as far as
    possible: a client may read them, too, although it should reject them.
    """
    found: set[bytes] = set()
    try:
        _target, offset = name.skip_untrusted(rdata, 2)
    except FormatError:
        return found
    while offset + _PARAMETER.size <= len(rdata):
        key, length = _PARAMETER.unpack_from(rdata, offset)
        start = offset + _PARAMETER.size
        offset = start + length
        size = _HINT_BYTES.get(key)
        if size is not None:
            for at in range(start, min(offset, len(rdata)) - size + 1, size):
                found.add(rdata[at : at + size])
                if len(found) > MAX_HINTS:
                    raise FormatError(f"more than {MAX_HINTS} addresses in hints")
    return found
