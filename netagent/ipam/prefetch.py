"""Prefetch: a host's address space is there before an endpoint needs it, and handed on when the host leaves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

from netagent.errors import NetagentError, NotFoundError
from netagent.ipam.grants import Grants
from netagent.ipam.space_requests import SpaceRequests
from netagent.model.ids import HostId
from netagent.periodic_task import PeriodicTask
from netagent.registry.state_store import StateStore
from netagent.registry.view import AgentState, RegistryView

TOP_UP_S = 5.0
HAND_ON_TRIES = 4
"""Each lasts until all live hosts have acknowledged it."""


async def keep_prefetched(live: StateStore, space_requests: SpaceRequests) -> None:
    """Own some of every network's space, and more before it is used up. Runs until cancelled."""
    task = PeriodicTask(TOP_UP_S)
    while True:
        for network_id in live.view.networks:
            with suppress(NetagentError):  # removed in between, or the disk is full
                await space_requests.top_up(network_id)
        await task.wait()


async def hand_on(live: StateStore, grants: Grants, wait_heard: Callable[[], Awaitable[object]]) -> None:
    """Give all of it to one of the live hosts, if there are any: preferably to one that stays.

    Two hosts that leave at once may choose each other before either knows that the other leaves. So once all have
    acknowledged, what has come meanwhile is handed on as well, and then only to a host that stays. This does not
    catch a successor that completes its leave while we write one grant. It owns the space until it is evicted.
    """
    for number in range(HAND_ON_TRIES):
        # Between two leaving hosts it would go back and forth.
        is_given = await _hand_on_once(live, grants, may_go=number == 0)
        if number > 0 and not is_given:
            return
        await wait_heard()


async def _hand_on_once(live: StateStore, grants: Grants, *, may_go: bool) -> bool:
    given = []
    for network_id in live.view.networks:
        # Chosen again for each network: the last one took a write to disk, and its successor may be leaving by now.
        successor = _successor(live.view, may_go=may_go)
        if successor is not None:
            with suppress(NotFoundError):  # removed in between
                given.append(await grants.hand_over(network_id, successor))
    return any(given)


def _successor(view: RegistryView, *, may_go: bool) -> HostId | None:
    """The first of the live hosts that stay; if there are none, the first that leaves, only if `may_go`."""
    alive = [h for h, host in view.hosts.items() if host.agent is AgentState.ALIVE and h != view.local]
    staying = [host_id for host_id in alive if not view.is_host_hidden(host_id)]
    return min(staying or (alive if may_go else []), default=None)
