"""`status`: this host in one screen, with what an operator should know and the cure for it."""

from __future__ import annotations

import ipaddress
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import trio

from netagent import __version__
from netagent.commands.name_notices import name_notices
from netagent.commands.path_notices import PathEnds, checksum_notices, path_notices
from netagent.control import schema
from netagent.control.present import Presenter, ProbeView, is_of_other_family
from netagent.daemon.agent import Agent
from netagent.daemon.cluster import Cluster
from netagent.doctor.checks.expected_objects import addresses_of_others
from netagent.doctor.checks.foreign_rules import PortUse
from netagent.doctor.facts.agent_ports import (
    LIVE_PATIENCE_S,
    MAX_HOSTS,
    say_ports_closed,
    say_why_dead,
    try_hosts,
)
from netagent.doctor.facts.name_servers import ask_servers, server_notices
from netagent.ipam.space import Range, usable_count
from netagent.journal.writer import HEADROOM_BYTES
from netagent.model.ids import HostId
from netagent.probes.quality import Quality
from netagent.registry.shared_names import shared_names
from netagent.registry.view import AgentState, RegistryView
from netagent.slices import Pieces, piece_by_piece

DATA_PLANE = "not encrypted"
STATISTICS_S = 0.5
"""How long `status` waits for the resolver's counters."""

_KERNEL = {
    True: "its kernel answers: containers there go on",
    False: "its kernel is silent as well",
    None: "whether its kernel answers is not known yet",
}


_BY_ADDRESS = "enter a cluster by the address of a member: `netagent join ADDRESS`"

_SLOW_RESOLVER: schema.Notice = {
    "code": "resolver-slow",
    "message": f"the resolver process did not answer within {STATISTICS_S} s",
    "cure": "nothing to do: one that stays silent is replaced by itself within 20 s",
}


async def status_of(agent: Agent, *, is_thorough: bool = False) -> schema.Status:
    """Never fails: what is not known is zero or empty. `is_thorough`: asks further machines, as the doctor does."""
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
        "data_plane": DATA_PLANE,
        "refused": {},
        "warnings": [],
        "heard": list(_heard(agent)),
    }
    if cluster is None:
        status["warnings"] = list(_lonely_warnings(agent))
    else:
        await _fill(status, agent, cluster, is_thorough=is_thorough)
    status["warnings"] += [*_config_warnings(agent), *_address_warning(agent), *_runtime_warnings(agent)]
    return status


def _config_warnings(agent: Agent) -> Iterable[schema.Notice]:
    """What became of the last SIGHUP, where an operator would not see it by its effect."""
    if agent.config_problem:
        yield {
            "code": "config",
            "message": f"the configuration was not read again, and the next start would fail: {agent.config_problem}",
            "cure": "correct it, then send the agent SIGHUP, as `systemctl reload netagent` does",
        }
    if agent.waiting_keys:
        yield {
            "code": "config-waits",
            "message": f"changed in the configuration and not in effect yet: {', '.join(agent.waiting_keys)}",
            "cure": "restart the agent; containers, packets and names go on meanwhile",
        }


def _runtime_warnings(agent: Agent) -> list[schema.Notice]:
    """Their sentences end with the way out, as those of errors do."""
    notices: list[schema.Notice] = []
    for text in agent.runtimes.troubles():
        message, found, cure = text.rpartition("; ")
        whole = (message, cure) if found else (text, "see the agent's log")
        notices.append({"code": "runtime", "message": whole[0], "cure": whole[1]})
    return notices


async def _fill(status: schema.Status, agent: Agent, cluster: Cluster, *, is_thorough: bool) -> None:
    view = cluster.live.view
    present = Presenter(view, cluster.keys.domain)
    sights = {
        i: ProbeView(cluster.probing.prober.rtt_s(i), cluster.probing.prober.path(i)) for i in view.hosts
    }
    members = [present.member(host, sights[host_id]) for host_id, host in view.hosts.items()]
    datapath, guard = cluster.kernel.reconciler.status(), cluster.kernel.guard.status()
    kinds = datapath.drift | ({"firewall": guard.restored} if guard.restored else {})
    counters: dict[str, int] = {}
    asked = _RemoteFacts()
    async with trio.open_nursery() as nursery:  # at once, because each waits for what does not answer
        if is_thorough or cluster.live.rows:
            nursery.start_soon(_ask_name_servers, cluster, asked)
        nursery.start_soon(_try_dead_agents, cluster, asked)
        if is_thorough:
            nursery.start_soon(_try_live_agents, cluster, asked)
        with trio.move_on_after(STATISTICS_S) as patience:
            counters = await cluster.following.supervisor.statistics()
    resolver = cluster.following.supervisor.status()
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
        "hidden": await piece_by_piece(_counting_hidden(view)),
    }
    status["dns"] = {
        "running": bool(resolver["running"]),
        "sandboxes": len({(row.netns_dev, row.netns_inode) for row in cluster.live.rows.values()}),
        "queries": counters.get("queries", 0),
    }
    status["drift"] = {
        "differences": datapath.failures + len(cluster.interfaces.troubles),
        "checked_s": round(trio.current_time() - datapath.looked_at, 1) if datapath.looks else None,
        "repaired": sum(kinds.values()),
        "kinds": kinds,
    }
    # Nobody tries the way to a host that has left.
    others = (one for one in members if not one["local"] and one["agent"] != AgentState.LEFT.value)
    status["paths"] = _counted((one["path"] for one in others), Quality)
    status["refused"] = _refused(cluster, counters)
    status["warnings"] = list(_warnings(agent, cluster, datapath.dirty))
    status["warnings"] += asked.notices
    status["warnings"] += _full_networks(cluster)
    status["warnings"] += name_notices(await piece_by_piece(shared_names(view)))
    status["warnings"] += await _foreign_rules(agent, cluster)
    place = PathEnds(cluster.underlay.address, cluster.config.vxlan_port)
    status["warnings"] += path_notices(present, sights, place)
    status["warnings"] += checksum_notices(present, cluster.probing.prober.broken_checksums)
    if patience.cancelled_caught and resolver["running"]:
        status["warnings"].append(_SLOW_RESOLVER)


def _counting_hidden(view: RegistryView) -> Pieces[int]:
    hidden = 0
    for endpoint in view.endpoints.values():
        hidden += not view.is_visible(endpoint)
        yield
    return hidden


def _counted(words: Iterable[str], order: type[AgentState] | type[Quality]) -> dict[str, int]:
    """How many there are of each: those that are well first, those of which nothing is known last."""
    counts = Counter(words)
    known = sorted((one.value for one in order), key=lambda word: word == "unknown")
    return {word: counts[word] for word in known if counts[word]}


@dataclass(slots=True)
class _RemoteFacts:
    """What came of questions to other machines."""

    notices: list[schema.Notice] = field(default_factory=list)


async def _ask_name_servers(cluster: Cluster, asked: _RemoteFacts) -> None:
    """The host's own, which the resolver asks for containers."""
    answers = await ask_servers(cluster.following.supervisor.name_servers())
    asked.notices += [
        {"code": code, "message": message, "cure": cure} for code, message, cure in server_notices(answers)
    ]


async def _try_dead_agents(cluster: Cluster, asked: _RemoteFacts) -> None:
    """Gossip takes an agent for dead that it can't hear; whether its ports accept connections tells why."""
    here = cluster.underlay.address
    dead = {
        host.unique_name: host
        for host in cluster.live.view.hosts.values()
        if host.agent is AgentState.DEAD and not is_of_other_family(host, here)
    }
    ports = (cluster.config.gossip_port, cluster.config.record_port)
    addresses = {name: host.address for name, host in dead.items() if host.address}
    found = await try_hosts(addresses, ports) if addresses else {}
    for name, host in dead.items():
        kernel = _KERNEL[host.answers]
        if name in found:
            message, cure = say_why_dead(name, found[name], ports, ends=(here, host.address), kernel=kernel)
        else:
            message = f"the agent of {name} does not answer; {kernel}"
            cure = "start the agent there" if host.answers else "see to that host"
        asked.notices.append({"code": "agent-dead", "message": message, "cure": cure})


async def _try_live_agents(cluster: Cluster, asked: _RemoteFacts) -> None:
    """Of more than MAX_HOSTS chance decides which."""
    view, here = cluster.live.view, cluster.underlay.address
    live = {
        host.unique_name: host.address
        for host in view.hosts.values()
        if host.agent is AgentState.ALIVE and host.host_id != view.local and host.address
        if not is_of_other_family(host, here)
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
    """Networks that this host takes part in, so that it knows all their endpoints."""
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
                "message": f"network {name} is full: {used} of its {total} addresses are in use, and nothing "
                "further can be attached to it",
                "cure": f"`netagent detach` what is not needed (`netagent endpoints --network {name}`), or make "
                "another network with a larger --subnet",
            }


async def _foreign_rules(agent: Agent, cluster: Cluster) -> list[schema.Notice]:
    """Another program's firewall drops what is ours. The agent does not change it; when it goes, all works again."""
    view, rows, config = cluster.live.view, cluster.live.rows, cluster.config
    use = PortUse(
        cluster.underlay.address,
        cluster.underlay.device,
        {"VXLAN": config.vxlan_port, "membership": config.gossip_port, "records": config.record_port},
        addresses_of_others(view),
    )
    found = await agent.foreign_rules.at_ports(use)
    if rows:
        networks = (view.networks.get(row.network_id) for row in rows.values())
        is_routing = any(network is not None and network.record.gateways for network in networks)
        is_apart = cluster.kernel.bridge_nf_bypass.is_tagging
        found += await agent.foreign_rules.in_the_way(is_routing=is_routing, is_apart=is_apart)
        found += await agent.foreign_rules.at_bridges()
    return [{"code": "foreign-firewall", "message": one.message, "cure": one.fix} for one in found]


def _refused(cluster: Cluster, counters: dict[str, int]) -> dict[str, int]:
    """Every counter of something refused, at all ports."""
    refused = {
        name: int(value)
        for name, value in cluster.gossip.node.statistics().items()
        if value and ("refused" in name or "malformed" in name)
    }
    refused |= {f"dns_{name}": value for name, value in counters.items() if value and "refused" in name}
    heard = cluster.gossip.event_queue.heard
    bad_records = len(cluster.live.view.refused) + heard.false_hosts + heard.unusable
    dropped = {
        f"packets_{name}": count for name, count in cluster.kernel.guard.status().dropped.items() if count
    }
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
    """Who spoke to us lately without belonging to the cluster, and why that was refused."""
    return cluster.gossip.event_queue.heard.recent_unknown_sources(trio.current_time())


def _lonely_warnings(agent: Agent) -> Iterable[schema.Notice]:
    clusters = sorted({n.cluster for n in agent.neighbours.heard.values() if n.cluster})
    if clusters:
        of_them = (
            f"the cluster {clusters[0]} is" if len(clusters) == 1 else f"clusters are ({', '.join(clusters)})"
        )
        yield {
            "code": "cluster-heard",
            "message": f"this host is in no cluster, and {of_them} on this link",
            "cure": "on a member `netagent invite`, here `netagent join` with that token",
        }
    else:
        yield {
            "code": "no-cluster",
            "message": "this host is in no cluster",
            "cure": "`netagent init` starts one; `netagent join` enters one with a token of `netagent invite`",
        }
    if not agent.config.mdns:
        yield {
            "code": "mdns",
            "message": "multicast DNS is off here (`mdns = false`), so nobody is heard",
            "cure": _BY_ADDRESS,
        }
    yield from _mdns_warning(agent, _BY_ADDRESS)


def _address_warning(agent: Agent) -> Iterable[schema.Notice]:
    if agent.uplinks.problem:
        cure = "give it back to a device, which is noticed by itself; or correct `advertise` and `bind`, and restart"
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
            "cure": "remove what is in the way; it is tried again by itself",
        }
    if cluster.kernel.guard.trouble:
        yield {
            "code": "firewall",
            "message": f"the firewall: {cluster.kernel.guard.trouble}",
            "cure": "it is tried again by itself; containers that run go on, none can be attached",
        }
    if cluster.kernel.bridge_nf_bypass.trouble:
        yield {
            "code": "bridge-netfilter",
            "message": "bridge netfilter is on, and what our bridges pass goes through the host's rules for routed "
            f"packets as well: {cluster.kernel.bridge_nf_bypass.trouble}",
            "cure": "where nobody needs it: `sysctl -w net.bridge.bridge-nf-call-iptables=0 "
            "net.bridge.bridge-nf-call-ip6tables=0`",
        }
    if cluster.following.forwarding.trouble:
        yield {
            "code": "routing",
            "message": cluster.following.forwarding.trouble,
            "cure": "it is tried again by itself; until then containers may not reach what is outside",
        }


def _warnings(agent: Agent, cluster: Cluster, dirty: Iterable[tuple[str, str]]) -> Iterable[schema.Notice]:
    view = cluster.live.view
    yield from _kernel_warnings(cluster, dirty)
    if not cluster.journal.has_room:
        yield {
            "code": "disk-full",
            "message": f"the disk of {cluster.config.state_dir} is full: nothing can be attached or made",
            "cure": f"free {HEADROOM_BYTES >> 20} MiB there; it works again by itself",
        }
    for endpoint_id, reason in list(cluster.interfaces.troubles.items())[:5]:
        row = cluster.live.rows.get(endpoint_id)
        yield {
            "code": "interface",
            "message": f"the interface of {row.name if row else endpoint_id[:8]} can't be put right: {reason}",
            "cure": "remove what is in the way inside the container; it is tried again by itself",
        }
    trouble = cluster.following.supervisor.status()["trouble"]
    if trouble:
        yield {
            "code": "resolver",
            "message": f"the resolver process: {trouble}",
            "cure": "see the agent's log",
        }
    for clash in view.clashes:
        yield {"code": clash.kind, "message": clash.text, "cure": clash.cure}
    for address, reason in _strangers(cluster).items():
        yield {
            "code": "stranger",
            "message": f"packets from {address} are refused: {reason}",
            "cure": "if it should be a member: there `netagent leave`, then `netagent join` with a token from here",
        }
    yield from _held_words(cluster)
    if cluster.gossip.event_queue.heard.clash:
        yield {
            "code": "identity",
            "message": f"the machine at {cluster.gossip.event_queue.heard.clash} uses this host's identity: "
            "it was cloned",
            "cure": "on one of the two stop the agent, remove its state folder, and join again",
        }
    for host_id, address in cluster.gossip.event_queue.heard.recent_contested(trio.current_time()).items():
        contested = view.hosts.get(HostId(host_id))
        if contested is not None:
            yield {
                "code": "identity",
                "message": f"the machines at {contested.address} and {address} both use the identity of "
                f"{contested.unique_name}: one was cloned",
                "cure": "on one of the two stop the agent, remove its state folder, and join again",
            }
    yield from _fate(agent, cluster)
    yield from _overlaps(cluster)
    yield from _mdns_warning(agent, "name members with --seeds")


def _held_words(cluster: Cluster) -> Iterable[schema.Notice]:
    """Hosts that live, of which another host says that they are gone for good."""
    for word in cluster.gossip.event_queue.held_evictions.waiting[:5]:
        named = (cluster.live.view.hosts.get(one) for one in (word.writer, word.host))
        writer, host = (
            one.unique_name if one is not None else short
            for one, short in zip(named, (word.writer[:8], word.host[:8]), strict=True)
        )
        left_s = max(word.due_at - trio.current_time(), 0.0)
        yield {
            "code": "said-gone",
            "message": f"{writer} says that {host}, which lives, is gone for good; it counts in {left_s:.0f} s",
            "cure": f"if that is wrong, type `netagent forget {writer} --force` on {host}: then neither word counts",
        }


def _fate(agent: Agent, cluster: Cluster) -> Iterable[schema.Notice]:
    """What became of a host that the cluster had forgotten."""
    names = sorted({row.name for row in cluster.live.fenced.values()})
    if names:
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        yield {
            "code": "forgotten",
            "message": f"the cluster forgot this host while it was away: {shown} "
            f"lost {'its address and is' if len(names) == 1 else 'their addresses and are'} fenced",
            "cure": "`netagent attach` them again, or restart their containers; `netagent detach` "
            "drops one of the list",
        }
    elif agent.former_ids:
        former = agent.former_ids[-1][:8]
        yield {
            "code": "forgotten",
            "message": f"the cluster forgot this host ({former}) while it was away: it has begun anew as another one",
            "cure": "nothing to do; set forget_after_s higher if hosts are away for longer than that",
        }


def _overlaps(cluster: Cluster) -> Iterable[schema.Notice]:
    """Routes that came after a network was made."""
    view = cluster.live.view
    hosts_by_route: dict[str, list[str]] = {}
    for host in view.hosts.values():
        for text in host.record.routes if host.record else ():
            hosts_by_route.setdefault(text, []).append(host.unique_name)
    # Hosts have mostly the same routes, and parsing is what costs.
    routes = {text: ipaddress.ip_network(text) for text in hosts_by_route}
    for network in view.networks.values():
        subnets = [ipaddress.ip_network(text) for text in network.record.subnets]
        for text, route in routes.items():
            if any(route.version == subnet.version and route.overlaps(subnet) for subnet in subnets):
                hosts = ", ".join(sorted(hosts_by_route[text]))
                yield {
                    "code": "overlap",
                    "message": f"the route {text} of {hosts} overlaps network {network.unique_name}",
                    "cure": "remove the route, or make the network anew with another --subnet",
                }
