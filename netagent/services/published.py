"""The use-cases on published services: a port of each host that has a replica leads to its replicas.

The record is this host's; the port is one of all hosts, each of which judges for itself whether it can lead it on
(netagent.projection.published_services). Only this host's port is known to be free when a service is published.
"""

from __future__ import annotations

from typing import Final

import trio

from netagent.endpoints.claims import refuse_if_listening, refuse_unreachable
from netagent.endpoints.find import host_called
from netagent.errors import InputError, RefusedError
from netagent.model.ids import HostId
from netagent.model.publication import Publication
from netagent.model.records import MAX_PUBLISHED_PORTS, PublishedServiceRecord, ServiceKey
from netagent.registry.publish import Publisher
from netagent.registry.state_store import StateStore
from netagent.registry.view import NetworkView, RegistryView

MAX_PUBLISHED: Final = 256
"""Bound of the services that one host publishes, over all networks; beyond it: refused."""


class PublishedServices:
    """Publish services, and stop it."""

    def __init__(self, live: StateStore, publisher: Publisher) -> None:
        self._live = live
        self._publisher = publisher
        self._turn = trio.Lock()

    async def publish(self, network: NetworkView, service: ServiceKey, wanted: Publication) -> bool:
        """Publish ports; return whether that is new."""
        _refuse_form(wanted)
        record = PublishedServiceRecord(network.network_id, service, wanted)
        async with self._turn:
            if is_published(self._live.view, record):
                return False
            self.refuse(self._live.view, network, record)
            await refuse_if_listening([wanted])
            await self._publisher.put(record)
            return True

    async def withdraw(self, network: NetworkView, service: ServiceKey, wanted: Publication) -> bool:
        """Stop it; return whether it was published. RefusedError if another host did so."""
        record = PublishedServiceRecord(network.network_id, service, wanted)
        async with self._turn:
            owners = [owner for owner, known in _published(self._live.view) if known == record]
            if self._live.view.local in owners:
                await self._publisher.withdraw(record)
                return True
        if owners:
            view = self._live.view
            name = host_called(view, owners[0])
            host = view.hosts.get(owners[0])
            is_live = host is not None and host.is_live
            raise RefusedError(
                f"port {wanted.text} of service {service.name} was published on host {name}",
                code="other-host",
                thing=wanted.text,
                hint="type this command there"
                + ("" if is_live else f"; if it is gone for good, `netagent forget {name}`"),
            )
        return False

    def refuse(self, view: RegistryView, network: NetworkView, record: PublishedServiceRecord) -> None:
        """Raise InputError or RefusedError if the ports cannot be published, as the registry is."""
        wanted = record.publication
        _refuse_form(wanted)
        refuse_unreachable([wanted], network)
        for row in self._live.rows.publishing():
            for one in row.publish:
                if one.meets(wanted):
                    raise _taken(wanted, f"published by {row.name} ({one.text})")
        count = 0
        for owner, known in _published(view):
            count += owner == view.local
            if known.publication.meets(wanted):
                other = view.networks.get(known.network_id)
                place = "" if other is None else f".{other.unique_name}"
                raise _taken(
                    wanted, f"published for service {known.service.name}{place} ({known.publication.text})"
                )
        if count >= MAX_PUBLISHED:
            raise RefusedError(
                f"this host has published {count} services",
                code="too-many-records",
                thing=wanted.text,
                hint="stop publishing some, or publish on another host",
            )


def is_published(view: RegistryView, record: PublishedServiceRecord) -> bool:
    """True if a host publishes the service at the same ports."""
    return any(known == record for _, known in _published(view))


def published_in(view: RegistryView, network: NetworkView) -> list[PublishedServiceRecord]:
    """Return what is published of a network, each port once, whichever hosts did so."""
    records = view.store.published_services.get(network.network_id, {}).values()
    return sorted(set(records), key=lambda one: (one.service.name, one.service.group or "", one.publication))


def _published(view: RegistryView) -> list[tuple[HostId, PublishedServiceRecord]]:
    published = view.store.published_services
    return [(owner, one) for records in published.values() for (owner, _), one in sorted(records.items())]


def _refuse_form(wanted: Publication) -> None:
    if wanted.address:
        raise InputError(
            f"a service is published on all hosts, which do not share the address {wanted.address}",
            thing=wanted.text,
            hint=f"leave out the address: {wanted.host_text}:{wanted.port}",
        )
    if wanted.count > MAX_PUBLISHED_PORTS:
        raise InputError(
            f"{wanted.text} has {wanted.count} ports",
            thing=wanted.text,
            hint=f"give at most {MAX_PUBLISHED_PORTS} at once for a service",
        )


def _taken(wanted: Publication, whose: str) -> RefusedError:
    return RefusedError(
        f"port {wanted.host_text}/{wanted.protocol} is {whose}",
        code="port-in-use",
        thing=wanted.text,
        hint="use another port of the hosts",
    )
