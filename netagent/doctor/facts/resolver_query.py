"""Query the resolver of a container from inside it, by UDP, and read the answers."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Sequence

import trio

from netagent.datapath.endpoint.netns import RESOLVER_ADDRESS, reopened_netns, run_in_netns
from netagent.doctor.checks.resolver_checks import ResolverAnswer, ResolverQuestion, said_untrusted
from netagent.errors import NetagentError
from netagent.journal.rows import LocalEndpointRow
from netdns import constants
from netdns.errors import FormatError
from netdns.message import render_query

PATIENCE_S = 1.0
"""For all questions in one container. An answer takes less than a millisecond."""
TRIES = 2
_MAX_DATAGRAM_BYTES = 65_535


async def ask_inside(
    row: LocalEndpointRow, questions: Sequence[ResolverQuestion]
) -> dict[ResolverQuestion, ResolverAnswer | None]:
    """Ask in the endpoint's namespace; None for questions without an answer in time."""
    answers: dict[ResolverQuestion, ResolverAnswer | None] = dict.fromkeys(questions)
    try:
        with reopened_netns(row.netns) as netns_fd:
            plain = await run_in_netns(netns_fd, _open_inside)
    except (NetagentError, OSError):
        return answers
    with trio.socket.from_stdlib_socket(plain) as sock:
        for _ in range(TRIES):
            with trio.move_on_after(PATIENCE_S / TRIES):
                await _ask_once(sock, answers)
                break
    return answers


def _open_inside() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.connect(RESOLVER_ADDRESS)
    except BaseException:
        sock.close()
        raise
    return sock


async def _ask_once(
    sock: trio.socket.SocketType, answers: dict[ResolverQuestion, ResolverAnswer | None]
) -> None:
    """Ask one question after the other, so that no buffer is ever full."""
    for question in [one for one, said in answers.items() if said is None]:
        number = secrets.randbits(16)
        query = render_query(number, question.wire, question.rtype, flags=constants.RD, opt=b"")
        while answers[question] is None:
            try:
                await sock.send(query)
                payload = await sock.recv(_MAX_DATAGRAM_BYTES)
            except OSError:  # refused: nothing listens at the port
                return
            if payload[:2] != number.to_bytes(2, "big"):
                continue
            try:
                answers[question] = said_untrusted(payload, question)
            except FormatError:
                return
