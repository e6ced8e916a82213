"""A host's stock of address space: there before anybody needs it, and handed on when the host goes."""

from __future__ import annotations

from contextlib import suppress

import trio

from netagent.errors import NetagentError, NoError
from netagent.ipam.asking import Asking
from netagent.ipam.giving import Giving
from netagent.registry.live import Live
from netagent.registry.view import AgentState

TOP_UP_S = 5.0


async def keep_stocked(live: Live, asking: Asking) -> None:
    """Own some of every network's space, and more before it is used up. Until cancelled."""
    while True:
        for network_id in live.view.networks:
            with suppress(NetagentError):  # removed in between, or the disk is full
                await asking.top_up(network_id)
        await trio.sleep(TOP_UP_S)


async def hand_on(live: Live, giving: Giving) -> None:
    """Give all of it to one of the live hosts, if there are any."""
    view = live.view
    alive = [h for h, host in view.hosts.items() if host.agent is AgentState.ALIVE and h != view.local]
    for network_id in view.networks if alive else ():
        with suppress(NoError):  # removed in between
            await giving.surrender(network_id, min(alive))
