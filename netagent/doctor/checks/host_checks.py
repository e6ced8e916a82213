"""Checks of the host: whether it can run the agent. The facts, and a table of checks over them. Pure.

netagent.doctor.facts.host_facts gathers the facts, in the agent or, if no agent answers, in the command line itself.
A fact that could not be found out is None and makes a check "not known", never passed.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from netagent.datapath.host.uplink import is_one_family, version_of
from netagent.doctor.checks.finding import Check, Finding, NotKnownError, Severity
from netagent.doctor.checks.foreign_rules import (
    ForeignChain,
    PortUse,
    bridged_findings,
    forward_findings,
    input_findings,
    netfilter_finding,
    port_findings,
)
from netagent.model.address.tunnel import WIREGUARD_BYTES

LEAST_FREE_BYTES: Final = 64 << 20
"""Below this a warning: the journal of 10,000 endpoints takes a tenth of it, and the log of a bad day all of it."""
NO_FREE_BYTES: Final = 1 << 20
"""Below this the journal refuses changes that only add (netagent.journal.writer)."""
SPARE_FILES: Final = 64
OVERHEAD_BYTES: Final = {4: 50, 6: 70}
"""Overhead of VXLAN by the underlay's family: inner Ethernet header, and outer IP, UDP and VXLAN headers."""


@dataclass(frozen=True, slots=True)
class PortHolder:
    """Another program at a port of ours."""

    port: int
    protocol: str
    program: str
    """`name (pid 17)`; empty when unknown."""


@dataclass(frozen=True, slots=True)
class ForeignTunnel:
    """A VXLAN device of another program."""

    name: str
    vni: int
    port: int


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """A network of the cluster."""

    name: str
    vni: int
    mtu_bytes: int
    subnets: tuple[str, ...]
    is_here: bool
    has_egress: bool = False


@dataclass(frozen=True, slots=True)
class ManagerFacts:
    """A network manager that runs, and the file that makes it ignore our devices."""

    name: str
    file: str
    is_there: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """The state of the host at one moment."""

    features: Mapping[str, str] | None
    """Missing features of the kernel -> the reason; empty when none is missing."""
    programs: Mapping[str, bool]
    settings: Mapping[str, str]
    """Settings under /proc/sys; those that do not exist are missing."""
    holders: tuple[PortHolder, ...]
    tunnels: tuple[ForeignTunnel, ...]
    links: frozenset[str]
    """Names of devices of other programs."""
    wanted_links: frozenset[str] = frozenset()
    """Names that devices of ours have or will have."""
    routes: tuple[str, ...]
    networks: tuple[NetworkFacts, ...] = ()
    vxlan_port: int
    underlay: str
    """Empty: not chosen yet."""
    underlay_device: str
    underlay_mtu_bytes: int
    is_encrypted: bool = False
    """Whether VXLAN passes the encrypted tunnel."""
    unreachable: str | None = None
    """Why other hosts can't reach this one at its advertised address; empty when they can. None: not known."""
    others: Mapping[str, str] = field(default_factory=dict)
    """Addresses of the cluster's other hosts by name, without those that left."""
    state_dir: str
    free_bytes: int | None
    free_inodes: int | None
    chains: tuple[ForeignChain, ...] | None
    """Chains of other programs at the hooks `forward` and `input`. None: `nft` is missing or does not answer."""
    is_apart: bool | None = None
    """Whether bridge netfilter skips what our bridges pass. None: the bridges have no ports."""
    managers: tuple[ManagerFacts, ...]
    resolver: str | None
    """What is wrong with the resolver process; empty when nothing is. None: it is not needed here."""
    open_files: tuple[int, int] | None = None
    """(open, limit) of the agent; None when it does not run."""
    ports: Mapping[str, int] = field(default_factory=dict)
    """Ports that other hosts must reach, by `protocol what`."""


def _features(facts: HostFacts) -> Iterator[Finding]:
    if facts.features is None:
        raise NotKnownError("this check needs root")
    for feature, reason in facts.features.items():
        if reason:
            fix = f"use a kernel that has it, or load its module: `modprobe {feature.split()[0]}`"
            yield Finding(feature, f"the kernel has no {feature}: {reason}", fix)


_PROGRAMS: Final = {
    "nft": ("the firewall needs it", "nftables", Severity.FAILED),
    "ip": ("suggested fixes use it", "iproute2", Severity.WARNING),
    "bridge": ("suggested fixes use it", "iproute2", Severity.WARNING),
    "nsenter": ("suggested fixes inside containers use it", "util-linux", Severity.WARNING),
}


def _programs(facts: HostFacts) -> Iterator[Finding]:
    for program, (why, package, severity) in _PROGRAMS.items():
        if not facts.programs.get(program, False):
            fix = f"install the package {package}"
            yield Finding(program, f"the program {program} is not installed: {why}", fix, severity)


def _settings(facts: HostFacts) -> Iterator[Finding]:
    # Where IPv6 exists but is turned off, our own devices have it all the same.
    if facts.settings and "net/ipv6/conf/all/disable_ipv6" not in facts.settings:
        yield Finding(
            "ipv6", "this kernel has no IPv6, which the probe network needs", "boot without ipv6.disable=1"
        )
    judged = netfilter_finding(facts.settings) if facts.is_apart is False else None
    if judged is not None:
        yield judged


def _files(facts: HostFacts) -> Iterator[Finding]:
    if facts.open_files is None:
        raise NotKnownError("the agent does not run")
    there, limit = facts.open_files
    if there + SPARE_FILES > limit:
        fix = "raise LimitNOFILE= of netagent.service, or `ulimit -n` where the agent is started"
        yield Finding("open files", f"the agent uses {there} of {limit} open files", fix)


def _ports(facts: HostFacts) -> Iterator[Finding]:
    for holder in facts.holders:
        who = holder.program or "another program"
        key = "vxlan_port" if holder.port == facts.vxlan_port else "gossip_port or record_port"
        yield Finding(
            f"{holder.protocol} {holder.port}",
            f"{who} uses {holder.protocol.upper()} port {holder.port}",
            f"stop it, or set another {key} on every host",
        )


def _tunnels(facts: HostFacts) -> Iterator[Finding]:
    ours = {network.vni: network.name for network in facts.networks}
    for tunnel in facts.tunnels:
        if tunnel.vni in ours:
            text = f"{tunnel.name} uses VNI {tunnel.vni}, as network {ours[tunnel.vni]} does"
            yield Finding(tunnel.name, text, f"ip link del {tunnel.name}, if it is not needed")
        elif tunnel.port == facts.vxlan_port:
            text = f"{tunnel.name} (VNI {tunnel.vni}) uses netagent's UDP port {tunnel.port}"
            fix = f"ip link del {tunnel.name}, if it is not needed; or set vxlan_port on every host"
            yield Finding(tunnel.name, text, fix, Severity.WARNING)


def _names(facts: HostFacts) -> Iterator[Finding]:
    for name in sorted(facts.links & facts.wanted_links):
        fix = f"ip link set {name} down; ip link set {name} name other0, or remove it"
        yield Finding(name, f"another program's device has the name {name}, which netagent needs", fix)


def _routes(facts: HostFacts) -> Iterator[Finding]:
    routes = [(text, ipaddress.ip_network(text)) for text in facts.routes]
    for network in facts.networks:
        for subnet in map(ipaddress.ip_network, network.subnets):
            for text, route in routes:
                if route.version == subnet.version and route.overlaps(subnet):
                    yield Finding(
                        text,
                        f"the route {text} of this host overlaps network {network.name} ({subnet})",
                        f"ip route del {text}, or create the network again with another --subnet",
                    )


def _mtu(facts: HostFacts) -> Iterator[Finding]:
    if not facts.underlay_mtu_bytes:
        raise NotKnownError("no underlay address is chosen yet")
    overhead = OVERHEAD_BYTES[version_of(facts.underlay)] + (WIREGUARD_BYTES if facts.is_encrypted else 0)
    carried = facts.underlay_mtu_bytes - overhead
    device = facts.underlay_device or "the device with it"
    for network in facts.networks:
        if network.is_here and network.mtu_bytes > carried:
            needed = network.mtu_bytes + facts.underlay_mtu_bytes - carried
            yield Finding(
                network.name,
                f"network {network.name} has an MTU of {network.mtu_bytes}, but {device} carries at most {carried}",
                f"ip link set {device} mtu {needed}, or create the network again with --mtu {carried}",
            )


def _address(facts: HostFacts) -> Iterator[Finding]:
    if facts.unreachable is None:
        raise NotKnownError("the agent does not run")
    if facts.unreachable:
        fix = "assign it to a device that is up; or correct `advertise` and `bind`, and restart the agent"
        yield Finding("address", facts.unreachable, fix)


def _family(facts: HostFacts) -> Iterator[Finding]:
    apart = {name: one for name, one in facts.others.items() if not is_one_family(one, facts.underlay)}
    for name, address in apart.items() if facts.underlay else ():
        yield Finding(
            name,
            f"{name} has the address {address} and this host {facts.underlay}: no tunnel works between families",
            f"set `advertise` on this host or on {name} to an address of the other's family",
        )


def _disk(facts: HostFacts) -> Iterator[Finding]:
    if facts.free_bytes is None:
        raise NotKnownError(f"{facts.state_dir} does not exist or is not readable")
    fix = f"free space on the file system of {facts.state_dir}"
    if facts.free_bytes < LEAST_FREE_BYTES:
        severity = Severity.FAILED if facts.free_bytes < NO_FREE_BYTES else Severity.WARNING
        text = f"the journal's disk has {facts.free_bytes >> 20} MiB left ({facts.state_dir})"
        yield Finding(facts.state_dir, text, fix, severity)
    if facts.free_inodes is not None and facts.free_inodes < SPARE_FILES:
        yield Finding(facts.state_dir, f"the journal's disk has {facts.free_inodes} free inodes", fix)


def _resolver(facts: HostFacts) -> Iterator[Finding]:
    if facts.resolver is None:
        raise NotKnownError("it starts when this host first joins a cluster")
    if facts.resolver:
        yield Finding(
            "resolver",
            f"the resolver process: {facts.resolver}",
            "the agent starts another one; if that does not help, see resolver.log in run_dir",
        )


def _managers(facts: HostFacts) -> Iterator[Finding]:
    for manager in facts.managers:
        if not manager.is_there:
            text = f"{manager.name} runs, and no file makes it ignore netagent's devices ({manager.file} is missing)"
            yield Finding(manager.name, text, "netagent install systemd", Severity.WARNING)


def _chains(facts: HostFacts) -> tuple[ForeignChain, ...]:
    if facts.chains is None:
        raise NotKnownError("`nft` does not answer")
    return facts.chains


def _forward(facts: HostFacts) -> Iterator[Finding]:
    chains = _chains(facts)
    here = [network for network in facts.networks if network.is_here]
    is_routing = any(network.has_egress for network in here)
    yield from forward_findings(chains, facts.settings, is_routing=is_routing, is_apart=bool(facts.is_apart))
    if here:
        yield from bridged_findings(chains)


def _input(facts: HostFacts) -> Iterator[Finding]:
    chains = _chains(facts)
    yield from input_findings(chains, facts.ports)
    if facts.underlay:
        yield from port_findings(
            chains, PortUse(facts.underlay, facts.underlay_device, facts.ports, facts.others)
        )


HOST_CHECKS: Final[tuple[Check[HostFacts], ...]] = (
    Check("kernel-features", "the kernel has all features that netagent needs", _features),
    Check("programs", "all programs that netagent calls are installed", _programs),
    Check("kernel-settings", "no kernel setting prevents anything", _settings),
    Check("open-files", "the agent may open more files", _files),
    Check("ports", "no other program uses netagent's ports", _ports),
    Check("tunnels", "no other VXLAN device conflicts with netagent's", _tunnels),
    Check("device-names", "no other device has a name that netagent needs", _names),
    Check("routes", "no route of this host overlaps a network", _routes),
    Check("mtu", "this host's device can carry the networks' packets", _mtu),
    Check("own-address", "this host has the address that it advertises", _address),
    Check("address-family", "all hosts have addresses of one family", _family),
    Check("forward-rules", "no rule of another program drops packets on netagent's bridges", _forward),
    Check("input-rules", "no rule of another program drops packets between hosts", _input),
    Check("disk-space", "the journal has free space", _disk),
    Check("resolver", "the resolver process runs", _resolver),
    Check("network-managers", "network managers ignore netagent's devices", _managers),
)
