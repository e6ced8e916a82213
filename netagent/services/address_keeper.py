"""Keeps the addresses of services in order: gives those that labels and networks ask for, and clears up.

* A service whose replicas ask for an address (a label, or their network) gets one. Of the hosts with replicas the
  live one with the smallest id gives it, the others each some seconds after the one before: a host may be alive and
  have no space.
* An address that was not given by an operator goes when its service has had no replica for a day, by the journal's
  clock: containers come back, and programs remember the address.
* An address of this host that is not in force any more (its range met a network that was made on the other side of a
  cut, or another host got its place) is replaced by another.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeAlias

import trio

from netagent.errors import NetagentError
from netagent.journal.journal import Journal
from netagent.log import Limited
from netagent.membership.participation import Participation
from netagent.model.ids import LOCALHOST, HostId, NetworkId
from netagent.model.records import ServiceAddressOrigin, ServiceAddressRecord, ServiceKey, ServiceRangeRecord
from netagent.periodic_task import PeriodicTask
from netagent.registry.publish import Publisher
from netagent.registry.record_codec import key_of
from netagent.registry.service_rules import is_inside
from netagent.registry.state_store import StateStore
from netagent.registry.view import RegistryView, ServiceRangeView
from netagent.services.addresses import ServiceAddresses, asks, shown, wanted_by
from netgossip.types import CLUSTER_SCOPE

SETTLE_S: Final = 0.2
"""How long the first host waits for records of the others: a project may be started on all hosts at one instant."""
TURN_S: Final = 3.0
"""How much longer each further host waits before it gives an address: for the record of the one before."""
MAX_TURNS: Final = 5
"""Of many hosts the last ones wait no longer than so many turns."""
RETRY_S: Final = 60.0
"""After an address could not be given: hosts that have space were asked."""
LOOK_S: Final = 60.0
"""Interval for looking at this host's own addresses."""
LOST_S: Final = 10.0
"""How long an address of this host is out of force before it is replaced. Records of two sides of a cut arrive one by
one."""
IDLE_S: Final = 86_400
"""Time without a replica after which an address goes that no operator gave."""
LOOKED_AT_ONCE: Final = 256

Place: TypeAlias = tuple[NetworkId, ServiceKey]

logger = logging.getLogger("netagent.services.address_keeper")
_limited = Limited(logger)


@dataclass(slots=True, kw_only=True)
class ServiceAddressKeeper:
    """Two tasks: `give` follows the registry, `clear_up` looks from time to time."""

    live: StateStore
    addresses: ServiceAddresses
    publisher: Publisher
    participation: Participation
    journal: Journal
    unix_s: Callable[[], int] = lambda: int(time.time())
    _since: dict[Place, float] = field(default_factory=dict)
    """Services that should have an address from this host and have none, and since when."""
    _due: dict[Place, float] = field(default_factory=dict)
    """When this host gives it."""
    _lost_since: dict[bytes, float] = field(default_factory=dict)
    """By key, addresses of this host that are not in force."""

    # -- giving ------------------------------------------------------------------------------------------------

    async def give(self) -> None:
        """Run until cancelled."""
        seen: RegistryView | None = None
        while True:
            known = self.live.now
            for number, place in enumerate(_touched(known.view, seen), 1):
                self._consider(known.view, place)
                if number % LOOKED_AT_ONCE == 0:
                    await trio.lowlevel.checkpoint()
            seen = known.view
            await self._give_due()
            with trio.move_on_at(min(self._due.values(), default=math.inf)):
                await self.live.wait_newer(known.revision)

    def _consider(self, view: RegistryView, place: Place) -> None:
        """Note when this host gives a service an address, if it should have one and has none."""
        turn = _turn_of(view, place)
        if turn is None:
            self._since.pop(place, None)
            self._due.pop(place, None)
        else:
            since = self._since.setdefault(place, trio.current_time())
            self._due[place] = max(since + SETTLE_S + TURN_S * turn, self._due.get(place, -math.inf))

    async def _give_due(self) -> None:
        now = trio.current_time()
        for place in [place for place, due in self._due.items() if due <= now]:
            self._consider(self.live.view, place)  # replicas of other hosts may have come
            origin = _lacking(self.live.view, place)
            if origin is None or self._due.get(place, math.inf) > now:
                continue
            try:
                await self.addresses.ensure(*place, origin)
            except NetagentError as error:
                self._due[place] = trio.current_time() + RETRY_S
                where = f"{place[0]} {shown(place[1])}"
                _limited.warning(where, f"cannot give service {shown(place[1])} an address yet: {error}")
            else:
                self._consider(self.live.view, place)

    # -- clearing up -------------------------------------------------------------------------------------------

    async def clear_up(self) -> None:
        """Run until cancelled."""
        task, idle = PeriodicTask(LOOK_S), self.journal.load_idle_services()
        steps: tuple[Callable[[], Awaitable[None]], ...] = (
            self._replace_lost,
            partial(self._withdraw_idle, idle),
            self._withdraw_lost_ranges,
        )
        while True:
            for number, step in enumerate(steps):
                try:
                    await step()
                except NetagentError as error:
                    _limited.warning(
                        f"step {number}", f"cannot put addresses of services in order yet: {error}"
                    )
            await task.wait(LOST_S if self._lost_since else LOOK_S)

    async def _replace_lost(self) -> None:
        view, now = self.live.view, trio.current_time()
        lost: dict[bytes, ServiceAddressRecord] = {}
        for number, record in enumerate(_own_addresses(view), 1):
            place = (record.network_id, record.service)
            key = key_of(record)[1]
            holders = view.store.address_holders.get(place, ())
            if record.network_id in view.networks and (view.local, key) not in holders:
                lost[key] = record
            if number % LOOKED_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
        self._lost_since = {key: self._lost_since.get(key, now) for key in lost}
        for key, record in lost.items():
            if now - self._lost_since[key] < LOST_S:
                continue
            try:
                await self.addresses.give_another(record)
            except NetagentError as error:
                _limited.warning(
                    key.hex(), f"cannot give service {shown(record.service)} another address yet: {error}"
                )

    async def _withdraw_idle(self, idle: dict[Place, int]) -> None:
        """Note since when services have no replica, and withdraw the addresses of those without one for a day."""
        view, now_s = self.live.view, self.unix_s()
        known: set[Place] = set()
        for number, record in enumerate(_own_addresses(view), 1):
            place = (record.network_id, record.service)
            if record.origin is not ServiceAddressOrigin.OPERATOR and place not in view.store.by_service:
                known.add(place)
                if place not in idle or idle[place] > now_s:
                    idle[place] = now_s
                    self.journal.note_idle_service(*place, now_s)
            if number % LOOKED_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
        for place in idle.keys() - known:
            del idle[place]
            self.journal.note_idle_service(*place, None)
        for place in [place for place in known if now_s - idle[place] >= IDLE_S]:
            if await self._is_idle(place):
                await self.addresses.withdraw_idle(*place)
            else:
                idle[place] = now_s
                self.journal.note_idle_service(*place, now_s)

    async def _is_idle(self, place: Place) -> bool:
        """True if no host has a replica of a service. A host that takes no part in a network sees none of those that
        others have."""
        network_id = place[0]
        await self.participation.look_into(network_id)
        try:
            return place not in self.live.view.store.by_service
        finally:
            self.participation.look_away(network_id)

    async def _withdraw_lost_ranges(self) -> None:
        """Withdraw this host's ranges that are not in force and of which no service has an address any more: they
        keep their subnets from others."""
        view = self.live.view
        lost = [
            record
            for network_id, claims in view.store.range_records.items()
            for (owner, _), record in claims.items()
            if owner == view.local
            and network_id in view.networks
            and record.subnets not in {one.record.subnets for one in view.service_ranges(network_id)}
            and not _is_inhabited(view, record)
        ]
        if lost:
            await self.publisher.withdraw(*lost)


def _touched(view: RegistryView, seen: RegistryView | None) -> Iterator[Place]:
    """Yield the services that may have to get an address now, some more than once."""
    touched = None if seen is None else view.touched_since(seen)
    if touched is None or seen is None or _are_turned_on(view, seen):
        yield from view.store.by_service
        return
    for _, endpoint_id in touched.endpoints:
        endpoint = view.endpoints.get(endpoint_id)
        network = None if endpoint is None else view.networks.get(endpoint.network_id)
        # One that asks for nothing changes nothing, however many replicas its service has.
        if endpoint and network and (network.record.service_addresses or asks(endpoint.record)):
            yield endpoint.network_id, endpoint.record.service_key
    yield from touched.service_addresses


def _are_turned_on(view: RegistryView, seen: RegistryView) -> bool:
    """True if each service of some network should have an address now, and did not have to before."""
    if view.networks is seen.networks:
        return False
    now, before = (
        {one for one, network in known.networks.items() if network.record.service_addresses}
        for known in (view, seen)
    )
    return not now <= before


def _lacking(view: RegistryView, place: Place) -> ServiceAddressOrigin | None:
    """Return why a service should have an address that it has not; None: it has one, or needs none."""
    network_id, service = place
    network = view.networks.get(network_id)
    if network is None or service.name == LOCALHOST or service in view.service_addresses(network_id):
        return None
    found = wanted_by(view, network, service)
    return None if found is None else found[0]


def _turn_of(view: RegistryView, place: Place) -> int | None:
    """Return how many hosts give a service an address before this one; None: it gives none."""
    if _lacking(view, place) is None:
        return None
    owners = {endpoint.owner for endpoint in view.store.by_service[place].values()}
    if view.local not in owners:
        return None
    return min(sum(1 for one in owners if one < view.local and _is_live(view, one)), MAX_TURNS)


def _is_live(view: RegistryView, host_id: HostId) -> bool:
    host = view.hosts.get(host_id)
    return host is not None and host.is_live and not view.is_host_hidden(host_id)


def _own_addresses(view: RegistryView) -> Iterable[ServiceAddressRecord]:
    """Yield the addresses that this host has given, whether or not they are in force."""
    for key in view.store.address_keys.get(view.local, ()):
        record = view.store.records[CLUSTER_SCOPE, view.local][key].record
        if isinstance(record, ServiceAddressRecord):
            yield record


def _is_inhabited(view: RegistryView, record: ServiceRangeRecord) -> bool:
    """True if a service has an address from the range, by any record."""
    ranges = [ServiceRangeView(view.local, record)]
    return any(is_inside(ranges, key) for _, key in view.store.address_records.get(record.network_id, ()))
