"""Members to reconnect: nodes that should be members and are not, dialled until they are.

These are the seeds, members from before our restart that no peer has confirmed since, and, when no live member is
left, all dead members.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Sequence

from netgossip.config import GossipConfig
from netgossip.deadlines import NEVER
from netgossip.membership.members import MemberTable, is_live
from netgossip.membership.redial import WANTED_LIMIT, Redial
from netgossip.membership.state_updates import StateUpdates
from netgossip.types import Address, MemberState


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
        self._table = table
        self._state_updates = state_updates
        self._dial = dial
        self._redial = Redial(min_s=config.seed_retry_min_s, max_s=config.seed_retry_max_s, rng=rng)
        self._seeds = tuple(seeds)
        self._looked_for: tuple[object, ...] = ()
        """The inputs of the list of wanted addresses; the list is rebuilt only when they differ."""

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
            self._redial.want(self._wanted(), now)
        for address in self._redial.take_due(now):
            self._dial(address, now)

    def ended(self, address: Address, now: float) -> None:
        """Note that the stream is closed, whatever its outcome."""
        self._redial.ended(address, now)

    def next_deadline(self) -> float:
        """When `dial_due` has something to do."""
        return NEVER if self._state_updates.is_leaving else self._redial.next_deadline()

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
