"""`inspect THING`: what a name, id, address or MAC stands for. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from typing import TypeVar

from netagent.control import schema
from netagent.control.present import Presenter, Sight
from netagent.errors import InputError, NoError
from netagent.model.ids import HostId
from netagent.model.subnet import addresses_of, offset_count
from netagent.registry.view import AgentState, EndpointView, HostView, NetworkView, RegistryView, ServiceView

T = TypeVar("T")
SightOf = Callable[[HostId], Sight]
MIN_ID_DIGITS = 6
"""So many digits of an id stand for it; fewer would often be a word."""


def inspect(present: Presenter, thing: str, sight_of: SightOf) -> schema.Inspection:
    """A name shared by several kinds means the service first, then endpoint, network, host. NoError, InputError."""
    view = present.view
    thing = thing.removesuffix(".").removesuffix("." + present.domain)
    endpoint = _endpoint_by_address(present, thing)
    if endpoint is not None:
        return _endpoint(present, endpoint)
    services = [s for s in view.services() if thing in {s.name, _with_network(present, s)}]
    if services:
        return _service(present, _only(services, thing, [_with_network(present, s) for s in services]))
    endpoints = view.endpoints_named(thing) or _endpoints_at(view, thing)
    if endpoints:
        return _endpoint(present, _only(endpoints, thing, [e.endpoint_id for e in endpoints]))
    network = view.network_named(thing)
    if network is not None:
        return _network(present, network)
    host = view.host_named(thing) or _host_by_address(view, thing) or _host_inside(view, thing)
    if host is not None:
        return _host(present, host, sight_of)
    return _by_id(present, thing, sight_of)


def _by_id(present: Presenter, thing: str, sight_of: SightOf) -> schema.Inspection:
    view = present.view
    found: list[schema.Inspection] = []
    if len(thing) >= MIN_ID_DIGITS:
        every = [*view.endpoints.values(), *view.fenced.values()]
        found += [_endpoint(present, e) for e in every if e.endpoint_id.startswith(thing)]
        found += [_network(present, n) for i, n in view.networks.items() if i.startswith(thing)]
        found += [_host(present, h, sight_of) for i, h in view.hosts.items() if i.startswith(thing)]
    if not found:
        raise NoError(
            f"nothing here is called {thing!r}, or has that address or id",
            thing=thing,
            hint="see `netagent services`, `netagent endpoints`, `netagent network ls`, `netagent members`",
        )
    return _only(found, thing, [str(one["id"]) for one in found])


def _only(found: Iterable[T], thing: str, ids: Iterable[str]) -> T:
    every = list(found)
    if len(every) > 1:
        raise InputError(
            f"{thing!r} is {len(every)} things: {', '.join(sorted(ids))}",
            thing=thing,
            hint="name one of them",
        )
    return every[0]


def _endpoints_at(view: RegistryView, thing: str) -> list[EndpointView]:
    """NAME.HOST.NETWORK, as `attach` prints it."""
    name, _, place = thing.partition(".")
    return [endpoint for endpoint in view.endpoints_named(name) if place and place == _place(view, endpoint)]


def _place(view: RegistryView, endpoint: EndpointView) -> str:
    host, network = view.hosts.get(endpoint.owner), view.networks.get(endpoint.network_id)
    return f"{host.unique_name}.{network.unique_name}" if host is not None and network is not None else ""


def inspect_noted(present: Presenter, endpoint: EndpointView) -> schema.Inspection:
    """What is only noted of an endpoint, because this host was forgotten."""
    return {"kind": "endpoint", **present.noted(endpoint)}


def _endpoint_by_address(present: Presenter, thing: str) -> EndpointView | None:
    if address := _address(thing):
        return present.view.endpoint_by_address(address)
    mac = thing.lower()
    found = [e for e in present.view.endpoints.values() if e.record.mac == mac]
    return found[0] if found else None


def _host_by_address(view: RegistryView, thing: str) -> HostView | None:
    """Of those that were at this underlay address, the one that is; a host that left is there no more."""
    found = [host for host in view.hosts.values() if host.record and host.record.underlay == thing]
    return min(found, key=lambda host: (host.agent is AgentState.LEFT, host.host_id), default=None)


def _host_inside(view: RegistryView, thing: str) -> HostView | None:
    """Who has this address or MAC itself, in a network made with `--host-access`."""
    mac, address = thing.lower(), _address(thing)
    for network in view.networks.values():
        subnets = network.record.subnets
        for host_id, one in view.host_addresses(network.network_id).items():
            is_inside = one.offset < offset_count(subnets)
            if mac == one.mac or (address and is_inside and address in addresses_of(subnets, one.offset)):
                return view.hosts.get(host_id)
    return None


def _address(thing: str) -> str:
    """As it is written everywhere, empty when it is none."""
    try:
        return str(ipaddress.ip_address(thing))
    except ValueError:
        return ""


def _with_network(present: Presenter, service: ServiceView) -> str:
    return present.service(service)["id"]


def _endpoint(present: Presenter, endpoint: EndpointView) -> schema.EndpointInspection:
    return {**present.endpoint(endpoint), "kind": "endpoint"}


def _service(present: Presenter, service: ServiceView) -> schema.ServiceInspection:
    return {
        **present.service(service),
        "kind": "service",
        "endpoints": _endpoints(present, service.endpoints),
    }


def _network(present: Presenter, network: NetworkView) -> schema.NetworkInspection:
    return {
        **present.network(network),
        "kind": "network",
        "endpoints": _endpoints(present, present.view.endpoints_in(network.network_id).values()),
    }


def _host(present: Presenter, host: HostView, sight_of: SightOf) -> schema.HostInspection:
    view = present.view
    networks = [n for n in view.networks.values() if host.host_id in view.attachments(n.network_id)]
    return {
        **present.member(host, sight_of(host.host_id)),
        "kind": "host",
        "networks": sorted(network.unique_name for network in networks),
        "endpoints": _endpoints(present, (e for e in view.endpoints.values() if e.owner == host.host_id)),
    }


def _endpoints(present: Presenter, endpoints: Iterable[EndpointView]) -> list[schema.Endpoint]:
    """In the order of `netagent endpoints`."""
    every = [present.endpoint(endpoint) for endpoint in endpoints]
    return sorted(every, key=lambda one: (one["network"], one["name"], one["host"], one["id"]))
