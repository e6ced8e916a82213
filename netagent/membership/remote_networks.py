"""Networks that this host takes no part in, read from members that do: for people, and for nothing else.

Commands answer for the whole cluster from any member, but a host holds the records of its own networks only. So for a
command it fetches the others as a host does that enters a network: by digest, over the record streams, from at most
PEERS members of each network, all networks at once. (Requests of 700 bytes could not carry ten thousand endpoints;
the digests cost almost nothing when nothing has changed.) Fetched records are kept apart from the registry:

    registry (StateStore)    what this host takes part in        names, kernel, journal, watchers read it
    overview (this file)     the same, and what was fetched      only the commands' answers read it

No attachment record is written, so that no host pushes to this one. What was fetched is compared anew at each query
that comes more than FRESH_S after the last comparison, and dropped LINGER_S after the last query.

When the host really enters such a network, what was fetched is dropped first (`release`): registry and journal must
get every record.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

import trio

from netagent.membership.approach import RECORDS_PER_SLICE, approach
from netagent.model.ids import HostId, NetworkId
from netagent.periodic_task import PeriodicTask
from netagent.registry.cluster_overview import ClusterOverview, Gap, GapReason
from netagent.registry.record_codec import scope_of
from netagent.registry.state_store import StateStore
from netagent.registry.store import Store
from netagent.registry.view import AgentState, RegistryView
from netgossip.records.replication import Replication
from netgossip.slice_runner import in_slices
from netgossip.slices import Slices
from netgossip.types import EntriesChanged, Log, Scope, Version

PEERS: Final = 3
"""Bound of members asked about one network; beyond it: others are not asked. Each has all records of it, so more
would only cost more."""
ASK_S: Final = 2.0
"""For all networks together, from the query to the answer."""
PATIENCE_S: Final = 0.3
"""For the further members of a network, once one of them has answered for each."""
FRESH_S: Final = 1.0
"""What was compared more recently than this is not compared again."""
LINGER_S: Final = 30.0
"""From the last query until what was fetched is dropped."""
MAX_NETWORKS: Final = 256
"""Bound of other hosts' networks that are held for answers; beyond it: further ones are not fetched, and the answer
says so."""
AT_ONCE: Final = 16
"""Bound of networks fetched at the same time; beyond it: others wait; 2 s bound all of them. The entries are counted
between two such groups."""
MAX_ENTRIES: Final = 50_000
"""Bound of records of other hosts' networks, beyond which no further network is fetched; beyond it: further ones are
not fetched, and the answer says so. The gossip limits what one log may hold."""
_LOOK_S: Final = 0.01

logger = logging.getLogger("netagent.membership.remote_networks")


@dataclass(slots=True)
class _Fetched:
    """A network whose records are held for a while. Times are on trio's clock."""

    used_at: float
    tried_at: float
    """When its members were asked last."""
    peers: frozenset[HostId] = frozenset()
    """The members asked then."""
    heard: tuple[HostId, ...] = ()
    """The members that answered then; sorted."""
    told_by: tuple[HostId, ...] = ()
    """The members that answered when any answered last."""


class RemoteNetworks:
    """One for each run of the cluster. `is_entered` is true for networks that this host takes part in, or looks into
    for a use-case: those are in the registry."""

    def __init__(
        self,
        records: Replication,
        live: StateStore,
        flush: Callable[[], object],
        *,
        is_entered: Callable[[NetworkId], bool],
        rng: random.Random,
    ) -> None:
        self._records = records
        self._live = live
        self._flush = flush
        self._is_entered = is_entered
        self._rng = rng
        self._fetched: dict[NetworkId, _Fetched] = {}
        self._view: RegistryView | None = None
        """The overview's last view; None: nothing was fetched."""
        self._versions: dict[tuple[Scope, HostId], Version] = {}
        """The versions of the fetched logs in that view."""
        self._generation = 0
        self._asking = trio.Lock()
        self._building = trio.Lock()

    # -- for other parts ---------------------------------------------------------------------------------------

    def holds(self, scope: Scope) -> bool:
        """True for a scope that is held for answers only: no other part gets its events."""
        return NetworkId(scope.hex()) in self._fetched

    def release(self, network_id: NetworkId) -> None:
        """Drop the network, because this host is about to enter it: none of it is held here when this returns."""
        if network_id in self._fetched:
            self._flush()  # what has come is still ours, and must not reach the registry as a beginning
            del self._fetched[network_id]
            self._records.exit_scope(scope_of(network_id))

    @property
    def is_used(self) -> bool:
        """True while anything that was fetched is held."""
        return bool(self._fetched)

    @property
    def local_overview(self) -> ClusterOverview:
        """What this host holds itself, whatever others hold."""
        return ClusterOverview(self._live.view)

    async def overview(self, wanted: Collection[NetworkId] | None = None) -> ClusterOverview:
        """The cluster, as far as it can be known within ASK_S. `wanted`: only these networks matter; None: all."""
        view = self._live.view
        every = [n for n in sorted(view.networks) if wanted is None or n in wanted]
        asked = [network_id for network_id in every if not self._is_entered(network_id)]
        if not asked and not self._fetched:
            return ClusterOverview(view, gaps=self._missing(every))
        await self._ask([n for n in asked if self._live_peers(n)])
        view = await self._bring_up()
        told_by = {n: one.told_by for n, one in self._fetched.items() if one.told_by}
        gaps = tuple(gap for network_id in asked if (gap := self._gap(network_id)) is not None)
        return ClusterOverview(view, told_by, (*gaps, *self._missing(every)))

    @property
    def generation(self) -> int:
        """Grows with every log of the overview that is replaced. Each watcher keeps the one that it has read: any
        command, and the dropping of what is not used, brings the overview up to date before a watcher looks."""
        return self._generation

    async def refresh(self) -> None:
        """Compare what is held once more, for watchers; bring the overview up to date with it."""
        now = trio.current_time()
        for one in self._fetched.values():
            one.used_at = now
        await self._ask(list(self._fetched))
        if self._has_news():
            await self._bring_up()

    async def run(self) -> None:
        """Drop networks that no command has used recently; until cancelled."""
        task = PeriodicTask(LINGER_S / 6)
        while True:
            await task.wait()
            async with self._asking:
                since = trio.current_time() - LINGER_S
                for network_id in [n for n, one in self._fetched.items() if one.used_at < since]:
                    self.release(network_id)
            if self._view is not None:
                await self._bring_up()  # so that what was dropped is freed in slices

    # -- asking ------------------------------------------------------------------------------------------------

    def _attached(self, network_id: NetworkId) -> list[HostId]:
        """Other hosts that take part, and have not left."""
        view = self._live.view
        others = sorted(view.attachments(network_id) - {view.local})
        return [h for h in others if (host := view.hosts.get(h)) and host.agent is not AgentState.LEFT]

    def _live_peers(self, network_id: NetworkId) -> list[HostId]:
        hosts = self._live.view.hosts
        return [host_id for host_id in self._attached(network_id) if hosts[host_id].is_live]

    def _gap(self, network_id: NetworkId) -> Gap | None:
        attached = self._attached(network_id)
        one = self._fetched.get(network_id)
        if self._is_entered(network_id) or not attached:
            return None
        if not self._live_peers(network_id):
            is_old = one is not None and bool(one.told_by)
            return Gap(network_id, GapReason.AWAY, tuple(attached), is_old=is_old)
        if one is None:
            return Gap(network_id, GapReason.NOT_ASKED, tuple(attached))
        if one.heard:
            return None
        return Gap(network_id, GapReason.SILENT, tuple(sorted(one.peers)), is_old=bool(one.told_by))

    def _missing(self, networks: Iterable[NetworkId]) -> tuple[Gap, ...]:
        """For networks that this host takes part in, and where no other host is alive: hosts of which it holds
        nothing."""
        gaps = []
        for network_id in filter(self._is_entered, networks):
            attached = self._attached(network_id)
            if attached and not any(self._live.view.hosts[one].is_live for one in attached):
                held = self._records.outline(scope_of(network_id))
                if missing := tuple(one for one in attached if one not in held):
                    gaps.append(Gap(network_id, GapReason.MISSING, missing))
        return tuple(gaps)

    async def _ask(self, networks: Sequence[NetworkId]) -> None:
        """Compare with members of each network; note which answered. One at a time: a second caller finds it done."""
        async with self._asking:
            now = trio.current_time()
            for network_id in networks:
                if network_id in self._fetched:
                    self._fetched[network_id].used_at = now
            due = [n for n in networks if now - FRESH_S >= self._tried_at(n)]
            with trio.move_on_after(ASK_S):
                for start in range(0, len(due), AT_ONCE):
                    group = [n for n in due[start : start + AT_ONCE] if self._begin(n, now)]
                    try:
                        self._flush()
                        await self._wait(group)
                    finally:
                        self._end(group)

    def _tried_at(self, network_id: NetworkId) -> float:
        one = self._fetched.get(network_id)
        return -FRESH_S if one is None else one.tried_at

    def _begin(self, network_id: NetworkId, now: float) -> bool:
        """Ask some members of the network; False where none needs to be asked."""
        live = self._live_peers(network_id)
        one = self._fetched.get(network_id)
        if not live or self._is_entered(network_id):
            return False
        scope = scope_of(network_id)
        if one is None:
            if len(self._fetched) >= MAX_NETWORKS or self._entries() >= MAX_ENTRIES:
                return False
            one = self._fetched[network_id] = _Fetched(now, now)
        kept = one.peers.intersection(live, one.heard)  # they have proven that they answer
        others = [host_id for host_id in live if host_id not in kept]
        one.peers = kept | set(self._rng.sample(others, min(len(others), PEERS - len(kept))))
        one.tried_at = now
        one.heard = ()
        self._records.set_scope_members(scope, frozenset(one.peers), now)
        self._records.enter_scope(scope, now)
        self._records.catch_up(scope, now)
        return True

    async def _wait(self, group: Sequence[NetworkId]) -> None:
        until = float("inf")
        while trio.current_time() < until:
            lacking = [self._lacking(n) for n in group if n in self._fetched]
            if not any(missing for missing, _ in lacking):
                return
            if until == float("inf") and all(is_heard for _, is_heard in lacking):
                until = trio.current_time() + PATIENCE_S
            await trio.sleep(_LOOK_S)

    def _lacking(self, network_id: NetworkId) -> tuple[frozenset[HostId], bool]:
        """The members that have not answered yet, and whether any has."""
        peers = self._fetched[network_id].peers
        missing = peers & self._records.ahead(scope_of(network_id))
        # A peer that is not live any more counts as missing, although the gossip no longer waits for it.
        missing |= peers.difference(self._live_peers(network_id))
        return missing, missing != peers

    def _end(self, group: Iterable[NetworkId]) -> None:
        for network_id in group:
            one = self._fetched.get(network_id)
            if one is None:
                continue  # really entered meanwhile
            missing, is_heard = self._lacking(network_id)
            self._records.caught_up(scope_of(network_id))
            if is_heard:
                one.heard = one.told_by = tuple(sorted(one.peers - missing))

    def _entries(self) -> int:
        return sum(count for n in self._fetched for _, count in self._records.outline(scope_of(n)).values())

    # -- the overview ------------------------------------------------------------------------------------------

    def _has_news(self) -> bool:
        """True when a log that is held differs from the one in the overview."""
        return any(
            self._versions.get((scope, HostId(owner))) != version
            for scope in map(scope_of, self._fetched)
            for owner, (version, _) in self._records.outline(scope).items()
            if owner != self._live.view.local
        )

    async def _bring_up(self) -> RegistryView:
        """Return the overview's view, as of now."""
        async with self._building:
            view = await in_slices(self._build_view())
            self._view = view if self._fetched else None
            if self._view is None:
                self._versions.clear()
            return view

    def _build_view(self) -> Slices[RegistryView]:
        base = self._live.view
        scopes = [scope_of(network_id) for network_id in self._fetched]
        view = yield from approach(self._view or base, base, frozenset(scopes))
        for where in [where for where in self._versions if where[0] not in scopes]:
            del self._versions[where]
            self._generation += 1
        for scope in scopes:
            outline = self._records.outline(scope)
            logs = chain(view.store.records, view.store.refused)
            owners = {owner for one, owner in logs if one == scope}
            for gone in owners.difference(outline, {view.local}):
                view = yield from _without_log(view, scope, gone)
                self._versions.pop((scope, gone), None)
                self._generation += 1
            for owner, (version, _) in outline.items():
                if owner == view.local or self._versions.get((scope, HostId(owner))) == version:
                    continue
                log = self._records.log(scope, owner)
                if log is not None:
                    view = yield from _with_log(view, log)
                    self._versions[scope, HostId(owner)] = Version(log.epoch, log.head)
                    self._generation += 1
                self._view = view  # a caller that is cancelled in between leaves whole logs
            yield
        return view


def _without_record(view: RegistryView, scope: Scope, owner: HostId, key: bytes) -> RegistryView:
    return view.edited(lambda draft: draft.copy_records(Store(), (scope, owner), [key]))


def _with_log(view: RegistryView, log: Log) -> Slices[RegistryView]:
    owner = HostId(log.owner)
    for key in view.keys_of(owner, log.scope) - log.entries.keys():
        view = _without_record(view, log.scope, owner, key)
        yield
    entries = tuple(log.entries.values())
    for start in range(0, len(entries), RECORDS_PER_SLICE):
        piece = entries[start : start + RECORDS_PER_SLICE]
        event = EntriesChanged(
            log.scope, log.owner, log.epoch, log.head, log.collected, piece, replaced=False
        )
        view = view.with_entries(event)
        yield
    return view


def _without_log(view: RegistryView, scope: Scope, owner: HostId) -> Slices[RegistryView]:
    for key in view.keys_of(owner, scope):
        view = _without_record(view, scope, owner, key)
        yield
    return view
