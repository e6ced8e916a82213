"""External services and own names as the dicts that the API returns (netagent.interface.schema). Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from netagent.control.present import MAX_NOT_UP, Presenter
from netagent.external.turns import asking_host, stand_in
from netagent.external.view import (
    ExternalAddress,
    ExternalService,
    ExternalState,
    OwnName,
    endpoint_called,
    external_services,
    own_names,
)
from netagent.interface import schema
from netagent.model.ids import HostId, NetworkId
from netagent.model.records import DnsName, FixedAddresses, NameAlias, NameData, Port
from netagent.registry.external_fields import address_key
from netagent.registry.views import EndpointView
from netgossip.slices import Slices

MONTH_S: Final = 30 * 86_400
MAX_NOTICES: Final = 10
"""Warnings about additions that are shown one by one; of further ones there is the number."""


def services_of(present: Presenter, network_id: NetworkId) -> list[schema.Service]:
    """Render the external services of a network, by name."""
    named: dict[str, list[ExternalService]] = {}
    for service in external_services(present.view, network_id):
        named.setdefault(service.record.name, []).append(service)
    instead = stand_in(present.view)
    return [service_part(present, some, instead) for _, some in sorted(named.items())]


def service_part(
    present: Presenter, services: Sequence[ExternalService], instead: HostId | None
) -> schema.Service:
    """Render the external services of one name in one network. `instead`: the host that asks for owners that are
    away."""
    record = services[0].record
    network = present.network_name(record.network_id)
    parts = [external_part(present, one, instead) for one in services]
    holder = endpoint_called(present.view, record.network_id, record.name)
    answering = () if holder else {place for one in services for place in one.answering}
    places = {one.place for service in services for one in service.addresses}
    ports = {port for one in services for port in one.record.ports}
    ports |= {Port(str(place.port), place.port) for place in places if place.port is not None}
    return {
        # A container's service of the same name has the plain id.
        "id": f"{record.name}.{network}" + ("/external" if holder else ""),
        "name": record.name,
        "network": network,
        "network_id": record.network_id,
        "fqdn": f"{record.name}.{network}.{present.domain}",
        "endpoint_count": len(places),
        "answering": len(answering),
        "unreached": 0,
        "drained": 0,
        "addresses": list(dict.fromkeys(one.address for one in sorted(answering, key=address_key))),
        "hosts": sorted({present.host_name(one.owner) for one in services}),
        "ports": [
            {"name": port.name, "number": port.number, "protocol": port.protocol}
            for port in sorted(ports, key=lambda p: (p.name, p.number, p.protocol))
        ],
        "aliases": [],
        "not_up": _not_up(present, services, holder),
        "source": "own" if all(one.owner == present.view.local for one in services) else "replicated",
        "told_by": [],
        "external": parts,
    }


def _not_up(
    present: Presenter, services: Sequence[ExternalService], holder: EndpointView | None
) -> list[str]:
    """Return why names lead to fewer addresses than were added."""
    if holder is not None:
        return [f"container {holder.record.name} on {present.host_name(holder.owner)} has the name"]
    found: list[str] = []
    for one in services:
        is_late = one.found is not None and one.found.expired_s is not None
        found += [f"not renewed within {one.record.ttl_s} s"] if is_late else one.shortcomings
    return found[:MAX_NOT_UP]


def external_part(
    present: Presenter, service: ExternalService, instead: HostId | None
) -> schema.ExternalPart:
    """Render one addition. `instead`: the host that asks for owners that are away."""
    record, view, target = service.record, present.view, service.record.target
    asking = asking_host(view, service, instead)
    holder = endpoint_called(view, record.network_id, record.name)
    shown = {one.place.text for one in service.addresses}
    whole = [text for text in service.shortcomings if text.partition(": ")[0] not in shown]
    return {
        "id": record.service_id,
        "owner": present.host_name(service.owner),
        "owner_id": service.owner,
        "kind": "name"
        if isinstance(target, DnsName)
        else "address"
        if isinstance(target, FixedAddresses)
        else "host-port",
        "dns_name": target.name if isinstance(target, DnsName) else "",
        "ports": [
            {"name": port.name, "number": port.number, "protocol": port.protocol} for port in record.ports
        ],
        "weight": record.weight,
        "checks": list(record.checks),
        "ttl_s": record.ttl_s,
        "added_at": _time(record.added_s),
        "added_by": record.added_by,
        "asked_by": "" if asking is None else present.host_name(asking),
        "addresses": [_address(one) for one in service.addresses],
        "reason": "; ".join(whole),
        "shadowed_by": "" if holder is None else holder.record.name,
    }


def own_name_part(present: Presenter, one: OwnName) -> schema.OwnName:
    """Render an own name."""
    record, view = one.record, present.view
    network = present.network_name(record.network_id)
    holder = endpoint_called(view, record.network_id, record.name)
    reason = "" if one.counts else f"the name that {present.host_name(one.holder)} has added counts"
    if holder is not None:
        reason = f"container {holder.record.name} has the name"
    match record.value:
        case NameAlias(place, name):
            cname, data = f"{name}.{present.network_name(place)}.{present.domain}", NameData()
        case NameData() as data:
            cname = ""
    return {
        "id": record.name_id,
        "name": f"{record.name}.{network}",
        "network": network,
        "network_id": record.network_id,
        "fqdn": f"{record.name}.{network}.{present.domain}",
        "cname": cname,
        "addresses": list(data.addresses),
        "texts": list(data.texts),
        "owner": present.host_name(one.owner),
        "owner_id": one.owner,
        "added_at": _time(record.added_s),
        "added_by": record.added_by,
        "state": "shadowed" if reason else "up",
        "reason": reason,
    }


def addition_notices(present: Presenter, now_s: int) -> Slices[list[schema.Notice]]:
    """Warn of what operators added and what does not lead where they meant. Any host knows all of it."""
    found: list[schema.Notice] = []
    for network_id in present.view.networks:
        for service in external_services(present.view, network_id):
            found += _service_notices(present, service, now_s)
            yield
        for name in own_names(present.view, network_id):
            yield
            part = own_name_part(present, name)
            if part["reason"]:
                found.append(
                    {
                        "code": "name-shadowed",
                        "message": f"the name {part['name']}, added on {part['owner']}, leads nowhere: "
                        f"{part['reason']}",
                        "cure": f"on {part['owner']} `netagent name rm {part['name']}`, or rename the container",
                    }
                )
    more = len(found) - MAX_NOTICES
    if more > 0:
        found = found[:MAX_NOTICES]
        found.append(
            {
                "code": "name-shadowed",
                "message": f"{more} more external services or names do not lead where they should",
                "cure": "see `netagent services` and `netagent name ls`",
            }
        )
    return found


def _service_notices(present: Presenter, service: ExternalService, now_s: int) -> Iterator[schema.Notice]:
    part = external_part(present, service, None)
    record = service.record
    name = f"{record.name}.{present.network_name(record.network_id)}"
    remove = f"on {part['owner']} `netagent service rm {name}`"
    if part["shadowed_by"]:
        yield {
            "code": "name-shadowed",
            "message": f"external service {name}, added on {part['owner']}, is in no answer: container "
            f"{part['shadowed_by']} has the name",
            "cure": f"{remove}, or rename the container",
        }
    elif service.found is not None and service.found.expired_s is not None:
        yield {
            "code": "external-expired",
            "message": f"external service {name} is in no answer: not renewed within {record.ttl_s} s, since "
            f"{_time(service.found.expired_s)}",
            "cure": f"repeat its `netagent service add` on {part['owner']}, or {remove}",
        }
    elif record.is_watched and not service.answering:
        yield {
            "code": "external-down",
            "message": f"external service {name} is in no answer: {'; '.join(service.shortcomings[:3])}",
            "cure": f"`netagent inspect` shows what its checks say; if it is gone for good, {remove}",
        }
    elif not record.is_watched and now_s - record.added_s > MONTH_S:
        yield {
            "code": "external-unchecked",
            "message": f"external service {name} was added on {part['owner']} by {record.added_by} "
            f"{(now_s - record.added_s) // 86_400} days ago, and nothing checks whether it is still there",
            "cure": f"{remove}, and add it again with --check or --ttl if it is",
        }


def _address(one: ExternalAddress) -> schema.ExternalAddress:
    return {
        "address": one.place.address,
        "port": one.place.port,
        "state": _WORDS[one.state],
        "since": "" if one.since_s is None else _time(one.since_s),
        "reason": one.reason,
    }


_WORDS: dict[ExternalState, schema.ExternalWord] = {
    ExternalState.UP: "up",
    ExternalState.STARTING: "starting",
    ExternalState.UNHEALTHY: "unhealthy",
    ExternalState.EXPIRED: "expired",
    ExternalState.HIDDEN: "hidden",
}


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
