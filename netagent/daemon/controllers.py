"""The controllers of this host: kernel state, firewall, routing and names, as functions of a snapshot.

The projection (netagent.projection.controller) has the order of the steps. This file defines what each of them makes
of the registry and this host's endpoints, and which part carries it out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Set
from dataclasses import replace
from pathlib import Path

import trio
from immutables import Map

from netagent import __version__
from netagent.daemon.host_kernel import HostKernel
from netagent.datapath.endpoint.netns import netns_cookie
from netagent.datapath.host.forwarding import IPV4, IPV6, SETTINGS, Forwarding
from netagent.datapath.host.uplink import Underlay
from netagent.datapath.sockets.reset import ConnectionResets
from netagent.datapath.state import DesiredChange
from netagent.endpoints.validation import has_default_route, sandboxes, ways_out
from netagent.firewall.inputs import FirewallInput
from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import ClusterId, NetworkId, bridge_name
from netagent.model.records import EncryptionStage
from netagent.model.sandbox import Sandbox, SandboxId
from netagent.projection.busy_ports import BusyPorts
from netagent.projection.controller import PROGRAM_GRACE_S, Projection, ProjectionSteps
from netagent.projection.datapath_input import networks_here, networks_taken_part
from netagent.projection.desired_state import DesiredStateBuilder
from netagent.projection.direct_input import direct_input
from netagent.projection.firewall_input import InputCache, firewall_input
from netagent.projection.mac_announcer import Announcer
from netagent.projection.published_services import (
    HostPort,
    PublishedPort,
    published_ports,
    service_forwards,
)
from netagent.projection.resolver_sockets import ResolverSockets
from netagent.projection.service_members import ServiceMembers
from netagent.projection.service_tables import ServiceTableUpdates
from netagent.registry.encryption import stage_of
from netagent.registry.local_rows import LocalRows
from netagent.registry.state_store import Snapshot, StateStore
from netagent.registry.view import RegistryView
from netagent.resolver.supervisor import Supervisor
from netagent.resolver.zone import ZoneBuilder
from netagent.state_dir import ClusterKeys
from netagent.tunnel.device import TUNNEL_NAME
from netgossip.slice_runner import in_slices
from netgossip.slices import Slices

FORWARDING_FILE = "forwarding.json"


class Controllers:
    """Keeps kernel and resolver at the newest snapshot."""

    def __init__(
        self,
        live: StateStore,
        kernel: HostKernel,
        keys: ClusterKeys,
        *,
        run_dir: Path,
        http: str,
        vxlan_port: int,
        agent_ports: tuple[int, ...],
        connections: int,
        underlay: Callable[[], Underlay],
        egress_interfaces: Callable[[], frozenset[str]],
        probe: Callable[[Snapshot], None],
        is_synced: Callable[[NetworkId], bool],
        wait_caught_up: Callable[[], Awaitable[None]],
        are_service_addresses_on: Callable[[], bool],
    ) -> None:
        self._live = live
        self._kernel_tables = kernel.service_tables
        self._direct_path = kernel.direct_path
        self._direct_path.note_change = live.note_change
        self._are_service_addresses_on = are_service_addresses_on
        self._is_synced = is_synced
        self._vxlan_port = vxlan_port
        self._agent_ports = agent_ports
        self._connections = connections
        self._underlay = underlay
        self._maker = DesiredStateBuilder(ClusterId(keys.cluster_id), vxlan_port=vxlan_port)
        self._zones = ZoneBuilder(keys.domain)
        self._sandboxes = SandboxBuilder()
        self._kept = InputCache()
        self.busy_ports = BusyPorts(self._published, live.note_change)
        self._listed: tuple[LocalRows | None, tuple[LocalEndpointRow, ...]] = (None, ())
        self.supervisor = Supervisor(run_dir, release=__version__, http=http, note_wanted=live.note_change)
        self.resolvers = ResolverSockets(self.supervisor)
        self.members = ServiceMembers(
            kernel.service_tables,
            kernel.attacher.routed_ranges,
            kernel.host_service_routes,
            cookie_of=self._cookie_of,
            host=kernel.netns,
            host_cookie=kernel.cookie,
            is_on=are_service_addresses_on,
            wake=live.note_change,
        )
        kernel.attacher.routed_ranges.note_changed = live.note_change
        kernel.service_tables.watch(self.members.note_kernel_changed)
        self.forwarding = Forwarding(
            SETTINGS, run_dir / FORWARDING_FILE, egress_interfaces, self._tell_firewall
        )
        self.projection = Projection(
            live,
            kernel.reconciler,
            kernel.guard,
            self.forwarding,
            host_service_routes=kernel.host_service_routes,
            steps=ProjectionSteps(
                desired=self._desired,
                guarded=self._guarded,
                routed=self._routed,
                routed_to_host=lambda known: self.members.host_routes(known.view),
                publish_names=self._publish_names,
                probe=probe,
                direct=self._direct,
            ),
        )
        self.announcer = Announcer(live, self.projection.wait_programmed, kernel.send_frame)
        self.resets = ConnectionResets(self.members.users, lambda: kernel.service_tables.origins_fd)
        self.service_tables = ServiceTableUpdates(
            live,
            kernel.service_tables,
            self.resets,
            wait_programmed=self.projection.wait_programmed,
            wait_caught_up=wait_caught_up,
        )

    async def run(self) -> None:
        """Run until cancelled; kernel and resolver continue with what they have."""
        async with trio.open_nursery() as nursery:
            for task in (
                self.forwarding.run,
                self.supervisor.run,
                self.projection.run,
                self.announcer.run,
                self.busy_ports.run,
                self.resets.run,
                self.service_tables.run,
            ):
                nursery.start_soon(task)

    async def end(self) -> None:
        """Stop the resolver, and remove everything of ours from the kernel: this host leaves for good."""
        await self.supervisor.stop()
        await self._kernel_tables.detach_all()
        await self.projection.clear()

    @property
    def guarded_now(self) -> FirewallInput:
        """The input that the firewall should follow now."""
        return self._guarded(self._live.now)

    def sandboxes(self, known: Snapshot) -> dict[SandboxId, Sandbox]:
        """Return the sandboxes of this host, with what the kernel translates for them now."""
        made = sandboxes(known.rows.values(), _internal(known.view))
        return {one: replace(box, translates=self.members.translates(one)) for one, box in made.items()}

    @property
    def untranslated(self) -> str:
        """Why the kernel translates no service address on this host; empty: it does, or there is none."""
        if not self._are_service_addresses_on():
            return "service_addresses is off in the configuration of this host"
        return self._kernel_tables.trouble or ""

    def _desired(self, known: Snapshot) -> Slices[DesiredChange]:
        return self._maker.make(known, self._underlay())

    def _direct(self, known: Snapshot, change: DesiredChange) -> None:
        wanted = direct_input(known.view, known.rows.networks, self._underlay(), TUNNEL_NAME)
        self._direct_path.set_desired(change, wanted)

    def _guarded(self, known: Snapshot) -> FirewallInput:
        if self._listed[0] is not known.rows:
            self._listed = known.rows, known.rows.listed()
        out, rows = ways_out(known.view.networks), known.rows
        ports = self.published_ports(known)
        replicas = {row.endpoint_id: row for port in ports for row in port.replicas}
        default_routes = [
            row.endpoint_id
            for row in (*rows.publishing(), *replicas.values())
            if has_default_route(row, rows.mates_of(row), out)
        ]
        stage = stage_of(known.view, known.view.local)
        return firewall_input(
            known.view,
            self._listed[1],
            vxlan_port=self._vxlan_port,
            agent_ports=self._agent_ports,
            underlay=self._underlay().address,
            connections=self._connections,
            tunnel=TUNNEL_NAME if stage > EncryptionStage.CLEAR else "",
            is_fenced=stage is EncryptionStage.FENCED,
            limits=known.limits,
            lent={family: self.forwarding.lent(family) for family in (IPV4, IPV6)},
            default_routes=default_routes,
            service_forwards=service_forwards(ports, self.busy_ports.busy, default_routes),
            kept=self._kept,
        )

    def published_ports(self, known: Snapshot) -> tuple[PublishedPort, ...]:
        """The ports of this host that are published for services with replicas here."""
        return published_ports(known.view, known.rows) if known.view.store.published_services else ()

    def _published(self) -> list[HostPort]:
        return [(one.protocol, one.host_port) for one in self.published_ports(self._live.now)]

    def _routed(self, known: Snapshot) -> list[str]:
        networks = networks_here(known.view, networks_taken_part(known.view, known.rows.networks))
        closed = _internal(known.view)
        return [bridge_name(one.record.vni) for one in networks if one.network_id not in closed]

    async def _tell_firewall(self) -> str:
        self._live.note_change()
        return await self.projection.wait_guarded(self._live.revision)

    async def _publish_names(self, known: Snapshot) -> None:
        # A name leads to a service's address once the address leads on.
        with trio.move_on_after(PROGRAM_GRACE_S):
            await self.service_tables.wait_followed(known.revision)
        others = await self.members.follow(known)
        boxes = self._sandboxes.make(known.rows, _internal(known.view), self.members.translates, others)
        # A feed that lacks what this host has not heard of yet would take sites down: there is none until then.
        feeds = frozenset(filter(self._is_synced, self.supervisor.wanted_feeds))
        refused = self._kernel_tables.refused
        made = await in_slices(self._zones.build(known.view, boxes, feeds, refused))
        if await self.resolvers.publish(made.table, made.touched):
            await self.members.note_told()

    def _cookie_of(self, sandbox_id: SandboxId) -> int | None:
        pair = self.supervisor.sockets().get(sandbox_id)
        return netns_cookie(pair.udp) if pair is not None else None


class SandboxBuilder:
    """The sandboxes that follow from this host's endpoints, rebuilt where these have changed."""

    def __init__(self) -> None:
        self._seen: tuple[LocalRows, frozenset[NetworkId]] | None = None
        self._boxes: Map[SandboxId, Sandbox] = Map()

    def make(
        self,
        rows: LocalRows,
        internal: frozenset[NetworkId],
        translates: Callable[[SandboxId], frozenset[NetworkId]],
        others: Set[SandboxId],
    ) -> Map[SandboxId, Sandbox]:
        """Return the sandboxes; the same object again as long as none has changed. `internal` networks provide no
        default route. `translates`: the networks whose service addresses the kernel translates in a sandbox; it has
        changed since the last call for no `others`."""
        seen, self._seen = self._seen, (rows, internal)
        touched = rows.touched_since(seen[0]) if seen is not None and seen[1] == internal else None
        if seen is None or touched is None:
            made = sandboxes(rows.values(), internal)
            self._boxes = Map({one: replace(box, translates=translates(one)) for one, box in made.items()})
            return self._boxes
        versions = (known.get(one) for one in touched for known in (rows, seen[0]))
        for netns in {row.netns for row in versions if row is not None and row.netns is not None}:
            sandbox_id = netns.sandbox_id
            box = sandboxes(rows.in_sandbox(netns), internal).get(sandbox_id)
            if box is None:
                self._boxes = self._boxes.delete(sandbox_id) if sandbox_id in self._boxes else self._boxes
            else:
                self._put(replace(box, translates=translates(sandbox_id)))
        for sandbox_id in others:
            if (box := self._boxes.get(sandbox_id)) is not None:
                self._put(replace(box, translates=translates(sandbox_id)))
        return self._boxes

    def _put(self, box: Sandbox) -> None:
        if box != self._boxes.get(box.sandbox_id):
            self._boxes = self._boxes.set(box.sandbox_id, box)


def _internal(view: RegistryView) -> frozenset[NetworkId]:
    return ways_out(view.networks).internal
