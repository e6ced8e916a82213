"""Commands of networks and of what operators add to them; which host owns and uses how much of a network's space.

Every host knows the ownership, because every host has the grants. Use is known only on hosts in the network, which
have its endpoints; elsewhere it is None, not 0. Addresses of hosts themselves (`--host-access`) count as in use, like
those of endpoints. Addresses of other hosts that cool down after a release count as free: their hosts also hand
them out before they refuse an endpoint.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network

from netagent.commands.handlers import answers
from netagent.commands.presenters import overview_of, presenter
from netagent.control.addition_parsing import check_own_name, own_name_request
from netagent.control.present import Presenter
from netagent.control.present_additions import own_name_part
from netagent.control.request_parsing import network_changes, network_request
from netagent.daemon.agent import Agent
from netagent.daemon.cluster import Cluster
from netagent.endpoints.find import network_called
from netagent.endpoints.network_defaults import shortcoming
from netagent.errors import InputError
from netagent.external.view import OwnName, own_names
from netagent.interface import additions as adding
from netagent.interface import containers as asked
from netagent.interface import schema
from netagent.ipam.space import AddressSpace, Range, usable_count
from netagent.model.author import current_author
from netagent.model.ids import HostId, NetworkId
from netagent.model.subnet import parse_subnet
from netagent.registry.view import AgentState, NetworkView
from netgossip.slice_runner import in_slices
from netgossip.slices import Slices


@answers(asked.NetworkCreateCommand)
async def create(agent: Agent, request: asked.NetworkCreateCommand) -> schema.Network:
    """Create a network, or return the existing one."""
    wanted, cluster = network_request(request), agent.member()
    network, created = await cluster.networks.create(wanted)
    await agent.runtimes.wait_mirrored(network.network_id)
    found = shortcoming(network.record)
    warnings: list[schema.Notice] = (
        [] if found is None else [{"code": "ipv4-only", "message": found[0], "cure": found[1]}]
    )
    return {**presenter(cluster).network(network), "created": created, "warnings": warnings}


@answers(asked.NetworkSetCommand)
async def change(agent: Agent, request: asked.NetworkSetCommand) -> schema.ChangedNetwork:
    """Set options of a network, for all hosts. Repeating the request changes nothing."""
    wanted, cluster = network_changes(request), agent.member()
    done = await cluster.networks.set(request.network, wanted, current_author().account)
    # Or the next command on this host would still meet the kernel and the names from before.
    await cluster.endpoints.context.settle()
    present = presenter(cluster)
    return {
        **present.network(done.network),
        "changed": [
            {"option": option.value, "value": wanted[option], "former": value}
            for option, value in done.former.items()
        ],
        "unheard": sorted(map(present.host_name, done.unheard)),
    }


@answers(asked.NetworkListCommand)
async def list_all(agent: Agent, request: asked.NetworkListCommand) -> schema.Listing[schema.Network]:
    """Return all networks, and how much of each every host owns."""
    cluster = agent.member()
    overview = await overview_of(cluster)
    present = presenter(cluster, overview)
    networks = overview.view.networks.items()
    shown = [one for name, one in networks if request.within is None or name in request.within]
    # All spaces before the first pause: during one, a network may be removed.
    spaces = [cluster.allocator.space(network.network_id) for network in shown]
    return {
        "items": [
            await _with_use(present, network, space) for network, space in zip(shown, spaces, strict=True)
        ]
    }


@answers(asked.NetworkInspectCommand)
async def inspect(agent: Agent, request: asked.NetworkInspectCommand) -> schema.Network:
    """Return one network. If this host is not in it, hosts that are in it supply the number of endpoints."""
    cluster = agent.member()
    network_id = network_called(cluster.live.view, request.network).network_id
    overview = await overview_of(cluster, {network_id})
    found = network_called(overview.view, network_id)  # it may have been removed while we asked other hosts
    own, space = _own_space(cluster, network_id), cluster.allocator.space(network_id)
    return {**await _with_use(presenter(cluster, overview), found, space), "space": own}


async def _with_use(present: Presenter, network: NetworkView, space: AddressSpace) -> schema.Network:
    is_known = network.network_id not in present.unknown
    use = await in_slices(space_use(present, network, space, is_known=is_known))
    return {**present.network(network), "use": use}


def _own_space(cluster: Cluster, network_id: NetworkId) -> schema.Space:
    allocator, view = cluster.allocator, cluster.live.view
    free, owned = allocator.free_count(network_id)
    cooling = allocator.cooling_count(network_id)
    used = sum(1 for row in cluster.live.rows.values() if row.network_id == network_id)
    used += view.local in view.host_addresses(network_id)
    return {"owned": owned, "used": used, "free": free - cooling, "cooling": cooling}


@answers(asked.NetworkRemoveCommand)
async def remove(agent: Agent, request: asked.NetworkRemoveCommand) -> schema.NetworkRemoved:
    """Remove a network for good."""
    cluster = agent.member()
    found = network_called(cluster.live.view, request.network)
    mine = [row for row in cluster.live.rows.values() if row.network_id == found.network_id]
    removed = await cluster.networks.remove(request.network, force=request.force)
    for row in mine:
        await cluster.endpoints.remove(row)
    return {"id": removed.network_id, "name": removed.unique_name, "detached": len(mine)}


@answers(asked.NetworkPruneCommand)
async def prune(agent: Agent, _request: asked.NetworkPruneCommand) -> schema.Listing[schema.NetworkRemoved]:
    """Remove all networks that have no endpoints."""
    removed = await agent.member().networks.prune()
    return {"items": [{"id": one.network_id, "name": one.unique_name, "detached": 0} for one in removed]}


def space_use(
    present: Presenter, network: NetworkView, space: AddressSpace, *, is_known: bool
) -> Slices[schema.SpaceUse]:
    """Return all owners, the largest first. `is_known`: the view has the network's endpoints."""
    view = present.view
    owned, runs = space.usable_counts(), _runs(space)
    used: Counter[HostId] = Counter()
    for endpoint in view.endpoints_in(network.network_id).values():
        used[endpoint.owner] += 1
        yield
    used.update(view.host_addresses(network.network_id).keys())
    hosts = sorted(owned.keys() | used.keys(), key=lambda host: (-owned.get(host, 0), host))
    first = parse_subnet(network.record.subnets[0])
    shares: list[schema.SpaceShare] = []
    for host in hosts:
        if owned.get(host) or used[host]:
            ranges = [_range(first, *one) for one in runs.get(host, ())]
            shares.append(_share(present, host, owned.get(host, 0), used[host] if is_known else None, ranges))
        yield
    total = usable_count(Range(0, space.count - 1), space.count)
    return {
        "total": total,
        "used": used.total() if is_known else None,
        "free": _sum(one["free"] for one in shares),
        "away": _sum(one["free"] for one in shares if one["agent"] not in ("alive", "suspect")),
        "unowned": total - sum(owned.values()),
        "owners": shares,
    }


def _share(
    present: Presenter, host_id: HostId, owned: int, used: int | None, ranges: list[str]
) -> schema.SpaceShare:
    host = present.view.hosts.get(host_id)
    is_here = host_id == present.view.local
    agent = AgentState.ALIVE if is_here else AgentState.UNKNOWN if host is None else host.agent
    return {
        "host": present.host_name(host_id),
        "host_id": host_id,
        "agent": agent.value,
        "owned": owned,
        "used": used,
        "free": None if used is None else max(0, owned - used),
        "ranges": ranges,
    }


def _sum(numbers: Iterable[int | None]) -> int | None:
    """Return the sum; None when one number is not known."""
    total = 0
    for number in numbers:
        if number is None:
            return None
        total += number
    return total


def _runs(space: AddressSpace) -> dict[HostId, list[tuple[int, int]]]:
    """Return the first and last usable offset of each range, by owner; adjacent ranges are joined, whatever their
    hops."""
    runs: dict[HostId, list[tuple[int, int]]] = {}
    for held, owner in space.ranges:
        first, last = max(held.first, 2), min(held.last, space.count - 2)
        if first > last:
            continue
        own = runs.setdefault(owner, [])
        if own and own[-1][1] + 1 == first:
            own[-1] = own[-1][0], last
        else:
            own.append((first, last))
    return runs


def _range(subnet: IPv4Network | IPv6Network, first: int, last: int) -> str:
    """Format a range in addresses of the first subnet; those of the other family follow from them."""
    return " - ".join(str(subnet[offset]) for offset in dict.fromkeys((first, last)))


# -- own names ---------------------------------------------------------------------------------------------------


@answers(adding.NameAddCommand)
async def add_name(agent: Agent, request: adding.NameAddCommand) -> schema.OwnName:
    """Add a name to a network. Repeating the request changes nothing."""
    cluster = agent.member()
    network, name = _split(cluster, request.name)
    wanted = own_name_request(request, name)
    record, created = await cluster.additions.add_name(network, wanted, current_author().account)
    local = cluster.live.view.local
    found = [one for one in own_names(cluster.live.view, network.network_id) if one.record == record]
    one = found[0] if found else OwnName(record, local, local)
    return {**own_name_part(presenter(cluster), one), "created": created}


@answers(adding.NameRemoveCommand)
async def remove_name(agent: Agent, request: adding.NameRemoveCommand) -> schema.OwnNameRemoved:
    """Remove a name that this host has added."""
    cluster = agent.member()
    network, name = _split(cluster, request.name)
    check_own_name(name)
    await cluster.additions.remove_name(network, name)
    return {"name": f"{name}.{network.unique_name}", "network": network.unique_name}


@answers(adding.NameListCommand)
async def list_names(agent: Agent, request: adding.NameListCommand) -> schema.Listing[schema.OwnName]:
    """Return the names that operators added. Each host knows those of all networks."""
    cluster = agent.member()
    present, view = presenter(cluster), cluster.live.view
    networks: Sequence[NetworkView] = list(view.networks.values())
    if request.network:
        networks = [network_called(view, request.network)]
    return {
        "items": [
            own_name_part(present, name)
            for network in networks
            for name in own_names(view, network.network_id)
        ]
    }


def _split(cluster: Cluster, text: str) -> tuple[NetworkView, str]:
    """Return the network of NAME.NETWORK, and the labels in front of it. Raises InputError, NotFoundError."""
    plain = text.lower().removesuffix(".").removesuffix("." + cluster.keys.domain)
    name, _, place = plain.rpartition(".")
    if not name:
        raise InputError(
            f"{text[:80]!r} does not say in which network",
            thing=text[:80],
            hint=f"write {plain[:40] or 'NAME'}.NETWORK",
        )
    return network_called(cluster.live.view, place), name
