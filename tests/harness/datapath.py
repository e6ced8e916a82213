"""A host's datapath in a namespace, as the agent keeps it, and one small network on one or two such hosts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass

import trio
from fakes.scratch_state import InhabitedNetwork, RemoteEndpoint, desired_state

from harness.namespaces import Namespace
from netagent.datapath.endpoint.attach import Attacher
from netagent.datapath.endpoint.netns import call_in_netns_of, opened_netns, run_in_netns
from netagent.datapath.host.probe_device import ProbeInput
from netagent.datapath.host.sysctls import open_settings
from netagent.datapath.netlink.route_socket import Netlink, open_notification_socket, open_socket
from netagent.datapath.reconcile.bridge_nf_bypass import BridgeNfBypass
from netagent.datapath.reconcile.desired import LocalEndpoint
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
UNDERLAYS = ("192.0.2.1", "192.0.2.2")
ADDRESSES = ("10.66.0.2", "10.66.0.3", "fd66::2", "fd66::3")
"""Of the containers of `open_overlay`."""


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
        devices_changed=lambda _devices, ports: bridge_nf_bypass.set_ports(ports),
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
    host: Host, *networks: InhabitedNetwork, probe: ProbeInput | None = None, port: int = PORT
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
) -> InhabitedNetwork:
    return InhabitedNetwork(
        network_id=NETWORK,
        vni=VNI,
        mtu_bytes=MTU_BYTES,
        multicast=multicast,
        gateways=gateways,
        locals=local,
        remotes=remotes,
    )


@asynccontextmanager
async def open_overlay(
    hosts: Sequence[Namespace], containers: Sequence[Namespace]
) -> AsyncIterator[list[Host]]:
    """The network is there within the block; afterwards no host has anything of it."""
    ends = [endpoint(number, container) for number, container in enumerate(containers, start=2)]
    async with AsyncExitStack() as stack:
        opened = []
        for namespace, underlay in zip(hosts, UNDERLAYS, strict=True):
            opened.append(await stack.enter_async_context(open_host(namespace, underlay)))
        for host, own, other, far in zip(opened, ends, reversed(ends), reversed(UNDERLAYS), strict=True):
            await program(host, desired_of(host, network((own,), (seen_from_elsewhere(other, far),))))
            await host.attacher.bind(own)
        try:
            yield opened
        finally:
            with trio.CancelScope(shield=True):
                for host, own in zip(opened, ends, strict=True):
                    await host.attacher.unbind(own.endpoint_id)
                    await program(host, desired_of(host))


def answers(container: Namespace, address: str) -> bool:
    """Whether one packet comes back."""
    return container.try_run(f"ping -c1 -W1 {address}").returncode == 0
