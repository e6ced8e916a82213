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
from netdns import constants, edns
from netdns.errors import FormatError
from netdns.message import Message, message_untrusted, render_query
from netdns.name import Names
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
_EDNS_BYTES: Final = 1232
"""The size of answer that is asked for: what passes nearly every path in one packet."""
_WITHOUT_EDNS: Final = frozenset({constants.FORMERR, constants.NOTIMP})
"""What a server that does not know EDNS says to it."""


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
    is_cut: bool = False
    """The answer did not fit, so what it lacks is not known."""

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
            payload, message = await _ask(server, name, rtype)
            return NameServerReply(
                server,
                trio.current_time() - begun_at,
                status=RCODES.get(message.flags & 0xF, f"code {message.flags & 0xF}"),
                addresses=tuple(_addresses(payload, message, name)),
                record_count=sum(record.section == 1 for record in message.records),
                is_cut=bool(message.flags & constants.TC),
            )
    except OSError as error:
        return NameServerReply(server, None, (error.strerror or str(error)).lower())
    return NameServerReply(server, None, "no answer")


def _addresses(payload: bytes, message: Message, name: Name) -> Iterator[tuple[str, int]]:
    """Yield the addresses, with TTLs, of a name and of the names that it is an alias of. A record whose length does
    not fit its type is not an address."""
    names, aliases = Names(payload), dict[Name, Name]()
    answers = [one for one in message.records if one.section == 1 and one.rclass == constants.IN]
    for record in answers:
        if record.rtype == constants.CNAME:
            with contextlib.suppress(FormatError):
                target, _ = names.read_untrusted(record.end - len(record.rdata))
                aliases[record.owner.lower()] = target.lower()
    asked, reached = name.lower(), set[Name]()
    while asked not in reached:
        reached.add(asked)
        asked = aliases.get(asked, asked)
    for record in answers:
        if record.owner.lower() in reached and _LENGTHS.get(record.rtype) == len(record.rdata):
            yield str(ipaddress.ip_address(record.rdata)), record.ttl_s


def answer_untrusted(payload: bytes, number: int, name: Name, rtype: int) -> Message | None:
    """Return the message if it answers the query with this number; None otherwise."""
    try:
        message = message_untrusted(payload)
    except FormatError:
        return None
    if message.message_id != number or not message.flags & constants.QR:
        return None
    asked = [(one.lower(), *kind) for one, *kind in message.questions]
    # A server that did not understand the query may leave the question out.
    is_refusal = not asked and message.flags & 0xF in _WITHOUT_EDNS
    return message if is_refusal or asked == [(name.lower(), rtype, constants.IN)] else None


async def _ask(server: str, name: Name, rtype: int) -> tuple[bytes, Message]:
    """Receive until an answer to the query comes; anything else is ignored. OSError."""
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    number = secrets.randbits(16)
    opt = edns.render_opt(_EDNS_BYTES)
    with trio.socket.socket(family, socket.SOCK_DGRAM) as sock:
        await sock.connect((server, _DNS_PORT))
        while True:
            await sock.send(render_query(number, name, rtype, flags=constants.RD, opt=opt))
            with trio.move_on_after(_AGAIN_S):
                while True:
                    payload = await sock.recv(_MAX_DATAGRAM_BYTES)
                    message = answer_untrusted(payload, number, name, rtype)
                    if message is None:
                        continue
                    if not opt or message.flags & 0xF not in _WITHOUT_EDNS:
                        return payload, message
                    opt = b""
                    break


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
