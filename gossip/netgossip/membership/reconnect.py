"""Who should be a member and is not: dialled until it is.

Seeds, members of an earlier life of ours of whom nobody has told us in this one, and, when no live member is left,
all the dead.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Sequence

from netgossip.config import GossipConfig
from netgossip.membership.members import MemberTable, is_live
from netgossip.membership.redial import WANTED_LIMIT, Redial
from netgossip.membership.state_updates import StateUpdates
from netgossip.types import Address, MemberState


class Reconnect:
    """`dial` opens a stream to an address; `ended` must follow for each. Nobody who leaves dials any more."""

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
        self._table = table
        self._state_updates = state_updates
        self._dial = dial
        self._redial = Redial(min_s=config.seed_retry_min_s, max_s=config.seed_retry_max_s, rng=rng)
        self._seeds = tuple(seeds)
        self._looked_for: tuple[object, ...] = ()
        """What the list of the wanted was made from; made anew only when that is different."""

    def set_seeds(self, seeds: Sequence[Address]) -> None:
        """Dial these, for ever, while no live member has their address."""
        self._seeds = tuple(seeds)

    def dial_due(self, now: float) -> None:
        """Dial whom it is time to dial. After every input: who is missing may have changed."""
        if self._state_updates.is_leaving:
            return
        looked_for = (self._table.revision, len(self._state_updates.unconfirmed), self._seeds)
        if looked_for != self._looked_for:
            self._looked_for = looked_for
            self._redial.want(self._wanted(), now)
        for address in self._redial.take_due(now):
            self._dial(address, now)

    def ended(self, address: Address, now: float) -> None:
        """The stream is closed, whatever came of it."""
        self._redial.ended(address, now)

    def next_deadline(self) -> float:
        """When `dial_due` has something to do."""
        return float("inf") if self._state_updates.is_leaving else self._redial.next_deadline()

    def _wanted(self) -> Iterable[Address]:
        unconfirmed = self._state_updates.unconfirmed
        wanted = [*self._seeds]
        if unconfirmed:
            # In the table's order: a set's would be another one in each process.
            wanted += [m.address for m in self._table if m.node_id in unconfirmed]
        if self._table.live == 1:
            wanted += [m.address for m in self._table.others(MemberState.DEAD)]
        unreached = (address for address in dict.fromkeys(wanted) if not self._is_reached(address))
        return itertools.islice(unreached, WANTED_LIMIT)

    def _is_reached(self, address: Address) -> bool:
        unconfirmed = self._state_updates.unconfirmed
        return any(is_live(m) and m.node_id not in unconfirmed for m in self._table.at(address))
