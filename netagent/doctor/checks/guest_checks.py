"""Compare a container's inside with its endpoint: interface, addresses, routes, resolver sockets. Pure.

Only what the endpoint needs is compared; anything else in the container is its own business. Prefix lengths of IPv4
addresses are ignored, because a runtime that sets the address itself chooses other lengths than netagent.
"""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from netagent.datapath.netlink.route import OUR_PROTOCOL
from netagent.doctor.checks.object_status import ObjectStatus, State
from netagent.endpoints.validation import has_default_route, ways_out
from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import NetworkId
from netagent.registry.view import NetworkView, RegistryView
from netagent.resolver.feed_source import FEED_ADDRESS

_DNS_PORT: Final = 53


@dataclass(frozen=True, slots=True)
class GuestLink:
    """A link inside a container."""

    mac: str
    mtu_bytes: int
    up: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestFacts:
    """The state of a namespace at one moment."""

    problem: str = ""
    """Why the namespace could not be inspected; then the other fields are empty."""
    links: dict[str, GuestLink] = field(default_factory=dict)
    addresses: frozenset[tuple[str, str]] = frozenset()
    """(interface, address without prefix length)."""
    routes: frozenset[tuple[str, str]] = frozenset()
    """(interface, destination)."""
    local_routes: frozenset[tuple[str, str, str]] = frozenset()
    """(interface, destination, source) of those that netagent has made for service addresses."""
    resolver_sockets: frozenset[str] = frozenset()
    """`udp` and `tcp`, those that have a socket for 127.0.0.11 port 53."""
    resolver_port: int = _DNS_PORT
    """The port of these sockets: not 53 if port 53 is redirected."""
    has_feeds: bool = False
    """A socket listens for requests of feeds."""
    is_feed_port_taken: bool = False
    """A program of the container has their port."""


def inside_lines(
    row: LocalEndpointRow,
    rows: Iterable[LocalEndpointRow],
    view: RegistryView,
    facts: GuestFacts,
    ranges: Mapping[NetworkId, Sequence[str]],
) -> list[ObjectStatus]:
    """Yield what the endpoint needs in its container, each with its state. `rows`: this host's endpoints, for the
    default route. `ranges`: the service ranges, by network, to which containers should have routes."""
    if facts.problem:
        return [
            ObjectStatus(
                "interface", f"{row.ifname or 'interface'} in {row.target}", State.NOT_KNOWN, facts.problem
            )
        ]
    network, link = view.networks.get(row.network_id), facts.links.get(row.ifname or "")
    lines = [_interface(row, network, link)]
    if link is not None:
        lines += _addresses(row, facts)
        lines += _routes(row, network, facts)
        lines += _service_routes(row, facts, ranges.get(row.network_id, ()))
        if network is not None and has_default_route(row, rows, ways_out(view.networks)):
            lines += _defaults(row, network, facts)
    lines += _sockets(row, facts)
    lines.append(_feeds(row, facts))
    return lines


def _interface(row: LocalEndpointRow, network: NetworkView | None, link: GuestLink | None) -> ObjectStatus:
    thing = f"{row.ifname} in {row.target}"
    if link is None:
        fix = "netagent creates it again; if it stays missing, `netagent detach` and attach it again"
        return ObjectStatus("interface", thing, State.MISSING, "the container has no such interface", fix)
    wrong: list[tuple[str, str]] = []
    if link.mac != row.mac:
        wrong.append((f"its MAC is {link.mac} instead of {row.mac}", f"address {row.mac}"))
    if network is not None and link.mtu_bytes != network.record.mtu_bytes:
        wanted = network.record.mtu_bytes
        wrong.append((f"its MTU is {link.mtu_bytes} instead of {wanted}", f"mtu {wanted}"))
    if not link.up:
        wrong.append(("it is down", "up"))
    if not wrong:
        return ObjectStatus("interface", thing, State.PRESENT)
    words = " ".join(word for _, word in wrong)
    fix = _inside(row, f"ip link set {row.ifname} {words}")
    return ObjectStatus("interface", thing, State.ALTERED, "; ".join(text for text, _ in wrong), fix)


def _addresses(row: LocalEndpointRow, facts: GuestFacts) -> Iterator[ObjectStatus]:
    for address in row.addresses:
        is_there = (row.ifname, address) in facts.addresses
        length = 32 if ":" not in address else 64
        fix = _inside(row, f"ip addr add {address}/{length} dev {row.ifname} nodad")
        state = State.PRESENT if is_there else State.MISSING
        yield ObjectStatus(
            "address", f"{address} on {row.ifname} in {row.target}", state, "", "" if is_there else fix
        )


def _routes(row: LocalEndpointRow, network: NetworkView | None, facts: GuestFacts) -> Iterator[ObjectStatus]:
    for text in network.record.subnets if network is not None else ():
        subnet = ipaddress.ip_network(text)
        source = next((a for a in row.addresses if (":" in a) == (subnet.version == 6)), "")
        if not source:
            continue
        is_there = (row.ifname, str(subnet)) in facts.routes
        fix = _inside(row, f"ip route add {subnet} dev {row.ifname} src {source}")
        state = State.PRESENT if is_there else State.MISSING
        yield ObjectStatus(
            "route", f"{subnet} dev {row.ifname} in {row.target}", state, "", "" if is_there else fix
        )


def _service_routes(
    row: LocalEndpointRow, facts: GuestFacts, ranges: Iterable[str]
) -> Iterator[ObjectStatus]:
    sources = {":" in address: address for address in row.addresses}
    wanted = {(row.ifname or "", one, sources[":" in one]) for one in ranges if (":" in one) in sources}
    there = {one for one in facts.local_routes if one[0] == row.ifname}
    for ifname, subnet, source in sorted(wanted | there):
        route = f"local {subnet} dev {ifname}"
        state, fix = State.PRESENT, ""
        if (ifname, subnet, source) not in there:
            state, fix = (
                State.MISSING,
                _inside(row, f"ip route add {route} src {source} proto {OUR_PROTOCOL}"),
            )
        elif (ifname, subnet, source) not in wanted:
            state, fix = (
                State.LEFT_OVER,
                _inside(row, f"ip route del {route} table local proto {OUR_PROTOCOL}"),
            )
        yield ObjectStatus("route", f"{route} in {row.target}", state, "", fix)


def _defaults(row: LocalEndpointRow, network: NetworkView, facts: GuestFacts) -> Iterator[ObjectStatus]:
    for gateway in (cidr.partition("/")[0] for cidr in network.record.gateways):
        thing = f"default via {gateway} dev {row.ifname} in {row.target}"
        everywhere = "::/0" if ":" in gateway else "0.0.0.0/0"
        if (row.ifname, everywhere) in facts.routes:
            yield ObjectStatus("route", thing, State.PRESENT)
        elif any(destination == everywhere for _, destination in facts.routes):
            yield ObjectStatus("route", thing, State.NOT_NEEDED, "the container has another default route")
        else:
            fix = _inside(row, f"ip route add default via {gateway} dev {row.ifname} metric 8192 onlink")
            yield ObjectStatus(
                "route", thing, State.MISSING, "the container has no route out of the network", fix
            )


def _sockets(row: LocalEndpointRow, facts: GuestFacts) -> Iterator[ObjectStatus]:
    port = facts.resolver_port
    how = (
        f"redirected to port {port}"
        if port != _DNS_PORT
        else "a DNS server in the container can't use this port"
    )
    for protocol in ("udp", "tcp"):
        is_there = protocol in facts.resolver_sockets
        yield ObjectStatus(
            "resolver",
            f"127.0.0.11 port 53 {protocol} in {row.target}",
            State.PRESENT if is_there else State.MISSING,
            how if is_there else "no resolver listens there",
            ""
            if is_there
            else "restart the agent; if it stays missing, `netagent detach` and attach it again",
        )


def _feeds(row: LocalEndpointRow, facts: GuestFacts) -> ObjectStatus:
    address, port = FEED_ADDRESS
    thing = f"{address} port {port} tcp in {row.target}"
    if facts.has_feeds:
        return ObjectStatus("feeds", thing, State.PRESENT)
    if facts.is_feed_port_taken:
        reason = "a program of the container has this port, so no feeds are served there"
        return ObjectStatus("feeds", thing, State.NOT_NEEDED, reason)
    return ObjectStatus("feeds", thing, State.MISSING, "no feeds are served there", "restart the agent")


def _inside(row: LocalEndpointRow, command: str) -> str:
    return f"nsenter --net={shlex.quote(row.netns.path if row.netns else '')} {command}"
