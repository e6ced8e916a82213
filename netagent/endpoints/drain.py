"""Draining: the names of an endpoint are withdrawn, while the endpoint itself goes on until its requests have ended.

    a detach, a leave     withdraw the names, wait as below, remove the endpoint
    a stop                the runtime has asked the container to stop: names lead away before it has ended (`STOP`)
    an operator           until `undrain`, also through restarts of the agent

Two kinds of clients may still use a drained endpoint. One has cached an answer and may open connections until the TTL
expires. The other has a connection with an open request. The first kind always gets the TTL; the second until its
connections end, but at most the drain time.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable

import trio

from netagent.datapath.endpoint.tcp_connections import has_connection
from netagent.endpoints.context import EndpointContext
from netagent.endpoints.news import tell_change
from netagent.journal import statements
from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import EndpointId
from netagent.model.records import STOP, Drain

UNDER_WAY_S = 0.5
"""Margin in seconds: a client's TTL starts when the answer arrives, and it connects a moment after it decides to."""
REMEMBERED_S = 5.0 + UNDER_WAY_S
"""The TTL of answers (netagent.resolver.zone_source.TTL_S; a test compares them), counted from the last answer."""
DRAIN_S = 10.0
"""Default for a host that goes down: cached answers, then open requests."""
DETACH_DRAIN_S = 1.0
"""Default for an endpoint that is detached: only open requests. It ends at once when no connection is open, and does
not wait for cached answers, because users often detach many endpoints in a row."""
_LOOK_S = 0.1


class Drains:
    """Withdraws names of endpoints that go on, and gives them back: one change of the endpoint's record each."""

    def __init__(self, context: EndpointContext) -> None:
        self._context = context

    async def begin(self, endpoint_id: EndpointId, by: str) -> LocalEndpointRow | None:
        """Withdraw the names; None if the endpoint is gone, or not attached yet. An operator's drain stands, also
        when the container is asked to stop; a stop's becomes that of an operator who drains too."""

        def begun(before: Drain | None) -> Drain:
            stands = before is not None and (before.by != STOP or by == STOP)
            return before if before is not None and stands else Drain(int(time.time()), by)

        return await self._change(endpoint_id, begun)

    async def end(self, endpoint_id: EndpointId, *, by: str | None = None) -> LocalEndpointRow | None:
        """Give the names back; None if the endpoint is gone. With `by`, only if they are drained by that one."""

        def ended(before: Drain | None) -> Drain | None:
            return before if before is not None and by not in {None, before.by} else None

        return await self._change(endpoint_id, ended)

    async def _change(
        self, endpoint_id: EndpointId, after: Callable[[Drain | None], Drain | None]
    ) -> LocalEndpointRow | None:
        context = self._context
        row = context.live.rows.get(endpoint_id)
        if row is None:
            return None
        async with context.held(row) as now:
            if now is None or not now.is_published:
                return None
            changed = dataclasses.replace(now, drain=after(now.drain))
            if changed != now:
                # One write for both: other hosts wait for the record.
                record, also = context.records.of(changed), statements.save_endpoint(changed)
                await context.publisher.change(put=[record], also=also)
                context.live.set_row(changed)
                tell_change(now, changed)
            return changed


async def until_idle(rows: Iterable[LocalEndpointRow], *, at_least_s: float, at_most_s: float) -> bool:
    """Wait for open requests to these endpoints, whose names are already withdrawn. Return False if one is still open
    when the time is over, or if there is no time."""
    if at_most_s <= 0:
        return False
    end_at = trio.current_time() + at_most_s
    await trio.sleep(min(at_least_s, at_most_s))
    for row in rows:
        while await _is_talked_to(
            row
        ):  # at least one look at each: the first sleep may have used up the time
            if trio.current_time() >= end_at:
                return False
            await trio.sleep(_LOOK_S)
    return True


async def _is_talked_to(row: LocalEndpointRow) -> bool:
    return row.netns is not None and await has_connection(row.netns, row.addresses)
