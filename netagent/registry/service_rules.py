"""The rules for service ranges and service addresses: which of them are in force.

Pure, and a function of the records. A range is in force if it fits its network (the families and sizes of its
subnets) and nothing else has its addresses: no network, no host, no range before it. Ranges are judged in the order
of their networks' ids, then of their owners'.
Networks win over ranges, because an endpoint cannot move, and a service can get another address. Addresses of hosts
win as well: a host that took a service range for its own would cut itself off.

    of each owner    the first MAX_SERVICE_RANGES of a network are judged
    of each network  the first ones of the owners in turn, so that one owner cannot supersede those of the others

An address is in force if it is one offset in a range in force of its network, and if its owner is the first, by id,
of those that claim it. Which host owns the offset by the grants does not count: it decides which host may *make* an
address there (netagent.ipam.service_offsets), and an address stays when its owner leaves and hands its space on.
"""

from __future__ import annotations

import heapq
import ipaddress
from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final, TypeAlias

from netagent.model.ids import HostId, NetworkId
from netagent.model.records import HostRecord, NetworkRecord, ServiceRangeRecord
from netagent.model.subnet import MAX_OFFSETS, is_reserved, offset_count, parse_subnet
from netagent.registry.views import ServiceRangeView

MAX_SERVICE_RANGES: Final = 4
"""Bound of the service ranges of one network that are in force; beyond it: not in force. Each makes two routes in
each sandbox."""
MAX_SERVICE_ADDRESSES: Final = 4096
"""Bound of the service addresses of one host that are in force; beyond it: the first by network and address are. Each
is in the kernel of every host, with 64 backends."""

RecordPlace: TypeAlias = tuple[HostId, bytes]
"""The owner and the key of a record in scope 0."""


def range_prefix(subnet: str) -> tuple[int, int]:
    """Return family and prefix length of a service range beside this subnet of a network."""
    parsed = parse_subnet(subnet)
    least = parsed.max_prefixlen - MAX_OFFSETS.bit_length() + 1
    # Of an IPv4 subnet that is larger, only so many offsets are used.
    return parsed.version, max(parsed.prefixlen, least) if parsed.version == 4 else parsed.prefixlen


def fits(record: ServiceRangeRecord, network: NetworkRecord) -> bool:
    """True if the range's subnets have the families and the sizes of its network's."""
    subnets = map(parse_subnet, record.subnets)
    return [(one.version, one.prefixlen) for one in subnets] == list(map(range_prefix, network.subnets))


def judged_ranges(
    claims: Mapping[RecordPlace, ServiceRangeRecord], network: NetworkRecord
) -> tuple[ServiceRangeView, ...]:
    """Return the ranges of a network that are judged: those that fit it and are within the bounds, by owner."""
    by_owner: dict[HostId, list[bytes]] = {}
    for owner, key in claims:
        by_owner.setdefault(owner, []).append(key)
    turns: list[tuple[int, HostId, ServiceRangeRecord]] = []
    for owner, keys in by_owner.items():
        first = [claims[owner, key] for key in heapq.nsmallest(MAX_SERVICE_RANGES, keys)]
        turns += [(turn, owner, one) for turn, one in enumerate(one for one in first if fits(one, network))]
    # Equal subnets are one range, whichever hosts repeat them.
    found: dict[tuple[str, ...], tuple[HostId, int, ServiceRangeRecord]] = {}
    for turn, owner, one in sorted(turns, key=lambda each: each[:2]):
        if len(found) < MAX_SERVICE_RANGES:
            found.setdefault(one.subnets, (owner, turn, one))
    return tuple(
        ServiceRangeView(owner, one)
        for owner, _, one in sorted(found.values(), key=lambda each: (each[0], each[1]))
    )


def ranges_in_force(
    judged: Mapping[NetworkId, Sequence[ServiceRangeView]],
    networks: Iterable[NetworkRecord],
    hosts: Iterable[HostRecord],
) -> dict[NetworkId, tuple[ServiceRangeView, ...]]:
    """Return the ranges in force by network. O(n log n) in ranges, networks and hosts."""
    spans = [span for network in networks for span in map(_span, network.subnets)]
    spans += [span for host in hosts for span in (_host_span(host.underlay), _host_span(host.probe_address))]
    taken = _merged(spans)
    found: dict[NetworkId, tuple[ServiceRangeView, ...]] = {}
    for network_id in sorted(judged):
        kept = []
        for one in judged[network_id]:
            mine = [_span(text) for text in one.record.subnets]
            if not any(_meets(taken, span) for span in mine):
                for span in mine:
                    insort(taken, span)
                kept.append(one)
        if kept:
            found[network_id] = tuple(kept)
    return found


def is_inside(ranges: Iterable[ServiceRangeView], key: bytes) -> bool:
    """True if the addresses in the key of a service address are one usable offset in one of these ranges. By the key,
    because ten thousand may have to be looked at."""
    packed = key[17:]
    for one in ranges:
        size, bases, count = _bases_of(one.record.subnets)
        if len(packed) != size:
            continue
        offsets = {int.from_bytes(packed[start:end]) - base for start, end, base in bases}
        if len(offsets) == 1 and not is_reserved(offsets.pop(), count):
            return True
    return False


@lru_cache(maxsize=4096)
def _bases_of(subnets: tuple[str, ...]) -> tuple[int, tuple[tuple[int, int, int], ...], int]:
    """Return the length of the packed addresses, where each is and the base of its subnet, and the offsets."""
    bases, start = [], 0
    for parsed in map(parse_subnet, subnets):
        end = start + len(parsed.network_address.packed)
        bases.append((start, end, int(parsed.network_address)))
        start = end
    return start, tuple(bases), offset_count(subnets)


def last_in_force(keys: Iterable[bytes], count: int) -> bytes | None:
    """Return the key of the last address of one host that may be in force, of `count`; None: all may."""
    if count <= MAX_SERVICE_ADDRESSES:
        return None
    return sorted(keys)[MAX_SERVICE_ADDRESSES - 1]


def meets(record: ServiceRangeRecord, place: str) -> bool:
    """True if a range has addresses of a subnet, or an address."""
    first, last = _span(place) if "/" in place else _host_span(place)
    return any(start <= last and first <= end for start, end in map(_span, record.subnets))


# -- spans of addresses: both families on one line, IPv6 above IPv4 ---------------------------------------------

_Span: TypeAlias = tuple[int, int]
"""The first and the last address."""


@lru_cache(maxsize=16384)
def _host_span(address: str) -> _Span:
    parsed = ipaddress.ip_address(address)
    number = int(parsed) + ((1 << 32) if parsed.version == 6 else 0)
    return number, number


@lru_cache(maxsize=4096)
def _span(subnet: str) -> _Span:
    parsed = parse_subnet(subnet)
    first = int(parsed.network_address) + ((1 << 32) if parsed.version == 6 else 0)
    return first, first + parsed.num_addresses - 1


def _merged(spans: Iterable[_Span]) -> list[_Span]:
    """Return the spans as disjoint ones, in rising order."""
    found: list[_Span] = []
    for first, last in sorted(spans):
        if found and first <= found[-1][1]:
            found[-1] = found[-1][0], max(last, found[-1][1])
        else:
            found.append((first, last))
    return found


def _meets(taken: Sequence[_Span], span: _Span) -> bool:
    """True if the span shares an address with one of the disjoint spans."""
    position = bisect_left(taken, (span[1] + 1,))
    return position > 0 and taken[position - 1][1] >= span[0]
