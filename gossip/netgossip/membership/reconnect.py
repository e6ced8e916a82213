"""Members to reconnect: nodes that should be members and are not, dialled for ever, with growing, jittered pauses.

These are the seeds, members from before our restart that no peer has confirmed since, and, when no live member is
left, all dead members. memberlist tries to join once and forgets dead members after 30 s, so that clusters which were
cut in two stay two.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from netgossip.config import GossipConfig
from netgossip.deadlines import NEVER
from netgossip.membership.members import MemberTable, is_live
from netgossip.membership.state_updates import StateUpdates
from netgossip.types import Address, MemberState

DIALS_LIMIT: Final = 4
"""Bound of dials at the same time; beyond it: others wait their turn. An address that swallows packets holds its slot
for a whole stream timeout."""
WANTED_LIMIT: Final = 4096
"""Bound of addresses to dial; beyond it: further ones wait until others are reached."""


@dataclass(slots=True)
class _Attempt:
    pause_s: float
    due_at: float
    in_flight: bool = False


class Reconnect:
    """`dial` opens a stream to an address; `ended` must follow for each. A node that is leaving dials no more."""

    def __init__(
        self,
        *,
        config: GossipConfig,
        rng: random.Random,
        table: MemberTable,
        state_updates: StateUpdates,
        dial: Callable[[Address, float], None],
        seeds: Sequence[Address] = (),
    ) -> None:
        self._min_s, self._max_s = config.seed_retry_min_s, config.seed_retry_max_s
        self._rng = rng
        self._table = table
        self._state_updates = state_updates
        self._dial = dial
        self._seeds = tuple(seeds)
        self._looked_for: tuple[object, ...] = ()
        """The inputs of the list of wanted addresses; the list is rebuilt only when they differ."""
        self._attempts: dict[Address, _Attempt] = {}
        """Each wanted address, with its own pause."""

    def set_seeds(self, seeds: Sequence[Address]) -> None:
        """Dial these addresses for ever, while no live member has them."""
        self._seeds = tuple(seeds)

    def dial_due(self, now: float) -> None:
        """Dial all addresses that are due. Called after every input, because the missing members may have changed."""
        if self._state_updates.is_leaving:
            return
        looked_for = (self._table.revision, len(self._state_updates.unconfirmed), self._seeds)
        if looked_for != self._looked_for:
            self._looked_for = looked_for
            # New addresses are dialled at once, the others keep their pauses and their order.
            wanted = dict.fromkeys(self._wanted())
            known = {address: one for address, one in self._attempts.items() if address in wanted}
            self._attempts = known | {a: _Attempt(self._min_s, now) for a in wanted if a not in known}
        free = DIALS_LIMIT - sum(attempt.in_flight for attempt in self._attempts.values())
        due = [a for a, attempt in self._attempts.items() if not attempt.in_flight and attempt.due_at <= now]
        for address in due[: max(free, 0)]:
            self._attempts[address].in_flight = True
            self._dial(address, now)

    def ended(self, address: Address, now: float) -> None:
        """Note that the stream is closed, whatever its outcome: an address that answered and is still wanted (it is
        not what the member there calls its own) pauses like one that did not answer."""
        if (attempt := self._attempts.pop(address, None)) is None:
            return
        attempt.in_flight = False
        attempt.due_at = now + attempt.pause_s * self._rng.uniform(0.5, 1.0)
        attempt.pause_s = min(attempt.pause_s * 2, self._max_s)
        self._attempts[address] = attempt  # to the end: those that wait longest go first

    def next_deadline(self) -> float:
        """When `dial_due` has something to do."""
        in_flight = sum(attempt.in_flight for attempt in self._attempts.values())
        if self._state_updates.is_leaving or in_flight >= DIALS_LIMIT:
            return NEVER
        waiting = (attempt.due_at for attempt in self._attempts.values() if not attempt.in_flight)
        return min(waiting, default=NEVER)

    def _wanted(self) -> Iterable[Address]:
        unconfirmed = self._state_updates.unconfirmed
        wanted = [*self._seeds]
        if unconfirmed:
            # In the table's order: a set's order would differ between processes.
            wanted += [m.address for m in self._table if m.node_id in unconfirmed]
        if self._table.live == 1:
            wanted += [m.address for m in self._table.others(MemberState.DEAD)]
        unreached = (address for address in dict.fromkeys(wanted) if not self._is_reached(address))
        return itertools.islice(unreached, WANTED_LIMIT)

    def _is_reached(self, address: Address) -> bool:
        unconfirmed = self._state_updates.unconfirmed
        return any(is_live(m) and m.node_id not in unconfirmed for m in self._table.at(address))
