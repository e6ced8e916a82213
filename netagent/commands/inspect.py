"""`inspect THING [--why]`: find what a name, id, address or MAC refers to, and why it is as it is."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final, TypeVar

from netagent.commands.explain_facts import (
    endpoint_with,
    explain_addition,
    explain_endpoints,
    explain_host,
    explain_network,
)
from netagent.commands.handlers import answers
from netagent.commands.notices.missing_networks import not_known, notices
from netagent.commands.presenters import host_sight, overview_of, presenter, sight_of
from netagent.commands.reasons import why as why_of
from netagent.commands.service_facts import sandbox_lines, service_address_lines
from netagent.control.present import Presenter, SightOf
from netagent.control.present_additions import own_name_part, services_of
from netagent.control.present_services import NOTHING_SEEN, HostSight, with_addresses
from netagent.daemon.agent import Agent
from netagent.daemon.cluster import Cluster
from netagent.doctor.explain import WhyReport
from netagent.endpoints.find import fenced_called
from netagent.endpoints.records import noted_endpoint
from netagent.errors import InputError, NotFoundError
from netagent.external.view import OwnName, own_names
from netagent.interface import schema
from netagent.interface.questions import InspectCommand
from netagent.model.ids import EndpointId, HostId, NetworkId
from netagent.model.origin_labels import MIN_ID_DIGITS, is_container
from netagent.model.records import ServiceKey
from netagent.model.subnet import addresses_of, offset_count
from netagent.registry.cluster_overview import ClusterOverview
from netagent.registry.view import AgentState, EndpointView, HostView, NetworkView, RegistryView, ServiceView
from netgossip.slice_runner import in_slices
from netgossip.slices import Slices, merge_sort

T = TypeVar("T")
_LOOKED_AT_PER_SLICE: Final = 512
_MAC: Final = re.compile("[0-9a-f]{2}(:[0-9a-f]{2}){5}")


@answers(InspectCommand)
async def inspect(agent: Agent, request: InspectCommand) -> schema.Inspection:
    """Return everything known of one object. NotFoundError when nothing has the name, FailedError when that cannot be
    known."""
    cluster, thing = agent.member(), request.thing
    overview = await overview_of(cluster, local=request.local)
    present = presenter(cluster, overview)
    try:
        found = await in_slices(inspect_thing(present, thing, sight_of(cluster), host_sight(cluster)))
    except NotFoundError as error:
        row = fenced_called(cluster.live, thing)
        if row is not None:
            found = _inspect_noted(present, noted_endpoint(row, present.view.local))
        elif overview.gaps:
            raise not_known(present, overview.gaps, error.message, thing) from None
        elif request.local:
            raise NotFoundError(
                f"nothing on this host has the name, address or id {thing!r}",
                thing=thing,
                hint="leave out `--local` to ask also hosts of networks that this host is not in",
            ) from None
        else:
            raise
    if found["kind"] != "endpoint" and found["kind"] != "name":
        about = [g for g in overview.gaps if found["kind"] != "network" or g.network_id == found["id"]]
        found["warnings"] = notices(present, about)
    if request.why:
        found["why"] = await _why(cluster, found, present, overview)
    return found


async def _why(
    cluster: Cluster, found: schema.Inspection, present: Presenter, overview: ClusterOverview
) -> schema.Why:
    match found["kind"]:
        case "network":
            explanation = await explain_network(cluster, NetworkId(found["id"]))
        case "host":
            explanation = await explain_host(cluster, HostId(found["id"]))
        case "name":
            explanation = await explain_addition(cluster, present, found)
        case "service" if found.get("external"):
            explanation = await _with_addresses(
                cluster, found, await explain_addition(cluster, present, found)
            )
        case "service":
            ids = [EndpointId(one["id"]) for one in found["endpoints"]]
            explanation = await _explain_endpoints(cluster, ids, present, overview)
            explanation = await _with_addresses(cluster, found, explanation)
        case "endpoint":
            ids = [EndpointId(found["id"])]
            explanation = await _explain_endpoints(cluster, ids, present, overview)
            row = cluster.live.rows.get(ids[0])
            if row is not None:
                explanation = replace(explanation, lines=(*explanation.lines, *sandbox_lines(cluster, row)))
    return why_of(present, explanation)


async def _with_addresses(
    cluster: Cluster, found: schema.ServiceInspection, explanation: WhyReport
) -> WhyReport:
    """Add where the service's own addresses lead, before its replicas."""
    key = ServiceKey(found["name"], found.get("group") or None)
    lines = await service_address_lines(cluster, NetworkId(found["network_id"]), key)
    return replace(explanation, lines=(*lines, *explanation.lines))


async def _explain_endpoints(
    cluster: Cluster, ids: Sequence[EndpointId], present: Presenter, overview: ClusterOverview
) -> WhyReport:
    """Explain the endpoints. Those known only from other members have no objects in this host's kernel; the same
    code reads it."""
    endpoints = [one for endpoint_id in ids for one in endpoint_with(overview.view, endpoint_id)]
    told = overview.view if overview.told_by else None
    return await explain_endpoints(cluster, endpoints, lambda one: present.endpoint(one)["names"], told)


def inspect_thing(
    present: Presenter, thing: str, sight_of: SightOf, sight: HostSight = NOTHING_SEEN
) -> Slices[schema.Inspection]:
    """Return everything known of `thing`, in slices, as there may be ten thousand endpoints. A name shared by several
    kinds means the service first, then endpoint, network, host. Raises NotFoundError, InputError."""
    view = present.view
    thing = thing.removesuffix(".").removesuffix("." + present.domain)
    endpoint = yield from _endpoint_by_address(present, thing)
    if endpoint is not None:
        return _endpoint(present, endpoint)
    own = present.view.service_by_address(_address(thing))
    services = [] if own is None else [present.view.service(own.network_id, *own.service)]
    services = services or services_called(present, thing)
    if services:
        service = _only(services, thing, [present.service_id(s) for s in services])
        return (yield from _service(present, service, sight))
    aliased = _services_with_alias(present, thing)
    if aliased:
        service = _only(aliased, thing, [present.service_id(s) for s in aliased])
        return (yield from _service(present, service, sight, is_alias=True))
    endpoints = view.endpoints_named(thing) or _endpoints_at(view, thing)
    if endpoints:
        return _endpoint(present, _only(endpoints, thing, [e.endpoint_id for e in endpoints]))
    external = _external_called(present, thing)
    if external:
        found = _only(external, thing, [one["id"] for one in external])
        if not any(part["shadowed_by"] for part in found["external"]):
            found = yield from with_addresses(present, found, ServiceKey(found["name"]), sight)
        return {**found, "kind": "service", "endpoints": [], "warnings": []}
    addressed = _services_with_address(present, thing)
    if addressed:
        service = _only(addressed, thing, [present.service_id(s) for s in addressed])
        return (yield from _service(present, service, sight))
    names = [one for n in view.networks for one in own_names(view, n) if _is_own_name(present, one, thing)]
    if names:
        return {"kind": "name", **own_name_part(present, names[0])}
    network = view.network_named(thing)
    if network is not None:
        return (yield from _network(present, network))
    host = view.host_named(thing) or _host_by_address(view, thing) or _host_inside(view, thing)
    if host is not None:
        return (yield from _host(present, host, sight_of))
    return (yield from _by_id(present, thing, sight_of))


def _by_id(present: Presenter, thing: str, sight_of: SightOf) -> Slices[schema.Inspection]:
    view = present.view
    found: list[EndpointView | NetworkView | HostView] = []
    for number, endpoint in enumerate([*view.endpoints.values(), *view.fenced.values()]):
        is_id = len(thing) >= MIN_ID_DIGITS and endpoint.endpoint_id.startswith(thing)
        if is_id or is_container(endpoint.record.labels, thing):
            found.append(endpoint)
        if number % _LOOKED_AT_PER_SLICE == 0:
            yield
    if len(thing) >= MIN_ID_DIGITS:
        found += [n for i, n in view.networks.items() if i.startswith(thing)]
        found += [h for i, h in view.hosts.items() if i.startswith(thing)]
    if not found:
        raise NotFoundError(
            f"nothing has the name, address or id {thing!r}",
            thing=thing,
            hint="see `netagent services`, `netagent endpoints`, `netagent network ls`, `netagent members`",
        )
    match _only(found, thing, map(_id_of, found)):
        case EndpointView() as endpoint:
            return _endpoint(present, endpoint)
        case NetworkView() as network:
            return (yield from _network(present, network))
        case host:
            return (yield from _host(present, host, sight_of))


def _id_of(thing: EndpointView | NetworkView | HostView) -> str:
    match thing:
        case EndpointView():
            return thing.endpoint_id
        case NetworkView():
            return thing.network_id
        case _:
            return thing.host_id


def _only(found: Iterable[T], thing: str, ids: Iterable[str]) -> T:
    every = list(found)
    if len(every) > 1:
        raise InputError(
            f"{thing!r} is ambiguous, {len(every)} objects match: {', '.join(sorted(ids))}",
            thing=thing,
            hint="give one of these",
        )
    return every[0]


def _endpoints_at(view: RegistryView, thing: str) -> list[EndpointView]:
    """Find endpoints by NAME.HOST.NETWORK, as `attach` prints it."""
    name, _, place = thing.partition(".")
    return [endpoint for endpoint in view.endpoints_named(name) if place and place == _place(view, endpoint)]


def _place(view: RegistryView, endpoint: EndpointView) -> str:
    host, network = view.hosts.get(endpoint.owner), view.networks.get(endpoint.network_id)
    return f"{host.unique_name}.{network.unique_name}" if host is not None and network is not None else ""


def _inspect_noted(present: Presenter, endpoint: EndpointView) -> schema.Inspection:
    """Return the note kept of an endpoint that was fenced when this host was evicted."""
    return {"kind": "endpoint", **present.noted(endpoint)}


def _endpoint_by_address(present: Presenter, thing: str) -> Slices[EndpointView | None]:
    if address := _address(thing):
        return present.view.endpoint_by_address(address)
    mac = thing.lower()
    if not _MAC.fullmatch(mac):
        return None
    for number, endpoint in enumerate(present.view.endpoints.values()):
        if endpoint.record.mac == mac:
            return endpoint
        if number % _LOOKED_AT_PER_SLICE == 0:
            yield
    return None


def services_called(present: Presenter, thing: str) -> list[ServiceView]:
    """Find services by NAME, NAME.NETWORK, NAME.GROUP or NAME.GROUP.NETWORK."""
    view = present.view
    found = []
    for network_id in view.store.by_network:
        for text in dict.fromkeys((thing, thing.removesuffix("." + present.network_name(network_id)))):
            name, _, group = text.partition(".")
            keys = {one.record.service_key for one in view.given(network_id, name)}
            keys = {key for key in keys if key.name == name and key.group and group in {"", key.group}}
            found += [view.service(network_id, *key) for key in (ServiceKey(text), *sorted(keys))]
    return [service for service in found if service.endpoints]


def _services_with_address(present: Presenter, thing: str) -> list[ServiceView]:
    """Find services that have an address and no replica, by NAME, NAME.NETWORK, NAME.GROUP or NAME.GROUP.NETWORK."""
    found = []
    for network_id in present.view.networks:
        names = {thing, thing.removesuffix("." + present.network_name(network_id))}
        found += [
            ServiceView(network_id, key.name, (), key.group)
            for key in present.view.service_addresses(network_id)
            if names & {key.name, f"{key.name}.{key.group}"}
        ]
    return found


def _services_with_alias(present: Presenter, thing: str) -> list[ServiceView]:
    """Find endpoints by ALIAS or ALIAS.NETWORK, as one service: DNS answers for an alias in the same way."""
    view = present.view
    found = []
    for network_id in view.store.by_network:
        names = dict.fromkeys((thing, thing.removesuffix("." + present.network_name(network_id))))
        found += [ServiceView(network_id, name, view.given(network_id, name)) for name in names]
    return [service for service in found if service.endpoints]


def _external_called(present: Presenter, thing: str) -> list[schema.Service]:
    """Find external services by NAME, NAME.NETWORK, or the id of an addition."""
    found = []
    for network_id in present.view.networks:
        names = {thing, thing.removesuffix("." + present.network_name(network_id))}
        for service in services_of(present, network_id):
            ids = {part["id"] for part in service["external"]}
            if service["name"] in names or thing in ids:
                found.append(service)
    return found


def _is_own_name(present: Presenter, one: OwnName, thing: str) -> bool:
    name = f"{one.record.name}.{present.network_name(one.record.network_id)}"
    return one.counts and thing in {one.record.name, name}


def _host_by_address(view: RegistryView, thing: str) -> HostView | None:
    """Return the present host at this underlay address; hosts that left do not count."""
    found = [host for host in view.hosts.values() if host.record and host.record.underlay == thing]
    return min(found, key=lambda host: (host.agent is AgentState.LEFT, host.host_id), default=None)


def _host_inside(view: RegistryView, thing: str) -> HostView | None:
    """Return the host that has this address or MAC in a network made with `--host-access`."""
    mac, address = thing.lower(), _address(thing)
    for network in view.networks.values():
        subnets = network.record.subnets
        for host_id, one in view.host_addresses(network.network_id).items():
            is_inside = one.offset < offset_count(subnets)
            if mac == one.mac or (address and is_inside and address in addresses_of(subnets, one.offset)):
                return view.hosts.get(host_id)
    return None


def _address(thing: str) -> str:
    """Return the canonical form of an address; "" if it is not one."""
    try:
        return str(ipaddress.ip_address(thing))
    except ValueError:
        return ""


def _endpoint(present: Presenter, endpoint: EndpointView) -> schema.EndpointInspection:
    return {**present.endpoint(endpoint), "kind": "endpoint"}


def _service(
    present: Presenter, service: ServiceView, sight: HostSight, *, is_alias: bool = False
) -> Slices[schema.ServiceInspection]:
    endpoints = yield from _endpoints(present, service.endpoints)
    part = yield from present.service(service)
    if not is_alias:
        part = yield from with_addresses(present, part, ServiceKey(service.name, service.group), sight)
    found: schema.ServiceInspection = {
        **part,
        "kind": "service",
        "endpoints": endpoints,
        "warnings": [],
    }
    if is_alias:
        found["alias_of"] = sorted({one["service"] for one in endpoints})
    return found


def _network(present: Presenter, network: NetworkView) -> Slices[schema.NetworkInspection]:
    endpoints = yield from _endpoints(present, present.view.endpoints_in(network.network_id).values())
    return {**present.network(network), "kind": "network", "endpoints": endpoints}


def _host(present: Presenter, host: HostView, sight_of: SightOf) -> Slices[schema.HostInspection]:
    view = present.view
    networks = [n for n in view.networks.values() if host.host_id in view.attachments(n.network_id)]
    endpoints = yield from _endpoints(present, view.endpoints_of(host.host_id))
    return {
        **present.member(host, sight_of(host.host_id)),
        "kind": "host",
        "networks": sorted(network.unique_name for network in networks),
        "endpoints": endpoints,
        "warnings": [],
    }


def _endpoints(present: Presenter, endpoints: Iterable[EndpointView]) -> Slices[list[schema.Endpoint]]:
    """Render the endpoints in the order of `netagent endpoints`."""
    every = []
    for endpoint in endpoints:
        every.append(present.endpoint(endpoint))
        yield
    return (yield from merge_sort(every, lambda one: (one["network"], one["name"], one["host"], one["id"])))
