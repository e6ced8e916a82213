"""The addresses of hosts inside the encrypted tunnel. Pure.

A VXLAN device sends to addresses of one family only, that of its own address. So a host's address in the tunnel has
the family of the underlay:

    IPv4    240.0.0.0/4, which Linux routes like any other and which no one else uses (RFC 1112 section 4)
    IPv6    a unique local /64 (RFC 4193), the same in all clusters: nothing of it leaves the tunnel

Both have the host's number, 28 bits of a hash. Two hosts may have the same one, once in 16,000 clusters of 180 hosts:
then it belongs to the host with the smaller id, and the other one publishes its next number (its record's salt).
"""

from __future__ import annotations

import hashlib
import ipaddress
from typing import Final

from netagent.model.ids import HostId

MAX_SALT: Final = 255
"""Of as many numbers one is free."""
WIREGUARD_BYTES: Final = 80
"""Of each packet in the tunnel: IPv6 40 or IPv4 20, UDP 8, WireGuard 32. The larger one for both, so that the sizes
of networks do not depend on it."""
_NUMBER_BITS: Final = 28
_LAST: Final = (1 << _NUMBER_BITS) - 1
TUNNEL_PREFIX6: Final = ipaddress.IPv6Network(
    (b"\xfd" + hashlib.sha256(b"netagent tunnel prefix").digest()[:7] + bytes(8), 64)
)
_PREFIXES: Final[dict[int, ipaddress.IPv4Network | ipaddress.IPv6Network]] = {
    4: ipaddress.IPv4Network("240.0.0.0/4"),
    6: TUNNEL_PREFIX6,
}


def tunnel_number(host_id: HostId, salt: int) -> int:
    """Return a host's number: neither 0 nor the last one, which would be 255.255.255.255."""
    digest = hashlib.sha256(b"netagent tunnel number" + bytes.fromhex(host_id) + bytes([salt])).digest()
    return 1 + int.from_bytes(digest[:8], "big") % (_LAST - 1)


def tunnel_address(number: int, *, version: int) -> str:
    """Return the address of a number, for an underlay of this version of IP."""
    return str(_PREFIXES[version][number])


def direct_prefixes(number: int) -> tuple[str, ...]:
    """Return what the addresses of a host's packets without VXLAN begin with, which hold IPv6 and IPv4 addresses
    (netagent.datapath.direct.layout)."""
    rest = (number << 12).to_bytes(5, "big") + bytes(10)
    return tuple(f"{ipaddress.IPv6Address(bytes([first]) + rest)}/36" for first in (0xFC, 0xFD))


def tunnel_cidr(address: str) -> str:
    """Return the address with the length of the prefix that all tunnel addresses share: one route for all."""
    return f"{address}/{_PREFIXES[6 if ':' in address else 4].prefixlen}"


def is_tunnel_address(address: str) -> bool:
    """True for an address inside the tunnel."""
    one = ipaddress.ip_address(address)
    return one in _PREFIXES[one.version]
