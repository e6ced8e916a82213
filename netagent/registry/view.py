"""RegistryView: what the cluster knows, as one immutable value.

All parts of the agent read the same `RegistryView`, and may keep one for as long as they like. A change makes a new
view that shares all but the changed paths with the old one, so its cost is proportional to the change and not to the
cluster.

    records, by (scope, owner, key)         the truth, as the owners wrote it
    members, answers                        what we see ourselves
    everything else                         an index, derivable from these (check_invariants does so)

The rules that decide between conflicting records are in netagent.registry.conflict_rules. Their losers stay visible:
a network that lost its name or VNI says so, an endpoint that lost its address is in `fenced` instead of `endpoints`,
and `conflicts` lists the conflicts for people.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial

from immutables import Map

from netagent.model.address.span import meets, span_of
from netagent.model.encryption_switch import decision_of
from netagent.model.group_labels import NO_LABELS, GroupKey, GroupLabels
from netagent.model.ids import EndpointId, HostId, KeyId, NetworkId, nearest_name
from netagent.model.locality import HERE
from netagent.model.naming import labels_inside
from netagent.model.records import (
    Drain,
    EncryptionRecord,
    EndpointRecord,
    ForgetRecord,
    GrantRecord,
    HostAddressRecord,
    NetworkOptionsRecord,
    Record,
    ServiceKey,
    ServiceRangeRecord,
)
from netagent.registry import service_rules
from netagent.registry.changelog import ChangedKeys, Changelog, ChangelogStep, extended, touched_between
from netagent.registry.conflicts import conflicts_of_endpoint, find_conflicts
from netagent.registry.derive import StoreBuilder, rebuild
from netagent.registry.record_codec import key_of, scope_of
from netagent.registry.store import EndpointKey, Store, StoredRecord
from netagent.registry.views import (
    AgentState,
    Conflict,
    ConflictKind,
    EndpointView,
    HostView,
    NetworkView,
    ServiceAddressView,
    ServiceRangeView,
    ServiceView,
)
from netgossip.slices import Slices, at_once
from netgossip.types import CLUSTER_SCOPE, EntriesChanged, Member, Scope, Version

__all__ = [
    "AgentState",
    "Conflict",
    "ConflictKind",
    "EndpointView",
    "HostView",
    "NetworkView",
    "RegistryView",
    "ServiceAddressView",
    "ServiceRangeView",
    "ServiceView",
    "compromised_keys",
]


@dataclass(frozen=True, eq=False)
class RegistryView:
    """The registry at one moment. The first one is `RegistryView(local_id)`.

    `generation` grows with every change and orders the views of one agent's run; it means nothing elsewhere. A method
    that changes nothing returns the same object.
    """

    local: HostId
    generation: int = 0
    store: Store = field(default_factory=Store, repr=False)
    """The records and the indexes. A query that one part alone makes reads them there."""
    _changelog: Changelog = field(default_factory=lambda: (ChangelogStep(),), repr=False)

    # -- the next view -----------------------------------------------------------------------------------------

    def edited(self, *edits: Callable[[StoreBuilder], object]) -> RegistryView:
        """Apply edits of the records, or of what we see ourselves, and derive the indexes anew where they matter."""
        draft = StoreBuilder(self.store, self.local)
        for edit in edits:
            edit(draft)
        store = draft.finish()
        if not draft.changes():
            return self
        changelog = extended(self._changelog, draft.touched())
        return dataclasses.replace(self, generation=self.generation + 1, store=store, _changelog=changelog)

    def with_entries(self, event: EntriesChanged) -> RegistryView:
        """Apply one delta of one owner. Invalid records are refused one by one and kept in `refused`."""
        return self.edited(lambda draft: draft.apply(event))

    def with_member(self, member: Member) -> RegistryView:
        """Set what the membership says of a host's agent."""
        return self.edited(lambda draft: draft.set_member(HostId(member.node_id), member))

    def without_member(self, host_id: HostId) -> RegistryView:
        """Drop a host's member. Its records stay: they are its owner's, not the membership's."""
        return self.edited(lambda draft: draft.set_member(host_id, None))

    def with_host_answers(self, answers: Mapping[HostId, bool | None]) -> RegistryView:
        """Set whether the kernels of some hosts answer on the probe network; None: no longer probed."""
        return self.edited(
            *(partial(StoreBuilder.set_answer, host_id=host, answers=one) for host, one in answers.items())
        )

    def with_silent(self, hosts: frozenset[HostId]) -> RegistryView:
        """Set all hosts of which several agree that their kernels are silent."""
        return self.edited(lambda draft: draft.set_silent(hosts))

    def with_unreached(self, hosts: frozenset[HostId]) -> RegistryView:
        """Set all hosts that this host's own probes do not reach."""
        return self.edited(lambda draft: draft.set_unreached(hosts))

    def with_distances(self, changes: Mapping[HostId, int | None]) -> RegistryView:
        """Set how far some hosts are from this one; None: not known."""
        return self.edited(lambda draft: draft.set_distances(changes))

    def without_host(self, host_id: HostId) -> RegistryView:
        """Drop everything that the host wrote or that we know of it."""
        return self.edited(lambda draft: draft.drop_host(host_id))

    def without_own_log(self, scope: Scope) -> RegistryView:
        """Drop what this host wrote in a scope."""
        return self.edited(lambda draft: draft.drop_log((scope, self.local)))

    def without_some(self, scope: Scope, most: int) -> RegistryView:
        """Drop `most` more of the records that others wrote in a scope which this host has left: there may be ten
        thousand. Returns the same object when none is left."""
        return self.edited(lambda draft: draft.drop_some(scope, most))

    def with_labels_had(self, had: Mapping[GroupKey, Iterable[str]]) -> RegistryView:
        """Add labels that groups have had, the one that has been without an endpoint for the longest first."""
        return self.edited(lambda draft: draft.remember_labels(had))

    def without_labels_had(self, keys: Iterable[GroupKey]) -> RegistryView:
        """Drop the labels of those groups that have no endpoint any more."""
        return self.edited(lambda draft: draft.forget_labels(keys))

    def touched_since(self, earlier: RegistryView) -> ChangedKeys | None:
        """The hosts and endpoints that can differ from `earlier`; None: any. See netagent.registry.changelog."""
        return touched_between(earlier._changelog, self._changelog)

    # -- hosts -------------------------------------------------------------------------------------------------

    @property
    def hosts(self) -> Map[HostId, HostView]:
        """Every host with a record, a member or a probe answer; the local one too."""
        return self.store.hosts

    @property
    def unreached(self) -> frozenset[HostId]:
        """Hosts that do not answer this one over the overlay."""
        return frozenset(self.store.unreached)

    def distance_of(self, host_id: HostId) -> int | None:
        """How far a host is from this one (netagent.model.locality); None while its answers have not said so."""
        return HERE if host_id == self.local else self.store.distances.get(host_id)

    def zone_label_of(self, host_id: HostId) -> str:
        """The label of a host's zone in names; empty if it has none, or is not known."""
        host = self.hosts.get(host_id)
        return "" if host is None or host.record is None else nearest_name(host.record.zone)

    def is_behind(self, endpoint: EndpointView) -> bool:
        """True when names lead to the endpoint only where they have nothing else, because its host is not reached."""
        host = self.hosts.get(endpoint.owner)
        return host is not None and host.is_unreached

    def host_named(self, name: str) -> HostView | None:
        """The host with this unique name."""
        candidates = self.store.host_names.get(name.rpartition("-")[0], frozenset())
        for host_id in self.store.host_names.get(name, frozenset()) | candidates:
            if self.hosts[host_id].unique_name == name:
                return self.hosts[host_id]
        return None

    @property
    def evicted(self) -> Map[HostId, frozenset[HostId]]:
        """Hosts that are gone for good, and the hosts that said so. Nothing that they wrote counts, and they are not
        in `hosts`; this host itself is an exception, so that it can end in order."""
        return self.store.evicted

    @property
    def revoked(self) -> Map[HostId, frozenset[HostId]]:
        """The evicted hosts that an operator has revoked, and the hosts where that was said: they come back by an
        invitation only. The very same object as long as none changes; this host may be among them."""
        return self.store.revoked

    @property
    def compromised(self) -> Map[HostId, frozenset[HostId]]:
        """The revoked hosts that no member talks to (`netagent revoke`), and the hosts where that was said."""
        return self.store.compromised

    @property
    def undecided(self) -> frozenset[HostId]:
        """The compromised hosts of which only compromised hosts say so. Their evictions are still needed: a word of a
        host outside brings some of them back."""
        accused = self.compromised
        return frozenset(host for host, writers in accused.items() if all(one in accused for one in writers))

    def about_to_evict(self, host_id: HostId) -> frozenset[HostId]:
        """The hosts that are about to evict this one. Evicted hosts do not count."""
        return self.store.intentions.get(host_id, frozenset()).difference(self.evicted)

    def is_host_hidden(self, host_id: HostId) -> bool:
        """True when names must not lead to the host: its agent is away and its kernel does not answer
        (HostView.is_gone), or it announced that it goes or has left, or it was evicted. A dead agent alone hides
        nothing."""
        if host_id in self.evicted:
            return True
        host = self.hosts.get(host_id)
        if host is None:
            return False
        if host.record is not None and host.record.going_down:
            return True
        return host.agent is AgentState.LEFT or host.is_gone

    def drain_of_host(self, host_id: HostId) -> Drain | None:
        """Since when an operator has withdrawn the names of all endpoints of the host; its own name stays."""
        host = self.hosts.get(host_id)
        return None if host is None or host.record is None else host.record.drain

    @cached_property
    def encryption(self) -> EncryptionRecord | None:
        """What counts of all that hosts say of encryption; None: no host has ever said anything."""
        return decision_of(self.encryption_records, self.local, len(self.hosts))

    @property
    def encryption_records(self) -> Mapping[HostId, EncryptionRecord]:
        """What hosts say of encryption, and how far they are."""
        return self.store.encryption.get("", _NOTHING_SAID)

    # -- networks ----------------------------------------------------------------------------------------------

    @property
    def networks(self) -> Map[NetworkId, NetworkView]:
        """Networks in force."""
        return self.store.networks

    def network_named(self, name: str) -> NetworkView | None:
        """The network with this unique name: the plain name belongs to the network that holds it."""
        names = self.store.candidate_names
        for network_id in names.get(name, frozenset()) | names.get(name.rpartition("-")[0], frozenset()):
            view = self.networks.get(network_id)
            if view is not None and view.unique_name == name:
                return view
        return None

    @property
    def yielded_networks(self) -> tuple[NetworkView, ...]:
        """Networks that yielded unused to another of the same name; their creator withdraws them."""
        store = self.store
        return tuple(store.candidates[one] for one in sorted(set(store.candidates) - set(store.networks)))

    def has_own_address(self, network: NetworkView) -> bool:
        """True if this host's own address is in the network, as no request for a network allows: a bridge with such a
        subnet would cut the host off."""
        own = self.hosts.get(self.local)
        if own is None or own.record is None:
            return False
        place = span_of(own.record.underlay)
        return any(meets([span_of(text)], place) for text in network.record.subnets)

    def why_not_built(self, network: NetworkView) -> str:
        """Return why this host makes no devices of a network that it takes part in, as a clause; '' if it does."""
        if not network.holds_vni:
            return "another network has its VNI"
        return "this host's own address is in its subnet" if self.has_own_address(network) else ""

    def is_removed(self, network_id: NetworkId) -> bool:
        """True once any host removed the network; it never comes back."""
        return network_id in self.store.removals

    def is_used(self, network: NetworkView) -> bool:
        """True for a network that does not yield to another of its name, see netagent.registry.conflict_rules."""
        return self.store.is_used(network)

    def option_records(self, network_id: NetworkId) -> Mapping[HostId, NetworkOptionsRecord]:
        """What hosts have changed of the network, whether or not it counts."""
        return self.store.option_records.get(network_id, _NO_OPTIONS)

    def attachments(self, network_id: NetworkId) -> frozenset[HostId]:
        """Hosts that take part in the network."""
        return self.store.attachments.get(network_id, frozenset())

    def host_addresses(self, network_id: NetworkId) -> Mapping[HostId, HostAddressRecord]:
        """Hosts that have an address of their own in the network."""
        return self.store.host_addresses.get(network_id, Map())

    @property
    def own_host_addresses(self) -> list[HostAddressRecord]:
        """This host's own addresses by its records, whether or not the networks still exist."""
        own = self.records_of(self.local, CLUSTER_SCOPE)
        return [record for record in own if isinstance(record, HostAddressRecord)]

    def grant_map(self, network_id: NetworkId) -> Map[tuple[HostId, bytes], GrantRecord]:
        """All grants by (writer, key): the very same object as long as no grant of the network changes."""
        return self.store.grants.get(network_id, _NO_GRANTS)

    # -- service addresses ---------------------------------------------------------------------------------------

    def service_ranges(self, network_id: NetworkId) -> tuple[ServiceRangeView, ...]:
        """The network's service ranges in force, by owner: the very same object as long as none changes."""
        return self.store.service_ranges.get(network_id, ())

    @property
    def range_records(self) -> tuple[ServiceRangeRecord, ...]:
        """The service ranges of all networks, also those that are not in force. Of each host and network at most as
        many as may be in force: a member may have written thousands."""
        return tuple(
            one.record
            for network_id, claims in self.store.range_records.items()
            if network_id in self.networks
            for one in service_rules.judged_ranges(claims, self.networks[network_id].record)
        )

    def service_addresses(self, network_id: NetworkId) -> Map[ServiceKey, tuple[ServiceAddressView, ...]]:
        """The network's service addresses in force. Of several of one service, by owner, names give the first."""
        return self.store.service_addresses.get(network_id, _NO_ADDRESSES)

    def service_by_address(self, address: str) -> ServiceAddressView | None:
        """The service address in force that this address (in its short form) is of."""
        return self.store.by_service_address.get(address)

    # -- endpoints ---------------------------------------------------------------------------------------------

    @property
    def endpoints(self) -> Map[EndpointId, EndpointView]:
        """Endpoints that count: of all networks whose scope this host holds, and not fenced."""
        return self.store.endpoints

    @property
    def fenced(self) -> Map[EndpointKey, EndpointView]:
        """Endpoints that must not be used, by (owner, endpoint, network); `conflicts` says why."""
        return self.store.fenced

    def endpoints_in(self, network_id: NetworkId) -> Map[EndpointId, EndpointView]:
        """The endpoints of one network."""
        return self.store.by_network.get(network_id, _NO_ENDPOINTS)

    def endpoints_of(self, owner: HostId) -> Iterator[EndpointView]:
        """Yield the endpoints of one host. Costs the networks and these."""
        for network_id in self.store.by_network:
            yield from self.endpoints_of_in(owner, network_id)

    def endpoints_of_in(self, owner: HostId, network_id: NetworkId) -> Iterator[EndpointView]:
        """Yield the endpoints of one host in one network. Costs these."""
        here = self.endpoints_in(network_id)
        for endpoint_id in self.endpoints_said(owner, network_id):
            endpoint = here.get(endpoint_id)
            if endpoint is not None and endpoint.owner == owner:
                yield endpoint

    def endpoints_named(self, name: str) -> tuple[EndpointView, ...]:
        """All endpoints of that name, on all hosts and in all networks, by id."""
        return in_order(self.store.by_name.get(name, _NO_ENDPOINTS))

    def endpoint_by_address(self, address: str, network_id: NetworkId | None = None) -> EndpointView | None:
        """The endpoint with the address (in its short form). Without `network_id`, in the smallest network id that
        has it."""
        for one in (network_id,) if network_id is not None else sorted(self.store.by_network):
            holder = self.store.holder_of((one, address))
            view = self.endpoints.get(holder[1]) if holder is not None else None
            if holder is not None and view is not None and view.owner == holder[0]:
                return view
        return None

    def given(self, network_id: NetworkId, label: str) -> tuple[EndpointView, ...]:
        """All endpoints of the network that have the label as an alias or as the service of their group, by id."""
        return in_order(self.store.by_given.get((network_id, label), _NO_ENDPOINTS))

    def labelled(self, network_id: NetworkId, label: str) -> Iterator[EndpointView]:
        """Yield the endpoints of the network to which the label may lead, some more than once."""
        yield from self.store.by_service.get((network_id, ServiceKey(label)), _NO_ENDPOINTS).values()
        yield from self.store.by_given.get((network_id, label), _NO_ENDPOINTS).values()
        yield from (one for one in self.endpoints_named(label) if one.network_id == network_id)

    def labels_of(self, network_id: NetworkId, group: str) -> GroupLabels:
        """The labels by which members of a group find each other in the network, and those that it has had."""
        return self.store.group_labels.get((network_id, group), NO_LABELS)

    def touched_labels(self, earlier: RegistryView, touched: ChangedKeys) -> Iterator[tuple[GroupKey, str]]:
        """Yield the labels of groups that can differ from `earlier`, some more than once; `touched`: what can. If a
        group has got its first endpoint or lost its last one, all that it has had differ."""
        groups: set[GroupKey] = set()
        for _, endpoint_id in touched.endpoints:
            for view in (earlier, self):
                endpoint = view.endpoints.get(endpoint_id)
                if endpoint is not None and endpoint.record.group is not None:
                    key = (endpoint.network_id, endpoint.record.group.name)
                    groups.add(key)
                    yield from ((key, label) for label in labels_inside(endpoint.record, key[1]))
        for key in groups:
            before, now = earlier.labels_of(*key), self.labels_of(*key)
            if bool(before.records) != bool(now.records):
                yield from ((key, label) for label in {*before.absent, *now.absent})
            elif before.absent != now.absent:
                yield from ((key, label) for label in set(before.absent) ^ set(now.absent))

    def service(self, network_id: NetworkId, name: str, group: str | None = None) -> ServiceView:
        """One service; without endpoints if none offers it."""
        endpoints = self.store.by_service.get((network_id, ServiceKey(name, group)), _NO_ENDPOINTS)
        return ServiceView(network_id, name, in_order(endpoints), group)

    def is_visible(self, endpoint: EndpointView) -> bool:
        """True when names may lead to the endpoint."""
        return endpoint.record.is_answering and self._is_in_use(endpoint)

    def is_kept(self, endpoint: EndpointView) -> bool:
        """True when names lead to the endpoint, which is unhealthy, if no other replica is up."""
        return endpoint.record.is_kept and self._is_in_use(endpoint)

    def is_failing(self, endpoint: EndpointView) -> bool:
        """True when nothing but its failing checks keeps names from leading to the endpoint."""
        return endpoint.record.is_failing and self._is_in_use(endpoint)

    def _is_in_use(self, endpoint: EndpointView) -> bool:
        return (
            endpoint.network_id in self.networks
            and self.endpoints.get(endpoint.endpoint_id) == endpoint
            and not self.is_host_hidden(endpoint.owner)
            and self.drain_of_host(endpoint.owner) is None
        )

    # -- for people and checks ---------------------------------------------------------------------------------

    @cached_property
    def conflicts(self) -> tuple[Conflict, ...]:
        """Records that contradict each other, and which of them yields. Computed when first asked for, in one go: a
        running agent asks `search_conflicts`."""
        return at_once(find_conflicts(self.store))

    def search_conflicts(self) -> Slices[tuple[Conflict, ...]]:
        """The same in slices: there may be as many as endpoints."""
        if "conflicts" not in vars(self):
            found = yield from find_conflicts(self.store)
            vars(self)["conflicts"] = found  # where the property looks
        return self.conflicts

    def conflicts_of(self, endpoint: EndpointView) -> tuple[Conflict, ...]:
        """Why the endpoint is fenced; nothing if it is not."""
        return conflicts_of_endpoint(self.store, endpoint)

    @property
    def refused(self) -> tuple[tuple[HostId, bytes, str], ...]:
        """Invalid entries: owner, key, reason."""
        logs = self.store.refused.items()
        return tuple(sorted((where[1], key, text) for where, log in logs for key, text in log.items()))

    def records_of(self, owner: HostId, scope: Scope) -> tuple[Record, ...]:
        """What one host wrote in one scope, by key."""
        log = self.store.records.get((scope, owner), Map())
        return tuple(log[key].record for key in sorted(log))

    def keys_of(self, owner: HostId, scope: Scope) -> frozenset[bytes]:
        """The keys under which one host wrote anything in one scope, also what was refused."""
        where = (scope, owner)
        return frozenset(self.store.records.get(where, ())) | frozenset(self.store.refused.get(where, ()))

    def endpoints_said(self, owner: HostId, network_id: NetworkId) -> list[EndpointId]:
        """The endpoints that the host says it has in the network, whether or not they count. Costs these."""
        log = self.store.records.get((scope_of(network_id), owner), _NO_RECORDS)
        return [held.record.endpoint_id for held in log.values() if isinstance(held.record, EndpointRecord)]

    def version_of(self, owner: HostId, record: Record) -> Version | None:
        """The version under which the owner's log has this very record; None when it differs by now."""
        scope, key = key_of(record)
        held = self.store.records.get((scope, owner), _NO_RECORDS).get(key)
        return held.version if held is not None and held.record == record else None

    def check_invariants(self) -> None:
        """Assert that every index follows from the records. Costs the whole registry; AssertionError names what
        differs."""
        expected = rebuild(self.store, self.local)
        for name in (one.name for one in dataclasses.fields(Store)):
            assert getattr(self.store, name) == getattr(expected, name), f"index {name} does not follow"


def compromised_keys(view: RegistryView) -> frozenset[KeyId]:
    """Return the ids of all ring keys that revoked hosts may know."""
    found: set[KeyId] = set()
    for host_id, writers in view.revoked.items():
        key = key_of(ForgetRecord(host_id))[1]
        for writer in writers:
            held = view.store.records.get((CLUSTER_SCOPE, writer), _NO_RECORDS).get(key)
            if held is not None and isinstance(held.record, ForgetRecord):
                found.update(held.record.key_ids)
    return frozenset(found)


_NOTHING_SAID: Map[HostId, EncryptionRecord] = Map()
_NO_RECORDS: Map[bytes, StoredRecord] = Map()
_NO_ENDPOINTS: Map[EndpointId, EndpointView] = Map()
_NO_ADDRESSES: Map[ServiceKey, tuple[ServiceAddressView, ...]] = Map()
_NO_GRANTS: Map[tuple[HostId, bytes], GrantRecord] = Map()
_NO_OPTIONS: Map[HostId, NetworkOptionsRecord] = Map()


def in_order(endpoints: Mapping[EndpointId, EndpointView]) -> tuple[EndpointView, ...]:
    """Return endpoints by id."""
    return tuple(endpoints[one] for one in sorted(endpoints))
