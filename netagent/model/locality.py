"""Order among the replicas of a service: how far each host is, how much weight an endpoint has. Pure.

**Distance.** A host tests the kernels of all others over the overlay all the time. The round-trip times sort the
other hosts into classes, each up to four times as far as the one before. A class is wide because hosts of one class
should share the load, and because a name must not lead elsewhere after each sample (netagent.probes.distance says
when a host changes its class). Two hosts of one class differ only by their zones, which operators set.

**Weight.** An endpoint's share of its service is its weight by the sum of all weights. A client takes the first
address that it gets, so the share is the share of first places among the answers (`first_places`), and in SRV records
the weight itself.

**Warm-up.** An endpoint whose check has just succeeded has cold caches. Its share begins at a sixth of its weight and
is whole after 25 s. The time counts from when its host said that it is up, which is in its record: so all hosts, and
a resolver that has just started, come to the same share. Hosts whose clocks differ by seconds differ by one step.
"""

from __future__ import annotations

import enum
import math
import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

DEFAULT_WEIGHT: Final = 100
"""So that one replica can get less than the others without a change of these."""
MAX_WEIGHT: Final = 1000

HERE: Final = 0
"""The distance of this host."""
CLASS_BOUNDS_S: Final = (0.001, 0.004, 0.016, 0.064, 0.256)
"""Round-trip times up to which a host is in class 1 (one site), 2 (one city), 3, 4 (one continent), 5; beyond: 6."""
FARTHEST: Final = len(CLASS_BOUNDS_S) + 1
UNKNOWN: Final = FARTHEST + 1
"""A host whose distance is not known counts as farther than all others, and so does an address outside."""

WARM_UP_STEPS: Final = 6
WARM_UP_STEP_S: Final = 5
"""The TTL of an answer: a client that looks up again sees each step."""

MAX_PLACES: Final = 256
"""Bound of the answers in which each replica is first at least once; beyond it: as many answers as replicas. The
smallest share is one answer in 256."""
MAX_TOP: Final = 16
"""`top16.nearest.`: a client that wants more asks for all."""

_TOP: Final = re.compile(rb"top([1-9][0-9]?)")
NEAREST_LABEL: Final = b"nearest"
ALL_LABEL: Final = b"all"
ZONE_LABEL: Final = b"zone"
WORDS: Final = frozenset({"nearest", "all"})
"""Labels before a service that say which of its replicas are meant."""


T = TypeVar("T")


class AnswerOrder(enum.Enum):
    """Which replicas the names of a network lead to."""

    SPREAD = "spread"
    """All, by weight."""
    NEAREST = "nearest"
    """The nearest ones that there are."""
    ZONE = "zone"
    """Those in the asker's zone, or if there are none, the nearest ones."""


class Balance(enum.Enum):
    """Which replicas of a service its own address leads to."""

    SPREAD = "spread"
    """All, by weight."""
    NEAREST = "nearest"
    """The nearest ones that there are."""
    ZONE = "zone"
    """Those in the zone of the client's host, or if there are none, the nearest ones."""
    FIRST = "first"
    """One: the one with the most weight, and of several with the same weight the one whose host has the smallest id.
    The same for the clients of all hosts."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which replicas a question is about."""

    order: AnswerOrder = AnswerOrder.SPREAD
    top: int | None = None
    """At most so many, from several distances if need be."""
    zone: bytes | None = None
    """The label of a zone that is meant instead of the asker's."""
    every: bool = False
    """All replicas with all their addresses."""


def choice_of(labels: Sequence[bytes]) -> tuple[Choice, int] | None:
    """Return what the leading labels of a name choose, and how many labels that takes; None: nothing."""
    match labels:
        case [b"all", *_]:
            return Choice(every=True), 1
        case [b"nearest", *_]:
            return Choice(AnswerOrder.NEAREST), 1
        case [top, b"nearest", *_] if (found := _TOP.fullmatch(top)) and int(found[1]) <= MAX_TOP:
            return Choice(AnswerOrder.NEAREST, top=int(found[1])), 2
        case [zone, b"zone", *_]:
            return Choice(AnswerOrder.ZONE, zone=zone), 2
    return None


def class_of(rtt_s: float) -> int:
    """Return the class of a round-trip time."""
    return bisect_left(CLASS_BOUNDS_S, rtt_s) + 1


def class_text(distance: int) -> str:
    """Say which round-trip times a class has."""
    if distance == HERE:
        return "this host"
    if distance >= FARTHEST:
        return f"over {CLASS_BOUNDS_S[-1] * 1000:g} ms away"
    return f"at most {CLASS_BOUNDS_S[distance - 1] * 1000:g} ms away"


def how_far(order: AnswerOrder, distance: int | None, zone: str, asker_zone: str) -> tuple[int, int]:
    """Return how far a replica is in this order, to be compared with others: by the distance of its host (None: not
    known), the zone of that host and the zone that is asked for."""
    far = UNKNOWN if distance is None else distance
    match order:
        case AnswerOrder.SPREAD:
            return 0, 0
        case AnswerOrder.NEAREST:
            return far, zone != asker_zone
        case AnswerOrder.ZONE:
            return (0, 0) if zone == asker_zone else (1 + far, zone != asker_zone)


def nearest(things: Sequence[T], distances: Iterable[tuple[int, int]]) -> list[T]:
    """Return those of the things that are nearest."""
    far = list(distances)
    least = min(far, default=None)
    return [one for one, distance in zip(things, far, strict=True) if distance == least]


def warm_steps(up_since_s: int | None, now_s: int) -> int:
    """Return how many of WARM_UP_STEPS an endpoint has taken since it is up; None: it has no check.

    An endpoint that is up since a time far in the future has another clock, and counts as warm."""
    if up_since_s is None or up_since_s - now_s > WARM_UP_STEPS * WARM_UP_STEP_S:
        return WARM_UP_STEPS
    return min(WARM_UP_STEPS, 1 + max(0, now_s - up_since_s) // WARM_UP_STEP_S)


def is_warming(up_since_s: int | None, now_s: int) -> bool:
    """True while the share of an endpoint grows."""
    return warm_steps(up_since_s, now_s) < WARM_UP_STEPS


def next_warm_step_s(up_since_s: int | None, now_s: int) -> int | None:
    """Return when the share of an endpoint grows next; None: it does not."""
    if up_since_s is None or not is_warming(up_since_s, now_s):
        return None
    return up_since_s + warm_steps(up_since_s, now_s) * WARM_UP_STEP_S


def first_places(weights: Sequence[int]) -> tuple[int, ...]:
    """Return which replica each answer begins with, in turn, so that each has its share, evenly spread. Empty if all
    have the same share. Weight 0: never, unless all have 0."""
    if len(set(weights)) <= 1:
        return ()
    common = math.gcd(*weights)
    counts = [weight // common for weight in weights]
    most = max(MAX_PLACES, len(counts))
    if sum(counts) > most:
        total = sum(counts)
        counts = [max(1, round(count * most / total)) if count else 0 for count in counts]
    places = [((2 * turn + 1) / count, index) for index, count in enumerate(counts) for turn in range(count)]
    return tuple(index for _, index in sorted(places))


def tiers(distances: Iterable[tuple[int, ...]]) -> list[int]:
    """Return for each distance how many others are nearer: 0 for the nearest, 1 for the next, …"""
    every = list(distances)
    rank = {distance: number for number, distance in enumerate(sorted(set(every)))}
    return [rank[distance] for distance in every]
