#!/usr/bin/env python3
"""How long from `docker run` on one host to the first good answer for its name on another: netagent and Docker's
overlay.

A lab of two hosts, each with a dockerd; the two are also a swarm with an attachable overlay network, so both networks
use the same daemons, the same image and the same machine. In a container on h2 a small program asks 127.0.0.11 for
the name every half millisecond while `docker run -d` starts it on h1, alternating between the networks. Prints for
each the median and the worst of `docker run` itself and until the answer, and the ratio of the medians.

    sudo .venv/bin/python benchmarks/attach.py [--runs 20]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from attach_to_answer import ASKER, show  # adds the lab to the module path
from netlab.host import Host
from netlab.lab import Lab
from netlab.process import wait_until
from netlab.topology import of_hosts

FOLDER = Path("/run/natbench-docker")
NETWORK_S = 10.0


@dataclass(slots=True)
class Way:
    """A network to measure, and how its resolver names a container."""

    title: str
    network: str
    suffix: str
    asker: subprocess.Popen[str] | None = None
    calls_s: list[float] = field(default_factory=list)
    answers_s: list[float] = field(default_factory=list)


def _is_mirrored(host: Host) -> bool:
    return host.run(["docker", "network", "inspect", "app"]).status == 0


def prepare(lab: Lab, ways: list[Way]) -> None:
    """Create both networks on both hosts, and on h2 a container in each that asks."""
    h1, h2 = lab.host("h1"), lab.host("h2")
    h1.must(["netagent", "network", "create", "app"])
    h1.must(["docker", "swarm", "init", "--advertise-addr", h1.address])
    token = h1.must(["docker", "swarm", "join-token", "-q", "worker"]).strip()
    h2.must(["docker", "swarm", "join", "--token", token, "--advertise-addr", h2.address, h1.address])
    h1.must(["docker", "network", "create", "-d", "overlay", "--attachable", "own"])
    for host in (h1, h2):
        wait_until(partial(_is_mirrored, host), NETWORK_S, "no mirror of app")
    for way in ways:
        name = f"asker-{way.network}"
        options = ["--network", way.network, "--name", name, "-v", "/usr:/usr:ro"]
        h2.must(["docker", "run", "-d", *options, "lab"])
        way.asker = subprocess.Popen(
            h2.entering(["docker", "exec", "-i", name, "python3", "-c", ASKER]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )


def measure(lab: Lab, way: Way, number: int) -> None:
    """Time one container, from `docker run` to the answer, and remove it."""
    h1 = lab.host("h1")
    assert way.asker is not None
    assert way.asker.stdin is not None
    assert way.asker.stdout is not None
    name = f"b{number}"
    way.asker.stdin.write(f"{name}{way.suffix}\n")
    way.asker.stdin.flush()
    way.asker.stdout.readline()
    began = time.monotonic()
    h1.must(["docker", "run", "-d", "--network", way.network, "--name", name, "lab"])
    way.calls_s.append(time.monotonic() - began)
    way.answers_s.append(float(way.asker.stdout.readline()) - began)
    h1.must(["docker", "rm", "-f", name])


def main() -> None:
    """Boot a lab, measure, take it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    arguments = parser.parse_args()
    ways = [Way("netagent", "app", ".app.mesh.internal"), Way("Docker's overlay", "own", "")]
    lab = Lab(FOLDER)
    lab.down()
    try:
        lab.up(of_hosts(2), runtimes=True)
        prepare(lab, ways)
        for number in range(arguments.runs):
            for way in ways:
                measure(lab, way, number)
        for way in ways:
            show(f"{way.title}: docker run on h1", way.calls_s)
            show(f"{way.title}: until the first good answer on h2", way.answers_s)
        ours, theirs = (statistics.median(way.answers_s) for way in ways)
        print(f"netagent needs {ours / theirs:.2f} of the time that Docker's overlay needs")
    finally:
        for way in ways:
            if way.asker is not None:
                way.asker.kill()
                way.asker.wait()
        lab.down()


if __name__ == "__main__":
    main()
