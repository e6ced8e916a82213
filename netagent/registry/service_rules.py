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
from bisect import insort
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final, TypeAlias

from netagent.model.address.span import meets, merged, span_of
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
    texts = [text for network in networks for text in network.subnets]
    texts += [text for host in hosts for text in (host.underlay, host.probe_address)]
    taken = merged(map(span_of, texts))
    found: dict[NetworkId, tuple[ServiceRangeView, ...]] = {}
    for network_id in sorted(judged):
        kept = []
        for one in judged[network_id]:
            mine = [span_of(text) for text in one.record.subnets]
            if not any(meets(taken, span) for span in mine):
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


def has_addresses_of(record: ServiceRangeRecord, place: str) -> bool:
    """True if a range has addresses of a subnet, or an address."""
    return any(meets([span_of(text)], span_of(place)) for text in record.subnets)


def offset_in_key(key: bytes, subnets: tuple[str, ...]) -> int:
    """Return the offset of a service address, by the key of its record and its network's subnets: whether or not the
    range is known that it is from."""
    version, length = range_prefix(subnets[0])
    size, bits = (4, 32 - length) if version == 4 else (16, 128 - length)
    return int.from_bytes(key[17 : 17 + size]) & ((1 << bits) - 1)
