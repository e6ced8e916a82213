"""The use-cases on what operators add to networks: external services and own names.

A service may have several records, one for each time that addresses were added to it, on one host or on several: all
are answered, as replicas are. A name has one record. Only the host where something was added removes it.
"""

from __future__ import annotations

import ipaddress
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final, TypeVar

import trio

from netagent.errors import InputError, NotFoundError, RefusedError
from netagent.external.turns import MAX_SERVICES
from netagent.external.view import (
    ExternalService,
    endpoint_called,
    external_service,
    external_services,
    own_names,
)
from netagent.model.egress import may_reach
from netagent.model.ids import HostId, OwnNameId, ServiceId, is_name
from netagent.model.records import (
    DnsName,
    ExternalServiceRecord,
    ExternalStateRecord,
    FixedAddresses,
    HostProgram,
    NameAlias,
    NameData,
    OwnNameRecord,
    Record,
    ServiceKey,
    ServiceTarget,
    TargetAddress,
)
from netagent.model.request import OwnNameRequest, ServiceRequest
from netagent.model.subnet import parse_subnet
from netagent.registry.publish import Publisher
from netagent.registry.service_rules import has_addresses_of
from netagent.registry.state_store import StateStore
from netagent.registry.view import NetworkView, RegistryView
from netgossip.types import CLUSTER_SCOPE

MAX_OWN_NAMES: Final = 256
"""Bound of own names that one host adds to one network; beyond it: refused. Each goes to all hosts."""
FOLLOW_S: Final = 2.0
"""An own record is in the registry within milliseconds."""
_MAX_ALIASES: Final = 8
_SHOWN_TARGETS: Final = 8
"""The longest list of an egress that a hint repeats; a longer one is left to the operator."""

R = TypeVar("R", bound=ExternalServiceRecord | OwnNameRecord)


class Additions:
    """Adds and removes. `renew` notes that an operator's program has renewed a service of this host."""

    def __init__(
        self,
        live: StateStore,
        publisher: Publisher,
        domain: str,
        renew: Callable[[ServiceId], None] = lambda _id: None,
    ) -> None:
        self._live = live
        self._publisher = publisher
        self._domain = domain
        self._renew = renew
        # Or two requests at once could each find that there is nothing of that name yet.
        self._turn = trio.Lock()

    # -- external services -------------------------------------------------------------------------------------

    async def add_service(
        self, network: NetworkView, request: ServiceRequest, by: str
    ) -> tuple[ExternalService, bool]:
        """Add a service; return it and whether it is new. The same again renews it."""
        async with self._turn:
            record = service_record(network, request, by)
            known = self._same_service(record)
            if known is None:
                refuse_service(self._live.view, network, record)
                await self._publisher.put(record)
            else:
                self._renew(known.service_id)
            service_id = record.service_id if known is None else known.service_id
            found = await self._wait_known(network, service_id)
            if found is None:
                raise RefusedError(
                    f"network {network.unique_name} was removed at the same moment",
                    code="network-removed",
                    thing=network.unique_name,
                )
            return found, known is None

    async def _wait_known(self, network: NetworkView, service_id: ServiceId) -> ExternalService | None:
        """Return the service as soon as this host's own registry has its record."""
        with trio.move_on_after(FOLLOW_S):
            revision = self._live.revision
            while external_service(self._live.view, network.network_id, service_id) is None:
                revision = await self._live.wait_newer(revision)
        return external_service(self._live.view, network.network_id, service_id)

    async def remove_service(self, network: NetworkView, name: str) -> int:
        """Remove what this host has added to a service, by its name or an id; return how many records that were."""
        async with self._turn:
            services = list(external_services(self._live.view, network.network_id))
            found = [one for one in services if name in {one.record.name, one.record.service_id}]
            own = [one.record for one in found if one.owner == self._live.view.local]
            if not own:
                self._refuse_absent(network, f"external service {name!r}", [one.owner for one in found])
            states = [self._own_state(one) for one in own]
            await self._publisher.withdraw(*own, *filter(None, states))
            return len(own)

    def _own_state(self, record: ExternalServiceRecord) -> ExternalStateRecord | None:
        written = self._live.view.store.external_states.get(record.service_id)
        return None if written is None else written.get(self._live.view.local)

    def _same_service(self, record: ExternalServiceRecord) -> ExternalServiceRecord | None:
        for known in self._own(ExternalServiceRecord):
            as_new = replace(
                known, service_id=record.service_id, added_s=record.added_s, added_by=record.added_by
            )
            if as_new == record:
                return known
        return None

    # -- own names ---------------------------------------------------------------------------------------------

    async def add_name(
        self, network: NetworkView, request: OwnNameRequest, by: str
    ) -> tuple[OwnNameRecord, bool]:
        """Add a name; return it and whether it is new."""
        async with self._turn:
            view = self._live.view
            record = name_record(view, network, request, self._domain, by)
            for known in own_names(view, network.network_id):
                if known.counts and (known.record.name, known.record.value) == (record.name, record.value):
                    return known.record, False
            refuse_name(view, network, record)
            await self._publisher.put(record)
            return record, True

    async def remove_name(self, network: NetworkView, name: str) -> None:
        """Remove an own name that this host has added."""
        async with self._turn:
            found = [one for one in own_names(self._live.view, network.network_id) if one.record.name == name]
            own = [one.record for one in found if one.owner == self._live.view.local]
            if not own:
                self._refuse_absent(network, f"own name {name!r}", [one.owner for one in found])
            await self._publisher.withdraw(*own)

    # -- both --------------------------------------------------------------------------------------------------

    def _own(self, kind: type[R]) -> Iterator[R]:
        return _own_records(self._live.view, kind)

    def _refuse_absent(self, network: NetworkView, what: str, owners: list[HostId]) -> None:
        view = self._live.view
        if not owners:
            raise NotFoundError(
                f"network {network.unique_name} has no {what}",
                thing=what,
                hint="see `netagent services` and `netagent name ls`",
            )
        host = view.hosts.get(owners[0])
        name = _host_name(view, owners[0])
        away = (
            "" if host is not None and host.is_live else f"; if it is gone for good, `netagent forget {name}`"
        )
        raise RefusedError(
            f"the {what} was added on host {name}",
            code="other-host",
            thing=what,
            hint=f"type this command there{away}",
        )


def alias_of(view: RegistryView, network: NetworkView, text: str, domain: str) -> NameAlias:
    """Return what an alias leads to: a name of the same network, NAME.NETWORK or a full name of the cluster. Raises
    InputError for any other name."""
    labels = text.lower().removesuffix(".").removesuffix("." + domain).split(".")
    target = view.network_named(labels[-1]) if len(labels) > 1 else None
    if target is not None:
        labels.pop()
    if len(labels) > 2 or not all(map(is_name, labels)):
        raise InputError(
            f"{text[:80]!r} is no name of the cluster, and an alias leads to no other",
            thing=text[:80],
            hint="write NAME, NAME.NETWORK or a full name; for an outside name type "
            "`netagent service add NAME --name DNS`",
        )
    return NameAlias((target or network).network_id, ".".join(labels))


def service_record(network: NetworkView, request: ServiceRequest, by: str) -> ExternalServiceRecord:
    """Return the record of a service to add."""
    return ExternalServiceRecord(
        service_id=ServiceId(os.urandom(16).hex()),
        network_id=network.network_id,
        name=request.name,
        target=request.target,
        added_s=int(time.time()),
        added_by=by,
        ports=request.ports,
        weight=request.weight,
        checks=request.checks,
        ttl_s=request.ttl_s,
    )


def refuse_service(view: RegistryView, network: NetworkView, record: ExternalServiceRecord) -> None:
    """Raise RefusedError if this host cannot add a service, as the registry is."""
    _refuse_target(view, network, record)
    place = network.unique_name
    _refuse_taken(view, network, record.name)
    if view.store.own_names_called.get((network.network_id, record.name)):
        raise RefusedError(
            f"an operator has added the name {record.name} to network {place}",
            code="name-in-use",
            thing=record.name,
            hint=f"use another name, or `netagent name rm {record.name}.{place}` first",
        )
    for known in external_services(view, network.network_id):
        shared = _shared(known.record.target, record.target) if known.record.name == record.name else ""
        if shared and not (isinstance(record.target, HostProgram) and known.owner != view.local):
            where = "" if known.owner == view.local else f" on {_host_name(view, known.owner)}"
            raise RefusedError(
                f"{shared} was added to service {record.name} already{where}, with other options",
                code="service-exists",
                thing=record.name,
                hint=f"remove it first: `netagent service rm {record.name} --network {place}`{where}",
            )
    own = _own_records(view, ExternalServiceRecord)
    count = sum(1 for one in own if one.network_id == network.network_id)
    if count >= MAX_SERVICES:
        raise RefusedError(
            f"this host has added {count} external services to network {place}",
            code="too-many-records",
            thing=place,
            hint="remove some, or add them on another host",
        )


def name_record(
    view: RegistryView, network: NetworkView, request: OwnNameRequest, domain: str, by: str
) -> OwnNameRecord:
    """Return the record of a name to add. Raises InputError for an alias of what is no name of the cluster."""
    value: NameAlias | NameData = NameData(request.addresses, request.texts)
    if request.cname is not None:
        value = alias_of(view, network, request.cname, domain)
    name_id = OwnNameId(os.urandom(16).hex())
    return OwnNameRecord(name_id, network.network_id, request.name, value, int(time.time()), by)


def refuse_name(view: RegistryView, network: NetworkView, record: OwnNameRecord) -> None:
    """Raise RefusedError or InputError if this host cannot add a name, as the registry is."""
    place = network.unique_name
    for known in own_names(view, network.network_id):
        if known.record.name == record.name and known.counts:
            where = "" if known.owner == view.local else f" on {_host_name(view, known.owner)}"
            name = f"{record.name}.{place}"
            raise RefusedError(
                f"the name {name} was added already{where}, and leads elsewhere",
                code="name-in-use",
                thing=name,
                hint=f"remove it first: `netagent name rm {name}`{where}",
            )
    _refuse_taken(view, network, record.name)
    if view.store.services_called.get((network.network_id, record.name)):
        raise RefusedError(
            f"network {place} has an external service {record.name}",
            code="name-in-use",
            thing=record.name,
            hint="use another name",
        )
    if ServiceKey(record.name) in view.service_addresses(network.network_id):
        raise RefusedError(
            f"service {record.name} of network {place} has an address of its own",
            code="name-in-use",
            thing=record.name,
            hint="use another name",
        )
    match record.value:
        case NameData(addresses):
            for address in addresses:
                _refuse_address(view, network, address)
        case NameAlias():
            _refuse_loop(view, record)
    count = sum(1 for one in _own_records(view, OwnNameRecord) if one.network_id == network.network_id)
    if count >= MAX_OWN_NAMES:
        raise RefusedError(
            f"this host has added {count} names to network {place}",
            code="too-many-records",
            thing=place,
            hint="remove some, or add them on another host",
        )


def _own_records(view: RegistryView, kind: type[R]) -> Iterator[R]:
    own: tuple[Record, ...] = view.records_of(view.local, CLUSTER_SCOPE)
    return (one for one in own if isinstance(one, kind))


def _refuse_target(view: RegistryView, network: NetworkView, record: ExternalServiceRecord) -> None:
    """Raise RefusedError where containers of the network cannot reach the target."""
    place = network.unique_name
    match record.target:
        case FixedAddresses(addresses):
            for one in addresses:
                _refuse_address(view, network, one.address)
                _refuse_unlisted(network, one)
        case DnsName(name) if network.record.internal:
            raise _closed(network, name)
        case HostProgram(port) if not network.record.host_access:
            raise RefusedError(
                f"network {place} gives hosts no address, so containers cannot reach port {port} of this host",
                code="no-host-access",
                thing=place,
                hint="add it to a network that was created with --host-access, or run the program in a container",
            )


def _refuse_address(view: RegistryView, network: NetworkView, address: str) -> None:
    if network.record.internal:
        raise _closed(network, address)
    parsed = ipaddress.ip_address(address)
    for other in view.networks.values():
        for subnet in map(parse_subnet, other.record.subnets):
            if subnet.version == parsed.version and parsed in subnet:
                raise RefusedError(
                    f"{address} is inside network {other.unique_name}, so it can only be a container's",
                    code="inside-address",
                    thing=address,
                    hint="`netagent attach` the container with --service, or link to it",
                )
    for ranges in view.store.service_ranges.values():
        for one in ranges:
            if has_addresses_of(one.record, address):
                other = view.networks[one.record.network_id]
                raise RefusedError(
                    f"{address} is from the addresses for services of network {other.unique_name}",
                    code="inside-address",
                    thing=address,
                    hint="use the service's name: an alias leads to it, `netagent name add NAME --cname SERVICE`",
                )
    families = {parse_subnet(text).version for text in network.record.subnets}
    if parsed.version not in families:
        raise RefusedError(
            f"containers of network {network.unique_name} have no IPv{parsed.version}, "
            f"so they cannot reach {address}",
            code="other-family",
            thing=address,
            hint=f"give an IPv{min(families)} address",
        )


def _refuse_unlisted(network: NetworkView, target: TargetAddress) -> None:
    egress = network.record.egress
    if egress is not None and not may_reach(egress, target.address, target.port):
        place = network.unique_name
        listed = [one.text for one in egress] if len(egress) <= _SHOWN_TARGETS else ["…"]
        raise RefusedError(
            f"the egress of network {place} does not list {target.text}, so its containers cannot reach it",
            code="network-egress",
            thing=place,
            hint=f"`netagent network set {place} --egress {','.join([*listed, target.text])}`",
        )


def _closed(network: NetworkView, thing: str) -> RefusedError:
    place = network.unique_name
    return RefusedError(
        f"network {place} is internal, so its containers cannot reach {thing}",
        code="network-internal",
        thing=place,
        hint="add it to a network that is not internal",
    )


def _refuse_taken(view: RegistryView, network: NetworkView, label: str) -> None:
    holder = endpoint_called(view, network.network_id, label)
    if holder is not None:
        raise RefusedError(
            f"container {holder.record.name} on {_host_name(view, holder.owner)} has the name {label} in "
            f"network {network.unique_name}",
            code="name-in-use",
            thing=label,
            hint="use another name: a container keeps its own",
        )


def _refuse_loop(view: RegistryView, record: OwnNameRecord) -> None:
    """Raise InputError for an alias that leads back to itself."""
    value: NameAlias | NameData = record.value
    for _ in range(_MAX_ALIASES):
        if not isinstance(value, NameAlias):
            return
        if (value.network_id, value.name) == (record.network_id, record.name):
            raise InputError(
                f"the alias {record.name} would lead to itself", thing=record.name, hint="name another target"
            )
        holder = view.store.own_name_holders.get((value.network_id, value.name))
        if holder is None:
            return
        owner, name_id = holder
        value = view.store.own_names[name_id][owner].value
    raise InputError(
        f"the alias {record.name} would lead through more than {_MAX_ALIASES} others",
        thing=record.name,
        hint="name its target directly",
    )


def _shared(one: ServiceTarget, other: ServiceTarget) -> str:
    """Return what two targets have in common, as users type it; "" if they have nothing."""
    match one, other:
        case FixedAddresses(), FixedAddresses():
            return next((place.text for place in one.addresses if place in other.addresses), "")
        case HostProgram(), HostProgram():
            return f"port {one.port}" if one.port == other.port else ""
        case DnsName(), DnsName():
            return one.name if one.name == other.name else ""
    return ""


def _host_name(view: RegistryView, host_id: HostId) -> str:
    host = view.hosts.get(host_id)
    return host_id[:8] if host is None else host.unique_name
