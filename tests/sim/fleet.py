"""Whole hosts of a simulated cluster: gossip as in netgossip.testing, and on each host what decides who is hidden.

Membership, liveness, inquiry, questions' bytes and the registry's view are the ones that run in production; the echo
between two kernels is made here, with the loss of the cluster's network each way. A host has a kernel, which answers
echoes while the host has power, and an agent, which may be away while the kernel answers.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from netagent.eviction.liveness_quorum import look_into
from netagent.model.ids import HostId, NetworkId
from netagent.model.records import Record
from netagent.probes.echo import TESTIMONY_S
from netagent.probes.liveness import Liveness, LivenessReport
from netagent.probes.liveness_votes import LivenessVotes, WitnessQuestion
from netagent.registry.record_codec import encode, key_of, scope_of
from netagent.registry.view import AgentState, RegistryView
from netagent.rpc import messages
from netgossip.config import GossipConfig
from netgossip.node import GossipNode
from netgossip.testing import SimCluster, SimHost
from netgossip.types import (
    CLUSTER_SCOPE,
    EntriesChanged,
    Event,
    Member,
    MemberChanged,
    MemberReaped,
    RequestReceived,
    ResponseReceived,
)

PATIENCE_S = 1.5


@dataclass(slots=True)
class Hiding:
    """One host is hidden on another one."""

    at: float
    observer: str
    host: str


@dataclass(slots=True)
class _Held:
    event: RequestReceived
    hosts: tuple[HostId, ...]
    since: float


@dataclass(slots=True)
class Whole:
    """One host."""

    sim: SimHost
    view: RegistryView
    liveness: Liveness
    inquiry: LivenessVotes
    has_power: bool = True
    wake_at: float = float("inf")
    held: list[_Held] = field(default_factory=list)
    asked: dict[int, WitnessQuestion] = field(default_factory=dict)
    hidden: set[HostId] = field(default_factory=set)
    echoes: int = 0
    questions: int = 0


def _settle(node: GossipNode) -> None:
    """As if the node had been together with the others for long: they need not be dialled, nor asked for records.

    They do not greet each other on the record channel either, as hosts of a cluster have; who asks a witness for the
    first time does so then, which costs a round trip more than it would. 300 hosts meeting at once take minutes here.
    """
    node.membership._state_updates.unconfirmed.clear()
    node.records._anti_entropy.synced(CLUSTER_SCOPE)
    for key in list(node.records._anti_entropy._tries):
        node.records._anti_entropy._end(key)
    node.records._transport._handshakes._waiting.clear()


class Fleet:
    """Hosts that know each other from the start, as after a long time together. The same seed is the same run."""

    def __init__(self, *, seed: int, hosts: int, loss: float = 0.0) -> None:
        self.cluster = SimCluster(seed=seed, loss=loss, config=GossipConfig.lan())
        self.rng = random.Random(f"{seed} fleet")
        self.hidings: list[Hiding] = []
        self.false: list[Hiding] = []
        self.shown: list[Hiding] = []
        self.echo_cuts: set[tuple[str, str]] = set()
        self.hosts: dict[str, Whole] = {}
        self.by_id: dict[HostId, Whole] = {}
        print(f"seed {seed}")
        self._start(hosts)

    def _start(self, count: int) -> None:
        names = [f"n{number}" for number in range(1, count + 1)]
        for name in names:
            sim = self.cluster.add(name, seeds=())
            one = Whole(
                sim,
                RegistryView(HostId(sim.node_id)),
                Liveness(random.Random(f"{self.cluster.seed} {name} liveness")),
                LivenessVotes(random.Random(f"{self.cluster.seed} {name} inquiry")),
            )
            self.hosts[name] = self.by_id[HostId(sim.node_id)] = one
        members = [self.hosts[name].sim.running.members()[self.hosts[name].sim.node_id] for name in names]
        for name in names:
            self.start_agent(name, members)

    # -- what happens to hosts ---------------------------------------------------------------------------------

    def power_off(self, name: str) -> None:
        """Agent and kernel are gone at once."""
        self.stop_agent(name)
        self.hosts[name].has_power = False

    def stop_agent(self, name: str) -> None:
        """The kernel goes on."""
        self.cluster.crash(name)

    def start_agent(self, name: str, members: list[Member] | None = None) -> None:
        """Begin another life of the agent, and give the host power if it has none."""
        one = self.hosts[name]
        one.has_power = True
        for member in members or ():
            if member.node_id != one.sim.node_id:
                one.sim.disk.members[member.node_id] = member
        one.sim.on_event = None
        self.cluster.restart(name)
        one.sim.on_event = lambda event: self._take(one, event)
        if members is not None:
            _settle(one.sim.running)
        one.view = RegistryView(HostId(one.sim.node_id))
        for member in one.sim.running.members().values():
            one.view = one.view.with_member(member)
        one.liveness = Liveness(random.Random(f"{self.cluster.seed} {name} liveness"))
        one.held.clear()
        one.asked.clear()
        self._follow(one)

    def publish(self, name: str, *records: Record) -> None:
        """Have a host write records of its own."""
        for record in records:
            scope, key = key_of(record)
            self.hosts[name].sim.put(scope, key, encode(record))

    def take_part(self, network_id: NetworkId) -> None:
        """Every host receives the network's records."""
        scope, all_ids = scope_of(network_id), frozenset(self.by_id)
        for one in self.hosts.values():
            one.sim.enter(scope)
            with one.sim.commanding() as node:
                node.records.set_scope_members(scope, all_ids, self.cluster.now)

    # -- one host's work ---------------------------------------------------------------------------------------

    def _take(self, one: Whole, event: Event) -> None:
        now = self.cluster.now
        match event:
            case MemberChanged(member=member):
                one.view = one.view.with_member(member)
                self._follow(one)
            case EntriesChanged():
                one.view = one.view.with_entries(event)
            case MemberReaped(node_id=node_id):
                one.view = one.view.without_member(HostId(node_id))
                self._follow(one)
            case RequestReceived(payload=payload):
                hosts = messages.parse_silent_untrusted(payload)
                for host_id in hosts:
                    one.liveness.look(host_id, now)
                one.held.append(_Held(event, hosts, now))
                self.cluster.at(now + TESTIMONY_S, lambda: self._work(one))
            case ResponseReceived(request_id=number, payload=answer):
                asked = one.asked.pop(number)
                words = messages.parse_testimony_untrusted(answer, asked.hosts) if answer else {}
                one.inquiry.handle_testimony(asked, words, now)
                self._judge(one)
            case _:
                return
        self._plan(one)

    def _follow(self, one: Whole) -> None:
        """What the projection does when the view changes."""
        own = one.view.local
        one.liveness.set_peers(
            {
                host_id: (host_id, host.agent is not AgentState.ALIVE)
                for host_id, host in one.view.hosts.items()
                if host_id != own and host.agent is not AgentState.LEFT
            },
            self.cluster.now,
        )
        self._plan(one)
        self._judge(one)

    def _plan(self, one: Whole) -> None:
        at = max(min(one.liveness.next_deadline(), one.inquiry.next_deadline()), self.cluster.now)
        if at < one.wake_at:
            one.wake_at = at
            self.cluster.at(at, lambda: self._wake(one, at))

    def _wake(self, one: Whole, at: float) -> None:
        if one.wake_at == at:
            one.wake_at = float("inf")
            self._work(one)

    def _work(self, one: Whole) -> None:
        if one.sim.node is None:
            return
        now = self.cluster.now
        one.liveness.handle_deadline(now)
        self._flush(one)
        self._testify(one, now)
        self._judge(one)
        self._plan(one)

    def _flush(self, one: Whole) -> None:
        while True:
            requests, changes, doubts = one.liveness.drain()
            if not (requests or changes or doubts):
                return
            for host_id in doubts:
                with one.sim.commanding() as node:
                    node.membership.probe_soon(host_id, self.cluster.now)
            for change in changes:
                one.view = one.view.with_host_answers({change.host_id: change.answers})
            one.echoes += len(requests)
            for request in requests:
                if self._is_echoed(one, self.by_id[request.host_id]):
                    one.liveness.handle_answer(request.sequence, request.address, self.cluster.now)

    def _is_echoed(self, one: Whole, other: Whole) -> bool:
        if not other.has_power or (one.sim.name, other.sim.name) in self.echo_cuts:
            return False
        return all(self.cluster.loss <= self.rng.random() for _ in range(2))

    def _testify(self, one: Whole, now: float) -> None:
        for held in list(one.held):
            words = tuple(one.liveness.word(host_id, held.since) for host_id in held.hosts)
            if LivenessReport.UNKNOWN not in words or now >= held.since + TESTIMONY_S:
                one.held.remove(held)
                with one.sim.commanding() as node:
                    node.records.respond(held.event, messages.encode_testimony(words))

    def _judge(self, one: Whole) -> None:
        now = self.cluster.now
        look_into(one.inquiry, one.view, one.liveness.missing, now)
        for asked in one.inquiry.drain():
            one.questions += 1
            with one.sim.commanding() as node:
                number = node.records.request(
                    asked.witness, messages.encode_silent(asked.hosts), now, PATIENCE_S
                )
                one.asked[number] = asked
        one.view = one.view.with_silent(one.inquiry.agreed)
        self._note_hidden(one)

    def _note_hidden(self, one: Whole) -> None:
        suspects = {
            host_id for host_id in {*one.hidden, *one.liveness.missing} if one.view.is_host_hidden(host_id)
        }
        for host_id in suspects ^ one.hidden:
            other = self.by_id[host_id]
            hiding = Hiding(self.cluster.now, one.sim.name, other.sim.name)
            if host_id in one.hidden:
                self.shown.append(hiding)
            else:
                self.hidings.append(hiding)
                if other.has_power:
                    self.false.append(hiding)
        one.hidden = suspects
