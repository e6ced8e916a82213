"""Names that lead elsewhere than the operators who assigned them expect, and projects that may be two. Pure.

What a label leads to, for a container outside all groups that have it, is in netagent.model.naming.

    shared       endpoints of several groups are answered for one label in turn, or none if the network refuses that
    shadowed     an endpoint without a group has the label as its name or as an alias, and another one is answered

A service that was chosen (`--service`, the label `netagent.service`) is shared on purpose, and is no finding.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from netagent.model.ids import HostId, NetworkId
from netagent.registry.view import EndpointView, RegistryView
from netgossip.slices import Slices

_LOOKED_AT_PER_SLICE: Final = 64
CURE: Final = "name one of them so that no other project uses the name; see docs/how-to/projects.md"
SPLIT_CURE: Final = (
    "give one of the two another name (`docker compose -p NAME`, or `name:` in its file); if it is one project, run "
    "it from a folder of the same path on each host"
)


@dataclass(frozen=True, slots=True, order=True)
class NameClaimant:
    """The endpoints with the name, of one group or one by one."""

    group: str
    """`""` for an endpoint without a group."""
    endpoint: str
    """Its name, where there is no group."""
    hosts: tuple[str, ...]

    @property
    def text(self) -> str:
        """The text for people."""
        who = f"group {self.group}" if self.group else self.endpoint
        return f"{who} on {', '.join(self.hosts)}"


@dataclass(frozen=True, slots=True, order=True)
class SharedName:
    """One name in one network."""

    network: str
    label: str
    takers: tuple[NameClaimant, ...]
    """The endpoints that are answered for it."""
    losers: tuple[NameClaimant, ...]
    """The endpoints that have it and are not answered; () where the name is shared."""
    is_refused: bool = False
    """The network refuses shared names: nothing is answered."""

    @property
    def text(self) -> str:
        """One sentence."""
        takers = " and ".join(one.text for one in self.takers)
        where = f"the name {self.label} in network {self.network}"
        if not self.losers:
            asked = " or ".join(f"{self.label}.{one.group}" for one in self.takers if one.group)
            return (
                f"{where} is shared by {takers}: other containers get "
                f"{'no answer' if self.is_refused else 'the addresses of all'}; ask for {asked}"
            )
        losers = " and ".join(one.text for one in self.losers)
        return f"{where} leads to {takers}, and not to {losers}"


def shared_names(view: RegistryView) -> Slices[tuple[SharedName, ...]]:
    """Return all shared names of the view's networks, sorted. Costs the aliases and the services of groups."""
    found = []
    for number, (network_id, label) in enumerate(view.store.by_given):
        one = shared_name(view, network_id, label)
        if one is not None:
            found.append(one)
        if number % _LOOKED_AT_PER_SLICE == 0:
            yield
    return tuple(sorted(found))


def shared_name(view: RegistryView, network_id: NetworkId, label: str) -> SharedName | None:
    """Return the finding for one name; None when it leads where one expects."""
    network = view.networks.get(network_id)
    given = view.given(network_id, label)
    if network is None or not given:
        return None
    of_network = view.service(network_id, label).endpoints
    if any(one.record.service != one.record.name for one in of_network):
        takers, others = of_network, given
    else:
        takers, others = given, of_network
    taken = {one.endpoint_id for one in takers}
    losers = [one for one in others if one.record.group is None and one.endpoint_id not in taken]
    if losers:
        return SharedName(network.unique_name, label, _parties(view, takers), _parties(view, losers))
    if takers is of_network or len({one.record.group.name for one in takers if one.record.group}) < 2:
        return None
    is_refused = network.record.refuses_shared_names
    return SharedName(network.unique_name, label, _parties(view, takers), (), is_refused=is_refused)


@dataclass(frozen=True, slots=True, order=True)
class SplitProject:
    """A project whose service runs on several hosts, from different working folders."""

    network: str
    group: str
    service: str
    hosts: tuple[str, ...]

    @property
    def text(self) -> str:
        """One sentence."""
        return (
            f"service {self.service} of project {self.group} in network {self.network} was started from different "
            f"folders on {' and '.join(self.hosts)}: if these are two projects of one name, each finds the other's "
            "containers under its own names"
        )


def split_projects(view: RegistryView) -> Slices[tuple[SplitProject, ...]]:
    """Return the services of projects that several hosts run from different folders, sorted. Costs the services of
    groups and their endpoints."""
    found = []
    looked_at = 0
    for (network_id, label), endpoints in view.store.by_given.items():
        folders: dict[str, dict[bytes, set[HostId]]] = {}
        for one in endpoints.values():
            group = one.record.group
            if group is not None and group.service == label and group.directory is not None:
                folders.setdefault(group.name, {}).setdefault(group.directory, set()).add(one.owner)
            looked_at += 1
            if looked_at % _LOOKED_AT_PER_SLICE == 0:
                yield
        network = view.networks.get(network_id)
        for name, hosts_by_folder in folders.items():
            hosts = set().union(*hosts_by_folder.values())
            if network is not None and len(hosts_by_folder) > 1 and len(hosts) > 1:
                where = tuple(sorted(_host_name(view, host) for host in hosts))
                found.append(SplitProject(network.unique_name, name, label, where))
    return tuple(sorted(found))


def _parties(view: RegistryView, endpoints: Iterable[EndpointView]) -> tuple[NameClaimant, ...]:
    hosts: dict[tuple[str, str], set[HostId]] = {}
    for one in endpoints:
        group = one.record.group
        hosts.setdefault((group.name, "") if group else ("", one.record.name), set()).add(one.owner)
    return tuple(
        sorted(
            NameClaimant(*who, tuple(sorted(_host_name(view, host) for host in where)))
            for who, where in hosts.items()
        )
    )


def _host_name(view: RegistryView, host_id: HostId) -> str:
    host = view.hosts.get(host_id)
    return host_id[:8] if host is None else host.unique_name or host.name
