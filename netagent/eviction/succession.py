"""Succession: what evicted hosts leave to their successor beside address space. Pure.

Once a host is evicted nothing that it wrote counts, and its logs are dropped everywhere. The successor therefore
repeats what the cluster still needs of them as its own, in the same change in which it says that they are gone:
networks and what they changed of networks, removals, their evictions of earlier hosts, grants that their receivers
have not repeated yet, external services, what they found out about these, own names, published services, and ranges
and addresses of services, which programs remember for ever. Their attachments and endpoints end with them, and so do
external services that are programs of theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import Final

from netagent.external.view import external_service, successor_state
from netagent.model.ids import HostId
from netagent.model.records import (
    ExternalServiceRecord,
    ExternalStateRecord,
    ForgetRecord,
    GrantRecord,
    HostProgram,
    NetworkOptionsRecord,
    NetworkRecord,
    OwnNameRecord,
    PublishedServiceRecord,
    Record,
    RemovalRecord,
    ServiceAddressRecord,
    ServiceRangeRecord,
)
from netagent.registry.network_options import succeeded
from netagent.registry.record_codec import key_of
from netagent.registry.service_rules import MAX_SERVICE_ADDRESSES
from netagent.registry.view import RegistryView
from netgossip.types import CLUSTER_SCOPE

MOST_REVISIONS: Final = 1 << 24
"""A network outlives fewer hosts. A revision above it is forged by a host that no longer counts once it is gone, and
none could be above it."""
MAX_ADDITIONS: Final = 4096
"""Bound of records of external services, own names and published services that a successor repeats; beyond it: they
end with the evicted hosts. A host that filled its log with them could otherwise not be evicted, because no log has
room for two."""


def gone_for_good(host_id: HostId) -> ForgetRecord:
    """Return the eviction of a host that may return by itself."""
    return ForgetRecord(host_id, settled=True)


def eviction_records(
    view: RegistryView, gone: Collection[HostId], word: Callable[[HostId], ForgetRecord] = gone_for_good
) -> list[Record]:
    """Return the records that this host must write to evict `gone` and to succeed them, except grants of
    their space. `word`: the eviction itself."""
    records: dict[bytes, Record] = {}
    for host in sorted(gone):
        eviction = word(host)
        records[key_of(eviction)[1]] = eviction
    own = {key_of(record)[1]: record for record in view.records_of(view.local, CLUSTER_SCOPE)}
    additions = 0
    room = MAX_SERVICE_ADDRESSES - len(view.store.address_keys.get(view.local, ()))
    for host in sorted(gone):
        for record in _kept(view, host, gone):
            key = key_of(record)[1]
            if isinstance(record, ServiceAddressRecord):
                room -= 1
                if room < 0:
                    continue
            if isinstance(
                record, OwnNameRecord | ExternalServiceRecord | ExternalStateRecord | PublishedServiceRecord
            ):
                additions += 1
                if additions > MAX_ADDITIONS:
                    continue
            # A state in force follows on whatever this host had found out earlier, and a revocation stays one.
            if key not in own or isinstance(record, ExternalStateRecord) or _says_more(record, own[key]):
                records.setdefault(key, record)
    for option_record in _options(view, gone):
        records[key_of(option_record)[1]] = option_record
    return list(records.values())


def _says_more(record: Record, own: Record) -> bool:
    return (
        isinstance(record, ForgetRecord)
        and isinstance(own, ForgetRecord)
        and (record.revoked, record.compromised) > (own.revoked, own.compromised)
    )


def _options(view: RegistryView, gone: Collection[HostId]) -> Iterator[NetworkOptionsRecord]:
    for network_id, claims in view.store.option_records.items():
        if network_id in view.networks and (changes := succeeded(claims, gone, view.local)):
            yield NetworkOptionsRecord(network_id, changes)


def _kept(view: RegistryView, host: HostId, gone: Collection[HostId]) -> Iterator[Record]:
    for record in view.records_of(host, CLUSTER_SCOPE):
        match record:
            case NetworkRecord():
                network = view.networks.get(record.network_id)
                if network is not None and network.owner == host:
                    yield replace(record, revision=min(record.revision, MOST_REVISIONS) + 1)
            case RemovalRecord():
                yield record
            case ForgetRecord(settled=True):
                # Not of hosts that are there, or were a moment ago: what it said of them did not count, because they
                # said the same of it.
                # Nor of a host that called this one compromised: that is why it is gone.
                away = record.host_id != view.local and record.host_id not in view.hosts
                if away and record.host_id not in view.store.accusations.get(host, ()):
                    yield record
            case ServiceRangeRecord() | ServiceAddressRecord() if _is_in_force(view, host, record):
                yield record
            case (
                OwnNameRecord() | PublishedServiceRecord() | ExternalServiceRecord() | ExternalStateRecord()
            ) if _stays(view, host, record):
                yield successor_state(record) if isinstance(record, ExternalStateRecord) else record
            case GrantRecord() if record.to not in gone:
                if (record.to, key_of(record)[1]) not in view.grant_map(record.network_id):
                    yield record


def _is_in_force(view: RegistryView, host: HostId, record: ServiceRangeRecord | ServiceAddressRecord) -> bool:
    if isinstance(record, ServiceRangeRecord):
        return record.subnets in {one.record.subnets for one in view.service_ranges(record.network_id)}
    found = view.service_by_address(record.addresses[0])
    return found is not None and (found.owner, found.record) == (host, record)


def _stays(
    view: RegistryView,
    host: HostId,
    record: OwnNameRecord | PublishedServiceRecord | ExternalServiceRecord | ExternalStateRecord,
) -> bool:
    """True for what an operator added on a host and that does not end with it, and for what it found out last."""
    if record.network_id not in view.networks:
        return False
    match record:
        case ExternalServiceRecord():
            return not isinstance(record.target, HostProgram)
        case ExternalStateRecord():
            service = external_service(view, record.network_id, record.service_id)
            return service is not None and service.found_by == host
        case OwnNameRecord() | PublishedServiceRecord():
            return True


def amended_evictions(
    view: RegistryView, in_work: Collection[HostId]
) -> tuple[list[ForgetRecord], list[ForgetRecord]]:
    """Return this host's evictions of others that it has to change, and those that it has to take back.

    Taken back are intentions that no task pursues any more, and, once two hosts evict each other, this host's
    evictions of hosts that are alive (netagent.registry.conflict_rules). An eviction of this host by another is
    disputed meanwhile: both may do so at once, and whichever record arrives first, neither stands alone with one
    against it.
    """
    own = [one for one in view.records_of(view.local, CLUSTER_SCOPE) if isinstance(one, ForgetRecord)]
    against = view.store.evictions.get(view.local, frozenset())
    said = [one.host_id for one in own if one.settled and not one.compromised]
    is_contested = any(one in against or (view.local, one) in view.store.disputed for one in said)
    living = {host_id for host_id, host in view.hosts.items() if host.is_live} if is_contested else set()
    change = []
    for host_id in living.intersection(said) & against:
        version = view.version_of(host_id, ForgetRecord(view.local, settled=True))
        if version is not None:
            change.append(ForgetRecord(host_id, disputed=(version.epoch, version.sequence)))
    take_back = [one for one in own if one.host_id in living.intersection(said) - against]
    for one in own:
        if one.disputed is not None and one.host_id not in view.hosts:
            take_back.append(one)  # it is gone, and its eviction with it
        elif not one.settled and one.disputed is None and one.host_id not in in_work:
            take_back.append(one)
    return change, take_back
