#!/usr/bin/env python3
"""What does a scrape of a whole agent cost, and how long does it block the event loop?

Runs in a network namespace of its own. An agent with one container in a network receives the records of N endpoints
on 300 hosts, as from the gossip. Then its metrics are read as often as a Prometheus would. It prints the processor
time of the agent's thread per scrape, as a share of the time from one to the next, and the longest time during which
the event loop did not run a task that wanted to run, beside that without scrapes.

    sudo .venv/bin/python benchmarks/metrics.py [--endpoints 20000] [--every-s 5] [--scrapes 12]
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import trio
from elsewhere import ADDRESS, SENDER_ADDRESS, Elsewhere  # adds the product to the module path
from programming import INSIDE, REST_S, a_box, an_agent, measure_fill, run, told

from netagent.loop_passes import LoopPasses
from netagent.metrics.collect import Collection
from netagent.openmetrics.text import SharedText

if TYPE_CHECKING:
    from netagent.daemon.agent import Agent


AT_ONCE = 10_000
"""Endpoints that are told of at once: of each host so few that the agent takes them in one step."""


async def measure(endpoints: int, every_s: float, scrapes: int, folder: Path, box: str) -> None:
    """Fill an agent, and scrape it."""
    async with an_agent(folder, box) as (cluster, network_id, ticks):
        elsewhere = Elsewhere(network_id)
        await told(cluster, list(elsewhere.hosts()))
        for first in range(0, endpoints, AT_ONCE):
            numbers = range(first, min(first + AT_ONCE, endpoints))
            await measure_fill(cluster, list(elsewhere.endpoints(numbers)), numbers.stop)
        assert len(cluster.live.view.endpoints) > endpoints
        agent = SimpleNamespace(
            cluster=cluster,
            started_at=trio.current_time(),
            config_problem="",
            uplinks=SimpleNamespace(problem=""),
            neighbours=SimpleNamespace(problem=""),
            runtimes=SimpleNamespace(troubles=tuple),
        )
        text = SharedText(Collection(cast("Agent", agent), LoopPasses()).pieces)
        await text.get()  # the first one computes what the view keeps
        await trio.sleep(REST_S)
        await ticks.taken()
        await trio.sleep(every_s)
        print(f"without scrapes: {await ticks.taken()}")
        costs_s, size_bytes = [], 0
        for _ in range(scrapes):
            await trio.sleep(every_s)
            began_s = time.thread_time()
            size_bytes = len(await text.get())
            costs_s.append(time.thread_time() - began_s)
        print(
            f"{scrapes} scrapes of {size_bytes:,} bytes: {statistics.median(costs_s) * 1000:.1f} ms CPU each "
            f"(worst {max(costs_s) * 1000:.1f}), {100 * statistics.mean(costs_s) / every_s:.2f} % of a core at one "
            f"each {every_s:g} s; {await ticks.taken()}"
        )


def main() -> None:
    """Enter a namespace, measure, and leave nothing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--endpoints", type=int, default=20_000)
    parser.add_argument("--every-s", type=float, default=5.0)
    parser.add_argument("--scrapes", type=int, default=12)
    arguments = parser.parse_args()
    if INSIDE not in os.environ:
        os.execvpe("unshare", ["unshare", "-n", sys.executable, *sys.argv], {**os.environ, INSIDE: "1"})
    run("ip link add up0 type bridge")
    for line in (
        "link set lo up",
        f"addr add {ADDRESS}/24 dev up0",
        f"addr add {SENDER_ADDRESS}/24 dev up0",
        "link set up0 up",
    ):
        run(f"ip {line}")
    with tempfile.TemporaryDirectory(prefix="natbench-") as name, a_box() as box:
        trio.run(measure, arguments.endpoints, arguments.every_s, arguments.scrapes, Path(name), box)


if __name__ == "__main__":
    main()
