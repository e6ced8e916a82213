"""The tables of service addresses that this host's kernel should have, derived from the registry's view. Pure, apart
from a memory of what it built.

An entry for each service address of the networks that this host takes part in. `ServiceTableBuilder` remembers what
it built last and derives again what was touched since (RegistryView says where to look): a change of one replica
costs the entries of its service. What was built is also the state from which the next table is filled
(netagent.balancing.places); for an address that it has not built yet, that is what the kernel has.

Both addresses of a service have the same backend at the same place, as long as all backends have both families: a
sticky client meets one replica by IPv4 and by IPv6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from netagent.balancing.backends import Backend, backends_of, next_step_s, packed_address, weights_at
from netagent.balancing.gone import GoneBackends
from netagent.balancing.places import fill
from netagent.datapath.sockets.layout import ServiceEntry
from netagent.external.view import labels_of
from netagent.model.ids import HostId, NetworkId
from netagent.model.records import ExternalServiceRecord, ServiceAddressRecord, ServiceKey
from netagent.registry.changelog import ChangedKeys
from netagent.registry.view import EndpointView, NetworkView, RegistryView, ServiceAddressView
from netgossip.deadlines import NEVER, DeadlineHeap
from netgossip.slices import Slices

ServicePlace: TypeAlias = tuple[NetworkId, ServiceKey]

_LISTED_PER_SLICE: Final = 256


@dataclass(frozen=True, slots=True)
class BuiltTables:
    """What differs from the builder's previous result."""

    changed: Mapping[bytes, ServiceEntry | None]
    """By address; None: no service has it any more."""
    gone: frozenset[bytes]
    """Addresses of backends that are gone: once the kernel has `changed`, connections to them should end."""
    gained: frozenset[bytes]
    """Addresses of backends that have places in these entries and had none in them before."""
    is_whole: bool
    """True if `changed` has all entries that there should be."""
    next_s: int | None
    """When to build again, although nothing has changed: a share grows. None: not at all."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """The input that the entries were built from."""

    view: RegistryView
    networks: Mapping[NetworkId, NetworkView]


class ServiceTableBuilder:
    """Builds tables from successive views of one registry. `places_in_kernel` returns what the kernel has for an
    address of which this builder has built no entry."""

    def __init__(self, local: HostId, places_in_kernel: Callable[[bytes], tuple[bytes, ...]]) -> None:
        self._seed = bytes.fromhex(local)
        self._places_in_kernel = places_in_kernel
        self._seen: _Seen | None = None
        """The input of `entries`; None: nothing, or an unfinished step."""
        self.entries: dict[bytes, ServiceEntry] = {}
        """By address."""
        self._holders: dict[bytes, ServicePlace] = {}
        """The service of each entry."""
        self._addresses: dict[ServicePlace, tuple[bytes, ...]] = {}
        """The addresses of the entries of each service."""
        self._steps: DeadlineHeap[ServicePlace] = DeadlineHeap()
        """When the shares of a service change next by themselves."""
        self._gone = GoneBackends()
        self._changed: dict[bytes, ServiceEntry | None] = {}
        self._gained: set[bytes] = set()

    def build(
        self,
        view: RegistryView,
        networks: Mapping[NetworkId, NetworkView],
        now_s: int,
        *,
        is_settled: bool = True,
    ) -> Slices[BuiltTables]:
        """Build the entries of these networks, and find which backends are gone. `is_settled`: since the start of
        this agent the view has got all that other hosts know.

        If the generator is not run to its end, the next call derives everything again.
        """
        seen, self._seen = self._seen, None
        now = _Seen(view, networks)
        touched = view.touched_since(seen.view) if seen is not None else None
        is_whole = seen is None or touched is None
        if seen is None or touched is None:
            places = [*self._addresses, *_places_in(now)]
        else:
            places = [
                place for place in (yield from _touched_places(seen, now, touched)) if self._is_of(now, place)
            ]
        due: ServicePlace | None
        while (due := self._steps.pop_due(now_s)) is not None:
            places.append(due)
        for place in dict.fromkeys(places):
            yield from self._follow(now, place, now_s)
            yield
        gone = yield from self._gone.take(view, networks, touched, is_settled=is_settled)
        self._seen = now
        changed, self._changed = self._changed, {}
        gained, self._gained = frozenset(self._gained), set()
        next_s = self._steps.next()
        return BuiltTables(
            dict(self.entries) if is_whole else changed,
            gone,
            gained,
            is_whole,
            None if next_s == NEVER else int(next_s),
        )

    def build_one(self, view: RegistryView, place: ServicePlace, now_s: int) -> Slices[list[ServiceEntry]]:
        """Build the entries of one service alone, of a network that this host need not take part in."""
        network = view.networks.get(place[0])
        if network is not None:
            yield from self._follow(_Seen(view, {place[0]: network}), place, now_s)
        return [self.entries[address] for address in self._addresses.get(place, ())]

    def _is_of(self, now: _Seen, place: ServicePlace) -> bool:
        return place in self._addresses or place[1] in now.view.service_addresses(place[0])

    def _follow(self, now: _Seen, place: ServicePlace, now_s: int) -> Slices[None]:
        """Update the entries of one service."""
        network_id, service = place
        network = now.networks.get(network_id)
        made: list[bytes] = []
        self._steps.discard(place)
        if network is not None:
            for one in now.view.service_addresses(network_id).get(service, ()):
                made += yield from self._build(now, network, one, now_s)
        for address in self._addresses.pop(place, ()):
            if address not in made:
                self._drop(place, address)
        if made:
            self._addresses[place] = tuple(made)

    def _build(
        self, now: _Seen, network: NetworkView, holder: ServiceAddressView, now_s: int
    ) -> Slices[list[bytes]]:
        """Update the entries for the addresses of one record; return these addresses."""
        record = holder.record
        place = record.network_id, record.service
        backends = yield from backends_of(now.view, record)
        addresses = [packed_address(text) for text in record.addresses]
        used: set[bytes] = set()
        filled: tuple[bytes, ...] = ()
        for number, address in enumerate(addresses):
            before = self._before(network, record, address)
            twins = (yield from _twins(backends, len(addresses[0]), len(address))) if number else None
            if twins is None:
                weights = yield from weights_at(backends, len(address), now_s)
                places = yield from fill(before, weights, self._seed)
                filled = places if number == 0 else filled
            else:
                places = tuple(twins[one] for one in filled)
            self._holders[address] = place
            if address not in self._addresses.get(place, ()):  # at once: this may be given up in the middle
                self._addresses[place] = (*self._addresses.get(place, ()), address)
            entry = ServiceEntry(
                address, network.record.vni, places, record.ports, record.is_sticky, holder.owner
            )
            if self.entries.get(address) != entry:
                self.entries[address] = self._changed[address] = entry
                self._gained.update(set(places).difference(before))
            used.update(places)
        placed = []
        for number, backend in enumerate(backends, start=1):
            if not used.isdisjoint(backend.addresses):
                placed.append(backend)
            if number % _LISTED_PER_SLICE == 0:
                yield
        self._gone.note_placed(record.network_id, record.addresses, placed, keeps=record.keeps_connections)
        step_s = yield from next_step_s(backends, now_s)
        if step_s is not None:
            self._steps.set(place, min(self._steps.at(place), step_s))
        return addresses

    def _before(
        self, network: NetworkView, record: ServiceAddressRecord, address: bytes
    ) -> tuple[bytes, ...]:
        """Return the places of an address so far."""
        known = self.entries.get(address)
        if known is not None:
            return known.places
        found = self._places_in_kernel(address)
        self._gone.note_found(network, found, keeps=record.keeps_connections)
        return found

    def _drop(self, place: ServicePlace, address: bytes) -> None:
        # Another service may have the address by now.
        if self._holders.get(address) == place:
            del self._holders[address], self.entries[address]
            self._changed[address] = None


def _twins(backends: Sequence[Backend], octets: int, others: int) -> Slices[Mapping[bytes, bytes] | None]:
    """Return the address of the other family for each address of the one; None unless all backends have both."""
    found: dict[bytes, bytes] = {}
    for number, one in enumerate(backends, start=1):
        address, other = one.address(octets), one.address(others)
        if address is None or other is None:
            return None
        found[address] = other
        if number % _LISTED_PER_SLICE == 0:
            yield
    return found if len(set(found.values())) == len(found) == len(backends) else None


def _places_in(now: _Seen) -> Iterator[ServicePlace]:
    for network_id in now.networks:
        yield from ((network_id, key) for key in now.view.service_addresses(network_id))


def _touched_places(seen: _Seen, now: _Seen, touched: ChangedKeys) -> Slices[dict[ServicePlace, None]]:
    """Return the services whose entries can differ, and others."""
    found: dict[ServicePlace, None] = dict.fromkeys(touched.service_addresses)
    for network_id in _touched_networks(seen, now):
        for view in (seen.view, now.view):
            for key in view.service_addresses(network_id):
                found[network_id, key] = None
                yield
    for number, (_, endpoint_id) in enumerate(touched.endpoints, start=1):
        for view in (seen.view, now.view):
            endpoint = view.endpoints.get(endpoint_id)
            if endpoint is not None:
                found.update(dict.fromkeys(_led_by(view, endpoint)))
        if number % _LISTED_PER_SLICE == 0:
            yield
    for place in _touched_external(seen, now, touched):
        found[place] = None
        yield
    for host_id in touched.hosts:
        if _host_state(seen.view, host_id) != _host_state(now.view, host_id):
            yield from _touched_by_host(now, host_id, found)
    return found


def _touched_networks(seen: _Seen, now: _Seen) -> list[NetworkId]:
    if seen.networks is now.networks:
        return []
    every = seen.networks.keys() | now.networks.keys()
    return [one for one in every if seen.networks.get(one) != now.networks.get(one)]


def _touched_external(seen: _Seen, now: _Seen, touched: ChangedKeys) -> Iterator[ServicePlace]:
    for _, service_id in touched.services:
        for view in (seen.view, now.view):
            for record in view.store.external_services.get(service_id, _NO_SERVICES).values():
                yield record.network_id, ServiceKey(record.name)


def _led_by(view: RegistryView, endpoint: EndpointView) -> Iterator[ServicePlace]:
    """Yield the services whose backends depend on an endpoint."""
    yield endpoint.network_id, endpoint.record.service_key
    if view.store.services_called:
        yield from (
            (endpoint.network_id, ServiceKey(label))
            for label in labels_of(endpoint.record)
            if (endpoint.network_id, label) in view.store.services_called
        )


def _touched_by_host(now: _Seen, host_id: HostId, found: dict[ServicePlace, None]) -> Slices[None]:
    view = now.view
    for network_id in now.networks:
        if host_id == view.local:  # how far all others are, and in which zone this host is
            found.update(dict.fromkeys((network_id, key) for key in view.service_addresses(network_id)))
        for endpoint_id in view.endpoints_said(host_id, network_id):
            endpoint = view.endpoints.get(endpoint_id)
            if endpoint is not None:
                found[endpoint.network_id, endpoint.record.service_key] = None
            yield
        for owner, service_id in view.store.services_in.get(network_id, ()):
            if owner == host_id:
                record = view.store.external_services[service_id][owner]
                found[network_id, ServiceKey(record.name)] = None
            yield


def _host_state(view: RegistryView, host_id: HostId) -> tuple[object, ...]:
    """Return everything about a host that the entries of its replicas depend on."""
    host = view.hosts.get(host_id)
    return (
        view.is_host_hidden(host_id),
        view.drain_of_host(host_id) is None,
        host is not None and host.is_unreached,
        "" if host is None else host.unique_name,
        view.zone_label_of(host_id),
        view.distance_of(host_id),
    )


_NO_SERVICES: Final[Mapping[HostId, ExternalServiceRecord]] = {}
