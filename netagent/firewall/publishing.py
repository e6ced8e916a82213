"""Published ports: what is sent to a port of the host goes to a container. Pure.

Whoever addresses the host by one of its addresses may come in: from outside, from the host itself, also by loopback,
and from containers, by the host's addresses or the gateway's. The destination is translated by a look-up in a map;
the answer comes back by the connection. So that it does come back, the source is translated as well, to the bridge's
own address, where the container would answer past us: the host's own programs (127.0.0.1 means another host in
there), other containers (on the same bridge it would answer directly), and everybody, for an endpoint that does not
give its container the way out. All others are seen as who they are.

What others send to the ports of tunnels and agents by way of this host must not bear its name: members believe that.
So of these flows the source is translated to itself, before any other rule can translate it to the host's
(netagent.firewall.text): of all translations of one connection the first counts.

Others' translations of the destination come first: Podman's own networks publish the same ports again.

For 127.0.0.1 the bridge has route_localnet (netagent.datapath.host.forwarding). That would let containers reach the
host's own 127.0.0.0/8, so what they send there is dropped first of all. IPv6 has no such switch: ::1 leads nowhere,
and is refused at once, so that whoever means `localhost` goes on to 127.0.0.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

from netagent.firewall.element import Family, Field, SetKind, Words
from netagent.firewall.inputs import PortForward

Ruled: TypeAlias = Mapping[SetKind, Mapping[Words, Words]]
"""What each set holds."""

_INET: Final = Family.INET
_TO4, _TO6 = (Field.IPV4, Field.PORT), (Field.IPV6, Field.PORT)

DOORS4: Final = SetKind(_INET, "doors4", (Field.IPV4, Field.PROTOCOL, Field.PORT), _TO4)
"""(Address of the host, protocol, port) -> (container, port)."""
DOORS6: Final = SetKind(_INET, "doors6", (Field.IPV6, Field.PROTOCOL, Field.PORT), _TO6)
ANYWHERE4: Final = SetKind(_INET, "anywhere4", (Field.PROTOCOL, Field.PORT), _TO4)
"""The same for whatever addresses the host has."""
ANYWHERE6: Final = SetKind(_INET, "anywhere6", (Field.PROTOCOL, Field.PORT), _TO6)
BESIDE4: Final = SetKind(_INET, "beside4", (Field.IPV4,))
"""Containers with published ports whose answers to strangers would not come back this way."""
BESIDE6: Final = SetKind(_INET, "beside6", (Field.IPV6,))

RESIDENTS4: Final = SetKind(_INET, "residents4", (Field.IPV4,))
"""This host's containers. Not known by the device they come in by: where bridge netfilter is on, who is translated
to another container of the same bridge does not pass the host, and has none."""
RESIDENTS6: Final = SetKind(_INET, "residents6", (Field.IPV6,))

KINDS: Final = (DOORS4, DOORS6, ANYWHERE4, ANYWHERE6, BESIDE4, BESIDE6, RESIDENTS4, RESIDENTS6)

CHAINS: Final = """
	chain loopback {
		type filter hook prerouting priority raw; policy accept;
		ip daddr 127.0.0.0/8 iifname "na-*" counter name crossed drop
	}
	chain arriving {
		type nat hook prerouting priority dstnat + 5; policy accept;
		fib daddr type local jump doors
	}
	chain calling {
		type nat hook output priority -95; policy accept;
		ip6 daddr ::1 return
		fib daddr type local jump doors
	}
	chain doors {
		dnat ip to ip daddr . meta l4proto . th dport map @doors4
		dnat ip to meta l4proto . th dport map @anywhere4
		dnat ip6 to ip6 daddr . meta l4proto . th dport map @doors6
		dnat ip6 to meta l4proto . th dport map @anywhere6
	}
	chain answering {
		type nat hook postrouting priority srcnat - 6; policy accept;
		th dport $KEPT jump unnamed
		oifname "na-*" ct status dnat jump seen
	}
	chain unnamed {
		fib saddr type local return
		udp dport $PORT goto as_it_is
		ip daddr @members4 $AGENTS goto as_it_is
		ip6 daddr @members6 $AGENTS goto as_it_is
	}
	chain as_it_is {
		snat ip to ip saddr
		snat ip6 to ip6 saddr
	}
	chain seen {
		ip saddr @residents4 masquerade
		ip6 saddr @residents6 masquerade
		fib saddr type local masquerade
		ip daddr @beside4 masquerade
		ip6 daddr @beside6 masquerade
	}
"""


def datagram_ports(old: Ruled, new: Ruled) -> frozenset[int]:
    """Ports of the host whose datagrams go elsewhere by one than by the other."""
    changed: set[int] = set()
    for kind in (DOORS4, DOORS6, ANYWHERE4, ANYWHERE6):
        before, after = old.get(kind, {}), new.get(kind, {})
        for key in before.keys() | after.keys():
            if key[-2] == "udp" and before.get(key) != after.get(key):
                changed.add(int(key[-1]))
    return frozenset(changed)


def elements(
    port_forwards: Iterable[PortForward], residents: Iterable[str]
) -> dict[SetKind, dict[Words, Words]]:
    """What the sets hold. `residents`: addresses of this host's containers."""
    found: dict[SetKind, dict[Words, Words]] = {kind: {} for kind in KINDS}
    for address in residents:
        found[RESIDENTS6 if ":" in address else RESIDENTS4][address,] = ()
    for port_forward in port_forwards:
        is_six = ":" in port_forward.container
        to = (port_forward.container, str(port_forward.port))
        if port_forward.address:
            key: Words = (port_forward.address, port_forward.protocol, str(port_forward.host_port))
            found[DOORS6 if is_six else DOORS4][key] = to
        else:
            found[ANYWHERE6 if is_six else ANYWHERE4][port_forward.protocol, str(port_forward.host_port)] = to
        if port_forward.is_beside:
            found[BESIDE6 if is_six else BESIDE4][port_forward.container,] = ()
    return found
