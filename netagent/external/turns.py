"""Which host finds out about an external service: its owner, else the next one. Pure.

The owner asks. While its agent is away, the live host with the smallest id does, so that exactly one asks. A program
of a host is asked by that host alone. Hosts that see the cluster differently may both ask for a while, which does no
harm: what counts is decided by the records (netagent.model.records).

A host waits before it takes over: a host that has just started does not know yet which others are alive. What it
takes over is bounded, because a member that is away may have asked for anything.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Mapping
from typing import Final

from netagent.external.view import ExternalService
from netagent.model.ids import HostId, NetworkId, ServiceId
from netagent.model.records import DnsName, HostProgram
from netagent.registry.view import RegistryView
from netgossip.deadlines import NEVER

TAKEOVER_S: Final = 3.0
"""The owner's agent was declared dead some seconds before; a start learns of all members within one."""

MAX_SERVICES: Final = 256
"""Bound of external services that one host adds to one network; beyond it: refused, and not asked for by others. Each
goes to all hosts."""
MAX_CHECKS: Final = 4096
"""Bound of checks, at all addresses, that a host asks for owners that are away; beyond it: the last state stands."""


def is_present(view: RegistryView, host_id: HostId) -> bool:
    """True for a host that may ask: its agent is alive, and it is not about to go."""
    host = view.hosts.get(host_id)
    is_live = host_id == view.local or (host is not None and host.is_live)
    return is_live and not view.is_host_hidden(host_id)


def stand_in(view: RegistryView) -> HostId | None:
    """Return the host that asks for owners that are away."""
    return min((one for one in {*view.hosts, view.local} if is_present(view, one)), default=None)


def asking_host(view: RegistryView, service: ExternalService, instead: HostId | None) -> HostId | None:
    """Return the host that finds out about a service; None: there is nothing to find out, or no host to do so.
    `instead`: the stand-in."""
    if not service.record.is_watched:
        return None
    if is_present(view, service.owner):
        return service.owner
    return None if isinstance(service.record.target, HostProgram) else instead


class TakenOver:
    """Of the services whose owners are away, those that this host asks for: of each owner and network the first by
    id, and of these, one of each in turn, as many as have room."""

    def __init__(self) -> None:
        self._first: dict[tuple[HostId, NetworkId], list[tuple[ServiceId, int]]] = {}

    def add(self, service: ExternalService) -> None:
        """Take in a service."""
        record = service.record
        first = self._first.setdefault((service.owner, record.network_id), [])
        insort(first, (record.service_id, _questions(service)))
        del first[MAX_SERVICES:]

    def chosen(self) -> dict[ServiceId, HostId]:
        """Return those to ask for, with their owners."""
        found, room = dict[ServiceId, HostId](), MAX_CHECKS
        lists = sorted(self._first.items())
        for position in range(MAX_SERVICES):
            lists = [one for one in lists if len(one[1]) > position]
            for (owner, _), first in lists:
                service_id, questions = first[position]
                room -= questions
                if room < 0:
                    return found
                found[service_id] = owner
        return found


def _questions(service: ExternalService) -> int:
    record = service.record
    return max(1, len(record.checks) * len(service.addresses) + isinstance(record.target, DnsName))


class Turns:
    """The services that this host asks for, a while after it is its turn."""

    def __init__(self) -> None:
        self._since: dict[ServiceId, float] = {}
        self._own: frozenset[ServiceId] = frozenset()

    def follow(self, wanted: Mapping[ServiceId, HostId], local: HostId, now: float) -> None:
        """Take in all services that this host should ask for, with their owners."""
        self._own = frozenset(one for one, owner in wanted.items() if owner == local)
        self._since = {one: self._since.get(one, now) for one in wanted}

    def taken(self, now: float) -> frozenset[ServiceId]:
        """Return the services to ask for now."""
        return self._own | {one for one, since in self._since.items() if now - since >= TAKEOVER_S}

    def next_moment(self, now: float) -> float:
        """When `taken` returns more; NEVER: not before `follow`."""
        waiting: Iterable[float] = (
            since + TAKEOVER_S
            for one, since in self._since.items()
            if one not in self._own and now - since < TAKEOVER_S
        )
        return min(waiting, default=NEVER)
