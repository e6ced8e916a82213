"""Draining: time for requests to finish after the names of an endpoint are withdrawn, before it is removed.

Two kinds of clients may still use it. One has cached an answer and may open connections until the TTL expires. The
other has a connection with an open request. The first kind always gets the TTL; the second until its connections
end, but at most the drain time.
"""

from __future__ import annotations

from collections.abc import Iterable

import trio

from netagent.datapath.endpoint.tcp_connections import has_connection
from netagent.journal.rows import LocalEndpointRow

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


async def drain(rows: Iterable[LocalEndpointRow], *, at_least_s: float, at_most_s: float) -> None:
    """Wait for open requests to these endpoints, whose names are already withdrawn."""
    end_at = trio.current_time() + at_most_s
    await trio.sleep(min(at_least_s, at_most_s))
    for row in rows:
        while trio.current_time() < end_at and await _is_talked_to(row):
            await trio.sleep(_LOOK_S)


async def _is_talked_to(row: LocalEndpointRow) -> bool:
    return row.netns is not None and await has_connection(row.netns, row.addresses)
