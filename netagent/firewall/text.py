"""The rules, as nft's text. Pure.

    table bridge netagent      what a container may send; what may pass between ports of our bridges
    table inet netagent        what may reach the host and its tunnels; what the host may route, with which source
    table netdev netagent      tells a container that it was refused

**Anti-spoofing.** Packets from the host's side of a container's veth (`nv…`) must carry the MAC and the addresses
that this host has given it: in the frame, in ARP's sender fields, in IPv4's and IPv6's source, in the target of a
neighbour advertisement. Its link-local address may be the one that follows from its MAC. Only `::` may be used as
every IPv6 stack does before it has an address (duplicate detection, multicast listener reports), and ARP may ask on
behalf of 0.0.0.0 (RFC 5227). A container sends no router advertisement and no redirect, and nothing that is neither
ARP nor IP: a VLAN tag would carry the rest past these rules. An interface that belongs to no endpoint sends nothing.

Neighbour discovery is never fragmented (RFC 6980). A first fragment must show that it is something else: one that
ends before its ICMPv6 header, or within its extension headers, is dropped (RFC 7112).

**VXLAN comes from members.** A packet to our port must come from an address that a member advertises, by the device
that leads to that member; all others are dropped before the tunnel sees them. This is checked once a second for each
member, not for each packet: looking up the route back takes as long as all other checks. And no machine behind this
host may use it to send such packets in its name: a packet that is forwarded to a member's VXLAN port must itself come
from a member, by the device that leads there, and is never translated to an address of this host
(netagent.firewall.publishing). Only our port is matched, so that other overlays on the host are not affected.

**Only the kernel sends VXLAN.** Members trust packets from this host's address, so none of its programs may send to
our port. Packets of the tunnel have no socket, or one of another namespace: their sender's, which stays with them
through veth and bridge. Only packets that this host itself sends into a network, or by the probe device, still have a
socket of this namespace when the tunnel sends them. So they are marked when they enter, and a packet with a socket
but without the mark is dropped. A program that may set a mark (CAP_NET_ADMIN, CAP_NET_RAW in the host's namespace)
could write frames to the wire as well, where no rule of the host sees them.

**VXLAN of an encrypted cluster passes the tunnel's device only.** These rules stand while the tunnel does not, and
when the agent has stopped: what would leave by another device is dropped, and so is what arrives by another one. What
arrives by the tunnel and is no VXLAN is dropped, too: the tunnel is no way around other hosts' firewalls. And what is
for an address inside the tunnel leaves by no other device, whatever it is: where the device or its route is missing,
or another program's route goes before it, it would follow that one in the clear.

**Agents communicate with agents.** A container would reach the agents of other hosts under its own host's address,
and use up what they reserve for that host. So no container reaches their ports (docs/reference/internet-access.md):
neither one of ours nor one behind a bridge of another runtime, by whichever address of this host or of a member.
Runtimes' bridges are recognised by the names that Docker, Podman and CNI give them. The device of this host's own
advertised address may have such a name, too, so what comes by that one to that address passes, and members pass.

**Networks are separate.** Bridges have nothing in common, so what remains is the host's routing. A frame is for the
host only if it has the MAC of the bridge. Frames to other MACs of the host, which the bridge delivers as well (the
host's end of a veth), and to the addresses that bridges reserve (01:80:c2:00:00:0x, which pass no other rule and
enter the host by the port they arrived at), are dropped where the bridge delivers them. So are IPv4 source routes and
IPv6 routing headers, which change the destination later. Whatever the host would then route from one of our bridges
to another, or back into the same, is dropped. Where bridge netfilter is on, the forward hook sees bridged packets
too; they stay on their bridge, and their MAC is not the bridge's. They are most of the packets there, so they are
handled first, and by few rules. A container's interface that is in no bridge leads nowhere.

**Internet access.** A packet of a container to an address outside our networks is routed, and leaves with this host's
address as its source (netagent.firewall.source_nat); replies are recognised by their connection. Nothing outside may
open a connection. Packets out of an internal network are dropped, whatever routes a container has; it may reply to
connections that others opened. A network with an egress has a chain of its own, which lets the packets to its targets
through; others are rejected, so that a program learns of it at once, and connections that were open before end. The
targets are part of the rules, like the subnets. A device that routes only because netagent turned it on
(netagent.datapath.host.forwarding) admits no new connections either: the host is no router for its neighbours.

**Service addresses never leave.** A sandbox answers for them itself (netagent.datapath.host.service_routes). What one
without that route sends there is not forwarded, as to a network. A host that has such a route itself drops it when it
arrives, before any program's translation of published ports: the host must not answer for the service.

**Connections are counted.** A container's connections outside, and to this host, take entries of the host's
connection tracking, which all share. One has so many of them at most; what would open a further one is refused. The
kernel looks at each connection of a container to count them, so one that had too many is refused without counting for
a second. The count begins anew when this table is installed again (docs/design/0086-what-a-container-may-use-up.md).

**The host is not part of a network.** It has an address on the bridge as the default gateway, and nothing else:
between the host and containers only packets of connections opened in another way may pass, mainly errors, and
neighbour discovery. In a network made with `--host-access` the host has an address of its own, by which it takes part
like a container.

**Floods are limited.** In a network that carries multicast each such frame is copied once for each other host, so a
network has a budget of them on each host. Queries for addresses that the bridge answers itself never leave by the
tunnel: an address that it can't answer for does not exist, or is at one of its own ports. IPv6's link-local addresses
are in no record; queries for them, which multicast DNS uses, go to the containers.

**Clamps.** Where a path carries less than the network's MTU, the first TCP packets of a connection, in both
directions, get the largest segment that it can carry. The kernel only ever lowers the value, so it does no harm if
the hosts of both ends do the same; and it is enough if one of them knows.

**The common packet passes few rules.** A packet on a bridge of the host goes through the chains at its hooks, and a
rule costs time even if it does not match. So there are only rules that something on this host needs
(ruleset.OptionalRules), and the first one for a packet with its sender's own address lets it pass
(docs/design/0022-only-needed-firewall-rules.md).

The bridge table's chains come before bridge netfilter (priority 0), where that is on: it takes packets out of the
bridge's hooks, and returns them behind all others of its own priority.

**Links.** In networks made with `--policy links` only linked services may be reached: netagent.firewall.policy.

**Ports.** Packets to a published port of the host go to a container: netagent.firewall.publishing.

Counters are named objects, so that the rules themselves always read the same (netagent.firewall.driver).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from itertools import starmap
from string import hexdigits
from typing import Final

from netagent.firewall import element, policy, publishing
from netagent.firewall.element import Family
from netagent.firewall.ruleset import KINDS, OptionalRules, Ruleset
from netagent.model.address.tunnel import TUNNEL_PREFIX6
from netagent.model.egress import PROTOCOLS, EgressTarget

TABLE: Final = "netagent"
SPOOFED, FLOODS, STRANGERS, CROSSED = "spoofed", "floods", "strangers", "crossed"
UNLISTED = "unlisted"
CONFINED, UNINVITED, HOSTWARD, CLEAR = "confined", "uninvited", "hostward", "clear"
CROWDED: Final = "crowded"
COUNTERS: Final = {
    Family.BRIDGE: (SPOOFED, FLOODS, policy.REFUSED, policy.AUDITED_PACKETS),
    Family.INET: (STRANGERS, CROSSED, CONFINED, UNLISTED, UNINVITED, HOSTWARD, CLEAR, CROWDED),
    Family.NETDEV: (),
}
"""Reasons for dropped packets: forged senders, multicast beyond its budget, between containers without a link; VXLAN
not from a member, between networks, out of an internal network, to an address outside that the network's egress does
not list, new connections from outside, between a host and containers, what is in the clear and must be encrypted,
connections beyond a container's quota. And one of packets that are not dropped: policy.AUDITED_PACKETS."""

FLOODS_PER_S: Final = 2000
"""Bound of multicast and broadcast frames of a network that leave a host, per second; beyond it: dropped, counted. A
video of 20 Mbit/s, which for ten hosts is 20,000 packets per second."""
FLOODS_BURST: Final = 500
MAX_BUDGETS: Final = 4096
"""Bound of networks with such a budget of their own; beyond it: further ones have none."""
PROVEN_S: Final = 1
"""How long a positive check of a member is valid. A host that leaves is accepted for so much longer."""
MAX_PROVEN: Final = 16_384
"""Bound of source addresses noted as members' for a second, of each family; beyond it: others are looked up for each
packet."""

MAX_COUNTED: Final = 65_536
"""Bound of containers' addresses whose connections are counted, of each family; beyond it: those of further ones are
not."""
REFUSED_S: Final = 1
"""How long a container that had too many connections gets no new one, without counting."""
NOTED_S: Final = 60
"""How long such a container is named in `status`."""

INSIDE4: Final = "240.0.0.0-255.255.255.254"
"""The tunnel's addresses (netagent.model.address.tunnel), without the broadcast address, by which DHCP asks."""
INSIDE6: Final = str(TUNNEL_PREFIX6)

OWN_MARK: Final = 0x6E610002
"""Marks packets that this host itself sends into a network or by the probe device, until the tunnel has sent them. It
has none of the bits that Kubernetes (14, 15) and Tailscale (16 to 23 but those of 0x61) read."""

_PREROUTING: Final = """
	chain prerouting {
		type filter hook prerouting priority -300; policy accept;
		iifname "nv*" jump sender
$RULES	}
"""
_FORWARD: Final = """
	chain forward {
		type filter hook forward priority filter; policy accept;
$RULES	}
"""
_NEEDED: Final = {
    OptionalRules.LINKS: (_PREROUTING, "iifname @restricted goto linked"),
    OptionalRules.CLAMPS: (_FORWARD, "tcp flags & syn == syn jump clamp"),
    OptionalRules.FLOODS: (_FORWARD, 'meta pkttype { broadcast, multicast } oifname "nx-*" goto flood'),
}

_BRIDGE_CHAINS: Final = """
	chain input {
		type filter hook input priority -300; policy accept;
		iifname "n*" jump handed_up
	}
	chain handed_up {
		iifname . ether daddr @entrances goto for_host
		iifname != "nv*" iifname != "nx-*" return
		ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 counter name spoofed drop
		meta pkttype host counter name spoofed drop
	}
	chain for_host {
		meta protocol ip ip hdrlength > 5 ip option lsrr exists counter name spoofed drop
		meta protocol ip ip hdrlength > 5 ip option ssrr exists counter name spoofed drop
		meta protocol ip6 exthdr rt exists counter name spoofed drop
	}
	chain sender {
		ether type ip iifname . ether saddr . ip saddr @senders4 return
		vlan id 0 meta protocol ip iifname . ether saddr . ip saddr @senders4 return
		ether type ip6 goto sender6
		ether type arp goto senderarp
		vlan id 0 meta protocol ip6 goto sender6
		vlan id 0 meta protocol arp goto senderarp
		counter name spoofed drop
	}
	chain sender6 {
		meta protocol ip6 meta l4proto != icmpv6 iifname . ether saddr . ip6 saddr @senders6 return
		meta protocol ip6 exthdr frag exists goto fragment6
		meta protocol ip6 icmpv6 type { nd-router-advert, nd-redirect } counter name spoofed drop
		meta protocol ip6 icmpv6 type nd-neighbor-advert \
			iifname . ether saddr . icmpv6 taddr != @senders6 counter name spoofed drop
		iifname . ether saddr . ip6 saddr @senders6 return
		meta protocol ip6 ip6 saddr :: icmpv6 type { nd-neighbor-solicit, mld2-listener-report } \
			iifname . ether saddr @senders return
		counter name spoofed drop
	}
	chain fragment6 {
		meta protocol ip6 frag frag-off != 0 iifname . ether saddr . ip6 saddr @senders6 return
		meta protocol ip6 icmpv6 type != 133-137 iifname . ether saddr . ip6 saddr @senders6 return
		counter name spoofed drop
	}
	chain senderarp {
		iifname . ether saddr != @senders counter name spoofed drop
		meta protocol arp arp saddr ip 0.0.0.0 iifname . arp saddr ether @senders return
		meta protocol arp iifname . arp saddr ether . arp saddr ip @senders4 return
		counter name spoofed drop
	}
	chain clamp {
		meta protocol ip iifname "nx-*" tcp option maxseg size set iifname . ether saddr map @clamps4
		meta protocol ip oifname "nx-*" tcp option maxseg size set oifname . ether daddr map @clamps4
		meta protocol ip6 iifname "nx-*" tcp option maxseg size set iifname . ether saddr map @clamps6
		meta protocol ip6 oifname "nx-*" tcp option maxseg size set oifname . ether daddr map @clamps6
	}
	set budgets {
		typeof oifname
		flags dynamic, timeout
		size $MAX_BUDGETS
		timeout 1m
	}
	chain flood {
		meta protocol arp drop
		meta protocol ip6 icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } icmpv6 taddr != fe80::/10 drop
		update @budgets { oifname limit rate over $FLOODS_PER_S/second burst $FLOODS_BURST packets } goto excess
	}
	chain excess {
		counter name floods drop
	}
"""

_INET_CHAINS: Final = """
	chain input {
		type filter hook input priority filter - 5; policy accept;$CLEAR_IN
		udp dport $PORT goto tunnel$TUNNEL_ONLY
		$AGENTS jump runtime
		iifname "n*" jump near
	}
	chain near {
		iifname "na-*" goto host
		iifname "nv*" counter name crossed drop
	}
	chain output {
		type filter hook output priority filter - 5; policy accept;
		udp dport $PORT goto tunnelled
		oifname "n*" jump inward$INSIDE4$INSIDE6
	}
	chain tunnelled {
		meta skuid >= 0 meta mark != $OWN goto sent_here$CLEAR_OUT
	}
	chain sent_here {
		oifname "na-*" goto inward
		counter name strangers drop
	}
	chain inward {
		oifname "na-*" meta mark set $OWN goto host
		oifname "nx-*" meta mark set $OWN
	}
	chain host {
		ct state established,related accept
		ct status dnat accept
		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
		iifname "na-*" $AGENTS goto hostward
		iifname "na-*" jump counted
		iifname . ip daddr @hosted4 accept
		iifname . ip6 daddr @hosted6 accept
		oifname . ip saddr @hosted4 accept
		oifname . ip6 saddr @hosted6 accept
		ip daddr 224.0.0.0/4 drop
		ip6 daddr ff00::/8 drop
		goto hostward
	}
	chain hostward {
		counter name hostward reject with icmpx admin-prohibited
	}
	set proven4 {
		type iface_index . ipv4_addr
		flags dynamic, timeout
		size $MAX_PROVEN
		timeout $PROVEN_Ss
	}
	set proven6 {
		type iface_index . ipv6_addr
		flags dynamic, timeout
		size $MAX_PROVEN
		timeout $PROVEN_Ss
	}
	chain tunnel {
		iif . ip saddr @proven4 accept
		iif . ip6 saddr @proven6 accept
		ip saddr @members4 fib saddr . iif oif exists goto proven
		ip6 saddr @members6 fib saddr . iif oif exists goto proven$TUNNELLED4$TUNNELLED6
		counter name strangers drop
	}
	chain proven {
		meta nfproto ipv4 add @proven4 { iif . ip saddr }
		meta nfproto ipv6 add @proven6 { iif . ip6 saddr }
		accept
	}
	chain forward {
		type filter hook forward priority filter - 5; policy accept;$TUNNEL_APART$INSIDE4$INSIDE6
		iifname "na-*" ct state new jump counted
		iifname "na-*" oifname "na-*" goto within
		th dport $KEPT jump kept
		meta mark $MARK drop
		iifname "n*" jump outward
		iifname != "na-*" oifname "na-*" goto entering
		meta nfproto ipv4 iifname @lent4 goto entering
		meta nfproto ipv6 iifname @lent6 goto entering
	}
	chain within {
		ct status dnat accept
		iifname . oifname != @same counter name crossed drop
		iifname . ether daddr @gateways counter name crossed drop
		meta mark $MARK drop
	}
	chain kept {
		iifname "na-*" udp dport $PORT counter name strangers drop
		iifname "na-*" ip daddr @members4 $AGENTS goto hostward
		iifname "na-*" ip6 daddr @members6 $AGENTS goto hostward
		ip daddr @members4 $AGENTS jump runtime
		ip6 daddr @members6 $AGENTS jump runtime
		udp dport $PORT goto carried
	}
	chain runtime {
		ct state established,related return
$RUNTIMES	}
	chain foreign {
		ip saddr @members4 fib saddr . iif oif exists return
		ip6 saddr @members6 fib saddr . iif oif exists return
		ip daddr @here4 fib daddr . iif type local return
		ip6 daddr @here6 fib daddr . iif type local return
		goto hostward
	}
	chain carried {
		ip saddr @members4 fib saddr . iif oif exists return
		ip6 saddr @members6 fib saddr . iif oif exists return
		ip daddr @members4 counter name strangers drop
		ip6 daddr @members6 counter name strangers drop
		ip saddr @members4 counter name strangers drop
		ip6 saddr @members6 counter name strangers drop
		fib saddr type local counter name strangers drop
	}
	chain outward {
		iifname "na-*" goto leaving
		iifname "nv*" counter name crossed drop
	}
	chain leaving {
		oifname "nx-*" counter name crossed drop
		$OURS4
		$OURS6
		iifname @ways accept
		ct direction reply ct state established,related accept
		$LISTED
		counter name confined drop
	}
	chain unlisted {
		counter name unlisted reject with icmpx admin-prohibited
	}
	chain entering {
		ct state established,related accept
		ct status dnat accept
		counter name uninvited drop
	}
"""

_COUNTING: Final = """
	set refused4 {
		typeof iifname . ip saddr
		flags dynamic, timeout
		size $MAX_COUNTED
		timeout $REFUSED_Ss
	}
	set refused6 {
		typeof iifname . ip6 saddr
		flags dynamic, timeout
		size $MAX_COUNTED
		timeout $REFUSED_Ss
	}
	set crowded4 {
		typeof iifname . ip saddr
		flags dynamic, timeout
		size $MAX_COUNTED
		timeout $NOTED_Ss
	}
	set crowded6 {
		typeof iifname . ip6 saddr
		flags dynamic, timeout
		size $MAX_COUNTED
		timeout $NOTED_Ss
	}
	set counted4 {
		typeof iifname . ip saddr
		flags dynamic
		size $MAX_COUNTED
	}
	set counted6 {
		typeof iifname . ip6 saddr
		flags dynamic
		size $MAX_COUNTED
	}
	chain counted {
		meta nfproto ipv4 iifname . ip saddr @refused4 goto crowded
		meta nfproto ipv6 iifname . ip6 saddr @refused6 goto crowded
		meta nfproto ipv4 add @counted4 { iifname . ip saddr ct count over $QUOTA } goto over
		meta nfproto ipv6 add @counted6 { iifname . ip6 saddr ct count over $QUOTA } goto over
	}
	chain over {
		meta nfproto ipv4 update @refused4 { iifname . ip saddr } update @crowded4 { iifname . ip saddr }
		meta nfproto ipv6 update @refused6 { iifname . ip6 saddr } update @crowded6 { iifname . ip6 saddr }
		goto crowded
	}
	chain crowded {
		counter name crowded reject with icmpx admin-prohibited
	}
"""
_NOT_COUNTING: Final = """
	chain counted {
		return
	}
"""

_RUNTIME_BRIDGES: Final = (
    *("docker0", "docker_gwbridge", "podman*", "cni*"),
    *(f"br-{digit}*" for digit in hexdigits.lower()[:16]),
)
"""Bridges of other runtimes. Docker names a network's bridge `br-` and twelve hexadecimal digits."""

_EGRESS_CHAIN: Final = """
	chain egress_$BRIDGE {
$RULES		goto unlisted
	}
"""

_CHAINS: Final = {
    Family.BRIDGE: _BRIDGE_CHAINS + policy.BRIDGE_CHAINS,
    Family.INET: _INET_CHAINS + publishing.CHAINS,
    Family.NETDEV: policy.NETDEV_CHAINS,
}


def render(ruleset: Ruleset, families: Collection[Family] = frozenset(Family)) -> str:
    """Return one transaction that replaces our tables of these families, and no table of another program."""
    words = {
        "$OURS4": _ruled("ip", ruleset.subnets, "counter name crossed drop"),
        "$OURS6": _ruled("ip6", ruleset.subnets, "counter name crossed drop"),
        "$ASTRAY4": _ruled("ip", ruleset.own_ranges, 'iifname "na-*" counter name crossed drop'),
        "$ASTRAY6": _ruled("ip6", ruleset.own_ranges, 'iifname "na-*" counter name crossed drop'),
        "$UNFORWARDED4": _ruled("ip", ruleset.own_ranges, "return"),
        "$UNFORWARDED6": _ruled("ip6", ruleset.own_ranges, "return"),
        "$LISTED": _listed(ruleset),
        **_tunnel_rules(ruleset),
        "$PORT": ruleset.vxlan_port,
        "$FLOODS_PER_S": FLOODS_PER_S,
        "$FLOODS_BURST": FLOODS_BURST,
        "$MAX_BUDGETS": MAX_BUDGETS,
        "$PROVEN_S": PROVEN_S,
        "$MAX_PROVEN": MAX_PROVEN,
        "$QUOTA": ruleset.connections,
        "$MAX_COUNTED": MAX_COUNTED,
        "$REFUSED_S": REFUSED_S,
        "$NOTED_S": NOTED_S,
        "$MAX_FLOWS": policy.MAX_FLOWS,
        "$FLOW_S": policy.FLOW_S,
        "$MARK": policy.MARK,
        "$OWN": OWN_MARK,
        "$KEPT": _ports(ruleset.vxlan_port, *ruleset.agent_ports),
        "$RUNTIMES": "".join(f'\t\tiifname "{name}" goto foreign\n' for name in _RUNTIME_BRIDGES),
        "$AGENTS": f"meta l4proto {{ tcp, udp }} th dport {_ports(*ruleset.agent_ports)}",
    }
    tables = []
    for family in (one for one in Family if one in families):
        body = [f"\tcounter {name} {{ }}\n" for name in COUNTERS[family]]
        body += [_set(ruleset, kind) for kind in KINDS if kind.family is family]
        chains = _CHAINS[family]
        if family is Family.BRIDGE:
            chains = _entrances(ruleset.needs) + chains
        elif family is Family.NETDEV:
            chains += policy.ingress(ruleset.rejecting)
        if family is Family.INET:
            counting = _COUNTING if ruleset.connections else _NOT_COUNTING
            chains = "".join((counting, *starmap(_egress_chain, ruleset.egress), chains))
        chains = re.sub(r"\$[A-Z_0-9]+", lambda word: str(words[word[0]]), chains)
        name = f"table {family.value} {TABLE}"
        tables.append(f"add {name}\ndelete {name}\n{name} {{\n{''.join(body)}{chains}}}\n")
    return "".join(tables)


def _tunnel_rules(ruleset: Ruleset) -> dict[str, str]:
    """Return the rules of a host with a tunnel, and those of one that sends and takes nothing in the clear."""
    device, port = ruleset.tunnel, ruleset.vxlan_port
    elsewhere = f'oifname != {{ "lo", "{device}" }} counter name clear drop'
    rules = {
        # A packet of the host's own to this port inside a network has been led elsewhere before.
        "$CLEAR_OUT": (ruleset.is_fenced, f'oifname != "{device}" counter name clear drop'),
        # "lo": this host's own address there.
        "$INSIDE4": (ruleset.is_fenced, f"ip daddr {INSIDE4} {elsewhere}"),
        "$INSIDE6": (ruleset.is_fenced, f"ip6 daddr {INSIDE6} {elsewhere}"),
        "$CLEAR_IN": (
            ruleset.is_fenced,
            f'iifname != "{device}" iifname != "na-*" udp dport {port} counter name clear drop',
        ),
        # WireGuard has seen to it that the address is this peer's. Its route leads elsewhere, so no `fib`.
        "$TUNNELLED4": (bool(device), f'iifname "{device}" ip saddr @members4 accept'),
        "$TUNNELLED6": (bool(device), f'iifname "{device}" ip6 saddr @members6 accept'),
        "$TUNNEL_ONLY": (bool(device), f'iifname "{device}" counter name strangers drop'),
        # Nothing is routed by way of the tunnel: a member would reach what this host reaches, and a packet that no
        # program took back (netagent.datapath.direct) would leave in the clear.
        "$TUNNEL_APART": (
            bool(device),
            f'iifname "{device}" counter name strangers drop\n\t\toifname "{device}" counter name strangers drop',
        ),
    }
    return {word: f"\n\t\t{rule}" if is_wanted else "" for word, (is_wanted, rule) in rules.items()}


def _entrances(needs: Collection[OptionalRules]) -> str:
    """Return the chains at the bridge's hooks, which every packet passes."""
    chains = ""
    for chain in (_PREROUTING, _FORWARD):
        rules = [rule for need, (place, rule) in _NEEDED.items() if place is chain and need in needs]
        if rules or chain is _PREROUTING:
            chains += chain.replace("$RULES", "".join(f"\t\t{rule}\n" for rule in rules))
    return chains


def _ruled(family: str, subnets: Iterable[str], rest: str) -> str:
    """Return a rule for packets to one of the subnets; none if the family has none."""
    listed = ", ".join(one for one in subnets if (":" in one) == (family == "ip6"))
    return f"{family} daddr {{ {listed} }} {rest}" if listed else ""


def _listed(ruleset: Ruleset) -> str:
    """Return the rule that leads each bridge with an egress to its chain."""
    places = ", ".join(f'"{bridge}" : goto egress_{bridge}' for bridge, _ in ruleset.egress)
    return f"iifname vmap {{ {places} }}" if places else ""


def _egress_chain(bridge: str, targets: Iterable[EgressTarget]) -> str:
    rules = "".join(f"\t\t{_passing(one)} accept\n" for one in targets)
    return _EGRESS_CHAIN.replace("$BRIDGE", bridge).replace("$RULES", rules)


def _passing(target: EgressTarget) -> str:
    """Return what matches the packets to a target."""
    match = f"{'ip6' if ':' in target.cidr else 'ip'} daddr {target.cidr}"
    if target.port is None:
        return match
    protocols = target.protocol or f"{{ {', '.join(PROTOCOLS)} }}"
    return f"{match} meta l4proto {protocols} th dport {target.port}"


def _ports(*numbers: int) -> str:
    return f"{{ {', '.join(map(str, sorted(numbers)))} }}"


def render_removal() -> str:
    """Return one transaction that removes all our tables."""
    names = (f"table {family.value} {TABLE}" for family in Family)
    return "".join(f"add {name}\ndelete {name}\n" for name in names)


def _set(ruleset: Ruleset, kind: element.SetKind) -> str:
    elements = ruleset.elements[kind]
    words = ", ".join(element.render(kind, key, elements[key]) for key in sorted(elements))
    holds = f"elements = {{ {words} }}; " if words else ""
    return f"\t{kind.declaration()}{holds}}}\n"
