"""Which networks this host takes part in, and whether it already knows what is in them.

A host receives only the records of the networks that it takes part in. It announces that by an attachment record in
scope 0, which makes its peers send, and asks one of them for what is there already. It stays for a while after its
last endpoint has gone, because containers come back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress

import trio

from netagent.errors import FailedError, NetagentError
from netagent.model.ids import HostId, NetworkId
from netagent.model.records import AttachmentRecord
from netagent.periodic import tick_within
from netagent.registry.publish import Publisher
from netagent.registry.record_codec import scope_of
from netagent.registry.state_store import StateStore
from netagent.registry.view import AgentState, RegistryView
from netgossip.errors import GossipUsageError
from netgossip.records.replication import Replication
from netgossip.types import CLUSTER_SCOPE, Scope

SYNC_S = 5.0
"""How long an attach waits for the first sync of a network."""
LINGER_S = 30.0
"""From the last endpoint to the end of the attachment."""
UNKNOWN_S = 60.0
"""How long a network may stay unknown in which a peer reports a log of ours. A host restored from a backup learns of
the existing networks within a few seconds."""

logger = logging.getLogger("netagent.membership.participation")


class Participation:
    """Enters and leaves networks' scopes. `forget` makes view and journal drop what they keep of a scope: others'
    records in slices. `release` is called before a network is entered: what was fetched of it for command answers
    only (remote_networks.py) is dropped, or view and journal would not get it."""

    def __init__(
        self,
        records: Replication,
        publisher: Publisher,
        live: StateStore,
        flush: Callable[[], None],
        *,
        forget: Callable[[Scope], None],
        release: Callable[[NetworkId], None] = lambda _network_id: None,
    ) -> None:
        self._records = records
        self._publisher = publisher
        self._live = live
        self._flush = flush
        self._forget = forget
        self._release = release
        self._synced: dict[NetworkId, trio.Event] = {}
        self._resumed: set[NetworkId] = set()
        """Those that the start resumed, of which no peer has confirmed yet that we hold what it holds."""
        self._unused_since: dict[NetworkId, float] = {}
        self._guests: dict[NetworkId, int] = {}
        self._left = LeftHosts()
        self._followed: dict[NetworkId, tuple[frozenset[HostId], frozenset[HostId]]] = {}
        """For networks whose members were passed to the gossip: what these were computed from."""
        # Otherwise a network could be left at the very moment in which an attach finds it entered already.
        self._turn = trio.Lock()
        self._unknown_since: dict[Scope, float] = {}
        """Scopes of unknown networks, with an empty log of ours that a peer reported."""

    def resume(self) -> None:
        """Resume, after a start, in the networks that our own records say we are in, with what the journal knew.

        Also in those that were removed: otherwise `run` would never leave them.
        """
        for network_id in own_networks(self._live.view):
            self._enter(network_id).set()
            self._resumed.add(network_id)

    @property
    def has_caught_up(self) -> bool:
        """True when a network that was resumed lacks nothing that peers have learnt while this agent was away."""
        return not self._resumed

    def has_entered(self, network_id: NetworkId) -> bool:
        """True while the network's records go into the registry."""
        return network_id in self._synced

    def is_synced(self, network_id: NetworkId) -> bool:
        """True when a missing record of the network means that there is none."""
        return network_id in self._synced and self._synced[network_id].is_set()

    def note_synced(self, network_id: NetworkId) -> None:
        """Note that the gossip says that we hold what a peer holds."""
        self._resumed.discard(network_id)
        if network_id in self._synced and not self._synced[network_id].is_set():
            self._synced[network_id].set()
            self._live.note_change()  # what is made only of networks that are known wholly can be made now

    async def take_part(self, network_id: NetworkId) -> None:
        """Attach this host to the network and wait until it knows what is in it.

        FailedError after SYNC_S seconds, naming the peers asked; the attachment stays and keeps trying.
        """
        async with self._turn:
            self._unused_since.pop(network_id, None)
            if self._live.view.local not in self._live.view.attachments(network_id):
                await self._publisher.put(AttachmentRecord(network_id))
            self._enter(network_id)
        await self._wait_synced(network_id)

    async def look_into(self, network_id: NetworkId) -> None:
        """Learn what is in the network without being seen in it, until `look_away`. FailedError as above."""
        self._guests[network_id] = self._guests.get(network_id, 0) + 1
        try:
            await self._wait_synced(network_id)
        except BaseException:
            self.look_away(network_id)
            raise

    def look_away(self, network_id: NetworkId) -> None:
        """End `look_into`. Nothing is kept: without an attachment it would not be kept up to date."""
        self._guests[network_id] -= 1
        if self._guests[network_id]:
            return
        del self._guests[network_id]
        view = self._live.view
        is_wanted = self._turn.locked() or view.local in view.attachments(network_id)
        if network_id in self._synced and not is_wanted:
            self._exit(network_id)

    async def withdraw_all(self) -> None:
        """Withdraw from all networks, before leaving the cluster."""
        view = self._live.view
        mine = [network_id for network_id in view.networks if view.local in view.attachments(network_id)]
        await self._publisher.withdraw(*map(AttachmentRecord, mine))

    async def run(self) -> None:
        """Keep scopes in step with the registry until cancelled."""
        revision = 0
        while True:
            self._follow_attachments()
            try:
                await self._leave_unused()
                await self._drop_logs_of_removed()
            except NetagentError as error:
                logger.warning("cannot journal yet which networks this host has left: %s", error)
            with trio.move_on_at(tick_within(trio.current_time(), LINGER_S / 6)):
                revision = await self._live.wait_newer(revision)

    async def _wait_synced(self, network_id: NetworkId) -> None:
        synced = self._enter(network_id)
        if synced.is_set():
            return
        with trio.move_on_after(SYNC_S):
            await synced.wait()
            return
        view = self._live.view
        asked = sorted(view.hosts[h].name for h in self._peers(network_id) if h in view.hosts)
        network = view.networks.get(network_id)
        name = network.unique_name if network else network_id[:8]
        raise FailedError(
            f"the records of network {name} did not arrive within {SYNC_S:.0f} s "
            f"(asked: {', '.join(asked) or 'no host'})",
            code="not-synced",
            thing=name,
            hint="check with `netagent members` that one of these hosts answers, then try again",
        )

    def _enter(self, network_id: NetworkId) -> trio.Event:
        if network_id not in self._synced:
            self._release(network_id)
            self._synced[network_id] = trio.Event()
            self._records.set_scope_members(
                scope_of(network_id), self._members(network_id), trio.current_time()
            )
            self._records.enter_scope(scope_of(network_id), trio.current_time())
            self._flush()
        return self._synced[network_id]

    def _exit(self, network_id: NetworkId) -> None:
        del self._synced[network_id]
        self._resumed.discard(network_id)
        self._followed.pop(network_id, None)
        self._unused_since.pop(network_id, None)
        self._forget(scope_of(network_id))
        self._records.exit_scope(scope_of(network_id))

    def _members(self, network_id: NetworkId) -> frozenset[HostId]:
        view = self._live.view
        return view.attachments(network_id) - self._left.of(view)

    def _peers(self, network_id: NetworkId) -> Iterable[HostId]:
        return self._members(network_id) - {self._live.view.local}

    def _follow_attachments(self) -> None:
        """Pass changed members to the gossip. Runs for each new view, though hardly any changes them."""
        view, is_changed = self._live.view, False
        left = self._left.of(view)
        for network_id in self._synced:
            attached = view.attachments(network_id)
            known = self._followed.get(network_id)
            is_same = known is not None and known[0] is attached and known[1] is left
            if is_same and self._synced[network_id].is_set():  # until then each view may be what it waits for
                continue
            self._followed[network_id] = attached, left
            self._records.set_scope_members(scope_of(network_id), attached - left, trio.current_time())
            is_changed = True
        if is_changed:
            self._flush()

    async def _leave_unused(self) -> None:
        view, now = self._live.view, trio.current_time()
        used = self._live.rows.networks | self._guests.keys()
        used |= {one.network_id for one in view.own_host_addresses}
        for network_id in list(self._synced):
            if network_id in used:
                self._unused_since.pop(network_id, None)
                continue
            since = self._unused_since.setdefault(network_id, now)
            if network_id not in view.networks or now - since >= LINGER_S:
                await self._leave(network_id)

    async def _drop_logs_of_removed(self) -> None:
        """Drop logs of ours that are of no use any more.

        These are our logs in networks that were removed for good: their tombstones would stay for ever. A host that
        has not heard of the removal yet learns of it in the cluster's own scope. An empty log in an unknown network
        is of no use either: a peer that invents networks would use up the limit of such logs.
        """
        view = self._live.view
        used = self._live.rows.networks | self._synced.keys()
        unknown_since, self._unknown_since = self._unknown_since, {}
        for scope in self._records.own_scopes() - {CLUSTER_SCOPE}:
            network_id = NetworkId(scope.hex())
            if network_id in used:
                continue
            is_over = view.is_removed(network_id)
            if network_id not in view.networks and self._records.is_only_reported(scope):
                now = trio.current_time()
                since = self._unknown_since[scope] = unknown_since.get(scope, now)
                is_over |= now - since >= UNKNOWN_S
            if is_over:
                with suppress(
                    GossipUsageError
                ):  # entered while this was being journalled: the log stays after all
                    await self._publisher.drop_own_log(scope)

    async def _leave(self, network_id: NetworkId) -> None:
        async with self._turn:
            if network_id not in self._unused_since.keys() & self._synced.keys() - self._guests.keys():
                return  # wanted again while we waited for our turn
            view = self._live.view
            if view.local in view.attachments(network_id):
                await self._publisher.withdraw(AttachmentRecord(network_id))
            self._exit(network_id)
            logger.info("no longer taking part in network %s", network_id[:8])


class LeftHosts:
    """The hosts that have left, updated from view to view by looking only at hosts that were touched."""

    def __init__(self) -> None:
        self._seen: RegistryView | None = None
        self._left: frozenset[HostId] = frozenset()

    def of(self, view: RegistryView) -> frozenset[HostId]:
        """The hosts that have left in this view; the same object again as long as they are the same."""
        seen, self._seen = self._seen, view
        if seen is view:
            return self._left
        touched = view.touched_since(seen) if seen is not None else None
        among = view.hosts.keys() if touched is None else touched.hosts
        left = {h for h in among if (host := view.hosts.get(h)) is not None and host.agent is AgentState.LEFT}
        others = frozenset() if touched is None else self._left - touched.hosts
        if others | left != self._left:
            self._left = others | left
        return self._left


def own_networks(view: RegistryView) -> list[NetworkId]:
    """The networks that this host's records say it takes part in, whether or not they still exist."""
    own = view.records_of(view.local, CLUSTER_SCOPE)
    return [record.network_id for record in own if isinstance(record, AttachmentRecord)]
