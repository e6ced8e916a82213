#!/usr/bin/env python3
"""How long does a user wait for a reading command, at an agent that knows N endpoints?

Runs in a network namespace of its own. A whole agent with one container in a network receives the records of N
endpoints on 300 hosts, as from the gossip, and is then asked by the program `netagent`, started anew each time, as a
shell does. For each command it prints the median, the best and the worst of the times from start to end, what the
program and the agent's thread computed for it (other programs on the machine hardly lengthen that), and how many
bytes were printed. `version` asks the agent for little: what it takes, each command takes.

    sudo .venv/bin/python benchmarks/command_line.py [--endpoints 20000] [--runs 15]
"""

from __future__ import annotations

import argparse
import functools
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import trio
from elsewhere import ADDRESS, SENDER_ADDRESS, Elsewhere  # adds the product to the module path
from programming import INSIDE, a_box, measure_fill, run, told

from netagent import config as configuration
from netagent.config import Config
from netagent.daemon.agent import Agent
from netagent.daemon.systemd import ServiceManager
from netagent.loop_passes import LoopPasses
from netagent.main import serve

AT_ONCE = 10_000
"""Endpoints that are told of at once."""
PROGRAM = (sys.executable, "-m", "netagent.cli.main")
COMMANDS = (
    "version",
    "status",
    "members",
    "network ls",
    "network inspect app",
    "lookup web7.app",
    "inspect web7 --why",
    "inspect web7",
    "endpoints --service web7",
    "endpoints --host h7",
    "endpoints --local",
    "services --service web7",
    "services",
    "endpoints",
    "events",
    "flows",
)


async def measure(endpoints: int, runs: int, folder: Path, box: str) -> None:
    """Fill an agent, and let the program ask it."""
    settings = {"advertise": ADDRESS, "bind": ADDRESS, "name": "h1", "http": "127.0.0.1:7958"}
    settings |= {"state_dir": f"{folder}/state", "run_dir": f"{folder}/run"}
    variables = {f"NETAGENT_{key.upper()}": value for key, value in settings.items()}

    def load() -> Config:
        return configuration.load(None, {}, variables)

    agent = Agent(load, ServiceManager({}))
    environment = {**os.environ, "NETAGENT_SOCKET": f"{folder}/run/netagent.sock"}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, agent)
        with trio.fail_after(30):
            await agent.ready.wait()
        for line in (
            "init",
            "network create app --subnet 10.160.0.0/16 --subnet fd00:1::/64",
            f"attach {box} --network app --name me",
        ):
            await ask(line, environment)
        cluster = agent.member()
        network = cluster.live.view.network_named("app")
        assert network is not None
        elsewhere = Elsewhere(network.network_id)
        await told(cluster, list(elsewhere.hosts()))
        for first in range(0, endpoints, AT_ONCE):
            numbers = range(first, min(first + AT_ONCE, endpoints))
            await measure_fill(cluster, list(elsewhere.endpoints(numbers)), numbers.stop)
        await ask("services", environment)  # the first one computes what the view keeps
        for line in COMMANDS:
            await measure_command(line, runs, environment)
        agent.shutdown.set()
        nursery.cancel_scope.cancel()


async def measure_command(line: str, runs: int, environment: Mapping[str, str]) -> None:
    """Run a command, time after time."""
    took_s, cpu_s, program_s, size_bytes = list[float](), list[float](), list[float](), 0
    for _ in range(runs):
        own_s, children_s, began_s = time.thread_time(), computed_s(), time.monotonic()
        size_bytes = len(await ask(line, environment))
        took_s.append(time.monotonic() - began_s)
        cpu_s.append(time.thread_time() - own_s)
        program_s.append(computed_s() - children_s)
    took, program, own = (1000 * statistics.median(times_s) for times_s in (took_s, program_s, cpu_s))
    print(
        f"{line:28} {took:7.1f} ms (best {min(took_s) * 1000:.1f}, worst {max(took_s) * 1000:.1f}); "
        f"program {program:.1f} ms CPU, agent {own:.1f} ms CPU; {size_bytes:,} bytes",
        flush=True,
    )


def computed_s() -> float:
    """Return the processor time of the programs that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


async def ask(line: str, environment: Mapping[str, str]) -> bytes:
    """Run the program; return what it printed."""
    start = functools.partial(
        trio.run_process,
        [*PROGRAM, *line.split()],
        env=environment,
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    ended = await start()
    if ended.returncode not in (0, 1):
        raise SystemExit(f"netagent {line}: {ended.stderr.decode()}")
    return ended.stdout


def main() -> None:
    """Enter a namespace, measure, and leave nothing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--endpoints", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=15)
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
        passes = LoopPasses()
        trio.run(measure, arguments.endpoints, arguments.runs, Path(name), box, instruments=[passes])


if __name__ == "__main__":
    main()
