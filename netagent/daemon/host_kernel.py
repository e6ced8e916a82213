"""This host's kernel: the sockets that read and change it, and the parts that keep our state in it."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final

import trio

from netagent.datapath.direct.path import DirectPath
from netagent.datapath.endpoint.attach import Attacher
from netagent.datapath.endpoint.netns import netns_cookie, own_netns
from netagent.datapath.flows.counters import FlowCounters
from netagent.datapath.host.offload import OffloadKeeper
from netagent.datapath.host.sysctls import open_settings
from netagent.datapath.host.underlay import host_routes
from netagent.datapath.netlink import nftables
from netagent.datapath.netlink.route_socket import Netlink, open_notification_socket, open_socket
from netagent.datapath.reconcile.bridge_nf_bypass import BridgeNfBypass
from netagent.datapath.reconcile.drift import Drift
from netagent.datapath.reconcile.host_service_routes import HostServiceRoutes
from netagent.datapath.reconcile.reconciler import Reconciler
from netagent.datapath.sockets.service_tables import ServiceTables
from netagent.firewall import policy
from netagent.firewall.driver import Tables
from netagent.firewall.guard import Guard
from netagent.model.ids import ClusterId
from netagent.projection import mac_announcer
from netagent.tunnel.device import TunnelDevice
from netagent.tunnel.genetlink import NETLINK_GENERIC

_NO_COOKIES: Final = "the kernel can't tell network namespaces apart by a cookie, which takes Linux 5.14"


class HostKernel:
    """For the network namespace of the calling thread. It does not know the registry: others tell it what should
    exist.

    `memory`: the file by which the firewall recognizes its tables again.
    """

    def __init__(self, memory: Path) -> None:
        with ExitStack() as undo:
            self._netlink = undo.enter_context(closing(Netlink(open_socket())))
            self._generic = undo.enter_context(closing(Netlink(open_socket(NETLINK_GENERIC))))
            frames = undo.enter_context(closing(mac_announcer.open_socket()))
            notifications = undo.enter_context(closing(open_notification_socket()))
            rules = undo.enter_context(closing(nftables.open_socket()))
            any_socket = undo.enter_context(closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
            self.netns, self.cookie = own_netns(), netns_cookie(any_socket)
            tables = Tables(rules, memory=memory)
            self.clamps_found = tables.clamps()
            """What an earlier agent had found out about paths, as the tables still hold it."""
            self.guard = Guard(tables)
            drift = Drift()
            self.host_service_routes = HostServiceRoutes(self._netlink, drift)
            self.bridge_nf_bypass = BridgeNfBypass(drift)
            self.flow_counters = undo.enter_context(closing(FlowCounters(drift, policy.MARK)))
            self.direct_path = undo.enter_context(closing(DirectPath()))
            self.service_tables = ServiceTables(
                drift, impediment=_NO_COOKIES if self.cookie is None else None
            )
            settings = undo.enter_context(closing(open_settings()))
            self.reconciler = Reconciler(
                self._netlink,
                notifications,
                drift=drift,
                devices_changed=self._devices_changed,
                settings=settings,
            )
            self.offload = OffloadKeeper(any_socket, self.reconciler.is_in_kernel)
            self.attacher = Attacher(self._netlink, settings=settings)
            self.send_frame = mac_announcer.sending(frames)
            self._undo = undo.pop_all()

    def close(self) -> None:
        """Close the sockets; everything in the kernel stays."""
        self._undo.close()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled; leaves the kernel unchanged. `started` once it is known what an earlier agent has left
        there for service addresses."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.service_tables.run)
            task_status.started()
            for task in (
                self.reconciler.run,
                self.bridge_nf_bypass.run,
                self.flow_counters.run,
                self.direct_path.run,
                self.guard.run,
                self.offload.run,
                self.host_service_routes.run,
            ):
                nursery.start_soon(task)

    def tunnel_device(self, cluster_id: ClusterId) -> TunnelDevice:
        """Return the device of the encrypted tunnel; nothing is made yet."""
        return TunnelDevice(self._netlink, self._generic, cluster_id)

    def _devices_changed(self, devices: Mapping[int, str], ports: Mapping[int, str]) -> None:
        self.bridge_nf_bypass.set_ports(ports)
        self.flow_counters.set_devices(devices)
        self.direct_path.set_devices(devices)

    async def routes(self) -> tuple[str, ...]:
        """The prefixes that this host has routes to."""
        return await host_routes(self._netlink)
