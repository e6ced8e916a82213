"""An endpoint's record: what other hosts get to know of it, and its publishing.

Beside the endpoint's own facts the record has the links of its whole sandbox in that network. So a change of one
endpoint may change the records of the others in its sandbox. The links are there whatever the network's policy is:
when it changes to LINKS, no host has to wait for the links of others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from netagent.errors import NetagentError
from netagent.feeds.table import is_feed_label
from netagent.journal.rows import LocalEndpointRow
from netagent.model.check import REASONS_OF_RUNTIME
from netagent.model.ids import EndpointId, HostId
from netagent.model.records import EndpointRecord, Health, HealthNote
from netagent.registry.publish import Publisher
from netagent.registry.state_store import StateStore
from netagent.registry.view import EndpointView, NetworkView, RegistryView
from netgossip.types import Version


class EndpointRecords:
    """Publishes the records of this host's endpoints."""

    def __init__(self, live: StateStore, publisher: Publisher, domain: str) -> None:
        self._live = live
        self._publisher = publisher
        self._domain = domain
        self.nameless: set[EndpointId] = set()
        """Endpoints whose names are withdrawn, because they are about to be detached."""
        self.unpublished: set[EndpointId] = set()
        """Endpoints whose changed record could not be published yet; the garbage collector tries again."""

    def of(self, row: LocalEndpointRow) -> EndpointRecord:
        """Return the record of an endpoint as it is to be published now."""
        others = [one for one in self._live.rows.mates_of(row) if one.endpoint_id != row.endpoint_id]
        record = published_record(row, others, self._live.view, self._domain)
        return without_names(record) if row.endpoint_id in self.nameless else record

    def is_current(self, row: LocalEndpointRow) -> bool:
        """True when others have exactly this record; after an interrupted detach theirs has no names."""
        return _is_published(self._live.view, self.of(row))

    async def refresh(self, row: LocalEndpointRow) -> None:
        """Publish the record, unless others have it."""
        if not self.is_current(row):
            await self._publisher.put(self.of(row))

    async def refresh_mates(self, row: LocalEndpointRow) -> None:
        """Publish the records of the other endpoints in a row's sandbox that change with it; the garbage collector
        repeats what fails."""
        changed = [
            record
            for mate in self._live.rows.mates_of(row)
            if mate.is_published
            and mate.endpoint_id != row.endpoint_id
            and not _is_published(self._live.view, record := self.of(mate))
        ]
        if changed:
            try:
                await self._publisher.put(*changed)
            except NetagentError:
                self.unpublished.update(record.endpoint_id for record in changed)

    async def publish_path(self, row: LocalEndpointRow) -> None:
        """Publish the way to an endpoint that is being attached, and no names."""
        await self._publisher.put(without_names(self.of(row)))

    async def withdraw(self, row: LocalEndpointRow) -> None:
        """Withdraw the record."""
        await self._publisher.withdraw(record_of(row))


def published_record(
    row: LocalEndpointRow, others: Iterable[LocalEndpointRow], view: RegistryView, domain: str
) -> EndpointRecord:
    """Return the record that other hosts get: with the links of its sandbox (`others` are the endpoints in it), and
    without the labels that its network keeps from them."""
    record = record_of(row, published_links(row, others, view, domain))
    network = view.networks.get(row.network_id)
    if network is None or network.record.feed_labels:
        return record
    labels = tuple((key, value) for key, value in record.labels if not is_feed_label(key))
    return dataclasses.replace(record, labels=labels)


def record_of(row: LocalEndpointRow, links: tuple[str, ...] = ()) -> EndpointRecord:
    """Return the record of an endpoint for other hosts; `links` as from `published_links`."""
    health, note = health_of(row)
    if note is not None and row.keeps_names:
        note = dataclasses.replace(note, keeps_names=True)
    return EndpointRecord(
        endpoint_id=row.endpoint_id,
        network_id=row.network_id,
        name=row.name,
        service=row.service,
        addresses=row.addresses,
        mac=row.mac,
        aliases=row.aliases if row.group is None else row.group.not_in(row.aliases),
        ports=row.ports,
        labels=row.labels,
        health=health,
        links=links,
        group=row.group,
        drain=row.drain,
        health_note=note,
        weight=row.weight,
    )


def health_of(row: LocalEndpointRow) -> tuple[Health, HealthNote | None]:
    """Return the health of an endpoint as other hosts get to know it: that of its checks, else what its runtime
    says."""
    if row.checks:
        checked = row.checked
        return (Health.STARTING, None) if checked is None else (checked.health, checked.note)
    if row.health_since_s is None:
        return row.health, None
    return row.health, HealthNote(row.health_since_s, REASONS_OF_RUNTIME.get(row.health, ""))


def published_links(
    row: LocalEndpointRow, rows: Iterable[LocalEndpointRow], view: RegistryView, domain: str
) -> tuple[str, ...]:
    """Return the links of a row's sandbox in the row's network, which other hosts must let pass if its policy is
    LINKS. A link's service without a network refers to each network that the sandbox is in."""
    network = view.networks.get(row.network_id)
    if network is None:
        return ()
    mates = [row, *(other for other in rows if row.netns and other.sandbox_id == row.sandbox_id)]
    services = {link.service.removesuffix(f".{domain}") for mate in mates for link in mate.links}
    return tuple(sorted({_place_in(service, network, view) for service in services} - {""}))


def _place_in(service: str, network: NetworkView, view: RegistryView) -> str:
    """Return `SERVICE`, `NAME.HOST` or `SERVICE.GROUP` below the network's name; "" for a name below another
    network."""
    labels = service.split(".")
    if labels[-1] == network.unique_name and 1 < len(labels) <= 3:
        return ".".join(labels[:-1])
    is_elsewhere = len(labels) > 2 or (len(labels) == 2 and view.network_named(labels[1]) is not None)
    return "" if is_elsewhere else service


def without_names(record: EndpointRecord) -> EndpointRecord:
    """Return the record without names: an unhealthy endpoint is hidden from DNS answers but still reachable.

    For an endpoint that is being attached: replies to its container's first packets must find it; if other hosts
    learned of it only then, their containers would ask for its MAC in vain and repeat that a second later. And for
    one that is about to be detached: open requests must be able to finish.
    """
    return dataclasses.replace(record, health=Health.UNHEALTHY, health_note=None)


def _is_published(view: RegistryView, record: EndpointRecord) -> bool:
    known = [*view.fenced.values(), *filter(None, [view.endpoints.get(record.endpoint_id)])]
    return any(e.record == record and e.owner == view.local for e in known)


def noted_endpoint(row: LocalEndpointRow, local: HostId) -> EndpointView:
    """Render a fenced row as an endpoint for display; it has no record any more."""
    return EndpointView(record_of(row), local, Version(0, 0))
