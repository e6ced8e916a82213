"""Names that lead elsewhere than the operators who assigned them expect. Pure.

A name in a network can stand for a service, an endpoint or an alias, looked up in this order
(netagent.resolver.index). Compose gives each of its services an alias, so two projects with a service `db` in one
network both answer to `db`; and a container that is itself called `db` takes the name from both. That follows the
rules, and is almost never intended.

    shared       endpoints of several compose projects are answered for one name, in turn
    shadowed     a service or endpoint takes a name from endpoints that have it as an alias

A service that was chosen (`--service`, the label `netagent.service`) is shared on purpose, and is no finding.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Final

from netagent.model.ids import HostId, NetworkId
from netagent.model.origin_labels import COMPOSE_PROJECT, label_of
from netagent.registry.view import EndpointView, RegistryView
from netgossip.slices import Slices

_LOOKED_AT_PER_SLICE: Final = 64
CURE: Final = (
    "give each project a network of its own (`netagent network create`), or name its services so that no other "
    "project uses them; see docs/how-to/runtimes/docker.md"
)


@dataclass(frozen=True, slots=True, order=True)
class NameClaimant:
    """The endpoints with the name, of one compose project or one by one."""

    project: str
    """`""` for an endpoint without a compose project."""
    endpoint: str
    """Its name, where there is no project."""
    hosts: tuple[str, ...]

    @property
    def text(self) -> str:
        """The text for people."""
        who = f"compose project {self.project}" if self.project else self.endpoint
        return f"{who} on {', '.join(self.hosts)}"


@dataclass(frozen=True, slots=True, order=True)
class SharedName:
    """One name in one network."""

    network: str
    label: str
    takers: tuple[NameClaimant, ...]
    """The endpoints that are answered for it."""
    losers: tuple[NameClaimant, ...]
    """The endpoints that have it as an alias and are not answered; () where the name is shared."""

    @property
    def text(self) -> str:
        """One sentence."""
        takers = " and ".join(one.text for one in self.takers)
        where = f"the name {self.label} in network {self.network}"
        if not self.losers:
            return f"{where} is shared by {takers}: clients of each also get the addresses of the other"
        losers = " and ".join(one.text for one in self.losers)
        return f"{where} leads to {takers}, which takes it from the alias of {losers}"


def shared_names(view: RegistryView) -> Slices[tuple[SharedName, ...]]:
    """Return all shared names of the view's networks, sorted. Costs the aliases, and the services of several
    endpoints."""
    found = []
    services = (place for place, some in view.store.by_service.items() if len(some) > 1)
    for number, (network_id, label) in enumerate(chain(view.store.by_alias, services)):
        one = shared_name(view, network_id, label)
        if one is not None:
            found.append(one)
        if number % _LOOKED_AT_PER_SLICE == 0:
            yield
    return tuple(sorted(set(found)))


def shared_name(view: RegistryView, network_id: NetworkId, label: str) -> SharedName | None:
    """Return the finding for one name; None when it leads where one expects."""
    network = view.networks.get(network_id)
    if network is None:
        return None
    aliased = view.aliased(network_id, label)
    takers = view.service(network_id, label).endpoints
    if not takers:
        takers = tuple(e for e in view.endpoints_named(label) if e.network_id == network_id)
    taken = {one.endpoint_id for one in takers}
    projects = {project_of(one) for one in takers}
    losers = tuple(
        one
        for one in aliased
        if takers
        and one.endpoint_id not in taken
        and (not project_of(one) or project_of(one) not in projects)
    )
    if losers:
        return SharedName(network.unique_name, label, _parties(view, takers), _parties(view, losers))
    answered = takers or aliased
    is_chosen = all(one.record.service == label != one.record.name for one in answered)
    if is_chosen or len({project_of(one) for one in answered} - {""}) < 2:
        return None
    return SharedName(network.unique_name, label, _parties(view, answered), ())


def project_of(endpoint: EndpointView) -> str:
    """The endpoint's compose project; `""` for others."""
    return label_of(endpoint.record.labels, COMPOSE_PROJECT)


def _parties(view: RegistryView, endpoints: Iterable[EndpointView]) -> tuple[NameClaimant, ...]:
    hosts: dict[tuple[str, str], set[HostId]] = {}
    for one in endpoints:
        project = project_of(one)
        hosts.setdefault((project, "" if project else one.record.name), set()).add(one.owner)
    return tuple(
        sorted(
            NameClaimant(*who, tuple(sorted(_host_name(view, host) for host in where)))
            for who, where in hosts.items()
        )
    )


def _host_name(view: RegistryView, host_id: HostId) -> str:
    host = view.hosts.get(host_id)
    return host_id[:8] if host is None else host.unique_name or host.name
