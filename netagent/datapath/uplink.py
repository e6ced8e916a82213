"""Which of a host's addresses others reach it by: a function of what the host has now. Pure.

    configured (`advertise`, else `bind`)     that address, or none while the host has not got it
    else                                      the source of the default route
                                              while there is none: the present one, as long as the host has it
                                              else the host's first address, IPv4 first

The same state leads to the same choice, whatever came before, with one exception: an address that works is not left
for another family, nor for want of a default route.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Underlay:
    """Where this host receives VXLAN packets."""

    address: str
    device: str
    mtu_bytes: int


@dataclass(frozen=True, slots=True)
class Uplinks:
    """What a host has to choose from."""

    candidates: tuple[Underlay, ...] = ()
    """All addresses that others may reach, IPv4 first, in the kernel's order."""
    sources: tuple[str, ...] = ()
    """Those by which packets leave along the default routes, IPv4 first."""
    outlets: frozenset[str] = frozenset()
    """Devices with an address that lead out of this host by their kind: no switch, and no cable of a container."""


def choose(uplinks: Uplinks, wanted: str | None, present: Underlay | None = None) -> Underlay | None:
    """The address to advertise; None when the host has none, or not the one `wanted`."""
    if is_fixed(wanted):
        return with_address(uplinks, str(ipaddress.ip_address(wanted or "")))
    kept = with_address(uplinks, present.address) if present is not None else None
    for source in uplinks.sources:
        found = with_address(uplinks, source)
        if found is not None and (kept is None or is_one_family(found.address, kept.address)):
            return found
    if kept is not None:
        return kept
    return uplinks.candidates[0] if uplinks.candidates else None


def ways_out(uplinks: Uplinks, present: Underlay) -> frozenset[str]:
    """The devices by which packets of containers may leave this host.

    Bridges and veths lead to other people's containers, unless this host itself goes out by them."""
    used = (with_address(uplinks, source) for source in uplinks.sources)
    return uplinks.outlets | {present.device} | {one.device for one in used if one is not None}


def is_fixed(wanted: str | None) -> bool:
    """True when the configuration names an address; `0.0.0.0` and `::` name none."""
    return wanted is not None and not ipaddress.ip_address(wanted).is_unspecified


def with_address(uplinks: Uplinks, address: str) -> Underlay | None:
    """The candidate that has the address."""
    return next((candidate for candidate in uplinks.candidates if candidate.address == address), None)


def addresses_of(uplinks: Uplinks, devices: Sequence[str]) -> dict[str, str]:
    """One address of each device that has one, IPv4 where it has."""
    found: dict[str, str] = {}
    for candidate in uplinks.candidates:
        if candidate.device in devices:
            found.setdefault(candidate.device, candidate.address)
    return found


def listed(candidates: Collection[Underlay]) -> str:
    """For people."""
    return ", ".join(candidate.address for candidate in candidates) or "none"


def is_one_family(address: str, other: str) -> bool:
    """Whether a tunnel can have these two as its ends."""
    return (":" in address) == (":" in other)
