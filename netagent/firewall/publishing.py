"""Published ports: packets to a port of the host go to a container. Pure.

Any client that uses one of the host's addresses may connect: from outside, from the host itself, also over loopback,
and from containers, by the host's addresses or the gateway's. A look-up in a map translates the destination; the
reply follows the connection. For some clients the source is translated as well, to the bridge's own address, because
the container's replies would bypass us: the host's own programs (127.0.0.1 means the container itself in there),
other containers (on the same bridge it would reply directly), and all clients of an endpoint that does not carry its
container's default route. The container sees all other clients by their own addresses.

Packets that containers or other hosts send to the ports of tunnels and agents by way of this host must not get its
address, because members trust that address. So the source of these flows is translated to itself, before another rule
can translate it to the host's (netagent.firewall.text): the first translation of a connection counts.

Translations of the destination by other programs come first: Podman's own networks publish the same ports again.

A port that is published for a service leads to the service's containers on this host. Each has its share of 64
places, one of which a new connection draws at random.

A service's address is no address of the host in this sense, even where the host routes it to itself.

For 127.0.0.1 the bridge has route_localnet (netagent.datapath.host.forwarding). That would let containers reach the
host's own 127.0.0.0/8, so their packets to it are dropped first. IPv6 has no such switch: ::1 leads nowhere and is
refused at once, so that a client that means `localhost` tries 127.0.0.1 next.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

from netagent.firewall.element import Family, Field, SetKind, Words
from netagent.firewall.inputs import PortForward, ServiceForward

Ruled: TypeAlias = Mapping[SetKind, Mapping[Words, Words]]
"""The contents of each set."""

_INET: Final = Family.INET
_TO4, _TO6 = (Field.IPV4, Field.PORT), (Field.IPV6, Field.PORT)

PORT_FORWARDS4: Final = SetKind(_INET, "doors4", (Field.IPV4, Field.PROTOCOL, Field.PORT), _TO4)
"""(Address of the host, protocol, port) -> (container, port)."""
PORT_FORWARDS6: Final = SetKind(_INET, "doors6", (Field.IPV6, Field.PROTOCOL, Field.PORT), _TO6)
ANYWHERE4: Final = SetKind(_INET, "anywhere4", (Field.PROTOCOL, Field.PORT), _TO4)
"""The same for all addresses of the host."""
ANYWHERE6: Final = SetKind(_INET, "anywhere6", (Field.PROTOCOL, Field.PORT), _TO6)
PLACES: Final = 64
"""Bound of the containers of one host that a published service leads to; beyond it: the others get no connections."""
_PLACE_KEY: Final = (Field.PROTOCOL, Field.PORT, Field.PLACE)
_PLACE: Final = f"meta l4proto . th dport . {Field.PLACE.value}"
SERVICES4: Final = SetKind(_INET, "services4", _PLACE_KEY, _TO4, typeof=f"{_PLACE} : ip daddr . th dport")
"""(Protocol, port, place) -> container of a published service."""
SERVICES6: Final = SetKind(_INET, "services6", _PLACE_KEY, _TO6, typeof=f"{_PLACE} : ip6 daddr . th dport")
SNAT4: Final = SetKind(_INET, "beside4", (Field.IPV4,))
"""Containers with published ports whose replies to outside addresses would not come back this way."""
SNAT6: Final = SetKind(_INET, "beside6", (Field.IPV6,))

RESIDENTS4: Final = SetKind(_INET, "residents4", (Field.IPV4,))
"""This host's containers. They can't be recognised by the device that a packet arrives by: where bridge netfilter is
on, a packet that is translated to another container of the same bridge does not pass the host, and has none."""
RESIDENTS6: Final = SetKind(_INET, "residents6", (Field.IPV6,))

KINDS: Final = (
    PORT_FORWARDS4,
    PORT_FORWARDS6,
    ANYWHERE4,
    ANYWHERE6,
    SERVICES4,
    SERVICES6,
    SNAT4,
    SNAT6,
    RESIDENTS4,
    RESIDENTS6,
)

CHAINS: Final = """
	chain loopback {
		type filter hook prerouting priority raw; policy accept;
		ip daddr 127.0.0.0/8 iifname "na-*" counter name crossed drop
		$ASTRAY4
		$ASTRAY6
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
		$UNFORWARDED4
		$UNFORWARDED6
		dnat ip to ip daddr . meta l4proto . th dport map @doors4
		dnat ip to meta l4proto . th dport map @anywhere4
		dnat ip6 to ip6 daddr . meta l4proto . th dport map @doors6
		dnat ip6 to meta l4proto . th dport map @anywhere6
		ip daddr != 127.0.0.0/8 dnat ip to meta l4proto . th dport . numgen random mod 64 map @services4
		dnat ip6 to meta l4proto . th dport . numgen random mod 64 map @services6
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


def datagram_ports(old: Ruled, new: Ruled) -> dict[int, frozenset[str]]:
    """Return ports of the host whose datagrams go elsewhere under one than under the other, each with the containers
    that a flow may stay with: those of a published service that are in both."""
    changed: dict[int, frozenset[str]] = {}
    for kind in (PORT_FORWARDS4, PORT_FORWARDS6, ANYWHERE4, ANYWHERE6, SERVICES4, SERVICES6):
        before, after = old.get(kind, {}), new.get(kind, {})
        protocol, port = kind.key.index(Field.PROTOCOL), kind.key.index(Field.PORT)
        for key in before.keys() | after.keys():
            if key[protocol] == "udp" and before.get(key) != after.get(key):
                changed.setdefault(int(key[port]), frozenset())
        if kind in (SERVICES4, SERVICES6):
            for key, (container, _) in after.items():
                if key[protocol] == "udp" and int(key[port]) in changed:
                    changed[int(key[port])] |= {container}
    return changed


def elements(
    port_forwards: Iterable[PortForward],
    residents: Iterable[str],
    service_forwards: Iterable[ServiceForward] = (),
) -> dict[SetKind, dict[Words, Words]]:
    """Return the contents of the sets. `residents`: addresses of this host's containers."""
    found: dict[SetKind, dict[Words, Words]] = {kind: {} for kind in KINDS}
    for address in residents:
        found[RESIDENTS6 if ":" in address else RESIDENTS4][address,] = ()
    for port_forward in port_forwards:
        is_six = ":" in port_forward.container
        to = (port_forward.container, str(port_forward.port))
        if port_forward.address:
            key: Words = (port_forward.address, port_forward.protocol, str(port_forward.host_port))
            found[PORT_FORWARDS6 if is_six else PORT_FORWARDS4][key] = to
        else:
            found[ANYWHERE6 if is_six else ANYWHERE4][port_forward.protocol, str(port_forward.host_port)] = to
        if port_forward.needs_snat:
            found[SNAT6 if is_six else SNAT4][port_forward.container,] = ()
    for one in service_forwards:
        is_six = ":" in one.containers[0][0]
        places = found[SERVICES6 if is_six else SERVICES4]
        for place in range(PLACES):
            container, port = one.containers[place % len(one.containers)]
            places[one.protocol, str(one.host_port), str(place)] = (container, str(port))
        for container in one.snat:
            found[SNAT6 if is_six else SNAT4][container,] = ()
    return found
