"""Requests of users and runtimes to the agent, as values.

Command line, Docker, CNI and Podman all use them: netagent.control.request_parsing turns the request of a command
into one of these before a use-case sees it. The form of all fields has been checked; the use-cases check whether a
network, an endpoint or a namespace exists.
"""

from __future__ import annotations

from dataclasses import dataclass

from netagent.model.check import Check
from netagent.model.egress import Egress
from netagent.model.ids import NetworkId
from netagent.model.locality import DEFAULT_WEIGHT, AnswerOrder, Balance
from netagent.model.publication import Publication
from netagent.model.records import Group, Link, Policy, Port, ServiceKey, ServicePort, ServiceTarget


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachRequest:
    """Attach the sandbox `target` to `network`. `""` and `()` mean: the agent chooses, or none."""

    target: str
    """`netns:NAME`, an absolute path to a network namespace, `pid:PID`, `docker:NAME`, `podman:NAME`, `unit:NAME`,
    `machine:NAME`; from a runtime that passes the path itself, the name of the container."""
    network: str
    """By name or id."""
    name: str = ""
    """Default: from the target."""
    service: str = ""
    """Default: the endpoint's name."""
    group: Group | None = None
    """Default: that of the sandbox's first endpoint."""
    aliases: tuple[str, ...] = ()
    links: tuple[Link, ...] = ()
    weight: int = DEFAULT_WEIGHT
    ports: tuple[Port, ...] = ()
    publish: tuple[Publication, ...] = ()
    """Sorted; no two share a port of the host."""
    labels: tuple[tuple[str, str], ...] = ()
    """Sorted by key."""
    checks: tuple[Check, ...] = ()
    keeps_names: bool = False
    addresses: tuple[str, ...] = ()
    """Canonical, at most one IPv4 and one IPv6."""
    mac: str = ""
    """Lower case, colons."""
    ifname: str = ""
    within: frozenset[NetworkId] | None = None
    """Refuse a sandbox that is in any other network. None: it may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRequest:
    """Create a network. A missing subnet is chosen from the address pools, a missing MTU from the underlay."""

    name: str
    subnets: tuple[str, ...] = ()
    """Canonical CIDRs, IPv4 first, at most one of each family."""
    mtu_bytes: int | None = None
    internal: bool = False
    policy: Policy = Policy.OPEN
    multicast: bool = False
    host_access: bool = False
    answer: AnswerOrder = AnswerOrder.SPREAD
    feed_rules: tuple[str, ...] | None = None
    feed_labels: bool = True
    refuses_shared_names: bool = False
    service_addresses: bool = False
    egress: Egress = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceRequest:
    """Add a service that is no container to a network."""

    name: str
    target: ServiceTarget
    ports: tuple[Port, ...] = ()
    weight: int = DEFAULT_WEIGHT
    checks: tuple[str, ...] = ()
    ttl_s: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnNameRequest:
    """Add a name to a network: an alias, or data."""

    name: str
    """Labels in front of the network's name; the first may be `*`."""
    cname: str | None = None
    addresses: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceAddressRequest:
    """Give a service of a network an address of its own. The fields are those of ServiceAddressRecord."""

    service: ServiceKey
    ports: tuple[ServicePort, ...] = ()
    """Sorted by number, which no two share."""
    balance: Balance = Balance.SPREAD
    host_weights: tuple[tuple[str, int], ...] = ()
    """Sorted by name, which no two share."""
    is_sticky: bool = False
    keeps_failing: bool = False
    keeps_connections: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceAddressChange:
    """Change the options of a service's address. None: as it is."""

    ports: tuple[ServicePort, ...] | None = None
    """Instead of those that it has; empty: all ports."""
    balance: Balance | None = None
    host_weights: tuple[tuple[str, int | None], ...] | None = None
    """Weights of some hosts, in place of those that they have; None takes the host's weight away. Empty: no host has
    a weight of its own any more."""
    is_sticky: bool | None = None
    keeps_failing: bool | None = None
    keeps_connections: bool | None = None
