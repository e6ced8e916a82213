"""How much of a network's address space each host owns, and how much is in use. Pure.

Every host knows the ownership, because every host has the grants. Use is known only on hosts in the network, which
have its endpoints; elsewhere it is None, not 0. Addresses of hosts themselves (`--host-access`) count as in use, like
those of endpoints. Addresses of other hosts that cool down after a release count as free: their hosts also hand
them out before they refuse an endpoint.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from netagent.control.present import Presenter
from netagent.interface import schema
from netagent.ipam.space import AddressSpace, Range, usable_count
from netagent.model.ids import HostId
from netagent.model.subnet import addresses_of
from netagent.registry.view import AgentState, NetworkView


def space_use(
    present: Presenter, network: NetworkView, space: AddressSpace, *, is_known: bool
) -> schema.SpaceUse:
    """Return all owners, the largest first. `is_known`: the view has the network's endpoints."""
    view = present.view
    owned = space.usable_counts()
    used = Counter(one.owner for one in view.endpoints_in(network.network_id).values())
    used.update(view.host_addresses(network.network_id).keys())
    hosts = sorted(owned.keys() | used.keys(), key=lambda host: (-owned.get(host, 0), host))
    shares = [
        _share(present, network, space, host, used=used[host] if is_known else None)
        for host in hosts
        if owned.get(host) or used[host]
    ]
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
    present: Presenter, network: NetworkView, space: AddressSpace, host_id: HostId, *, used: int | None
) -> schema.SpaceShare:
    owned = space.usable_counts().get(host_id, 0)
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
        "ranges": [_range(network, *one) for one in _runs(space, host_id)],
    }


def _sum(numbers: Iterable[int | None]) -> int | None:
    """Return the sum; None when one number is not known."""
    total = 0
    for number in numbers:
        if number is None:
            return None
        total += number
    return total


def _runs(space: AddressSpace, host_id: HostId) -> list[tuple[int, int]]:
    """Return the first and last usable offset of each range of the host; adjacent ranges are joined, whatever their
    hops."""
    runs: list[tuple[int, int]] = []
    for held in space.owned_by(host_id):
        first, last = max(held.first, 2), min(held.last, space.count - 2)
        if first > last:
            continue
        if runs and runs[-1][1] + 1 == first:
            runs[-1] = runs[-1][0], last
        else:
            runs.append((first, last))
    return runs


def _range(network: NetworkView, first: int, last: int) -> str:
    """Format a range in addresses of the first subnet; those of the other family follow from them."""
    ends = [addresses_of(network.record.subnets, offset)[0] for offset in dict.fromkeys((first, last))]
    return " - ".join(ends)
