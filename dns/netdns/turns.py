"""How long one client is served before others get their turn. Pure.

The event loop goes round over all clients that have sent something, which is fair if each takes the same time. The
number of queries is no measure of that: the first level of the resolver answers one in 5 us, a forwarded one takes
30 us, and 0.1 ms more when its socket is opened and its answer comes.

So a turn is a length of time, and clients that ask more than one turn can answer share one: a round takes about as
long with ten clients that flood as with one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from netdns.source import Client

TURN_S: Final = 0.0003
"""Some sixty queries that repeat, or two that are forwarded."""
LATER_S: Final = 0.0001
"""The later cost of a query that is not answered at once: a task, a socket, an answer."""


class Turns:
    """Turns of the clients of one server."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._unsated: set[Client] = set()

    def length_s(self) -> float:
        """Return the present length of a turn."""
        return TURN_S / max(len(self._unsated), 1)

    def begin(self) -> float:
        """Return the end of a turn that begins now. At least one query is answered in each."""
        return self._clock() + self.length_s()

    def is_over(self, over_at: float) -> bool:
        """Return whether a turn that ends at `over_at` is over."""
        return self._clock() >= over_at

    def end(self, client: Client, *, unsated: bool) -> None:
        """End a turn; `unsated` says that the client has more queries waiting."""
        if unsated:
            self._unsated.add(client)
        else:
            self._unsated.discard(client)
