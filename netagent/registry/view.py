"""RegistryView: what the cluster knows, as one immutable value.

All parts of the agent read the same `RegistryView`, and may keep one for as long as they like. A change makes a new
view that shares all but the changed paths with the old one, so its cost is proportional to the change and not to the
cluster.

    records, by (scope, owner, key)         the truth, as the owners wrote it
    members, answers                        what we see ourselves
    everything else                         an index, derivable from these (check_invariants does so)

The rules that decide between conflicting records are in netagent.registry.conflict_rules. Their losers stay visible:
a network that lost its name or VNI says so, an endpoint that lost its address is in `fenced` instead of `endpoints`,
and `clashes` lists the conflicts for people.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Final, TypeVar

from immutables import Map

from netagent.model.ids import EndpointId, HostId, NetworkId
from netagent.model.records import EndpointRecord, GrantRecord, HostAddressRecord, Record
from netagent.registry.changelog import ChangedKeys, Changelog, ChangelogStep, extended, touched_between
from netagent.registry.conflicts import find_conflicts
from netagent.registry.derive import StoreBuilder, rebuild
from netagent.registry.record_codec import key_of, scope_of
from netagent.registry.store import EndpointKey, LogKey, Store, StoredRecord
from netagent.registry.views import (
    AgentState,
    Conflict,
    ConflictKind,
    EndpointView,
    HostView,
    NetworkView,
    ServiceView,
)
from netgossip.slices import Slices
from netgossip.types import CLUSTER_SCOPE, EntriesChanged, Member, Scope, Version

__all__ = [
    "AgentState",
    "Conflict",
    "ConflictKind",
    "EndpointView",
    "HostView",
    "NetworkView",
    "RegistryView",
    "ServiceView",
]


K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

RECORDS_PER_SLICE: Final = 20
"""About 2 ms."""
COMPARED_PER_SLICE: Final = 512


@dataclass(frozen=True, eq=False)
class RegistryView:
    """The registry at one moment. The first one is `RegistryView(local_id)`.

    `generation` grows with every change and orders the views of one agent's run; it means nothing elsewhere. A method
    that changes nothing returns the same object.
    """

    local: HostId
    generation: int = 0
    _store: Store = field(default_factory=Store, repr=False)
    _changelog: Changelog = field(default_factory=lambda: (ChangelogStep(),), repr=False)

    # -- the next view -----------------------------------------------------------------------------------------

    def with_entries(self, event: EntriesChanged) -> RegistryView:
        """Apply one delta of one owner. Invalid records are refused one by one and kept in `refused`."""
        draft = StoreBuilder(self._store, self.local)
        draft.apply(event)
        return self._next(draft)

    def with_member(self, member: Member) -> RegistryView:
        """Set what the membership says of a host's agent."""
        draft = StoreBuilder(self._store, self.local)
        draft.set_member(HostId(member.node_id), member)
        return self._next(draft)

    def with_host_answer(self, host_id: HostId, answers: bool | None) -> RegistryView:  # noqa: FBT001  (the value)
        """Set whether the host's kernel answers on the probe network; None: no longer probed."""
        draft = StoreBuilder(self._store, self.local)
        draft.set_answer(host_id, answers=answers)
        return self._next(draft)

    def with_silent(self, hosts: frozenset[HostId]) -> RegistryView:
        """Set all hosts of which several agree that their kernels are silent."""
        if hosts == frozenset(self._store.silent):
            return self
        draft = StoreBuilder(self._store, self.local)
        draft.set_silent(hosts)
        return self._next(draft)

    def with_unreached(self, hosts: frozenset[HostId]) -> RegistryView:
        """Set all hosts that this host's own probes do not reach."""
        if hosts == self.unreached:
            return self
        draft = StoreBuilder(self._store, self.local)
        draft.set_unreached(hosts)
        return self._next(draft)

    def without_member(self, host_id: HostId) -> RegistryView:
        """Drop a host's member. Its records stay: they are its owner's, not the membership's."""
        draft = StoreBuilder(self._store, self.local)
        draft.set_member(host_id, None)
        return self._next(draft)

    def without_host(self, host_id: HostId) -> RegistryView:
        """Drop everything that the host wrote or that we know of it."""
        draft = StoreBuilder(self._store, self.local)
        for where in [*self._store.records, *self._store.refused]:
            if where[1] == host_id:
                draft.drop_log(where)
        draft.set_member(host_id, None)
        draft.set_answer(host_id, answers=None)
        draft.set_silent(frozenset(self._store.silent) - {host_id})
        draft.set_unreached(self.unreached - {host_id})
        return self._next(draft)

    def approach(self, base: RegistryView, kept: frozenset[Scope]) -> Slices[RegistryView]:
        """Approach `base` in slices: this view with the truth of `base`, except what others wrote in the scopes
        `kept`.

        Two views of one agent share most of their logs as the very same objects, so the cost is proportional to what
        differs, plus one comparison per log.
        """
        mine, theirs = self._store, base._store
        logs = dict.fromkeys(chain(mine.records, mine.refused, theirs.records, theirs.refused))
        view = self
        for number, where in enumerate(logs, 1):
            is_same = mine.records.get(where) is theirs.records.get(where)
            is_same = is_same and mine.refused.get(where) is theirs.refused.get(where)
            if not is_same and (where[0] not in kept or where[1] == self.local):
                keys = _keys_that_differ(*(one.records.get(where, _NO_RECORDS) for one in (mine, theirs)))
                for start in range(0, len(keys), RECORDS_PER_SLICE):
                    view = view.with_records_of(base, where, keys[start : start + RECORDS_PER_SLICE])
                    yield
                view = view.with_log_of(base, where)
            if number % COMPARED_PER_SLICE == 0:
                yield
        yield
        return view.with_sight_of(base)

    def with_records_of(self, base: RegistryView, where: LogKey, keys: Iterable[bytes]) -> RegistryView:
        """Take some records of one log from `base`."""
        draft = StoreBuilder(self._store, self.local)
        draft.copy_records(base._store, where, keys)
        return self._next(draft)

    def with_log_of(self, base: RegistryView, where: LogKey) -> RegistryView:
        """Share a log with `base` from now on, which has the same records in it."""
        draft = StoreBuilder(self._store, self.local)
        draft.share_log(base._store, where)
        return self._next(draft)

    def with_sight_of(self, base: RegistryView) -> RegistryView:
        """Take from `base` the members, and which kernels answer."""
        mine, theirs = self._store, base._store
        draft = StoreBuilder(mine, self.local)
        for host_id in _keys_that_differ(mine.members, theirs.members):
            draft.set_member(host_id, theirs.members.get(host_id))
        for host_id in _keys_that_differ(mine.answers, theirs.answers):
            draft.set_answer(host_id, answers=theirs.answers.get(host_id))
        if mine.silent is not theirs.silent:
            draft.set_silent(frozenset(theirs.silent))
        return self._next(draft)

    def without_own_log(self, scope: Scope) -> RegistryView:
        """Drop what this host wrote in a scope."""
        draft = StoreBuilder(self._store, self.local)
        draft.drop_log((scope, self.local))
        return self._next(draft)

    def without_some(self, scope: Scope, most: int) -> RegistryView:
        """Drop `most` more of the records that others wrote in a scope which this host has left: there may be ten
        thousand. Returns the same object when none is left."""
        draft = StoreBuilder(self._store, self.local)
        for where in chain(self._store.records, self._store.refused):
            if most <= 0:
                break
            if where[0] == scope and where[1] != self.local:
                most -= draft.drop_log(where, most)
        return self._next(draft)

    def without_record(self, owner: HostId, scope: Scope, key: bytes) -> RegistryView:
        """Drop what one host wrote under one key."""
        draft = StoreBuilder(self._store, self.local)
        draft.copy_records(Store(), (scope, owner), [key])
        return self._next(draft)

    def _next(self, draft: StoreBuilder) -> RegistryView:
        store = draft.finish()
        if not draft.changes():
            return self
        changelog = extended(self._changelog, *draft.touched())
        return dataclasses.replace(self, generation=self.generation + 1, _store=store, _changelog=changelog)

    def touched_since(self, earlier: RegistryView) -> ChangedKeys | None:
        """The hosts and endpoints that can differ from `earlier`; None: any. See netagent.registry.changelog."""
        return touched_between(earlier._changelog, self._changelog)

    # -- hosts -------------------------------------------------------------------------------------------------

    @property
    def hosts(self) -> Map[HostId, HostView]:
        """Every host with a record, a member or a probe answer; the local one too."""
        return self._store.hosts

    @property
    def unreached(self) -> frozenset[HostId]:
        """Hosts that do not answer this one over the overlay."""
        return frozenset(self._store.unreached)

    def is_behind(self, endpoint: EndpointView) -> bool:
        """True when names lead to the endpoint only where they have nothing else, because its host is not reached."""
        host = self.hosts.get(endpoint.owner)
        return host is not None and host.is_unreached

    def host_named(self, name: str) -> HostView | None:
        """The host with this unique name."""
        candidates = self._store.host_names.get(name.rpartition("-")[0], frozenset())
        for host_id in self._store.host_names.get(name, frozenset()) | candidates:
            if self.hosts[host_id].unique_name == name:
                return self.hosts[host_id]
        return None

    @property
    def forgotten(self) -> Map[HostId, frozenset[HostId]]:
        """Hosts that are gone for good, and the hosts that said so. Nothing that they wrote counts, and they are not
        in `hosts`; this host itself is an exception, so that it can end in order."""
        return self._store.forgotten

    @property
    def evictions(self) -> Map[HostId, frozenset[HostId]]:
        """Host -> the hosts that say it is gone for good, also where that does not count because two say it of each
        other."""
        return self._store.evictions

    def is_disputed(self, writer: HostId, host_id: HostId) -> bool:
        """True when the writer's eviction of the host does not count, because the host disputes it."""
        return (writer, host_id) in self._store.disputed

    def about_to_forget(self, host_id: HostId) -> frozenset[HostId]:
        """The hosts that are about to evict this one. Evicted hosts do not count."""
        return self._store.intentions.get(host_id, frozenset()).difference(self.forgotten)

    @property
    def remembered(self) -> Map[HostId, Member]:
        """What the membership said of hosts, evicted ones included: the same object until it says more."""
        return self._store.members

    def is_host_hidden(self, host_id: HostId) -> bool:
        """True when names must not lead to the host: its agent is away and its kernel does not answer
        (HostView.is_gone), or it announced that it goes or has left, or it was evicted. A dead agent alone hides
        nothing."""
        if host_id in self.forgotten:
            return True
        host = self.hosts.get(host_id)
        if host is None:
            return False
        if host.record is not None and host.record.going_down:
            return True
        return host.agent is AgentState.LEFT or host.is_gone

    # -- networks ----------------------------------------------------------------------------------------------

    @property
    def networks(self) -> Map[NetworkId, NetworkView]:
        """Networks in force."""
        return self._store.networks

    def network_named(self, name: str) -> NetworkView | None:
        """The network with this unique name: the plain name belongs to the network that holds it."""
        names = self._store.candidate_names
        for network_id in names.get(name, frozenset()) | names.get(name.rpartition("-")[0], frozenset()):
            view = self.networks.get(network_id)
            if view is not None and view.unique_name == name:
                return view
        return None

    @property
    def yielded_networks(self) -> tuple[NetworkView, ...]:
        """Networks that yielded unused to another of the same name; their creator withdraws them."""
        store = self._store
        return tuple(store.candidates[one] for one in sorted(set(store.candidates) - set(store.networks)))

    def is_removed(self, network_id: NetworkId) -> bool:
        """True once any host removed the network; it never comes back."""
        return network_id in self._store.removals

    def is_used(self, network: NetworkView) -> bool:
        """True for a network that does not yield to another of its name, see netagent.registry.conflict_rules."""
        return self._store.is_used(network)

    def attachments(self, network_id: NetworkId) -> frozenset[HostId]:
        """Hosts that take part in the network."""
        return self._store.attachments.get(network_id, frozenset())

    @property
    def participants(self) -> Map[NetworkId, frozenset[HostId]]:
        """`attachments` of all networks: the very same object as long as none of it changes."""
        return self._store.attachments

    def host_addresses(self, network_id: NetworkId) -> Mapping[HostId, HostAddressRecord]:
        """Hosts that have an address of their own in the network."""
        return self._store.host_addresses.get(network_id, Map())

    @property
    def hosts_inside(self) -> Map[NetworkId, Map[HostId, HostAddressRecord]]:
        """`host_addresses` of all networks: the very same object as long as none of it changes."""
        return self._store.host_addresses

    @property
    def own_host_addresses(self) -> list[HostAddressRecord]:
        """This host's own addresses by its records, whether or not the networks still exist."""
        own = self.records_of(self.local, CLUSTER_SCOPE)
        return [record for record in own if isinstance(record, HostAddressRecord)]

    def grants(self, network_id: NetworkId) -> tuple[tuple[HostId, GrantRecord], ...]:
        """All grants of the network's space with their writers, sorted by range and hop."""
        held = self.grant_map(network_id)
        pairs = ((writer, grant) for (writer, _), grant in held.items())
        return tuple(sorted(pairs, key=lambda pair: (pair[1].first, pair[1].hop, pair[0])))

    def grant_map(self, network_id: NetworkId) -> Map[tuple[HostId, bytes], GrantRecord]:
        """All grants by (writer, key): the very same object as long as no grant of the network changes."""
        return self._store.grants.get(network_id, _NO_GRANTS)

    # -- endpoints ---------------------------------------------------------------------------------------------

    @property
    def endpoints(self) -> Map[EndpointId, EndpointView]:
        """Endpoints that count: of all networks whose scope this host holds, and not fenced."""
        return self._store.endpoints

    @property
    def fenced(self) -> Map[EndpointKey, EndpointView]:
        """Endpoints that must not be used, by (owner, endpoint, network); `clashes` says why."""
        return self._store.fenced

    def endpoints_in(self, network_id: NetworkId) -> Map[EndpointId, EndpointView]:
        """The endpoints of one network."""
        return self._store.by_network.get(network_id, _NO_ENDPOINTS)

    @property
    def networks_with_endpoints(self) -> Collection[NetworkId]:
        """The networks that have endpoints, also networks without any record."""
        return self._store.by_network.keys()

    def endpoints_named(self, name: str) -> tuple[EndpointView, ...]:
        """All endpoints of that name, on all hosts and in all networks, by id."""
        return _sorted(self._store.by_name.get(name, _NO_ENDPOINTS))

    def endpoint_by_address(self, address: str, network_id: NetworkId | None = None) -> EndpointView | None:
        """The endpoint with the address (in its short form). Without `network_id`, in the smallest network id that
        has it."""
        for one in (network_id,) if network_id is not None else sorted(self._store.by_network):
            holder = min(self._store.claims.get((one, address), frozenset()), default=None)
            view = self.endpoints.get(holder[1]) if holder is not None else None
            if holder is not None and view is not None and view.owner == holder[0]:
                return view
        return None

    def claimants(self, network_id: NetworkId, address: str) -> frozenset[HostId]:
        """Hosts of the endpoints that claim an address, whether or not it is theirs. The same for a MAC."""
        return frozenset(key[0] for key in self._store.claims.get((network_id, address), ()))

    def aliased(self, network_id: NetworkId, alias: str) -> tuple[EndpointView, ...]:
        """All endpoints of the network that were given the alias, by id."""
        return _sorted(self._store.by_alias.get((network_id, alias), _NO_ENDPOINTS))

    def labels_of_several(self) -> Iterator[tuple[NetworkId, str]]:
        """Names that several endpoints may claim: aliases, and services with more than one endpoint."""
        yield from self._store.by_alias
        yield from (place for place, some in self._store.by_service.items() if len(some) > 1)

    def service(self, network_id: NetworkId, name: str) -> ServiceView:
        """One service; without endpoints if none offers it."""
        endpoints = self._store.by_service.get((network_id, name), _NO_ENDPOINTS)
        return ServiceView(network_id, name, _sorted(endpoints))

    def linked_from(self, endpoint: EndpointView) -> tuple[EndpointView, ...]:
        """The endpoints that the endpoint's links lead to, by id: all with a link's label as service, name or
        alias."""
        found = _NO_ENDPOINTS
        for link in endpoint.record.links:
            label, _, host = link.partition(".")
            place = (endpoint.network_id, label)
            named = [e for e in self.endpoints_named(label) if e.network_id == endpoint.network_id]
            if host:
                named = [e for e in named if (at := self.hosts.get(e.owner)) and at.unique_name == host]
            else:
                found = found.update(self._store.by_service.get(place, _NO_ENDPOINTS))
                found = found.update(self._store.by_alias.get(place, _NO_ENDPOINTS))
            found = found.update({one.endpoint_id: one for one in named})
        return _sorted(found)

    def linked_to(self, endpoint: EndpointView) -> tuple[EndpointView, ...]:
        """The endpoints whose links lead to this one, by id."""
        record, host = endpoint.record, self.hosts.get(endpoint.owner)
        labels = {record.service, record.name, *record.aliases}
        labels |= {f"{record.name}.{host.unique_name}"} if host is not None else set()
        found = _NO_ENDPOINTS
        for label in labels:
            found = found.update(self._store.by_link.get((endpoint.network_id, label), _NO_ENDPOINTS))
        return _sorted(found)

    def services(self, network_id: NetworkId | None = None) -> tuple[ServiceView, ...]:
        """All services, or those of one network, sorted by network and name. Costs all of them."""
        keys = sorted(key for key in self._store.by_service if network_id in (None, key[0]))
        return tuple(self.service(*key) for key in keys)

    def is_visible(self, endpoint: EndpointView) -> bool:
        """True when names may lead to the endpoint."""
        return (
            endpoint.network_id in self.networks
            and self.endpoints.get(endpoint.endpoint_id) == endpoint
            and endpoint.record.health.is_answering
            and not self.is_host_hidden(endpoint.owner)
        )

    # -- for people and checks ---------------------------------------------------------------------------------

    @cached_property
    def clashes(self) -> tuple[Conflict, ...]:
        """Records that contradict each other, and which of them yields. Computed when first asked for."""
        return find_conflicts(self._store)

    @property
    def refused(self) -> tuple[tuple[HostId, bytes, str], ...]:
        """Invalid entries: owner, key, reason."""
        logs = self._store.refused.items()
        return tuple(sorted((where[1], key, text) for where, log in logs for key, text in log.items()))

    def records_of(self, owner: HostId, scope: Scope) -> tuple[Record, ...]:
        """What one host wrote in one scope, by key."""
        log = self._store.records.get((scope, owner), Map())
        return tuple(log[key].record for key in sorted(log))

    def keys_of(self, owner: HostId, scope: Scope) -> frozenset[bytes]:
        """The keys under which one host wrote anything in one scope, also what was refused."""
        where = (scope, owner)
        return frozenset(self._store.records.get(where, ())) | frozenset(self._store.refused.get(where, ()))

    def owners_in(self, scope: Scope) -> frozenset[HostId]:
        """The hosts that wrote anything in one scope. Costs all logs."""
        logs = chain(self._store.records, self._store.refused)
        return frozenset(owner for one, owner in logs if one == scope)

    def endpoints_said(self, owner: HostId, network_id: NetworkId) -> list[EndpointId]:
        """The endpoints that the host says it has in the network, whether or not they count. Costs these."""
        log = self._store.records.get((scope_of(network_id), owner), _NO_RECORDS)
        return [held.record.endpoint_id for held in log.values() if isinstance(held.record, EndpointRecord)]

    def version_of(self, owner: HostId, record: Record) -> Version | None:
        """The version under which the owner's log has this very record; None when it differs by now."""
        scope, key = key_of(record)
        held = self._store.records.get((scope, owner), _NO_RECORDS).get(key)
        return held.version if held is not None and held.record == record else None

    def check_invariants(self) -> None:
        """Assert that every index follows from the records. Costs the whole registry; AssertionError names what
        differs."""
        expected = rebuild(self._store, self.local)
        for name in (one.name for one in dataclasses.fields(Store)):
            assert getattr(self._store, name) == getattr(expected, name), f"index {name} does not follow"


def _keys_that_differ(mine: Map[K, V], theirs: Map[K, V]) -> list[K]:
    if mine is theirs:
        return []
    gone = [key for key in mine if key not in theirs]
    return gone + [key for key, value in theirs.items() if mine.get(key) != value]


_NO_RECORDS: Map[bytes, StoredRecord] = Map()
_NO_ENDPOINTS: Map[EndpointId, EndpointView] = Map()
_NO_GRANTS: Map[tuple[HostId, bytes], GrantRecord] = Map()


def _sorted(endpoints: Map[EndpointId, EndpointView]) -> tuple[EndpointView, ...]:
    return tuple(endpoints[one] for one in sorted(endpoints))
