"""Space that is asked for ahead of need, and handed on."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from fakes.registry import H1, H2, H3, N1, Writer, host, identifier, network

from netagent.errors import NetagentError, NoError
from netagent.ipam.stock import TOP_UP_S, hand_on, keep_stocked
from netagent.registry.live import Live
from netagent.registry.view import RegistryView
from netgossip.types import Member, MemberState

GONE = identifier(0xA2)
"""A network that is removed while somebody looks at it."""


class Space:
    """An allocator that notes what it is asked for."""

    def __init__(self):
        self.asked = []

    async def top_up(self, network_id):
        self.asked.append(network_id)
        if network_id == GONE:
            raise NetagentError("it is gone")

    async def surrender(self, network_id, heir):
        self.asked.append((network_id, heir))
        if network_id == GONE:
            raise NoError("it is gone")


def live(*alive):
    view = RegistryView(H1)
    writer = Writer(H2)
    for record in (host("h2"), network(GONE, "gone"), network()):
        view = view.with_entries(writer.put(record))
    for host_id in alive:
        view = view.with_member(Member(host_id, ("192.0.2.2", 7956), MemberState.ALIVE, 1))
    return Live(view, {})


@pytest.mark.parametrize(("alive", "heirs"), [((H1, H3, H2), {H2}), ((H1,), set())])
def test_the_first_live_host_gets_all_of_it(alive, heirs):
    space = Space()
    trio.run(hand_on, live(*alive), space)
    assert set(space.asked) == {(one, heir) for one in (GONE, N1) for heir in heirs}


def test_every_network_is_looked_at_again_and_again():
    async def scenario():
        with trio.move_on_after(TOP_UP_S + 1):
            await keep_stocked(live(), space)

    space = Space()
    trio.run(scenario, clock=trio.testing.MockClock(autojump_threshold=0))
    assert sorted(space.asked) == sorted([GONE, N1] * 2)
