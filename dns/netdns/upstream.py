"""What is remembered of each upstream server, and in which order to try several.

The order is the configured one as long as the times are close, because people put the server with the inside view
first. A server that is clearly slower comes later; one that is silent looks slower with every query that another had
to answer in its place. Servers not asked first forget a little with every query, so that one that came back is tried
again after a few hundred, at the price of one hedge.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from netdns.servers import Server, Servers

FIRST_GUESS_S: Final = 0.05
"""Of a round trip to a server never asked: a resolver one provider away."""
FAILURE_S: Final = 2.0
"""What a refused connection or a network error counts as."""
_CLOSE_S: Final = 0.02
"""Differences below this are noise of the server's own look-ups, not distance."""
_GAIN: Final = 0.3
_FORGET: Final = 0.99
_NO_EDNS_S: Final = 900.0
"""How long a server that answered FORMERR to EDNS is asked without; then it may have been upgraded."""
_LOOP_S: Final = 60.0
"""How long a server that leads back to us is left alone; a loop costs one packet a minute."""
_MAX_SERVERS: Final = 256


class _Health:
    __slots__ = ("looping_until", "plain_until", "rtt_s")

    def __init__(self) -> None:
        self.rtt_s = FIRST_GUESS_S
        self.plain_until = float("-inf")
        self.looping_until = float("-inf")


class Upstreams:
    """Bounded memory of servers, shared by all clients."""

    def __init__(self) -> None:
        self._health: OrderedDict[Server, _Health] = OrderedDict()

    def _of(self, server: Server) -> _Health:
        if server.near is not None:  # a thousand clients have a server near them, all of one make
            server = server._replace(near=True)
        health = self._health.get(server)
        if health is None:
            health = self._health[server] = _Health()
            if len(self._health) > _MAX_SERVERS:
                self._health.popitem(last=False)
        else:
            self._health.move_to_end(server)
        return health

    def ranked(self, servers: Servers, now: float) -> Servers:
        """Return the servers in the order to try them, without those that lead back to us."""
        usable = [server for server in servers if self._of(server).looping_until <= now]
        if len(usable) < 2:
            return tuple(usable)
        close_s = min(self._of(server).rtt_s for server in usable) + _CLOSE_S
        order = sorted(usable, key=lambda server: max(self._of(server).rtt_s, close_s))
        for server in order[1:]:
            self._of(server).rtt_s *= _FORGET
        return tuple(order)

    def rtt_s(self, server: Server) -> float:
        """Return the smoothed round trip."""
        return self._of(server).rtt_s

    def note_rtt(self, server: Server, sample_s: float) -> None:
        """An answer came after `sample_s`."""
        health = self._of(server)
        health.rtt_s += _GAIN * (sample_s - health.rtt_s)

    def note_slower(self, servers: Iterable[tuple[Server, float]]) -> None:
        """Another server answered while these had been silent for so long (s): they are no faster than that."""
        for server, waited_s in servers:
            if waited_s > self._of(server).rtt_s:
                self.note_rtt(server, waited_s)

    def speaks_edns(self, server: Server, now: float) -> bool:
        """Whether to send it an OPT."""
        return self._of(server).plain_until <= now

    def note_no_edns(self, server: Server, now: float) -> None:
        """It did not understand our OPT."""
        self._of(server).plain_until = now + _NO_EDNS_S

    def note_loop(self, server: Server, now: float) -> None:
        """It sent our own query back to us."""
        self._of(server).looping_until = now + _LOOP_S
