"""How this host leaves: for good, because the cluster has evicted it, until its agent starts again, or until an
operator says so.

In all cases names lead away first, running requests may finish, and the other hosts get the last record.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from functools import partial

from netagent.daemon.controllers import Controllers
from netagent.daemon.encryption import Encryption
from netagent.daemon.withdraw import Withdrawal
from netagent.endpoints.drain import DRAIN_S, REMEMBERED_S, until_idle
from netagent.endpoints.fencing import fence_all
from netagent.endpoints.host_access import HostAccess
from netagent.endpoints.lifecycle import Endpoints
from netagent.events.channel import event
from netagent.events.kinds import EventKind
from netagent.external.view import own_programs
from netagent.ipam.allocator import Allocator
from netagent.ipam.prefetch import hand_on
from netagent.journal.journal import Journal
from netagent.membership.gossip import Gossip
from netagent.membership.host_record import HostRecordKeeper
from netagent.model.records import Drain
from netagent.registry.state_store import StateStore

NAMED = 5
"""So many fenced endpoints are named in the log."""

logger = logging.getLogger("netagent.daemon.leave")


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """Leaves the cluster; needs all parts of the host running."""

    live: StateStore
    journal: Journal
    gossip: Gossip
    controllers: Controllers
    allocator: Allocator
    endpoints: Endpoints
    host_access: HostAccess
    own_host: HostRecordKeeper
    withdrawal: Withdrawal
    encryption: Encryption

    async def leave(self, drain_s: float = DRAIN_S) -> int:
        """Withdraw names, detach everything, hand the space on, tell the others. Return the number of endpoints
        detached."""
        # Until the end: space that came later would be lost with us.
        async with self.allocator.space_requests.closed():
            with self.endpoints.context.closed():
                async with self.own_host.going_down():
                    await self._withdrawal(drain_s)
                    detached = await self.endpoints.remove_all()
                    await self.gossip.publisher.withdraw(*own_programs(self.live.view))
                    await self.host_access.withdraw_all()
                    await self.gossip.participation.withdraw_all()
                    # Another leaving host must know that we leave before it chooses a successor for its space, and
                    # the other way round.
                    await self.gossip.wait_heard()
                    await hand_on(self.live, self.allocator.grants, self.gossip.wait_heard)
            await self._end()
        return detached

    async def fence(self) -> int:
        """Take everything down after an eviction, except a note of each endpoint; return their number."""
        with self.endpoints.context.closed():
            remove_all = partial(self.endpoints.remove_all, "the cluster evicted this host")
            count = await fence_all(self.live, self.journal, remove_all)
        await self._end()
        if count:
            names = sorted({row.name for row in self.live.fenced.values()})
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            logger.warning(
                "fenced %s%s: the cluster evicted this host, and may give their addresses to others",
                ", ".join(names[:NAMED]),
                more,
                extra=event(EventKind.FENCE),
            )
        return count

    async def withdraw(self, drain_s: float = DRAIN_S) -> int:
        """Lead names away from this host until the agent starts again, and let running requests finish.

        Return the number of live hosts that know it.
        """
        async with self.own_host.going_down():
            await self._withdrawal(drain_s)
            lacking = await self.gossip.wait_heard()
        return len(self.withdrawal.others() - lacking)

    async def drain(self, by: str, wait_s: float | None) -> bool | None:
        """Lead names away from this host's endpoints until `undrain`. With `wait_s`, return whether none of them has
        an open connection by then."""
        await self.own_host.set_drain(Drain(int(time.time()), by))
        await self.withdrawal.wait_host_hidden()
        if wait_s is None:
            return None
        rows = [row for row in self.live.rows.values() if row.is_published]
        return await until_idle(rows, at_least_s=REMEMBERED_S, at_most_s=wait_s)

    async def undrain(self) -> None:
        """Lead names to this host's endpoints again."""
        await self.own_host.set_drain(None)

    async def _withdrawal(self, drain_s: float) -> None:
        """Wait until no client is led here any more and those that were are done. Returns at once when there are
        none."""
        rows = [row for row in self.live.rows.values() if row.is_published]
        if rows and self.withdrawal.others():
            await self.withdrawal.wait_host_hidden()
            await until_idle(rows, at_least_s=REMEMBERED_S, at_most_s=drain_s)

    async def _end(self) -> None:
        await self.gossip.leave()
        await self.controllers.end()
        await self.encryption.remove()
