"""Commands that show something and change nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from netagent.events.kinds import EventKind
from netagent.interface.cluster import Watching
from netagent.interface.command import Command, argument, option, switch
from netagent.interface.notation import ends_of, filled, since_of
from netagent.interface.role import Role

if TYPE_CHECKING:
    from netagent.interface import schema  # noqa: F401 - the answers, in quotes

A_co = TypeVar("A_co", covariant=True)

TITLE = "Look; when something is wrong: status, then doctor, then inspect --why"

MAX_PINGS = 100
"""Bound of echoes of one size that `ping` sends; beyond it: refused. A reply may take a second, and the client
waits."""

PING_S = 20.0
"""Enough for eight addresses, each of which may time out, and for reading the kernel."""


FEED_NAMES = ("services", "traefik", "caddy", "envoy", "envoy-endpoints", "prometheus")

FEED_HOLD_S = 25.0
"""How long the agent keeps a request for a feed that the client knows already."""


MAX_SINCE_S = 400 * 86400.0
ASK_ALL_S = 15.0
"""How long the agent asks all other hosts for their events."""


LOCAL = switch("--local", help="use only the records of this host; do not ask other hosts")


class StatusCommand(
    Command["schema.Status"],
    command="status",
    route="GET /v1/status",
    role=Role.READ,
    brief="show the state of this host on one screen",
    waits="asking the agent, name servers and silent hosts",
    examples="netagent status\nnetagent status --json",
):
    """Show the state of this host on one screen, with a cure for each problem. Outside a cluster: the hosts
    heard on the local network, and what to type next."""


class Filtered(Watching[A_co], Generic[A_co]):
    """A list of which only a part may be wanted. All given conditions must hold; `""` means any."""

    network: str = option("--network", default="", metavar="NET", help="only those in this network")
    host: str = option("--host", default="", metavar="HOST", help="only those on this host")
    service: str = option(
        "--service", default="", metavar="NAME", help="only those of this service, alias or container"
    )
    local: bool = LOCAL


class ServicesCommand(
    Filtered["schema.Listing[schema.Service]"],
    command="services",
    also="service ls",
    route="GET /v1/services",
    role=Role.READ,
    brief="list the services and where they run",
    waits="asking the hosts of other networks",
    examples="netagent services\nnetagent services --network app -o wide",
    order="network name id",
):
    """List the services of the cluster. For networks that this host is not in, it asks hosts that are;
    with -o wide, SOURCE names the host that a row comes from."""


class EndpointsCommand(
    Filtered["schema.Listing[schema.Endpoint]"],
    command="endpoints ps",
    also="endpoint ls",
    route="GET /v1/endpoints",
    role=Role.READ,
    brief="list the containers and addresses",
    waits="asking the hosts of other networks",
    examples="netagent endpoints --network app\nnetagent endpoints --watch --json",
    order="network name host id",
):
    """List the containers of the cluster. For networks that this host is not in, it asks hosts that are;
    with -o wide, SOURCE names the host that a row comes from."""


FLOWS_S = 2.0
"""How often flows are read while they are watched."""


class FlowsCommand(
    Watching["schema.Listing[schema.Flow]"],
    command="flows",
    route="GET /v1/flows",
    brief="list who opened connections to whom in the last hour, and how often",
    waits="asking all hosts",
    examples="netagent flows\nnetagent flows --from web --to db\nnetagent flows --refused --watch",
    order="from to network protocol port id",
    period_s=FLOWS_S,
    role=Role.READ,
):
    """List who opened connections to whom in the last hour, on all hosts: containers, the hosts themselves, and
    `outside`, which is all that came in by published ports. The kernel counts opening packets: a SYN of TCP, the
    first datagram between two ends, an echo request. Packets of open connections are not counted. A container's
    flows beyond 256 are counted together, and the list says so. --watch looks every two seconds."""

    source: str = option(
        "--from",
        default="",
        metavar="NAME",
        help="only what this service, container or host opened, or `outside`",
        field="from",
    )
    target: str = option(
        "--to", default="", metavar="NAME|IP", help="only what was opened to this one", field="to"
    )
    network: str = option("--network", default="", metavar="NET", help="only those in this network")
    refused: bool = switch(
        "--refused", help="only those that policy links refused, or would refuse instead of policy audit"
    )
    local: bool = LOCAL


class PolicySuggestCommand(
    Command["schema.PolicySuggestion"],
    command="suggest",
    within="policy",
    route="GET /v1/networks/{network}/suggested-links",
    brief="print the links that cover what containers of a network opened in the last hour",
    examples="netagent policy suggest app",
    role=Role.READ,
):
    """Print the links that containers of a network lack for what they opened in the last hour, as commands to
    type on the hosts of the containers. Changes nothing. Run it while the policy is `open` or `audit`, then
    make the links, and set the policy to `links`."""

    network: str = argument(metavar="NET", help="a network of the cluster", read=filled("network"))
    local: bool = LOCAL


class MapCommand(
    Command["None"],
    command="map",
    brief="draw which services run where and who opened connections to whom",
    examples="netagent map\nnetagent map --network app --dot | dot -Tsvg > app.svg",
):
    """Draw the cluster as text: the hosts, and for each network its services, where they run, and whom they opened
    connections to in the last hour or are linked with. With --dot the same for Graphviz; the page (`netagent
    dashboard`) draws it live."""

    network: str = option("--network", default="", metavar="NET", help="only this network")
    dot: bool = switch("--dot", help="print a graph in the language of Graphviz", is_sent=False)
    local: bool = LOCAL


class TopCommand(
    Command["None"],
    command="top",
    brief="watch members, services, DNS, drift and events on the terminal",
    examples="netagent top",
):
    """Show the state of host and cluster, live, until you press q: members and services with what needs a look first,
    queries per second, changes per minute, drift, paths, and the latest events of this host."""


class DoctorCommand(
    Command["schema.Doctor"],
    command="doctor",
    route="GET /v1/doctor",
    role=Role.READ,
    brief="check this host, and compare its kernel with the records; suggests a fix for each problem",
    waits="comparing kernel, resolver and records",
    examples="sudo netagent doctor\nsudo netagent doctor --json",
):
    """Check this host, and compare its kernel with the records. Checks the kernel, its settings, ports,
    firewalls and the disk; then, entry by entry, devices, neighbours, forwarding entries, containers, names
    and the journal. Changes nothing, and suggests a fix for each problem. Exits 1 when a check failed. Also
    runs when no agent answers, and then exits 3."""

    config: str | None = option(
        "--config",
        metavar="FILE",
        help="the agent's configuration file, used when no agent answers",
        is_sent=False,
    )


class ReportCommand(
    Command["None"],
    command="report",
    brief="write what a bug report needs into one archive, without secrets",
    examples="sudo netagent report\nsudo netagent report --file /tmp/h1.tar.gz",
):
    """Write an archive with the state of this host: status, doctor, members, networks, services, endpoints,
    configuration, logs, and the kernel's links, addresses, routes, neighbours, firewall and programs. It contains no
    key, no token, and no value of a label; it does contain names and addresses. What cannot be read is listed in the
    archive's manifest.txt. Also works when no agent answers."""

    file: str | None = option(
        "--file",
        metavar="PATH",
        help="the archive to write; must not exist (default: netagent-report-HOST-TIME.tar.gz in this folder)",
    )


class InspectCommand(
    Command["schema.Inspection"],
    command="inspect",
    route="GET /v1/inspect",
    role=Role.READ,
    brief="show everything known of a name, id, address or MAC; with --why, what is missing and why",
    waits="asking the hosts of other networks",
    examples="netagent inspect web\nnetagent inspect 10.160.0.2\nsudo netagent inspect web --why",
):
    """Show everything known of one object on any host. An alias, the name or id of a container, or its
    compose name work too. With --why also show its record and every object that the record makes on this
    host: present, missing, or not needed and why. Then exits 1 when an object differs from the record."""

    thing: str = argument(
        metavar="NAME|ID|IP|MAC", help="an endpoint, service, network or host", read=filled("thing")
    )
    why: bool = switch("--why", help="show its record, the objects made from it, and which are missing")
    local: bool = LOCAL


class LookupCommand(
    Command["schema.Lookup"],
    command="lookup",
    route="GET /v1/lookup",
    role=Role.READ,
    brief="show the DNS answer that a container gets for a name, and the reason",
    waits="asking other hosts, or the host's name servers",
    examples="netagent lookup web.app\nnetagent lookup database --from web1\n"
    "netagent lookup web.app AAAA -o name",
):
    """Show the DNS answer that a container gets for a name, and the reason. Without --from: the answer for
    a container in all networks of the cluster, those of this host first. Exits 1 when there is none."""

    name: str = argument(metavar="NAME", help="web, web.app or a full name", read=filled("name"))
    type: str = argument(default="A", metavar="TYPE", nargs="?", help="A (default), AAAA, SRV, PTR, …")
    from_endpoint: str = option(
        "--from", default="", metavar="ENDPOINT", help="show the answer that this endpoint gets", field="from"
    )
    local: bool = LOCAL


class FeedCommand(
    Command["schema.Feed"],
    command="feed",
    route="GET /v1/feeds/{feed}",
    role=Role.READ,
    brief="print the table of services in the form that another program reads",
    examples="netagent feed traefik --network app\n"
    "sudo netagent feed prometheus --watch --file /etc/prometheus/netagent.json",
):
    """Print the table of services in the form that another program reads: our own (services), Traefik's dynamic
    configuration, Caddy's JSON configuration, Envoy's clusters, or Prometheus's targets. It has the endpoints of
    the networks that this host is in. Without an answer that is complete, it fails and leaves FILE as it is."""

    feed: str = argument(metavar="FEED", help=", ".join(FEED_NAMES), read=filled("feed"))
    network: str = option("--network", default="", metavar="NET", help="only the endpoints of this network")
    upstream: Literal["replicas", "service"] = option(
        "--upstream",
        default="replicas",
        choices=("replicas", "service"),
        help="service: the own address of each service that has one, instead of its replicas (default); for programs "
        "of this host, and networks with --host-access",
    )
    known: str = option(default="")
    file: str | None = option(
        "--file", metavar="PATH", help="write it to this file, which is replaced at once", is_sent=False
    )
    watch: bool = switch(
        "--watch", help="print or write it again whenever it changes, until interrupted", is_sent=False
    )

    @property
    def work_s(self) -> float:
        """With the tag of a known content, the agent waits for another one."""
        return FEED_HOLD_S if self.known else 0.0


class PingCommand(
    Command["schema.Ping"],
    command="ping",
    route="GET /v1/ping",
    role=Role.ATTACH,
    brief="test connectivity between containers or hosts, and show which layer drops the packets",
    waits="sending packets and waiting for answers",
    examples="netagent ping web1 db\nnetagent ping web1 db:6379 --trace\nnetagent ping h2",
):
    """Test connectivity with small packets and with the largest that the network allows: from a container
    of this host, or, with one argument, from this host to the kernel of another. TO is a name as that
    container resolves it, an address, or a host; with a port, ping opens a TCP connection. Exits 1 when
    packets are lost, and names the layer that drops them."""

    to: str = argument(
        metavar="[FROM] TO[:PORT]",
        nargs="+",
        help="an endpoint of this host; the destination",
        read=ends_of,
        spreads=True,
    )
    from_endpoint: str = option(default="", field="from")
    count: int = option(
        "--count",
        default=3,
        type=int,
        metavar="N",
        help="packets of each size (default: 3)",
        bounds=(1, MAX_PINGS),
    )
    trace: bool = switch("--trace", help="show each layer on the path and what it decided")

    @property
    def work_s(self) -> float:
        """A packet may take a second."""
        return PING_S + self.count


class EventsCommand(
    Command["schema.Listing[schema.Event]"],
    command="events",
    route="GET /v1/events",
    brief="show what happened on this host, and who or what caused it",
    waits="asking other hosts",
    examples="netagent events\nnetagent events --since 1h --kind member,warning\nnetagent events --since 15:50\n"
    "netagent events -f",
    order="happened_at host",
    is_log=True,
    role=Role.READ,
):
    """Show what happened on this host and who or what caused it, the oldest first: the last 100 events, or with
    --since all since then. The agent keeps events over restarts: the last 1,000 of each kind of author."""

    since_s: float | None = option(
        "--since",
        metavar="TIME",
        help="all of the last 90s, 30m, 1h, 2d, or since a time of today: 15:50",
        read=since_of,
        bounds=(0.0, MAX_SINCE_S),
    )
    kind: str = option(
        "--kind", default="", metavar="KIND,…", help=f"only events of these kinds: {', '.join(EventKind)}"
    )
    all: bool = switch("--all", help="the events of all hosts of the cluster")
    watch: bool = switch("-f", "--follow", help="keep showing new events until interrupted")

    seen: Mapping[str, int] = {}
    """Of each host, the number of the last event that a watch has sent."""

    @property
    def work_s(self) -> float:
        """Other hosts may not answer."""
        return ASK_ALL_S if self.all else 0.0


class DashboardCommand(
    Command["schema.Dashboard"],
    command="dashboard",
    route="GET /v1/dashboard",
    brief="print the address of the web page that shows the cluster",
    examples="sudo netagent dashboard\nssh -L 7958:127.0.0.1:7958 h1 sudo netagent dashboard",
    role=Role.READ,
):
    """Print the address of the web page that shows the cluster: hosts, services, containers, paths, and why something
    is as it is. Any host's agent serves it, on the host itself; from elsewhere, through a tunnel of ssh. The address
    contains a key, with which the page can be read for 12 hours. The page changes nothing."""


class VersionCommand(
    Command["schema.AgentVersion"],
    command="version",
    route="GET /v1/version",
    role=Role.READ,
    brief="print the versions of this program and of the agent",
    examples="netagent version",
):
    """Print the versions of this program and of the agent."""
