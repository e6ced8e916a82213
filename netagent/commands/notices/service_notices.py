"""Warnings of `status` about services' own addresses: made twice, leading nowhere, or not led on here. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Final

from netagent.balancing.backends import backends_of
from netagent.checks.all_failing import FailingService
from netagent.control.present import Presenter
from netagent.interface import schema
from netagent.model.ids import NetworkId
from netagent.model.records import ServiceAddressOrigin, ServiceKey
from netagent.registry.view import ServiceAddressView
from netgossip.slices import Slices

SHOWN: Final = 10
"""Services shown one by one; of further ones the notice gives the number."""


def translation_notices(present: Presenter, trouble: str | None, lack: str | None) -> Iterator[schema.Notice]:
    """Warn of a host that leads no connection to a service's address on, if any service has one, or not all."""
    if lack is not None:
        yield {
            "code": "not-translated",
            "message": f"on this host connections to some addresses of services are refused: {lack}; in its "
            "containers names lead to the replicas of these services instead",
            "cure": "if a table is full, remove addresses of services, or their ports with `netagent service set "
            "NAME --port none`; the agent tries again by itself",
        }
    view = present.view
    if trouble is not None and any(view.service_addresses(network_id) for network_id in view.networks):
        yield {
            "code": "not-translated",
            "message": f"this host leads connections to addresses of services nowhere: {trouble}; in its containers "
            "names lead to replicas instead",
            "cure": "remove the cause; the agent tries again by itself",
        }


def service_notices(present: Presenter, failing: Sequence[FailingService]) -> Slices[list[schema.Notice]]:
    """Return one notice for each service, and one for those beyond SHOWN. `failing`: services that another notice
    names already."""
    found: list[schema.Notice] = []
    known = {(one.network_id, one.name) for one in failing}
    for network_id in present.view.networks:
        for key, addresses in present.view.service_addresses(network_id).items():
            if len(addresses) > 1:
                found.append(_twice(present, network_id, key, addresses))
            elif (network_id, _name(key)) not in known and (yield from _leads_nowhere(present, addresses[0])):
                found.append(_nowhere(present, network_id, key))
            yield
    return list(_shortened(found))


def _leads_nowhere(present: Presenter, one: ServiceAddressView) -> Slices[bool]:
    """True if this host knows the replicas of a service, and none is a backend."""
    view, network_id = present.view, one.network_id
    if view.local not in view.attachments(network_id):
        return False
    has_replicas = bool(view.service(network_id, *one.service).endpoints)
    if one.record.origin is not ServiceAddressOrigin.OPERATOR and not has_replicas:
        return False  # it is kept for replicas that return, and goes by itself
    return not (yield from backends_of(view, one.record))


def _twice(
    present: Presenter, network_id: NetworkId, key: ServiceKey, addresses: Sequence[ServiceAddressView]
) -> schema.Notice:
    place = present.network_name(network_id)
    first, *others = addresses
    shown = ", ".join(f"{one.record.addresses[0]} of {present.host_name(one.owner)}" for one in addresses)
    last = others[-1]
    option = f" --group {key.group}" if key.group else ""
    return {
        "code": "service-address-twice",
        "message": f"service {_name(key)} of network {place} has {len(addresses)} addresses, given while hosts could "
        f"not reach each other: {shown}; all of them work, and names lead to {first.record.addresses[0]}",
        "cure": f"once no program uses {last.record.addresses[0]} any more, on {present.host_name(last.owner)} "
        f"`netagent service rm {key.name} --network {place}{option}`",
    }


def _nowhere(present: Presenter, network_id: NetworkId, key: ServiceKey) -> schema.Notice:
    place = present.network_name(network_id)
    return {
        "code": "no-backend",
        "message": f"service {_name(key)} of network {place} has an address and no replica that is up: connections "
        "to it are refused",
        "cure": f"`netagent service inspect {key.name} --network {place}` shows why",
    }


def _name(key: ServiceKey) -> str:
    return f"{key.name}.{key.group}" if key.group else key.name


_MORE: Final = {
    "service-address-twice": "have several addresses",
    "no-backend": "have an address and no replica that is up",
}


def _shortened(found: Collection[schema.Notice]) -> Iterator[schema.Notice]:
    for code, text in _MORE.items():
        same = [one for one in found if one["code"] == code]
        yield from same[:SHOWN]
        if len(same) > SHOWN:
            message = f"{len(same) - SHOWN} services more {text}"
            yield {"code": code, "message": message, "cure": "see `netagent services`"}
