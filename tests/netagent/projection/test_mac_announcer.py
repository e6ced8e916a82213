"""Whom this host tells that an address has another MAC, and whom it need not tell anything."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import pytest
import trio
from fakes.registry import H1, H2, N1, N2, Writer, endpoint, host, network
from fakes.rows import PUBLISHED, local_row
from fakes.virtual import virtual

from netagent.datapath.endpoint.gratuitous_arp import announcement
from netagent.model.ids import EndpointId, NetworkId, mac_of, veth_name
from netagent.model.records import EndpointRecord
from netagent.projection.mac_announcer import GRACE_S, Announcer, ChosenMacs
from netagent.registry.state_store import StateStore
from netagent.registry.view import RegistryView
from netgossip.types import EntriesChanged

CHOSEN, OTHER = "02:cc:00:00:00:01", "02:cc:00:00:00:02"
USUAL = mac_of(N1, 2)


class World:
    """A host with one container in N1 and one in N2, and another host whose records arrive."""

    def __init__(self) -> None:
        self.far = Writer(H2)
        view = RegistryView(H1)
        for record in (host("h2"), network(N1, "app"), network(N2, "back", subnets=("10.2.0.0/24",))):
            view = view.with_entries(self.far.put(record))
        rows = {}
        for number, network_id in enumerate((N1, N2), 1):
            endpoint_id = EndpointId(f"{number:08x}" * 4)
            rows[endpoint_id] = local_row(endpoint_id, network_id, name=f"mine{number}", stage=PUBLISHED)
        self.mine = {network_id: veth_name(i) for network_id, i in zip((N1, N2), rows, strict=True)}
        self.live = StateStore(view, rows)
        self.sent: list[Any] = []
        self.programmed_s = 0.01
        self.announcer = self.make()

    def make(self) -> Announcer:
        return Announcer(self.live, self.wait_programmed, lambda *sent: self.sent.append(sent))

    async def wait_programmed(self, revision: int) -> None:
        assert revision == self.live.revision
        await trio.sleep(self.programmed_s)

    async def hear(self, event: EntriesChanged) -> list[tuple[str, bytes]]:
        self.live.update_view(lambda view: view.with_entries(event))
        self.announcer.note((event,))
        await trio.sleep(GRACE_S + 1)
        sent, self.sent = self.sent, []
        return sent

    def reported(self, record: EndpointRecord, network_id: NetworkId = N1) -> list[tuple[str, bytes]]:
        return [(self.mine[network_id], announcement(address, record.mac)) for address in record.addresses]


Body: TypeAlias = Callable[[World], Awaitable[None]]
Run: TypeAlias = Callable[[Body], None]


@pytest.fixture
def run(request: pytest.FixtureRequest) -> Run:
    """The test's body, beside an announcer at work."""

    def decorated(body: Body) -> None:
        @virtual
        async def main() -> None:
            world = World()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(world.announcer.run)
                await body(world)
                nursery.cancel_scope.cancel()

        main()

    return decorated


def test_a_mac_that_follows_from_its_address_is_not_announced(run: Run) -> None:
    @run
    async def body(world: World) -> None:
        one, again = endpoint(1, mac=USUAL), endpoint(2, mac=USUAL)
        assert await world.hear(world.far.put(one)) == []
        assert await world.hear(world.far.delete(one)) == []
        assert await world.hear(world.far.put(again)) == []


def test_a_chosen_mac_is_announced_in_its_network_only(run: Run) -> None:
    @run
    async def body(world: World) -> None:
        one = endpoint(1, mac=CHOSEN)
        assert await world.hear(world.far.put(one)) == world.reported(one)
        assert await world.hear(world.far.put(dataclasses.replace(one, service="other"))) == []
        other = endpoint(3, N2, addresses=("10.2.0.9",), mac=CHOSEN)
        assert await world.hear(world.far.put(other)) == world.reported(other, N2)


@pytest.mark.parametrize("mac", [USUAL, OTHER], ids=["the usual one", "another chosen one"])
def test_after_a_chosen_mac_the_next_is_announced_whatever_it_is(run: Run, mac: str) -> None:
    @run
    async def body(world: World) -> None:
        one, after = endpoint(1, mac=CHOSEN), endpoint(2, mac=mac)
        await world.hear(world.far.put(one))
        assert await world.hear(world.far.delete(one)) == []
        assert await world.hear(world.far.put(after)) == world.reported(after)


def test_what_an_agent_finds_at_its_start_is_no_news_but_remembered(run: Run) -> None:
    @run
    async def body(world: World) -> None:
        one, after = endpoint(1, mac=CHOSEN), endpoint(2, mac=USUAL)
        await world.hear(world.far.put(one))
        world.announcer = world.make()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.announcer.run)
            assert await world.hear(world.far.put(dataclasses.replace(one, service="other"))) == []
            await world.hear(world.far.delete(one))
            assert await world.hear(world.far.put(after)) == world.reported(after)
            nursery.cancel_scope.cancel()


def test_a_kernel_that_hangs_delays_it_for_a_bounded_time(run: Run) -> None:
    @run
    async def body(world: World) -> None:
        world.programmed_s = 1000.0
        one = endpoint(1, mac=CHOSEN)
        assert await world.hear(world.far.put(one)) == world.reported(one)


def test_an_endpoint_gets_no_announcement_of_itself(run: Run) -> None:
    @run
    async def body(world: World) -> None:
        (mine, *_) = world.live.rows
        record = dataclasses.replace(endpoint(1, mac=CHOSEN), endpoint_id=mine)
        assert await world.hear(Writer(H1).put(record)) == []


def test_a_network_that_is_gone_is_forgotten() -> None:
    chosen, one = ChosenMacs(), endpoint(1, mac=CHOSEN)
    assert chosen.learn(one) == list(one.addresses)
    assert chosen.learn(one) == []
    chosen.keep_only([N1])
    assert chosen.learn(one) == []
    chosen.keep_only([N2])
    assert chosen.learn(one) == list(one.addresses)
