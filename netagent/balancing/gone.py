"""Which backends are gone, so that the kernel should end the connections that lead to them. Pure.

A backend is gone when its endpoint has been withdrawn (its container has ended), or its host is: dead by the word of
its agent and of its kernel, out of the cluster, or evicted. A backend that is drained or unhealthy, or that this host
does not reach, is not gone. It gets no new connections, and those that it has may end by themselves.

So what counts is every replica that has had a place since it came, whether or not it has one now. Outside addresses
are never gone: a name that resolves to others by now says nothing about those it resolved to before.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Container, Iterable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from netagent.balancing.backends import Backend, packed
from netagent.external.view import host_addresses
from netagent.model.ids import EndpointId, HostId, NetworkId
from netagent.model.subnet import parse_subnet
from netagent.registry.changelog import ChangedKeys
from netagent.registry.view import AgentState, NetworkView, RegistryView
from netgossip.slices import Slices

_LOOKED_AT_PER_SLICE: Final = 64

Addresses: TypeAlias = tuple[str, ...]
"""A service's own addresses, which name it."""


@dataclass(slots=True)
class _Placed:
    """A replica that connections may have been led to."""

    network_id: NetworkId
    backend: Backend
    keeps: dict[Addresses, bool] = field(default_factory=dict)
    """By service: whether it keeps its connections to replicas that are gone."""


class GoneBackends:
    """Remembers which replicas have had a place, and finds those that are gone."""

    def __init__(self) -> None:
        self._placed: dict[str, _Placed] = {}
        self._by_owner: dict[HostId, dict[str, None]] = {}
        self._gone: dict[bytes, NetworkId] = {}
        self._found: dict[bytes, NetworkId] = {}
        """What the kernel had when this agent started, and is not judged yet."""

    def note_placed(
        self, network_id: NetworkId, service: Addresses, backends: Iterable[Backend], *, keeps: bool
    ) -> None:
        """Note which backends have places now in the table of a service; `keeps`: it keeps connections to those that
        are gone."""
        for backend in backends:
            if backend.is_outside:
                continue
            known = self._placed.get(backend.key)
            if known is not None and not _is_same(known.backend, backend):
                self._bury(backend.key, known)
                known = None
            if known is None:
                known = self._placed[backend.key] = _Placed(network_id, backend)
                self._by_owner.setdefault(backend.owner, {})[backend.key] = None
            known.keeps[service] = keeps

    def note_found(self, network: NetworkView, places: Collection[bytes], *, keeps: bool) -> None:
        """Take in what the kernel had in the table of a service when this agent started: what is in the network and
        belongs to nothing that is alive is gone, once all records are known."""
        subnets = [parse_subnet(text) for text in network.record.subnets]
        for octets in () if keeps else set(places):
            address = ipaddress.ip_address(octets)
            if any(address.version == one.version and address in one for one in subnets):
                self._found[octets] = network.network_id

    def take(
        self,
        view: RegistryView,
        networks: Container[NetworkId],
        touched: ChangedKeys | None,
        *,
        is_settled: bool,
    ) -> Slices[frozenset[bytes]]:
        """Return the addresses of the replicas that are gone, each once. `networks`: those that this host takes part
        in; of another one it knows no endpoints. `touched`: where to look; None: everywhere. `is_settled`: other
        hosts have told this one all that it missed, so what no record has is gone.

        An address that a living endpoint holds by now is left out: new connections lead there, and the new holder
        itself refuses those that it does not know."""
        for number, key in enumerate(self._suspects(touched), start=1):
            placed = self._placed.get(key)
            if placed is not None and placed.network_id not in networks:
                self._forget(key, placed)
            elif placed is not None and not _is_alive(view, placed):
                self._bury(key, placed)
            if number % _LOOKED_AT_PER_SLICE == 0:
                yield
        if is_settled and self._found:
            for number, (octets, network_id) in enumerate(self._found.items(), start=1):
                if not _is_held(view, network_id, str(ipaddress.ip_address(octets))):
                    self._gone[octets] = network_id
                if number % _LOOKED_AT_PER_SLICE == 0:
                    yield
            self._found = {}
        suspects, self._gone = self._gone, {}
        gone = set()
        for number, (octets, network_id) in enumerate(suspects.items(), start=1):
            if not _is_of_living_endpoint(view, network_id, str(ipaddress.ip_address(octets))):
                gone.add(octets)
            if number % _LOOKED_AT_PER_SLICE == 0:
                yield
        return frozenset(gone)

    def _suspects(self, touched: ChangedKeys | None) -> list[str]:
        if touched is None:
            return list(self._placed)
        found: list[str] = [endpoint_id for _, endpoint_id in touched.endpoints]
        for host_id in touched.hosts:
            found += self._by_owner.get(host_id, ())
        return found

    def _bury(self, key: str, placed: _Placed) -> None:
        self._forget(key, placed)
        if not all(placed.keeps.values()):
            self._gone.update(dict.fromkeys(placed.backend.addresses, placed.network_id))

    def _forget(self, key: str, placed: _Placed) -> None:
        del self._placed[key]
        owner = placed.backend.owner
        del self._by_owner[owner][key]
        if not self._by_owner[owner]:
            del self._by_owner[owner]


def _is_same(one: Backend, other: Backend) -> bool:
    return (one.owner, one.addresses) == (other.owner, other.addresses)


def _is_alive(view: RegistryView, placed: _Placed) -> bool:
    backend = placed.backend
    if is_host_gone(view, backend.owner):
        return False
    if backend.is_program:
        return True
    endpoint = view.endpoints.get(EndpointId(backend.key))
    return (
        endpoint is not None
        and endpoint.owner == backend.owner
        and endpoint.network_id == placed.network_id
        and packed(endpoint) == backend.addresses
    )


def is_host_gone(view: RegistryView, host_id: HostId) -> bool:
    """True if none of the host's containers can answer any more, as far as is known."""
    if host_id == view.local:
        return False
    host = view.hosts.get(host_id)
    return host_id in view.evicted or (host is not None and (host.agent is AgentState.LEFT or host.is_gone))


def _is_held(view: RegistryView, network_id: NetworkId, address: str) -> bool:
    """True if the address belongs to an endpoint, or to a host itself, that is alive."""
    return _is_of_living_endpoint(view, network_id, address) or any(
        not is_host_gone(view, host_id)
        for host_id in view.host_addresses(network_id)
        if address in host_addresses(view, network_id, host_id)
    )


def _is_of_living_endpoint(view: RegistryView, network_id: NetworkId, address: str) -> bool:
    endpoint = view.endpoint_by_address(address, network_id)
    return endpoint is not None and not is_host_gone(view, endpoint.owner)
