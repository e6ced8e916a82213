"""What a feed on the host is made of, and when it is answered."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing
from fakes.registry import H1, H2, N1, N2, Writer, endpoint, host, network
from fakes.service_addresses import service_address, service_range

from netagent.commands.feed import PAUSE_S, feed, feed_table
from netagent.control.present import Presenter
from netagent.errors import FailedError, InputError, NotFoundError, RefusedError
from netagent.feeds.catalogue import FEEDS
from netagent.feeds.table import FeedState
from netagent.interface import schema
from netagent.interface.questions import FEED_HOLD_S, FEED_NAMES, FeedCommand
from netagent.model.ids import NetworkId
from netagent.model.records import AttachmentRecord, Drain, Group, Health, Port
from netagent.registry.state_store import StateStore
from netagent.registry.view import RegistryView
from netgossip.slices import at_once
from netgossip.types import Member, MemberState


def a_view() -> RegistryView:
    """Two hosts; this one is in the network app and not in the network other."""
    view = RegistryView(H1)
    here, there = Writer(H1), Writer(H2)
    view = view.with_entries(here.put(host("h1", zone="rack1"))).with_entries(there.put(host("h2")))
    view = view.with_member(Member(H2, ("192.0.2.2", 7956), MemberState.ALIVE, 1))
    for record in (
        network(N1),
        network(N2, "other", vni=2000, subnets=("10.2.0.0/24",)),
        AttachmentRecord(N1),
    ):
        view = view.with_entries(here.put(record))
    return view


class AgentWithView:
    """As much of an agent as feeds need."""

    def __init__(self, view: RegistryView) -> None:
        self.live: Any = StateStore(view, {})
        self.synced = {N1}
        self.translated: frozenset[NetworkId] = frozenset()
        self.refused: dict[bytes, str] = {}
        self.shutdown = trio.Event()

    def member(self) -> Any:
        """Return the cluster."""
        participation = SimpleNamespace(is_synced=lambda network_id: network_id in self.synced)
        remote = SimpleNamespace(
            local_overview=SimpleNamespace(view=self.live.view, gaps=(), told_by={}), is_used=False
        )
        gossip = SimpleNamespace(participation=participation, remote_networks=remote)
        members = SimpleNamespace(translates_for_host=lambda view: self.translated)
        return SimpleNamespace(
            live=self.live,
            gossip=gossip,
            keys=SimpleNamespace(domain="mesh.internal"),
            controllers=SimpleNamespace(members=members),
            kernel=SimpleNamespace(service_tables=SimpleNamespace(refused=self.refused)),
        )


@pytest.fixture
def agent() -> Any:
    return AgentWithView(a_view())


def test_the_feeds_that_users_may_type_are_those_that_there_are() -> None:
    assert tuple(FEEDS) == FEED_NAMES


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({}, FeedState.UP),
        ({"health": Health.STARTING}, FeedState.STARTING),
        ({"health": Health.UNHEALTHY}, FeedState.UNHEALTHY),
        ({"drain": Drain(1, "anna")}, FeedState.DRAINED),
    ],
)
def test_an_endpoint_is_shown_with_its_state(fields: Any, state: FeedState) -> None:
    group = Group("shop", "front")
    record = endpoint(ports=(Port("http", 80),), labels=(("a", "b"),), group=group, **fields)
    view = a_view().with_entries(Writer(H1).put(record))
    table = at_once(feed_table(Presenter(view, "mesh.internal"), [view.networks[N1]]))
    (one,) = table.endpoints
    assert table.networks == (one.network,)
    assert (one.network.name, one.network.domain) == ("app", "app.mesh.internal")
    assert (one.service, one.group, one.host, one.zone) == ("front", "shop", "h1", "rack1")
    assert (one.addresses, dict(one.labels), one.state) == (record.addresses, {"a": "b"}, state)


def test_endpoints_of_dead_hosts_are_hidden_and_of_unreached_ones_last() -> None:
    view = a_view().with_entries(Writer(H2).put(endpoint()))

    def state_in(changed: RegistryView) -> FeedState:
        return at_once(feed_table(Presenter(changed, "x"), [changed.networks[N1]])).endpoints[0].state

    assert state_in(view.with_unreached(frozenset({H2}))) is FeedState.UNREACHED
    assert (
        state_in(view.with_member(Member(H2, ("192.0.2.2", 7956), MemberState.LEFT, 2))) is FeedState.HIDDEN
    )


def test_endpoints_of_a_drained_host_are_drained() -> None:
    there = Writer(H2)
    there.sequence = 1  # a_view() wrote its first record
    view = a_view().with_entries(there.put(host("h2", drain=Drain(1, "anna"))))
    view = view.with_entries(there.put(endpoint()))
    table = at_once(feed_table(Presenter(view, "x"), [view.networks[N1]]))
    assert [one.state for one in table.endpoints] == [FeedState.DRAINED]


def ask(agent: Any, **fields: Any) -> schema.Feed:
    """Ask in simulated time."""
    return trio.run(feed, agent, FeedCommand(**fields), clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_feed_has_the_networks_of_this_host(agent: Any) -> None:
    answer = ask(agent, feed="services")
    assert answer["networks"] == ["app"]
    assert answer["content"]["items"] == []
    assert ask(agent, feed="services", network="app")["tag"] == answer["tag"]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"feed": "nginx"}, NotFoundError),
        ({"feed": "services", "network": "none"}, NotFoundError),
        ({"feed": "services", "network": "other"}, RefusedError),
    ],
)
def test_what_is_not_there_is_refused(agent: Any, fields: dict[str, str], error: type[Exception]) -> None:
    with pytest.raises(error):
        ask(agent, **fields)


def test_own_addresses_of_services_are_given_to_programs_for_which_they_are_translated(agent: Any) -> None:
    record = endpoint(labels=(("traefik.http.services.s.loadbalancer.server.port", "80"),))
    agent.live.update_view(lambda view: view.with_entries(Writer(H1).put(record)))

    def servers(**fields: str) -> list[dict[str, str]]:
        content = ask(agent, feed="traefik", **fields)["content"]
        found: list[dict[str, str]] = content["http"]["services"]["s"]["loadBalancer"]["servers"]
        return found

    replicas = servers()
    assert servers(upstream="service") == replicas, "no service has an address"
    writer = Writer(H2)
    writer.sequence = 5
    for one in (service_range(), service_address("web", 7)):
        agent.live.update_view(lambda view, one=one: view.with_entries(writer.put(one)))
    with pytest.raises(RefusedError, match="in app are not translated for programs of this host"):
        ask(agent, feed="traefik", upstream="service")
    assert servers() == replicas
    agent.translated = frozenset({N1})
    assert servers(upstream="service") == [{"url": "http://10.9.1.7:80"}]
    agent.refused = {bytes([10, 9, 1, 7]): "the kernel's table is full"}
    assert servers(upstream="service") == replicas
    with pytest.raises(InputError, match="watches each replica"):
        ask(agent, feed="prometheus", upstream="service")


def test_no_answer_is_incomplete(agent: Any) -> None:
    agent.synced.clear()
    with pytest.raises(FailedError, match="does not yet know"):
        ask(agent, feed="services")


def test_labels_that_are_left_out_are_warnings(agent: Any) -> None:
    record = endpoint(labels=(("traefik.http.routers.r.nosuch", "x"),))
    agent.live.update_view(lambda view: view.with_entries(Writer(H1).put(record)))
    (warning,) = ask(agent, feed="traefik")["warnings"]
    assert warning["code"] == "label-left-out"
    assert "nosuch" in warning["message"]


def wait_s(agent: Any, change: Callable[[], None]) -> float:
    """Ask for the next content and change something after a second; return how long the answer took."""
    known = ask(agent, feed="services")["tag"]

    async def later() -> None:
        await trio.sleep(1)
        change()

    async def main() -> float:
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(later)
            await feed(agent, FeedCommand(feed="services", known=known))
        return trio.current_time() - began

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_known_content_is_answered_when_there_is_another(agent: Any) -> None:
    added = agent.live.view.with_entries(Writer(H1).put(endpoint()))
    assert wait_s(agent, lambda: agent.live.update_view(lambda _: added)) == pytest.approx(1 + PAUSE_S)


def test_a_change_elsewhere_is_no_change(agent: Any) -> None:
    other = agent.live.view.with_unreached(frozenset({H2}))
    assert wait_s(agent, lambda: agent.live.update_view(lambda _: other)) == pytest.approx(FEED_HOLD_S)


def test_an_agent_that_stops_waits_for_no_feed(agent: Any) -> None:
    assert wait_s(agent, agent.shutdown.set) == pytest.approx(1)
