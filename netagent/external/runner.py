"""Finds out about the external services that it is this host's turn to ask for, and publishes what changes.

Level-triggered: what is asked follows from the records as they are, and what is published from what was found out as
a whole. A change that could not be published is tried again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Final, TypeAlias

import trio

from netagent.checks.ask import Question, ask_all
from netagent.checks.schedule import CheckSchedule
from netagent.checks.state import Answer, Outcome
from netagent.errors import NetagentError
from netagent.events.channel import event
from netagent.events.kinds import EventKind
from netagent.external.turns import TakenOver, Turns, asking_host, stand_in
from netagent.external.view import ExternalService, service_with, successor_state
from netagent.external.watch import DnsAnswer, ServiceWatch
from netagent.log import Limited
from netagent.model.check import ExecCheck
from netagent.model.ids import HostId, ServiceId
from netagent.model.records import MAX_TURN, ExternalStateRecord
from netagent.registry.publish import Publisher
from netagent.registry.state_store import StateStore
from netagent.registry.view import RegistryView

RETRY_S: Final = 2.0
"""Pause after each change of a service that is published, or could not be: another member, or a full disk, must not
make this host write without end."""
LOST_TURN_S: Final = 10.0
"""A host that asks instead of the owner waits this long once another host's word has replaced its own: two that see
the cluster differently, and get different answers, overwrite each other no faster."""
SERVICES_AT_ONCE: Final = 64
"""Services that are looked through before other tasks run."""

logger = logging.getLogger("netagent.external")
_limited = Limited(logger)

_Key: TypeAlias = tuple[ServiceWatch, str, int]
"""A check at an address, by its number; -1: the DNS name."""
Resolve: TypeAlias = Callable[[str], Awaitable[DnsAnswer | None]]
Ask: TypeAlias = Callable[[Sequence[Question], Callable[[int, Answer], None]], Awaitable[None]]


class ExternalRunner:
    """`run` until cancelled."""

    def __init__(
        self, live: StateStore, publisher: Publisher, resolve: Resolve, rng: Random, ask: Ask = ask_all
    ) -> None:
        """`resolve` asks the host's name servers for the addresses of a name; None: none answered."""
        self._live = live
        self._publisher = publisher
        self._resolve = resolve
        self._ask_all = ask
        self._turns = Turns()
        self.watched: dict[ServiceId, ServiceWatch] = {}
        self._renewed: set[ServiceId] = set()
        """Services of this host that were renewed before it began to ask for them."""
        self._keys: dict[ServiceId, set[_Key]] = {}
        self._checks = _schedule(rng)
        self._names = _schedule(rng)
        """Apart from the checks, so that checks that hang keep no name from being resolved."""
        self._woken = trio.Event()
        self._saving: set[ServiceId] = set()
        self._written: set[ServiceId] = set()
        """Services whose state in force was this host's word when it looked last."""
        self._nursery: trio.Nursery

    def renew(self, service_id: ServiceId) -> None:
        """Note that an operator's program has renewed a service of this host."""
        watch = self.watched.get(service_id)
        if watch is None:
            self._renewed.add(service_id)
        else:
            watch.renew(trio.current_time())
            self._publish_soon(watch)
            self._woken.set()

    async def run(self) -> None:
        """Run until cancelled."""
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._do_what_is_due)
            await self._follow()

    # -- which services --------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        revision = -1
        seen: tuple[object, ...] | None = None
        while True:
            with trio.move_on_at(self._turns.next_moment(trio.current_time())) as waiting:
                revision = await self._live.wait_newer(revision)
            view = self._live.view
            parts = _parts_of(view)
            is_same = seen is not None and all(a is b for a, b in zip(seen, parts, strict=True))
            if is_same and not waiting.cancelled_caught:
                continue  # most changes of the registry are none of these
            if not is_same:
                seen = parts
                self._turns.follow(await _wanted(view), view.local, trio.current_time())
            await self._follow_taken(view, self._turns.taken(trio.current_time()))

    async def _follow_taken(self, view: RegistryView, taken: frozenset[ServiceId]) -> None:
        for service_id in self.watched.keys() - taken:
            del self.watched[service_id]
            self._written.discard(service_id)
            for key in self._keys.pop(service_id):
                self._schedule_of(key).drop(key)
        for number, service_id in enumerate(sorted(taken), 1):
            service = service_with(view, service_id)
            if service is None:
                continue
            now, unix_s = trio.current_time(), int(time.time())
            watch = self.watched.get(service_id)
            if watch is None:
                watch = self.watched[service_id] = ServiceWatch(service, now, unix_s)
                self._keys[service_id] = set()
                if service_id in self._renewed:
                    watch.renew(now)
            elif watch.service != service:
                watch.follow(service, now, unix_s)
            self._plan(watch, now)
            self._publish_soon(watch)
            if number % SERVICES_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
        known = view.store.external_services
        self._renewed = {one for one in self._renewed if one in known and one not in self.watched}
        self._woken.set()

    def _plan(self, watch: ServiceWatch, now: float) -> None:
        keys: set[_Key] = {
            (watch, address, number) for address in watch.addresses for number in range(len(watch.checks))
        }
        if watch.name is not None:
            keys.add((watch, watch.name, -1))
        known = self._keys[watch.service.record.service_id]
        for key in known - keys:
            self._schedule_of(key).drop(key)
        for key in keys - known:
            self._schedule_of(key).add(key, now)
        self._keys[watch.service.record.service_id] = keys

    def _schedule_of(self, key: _Key) -> CheckSchedule[_Key]:
        return self._names if key[2] < 0 else self._checks

    # -- asking ----------------------------------------------------------------------------------------------------

    async def _do_what_is_due(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                now = trio.current_time()
                self._woken = trio.Event()
                for watch in self.watched.values():
                    if now >= watch.next_deadline:
                        watch.handle_deadline(now, int(time.time()))
                        self._publish_soon(watch)
                for key in self._names.take(now):
                    nursery.start_soon(self._resolve_name, key)
                if checks := self._checks.take(now):
                    nursery.start_soon(self._ask, checks)
                expiry = min((one.next_deadline for one in self.watched.values()), default=float("inf"))
                with trio.move_on_at(min(self._names.next_moment(), self._checks.next_moment(), expiry)):
                    await self._woken.wait()

    async def _ask(self, keys: Sequence[_Key]) -> None:
        questions = []
        for watch, address, number in keys:
            check = watch.checks[number]
            assert not isinstance(check.subject, ExecCheck)
            questions.append(Question(check.subject, None, (address,), check.timeout_s))

        def end(position: int, outcome: Answer) -> None:
            key = keys[position]
            watch, address, number = key
            now = trio.current_time()
            if isinstance(outcome, Outcome) and self._is_current(watch):
                watch.handle_outcome(address, number, outcome, now, int(time.time()))
                self._publish_soon(watch)
            self._checks.end(key, watch.check_interval_s(address, number, now), now)
            self._woken.set()

        await self._ask_all(questions, end)

    async def _resolve_name(self, key: _Key) -> None:
        watch, name, _ = key
        answer = await self._resolve(name)
        if answer is None:
            _limited.warning(name, f"no name server of this host answers for {name}; its last answer stands")
        if self._is_current(watch):
            view = self._live.view
            subnets = [text for one in view.networks.values() for text in one.record.subnets]
            subnets += [
                text
                for some in view.store.service_ranges.values()
                for one in some
                for text in one.record.subnets
            ]
            watch.handle_answer(answer, subnets)
            self._publish_soon(watch)
        self._names.end(key, watch.resolve_interval_s(failed=answer is None), trio.current_time())
        self._woken.set()

    def _is_current(self, watch: ServiceWatch) -> bool:
        return self.watched.get(watch.service.record.service_id) is watch

    # -- publishing ------------------------------------------------------------------------------------------------

    def _publish_soon(self, watch: ServiceWatch) -> None:
        service_id = watch.service.record.service_id
        if service_id not in self._saving and watch.wanted() is not None:
            self._saving.add(service_id)
            self._nursery.start_soon(self._publish, watch)

    async def _publish(self, watch: ServiceWatch) -> None:
        """Publish what was found out, until the record in force says it."""
        service_id = watch.service.record.service_id
        try:
            while self._is_current(watch):
                service = service_with(self._live.view, service_id)
                if service is None:
                    return
                watch.service = service
                state = watch.wanted()
                if state is None or self._is_beaten(service):
                    return
                if service.owner != self._live.view.local and self._has_lost(service):
                    self._written.discard(service_id)
                    await trio.sleep(LOST_TURN_S)
                    continue
                try:
                    await self._publisher.put(self._as_ours(state, service.found, service.found_by))
                except (NetagentError, OSError) as error:
                    _limited.warning(
                        service_id, f"cannot publish the state of {service.record.name} yet: {error}"
                    )
                else:
                    self._written.add(service_id)
                    _tell(service, state)
                await trio.sleep(RETRY_S)
        finally:
            self._saving.discard(service_id)

    def _has_lost(self, service: ExternalService) -> bool:
        return service.record.service_id in self._written and service.found_by != self._live.view.local

    def _is_beaten(self, service: ExternalService) -> bool:
        """True if another host is at the end of the turns, and this one, not being the owner, cannot follow it."""
        local, found = self._live.view.local, service.found
        return found is not None and found.turn >= MAX_TURN and local not in (service.found_by, service.owner)

    def _as_ours(
        self, state: ExternalStateRecord, found: ExternalStateRecord | None, by: HostId | None
    ) -> ExternalStateRecord:
        """Return the state with the turn by which it counts."""
        if found is None:
            return state
        turn = found.turn if by == self._live.view.local else successor_state(found).turn
        return ExternalStateRecord(
            state.service_id, state.network_id, turn, state.states, state.resolution, state.expired_s
        )


def _schedule(rng: Random) -> CheckSchedule[_Key]:
    """Return a schedule in which each service has its room, whatever number of addresses it has."""
    return CheckSchedule(rng, owner_of=lambda key: key[0], is_command=lambda _: False)


def _parts_of(view: RegistryView) -> tuple[object, ...]:
    store = view.store
    return (
        store.external_services,
        store.external_states,
        store.host_addresses,
        store.networks,
        store.members,
        store.evicted,
    )


async def _wanted(view: RegistryView) -> dict[ServiceId, HostId]:
    """Return the services that this host should ask for, with their owners."""
    instead, found, others = stand_in(view), dict[ServiceId, HostId](), TakenOver()
    for number, service_id in enumerate(view.store.external_services, 1):
        service = service_with(view, service_id)
        is_here = service is not None and service.record.network_id in view.networks
        if service is not None and is_here and asking_host(view, service, instead) == view.local:
            if service.owner == view.local:
                found[service_id] = service.owner
            else:
                others.add(service)
        if number % SERVICES_AT_ONCE == 0:
            await trio.lowlevel.checkpoint()
    return found | others.chosen()


def _tell(service: ExternalService, state: ExternalStateRecord) -> None:
    """Tell people what has changed; that a failing address fails in another way is for the log alone."""
    is_news = service.found is None or _levels(service.found) != _levels(state)
    extra = event(EventKind.HEALTH, service.record.name) if is_news else None
    level = logging.INFO if is_news else logging.DEBUG
    logger.log(level, "external service %s: %s", service.record.name, _summary(state), extra=extra)


def _levels(state: ExternalStateRecord) -> tuple[object, ...]:
    """Return what a state says, without why and since when."""
    healths = {one.address: one.health for one in state.states}
    resolved = None if state.resolution is None else state.resolution.addresses or state.resolution.reason
    return healths, resolved, state.expired_s is not None


def _summary(state: ExternalStateRecord) -> str:
    parts = [f"{one.address} {one.health.value} {one.reason}".strip() for one in state.states]
    if state.resolution is not None:
        parts.append(", ".join(state.resolution.addresses) or state.resolution.reason)
    if state.expired_s is not None:
        parts.append("not renewed in time")
    return "; ".join(parts) or "renewed"
