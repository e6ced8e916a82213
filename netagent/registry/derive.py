"""From records to indexes, touching only what a change touches.

A `StoreBuilder` starts as a copy of a store, is edited, and is finished into the next store. An edit updates the
direct indexes at once and notes what has to be decided again: a contested name, VNI, address or id concerns its other
claimants as well. `finish` decides these in the order in which they depend on each other.

The indexes are persistent multi-maps (`put`, `drop`, `add`, `remove`): one key, several values, and never an empty
entry. `immutables.Map` shares structure between versions, so a changed index costs O(log n) and leaves every older
view unchanged. Because empty inner maps are dropped, equal contents are equal values, which lets
`RegistryView.check_invariants` compare an index with one that was rebuilt from the records.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Final, TypeVar

from immutables import Map

from netagent.model.address.owners import AddressOwners
from netagent.model.address.tunnel import tunnel_number
from netagent.model.group_labels import NO_LABELS, GroupKey, GroupLabels
from netagent.model.ids import HostId, NetworkId, is_minted_by
from netagent.model.naming import given_labels, labels_inside
from netagent.model.origin_labels import origin_keys
from netagent.model.records import (
    AttachmentRecord,
    EncryptionRecord,
    EndpointRecord,
    ExternalServiceRecord,
    ExternalStateRecord,
    ForgetRecord,
    GrantRecord,
    HostAddressRecord,
    HostRecord,
    NetworkOptionsRecord,
    NetworkRecord,
    OwnNameRecord,
    PublishedServiceRecord,
    Record,
    RemovalRecord,
    ServiceAddressRecord,
    ServiceKey,
    ServiceRangeRecord,
    TunnelRecord,
)
from netagent.model.ring_key import RingKeysRecord, SealedKeysRecord
from netagent.registry import conflict_rules, network_options, service_rules
from netagent.registry.changelog import ChangedKeys, NamePlace, ServiceKeyPlace, ServicePlace
from netagent.registry.record_codec import RecordError, Unknown, decode_untrusted, key_of
from netagent.registry.service_rules import RecordPlace
from netagent.registry.store import Claim, EndpointKey, LogKey, Store, StoredRecord
from netagent.registry.views import EndpointView, HostView, NetworkView, ServiceAddressView, short_id
from netgossip.types import CLUSTER_SCOPE, EntriesChanged, Entry, Member, MemberState, Scope

K = TypeVar("K", bound=Hashable)
M = TypeVar("M", bound=Hashable)
V = TypeVar("V")


_NO_CLAIMANTS: Final[Map[EndpointKey, bool]] = Map()


def put(index: Map[K, Map[M, V]], key: K, member: M, value: V) -> Map[K, Map[M, V]]:
    """Return `index` with `value` at (key, member)."""
    inner: Map[M, V] = index.get(key, Map())
    return index.set(key, inner.set(member, value))


def drop(index: Map[K, Map[M, V]], key: K, member: M) -> Map[K, Map[M, V]]:
    """Return `index` without (key, member); unchanged if it is not there."""
    inner = index.get(key)
    if inner is None or member not in inner:
        return index
    inner = inner.delete(member)
    return index.set(key, inner) if inner else index.delete(key)


def add(index: Map[K, frozenset[M]], key: K, member: M) -> Map[K, frozenset[M]]:
    """Return `index` with `member` in the set at `key`. For sets that stay small."""
    return index.set(key, index.get(key, frozenset()) | {member})


def remove(index: Map[K, frozenset[M]], key: K, member: M) -> Map[K, frozenset[M]]:
    """Return `index` without `member` in the set at `key`; unchanged if it is not there."""
    members = index.get(key)
    if members is None or member not in members:
        return index
    members -= {member}
    return index.set(key, members) if members else index.delete(key)


def assign(index: Map[K, V], key: K, value: V | None) -> Map[K, V]:
    """Return `index` with `value` at `key`, or without `key` when `value` is None."""
    if value is not None:
        return index.set(key, value)
    return index.delete(key) if key in index else index


class StoreBuilder:
    """Builds the next store; has the same fields. Used once. Records of `local`, this host, count for itself also
    when others have evicted it."""

    def __init__(self, store: Store, local: HostId) -> None:
        self.s = dataclasses.replace(store)
        self._local = local
        self._hosts: set[HostId] = set()
        self._networks: set[NetworkId] = set()
        self._names: set[str] = set()
        self._vnis: set[int] = set()
        self._endpoints: set[EndpointKey] = set()
        self._claims: set[Claim] = set()
        """Claims that another endpoint may keep now."""
        self._services: set[ServicePlace] = set()
        self._own_names: set[NamePlace] = set()
        self._called: set[tuple[NetworkId, str]] = set()
        """Own names of which another record may count now."""
        self._groups: set[GroupKey] = set()
        self._decides_ranges = False
        self._addresses: set[tuple[NetworkId, RecordPlace]] = set()
        """Service addresses that may be in force now, or not."""
        self._addressed: set[ServiceKeyPlace] = set()
        """Services whose addresses in force have changed."""
        self._remembers = False
        self._before = store

    # -- edits of the truth ------------------------------------------------------------------------------------

    def apply(self, event: EntriesChanged) -> None:
        """Apply one delta of one owner."""
        where = (event.scope, HostId(event.owner))
        if event.replaced:
            kept = {entry.key for entry in event.entries}
            gone = [key for key in self.s.records.get(where, Map()) if key not in kept]
            gone += [key for key in self.s.refused.get(where, Map()) if key not in kept]
            for key in gone:
                self._drop_record(where, key)
        for entry in event.entries:
            self._apply_entry(where, entry)

    def _apply_entry(self, where: LogKey, entry: Entry) -> None:
        if entry.value is None:
            self._drop_record(where, entry.key)
            return
        held = self.s.records.get(where, Map()).get(entry.key)
        if held is not None and held.version >= entry.version:
            return
        try:
            record = decode_untrusted(entry.value)
            if not isinstance(record, Unknown) and key_of(record) != (entry.scope, entry.key):
                raise RecordError("is under a key or in a scope that does not belong to it")
        except RecordError as error:
            self._drop_record(where, entry.key)
            self.s.refused = put(self.s.refused, where, entry.key, error.message)
            return
        self._drop_record(where, entry.key)
        if not isinstance(record, Unknown):
            self.set_record(where, entry.key, StoredRecord(record, entry.version))

    def drop_log(self, where: LogKey, most: int | None = None) -> int:
        """Drop all that one owner wrote in one scope, or at most so many records of it; return their number."""
        log = chain(self.s.records.get(where, Map()), self.s.refused.get(where, Map()))
        keys = list(islice(log, most))
        for key in keys:
            self._drop_record(where, key)
        return len(keys)

    def drop_some(self, scope: Scope, most: int) -> None:
        """Drop at most so many of the records that other hosts wrote in a scope."""
        for where in chain(self._before.records, self._before.refused):
            if most <= 0:
                return
            if where[0] == scope and where[1] != self._local:
                most -= self.drop_log(where, most)

    def drop_host(self, host_id: HostId) -> None:
        """Drop everything that a host wrote or that we know of it."""
        for where in [*self._before.records, *self._before.refused]:
            if where[1] == host_id:
                self.drop_log(where)
        self.set_member(host_id, None)
        self.set_answer(host_id, answers=None)
        self.set_silent(frozenset(self.s.silent) - {host_id})
        self.set_unreached(frozenset(self.s.unreached) - {host_id})
        self.set_distances({host_id: None})

    def copy_records(self, source: Store, where: LogKey, keys: Iterable[bytes]) -> None:
        """Make some records of one log equal to those of another store; drop those that it does not have."""
        log = source.records.get(where, Map())
        for key in keys:
            self._drop_record(where, key)
            held = log.get(key)
            if held is not None:
                self.set_record(where, key, held)

    def share_log(self, source: Store, where: LogKey) -> None:
        """Take the very same map as another store for a log that is equal by now, so that the next comparison of the
        two costs nothing."""
        self.s.records = assign(self.s.records, where, source.records.get(where))
        self.s.refused = assign(self.s.refused, where, source.refused.get(where))

    def copy_sight(self, source: Store) -> None:
        """Take from another store the members, and which kernels answer."""
        if self.s.members is not source.members:
            for host_id in {*self.s.members, *source.members}:
                self.set_member(host_id, source.members.get(host_id))
        if self.s.answers is not source.answers:
            for host_id in {*self.s.answers, *source.answers}:
                self.set_answer(host_id, answers=source.answers.get(host_id))
        self.set_silent(frozenset(source.silent))

    def set_record(self, where: LogKey, key: bytes, held: StoredRecord) -> None:
        """Add a record where there is none."""
        self.s.records = put(self.s.records, where, key, held)
        if self._counts(where[1], held):
            self._index(where[1], held)

    def _drop_record(self, where: LogKey, key: bytes) -> None:
        self.s.refused = drop(self.s.refused, where, key)
        held = self.s.records.get(where, Map()).get(key)
        if held is not None:
            self.s.records = drop(self.s.records, where, key)
            if self._counts(where[1], held):
                self._unindex(where[1], held.record)

    def _counts(self, owner: HostId, held: StoredRecord) -> bool:
        """True for all records of a host that is not evicted; of an evicted one only its evictions of others count,
        without which partitions could not be recognized."""
        return isinstance(held.record, ForgetRecord) or not self._is_evicted(owner)

    def _is_evicted(self, host_id: HostId) -> bool:
        return host_id in self.s.evicted and host_id != self._local

    def set_member(self, host_id: HostId, member: Member | None) -> None:
        """Set what the membership says of the host's agent; None when it has removed it."""
        if self.s.members.get(host_id) != member:
            had_left = self._has_left(host_id)
            self.s.members = assign(self.s.members, host_id, member)
            self._hosts.add(host_id)
            held = self.s.records.get((CLUSTER_SCOPE, host_id), Map()).get(b"h")
            if (
                had_left != self._has_left(host_id)
                and held is not None
                and isinstance(held.record, HostRecord)
            ):
                self._hosts |= self.s.host_names.get(held.record.name, frozenset())

    def set_answer(self, host_id: HostId, *, answers: bool | None) -> None:
        """Set whether the host's kernel answers; None when that is not known."""
        if self.s.answers.get(host_id) is not answers:
            self.s.answers = assign(self.s.answers, host_id, answers)
            self._hosts.add(host_id)

    def set_silent(self, hosts: frozenset[HostId]) -> None:
        """Set all hosts of which several agree that their kernel is silent."""
        for host_id in hosts ^ frozenset(self.s.silent):
            self.s.silent = assign(self.s.silent, host_id, True if host_id in hosts else None)
            self._hosts.add(host_id)

    def set_unreached(self, hosts: frozenset[HostId]) -> None:
        """Set all hosts that this one does not reach over the overlay."""
        for host_id in hosts ^ frozenset(self.s.unreached):
            self.s.unreached = assign(self.s.unreached, host_id, True if host_id in hosts else None)
            self._hosts.add(host_id)

    def set_distances(self, changes: Mapping[HostId, int | None]) -> None:
        """Set how far some hosts are from this one; None: not known."""
        for host_id, distance in changes.items():
            if self.s.distances.get(host_id) != distance:
                self.s.distances = assign(self.s.distances, host_id, distance)
                self._hosts.add(host_id)

    def remember_labels(self, had: Mapping[GroupKey, Iterable[str]]) -> None:
        """Add labels that groups have had, the one that has been without an endpoint for the longest first."""
        for key, labels in had.items():
            known = self.s.group_labels.get(key, NO_LABELS)
            self.s.group_labels = self.s.group_labels.set(key, known.remembering(labels))
            self._remembers = True

    def forget_labels(self, keys: Iterable[GroupKey]) -> None:
        """Drop the labels of those groups that have no endpoint any more."""
        for key in keys:
            if key in self.s.group_labels and not self.s.group_labels[key].records:
                self.s.group_labels = self.s.group_labels.delete(key)
                self._remembers = True

    # -- direct indexes ----------------------------------------------------------------------------------------

    def _index(self, owner: HostId, held: StoredRecord) -> None:
        record = held.record
        if isinstance(record, EndpointRecord):
            view = EndpointView(record, owner, held.version)
            endpoint_key = (owner, record.endpoint_id, record.network_id)
            self.s.claimed = put(self.s.claimed, record.network_id, endpoint_key, view)
            for claim in conflict_rules.claims_of(record):
                self.s.claims = put(self.s.claims, claim, endpoint_key, value=True)
                self._claims.add(claim)
            self._endpoints.add(endpoint_key)
            return
        name, key, member, value = _place_of(owner, record)
        index = getattr(self.s, name)
        setattr(self.s, name, add(index, key, member) if value is None else put(index, key, member, value))
        for name, key, member in _further_places(owner, record):
            setattr(self.s, name, put(getattr(self.s, name), key, member, value=True))
        self._note(owner, record)

    def _unindex(self, owner: HostId, record: Record) -> None:
        if isinstance(record, EndpointRecord):
            endpoint_key = (owner, record.endpoint_id, record.network_id)
            self._withdraw(endpoint_key, self.s.claimed[record.network_id][endpoint_key])
            self.s.claimed = drop(self.s.claimed, record.network_id, endpoint_key)
            for claim in conflict_rules.claims_of(record):
                self.s.claims = drop(self.s.claims, claim, endpoint_key)
                self._claims.add(claim)
            self._endpoints.add(endpoint_key)
            return
        self._note(owner, record)
        name, key, member, value = _place_of(owner, record)
        index = getattr(self.s, name)
        setattr(self.s, name, remove(index, key, member) if value is None else drop(index, key, member))
        for name, key, member in _further_places(owner, record):
            setattr(self.s, name, drop(getattr(self.s, name), key, member))

    def _note(self, owner: HostId, record: Record) -> None:
        """Note what has to be decided again because of a record, which is in its index."""
        match record:
            case HostRecord():
                self._hosts |= self.s.host_names[record.name]
            case (
                NetworkRecord()
                | RemovalRecord()
                | AttachmentRecord()
                | GrantRecord()
                | NetworkOptionsRecord()
            ):
                self._networks.add(record.network_id)
            case HostAddressRecord():
                # Programs of that host are reached there.
                here = self.s.services_in.get(record.network_id, Map())
                self._services.update((record.network_id, one) for who, one in here if who == owner)
            case ExternalServiceRecord() | ExternalStateRecord():
                # Of several with one id, which only a lie can make, the first host's counts, in its network.
                every = self.s.external_services.get(record.service_id, Map()).values()
                self._services.update((one.network_id, record.service_id) for one in (record, *every))
            case OwnNameRecord():
                for one in (record, *self.s.own_names.get(record.name_id, Map()).values()):
                    self._called.add((one.network_id, one.name))
                    self._own_names.add((one.network_id, record.name_id))
            case ServiceRangeRecord():
                self._decides_ranges = True
            case ServiceAddressRecord():
                self._addresses.add((record.network_id, (owner, key_of(record)[1])))
            case TunnelRecord():
                self._hosts.update(self.s.tunnels.get(tunnel_number(owner, record.salt), Map()))

    # -- decisions ---------------------------------------------------------------------------------------------

    def finish(self) -> Store:
        """Decide what the edits left open and return the store. The builder must not be used again."""
        before = self._before
        said, said_before = (
            (store.evictions, store.revocations, store.accusations, store.intentions, store.disputes)
            for store in (self.s, before)
        )
        if any(new is not old for new, old in zip(said, said_before, strict=True)):
            self._decide_evicted()
        for host_id in self._hosts:
            self._decide_host(host_id)
        self._decide_networks()
        self._decide_endpoints()
        self._decide_ranges()
        self._decide_addresses()
        for place in self._called:
            self._decide_holder(place)
        for key in self._groups:
            self.s.group_labels = self.s.group_labels.set(key, self.s.group_labels[key].settled())
        return self.s

    def changes(self) -> bool:
        """True if the truth was edited. Edits that change nothing leave the very same maps."""
        new, old = self.s, self._before
        return (
            new.records is not old.records
            or new.refused is not old.refused
            or new.members is not old.members
            or new.answers is not old.answers
            or new.silent is not old.silent
            or new.unreached is not old.unreached
            or new.distances is not old.distances
            or self._remembers
        )

    def touched(self) -> ChangedKeys:
        """What may differ from before."""
        return ChangedKeys(
            frozenset(self._hosts),
            frozenset((network_id, endpoint_id) for _owner, endpoint_id, network_id in self._endpoints),
            frozenset(self._services),
            frozenset(self._own_names),
            frozenset(self._addressed),
        )

    def _decide_evicted(self) -> None:
        """Decide which hosts are evicted: take their records out of all indexes, and put back those that
        count again."""
        self.s.disputed = frozenset(self._disputed_words())
        compromised = conflict_rules.compromised_hosts(self.s.accusations)
        judged = conflict_rules.evicted_hosts(self.s.evictions, self.s.disputed, compromised)
        self.s.compromised = _equal_or(self.s.compromised, compromised)
        self.s.revoked = _equal_or(
            self.s.revoked,
            {
                host: frozenset(revokers)
                for host, writers in judged.items()
                if (revokers := writers.intersection(self.s.revocations.get(host, ())))
            },
        )
        changed = {
            host for host in {*judged, *self.s.evicted} if (host in judged) != (host in self.s.evicted)
        }
        logs = [where for where in self.s.records if where[1] in changed - {self._local}]
        loose = [(where[1], held) for where in logs for held in self.s.records[where].values()]
        loose = [(owner, held) for owner, held in loose if not isinstance(held.record, ForgetRecord)]
        for owner, held in loose:
            if owner not in judged:
                continue
            self._unindex(owner, held.record)
        for host in {*judged, *self.s.evicted}:
            self.s.evicted = assign(self.s.evicted, host, judged.get(host))
        for owner, held in loose:
            if owner not in judged:
                self._index(owner, held)
        self._hosts |= changed

    def _disputed_words(self) -> Iterator[tuple[HostId, HostId]]:
        for writer, others in self.s.disputes.items():
            log = self.s.records.get((CLUSTER_SCOPE, writer), Map())
            for other, version in others.items():
                held = log.get(key_of(ForgetRecord(other))[1])
                if held is not None and held.version <= version:
                    yield writer, other

    def _decide_host(self, host_id: HostId) -> None:
        held = self.s.records.get((CLUSTER_SCOPE, host_id), Map()).get(b"h")
        record = held.record if held is not None and isinstance(held.record, HostRecord) else None
        member, answers = self.s.members.get(host_id), self.s.answers.get(host_id)
        view = None
        is_known = record is not None or member is not None or answers is not None
        if is_known and not self._is_evicted(host_id):
            name = short_id(host_id)
            if record is not None:
                name = conflict_rules.unique_host_name(host_id, record.name, self._namesakes(record.name))
            is_unreached = host_id in self.s.unreached
            view = HostView(
                host_id, record, member, answers, host_id in self.s.silent, name, is_unreached=is_unreached
            )
        self.s.hosts = assign(self.s.hosts, host_id, view)

    def _namesakes(self, name: str) -> frozenset[HostId]:
        """Hosts that compete for a name: one that left gives it up, unless no other host has it."""
        every = self.s.host_names.get(name, frozenset())
        return frozenset(one for one in every if not self._has_left(one)) or every

    def _has_left(self, host_id: HostId) -> bool:
        member = self.s.members.get(host_id)
        return member is not None and member.state is MemberState.LEFT

    def _decide_networks(self) -> None:
        for network_id in self._networks:
            self._decide_candidate(network_id)
        for name in self._names:
            self._decide_name(name)
        for vni in self._vnis:
            self._decide_vni(vni)

    def _decide_candidate(self, network_id: NetworkId) -> None:
        """Decide whether the network exists, and by which record."""
        old = self.s.candidates.get(network_id)
        new = None
        revisions = self.s.revisions.get(network_id)
        if revisions is not None and network_id not in self.s.removals:
            owner, record = conflict_rules.in_force(revisions)
            changes = network_options.changes_in_force(self.s.option_records.get(network_id, Map()))
            record = network_options.with_options(
                record, {option: one.value for option, (one, _) in changes.items()}
            )
            new = NetworkView(
                record, owner, conflict_rules.creator_of(revisions), changes=tuple(changes.values())
            )
        for view in (old, new):
            if view is not None:
                self._names.add(view.name)
                self._vnis.add(view.record.vni)
        if new == old:
            return
        self.s.candidates = assign(self.s.candidates, network_id, new)
        self.s.networks = assign(self.s.networks, network_id, None)
        if old is not None:
            self.s.candidate_names = remove(self.s.candidate_names, old.name, network_id)
            self.s.candidate_vnis = remove(self.s.candidate_vnis, old.record.vni, network_id)
        if new is not None:
            self.s.candidate_names = add(self.s.candidate_names, new.name, network_id)
            self.s.candidate_vnis = add(self.s.candidate_vnis, new.record.vni, network_id)
        self._endpoints.update(self._judged_anew(network_id, old, new))

    def _judged_anew(
        self, network_id: NetworkId, old: NetworkView | None, new: NetworkView | None
    ) -> Iterable[EndpointKey]:
        """Endpoints that may count, or not, with other subnets: none without need, as there may be ten thousand."""
        if new is None:
            # No network record says any more that they lie outside.
            return (key for key in self.s.fenced if key[2] == network_id)
        if old is not None and old.record.subnets == new.record.subnets:
            return ()
        return self.s.claimed.get(network_id, Map())

    def _decide_name(self, name: str) -> None:
        """Decide which networks of one name are in force, and which of them holds it."""
        group = self.s.candidate_names.get(name, frozenset())
        kept = conflict_rules.keep_networks({one: self.s.is_used(self.s.candidates[one]) for one in group})
        for one in group:
            view = None
            if one in kept:
                view = dataclasses.replace(self.s.candidates[one], holds_name=one == kept[0])
            self.s.networks = assign(self.s.networks, one, view)
            self._vnis.add(self.s.candidates[one].record.vni)

    def _decide_vni(self, vni: int) -> None:
        group = [one for one in self.s.candidate_vnis.get(vni, frozenset()) if one in self.s.networks]
        for one in group:
            view = dataclasses.replace(self.s.networks[one], holds_vni=one == min(group))
            self.s.networks = self.s.networks.set(one, view)

    def _decide_claims(self) -> None:
        """Decide which endpoint keeps what several claim: once for all edits, and then only the former and the new
        holder are decided again. One member may have written thousands of endpoints with one address."""
        if self._networks:  # perhaps by other grants, which say whose an address is
            self._claims.update(claim for claim in self.s.contested if claim[0] in self._networks)
        owners: dict[NetworkId, AddressOwners] = {}
        for claim in self._claims:
            old, claimants = self._before.holder_of(claim), self.s.claims.get(claim, _NO_CLAIMANTS)
            new = self._keeper(claim, claimants, owners)
            self.s.contested = assign(self.s.contested, claim, new if len(claimants) > 1 else None)
            if new != old:
                self._endpoints.update(filter(None, (old, new)))

    def _keeper(
        self, claim: Claim, claimants: Map[EndpointKey, bool], owners: dict[NetworkId, AddressOwners]
    ) -> EndpointKey | None:
        """Return the endpoint that keeps what several claim: of the host that it belongs to, if that is known and has
        one, else of the smallest host id."""
        first = min(claimants, default=None)
        if first is None or all(key[0] == first[0] for key in claimants):
            return first
        network_id, what = NetworkId(claim[0]), claim[1]
        if not network_id:
            rightful = (key for key in claimants if is_minted_by(key[1], key[0]))
            return min(rightful, default=first)
        network = self.s.candidates.get(network_id)
        if network is None or conflict_rules.is_mac(what):
            return first
        if network_id not in owners:
            grants = self.s.grants.get(network_id, Map())
            owners[network_id] = AddressOwners(network.creator, network.record.subnets, grants)
        owner = owners[network_id].owner_of(what)
        return min((key for key in claimants if key[0] == owner), default=first)

    def _decide_endpoints(self) -> None:
        self._decide_claims()
        found: dict[EndpointKey, EndpointView] = {}
        for key in self._endpoints:
            view = self.s.claimed.get(key[2], Map()).get(key)
            if view is not None:
                found[key] = view
                self._withdraw(key, view)
        for key, view in found.items():  # only now: a loser never overwrites a winner's entry
            network = self.s.candidates.get(view.network_id)
            fits = network is None or (
                conflict_rules.lies_inside(view.record, network.record)
                and not conflict_rules.has_mac_of_another(view.record, network.record)
            )
            if fits and all(
                key == self.s.holder_of(claim) for claim in conflict_rules.claims_of(view.record)
            ):
                self._place(view)
            else:
                self.s.fenced = self.s.fenced.set(key, view)

    # -- service ranges and service addresses --------------------------------------------------------------------

    def _decide_ranges(self) -> None:
        """Decide which service ranges are in force, all at once: each may depend on all others. They are few, and
        hardly any change concerns them."""
        if not self.s.range_records and not self._before.service_ranges:
            return
        if not self._decides_ranges and not self._has_moved():
            return
        judged = {}
        for network_id, claims in self.s.range_records.items():
            network = self.s.networks.get(network_id)
            if network is not None:
                judged[network_id] = service_rules.judged_ranges(claims, network.record)
        networks = (one.record for one in self.s.networks.values())
        hosts = (one.record for one in self.s.hosts.values() if one.record is not None)
        ranges = service_rules.ranges_in_force(judged, networks, hosts)
        for network_id in {*ranges, *self.s.service_ranges}:
            new, old = (by_id.get(network_id, ()) for by_id in (ranges, self.s.service_ranges))
            if old != new:
                self.s.service_ranges = assign(self.s.service_ranges, network_id, new or None)
                for place in self.s.address_records.get(network_id, ()):
                    is_inside, was_inside = (service_rules.is_inside(some, place[1]) for some in (new, old))
                    if is_inside is not was_inside:
                        self._addresses.add((network_id, place))

    def _has_moved(self) -> bool:
        """True if a network or a host has other addresses than before, so that other ranges may be in force."""
        old, new = self._before, self.s
        for host_id in self._hosts if new.hosts is not old.hosts else ():
            if _places_of_host(old.hosts.get(host_id)) != _places_of_host(new.hosts.get(host_id)):
                return True
        if new.networks is old.networks:
            return False
        subnets = [{one: view.record.subnets for one, view in store.networks.items()} for store in (old, new)]
        return subnets[0] != subnets[1]

    def _decide_addresses(self) -> None:
        """Decide which service addresses are in force."""
        for owner in {place[0] for _, place in self._addresses}:
            self._bound_addresses(owner)
        rivals = set(self._addresses)
        for network_id, place in self._addresses:
            rivals.update(self._claim_addresses(network_id, place))
        changed: dict[ServiceKeyPlace, dict[RecordPlace, ServiceAddressView | None]] = {}
        found = [self._judged(network_id, place) for network_id, place in rivals]
        for (network_id, place), view in zip(rivals, found, strict=True):
            old = self._before.address_records.get(network_id, Map()).get(place)
            for record in (old, self.s.address_records.get(network_id, Map()).get(place)):
                if record is not None:
                    is_it = view is not None and view.service == record.service
                    changed.setdefault((network_id, record.service), {})[place] = view if is_it else None
        for where, views in changed.items():
            self._set_holders(where, views)
        for view in filter(None, found):  # only now: a loser never removes a winner's entry
            for address in view.record.addresses:
                self.s.by_service_address = self.s.by_service_address.set(address, view)

    def _bound_addresses(self, owner: HostId) -> None:
        """Note up to which key the addresses of a host may be in force. If that has changed, those between the former
        one and this one have to be decided as well."""
        keys = self.s.address_keys.get(owner, Map())
        old, new = self.s.last_addresses.get(owner), service_rules.last_in_force(keys, len(keys))
        if old != new:
            self.s.last_addresses = assign(self.s.last_addresses, owner, new)
            bounds = [key for key in (old, new) if key is not None]
            low, high = min(bounds), max(bounds) if len(bounds) == 2 else None
            for key in keys:
                if low < key and (high is None or key <= high):
                    self._addresses.add((_network_of(key), (owner, key)))

    def _claim_addresses(
        self, network_id: NetworkId, place: RecordPlace
    ) -> Iterator[tuple[NetworkId, RecordPlace]]:
        """Let a record claim its addresses, if it may, or no longer; yield all that claim or claimed them."""
        record = self.s.address_records.get(network_id, Map()).get(place)
        known = record or self._before.address_records.get(network_id, Map()).get(place)
        if known is None:
            return  # put and deleted again in one go
        last = self.s.last_addresses.get(place[0])
        may_claim = (
            record is not None
            and (last is None or place[1] <= last)
            and service_rules.is_inside(self.s.service_ranges.get(network_id, ()), place[1])
        )
        for address in known.addresses:
            if may_claim:
                self.s.address_claims = put(self.s.address_claims, address, place, network_id)
            else:
                self.s.address_claims = drop(self.s.address_claims, address, place)
            yield from ((where, one) for one, where in self.s.address_claims.get(address, Map()).items())

    def _judged(self, network_id: NetworkId, place: RecordPlace) -> ServiceAddressView | None:
        """Return the service address if it is in force."""
        record = self.s.address_records.get(network_id, Map()).get(place)
        claims = self.s.address_claims
        if record is None or not all(
            min(claims.get(address, Map()), default=None) == place for address in record.addresses
        ):
            return None
        return ServiceAddressView(place[0], record)

    def _set_holders(
        self, where: ServiceKeyPlace, views: Mapping[RecordPlace, ServiceAddressView | None]
    ) -> None:
        """Put some addresses of a service in force, or out of it."""
        before = self.s.address_holders.get(where, Map())
        holders = before
        for place, view in views.items():
            old = holders.get(place)
            if old == view:
                continue
            holders = assign(holders, place, view)
            for address in () if old is None else old.record.addresses:
                if self.s.by_service_address.get(address) == old:
                    self.s.by_service_address = self.s.by_service_address.delete(address)
        if holders is before:
            return
        self._addressed.add(where)
        self.s.address_holders = assign(self.s.address_holders, where, holders or None)
        network_id, service = where
        here: Map[ServiceKey, tuple[ServiceAddressView, ...]] = self.s.service_addresses.get(
            network_id, Map()
        )
        here = assign(here, service, tuple(holders[one] for one in sorted(holders)) or None)
        self.s.service_addresses = assign(self.s.service_addresses, network_id, here or None)

    # -- own names and endpoints ---------------------------------------------------------------------------------

    def _decide_holder(self, place: tuple[NetworkId, str]) -> None:
        """Decide which of the own names with one name counts: once for all edits, as one member may have written
        thousands of them."""
        old = self._before.own_name_holders.get(place)
        new = min(self.s.own_names_called.get(place, Map()), default=None)
        self.s.own_name_holders = assign(self.s.own_name_holders, place, new)
        if new != old:
            self._own_names.update((place[0], name_id) for _, name_id in filter(None, (old, new)))

    def _place(self, view: EndpointView) -> None:
        record, endpoint_id = view.record, view.endpoint_id
        self.s.endpoints = self.s.endpoints.set(endpoint_id, view)
        self.s.by_network = put(self.s.by_network, record.network_id, endpoint_id, view)
        self.s.by_name = put(self.s.by_name, record.name, endpoint_id, view)
        self.s.by_service = put(self.s.by_service, (record.network_id, record.service_key), endpoint_id, view)
        for label in given_labels(record.name, record.group, record.aliases):
            self.s.by_given = put(self.s.by_given, (record.network_id, label), endpoint_id, view)
        for called in origin_keys(record.labels):
            self.s.by_origin = put(self.s.by_origin, called, endpoint_id, view)
        if not record.is_answering:
            self.s.withheld = self.s.withheld.set(endpoint_id, view)
        for link in record.links:
            self.s.by_link = put(self.s.by_link, (record.network_id, link), endpoint_id, view)
        if record.group is not None:
            self._count(view, GroupLabels.with_endpoint)

    def _withdraw(self, key: EndpointKey, view: EndpointView) -> None:
        """Take an endpoint out of the indexes of those that count, wherever it is."""
        self.s.fenced = assign(self.s.fenced, key, None)
        record, endpoint_id = view.record, view.endpoint_id
        if self.s.endpoints.get(endpoint_id) != view:
            return
        self.s.endpoints = self.s.endpoints.delete(endpoint_id)
        self.s.by_network = drop(self.s.by_network, record.network_id, endpoint_id)
        self.s.by_name = drop(self.s.by_name, record.name, endpoint_id)
        self.s.by_service = drop(self.s.by_service, (record.network_id, record.service_key), endpoint_id)
        for label in given_labels(record.name, record.group, record.aliases):
            self.s.by_given = drop(self.s.by_given, (record.network_id, label), endpoint_id)
        for called in origin_keys(record.labels):
            self.s.by_origin = drop(self.s.by_origin, called, endpoint_id)
        self.s.withheld = assign(self.s.withheld, endpoint_id, None)
        for link in record.links:
            self.s.by_link = drop(self.s.by_link, (record.network_id, link), endpoint_id)
        if record.group is not None:
            self._count(view, GroupLabels.without_endpoint)

    def _count(self, view: EndpointView, count: Callable[..., GroupLabels]) -> None:
        """Count a member of a group in or out. Only `finish` says which labels are without an endpoint: most that are
        counted out here are counted in again."""
        group = view.record.group
        assert group is not None
        key = (view.network_id, group.name)
        labels = labels_inside(view.record, group.name)
        known = self.s.group_labels.get(key, NO_LABELS)
        self.s.group_labels = self.s.group_labels.set(
            key, count(known, labels, is_own=view.owner == self._local)
        )
        self._groups.add(key)


def _place_of(owner: HostId, record: Record) -> tuple[str, Hashable, Hashable, object | None]:
    """Return the index that a record is in, its key and member there, and the value; None: the index has sets."""
    match record:
        case HostRecord():
            return "host_names", record.name, owner, None
        case NetworkRecord() | NetworkOptionsRecord():
            index = "revisions" if isinstance(record, NetworkRecord) else "option_records"
            return index, record.network_id, owner, record
        case RemovalRecord() | AttachmentRecord():
            index = "removals" if isinstance(record, RemovalRecord) else "attachments"
            return index, record.network_id, owner, None
        case GrantRecord():
            return "grants", record.network_id, (owner, key_of(record)[1]), record
        case HostAddressRecord():
            return "host_addresses", record.network_id, owner, record
        case ForgetRecord():
            return _place_of_eviction(owner, record)
        case ExternalServiceRecord() | ExternalStateRecord():
            index = "external_services" if isinstance(record, ExternalServiceRecord) else "external_states"
            return index, record.service_id, owner, record
        case OwnNameRecord():
            return "own_names", record.name_id, owner, record
        case ServiceRangeRecord() | ServiceAddressRecord() | PublishedServiceRecord():
            return _BY_NETWORK[type(record)], record.network_id, (owner, key_of(record)[1]), record
        case RingKeysRecord() | SealedKeysRecord() | TunnelRecord() | EncryptionRecord():
            return _place_of_keys(owner, record)
        case EndpointRecord():
            return "claimed", record.network_id, (owner, record.endpoint_id, record.network_id), record


_BY_NETWORK: Final[Mapping[type[Record], str]] = {
    ServiceRangeRecord: "range_records",
    ServiceAddressRecord: "address_records",
    PublishedServiceRecord: "published_services",
}
"""The indexes of records by network and then by place."""


def _further_places(owner: HostId, record: Record) -> Iterator[tuple[str, Hashable, Hashable]]:
    """Yield the indexes without values that a record is in beside its place, each with its key and member there."""
    match record:
        case ExternalServiceRecord():
            yield "services_in", record.network_id, (owner, record.service_id)
            yield "services_called", (record.network_id, record.name), (owner, record.service_id)
        case OwnNameRecord():
            yield "own_names_in", record.network_id, (owner, record.name_id)
            yield "own_names_called", (record.network_id, record.name), (owner, record.name_id)
        case ServiceAddressRecord():
            yield "address_keys", owner, key_of(record)[1]
        case ForgetRecord(settled=True, revoked=True):
            yield "revocations", record.host_id, owner
            if record.compromised:
                yield "accusations", record.host_id, owner


def _equal_or(index: Map[K, V], wanted: Mapping[K, V]) -> Map[K, V]:
    """Return `index` with the items of `wanted`; the very same object if it has them already."""
    for key in {*index, *wanted}:
        if index.get(key) != wanted.get(key):
            index = assign(index, key, wanted.get(key))
    return index


def _place_of_keys(
    owner: HostId, record: RingKeysRecord | SealedKeysRecord | TunnelRecord | EncryptionRecord
) -> tuple[str, Hashable, Hashable, object | None]:
    match record:
        case EncryptionRecord():
            return "encryption", "", owner, record
        case TunnelRecord():
            return "tunnels", tunnel_number(owner, record.salt), owner, record
        case RingKeysRecord() | SealedKeysRecord():
            return "key_records", owner, key_of(record)[1], record


def _place_of_eviction(owner: HostId, record: ForgetRecord) -> tuple[str, Hashable, Hashable, object | None]:
    if record.settled:
        return "evictions", record.host_id, owner, None
    if record.disputed is None:
        return "intentions", record.host_id, owner, None
    return "disputes", record.host_id, owner, record.disputed


def _network_of(key: bytes) -> NetworkId:
    """Return the network of a service address, by the key of its record."""
    return NetworkId(key[1:17].hex())


def _places_of_host(host: HostView | None) -> tuple[str, str] | None:
    """Return the addresses that only this host has."""
    record = None if host is None else host.record
    return None if record is None else (record.underlay, record.probe_address)


def rebuild(store: Store, local: HostId) -> Store:
    """Return the store that follows from `store`'s truth, and from the labels that groups have had, alone. For checks
    only: it costs the whole registry."""
    had: Map[GroupKey, GroupLabels] = Map(
        (key, GroupLabels(absent=labels.absent)) for key, labels in store.group_labels.items()
    )
    draft = StoreBuilder(Store(refused=store.refused, group_labels=had), local)
    for where, log in store.records.items():
        for key, held in log.items():
            draft.set_record(where, key, held)
    for host_id, member in store.members.items():
        draft.set_member(host_id, member)
    for host_id, answers in store.answers.items():
        draft.set_answer(host_id, answers=answers)
    draft.set_silent(frozenset(store.silent))
    draft.set_unreached(frozenset(store.unreached))
    draft.set_distances(store.distances)
    return draft.finish()
