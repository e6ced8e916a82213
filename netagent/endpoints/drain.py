"""Time for requests to end, between the last name that leads somewhere and the end of what it leads to.

Two kinds of client are late. One remembers an answer: it may open connections until its TTL is over. The other has a
connection with a request under way. The first kind is given its TTL in any case, the second until its connections
end, but no longer than it was agreed.
"""

from __future__ import annotations

from collections.abc import Iterable

import trio

from netagent.datapath.endpoint.tcp_connections import has_connection
from netagent.journal.rows import LocalEndpointRow

UNDER_WAY_S = 0.5
"""A client's clock starts when it has the answer, and its last connection comes a moment after it was decided on."""
REMEMBERED_S = 5.0 + UNDER_WAY_S
"""The TTL of our answers (netagent.resolver.zone_source.TTL_S; a test compares them), from the last answer on."""
DRAIN_S = 10.0
"""For a host that goes, if nobody says otherwise: what clients remember, then requests under way."""
DETACH_DRAIN_S = 1.0
"""For an endpoint that is detached, likewise; it ends at once when nobody is connected, and does not wait for those
who remember: detaching by hand is often one of many."""
_LOOK_S = 0.1


async def drain(rows: Iterable[LocalEndpointRow], *, at_least_s: float, at_most_s: float) -> None:
    """Let what is under way to these endpoints end. Nothing leads to them any more."""
    end_at = trio.current_time() + at_most_s
    await trio.sleep(min(at_least_s, at_most_s))
    for row in rows:
        while trio.current_time() < end_at and await _is_talked_to(row):
            await trio.sleep(_LOOK_S)


async def _is_talked_to(row: LocalEndpointRow) -> bool:
    return bool(row.netns_inode) and await has_connection(
        row.netns_path, (row.netns_dev, row.netns_inode), row.addresses
    )
