"""The contents of our tables' sets, from the inputs. Pure.

The rules (netagent.firewall.text) change when a network comes or goes, or a path turns out to be small, and are then
installed again. Whatever comes and goes with containers and hosts is an element of a set. So a container that starts
costs a few elements, however many others there are, and a packet costs one hash look-up for each decision, however
many rules it would otherwise take.
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeAlias

from netagent.firewall import policy, publishing
from netagent.firewall.element import Family, Field, SetKind, Words
from netagent.firewall.inputs import (
    DEFAULT_AGENT_PORTS,
    AllowedFlow,
    FirewallInput,
    GuardedEndpoint,
    GuardedNetwork,
)
from netagent.model.egress import EgressTarget

_BRIDGE, _INET = Family.BRIDGE, Family.INET

SENDERS: Final = SetKind(_BRIDGE, "senders", (Field.IFNAME, Field.ETHER))
"""The MAC that each container's interface may send from."""
SENDERS4: Final = SetKind(_BRIDGE, "senders4", (Field.IFNAME, Field.ETHER, Field.IPV4))
SENDERS6: Final = SetKind(_BRIDGE, "senders6", (Field.IFNAME, Field.ETHER, Field.IPV6))


def _clamps(name: str) -> SetKind:
    """Return the map (VXLAN device, MAC behind it) -> the largest TCP segment that its path carries."""
    typeof = "iifname . ether saddr : tcp option maxseg size"
    return SetKind(_BRIDGE, name, (Field.IFNAME, Field.ETHER), (Field.BYTES16,), typeof=typeof)


CLAMPS4, CLAMPS6 = _clamps("clamps4"), _clamps("clamps6")
MEMBERS4: Final = SetKind(_INET, "members4", (Field.IPV4,))
"""Source addresses that VXLAN packets may have."""
MEMBERS6: Final = SetKind(_INET, "members6", (Field.IPV6,))
GATEWAYS: Final = SetKind(_INET, "gateways", (Field.IFNAME, Field.ETHER))
"""Our bridges' own MACs: a frame to one of them is for the host to route, any other for the bridge to forward."""
ENTRANCES: Final = SetKind(_BRIDGE, "entrances", (Field.IFNAME, Field.ETHER))
"""A port of one of our bridges, and the bridge's own MAC: frames that the bridge delivers to the host. Not every
kernel can match the bridge itself there."""
SAME: Final = SetKind(_INET, "same", (Field.IFNAME, Field.IFNAME))
"""Each of our bridges with itself: no rule can compare the incoming device of a packet with the outgoing one."""
EGRESS_BRIDGES: Final = SetKind(_INET, "ways", (Field.IFNAME,))
"""Our bridges whose containers may connect everywhere outside."""
HOSTED4: Final = SetKind(_INET, "hosted4", (Field.IFNAME, Field.IPV4))
"""(Bridge, address of this host by which it takes part in the network)."""
HOSTED6: Final = SetKind(_INET, "hosted6", (Field.IFNAME, Field.IPV6))
HERE4: Final = SetKind(_INET, "here4", (Field.IPV4,))
"""The address that this host advertises."""
HERE6: Final = SetKind(_INET, "here6", (Field.IPV6,))
LENT4: Final = SetKind(_INET, "lent4", (Field.IFNAME,))
"""Devices that must not admit transit traffic: they route only because netagent turned it on."""
LENT6: Final = SetKind(_INET, "lent6", (Field.IFNAME,))

KINDS: Final = (
    SENDERS,
    SENDERS4,
    SENDERS6,
    CLAMPS4,
    CLAMPS6,
    MEMBERS4,
    MEMBERS6,
    GATEWAYS,
    ENTRANCES,
    SAME,
    EGRESS_BRIDGES,
    HOSTED4,
    HOSTED6,
    HERE4,
    HERE6,
    LENT4,
    LENT6,
    *policy.KINDS,
    *publishing.KINDS,
)

HEADERS4_BYTES: Final = 20 + 20
"""IPv4's and TCP's headers, without options: not part of an MSS (RFC 9293 section 3.7.1). TCP itself takes its
options from the segment."""
HEADERS6_BYTES: Final = 40 + 20
MIN_SEGMENT_BYTES: Final = 48
"""Linux treats a smaller MSS as an attack (net.ipv4.tcp_min_snd_mss)."""

Elements: TypeAlias = Mapping[Words, Words]
"""Key -> value; the value of a set's element is empty."""


class OptionalRules(enum.Enum):
    """Rules that every packet passes, and that exist only if something on this host needs them."""

    LINKS = "a network in which only linked services may be reached"
    CLAMPS = "a path that carries less than its network's MTU"
    FLOODS = "a network that carries multicast"


@dataclass(frozen=True, slots=True)
class Ruleset:
    """Our tables as they should be, with the elements of each of KINDS."""

    vxlan_port: int
    elements: Mapping[SetKind, Elements]
    agent_ports: tuple[int, ...] = DEFAULT_AGENT_PORTS
    """Ports of agents, which containers can't reach on any host, by UDP or TCP."""
    rejecting: frozenset[str] = frozenset()
    """Bridges whose own device rejects what the policy refuses."""
    needs: frozenset[OptionalRules] = frozenset()
    subnets: tuple[str, ...] = ()
    """Disjoint CIDRs, sorted. They are part of the rules: networks are made seldom, and a set of intervals can't be
    changed element by element."""
    own_ranges: tuple[str, ...] = ()
    """The same of the service ranges that this host routes to itself."""
    egress: tuple[tuple[str, tuple[EgressTarget, ...]], ...] = ()
    """Bridges whose containers may connect to these addresses outside alone, sorted. They are part of the rules for
    the same reason as the subnets."""
    tunnel: str = ""
    """The device of the encrypted tunnel, by which nothing but VXLAN may come; empty: there is none."""
    is_fenced: bool = False
    """VXLAN may come and go by that device alone."""
    connections: int = 0
    """Connections that a container may have outside and to this host, by each of its addresses; 0: any number."""


def ruleset_of(given: FirewallInput) -> Ruleset:
    """Build the tables from the inputs."""
    senders4, senders6 = _senders(given.endpoints)
    members4, members6 = _by_version(given.members)
    here4, here6 = _by_version((given.underlay,) if given.underlay else ())
    return Ruleset(
        given.vxlan_port,
        {
            SENDERS: _keys((endpoint.veth, endpoint.mac) for endpoint in given.endpoints),
            SENDERS4: _keys(senders4),
            SENDERS6: _keys(senders6),
            CLAMPS4: _segments(given.clamps, HEADERS4_BYTES),
            CLAMPS6: _segments(given.clamps, HEADERS6_BYTES),
            MEMBERS4: _keys((address,) for address in members4),
            MEMBERS6: _keys((address,) for address in members6),
            GATEWAYS: _keys((network.bridge, network.bridge_mac) for network in given.networks),
            ENTRANCES: _keys(_entrances(given)),
            SAME: _keys((network.bridge, network.bridge) for network in given.networks),
            EGRESS_BRIDGES: _keys(
                (network.bridge,)
                for network in given.networks
                if network.has_egress and network.egress is None
            ),
            **_hosted(given.networks),
            HERE4: _keys((address,) for address in here4),
            HERE6: _keys((address,) for address in here6),
            LENT4: _keys((device,) for device in given.lent4),
            LENT6: _keys((device,) for device in given.lent6),
            **_policy(given),
            **publishing.elements(
                given.port_forwards,
                (address for one in given.endpoints for address in one.addresses),
                given.service_forwards,
            ),
        },
        agent_ports=given.agent_ports,
        tunnel=given.tunnel,
        is_fenced=given.is_fenced,
        connections=given.connections,
        subnets=_collapsed(given.subnets),
        own_ranges=_collapsed(given.own_ranges),
        egress=tuple(
            (network.bridge, network.egress)
            for network in sorted(given.networks, key=lambda one: one.bridge)
            if network.has_egress and network.egress is not None
        ),
        rejecting=policy.restricted_bridges(given),
        needs=frozenset(_needs(given)),
    )


def _needs(given: FirewallInput) -> Iterable[OptionalRules]:
    if any(network.restricted for network in given.networks):
        # Installing tables again forgets the flows of datagrams. So these tables have all rules that may be needed.
        return OptionalRules
    floods = {OptionalRules.FLOODS} if any(network.multicast for network in given.networks) else set()
    return floods | ({OptionalRules.CLAMPS} if given.clamps else set())


def _entrances(given: FirewallInput) -> Iterable[Words]:
    macs = {network.bridge: network.bridge_mac for network in given.networks}
    yield from ((one.veth, macs[one.bridge]) for one in given.endpoints if one.bridge in macs)
    yield from ((network.tunnel, network.bridge_mac) for network in given.networks if network.tunnel)


def _policy(given: FirewallInput) -> dict[SetKind, Elements]:
    networks = {network.bridge: network for network in given.networks if network.restricted}
    ports = {one.veth: networks[one.bridge].bridge_mac for one in given.endpoints if one.bridge in networks}
    audited = {one.bridge for one in networks.values() if one.audited}
    requests4, requests6 = _flows_by_version(given.requests)
    answers4, answers6 = _flows_by_version(given.answers)
    return {
        policy.RESTRICTED: _keys((port,) for port in (*ports, *(one.tunnel for one in networks.values()))),
        policy.AUDITED: _keys(
            (port,)
            for port in (
                *(one.veth for one in given.endpoints if one.bridge in audited),
                *(networks[bridge].tunnel for bridge in audited),
            )
        ),
        policy.OWN: _keys(ports.items()),
        policy.BRIDGES: {(port,): (mac,) for port, mac in ports.items()},
        policy.REQUESTS4: _keys(requests4),
        policy.REQUESTS6: _keys(requests6),
        policy.ANSWERS4: _keys(answers4),
        policy.ANSWERS6: _keys(answers6),
    }


def _flows_by_version(flows: Iterable[AllowedFlow]) -> tuple[list[AllowedFlow], list[AllowedFlow]]:
    four: list[AllowedFlow] = []
    six: list[AllowedFlow] = []
    for flow in flows:
        (six if ":" in flow[1] else four).append(flow)
    return four, six


def _hosted(networks: Iterable[GuardedNetwork]) -> dict[SetKind, Elements]:
    split = [(network.bridge, _by_version(network.host_addresses)) for network in networks]
    return {
        HOSTED4: _keys((bridge, one) for bridge, (four, _) in split for one in four),
        HOSTED6: _keys((bridge, one) for bridge, (_, six) in split for one in six),
    }


def _collapsed(subnets: Iterable[str]) -> tuple[str, ...]:
    """Drop subnets that others contain: after a partition heals, networks may overlap."""
    parsed = [ipaddress.ip_network(text) for text in subnets]
    four = ipaddress.collapse_addresses(one for one in parsed if isinstance(one, ipaddress.IPv4Network))
    six = ipaddress.collapse_addresses(one for one in parsed if isinstance(one, ipaddress.IPv6Network))
    return (*map(str, four), *map(str, six))


@lru_cache(maxsize=16_384)
def link_local(mac: str) -> str:
    """Return the IPv6 link-local address that a kernel derives from a MAC (RFC 4291, appendix A)."""
    octets = bytearray.fromhex(mac.replace(":", ""))
    octets[0] ^= 2
    interface = bytes(octets[:3]) + b"\xff\xfe" + bytes(octets[3:])
    return str(ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + interface))


def _senders(endpoints: Iterable[GuardedEndpoint]) -> tuple[list[Words], list[Words]]:
    four: list[Words] = []
    six: list[Words] = []
    for endpoint in endpoints:
        versions = _by_version(endpoint.addresses)
        four += [(endpoint.veth, endpoint.mac, address) for address in versions[0]]
        six += [
            (endpoint.veth, endpoint.mac, address) for address in (*versions[1], link_local(endpoint.mac))
        ]
    return four, six


def _segments(clamps: Mapping[tuple[str, str], int], headers_bytes: int) -> Elements:
    return {
        key: (str(max(MIN_SEGMENT_BYTES, size_bytes - headers_bytes)),) for key, size_bytes in clamps.items()
    }


def _by_version(addresses: Iterable[str]) -> tuple[list[str], list[str]]:
    four: list[str] = []
    six: list[str] = []
    for address in addresses:
        (six if ":" in address else four).append(address)
    return four, six


def _keys(keys: Iterable[Words]) -> Elements:
    return dict.fromkeys(keys, ())
