"""The persistent maps that a view consists of: first the truth, then what is derived from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from immutables import Map

from netagent.model.group_labels import GroupKey, GroupLabels
from netagent.model.ids import EndpointId, HostId, NetworkId, OwnNameId, ServiceId
from netagent.model.records import (
    EncryptionRecord,
    ExternalServiceRecord,
    ExternalStateRecord,
    GrantRecord,
    HostAddressRecord,
    NetworkOptionsRecord,
    NetworkRecord,
    OwnNameRecord,
    PublishedServiceRecord,
    Record,
    ServiceAddressRecord,
    ServiceKey,
    ServiceRangeRecord,
    TunnelRecord,
)
from netagent.model.ring_key import RingKeysRecord, SealedKeysRecord
from netagent.registry.service_rules import RecordPlace
from netagent.registry.views import EndpointView, HostView, NetworkView, ServiceAddressView, ServiceRangeView
from netgossip.types import Member, Scope, Version


class StoredRecord(NamedTuple):
    """A record in its owner's log."""

    record: Record
    version: Version


LogKey: TypeAlias = tuple[Scope, HostId]
EndpointKey: TypeAlias = tuple[HostId, EndpointId, NetworkId]
"""An endpoint is identified by its id; owner and network are in the key because a forged record may claim the same
id."""

Claim: TypeAlias = tuple[str, str]
"""What only one endpoint may have: ("", endpoint id) or (network id, address or MAC)."""


@dataclass(slots=True)
class Store:
    """All maps of one view. The first seven are the truth; the others follow from it, except for the labels that
    groups have had.

    The maps are immutable; the store is not, so that a StoreBuilder can edit a copy field by field. The store of a
    view never changes.
    """

    records: Map[LogKey, Map[bytes, StoredRecord]] = field(default_factory=Map)
    refused: Map[LogKey, Map[bytes, str]] = field(default_factory=Map)
    """Invalid entries, with the reason. Kept as a level: an entry goes when the owner corrects it."""
    members: Map[HostId, Member] = field(default_factory=Map)
    answers: Map[HostId, bool] = field(default_factory=Map)
    silent: Map[HostId, bool] = field(default_factory=Map)
    """Hosts of which several agree that their kernel is silent: True."""
    unreached: Map[HostId, bool] = field(default_factory=Map)
    """Hosts that do not answer this one over the overlay (netagent.probes.reach): True."""
    distances: Map[HostId, int] = field(default_factory=Map)
    """How far other hosts are from this one, as classes of round-trip time (netagent.model.locality)."""

    hosts: Map[HostId, HostView] = field(default_factory=Map)
    host_names: Map[str, frozenset[HostId]] = field(default_factory=Map)
    evictions: Map[HostId, frozenset[HostId]] = field(default_factory=Map)
    """Host -> the hosts that say it is gone for good; contested or not."""
    revocations: Map[HostId, Map[HostId, bool]] = field(default_factory=Map)
    """Those of these that revoke it: True."""
    accusations: Map[HostId, Map[HostId, bool]] = field(default_factory=Map)
    """Those of these that say that it is compromised: True."""
    intentions: Map[HostId, frozenset[HostId]] = field(default_factory=Map)
    """Host -> the hosts that are about to evict it."""
    disputes: Map[HostId, Map[HostId, tuple[int, int]]] = field(default_factory=Map)
    """Writer -> the hosts whose eviction by it does not count, and up to which version of the writer's log."""
    disputed: frozenset[tuple[HostId, HostId]] = frozenset()
    """Those of these that have no newer version: (writer, host)."""
    evicted: Map[HostId, frozenset[HostId]] = field(default_factory=Map)
    """The evicted hosts by the rules. Of their records only their evictions of others are in any index."""
    revoked: Map[HostId, frozenset[HostId]] = field(default_factory=Map)
    """Those of these that are revoked, and the hosts that did."""
    compromised: Map[HostId, frozenset[HostId]] = field(default_factory=Map)
    """Those of these that are compromised, and the hosts that said so."""

    revisions: Map[NetworkId, Map[HostId, NetworkRecord]] = field(default_factory=Map)
    option_records: Map[NetworkId, Map[HostId, NetworkOptionsRecord]] = field(default_factory=Map)
    """What hosts have changed of networks."""
    removals: Map[NetworkId, frozenset[HostId]] = field(default_factory=Map)
    attachments: Map[NetworkId, frozenset[HostId]] = field(default_factory=Map)
    host_addresses: Map[NetworkId, Map[HostId, HostAddressRecord]] = field(default_factory=Map)
    grants: Map[NetworkId, Map[tuple[HostId, bytes], GrantRecord]] = field(default_factory=Map)

    candidates: Map[NetworkId, NetworkView] = field(default_factory=Map)
    """Networks that exist and are not removed, with their options, before names and VNIs are decided."""
    candidate_names: Map[str, frozenset[NetworkId]] = field(default_factory=Map)
    candidate_vnis: Map[int, frozenset[NetworkId]] = field(default_factory=Map)
    networks: Map[NetworkId, NetworkView] = field(default_factory=Map)
    """Candidates that are in force."""

    claimed: Map[NetworkId, Map[EndpointKey, EndpointView]] = field(default_factory=Map)
    """All endpoints by network, before addresses are decided."""
    claims: Map[Claim, Map[EndpointKey, bool]] = field(default_factory=Map)
    """What endpoints claim -> those that do. One member may have written thousands of endpoints with one address."""
    contested: Map[Claim, EndpointKey] = field(default_factory=Map)
    """Of claims that several endpoints make: the one that keeps it."""
    endpoints: Map[EndpointId, EndpointView] = field(default_factory=Map)
    fenced: Map[EndpointKey, EndpointView] = field(default_factory=Map)
    by_network: Map[NetworkId, Map[EndpointId, EndpointView]] = field(default_factory=Map)
    by_name: Map[str, Map[EndpointId, EndpointView]] = field(default_factory=Map)
    by_service: Map[tuple[NetworkId, ServiceKey], Map[EndpointId, EndpointView]] = field(default_factory=Map)
    by_given: Map[tuple[NetworkId, str], Map[EndpointId, EndpointView]] = field(default_factory=Map)
    """By alias, and by the service of the group, whichever group that is."""
    by_origin: Map[str, Map[EndpointId, EndpointView]] = field(default_factory=Map)
    """By what compose and the runtime call the container (netagent.model.origin_labels)."""
    withheld: Map[EndpointId, EndpointView] = field(default_factory=Map)
    """Endpoints that their own hosts keep out of names: drained, starting or unhealthy."""
    by_link: Map[tuple[NetworkId, str], Map[EndpointId, EndpointView]] = field(default_factory=Map)
    """The endpoints that have a link to a label."""
    group_labels: Map[GroupKey, GroupLabels] = field(default_factory=Map)
    """The labels that groups have, and that they have had: the latter do not follow from the records."""

    external_services: Map[ServiceId, Map[HostId, ExternalServiceRecord]] = field(default_factory=Map)
    """By owner: several only if one lies, or while one succeeds another."""
    external_states: Map[ServiceId, Map[HostId, ExternalStateRecord]] = field(default_factory=Map)
    services_in: Map[NetworkId, Map[tuple[HostId, ServiceId], bool]] = field(default_factory=Map)
    """External services of the network: True. One member may have thousands, so no set that is copied."""
    services_called: Map[tuple[NetworkId, str], Map[tuple[HostId, ServiceId], bool]] = field(
        default_factory=Map
    )
    own_names: Map[OwnNameId, Map[HostId, OwnNameRecord]] = field(default_factory=Map)
    own_names_in: Map[NetworkId, Map[tuple[HostId, OwnNameId], bool]] = field(default_factory=Map)
    own_names_called: Map[tuple[NetworkId, str], Map[tuple[HostId, OwnNameId], bool]] = field(
        default_factory=Map
    )
    own_name_holders: Map[tuple[NetworkId, str], tuple[HostId, OwnNameId]] = field(default_factory=Map)
    """The first of those with one name, which counts."""

    key_records: Map[HostId, Map[bytes, RingKeysRecord | SealedKeysRecord]] = field(default_factory=Map)
    """By owner and key: which ring keys a host has, and which it gives to others."""

    range_records: Map[NetworkId, Map[RecordPlace, ServiceRangeRecord]] = field(default_factory=Map)
    """All service ranges, before it is decided which are in force."""
    service_ranges: Map[NetworkId, tuple[ServiceRangeView, ...]] = field(default_factory=Map)
    """Those in force, by owner."""
    address_records: Map[NetworkId, Map[RecordPlace, ServiceAddressRecord]] = field(default_factory=Map)
    """All service addresses, before it is decided which are in force."""
    address_keys: Map[HostId, Map[bytes, bool]] = field(default_factory=Map)
    """The same by owner: True."""
    last_addresses: Map[HostId, bytes] = field(default_factory=Map)
    """The last key that may be in force, of hosts with more of them than may be."""
    address_claims: Map[str, Map[RecordPlace, NetworkId]] = field(default_factory=Map)
    """Address -> the records that claim it: those within the bounds and in a range in force."""
    by_service_address: Map[str, ServiceAddressView] = field(default_factory=Map)
    """Service addresses in force by address."""
    address_holders: Map[tuple[NetworkId, ServiceKey], Map[RecordPlace, ServiceAddressView]] = field(
        default_factory=Map
    )
    """Service addresses in force by service, and the same by network, in the order of their owners."""
    service_addresses: Map[NetworkId, Map[ServiceKey, tuple[ServiceAddressView, ...]]] = field(
        default_factory=Map
    )
    published_services: Map[NetworkId, Map[RecordPlace, PublishedServiceRecord]] = field(default_factory=Map)
    """Ports of hosts that lead to services."""

    tunnels: Map[int, Map[HostId, TunnelRecord]] = field(default_factory=Map)
    """Ends of the encrypted tunnel by number (netagent.model.address.tunnel), of which the first host's counts."""
    encryption: Map[str, Map[HostId, EncryptionRecord]] = field(default_factory=Map)
    """At the empty text: what hosts say of encryption."""

    def holder_of(self, claim: Claim) -> EndpointKey | None:
        """Return the endpoint that keeps what others may claim as well (conflict_rules); None if no one claims it."""
        holder = self.contested.get(claim)
        return holder if holder is not None else next(iter(self.claims.get(claim, ())), None)

    def is_used(self, network: NetworkView) -> bool:
        """True as the rules define it: the network's creator takes part in it, or has granted space of it, or is gone
        and another host has taken it over."""
        network_id, creator = network.network_id, network.creator
        if network.record.revision:
            return True
        if creator in self.attachments.get(network_id, frozenset()):
            return True
        return any(owner == creator for owner, _ in self.grants.get(network_id, Map()))
