"""`events`: what happened, and who or what caused it, on this host or on all."""

from __future__ import annotations

import heapq
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import trio

from netagent.commands.handlers import answers
from netagent.daemon.agent import Agent
from netagent.daemon.cluster import Cluster
from netagent.errors import InputError
from netagent.events.event import Event, EventError
from netagent.events.exchange import EventsQuestion, parse_page_untrusted
from netagent.events.kinds import EventKind
from netagent.interface import schema
from netagent.interface.questions import ASK_ALL_S, EventsCommand
from netagent.model.ids import HostId
from netagent.registry.view import AgentState, HostView
from netagent.registry.views import short_id
from netgossip.slice_runner import in_slices
from netgossip.slices import Slices

LAST_EVENTS: Final = 100
"""Bound of events in an answer to a request that says neither since when nor after which; beyond it: the latest."""
MAX_OF_HOST: Final = 500
"""Bound of events that each other host is asked for; beyond it: its latest."""
ASKED_AT_ONCE: Final = 64
"""Bound of hosts that are asked for events at the same time; beyond it: the others wait their turn."""
NAMED_HOSTS: Final = 5


@answers(EventsCommand)
async def events(agent: Agent, request: EventsCommand) -> schema.Listing[schema.Event]:
    """Return the events, the oldest first."""
    kinds = _kinds_untrusted(request.kind)
    since_s = 0.0 if request.since_s is None else time.time() - request.since_s
    most = LAST_EVENTS if request.since_s is None else None
    host_id = agent.identity.node_id
    after = request.seen.get(host_id, 0)
    own = await in_slices(
        agent.events.log.chosen(since_s=since_s, kinds=kinds, after=after, most=None if after else most)
    )
    logs = [await in_slices(_shown(own, agent.config.name, host_id))]
    silent: list[HostView] = []
    if request.all:
        asked = _AskedHosts(agent.member(), EventsQuestion(int(since_s * 1000), kinds), request.seen)
        silent = await asked.ask_all(most)
        logs += [await in_slices(_shown(found, *where)) for where, found in asked.found.items()]
    items = list(heapq.merge(*logs, key=lambda one: one["happened_at"]))
    if most is not None and not request.seen:
        items = items[-most:]
    return {"items": items, "warnings": list(_notices(silent))}


class _AskedHosts:
    """All other hosts, asked at once."""

    def __init__(self, cluster: Cluster, question: EventsQuestion, seen: Mapping[str, int]) -> None:
        self._cluster = cluster
        self._question = question
        self._seen = seen
        self._room = trio.CapacityLimiter(ASKED_AT_ONCE)
        self.found: dict[tuple[str, HostId], list[Event]] = {}
        """By name and id of the host, the oldest first."""

    async def ask_all(self, most: int | None) -> list[HostView]:
        """Ask for the latest events of each host; return the hosts that did not answer."""
        view = self._cluster.live.view
        others = [
            host
            for host_id, host in sorted(view.hosts.items(), key=lambda item: item[1].unique_name)
            if host_id != view.local and host.agent is not AgentState.LEFT
        ]
        with trio.move_on_after(ASK_ALL_S):
            async with trio.open_nursery() as nursery:
                for host in others:
                    if host.is_live:
                        nursery.start_soon(self._ask, host, min(most or MAX_OF_HOST, MAX_OF_HOST))
        return [host for host in others if (host.unique_name, host.host_id) not in self.found]

    async def _ask(self, host: HostView, most: int) -> None:
        found: list[Event] = []
        after, before = self._seen.get(host.host_id, 0), self._question.before
        async with self._room:
            while len(found) < most:
                asked = EventsQuestion(self._question.since_ms, self._question.kinds, after, before)
                reply = await self._cluster.gossip.rpc.ask(host.host_id, asked.encode())
                try:
                    page = parse_page_untrusted(reply or b"", asked)
                except EventError:
                    return  # it does not answer, or is of a release that cannot
                found += page.events
                if not page.is_more or not page.events:
                    break
                before = page.events[-1].event_id
        self.found[(host.unique_name, host.host_id)] = found[:most][::-1]


def _notices(silent: Sequence[HostView]) -> list[schema.Notice]:
    if not silent:
        return []
    names = ", ".join(host.unique_name for host in silent[:NAMED_HOSTS])
    more = f" and {len(silent) - NAMED_HOSTS} more" if len(silent) > NAMED_HOSTS else ""
    return [
        {
            "code": "events-missing",
            "message": f"the events of {names}{more} are missing: no answer came from there",
            "cure": "type `netagent events` there; `netagent members` shows which agents answer",
        }
    ]


def _kinds_untrusted(text: str) -> frozenset[str]:
    """Return the kinds that a list names. Raises InputError."""
    kinds = frozenset(word for word in (part.strip() for part in text.split(",")) if word)
    unknown = sorted(kinds - set(EventKind))
    if unknown:
        raise InputError(
            f"there is no kind of event {unknown[0]!r}", thing=unknown[0], hint=f"use {', '.join(EventKind)}"
        )
    return kinds


def _shown(found: list[Event], host: str, host_id: str) -> Slices[list[schema.Event]]:
    shown: list[schema.Event] = []
    for one in found:
        shown.append(_event(one, host, host_id))
        yield
    return shown


def _event(event: Event, host: str, host_id: str) -> schema.Event:
    return {
        "id": f"{short_id(host_id)}-{event.event_id}",
        "number": event.event_id,
        "happened_at": datetime.fromtimestamp(event.at_s, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
        "host": host,
        "host_id": host_id,
        "kind": event.kind,
        "level": event.level.value,
        "subject": event.subject,
        "text": event.text,
        "author": {
            "kind": event.author.kind.value,
            "name": event.author.name,
            "uid": event.author.uid,
            "program": event.author.program or "",
        },
    }
