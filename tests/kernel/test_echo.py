"""Echo requests to real kernels: which hosts answer, which fell silent, and what the prober reports."""

from __future__ import annotations

import functools
import random

import pytest
import trio
from harness.namespaces import Namespace, wait_until

from netagent.datapath.endpoint.netns import opened_netns, run_in_netns
from netagent.model.ids import HostId
from netagent.probes.checksum import Checksums
from netagent.probes.distance import Distances
from netagent.probes.echo import TESTIMONY_S, EchoProber, Listeners, ProbeMachines
from netagent.probes.liveness import Liveness, LivenessReport
from netagent.probes.path import Paths

pytestmark = pytest.mark.kernel

NEAR, FAR, NO_SANDBOX = (HostId(f"{number:032x}") for number in (1, 2, 3))
PEERS = {NEAR: ("2001:db8::2", False), FAR: ("2001:db8::22", False)}


async def ask_kernels(other: Namespace) -> None:
    doubts: list[HostId] = []
    answers: dict[HostId, bool] = {}
    chance = random.Random(1)
    prober = EchoProber(
        ProbeMachines(Liveness(chance), Paths(chance), Checksums(chance), Distances()),
        "2001:db8::1",
        7,
        Listeners(
            on_answers=answers.update,
            on_doubt=doubts.append,
            on_path=lambda _host, _path: None,
            on_checksums=lambda _verdict: None,
        ),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(prober.run)
        prober.set_peers(PEERS)
        await wait_until(lambda: answers == {NEAR: True, FAR: True}, "both answer")
        assert await prober.testify((NEAR, FAR)) == (LivenessReport.HEARD, LivenessReport.HEARD)

        await trio.to_thread.run_sync(other.run, "ip -6 addr del 2001:db8::22/64 dev wire")
        words: tuple[LivenessReport, ...] = ()
        with trio.fail_after(10):  # a starved prober counts nothing, and its client asks again
            while words != (LivenessReport.SILENT, LivenessReport.HEARD, LivenessReport.UNKNOWN):
                began = trio.current_time()
                words = await prober.testify((FAR, NEAR, NO_SANDBOX))
                assert trio.current_time() - began < 2 * TESTIMONY_S
        assert set(doubts) == {FAR}
        assert prober.missing.keys() == {FAR}

        await trio.to_thread.run_sync(other.run, "ip -6 addr add 2001:db8::22/64 dev wire nodad")
        await wait_until(lambda: not prober.missing, "it answers again")
        nursery.cancel_scope.cancel()


def test_kernels_answer_fall_silent_and_come_back(wire: tuple[Namespace, Namespace]) -> None:
    here, other = wire
    other.run("ip -6 addr add 2001:db8::22/64 dev wire nodad")

    async def main() -> None:
        with opened_netns(here.path) as fd:
            await run_in_netns(fd, functools.partial(trio.run, ask_kernels, other))

    trio.run(main)
