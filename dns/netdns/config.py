"""The resolver's limits and times, each with its reason."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from netdns import constants as c


class Transport(enum.Enum):
    """The transport of a message."""

    UDP = "udp"
    TCP = "tcp"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolverConfig:
    """Limits and times. The defaults are right for a host with a thousand clients."""

    udp_limit_bytes: int = c.SAFE_UDP_BYTES
    """Longest answer by UDP, and the size that we announce to accept."""
    budget_s: float = 4.5
    """From a question to SERVFAIL: less than the 5 s at which stubs give up, so that they get the reason, and enough
    for names for which the upstream server itself needs 4 s."""
    retransmit_s: float = 0.25
    """First wait before a query is repeated to a server; doubled each time. Twice an intercontinental round trip."""
    hedge_s: float = 0.05
    """Least wait before a second server is asked too: above the jitter of a near server."""
    max_flights: int = 512
    """Questions in flight upstream; each holds at most four sockets. When all are taken, a client that has fewer than
    the one with most gets a place of that one's."""
    max_flights_per_client: int = 128
    """Questions in flight for one client: as many as an upstream server accepts from one host."""
    max_waiting: int = 8192
    """Unanswered queries, about 5 MiB. Beyond it each client may still have an equal share of this number."""
    max_waiting_per_client: int = 2048
    """Unanswered queries of one client, including those that joined another's question. More get SERVFAIL."""
    answers_a_turn: int = 32
    """Waiting queries answered in one go: about 0.3 ms of work, after which new queries have their turn."""
    max_ttl_s: int = 3600
    """Cap on upstream TTLs: a mistake there is over within the hour."""
    max_negative_ttl_s: int = 900
    """The same for "does not exist"; RFC 2308 5 advises at most three hours."""
    failure_ttl_s: float = 5.0
    """How long a failure is remembered: RFC 9520 3.2 wants 1 s to 5 min, a user who repairs wants little."""
    cache_entries: int = 20_000
    """Both bounds hold; most answers take some hundred octets."""
    cache_bytes: int = 16 * 2**20
    """The most memory that a host spends on it."""
    hot_entries_per_client: int = 256
    """Rendered answers. A container asks for a handful of names; a scan empties its own table only."""
    hot_bytes_per_client: int = 128 * 2**10
    """Of rendered answers: room for a hundred large ones."""
    max_rotations: int = 8
    """Rendered orders of one RRset: enough to spread, few enough to keep."""
