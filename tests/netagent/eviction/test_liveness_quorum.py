"""Asking others about suspects, under virtual time: two hosts and a third that is away, over pretended sockets."""

from __future__ import annotations

import random

import trio
from fakes.registry import H1, H2, H3
from fakes.virtual import virtual
from trio import Nursery

from netagent.eviction.liveness_quorum import LivenessQuorum
from netagent.model.ids import HostId
from netagent.probes.echo import EchoProber
from netagent.probes.liveness import Liveness, LivenessReport, SilentHost
from netagent.probes.liveness_votes import ROUND_S
from netagent.registry.state_store import StateStore
from netagent.registry.view import RegistryView
from netagent.rpc import messages
from netgossip.types import Member, MemberState


def member(host_id: HostId, state: MemberState) -> Member:
    return Member(host_id, ("192.0.2.9", 7956), state, 1)


class Prober(EchoProber):
    """What LivenessQuorum uses of EchoProber, over a Liveness whose requests go to a set of kernels."""

    def __init__(self, *up: str) -> None:
        self.liveness = Liveness(random.Random(1))
        self.up = set(up)
        self._news = trio.Event()

    @property
    def missing(self) -> dict[HostId, SilentHost]:
        return self.liveness.missing

    async def wait_losses(self) -> None:
        await self._news.wait()

    async def probe(self, live: StateStore) -> None:
        self.liveness.set_peers({H2: ("fd00::2", False), H3: ("fd00::3", False)}, trio.current_time())
        while True:
            now = trio.current_time()
            self.liveness.handle_deadline(now)
            requests, changes, _ = self.liveness.drain()
            for request in requests:
                if request.host_id in self.up:
                    self.liveness.handle_answer(request.sequence, request.address, now)
            for change in [*changes, *self.liveness.drain()[1]]:
                live.update_view(lambda view: view.with_host_answers({change.host_id: change.answers}))
            self._news.set()
            self._news = trio.Event()
            with trio.move_on_at(self.liveness.next_deadline()):
                await trio.sleep(ROUND_S)


class Scene:
    """Runs the task; `word` is the only witness's answer."""

    def __init__(self, word: bytes | LivenessReport | None = LivenessReport.SILENT) -> None:
        self.live = StateStore(RegistryView(H1), {})
        self.prober = Prober(H2, H3)
        self.word = word
        self.asked: list[tuple[str, tuple[HostId, ...]]] = []

    async def ask(self, peer: str, payload: bytes, within_s: float) -> bytes | None:
        self.asked.append((peer, messages.parse_silent_untrusted(payload)))
        await trio.sleep(0.01)
        if isinstance(self.word, LivenessReport):
            return messages.encode_testimony((self.word,))
        return self.word

    def hear(self, state: MemberState) -> None:
        self.live.update_view(lambda view: view.with_member(member(H3, state)))

    async def begin(self, nursery: Nursery) -> None:
        self.live.update_view(lambda view: view.with_member(member(H2, MemberState.ALIVE)))
        self.hear(MemberState.ALIVE)
        nursery.start_soon(self.prober.probe, self.live)
        nursery.start_soon(LivenessQuorum(self.live, self.prober, self.ask).run)
        await trio.sleep(10)
        self.prober.up.discard(H3)
        await trio.sleep(1.2)
        self.hear(MemberState.SUSPECT)
        await trio.sleep(2.5)  # in all less than the four seconds after which our own probe counts


@virtual
async def test_a_suspect_that_answers_no_host_is_hidden_and_shown_again() -> None:
    scene = Scene()
    async with trio.open_nursery() as nursery:
        await scene.begin(nursery)
        assert scene.live.view.is_host_hidden(H3)
        assert scene.asked == [(H2, (H3,))], "once"
        scene.hear(MemberState.DEAD)
        await trio.sleep(5)
        assert scene.live.view.is_host_hidden(H3)
        scene.prober.up.add(H3)
        await trio.sleep(3)
        assert not scene.live.view.is_host_hidden(H3), "its kernel is back"
        nursery.cancel_scope.cancel()


@virtual
async def test_a_suspect_that_a_witness_hears_stays() -> None:
    scene = Scene(LivenessReport.HEARD)
    async with trio.open_nursery() as nursery:
        await scene.begin(nursery)
        assert scene.asked
        assert not scene.live.view.is_host_hidden(H3)
        scene.hear(MemberState.DEAD)
        assert not scene.live.view.is_host_hidden(H3)
        await trio.sleep(3)
        assert scene.live.view.is_host_hidden(H3), "dead for all and silent for us: nothing here can reach it"
        nursery.cancel_scope.cancel()


@virtual
async def test_invalid_and_missing_answers_of_witnesses_do_not_count() -> None:
    for word in (
        b"nonsense",
        None,
        messages.encode_testimony((LivenessReport.SILENT, LivenessReport.SILENT)),
    ):
        scene = Scene(word)
        async with trio.open_nursery() as nursery:
            await scene.begin(nursery)
            assert len(scene.asked) > 1, "asked again"
            assert not scene.live.view.is_host_hidden(H3)
            nursery.cancel_scope.cancel()


@virtual
async def test_while_all_agents_are_alive_no_host_is_asked() -> None:
    scene = Scene()
    async with trio.open_nursery() as nursery:
        await scene.begin(nursery)
        scene.asked.clear()
        scene.hear(MemberState.ALIVE)
        assert not scene.live.view.is_host_hidden(H3), "it has refuted"
        await trio.sleep(30)
        assert scene.asked == []
        nursery.cancel_scope.cancel()
