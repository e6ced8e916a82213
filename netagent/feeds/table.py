"""What all feeds are made of: the endpoints that one asker may see, and their networks.

Names lead to endpoints that are UP; to UNREACHED ones, and to unhealthy ones that a check keeps, only where a service
has no other; and to those of weight 0 only where all have it. Feeds lead where names lead.
The other endpoints are in the table as well: what their labels define stays defined while none of them answers, so
that a proxy says "no server" and not "no such site", and a monitor goes on watching what is sick.

A proxy whose kernel translates service addresses may ask for these instead of the replicas (`through_services`). It
then has one server for each service that has an address of its own, whichever replicas come and go.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter, itemgetter
from typing import Final, TypeAlias

from netagent.model.records import Port, ServicePort
from netgossip.slices import Slices, merge_sort

_FEED_LABELS: Final = ("traefik.", "caddy", "prometheus.io/")

MAX_FLAWS: Final = 100
"""Bound of sentences about labels that a feed leaves out; beyond it: further ones are left out. A status line shows
their number, and a person repairs one after the other."""


class FeedState(enum.Enum):
    """Whether names lead to an endpoint, and why not."""

    UP = "up"
    UNREACHED = "unreached"
    """Up, but this host does not reach it."""
    STARTING = "starting"
    UNHEALTHY = "unhealthy"
    DRAINED = "drained"
    HIDDEN = "hidden"
    """Its host is down."""


@dataclass(frozen=True, slots=True)
class FeedNetwork:
    """A network that the asker is in."""

    name: str
    domain: str
    """`app.mesh.internal`."""
    rules: tuple[str, ...] | None = None
    """Domains that labels in it may claim (netagent.feeds.host_rule); None: all."""


@dataclass(frozen=True, slots=True)
class FeedServiceAddress:
    """The own address of a service."""

    addresses: tuple[str, ...]
    """IPv4 first."""
    ports: tuple[ServicePort, ...] = ()
    """Only these lead to replicas; empty: all, each to the same port."""

    def port_to(self, number: int) -> int | None:
        """Return the port that leads to this one of the replicas; None: none does."""
        if not self.ports:
            return number
        return next((port.number for port in self.ports if port.target == number), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedEndpoint:
    """An endpoint. `service` is that of its group where it has one."""

    endpoint_id: str
    network: FeedNetwork
    name: str
    service: str
    group: str | None = None
    host: str
    zone: str = ""
    addresses: tuple[str, ...]
    """IPv4 first."""
    ports: tuple[Port, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    state: FeedState = FeedState.UP
    is_kept: bool = False
    """It is unhealthy, and names lead to it while the service has no other."""
    weight: int = 1
    through: FeedServiceAddress | None = None
    """Its service's own address, which a proxy is to use instead of this endpoint's."""

    @property
    def service_key(self) -> tuple[str, ...]:
        """The labels of its service's name, below the domain: `web.app`, in a group `web.shop.app`."""
        if self.group is None:
            return (self.service, self.network.name)
        return (self.service, self.group, self.network.name)


@dataclass(frozen=True, slots=True)
class FeedTable:
    """All that one asker may see. Networks are in the order of attaching: where two of them define one thing, the
    first holds, so that nothing in a further network can take over what the first has."""

    networks: tuple[FeedNetwork, ...]
    endpoints: tuple[FeedEndpoint, ...]
    """Sorted by id."""
    url: str | None = None
    """Where this feed is served, for programs whose configuration names its own source. None: nowhere, in a file."""
    service_addresses: Mapping[tuple[str, ...], FeedServiceAddress] = field(default_factory=dict)
    """The own addresses of services, by their keys."""


@dataclass(slots=True)
class Flaws:
    """What a feed leaves out, one sentence each."""

    sentences: dict[str, None] = field(default_factory=dict)

    def add(self, endpoint: FeedEndpoint, sentence: str) -> None:
        """Note something about the labels of an endpoint."""
        self.note(f"{'.'.join(endpoint.service_key)} (on {endpoint.host}): {sentence}")

    def note(self, sentence: str) -> None:
        """Note a sentence."""
        if len(self.sentences) < MAX_FLAWS:
            self.sentences[sentence] = None


@dataclass(frozen=True, slots=True)
class FeedBody:
    """A feed as a JSON value, and what it leaves out."""

    value: object
    flaws: tuple[str, ...] = ()


Feed: TypeAlias = Callable[[FeedTable], Slices[FeedBody]]


def by_service(endpoints: Iterable[FeedEndpoint]) -> Slices[dict[tuple[str, ...], list[FeedEndpoint]]]:
    """Return the endpoints of each service, by the labels of its name, sorted."""
    found: dict[tuple[str, ...], list[FeedEndpoint]] = {}
    for endpoint in endpoints:
        found.setdefault(endpoint.service_key, []).append(endpoint)
        yield
    return dict((yield from merge_sort(list(found.items()), key=itemgetter(0))))


def through_services(table: FeedTable) -> Slices[FeedTable]:
    """Return the table for a proxy that is to use the own addresses of services where they have them."""
    endpoints = []
    for endpoint in table.endpoints:
        own = table.service_addresses.get(endpoint.service_key)
        endpoints.append(endpoint if own is None else replace(endpoint, through=own))
        yield
    return replace(table, endpoints=tuple(endpoints))


def is_feed_label(key: str) -> bool:
    """True for a label that a feed reads."""
    return key.lower().startswith(_FEED_LABELS)


def sorted_by_id(endpoints: Sequence[FeedEndpoint]) -> Slices[list[FeedEndpoint]]:
    """Sort endpoints by id."""
    return (yield from merge_sort(endpoints, key=attrgetter("endpoint_id")))


def leading(endpoints: Iterable[FeedEndpoint]) -> list[FeedEndpoint]:
    """Return those that names lead to, of the endpoints of one service. A service's own address stays while it has no
    replica that is up: connections are refused then."""
    known = list(endpoints)
    if known and known[0].through is not None:
        return known
    up = [one for one in known if one.state is FeedState.UP]
    found = up or [one for one in known if one.state is FeedState.UNREACHED or one.is_kept]
    return [one for one in found if one.weight] or found


def upstream(endpoint: FeedEndpoint, port: int, flaws: Flaws) -> tuple[str, int] | None:
    """Return where a proxy reaches this port of an endpoint; None: nowhere."""
    own = endpoint.through
    if own is None:
        return (endpoint.addresses[0], port) if endpoint.addresses else None
    number = own.port_to(port)
    if number is None:
        flaws.add(endpoint, f"no port of the service's own address leads to port {port}")
        return None
    return own.addresses[0], number


def at_port(address: str, port: int) -> str:
    """Return address and port as URLs have them."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def http_port(endpoint: FeedEndpoint) -> Port | None:
    """Return the TCP port that speaks HTTP: by name `http`, else `https`, else the only one; None: not known."""
    tcp = [port for port in endpoint.ports if port.protocol == "tcp"]
    for name in ("http", "https"):
        for port in tcp:
            if port.name == name:
                return port
    return tcp[0] if len(tcp) == 1 else None
