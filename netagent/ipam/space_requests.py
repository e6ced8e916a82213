"""Requests for space to other hosts: when an endpoint needs it now, and ahead of need, so that the former stays rare.

Live hosts with most free space are asked first, for 5 s in all; the hosts asked and their answers go into the error.
Their grants are confirmed before they count (netagent.ipam.allocations).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from typing import Final, TypeAlias

import trio

from netagent.errors import FailedError
from netagent.ipam.allocation import Allocation
from netagent.ipam.allocations import Allocations, address_at, in_use
from netagent.ipam.messages import NoSpace, RequestError, SpaceRequest, parse_answer_untrusted
from netagent.model.ids import HostId, NetworkId
from netagent.registry.view import RegistryView
from netagent.registry.views import AgentState

ASK_TIMEOUT_S: Final = 5.0
"""For all peers together: the longest that an attach may wait."""

ASK_ONE_TIMEOUT_S: Final = 1.5
"""For one peer: a round trip and its journal's write are milliseconds; three silent peers fit into the 5 s."""

SILENT_S: Final = 10.0
"""For so long a host that did not answer is asked after the others: until it answers, or is known to be dead."""

TOP_UP_BELOW: Final = 0.25
"""Share of free offsets at which more are requested ahead of need, or below."""

TOP_UP_PAUSE_S: Final = 30.0
"""After no host could spare any: peers' detaches are slower than that."""

SILENT: Final = "no answer"
WRONG: Final = "answered wrongly"
"""What errors say of a host that gave nothing; otherwise how much of its space is free."""

Ask: TypeAlias = Callable[[HostId, bytes], Awaitable[bytes | None]]
"""Sends a request of at most 1,000 bytes to a host's agent; None when it does not answer in its time."""


class SpaceRequests:
    """This host's requests for space, one at a time for each network."""

    def __init__(
        self,
        allocations: Allocations,
        *,
        view: Callable[[], RegistryView],
        ask: Ask,
        clock: Callable[[], float],
    ) -> None:
        self._allocations = allocations
        self._view = view
        self._ask = ask
        self._clock = clock
        self._turns: dict[NetworkId, trio.Lock] = {}
        self._is_closed = False
        self._quiet_until: dict[NetworkId, float] = {}
        self._silent_until: dict[HostId, float] = {}
        """Hosts that did not answer recently are asked last; otherwise each of many attaches would wait for a host
        that just died."""
        self._heard: dict[NetworkId, dict[HostId, str]] = {}
        """What others answered to the last `top_up`."""

    def forget(self, network_ids: Collection[NetworkId]) -> None:
        """Drop networks that were removed."""
        for network_id in network_ids:
            for known in (self._turns, self._quiet_until, self._heard):
                known.pop(network_id, None)

    @asynccontextmanager
    async def closed(self) -> AsyncIterator[None]:
        """Send no requests while the block runs, because this host leaves; when the block begins, running requests
        have ended."""
        self._is_closed = True
        try:
            for turn in tuple(self._turns.values()):
                async with turn:
                    pass
            yield
        finally:
            self._is_closed = False

    async def top_up(self, network_id: NetworkId) -> bool:
        """Request space ahead of need: when none is owned, or at most a quarter of it is free. True when some came.
        Call it after an attach and when a network appears; it never raises for lack of space."""
        await self._allocations.confirm(network_id)
        allocation = self._allocations[network_id]
        pool = allocation.pool
        if pool.available_count() > TOP_UP_BELOW * pool.usable_total():
            return False
        if self._is_closed or self._clock() < self._quiet_until.get(network_id, float("-inf")):
            return False
        with trio.move_on_after(ASK_TIMEOUT_S):
            async with self._turn(network_id):
                said = self._heard[network_id] = {}
                if await self._ask_around(allocation, said, is_urgent=pool.available_count() == 0):
                    return True
        self._quiet_until[network_id] = self._clock() + TOP_UP_PAUSE_S
        return False

    async def fetch_any(
        self, allocation: Allocation, choose: Callable[[], int | None]
    ) -> tuple[int | None, dict[HostId, str]]:
        """Return what `choose` finds as soon as hosts have given enough, and what the others answered; None when none
        has within ASK_TIMEOUT_S."""
        offset, said = None, dict[HostId, str]()
        with trio.move_on_after(ASK_TIMEOUT_S):
            async with self._turn(allocation.network_id):
                # A task that asked before us may have got enough for both.
                while (offset := choose()) is None:
                    if not await self._ask_around(allocation, said):
                        break
        # Or another task was asking all the while, and gets the answers that we would get.
        return offset, said or self._heard.get(allocation.network_id, {})

    async def fetch_one(self, allocation: Allocation, offset: int) -> None:
        """Request this offset, which a user wants, from its owner. RefusedError `address-in-use`; FailedError
        `space-unreachable`."""
        owner = allocation.space.owner_of(offset)
        address = address_at(allocation, offset)
        if owner is None:
            raise FailedError(f"the owner of {address} is not known yet; try again", code="space-unreachable")
        said = await self._ask_one(
            allocation, owner, SpaceRequest(allocation.network_id, offset, is_urgent=True)
        )
        if allocation.pool.owns(offset):
            return
        name = self._allocations.host_name(owner)
        if said == SILENT:
            why = "which does not answer"
        elif not said:  # granted, and no longer ours: another host asked us for it while we wrote it
            why = "which gave another address, or this host has handed it on already"
        elif said.startswith(WRONG):
            why = f"which {said}"
        else:
            raise in_use(allocation, offset, f"host {name} has it in use")
        raise FailedError(
            f"{address} belongs to host {name}, {why}",
            code="space-unreachable",
            thing=address,
            hint="choose another address",
        )

    def _turn(self, network_id: NetworkId) -> trio.Lock:
        return self._turns.setdefault(network_id, trio.Lock())

    async def _ask_around(
        self, allocation: Allocation, said: dict[HostId, str], *, is_urgent: bool = True
    ) -> bool:
        """Ask other owners until one gives. `said` collects why the others did not."""
        request = SpaceRequest(allocation.network_id, None, is_urgent)
        now = self._clock()
        self._silent_until = {host: until for host, until in self._silent_until.items() if now < until}
        hosts = [host for host, _ in allocation.free_shares(self._view())]
        for host in sorted(hosts, key=self._silent_until.__contains__):
            if host in said:
                continue
            if self._is_closed:
                break
            said[host] = SILENT  # for the error, in case the 5 s end while we ask
            said[host] = await self._ask_one(allocation, host, request)
            if not said[host]:
                del said[host]
                return True
        return False

    async def _ask_one(self, allocation: Allocation, host: HostId, request: SpaceRequest) -> str:
        """Return why the host gave nothing; empty when it gave some."""
        known = self._view().hosts.get(host)
        if known is not None and known.agent in (AgentState.DEAD, AgentState.LEFT):
            return SILENT
        payload = None
        with trio.move_on_after(ASK_ONE_TIMEOUT_S):
            payload = await self._ask(host, request.encode())
        allocation.refresh(self._view())
        if payload is None:
            self._silent_until[host] = self._clock() + SILENT_S
            return SILENT
        self._silent_until.pop(host, None)
        try:
            answer = parse_answer_untrusted(payload)
        except RequestError as error:
            return f"{WRONG} ({error.message})"
        if isinstance(answer, NoSpace):
            return f"{answer.available} of {answer.usable} free"
        if answer.network_id != allocation.network_id or answer.to != self._view().local:
            return f"{WRONG} (a grant for another host)"
        if self._allocations.is_gone(host):
            return SILENT  # another host is taking over all that it owns
        allocation.add(host, answer)
        if not allocation.space.owns(self._view().local, answer.first, answer.last):
            allocation.discard(host, answer)
            return f"{WRONG} (a grant of what it does not own)"
        try:
            await self._allocations.confirm(allocation.network_id)
        except BaseException:
            allocation.discard(host, answer)
            raise
        return ""
