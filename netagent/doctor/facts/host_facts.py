"""Gather the facts for the checks of the host: from /proc, /sys, a few programs, and a private network namespace.

Nothing is changed. To find out whether the kernel has the features that netagent needs, the datapath's own operations
run in a network namespace that is created for this purpose and vanishes with its last socket.
"""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import trio

from netagent.datapath.endpoint.netns import CLONE_NEWNET
from netagent.datapath.host.port_owner import listeners, owners, program
from netagent.datapath.host.underlay import host_routes
from netagent.datapath.netlink import nftables
from netagent.datapath.netlink.link import VethPair, choose_index, create_veth, decode_link, link_dump
from netagent.datapath.netlink.route_socket import Netlink, open_socket
from netagent.datapath.reconcile.apply import apply, names_after
from netagent.datapath.reconcile.bridge_nf_bypass import are_tagged
from netagent.datapath.reconcile.observe import Observation, observe, ports_of
from netagent.datapath.reconcile.operations import device_of
from netagent.datapath.reconcile.plan import plan
from netagent.datapath.state import TUNNEL_PORT, Device, KernelState, LinkKind, Tunnel, is_ours
from netagent.doctor.checks.foreign_rules import TAGGED_TOO
from netagent.doctor.checks.host_checks import (
    ForeignTunnel,
    HostFacts,
    ManagerFacts,
    NetworkFacts,
    PortHolder,
)
from netagent.doctor.facts.foreign_rules_reader import SEARCH_PATH, foreign_chains, settings_of
from netagent.resolver.protocol import SOCKET_NAME
from netgossip.slices import at_once

_PROGRAMS: Final = ("nft", "ip", "bridge", "nsenter")
_SETTINGS: Final = (
    "net/bridge/bridge-nf-call-iptables",
    "net/bridge/bridge-nf-call-ip6tables",
    TAGGED_TOO,
    "net/ipv6/conf/all/disable_ipv6",
)
_MANAGERS: Final = (
    ("NetworkManager", "/run/NetworkManager", "NetworkManager/conf.d/netagent.conf"),
    ("systemd-networkd", "/run/systemd/netif", "systemd/network/10-netagent.network"),
    ("systemd-udevd", "/run/udev/control", "systemd/network/10-netagent.link"),
)
_MAX_TABLE_BYTES: Final = 8 << 20
_LISTEN, _UNCONNECTED = "0A", "07"
_ALIAS: Final = "netagent trial"


@dataclass(frozen=True, slots=True, kw_only=True)
class FactSources:
    """Where to look, from the agent's configuration and state."""

    state_dir: Path
    gossip_port: int
    record_port: int
    vxlan_port: int
    underlay: str
    underlay_device: str
    underlay_mtu_bytes: int
    is_encrypted: bool = False
    unreachable: str | None = None
    others: Mapping[str, str] = field(default_factory=dict)
    networks: tuple[NetworkFacts, ...] = ()
    wanted_links: frozenset[str] = frozenset()
    resolver: str | None = None
    own_pids: frozenset[int] = frozenset()
    """Processes whose sockets at our ports are ours."""
    is_agent: bool = False
    """True if the running agent itself calls."""


async def gather_host(place: FactSources, netlink: Netlink, seen: Observation | None = None) -> HostFacts:
    """Gather everything, within some seconds. `seen`: a recent reading of the kernel, if there is one."""
    features = await try_features()
    seen = seen or await observe(netlink)
    tunnels = await _foreign_tunnels(netlink)
    facts = await trio.to_thread.run_sync(_gather_plain, place)
    return replace(
        facts,
        features=features,
        is_apart=_is_apart(seen),
        tunnels=tunnels,
        links=seen.foreign_names,
        routes=await host_routes(netlink),
    )


def _is_apart(seen: Observation) -> bool | None:
    ports = ports_of(seen)
    return are_tagged(ports) if ports else None


async def _foreign_tunnels(netlink: Netlink) -> tuple[ForeignTunnel, ...]:
    links = [decode_link(message.body) for message in await netlink.dump(link_dump())]
    return tuple(
        ForeignTunnel(link.name, link.tunnel.vni, link.tunnel.port)
        for link in links
        if link.tunnel is not None and not is_ours(link.alias)
    )


def _gather_plain(place: FactSources) -> HostFacts:
    """Gather everything that needs no netlink; blocks."""
    free_bytes, free_inodes = _free(place.state_dir)
    return HostFacts(
        features=None,
        programs={name: shutil.which(name, path=SEARCH_PATH) is not None for name in _PROGRAMS},
        settings=settings_of(_SETTINGS),
        holders=tuple(_holders(place)),
        tunnels=(),
        links=frozenset(),
        wanted_links=place.wanted_links,
        routes=(),
        networks=place.networks,
        vxlan_port=place.vxlan_port,
        underlay=place.underlay,
        underlay_device=place.underlay_device,
        underlay_mtu_bytes=place.underlay_mtu_bytes,
        is_encrypted=place.is_encrypted,
        unreachable=place.unreachable,
        others=place.others,
        state_dir=str(place.state_dir),
        free_bytes=free_bytes,
        free_inodes=free_inodes,
        chains=foreign_chains(),
        managers=tuple(_managers()),
        resolver=place.resolver,
        open_files=_open_files() if place.is_agent else None,
        ports={
            "VXLAN": place.vxlan_port,
            "membership": place.gossip_port,
            "records": place.record_port,
        },
    )


def _free(folder: Path) -> tuple[int | None, int | None]:
    """Return the bytes and inodes available to unprivileged processes, for the nearest folder that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        stat = os.statvfs(folder)
    except OSError:
        return None, None
    return stat.f_bavail * stat.f_frsize, stat.f_favail if stat.f_files else None


def _open_files() -> tuple[int, int]:
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sum(
        1 for _ in Path("/proc/self/fd").iterdir()
    ), soft if soft != resource.RLIM_INFINITY else 1 << 30


def _managers() -> Iterator[ManagerFacts]:
    for name, sign, file in _MANAGERS:
        if Path(sign).exists():
            places = [Path(root, file) for root in ("/etc", "/usr/lib", "/run", "/lib")]
            yield ManagerFacts(name, str(places[0]), any(place.exists() for place in places))


# -- ports ---------------------------------------------------------------------------------------------------------


def _holders(place: FactSources) -> Iterator[PortHolder]:
    """Yield other programs at our ports. Sockets of the kernel, such as VXLAN's, belong to no process."""
    wanted = {
        "udp": {place.gossip_port, place.record_port, place.vxlan_port},
        "tcp": {place.gossip_port, place.record_port},
    }
    listening = {
        one.inode: (protocol, one.port)
        for protocol, ports in wanted.items()
        for one in listeners(protocol)
        if one.port in ports
    }
    if not listening:
        return
    for inode, pid in owners(listening.keys()).items():
        if pid not in place.own_pids:
            protocol, port = listening[inode]
            yield PortHolder(port, protocol, program(pid))


def has_resolver(run_dir: Path) -> bool:
    """True if a process listens at the resolver process's socket; does not connect to it."""
    try:
        with Path("/proc/net/unix").open(encoding="utf-8", errors="replace") as table:
            return any(line.rstrip().endswith(f" {run_dir / SOCKET_NAME}") for line in table)
    except OSError:
        return False


def processes_of(run_dir: Path) -> frozenset[int]:
    """Return the process that holds the lock in `run_dir`: an agent that runs but does not answer."""
    try:
        stat = (run_dir / "agent.lock").stat()
        locks = Path("/proc/locks").read_text("ascii")
    except OSError:
        return frozenset()
    place = f"{os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x}:{stat.st_ino}"
    holders = [line.split() for line in locks.splitlines() if f" {place} " in line]
    return frozenset(int(fields[4]) for fields in holders if len(fields) > 5)


# -- what the kernel can do ----------------------------------------------------------------------------------------


async def try_features() -> dict[str, str] | None:
    """Create one of each object in a private namespace: feature -> why it is missing. None: not permitted."""
    try:
        sock, nft = await trio.to_thread.run_sync(_in_new_namespace)
    except PermissionError:
        return None
    except OSError as error:
        return {"network namespaces": error.strerror or str(error)}
    with closing(nft), closing(Netlink(sock)) as netlink:
        tried = await _try_datapath(netlink)
        tried["nf_tables"] = _try_nftables(nft)
    return tried


def _in_new_namespace() -> tuple[socket.socket, socket.socket]:
    """Return sockets in a new namespace, which exists as long as they do. A separate thread enters it and ends."""
    outcome: list[tuple[socket.socket, socket.socket]] = []
    failure: list[OSError] = []

    def make() -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.unshare(CLONE_NEWNET):
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code))
            sock = open_socket()
            try:
                outcome.append((sock, nftables.open_socket()))
            except OSError:
                sock.close()
                raise
        except OSError as error:
            failure.append(error)

    thread = threading.Thread(target=make, name="features")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


_TRIAL: Final = KernelState(
    devices={
        "na-1": Device(
            name="na-1", kind=LinkKind.BRIDGE, alias=_ALIAS, mtu_bytes=1450, mac="06:00:00:00:00:01"
        ),
        "nx-1": Device(
            name="nx-1",
            kind=LinkKind.VXLAN,
            alias=_ALIAS,
            mtu_bytes=1450,
            mac="06:00:00:00:00:02",
            master="na-1",
            port=TUNNEL_PORT,
            tunnel=Tunnel(vni=1, port=4799, local="127.0.0.1"),
        ),
    },
    addresses=frozenset({("na-1", "fd00::1/64")}),
    neighbours={("na-1", "192.0.2.9"): "02:00:00:00:00:09", ("na-1", "fd00::9"): "02:00:00:00:00:09"},
    masters={("na-1", "02:00:00:00:00:09"): "nx-1"},
    selves={("nx-1", "02:00:00:00:00:09"): "192.0.2.8"},
)


async def _try_datapath(netlink: Netlink) -> dict[str, str]:
    operations = at_once(plan(_TRIAL, KernelState()))
    tried = dict.fromkeys(("bridge", "vxlan", "veth"), "")
    for failure in await apply(netlink, operations, names_after(operations, {})):
        feature = "vxlan" if device_of(failure.operation) == "nx-1" else "bridge"
        tried[feature] = tried[feature] or f"{type(failure.operation).__name__}: {failure.reason}"
    pair = VethPair(
        name="nv1", alias=_ALIAS, mtu_bytes=1450, peer_name="p1", peer_mac="02:00:00:00:00:01",
        peer_netns_fd=None,
    )  # fmt: skip
    for error in await netlink.execute(create_veth(pair, choose_index())):
        if error is not None:
            tried["veth"] = error.strerror or str(error)
    return tried


def _try_nftables(sock: socket.socket) -> str:
    try:
        nftables.generation(sock)
    except OSError as error:
        return error.strerror or str(error)
    return ""
