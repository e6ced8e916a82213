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
    """Bound of queries on their way upstream; beyond it: the client with the most loses its oldest to a client with
    fewer; otherwise SERVFAIL. Each holds at most four sockets."""
    max_flights_per_client: int = 128
    """Bound of queries on their way upstream, started by one client; beyond it: SERVFAIL. As many as an upstream
    server accepts from one host."""
    max_waiting: int = 8192
    """Bound of unanswered queries of all clients; beyond it: SERVFAIL for a client that holds more than its equal
    share. About 5 MiB."""
    max_waiting_per_client: int = 2048
    """Bound of unanswered queries of one client; beyond it: SERVFAIL. Those that joined another's question count."""
    queries_per_client_s: int = 2000
    """Bound of queries of one client per second, over time; beyond it: REFUSED. Those with a finished answer do not
    count: a refusal costs as much. A busy mail server or crawler asks some hundred different ones."""
    query_burst_per_client: int = 8000
    """Bound of queries of one client at once, after it has been quiet; beyond it: REFUSED."""
    answers_a_turn: int = 32
    """Bound of waiting queries answered in one turn; beyond it: the others wait in order. About 0.3 ms of work, after
    which new queries have their turn."""
    max_ttl_s: int = 3600
    """Cap on upstream TTLs: a mistake there is over within the hour."""
    max_negative_ttl_s: int = 900
    """The same for "does not exist"; RFC 2308 5 advises at most three hours."""
    failure_ttl_s: float = 5.0
    """How long a failure is remembered: RFC 9520 3.2 wants 1 s to 5 min, a user who repairs wants little."""
    cache_entries: int = 20_000
    """Bound of cached answers of upstream; beyond it: the least recently used is dropped. Most answers take some
    hundred octets."""
    cache_bytes: int = 16 * 2**20
    """Bound of bytes of cached answers of upstream; beyond it: the least recently used is dropped. The most memory
    that a host spends on it."""
    hot_entries_per_client: int = 256
    """Bound of finished answers of one client; beyond it: that client's table is emptied and filled again. A
    container asks for a handful of names; a scan empties its own table only."""
    hot_bytes_per_client: int = 128 * 2**10
    """Bound of bytes of finished answers of one client; beyond it: that client's table is emptied and filled again.
    Room for a hundred large ones."""
    max_rotations: int = 8
    """Rendered orders of one RRset: enough to spread, few enough to keep."""
