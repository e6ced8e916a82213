"""Which replicas of a service its addresses lead to, and with which weights. Pure.

They are those that names would lead to: the endpoints of the service that are up, on hosts that are neither away nor
drained. Those that this host does not reach, and those whose failing checks the operator does not trust, count only
if there are no others. Where no container of the network has the service's name, the addresses of an external service
of that name take their place, as they do for names.

Of these the service's balance selects: all, the nearest ones, those in this host's zone, or the first one. The order
is that of names as well (netagent.model.locality), and each host selects for its own containers.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Final

from netagent.external.view import endpoint_called, service_with
from netagent.model.ids import EndpointId, HostId
from netagent.model.locality import (
    AnswerOrder,
    Balance,
    how_far,
    nearest,
    next_warm_step_s,
    warm_steps,
)
from netagent.model.records import HostProgram, ServiceAddressRecord, TargetAddress
from netagent.registry.view import EndpointView, RegistryView
from netgossip.slices import Slices

MAX_OUTSIDE: Final = 256
"""Bound of addresses of external services that one service address leads to; beyond it: the first by id, as for
names."""
_LOOKED_AT_PER_SLICE: Final = 64
_PER_SLICE: Final = 512
"""Of those whose state is known."""

_NO_ENDPOINTS: Mapping[EndpointId, EndpointView] = {}

_ORDERS: Final = {
    Balance.SPREAD: AnswerOrder.SPREAD,
    Balance.NEAREST: AnswerOrder.NEAREST,
    Balance.ZONE: AnswerOrder.ZONE,
    Balance.FIRST: AnswerOrder.SPREAD,
}


@dataclass(frozen=True, slots=True)
class Backend:
    """A replica to which connections to a service's address may be led."""

    key: str
    """The id of the endpoint; of an address of an external service, that of the service and the address."""
    owner: HostId
    addresses: tuple[bytes, ...]
    """At most one of each family."""
    weight: int
    up_since_s: int | None = None
    """None: it has no check, and no warm-up."""
    is_behind: bool = False
    """It counts only if all others are behind as well."""
    is_outside: bool = False
    """Its address is on no host of the cluster."""
    is_program: bool = False
    """It is a program of the owner itself."""

    def address(self, octets: int) -> bytes | None:
        """Return its address of the family whose addresses have so many octets; None: it has none."""
        return next((one for one in self.addresses if len(one) == octets), None)

    def weight_now(self, now_s: int) -> int:
        """Return its weight in steps of its warm-up."""
        return self.weight * warm_steps(self.up_since_s, now_s)


def backends_of(view: RegistryView, record: ServiceAddressRecord) -> Slices[list[Backend]]:
    """Return the backends of a service. Costs its replicas."""
    every = yield from candidates(view, record)
    return (yield from selected(view, record, [one for one in every if not one.is_behind] or every))


def candidates(view: RegistryView, record: ServiceAddressRecord) -> Slices[list[Backend]]:
    """Return all replicas that may be backends."""
    given = dict(record.host_weights)
    found: list[Backend] = []
    endpoints = view.store.by_service.get((record.network_id, record.service), _NO_ENDPOINTS)
    for number, endpoint in enumerate(endpoints.values(), start=1):
        is_kept = view.is_kept(endpoint) or (record.keeps_failing and view.is_failing(endpoint))
        if is_kept or view.is_visible(endpoint):
            found.append(_inside(view, endpoint, given, is_kept=is_kept))
        if number % _LOOKED_AT_PER_SLICE == 0:
            yield
    return found or list(islice(_added(view, record, given), MAX_OUTSIDE))


def packed(endpoint: EndpointView) -> tuple[bytes, ...]:
    """Return the addresses of an endpoint as packets have them."""
    return tuple(map(packed_address, endpoint.record.addresses))


@lru_cache(maxsize=65_536)
def packed_address(address: str) -> bytes:
    """Return an address as packets have it."""
    return ipaddress.ip_address(address).packed


def _inside(
    view: RegistryView, endpoint: EndpointView, given: Mapping[str, int], *, is_kept: bool
) -> Backend:
    host = view.hosts.get(endpoint.owner)
    own = endpoint.record.weight
    return Backend(
        key=endpoint.endpoint_id,
        owner=endpoint.owner,
        addresses=packed(endpoint),
        weight=own if host is None else given.get(host.unique_name, own),
        up_since_s=endpoint.record.up_since_s,
        is_behind=is_kept or view.is_behind(endpoint),
    )


def _added(view: RegistryView, service: ServiceAddressRecord, given: Mapping[str, int]) -> Iterator[Backend]:
    """Yield the addresses of external services with the name of the service."""
    network_id, (name, group) = service.network_id, service.service
    if group is not None or endpoint_called(view, network_id, name) is not None:
        return
    called = view.store.services_called.get((network_id, name), ())
    for service_id in sorted({service_id for _, service_id in called}):
        found = service_with(view, service_id)
        if found is None or found.record.network_id != network_id:
            continue
        # Only a program of a host runs on its owner.
        is_outside = not isinstance(found.record.target, HostProgram)
        host = None if is_outside else view.hosts.get(found.owner)
        own = found.record.weight
        for target in found.answering:
            if _fits(service, target):
                yield Backend(
                    key=f"{service_id}/{target.text}",
                    owner=found.owner,
                    addresses=(packed_address(target.address),),
                    weight=own if host is None else given.get(host.unique_name, own),
                    is_behind=host is not None and host.is_unreached,
                    is_outside=is_outside,
                    is_program=not is_outside,
                )


def _fits(service: ServiceAddressRecord, target: TargetAddress) -> bool:
    """True if all ports of the service lead to the one port where the address is served. An address without a port,
    and a service without ports, have any."""
    return target.port is None or all(port.target == target.port for port in service.ports)


def selected(
    view: RegistryView, record: ServiceAddressRecord, every: Sequence[Backend]
) -> Slices[list[Backend]]:
    """Return those that the balance of the service selects."""
    if record.balance is Balance.FIRST:
        first = yield from _smallest(every, lambda one: (-one.weight, one.owner, one.key))
        return [] if first is None else [first]
    order, own_zone = _ORDERS[record.balance], view.zone_label_of(view.local)
    if order is AnswerOrder.SPREAD:
        return list(every)
    # Hosts are few, even where a service has two thousand replicas.
    far: dict[HostId | None, tuple[int, int]] = {None: how_far(order, None, "", own_zone)}
    found = []
    for number, one in enumerate(every, start=1):
        owner = None if one.is_outside else one.owner
        if owner is not None and owner not in far:
            far[owner] = how_far(order, view.distance_of(owner), view.zone_label_of(owner), own_zone)
        found.append(far[owner])
        if number % _PER_SLICE == 0:
            yield
    return nearest(every, found)


def _smallest(
    every: Sequence[Backend], key: Callable[[Backend], tuple[int, str, str]]
) -> Slices[Backend | None]:
    found: Backend | None = None
    for number, one in enumerate(every, start=1):
        if found is None or key(one) < key(found):
            found = one
        if number % _PER_SLICE == 0:
            yield
    return found


def weights_at(backends: Sequence[Backend], octets: int, now_s: int) -> Slices[dict[bytes, int]]:
    """Return the weight of each address of a family, in steps of the backends' warm-up."""
    found: dict[bytes, int] = {}
    for number, one in enumerate(backends, start=1):
        address = one.address(octets)
        if address is not None:
            found[address] = found.get(address, 0) + one.weight_now(now_s)
        if number % _PER_SLICE == 0:
            yield
    return found


def next_step_s(backends: Sequence[Backend], now_s: int) -> Slices[int | None]:
    """Return when the shares change next because a backend has taken a step of its warm-up; None: they do not."""
    found: int | None = None
    for number, one in enumerate(backends if len(backends) > 1 else (), start=1):
        step_s = next_warm_step_s(one.up_since_s, now_s)
        if step_s is not None and (found is None or step_s < found):
            found = step_s
        if number % _PER_SLICE == 0:
            yield
    return found
