"""What kernel tests are made of: a namespace, a host's datapath in one, and the values of one small network."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from netagent.datapath.endpoint.attach import Attacher
from netagent.datapath.endpoint.netns import call_in_netns_of, opened_netns, run_in_netns
from netagent.datapath.host.sysctls import open_settings
from netagent.datapath.netlink.route_socket import Netlink, open_notification_socket, open_socket
from netagent.datapath.reconcile.bridge_nf_bypass import BridgeNfBypass
from netagent.datapath.reconcile.desired import (
    LocalEndpoint,
    NetworkInput,
    ProbeInput,
    RemoteEndpoint,
    desired_state,
)
from netagent.datapath.reconcile.drift import Drift
from netagent.datapath.reconcile.reconciler import Reconciler
from netagent.datapath.reconcile.schedule import INTERVAL_S
from netagent.datapath.state import DesiredChange, KernelState
from netagent.model.ids import ClusterId, EndpointId, NetworkId, vni_of
from netagent.model.sandbox import Netns

CLUSTER = ClusterId("c1" * 16)
NETWORK = NetworkId("0a" * 16)
VNI = vni_of(NETWORK)
PORT = 4799
MTU_BYTES = 1400


@dataclass(frozen=True)
class Namespace:
    name: str

    @property
    def path(self) -> str:
        return f"/run/netns/{self.name}"

    @property
    def identity(self) -> tuple[int, int]:
        status = Path(self.path).stat()
        return status.st_dev, status.st_ino

    def try_run(self, command: str) -> subprocess.CompletedProcess[str]:
        words = ["ip", "netns", "exec", self.name, *command.split()]
        return subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)

    def run(self, command: str) -> str:
        done = self.try_run(command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def run_code(self, code: str) -> None:
        """A few lines of Python in there."""
        words = ["ip", "netns", "exec", self.name, sys.executable, "-c", code]
        subprocess.run(words, capture_output=True, timeout=20, check=True)

    def remove(self) -> None:
        subprocess.run(["ip", "netns", "del", self.name], check=True, timeout=20)


NamespaceFactory = Callable[[str], Namespace]


@dataclass(frozen=True)
class Host:
    """A host's namespace and what the agent would have there."""

    namespace: Namespace
    underlay: str
    netlink: Netlink
    reconciler: Reconciler
    attacher: Attacher
    bridge_nf_bypass: BridgeNfBypass


@asynccontextmanager
async def open_host(
    namespace: Namespace, underlay: str, *, interval_s: float = INTERVAL_S
) -> AsyncIterator[Host]:
    with opened_netns(namespace.path) as fd:
        netlink = Netlink(await run_in_netns(fd, open_socket))
        notifications = await run_in_netns(fd, open_notification_socket)
        inside = await run_in_netns(fd, open_socket)
        settings = await run_in_netns(fd, open_settings)
    drift = Drift()
    bridge_nf_bypass = BridgeNfBypass(drift, within=lambda fn: call_in_netns_of(inside, fn))
    reconciler = Reconciler(
        netlink,
        notifications,
        drift=drift,
        bridge_nf_bypass=bridge_nf_bypass,
        settings=settings,
        interval_s=interval_s,
    )
    with closing(netlink), inside, closing(settings):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reconciler.run)
            nursery.start_soon(bridge_nf_bypass.run)
            attacher = Attacher(netlink, host_netns=namespace.identity, settings=settings)
            yield Host(namespace, underlay, netlink, reconciler, attacher, bridge_nf_bypass)
            nursery.cancel_scope.cancel()


def desired_of(
    host: Host, *networks: NetworkInput, probe: ProbeInput | None = None, port: int = PORT
) -> KernelState:
    """What a host with these networks should have in its kernel."""
    return desired_state(networks, probe, underlay=host.underlay, vxlan_port=port, cluster_id=CLUSTER)


async def program(host: Host, state: KernelState) -> None:
    """The kernel has it when this returns, all of it."""
    generation = host.reconciler.programmed_generation + 1
    host.reconciler.set_desired(DesiredChange(state), generation)
    with trio.fail_after(10):
        await host.reconciler.wait_programmed(generation)
    assert host.reconciler.status().dirty == ()


def endpoint(number: int, container: Namespace, ifname: str | None = None) -> LocalEndpoint:
    return LocalEndpoint(
        endpoint_id=EndpointId(f"{number:08x}" * 4),
        network_id=NETWORK,
        vni=VNI,
        mtu_bytes=MTU_BYTES,
        mac=f"02:0a:00:00:00:{number:02x}",
        addresses=(f"10.66.0.{number}/20", f"fd66::{number:x}/64"),
        netns=netns_of(container),
        ifname=ifname,
    )


def netns_of(container: Namespace) -> Netns:
    return Netns(container.path, container.identity, "")


def seen_from_elsewhere(local: LocalEndpoint, underlay: str) -> RemoteEndpoint:
    addresses = tuple(address.partition("/")[0] for address in local.addresses)
    return RemoteEndpoint(local.endpoint_id, local.mac, addresses, underlay)


def network(
    local: tuple[LocalEndpoint, ...] = (),
    remotes: tuple[RemoteEndpoint, ...] = (),
    *,
    multicast: bool = False,
    gateways: tuple[str, ...] = (),
) -> NetworkInput:
    return NetworkInput(
        network_id=NETWORK,
        vni=VNI,
        mtu_bytes=MTU_BYTES,
        multicast=multicast,
        gateways=gateways,
        locals=local,
        remotes=remotes,
    )


async def wait_until(condition: Callable[[], object], what: str, bound_s: float = 5.0) -> None:
    """A look that runs programs holds up what is tested, in the same event loop, which gets half of the time at
    least; and one that was begun within the bound and ended beyond it says nothing: there is a last one."""
    end = trio.current_time() + bound_s
    while True:
        began = trio.current_time()
        if condition():
            return
        if began > end:
            pytest.fail(f"not within {bound_s} s: {what}")
        await trio.sleep(max(0.02, trio.current_time() - began))


def await_passing(namespace: Namespace, device: str, *addresses: str) -> None:
    """Until the link takes packets, and the namespace answers for its addresses of IPv6: the kernel sees to both in
    tasks of its own after the last command, and till then drops what comes
    (netagent.datapath.endpoint.veth_binding)."""
    lines = [(f"ip link show dev {device}", "state UP")]
    lines += [(f"ip -6 route get {address}", f"local {address} ") for address in addresses if ":" in address]
    end = time.monotonic() + 10.0
    for command, words in lines:
        while words not in namespace.try_run(command).stdout:
            assert time.monotonic() < end, f"{command}: not {words}"
            time.sleep(0.01)
