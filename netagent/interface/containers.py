"""Commands of networks and of the containers in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar

from netagent.errors import InputError
from netagent.interface.cluster import MAX_DRAIN_S, Watching
from netagent.interface.command import Command, Fields, argument, option, repeated, switch
from netagent.interface.notation import (
    duration_of,
    filled,
    labels_of,
    link_of,
    links_of,
    ports_of,
    target_of,
    target_or_endpoint_of,
)
from netagent.interface.role import Role

if TYPE_CHECKING:
    from netagent.interface import schema  # noqa: F401 - the answers, in quotes

A_co = TypeVar("A_co", covariant=True)

TITLE = "Networks and containers"

PORTS = "[ADDR:]PORT:PORT[/PROTOCOL]"


class NetworkCreateCommand(
    Command["schema.Network"],
    command="create",
    within="network",
    route="POST /v1/networks",
    brief="Create a network.",
    waits="waiting until all hosts know the network",
    examples="sudo netagent network create app\n"
    "sudo netagent network create db --subnet 10.170.0.0/24 --internal",
    creates=True,
):
    """Create a network. Repeating the command changes nothing; with other options it is refused."""

    name: str = argument(metavar="NAME")
    subnets: list[str] = repeated(
        "--subnet", metavar="CIDR", help="at most one IPv4 and one IPv6 (default: chosen from address_pools)"
    )
    # 576 is the minimum of IPv4 (RFC 791); the 1280 of IPv6 is checked later, when the subnets are known.
    mtu_bytes: int | None = option(
        "--mtu",
        type=int,
        metavar="BYTES",
        help="default: what fits this host's network, less 80 for encryption",
        bounds=(576, 65535),
    )
    internal: bool = switch("--internal", help="containers cannot reach anything outside the network")
    policy: Literal["open", "links"] = option(
        "--policy",
        default="open",
        choices=("open", "links"),
        help="open (default): all containers may connect to each other; links: only to services they are linked to",
    )
    answer_order: Literal["spread", "nearest", "zone"] = option(
        "--answer",
        default="spread",
        choices=("spread", "nearest", "zone"),
        help="which replicas a service's name leads to: spread (default): all; nearest: the nearest ones; "
        "zone: those in the asker's zone, or else the nearest ones",
    )
    multicast: bool = switch("--multicast", help="carry multicast and broadcast to the other hosts")
    host_access: bool = switch("--host-access", help="give each host an address in the network")
    shared_names: Literal["answer", "refuse"] = option(
        "--shared-names",
        default="answer",
        choices=("answer", "refuse"),
        help="a name that several groups (compose projects) have, asked from outside them: answer (default): "
        "all of them in turn; refuse: NXDOMAIN",
    )
    service_addresses: Literal["off", "on"] = option(
        "--service-addresses",
        default="off",
        choices=("off", "on"),
        help="on: each service of the network gets an address of its own (default: off)",
    )
    egress: str = option(
        "--egress",
        default="open",
        metavar="open|none|LIST",
        help="where its containers may connect outside the cluster: open (default): everywhere; none: nowhere; "
        "or a list of addresses, each with a port or without, such as 192.0.2.0/24:443/tcp,198.51.100.7",
    )
    feed_rules: list[str] = repeated(
        "--feed-rule",
        metavar="DOMAIN",
        help="labels of its containers may publish only this domain, or all below it as *.DOMAIN (default: all)",
    )
    no_feed_labels: bool = switch(
        "--no-feed-labels",
        help="keep labels of Traefik, Caddy and Prometheus from the other hosts, and from feeds",
    )


class NetworkSetCommand(
    Command["schema.ChangedNetwork"],
    command="set",
    within="network",
    route="POST /v1/networks/{network}/options",
    brief="Change options of a network.",
    waits="waiting until all hosts know the change",
    examples="sudo netagent network set app --policy links\n"
    "sudo netagent network set app --answer nearest --service-addresses on\n"
    "sudo netagent network set app --internal yes\n"
    "sudo netagent network set app --egress 192.0.2.0/24:443",
):
    """Change options of a network on all hosts, while containers are in it. Any host may do so, whichever has created
    the network. What is not given stays as it is; subnets and MTU always do."""

    network: str = argument(metavar="NAME", help="its name or id", read=filled("network"))
    policy: Literal["open", "audit", "links"] | None = option(
        "--policy",
        choices=("open", "audit", "links"),
        help="open: all containers may connect to each other; audit: so they may, and what links would refuse is "
        "counted; links: only to services they are linked to",
    )
    internal: Literal["yes", "no"] | None = option(
        "--internal",
        choices=("yes", "no"),
        help="yes: its containers have no Internet access, and their published ports are closed",
    )
    multicast: Literal["yes", "no"] | None = option(
        "--multicast",
        choices=("yes", "no"),
        help="yes: multicast and broadcast reach its containers on every host",
    )
    host_access: Literal["yes", "no"] | None = option(
        "--host-access",
        choices=("yes", "no"),
        help="yes: each host gets an address in it, by which hosts and containers reach each other",
    )
    answer_order: Literal["spread", "nearest", "zone"] | None = option(
        "--answer",
        choices=("spread", "nearest", "zone"),
        help="which replicas a service's name leads to: spread: all; nearest: the nearest ones; "
        "zone: those in the asker's zone, or else the nearest ones",
    )
    shared_names: Literal["answer", "refuse"] | None = option(
        "--shared-names",
        choices=("answer", "refuse"),
        help="a name that several groups (compose projects) have, asked from outside them: answer: all of them in "
        "turn; refuse: NXDOMAIN",
    )
    service_addresses: Literal["off", "on"] | None = option(
        "--service-addresses",
        choices=("off", "on"),
        help="on: give each service in it an address of its own; off: only to those that ask for one; what has an "
        "address keeps it",
    )
    egress: str | None = option(
        "--egress",
        metavar="open|none|LIST",
        help="where its containers may connect outside the cluster: open: everywhere; none: nowhere; "
        "or a list of addresses, each with a port or without, such as 192.0.2.0/24:443/tcp,198.51.100.7",
    )


class NetworkListCommand(
    Watching["schema.Listing[schema.Network]"],
    command="ls list",
    within="network",
    route="GET /v1/networks",
    role=Role.READ,
    brief="List the networks of the cluster.",
    examples="netagent network ls\nnetagent network ls -o wide",
    order="name",
):
    """List the networks of the cluster."""

    within: frozenset[str] | None = option(is_sent=False)


class NetworkInspectCommand(
    Command["schema.Network"],
    command="inspect",
    within="network",
    route="GET /v1/networks/{network}",
    role=Role.READ,
    brief="Show one network.",
    examples="netagent network inspect app",
):
    """Show everything known of one network."""

    network: str = argument(metavar="NAME", help="its name or id", read=filled("network"))


class NetworkRemoveCommand(
    Command["schema.NetworkRemoved"],
    command="rm remove",
    within="network",
    route="DELETE /v1/networks/{network}",
    brief="Remove a network.",
    waits="detaching containers, removing devices, telling the other hosts",
    examples="sudo netagent network rm app\nsudo netagent network rm app --force",
):
    """Remove a network that has no endpoints."""

    network: str = argument(metavar="NAME", help="its name or id", read=filled("network"))
    force: bool = switch("--force", help="also if it has endpoints: detach those of this host")


class NetworkPruneCommand(
    Command["schema.Listing[schema.NetworkRemoved]"],
    command="prune",
    within="network",
    route="POST /v1/prune-networks",
    brief="Remove the networks that have no endpoints.",
    waits="asking the other hosts which networks are empty",
    examples="sudo netagent network prune",
    order="name id",
):
    """Remove every network without an endpoint. Endpoints of hosts that are gone do not count."""


class _Connection(Command[A_co], Generic[A_co]):
    network: str = argument(metavar="NET", help="its name or id", read=filled("network"))
    target: str = argument(
        metavar="TARGET", help="as for `attach`, or an endpoint of this host", read=target_or_endpoint_of
    )
    within: frozenset[str] | None = option(is_sent=False)


class NetworkConnectCommand(
    _Connection["schema.Endpoint"],
    command="connect",
    within="network",
    route="POST /v1/networks/{network}/connect",
    role=Role.ATTACH,
    brief="Attach an already attached container to one more network.",
    examples="sudo netagent network connect db netns:web1",
    creates=True,
):
    """Attach an already attached container to one more network, under the same name."""


class NetworkDisconnectCommand(
    _Connection["schema.Detached"],
    command="disconnect",
    within="network",
    route="POST /v1/networks/{network}/disconnect",
    role=Role.ATTACH,
    brief="Detach a container from a network.",
    examples="sudo netagent network disconnect app web1",
):
    """Detach a container from a network."""


class LinkOfAttach(Fields):
    """A link in an attach."""

    service: str = argument()
    alias: str = option(default="")


class PortOfAttach(Fields):
    """A port in an attach. The name is by default the number, the protocol `tcp`."""

    number: int = argument(called="a port's number", bounds=(1, 65535))
    name: str = option(default="")
    protocol: str = option(default="")
    alpn: list[str] = repeated()


class AttachCommand(
    Command["schema.Endpoint"],
    command="attach",
    route="POST /v1/endpoints",
    role=Role.ATTACH,
    brief="attach a container to a network",
    waits="waiting for the network's devices and names",
    examples="sudo netagent attach netns:web1 --network app --service web --expose http=80/tcp\n"
    "sudo netagent attach pid:4711 --network app --name api --link db:database",
    creates=True,
):
    """Attach a container to a network: it gets an interface, an address of each family, a name, and a DNS
    resolver at 127.0.0.11. Repeating the command changes nothing."""

    target: str = argument(
        metavar="TARGET",
        help="netns:NAME, the path of a namespace, pid:PID, docker:NAME, podman:NAME, unit:NAME or machine:NAME",
        read=target_of,
    )
    network: str = argument("--network", metavar="NET", help="the network to attach it to")
    name: str = option(
        "--name", default="", metavar="NAME", help="name of the endpoint (default: the target's)"
    )
    service: str = option(
        "--service", default="", metavar="NAME", help="service that it belongs to (default: its name)"
    )
    group: str = option(
        "--group",
        default="",
        metavar="NAME",
        help="project that it belongs to: its members find each other's services first (default: that of its "
        "other networks)",
    )
    aliases: list[str] = repeated(
        "--alias", metavar="NAME", help="a further name of it in the network; may be repeated"
    )
    links: list[LinkOfAttach] = repeated(
        "--link", metavar="SERVICE[:ALIAS]", help="see `netagent link`; may be repeated", read=links_of
    )
    ports: list[PortOfAttach] = repeated(
        "--expose",
        metavar="[NAME=]PORT[/PROTOCOL][+ALPN…]",
        help="a port to announce in SRV records, such as http=80/tcp, and with the protocols that its server speaks "
        "behind TLS in HTTPS records, such as https=443/tcp+h2+http/1.1; may be repeated",
        read=ports_of,
    )
    weight: int | None = option(
        "--weight",
        type=int,
        metavar="N",
        help="its share among the replicas of its service: 0 to 1000 (default: 100); 0: only if there is no other",
        bounds=(0, 1000),
    )
    publish: list[str] = repeated(
        "-p",
        "--publish",
        metavar=PORTS,
        help="forward a port of the host to one of the container: 8080:80, 8080-8089:80-89/udp; may be repeated",
        role=Role.ADMIN,
    )
    labels: dict[str, str] = repeated(
        "--label", metavar="KEY=VALUE", help="a label; may be repeated", read=labels_of
    )
    checks: list[str] = repeated(
        "--check",
        metavar="CHECK",
        help="the container gets its names once this succeeds, and loses them while it fails: http:8080/healthz, "
        "tcp:6379, exec:/bin/ready, each with interval= timeout= fall= rise= grace=; may be repeated",
    )
    all_failing: Literal["hide", "keep"] = option(
        "--all-failing",
        default="hide",
        choices=("hide", "keep"),
        help="whether names lead to it while it is unhealthy and no other replica is up: keep, where its checks are "
        "not trusted (default: hide)",
    )
    ip: list[str] = repeated("--ip", metavar="ADDR", help="a fixed address, at most one of each family")
    mac: str = option("--mac", default="", metavar="MAC", help="a fixed MAC address")
    ifname: str = option(
        "--ifname",
        default="",
        metavar="NAME",
        help="name of the interface in the container (default: eth0, eth1, …)",
    )
    within: frozenset[str] | None = option(is_sent=False)


class _OfEndpoint(Command[A_co], Generic[A_co]):
    endpoint: str = argument(
        metavar="ENDPOINT", help="its name, NAME.NETWORK, or id", read=filled("endpoint")
    )


class DetachCommand(
    _OfEndpoint["schema.Detached"],
    command="detach",
    route="DELETE /v1/endpoints/{endpoint}",
    role=Role.ATTACH,
    brief="detach it",
    waits="waiting until names lead elsewhere, and open requests have ended",
    examples="sudo netagent detach web1\nsudo netagent detach web1 --drain 30s",
):
    """Remove a container's interface. All hosts drop its name first, and open connections get one second
    to finish."""

    drain_s: float | None = option(
        "--drain",
        metavar="TIME",
        help="also wait until clients drop the cached address (5s), then give open requests this long to finish",
        read=duration_of,
        bounds=(0.0, MAX_DRAIN_S),
    )

    @property
    def work_s(self) -> float:
        """The time that open requests get."""
        return self.drain_s or 0.0


class _OfEndpointOrHost(Command[A_co], Generic[A_co]):
    endpoint: str = option(
        default="",
        nargs="?",
        metavar="ENDPOINT",
        help="its name, NAME.NETWORK, or id",
        read=filled("endpoint"),
        is_exclusive=True,
    )
    host: bool = switch(
        "--host",
        help="all containers of this host, those that come included",
        is_exclusive=True,
        role=Role.ADMIN,
    )


class DrainCommand(
    _OfEndpointOrHost["schema.Drained"],
    command="drain",
    route="POST /v1/drain",
    role=Role.ATTACH,
    brief="lead names away from a container, or from all of this host",
    waits="waiting until names lead elsewhere, and no connection is open",
    examples="sudo netagent drain web1\nsudo netagent drain web1 --wait 30s && docker stop web1\n"
    "sudo netagent drain --host",
):
    """Withdraw the names of a container of this host on all hosts. It stays, with its connections and links, and
    so does the drain until `undrain`, also through restarts of the agent."""

    wait_s: float | None = option(
        "--wait",
        metavar="TIME",
        help="wait until clients have dropped the cached address (5s) and no connection is open, but no longer; "
        "exit status 1: one still is",
        read=duration_of,
        bounds=(0.0, MAX_DRAIN_S),
    )

    @property
    def work_s(self) -> float:
        """The time that open requests get."""
        return self.wait_s or 0.0


class UndrainCommand(
    _OfEndpointOrHost["schema.Drained"],
    command="undrain",
    route="POST /v1/undrain",
    role=Role.ATTACH,
    brief="let names lead there again",
    examples="sudo netagent undrain web1\nsudo netagent undrain --host",
):
    """Let names lead again to a container, or to the containers of this host that are not drained by themselves."""


CHECK_WAIT_S: Final = 120.0
"""Bound of the time that `check` waits for answers, one of which may take a minute; beyond it: the others are shown
as not asked."""


class CheckCommand(
    Command["schema.CheckAnswer"],
    command="check",
    route="POST /v1/check",
    role=Role.ATTACH,
    brief="ask the checks of a container now, and show what comes back",
    waits="waiting for what the checks answer",
    examples="sudo netagent check web1\nsudo netagent check web",
):
    """Ask the checks of a container of this host, or of all containers that this host has of a service, once and at
    once. What comes back changes nothing. Exit status 1: a check fails."""

    endpoint: str = argument(
        metavar="ENDPOINT", help="its name, NAME.NETWORK, or id; or a service", read=filled("endpoint")
    )

    @property
    def work_s(self) -> float:
        """The time that programs get to answer."""
        return CHECK_WAIT_S


class _Linking(_OfEndpoint["schema.Endpoint"]):
    service: str = argument(
        metavar="SERVICE[:ALIAS]",
        help="a service (or SERVICE.NETWORK), and its alias",
        read=link_of,
        spreads=True,
    )
    alias: str = option(default="")


class LinkCommand(
    _Linking,
    command="link",
    route="POST /v1/endpoints/{endpoint}/links",
    role=Role.ATTACH,
    brief="make a service resolvable under an alias in one container",
    examples="sudo netagent link web1 db:database",
):
    """Make SERVICE resolvable as ALIAS in the endpoint's container. Where the network's policy is `links`,
    this also allows connections to it."""


class UnlinkCommand(
    _Linking,
    command="unlink",
    route="DELETE /v1/endpoints/{endpoint}/links",
    role=Role.ATTACH,
    brief="remove a link",
    examples="sudo netagent unlink web1 db:database",
):
    """Remove a link."""


class _PublishingService(Command["schema.PublishedService"]):
    service: str = argument(metavar="NAME", help="the service, or NAME.NETWORK", read=filled("service"))
    port: str = argument(
        metavar="PORT:PORT[/PROTOCOL]",
        help="a port of the hosts and a port of the replicas, or a range of each",
    )
    network: str = option(
        "--network", default="", metavar="NET", help="the network, if several have such a service"
    )
    group: str = option("--group", default="", metavar="NAME", help="the group, if it is the service of one")


class PublishServiceCommand(
    _PublishingService,
    command="publish",
    within="service",
    route="POST /v1/services/{service}/published",
    brief="Forward a port of each host that has a replica to its replicas.",
    examples="sudo netagent service publish web 80:80\nsudo netagent publish --service web 80:80",
):
    """Forward a port of each host that has a replica of the service to the replicas on that host. They see the
    client's address. Other hosts refuse. Repeating the command changes nothing."""


class UnpublishServiceCommand(
    _PublishingService,
    command="unpublish",
    within="service",
    route="DELETE /v1/services/{service}/published",
    brief="Stop forwarding the port.",
    examples="sudo netagent service unpublish web 80:80",
):
    """Stop forwarding the port on all hosts. Only the host where the service was published can do so."""


class _Publishing(Command["schema.Endpoint"]):
    endpoint: str = argument(
        metavar="ENDPOINT",
        nargs="?",
        default="",
        help="its name, NAME.NETWORK, or id; or --service instead",
        read=filled("endpoint"),
    )
    service: str = option(
        "--service",
        default="",
        metavar="NAME",
        help="a port of each host with a replica of this service instead, as by `netagent service publish`",
        is_sent=False,
    )
    network: str = option(
        "--network", default="", metavar="NET", help="the network of the service", is_sent=False
    )
    group: str = option("--group", default="", metavar="NAME", help="the group of the service", is_sent=False)
    port: str = argument(
        metavar=PORTS, help="a port of the host and a port of the container, or a range of each"
    )

    def sent(self) -> Command[Any]:
        """With --service the same request about that."""
        if bool(self.endpoint) == bool(self.service):
            raise InputError("name an endpoint or a service", hint="write ENDPOINT, or --service NAME")
        if not self.service:
            return self
        kind = PublishServiceCommand if isinstance(self, PublishCommand) else UnpublishServiceCommand
        return kind(**{name: vars(self).get(name, "") for name in ("service", "port", "network", "group")})


class PublishCommand(
    _Publishing,
    command="publish",
    route="POST /v1/endpoints/{endpoint}/published",
    brief="forward a port of this host to a container",
    examples="sudo netagent publish web1 8080:80\n"
    "sudo netagent publish --service web 80:80\n"
    "sudo netagent publish web1 192.0.2.1:5000-5009:5000-5009/udp",
):
    """Forward a port of this host to a port of the endpoint's container."""


class UnpublishCommand(
    _Publishing,
    command="unpublish",
    route="DELETE /v1/endpoints/{endpoint}/published",
    brief="stop forwarding the port",
    examples="sudo netagent unpublish web1 8080:80",
):
    """Stop forwarding the port."""
