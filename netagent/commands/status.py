"""`netagent status`: the state of this host on one screen, and a warning with a cure for each problem. And `netagent
dashboard`: where a browser finds the same."""

from __future__ import annotations

import datetime as dt
import ipaddress
import random
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import trio

from netagent import __version__
from netagent.checks.all_failing import failing_services
from netagent.commands.encryption import NOT_ENCRYPTED, data_plane, switch_notices
from netagent.commands.feed import label_notices
from netagent.commands.handlers import answers
from netagent.commands.notices.agent_notices import CLONED, known_causes, refused_notices
from netagent.commands.notices.conflict_notices import conflict_notices
from netagent.commands.notices.flow_notices import not_counted
from netagent.commands.notices.name_notices import failing_notices, name_notices, project_notices
from netagent.commands.notices.path_notices import PathEnds, checksum_notices, path_notices, udp_notices
from netagent.commands.notices.quota_notices import connection_notices, query_notices
from netagent.commands.notices.resolver_notices import confinement_notices
from netagent.commands.notices.service_notices import service_notices, translation_notices
from netagent.commands.presenters import sight_of
from netagent.commands.ring_keys import overdue_notices, ring_key_part
from netagent.control.present import Presenter, ProbeView, is_of_other_family
from netagent.control.present_additions import addition_notices
from netagent.daemon.agent import INVITED_AGAIN, Agent
from netagent.daemon.cluster import Cluster
from netagent.doctor.checks.expected_objects import addresses_of_others
from netagent.doctor.checks.foreign_rules import PortUse
from netagent.doctor.facts.agent_ports import (
    LIVE_PATIENCE_S,
    MAX_HOSTS,
    say_ports_closed,
    say_why_dead,
    start_agent,
    try_hosts,
)
from netagent.doctor.facts.name_servers import ask_servers, server_notices
from netagent.errors import FailedError, RefusedError
from netagent.interface import schema
from netagent.interface.questions import DashboardCommand, StatusCommand
from netagent.ipam.space import Range, usable_count
from netagent.journal.writer import HEADROOM_BYTES
from netagent.model.ids import HostId
from netagent.page.site import page_address
from netagent.probes.quality import Quality
from netagent.projection.service_ranges import overlapping_route
from netagent.registry.shared_names import shared_names, split_projects
from netagent.registry.view import AgentState, RegistryView
from netgossip.slice_runner import in_slices
from netgossip.slices import Slices

STATISTICS_S = 0.5
"""How long `status` waits for the resolver's counters."""

_KERNEL = {
    True: "its kernel answers, so its containers keep running",
    False: "its kernel does not answer either",
    None: "it is not known yet whether its kernel answers",
}


_BY_ADDRESS = "join a cluster by the address of a member: `netagent join ADDRESS`"

_SLOW_RESOLVER: schema.Notice = {
    "code": "resolver-slow",
    "message": f"the resolver process did not answer within {STATISTICS_S} s",
    "cure": "nothing to do: if it stays silent, the agent replaces it within 20 s",
}


@answers(StatusCommand)
async def status(agent: Agent, _request: StatusCommand) -> schema.Status:
    """Return the status as far as this host knows it."""
    return await status_of(agent)


@answers(DashboardCommand)
async def dashboard(agent: Agent, _request: DashboardCommand) -> schema.Dashboard:
    """Return the page's address."""
    if agent.http is None:
        raise RefusedError(
            "this agent serves no HTTP, so there is no page",
            code="no-http",
            thing="http",
            hint='set http = "127.0.0.1:7958" in /etc/netagent/netagent.toml and restart the agent',
        )
    if agent.http.trouble is not None:
        raise FailedError(
            f"the agent cannot serve HTTP on {agent.http.place}: {agent.http.trouble}",
            code="http",
            thing=agent.http.place,
            hint="set http to an address of this host and a free port, and restart the agent",
        )
    address = page_address(agent.http.place)
    if address.startswith("https"):
        return {
            "url": address,
            "expires_at": "",
            "warnings": [
                {
                    "code": "page-token",
                    "message": f"http is {agent.http.place}, so the page is served by TLS and opens with a token",
                    "cure": "make one with `netagent token create NAME --read`, and paste it there",
                }
            ],
        }
    key, expires_s = agent.page_keys.issue(int(time.time()))
    expires = dt.datetime.fromtimestamp(expires_s, dt.UTC)
    return {
        "url": f"{address}#key={key}",
        "expires_at": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "warnings": [],
    }


async def status_of(agent: Agent, *, is_thorough: bool = False) -> schema.Status:
    """Return the status. Never fails: what is not known is zero or empty. `is_thorough`: ask further machines, as the
    doctor does."""
    cluster = agent.cluster
    status: schema.Status = {
        "host": {
            "id": agent.identity.node_id,
            "name": agent.config.name,
            "address": agent.underlay.address,
            "zone": agent.config.zone,
            "version": __version__,
            "uptime_s": round(trio.current_time() - agent.started_at, 1),
        },
        "cluster": None,
        "members": {},
        "networks": [],
        "network_count": 0,
        "endpoints": {"local": 0, "total": 0, "hidden": 0},
        "dns": {"running": False, "sandboxes": 0, "queries": 0},
        "drift": {"differences": 0, "checked_s": None, "repaired": 0, "kinds": {}},
        "paths": {},
        "data_plane": NOT_ENCRYPTED,
        "refused": {},
        "warnings": [],
        "heard": list(_heard(agent)),
    }
    if cluster is None:
        status["warnings"] = list(_lonely_warnings(agent))
    else:
        await _fill(status, agent, cluster, is_thorough=is_thorough)
    status["warnings"] += [
        *_config_warnings(agent),
        *_address_warning(agent),
        *_http_warning(agent),
        *_runtime_warnings(agent),
    ]
    return status


def _config_warnings(agent: Agent) -> Iterable[schema.Notice]:
    """Warn if the last SIGHUP failed, or changed keys that need a restart."""
    if agent.config_problem:
        yield {
            "code": "config",
            "message": f"the configuration was not reloaded, and the next start would fail: {agent.config_problem}",
            "cure": "correct it, then type `systemctl reload netagent` (or send the agent SIGHUP)",
        }
    if agent.waiting_keys:
        yield {
            "code": "config-waits",
            "message": f"keys changed in the configuration but not in effect yet: {', '.join(agent.waiting_keys)}",
            "cure": "restart the agent; containers, packets and names are not interrupted",
        }


def _http_warning(agent: Agent) -> Iterable[schema.Notice]:
    if agent.http is not None and agent.http.trouble is not None:
        yield {
            "code": "http",
            "message": f"the agent cannot serve HTTP on {agent.http.place}: {agent.http.trouble}",
            "cure": "set http to an address of this host and a free port, and restart the agent; or to an empty text",
        }
    if agent.tokens.trouble:
        yield tokens_warning(agent)


def tokens_warning(agent: Agent) -> schema.Notice:
    """Say why tokens do not work."""
    cure = "restore the file, or remove it and make new tokens"
    return {"code": "tokens", "message": agent.tokens.trouble, "cure": cure}


def _runtime_warnings(agent: Agent) -> list[schema.Notice]:
    """Split the runtimes' sentences: the part after the last semicolon is the cure, as in errors."""
    notices: list[schema.Notice] = []
    for text in agent.runtimes.troubles():
        message, found, cure = text.rpartition("; ")
        whole = (message, cure) if found else (text, "see the agent's log")
        notices.append({"code": "runtime", "message": whole[0], "cure": whole[1]})
    return notices


async def _fill(status: schema.Status, agent: Agent, cluster: Cluster, *, is_thorough: bool) -> None:
    view = cluster.live.view
    present = Presenter(view, cluster.keys.domain)
    sight = sight_of(cluster)
    sights = {host_id: sight(host_id) for host_id in view.hosts}
    members = [present.member(host, sights[host_id]) for host_id, host in view.hosts.items()]
    datapath, guard = cluster.kernel.reconciler.status(), cluster.kernel.guard.status()
    kinds = datapath.drift | ({"firewall": guard.restored} if guard.restored else {})
    counters: dict[str, int] = {}
    asked = _RemoteFacts()
    async with trio.open_nursery() as nursery:  # concurrently, because each may wait for a timeout
        if is_thorough or cluster.live.rows:
            nursery.start_soon(_ask_name_servers, cluster, asked)
        nursery.start_soon(_try_dead_agents, cluster, asked)
        if is_thorough:
            nursery.start_soon(_try_live_agents, cluster, asked)
        with trio.move_on_after(STATISTICS_S) as patience:
            counters = await cluster.controllers.supervisor.statistics()
    tunnel = await cluster.encryption.status()
    status["data_plane"] = data_plane(view, tunnel)
    status["ring_key"] = ring_key_part(cluster)
    resolver = cluster.controllers.supervisor.status()
    status["cluster"] = {
        "id": cluster.keys.cluster_id,
        "name": cluster.keys.cluster,
        "domain": cluster.keys.domain,
    }
    status["members"] = _counted((member["agent"] for member in members), AgentState)
    status["networks"] = sorted(
        network.unique_name
        for network in view.networks.values()
        if view.local in view.attachments(network.network_id)
    )
    status["network_count"] = len(view.networks)
    status["endpoints"] = {
        "local": len(cluster.live.rows),
        "total": len(view.endpoints),
        "hidden": await in_slices(count_hidden(view)),
    }
    status["service_addresses"] = {
        "count": sum(len(view.service_addresses(network_id)) for network_id in view.networks),
        "untranslated": cluster.controllers.untranslated,
    }
    status["dns"] = {
        "running": bool(resolver["running"]),
        "sandboxes": len({row.netns_identity for row in cluster.live.rows.values()}),
        "queries": counters.get("queries", 0),
    }
    status["drift"] = {
        "differences": datapath.failures + len(cluster.interfaces.troubles),
        "checked_s": round(trio.current_time() - datapath.looked_at, 1) if datapath.looks else None,
        "repaired": sum(kinds.values()),
        "kinds": kinds,
    }
    # The prober does not probe hosts that have left.
    others = (one for one in members if not one["local"] and one["agent"] != AgentState.LEFT.value)
    status["paths"] = _counted((one["path"] for one in others), Quality)
    status["refused"] = _refused(cluster, counters, guard.dropped)
    status["audited"] = guard.audited
    status["allows_unsigned"] = cluster.signed_members.allows_unsigned
    status["unsigned"] = cluster.signed_members.unsigned()
    status["warnings"] = await _cluster_warnings(agent, cluster, present, sights, asked.notices)
    status["warnings"] += [*overdue_notices(cluster), *switch_notices(cluster, tunnel)]
    status["warnings"] += confinement_notices(counters)
    status["warnings"] += query_notices(cluster.live.rows.values(), counters)
    if tunnel is not None and tunnel.trouble:
        status["warnings"].append(
            {
                "code": "tunnel",
                "message": f"the encrypted tunnel: {tunnel.trouble}; until it stands no packet of a container "
                "passes between this host and others",
                "cure": "install wireguard-go (`apt install wireguard-go`) if it is missing; the agent tries again "
                "by itself",
            }
        )
    if patience.cancelled_caught and resolver["running"]:
        status["warnings"].append(_SLOW_RESOLVER)


async def _cluster_warnings(
    agent: Agent,
    cluster: Cluster,
    present: Presenter,
    sights: Mapping[HostId, ProbeView],
    from_others: Iterable[schema.Notice],
) -> list[schema.Notice]:
    view = cluster.live.view
    conflicts = conflict_notices(present, await in_slices(view.search_conflicts()))
    warnings = list(_warnings(agent, cluster, cluster.kernel.reconciler.status().dirty, conflicts))
    warnings += from_others
    warnings += _full_networks(cluster)
    warnings += name_notices(await in_slices(shared_names(view)))
    warnings += project_notices(await in_slices(split_projects(view)))
    warnings += await in_slices(addition_notices(present, int(time.time())))
    failing = await in_slices(failing_services(view))
    warnings += failing_notices(present, failing)
    warnings += translation_notices(
        present, cluster.kernel.service_tables.trouble, cluster.kernel.service_tables.lack
    )
    warnings += await in_slices(service_notices(present, failing))
    if (trouble := cluster.flows.trouble()) is not None:
        warnings.append(not_counted("this host", trouble))
    warnings += await in_slices(label_notices(cluster))
    warnings += await _foreign_rules(agent, cluster)
    place = PathEnds(cluster.underlay.address, cluster.config.vxlan_port, cluster.config.gossip_port)
    if _rival(cluster) is None:  # otherwise it is why packets do not arrive
        warnings += path_notices(present, sights, place)
    if not await _drops_membership(agent, cluster):  # otherwise it is why UDP does not arrive
        warnings += udp_notices(present, sights, place)
    warnings += checksum_notices(present, cluster.probing.prober.broken_checksums)
    return warnings


def count_hidden(view: RegistryView) -> Slices[int]:
    """Count the endpoints to which no name may lead. Looks only at those of hosts that are away or drained, of
    networks that are not in force, and at those that their own hosts keep out of names."""
    away = {one for one in view.hosts if view.is_host_hidden(one) or view.drain_of_host(one) is not None}
    hidden = 0
    for host_id in away:
        for _ in view.endpoints_of(host_id):
            hidden += 1
            yield
    for network_id in view.store.by_network:
        if network_id not in view.networks:
            for endpoint in view.endpoints_in(network_id).values():
                hidden += endpoint.owner not in away
                yield
    for endpoint in view.store.withheld.values():
        hidden += endpoint.owner not in away and endpoint.network_id in view.networks
        yield
    return hidden


def _counted(words: Iterable[str], order: type[AgentState] | type[Quality]) -> dict[str, int]:
    """Count each word, in the order of the enumeration (healthy states first), `unknown` last."""
    counts = Counter(words)
    known = sorted((one.value for one in order), key=lambda word: word == "unknown")
    return {word: counts[word] for word in known if counts[word]}


@dataclass(slots=True)
class _RemoteFacts:
    """Notices that result from asking other machines."""

    notices: list[schema.Notice] = field(default_factory=list)


async def _ask_name_servers(cluster: Cluster, asked: _RemoteFacts) -> None:
    """Ask the host's own name servers, to which the resolver forwards queries of containers."""
    answers = await ask_servers(cluster.controllers.supervisor.name_servers())
    asked.notices += [
        {"code": code, "message": message, "cure": cure} for code, message, cure in server_notices(answers)
    ]


async def _try_dead_agents(cluster: Cluster, asked: _RemoteFacts) -> None:
    """Find out why gossip declared agents dead: try whether their ports accept connections."""
    here = cluster.underlay.address
    dead = {
        host.unique_name: host
        for host in cluster.live.view.hosts.values()
        if host.agent is AgentState.DEAD and not is_of_other_family(host, here)
    }
    ports = (cluster.config.gossip_port, cluster.config.record_port)
    known = known_causes(cluster.live.view, dead.values(), _strangers(cluster), _clones(cluster))
    asked.notices += known.values()
    dead = {name: host for name, host in dead.items() if name not in known}
    addresses = {name: host.address for name, host in dead.items() if host.address}
    found = await try_hosts(addresses, ports) if addresses else {}
    for name, host in dead.items():
        kernel = _KERNEL[host.answers]
        if name in found:
            message, cure = say_why_dead(name, found[name], ports, ends=(here, host.address), kernel=kernel)
        else:
            message = f"the agent of {name} does not answer; {kernel}"
            cure = start_agent(name) if host.answers else "check that host"
        asked.notices.append({"code": "agent-dead", "message": message, "cure": cure})


def _clones(cluster: Cluster) -> dict[str, str]:
    """Return addresses of machines that use another host's identity, and the names of those hosts."""
    view, heard = cluster.live.view, cluster.gossip.event_queue.heard
    clones = {
        address: view.hosts[HostId(host_id)].unique_name
        for host_id, address in heard.recent_contested(trio.current_time()).items()
        if HostId(host_id) in view.hosts
    }
    if (rival := _rival(cluster)) is not None:
        clones[rival] = "this host"
    return clones


def _rival(cluster: Cluster) -> str | None:
    """Return the address of another machine that uses this host's identity."""
    return cluster.gossip.event_queue.heard.recent_identity_conflict(trio.current_time())


async def _try_live_agents(cluster: Cluster, asked: _RemoteFacts) -> None:
    """Try the ports of live agents; of at most MAX_HOSTS, chosen at random. None behind a lossy path, which has a
    warning of its own: what opens a connection may be lost there, and it is tried for less than a second."""
    view, here, prober = cluster.live.view, cluster.underlay.address, cluster.probing.prober
    live = {
        host.unique_name: host.address
        for host in view.hosts.values()
        if host.agent is AgentState.ALIVE and host.host_id != view.local and host.address
        if not is_of_other_family(host, here)
        if (path := prober.path(host.host_id)) is None or path.quality is not Quality.LOSSY
    }
    if len(live) > MAX_HOSTS:
        live = dict(random.sample(sorted(live.items()), MAX_HOSTS))
    ports = (cluster.config.gossip_port, cluster.config.record_port)
    found = await try_hosts(live, ports, LIVE_PATIENCE_S) if live else {}
    for name, states in sorted(found.items()):
        if (said := say_ports_closed(name, states, ports, (here, live[name]))) is not None:
            message, cure = said
            asked.notices.append({"code": "agent-port", "message": message, "cure": cure})


def _full_networks(cluster: Cluster) -> Iterable[schema.Notice]:
    """Warn of full networks. Only networks that this host is in: it knows all their endpoints."""
    view = cluster.live.view
    for network_id, network in view.networks.items():
        if view.local not in view.attachments(network_id):
            continue
        count = cluster.allocator.space(network_id).count
        total = usable_count(Range(0, count - 1), count)
        used = len(view.endpoints_in(network_id)) + len(view.host_addresses(network_id))
        if used >= total:
            name = network.unique_name
            yield {
                "code": "network-full",
                "message": f"network {name} is full: {used} of its {total} addresses are in use, so no "
                "container can be attached to it",
                "cure": f"`netagent detach` containers that are not needed (`netagent endpoints --network {name}` "
                "lists them), or create another network with a larger --subnet",
            }


def _port_use(cluster: Cluster, ports: Mapping[str, int]) -> PortUse:
    here = cluster.underlay
    return PortUse(here.address, here.device, ports, addresses_of_others(cluster.live.view))


async def _drops_membership(agent: Agent, cluster: Cluster) -> bool:
    """True if a rule of another program on this host drops packets of membership."""
    use = _port_use(cluster, {"membership": cluster.config.gossip_port})
    return bool(await agent.foreign_rules.at_ports(use))


async def _foreign_rules(agent: Agent, cluster: Cluster) -> list[schema.Notice]:
    """Warn of other programs' firewall rules that drop netagent's packets. The agent does not change those rules."""
    view, rows, config = cluster.live.view, cluster.live.rows, cluster.config
    ports = {"VXLAN": config.vxlan_port, "membership": config.gossip_port, "records": config.record_port}
    found = await agent.foreign_rules.at_ports(_port_use(cluster, ports))
    if rows:
        networks = (view.networks.get(row.network_id) for row in rows.values())
        is_routing = any(network is not None and network.record.gateways for network in networks)
        is_apart = cluster.kernel.bridge_nf_bypass.is_active
        found += await agent.foreign_rules.in_the_way(is_routing=is_routing, is_apart=is_apart)
        found += await agent.foreign_rules.at_bridges()
    return [{"code": "foreign-firewall", "message": one.message, "cure": one.fix} for one in found]


def _refused(cluster: Cluster, counters: dict[str, int], packets: dict[str, int]) -> dict[str, int]:
    """Return every counter of refused packets, queries and records that is not 0."""
    refused = {
        name: int(value)
        for name, value in cluster.gossip.node.statistics().items()
        if value and ("refused" in name or "malformed" in name)
    }
    refused |= {f"dns_{name}": value for name, value in counters.items() if value and "refused" in name}
    heard = cluster.gossip.event_queue.heard
    bad_records = len(cluster.live.view.refused) + heard.false_hosts + heard.unusable
    dropped = {f"packets_{name}": count for name, count in packets.items() if count}
    return refused | dropped | ({"records": bad_records} if bad_records else {})


def _heard(agent: Agent) -> Iterable[schema.HeardAgent]:
    mine = agent.cluster.keys.cluster_id if agent.cluster else None
    for neighbour in agent.neighbours.heard.values():
        if mine is None or neighbour.cluster_id != mine:
            cluster = neighbour.cluster or neighbour.cluster_id[:8]
            yield {"name": neighbour.name, "address": neighbour.gossip[0], "cluster": cluster, "how": "mdns"}
    if agent.cluster is not None:
        for address in _strangers(agent.cluster):
            yield {"name": "", "address": address, "cluster": "", "how": "gossip"}


def _strangers(cluster: Cluster) -> dict[str, str]:
    """Return addresses outside the cluster that sent packets lately, and why those were refused."""
    return cluster.gossip.event_queue.heard.recent_unknown_sources(trio.current_time())


def _lonely_warnings(agent: Agent) -> Iterable[schema.Notice]:
    if agent.revocation is not None:
        note = agent.revocation
        yield {
            "code": "revoked",
            "message": f"this host ({note.host_id[:8]}) was revoked from the cluster {note.cluster}, on {note.by}: "
            "its containers run without their networks",
            "cure": INVITED_AGAIN,
        }
        return
    clusters = sorted({n.cluster for n in agent.neighbours.heard.values() if n.cluster})
    if clusters:
        of_them = (
            f"the cluster {clusters[0]} is" if len(clusters) == 1 else f"clusters are ({', '.join(clusters)})"
        )
        yield {
            "code": "cluster-heard",
            "message": f"this host is in no cluster, but {of_them} on this link",
            "cure": "type `netagent invite` on a member, then `netagent join` here and paste its token",
        }
    else:
        yield {
            "code": "no-cluster",
            "message": "this host is in no cluster",
            "cure": "`netagent init` starts one; `netagent join` joins one with a token of `netagent invite`",
        }
    if not agent.config.mdns:
        yield {
            "code": "mdns",
            "message": "multicast DNS is off here (`mdns = false`), so this host hears no others",
            "cure": _BY_ADDRESS,
        }
    yield from _mdns_warning(agent, _BY_ADDRESS)


def _address_warning(agent: Agent) -> Iterable[schema.Notice]:
    if agent.uplinks.problem:
        cure = "assign it to a device again, which the agent notices; or correct `advertise` and `bind`, and restart"
        yield {"code": "address", "message": agent.uplinks.problem, "cure": cure}


def _mdns_warning(agent: Agent, cure: str) -> Iterable[schema.Notice]:
    if agent.neighbours.problem:
        yield {"code": "mdns", "message": agent.neighbours.problem, "cure": cure}


def _kernel_warnings(cluster: Cluster, dirty: Iterable[tuple[str, str]]) -> Iterable[schema.Notice]:
    for commands, reason in list(dirty)[:5]:
        command = commands.replace("\n", "; ")
        yield {
            "code": "datapath",
            "message": f"the kernel refuses `{command}`: {reason}",
            "cure": "remove the cause; the agent tries again by itself",
        }
    if cluster.kernel.guard.trouble:
        yield {
            "code": "firewall",
            "message": f"the firewall: {cluster.kernel.guard.trouble}",
            "cure": "the agent tries again by itself; until then running containers are not affected, but none can "
            "be attached",
        }
    guard = cluster.kernel.guard.status()
    if guard.uncounted:
        yield {
            "code": "connections-not-counted",
            "message": f"containers may have any number of connections: {guard.uncounted}",
            "cure": "use a kernel with nft_connlimit, as Debian's has; or set connections_per_container = 0",
        }
    yield from connection_notices(
        cluster.live.view,
        cluster.live.rows.values(),
        guard.crowded,
        quota=cluster.config.connections_per_container,
    )
    if cluster.kernel.bridge_nf_bypass.trouble:
        yield {
            "code": "bridge-netfilter",
            "message": "bridge netfilter is on, so packets inside netagent's bridges also pass the host's rules for "
            f"routed packets: {cluster.kernel.bridge_nf_bypass.trouble}",
            "cure": "if no other program needs it: `sysctl -w net.bridge.bridge-nf-call-iptables=0 "
            "net.bridge.bridge-nf-call-ip6tables=0`",
        }
    if cluster.controllers.resets.trouble:
        yield {
            "code": "resets",
            "message": "connections by a service's address to a replica that is gone do not end at once: "
            f"{cluster.controllers.resets.trouble}",
            "cure": "use a kernel with CONFIG_INET_DIAG_DESTROY, as Debian's has; until then such a connection ends "
            "when its program's own time limit does",
        }
    if cluster.controllers.forwarding.trouble:
        yield {
            "code": "routing",
            "message": cluster.controllers.forwarding.trouble,
            "cure": "the agent tries again by itself; until then containers may not reach addresses outside",
        }


def _warnings(
    agent: Agent, cluster: Cluster, dirty: Iterable[tuple[str, str]], conflicts: Iterable[schema.Notice]
) -> Iterable[schema.Notice]:
    view = cluster.live.view
    yield from _kernel_warnings(cluster, dirty)
    if not cluster.journal.has_room:
        yield {
            "code": "disk-full",
            "message": f"the disk of {cluster.config.state_dir} is full: no container can be attached and no network "
            "created",
            "cure": f"free {HEADROOM_BYTES >> 20} MiB there; the agent notices it by itself",
        }
    for endpoint_id, reason in list(cluster.interfaces.troubles.items())[:5]:
        row = cluster.live.rows.get(endpoint_id)
        yield {
            "code": "interface",
            "message": f"the interface of {row.name if row else endpoint_id[:8]} cannot be repaired: {reason}",
            "cure": "remove the cause inside the container; the agent tries again by itself",
        }
    trouble = cluster.controllers.supervisor.status()["trouble"]
    if trouble:
        yield {
            "code": "resolver",
            "message": f"the resolver process: {trouble}",
            "cure": "see the agent's log",
        }
    yield from conflicts
    yield from refused_notices(view, _strangers(cluster))
    yield from _held_words(cluster)
    if (rival := _rival(cluster)) is not None:
        yield {
            "code": "identity",
            "message": f"the machine at {rival} uses this host's identity: it was cloned",
            "cure": CLONED,
        }
    for host_id, address in cluster.gossip.event_queue.heard.recent_contested(trio.current_time()).items():
        contested = view.hosts.get(HostId(host_id))
        if contested is not None:
            yield {
                "code": "identity",
                "message": f"the machines at {contested.address} and {address} both use the identity of "
                f"{contested.unique_name}: one was cloned",
                "cure": CLONED,
            }
    yield from _fate(agent, cluster)
    yield from _undecided(view)
    yield from _drained_hosts(view)
    yield from _overlaps(cluster)
    yield from _mdns_warning(agent, "name members with --seeds")


def _held_words(cluster: Cluster) -> Iterable[schema.Notice]:
    """Warn of held evictions: another host has declared a live host gone for good."""
    for word in cluster.gossip.event_queue.held_evictions.waiting[:5]:
        named = (cluster.live.view.hosts.get(one) for one in (word.writer, word.host))
        writer, host = (
            one.unique_name if one is not None else short
            for one, short in zip(named, (word.writer[:8], word.host[:8]), strict=True)
        )
        left_s = max(word.due_at - trio.current_time(), 0.0)
        if word.is_compromised:
            yield {
                "code": "said-compromised",
                "message": f"{writer} has revoked {host}, and another host just before; this takes effect in "
                f"{left_s:.0f} s",
                "cure": f"if that is wrong, type `netagent revoke {writer}` on a host that it has not revoked",
            }
            continue
        yield {
            "code": "said-gone",
            "message": f"{writer} has forgotten {host}, which is alive; this takes effect in {left_s:.0f} s",
            "cure": f"if that is wrong, type `netagent forget {writer} --force` on {host}: then neither takes effect",
        }


def _undecided(view: RegistryView) -> Iterable[schema.Notice]:
    """Warn of hosts that have revoked each other."""
    if view.undecided:
        named = sorted(one[:8] for one in view.undecided)
        yield {
            "code": "revoked-each-other",
            "message": f"{', '.join(named[:5])} have revoked each other: none of them counts",
            "cure": "find out which of them an attacker has, and type `netagent revoke ID` here: then only the words "
            "of the others count",
        }


def _eviction_of(agent: Agent) -> str:
    note = agent.past_revocation
    if note is None:
        return "the cluster evicted this host while it was away"
    return f"this host ({note.host_id[:8]}) was revoked, on {note.by}, and was invited again"


def _fate(agent: Agent, cluster: Cluster) -> Iterable[schema.Notice]:
    """Warn on a host that was evicted: endpoints that are fenced, or the new identity."""
    names = sorted({row.name for row in cluster.live.fenced.values()})
    if names:
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        yield {
            "code": "forgotten",
            "message": f"{_eviction_of(agent)}: {shown} "
            f"lost {'its address and is' if len(names) == 1 else 'their addresses and are'} fenced",
            "cure": "`netagent attach` them again, or restart their containers; `netagent detach` removes one from "
            "this list",
        }
    elif agent.former_ids:
        former = agent.former_ids[-1][:8]
        yield {
            "code": "forgotten",
            "message": f"the cluster evicted this host ({former}) while it was away: it rejoined with a new identity",
            "cure": "nothing to do; if hosts are away for longer, set a higher forget_after_s",
        }


def _drained_hosts(view: RegistryView) -> Iterable[schema.Notice]:
    """Warn of hosts that an operator has drained: the drain lasts until an operator ends it."""
    drained = [(host, host.record.drain) for host in view.hosts.values() if host.record and host.record.drain]
    for host, drain in drained[:5]:
        is_here = host.host_id == view.local
        yield {
            "code": "drained",
            "message": f"names lead to no container of {'this host' if is_here else host.unique_name}: {drain.text}",
            "cure": f"{'' if is_here else f'on {host.unique_name}: '}`netagent undrain --host` gives the names back",
        }


def _overlaps(cluster: Cluster) -> Iterable[schema.Notice]:
    """Warn of routes that overlap a network: they were added after it was created."""
    view = cluster.live.view
    hosts_by_route: dict[str, list[str]] = {}
    for host in view.hosts.values():
        for text in host.record.routes if host.record else ():
            hosts_by_route.setdefault(text, []).append(host.unique_name)
    # Most hosts have the same routes, and parsing is the expensive part: parse each route once.
    routes = {text: ipaddress.ip_network(text) for text in hosts_by_route}
    for network in view.networks.values():
        subnets = [ipaddress.ip_network(text) for text in network.record.subnets]
        for text, route in routes.items():
            if any(route.version == subnet.version and route.overlaps(subnet) for subnet in subnets):
                hosts = ", ".join(sorted(hosts_by_route[text]))
                yield {
                    "code": "overlap",
                    "message": f"the route {text} of {hosts} overlaps network {network.unique_name}",
                    "cure": "remove the route, or recreate the network with another --subnet",
                }
        for one in view.service_ranges(network.network_id):
            clash = overlapping_route(one.record.subnets, routes)
            if clash is not None:
                hosts = ", ".join(sorted(hosts_by_route[clash]))
                yield {
                    "code": "overlap",
                    "message": f"the route {clash} of {hosts} overlaps {' and '.join(one.record.subnets)}, from "
                    f"which services of network {network.unique_name} have their addresses: there names are answered "
                    "with their replicas",
                    "cure": "remove the route, or the network and create it again",
                }
