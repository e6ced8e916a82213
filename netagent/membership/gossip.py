"""The gossip of one run: its node, its driver, and the parts that work on them.

`Gossip` builds the node from what the journal holds, under its raised counters, and connects publishing,
participation in networks, the rpc client and invitations to it. The gossip's events go into the event queue; a task
takes in, slice by slice, what waits there, so that other tasks run in between.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

import trio

from netagent.config import Config
from netagent.errors import FailedError
from netagent.events.channel import event
from netagent.events.kinds import EventKind
from netagent.journal.journal import DiskFullError, Journal, JournalError
from netagent.keys.controller import RingKeeper
from netagent.keys.ring_store import RingStore
from netagent.membership.event_queue import EventQueue
from netagent.membership.participation import Participation
from netagent.membership.refusal import (
    Refusal,
    is_believed,
    read_refusal_untrusted,
    refusal_text,
    shut_out_of,
    writer_for,
)
from netagent.membership.remote_networks import RemoteNetworks
from netagent.model.ids import HostId, NetworkId
from netagent.model.records import EncryptionStage
from netagent.periodic_task import PeriodicTask
from netagent.registry.encryption import stage_of
from netagent.registry.publish import Publisher
from netagent.registry.state_store import StateStore
from netagent.rpc.client import RpcClient
from netagent.state_dir import ClusterKeys
from netgossip.codec.meta import record_address
from netgossip.config import GossipConfig
from netgossip.driver import Driver
from netgossip.errors import GossipUsageError
from netgossip.join.admission import Credentials, Invitations
from netgossip.join.identity import Identity
from netgossip.join.readmission import EntryConversation, PeerRing, Readmissions
from netgossip.node import GossipNode
from netgossip.slice_runner import TaskRunner
from netgossip.sockets import NodeSockets, open_sockets
from netgossip.types import (
    CLUSTER_SCOPE,
    Address,
    Event,
    History,
    NodeId,
    OwnLogRaised,
    RefusalHeard,
    RequestReceived,
    Scope,
)

_PROFILES = {"lan": GossipConfig.lan, "wan": GossipConfig.wan, "local": GossipConfig.local}
MAX_INTRODUCED = 16
"""Members whose addresses a newcomer gets."""
LOOK_S = 2.0
"""Interval for looking at held evictions (held_evictions.py)."""
COLLECT_S = 3600.0
"""Interval for looking at logs of ours that are quiet and full of tombstones: the shortest between two rewrites of a
log."""
HEARD_S = 1.0
"""Time for the others to acknowledge our last record; a slower host learns it from those that have it."""

_CATCHING_UP: Final = "this member is just back itself, and answers in a quarter of a minute"

logger = logging.getLogger("netagent.membership.gossip")


class Gossip:
    """One for each run of the cluster. `sockets` are those of `open_ports`; the caller that opened them
    closes them."""

    def __init__(
        self,
        config: Config,
        keys: ClusterKeys,
        *,
        identity: Identity,
        sockets: NodeSockets,
        host: str,
        journal: Journal,
        history: History,
        live: StateStore,
        note: Callable[[tuple[Event, ...]], None],
        ring: RingStore,
    ) -> None:
        """`host`: the address at which others reach us. `note` gets all events once the view has them. `ring` has the
        keys, which change."""
        self._config = config
        self._keys = keys
        self._ring = ring
        self._host = host
        self._journal = journal
        self._live = live
        self._local = HostId(identity.node_id)
        self._incarnation = 0
        self.refused: Refusal | None = None
        """That a member refuses this host, which was revoked."""
        self._refusals: dict[tuple[HostId, HostId], str] = {}
        """What other revoked hosts get, by host and by who has revoked it."""
        self._nursery: trio.Nursery
        self._answer: Callable[[HostId, bytes], Awaitable[bytes]]
        self.invitations = Invitations(
            identity,
            os.urandom,
            self._credentials,
            self._note_admitted,
            shut_out=lambda: shut_out_of(live.view),
            why_not_yet=self._why_not_yet,
        )
        self.keeper: RingKeeper
        """Answers hosts that return, and vouches for those that were admitted; set by who builds it, because it
        publishes by what is built here."""
        self._readmissions = Readmissions(
            identity,
            bytes.fromhex(keys.cluster_id),
            os.urandom,
            is_member=self._may_return,
            refusal=partial(self._refusal_of, identity),
            ring=lambda: ring.numbered,
            returned=self._note_returned,
        )
        self.node = self._node(keys, identity, history)
        self._driver = Driver(
            self.node,
            sockets,
            on_events=self._note_events,
        )
        self.traffic = self._driver.traffic
        self.flush = self._driver.flush_nowait
        """Sends what the node has to send now."""
        self.publisher = Publisher(self.node.records, journal, self.flush)
        self.remote_networks = RemoteNetworks(
            self.node.records,
            live,
            self.flush,
            is_entered=self._has_entered,
            rng=random.SystemRandom(),
        )
        self.participation = Participation(
            self.node.records,
            self.publisher,
            live,
            self.flush,
            forget=self._forget_replicas,
            release=self.remote_networks.release,
        )
        self.rpc = RpcClient(self.node.records, self.flush)
        self.event_queue = EventQueue(
            live=live,
            journal=journal,
            participation=self.participation,
            rpc=self.rpc,
            on_request=self._note_request,
            on_raised=self._note_raised,
            on_taken=note,
            is_held=lambda scope, owner: scope in self.node.records.scopes_of(owner),
            is_for_answers=self.remote_networks.holds,
            clock=trio.current_time,
        )
        self._intake = TaskRunner(self.event_queue)

    def _node(self, keys: ClusterKeys, identity: Identity, history: History) -> GossipNode:
        """Build the node as it was when the journal was last written, with counters above all that it used then."""
        return GossipNode(
            config=_PROFILES[self._config.timing](),
            node_id=self._local,
            address=(self._host, self._config.gossip_port),
            record_port=self._config.record_port,
            meta=self._config.name.encode(),
            history=history,
            keyring=self._ring.keyring,
            label=bytes.fromhex(keys.cluster_id),
            identity=identity,
            rng=random.SystemRandom(),
            now=trio.current_time(),
            join_handler=partial(EntryConversation, self.invitations.converse, self._readmissions.converse),
        )

    async def run(self, answer: Callable[[HostId, bytes], Awaitable[bytes]]) -> None:
        """Run until cancelled. `answer` returns the response to a peer's request."""
        self._answer = answer
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._intake.run)
            self._nursery.start_soon(self._driver.run)
            self._nursery.start_soon(self.participation.run)
            self._nursery.start_soon(self.remote_networks.run)
            self._nursery.start_soon(self._release_held_evictions)
            self._nursery.start_soon(self._collect_tombstones)
            # The gossip reports only others; we put ourselves into the view.
            self._live.update_view(lambda view: view.with_member(self.node.members()[self._local]))

    async def _release_held_evictions(self) -> None:
        task = PeriodicTask(LOOK_S)
        while True:
            await task.wait()
            self.event_queue.release_held_evictions()

    async def _collect_tombstones(self) -> None:
        # Not all hosts at the same time, nor soon after the start, when we may learn of a history that we lost.
        await trio.sleep(COLLECT_S * random.SystemRandom().uniform(0.5, 1.5))
        await PeriodicTask(COLLECT_S).run(
            self.publisher.collect_tombstones,
            logger,
            "cannot drop the tombstones of withdrawn records",
            COLLECT_S,
        )

    def set_seeds(self, seeds: Sequence[Address]) -> None:
        """Set the gossip addresses to dial for ever."""
        self.node.membership.set_seeds(seeds, trio.current_time())
        self.flush()

    def move(self, host: str, sockets: NodeSockets | None) -> None:
        """Change the address at which others reach us; `sockets` if it needs other ones than before."""
        if sockets is not None:
            self._driver.rebind(sockets)
        self.node.membership.set_address((host, self._config.gossip_port), trio.current_time())
        self.flush()
        self._host = host

    def probe_soon(self, host_id: HostId) -> None:
        """Probe this host's agent soon, because its kernel does not answer."""
        self.node.membership.probe_soon(host_id, trio.current_time())
        self.flush()

    async def wait_synced(self) -> None:
        """Wait until a peer has sent all that it knows of the cluster's scope."""
        while not self.event_queue.synced:
            await trio.sleep(0.02)

    async def wait_caught_up(self) -> None:
        """Wait, after a start, until peers have sent all that they know of the cluster's scope and of the networks'
        that were resumed."""
        while not (self.event_queue.synced and self.participation.has_caught_up):
            await trio.sleep(0.02)

    async def wait_heard(self) -> frozenset[str]:
        """Wait until every live host has what we wrote in the cluster's scope, at most HEARD_S. Return those that
        lack it."""
        with trio.move_on_after(HEARD_S):
            while self.node.records.unacknowledged(CLUSTER_SCOPE):
                await trio.sleep(0.01)
        return self.node.records.unacknowledged(CLUSTER_SCOPE)

    async def leave(self) -> None:
        """Leave the membership, and wait until the others know."""
        self.node.membership.leave(trio.current_time())
        self.flush()
        while not self.node.membership.has_left(trio.current_time()):
            await trio.sleep(0.02)

    # -- what the gossip asks for ------------------------------------------------------------------------------

    def _credentials(self) -> Credentials:
        keys = self._keys
        members = [m.address for m in self.node.members().values() if m.node_id != self._local]
        own = (self._host, self._config.gossip_port)
        introduced = (own, *members[: MAX_INTRODUCED - 1])
        return Credentials(
            keys.cluster_id,
            keys.cluster,
            keys.domain,
            self.keeper.keys_for_newcomers(),
            introduced,
            encrypts=stage_of(self._live.view, self._live.view.local) is EncryptionStage.FENCED,
            allows_unsigned=self._ring.keys.allows_unsigned,
        )

    def _why_not_yet(self) -> str:
        changes = "the ring key is being changed, because a revoked host may know it"
        return "" if self.keeper.keys_for_newcomers() else changes

    def _note_admitted(self, node_id: NodeId, name: str) -> None:
        admitted = event(EventKind.MEMBER, name)
        logger.info("admitted %s (%s) to the cluster", name, node_id[:8], extra=admitted)
        self.keeper.note_admitted(node_id)

    def _may_return(self, node_id: NodeId) -> bool:
        return self.keeper.may_return(node_id)

    def _refusal_of(self, identity: Identity, node_id: NodeId) -> str:
        """Return what a revoked host gets that has only keys of before its revocation."""
        host = HostId(node_id)
        writer = writer_for(self._live.view, host)
        if writer is None:
            return "" if self.keeper.is_caught_up else _CATCHING_UP
        # Signed once: anyone can name the host.
        if (host, writer) not in self._refusals:
            self._refusals[host, writer] = refusal_text(identity, self._keys.cluster_id, host, writer)
        return self._refusals[host, writer]

    def _note_returned(self, peer: PeerRing) -> None:
        self.keeper.note_returned(peer)

    def record_address(self, host_id: HostId) -> Address | None:
        """Return where a host takes records; None if that is not known."""
        member = self.node.membership.members().get(host_id)
        return None if member is None else record_address(member)

    def _has_entered(self, network_id: NetworkId) -> bool:
        # Not a bound method of the participation, which is built after what asks for this.
        return self.participation.has_entered(network_id)

    def _forget_replicas(self, scope: Scope) -> None:
        self.event_queue.forget_scope(scope)
        self._intake.note()
        for log in self.node.records.logs(scope):
            if log.owner != self._local:
                self._journal.note_replica_dropped(scope, log.owner)

    def _note_events(self, events: tuple[Event, ...]) -> None:
        self.event_queue.handle(events)
        self._intake.note()
        for one in events:
            if isinstance(one, RefusalHeard):
                self.note_refused(one.text)
        # A refutation raises it, and the next start must begin above.
        if self.node.membership.incarnation != self._incarnation:
            self._incarnation = self.node.membership.incarnation
            self._journal.note_incarnation(self._incarnation)

    def _note_request(self, event: RequestReceived) -> None:
        self.rpc.note_request(event, self._nursery, self._answer)

    def _note_raised(self, event: OwnLogRaised) -> None:
        self._nursery.start_soon(self._write_raised, event)

    def note_refused(self, text: str) -> None:
        """Note what a member said to this host, if it is the refusal of a revoked one."""
        if self.refused is not None:
            return
        refusal = read_refusal_untrusted(text, self._keys.cluster_id, self._local)
        if refusal is not None and is_believed(refusal, self._live.view):
            self.refused = refusal
            self._live.note_change()

    async def _write_raised(self, event: OwnLogRaised) -> None:
        try:
            await self.publisher.own_log_raised(event)
        except (DiskFullError, JournalError) as error:
            # Peers raise it once more after the next start, which then begins below.
            logger.warning("cannot journal the raised log of scope %s: %s", event.scope.hex()[:8], error)


def open_ports(config: Config, host: str) -> NodeSockets:
    """Open the gossip's sockets, on the configured address or else on `host`. FailedError when another program has a
    port."""
    try:
        return open_sockets(config.bind or host, config.gossip_port, config.record_port)
    except GossipUsageError as error:
        raise FailedError(
            str(error),
            code="port-in-use",
            thing="ports",
            hint="stop that program, or set gossip_port and record_port",
        ) from None
