#!/usr/bin/env python3
"""How fast are containers on our overlay, compared with the same VXLAN built by hand and with Docker's overlay?

A lab of two hosts, each with a dockerd; the two are a swarm. Between them there are three networks of the same MTU,
each with one container per host:

    netagent    as `netagent attach` creates it, with its firewall
    by hand     a bridge, a VXLAN device and a veth from `ip` and `bridge`, with fixed entries, and only the one rule
                without which Docker's rules would drop packets on the bridge
    docker      an attachable overlay network of the swarm

Rounds go through all three in turn, each round beginning with another, so that a busy machine affects all equally;
the result is the median of each round's ratio. iperf3 drives TCP and UDP at full speed; latency is that of ping, echo
after echo, answered by the far kernel. "Work" is the processor time that a datagram takes from the sender to the far
container's socket: both hosts are on this machine, and no program reads there, so all of it counts for the sender. It
differs by some 2 % from run to run, even on a machine that is busy otherwise.

Everything is measured twice: with bridge netfilter on, where packets on a bridge of the host pass all iptables rules,
mainly Docker's (the bridge of Docker's overlay is in a namespace of its own, without rules; netagent keeps bridge
netfilter from its bridges, netagent.datapath.reconcile.bridge_nf_bypass), and with it off.

    sudo .ci/packages benchmark
    sudo .venv/bin/python benchmarks/datapath.py [--rounds 6] [--seconds 1]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "netns-lab")]

from netlab.host import Host  # noqa: E402 - the path is set above
from netlab.lab import Lab  # noqa: E402
from netlab.process import wait_until  # noqa: E402
from netlab.programs import must, require, run, started  # noqa: E402
from netlab.topology import of_hosts  # noqa: E402

FOLDER = Path("/run/natbench-datapath")
MTU_BYTES = 1450
DATAGRAM_BYTES = MTU_BYTES - 28
SINK_PORT = 9999
SINK = f"""
import signal, socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("", {SINK_PORT}))
signal.pause()
"""
SEND = f"""
import os, socket, sys, time
os.sched_setaffinity(0, {{max(os.sched_getaffinity(0))}})
words, took_ns = bytes({DATAGRAM_BYTES}), []
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.connect((sys.argv[1], {SINK_PORT}))
    for _ in range(12):
        begun_ns = time.thread_time_ns()
        for _ in range(2000):
            sock.send(words)
        took_ns.append((time.thread_time_ns() - begun_ns) / 2000)
print(min(took_ns))
"""
PINGS = 2000
TABLES = ("iptables", "ip6tables", "arptables")
"""Tables to which bridge netfilter shows a bridge's packets; the settings belong to a host, that is to a
namespace."""
SETTLED_S = 20.0
NOISE = 0.05
"""Two equal networks differ by this much on a machine that is idle otherwise."""

BY_HAND = """
iptables -I FORWARD -i br-hand -o br-hand -j ACCEPT
ip netns add hand
ip link add name br-hand mtu {mtu} type bridge mcast_snooping 0
ip link add name vx-hand mtu {mtu} type vxlan id 4242 dstport 4800 local {own} nolearning
ip link add name ve-hand mtu {mtu} type veth peer name eth0 mtu {mtu} address 02:00:00:00:00:{number} netns hand
ip link set vx-hand master br-hand
ip link set ve-hand master br-hand
ip link set br-hand up; ip link set vx-hand up; ip link set ve-hand up
bridge fdb add 02:00:00:00:00:{peer} dev vx-hand dst {far} self static
bridge fdb add 02:00:00:00:00:{peer} dev vx-hand master static
ip -n hand address add 10.250.0.{number}/24 dev eth0
ip -n hand link set eth0 up
ip -n hand neigh add 10.250.0.{peer} lladdr 02:00:00:00:00:{peer} dev eth0 nud permanent
"""


@dataclass(slots=True)
class Way:
    """A network: how to run a program in its container on h1 and on h2, and the address of the latter."""

    title: str
    client: Sequence[str]
    server: Sequence[str]
    address: str
    measured: dict[str, list[float]] = field(default_factory=dict)


def of_netagent(lab: Lab) -> Way:
    """Create ours."""
    lab.host("h1").must(["netagent", "network", "create", "app", "--mtu", str(MTU_BYTES)])
    near, far = (
        json.loads(lab.add_container(f"c{number}", f"h{number}", ["--network", "app", "--json"]))
        for number in (1, 2)
    )
    assert near["addresses"]
    client, server = (lab.container(f"c{number}").entering([]) for number in (1, 2))
    return Way("netagent", client, server, far["addresses"][0])


def by_hand(h1: Host, h2: Host) -> Way:
    """Create the minimal one."""
    for host, far, number in ((h1, h2, 1), (h2, h1, 2)):
        words = {"mtu": MTU_BYTES, "own": host.address, "far": far.address}
        script = BY_HAND.format(number=number, peer=3 - number, **words)
        host.must(["sh", "-e", "-c", script])
    client, server = (host.entering(["ip", "netns", "exec", "hand"]) for host in (h1, h2))
    return Way("by hand", client, server, "10.250.0.2")


def of_docker(h1: Host, h2: Host) -> Way:
    """Create Docker's overlay."""
    h1.must(["docker", "swarm", "init", "--advertise-addr", h1.address])
    token = h1.must(["docker", "swarm", "join-token", "-q", "worker"]).strip()
    h2.must(["docker", "swarm", "join", "--token", token, "--advertise-addr", h2.address, h1.address])
    h1.must(["docker", "network", "create", "-d", "overlay", "--attachable", "own"])
    entrances = []
    for host in (h1, h2):
        host.must(["docker", "run", "-d", "--network", "own", "--name", f"d{host.name}", "lab"], timeout_s=60)
        process = host.must(["docker", "inspect", "-f", "{{.State.Pid}}", f"d{host.name}"]).strip()
        entrances.append(host.entering(["nsenter", f"--net=/proc/{process}/ns/net"]))
    shown = h2.must(["docker", "inspect", "-f", "{{.NetworkSettings.Networks.own.IPAddress}}", "dh2"])
    near, far = entrances
    return Way("docker", near, far, shown.strip())


def tcp(way: Way, seconds: int) -> dict[str, float]:
    """Return the Gbit/s that arrived."""
    report = _iperf(way, ["--time", str(seconds)])
    return {"TCP": report["end"]["sum_received"]["bits_per_second"] / 1e9}


def udp(way: Way, seconds: int, *, datagram_bytes: int = DATAGRAM_BYTES) -> dict[str, float]:
    """Return the Gbit/s that reached the far container, from a sender without a limit.

    Includes datagrams for which the socket had no room: a receiver without processor time says nothing about the
    path.
    """
    before = _arrived(way)
    report = _iperf(way, ["--udp", "-b", "0", "-l", str(datagram_bytes), "--time", str(seconds)])
    arrived = _arrived(way) - before
    return {"UDP": arrived * datagram_bytes * 8 / report["end"]["sum"]["seconds"] / 1e9}


def _arrived(way: Way) -> int:
    """Return the number of datagrams since the container's start."""
    names, values = re.findall(r"^Udp: (.*)$", must([*way.server, "cat", "/proc/net/snmp"]), re.MULTILINE)
    counters: dict[str, int] = dict(zip(names.split(), map(int, values.split()), strict=True))
    return counters["InDatagrams"] + counters["RcvbufErrors"]


def work(way: Way, _seconds: int) -> dict[str, float]:
    """Return the microseconds of processor time per datagram, for the whole path."""
    return {"UDP, work": float(must([*way.client, sys.executable, "-c", SEND, way.address])) / 1e3}


def latency(way: Way, _seconds: int) -> dict[str, float]:
    """Return the microseconds of a round trip."""
    printed = must([*way.client, "ping", "-n", "-A", "-c", str(PINGS), way.address], timeout_s=60)
    times = sorted(float(found) * 1e3 for found in re.findall(r"time=([0-9.]+) ms", printed))
    return {"echo": times[len(times) // 2], "echo, p99": times[len(times) * 99 // 100]}


def _iperf(way: Way, options: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    printed = must([*way.client, "iperf3", "--json", "-c", way.address, *options], timeout_s=60)
    report: dict[str, dict[str, dict[str, float]]] = json.loads(printed)
    return report


MEASURES: tuple[Callable[[Way, int], dict[str, float]], ...] = (tcp, udp, work, latency)
UNITS = {"TCP": "Gbit/s", "UDP": "Gbit/s", "UDP, work": "µs", "echo": "µs", "echo, p99": "µs"}


def measure(ways: Sequence[Way], rounds: int, seconds: int) -> None:
    """Measure all networks in turn."""
    for way in ways:
        way.measured.clear()
    for number in range(rounds):
        turn = number % len(ways)
        for one in MEASURES:
            for way in (*ways[turn:], *ways[:turn]):
                for what, value in one(way, seconds).items():
                    way.measured.setdefault(what, []).append(value)


def show(ways: Sequence[Way]) -> bool:
    """Print the results; return True when ours is no worse than either of the others."""
    good = True
    for what, unit in UNITS.items():
        medians = (f"{way.title} {statistics.median(way.measured[what]):6.2f}" for way in ways)
        print(f"{what:10} {unit:6}   {'   '.join(medians)}")
        for other in ways[1:]:
            ratio = statistics.median(ratios(ways[0].measured[what], other.measured[what]))
            # How many times as good ours is.
            better = ratio if unit.endswith("/s") else 1 / ratio
            good = good and better >= 1 - NOISE
            print(f"{'':20}ours is {ratio:.2f} of {other.title}: {_word(better)}")
    return good


def ratios(ours: Iterable[float], theirs: Iterable[float]) -> list[float]:
    """Return how many times as much ours is, by round."""
    return [one / two for one, two in zip(ours, theirs, strict=True)]


def _word(better: float) -> str:
    if abs(better - 1) <= NOISE:
        return "the same"
    return "better" if better > 1 else "worse"


def main() -> int:
    """Boot a lab, measure, take it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=int, default=1, help="of each iperf3")
    arguments = parser.parse_args()
    require(["iperf3", "ping"])
    lab = Lab(FOLDER)
    lab.down()
    with ExitStack() as stack:
        stack.callback(lab.down)
        lab.up(of_hosts(2), runtimes=True)
        h1, h2 = lab.hosts
        ways = [of_netagent(lab), by_hand(h1, h2), of_docker(h1, h2)]
        for way in ways:
            stack.enter_context(started([*way.server, "iperf3", "-s"]))
            stack.enter_context(started([*way.server, sys.executable, "-c", SINK]))
            reach = [*way.client, "ping", "-n", "-c", "1", "-W", "1", way.address]
            wait_until(partial(succeeds, reach), SETTLED_S, f"nothing passes by {way.title}")
        good = True
        for setting, word in ((1, "on"), (0, "off")):
            for host in lab.hosts:
                host.must(
                    ["sysctl", "-qw", *(f"net.bridge.bridge-nf-call-{one}={setting}" for one in TABLES)]
                )
            measure(ways, arguments.rounds, arguments.seconds)
            print(f"== bridge netfilter {word}")
            good = show(ways) and good
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors, {arguments.rounds} rounds")
    return 0 if good else 1


def succeeds(argv: Sequence[str]) -> bool:
    """Return whether a program ends with status 0."""
    return run(argv).status == 0


if __name__ == "__main__":
    sys.exit(main())
