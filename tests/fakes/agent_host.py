"""A host's use-cases over real registry, ipam, publisher and participation; kernel, resolver and wire are pretended.

steps       every call that leaves the use-case, by name, in order; one of them can be made to fail or to hang
Fabric      joins several hosts: records arrive after a latency, acknowledgements as late again
"""

from __future__ import annotations

import dataclasses
import functools
import os
import random
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence, Set
from pathlib import Path
from typing import Final, TypeAlias

import pytest
import trio

from fakes.memory_journal import MemoryJournal
from fakes.record_node import FakeNode
from fakes.registry import host as host_record
from fakes.registry import identifier
from fakes.virtual import at_end
from netagent.datapath.endpoint import netns
from netagent.datapath.endpoint.attach import Attacher
from netagent.datapath.endpoint.guest_watch import GuestNews
from netagent.datapath.host.sysctls import Setting
from netagent.datapath.reconcile.desired import LocalEndpoint
from netagent.datapath.reconcile.drift import Damage, DamageKind, Drift
from netagent.endpoints import drain, resolv_conf, targets
from netagent.endpoints.context import EndpointContext
from netagent.endpoints.garbage_collector import GarbageCollector
from netagent.endpoints.interfaces import Interfaces
from netagent.endpoints.lifecycle import Endpoints
from netagent.endpoints.network_defaults import NetworkConstraints
from netagent.endpoints.networks import Networks
from netagent.errors import RefusedError
from netagent.eviction.downtime import Downtime
from netagent.eviction.evict import Eviction
from netagent.integrations.cluster_access import ClusterAccess
from netagent.ipam.allocator import Allocator
from netagent.journal.rows import LocalEndpointRow
from netagent.journal.statements import Statement
from netagent.membership.participation import Participation
from netagent.model.ids import ClusterId, EndpointId, HostId, NetworkId
from netagent.model.sandbox import Netns, SandboxId
from netagent.projection.controller import Projection
from netagent.projection.resolver_sockets import ResolverSockets
from netagent.registry.publish import Publisher
from netagent.registry.state_store import StateStore
from netagent.registry.view import AgentState, RegistryView
from netagent.services.address_keeper import ServiceAddressKeeper
from netagent.services.addresses import ServiceAddresses
from netagent.state_dir import ClusterKeys
from netgossip.types import CLUSTER_SCOPE, EntriesChanged, Entry, Member, MemberState, NodeId, Scope


class Hang:
    """What is asked never answers."""


HANG: Final = Hang()
BOOT = "11111111-2222-3333-4444-555555555555"
DOMAIN = "mesh.internal"
CLUSTER_ID = ClusterId("c1" * 16)

Fault: TypeAlias = tuple[int | str, Exception | Hang]
Identity: TypeAlias = tuple[int, int]


class Steps:
    """What was done, in order. `fault` is (position, what): an exception to raise, or HANG."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.fault: Fault | None = None
        self.reached = trio.Event()
        self.delay_s = dict[str, Callable[[], float]]()

    async def __call__(self, name: str) -> None:
        await trio.lowlevel.checkpoint()
        position = len(self.done)
        self.done.append(name)
        if name in self.delay_s:
            await trio.sleep(self.delay_s[name]())
        if self.fault is not None and self.fault[0] in {position, name}:
            what, self.fault = self.fault[1], None
            self.reached.set()
            if isinstance(what, Hang):
                await trio.sleep_forever()
            raise what


class StepJournal(MemoryJournal):
    def __init__(self, steps: Steps) -> None:
        super().__init__()
        self._steps = steps

    async def transaction(self, statements: Sequence[Statement], *, grows: bool = False) -> list[int]:
        await self._steps("journal")
        return await super().transaction(statements, grows=grows)


class LinkedNode(FakeNode):
    """Records reach the fabric; scopes are entered and left."""

    def __init__(self, owner: HostId) -> None:
        super().__init__(owner)
        self.scopes: dict[Scope, frozenset[NodeId]] = {}
        self.on_enter: Callable[[Scope], None] = lambda scope: None
        self.acknowledged: dict[NodeId, int] = {}
        self.peer_heads: dict[NodeId, int] = {}
        self.received: dict[NodeId, int] = {}
        self.is_waited_for: Callable[[NodeId], bool] = lambda peer: True

    def commit(self, entries: tuple[Entry, ...], now: float) -> None:
        """One change is one delta of each scope."""
        before = len(self.heard)
        super().commit(entries, now)
        deltas: dict[Scope, EntriesChanged] = {}
        for one in self.heard[before:]:
            earlier = deltas[one.scope].entries if one.scope in deltas else ()
            deltas[one.scope] = dataclasses.replace(one, entries=(*earlier, *one.entries))
        self.heard[before:] = deltas.values()

    def set_scope_members(self, scope: Scope, node_ids: frozenset[NodeId], now: float) -> None:
        self.scopes[scope] = node_ids

    def enter_scope(self, scope: Scope, now: float) -> None:
        self.on_enter(scope)

    def exit_scope(self, scope: Scope) -> None:
        del self.scopes[scope]

    def head(self, scope: Scope = CLUSTER_SCOPE) -> int:
        log = self.own_logs.get(scope)
        return log.head if log else 0

    def drop_own_log(self, scope: Scope) -> None:
        assert scope not in self.scopes, "a scope is left before our own log of it is dropped"
        super().drop_own_log(scope)

    def catch_up(self, scope: Scope, now: float) -> None:
        """All that is sent arrives: no host knows what others do not."""

    def ahead(self, scope: Scope) -> frozenset[NodeId]:
        return frozenset()

    def caught_up(self, scope: Scope) -> None:
        pass

    def unacknowledged(self, scope: Scope) -> frozenset[NodeId]:
        """As GossipNode: who lacks our head, or whose own head, sent with its acknowledgement, we lack."""
        return frozenset(
            peer
            for peer in self.acknowledged
            if self.is_waited_for(peer)
            and (
                self.acknowledged[peer] < self.head(scope)
                or self.received.get(peer, 0) < self.peer_heads.get(peer, 0)
            )
        )


class FakeAttacher(Attacher):
    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self.devices: dict[EndpointId, str] = {}
        self.bound: list[LocalEndpoint] = []
        self.damages: list[Damage] = []
        self.news: dict[Identity, FakeNews] = {}
        """By namespace, those that are open."""
        self.has_moved = True

    async def bind(self, endpoint: LocalEndpoint) -> str:
        await self._steps("bind")
        self.devices[endpoint.endpoint_id] = endpoint.ifname or f"eth{len(self.devices)}"
        self.bound.append(endpoint)
        return self.devices[endpoint.endpoint_id]

    async def repair(self, endpoint: LocalEndpoint) -> list[Damage]:
        await self._steps("repair")
        damages, self.damages = self.damages, []
        if endpoint.endpoint_id not in self.devices:
            ifname = endpoint.ifname or "eth0"
            damages.append(Damage(DamageKind.DEVICE_DELETED, ifname))
            self.devices[endpoint.endpoint_id] = ifname
        return damages

    async def open_news(self, netns: Netns) -> FakeNews:
        await self._steps("news")
        self.news[netns.identity] = FakeNews(self.news, netns.identity)
        return self.news[netns.identity]

    async def create(self, endpoint: LocalEndpoint) -> str:
        await self._steps("create")
        self.devices[endpoint.endpoint_id] = f"nc{endpoint.endpoint_id[:8]}"
        return self.devices[endpoint.endpoint_id]

    async def has_entered(self, endpoint: LocalEndpoint) -> bool:
        await self._steps("entered")
        return self.has_moved

    async def unbind(self, endpoint_id: EndpointId) -> None:
        await self._steps("unbind")
        self.devices.pop(endpoint_id, None)

    async def list_endpoint_devices(self) -> dict[EndpointId, str]:
        await self._steps("list")
        return dict(self.devices)


class FakeNews(GuestNews):
    """`tell` is what the kernel would do."""

    def __init__(self, every: dict[Identity, FakeNews], identity: Identity) -> None:
        self._every, self._identity = every, identity
        self._news = trio.Event()
        self.alterations = 0
        """Readings of the settings that will show others than wanted."""

    def tell(self) -> None:
        self._news.set()

    async def wait(self) -> None:
        await self._news.wait()
        self._news = trio.Event()

    def clear(self) -> None:
        if self._news.is_set():  # else a task may wait for it
            self._news = trio.Event()

    def are_altered(self, settings: Sequence[Setting]) -> bool:
        self.alterations -= 1
        return self.alterations >= 0

    def close(self) -> None:
        self._every.pop(self._identity, None)


class FakeResolvers(ResolverSockets):
    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self.sandboxes: set[SandboxId] = set()

    async def ensure_listening(self, sandbox: SandboxId, netns_fd: int, *, behind_runtime: bool) -> None:
        os.fstat(netns_fd)
        await self._steps("listen")
        self.sandboxes.add(sandbox)

    async def remove_sandbox(self, sandbox: SandboxId) -> None:
        await self._steps("silence")
        self.sandboxes.discard(sandbox)

    async def keep_only(self, wanted: Set[SandboxId]) -> None:
        self.sandboxes &= wanted

    async def repair(self) -> None:
        await trio.lowlevel.checkpoint()


def _running(kind: str) -> Callable[[str], Awaitable[targets.Target]]:
    async def find(name: str) -> targets.Target:
        return targets.Target(f"{kind}:{name}", str(targets.NETNS_FOLDER / name), name)

    return find


RUNNING = {kind: _running(kind) for kind in ("docker", "podman", "unit", "machine")}
"""Every container runs, in the namespace of its name."""


class FakeProjection(Projection):
    def __init__(self, steps: Steps) -> None:
        self._taken = steps
        self.trouble: dict[str, str] = {}
        self.guard_trouble = ""

    async def wait_followed(self, revision: int) -> None:
        await self._taken("followed")

    async def wait_in_kernel(self, devices: Collection[str], revision: int) -> None:
        await self._taken("programmed")

    async def wait_guarded(self, revision: int) -> str:
        await self._taken("guarded")
        return self.guard_trouble

    def trouble_with(self, device: str) -> str | None:
        return self.trouble.get(device)


def netns_of(row: LocalEndpointRow) -> Netns:
    """Of an endpoint that is no reservation."""
    assert row.netns is not None
    return row.netns


class AgentHost:
    """One host. `restart` begins a new life with the same disk, kernel and resolver."""

    def __init__(self, number: int = 1, fabric: Fabric | None = None) -> None:
        self.host_id, self.name = HostId(identifier(number)), f"h{number}"
        self.steps = Steps()
        self.journal = StepJournal(self.steps)
        at_end(self.journal.close)
        self.node = LinkedNode(self.host_id)
        self.attacher = FakeAttacher(self.steps)
        self.resolvers = FakeResolvers(self.steps)
        self.projection = FakeProjection(self.steps)
        self.fabric = fabric
        self.is_syncing = True
        self.unix_s: Callable[[], int] = lambda: 1_700_000_000 + int(trio.current_time())
        self.forgotten_scopes: list[Scope] = []
        self.keys = ClusterKeys(CLUSTER_ID, "mesh", DOMAIN, (bytes(32),))
        self.egress_interfaces: Callable[[], frozenset[str]] = frozenset
        self.restart()

    async def _wait_hidden(self, row: LocalEndpointRow) -> None:
        await self.steps("hidden")

    def restart(self, *, boot_id: str = BOOT) -> None:
        view = RegistryView(self.host_id)
        for event in self.node.heard:
            view = view.with_entries(event)
        self._told = len(self.node.heard)
        self.live = StateStore(view, {row.endpoint_id: row for row in self.journal.load_endpoints()})
        self.publisher = Publisher(self.node, self.journal, self.flush)
        self.participation = Participation(
            self.node, self.publisher, self.live, lambda: None, forget=self.forgotten_scopes.append
        )
        self.node.on_enter = self._note_entered
        self.allocator = Allocator(
            view=lambda: self.live.view,
            journal=self.journal,
            publisher=self.publisher,
            ask=self._ask,
            rows=self.journal.load_endpoints(),
            unix_s=self.unix_s,
        )
        self.context = EndpointContext(
            live=self.live,
            journal=self.journal,
            publisher=self.publisher,
            allocator=self.allocator,
            participation=self.participation,
            attacher=self.attacher,
            resolvers=self.resolvers,
            projection=self.projection,
            wait_hidden=self._wait_hidden,
            runtimes=RUNNING,
            domain=DOMAIN,
            boot_id=boot_id,
        )
        self.endpoints = Endpoints(self.context)
        self.garbage_collector = GarbageCollector(self.endpoints)
        self.downtime = Downtime({})
        self.eviction = Eviction(
            self.live, self.publisher, self.node, self.allocator, self.downtime, self.flush
        )
        self.drift = Drift()
        self.interfaces = Interfaces(self.live, self.attacher, self.endpoints.context, self.drift)
        self.networks = Networks(
            self.live,
            self.publisher,
            self.node,
            self.participation,
            surroundings=self._surroundings,
            sweep=self.garbage_collector.sweep,
        )
        self.service_addresses = ServiceAddresses(
            self.live,
            self.publisher,
            self.allocator.services,
            surroundings=self._surroundings,
            is_closed=lambda: self.context.is_closed,
        )
        self.keeper = ServiceAddressKeeper(
            live=self.live,
            addresses=self.service_addresses,
            publisher=self.publisher,
            participation=self.participation,
            journal=self.journal,
            unix_s=self.unix_s,
        )
        self.access = ClusterAccess(
            self.live, self.endpoints, self.networks, self.keys, self.egress_interfaces
        )

    def _note_entered(self, scope: Scope) -> None:
        if self.is_syncing:
            self.participation.note_synced(NetworkId(scope.hex()))

    async def _ask(self, host_id: HostId, payload: bytes) -> bytes | None:
        await trio.lowlevel.checkpoint()
        return None if self.fabric is None else await self.fabric.ask(self, host_id, payload)

    def _surroundings(self, view: RegistryView) -> NetworkConstraints:
        return NetworkConstraints(
            cluster_id=CLUSTER_ID,
            pools=("10.160.0.0/12",),
            networks=tuple(network.record for network in view.networks.values()),
            hosts=(),
            underlay="192.0.2.1",
            underlay_mtu_bytes=1500,
            tunnel_bytes=80,
            ranges=view.range_records,
        )

    def flush(self) -> None:
        for event in self.node.heard[self._told :]:
            self.live.update_view(lambda view: view.with_entries(event))
            if self.fabric is not None:
                self.fabric.spread(self, event)
        self._told = len(self.node.heard)

    def hear(self, event: EntriesChanged) -> None:
        """What another host wrote arrives."""
        self.live.update_view(lambda view: view.with_entries(event))

    def meet(self, host_id: HostId, state: MemberState = MemberState.ALIVE) -> None:
        member = Member(host_id, ("192.0.2.9", 7956), state, 1)
        self.live.update_view(lambda view: view.with_member(member))

    def own_endpoints(self) -> set[EndpointId]:
        view = self.live.view
        every = [*view.endpoints.values(), *view.fenced.values()]
        return {EndpointId(one.endpoint_id) for one in every if one.owner == self.host_id}

    def traces(self) -> dict[str, object]:
        """All that an endpoint leaves behind, wherever; empty when nothing is left."""
        left: dict[str, object] = {
            "journal": self.journal.load_endpoints(),
            "rows": dict(self.live.rows),
            "interfaces": dict(self.attacher.devices),
            "resolver": set(self.resolvers.sandboxes),
            "news": dict(self.attacher.news),
            "records": self.own_endpoints(),
            "locks": len(self.endpoints.context.locks),
            "names": len(self.endpoints.context.claims),
            "resolv.conf": sorted(str(one) for one in resolv_conf.NETNS_ETC.rglob("*") if one.is_file()),
        }
        return {what: value for what, value in left.items() if value}


class Fabric:
    """Hosts that all see each other alive. Everything that is sent arrives, in order for each pair; what a cut keeps,
    when it heals. Questions across it are not answered."""

    def __init__(self, nursery: trio.Nursery, size: int, rng: random.Random | None = None) -> None:
        self._nursery = nursery
        self.rng = rng or random.Random(1)
        self._arrivals: dict[tuple[AgentHost, AgentHost], float] = {}
        self._sides: dict[HostId, int] = {}
        self._kept: list[tuple[AgentHost, AgentHost, EntriesChanged]] = []
        self.latency_s: Callable[[], float] = lambda: self.rng.uniform(0.0002, 0.002)
        self.loses: Callable[[AgentHost, AgentHost], bool] = lambda sender, target: False
        """Whether what one sends to another never arrives."""
        self.hosts = [AgentHost(number + 1, self) for number in range(size)]
        for one in self.hosts:
            for other in self.hosts:
                one.meet(other.host_id)
                if other is not one:
                    one.node.acknowledged[other.host_id] = 0
            one.node.is_waited_for = functools.partial(_sees_alive, one)

    async def tell_hosts(self) -> None:
        """Every host's record is on every host."""
        for one in self.hosts:
            await one.publisher.put(host_record(one.name))
        while any(one.node.unacknowledged(CLUSTER_SCOPE) for one in self.hosts):
            await trio.sleep(0.001)

    def spread(self, sender: AgentHost, event: EntriesChanged) -> None:
        for target in self.hosts:
            if target is not sender:
                # The time is fixed now: tasks begin in any order.
                at = self._arrival(sender, target)
                self._nursery.start_soon(self._carry, sender, target, event, at)

    async def ask(self, sender: AgentHost, host_id: HostId, payload: bytes) -> bytes | None:
        await trio.sleep(self.latency_s())
        (target,) = (one for one in self.hosts if one.host_id == host_id)
        if self._is_cut(sender, target):
            return None
        return await target.allocator.grants.answer_request(sender.host_id, payload)

    def cut(self, *sides: Iterable[AgentHost]) -> None:
        """Those of different sides see each other die."""
        self._sides = {one.host_id: number for number, side in enumerate(sides) for one in side}
        self._see(MemberState.DEAD)

    def heal(self) -> None:
        """They see each other alive, and hear what was kept."""
        self._see(MemberState.ALIVE)
        self._sides = {}
        kept, self._kept = self._kept, []
        for sender, target, event in kept:
            self._nursery.start_soon(self._carry, sender, target, event, self._arrival(sender, target))

    def _see(self, state: MemberState) -> None:
        for one in self.hosts:
            for other in self.hosts:
                if self._is_cut(one, other):
                    one.meet(other.host_id, state)

    def _is_cut(self, one: AgentHost, other: AgentHost) -> bool:
        return self._sides.get(one.host_id) != self._sides.get(other.host_id)

    async def _carry(self, sender: AgentHost, target: AgentHost, event: EntriesChanged, at: float) -> None:
        await trio.sleep_until(at)
        if self.loses(sender, target):
            return
        if self._is_cut(sender, target):
            self._kept.append((sender, target, event))
            return
        target.hear(event)
        if event.scope == CLUSTER_SCOPE:
            # Two that a cut has kept arrive so close to each other that either may be heard first.
            received = target.node.received
            received[sender.host_id] = max(received.get(sender.host_id, 0), event.head)
            reported = target.node.head()
            await trio.sleep_until(self._arrival(target, sender))
            node = sender.node
            node.acknowledged[target.host_id] = max(node.acknowledged[target.host_id], event.head)
            node.peer_heads[target.host_id] = max(node.peer_heads.get(target.host_id, 0), reported)

    def _arrival(self, source: AgentHost, target: AgentHost) -> float:
        at = trio.current_time() + self.latency_s()
        at = max(at, self._arrivals.get((source, target), 0.0) + 1e-6)
        self._arrivals[source, target] = at
        return at


def _sees_alive(one: AgentHost, peer: NodeId) -> bool:
    return one.live.view.hosts[HostId(peer)].agent is AgentState.ALIVE


class Namespaces:
    """Files in the place of network namespaces: all that the use-cases look at is their identity."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder / "netns"
        self.folder.mkdir()
        (folder / "etc").mkdir()
        monkeypatch.setattr(targets, "NETNS_FOLDER", self.folder)
        monkeypatch.setattr(resolv_conf, "NETNS_ETC", folder / "etc")
        monkeypatch.setattr(netns, "open_netns", self._open)
        monkeypatch.setattr(drain, "has_connection", self._has_connection)

    def make(self, *names: str) -> None:
        for name in names:
            (self.folder / name).touch()

    def remove(self, name: str) -> None:
        (self.folder / name).unlink()

    def replace(self, name: str) -> None:
        """Another namespace under the same name."""
        (self.folder / "new").touch()
        (self.folder / "new").replace(self.folder / name)

    @staticmethod
    async def _has_connection(*_: object) -> bool:
        return False

    @staticmethod
    def _open(path: str) -> int:
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise RefusedError(f"no network namespace at {path}", code="namespace-gone") from None
