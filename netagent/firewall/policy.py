"""Networks with `--policy links`: only linked services may be reached, in one direction, and they may reply. Pure.

A packet that arrives by a port of such a network (a container's interface, or the tunnel) is one of three things. A
**request** may pass if its sender is linked to its destination. An **answer** may pass if its destination is linked
to its sender, and it is an answer: a TCP segment that opens no connection, an ICMP reply or error, a datagram of a
flow that was requested within FLOW_S. Everything else is **refused**. ARP and neighbour discovery always pass, other
multicast and broadcast never: it would reach all. A frame to the bridge itself is for the host to route, and links do
not concern it. Both hosts of a pair decide alike, from the same records.

TCP needs no state, so a connection survives a replacement of our tables, and removing a link ends at once what it
allowed. For datagrams the rules note the requested flows in a set that they fill themselves. The bridge's own
connection tracking would do both, but not every kernel has it; the host's would send every bridged packet through the
host's and Docker's own rules first (docs/design/0014-stateless-link-policy.md).

In a network with `--policy audit` the same decisions are made, and what would be refused is counted and passes. So
do datagrams that only an answer could be: they are noted as one, because the network may change to `links` while they
flow, long after they were asked for. The change takes elements out of a set, and the flows that are noted stay.

A refused sender should learn it at once. The bridge can only drop, unless the kernel has it reject. So a refused
frame of a container on this host is marked and delivered to the bridge's own device, where a chain of the netdev
family rejects it: to the sender this looks as if the destination had refused. A packet from the tunnel was allowed by
its own host, by records that this one does not have yet, or no longer: it is dropped, and soon repeated.
"""

from __future__ import annotations

from typing import Final

from netagent.firewall.element import Family, Field, SetKind
from netagent.firewall.inputs import FirewallInput

_BRIDGE: Final = Family.BRIDGE

RESTRICTED: Final = SetKind(_BRIDGE, "restricted", (Field.IFNAME,))
"""Ports of networks in which only linked services may be reached."""
AUDITED: Final = SetKind(_BRIDGE, "audited_ports", (Field.IFNAME,))
"""Those of them where everything passes, and what would be refused is counted."""
OWN: Final = SetKind(_BRIDGE, "own", (Field.IFNAME, Field.ETHER))
"""Such a port, and its bridge's own MAC."""
BRIDGES: Final = SetKind(_BRIDGE, "bridges", (Field.IFNAME,), (Field.ETHER,))
"""The same, to look up the MAC."""
REQUESTS4: Final = SetKind(_BRIDGE, "requests4", (Field.IFNAME, Field.IPV4, Field.IPV4))
"""(Port, source, destination) of flows that may open connections."""
REQUESTS6: Final = SetKind(_BRIDGE, "requests6", (Field.IFNAME, Field.IPV6, Field.IPV6))
ANSWERS4: Final = SetKind(_BRIDGE, "answers4", (Field.IFNAME, Field.IPV4, Field.IPV4))
"""(Port, source, destination) of flows that may only reply."""
ANSWERS6: Final = SetKind(_BRIDGE, "answers6", (Field.IFNAME, Field.IPV6, Field.IPV6))

KINDS: Final = (RESTRICTED, AUDITED, OWN, BRIDGES, REQUESTS4, REQUESTS6, ANSWERS4, ANSWERS6)

REFUSED: Final = "refused"
"""Counter of packets between containers without a link."""
AUDITED_PACKETS: Final = "audited"
"""Counter of those that passed because the policy is `audit`; of TCP only segments that open a connection."""
MARK: Final = 0x6E617201
"""Marks a packet on its way from our bridge rules to the chain that rejects it; it never leaves the host."""
FLOW_S: Final = 180
"""How long an answer to a datagram may take; each datagram of a flow extends it. The kernel's own connection tracking
allows 120 s for a flow that has been answered, and 180 s in earlier releases."""
MAX_FLOWS: Final = 65_536
"""Bound of datagram flows whose answers may pass for 180 s, of each family; beyond it: answers to further ones are
refused."""

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
		meta pkttype { broadcast, multicast } goto flooded
		iifname . ether daddr @own accept
		meta protocol ip iifname . ip saddr . ip daddr @requests4 goto request
		meta protocol ip6 iifname . ip6 saddr . ip6 daddr @requests6 goto request
		meta protocol ip iifname . ip saddr . ip daddr @answers4 jump answer
		meta protocol ip6 iifname . ip6 saddr . ip6 daddr @answers6 jump answer
		iifname @audited_ports goto audit
		counter name refused
		iifname "nx-*" drop
		meta mark set $MARK ether daddr set iifname map @bridges meta pkttype set host accept
		drop
	}
	chain flooded {
		iifname @audited_ports counter name audited accept
		drop
	}
	chain audit {
		tcp flags & (syn | ack) != syn accept
		counter name audited
		meta l4proto != { udp, udplite, dccp, sctp } accept
		meta protocol ip iifname . ip saddr . ip daddr @answers4 goto answered
		meta protocol ip6 iifname . ip6 saddr . ip6 daddr @answers6 goto answered
		accept
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
"""A TCP segment passes for the flags that it has, not for flags that it lacks: a first fragment too short for TCP's
flags has unknown ones. Later fragments pass; they are useless without a first one."""

NETDEV_CHAINS: Final = """
	chain refusals {
		icmp type != echo-request drop
		icmpv6 type != echo-request drop
		meta l4proto tcp reject with tcp reset
		meta protocol { ip, ip6 } reject with icmpx admin-prohibited
		drop
	}
"""
"""An error is never answered with an error."""

_INGRESS: Final = """
	chain ingress {
		type filter hook ingress devices = { $DEVICES } priority 0; policy accept;
		meta mark $MARK goto refusals
	}
"""


def ingress(devices: frozenset[str]) -> str:
    """Return the netdev table's chain for packets that arrive at these bridges; empty without any."""
    return _INGRESS.replace("$DEVICES", ", ".join(sorted(devices))) if devices else ""


def restricted_bridges(given: FirewallInput) -> frozenset[str]:
    """Return bridges whose own device must reject refused packets; those of audited networks may have to soon."""
    return frozenset(network.bridge for network in given.networks if network.restricted)
