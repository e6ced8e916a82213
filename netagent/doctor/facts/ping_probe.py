"""Send echo requests and open connections from inside a container, or from the host, and count the replies."""

from __future__ import annotations

import contextlib
import errno
import secrets
import socket
from collections.abc import Callable, Sequence
from typing import TypeVar

import trio

from netagent.datapath.endpoint.netns import reopened_netns, run_in_netns
from netagent.datapath.host.uplink import version_of
from netagent.doctor.checks.echo_checks import (
    EchoError,
    EchoSeries,
    PacketCounts,
    echo_request,
    reply_untrusted,
)
from netagent.journal.rows import LocalEndpointRow

CONNECT_S = 2.0
_IP_MTU_DISCOVER, _PMTUDISC_PROBE, _IPV6_MTU_DISCOVER, _IPV6_DONTFRAG = 10, 3, 23, 62
_FAMILIES = {4: (socket.AF_INET, socket.IPPROTO_ICMP), 6: (socket.AF_INET6, socket.IPPROTO_ICMPV6)}
_MAX_MESSAGE_BYTES = 65_535
_DISCARD_PORT = 9

T = TypeVar("T")


async def echo(
    row: LocalEndpointRow | None, address: str, sizes: Sequence[int], count: int
) -> tuple[PacketCounts, ...]:
    """Send `count` packets of each size, from the container of `row` or from the host. NetagentError: it is gone."""
    version = version_of(address)
    try:
        plain = await _inside(row, lambda: _open_icmp(version, address))
    except OSError as error:
        trouble = (error.strerror or str(error)).lower()
        return tuple(PacketCounts(address, count, size_bytes=size, trouble=trouble) for size in sizes)
    with trio.socket.from_stdlib_socket(plain) as sock:
        series = EchoSeries(address, sizes, count, trio.current_time())
        await _run(sock, version, series)
        return series.counts()


async def connect(row: LocalEndpointRow | None, address: str, port: int) -> PacketCounts:
    """Open one TCP connection and close it at once. NetagentError: the container is gone."""
    family = _FAMILIES[version_of(address)][0]
    plain = await _inside(
        row, lambda: socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    )
    begun_at = trio.current_time()
    with trio.socket.from_stdlib_socket(plain) as sock:
        try:
            with trio.fail_after(CONNECT_S):
                await sock.connect((address, port))
        except trio.TooSlowError:
            return PacketCounts(address, 1, port=port, trouble="no answer")
        except OSError as error:
            is_refused = error.errno == errno.ECONNREFUSED
            trouble = "refused" if is_refused else (error.strerror or str(error)).lower()
            return PacketCounts(address, 1, port=port, trouble=trouble)
    return PacketCounts(address, 1, (trio.current_time() - begun_at,), port=port)


def no_route(target: str) -> str:
    """Say why this host has no route to an address; empty if it has. Connecting a datagram socket sends no packet."""
    family = _FAMILIES[version_of(target)][0]
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.connect((target, _DISCARD_PORT))
        except OSError as error:
            return (error.strerror or str(error)).lower()
    return ""


async def _inside(row: LocalEndpointRow | None, make: Callable[[], T]) -> T:
    if row is None:
        return make()
    with reopened_netns(row.netns) as netns_fd:
        return await run_in_netns(netns_fd, make)


def _open_icmp(version: int, address: str) -> socket.socket:
    family, protocol = _FAMILIES[version]
    sock = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
    try:
        # Without fragments, however large: the size is what is tested.
        if version == 4:
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_DONTFRAG, 1)
        sock.connect((address, 0))
    except BaseException:
        sock.close()
        raise
    return sock


async def _run(sock: trio.socket.SocketType, version: int, series: EchoSeries) -> None:
    identifier = secrets.randbits(16)

    async def receive(scope: trio.CancelScope) -> None:
        while not series.is_over(trio.current_time()):
            with contextlib.suppress(OSError, EchoError):  # an ICMP error counts as a missing reply
                theirs, sequence = reply_untrusted(version, await sock.recv(_MAX_MESSAGE_BYTES))
                if theirs == identifier:
                    series.handle_answer(sequence, trio.current_time())
        scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive, nursery.cancel_scope)
        while not series.is_over(now := trio.current_time()):
            for sequence, size_bytes in series.handle_deadline(now):
                try:
                    await sock.send(echo_request(version, identifier, sequence, size_bytes))
                except OSError as error:
                    series.note_trouble(size_bytes, (error.strerror or str(error)).lower())
            await trio.sleep_until(series.next_deadline())
        nursery.cancel_scope.cancel()
