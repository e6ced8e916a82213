"""Liveness quorum: ask other hosts about suspects, and put what they agree on into the view (decisions:
netagent.probes.liveness_votes)."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping

import trio

from netagent.model.ids import HostId
from netagent.probes.echo import TESTIMONY_S, EchoProber
from netagent.probes.liveness import SilentHost
from netagent.probes.liveness_votes import LivenessVotes, WitnessQuestion
from netagent.registry.state_store import StateStore
from netagent.registry.view import RegistryView
from netagent.registry.views import AgentState
from netagent.rpc import messages
from netagent.rpc.messages import QuestionError

PATIENCE_S = TESTIMONY_S + 0.3
"""Timeout for a witness's answer: it may have to find out itself."""
TOGETHER_S = 0.02
"""News within this time are handled together: when a hundred hosts die there are hundreds per second."""


class LivenessQuorum:
    """Runs beside the prober, and sleeps while all hosts answer it."""

    def __init__(
        self,
        live: StateStore,
        prober: EchoProber,
        ask: Callable[[HostId, bytes, float], Awaitable[bytes | None]],
    ) -> None:
        self._live = live
        self._prober = prober
        self._ask = ask
        self._votes = LivenessVotes(random.Random(random.getrandbits(64)))

    async def run(self) -> None:
        """Run until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                now = trio.current_time()
                look_into(self._votes, self._live.view, self._prober.missing, now)
                self._live.update_view(lambda view: view.with_silent(self._votes.agreed))
                for asked in self._votes.drain():
                    nursery.start_soon(self._hear, asked)
                with trio.move_on_at(self._votes.next_deadline()):
                    await self._prober.wait_losses()
                await trio.sleep(TOGETHER_S)

    async def _hear(self, asked: WitnessQuestion) -> None:
        words = {}
        try:
            answer = await self._ask(asked.witness, messages.encode_silent(asked.hosts), PATIENCE_S)
            if answer is not None:
                words = messages.parse_testimony_untrusted(answer, asked.hosts)
        except QuestionError:
            pass  # an invalid answer counts as none
        self._votes.handle_testimony(asked, words, trio.current_time())
        self._live.update_view(lambda view: view.with_silent(self._votes.agreed))


def look_into(
    votes: LivenessVotes, view: RegistryView, missing: Mapping[HostId, SilentHost], now: float
) -> None:
    """Pass the known facts to the votes, and let them choose which hosts to ask."""
    away = (AgentState.SUSPECT, AgentState.DEAD)
    votes.set_situation(
        {
            host_id: one
            for host_id, one in missing.items()
            if host_id in view.hosts and view.hosts[host_id].agent in away
        },
        now,
    )
    votes.handle_deadline(
        now,
        lambda: (
            host_id
            for host_id, host in view.hosts.items()
            if host.agent is AgentState.ALIVE and host.answers and host_id not in missing
        ),
    )
