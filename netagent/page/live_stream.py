"""How a part of the page follows changes: a stream of server-sent events, each with what differs from before.

    data: {"head": {...}, "order": [ids], "set": {id: row}}        only what has changed; at first, all of it
    data: {"problem": {...}}                                       it cannot be read now, and why

The agent only signals that something may have changed; then the part is read again and compared, as watched
lists are (netagent.control.watch). So a slow reader skips steps and none is queued, and what he sees last is the
latest state.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio

from netagent.control.problem import problem_of
from netagent.control.watch import WaitChanged
from netagent.errors import FailedError, NetagentError
from netagent.page.contents import Content, Row, Shown

HEARTBEAT_S: Final = 15.0
"""So long without a change, a comment is sent: a reader that is gone is noticed, and a tunnel stays open."""
TROUBLE_PAUSE_S: Final = 2.0

Emit = Callable[[bytes], Awaitable[None]]

_log = logging.getLogger(__name__)


class ReaderMemory:
    """What one reader has been sent."""

    def __init__(self) -> None:
        self._head: dict[str, Any] | None = None
        self._rows: dict[str, Row] = {}
        self._problem: dict[str, Any] | None = None

    def news(self, shown: Shown) -> dict[str, Any]:
        """Return what the reader lacks; empty: nothing."""
        news: dict[str, Any] = {}
        if shown.head != self._head or self._problem is not None:
            news["head"] = shown.head
        if changed := {row_id: row for row_id, row in shown.rows.items() if self._rows.get(row_id) != row}:
            news["set"] = changed
        if (order := list(shown.rows)) != list(self._rows):
            news["order"] = order
        self._head, self._rows, self._problem = shown.head, shown.rows, None
        return news

    def news_of_problem(self, error: NetagentError) -> dict[str, Any]:
        """The same when the part cannot be read."""
        problem = problem_of(error)
        if problem == self._problem:
            return {}
        self._problem = problem
        return {"problem": problem}


async def follow(content: Content, wait_changed: WaitChanged, emit: Emit) -> None:
    """Emit events until cancelled."""
    memory, seen, heard_at = ReaderMemory(), -1, trio.current_time()
    while True:
        pause_s = content.pause_s
        try:
            with trio.move_on_after(min(content.refresh_s, HEARTBEAT_S)) as waiting:
                # Before the reading: a change during it makes the next wait return at once.
                seen = await wait_changed(seen)
            is_due = not waiting.cancelled_caught or content.refresh_s <= HEARTBEAT_S
            news = memory.news(await content.read()) if is_due else {}
        except NetagentError as error:
            news, pause_s, seen = memory.news_of_problem(error), TROUBLE_PAUSE_S, -1
        except Exception:
            _log.exception("a part of the page failed")
            failed = FailedError("the agent failed to read this part", code="unexpected", hint="see its log")
            news, pause_s, seen = memory.news_of_problem(failed), TROUBLE_PAUSE_S, -1
        if news:
            await emit(event(news))
            heard_at = trio.current_time()
        elif trio.current_time() - heard_at > HEARTBEAT_S:
            await emit(b":\n\n")
            heard_at = trio.current_time()
        await trio.sleep(pause_s)


def event(news: dict[str, Any]) -> bytes:
    """Encode one event. JSON has no line breaks."""
    return b"data: " + json.dumps(news, separators=(",", ":")).encode() + b"\n\n"
