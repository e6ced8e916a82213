"""`endpoints` and `services`: the tables of the cluster."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from itertools import chain
from typing import TypeVar

from netagent.commands.handlers import answers
from netagent.commands.notices.missing_networks import notices
from netagent.commands.notices.name_notices import name_notices
from netagent.commands.presenters import host_sight, overview_of, presenter
from netagent.control.present import Presenter
from netagent.control.present_additions import services_of
from netagent.control.present_services import HostSight, with_addresses
from netagent.daemon.agent import Agent
from netagent.daemon.cluster import Cluster
from netagent.endpoints.find import is_called, may_be_called, network_called
from netagent.endpoints.records import noted_endpoint
from netagent.errors import NotFoundError
from netagent.interface import schema
from netagent.interface.questions import EndpointsCommand, ServicesCommand
from netagent.model.ids import HostId, NetworkId
from netagent.model.records import ServiceKey
from netagent.registry.cluster_overview import ClusterOverview
from netagent.registry.shared_names import SharedName, shared_name
from netagent.registry.view import EndpointView, RegistryView
from netgossip.slice_runner import in_slices
from netgossip.slices import Slices

T = TypeVar("T")
S = TypeVar("S")

ListCommand = EndpointsCommand | ServicesCommand


@answers(EndpointsCommand)
async def endpoints(agent: Agent, request: EndpointsCommand) -> schema.Listing[schema.Endpoint]:
    """Return the endpoints of the cluster."""
    cluster = agent.member()
    overview = await _overview(cluster, request)
    present, view = presenter(cluster, overview), overview.view
    fenced = [noted_endpoint(row, view.local) for row in cluster.live.fenced.values()]
    is_wanted = _filter(view, request)
    found = await in_slices(_each(present.endpoint, _known(view, request), is_wanted))
    found += await in_slices(_each(present.noted, fenced, is_wanted))
    return {"items": found, "warnings": notices(present, overview.gaps)}


@answers(ServicesCommand)
async def services(agent: Agent, request: ServicesCommand) -> schema.Listing[schema.Service]:
    """Return the services of the cluster."""
    cluster = agent.member()
    overview = await _overview(cluster, request)
    present, view = presenter(cluster, overview), overview.view
    keys = await in_slices(_keys(view, request))
    keys += await in_slices(_addressed(view, request, frozenset(keys)))
    sight = host_sight(cluster)
    found = await in_slices(_services(present, view, keys, sight))
    found += await in_slices(_external_services(present, view, request, sight))
    shared = await in_slices(_shared(view, keys))
    return {"items": found, "warnings": [*notices(present, overview.gaps), *name_notices(shared)]}


async def _overview(cluster: Cluster, request: ListCommand) -> ClusterOverview:
    """Return the cluster; if the filter names a network or a host, without asking about other networks."""
    view = cluster.live.view
    network_id, host_id = _places(view, request)
    wanted = {network_id} if network_id else None
    if host_id and wanted is None:
        wanted = {n for n in view.networks if host_id in view.attachments(n)}
    return await overview_of(cluster, wanted, local=request.local)


def _places(view: RegistryView, request: ListCommand) -> tuple[NetworkId | None, HostId | None]:
    """Return the network and the host that a filter names. Raises NotFoundError."""
    network = network_called(view, request.network).network_id if request.network else None
    if not request.host:
        return network, None
    found = view.host_named(request.host)
    host = found.host_id if found else next((h for h in view.hosts if h.startswith(request.host)), None)
    if host is None:
        raise NotFoundError(
            f"there is no host {request.host!r}", thing=request.host, hint="see `netagent members`"
        )
    return network, host


def _filter(view: RegistryView, request: ListCommand) -> Callable[[EndpointView], bool]:
    network, host = _places(view, request)

    def is_wanted(endpoint: EndpointView) -> bool:
        if network not in {None, endpoint.network_id} or host not in {None, endpoint.owner}:
            return False
        return not request.service or is_called(endpoint, request.service)

    return is_wanted


def _each(show: Callable[[T], S], things: Iterable[T], is_wanted: Callable[[T], bool]) -> Slices[list[S]]:
    """Render each as a list, in slices: there may be ten thousand."""
    shown = []
    for thing in things:
        if is_wanted(thing):
            shown.append(show(thing))
        yield
    return shown


def _services(
    present: Presenter, view: RegistryView, keys: Iterable[tuple[NetworkId, ServiceKey]], sight: HostSight
) -> Slices[list[schema.Service]]:
    shown = []
    for network_id, key in keys:
        part = yield from present.service(view.service(network_id, *key))
        shown.append((yield from with_addresses(present, part, key, sight)))
        yield
    return shown


def _addressed(
    view: RegistryView, request: ServicesCommand, known: Collection[tuple[NetworkId, ServiceKey]]
) -> Slices[list[tuple[NetworkId, ServiceKey]]]:
    """Return the services that have an address of their own and nothing else: no replica, and nothing was added."""
    network_id, host_id = _places(view, request)
    found: list[tuple[NetworkId, ServiceKey]] = []
    if host_id is not None:
        return found
    for one in view.networks if network_id is None else [network_id]:
        for key in view.service_addresses(one):
            is_wanted = request.service in {"", key.name, f"{key.name}.{key.group}"}
            is_added = key.group is None and (one, key.name) in view.store.services_called
            has_replicas = (one, key) in view.store.by_service
            if is_wanted and (one, key) not in known and not is_added and not has_replicas:
                found.append((one, key))
            yield
    return found


def _shared(view: RegistryView, keys: Iterable[tuple[NetworkId, ServiceKey]]) -> Slices[list[SharedName]]:
    """Return the names of the services that several groups have."""
    found = []
    for network_id, label in dict.fromkeys((network_id, key.name) for network_id, key in keys if key.group):
        one = shared_name(view, network_id, label)
        if one is not None and not one.losers:
            found.append(one)
        yield
    return sorted(found)


def _keys(view: RegistryView, request: ServicesCommand) -> Slices[list[tuple[NetworkId, ServiceKey]]]:
    """Return the services of the endpoints that the filter selects."""
    network_id, host_id = _places(view, request)
    if not request.service and host_id is None:  # they need no look at each endpoint
        known = [one for one in view.store.by_service if network_id in {None, one[0]}]
        fenced = (one for one in view.fenced.values() if network_id in {None, one.network_id})
        yield
        return list(dict.fromkeys([*known, *map(_service_of, fenced)]))
    found = yield from _each(_service_of, _known(view, request), _filter(view, request))
    return list(dict.fromkeys(found))


def _service_of(endpoint: EndpointView) -> tuple[NetworkId, ServiceKey]:
    return endpoint.network_id, endpoint.record.service_key


def _external_services(
    present: Presenter, view: RegistryView, request: ListCommand, sight: HostSight
) -> Slices[list[schema.Service]]:
    """Render the services that are no containers: their records are on each host."""
    network_id, host_id = _places(view, request)
    shown = []
    for one in view.networks if network_id is None else [network_id]:
        for service in services_of(present, one):
            owners = {part["owner_id"] for part in service["external"]}
            is_wanted = request.service in {"", service["name"]}
            if is_wanted and (host_id is None or host_id in owners):
                is_shadowed = any(part["shadowed_by"] for part in service["external"])
                key = ServiceKey(service["name"])
                shown.append(
                    service if is_shadowed else (yield from with_addresses(present, service, key, sight))
                )
        yield
    return shown


def _known(view: RegistryView, request: ListCommand) -> Iterable[EndpointView]:
    """Return the endpoints that the filter may select, by the index that has the fewest, and all that are fenced."""
    network_id, host_id = _places(view, request)
    found: Iterable[EndpointView] = view.endpoints.values()
    if request.service:
        found = {one.endpoint_id: one for one in may_be_called(view, request.service)}.values()
    elif host_id is not None:
        found = view.endpoints_of(host_id)
    elif network_id is not None:
        found = view.endpoints_in(network_id).values()
    return chain(found, view.fenced.values())
