"""What the agent knows of the cluster: members, paths, networks and their addresses.

Series are bounded, whatever other members write: the networks that are named apart, and the paths. None has the name
of a container.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client.core import Metric

from netagent.ipam.space import Range, usable_count
from netagent.model.ids import HostId, NetworkId
from netagent.openmetrics.family import gauge, gauges
from netagent.probes.quality import PathStatus, Quality
from netagent.registry.view import AgentState, HostView, NetworkView, RegistryView

MAX_PATHS: Final = 64
"""Bound of paths with series of their own; beyond it: those that are not well come first, then by the host's id; all
are counted by state."""
MAX_NETWORKS: Final = 128
"""Bound of networks with series of their own; beyond it: the first by name, and the others are summed up."""
OTHER: Final = "(others)"
"""The label of what is summed up. No network can have this name."""


def member_families(view: RegistryView) -> Iterator[Metric]:
    """Yield the hosts of the cluster by what is known of them, this one among them."""
    agents = Counter(
        AgentState.ALIVE.value if host.host_id == view.local else host.agent.value
        for host in view.hosts.values()
    )
    kernels = Counter(
        "unknown" if host.answers is None else "answers" if host.answers else "silent"
        for host in view.hosts.values()
        if host.host_id != view.local and host.agent is not AgentState.LEFT
    )
    yield gauges(
        "netagent_members",
        "Hosts of the cluster, this one among them, by the state of their agents.",
        ["state"],
        {(state.value,): agents[state.value] for state in AgentState},
    )
    yield gauges(
        "netagent_kernels",
        "Other hosts of the cluster by whether their kernels answer this host's probes.",
        ["state"],
        {(word,): kernels[word] for word in ("answers", "silent", "unknown")},
    )
    yield gauge("netagent_evicted_hosts", "Hosts that the cluster has evicted for good.", len(view.evicted))
    drained = sum(1 for host in view.hosts.values() if host.record is not None and host.record.drain)
    yield gauge("netagent_drained_hosts", "Hosts that an operator has drained.", drained)


def path_families(
    view: RegistryView,
    rtt_of: Callable[[HostId], float | None],
    path_of: Callable[[HostId], PathStatus | None],
) -> Iterator[Metric]:
    """Yield the paths to other hosts, as this host's probes have found them."""
    others = [
        host
        for host in view.hosts.values()
        if host.host_id != view.local and host.agent is not AgentState.LEFT
    ]
    found = {host.host_id: path_of(host.host_id) for host in others}
    words = Counter(_quality(host, found[host.host_id]).value for host in others)
    yield gauges(
        "netagent_paths",
        "Paths to other hosts by what they carry.",
        ["state"],
        {(one.value,): words[one.value] for one in Quality},
    )
    calm = {Quality.OK, Quality.UNKNOWN}
    others.sort(key=lambda host: (_quality(host, found[host.host_id]) in calm, host.host_id))
    rtts: dict[tuple[str], float] = {}
    losses: dict[tuple[str], float] = {}
    sizes: dict[tuple[str], float] = {}
    states: dict[tuple[str], float] = {}
    for host in others[:MAX_PATHS]:
        key, path = (host.unique_name or host.host_id[:8],), found[host.host_id]
        states[key] = float(_quality(host, path) in calm)
        if (rtt_s := rtt_of(host.host_id)) is not None:
            rtts[key] = rtt_s
        if path is not None and path.loss is not None:
            losses[key] = path.loss
        if path is not None and path.size_bytes is not None:
            sizes[key] = path.size_bytes
    yield gauges(
        "netagent_path_up",
        "1 where the path carries all that it should, or nothing is known yet.",
        ["host"],
        states,
    )
    yield gauges(
        "netagent_path_rtt_seconds", "Round trip of the last probe over the overlay.", ["host"], rtts
    )
    yield gauges(
        "netagent_path_loss_ratio",
        "Share of the last probes that was lost, both ways together.",
        ["host"],
        losses,
    )
    yield gauges(
        "netagent_path_mtu_bytes", "Largest packet that the path carries in one piece.", ["host"], sizes
    )


def _quality(host: HostView, path: PathStatus | None) -> Quality:
    if host.answers is False and (path is None or path.quality is not Quality.ONE_WAY):
        return Quality.DOWN
    if path is None:
        return Quality.OK if host.answers else Quality.UNKNOWN
    return path.quality


def network_families(
    view: RegistryView,
    conflicts: int,
    local: Callable[[NetworkId], int],
    offsets: Callable[[NetworkId], int],
) -> Iterator[Metric]:
    """Yield the networks that this host is in, of which it knows all endpoints. `conflicts`: how many there are;
    `local`: how many of a network's endpoints are here; `offsets`: how many places its subnets have."""
    here = sorted(
        (one for one in view.networks.values() if view.local in view.attachments(one.network_id)),
        key=lambda one: one.unique_name,
    )
    everywhere: Counter[str] = Counter()
    on_host: Counter[str] = Counter()
    used: Counter[str] = Counter()
    free: Counter[str] = Counter()
    for number, network in enumerate(here):
        name = network.unique_name if number < MAX_NETWORKS else OTHER
        in_use, total = _addresses(view, network, offsets(network.network_id))
        everywhere[name] += len(view.endpoints_in(network.network_id))
        on_host[name] += local(network.network_id)
        used[name] += in_use
        free[name] += max(total - in_use, 0)
    yield gauge("netagent_networks", "Networks of the cluster.", len(view.networks))
    yield gauge("netagent_services", "Services that this host knows.", len(view.store.by_service))
    yield gauge(
        "netagent_conflicts",
        "Contradictions between records; `netagent status` names them.",
        conflicts,
    )
    yield gauges(
        "netagent_endpoints",
        "Endpoints of the networks that this host is in, on all hosts.",
        ["network"],
        _keyed(everywhere),
    )
    yield gauges("netagent_local_endpoints", "Endpoints of this host.", ["network"], _keyed(on_host))
    yield gauges(
        "netagent_addresses",
        "Addresses of each family in the networks that this host is in, in use and free, in the whole cluster.",
        ["network", "state"],
        {
            (name, state): count
            for state, counts in (("used", used), ("free", free))
            for name, count in counts.items()
        },
    )


def _addresses(view: RegistryView, network: NetworkView, count: int) -> tuple[int, int]:
    """Return how many addresses of each family are in use, and how many there are."""
    in_use = len(view.endpoints_in(network.network_id)) + len(view.host_addresses(network.network_id))
    return in_use, usable_count(Range(0, count - 1), count)


def _keyed(counts: Counter[str]) -> dict[tuple[str], float]:
    return {(name,): count for name, count in counts.items()}
