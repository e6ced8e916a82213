"""The stream of a watched list: the full state, `synced`, then changes.

The agent only signals that something may have changed; this module reads the list again
and compares it with what it sent before. So a slow watcher skips steps and never queues them, and it does not see a
change that was reverted meanwhile.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias

import trio

from netagent.control.problem import problem_of
from netagent.errors import FailedError, NetagentError
from netagent.feeds.encoding import encoded
from netagent.interface import schema
from netagent.interface.schema import SCHEMA
from netgossip.slice_runner import in_slices
from netgossip.slices import Slices

ITEMS_A_PART: Final = 100
"""Items sent at once: some 60 kB."""
PAUSE_S = 0.1
"""Shortest time between two readings, in seconds: with many changes a watcher costs at most ten lists per second."""

FOLLOW_OTHERS_S: Final = 5.0
"""How often the log of other hosts is read while it is followed."""

WaitChanged: TypeAlias = Callable[[int], Awaitable[int]]
"""Wait until the generation of what lists show differs from this one (-1: do not wait) and return it. Where a list
includes answers of other members, it also returns periodically. Level-triggered: a slow watcher sees the latest
state, not every step."""

Items = Sequence[Mapping[str, object]]
Event: TypeAlias = dict[str, object]
_log = logging.getLogger("netagent.control")


def changes(before: dict[object, Mapping[str, object]], after: Items) -> Slices[list[Event]]:
    """Return the events that turn one list into the other, by the `id` of items: additions and changes first. Empties
    `before` on the way, because freeing ten thousand items at once also takes long."""
    events: list[Event] = []
    for item in after:
        known = before.pop(item["id"], None)
        if known != item:
            events.append({"event": "added" if known is None else "changed", "item": item})
        yield
    for key in tuple(before):
        events.append({"event": "removed", "item": before.pop(key)})
        yield
    return events


def encode_list(
    items: list[Mapping[str, object]], warnings: Sequence[Mapping[str, object]] = ()
) -> Slices[list[bytes]]:
    """Encode a list that is not watched as parts of a body: ten thousand items are 6 MB, and joining
    them also takes long. Empties the list on the way."""
    said = f'"warnings": {json.dumps(warnings)}, ' if warnings else ""
    parts = [f'{{"schema": {SCHEMA}, {said}"items": ['.encode()]
    yield from _encode_items(items, parts)
    return [*parts, b"]}"]


def encode_object(thing: Mapping[str, object], long: str) -> Slices[list[bytes]]:
    """Encode one object that may contain a long list, in the field `long`, in the same way. Empties that list. The
    field `content` has what another program reads, of any form."""
    parts: list[bytes] = []
    before = "{"
    for key, value in {"schema": SCHEMA, **thing}.items():
        parts.append(f"{before}{json.dumps(key)}: ".encode())
        before = ", "
        if key == long and isinstance(value, list):
            parts.append(b"[")
            yield from _encode_items(value, parts)
            parts.append(b"]")
        elif key == "content":
            parts += [part.encode() for part in (yield from encoded(value))]
        else:
            parts.append(json.dumps(value).encode())
    return [*parts, b"}"]


def _encode_items(items: list[Any], parts: list[bytes]) -> Slices[None]:
    texts: list[str] = []
    items.reverse()
    while items:
        texts.append(json.dumps(items.pop()))
        if not items or len(texts) == ITEMS_A_PART:
            parts.append((", ".join(texts) + (", " if items else "")).encode())
            texts.clear()
        yield


async def watch(
    wait_changed: WaitChanged,
    read: Callable[[], Awaitable[schema.Listing[Any]]],
    emit: Callable[[bytes], Awaitable[None]],
) -> None:
    """Emit NDJSON until cancelled. An error ends it with `{"event": "ended", "problem": …}`. The event `synced`
    contains the warnings of the first list."""
    known: dict[object, Mapping[str, object]] = {}
    seen = -1
    is_first = True
    async with _reporting(emit):
        while True:
            # Read the generation before the list: a change during the reading makes the next wait return at once.
            seen = await wait_changed(seen)
            listing = await read()
            items: Items = listing["items"]
            events = await in_slices(changes(known, items))
            if is_first:
                warnings = listing.get("warnings")
                events.append({"event": "synced", **({"warnings": warnings} if warnings else {})})
                is_first = False
            for part in await in_slices(_encode_lines(events)):
                await emit(part)
            known = {item["id"]: item for item in items}
            await trio.sleep(PAUSE_S)


async def follow(
    wait_noted: WaitChanged,
    request: Any,
    read: Callable[[], Awaitable[schema.Listing[Any]]],
    emit: Callable[[bytes], Awaitable[None]],
) -> None:
    """Emit a log as NDJSON until cancelled: what there is, `synced`, then what is new. `request.seen` says to `read`
    which items were sent: of each host the number of its last one."""
    is_first, generation = True, -1
    async with _reporting(emit):
        while True:
            # Other hosts do not say when something happens there: they are asked again and again.
            with trio.move_on_after(FOLLOW_OTHERS_S if getattr(request, "all", False) else math.inf):
                generation = await wait_noted(generation)
            listing = await read()
            items: Items = listing["items"]
            request.seen = request.seen | {item["host_id"]: item["number"] for item in items}
            events: list[Event] = [{"event": "added", "item": item} for item in items]
            if is_first:
                warnings = listing.get("warnings")
                events.append({"event": "synced", **({"warnings": warnings} if warnings else {})})
                is_first = False
            for part in await in_slices(_encode_lines(events)):
                await emit(part)
            await trio.sleep(PAUSE_S)


@asynccontextmanager
async def _reporting(emit: Callable[[bytes], Awaitable[None]]) -> AsyncIterator[None]:
    """End a stream with the reason if it fails."""
    try:
        yield
    except NetagentError as error:
        await emit(_line({"event": "ended", "problem": problem_of(error)}))
    except Exception:
        _log.exception("a watched list failed")
        failed = FailedError("the agent failed to read the list", code="unexpected", hint="see its log")
        await emit(_line({"event": "ended", "problem": problem_of(failed)}))


def _encode_lines(events: list[Event]) -> Slices[list[bytes]]:
    """Encode events as parts of a body. Empties the list on the way."""
    parts: list[bytes] = []
    lines: list[bytes] = []
    events.reverse()
    while events:
        lines.append(_line(events.pop()))
        if not events or len(lines) == ITEMS_A_PART:
            parts.append(b"".join(lines))
            lines.clear()
        yield
    return parts


def _line(event: Event) -> bytes:
    return json.dumps({"schema": SCHEMA, **event}).encode() + b"\n"
