"""Look into containers for the doctor's comparison, without changing anything there.

For each container, one netlink socket is opened in its namespace and two small files are read; everything else goes
over that socket from here. A deadline bounds the time for hundreds of containers, and the result says which ones were
not inspected.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import trio

from netagent.datapath.endpoint.dns_redirect import redirected_port
from netagent.datapath.endpoint.netns import RESOLVER_ADDRESS, reopened_netns, run_in_netns
from netagent.datapath.netlink.link import address_dump, decode_address, decode_link, link_dump
from netagent.datapath.netlink.route import RTM_GETROUTE, decode, decode_local, route_request_body
from netagent.datapath.netlink.route_socket import Netlink, NetlinkRequest, open_socket
from netagent.doctor.checks.guest_checks import GuestFacts, GuestLink
from netagent.errors import NetagentError
from netagent.journal.rows import LocalEndpointRow
from netagent.resolver.feed_source import FEED_ADDRESS

AT_ONCE = 4
"""Bound of containers that `doctor` examines at the same time; beyond it: others wait their turn. Each inspection
uses a thread; the kernel serialises most of their work."""
_RESOLVERS = {"0B00007F", "7F00000B"}
"""127.0.0.11 as /proc/net writes it on a little-endian machine; on a big-endian one it is the reverse."""
_EVERYWHERE = "00000000"
_MAX_TABLE_BYTES = 1 << 20
_LISTEN, _UNCONNECTED = "0A", "07"


async def visit_all(
    rows: Iterable[LocalEndpointRow], *, patience_s: float
) -> dict[tuple[int, int], GuestFacts]:
    """Inspect the rows' namespaces; the result is by (device, inode), without those that time ran out for."""
    wanted = {row.netns.identity: row for row in rows if row.netns}
    seen: dict[tuple[int, int], GuestFacts] = {}
    left = iter(wanted.items())

    async def work() -> None:
        for identity, row in left:
            seen[identity] = await visit(row)

    with trio.move_on_after(patience_s):
        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(work)
    return seen


async def visit(row: LocalEndpointRow) -> GuestFacts:
    """Inspect one namespace; `problem` says why it could not be."""
    try:
        with reopened_netns(row.netns) as netns_fd:
            sock, resolver = await run_in_netns(netns_fd, _open_inside)
        with closing(Netlink(sock)) as inside:
            return await _look(inside, resolver)
    except NetagentError as error:
        return GuestFacts(problem=error.message)
    except OSError as error:
        return GuestFacts(problem=f"its namespace cannot be inspected: {error.strerror or error}")


def _open_inside() -> tuple[socket.socket, ResolverFacts]:
    sock = open_socket()
    try:
        return sock, resolver_facts()
    except BaseException:
        sock.close()
        raise


class ResolverFacts(NamedTuple):
    """What listens in a namespace for the resolver process."""

    protocols: frozenset[str]
    """`udp` and `tcp`, if 127.0.0.11 port 53 leads to one."""
    port: int
    """To which port that is."""
    has_feeds: bool
    is_feed_port_taken: bool


def resolver_facts() -> ResolverFacts:
    """Read them in the calling thread's namespace."""
    try:
        port = redirected_port() or RESOLVER_ADDRESS[1]
    except OSError:  # a kernel without nf_tables redirects nothing
        port = RESOLVER_ADDRESS[1]
    listening = {"udp": set(_listening("udp", _UNCONNECTED)), "tcp": set(_listening("tcp", _LISTEN))}
    feed_port = FEED_ADDRESS[1]
    return ResolverFacts(
        frozenset(protocol for protocol in listening if listening[protocol] & _places(port)),
        port,
        has_feeds=bool(listening["tcp"] & _places(feed_port)),
        is_feed_port_taken=f"{_EVERYWHERE}:{feed_port:04X}" in listening["tcp"],
    )


def _places(port: int) -> set[str]:
    return {f"{address}:{port:04X}" for address in _RESOLVERS}


def _listening(protocol: str, state: str) -> Iterator[str]:
    with Path(f"/proc/thread-self/net/{protocol}").open(encoding="ascii") as table:
        for line in table.read(_MAX_TABLE_BYTES).splitlines():
            fields = line.split()
            if len(fields) > 3 and fields[3] == state:
                yield fields[1]


async def _look(inside: Netlink, resolver: ResolverFacts) -> GuestFacts:
    links = {link.index: link for link in [decode_link(m.body) for m in await inside.dump(link_dump())]}
    addresses = [decode_address(message.body) for message in await inside.dump(address_dump())]
    routes, local = set(), set()
    for family in (socket.AF_INET, socket.AF_INET6):
        for message in await inside.dump(NetlinkRequest(RTM_GETROUTE, 0, route_request_body(family))):
            route = decode(message.body)
            if route is not None and route.ifindex in links:
                routes.add((links[route.ifindex].name, str(route.destination)))
            ours = decode_local(message.body)
            if ours is not None and ours.ifindex in links:
                local.add((links[ours.ifindex].name, ours.subnet, ours.source))
    return GuestFacts(
        links={link.name: GuestLink(link.mac, link.mtu_bytes, link.up) for link in links.values()},
        addresses=frozenset(
            (links[index].name, cidr.partition("/")[0]) for index, cidr in addresses if index in links
        ),
        routes=frozenset(routes),
        local_routes=frozenset(local),
        resolver_sockets=resolver.protocols,
        resolver_port=resolver.port,
        has_feeds=resolver.has_feeds,
        is_feed_port_taken=resolver.is_feed_port_taken,
    )
