"""Spans of addresses: subnets and addresses of both families as pairs of numbers, on one line.

IPv6 is above IPv4, so spans of two families never meet. Whether a subnet meets one of thousands is one search.
"""

from __future__ import annotations

import ipaddress
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final, TypeAlias

Span: TypeAlias = tuple[int, int]
"""The first and the last address."""

_IPV6: Final = 1 << 32


@lru_cache(maxsize=16384)
def span_of(text: str) -> Span:
    """Return the span of a subnet or of an address."""
    parsed = ipaddress.ip_network(text)
    first = int(parsed.network_address) + (_IPV6 if parsed.version == 6 else 0)
    return first, first + parsed.num_addresses - 1


def merged(spans: Iterable[Span]) -> list[Span]:
    """Return the spans as disjoint ones, in rising order."""
    found: list[Span] = []
    for first, last in sorted(spans):
        if found and first <= found[-1][1]:
            found[-1] = found[-1][0], max(last, found[-1][1])
        else:
            found.append((first, last))
    return found


def meets(taken: Sequence[Span], span: Span) -> bool:
    """True if a span shares an address with one of those in `taken`, which are disjoint and in rising order."""
    position = bisect_left(taken, (span[1] + 1,))
    return position > 0 and taken[position - 1][1] >= span[0]
