"""Withdrawal of names: wait until no host leads its containers to something of ours that is about to go.

An acknowledged record only means that the host's agent has it. Its resolver follows a moment later, after its kernel;
so the host is asked, and answers when it has followed. A host that does not answer (its agent is away, or of a
release that does not know the request) is waited for no longer than `within_s`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

import trio

from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import HostId
from netagent.registry.state_store import StateStore
from netagent.registry.view import AgentState
from netagent.rpc import messages

HOST_S = 2.5
"""For a whole host that goes: rare, and mostly with time for it."""
ENDPOINT_S = 0.5
"""For one endpoint that goes: detaching must not wait long for a host whose agent has just died."""

Ask = Callable[[HostId, bytes, float], Awaitable[bytes | None]]


class Withdrawal:
    """`ask(host, question, within_s)` is RpcClient.ask, `wait_followed` is Projection.wait_followed."""

    def __init__(self, live: StateStore, wait_followed: Callable[[int], Awaitable[None]], ask: Ask) -> None:
        self._live = live
        self._wait_followed = wait_followed
        self._ask = ask

    def others(self) -> frozenset[HostId]:
        """Hosts whose agents may follow our records."""
        states = (AgentState.ALIVE, AgentState.SUSPECT)
        hosts = self._live.view.hosts.items()
        return frozenset(h for h, host in hosts if host.agent in states and h != self._live.view.local)

    async def wait_host_hidden(self) -> frozenset[HostId]:
        """Wait until no name leads to this host; return the hosts that confirmed it."""
        return await self._wait(self.others(), messages.IsWithdrawn(self._live.view.local), HOST_S)

    async def wait_endpoint_hidden(self, row: LocalEndpointRow) -> None:
        """Wait until no name leads to the endpoint, whose record says that it has none."""
        concerned = self.others() & self._live.view.attachments(row.network_id)
        await self._wait(concerned, messages.IsWithdrawn(self._live.view.local, row.endpoint_id), ENDPOINT_S)

    async def _wait(
        self, hosts: Iterable[HostId], asked: messages.IsWithdrawn, within_s: float
    ) -> frozenset[HostId]:
        said: set[HostId] = set()

        async def ask(host_id: HostId) -> None:
            try:
                answer = await self._ask(host_id, asked.encode(), within_s)
                if answer is not None and messages.parse_answer_untrusted(answer, messages.WITHDRAWN):
                    said.add(host_id)
            except messages.QuestionError:
                return  # it does not understand: as if it had not answered

        with trio.move_on_after(within_s):
            async with trio.open_nursery() as nursery:
                for host_id in hosts:
                    nursery.start_soon(ask, host_id)
                await self._wait_followed(self._live.revision)
        return frozenset(said)
