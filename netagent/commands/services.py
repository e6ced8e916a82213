"""Commands of services: addresses of their own, and services that are no containers."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence

from netagent.commands.handlers import answers
from netagent.commands.inspect import services_called
from netagent.commands.notices.missing_networks import notices
from netagent.commands.presenters import host_sight, overview_of, presenter
from netagent.control.addition_parsing import service_request
from netagent.control.present import Presenter
from netagent.control.present_additions import service_part
from netagent.control.present_services import HostSight, no_backends, with_addresses
from netagent.control.service_parsing import (
    service_address_change,
    service_address_request,
)
from netagent.daemon.agent import Agent
from netagent.daemon.cluster import Cluster
from netagent.endpoints.find import network_called
from netagent.errors import InputError, NotFoundError
from netagent.external.turns import stand_in
from netagent.external.view import ExternalService, endpoint_called, external_services
from netagent.interface import additions as adding
from netagent.interface import schema
from netagent.interface import services as asked
from netagent.model.author import current_author
from netagent.model.ids import NetworkId
from netagent.model.records import FixedAddresses, ServiceKey
from netagent.registry.view import NetworkView, RegistryView
from netgossip.slice_runner import in_slices
from netgossip.slices import Slices

# -- addresses ---------------------------------------------------------------------------------------------------


@answers(asked.ServiceCreateCommand)
async def create(agent: Agent, request: asked.ServiceCreateCommand) -> schema.ServiceCreated:
    """Give a service an address of its own. Repeating the request changes nothing."""
    cluster = agent.member()
    wanted = service_address_request(request)
    network = network_called(cluster.live.view, request.network)
    refuse_unknown_hosts(cluster.live.view, dict(wanted.host_weights))
    created = await cluster.service_addresses.create(network, wanted)
    return await _given(cluster, network, wanted.service, created=created)


@answers(asked.ServiceSetCommand)
async def change(agent: Agent, request: asked.ServiceSetCommand) -> schema.ServiceCreated:
    """Change the options of a service's address; those that are not given stay."""
    cluster = agent.member()
    wanted = service_address_change(request)
    present = presenter(cluster)
    network, key = _one_called(present, request, _with_address(present))
    # A weight of a host that has left can be taken away.
    addresses = present.view.service_addresses(network.network_id)[key]
    known = {host for one in addresses for host, _ in one.record.host_weights}
    given = [host for host, weight in wanted.host_weights or () if weight is not None or host not in known]
    refuse_unknown_hosts(present.view, given)
    await cluster.service_addresses.set(network, key, wanted)
    return await _given(cluster, network, key, created=False)


async def _given(
    cluster: Cluster, network: NetworkView, key: ServiceKey, *, created: bool
) -> schema.ServiceCreated:
    # Or the answer would show the places before the change, and the next command might use another address.
    await cluster.endpoints.context.settle()
    present, sight = presenter(cluster), host_sight(cluster)
    found = await in_slices(_service(present, network.network_id, key, sight))
    return {**found, "created": created, "warnings": _shortcomings(found)}


def _shortcomings(service: schema.Service) -> list[schema.Notice]:
    """Say what the creator of an address may not expect of it."""
    found: list[schema.Notice] = []
    if not any(one["backends"] for one in service["service_addresses"]):
        name, place, group = service["name"], service["network"], service["group"]
        option = f" --group {group}" if group else ""
        found.append(
            {
                "code": "no-backend",
                "message": f"service {'.'.join(filter(None, (name, group)))} of network {place} has no replica that "
                "is up, so connections to its address are refused",
                "cure": f"see `netagent service inspect {name} --network {place}{option}`",
            }
        )
    return found


@answers(asked.ServiceInspectCommand)
async def inspect(agent: Agent, request: asked.ServiceInspectCommand) -> schema.ServiceDescription:
    """Return a service, where its address leads to, and why it leads to no other replica."""
    cluster = agent.member()
    overview = await overview_of(cluster)
    present, sight = presenter(cluster, overview), host_sight(cluster)
    network, key = _one_called(present, request, _with_anything(present, request.service))
    found = await in_slices(_service(present, network.network_id, key, sight))
    others: list[schema.NoBackend] = []
    if found["service_addresses"]:
        others = await in_slices(no_backends(present, network.network_id, key, found["service_addresses"][0]))
    gaps = [gap for gap in overview.gaps if gap.network_id == network.network_id]
    return {**found, "no_backends": others, "warnings": notices(present, gaps)}


def _service(
    present: Presenter, network_id: NetworkId, key: ServiceKey, sight: HostSight
) -> Slices[schema.Service]:
    """Render a service as `netagent services` does; one of no containers if there are none of that name."""
    service = present.view.service(network_id, *key)
    if not service.endpoints and key.group is None:
        added = [one for one in external_services(present.view, network_id) if one.record.name == key.name]
        if added and endpoint_called(present.view, network_id, key.name) is None:
            part = service_part(present, added, stand_in(present.view))
            return (yield from with_addresses(present, part, key, sight))
    return (yield from with_addresses(present, (yield from present.service(service)), key, sight))


def refuse_unknown_hosts(view: RegistryView, names: Iterable[str]) -> None:
    """Raise NotFoundError for a name that no host has."""
    for name in names:
        if view.host_named(name) is None:
            raise NotFoundError(f"there is no host {name!r}", thing=name, hint="see `netagent members`")


# -- which service is meant --------------------------------------------------------------------------------------

Place = tuple[NetworkView, ServiceKey]


def _with_address(present: Presenter) -> Iterator[Place]:
    for network in present.view.networks.values():
        for key in present.view.service_addresses(network.network_id):
            yield network, key


def _with_addition(present: Presenter) -> Iterator[Place]:
    for network in present.view.networks.values():
        for one in external_services(present.view, network.network_id):
            yield network, ServiceKey(one.record.name)


def _with_anything(present: Presenter, text: str) -> Iterator[Place]:
    yield from _with_address(present)
    yield from _with_addition(present)
    networks = present.view.networks
    for service in services_called(present, _plain(present, text)):
        if service.network_id in networks:
            yield networks[service.network_id], ServiceKey(service.name, service.group)


def _plain(present: Presenter, text: str) -> str:
    return text.lower().removesuffix(".").removesuffix("." + present.domain)


def _called(
    present: Presenter,
    request: asked.ServiceSetCommand | asked.ServiceRemoveCommand | asked.ServiceInspectCommand,
    places: Iterable[Place],
    *,
    is_meant: bool = False,
) -> list[Place]:
    """Return the services that a request may mean. One of no group comes before those of groups. `is_meant`: whatever
    they are called."""
    chosen = network_called(present.view, request.network).network_id if request.network else None
    plain = _plain(present, request.service)
    found: dict[tuple[NetworkId, ServiceKey], Place] = {}
    for network, key in places:
        spelled = {key.name, f"{key.name}.{key.group}"} if key.group else {key.name}
        spelled |= {f"{one}.{network.unique_name}" for one in spelled}
        is_group = not request.group or key.group == request.group
        if (is_meant or plain in spelled) and is_group and chosen in {None, network.network_id}:
            found[network.network_id, key] = network, key
    without = [place for place in found.values() if place[1].group is None]
    return without or list(found.values())


def _one_called(
    present: Presenter,
    request: asked.ServiceSetCommand | asked.ServiceInspectCommand,
    places: Iterable[Place],
) -> Place:
    """Return the one service that a request means, by a name or by an address of its own. Raises NotFoundError,
    InputError."""
    own = _with_own_address(present, request.service)
    found = _called(present, request, own or places, is_meant=bool(own))
    if not found:
        what = "service" if isinstance(request, asked.ServiceInspectCommand) else "service with an address"
        raise NotFoundError(
            f"there is no {what} {request.service!r}",
            code="no-such-service",
            thing=request.service,
            hint="see `netagent services`; `netagent service create` gives a service an address",
        )
    return _only(request.service, found)


def _with_own_address(present: Presenter, text: str) -> list[Place]:
    try:
        address = str(ipaddress.ip_address(text))
    except ValueError:
        return []
    found = present.view.service_by_address(address)
    network = None if found is None else present.view.networks.get(found.network_id)
    return [] if found is None or network is None else [(network, found.service)]


def _only(text: str, found: Sequence[Place]) -> Place:
    if len(found) > 1:
        names = ", ".join(sorted(_spelled(*place) for place in found))
        raise InputError(
            f"{text!r} is ambiguous: {names}", thing=text, hint="give --network, --group or one of these"
        )
    return found[0]


def _spelled(network: NetworkView, key: ServiceKey) -> str:
    return (
        f"{key.name}.{key.group}.{network.unique_name}" if key.group else f"{key.name}.{network.unique_name}"
    )


# -- remove ------------------------------------------------------------------------------------------------------


@answers(asked.ServiceRemoveCommand)
async def remove(agent: Agent, request: asked.ServiceRemoveCommand) -> schema.ServiceRemoved:
    """Remove a service's address, and what was added to it, as far as this host gave or added it."""
    cluster = agent.member()
    present = presenter(cluster)
    added = _added_called(present, request)
    addressed = _called(present, request, _with_address(present))
    if not added and not addressed:
        raise NotFoundError(
            f"{request.service!r} is neither a service with an address nor an external service",
            code="no-such-service",
            thing=request.service,
            hint="see `netagent services`; `netagent detach` removes a container from its service",
        )
    network, key = _only(request.service, list(dict.fromkeys([*addressed, *added])))
    view, local = present.view, present.view.local
    addresses = view.service_addresses(network.network_id).get(key, ()) if addressed else ()
    additions = [one for one in external_services(view, network.network_id) if one.record.name == key.name]
    has_own_address = any(one.owner == local for one in addresses)
    has_own_addition = bool(added) and any(one.owner == local for one in additions)
    taken: list[str] = []
    removed = 0
    if addresses and (has_own_address or not has_own_addition):
        gone = await cluster.service_addresses.remove(network, key)
        taken = [address for record in gone for address in record.addresses]
        await cluster.endpoints.context.settle()
    if added and (has_own_addition or not has_own_address):
        name = (
            request.service if request.service in {one.record.service_id for one in additions} else key.name
        )
        removed = await cluster.additions.remove_service(network, name)
    return {
        "name": key.name,
        "network": network.unique_name,
        "removed": removed,
        "addresses": taken,
        "group": key.group or "",
    }


def _added_called(present: Presenter, request: asked.ServiceRemoveCommand) -> list[Place]:
    """Return the external services that a request may mean, also by the id of an addition."""
    if request.group:
        return []
    for network in present.view.networks.values():
        for one in external_services(present.view, network.network_id):
            if one.record.service_id == request.service:
                return [(network, ServiceKey(one.record.name))]
    return _called(present, request, _with_addition(present))


# -- services that are no containers -----------------------------------------------------------------------------


@answers(adding.ServiceAddCommand)
async def add_service(agent: Agent, request: adding.ServiceAddCommand) -> schema.ServiceAdded:
    """Add an external service. Repeating the request renews it."""
    cluster = agent.member()
    wanted = service_request(request, cluster.keys.domain)
    network = network_called(cluster.live.view, request.network)
    added, created = await cluster.additions.add_service(network, wanted, current_author().account)
    present = presenter(cluster)
    named = [
        one
        for one in external_services(present.view, network.network_id)
        if one.record.name == added.record.name
    ]
    warnings = _unreachable(present, added)
    return {
        **service_part(present, named or [added], stand_in(present.view)),
        "created": created,
        "warnings": warnings,
    }


def _unreachable(present: Presenter, service: ExternalService) -> list[schema.Notice]:
    """Warn of addresses that containers of some hosts cannot reach: a host admits none of its own."""
    if not isinstance(service.record.target, FixedAddresses):
        return []
    given = {one.address for one in service.record.target.addresses}
    hosts = {host.address: host for host in present.view.hosts.values() if host.address in given}
    return [
        {
            "code": "address-of-host",
            "message": f"{address} is host {host.unique_name} itself: its own containers cannot reach it",
            "cure": "use --host-port there, in a network created with --host-access; or run the program in a "
            "container",
        }
        for address, host in sorted(hosts.items())
    ]
