"""The state of each upstream server: whether it answers, how fast, and what it does not understand.

The order of servers is always the configured one, because it says which server knows most: people put the server with
the inside view first. Nothing here changes it. A server that fails is skipped until it answers again:

    suspect    it owes an answer for longer than usual: the next server is asked at the same time
    down       it left the last three queries unanswered, each waited for to the end, and two checks. Its silence is
    no
               longer waited for; one question in five seconds also goes to it, to find out whether it is back

A check is a question of our own choice. Without it a client could make a server count as down with questions that no
server can answer, such as for names in a zone whose own servers are dead, and make the next one deny names that the
first one knows. Any answer to any question makes a server healthy again.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from netdns.servers import UpstreamServer

FIRST_GUESS_S: Final = 0.05
"""Assumed round trip to a server never asked: a resolver one provider away."""
_GAIN: Final = 0.3
_NO_EDNS_S: Final = 900.0
"""How long a server that refused EDNS, and answered without, is asked without; then it may have been upgraded."""
_LOOP_S: Final = 60.0
"""How long a server that leads back to us is skipped, and how long one that does not is not suspected again."""
_LOST_QUERIES: Final = 3
"""Unanswered queries in a row that make a server down. One or two are lost packets."""
_SILENT_CHECKS: Final = 2
_TRY_AGAIN_S: Final = 5.0
"""How often a server that is down is asked, to find out whether it is back."""
_MAX_SERVERS: Final = 256
"""Bound of servers whose health is remembered; beyond it: the least recently used is dropped."""


@dataclass(frozen=True, slots=True)
class ServerHealth:
    """What is known of a server."""

    is_down: bool
    rtt_s: float
    """Smoothed; a guess before the first answer."""
    asked: int
    """Queries sent to it, each repetition counted."""
    answered: int
    unanswered: int
    """Queries that it left unanswered to the end."""


class _Health:
    __slots__ = (
        "answered",
        "answered_at",
        "asked",
        "asked_at",
        "down",
        "looping_until",
        "lost_queries",
        "owing_since",
        "plain_until",
        "probed_at",
        "rtt_s",
        "silent_checks",
        "unanswered",
    )

    def __init__(self) -> None:
        self.rtt_s = FIRST_GUESS_S
        self.plain_until = float("-inf")
        self.looping_until = float("-inf")
        self.probed_at = float("-inf")
        self.asked_at = float("-inf")
        self.answered_at = float("-inf")
        self.owing_since: float | None = None
        self.lost_queries = 0
        self.silent_checks = 0
        self.down = False
        self.asked = 0
        self.answered = 0
        self.unanswered = 0

    def judge(self) -> None:
        self.down = self.lost_queries >= _LOST_QUERIES and self.silent_checks >= _SILENT_CHECKS


class Upstreams:
    """Bounded memory of servers, shared by all clients."""

    def __init__(self) -> None:
        self._health: OrderedDict[UpstreamServer, _Health] = OrderedDict()

    def _of(self, server: UpstreamServer) -> _Health:
        if server.near is not None:  # a thousand clients have a server near them, all of one kind
            server = server._replace(near=True)
        health = self._health.get(server)
        if health is None:
            health = self._health[server] = _Health()
            if len(self._health) > _MAX_SERVERS:
                self._health.popitem(last=False)
        else:
            self._health.move_to_end(server)
        return health

    def health(self, server: UpstreamServer) -> ServerHealth:
        """Return what is known of a server."""
        one = self._of(server)
        return ServerHealth(one.down, one.rtt_s, one.asked, one.answered, one.unanswered)

    def rtt_s(self, server: UpstreamServer) -> float:
        """Return the smoothed round trip."""
        return self._of(server).rtt_s

    def note_asked(self, server: UpstreamServer, now: float) -> None:
        """Note a query that was sent to it."""
        health = self._of(server)
        health.asked += 1
        health.asked_at = now
        if health.owing_since is None:
            health.owing_since = now

    def note_answer(self, server: UpstreamServer, rtt_s: float, now: float) -> None:
        """Note an answer after `rtt_s`, counted from the first time that the query was sent."""
        health = self._of(server)
        health.answered += 1
        health.rtt_s += _GAIN * (rtt_s - health.rtt_s)
        health.answered_at = now
        health.owing_since = None
        health.lost_queries = 0
        health.silent_checks = 0
        health.down = False

    def note_silence(self, server: UpstreamServer, queries: int, sent_at: float) -> None:
        """Note that no answer came to a query that was sent `queries` times since `sent_at`, and was given up."""
        health = self._of(server)
        health.unanswered += 1
        if health.answered_at < sent_at:
            health.lost_queries += queries
            health.judge()

    def note_silent_check(self, server: UpstreamServer, sent_at: float) -> None:
        """Note that no answer came to a check that was sent at `sent_at`."""
        health = self._of(server)
        if health.answered_at < sent_at:
            health.silent_checks += 1
            health.judge()

    def needs_check(self, server: UpstreamServer, sent_at: float) -> bool:
        """Return whether to check a server that is silent since `sent_at`. A near one concerns only its client."""
        health = self._of(server)
        return server.near is None and health.answered_at < sent_at and health.silent_checks < _SILENT_CHECKS

    def note_unheard(self, server: UpstreamServer) -> None:
        """Note that its answer is not needed, because an earlier server's came: it owes none."""
        self._of(server).owing_since = None

    def is_suspect(self, server: UpstreamServer, patience_s: float, now: float) -> bool:
        """Return whether it owes an answer for longer than `patience_s`."""
        owing_since = self._of(server).owing_since
        return server.near is None and owing_since is not None and now - owing_since > patience_s

    def is_down(self, server: UpstreamServer) -> bool:
        """Return whether its answers should not be waited for."""
        return self._of(server).down

    def is_to_be_tried(self, server: UpstreamServer, now: float) -> bool:
        """Return whether a server that is down should be asked as well, to find out whether it is back."""
        return now - self._of(server).asked_at >= _TRY_AGAIN_S

    def speaks_edns(self, server: UpstreamServer, now: float) -> bool:
        """Return whether to send it an OPT."""
        return self._of(server).plain_until <= now

    def note_no_edns(self, server: UpstreamServer, now: float) -> None:
        """Note that it refused a query with an OPT and answered the same one without."""
        self._of(server).plain_until = now + _NO_EDNS_S

    def note_loop(self, server: UpstreamServer, now: float) -> None:
        """Note that it sent our own probe back to us."""
        if (
            server.near is None
        ):  # else only its listener is away for now, and trying it costs no packet outside
            self._of(server).looping_until = now + _LOOP_S

    def is_looping(self, server: UpstreamServer, now: float) -> bool:
        """Return whether it leads back to us."""
        return self._of(server).looping_until > now

    def take_probe(self, server: UpstreamServer, now: float) -> bool:
        """Return whether it is time to probe again whether it leads back to us. True counts as a probe."""
        health = self._of(server)
        if server.near is None and now - health.probed_at < _LOOP_S:
            return False
        health.probed_at = now
        return True
