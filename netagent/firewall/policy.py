"""Networks with `--policy links`: only linked services may be reached, one way, and they may answer. Pure.

What comes in by a port of such a network (a container's interface, or the tunnel) is one of three things. A
**request** may pass when the one who sends it is linked to the one it goes to. An **answer** may pass when the other
is linked to the sender, and it is an answer: a TCP segment that opens no connection, an ICMP reply or error, a
datagram of a flow that was asked for within FLOW_S. All else is **refused**. ARP and neighbour discovery always pass,
other multicast and broadcast never: it would reach everybody. A frame to the bridge itself is for the host to route,
and no matter of links. Both hosts of a pair judge alike, from the same records.

TCP needs no memory, so that a connection outlives our tables being replaced, and a link that is taken away ends what
it allowed, at once. For datagrams the rules note who asked whom, in a set that they fill themselves. The bridge's own
connection tracking would do both, but not every kernel has it; the host's would put every bridged packet before the
host's and Docker's own rules (docs/design/0014-stateless-link-policy.md).

Whoever is refused is to know at once. The bridge can only drop, where the kernel does not have it reject. So the
frame of a container of this host is marked and handed to the bridge's own device, where a chain of the netdev family
rejects: to the sender it is as if the other had refused. What comes by the tunnel its own host has let pass by
records that ours does not have yet, or no more: it is dropped, and soon repeated.
"""

from __future__ import annotations

from typing import Final

from netagent.firewall.element import Family, Field, SetKind
from netagent.firewall.inputs import FirewallInput

_BRIDGE: Final = Family.BRIDGE

RESTRICTED: Final = SetKind(_BRIDGE, "restricted", (Field.IFNAME,))
"""Ports of networks in which only linked services may be reached."""
OWN: Final = SetKind(_BRIDGE, "own", (Field.IFNAME, Field.ETHER))
"""Such a port, and its bridge's own MAC."""
BRIDGES: Final = SetKind(_BRIDGE, "bridges", (Field.IFNAME,), (Field.ETHER,))
"""The same, to look the MAC up."""
REQUESTS4: Final = SetKind(_BRIDGE, "requests4", (Field.IFNAME, Field.IPV4, Field.IPV4))
"""(Port, source, destination) of those that may ask."""
REQUESTS6: Final = SetKind(_BRIDGE, "requests6", (Field.IFNAME, Field.IPV6, Field.IPV6))
ANSWERS4: Final = SetKind(_BRIDGE, "answers4", (Field.IFNAME, Field.IPV4, Field.IPV4))
"""(Port, source, destination) of those that may answer."""
ANSWERS6: Final = SetKind(_BRIDGE, "answers6", (Field.IFNAME, Field.IPV6, Field.IPV6))

KINDS: Final = (RESTRICTED, OWN, BRIDGES, REQUESTS4, REQUESTS6, ANSWERS4, ANSWERS6)

REFUSED: Final = "refused"
"""Counter of packets between containers that no link joins."""
MARK: Final = 0x6E617201
"""Of a packet on its way from our bridge rules to the chain that rejects it; it never leaves the host."""
FLOW_S: Final = 180
"""How long an answer to a datagram may take; each datagram of a flow renews it. The kernel's own connection tracking
gives 120 s to a flow that has been answered, and 180 s in its earlier releases."""
MAX_FLOWS: Final = 65_536
"""Flows of datagrams noted at once, for each family. Beyond these, answers to further ones are refused."""

BRIDGE_CHAINS: Final = """
	set flows4 {
		type ipv4_addr . ipv4_addr . inet_proto . inet_service . inet_service
		flags dynamic, timeout
		size $MAX_FLOWS
		timeout $FLOW_Ss
	}
	set flows6 {
		type ipv6_addr . ipv6_addr . inet_proto . inet_service . inet_service
		flags dynamic, timeout
		size $MAX_FLOWS
		timeout $FLOW_Ss
	}
	chain linked {
		meta protocol arp accept
		meta protocol ip6 icmpv6 type { \
			nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert, mld2-listener-report } accept
		meta pkttype { broadcast, multicast } drop
		iifname . ether daddr @own accept
		meta protocol ip iifname . ip saddr . ip daddr @requests4 goto request
		meta protocol ip6 iifname . ip6 saddr . ip6 daddr @requests6 goto request
		meta protocol ip iifname . ip saddr . ip daddr @answers4 jump answer
		meta protocol ip6 iifname . ip6 saddr . ip6 daddr @answers6 jump answer
		counter name refused
		iifname "nx-*" drop
		meta mark set $MARK ether daddr set iifname map @bridges meta pkttype set host accept
		drop
	}
	chain request {
		meta l4proto != { udp, udplite, dccp, sctp } accept
		meta protocol ip update @flows4 { ip daddr . ip saddr . meta l4proto . th dport . th sport }
		meta protocol ip6 update @flows6 { ip6 daddr . ip6 saddr . meta l4proto . th dport . th sport }
		accept
	}
	chain answer {
		tcp flags & (syn | ack) != syn accept
		meta protocol ip icmp type { \
			echo-reply, destination-unreachable, time-exceeded, parameter-problem, timestamp-reply } accept
		meta protocol ip6 icmpv6 type { \
			echo-reply, destination-unreachable, packet-too-big, time-exceeded, parameter-problem } accept
		meta protocol ip ip frag-off & 0x1fff != 0 accept
		meta protocol ip6 frag frag-off != 0 accept
		meta protocol ip ip saddr . ip daddr . meta l4proto . th sport . th dport @flows4 goto answered
		meta protocol ip6 ip6 saddr . ip6 daddr . meta l4proto . th sport . th dport @flows6 goto answered
	}
	chain answered {
		meta protocol ip update @flows4 { ip saddr . ip daddr . meta l4proto . th sport . th dport }
		meta protocol ip6 update @flows6 { ip6 saddr . ip6 daddr . meta l4proto . th sport . th dport }
		accept
	}
"""
"""An opening segment is told by what it must have to be let through, not by what it must not have: of a first
fragment too short for TCP's flags nothing is known. Later fragments pass, which without a first one mean nothing."""

NETDEV_CHAINS: Final = """
	chain refusals {
		icmp type != echo-request drop
		icmpv6 type != echo-request drop
		meta l4proto tcp reject with tcp reset
		meta protocol { ip, ip6 } reject with icmpx admin-prohibited
		drop
	}
"""
"""Nobody answers an error with an error."""

_INGRESS: Final = """
	chain ingress {
		type filter hook ingress devices = { $DEVICES } priority 0; policy accept;
		meta mark $MARK goto refusals
	}
"""


def ingress(devices: frozenset[str]) -> str:
    """The chain of the netdev table through which what comes to these bridges goes; none without any."""
    return _INGRESS.replace("$DEVICES", ", ".join(sorted(devices))) if devices else ""


def restricted_bridges(given: FirewallInput) -> frozenset[str]:
    """Bridges whose own device must reject what is refused."""
    return frozenset(network.bridge for network in given.networks if network.restricted)
