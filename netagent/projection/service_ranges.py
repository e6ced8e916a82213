"""Which service ranges this host uses. Pure.

A route to a range makes all its addresses a sandbox's own, whatever else has them. So a range that overlaps a route
of this host is not used here: containers, and programs of the host, would lose what that route leads to. The names of
its services are answered with replicas on this host, and `status` names the route.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from netagent.model.ids import NetworkId
from netagent.model.subnet import parse_subnet
from netagent.registry.view import RegistryView

Ranges = Mapping[NetworkId, tuple[str, ...]]
"""CIDRs by network."""


class RangesHere:
    """The ranges of the latest view."""

    def __init__(self) -> None:
        self._of: tuple[object, tuple[str, ...]] | None = None
        self._ranges: Ranges = {}

    def of(self, view: RegistryView) -> Ranges:
        """Return the ranges in force that this host uses; the very same mapping as long as these are the same."""
        given = view.store.service_ranges, routes_of(view)
        if self._of is None or self._of[0] is not given[0] or self._of[1] != given[1]:
            self._of = given
            ranges = ranges_here(view)
            if ranges != self._ranges:
                self._ranges = ranges
        return self._ranges


def ranges_here(view: RegistryView) -> Ranges:
    """Return the subnets of the service ranges in force that this host uses, in the order of the ranges."""
    routes = routes_of(view)
    found = {
        network_id: tuple(
            subnet
            for one in ranges
            if overlapping_route(one.record.subnets, routes) is None
            for subnet in one.record.subnets
        )
        for network_id, ranges in view.store.service_ranges.items()
    }
    return {network_id: subnets for network_id, subnets in found.items() if subnets}


def routes_of(view: RegistryView) -> tuple[str, ...]:
    """Return the routes of this host, by its own record."""
    own = view.hosts.get(view.local)
    return own.record.routes if own is not None and own.record is not None else ()


def overlapping_route(subnets: Iterable[str], routes: Iterable[str]) -> str | None:
    """Return the first of the routes that overlaps one of the subnets."""
    parsed = list(map(parse_subnet, subnets))
    for text in routes:
        route = parse_subnet(text)
        if any(route.version == one.version and route.overlaps(one) for one in parsed):
            return text
    return None
