"""Several hosts' allocators, wired by hand: records reach others only when a test delivers them."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

import trio
import trio.testing

from fakes.memory_journal import MemoryJournal
from fakes.record_node import FakeNode
from fakes.registry import N1, event, host, identifier, network
from fakes.rows import reserve
from netagent.ipam.allocator import Allocator
from netagent.ipam.space import share_out
from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import HostId
from netagent.registry.publish import Publisher
from netagent.registry.view import RegistryView
from netgossip.types import EntriesChanged, Log, Scope, Version

SUBNETS = ("10.1.0.0/24", "fd00:1::/64")

Backup: TypeAlias = tuple[bytes, Mapping[Scope, Log]]


class Host:
    """One agent's allocator. Its journal outlives `restart`; what it heard from others does not."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        self.cluster, self.host_id, self.name = cluster, HostId(identifier(number)), f"h{number}"
        self.journal = MemoryJournal()
        self.node = FakeNode(self.host_id)
        self.is_up = True
        self.restart()

    def restart(self) -> None:
        own = [
            event(self.host_id, *log.entries.values(), scope=log.scope)
            for log in self.node.own_logs.values()
            if log.entries
        ]
        self.view = RegistryView(self.host_id)
        for one in own:
            self.view = self.view.with_entries(one)
        self.heard = {self.host_id: len(self.node.heard)}
        publisher = Publisher(self.node, self.journal, self.hear_own)
        self.publisher = publisher
        self.allocator = Allocator(
            view=lambda: self.view,
            journal=self.journal,
            publisher=publisher,
            ask=self.ask,
            rows=self.journal.load_endpoints(),
        )

    def backup(self) -> Backup:
        """What a copy of the journal's file holds."""
        return self.journal.db.serialize(), dict(self.node.own_logs)

    def restore(self, backup: Backup) -> None:
        """A start from that copy, at which it hears all of the others, and they that its log begins anew."""
        copy, kept = backup
        self.journal.db.deserialize(copy)
        logs = [raised(log, self.node.own_logs[log.scope]) for log in kept.values()]
        self.node = FakeNode(self.host_id, logs)
        for log in logs:
            entries = tuple(log.entries.values())
            self.node.heard.append(
                EntriesChanged(log.scope, self.host_id, log.epoch, log.head, 0, entries, replaced=True)
            )
        self.restart()
        for other in self.cluster.hosts:
            other.heard[self.host_id] = 0
            other.hear(self)
            self.hear(other)

    def hear_own(self) -> None:
        self.hear(self)

    def hear(self, other: Host) -> None:
        """Take in what another host has published so far."""
        start = self.heard.get(other.host_id, 0)
        for one in other.node.heard[start:]:
            self.view = self.view.with_entries(one)
        self.heard[other.host_id] = len(other.node.heard)

    async def ask(self, host_id: HostId, payload: bytes) -> bytes | None:
        await trio.lowlevel.checkpoint()
        self.cluster.questions += 1
        peer = self.cluster.by_id[host_id]
        if not peer.is_up:
            await trio.sleep_forever()
        return await peer.allocator.grants.answer_request(self.host_id, payload)

    async def attach(self, offset: int | None = None) -> LocalEndpointRow:
        self.cluster.count += 1
        return await reserve(self.allocator, identifier(0xE000 + self.cluster.count), N1, offset)


def raised(log: Log, lost: Log) -> Log:
    """The log as its owner tells it again, above the past that it has lost."""
    entries = {
        key: dataclasses.replace(one, version=Version(lost.epoch + 1, number))
        for number, (key, one) in enumerate(log.entries.items(), 1)
    }
    return dataclasses.replace(log, epoch=lost.epoch + 1, head=len(entries), entries=entries)


class Cluster:
    """`size` hosts with a network, whose space the first has, or shares out."""

    def __init__(self, size: int, subnets: tuple[str, ...] = SUBNETS) -> None:
        self.count = self.questions = 0
        self.hosts = [Host(self, number + 1) for number in range(size)]
        self.by_id = {one.host_id: one for one in self.hosts}
        self.subnets = subnets

    async def create(self, *, shares: bool = True) -> None:
        first, *others = self.hosts
        await first.publisher.put(network(N1, subnets=self.subnets))
        if shares:
            count = 1 << (32 - int(self.subnets[0].partition("/")[2]))
            await first.publisher.put(*share_out(N1, count, [one.host_id for one in others]))
        for one in self.hosts:
            await one.publisher.put(host(one.name))
        self.settle()
        for one in self.hosts:
            await one.allocator.allocations.confirm(N1)
        self.settle()

    def settle(self) -> None:
        for one in self.hosts:
            for other in self.hosts:
                one.hear(other)

    def close(self) -> None:
        for one in self.hosts:
            one.journal.close()


def virtual(function: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test under virtual time; it gets a function that makes clusters."""

    @functools.wraps(function)
    def test(**parameters: object) -> None:
        clusters: list[Cluster] = []

        def make(size: int, subnets: tuple[str, ...] = SUBNETS) -> Cluster:
            clusters.append(Cluster(size, subnets))
            return clusters[-1]

        try:
            trio.run(
                functools.partial(function, make, **parameters),
                clock=trio.testing.MockClock(autojump_threshold=0),
            )
        finally:
            for one in clusters:
                one.close()

    names = list(inspect.signature(function).parameters.values())[1:]
    # What pytest must give; `make` is ours. The types of functions know nothing of the attribute.
    test.__signature__ = inspect.Signature(names)  # type: ignore[attr-defined]
    return test
