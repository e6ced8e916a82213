"""The plan for `lab up`: a number of hosts, and from a file also networks and containers.

hosts = 3
ipv6 = true                                       # the hosts have IPv6 addresses only
nat = ["h3"]                                      # hosts behind NAT; IPv4 only
networks = [["app"], ["back", "--internal"]]      # arguments of `netagent network create`

[container.db]
host = "h2"
attach = ["--network", "app"]                     # options of `netagent attach`
command = ["redis-server", "--port", "6379"]      # its main process, if any
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from netlab.errors import LabError
from netlab.state import ContainerState

MAX_HOSTS = 60
"""Each has a process 1, an agent and a resolver: about 130 MB."""


@dataclass(frozen=True, slots=True)
class Topology:
    """A plan of a lab. `hosts` is name -> address; `nat` names those that are behind a router with this address."""

    hosts: dict[str, str]
    networks: list[list[str]] = field(default_factory=list)
    containers: dict[str, ContainerState] = field(default_factory=dict)
    nat: frozenset[str] = frozenset()


def of_hosts(count: int, *, ipv6: bool = False, nat: Collection[str] = ()) -> Topology:
    """Return hosts h1 … hN at 192.0.2.1 …, or at 2001:db8::1 …, those of `nat` behind routers with these addresses.
    Raises LabError for a count out of range, and for `nat` that does not go with the rest."""
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MAX_HOSTS:
        raise LabError(f"a lab has 1 to {MAX_HOSTS} hosts, not {count!r}", exit_status=2)
    first = ip_address("2001:db8::1" if ipv6 else "192.0.2.1")
    hosts = {f"h{number + 1}": str(first + number) for number in range(count)}
    unknown = sorted(set(nat) - hosts.keys())
    if unknown:
        raise LabError(f"there is no host {unknown[0]}; hosts are: {', '.join(hosts)}", exit_status=2)
    if nat and ipv6:
        raise LabError("hosts behind NAT have IPv4 addresses only", exit_status=2)
    return Topology(hosts, nat=frozenset(nat))


def from_file(path: Path) -> Topology:
    """Read a topology. Raises LabError that says what is wrong in it."""
    try:
        raw = tomllib.loads(path.read_text())
    except OSError as error:
        raise LabError(f"cannot read {path}: {error.strerror}", exit_status=2) from None
    except ValueError as error:
        raise LabError(f"{path} is not valid TOML: {error}", exit_status=2) from None
    unknown = sorted(raw.keys() - {"hosts", "ipv6", "nat", "networks", "container"})
    if unknown:
        raise LabError(f"{path}: unknown key {unknown[0]}", exit_status=2)
    if not isinstance(raw.get("ipv6", False), bool):
        raise LabError(f"{path}: ipv6 must be true or false, not {raw['ipv6']!r}", exit_status=2)
    try:
        nat = _texts(raw.get("nat", []))
        plan = of_hosts(raw.get("hosts", 3), ipv6=raw.get("ipv6", False), nat=nat)
        hosts = plan.hosts
        networks = [_texts(network) for network in raw.get("networks", [])]
        containers = {name: _container(part, hosts) for name, part in raw.get("container", {}).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise LabError(f"{path}: {error}", exit_status=2) from None
    return Topology(hosts, networks, containers, plan.nat)


def _container(part: dict[str, Any], hosts: dict[str, str]) -> ContainerState:
    if part.get("host") not in hosts:
        raise ValueError(f"a container's host must be one of {', '.join(hosts)}, not {part.get('host')!r}")
    unknown = sorted(part.keys() - {"host", "attach", "command"})
    if unknown:
        raise ValueError(f"unknown key {unknown[0]} of a container")
    return ContainerState(part["host"], _texts(part.get("attach", [])), _texts(part.get("command", [])))


def _texts(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise ValueError(f"expected a list of texts, found {value!r}")
    return [str(part) for part in value]
