"""External services and own names as this host knows them: what the owner says, joined with what was found out. Pure.

A container always comes first: while an endpoint of the network has a label, also one that is unhealthy, names lead
to no external service and no own name of that label. Clients of a database must not reach another one because theirs
restarts.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from netagent.model.ids import EndpointId, HostId, NetworkId, OwnNameId, ServiceId
from netagent.model.naming import ranks
from netagent.model.records import (
    MAX_TURN,
    AddressState,
    DnsName,
    EndpointRecord,
    ExternalServiceRecord,
    ExternalStateRecord,
    FixedAddresses,
    Health,
    HostProgram,
    OwnNameRecord,
    ServiceKey,
    TargetAddress,
)
from netagent.model.subnet import addresses_of, offset_count
from netagent.registry.external_fields import address_key
from netagent.registry.view import EndpointView, RegistryView
from netgossip.types import CLUSTER_SCOPE


class ExternalState(enum.Enum):
    """Whether names lead to an address of an external service, and if not, why."""

    UP = "up"
    STARTING = "starting"
    """No check has succeeded yet."""
    UNHEALTHY = "unhealthy"
    EXPIRED = "expired"
    """It was not renewed in time."""
    HIDDEN = "hidden"
    """It is a program of a host that is away."""


@dataclass(frozen=True, slots=True)
class ExternalAddress:
    """One address of an external service."""

    place: TargetAddress
    state: ExternalState
    since_s: int | None = None
    """Unix time; None: not known."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ExternalService:
    """An external service, its owner and its addresses."""

    record: ExternalServiceRecord
    owner: HostId
    addresses: tuple[ExternalAddress, ...]
    found: ExternalStateRecord | None = None
    """The state in force; None: nothing was found out yet."""
    found_by: HostId | None = None
    """The host that wrote it."""

    @property
    def answering(self) -> tuple[TargetAddress, ...]:
        """The addresses that names lead to."""
        return tuple(one.place for one in self.addresses if one.state is ExternalState.UP)

    @property
    def ttl_s(self) -> int | None:
        """How long clients may keep its addresses: what the DNS name said. None: as for a container."""
        resolution = self.found.resolution if self.found is not None else None
        return resolution.ttl_s if resolution is not None and not self.record.checks else None

    @property
    def shortcomings(self) -> tuple[str, ...]:
        """Why names do not lead to its addresses, or that it has none, for people."""
        record, found = self.record, self.found
        left_out = tuple(
            f"{one.place.text}: {one.reason}" for one in self.addresses if one.state is not ExternalState.UP
        )
        match record.target:
            case HostProgram() if not self.addresses:
                return ("its host has no address in the network",)
            case DnsName(name):
                resolution = found.resolution if found is not None else None
                if resolution is None:
                    return (f"{name} has not been resolved yet",)
                return (resolution.reason, *left_out) if resolution.reason else left_out
        return left_out


@dataclass(frozen=True, slots=True)
class OwnName:
    """An own name and its owner."""

    record: OwnNameRecord
    owner: HostId
    holder: HostId
    """The host whose record with this name counts: the first, by id."""

    @property
    def counts(self) -> bool:
        """True if the name leads where this record says."""
        return self.owner == self.holder


def external_service(
    view: RegistryView, network_id: NetworkId, service_id: ServiceId
) -> ExternalService | None:
    """Return a service of the network; None if there is none."""
    found = service_with(view, service_id)
    return None if found is None or found.record.network_id != network_id else found


def service_with(view: RegistryView, service_id: ServiceId) -> ExternalService | None:
    """Return the service with this id, of the first host that has one, in whichever network it is."""
    owners = view.store.external_services.get(service_id)
    if owners is None:
        return None
    owner = min(owners)
    record = owners[owner]
    found_by, found = state_in_force(view, owner, record) or (None, None)
    addresses = tuple(_addresses(view, owner, record, found))
    return ExternalService(record, owner, addresses, found, found_by)


def external_services(view: RegistryView, network_id: NetworkId) -> Iterator[ExternalService]:
    """Yield the services of a network, by id."""
    known = {service_id for _, service_id in view.store.services_in.get(network_id, ())}
    for service_id in sorted(known):
        service = external_service(view, network_id, service_id)
        if service is not None:
            yield service


def state_in_force(
    view: RegistryView, owner: HostId, record: ExternalServiceRecord
) -> tuple[HostId, ExternalStateRecord] | None:
    """Return what counts of all that hosts found out about a service, and its writer.

    Of equal turns the owner's counts: a member that writes the greatest turn cannot take a service from an owner that
    is there.
    """
    written = view.store.external_states.get(record.service_id)
    found = [
        (one.turn, host_id == owner, host_id, one)
        for host_id, one in (written.items() if written is not None else ())
        if one.network_id == record.network_id
    ]
    if not found:
        return None
    _, _, host_id, state = max(found, key=lambda one: one[:3])
    return host_id, state


def successor_state(found: ExternalStateRecord) -> ExternalStateRecord:
    """Return the same state for another host to write, which takes precedence."""
    return replace(found, turn=min(found.turn, MAX_TURN - 1) + 1)


def own_names(view: RegistryView, network_id: NetworkId) -> Iterator[OwnName]:
    """Yield the own names of a network, by name."""
    found = []
    for owner, name_id in view.store.own_names_in.get(network_id, ()):
        record = view.store.own_names[name_id][owner]
        found.append((record.name, owner, name_id, record))
    for _, owner, _, record in sorted(found, key=lambda one: one[:3]):
        yield OwnName(record, owner, _holder(view, record)[0])


def own_name(view: RegistryView, name_id: OwnNameId) -> OwnNameRecord | None:
    """Return the own name with this id, of the first host that has one, if it counts; None otherwise."""
    owners = view.store.own_names.get(name_id, _NO_NAMES)
    if not owners:
        return None
    owner = min(owners)
    return owners[owner] if _holder(view, owners[owner]) == (owner, name_id) else None


def _holder(view: RegistryView, record: OwnNameRecord) -> tuple[HostId, OwnNameId]:
    return view.store.own_name_holders[record.network_id, record.name]


_NO_NAMES: Mapping[HostId, OwnNameRecord] = {}
_NO_ENDPOINTS: Mapping[EndpointId, EndpointView] = {}


def _addresses(
    view: RegistryView, owner: HostId, record: ExternalServiceRecord, found: ExternalStateRecord | None
) -> Iterator[ExternalAddress]:
    expired_s = found.expired_s if found is not None else None
    hidden = isinstance(record.target, HostProgram) and view.is_host_hidden(owner)
    said = {one.address: one for one in found.states} if found is not None else {}
    for place in sorted(places_of(view, owner, record, found), key=address_key):
        if hidden:
            yield ExternalAddress(place, ExternalState.HIDDEN, reason="its host is away")
        elif expired_s is not None and record.ttl_s is not None:
            reason = f"not renewed within {record.ttl_s} s"
            yield ExternalAddress(place, ExternalState.EXPIRED, expired_s, reason)
        elif not record.checks:
            yield ExternalAddress(place, ExternalState.UP)
        else:
            yield _checked(place, said.get(place.address))


def _checked(place: TargetAddress, said: AddressState | None) -> ExternalAddress:
    if said is None:
        return ExternalAddress(place, ExternalState.STARTING, reason="no check has succeeded yet")
    if said.health.is_answering:
        return ExternalAddress(place, ExternalState.UP, said.since_s)
    state = ExternalState.STARTING if said.health is Health.STARTING else ExternalState.UNHEALTHY
    return ExternalAddress(place, state, said.since_s, said.reason)


def places_of(
    view: RegistryView, owner: HostId, record: ExternalServiceRecord, found: ExternalStateRecord | None
) -> tuple[TargetAddress, ...]:
    """Return where a service is reached, whatever its checks say."""
    match record.target:
        case FixedAddresses(addresses):
            return addresses
        case DnsName(_, port):
            resolution = found.resolution if found is not None else None
            return tuple(TargetAddress(one, port) for one in (resolution.addresses if resolution else ()))
        case HostProgram(port):
            return tuple(TargetAddress(one, port) for one in host_addresses(view, record.network_id, owner))


def added_to(view: RegistryView, network_id: NetworkId) -> set[str]:
    """Return the names of all external services and all own names of a network."""
    names = {one.record.name for one in external_services(view, network_id)}
    return names | {one.record.name for one in own_names(view, network_id)}


def own_programs(view: RegistryView) -> list[ExternalServiceRecord]:
    """Return the external services that are programs of this host, and end with its membership."""
    own = view.records_of(view.local, CLUSTER_SCOPE)
    services = [one for one in own if isinstance(one, ExternalServiceRecord)]
    return [one for one in services if isinstance(one.target, HostProgram)]


def labels_of(record: EndpointRecord) -> tuple[str, ...]:
    """Return the labels by which names lead to an endpoint in its network."""
    return tuple(ranks(record.name, record.service, record.group, record.aliases))


def endpoint_called(view: RegistryView, network_id: NetworkId, label: str) -> EndpointView | None:
    """Return an endpoint of the network that has a label, visible or not; None if there is none."""
    store = view.store
    for table in (
        store.by_service.get((network_id, ServiceKey(label)), _NO_ENDPOINTS),
        store.by_given.get((network_id, label), _NO_ENDPOINTS),
    ):
        for endpoint in table.values():
            return endpoint
    named = store.by_name.get(label, _NO_ENDPOINTS).values()
    return next((one for one in named if one.network_id == network_id), None)


def host_addresses(view: RegistryView, network_id: NetworkId, host_id: HostId) -> tuple[str, ...]:
    """Return the addresses of a host itself in a network made with `--host-access`; none without."""
    network = view.networks.get(network_id)
    own = view.host_addresses(network_id).get(host_id)
    if network is None or own is None or own.offset >= offset_count(network.record.subnets):
        return ()
    return addresses_of(network.record.subnets, own.offset)
