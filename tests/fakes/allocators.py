"""Several hosts' allocators, wired by hand: records reach others only when a test delivers them."""

from __future__ import annotations

import dataclasses
import functools
import inspect

import trio
import trio.testing

from fakes.memory_journal import MemoryJournal
from fakes.record_node import FakeNode
from fakes.registry import N1, event, host, identifier, network
from netagent.ipam.allocator import Allocator
from netagent.ipam.space import share_out
from netagent.journal.rows import LocalEndpointRow
from netagent.registry.publish import Publisher
from netagent.registry.view import RegistryView
from netgossip.types import EntriesChanged, Version


class Host:
    """One agent's allocator. Its journal outlives `restart`; what it heard from others does not."""

    def __init__(self, cluster, number):
        self.cluster, self.host_id, self.name = cluster, identifier(number), f"h{number}"
        self.journal = MemoryJournal()
        self.node = FakeNode(self.host_id)
        self.is_up = True
        self.restart()

    def restart(self):
        own = [
            event(self.host_id, *log.entries.values(), scope=log.scope)
            for log in self.node.logs.values()
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

    def backup(self):
        """What a copy of the journal's file holds."""
        return self.journal.db.serialize(), dict(self.node.logs)

    def restore(self, backup):
        """A start from that copy, at which it hears all of the others, and they that its log begins anew."""
        copy, logs = backup
        self.journal.db.deserialize(copy)
        logs = [raised(log, self.node.logs[log.scope]) for log in logs.values()]
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

    def hear_own(self):
        self.hear(self)

    def hear(self, other):
        """Take in what another host has published so far."""
        start = self.heard.get(other.host_id, 0)
        for one in other.node.heard[start:]:
            self.view = self.view.with_entries(one)
        self.heard[other.host_id] = len(other.node.heard)

    async def ask(self, host_id, payload):
        await trio.lowlevel.checkpoint()
        self.cluster.questions += 1
        peer = self.cluster.by_id[host_id]
        if not peer.is_up:
            await trio.sleep_forever()
        return await peer.allocator.grants.answer_request(self.host_id, payload)

    async def attach(self, offset=None):
        self.cluster.count += 1
        row = LocalEndpointRow(
            endpoint_id=identifier(0xE000 + self.cluster.count), network_id=N1, name="web", service="web"
        )
        return await self.allocator.reserve(row, offset)


def raised(log, lost):
    """The log as its owner tells it again, above the past that it has lost."""
    entries = {
        key: dataclasses.replace(one, version=Version(lost.epoch + 1, number))
        for number, (key, one) in enumerate(log.entries.items(), 1)
    }
    return dataclasses.replace(log, epoch=lost.epoch + 1, head=len(entries), entries=entries)


class Cluster:
    """`size` hosts with a network, whose space the first has, or shares out."""

    def __init__(self, size, subnets=("10.1.0.0/24", "fd00:1::/64")):
        self.count = self.questions = 0
        self.hosts = [Host(self, number + 1) for number in range(size)]
        self.by_id = {one.host_id: one for one in self.hosts}
        self.subnets = subnets

    async def create(self, *, shares=True):
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

    def settle(self):
        for one in self.hosts:
            for other in self.hosts:
                one.hear(other)

    def close(self):
        for one in self.hosts:
            one.journal.close()


def virtual(function):
    """Run an async test under virtual time; it gets a function that makes clusters."""

    @functools.wraps(function)
    def test(**parameters):
        clusters = []

        def make(*args, **options):
            clusters.append(Cluster(*args, **options))
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
    test.__signature__ = inspect.Signature(names)  # what pytest must give; `make` is ours
    return test
