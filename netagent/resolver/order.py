"""Which endpoints of a name an answer leads to, and in which order. Pure.

The table says how far each host is and in which zone, what weight an endpoint has, and since when it is up. All this
is data: the answers stay right while the agent is away.

Endpoints are ranked by tiers. Tier 0 is what an answer with addresses leads to: all of the tier, each first as often
as its weight says. SRV and HTTPS records give every tier, with the tier as priority, so that a client goes on
outward by itself. Endpoints that this host does not reach are behind all others.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from netagent.model.ids import EndpointId
from netagent.model.locality import (
    WARM_UP_STEPS,
    AnswerOrder,
    Choice,
    first_places,
    how_far,
    nearest,
    tiers,
    warm_steps,
)
from netagent.resolver.name_table import EndpointRow, ExternalAddressRow, HostRow

MANY: Final = 256
"""From so many endpoints of a name on, their ranking is kept."""
MAX_RANKINGS: Final = 16
"""Bound of rankings that are kept; beyond it: the oldest one is made again when it is needed."""

Rankings: TypeAlias = "dict[tuple[AnswerOrder, bytes | None, tuple[EndpointId, ...]], list[Ranked]]"
"""By order, zone and the endpoints."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where this host is among the others, and when."""

    hosts: Mapping[bytes, Mapping[str, HostRow]]
    """By the label of their names."""
    zone: str
    now_s: int
    """Unix time."""
    rankings: Rankings = field(default_factory=dict)
    """What was ranked of this state of the table: each container asks for itself."""

    def host_of(self, row: EndpointRow) -> HostRow | None:
        """Return the row of an endpoint's host; None also for an outside address, which is on no host."""
        if isinstance(row, ExternalAddressRow) and not row.is_inside:
            return None
        hosts = self.hosts.get(row.host_label.encode())
        return hosts[min(hosts)] if hosts else None

    def steps_of(self, row: EndpointRow) -> int:
        """Return how many steps of its warm-up an endpoint has taken."""
        return warm_steps(row.up_since_s, self.now_s)

    def weight_of(self, row: EndpointRow) -> int:
        """Return the weight of an endpoint now; 0 only if it was given that."""
        return -(-row.weight * self.steps_of(row) // WARM_UP_STEPS)

    def distances(self, rows: Sequence[EndpointRow], choice: Choice) -> list[tuple[int, int]]:
        """Return how far each endpoint is, to be compared with others."""
        if choice.order is AnswerOrder.SPREAD:
            return [(0, 0)] * len(rows)
        # Hosts are few, even where a name has two thousand endpoints.
        by_host = {row.host_label: row for row in rows}
        far = {label: self._distance(row, choice) for label, row in by_host.items()}
        return [far[row.host_label] for row in rows]

    def _distance(self, row: EndpointRow, choice: Choice) -> tuple[int, int]:
        host = self.host_of(row)
        distance, zone = (None, "") if host is None else (host.distance, host.zone)
        asked = self.zone if choice.zone is None else choice.zone.decode("ascii", "replace")
        return how_far(choice.order, distance, zone, asked)


@dataclass(frozen=True, slots=True)
class Ranked:
    """An endpoint in its tier."""

    row: EndpointRow
    tier: int


def ranked(rows: Sequence[EndpointRow], choice: Choice, around: Surroundings) -> list[Ranked]:
    """Rank endpoints: tier by tier, and within a tier by id. The ranking is kept if there are many."""
    if len(rows) < MANY:
        return _rank(rows, choice, around)
    key = choice.order, choice.zone, tuple(row.endpoint_id for row in rows)
    found = around.rankings.get(key)
    if found is None:
        if len(around.rankings) >= MAX_RANKINGS:
            del around.rankings[next(iter(around.rankings))]
        found = around.rankings[key] = _rank(rows, choice, around)
    return found


def _rank(rows: Sequence[EndpointRow], choice: Choice, around: Surroundings) -> list[Ranked]:
    distances = around.distances(rows, choice)
    far = [(row.is_behind, *distance) for row, distance in zip(rows, distances, strict=True)]
    found = [Ranked(row, tier) for row, tier in zip(rows, tiers(far), strict=True)]
    return sorted(found, key=lambda one: (one.tier, one.row.endpoint_id))


def led_to(
    rows: Sequence[EndpointRow], choice: Choice, around: Surroundings, asker: str
) -> tuple[list[EndpointRow], int]:
    """Return the endpoints that an answer with addresses leads to, and how many of them, from the first on, rotate.

    Clients reorder what they get (RFC 6724), so an unreached address at the end of an answer would be the first one
    for some: there are unreached endpoints in an answer only if there are no others.
    """
    if choice.every:
        return list(rows), len(rows)
    reached = [row for row in rows if not row.is_behind] or list(rows)
    if choice.order is AnswerOrder.SPREAD:
        return reached, len(reached)
    least = nearest(reached, around.distances(reached, choice))
    if choice.top is None:
        return least, len(least)
    found = nearest_of(ranked(reached, choice, around), choice.top, asker)
    return [one.row for one in found], min(len(least), len(found))


def nearest_of(every: list[Ranked], most: int, asker: str) -> list[Ranked]:
    """Return at most so many of ranked endpoints: the nearest ones, and of the tier that has too many, some that
    depend on the asker."""
    if len(every) <= most:
        return every
    last = every[most - 1].tier
    whole = [one for one in every if one.tier < last]
    some = _some([one.row for one in every if one.tier == last], most - len(whole), asker)
    return whole + [Ranked(row, last) for row in some]


def _some(rows: list[EndpointRow], most: int, asker: str) -> list[EndpointRow]:
    """Return at most so many of the endpoints: always the same ones for one asker, and for all askers together each
    as often as its weight says (weighted rendezvous hashing)."""
    if len(rows) <= most:
        return rows

    def score(row: EndpointRow) -> float:
        digest = hashlib.blake2b(f"{asker}/{row.endpoint_id}".encode(), digest_size=8).digest()
        chance = (int.from_bytes(digest, "big") + 1) / (2**64 + 1)
        return math.log(chance) / row.weight if row.weight else -math.inf

    return sorted(sorted(rows, key=score, reverse=True)[:most], key=lambda row: row.endpoint_id)


def firsts(rows: Sequence[EndpointRow], around: Surroundings) -> tuple[int, ...]:
    """Return which of the endpoints each answer begins with; empty: each in turn."""
    # With the weight by steps, a share is exact before it is rounded.
    return first_places([row.weight * around.steps_of(row) for row in rows])
