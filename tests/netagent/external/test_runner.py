"""Asking for external services on hosts that exchange records: exactly one asks, whichever host dies."""

from __future__ import annotations

import dataclasses
import logging
import random
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import trio
from fakes.agent_host import AgentHost, Fabric
from fakes.external import at, service, service_id, state
from fakes.virtual import virtual

from netagent.checks.ask import Question
from netagent.checks.state import Answer, Outcome
from netagent.events.channel import MARK
from netagent.external.runner import ExternalRunner
from netagent.external.turns import MAX_SERVICES
from netagent.external.view import ExternalService, external_service
from netagent.external.watch import DnsAnswer
from netagent.model.ids import HostId, NetworkId
from netagent.model.records import MAX_TURN, DnsName
from netagent.model.request import NetworkRequest
from netgossip.types import CLUSTER_SCOPE, MemberState


class Cluster:
    """Hosts whose checks and look-ups a test answers; `asked` counts them by host."""

    def __init__(self, nursery: trio.Nursery, size: int) -> None:
        self.fabric = Fabric(nursery, size, random.Random(1))
        self.hosts = self.fabric.hosts
        self.works = True
        self.text = "refused"
        self.hanging: frozenset[str] = frozenset()
        """Addresses whose checks hang until they are given up."""
        self.answer: DnsAnswer | None = DnsAnswer((("198.51.100.7", 60),))
        self.asked: Counter[HostId] = Counter()
        self.runners: dict[HostId, ExternalRunner] = {}
        self.scopes: dict[HostId, trio.CancelScope] = {}
        for one in self.hosts:
            runner = ExternalRunner(
                one.live,
                one.publisher,
                partial(self._resolve, one),
                random.Random(2),
                partial(self._ask, one),
            )
            self.runners[one.host_id] = runner
            self.scopes[one.host_id] = trio.CancelScope()
            nursery.start_soon(self._run, one.host_id)

    async def _run(self, host_id: HostId) -> None:
        with self.scopes[host_id]:
            await self.runners[host_id].run()

    async def _ask(
        self, one: AgentHost, questions: Sequence[Question], done: Callable[[int, Answer], None]
    ) -> None:
        await trio.sleep(0.01)
        async with trio.open_nursery() as nursery:
            for number, question in enumerate(questions):
                if self.hanging.isdisjoint(question.addresses):
                    self._end(one, number, question, done)
                else:
                    nursery.start_soon(self._hang, one, number, question, done)

    async def _hang(
        self, one: AgentHost, number: int, question: Question, done: Callable[[int, Answer], None]
    ) -> None:
        await trio.sleep(60)
        self._end(one, number, question, done)

    def _end(
        self, one: AgentHost, number: int, question: Question, done: Callable[[int, Answer], None]
    ) -> None:
        assert question.netns is None
        self.asked[one.host_id] += 1
        done(number, Outcome(is_success=self.works, text=self.text))

    async def _resolve(self, one: AgentHost, name: str) -> DnsAnswer | None:
        assert name == "db.example.com"
        await trio.sleep(0.01)
        self.asked[one.host_id] += 1
        return self.answer

    def kill(self, gone: AgentHost) -> None:
        self.scopes[gone.host_id].cancel()
        for one in self.hosts:
            if one is not gone:
                one.meet(gone.host_id, MemberState.DEAD)

    def seen(self, one: AgentHost, network_id: NetworkId) -> ExternalService:
        found = external_service(one.live.view, network_id, service_id(1))
        assert found is not None
        return found

    async def asked_within(self, seconds: float) -> set[HostId]:
        self.asked.clear()
        await trio.sleep(seconds)
        return set(self.asked)


def on_three(test: Any) -> Any:
    @virtual
    async def run() -> None:
        async with trio.open_nursery() as nursery:
            cluster = Cluster(nursery, 3)
            await cluster.fabric.tell_hosts()
            made, _ = await cluster.hosts[0].networks.create(NetworkRequest(name="app"))
            await test(cluster, made.network_id)
            nursery.cancel_scope.cancel()

    run.__name__ = test.__name__
    return run


@on_three
async def test_exactly_one_host_asks_and_the_state_stays_when_it_dies(
    cluster: Cluster, app: NetworkId
) -> None:
    h1, h2, h3 = cluster.hosts
    await h3.publisher.put(service(1, app, target=at("203.0.113.50"), checks=("tcp:5432 fall=2",)))
    assert await cluster.asked_within(10.0) == {h3.host_id}
    assert all(cluster.seen(one, app).answering for one in cluster.hosts)
    changes = {one.host_id: len(one.node.heard) for one in cluster.hosts}
    await trio.sleep(60)
    assert changes == {one.host_id: len(one.node.heard) for one in cluster.hosts}, (
        "only changes are published"
    )

    cluster.kill(h3)
    assert await cluster.asked_within(2.0) == set(), "it might come back, or this host know too little"
    assert await cluster.asked_within(20.0) == {h1.host_id}
    assert cluster.seen(h2, app).answering
    assert cluster.seen(h2, app).found_by == h3.host_id, "nothing changed, so nothing was published"

    cluster.works = False
    await trio.sleep(20)
    for one in (h1, h2):
        assert not cluster.seen(one, app).answering
        assert cluster.seen(one, app).found_by == h1.host_id
    cluster.works = True
    await trio.sleep(90)
    assert cluster.seen(h2, app).answering

    cluster.kill(h1)
    assert await cluster.asked_within(20.0) == {h2.host_id}
    assert cluster.seen(h2, app).answering


def test_a_change_of_health_is_told_once_however_its_words_change(caplog: pytest.LogCaptureFixture) -> None:
    @on_three
    async def scene(cluster: Cluster, app: NetworkId) -> None:
        h3 = cluster.hosts[2]
        await h3.publisher.put(service(1, app, target=at("203.0.113.50"), checks=("tcp:5432 fall=2",)))
        await trio.sleep(20)
        cluster.works = False
        await trio.sleep(20)
        cluster.text = "no route to the host 203.0.113.50"
        await trio.sleep(90)
        found = cluster.seen(h3, app).found
        assert found is not None
        assert found.states[0].reason == "no route to the host 203.0.113.50, failed 2 of 2 times"

    with caplog.at_level(logging.INFO, "netagent.external"):
        scene()
    records = [one for one in caplog.records if one.name == "netagent.external"]
    told = [one.getMessage() for one in records if hasattr(one, MARK)]
    assert told == [
        "external service pg: 203.0.113.50 healthy",
        "external service pg: 203.0.113.50 unhealthy refused, failed 2 of 2 times",
    ]


@on_three
async def test_a_name_is_resolved_by_one_host_and_its_last_answer_stands(
    cluster: Cluster, app: NetworkId
) -> None:
    h1, h2, h3 = cluster.hosts
    await h3.publisher.put(service(1, app, target=DnsName("db.example.com", 5432)))
    assert await cluster.asked_within(10.0) == {h3.host_id}
    assert [one.address for one in cluster.seen(h1, app).answering] == ["198.51.100.7"]
    cluster.answer = None
    await trio.sleep(600)
    assert [one.address for one in cluster.seen(h1, app).answering] == ["198.51.100.7"]
    cluster.kill(h3)
    cluster.answer = DnsAnswer((("198.51.100.9", 60),))
    assert await cluster.asked_within(100.0) == {h1.host_id}
    assert [one.address for one in cluster.seen(h2, app).answering] == ["198.51.100.9"]


@on_three
async def test_a_service_that_is_not_renewed_leaves_names_everywhere(
    cluster: Cluster, app: NetworkId
) -> None:
    h1, h2, h3 = cluster.hosts
    await h3.publisher.put(service(1, app, ttl_s=30))
    await trio.sleep(20)
    cluster.runners[h3.host_id].renew(service_id(1))
    await trio.sleep(20)
    assert cluster.seen(h1, app).answering
    await trio.sleep(12)
    assert not cluster.seen(h1, app).answering
    cluster.runners[h3.host_id].renew(service_id(1))
    await trio.sleep(1)
    assert cluster.seen(h2, app).answering
    cluster.kill(h3)
    await trio.sleep(60)
    assert not cluster.seen(h2, app).answering, "it cannot be renewed now"
    own = h1.live.view.records_of(h1.host_id, CLUSTER_SCOPE)
    assert cluster.seen(h2, app).found in own


@on_three
async def test_a_forged_greatest_turn_does_not_make_the_owner_write_without_end(
    cluster: Cluster, app: NetworkId
) -> None:
    h1, h2, h3 = cluster.hosts
    await h1.publisher.put(service(1, app, target=at("203.0.113.50"), checks=("tcp:5432",)))
    await trio.sleep(10)
    before = len(h2.node.heard)
    await h3.publisher.put(state(1, MAX_TURN, app))
    await trio.sleep(60)
    assert len(h2.node.heard) - before <= 4
    assert cluster.seen(h2, app).found_by == h1.host_id, "of equal turns the owner's counts"
    assert cluster.seen(h2, app).answering


@on_three
async def test_two_hosts_that_disagree_overwrite_each_other_slowly(cluster: Cluster, app: NetworkId) -> None:
    h1, h2, h3 = cluster.hosts
    await h3.publisher.put(service(1, app, target=at("203.0.113.50"), checks=("tcp:5432",)))
    await trio.sleep(10)
    cluster.kill(h3)
    cluster.works = False
    await trio.sleep(60)
    assert cluster.seen(h2, app).found_by == h1.host_id
    written, until = 0, trio.current_time() + 60
    while trio.current_time() < until:
        found = cluster.seen(h1, app)
        if found.found_by == h1.host_id:
            written += 1
            assert found.found is not None
            await h2.publisher.put(state(1, found.found.turn + 1, app))
        await trio.sleep(0.1)
    assert 4 <= written <= 7

    await h2.publisher.put(state(1, MAX_TURN, app))
    heard = len(h1.node.heard)
    await trio.sleep(60)
    assert len(h1.node.heard) == heard, "it cannot follow, and does not try"


@on_three
async def test_checks_that_hang_keep_no_other_service_and_no_name_from_its_turn(
    cluster: Cluster, app: NetworkId
) -> None:
    h1 = cluster.hosts[0]
    dead = [f"203.0.113.{number}" for number in range(100, 132)]
    cluster.hanging = frozenset(dead)
    slow = ("tcp:5432 timeout=60", "tcp:5433 timeout=60", "tcp:5434 timeout=60")
    await h1.publisher.put(service(2, app, name="slow", target=at(*dead), checks=slow))
    await trio.sleep(2)
    await h1.publisher.put(service(1, app, target=at("203.0.113.50"), checks=("tcp:5432",)))
    await h1.publisher.put(service(3, app, name="db", target=DnsName("db.example.com", 5432)))
    await trio.sleep(5)
    assert cluster.seen(h1, app).answering
    resolved = external_service(h1.live.view, app, service_id(3))
    assert resolved is not None
    assert resolved.answering


@on_three
async def test_a_stand_in_takes_over_no_more_than_a_host_may_add(cluster: Cluster, app: NetworkId) -> None:
    h1, _, h3 = cluster.hosts
    for number in range(1, MAX_SERVICES + 11):
        await h3.publisher.put(service(number, app, name=f"s{number}", ttl_s=3600))
    cluster.kill(h3)
    await trio.sleep(20)
    assert len(cluster.runners[h1.host_id].watched) == MAX_SERVICES


@on_three
async def test_a_renewal_before_the_agent_asks_is_not_lost(cluster: Cluster, app: NetworkId) -> None:
    h1 = cluster.hosts[0]
    expired = dataclasses.replace(state(1, 1, app), expired_s=1_760_000_000)
    await h1.publisher.put(service(1, app, ttl_s=30), expired)
    assert not cluster.runners[h1.host_id].watched
    assert not cluster.seen(h1, app).answering
    cluster.runners[h1.host_id].renew(service_id(1))
    await trio.sleep(1)
    assert cluster.seen(h1, app).answering
