"""Where containers of a network may connect outside the cluster: `--egress`.

    open | none | TARGET[,TARGET…]        TARGET = ADDRESS[/LENGTH] | CIDR:PORT[/PROTOCOL] | [CIDR6]:PORT[/PROTOCOL]

`None` stands for `open`, and the empty tuple for `none`. The canonical text has the CIDRs with their length, sorted,
and nothing twice.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final, TypeAlias

OPEN, NONE = "open", "none"
MAX_TARGETS: Final = 64
"""Bound of the targets of one network; beyond it: refused. Each is at most two rules of the kernel's."""
MAX_TARGET_CHARS: Final = 64
"""The longest: an IPv6 address of 39 characters with brackets, its length, port and protocol."""
PROTOCOLS: Final = ("tcp", "udp")

_WITH_PORT: Final = re.compile(r"(?:\[([^\[\]]+)\]|([^:\[\]]+)):([0-9]{1,5})(?:/(tcp|udp))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class EgressTarget:
    """Addresses outside, and a port of theirs."""

    cidr: str
    """Canonical, with its length."""
    port: int | None = None
    """None: all ports, and all protocols."""
    protocol: str | None = None
    """One of PROTOCOLS; None: both, if there is a port."""

    @property
    def text(self) -> str:
        """As operators type it, in canonical form."""
        if self.port is None:
            return self.cidr
        addresses = f"[{self.cidr}]" if ":" in self.cidr else self.cidr
        return f"{addresses}:{self.port}" + (f"/{self.protocol}" if self.protocol else "")

    def covers(self, address: str, port: int | None) -> bool:
        """True if it lets connections through to a port of this address, or to some port of it (None)."""
        if port is not None and self.port not in (None, port):
            return False
        outside, asked = ipaddress.ip_network(self.cidr), ipaddress.ip_address(address)
        return asked.version == outside.version and asked in outside


Egress: TypeAlias = tuple[EgressTarget, ...] | None
"""None: everything outside; otherwise these targets alone, sorted."""


def parse_target(text: str) -> EgressTarget:
    """Parse one target. Raises ValueError with what is wrong with it."""
    if len(text) > MAX_TARGET_CHARS:
        raise ValueError("is too long for an address and a port")
    if "%" in text:
        raise ValueError("is no address outside: `%` names a device of one host")
    found = _WITH_PORT.fullmatch(text)
    addresses = (found[1] or found[2]) if found else text
    try:
        cidr = ipaddress.ip_network(addresses, strict=False)
        is_exact = ipaddress.ip_interface(addresses).ip == cidr.network_address
    except ValueError:
        raise ValueError("is no address, and no CIDR, with or without a port") from None
    if not is_exact:
        raise ValueError(f"has bits beyond its prefix: write {cidr}")
    if found is None:
        return EgressTarget(str(cidr))
    port = int(found[3])
    if not 0 < port < 65536:
        raise ValueError(f"has no port {port}: ports are 1 to 65535")
    return EgressTarget(str(cidr), port, found[4])


def parse_egress(text: str) -> Egress:
    """Parse what `--egress` takes. Raises ValueError with what is wrong with it."""
    if text == OPEN:
        return None
    if text == NONE:
        return ()
    items = text.split(",")
    if len(items) > MAX_TARGETS:
        raise ValueError(f"lists {len(items)} targets: at most {MAX_TARGETS} are allowed")
    targets = set()
    for item in items:
        try:
            targets.add(parse_target(item.strip()))
        except ValueError as error:
            raise ValueError(f"{item.strip()[:MAX_TARGET_CHARS]!r} {error}") from None
    return tuple(sorted(targets, key=place_of))


def text_of(egress: Egress) -> str:
    """Return the canonical text, which `parse_egress` reads."""
    if egress is None:
        return OPEN
    return ",".join(one.text for one in egress) or NONE


def may_reach(egress: Egress, address: str, port: int | None) -> bool:
    """True if containers may connect to this address outside, at this port or at some port (None)."""
    return egress is None or any(one.covers(address, port) for one in egress)


def place_of(target: EgressTarget) -> tuple[str, int, str]:
    """Sort key of targets."""
    return target.cidr, target.port or 0, target.protocol or ""
