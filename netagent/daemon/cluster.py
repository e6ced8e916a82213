"""A host's run as a member: everything that runs between joining a cluster and stopping or leaving.

Composition root of the cluster's parts: builds and connects them, and starts and stops them in this order:

    journal            what we knew                       opened first, closed last
    gossip             members and records                from the journal's state, under its raised counters
    kernel             = records                          first state: the journal's; deletes nothing that matches
    names              resolver process, fed after it     adopted when it is running
    endpoints          recovered, then open for use

A stop ends the tasks and touches nothing else: the kernel and the resolver process continue with what they have. Only
`leave` (netagent.daemon.leave) takes things down.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, closing
from functools import partial

import trio

from netagent.checks.runner import CheckRunner, Execute
from netagent.config import Config
from netagent.control.present import ProbeView
from netagent.daemon.controllers import Controllers
from netagent.daemon.encryption import Encryption
from netagent.daemon.host_kernel import HostKernel
from netagent.daemon.known_paths import known_paths
from netagent.daemon.leave import Leave
from netagent.daemon.own_records import OwnRecords
from netagent.daemon.probing import ProbeResults
from netagent.daemon.withdraw import Withdrawal
from netagent.datapath.endpoint.netns import boot_id
from netagent.datapath.host.probe_device import probe_mac
from netagent.datapath.host.uplink import Underlay
from netagent.datapath.reconcile.desired import device_mac
from netagent.doctor.facts.name_servers import LOOKUP_S, NameServerReply, ask_servers
from netagent.endpoints.context import EndpointContext
from netagent.endpoints.garbage_collector import GarbageCollector
from netagent.endpoints.host_access import HostAccess
from netagent.endpoints.interfaces import Interfaces
from netagent.endpoints.lifecycle import Endpoints
from netagent.endpoints.network_defaults import NetworkConstraints
from netagent.endpoints.networks import Networks
from netagent.errors import NetagentError
from netagent.events.sources.view_watch import ViewWatch
from netagent.eviction.auto_evict import AutoEviction
from netagent.eviction.cleanup import Cleanup
from netagent.eviction.downtime import Downtime
from netagent.eviction.evict import Eviction
from netagent.external.additions import Additions
from netagent.external.runner import ExternalRunner
from netagent.external.watch import DnsAnswer
from netagent.flows.reader import FlowReader
from netagent.http.gate import is_beyond_loopback
from netagent.integrations.cluster_access import ClusterAccess
from netagent.integrations.container_targets import HOST_TARGETS
from netagent.ipam.allocator import Allocator
from netagent.ipam.prefetch import keep_prefetched
from netagent.journal.journal import Journal
from netagent.keys.controller import RingKeeper
from netagent.keys.ring_store import RingStore
from netagent.membership.gossip import Gossip, open_ports
from netagent.membership.group_label_keeper import GroupLabelKeeper
from netagent.membership.host_record import HostRecordKeeper, host_record
from netagent.membership.refusal import RefusedHosts
from netagent.membership.restore import RestoredState, restore
from netagent.membership.signed_members import SignedMembers
from netagent.model.address.tunnel import WIREGUARD_BYTES
from netagent.model.ids import ClusterId, HostId, bridge_name
from netagent.projection.firewall_input import limits_of
from netagent.registry.encryption import is_encrypted, is_encryption_on
from netagent.registry.state_store import StateStore
from netagent.registry.view import AgentState, RegistryView
from netagent.rpc.handlers import RpcHandlers
from netagent.rpc.messages import Drops
from netagent.rpc.paths import KnownPath
from netagent.services.address_keeper import ServiceAddressKeeper
from netagent.services.addresses import ServiceAddresses
from netagent.services.published import PublishedServices
from netagent.state_dir import ClusterKeys, StateDir
from netdns import constants
from netdns.name import from_text
from netgossip.join.identity import Identity
from netgossip.sockets import NodeSockets
from netgossip.types import Address, Event

FIRST_SYNC_S = 2.0
"""How long a start waits for scope 0 before it acts on what its journal says."""

logger = logging.getLogger("netagent.daemon.cluster")


class Cluster:
    """Create it, `run` it in a nursery, cancel the nursery to stop it."""

    def __init__(
        self,
        config: Config,
        keys: ClusterKeys,
        *,
        identity: Identity,
        state: StateDir,
        underlay: Underlay,
        egress_interfaces: Callable[[], frozenset[str]],
        find_drops: Callable[[Drops], Awaitable[tuple[str, ...]]],
        execute: Execute,
        answer_events: Callable[[bytes], Awaitable[bytes]],
        introduced: Sequence[Address] = (),
    ) -> None:
        self.config = config
        self.keys = keys
        self.underlay = underlay
        self.ring = RingStore(keys, state.save_cluster_keys)
        self._introduced = introduced
        self._execute = execute
        self._answer_events = answer_events
        self._cluster_id = ClusterId(keys.cluster_id)
        self._background: list[Callable[[], Awaitable[None]]] = []
        """Tasks that begin once this host's endpoints are recovered."""
        with ExitStack() as undo:
            self.journal = undo.enter_context(closing(Journal.open(state.journal_file)))
            sockets = undo.enter_context(closing(open_ports(config, underlay.address)))
            self.kernel = undo.enter_context(closing(HostKernel(state.run_dir / "firewall")))
            remembered = restore(self.journal, HostId(identity.node_id))
            self.live = StateStore(
                remembered.view,
                {row.endpoint_id: row for row in remembered.rows},
                {row.endpoint_id: row for row in remembered.fenced},
                limits_of(remembered.view, self.kernel.clamps_found),
            )
            self._background.append(ViewWatch(self.live).run)
            self.group_labels = GroupLabelKeeper(self.live, self.journal)
            self._build_exchange(identity, sockets, remembered)
            self._build_host(state, egress_interfaces, find_drops)
            boot = boot_id()
            self._build_records(identity, boot)
            self._build_endpoints(boot)
            self.external = ExternalRunner(
                self.live, self.gossip.publisher, self._resolve_outside, random.Random()
            )
            self.additions = Additions(self.live, self.gossip.publisher, keys.domain, self.external.renew)
            self.published_services = PublishedServices(self.live, self.gossip.publisher)
            self._background.append(self.external.run)
            self.access = ClusterAccess(self.live, self.endpoints, self.networks, keys, egress_interfaces)
            self._undo = undo.pop_all()

    # -- building --------------------------------------------------------------------------------------------

    def _build_exchange(self, identity: Identity, sockets: NodeSockets, remembered: RestoredState) -> None:
        """Build the parts that talk to other hosts: gossip, and address allocation."""
        self.gossip = Gossip(
            self.config,
            self.keys,
            identity=identity,
            sockets=sockets,
            host=self.underlay.address,
            journal=self.journal,
            history=remembered.history,
            live=self.live,
            note=self._note_events,
            ring=self.ring,
        )
        self.ring_keeper = self.gossip.keeper = RingKeeper(
            live=self.live,
            publisher=self.gossip.publisher,
            store=self.ring,
            identity=identity,
            is_signer=self.gossip.node.records.is_signer,
            record_address=self.gossip.record_address,
            rotate_every_s=lambda: float(self.config.rotate_every_s),
            refused=self.gossip.note_refused,
        )
        self._background.append(self.ring_keeper.run)
        self.allocator = Allocator(
            view=lambda: self.live.view,
            journal=self.journal,
            publisher=self.gossip.publisher,
            ask=self.gossip.rpc.ask,
            rows=remembered.rows,
        )
        self._background.append(partial(keep_prefetched, self.live, self.allocator.space_requests))

    def _build_host(
        self,
        state: StateDir,
        egress_interfaces: Callable[[], frozenset[str]],
        find_drops: Callable[[Drops], Awaitable[tuple[str, ...]]],
    ) -> None:
        """Build the parts that observe this host, and those that keep its kernel and names."""
        self.probing = ProbeResults(
            self.live,
            self.kernel.offload,
            self._cluster_id,
            ask=self.gossip.rpc.ask,
            doubt=self.gossip.probe_soon,
            notes=state.run_dir / "unreached.json",
        )
        self.controllers = Controllers(
            self.live,
            self.kernel,
            self.keys,
            run_dir=state.run_dir,
            http="" if is_beyond_loopback(self.config.http) else self.config.http,
            vxlan_port=self.config.vxlan_port,
            agent_ports=self.config.closed_ports,
            connections=self.config.connections_per_container,
            underlay=lambda: self.underlay,
            egress_interfaces=egress_interfaces,
            probe=self.probing.follow,
            is_synced=self.gossip.participation.is_synced,
            wait_caught_up=self.gossip.wait_caught_up,
            are_service_addresses_on=lambda: self.config.service_addresses == "on",
        )
        self.encryption = Encryption(
            self.live,
            self.gossip.publisher,
            self.kernel.tunnel_device(self._cluster_id),
            self.controllers.projection,
            ring=self.ring,
            state=state,
            port=self.config.tunnel_port,
            keeps=self.config.keep_encryption,
            underlay=lambda: self.underlay,
            rotate_every_s=lambda: float(self.config.rotate_tunnel_every_s),
            takes_direct=lambda: self.kernel.direct_path.takes,
        )
        self.flows = FlowReader(
            self.live, self.kernel.flow_counters, self.gossip.rpc.ask, state.run_dir / "flow_names.json"
        )
        self._background.append(self.flows.run)
        self._handlers = RpcHandlers(
            live=self.live,
            wait_followed=self.controllers.projection.wait_followed,
            space=self.allocator.grants.answer_request,
            testify=self.probing.prober.testify,
            find_drops=find_drops,
            events=self._answer_events,
            flows=self.flows.answer,
            known_paths=self.known_paths,
            ability=self.encryption.ability,
        )

    def _build_records(self, identity: Identity, boot: str) -> None:
        """Build the parts that keep records of hosts: of this one, and of those that are gone."""
        gossip, records = self.gossip, self.gossip.node.records
        downtime = Downtime(self.journal.load_silences())
        self.eviction = Eviction(
            self.live,
            gossip.publisher,
            records,
            self.allocator,
            downtime,
            gossip.flush,
            key_ids=self.ring_keeper.keys_known_by,
        )
        refused = RefusedHosts(self.live, gossip.node, identity, self.keys.cluster_id)
        refused.look()  # before the first message: a restart lets no host in
        self.signed_members = SignedMembers(self.live, gossip.node, self.ring)
        self.signed_members.begin()
        auto_eviction = AutoEviction(
            live=self.live,
            journal=self.journal,
            eviction=self.eviction,
            downtime=downtime,
            forget_after_s=lambda: self.config.forget_after_s,
        )
        cleanup = Cleanup(self.live, gossip.node.membership, records, self.journal, gossip.flush)
        own_records = OwnRecords(
            live=self.live,
            publisher=gossip.publisher,
            allocator=self.allocator,
            undecided=lambda: self.networks.in_work,
            pursued=lambda: self.eviction.in_work,
        )
        self._own_host = HostRecordKeeper(
            live=self.live,
            publisher=gossip.publisher,
            base=host_record(
                name=self.config.name,
                public_key=identity.public_key,
                underlay=self.underlay.address,
                vxlan_port=self.config.vxlan_port,
                zone=self.config.zone,
                ids=(self._cluster_id, self.live.view.local),
            ),
            routes=self.kernel.routes,
            is_starting=self._was_away(boot),
            drain=self.live.view.drain_of_host(self.live.view.local),
        )
        self._background += [
            self._own_host.run,
            own_records.run,
            refused.run,
            self.signed_members.run,
            cleanup.run,
            auto_eviction.run,
        ]

    def _build_endpoints(self, boot: str) -> None:
        """Build the parts that serve users."""
        gossip, projection = self.gossip, self.controllers.projection
        withdrawal = Withdrawal(self.live, projection.wait_followed, gossip.rpc.ask)
        context = EndpointContext(
            live=self.live,
            journal=self.journal,
            publisher=gossip.publisher,
            allocator=self.allocator,
            participation=gossip.participation,
            attacher=self.kernel.attacher,
            resolvers=self.controllers.resolvers,
            projection=projection,
            wait_hidden=withdrawal.wait_endpoint_hidden,
            runtimes=HOST_TARGETS,
            domain=self.keys.domain,
            boot_id=boot,
            service_ranges=lambda: self.controllers.members.ranges(self.live.view),
        )
        self.endpoints = Endpoints(context)
        self.checks = CheckRunner(self.live, self.endpoints.set_checked, self._execute, random.Random())
        collector = GarbageCollector(self.endpoints)
        self._recover = collector.recover
        self.interfaces = Interfaces(self.live, self.kernel.attacher, context, self.kernel.reconciler.drift)
        self.networks = Networks(
            self.live,
            gossip.publisher,
            gossip.node.records,
            gossip.participation,
            surroundings=self._surroundings,
            sweep=collector.sweep,
        )
        host_access = HostAccess(
            live=self.live,
            participation=gossip.participation,
            allocator=self.allocator,
            undecided=lambda: self.networks.in_work,
            is_closed=lambda: context.is_closed,
            mac_in=lambda network: device_mac(
                bridge_name(network.record.vni), probe_mac(self.live.view.local)
            ),
        )
        self.service_addresses = ServiceAddresses(
            self.live,
            gossip.publisher,
            self.allocator.services,
            surroundings=self._surroundings,
            is_closed=lambda: context.is_closed,
        )
        keeper = ServiceAddressKeeper(
            live=self.live,
            addresses=self.service_addresses,
            publisher=gossip.publisher,
            participation=gossip.participation,
            journal=self.journal,
        )
        self.leaving = Leave(
            live=self.live,
            journal=self.journal,
            gossip=gossip,
            controllers=self.controllers,
            allocator=self.allocator,
            endpoints=self.endpoints,
            host_access=host_access,
            own_host=self._own_host,
            withdrawal=withdrawal,
            encryption=self.encryption,
        )
        mend = partial(self.interfaces.run, self.kernel.reconciler.wait_absent_changed)
        self._background += [
            collector.run,
            host_access.run,
            mend,
            self.checks.run,
            keeper.give,
            keeper.clear_up,
        ]

    def _was_away(self, boot: str) -> bool:
        """True if names must not lead here before recovery: they did not when the last run ended, or they would lead
        to containers that ended with an earlier boot."""
        host = self.live.view.hosts.get(self.live.view.local)
        withdrawn = host is not None and host.record is not None and host.record.going_down
        lost = (
            row.is_published and row.netns and row.netns.boot_id != boot for row in self.live.rows.values()
        )
        return withdrawn or any(lost)

    # -- running -----------------------------------------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled; `started` once endpoints can be attached."""
        with self._undo:
            if self.keys.encrypts:
                # Before the first look at the kernel. A host that cannot note it must not start.
                await self.encryption.note_on()
            # Before the first message to others: the news that we are alive must not lead them to containers that are
            # not there yet.
            await self._tell_of_this_host(self._own_host.publish)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.gossip.run, self._handlers.answer)
                # Before recovery: it takes endpoints away whose labels must be known after the next start, too.
                nursery.start_soon(self.group_labels.run)
                # Before names are: their answers must not change for a moment with every start.
                await nursery.start(self.kernel.run)
                for task in (self.probing.run, self.controllers.run, self.encryption.run):
                    nursery.start_soon(task)
                self.gossip.participation.resume()
                # Recovery acts on the records: wait a moment for the cluster's, rather than trust the journal alone.
                with trio.move_on_after(FIRST_SYNC_S):
                    await self.gossip.wait_synced()
                await self._recover()
                # Only now: names must not lead here before the endpoints are recovered.
                await self._tell_of_this_host(self._own_host.arrive)
                for background in self._background:
                    nursery.start_soon(background)
                task_status.started()

    def set_seeds(self, seeds: Sequence[Address]) -> None:
        """Set the gossip addresses to dial for ever, beside those that the cluster introduced us to."""
        self.gossip.set_seeds([*seeds, *self._introduced])

    async def move(self, underlay: Underlay) -> None:
        """Change the address at which others reach us. FailedError, with nothing changed, when our ports can't be
        opened there.

        The record goes first to the hosts that can be reached: it is known by its key and not by its source address,
        and moves the tunnels of all others. The membership believes in the move once the old address is silent.
        """
        if underlay.address != self.underlay.address:
            sockets = None if self.config.bind else open_ports(self.config, underlay.address)
            self.gossip.move(underlay.address, sockets)
        self.underlay = underlay
        self.live.note_change()  # our own devices follow
        await self._tell_of_this_host(partial(self._own_host.move, underlay.address))

    async def _tell_of_this_host(self, step: Callable[[], Awaitable[None]]) -> None:
        try:
            await step()
        except (OSError, NetagentError) as error:
            logger.warning("cannot publish this host's record yet: %s", error)  # `run` keeps trying

    # -- callbacks of the parts --------------------------------------------------------------------------------

    async def _resolve_outside(self, name: str) -> DnsAnswer | None:
        """Ask this host's name servers for the addresses of a name; None: no answer that decides."""
        servers, query = self.controllers.supervisor.name_servers(), from_text(name)
        ipv4 = await ask_servers(servers, query, constants.A, LOOKUP_S)
        return answer_of(ipv4, await ask_servers(servers, query, constants.AAAA, LOOKUP_S))

    def _note_events(self, events: tuple[Event, ...]) -> None:
        self.controllers.announcer.note(events)

    def known_paths(self, hosts: Sequence[HostId]) -> list[KnownPath]:
        """Return what this host knows of its paths to these hosts."""
        prober = self.probing.prober
        return known_paths(self.live.view, lambda one: ProbeView(prober.rtt_s(one), prober.path(one)), hosts)

    @property
    def revoked_by(self) -> HostId | None:
        """The host on which an operator revoked this one."""
        view = self.live.view
        by = view.revoked.get(view.local)
        if by:
            return min(by)
        return None if self.gossip.refused is None else self.gossip.refused.writer

    def _surroundings(self, view: RegistryView) -> NetworkConstraints:
        taken = WIREGUARD_BYTES if is_encryption_on(view) or is_encrypted(view) else 0
        return NetworkConstraints(
            cluster_id=self._cluster_id,
            pools=self.config.address_pools,
            networks=tuple(network.record for network in view.networks.values()),
            hosts=tuple(
                host.record
                for host in view.hosts.values()
                if host.record is not None and host.agent is not AgentState.LEFT
            ),
            underlay=self.underlay.address,
            underlay_mtu_bytes=self.underlay.mtu_bytes - taken,
            tunnel_bytes=WIREGUARD_BYTES - taken,
            ranges=view.range_records,
        )


def answer_of(ipv4: Sequence[NameServerReply], ipv6: Sequence[NameServerReply]) -> DnsAnswer | None:
    """Return what name servers said of a name, asked for both families; None: no answer that decides.

    Many fail for AAAA alone, so IPv4 addresses count without it. That a name has none counts only if both say so.
    """
    four, six = _deciding(ipv4), _deciding(ipv6)
    if four is None or (six is None and four.status == "NOERROR" and not four.addresses):
        return None
    found = [four] if six is None else [four, six]
    addresses = tuple(address for one in found for address in one.addresses)
    return DnsAnswer(addresses, exists=all(one.status == "NOERROR" for one in found))


def _deciding(replies: Sequence[NameServerReply]) -> NameServerReply | None:
    whole = (one for one in replies if not one.is_cut)
    return next((one for one in whole if one.status in {"NOERROR", "NXDOMAIN"}), None)
