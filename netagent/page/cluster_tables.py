"""All endpoints and services of the cluster as the page's tables need them, kept up to date from view to view. Pure.

A reader of the page may look at 20,000 endpoints while 50 of them change each second. So nothing here is made anew:
`follow` looks only at what the next view touched (netagent.registry.changelog), and keeps for each service how many
of its replicas are in which state, on which hosts. What a row shows in full is rendered only for the rows in sight
(netagent.page.window). One instance serves all readers, and exists only while there is one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from netagent.control.present import Presenter
from netagent.control.present_additions import services_of
from netagent.interface.schema import EndpointWord, Service
from netagent.model.ids import EndpointId, HostId, NetworkId
from netagent.model.records import ServiceKey
from netagent.registry.view import EndpointView, HostView, NetworkView
from netgossip.slices import Slices

RowId: TypeAlias = str

DOWN: Final = "down"
PARTIAL: Final = "partial"
UP: Final = "up"
SERVICE_WORDS: Final = (DOWN, PARTIAL, UP)
"""From worst to best. `partial`: some replicas are in no names, some are."""


@dataclass(frozen=True, slots=True)
class EndpointRow:
    """What tables know of an endpoint without rendering it."""

    endpoint: EndpointView
    name: str
    service: str
    """`shop.web`, or `web` of a network as a whole, without the network."""
    network: str
    host: str
    word: EndpointWord
    is_behind: bool
    is_kept: bool
    text: str
    """What a search looks at, in lower case."""


@dataclass(slots=True)
class ServiceRow:
    """A service of containers, counted, which is there also while only its own address is; or one that operators
    added, rendered."""

    row_id: RowId
    name: str
    network: str
    network_id: NetworkId
    key: ServiceKey
    words: Counter[str] = field(default_factory=Counter)
    """How many replicas are in each state."""
    hosts: Counter[str] = field(default_factory=Counter)
    ports: Counter[str] = field(default_factory=Counter)
    links: Counter[str] = field(default_factory=Counter)
    """To other services of the network, where its policy is `links`."""
    behind: int = 0
    kept: int = 0
    total: int = 0
    is_addressed: bool = False
    """True while the service has an address of its own."""
    external: Service | None = None
    version: int = 0
    """Grows with every change, so that a row is rendered only when it differs."""

    @property
    def title(self) -> str:
        """Its id in answers of the API."""
        return f"{self.name}.{self.network}" if self.external is None else self.external["id"]

    @property
    def answering(self) -> int:
        """How many replicas names lead to."""
        if self.external is not None:
            return self.external["answering"]
        up = self.words["up"]
        return up - self.behind or up + self.kept

    @property
    def word(self) -> str:
        """The worst that can be said of it."""
        if self.answering == 0:
            return DOWN
        return UP if self.answering >= self.total else PARTIAL

    @property
    def text(self) -> str:
        """What a search looks at."""
        ports = " ".join(self.ports)
        return f"{self.title} {' '.join(self.hosts)} {ports}".lower()


@dataclass(slots=True)
class HostCount:
    """The endpoints of one host."""

    words: Counter[str] = field(default_factory=Counter)
    endpoints: set[RowId] = field(default_factory=set)


class ClusterTables:
    """Starts empty; `follow` brings it to a view."""

    def __init__(self) -> None:
        self.endpoints: dict[RowId, EndpointRow] = {}
        self.services: dict[RowId, ServiceRow] = {}
        self.hosts: dict[HostId, HostCount] = {}
        self.present: Presenter | None = None
        """Of the view that it was brought to."""
        self._facts: dict[HostId, tuple[object, ...]] = {}
        self._networks: dict[NetworkId, NetworkView] = {}
        self._with_external: set[NetworkId] = set()
        """Networks that have rows of external services, also after the last of these services is gone."""
        self._versions = 0
        self._listeners: list[tuple[set[RowId], set[RowId]]] = []

    # -- who follows the tables --------------------------------------------------------------------------------

    def listen(self) -> tuple[set[RowId], set[RowId]]:
        """Return two sets into which the ids of endpoints and of services that change are put from now on. They are
        bounded by the number of rows."""
        sets: tuple[set[RowId], set[RowId]] = (set(), set())
        self._listeners.append(sets)
        return sets

    def stop(self, sets: tuple[set[RowId], set[RowId]]) -> None:
        """End what `listen` began."""
        self._listeners = [one for one in self._listeners if one is not sets]

    # -- following ---------------------------------------------------------------------------------------------

    def follow(self, present: Presenter) -> Slices[None]:
        """Bring the tables to the presenter's view. Cancelled half way, the next call begins anew."""
        before, view = self.present, present.view
        changed = None if before is None else view.touched_since(before.view)
        self.present = None
        moved = self._changed_networks(view.networks.items())
        hosts = self._changed_hosts(present, None if changed is None else changed.hosts)
        if changed is None:
            ids: Iterable[RowId] = {*self.endpoints, *view.endpoints}
        else:
            ids = {endpoint_id for _, endpoint_id in changed.endpoints}
            ids.update(*(self.hosts[one].endpoints for one in hosts if one in self.hosts))
            for network_id in moved:
                ids.update(view.endpoints_in(network_id))
                ids.update(i for i, row in self.endpoints.items() if row.endpoint.network_id == network_id)
        for row_id in list(ids):
            endpoint = view.endpoints.get(EndpointId(row_id))
            self._put(row_id, None if endpoint is None else _endpoint_row(present, endpoint))
            yield
        if before is None or before.view.fenced is not view.fenced or (view.fenced and (hosts or moved)):
            yield from self._follow_fenced(present)
        self._follow_addresses(present, moved, None if changed is None else changed.service_addresses)
        is_external = changed is None or changed.services or hosts or changed.endpoints
        for network_id in view.networks:
            has_external = view.store.services_in.get(network_id) or network_id in self._with_external
            if network_id in moved or (is_external and has_external):
                self._follow_external(present, network_id)
            yield
        for row_id in [i for i, row in self.services.items() if row.network_id not in view.networks]:
            if self.services[row_id].external is not None:
                self._drop_service(row_id)
        self._with_external.intersection_update(view.networks)
        self.present = present

    def _changed_networks(self, networks: Iterable[tuple[NetworkId, NetworkView]]) -> set[NetworkId]:
        new = dict(networks)
        either = {**self._networks, **new}
        moved = {one for one in either if self._networks.get(one) != new.get(one)}
        self._networks = new
        return moved

    def _changed_hosts(self, present: Presenter, touched: Iterable[HostId] | None) -> set[HostId]:
        """Return the hosts whose endpoints' rows can differ: most changes of a host, such as its distance, leave them
        as they are."""
        view = present.view
        changed = set()
        for host_id in {*self._facts, *view.hosts} if touched is None else touched:
            host = view.hosts.get(host_id)
            facts = None if host is None else _facts(present, host_id, host)
            if self._facts.get(host_id) != facts:
                changed.add(host_id)
                if facts is None:
                    self._facts.pop(host_id, None)
                else:
                    self._facts[host_id] = facts
        return changed

    def _follow_fenced(self, present: Presenter) -> Slices[None]:
        fenced = {f"{one.endpoint_id}/{one.owner}": one for one in present.view.fenced.values()}
        for row_id in [i for i in self.endpoints if "/" in i and i not in fenced]:
            self._put(row_id, None)
            yield
        for row_id, endpoint in fenced.items():
            self._put(row_id, _endpoint_row(present, endpoint))
            yield

    def _follow_external(self, present: Presenter, network_id: NetworkId) -> None:
        found = {f"{one['id']}/external": one for one in services_of(present, network_id)}
        if found:
            self._with_external.add(network_id)
        else:
            self._with_external.discard(network_id)
        for row_id in [
            i for i, row in self.services.items() if row.external and row.network_id == network_id
        ]:
            if row_id not in found:
                self._drop_service(row_id)
        for row_id, one in found.items():
            known = self.services.get(row_id)
            if known is None or known.external != one:
                row = ServiceRow(
                    row_id, one["name"], one["network"], network_id, ServiceKey(one["name"]), external=one
                )
                row.total = one["endpoint_count"]
                row.hosts.update(one["hosts"])
                row.ports.update(f"{port['number']}/{port['protocol']}" for port in one["ports"])
                self.services[row_id] = row
                self._note_service(row)

    def _follow_addresses(
        self, present: Presenter, moved: Set[NetworkId], touched: Set[tuple[NetworkId, ServiceKey]] | None
    ) -> None:
        """Look at the services whose own address may have changed; `touched` None: at all."""
        view = present.view
        places = set(() if touched is None else touched)
        for network_id in view.networks if touched is None else moved:
            places.update((network_id, key) for key in view.service_addresses(network_id))
        for row in self.services.values() if touched is None or moved else ():
            if row.is_addressed:
                places.add((row.network_id, row.key))
        for network_id, key in places:
            is_there = network_id in view.networks and key in view.service_addresses(network_id)
            self._note_address(present, network_id, key, is_there=is_there)

    def _note_address(
        self, present: Presenter, network_id: NetworkId, key: ServiceKey, *, is_there: bool
    ) -> None:
        name = f"{key.name}.{key.group}" if key.group else key.name
        row_id, network = f"{name}@{network_id}", present.network_name(network_id)
        row = self.services.get(row_id)
        if row is None:
            if not is_there:
                return
            row = self.services[row_id] = ServiceRow(row_id, name, network, network_id, key)
        row.is_addressed, row.network = is_there, network
        if is_there or row.total:
            self._note_service(row)
        else:
            self._drop_service(row_id)

    # -- one row -----------------------------------------------------------------------------------------------

    def _put(self, row_id: RowId, row: EndpointRow | None) -> None:
        before = self.endpoints.get(row_id)
        if before == row:
            return
        if before is not None:
            self._count(row_id, before, -1)
            del self.endpoints[row_id]
        if row is not None:
            self.endpoints[row_id] = row
            self._count(row_id, row, 1)
        for endpoints, _ in self._listeners:
            endpoints.add(row_id)

    def _count(self, row_id: RowId, row: EndpointRow, number: int) -> None:
        host = self.hosts.setdefault(row.endpoint.owner, HostCount())
        _add(host.words, row.word, number)
        if number > 0:
            host.endpoints.add(row_id)
        else:
            host.endpoints.discard(row_id)
            if not host.endpoints:
                del self.hosts[row.endpoint.owner]
        record = row.endpoint.record
        service_id = f"{row.service}@{record.network_id}"
        service = self.services.get(service_id)
        if service is None:
            service = ServiceRow(service_id, row.service, row.network, record.network_id, record.service_key)
            self.services[service_id] = service
        if number > 0:  # when the network gets another name, each of its endpoints is put again
            service.network = row.network
        service.total += number
        service.behind += number * row.is_behind
        service.kept += number * row.is_kept
        _add(service.words, row.word, number)
        _add(service.hosts, row.host, number)
        for port in record.ports:
            _add(service.ports, f"{port.number}/{port.protocol}", number)
        for link in record.links:
            _add(service.links, link, number)
        if service.total == 0 and not service.is_addressed:
            self._drop_service(service_id)
        else:
            self._note_service(service)

    def _drop_service(self, row_id: RowId) -> None:
        self.services.pop(row_id, None)
        for _, services in self._listeners:
            services.add(row_id)

    def _note_service(self, row: ServiceRow) -> None:
        self._versions += 1
        row.version = self._versions
        for _, services in self._listeners:
            services.add(row.row_id)


def _add(counter: Counter[str], key: str, number: int) -> None:
    """Count, and leave no zero behind."""
    counter[key] += number
    if counter[key] == 0:
        del counter[key]


def _facts(present: Presenter, host_id: HostId, host: HostView) -> tuple[object, ...]:
    drain = present.view.drain_of_host(host_id)
    return host.unique_name, present.view.is_host_hidden(host_id), drain, host.is_unreached, host.is_live


def _endpoint_row(present: Presenter, endpoint: EndpointView) -> EndpointRow:
    view, record = present.view, endpoint.record
    key = record.service_key
    service = f"{key.name}.{key.group}" if key.group else key.name
    network, host = present.network_name(record.network_id), present.host_name(endpoint.owner)
    word, _ = present.state(endpoint)
    words = (record.name, service, network, host, *record.addresses, *record.aliases, record.mac, word)
    return EndpointRow(
        endpoint=endpoint,
        name=record.name,
        service=service,
        network=network,
        host=host,
        word=word,
        is_behind=word == "up" and view.is_behind(endpoint),
        is_kept=view.is_kept(endpoint),
        text=" ".join(words).lower(),
    )
