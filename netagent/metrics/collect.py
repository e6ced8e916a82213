"""Which metrics there are now: the families of all parts of an agent, one after the other.

The pieces are made between other tasks' turns (netgossip.slices), so each is small, and each is right for the moment
at which it is made.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Final, TypeVar

import trio
from prometheus_client.core import InfoMetricFamily, Metric

from netagent import __version__
from netagent.daemon.agent import Agent
from netagent.daemon.cluster import Cluster
from netagent.daemon.encryption import TunnelStatus
from netagent.loop_passes import LoopPasses
from netagent.metrics.cluster_families import member_families, network_families, path_families
from netagent.metrics.gossip_families import (
    node_families,
    propagation_families,
    record_families,
    traffic_families,
)
from netagent.metrics.host_families import (
    attach_families,
    check_families,
    encryption_families,
    kernel_families,
    loop_families,
    reconcile_families,
    refusal_families,
    trouble_families,
)
from netagent.model.subnet import offset_count
from netagent.openmetrics.away import agent_up
from netagent.openmetrics.dns_families import dns_families
from netagent.openmetrics.family import gauge
from netagent.openmetrics.process_families import Processes
from netagent.openmetrics.text import Pieces
from netagent.registry.encryption import stage_of
from netagent.registry.record_codec import scope_of
from netgossip.slices import Slices

T = TypeVar("T")

STATISTICS_S: Final = 0.5
"""How long a scrape waits for the counters of the resolver process; later: the last known ones."""

_REFUSED: Final = ("refused", "malformed")


class Collection:
    """Reads an agent."""

    def __init__(self, agent: Agent, passes: LoopPasses) -> None:
        self._agent = agent
        self._passes = passes
        self._processes = Processes()

    async def pieces(self) -> Pieces:
        """Return all families. Waits for the counters of the resolver process, if this host is in a cluster."""
        dns: Mapping[str, int] = {}
        tunnel: TunnelStatus | None = None
        if (cluster := self._agent.cluster) is not None:
            supervisor = cluster.controllers.supervisor
            dns = supervisor.last_statistics
            with trio.move_on_after(STATISTICS_S):
                dns = await supervisor.statistics()
            tunnel = await cluster.encryption.status()
        return self._families(dns, tunnel)

    def _families(self, dns: Mapping[str, int], tunnel: TunnelStatus | None) -> Pieces:
        agent, cluster = self._agent, self._agent.cluster
        info = InfoMetricFamily("netagent_build", "The agent's version.", value={"version": __version__})
        uptime_s = trio.current_time() - agent.started_at
        yield [
            info,
            agent_up(True),
            gauge("netagent_uptime_seconds", "Since the start of the agent.", uptime_s),
            gauge(
                "netagent_in_cluster", "1 if this host is a member of a cluster.", float(cluster is not None)
            ),
        ]
        yield from _each(loop_families(self._passes.times))
        if cluster is None:
            yield from self._processes.families(None)
            return
        view, rows = cluster.live.view, cluster.live.rows
        prober = cluster.probing.prober
        yield from _each(member_families(view))
        yield from _each(path_families(view, prober.rtt_s, prober.path))
        conflicts = yield from _nothing_until_done(view.search_conflicts())
        yield from _each(
            network_families(
                view,
                len(conflicts),
                lambda network_id: len(rows.in_network(network_id)),
                lambda network_id: offset_count(view.networks[network_id].record.subnets),
            )
        )
        gossip = cluster.gossip
        yield from _each(traffic_families(gossip.traffic))
        yield from _each(node_families(gossip.node.statistics()))
        yield from _each(propagation_families(gossip.node.records.propagation))
        sizes = {}
        for scope in gossip.node.records.known_scopes():
            sizes[scope] = gossip.node.records.size(scope)
            yield ()
        yield from _each(
            record_families(sizes, {scope_of(n): v.unique_name for n, v in view.networks.items()})
        )
        datapath, guard = cluster.kernel.reconciler.status(), cluster.kernel.guard.status()
        yield from _each(kernel_families(datapath, guard))
        names = {host_id: host.unique_name or host.name for host_id, host in view.hosts.items()}
        yield from _each(
            encryption_families(
                stage_of(view, view.local),
                sum(host_id != view.local and host.is_live for host_id, host in view.hosts.items()),
                {} if tunnel is None else tunnel.states,
                lambda host_id: names.get(host_id, host_id[:8]),
            )
        )
        yield from _each(reconcile_families(cluster.kernel.reconciler.durations))
        yield from _each(attach_families(cluster.endpoints.context.times))
        yield from _each(check_families(cluster.checks.counts, cluster.checks.healths()))
        yield from _each(refusal_families(_refusals(cluster, dns)))
        yield from _each(trouble_families(_troubles(agent, cluster, datapath.trouble, guard.trouble)))
        yield from _each(dns_families(dns))
        supervisor = cluster.controllers.supervisor
        # The part that answers, which is a child of the process that is adopted.
        yield from self._processes.families(
            supervisor.last_statistics.get("process_id", 0) or supervisor.process_id
        )


def _nothing_until_done(slices: Slices[T]) -> Generator[Iterable[Metric], None, T]:
    """Yield an empty piece for each slice, and return the result."""
    while True:
        try:
            next(slices)
        except StopIteration as end:
            result: T = end.value
            return result
        yield ()


def _each(families: Iterable[Metric]) -> Iterator[Iterable[Metric]]:
    return ((one,) for one in families)


def _refusals(cluster: Cluster, dns: Mapping[str, int]) -> dict[tuple[str, str], float]:
    """Return what `status` shows as refused, by the part that refused it and the reason."""
    found: dict[tuple[str, str], float] = {}
    for name, value in cluster.gossip.node.statistics().items():
        part, _, reason = name.partition("_")
        if any(word in reason for word in _REFUSED):
            found["membership" if part == "gossip" else "records", _short(reason)] = value
    for name, count in dns.items():
        if name.startswith("refused_"):
            found["dns", _short(name)] = count
        elif name.startswith("feed_") and "refused" in name:
            found["feeds", _short(name.removeprefix("feed_"))] = count
    heard = cluster.gossip.event_queue.heard
    found["registry", "false_host"] = heard.false_hosts
    found["registry", "unusable"] = heard.unusable
    return found


def _short(reason: str) -> str:
    return reason.removeprefix("refused_") or reason


def _troubles(agent: Agent, cluster: Cluster, datapath: str, firewall: str) -> dict[str, bool]:
    controllers, kernel = cluster.controllers, cluster.kernel
    return {
        "address": bool(agent.uplinks.problem),
        "bridge_netfilter": bool(kernel.bridge_nf_bypass.trouble),
        "configuration": bool(agent.config_problem),
        "datapath": bool(datapath),
        "disk": not cluster.journal.has_room,
        "firewall": bool(firewall),
        "flows": cluster.flows.trouble() is not None,
        "interfaces": bool(cluster.interfaces.troubles),
        "mdns": bool(agent.neighbours.problem),
        "resets": bool(controllers.resets.trouble),
        "resolver": bool(controllers.supervisor.trouble),
        "routing": bool(controllers.forwarding.trouble),
        "runtimes": bool(agent.runtimes.troubles()),
        "service_addresses": bool(kernel.service_tables.trouble),
    }
