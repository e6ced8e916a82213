"""What users and runtimes ask of the agent, as values.

Command line, Docker, CNI and Podman all end here: outside JSON becomes one of these before anything else looks at
it (netagent.control.request_parsing), so that no half-parsed dict travels further in. All fields have been checked
for form; whether a network, an endpoint or a namespace exists is for those who act on the request.
"""

from __future__ import annotations

from dataclasses import dataclass

from netagent.model.publication import Publication
from netagent.model.records import Link, Policy, Port


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachRequest:
    """Put the sandbox `target` into `network`. `""` and `()` mean: the agent chooses, or none."""

    target: str
    """`netns:NAME`, an absolute path to a network namespace, `pid:PID`, `docker:NAME`, `podman:NAME`, `unit:NAME`,
    `machine:NAME`; from a runtime that says the path itself, what to call the container."""
    network: str
    """By name or id."""
    name: str = ""
    """Default: from the target."""
    service: str = ""
    """Default: the endpoint's name."""
    aliases: tuple[str, ...] = ()
    links: tuple[Link, ...] = ()
    ports: tuple[Port, ...] = ()
    publish: tuple[Publication, ...] = ()
    """Sorted; no two share a port of the host."""
    labels: tuple[tuple[str, str], ...] = ()
    """Sorted by key."""
    addresses: tuple[str, ...] = ()
    """Canonical, at most one IPv4 and one IPv6."""
    mac: str = ""
    """Lower case, colons."""
    ifname: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRequest:
    """Make a network. A missing subnet is chosen from the address pools, a missing MTU from the underlay."""

    name: str
    subnets: tuple[str, ...] = ()
    """Canonical CIDRs, IPv4 first, at most one of each family."""
    mtu_bytes: int | None = None
    internal: bool = False
    policy: Policy = Policy.OPEN
    multicast: bool = False
    host_access: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ListFilter:
    """Which endpoints or services to list; `""` means any. All given ones must hold."""

    network: str = ""
    host: str = ""
    """By name or id."""
    service: str = ""
    """A service's name, an alias, or what a runtime calls the service."""
    local: bool = False
    """Only what this host holds itself: the networks that it takes part in."""
