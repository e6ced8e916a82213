"""A host's life as a member: everything that runs between entering a cluster and stopping or leaving.

Here the rooms are put together, and started and stopped in order:

    journal            what we knew                       opened first, closed last
    gossip             members and records                from the journal's state, under its raised counters
    datapath           kernel = records                   first state: the journal's; deletes nothing that matches
    names              resolver process, fed after it     adopted when it lives
    endpoints          recovered, then open for use

A stop ends the tasks and touches nothing else: the kernel and the resolver process go on with what they have. Only
`leave` takes things down.
"""

from __future__ import annotations

import logging
import os
import random
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from functools import partial

import trio

from netagent import __version__
from netagent.config import Config
from netagent.datapath import nftables
from netagent.datapath.attach import Attacher
from netagent.datapath.desired import device_mac
from netagent.datapath.forwarding import IPV4, IPV6, SETTINGS, Forwarding
from netagent.datapath.netlink import Netlink, open_notification_socket, open_socket
from netagent.datapath.netns import boot_id
from netagent.datapath.offload import OffloadKeeper
from netagent.datapath.probe_device import probe_address, probe_mac
from netagent.datapath.reconcile import Reconciler
from netagent.datapath.state import Wanted
from netagent.datapath.underlay import host_routes
from netagent.datapath.uplink import Underlay, is_fixed
from netagent.errors import FailedError, NetagentError, NoError
from netagent.firewall.driver import Tables
from netagent.firewall.guard import Guard
from netagent.firewall.inputs import FirewallInput
from netagent.ipam.allocator import Allocator
from netagent.membership.answering import Answering
from netagent.membership.asking import Asking
from netagent.membership.burial import Burial
from netagent.membership.inbox import Inbox, first_view
from netagent.membership.intake import Intake
from netagent.membership.own_host import OwnHost, host_record
from netagent.membership.participation import Participation, own_networks
from netagent.membership.retreat import Retreat
from netagent.membership.witnessing import Witnessing
from netagent.model.ids import ClusterId, HostId, NetworkId, bridge_name, vxlan_name
from netagent.model.records import HostRecord
from netagent.model.sandbox import Sandbox, SandboxId
from netagent.names.supervisor import Supervisor
from netagent.names.zone import ZoneMaker
from netagent.pieces import Pieces, piece_by_piece
from netagent.probes.checksum import Checksums
from netagent.probes.echo import EchoProber, Listeners, Machines
from netagent.probes.liveness import Liveness
from netagent.probes.path import Paths
from netagent.probes.quality import PathStatus
from netagent.projection import announcing
from netagent.projection.announcing import Announcer
from netagent.projection.desired import DesiredMaker
from netagent.projection.guarding import firewall_input, limits_of
from netagent.projection.intent import networks_here, networks_wanted, path_targets, probe_targets
from netagent.projection.loop import Projection, Steps
from netagent.projection.resolvers import Resolvers
from netagent.registry.journal import DiskFullError, Journal, JournalError
from netagent.registry.live import Live, Moment
from netagent.registry.publish import Publisher
from netagent.registry.row import Stage
from netagent.registry.schema import scope_of
from netagent.registry.view import AgentState, RegistryView
from netagent.state_dir import ClusterKeys, StateDir
from netagent.usecases.drain import DRAIN_S, REMEMBERED_S, drain
from netagent.usecases.endpoint_rules import gives_way_out, sandboxes
from netagent.usecases.endpoints import Endpoints
from netagent.usecases.fencing import fence_all
from netagent.usecases.forgetting import Forgetting
from netagent.usecases.host_access import HostAccess
from netagent.usecases.interfaces import Interfaces
from netagent.usecases.janitor import Janitor
from netagent.usecases.network_plan import Surroundings
from netagent.usecases.networks import Networks
from netagent.usecases.own_records import OwnRecords
from netagent.usecases.silence import Silence
from netagent.usecases.steps import EndpointParts
from netagent.usecases.targets import RuntimeTargets
from netagent.usecases.vigil import Vigil
from netgossip.config import GossipConfig
from netgossip.driver import Driver, Sockets, open_sockets
from netgossip.entry import Credentials, Invitations
from netgossip.errors import UsageError
from netgossip.identity import Identity
from netgossip.node import GossipNode
from netgossip.seal import Keyring
from netgossip.types import CLUSTER_SCOPE, Address, Event, Log, OwnLogRaised, RequestReceived, Scope

_PROFILES = {"lan": GossipConfig.lan, "wan": GossipConfig.wan, "local": GossipConfig.local}
MAX_INTRODUCED = 16
"""Members whose addresses a newcomer is given."""
TOP_UP_S = 5.0
FIRST_SYNC_S = 2.0
"""How long a start waits for scope 0 before it judges what its journal says."""
FORWARDING_FILE = "forwarding.json"
HEARD_S = 1.0
"""For the others to acknowledge a last word; a host that is slower learns it from those that have it."""

logger = logging.getLogger("netagent.membership.cluster")


class Cluster:
    """Make it, `start` it in a nursery, cancel the nursery to stop it."""

    def __init__(
        self,
        config: Config,
        keys: ClusterKeys,
        *,
        identity: Identity,
        state: StateDir,
        underlay: Underlay,
        runtimes: RuntimeTargets,
        ways_out: Callable[[], frozenset[str]],
        introduced: Sequence[Address] = (),
    ) -> None:
        self.config = config
        self.keys = keys
        self.underlay = underlay
        self._identity = identity
        self._runtimes = runtimes
        self.ways_out = ways_out
        self._introduced = introduced
        self._incarnation = 0
        self._local = HostId(identity.node_id)
        self._cluster_id = ClusterId(keys.cluster_id)
        with ExitStack() as undo:
            self.journal = undo.enter_context(closing(Journal.open(state.journal_file)))
            sockets = undo.enter_context(closing(_open_sockets(config, underlay)))
            self._netlink = undo.enter_context(closing(Netlink(open_socket())))
            self._frames = undo.enter_context(closing(announcing.open_socket()))
            notifications = undo.enter_context(closing(open_notification_socket()))
            rules = undo.enter_context(closing(nftables.open_socket()))
            self._any_socket = undo.enter_context(closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
            tables = Tables(rules, memory=state.run_dir / "firewall")
            self.guard, self._clamps_found = Guard(tables), tables.clamps()
            self._build(state, sockets, notifications)
            self._undo = undo.pop_all()

    # -- building --------------------------------------------------------------------------------------------

    def _build(self, state: StateDir, sockets: Sockets, notifications: socket.socket) -> None:
        journal, config = self.journal, self.config
        rows = journal.load_endpoints()
        own_logs, replicas = self._load_logs()
        members = [m for m in journal.load_members() if m.node_id != self._local]
        view = first_view(self._local, [*own_logs, *replicas], members)
        self.live = Live(
            view,
            {row.endpoint_id: row for row in rows},
            {row.endpoint_id: row for row in journal.load_fenced()},
            limits_of(view, self._clamps_found),
        )
        self.invitations = Invitations(self._identity, os.urandom, self._credentials, self._admitted)
        self.node = GossipNode(
            config=_PROFILES[config.timing](),
            node_id=self._local,
            address=(self.underlay.address, config.gossip_port),
            record_port=config.record_port,
            meta=config.name.encode(),
            incarnation=journal.load_incarnation(),
            boot_epoch=journal.boot_epoch,
            keyring=Keyring(self.keys.keys),
            label=bytes.fromhex(self.keys.cluster_id),
            rng=random.SystemRandom(),
            now=trio.current_time(),
            remembered=members,
            own_logs=own_logs,
            replicas=replicas,
            join_handler=self.invitations.converse,
        )
        self.driver = Driver(
            self.node,
            gossip_udp=sockets.gossip_udp,
            gossip_tcp=sockets.gossip_tcp,
            record_udp=sockets.record_udp,
            record_tcp=sockets.record_tcp,
            clock=trio.current_time,
            on_events=self._note_events,
        )
        flush = self.driver.flush_nowait
        self.publisher = Publisher(self.node, journal, flush)
        self.participation = Participation(
            self.node, self.publisher, self.live, flush, forget=self._forget_replicas
        )
        self.asking = Asking(self.node, flush)
        self.allocator = Allocator(
            view=lambda: self.live.view,
            journal=journal,
            publisher=self.publisher,
            ask=self.asking.ask,
            rows=rows,
        )
        self._build_local(state, notifications)
        self.inbox = Inbox(
            live=self.live,
            journal=journal,
            participation=self.participation,
            asking=self.asking,
            on_request=self._note_request,
            on_raised=self._note_raised,
            on_taken=self._announcer.note,
            is_held=lambda scope, owner: scope in self.node.scopes_of(owner),
        )
        self._intake = Intake(self.inbox)

    def _load_logs(self) -> tuple[list[Log], list[Log]]:
        """Ours, and the others'. Without those of networks that this host has left, should a crash have kept them on
        disk: nobody would tell us how they go on, and what they say would be shown for ever."""
        self.journal.require_owner(self._local)
        own, replicas = self.journal.load_own_logs(), self.journal.load_replicas()
        scopes = {CLUSTER_SCOPE, *map(scope_of, own_networks(first_view(self._local, own, ())))}
        for log in replicas:
            if log.scope not in scopes:
                self.journal.note_replica_dropped(log.scope, log.owner)
        return own, [log for log in replicas if log.scope in scopes]

    def _build_local(self, state: StateDir, notifications: socket.socket) -> None:
        self.reconciler = Reconciler(self._netlink, notifications)
        self._offload = OffloadKeeper(self._any_socket, self.reconciler.is_standing)
        self.attacher = Attacher(self._netlink)
        chance = random.Random(random.getrandbits(64))
        paths = Paths(chance)
        paths.adopt(self.live.limits)
        self.prober = EchoProber(
            Machines(Liveness(chance), paths, Checksums(chance)),
            probe_address(self._cluster_id, self._local),
            random.getrandbits(16),
            Listeners(
                on_answer=self._note_answer,
                on_doubt=self._note_doubt,
                on_path=self._note_path,
                on_checksums=self._offload.set_wanted,
            ),
        )
        self._witnessing = Witnessing(self.live, self.prober, self.asking.ask)
        self.supervisor = Supervisor(state.run_dir, release=__version__)
        self.resolvers = Resolvers(self.supervisor)
        self._zones = ZoneMaker(self.keys.domain)
        self._boxes: tuple[object, object, Mapping[SandboxId, Sandbox]] = (None, None, {})
        """This host's endpoints and the networks of one moment, and the sandboxes that follow from them."""
        self.forwarding = Forwarding(
            SETTINGS, state.run_dir / FORWARDING_FILE, self.ways_out, self._tell_firewall
        )
        self._maker = DesiredMaker(self._cluster_id, vxlan_port=self.config.vxlan_port)
        self.projection = Projection(
            self.live,
            self.reconciler,
            self.guard,
            self.forwarding,
            Steps(
                desired=self._desired,
                guarded=self._guarded,
                routed=self._routed,
                publish_names=self._publish_names,
                probe=self._set_probe_targets,
            ),
        )
        self._announcer = Announcer(
            self.live, self.projection.wait_programmed, announcing.sending(self._frames)
        )
        self.retreat = Retreat(self.live, self.projection, self.asking.ask)
        self._answering = Answering(
            live=self.live,
            projection=self.projection,
            space=self.allocator.answer_request,
            testify=self.prober.testify,
        )
        boot = boot_id()
        parts = EndpointParts(
            live=self.live,
            journal=self.journal,
            publisher=self.publisher,
            allocator=self.allocator,
            participation=self.participation,
            attacher=self.attacher,
            resolvers=self.resolvers,
            projection=self.projection,
            retreat=self.retreat,
            runtimes=self._runtimes,
            domain=self.keys.domain,
            boot_id=boot,
        )
        self.endpoints = Endpoints(parts)
        self.janitor = Janitor(parts, self.endpoints)
        self.interfaces = Interfaces(self.live, self.attacher, self.endpoints.steps, self.reconciler.drift)
        self.networks = Networks(
            self.live,
            self.publisher,
            self.node,
            self.participation,
            surroundings=self._surroundings,
            sweep=self.janitor.sweep,
        )
        self.host_access = HostAccess(
            live=self.live,
            participation=self.participation,
            allocator=self.allocator,
            undecided=lambda: self.networks.in_work,
            is_closed=lambda: self.endpoints.steps.is_closed,
            mac_in=lambda network: device_mac(bridge_name(network.record.vni), probe_mac(self._local)),
        )
        self._build_forgetting()
        self._own_host = OwnHost(
            live=self.live,
            publisher=self.publisher,
            base=host_record(
                name=self.config.name,
                public_key=self._identity.public_key,
                underlay=self.underlay.address,
                vxlan_port=self.config.vxlan_port,
                zone=self.config.zone,
                ids=(self._cluster_id, self._local),
            ),
            routes=lambda: host_routes(self._netlink),
            is_away=self._was_away(boot),
        )

    def _was_away(self, boot: str) -> bool:
        """Whether names must not lead here before recovery: they did not when the last life ended, or they would lead
        to containers that ended with an earlier boot."""
        host = self.live.view.hosts.get(self._local)
        withdrawn = host is not None and host.record is not None and host.record.going_down
        lost = (row.stage is Stage.PUBLISHED and row.boot_id != boot for row in self.live.rows.values())
        return withdrawn or any(lost)

    def _build_forgetting(self) -> None:
        silence = Silence(self.journal.load_silences())
        flush = self.driver.flush_nowait
        self.forgetting = Forgetting(self.live, self.publisher, self.node, self.allocator, silence, flush)
        self._vigil = Vigil(
            live=self.live,
            journal=self.journal,
            forgetting=self.forgetting,
            silence=silence,
            forget_after_s=lambda: self.config.forget_after_s,
        )
        self._burial = Burial(self.live, self.node, self.journal, flush)
        self._own_records = OwnRecords(
            live=self.live,
            publisher=self.publisher,
            allocator=self.allocator,
            undecided=lambda: self.networks.in_work,
            pursued=lambda: self.forgetting.in_work,
        )

    # -- running -----------------------------------------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled; `started` once endpoints can be attached."""
        with self._undo:
            # Before the first word to others: that we live must not lead them to containers that are not there yet.
            await self._tell_of_this_host(self._own_host.publish)
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for task in (
                    self._intake.run,
                    self.driver.run,
                    self.reconciler.run,
                    self.guard.run,
                    self.forwarding.run,
                    self.supervisor.run,
                    self.prober.run,
                    self._witnessing.run,
                    self._offload.run,
                    self._note_own_member,
                ):
                    nursery.start_soon(task)
                self.participation.resume()
                nursery.start_soon(self.projection.run)
                nursery.start_soon(self._announcer.run)
                nursery.start_soon(self.participation.run)
                with trio.move_on_after(FIRST_SYNC_S):
                    await self._wait_first_sync()
                await self.janitor.recover()
                await self._tell_of_this_host(self._own_host.arrive)
                for task in (
                    self.janitor.run,
                    self._own_host.run,
                    self._keep_space,
                    self._own_records.run,
                    self.host_access.run,
                    self._burial.run,
                    self._vigil.run,
                ):
                    nursery.start_soon(task)
                nursery.start_soon(self.interfaces.run, self.reconciler.wait_absent_changed)
                task_status.started()

    def set_seeds(self, seeds: Sequence[Address]) -> None:
        """Gossip addresses to try for ever, beside those that the cluster introduced us to."""
        self.node.set_seeds([*seeds, *self._introduced], trio.current_time())
        self.driver.flush_nowait()

    async def move(self, underlay: Underlay) -> None:
        """Be reached at another address. FailedError, with nothing changed, when our ports can't be had there.

        The record goes first to whoever can be reached: it is known by its key and not by where it comes from, and
        moves the tunnels of all others. The membership believes in the move once the old address is silent.
        """
        if underlay.address != self.underlay.address:
            if not is_fixed(self.config.bind):
                self.driver.rebind(_open_sockets(self.config, underlay))
            self.node.set_address((underlay.address, self.config.gossip_port), trio.current_time())
            self.driver.flush_nowait()
        self.underlay = underlay
        self.live.note_change()  # our own devices follow
        await self._tell_of_this_host(partial(self._own_host.move, underlay.address))

    async def leave(self, drain_s: float = DRAIN_S) -> int:
        """Withdraw names, detach everything, hand the space on, tell the others. The number of endpoints detached."""
        with self.endpoints.closed():
            async with self._own_host.going_down():
                await self._retreat(drain_s)
                detached = await self.endpoints.remove_all()
                await self.host_access.withdraw_all()
                await self.participation.withdraw_all()
                await self._hand_space_on()
                await self._wait_heard()
        await self._end()
        return detached

    async def fence(self) -> int:
        """The cluster has forgotten this host: take everything down but for a note of each endpoint; how many."""
        with self.endpoints.closed():
            count = await fence_all(self.live, self.journal, self.endpoints)
        await self._end()
        return count

    async def _end(self) -> None:
        self.node.leave(trio.current_time())
        self.driver.flush_nowait()
        while not self.node.has_left(trio.current_time()):
            await trio.sleep(0.02)
        await self.supervisor.stop()
        await self.projection.clear()

    async def withdraw(self, drain_s: float = DRAIN_S) -> int:
        """Lead names away from this host until the agent starts again, and let requests under way end.

        The number of live hosts that know of it.
        """
        async with self._own_host.going_down():
            await self._retreat(drain_s)
            lacking = await self._wait_heard()
        hosts = self.live.view.hosts.items()
        alive = {h for h, host in hosts if host.agent is AgentState.ALIVE and h != self._local}
        return len(alive - lacking)

    async def _retreat(self, drain_s: float) -> None:
        """Until nobody is led here any more and those who were have done. At once when nobody can be."""
        rows = [row for row in self.live.rows.values() if row.stage is Stage.PUBLISHED]
        if rows and self.retreat.others():
            await self.retreat.wait_host_hidden()
            await drain(rows, at_least_s=REMEMBERED_S, at_most_s=drain_s)

    async def _wait_heard(self) -> frozenset[str]:
        """Until every live host has what we wrote for all, at most HEARD_S. Those that still lack it."""
        with trio.move_on_after(HEARD_S):
            while self.node.unacknowledged(CLUSTER_SCOPE):
                await trio.sleep(0.01)
        return self.node.unacknowledged(CLUSTER_SCOPE)

    async def _hand_space_on(self) -> None:
        view = self.live.view
        alive = [h for h, host in view.hosts.items() if host.agent is AgentState.ALIVE and h != self._local]
        for network_id in view.networks if alive else ():
            with suppress(NoError):  # removed in between
                await self.allocator.surrender(network_id, min(alive))

    # -- what the rooms ask for --------------------------------------------------------------------------------

    def _desired(self, known: Moment) -> Pieces[Wanted]:
        return self._maker.make(known, self.underlay)

    @property
    def guarded_now(self) -> FirewallInput:
        """What the firewall should follow from at this moment."""
        return self._guarded(self.live.now)

    def _guarded(self, known: Moment) -> FirewallInput:
        return firewall_input(
            known.view,
            known.rows.values(),
            vxlan_port=self.config.vxlan_port,
            limits=known.limits,
            lent={family: self.forwarding.lent(family) for family in (IPV4, IPV6)},
            leading_out=[
                row.endpoint_id
                for row in known.rows.values()
                if row.publish and gives_way_out(row, known.rows.values(), _internal(known.view))
            ],
        )

    def _routed(self, known: Moment) -> list[str]:
        networks = networks_here(known.view, networks_wanted(known.view, known.rows.values()))
        closed = _internal(known.view)
        return [bridge_name(one.record.vni) for one in networks if one.network_id not in closed]

    async def _tell_firewall(self) -> str:
        self.live.note_change()
        return await self.projection.wait_guarded(self.live.revision)

    async def _publish_names(self, known: Moment) -> None:
        made = await piece_by_piece(self._zones.making(known.view, self._sandboxes(known)))
        await self.resolvers.publish(made.table, made.touched)

    def _sandboxes(self, known: Moment) -> Mapping[SandboxId, Sandbox]:
        """The same object again as long as neither this host's endpoints nor the networks change."""
        rows, networks, boxes = self._boxes
        if rows is not known.rows or networks is not known.view.networks:
            boxes = sandboxes(known.rows.values(), _internal(known.view))
            self._boxes = known.rows, known.view.networks, boxes
        return boxes

    def _set_probe_targets(self, known: Moment) -> None:
        self.prober.set_peers(probe_targets(known.view))
        self.prober.set_paths(path_targets(known.view))
        networks = map(known.view.networks.get, {row.network_id for row in known.rows.values()})
        self._offload.set_devices([vxlan_name(one.record.vni) for one in networks if one is not None])

    def _surroundings(self, view: RegistryView) -> Surroundings:
        hosts: tuple[HostRecord, ...] = tuple(
            host.record
            for host in view.hosts.values()
            if host.record is not None and host.agent is not AgentState.LEFT
        )
        return Surroundings(
            cluster_id=self._cluster_id,
            pools=self.config.address_pools,
            networks=tuple(network.record for network in view.networks.values()),
            hosts=hosts,
            underlay=self.underlay.address,
            underlay_mtu_bytes=self.underlay.mtu_bytes,
        )

    def _credentials(self) -> Credentials:
        members = [m.address for m in self.node.members().values() if m.node_id != self._local]
        own = (self.underlay.address, self.config.gossip_port)
        return Credentials(
            self.keys.cluster_id,
            self.keys.cluster,
            self.keys.domain,
            self.keys.keys,
            (own, *members[: MAX_INTRODUCED - 1]),
        )

    def _admitted(self, node_id: str, name: str) -> None:
        logger.info("let %s (%s) into the cluster", name, node_id[:8])

    def _forget_replicas(self, scope: Scope) -> None:
        self.inbox.forget_scope(scope)
        for log in self.node.logs(scope):
            if log.owner != self._local:
                self.journal.note_replica_dropped(scope, log.owner)

    def _note_answer(self, host_id: HostId, answers: bool) -> None:  # noqa: FBT001 - the value
        self.live.set_view(self.live.view.with_host_answer(host_id, answers))

    def _note_doubt(self, host_id: HostId) -> None:
        self.node.probe_soon(host_id, trio.current_time())
        self.driver.flush_nowait()

    def _note_path(self, host_id: HostId, status: PathStatus) -> None:
        self.live.set_limit(host_id, status.limit_bytes)

    def _note_events(self, events: tuple[Event, ...]) -> None:
        self._intake.handle(events)
        # A refutation raises it, and the next start must begin above.
        if self.node.incarnation != self._incarnation:
            self._incarnation = self.node.incarnation
            self.journal.note_incarnation(self._incarnation)

    def _note_request(self, event: RequestReceived) -> None:
        self.asking.note_request(event, self._nursery, self._answering.answer)

    def _note_raised(self, event: OwnLogRaised) -> None:
        self._nursery.start_soon(self._write_raised, event)

    async def _write_raised(self, event: OwnLogRaised) -> None:
        try:
            await self.publisher.own_log_raised(event)
        except (DiskFullError, JournalError) as error:
            # Peers raise it once more after the next start, which then begins below.
            logger.warning("cannot write down the raised log of scope %s: %s", event.scope.hex()[:8], error)

    # -- small tasks ---------------------------------------------------------------------------------------------

    async def _note_own_member(self) -> None:
        """The gossip reports others; ourselves we put into the view."""
        self.live.set_view(self.live.view.with_member(self.node.members()[self._local]))

    async def _tell_of_this_host(self, step: Callable[[], Awaitable[None]]) -> None:
        try:
            await step()
        except (OSError, NetagentError) as error:
            logger.warning("cannot tell others of this host yet: %s", error)  # `run` goes on trying

    async def _wait_first_sync(self) -> None:
        while not self.inbox.synced:
            await trio.sleep(0.02)

    async def _keep_space(self) -> None:
        """Own some of every network's space before anybody needs it, and more before it is used up."""
        while True:
            for network_id in self.live.view.networks:
                with suppress(NetagentError):  # removed in between, or the disk is full
                    await self.allocator.top_up(network_id)
            await trio.sleep(TOP_UP_S)


def _open_sockets(config: Config, underlay: Underlay) -> Sockets:
    try:
        return open_sockets(config.bind or underlay.address, config.gossip_port, config.record_port)
    except UsageError as error:
        raise FailedError(
            str(error),
            code="port-in-use",
            thing="ports",
            hint="stop that program, or set gossip_port and record_port",
        ) from None


def _internal(view: RegistryView) -> frozenset[NetworkId]:
    return frozenset(known for known, network in view.networks.items() if network.record.internal)
