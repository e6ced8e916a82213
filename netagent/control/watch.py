"""A list that is watched: the full state, `synced`, then what changed.

The agent says only that something may have changed (AgentService.wait_changed); the list is read again and compared
with what this watcher was sent. A slow watcher therefore skips steps and never queues them, and a change that took
itself back is not seen at all.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import trio

from netagent.control.problem import problem_of
from netagent.control.schema import SCHEMA
from netagent.control.service import AgentService
from netagent.errors import FailedError, NetagentError

PAUSE_S = 0.1
"""Least time between two readings: a storm of changes costs a watcher at most ten lists a second."""

Items = Sequence[Mapping[str, object]]
_log = logging.getLogger("netagent.control")


def changes(before: Mapping[object, Mapping[str, object]], after: Items) -> list[dict[str, object]]:
    """What turns one list into the other, items told apart by `id`: additions and changes first."""
    events: list[dict[str, object]] = []
    for item in after:
        known = before.get(item["id"])
        if known != item:
            events.append({"event": "added" if known is None else "changed", "item": item})
    left = {item["id"] for item in after}
    events += [{"event": "removed", "item": item} for key, item in before.items() if key not in left]
    return events


async def watch(
    service: AgentService, read: Callable[[], Awaitable[Items]], emit: Callable[[bytes], Awaitable[None]]
) -> None:
    """Emit NDJSON until cancelled. An error ends it with `{"event": "ended", "problem": …}`."""
    known: dict[object, Mapping[str, object]] = {}
    seen = -1
    synced: list[dict[str, object]] = [{"event": "synced"}]
    try:
        while True:
            # The generation first: what changes while the list is read makes the next wait return at once.
            seen = await service.wait_changed(seen)
            items = await read()
            events = changes(known, items) + synced
            if events:
                await emit(_lines(events))
            known, synced = {item["id"]: item for item in items}, []
            await trio.sleep(PAUSE_S)
    except NetagentError as error:
        await emit(_lines([{"event": "ended", "problem": problem_of(error)}]))
    except Exception:
        _log.exception("a watched list failed")
        failed = FailedError("the agent failed to read the list", code="unexpected", hint="its log says why")
        await emit(_lines([{"event": "ended", "problem": problem_of(failed)}]))


def _lines(events: Iterable[Mapping[str, object]]) -> bytes:
    return b"".join(json.dumps({"schema": SCHEMA, **event}).encode() + b"\n" for event in events)
