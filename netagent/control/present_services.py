"""Services' own addresses as the dicts that the API returns (netagent.interface.schema). Pure.

Where connections are led to is this host's own matter: each host has its own distances and its own places. So the
answer says what the kernel of the host does that answers.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from netagent.balancing import backends as leading
from netagent.balancing.places import PLACES
from netagent.control.present import Presenter
from netagent.external.view import ExternalService, external_services
from netagent.interface import schema
from netagent.model.ids import EndpointId, HostId, NetworkId
from netagent.model.locality import Balance
from netagent.model.records import ServiceAddressRecord, ServiceKey
from netagent.registry.view import EndpointView, ServiceAddressView
from netgossip.slices import Slices

MAX_NO_BACKENDS: Final = 1000
"""Bound of replicas for which `service inspect` says why connections are led to none of them; beyond it: left out."""


@dataclass(frozen=True, slots=True)
class HostSight:
    """What this host alone knows about backends."""

    places: Callable[[str], Sequence[bytes] | None] = lambda _address: None
    """The backend of each place of the table of an address, in this host's kernel; None: it translates none."""
    rtt_s: Callable[[HostId], float | None] = lambda _host: None


NOTHING_SEEN: Final = HostSight()


def address_parts(
    present: Presenter, network_id: NetworkId, key: ServiceKey, sight: HostSight
) -> Slices[list[schema.ServiceAddress]]:
    """Render the addresses of a service, the one that names lead to first. Costs its replicas."""
    parts = []
    for number, one in enumerate(present.view.service_addresses(network_id).get(key, ())):
        backends = yield from leading.backends_of(present.view, one.record)
        parts.append(_address(present, one, backends, sight, in_names=number == 0))
    return parts


def with_addresses(
    present: Presenter, part: schema.Service, key: ServiceKey, sight: HostSight
) -> Slices[schema.Service]:
    """Return a rendered service with its addresses."""
    addresses = yield from address_parts(present, NetworkId(part["network_id"]), key, sight)
    return {**part, "service_addresses": addresses}


def _address(
    present: Presenter,
    one: ServiceAddressView,
    backends: Sequence[leading.Backend],
    sight: HostSight,
    *,
    in_names: bool,
) -> schema.ServiceAddress:
    record = one.record
    counts = _counts(record, sight)
    shown = [_backend(present, record, each, counts, sight) for each in backends]
    return {
        "addresses": list(record.addresses),
        "owner": present.host_name(one.owner),
        "owner_id": one.owner,
        "origin": record.origin.value,
        "ports": [{"number": port.number, "target": port.target} for port in record.ports],
        "balance": record.balance.value,
        "host_weights": dict(record.host_weights),
        "sticky": record.is_sticky,
        "all_failing": "keep" if record.keeps_failing else "hide",
        "keep_connections": record.keeps_connections,
        "in_names": in_names,
        "backends": sorted(shown, key=lambda each: (-(each["places"] or 0), each["host"], each["name"])),
    }


def _counts(record: ServiceAddressRecord, sight: HostSight) -> dict[int, Counter[bytes]] | None:
    """Return how many places each backend has, by family; None: this host translates none."""
    found = {}
    for address in record.addresses:
        places = sight.places(address)
        if places is not None:
            found[len(ipaddress.ip_address(address).packed)] = Counter(places)
    return found or None


def _backend(
    present: Presenter,
    record: ServiceAddressRecord,
    one: leading.Backend,
    counts: Mapping[int, Counter[bytes]] | None,
    sight: HostSight,
) -> schema.Backend:
    endpoint = present.view.endpoints.get(EndpointId(one.key))
    # With both families it has as many places of the one as of the other, but for the rounding.
    places = (
        None
        if counts is None
        else max((counts[len(a)][a] for a in one.addresses if len(a) in counts), default=0)
    )
    is_here = one.owner == present.view.local
    return {
        "id": one.key,
        "name": record.service.name if endpoint is None else endpoint.record.name,
        "host": "" if one.is_outside else present.host_name(one.owner),
        "host_id": "" if one.is_outside else one.owner,
        "addresses": [str(ipaddress.ip_address(address)) for address in one.addresses],
        "weight": one.weight,
        "places": places,
        "rtt_s": None if one.is_outside or is_here else sight.rtt_s(one.owner),
    }


# -- why not -----------------------------------------------------------------------------------------------------


def no_backends(
    present: Presenter,
    network_id: NetworkId,
    key: ServiceKey,
    shown: schema.ServiceAddress,
) -> Slices[list[schema.NoBackend]]:
    """Say for each replica that this host leads no connections to why that is so. `shown`: the service's address."""
    (one, *_) = present.view.service_addresses(network_id)[key]
    used = {each["id"] for each in shown["backends"] if each["places"] != 0}
    listed = {each["id"]: each for each in shown["backends"]}
    found: list[schema.NoBackend] = []
    for endpoint in present.view.service(network_id, *key).endpoints:
        if endpoint.endpoint_id not in used and len(found) < MAX_NO_BACKENDS:
            reason = (
                _no_place(listed[endpoint.endpoint_id])
                if endpoint.endpoint_id in listed
                else _why_not(present, endpoint, one.record, shown["backends"])
            )
            found.append(
                {"name": endpoint.record.name, "host": present.host_name(endpoint.owner), "reason": reason}
            )
        yield
    if key.group is None:
        for service in external_services(present.view, network_id):
            if service.record.name == key.name:
                found += _external(present, service, one.record, used)
            yield
    return sorted(found, key=lambda each: (each["name"], each["host"]))


def _no_place(backend: schema.Backend) -> str:
    if backend["weight"] == 0:
        return "its weight is 0, and that of others is not"
    return f"there are more replicas than the {PLACES} places of a table, or its share is below one of them"


def _why_not(
    present: Presenter,
    endpoint: EndpointView,
    record: ServiceAddressRecord,
    backends: Sequence[schema.Backend],
) -> str:
    state, reason = present.state(endpoint)
    if state != "up":
        return f"{state}: {reason}" if reason else state
    if reason:  # its host is not reached from here
        return reason
    match record.balance:
        case Balance.NEAREST:
            return "another replica is nearer to this host"
        case Balance.ZONE:
            return "another replica is in the zone of this host, or nearer to it"
        case Balance.FIRST if backends:
            return f"{backends[0]['name']} on {backends[0]['host']} is the first, and it is up"
    return "the table does not have it yet"


def _external(
    present: Presenter, service: ExternalService, record: ServiceAddressRecord, used: Collection[str]
) -> list[schema.NoBackend]:
    """Say it of the addresses of an external service."""
    owner, targets = present.host_name(service.owner), {port.target for port in record.ports}
    found: list[schema.NoBackend] = []
    for one in service.addresses:
        if f"{service.record.service_id}/{one.place.text}" in used:
            continue
        reason = one.reason or one.state.value
        if one.place in service.answering:
            has_port = one.place.port is None or targets <= {one.place.port}
            reason = (
                "a container has the name of the service, or another one comes first"
                if has_port
                else f"connections are led to port {', '.join(map(str, sorted(targets)))}, and it has another"
            )
        found.append({"name": one.place.text, "host": owner, "reason": reason})
    return found
