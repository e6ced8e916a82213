"""Query the host's own name servers, from the host, as the resolver process does for containers.

To find out whether a server is alive, ask for the name servers of the root, which every resolver knows or is able to
refuse. Any answer counts: a server that refuses is alive, and one that answers late is reported as slow.
"""

from __future__ import annotations

import contextlib
import ipaddress
import secrets
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from netagent.doctor.checks.resolver_checks import RCODES
from netdns import constants
from netdns.errors import FormatError
from netdns.message import Message, message_untrusted, render_query
from netdns.source import Name

PATIENCE_S: Final = 1.0
"""For all servers, asked at once. Clients give up after 5 s, and their users long before."""
SLOW_S: Final = 0.4
_AGAIN_S: Final = 0.45
"""After this time the query is sent again: one datagram may get lost."""
_DNS_PORT: Final = 53
_ROOT: Final[Name] = b"\0"
_LENGTHS: Final = {constants.A: 4, constants.AAAA: 16}
LOOKUP_S: Final = 3.0
"""For a name that a server has to ask other servers for."""
_MAX_DATAGRAM_BYTES: Final = 65_535


@dataclass(frozen=True, slots=True)
class NameServerReply:
    """The result of a query to one server."""

    server: str
    after_s: float | None
    """None: no answer within PATIENCE_S."""
    trouble: str = ""
    """The kernel's error: `connection refused`, `network is unreachable`."""
    status: str = ""
    """The response code as text."""
    addresses: tuple[tuple[str, int], ...] = ()
    """The answer's A and AAAA records, each with its TTL in seconds."""
    record_count: int = 0
    """Number of records in the answer, aliases included."""

    @property
    def is_slow(self) -> bool:
        """True if it answered, but late."""
        return self.after_s is not None and self.after_s >= SLOW_S


async def ask_servers(
    servers: Sequence[str], name: Name = _ROOT, rtype: int = constants.NS, patience_s: float = PATIENCE_S
) -> tuple[NameServerReply, ...]:
    """Ask all servers at once; return their answers in the servers' order."""
    answers: dict[str, NameServerReply] = {}

    async def ask(server: str) -> None:
        answers[server] = await _answer_of(server, name, rtype, patience_s)

    async with trio.open_nursery() as nursery:
        for server in servers:
            nursery.start_soon(ask, server)
    return tuple(answers[server] for server in servers)


async def _answer_of(server: str, name: Name, rtype: int, patience_s: float) -> NameServerReply:
    begun_at = trio.current_time()
    try:
        with trio.move_on_after(patience_s):
            message = await _ask(server, name, rtype)
            return NameServerReply(
                server,
                trio.current_time() - begun_at,
                status=RCODES.get(message.flags & 0xF, f"code {message.flags & 0xF}"),
                addresses=tuple(_addresses(message)),
                record_count=sum(record.section == 1 for record in message.records),
            )
    except OSError as error:
        return NameServerReply(server, None, (error.strerror or str(error)).lower())
    return NameServerReply(server, None, "no answer")


def _addresses(message: Message) -> Iterator[tuple[str, int]]:
    """Yield addresses with TTLs. A record whose length does not fit its type is not an address."""
    for record in message.records:
        if record.section == 1 and _LENGTHS.get(record.rtype) == len(record.rdata):
            yield str(ipaddress.ip_address(record.rdata)), record.ttl_s


async def _ask(server: str, name: Name, rtype: int) -> Message:
    """Receive until an answer to the query comes; anything else is ignored. OSError."""
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    number = secrets.randbits(16)
    query = render_query(number, name, rtype, flags=constants.RD, opt=b"")
    with trio.socket.socket(family, socket.SOCK_DGRAM) as sock:
        await sock.connect((server, _DNS_PORT))
        while True:
            await sock.send(query)
            with trio.move_on_after(_AGAIN_S):
                while True:
                    payload = await sock.recv(_MAX_DATAGRAM_BYTES)
                    with contextlib.suppress(FormatError):
                        message = message_untrusted(payload)
                        if message.message_id == number and message.flags & constants.QR:
                            return message


def server_notices(answers: Sequence[NameServerReply]) -> list[tuple[str, str, str]]:
    """Return (code, message, cure) for each server that is dead or slow."""
    notices = []
    all_dead = bool(answers) and all(one.after_s is None for one in answers)
    for one in answers:
        cure = f"repair {one.server}, or remove it from /etc/resolv.conf; netagent notices that by itself"
        if one.after_s is None:
            effect = (
                "names outside the cluster do not resolve in containers"
                if all_dead
                else "look-ups of names outside the cluster wait for it before the next server is asked"
            )
            notices.append(
                (
                    "upstream-dead",
                    f"the name server {one.server} does not answer ({one.trouble}): {effect}",
                    cure,
                )
            )
        elif one.is_slow:
            message = (
                f"the name server {one.server} took {one.after_s:.1f} s to answer: "
                "look-ups of names outside the cluster wait that long"
            )
            notices.append(("upstream-slow", message, cure))
    return notices


def say_answer(one: NameServerReply) -> str:
    """Describe one server's answer, for `lookup`."""
    if one.after_s is None:
        return f"{one.server} does not answer ({one.trouble})"
    if one.status != "NOERROR" or one.addresses:
        what = one.status
    else:
        what = (
            f"{one.status} with {one.record_count} records" if one.record_count else "NOERROR without records"
        )
    return f"{one.server} answers {what} after {1000 * one.after_s:.0f} ms"
