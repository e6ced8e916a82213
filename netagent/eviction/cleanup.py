"""Cleanup: delete the local state of evicted hosts, in the membership, their logs, and on disk.

What remains is one small record in the log of the host that evicted them, which fences their identity for ever. An
evicted host that comes back is a member like any other until it goes, so that it learns of its eviction, and so that
both sides learn of it when a partition made two sides evict each other; meanwhile the view ignores all that it
writes. A compromised one is no member any more (netagent.membership.refusal). The logs of a host that turns out to
live, because its eviction was contested, are requested again.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from netagent.journal.journal import Journal
from netagent.model.ids import HostId
from netagent.registry.state_store import StateStore
from netgossip.membership.swim import Swim
from netgossip.records.replication import Replication
from netgossip.types import MemberState


class Cleanup:
    """Follows the view."""

    def __init__(
        self,
        live: StateStore,
        membership: Swim,
        records: Replication,
        journal: Journal,
        flush: Callable[[], object],
    ) -> None:
        self._live = live
        self._flush = flush
        self._membership = membership
        self._records = records
        self._journal = journal
        self._cleaned_up: set[HostId] = set()
        self._seen: tuple[object, object] = (None, None)

    async def run(self) -> None:
        """Run until cancelled."""
        revision = 0
        while True:
            revision = await self._live.wait_newer(revision)
            self.look()
            self._flush()

    def look(self) -> None:
        """Clean up after hosts evicted from the view since. Costs nothing while neither that nor the membership
        changes."""
        view = self._live.view
        seen = (view.evicted, view.store.members)
        if seen[0] is self._seen[0] and seen[1] is self._seen[1]:
            return
        self._seen = seen
        forgotten = set(view.evicted) - {view.local} - view.undecided
        for host_id in self._cleaned_up - forgotten:
            self._records.readmit_owner(host_id)
        back = {host_id for host_id in view.store.members if host_id in self._cleaned_up}
        self._cleaned_up &= forgotten
        for host_id in sorted((forgotten - self._cleaned_up) | (back & forgotten)):
            if not self._is_live(host_id):  # a live one must still learn of its eviction
                self._clean_up(host_id)

    def _is_live(self, host_id: HostId) -> bool:
        member = self._membership.members().get(host_id)
        return member is not None and member.state in (MemberState.ALIVE, MemberState.SUSPECT)

    def _clean_up(self, host_id: HostId) -> None:
        for scope in self._records.scopes_of(host_id):
            self._journal.note_replica_dropped(scope, host_id)
        self._records.drop_owner(host_id)
        self._membership.forget(host_id, trio.current_time())
        self._journal.note_member_gone(host_id)
        self._live.update_view(lambda view: view.without_host(host_id))
        self._cleaned_up.add(host_id)
