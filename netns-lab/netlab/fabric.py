"""The fabric: one bridge in a namespace of its own, with one port for each host, named after it.

Faults are declarative: the whole rule set is generated from `Faults` and installed in one transaction, so `heal` is
the rule set without faults. The rules are on the bridge between the ports, where no host can see or repair them, and
drop silently, as cables and distant firewalls do. nftables itself draws random loss; the `netem` module, which many
small kernels lack, is not needed.

A host behind NAT is plugged into a router of its own, a namespace too, which has the host's address on the fabric:

    fabric ── h3 (cable) ── outside [router h3] inside ── eth0 [host h3]
                           192.0.2.3          192.168.1.1  192.168.1.2
"""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface, ip_network
from pathlib import Path

from netlab.errors import LabError
from netlab.programs import must, run
from netlab.state import Faults

BRIDGE = "fabric"
GATEWAYS = (ip_interface("192.0.2.254/24"), ip_interface("2001:db8::fe/64"))
"""The fabric's own addresses, in the documentation networks (RFC 5737, RFC 3849) of all hosts. Nothing listens there
unless a test starts a server; the hosts' resolv.conf names the one of their family."""

SECOND_BRIDGE = "fabric2"
SECOND_INTERFACE = "eth1"
SECOND_NETWORKS = (ip_network("198.51.100.0/24"), ip_network("2001:db8:0:1::/64"))
"""Networks of second uplinks, in further documentation networks; a host's last number and the family are the same in
both."""
NAT_INSIDE, NAT_HOST = ip_interface("192.168.1.1/24"), ip_interface("192.168.1.2/24")
"""Behind every router the same addresses, as behind routers at home."""
NAT_RULES = """
table ip nat {
    chain out {
        type nat hook postrouting priority srcnat; policy accept;
        oifname "outside" masquerade
    }
    chain in {
        type filter hook forward priority filter; policy accept;
        iifname "outside" ct state != { established, related } drop
    }
}
"""
ANY_SEGMENTS = 65535
"""The kernel's default (GSO_MAX_SEGS)."""
HOST_INTERFACE = "eth0"


class Fabric:
    """The bridge of one lab. `lab` is the lab's name, the first part of its namespaces' names."""

    def __init__(self, lab: str) -> None:
        self._lab = lab
        self.namespace = f"{lab}-fabric"

    def host_namespace(self, host: str) -> str:
        """Return the name of a host for `ip netns`."""
        return f"{self._lab}-{host}"

    def router_namespace(self, host: str) -> str:
        """Return the name of the router before a host behind NAT, for `ip netns`."""
        return f"{self._lab}-{host}-nat"

    def create(self) -> None:
        """Create the empty bridge."""
        must(["ip", "netns", "add", self.namespace])
        ip(
            self.namespace,
            "link set lo up",
            # No spanning tree, no forward delay, and multicast flooded: mDNS must work at once.
            f"link add {BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
            f"link set {BRIDGE} up",
            f"link add {SECOND_BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
            f"link set {SECOND_BRIDGE} up",
            *(f"address add {gateway} dev {BRIDGE} {_at_once(gateway)}" for gateway in map(str, GATEWAYS)),
        )

    def plug_in(self, host: str, address: str) -> None:
        """Create a host's network namespace and its cable, directly where they belong, never outside."""
        namespace = self.host_namespace(host)
        must(["ip", "netns", "add", namespace])
        ip(
            self.namespace,
            f"link add {host} type veth peer name {HOST_INTERFACE} netns {namespace}",
            f"link set {host} master {BRIDGE} up",
        )
        ip(
            namespace,
            "link set lo up",
            f"address add {_with_length(address)} dev {HOST_INTERFACE} {_at_once(address)}",
            f"link set {HOST_INTERFACE} up",
        )

    def plug_in_behind_nat(self, host: str, address: str) -> None:
        """Create a host's network namespace, and before it a router that hides the host behind this address."""
        namespace, router = self.host_namespace(host), self.router_namespace(host)
        for one in (router, namespace):
            must(["ip", "netns", "add", one])
        ip(
            self.namespace,
            f"link add {host} type veth peer name outside netns {router}",
            f"link set {host} master {BRIDGE} up",
        )
        ip(
            router,
            "link set lo up",
            f"address add {_with_length(address)} dev outside",
            "link set outside up",
            f"link add inside type veth peer name {HOST_INTERFACE} netns {namespace}",
            f"address add {NAT_INSIDE} dev inside",
            "link set inside up",
        )
        must(["ip", "netns", "exec", router, "sysctl", "-qw", "net.ipv4.ip_forward=1"])
        must(["ip", "netns", "exec", router, "nft", "-f", "-"], stdin=NAT_RULES)
        ip(
            namespace,
            "link set lo up",
            f"address add {NAT_HOST} dev {HOST_INTERFACE}",
            f"link set {HOST_INTERFACE} up",
            f"route add default via {NAT_INSIDE.ip}",
        )

    def plug_in_second(self, host: str, address: str) -> str:
        """Add another cable, to a bridge of its own; return the address that the host has there."""
        network = next(one for one in SECOND_NETWORKS if one.version == ip_address(address).version)
        second = str(network[int(ip_address(address)) & 0xFF])
        namespace = self.host_namespace(host)
        ip(
            self.namespace,
            f"link add {host}-2 type veth peer name {SECOND_INTERFACE} netns {namespace}",
            f"link set {host}-2 master {SECOND_BRIDGE} up",
        )
        ip(
            namespace,
            f"address add {second}/{network.prefixlen} dev {SECOND_INTERFACE} {_at_once(second)}",
            f"link set {SECOND_INTERFACE} up",
        )
        return second

    def readdress(self, host: str, old: str, new: str) -> None:
        """Replace the host's address, as a new lease does: for a moment it has none. Of a host behind NAT, its
        router's."""
        router = self.router_namespace(host)
        namespace, interface = (
            (router, "outside")
            if router in named_namespaces()
            else (self.host_namespace(host), HOST_INTERFACE)
        )
        ip(
            namespace,
            f"address del {_with_length(old)} dev {interface}",
            f"address add {_with_length(new)} dev {interface} {_at_once(new)}",
        )

    def cut_cable(self, host: str) -> None:
        """Let nothing in or out from now on, so that nothing that dies on the host afterwards can be announced."""
        for cable in (host, f"{host}-2"):
            run(["ip", "-n", self.namespace, "link", "set", cable, "down"])

    def unplug(self, host: str) -> None:
        """Remove a host's network namespace, and with it both ends of the cable, and its router."""
        for namespace in (self.host_namespace(host), self.router_namespace(host)):
            run(["ip", "netns", "delete", namespace])
        run(["ip", "-n", self.namespace, "link", "delete", host])

    def apply(self, faults: Faults, plugged: list[str]) -> None:
        """Install exactly these faults."""
        must(["ip", "netns", "exec", self.namespace, "nft", "-f", "-"], stdin=render_rules(faults))
        # A veth carries packets unsegmented that are left for a card to segment. Where a cable is small, the packets
        # on the fabric must have their real sizes.
        segments = 1 if faults.mtu else ANY_SEGMENTS
        for host in plugged:
            ip(self.host_namespace(host), f"link set {HOST_INTERFACE} gso_max_segs {segments}")


def gateway_for(address: str) -> IPv4Interface | IPv6Interface:
    """Return the fabric's own address in the family of a host's, with the network that both are in."""
    return next(one for one in GATEWAYS if one.version == ip_address(address).version)


def _with_length(address: str) -> str:
    return f"{address}/{gateway_for(address).network.prefixlen}"


def _at_once(address: str) -> str:
    """Return options that skip duplicate detection of an IPv6 address, which would take a second."""
    return "nodad" if ":" in address else ""


def ip(namespace: str, *commands: str) -> None:
    """Run several `ip` commands at once. Raises LabError with the first complaint."""
    done = run(["ip", "-n", namespace, "-batch", "-"], stdin="\n".join(commands) + "\n")
    if done.status != 0:
        raise LabError(f"ip in {namespace}: {done.stderr.strip().splitlines()[0]}")


def render_rules(faults: Faults) -> str:
    """Return the nftables script for exactly these faults."""
    rules = [f'iifname "{a}" oifname "{b}" drop' for a, b in faults.cuts]
    for host, port in faults.blocks:
        match = f"meta l4proto {{ tcp, udp }} th dport {port} drop"
        rules += [f'iifname "{host}" {match}', f'oifname "{host}" {match}']
    for host, percent in faults.loss.items():
        # nftables refuses a comparison with the modulus itself, because it is always true: 100 % drops anyway.
        lot = "drop" if percent >= 100 else f"numgen random mod 10000 < {round(percent * 100)} drop"
        rules += [f'iifname "{host}" {lot}', f'oifname "{host}" {lot}']
    for host, mtu_bytes in faults.mtu.items():
        # Not the port's MTU: four bytes more would pass, and bridge netfilter would fragment packets to fit.
        large = f"meta length > {mtu_bytes} drop"
        rules += [f'iifname "{host}" {large}', f'oifname "{host}" {large}']
    body = "".join(f"    {rule}\n" for rule in rules)
    return (
        "table bridge faults\n"  # so that the next line finds one
        "delete table bridge faults\n"
        "table bridge faults {\n"
        "  chain forward {\n"
        "    type filter hook forward priority 0; policy accept;\n"
        f"{body}"
        "  }\n"
        "}\n"
    )


def named_namespaces() -> list[str]:
    """Return the namespaces that `ip netns` lists."""
    folder = Path("/run/netns")
    return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
