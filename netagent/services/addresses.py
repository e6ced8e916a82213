"""The use-cases on addresses of services: create, set, remove; ensure, for those that labels and networks ask for.

A service gets one address, from the first service range in force of its network. The first one of a network makes the
range, in the same change. Its record is the host's that made it: only there it is changed and removed. When that host
leaves or dies the address stays, and the host that evicts it takes it over (eviction/succession.py).

Hosts that cannot hear each other may both create an address for one service. Both are in force then.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace

import trio

from netagent.endpoints.network_defaults import NetworkConstraints, plan_range
from netagent.errors import FailedError, InputError, NotFoundError, RefusedError
from netagent.events.channel import event
from netagent.events.kinds import EventKind
from netagent.external.view import endpoint_called
from netagent.ipam.service_offsets import ServiceOffsets
from netagent.model.ids import EndpointId, HostId, NetworkId
from netagent.model.origin_labels import label_of
from netagent.model.records import (
    MAX_HOST_WEIGHTS,
    EndpointRecord,
    ServiceAddressOrigin,
    ServiceAddressRecord,
    ServiceKey,
    ServiceRangeRecord,
)
from netagent.model.request import ServiceAddressChange, ServiceAddressRequest
from netagent.model.subnet import addresses_of, is_reserved, offset_count
from netagent.registry.publish import Publisher
from netagent.registry.service_rules import MAX_SERVICE_ADDRESSES
from netagent.registry.state_store import StateStore
from netagent.registry.view import EndpointView, NetworkView, RegistryView, ServiceAddressView
from netgossip.types import CLUSTER_SCOPE

FOLLOW_S = 2.0
"""An own record is in the registry within milliseconds."""
ADDRESS_LABEL = "netagent.address"

logger = logging.getLogger("netagent.services.addresses")


class ServiceAddresses:
    """One change at a time for each host. `is_closed`: this host is leaving, and gives no more addresses."""

    def __init__(
        self,
        live: StateStore,
        publisher: Publisher,
        offsets: ServiceOffsets,
        *,
        surroundings: Callable[[RegistryView], NetworkConstraints],
        is_closed: Callable[[], bool],
    ) -> None:
        self._live = live
        self._publisher = publisher
        self._offsets = offsets
        self._surroundings = surroundings
        self._is_closed = is_closed
        # Or two requests at once could each find that the service has no address yet.
        self._turn = trio.Lock()

    async def create(self, network: NetworkView, request: ServiceAddressRequest) -> bool:
        """Give a service an address; return whether it is new. RefusedError `service-exists` if it has one with other
        options."""
        wanted = _wanted(network, request)
        async with self._turn:
            known = self._live.view.service_addresses(network.network_id).get(request.service, ())
            if not known:
                _refuse_name(self._live.view, network, request.service)
                await self._add(network, wanted)
                return True
            self._refuse_other_options(network, known[0].record, wanted)
            await self._take_over(network, known)
            return False

    def planned(
        self, view: RegistryView, network: NetworkView, request: ServiceAddressRequest
    ) -> tuple[ServiceRangeRecord | ServiceAddressRecord, ...]:
        """Return the records that `create` writes for a service without an address, as the registry is, with any free
        address for the one that the service will get. Raises what `create` raises."""
        _refuse_name(view, network, request.service)
        _refuse_too_many(view, request.service)
        ranges = [one.record for one in view.service_ranges(network.network_id)]
        made = [] if ranges else [plan_range(network.record, self._surroundings(view))]
        subnets = [*ranges, *made][0].subnets
        # From a place of its own: else thousands of addresses that are taken would be tried for each service.
        start = zlib.crc32(shown(request.service).encode())
        count = offset_count(subnets)
        offsets = ((start + step) % count for step in range(count))
        free = (one for one in offsets if not is_reserved(one, count))
        taken = view.store.address_claims
        addresses = next(
            (one for one in (addresses_of(subnets, offset) for offset in free) if one[0] not in taken), ()
        )
        return (*made, replace(_wanted(network, request), addresses=addresses))

    async def set(self, network: NetworkView, service: ServiceKey, change: ServiceAddressChange) -> None:
        """Change options of a service's address. On both sides of a cut one may have been made: this host's."""
        async with self._turn:
            for one in _own(self._live.view, network, service):
                record = with_change(one.record, change)
                if record != one.record:
                    await self._publisher.put(record)
                    await self._wait_known(record)

    async def remove(self, network: NetworkView, service: ServiceKey) -> list[ServiceAddressRecord]:
        """Withdraw addresses of a service; return them. Of several, which a cut brought about, those of this host go
        that names do not lead to, and the one that they lead to only if this host gave no other. RefusedError
        `service-wanted` if none would be left while a label or the network asks for one."""
        async with self._turn:
            own = _own(self._live.view, network, service)
            every = self._live.view.service_addresses(network.network_id)[service]
            going = [one for one in own if one != every[0]] or own
            if len(going) == len(every):
                self._refuse_wanted(network, service)
            await self._offsets.release(*(one.record for one in going))
            await self._wait_gone(*(one.record for one in going))
            left = len(every) - len(going)
            logger.info(
                "service %s of network %s has %s",
                service.name,
                network.unique_name,
                "one address less" if left else "no address any more",
                extra=event(EventKind.SERVICE, service.name),
            )
            return [one.record for one in going]

    async def ensure(
        self, network_id: NetworkId, service: ServiceKey, origin: ServiceAddressOrigin
    ) -> ServiceAddressView | None:
        """Give a service an address, unless it has one; return it. None: its network is gone. Raises what `create`
        raises."""
        async with self._turn:
            network = self._live.view.networks.get(network_id)
            if network is None:
                return None
            if service not in self._live.view.service_addresses(network_id):
                await self._add(network, ServiceAddressRecord(network_id, service, (), origin))
            return self._first(network_id, service)

    async def give_another(self, lost: ServiceAddressRecord) -> None:
        """Give a service another address instead of one of this host that is not in force, unless it has one."""
        async with self._turn:
            view = self._live.view
            network = view.networks.get(lost.network_id)
            is_there = any(one == lost for one in view.records_of(view.local, CLUSTER_SCOPE))
            if network is None or not is_there or self._is_in_force(lost):
                return
            # Its options must not be lost where no other can be given.
            if lost.service not in view.service_addresses(lost.network_id):
                await self._add(network, lost)
            await self._offsets.release(lost)

    async def withdraw_idle(self, network_id: NetworkId, service: ServiceKey) -> None:
        """Withdraw this host's addresses of a service that has no replica, except those that an operator gave."""
        async with self._turn:
            every = self._live.view.service_addresses(network_id).get(service, ())
            own = [one.record for one in every if one.owner == self._live.view.local]
            idle = [one for one in own if one.origin is not ServiceAddressOrigin.OPERATOR]
            if idle:
                await self._offsets.release(*idle)

    # -- how ---------------------------------------------------------------------------------------------------

    async def _add(self, network: NetworkView, wanted: ServiceAddressRecord) -> None:
        network_id, service = network.network_id, wanted.service
        if self._is_closed():
            raise RefusedError(
                "this host is leaving the cluster, and gives services no addresses",
                code="leaving",
                thing=service.name,
                hint="type this command on another host",
            )
        _refuse_too_many(self._live.view, service)
        offset = await self._offsets.hold(network_id, service)
        try:
            # Only now: another host's first range may have come while we asked for an offset.
            ranges = [one.record for one in self._live.view.service_ranges(network_id)]
            made = [] if ranges else [plan_range(network.record, self._surroundings(self._live.view))]
        except BaseException:
            self._offsets.let_go(network_id, offset)
            raise
        record = replace(wanted, addresses=addresses_of([*ranges, *made][0].subnets, offset))
        await self._offsets.keep(record, offset, *made)
        await self._wait_known(record)
        if not self._is_in_force(record):
            await self._offsets.release(record)
            await self._publisher.withdraw(*made)
            raise self._lost(network, record)
        logger.info(
            "service %s of network %s has the address %s",
            service.name,
            network.unique_name,
            " and ".join(record.addresses),
            extra=event(EventKind.SERVICE, service.name),
        )

    async def _wait_known(self, record: ServiceAddressRecord) -> None:
        """Wait until this host's own registry has the record."""
        view = self._live.view
        with trio.move_on_after(FOLLOW_S):
            revision = self._live.revision
            while self._live.view.version_of(view.local, record) is None:
                revision = await self._live.wait_newer(revision)

    async def _wait_gone(self, *records: ServiceAddressRecord) -> None:
        """Wait until this host's own registry has them no more."""
        with trio.move_on_after(FOLLOW_S):
            revision = self._live.revision
            while any(self._live.view.version_of(self._live.view.local, one) is not None for one in records):
                revision = await self._live.wait_newer(revision)

    def _lost(self, network: NetworkView, record: ServiceAddressRecord) -> RefusedError | FailedError:
        name = network.unique_name
        if network.network_id not in self._live.view.networks:
            return RefusedError(
                f"network {name} was removed at the same moment", code="network-removed", thing=name
            )
        return FailedError(
            f"the address {record.addresses[0]} for service {record.service.name} of network {name} was taken at the "
            "same moment",
            code="pool-contended",
            thing=record.service.name,
            hint="try again",
        )

    async def _take_over(self, network: NetworkView, known: tuple[ServiceAddressView, ...]) -> None:
        """Make an address that a label or the network asked for the operator's, so that it stays without a
        replica."""
        first = known[0]
        if first.record.origin is ServiceAddressOrigin.OPERATOR:
            return
        if first.owner != self._live.view.local:
            raise _of_other_host(self._live.view, network, first)
        record = replace(first.record, origin=ServiceAddressOrigin.OPERATOR)
        await self._publisher.put(record)
        await self._wait_known(record)

    def _refuse_other_options(
        self, network: NetworkView, known: ServiceAddressRecord, wanted: ServiceAddressRecord
    ) -> None:
        found = differences(wanted, known)
        if found:
            name, place = shown(known.service), network.unique_name
            raise RefusedError(
                f"service {name} of network {place} has the address {known.addresses[0]} already, and "
                f"{', '.join(found)}",
                code="service-exists",
                thing=known.service.name,
                hint=f"`netagent service set {name} --network {place}` with the options to change",
            )

    def _refuse_wanted(self, network: NetworkView, service: ServiceKey) -> None:
        found = wanted_by(self._live.view, network, service)
        if found is None:
            return
        origin, endpoint = found
        name, place = shown(service), network.unique_name
        if origin is ServiceAddressOrigin.NETWORK:
            raise RefusedError(
                f"network {place} was made with --service-addresses on, so service {name} gets an address as long as "
                "it has a replica",
                code="service-wanted",
                thing=service.name,
                hint="detach its replicas: the address goes a day after the last one",
            )
        host = _host_name(self._live.view, endpoint.owner)
        raise RefusedError(
            f"container {endpoint.record.name} on {host} asks for an address of service {name} by its label "
            f"{ADDRESS_LABEL}=true",
            code="service-wanted",
            thing=service.name,
            hint="start its replicas without the label first",
        )

    def _first(self, network_id: NetworkId, service: ServiceKey) -> ServiceAddressView | None:
        return next(iter(self._live.view.service_addresses(network_id).get(service, ())), None)

    def _is_in_force(self, record: ServiceAddressRecord) -> bool:
        found = self._live.view.service_by_address(record.addresses[0])
        return found is not None and found.owner == self._live.view.local and found.record == record


def _wanted(network: NetworkView, request: ServiceAddressRequest) -> ServiceAddressRecord:
    """Return the record of an address, without the address."""
    return ServiceAddressRecord(
        network.network_id,
        request.service,
        (),
        ServiceAddressOrigin.OPERATOR,
        request.ports,
        request.balance,
        request.host_weights,
        request.is_sticky,
        request.keeps_failing,
        request.keeps_connections,
    )


def _own(view: RegistryView, network: NetworkView, service: ServiceKey) -> list[ServiceAddressView]:
    """Return this host's addresses of a service. Raises NotFoundError, RefusedError `other-host`."""
    every = view.service_addresses(network.network_id).get(service, ())
    own = [one for one in every if one.owner == view.local]
    if own:
        return own
    if every:
        raise _of_other_host(view, network, every[0])
    group = "" if service.group is None else f" --group {service.group}"
    raise NotFoundError(
        f"service {shown(service)} of network {network.unique_name} has no address of its own",
        code="no-such-service",
        thing=service.name,
        hint=f"give it one: `netagent service create {service.name} --network {network.unique_name}{group}`",
    )


def _of_other_host(view: RegistryView, network: NetworkView, one: ServiceAddressView) -> RefusedError:
    host, name = view.hosts.get(one.owner), _host_name(view, one.owner)
    away = "" if host is not None and host.is_live else f"; if it is gone for good, `netagent forget {name}`"
    return RefusedError(
        f"service {shown(one.service)} of network {network.unique_name} got its address on host {name}",
        code="other-host",
        thing=one.service.name,
        hint=f"type this command there{away}",
    )


def _refuse_name(view: RegistryView, network: NetworkView, service: ServiceKey) -> None:
    """Refuse a service that would take the name of a container that is a replica of another one, or a name that an
    operator has added."""
    place = network.unique_name
    if service.group is not None:
        return
    if view.store.own_names_called.get((network.network_id, service.name)):
        raise RefusedError(
            f"an operator has added the name {service.name} to network {place}",
            code="name-in-use",
            thing=service.name,
            hint=f"use another name, or `netagent name rm {service.name}.{place}` first",
        )
    holder = endpoint_called(view, network.network_id, service.name)
    if holder is None or holder.record.service_key == service:
        return
    its = holder.record.service_key
    group = f" --group {its.group}" if its.group else ""
    raise RefusedError(
        f"container {holder.record.name} on {_host_name(view, holder.owner)}, of service "
        f"{shown(its)}, has the name {service.name} in network {place}",
        code="name-in-use",
        thing=service.name,
        hint=f"give its service an address: `netagent service create {its.name} --network {place}{group}`; or "
        "use another name",
    )


def _refuse_too_many(view: RegistryView, service: ServiceKey) -> None:
    if len(view.store.address_keys.get(view.local, ())) >= MAX_SERVICE_ADDRESSES:
        raise RefusedError(
            f"this host has given addresses to {MAX_SERVICE_ADDRESSES} services",
            code="too-many-records",
            thing=service.name,
            hint="remove some, or type this command on another host",
        )


def with_change(record: ServiceAddressRecord, change: ServiceAddressChange) -> ServiceAddressRecord:
    """Return the record with the options that were given. Raises InputError for too many weights."""
    weights = dict(record.host_weights)
    if change.host_weights is not None:
        given = dict(change.host_weights)
        weights = {
            host: weight
            for host, weight in ({**weights, **given} if given else {}).items()
            if weight is not None
        }
    if len(weights) > MAX_HOST_WEIGHTS:
        raise InputError(
            f"service {shown(record.service)} would have weights for {len(weights)} hosts, at most "
            f"{MAX_HOST_WEIGHTS} are possible",
            thing=record.service.name,
            hint="take some away: HOST=default",
        )
    return replace(
        record,
        host_weights=tuple(sorted(weights.items())),
        **{
            name: value
            for name in ("ports", "balance", "is_sticky", "keeps_failing", "keeps_connections")
            if (value := getattr(change, name)) is not None
        },
    )


def differences(wanted: ServiceAddressRecord, known: ServiceAddressRecord) -> list[str]:
    """Return the options in which an existing address differs. Empty: creating it again is a no-op."""
    found = []
    if wanted.ports != known.ports:
        ports = ", ".join(
            f"{one.number}:{one.target}" if one.target != one.number else str(one.number)
            for one in known.ports
        )
        found.append(f"its ports are {ports}" if ports else "it serves all ports")
    if wanted.balance is not known.balance:
        found.append(f"its balance is {known.balance.value}")
    if wanted.host_weights != known.host_weights:
        weights = ", ".join(f"{host}={weight}" for host, weight in known.host_weights)
        found.append(f"its weights are {weights}" if weights else "no host has a weight of its own")
    for option, text in (
        ("is_sticky", "sticky"),
        ("keeps_failing", "led to replicas that all fail"),
        ("keeps_connections", "kept when a replica is gone"),
    ):
        if getattr(wanted, option) is not getattr(known, option):
            what = "its clients are" if option == "is_sticky" else "its connections are"
            found.append(f"{what} {'' if getattr(known, option) else 'not '}{text}")
    return found


def wanted_by(
    view: RegistryView, network: NetworkView, service: ServiceKey
) -> tuple[ServiceAddressOrigin, EndpointView] | None:
    """Return why a service should have an address, and a replica because of which; None: nothing asks for one."""
    replicas: Mapping[EndpointId, EndpointView] = (
        view.store.by_service.get((network.network_id, service)) or {}
    )
    for endpoint in replicas.values():
        if network.record.service_addresses:
            return ServiceAddressOrigin.NETWORK, endpoint
        if asks(endpoint.record):
            return ServiceAddressOrigin.LABEL, endpoint
    return None


def asks(record: EndpointRecord) -> bool:
    """True if an endpoint has the label that asks for an address of its service."""
    return label_of(record.labels, ADDRESS_LABEL) == "true"


def shown(service: ServiceKey) -> str:
    """Return a service as users type it."""
    return service.name if service.group is None else f"{service.name}.{service.group}"


def _host_name(view: RegistryView, host_id: HostId) -> str:
    host = view.hosts.get(host_id)
    return host_id[:8] if host is None else host.unique_name
