"""Choose the address at which other hosts reach this one, from what the host has now. Pure.

    configured (`advertise`, else `bind`)     that address, or none while the host does not have it
                                              (of `0.0.0.0` and `::` only the family counts)
    else                                      the source of the default route
                                              while there is none: the present one, as long as the host has it
                                              else the host's first address, IPv4 first
    of all this only addresses of the family that the other hosts of the cluster have, while there are any

The same state leads to the same choice, whatever came before, with one exception: a working address is kept even if
another family has the default route but is not the cluster's, or if there is no default route.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Underlay:
    """The address at which this host receives VXLAN packets."""

    address: str
    device: str
    mtu_bytes: int


@dataclass(frozen=True, slots=True)
class Uplinks:
    """The addresses and devices that a host can choose from."""

    candidates: tuple[Underlay, ...] = ()
    """All addresses that other hosts may reach, IPv4 first, in the kernel's order."""
    sources: tuple[str, ...] = ()
    """The source addresses of packets along the default routes, IPv4 first."""
    outlets: frozenset[str] = frozenset()
    """Devices with an address that lead out of this host by their kind: no bridge, and no container's veth."""


@dataclass(frozen=True, slots=True)
class LocalAddresses:
    """How other hosts can reach this one: the chosen address, the other addresses, and the configured one."""

    present: Underlay
    uplinks: Uplinks
    wanted: str | None

    def towards(self, member: str) -> Underlay | None:
        """Return the address for that member's cluster: one of the member's family."""
        if is_one_family(member, self.present.address):
            return self.present
        found = choose(self.uplinks, self.wanted, self.present, version_of(member))
        return found if found is not None and is_one_family(member, found.address) else None


def choose(
    uplinks: Uplinks, wanted: str | None, present: Underlay | None = None, version: int | None = None
) -> Underlay | None:
    """Choose the address to advertise; None when the host has none, or not the one `wanted`. `version`: 4 or 6, of
    the other hosts' addresses; None while unknown."""
    if is_fixed(wanted):
        return with_address(uplinks, str(ipaddress.ip_address(wanted or "")))
    if wanted is not None:  # our ports are open on all addresses of that family
        uplinks = _of_version(uplinks, version_of(wanted))
    elif _of_version(uplinks, version).candidates:
        uplinks = _of_version(uplinks, version)
    kept = with_address(uplinks, present.address) if present is not None else None
    for source in uplinks.sources:
        found = with_address(uplinks, source)
        if found is not None and (kept is None or is_one_family(found.address, kept.address)):
            return found
    if kept is not None:
        return kept
    return uplinks.candidates[0] if uplinks.candidates else None


def _of_version(uplinks: Uplinks, version: int | None) -> Uplinks:
    alike = tuple(one for one in uplinks.candidates if version_of(one.address) == version)
    return Uplinks(alike, uplinks.sources)


def egress_interfaces(uplinks: Uplinks, present: Underlay) -> frozenset[str]:
    """Return the devices by which packets of containers may leave this host.

    Bridges and veths lead to containers of other programs, unless this host's own packets leave by them."""
    used = (with_address(uplinks, source) for source in uplinks.sources)
    return uplinks.outlets | {present.device} | {one.device for one in used if one is not None}


def is_fixed(wanted: str | None) -> bool:
    """Return whether the configuration names an address; `0.0.0.0` and `::` name none."""
    return wanted is not None and not ipaddress.ip_address(wanted).is_unspecified


def with_address(uplinks: Uplinks, address: str) -> Underlay | None:
    """Return the candidate that has the address."""
    return next((candidate for candidate in uplinks.candidates if candidate.address == address), None)


def addresses_of(uplinks: Uplinks, devices: Sequence[str]) -> dict[str, str]:
    """Return one address of each device that has one, IPv4 if possible."""
    found: dict[str, str] = {}
    for candidate in uplinks.candidates:
        if candidate.device in devices:
            found.setdefault(candidate.device, candidate.address)
    return found


def listed(candidates: Collection[Underlay]) -> str:
    """List the candidates for people."""
    return ", ".join(candidate.address for candidate in candidates) or "none"


def is_one_family(address: str, other: str) -> bool:
    """Return whether these two can be the ends of a tunnel."""
    return version_of(address) == version_of(other)


def version_of(address: str) -> int:
    """Return 4 or 6."""
    return 6 if ":" in address else 4


def common_version(addresses: Iterable[str]) -> int | None:
    """Return the version of most of these addresses; None when there are none, or as many of each."""
    counts = Counter(map(version_of, addresses))
    return None if counts[4] == counts[6] else max(counts, key=counts.__getitem__)
