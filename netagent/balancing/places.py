"""Which backend has which place in a service's table: as many as its weight says, and as few moves as possible. Pure.

A service has 64 places, and the kernel takes one of them for each connection. So weights, warm-up and distance are
numbers of places, and the kernel needs to know nothing of them. The smallest share is one connection in 64.

**Shares.** A backend's exact share of the places is its weight by the sum of all weights. It gets this number rounded
down or up. Which backends get one more is decided by weighted rendezvous hashing of the host and the backend: each
host rounds differently, so over many hosts each backend has its exact share, also where there are more backends than
places. And a change of one backend changes the rounding of few others.

**Moves.** A backend keeps the places that it has, as far as it may have so many. So what is in the kernel is the
state from which the next table is filled; a start reads it back.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Mapping, Sequence
from typing import Final

from netagent.datapath.sockets.layout import PLACES
from netgossip.slices import Slices

__all__ = ["PLACES", "fill", "shares"]

_WEIGHED_PER_SLICE: Final = 128


def shares(weights: Mapping[bytes, int], seed: bytes, places: int = PLACES) -> Slices[dict[bytes, int]]:
    """Return how many places each backend has; backends without one are left out. `seed`: the host.

    A backend of weight 0 has none, unless all have weight 0.
    """
    if not weights:
        return {}
    weighed = {backend: weight for backend, weight in weights.items() if weight}
    weighed = weighed or dict.fromkeys(weights, 1)
    total = sum(weighed.values())
    found: dict[bytes, int] = {}
    rounded: list[tuple[float, bytes]] = []
    for number, (backend, weight) in enumerate(weighed.items(), start=1):
        found[backend], rest = divmod(weight * places, total)
        if rest:
            rounded.append((_chance(seed, backend) / rest, backend))
        if number % _WEIGHED_PER_SLICE == 0:
            yield
    # Each rest is below one place, so there are more of them than places that are left.
    for _, backend in heapq.nlargest(places - sum(found.values()), rounded):
        found[backend] += 1
    return {backend: count for backend, count in found.items() if count}


def _chance(seed: bytes, backend: bytes) -> float:
    """Return the logarithm of a number between 0 and 1 that depends on host and backend alone."""
    digest = hashlib.blake2b(backend, key=seed[:64], digest_size=8).digest()
    return math.log((int.from_bytes(digest, "big") + 1) / (2**64 + 1))


def fill(
    before: Sequence[bytes], weights: Mapping[bytes, int], seed: bytes, places: int = PLACES
) -> Slices[tuple[bytes, ...]]:
    """Return the backend of each place; `before` is what the kernel has. No backend: no place."""
    if not weights:
        return ()
    wanted = yield from shares(weights, seed, places)
    after: list[bytes | None] = []
    for backend in before[:places]:
        left = wanted.get(backend, 0)
        after.append(backend if left else None)
        wanted[backend] = max(0, left - 1)
    after += [None] * (places - len(after))
    # Evenly spread, so that any part of the table has about the same shares.
    coming = iter(
        sorted(
            ((2 * turn + 1) / count, backend) for backend, count in wanted.items() for turn in range(count)
        )
    )
    return tuple(next(coming)[1] if backend is None else backend for backend in after)
