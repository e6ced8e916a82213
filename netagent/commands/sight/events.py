"""`events`: what happened, and who or what caused it."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from netagent.commands.handlers import answers
from netagent.daemon.agent import Agent
from netagent.errors import InputError
from netagent.events.event import Event
from netagent.events.kinds import EventKind
from netagent.interface import schema
from netagent.interface.questions import EventsCommand
from netagent.registry.views import short_id
from netgossip.slice_runner import in_slices
from netgossip.slices import Slices

LAST_EVENTS = 100
"""Bound of events in an answer to a request that says neither since when nor after which; beyond it: the latest."""


@answers(EventsCommand)
async def events(agent: Agent, request: EventsCommand) -> schema.Listing[schema.Event]:
    """Return the events of this host, the oldest first."""
    kinds = _kinds_untrusted(request.kind)
    host = (agent.config.name, agent.identity.node_id)
    after = request.seen.get(host[1])
    since_s = 0.0 if request.since_s is None or after is not None else time.time() - request.since_s
    most = LAST_EVENTS if request.since_s is None and after is None else None
    found = await in_slices(
        agent.events.log.chosen(since_s=since_s, kinds=kinds, after=after or 0, most=most)
    )
    return {"items": await in_slices(_shown(found, *host))}


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
