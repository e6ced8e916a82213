"""`netagent map`: the graph of hosts, services and who opens connections to whom, as text or for Graphviz.

A node is a service in a network, an address that no container has, a host itself, or `outside`: all clients of
published ports. An edge is what one node opened to another in
the last hour, a link of the policy, or both. Only its own host gives the links of a container, so a link of another
host's by which nothing was opened is left out. Names come from other members: they are cleaned of control characters,
and quoted for Graphviz.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from netagent.cli.client_commands import DONE, CommandContext, runs, waiting, warn
from netagent.cli.render import Item, clean, counted
from netagent.interface.cluster import MembersCommand
from netagent.interface.questions import EndpointsCommand, FlowsCommand, MapCommand, ServicesCommand

MAX_PORTS = 8
"""Bound of ports that are shown for one edge; beyond it: their number is said."""

Node = tuple[str, str]
"""The id of a network, and the service in it, with its group if it has one; or what else is an end of a flow."""


@dataclass(slots=True)
class Edge:
    """What one node opened to another, and whether a link leads there."""

    is_linked: bool = False
    openings: int = 0
    refused: int = 0
    ports: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Graph:
    """Hosts, services by node, ends of flows that are no service with what is known of them, and edges."""

    hosts: Sequence[Item]
    services: Mapping[Node, Item]
    others: Mapping[Node, str]
    edges: Mapping[tuple[Node, Node], Edge]


@runs(MapCommand)
def run(session: CommandContext, request: MapCommand) -> int:
    """Ask for the four lists that the graph is made of, and draw it."""
    part = {"network": request.network, "local": request.local}
    with waiting("asking the agent for services, containers and flows"):
        members = session.client.send(MembersCommand())
        services = session.client.send(ServicesCommand(**part))
        endpoints = session.client.send(EndpointsCommand(**part))
        flows = session.client.send(FlowsCommand(**part))
    graph = graph_of(members["items"], services["items"], endpoints["items"], flows["items"])
    printer = session.printer
    warnings = [
        *{str(one): one for said in (services, endpoints, flows) for one in said.get("warnings", [])}.values()
    ]
    if request.dot:
        printer.lines(dot(graph))
    elif printer.is_machine:
        printer.json({**as_json(graph), "warnings": warnings})
    elif printer.form == "name":
        printer.lines(clean(str(one["id"])) for one in graph.services.values())
    else:
        printer.lines(text(graph))
    warn(session, {"warnings": warnings})
    return DONE


def graph_of(
    hosts: Sequence[Item], services: Iterable[Item], endpoints: Iterable[Item], flows: Iterable[Item]
) -> Graph:
    """Return the graph of what four lists of the agent say. An edge within one node is left out."""
    nodes: dict[Node, Item] = {}
    for service in services:
        nodes[service["network_id"], _in_group(service["name"], service.get("group", ""))] = service
    edges: dict[tuple[Node, Node], Edge] = {}
    for endpoint in endpoints:
        network, group = endpoint["network_id"], endpoint.get("group", "")
        start = network, _in_group(endpoint["service"], group)
        for link in endpoint["links"]:
            end = _linked(nodes, network, group, link["service"])
            if start in nodes and end is not None and end != start:
                edges.setdefault((start, end), Edge()).is_linked = True
    others: dict[Node, str] = {}
    for flow in flows:
        kind = flow.get("from_kind", "endpoint")  # earlier releases send none
        start = flow["network_id"], flow["from_service"] if kind == "endpoint" else flow["from"]
        end = flow["network_id"], flow["to_service"] or flow["to"]
        is_gone = kind == "endpoint" and start not in nodes
        if start == end or (is_gone and not flow.get("from_gone")):
            continue
        if kind != "endpoint" or is_gone:
            others[start] = "gone" if is_gone else kind
        if end not in nodes:
            others[end] = "gone" if flow.get("to_gone") else flow["to_kind"]
        edge = edges.setdefault((start, end), Edge())
        edge.openings += flow["openings"]
        edge.refused += flow["refused"]
        edge.is_linked = edge.is_linked or flow["linked"] is True
        edge.ports.add(flow["protocol"] if flow["port"] is None else f"{flow['protocol']}/{flow['port']}")
    return Graph(hosts, nodes, others, edges)


def _in_group(service: str, group: str) -> str:
    return f"{service}.{group}" if group else service


def _linked(nodes: Mapping[Node, Item], network: str, group: str, label: str) -> Node | None:
    """Where a link leads: to a service of the own group, to another one, or to one endpoint as NAME.HOST."""
    for name in (_in_group(label, group), label, label.partition(".")[0]):
        if (network, name) in nodes:
            return network, name
    return None


# -- as text ---------------------------------------------------------------------------------------------------------


def text(graph: Graph) -> Iterator[str]:
    """Draw it as indented lines: hosts, then each network with its services, and below each whom it opens to."""
    yield from ("HOSTS", *(f"  {clean(_host_line(one))}" for one in graph.hosts))
    if not graph.services:
        yield from ("", "There is no service.")
    leaving: dict[Node, list[Node]] = {}
    for start, end in sorted(graph.edges):
        leaving.setdefault(start, []).append(end)
    names = {node[0]: service["network"] for node, service in graph.services.items()}
    others = (node for node in graph.others if node in leaving and node[0] in names)
    network = None
    for node in sorted(
        [*graph.services, *others], key=lambda one: (names[one[0]], one[0], one in graph.others, one)
    ):
        if network != node[0]:
            network = node[0]
            yield from ("", clean(f"NETWORK {names[network]}"))
        service = graph.services.get(node)
        about = "" if service is None else f"  {_replicas(service)}{_where(service)}"
        yield clean(f"  {_title(graph, node)}{about}")
        yield from _edges(graph, node, leaving)


def _edges(graph: Graph, node: Node, leaving: Mapping[Node, Sequence[Node]]) -> Iterator[str]:
    for end in leaving.get(node, ()):
        yield clean(f"    -> {_title(graph, end)}  {_words(graph.edges[node, end])}")


def _host_line(host: Item) -> str:
    way = "this host" if host["local"] else f"path {host['path']}"
    rtt = "" if host["rtt_s"] is None or host["local"] else f", {host['rtt_s'] * 1000:.1f} ms"
    return f"{host['name']}  {host['address']}  {host['agent']}, {way}{rtt}"


def _replicas(service: Item) -> str:
    if service.get("external"):
        return "external"
    return f"{service['answering']}/{service['endpoint_count']}"


def _where(service: Item) -> str:
    return f"  on {', '.join(service['hosts'])}" if service["hosts"] else ""


def _title(graph: Graph, node: Node) -> str:
    kind = graph.others.get(node)
    return node[1] if kind in {None, node[1]} else f"{node[1]} ({_KINDS[kind]})"


_KINDS = {
    "endpoint": "gone",
    "gone": "gone",
    "host": "a host",
    "unknown": "no container has it",
    "outside": "outside",
}


def _words(edge: Edge) -> str:
    parts = []
    if edge.openings:
        ports = sorted(edge.ports)
        more = f" and {len(ports) - MAX_PORTS} more" if len(ports) > MAX_PORTS else ""
        parts.append(f"{', '.join(ports[:MAX_PORTS])}{more}: {counted(edge.openings, 'opening')}")
    if edge.refused:
        parts.append(f"{edge.refused} of them refused")
    if edge.is_linked:
        parts.append("linked")
    return ", ".join(parts)


# -- for Graphviz and programs ---------------------------------------------------------------------------------------


def dot(graph: Graph) -> Iterator[str]:
    """Draw it in the language of Graphviz: networks are clusters, hosts are ellipses, refused openings are red."""
    yield from ("digraph netagent {", "  rankdir=LR;", "  node [shape=box];")
    for host in graph.hosts:
        yield f"  {_quoted('host', host['id'])} [shape=ellipse, label={_quoted(host['name'])}];"
    networks: dict[str, list[Node]] = {}
    for node in sorted(graph.services):
        networks.setdefault(node[0], []).append(node)
    for network, nodes in networks.items():
        name = graph.services[nodes[0]]["network"]
        yield f"  subgraph {_quoted('cluster', network)} {{"
        yield f"    label={_quoted(name)};"
        for node in nodes:
            service = graph.services[node]
            yield f"    {_quoted(*node)} [label={_quoted(f'{node[1]}  {_replicas(service)}')}];"
        yield "  }"
    for node in sorted(graph.others):
        yield f"  {_quoted(*node)} [shape=plaintext, label={_quoted(_title(graph, node))}];"
    ids = {host["name"]: host["id"] for host in graph.hosts}
    for node, service in sorted(graph.services.items()):
        for name in service["hosts"]:
            if name in ids:
                yield f"  {_quoted(*node)} -> {_quoted('host', ids[name])} [style=dotted, dir=none];"
    for (start, end), edge in sorted(graph.edges.items(), key=lambda one: one[0]):
        style = ', color="red"' if edge.refused else "" if edge.openings else ', style="dashed"'
        yield f"  {_quoted(*start)} -> {_quoted(*end)} [label={_quoted(_words(edge))}{style}];"
    yield "}"


def _quoted(*parts: str) -> str:
    r"""A string of Graphviz: only `"` ends it, and a `\` before it or before a letter would have a meaning."""
    text = clean(" ".join(parts)).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def as_json(graph: Graph) -> dict[str, object]:
    """Return it for programs: nodes are named by `id`, edges by the ids of their ends."""

    def name(node: Node) -> str:
        return str(graph.services[node]["id"]) if node in graph.services else node[1]

    return {
        "schema": 1,
        "hosts": list(graph.hosts),
        "services": list(graph.services.values()),
        "others": [
            {"id": node[1], "network_id": node[0], "kind": kind}
            for node, kind in sorted(graph.others.items())
        ],
        "edges": [
            {
                "from": name(start),
                "to": name(end),
                "linked": edge.is_linked,
                "openings": edge.openings,
                "refused": edge.refused,
                "ports": sorted(edge.ports),
            }
            for (start, end), edge in sorted(graph.edges.items(), key=lambda one: one[0])
        ],
    }
