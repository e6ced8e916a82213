#!/usr/bin/env python3
"""What does it cost that a cluster encrypts? Containers on our overlay in the clear and encrypted, beside plain
wireguard-go between the same hosts.

Two labs of two hosts each; the hosts of one are a cluster in the clear, those of the other one that encrypts. What is
measured:

    clear        a container on each of two hosts, on an overlay network in the clear
    encrypted    the same in the cluster that encrypts
    wireguard    wireguard-go alone, host to host over its tun, between the hosts of the cluster that encrypts

Rounds go through all three in turn, each round beginning with another, so that a busy machine affects all equally; a
ratio is the median of the rounds' ratios. iperf3 drives one TCP stream, and UDP at full speed, in datagrams that all
three carry whole; of UDP counts what arrives. Latency is that of ping, echo after echo, answered by the far kernel.
Docker's encrypted overlay is not measured: it needs IPsec (ESP), and the program says whether this kernel has it.

After that, what signatures of records cost, in processor time: signing and verifying one change, one change at its
owner and at each receiver with and without them, and the join of a host that takes `--records` records
(benchmarks/signed_logs.py, which this one calls).

The exit status is 1 when an encrypted path has less than 0.8 of plain wireguard-go's TCP or UDP.

    sudo .ci/packages benchmark
    sudo .venv/bin/python benchmarks/encryption.py [--rounds 6] [--seconds 2] [--records 20000] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TypeAlias

import signed_logs
from datapath import (
    SETTLED_S,
    SINK,
    UNITS,
    Way,
    latency,
    ratios,
    succeeds,
    tcp,
    udp,
)  # adds the lab to the path
from netlab.cluster import all_see_all
from netlab.host import Host
from netlab.lab import Lab
from netlab.process import wait_until
from netlab.programs import require, started
from netlab.topology import of_hosts

CLEAR, ENCRYPTED, PLAIN = "clear", "encrypted", "wireguard"
FOLDERS = {CLEAR: Path("/run/natbench-clear"), ENCRYPTED: Path("/run/natbench-sealed")}
DATAGRAM_BYTES = 1300
"""As large as all can carry: VXLAN in WireGuard has room for 1,370 bytes of IP on an underlay of 1,500."""
GOAL = 0.8
"""Of plain wireguard-go."""
LOGS = 300
"""Of as many hosts come the records that a host takes which joins."""
PLAIN_PORT = 51820
PLAIN_DEVICE = "wgplain"
PLAIN_ADDRESSES = ("10.251.0.1", "10.251.0.2")
KEYS = "key=$(wg genkey); echo $key; echo $key | wg pubkey"
"""Prints a private and its public key."""
PLAIN_TUNNEL = f"""
wireguard-go {PLAIN_DEVICE}
wg set {PLAIN_DEVICE} listen-port {PLAIN_PORT} private-key /dev/stdin \
    peer {{public}} endpoint {{endpoint}} allowed-ips {{far}}/32
ip address add {{own}}/24 dev {PLAIN_DEVICE}
ip link set {PLAIN_DEVICE} up
"""
MEASURES: tuple[Callable[[Way, int], dict[str, float]], ...] = (
    tcp,
    partial(udp, datagram_bytes=DATAGRAM_BYTES),
    latency,
)
MEASURED = ("TCP", "UDP", "echo", "echo, p99")
Figures: TypeAlias = dict[str, dict[str, float]]


def main() -> int:
    """Boot two labs, measure, take them down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=int, default=2, help="of each iperf3")
    parser.add_argument("--records", type=int, default=20_000, help="that a host takes which joins")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    require(["iperf3", "ping", "wireguard-go", "wg"])
    with ExitStack() as stack:
        ways = [*prepared(stack)]
        docker = f"not measured; this kernel has {'' if has_esp() else 'no '}ESP"
        for way in ways:
            stack.enter_context(served(way))
        measure(ways, arguments.rounds, arguments.seconds)
    found = {what: {way.title: statistics.median(way.measured[what]) for way in ways} for what in MEASURED}
    compared = {what: compare(ways, what) for what in MEASURED}
    signatures = signed_logs.medians(
        argparse.Namespace(logs=LOGS, records=arguments.records, rounds=arguments.rounds)
    )
    reached = all(compared[what][f"{ENCRYPTED}/{PLAIN}"] >= GOAL for what in ("TCP", "UDP"))
    if arguments.json:
        printed = {"median": found, "ratio": compared, "signatures": signatures, "docker_encrypted": docker}
        print(json.dumps({**printed, "goal": GOAL, "goal_reached": reached, **surroundings()}, indent=2))
    else:
        show(found, compared)
        print(f"Docker's encrypted overlay: {docker}")
        signed_logs.show(signatures)
        print(f"{json.dumps(surroundings())}, {arguments.rounds} rounds")
        print(f"at least {GOAL} of plain wireguard-go in TCP and UDP: {'yes' if reached else 'no'}")
    return 0 if reached else 1


def prepared(stack: ExitStack) -> Iterator[Way]:
    """Boot both labs, and yield what is measured."""
    for title, folder in FOLDERS.items():
        lab = Lab(folder)
        lab.down()
        stack.callback(lab.down)
        lab.up(of_hosts(2), join=False)
        form(lab, is_encrypted=title == ENCRYPTED)
        near, far = (
            json.loads(lab.add_container(f"c{number}", f"h{number}", ["--network", "app", "--json"]))
            for number in (1, 2)
        )
        assert near["addresses"]
        client, server = (lab.container(f"c{number}").entering([]) for number in (1, 2))
        yield Way(title, client, server, far["addresses"][0])
    yield with_wireguard_go(*Lab(FOLDERS[ENCRYPTED]).hosts)


def form(lab: Lab, *, is_encrypted: bool) -> None:
    """Make both hosts a cluster with a network."""
    h1, h2 = lab.hosts
    h1.must(["netagent", "init", *(["--encrypt"] if is_encrypted else []), "--network", "app"])
    h2.must(["netagent", "join", "--token-file", "-"], stdin=h1.must(["netagent", "invite"]))
    wait_until(partial(all_see_all, lab.hosts), SETTLED_S, f"no cluster in {lab.folder}")


def with_wireguard_go(h1: Host, h2: Host) -> Way:
    """Make a tunnel between the hosts, with wireguard-go's own MTU."""
    keys = [host.must(["sh", "-c", KEYS]).split() for host in (h1, h2)]
    ends = list(zip((h1, h2), keys, PLAIN_ADDRESSES, strict=True))
    for (host, (private, _), own), (far_host, (_, public), far) in zip(ends, reversed(ends), strict=True):
        endpoint = f"{far_host.address}:{PLAIN_PORT}"
        host.must(
            ["sh", "-ec", PLAIN_TUNNEL.format(own=own, public=public, far=far, endpoint=endpoint)],
            stdin=private,
        )
    return Way(PLAIN, h1.entering([]), h2.entering([]), PLAIN_ADDRESSES[1])


@contextmanager
def served(way: Way) -> Iterator[None]:
    """Have iperf3 and a socket that takes datagrams at the far end."""
    with started([*way.server, "iperf3", "-s"]), started([*way.server, sys.executable, "-c", SINK]):
        reach = [*way.client, "ping", "-n", "-c", "1", "-W", "1", way.address]
        wait_until(partial(succeeds, reach), SETTLED_S, f"nothing passes by {way.title}")
        yield


def measure(ways: Sequence[Way], rounds: int, seconds: int) -> None:
    """Measure all of them in turn."""
    for number in range(rounds):
        turn = number % len(ways)
        for one in MEASURES:
            for way in (*ways[turn:], *ways[:turn]):
                for what, value in one(way, seconds).items():
                    way.measured.setdefault(what, []).append(value)


def compare(ways: Sequence[Way], what: str) -> dict[str, float]:
    """Return the ratios of the encrypted network to the others, and of plain wireguard-go to the network in the
    clear."""
    by = {way.title: way.measured[what] for way in ways}
    pairs = ((ENCRYPTED, PLAIN), (ENCRYPTED, CLEAR), (PLAIN, CLEAR))
    return {f"{one}/{other}": statistics.median(ratios(by[one], by[other])) for one, other in pairs}


def show(found: Figures, compared: Figures) -> None:
    """Print the figures of the paths."""
    for what in MEASURED:
        print(
            f"{what:10} {UNITS[what]:6}   "
            + "   ".join(f"{one} {value:8.3f}" for one, value in found[what].items())
        )
        print(f"{'':20}" + "   ".join(f"{pair} {value:.2f}" for pair, value in compared[what].items()))


def has_esp() -> bool:
    """Return whether the kernel takes a security association of ESP; asked in a namespace of its own."""
    state = "ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 1 mode transport"
    return succeeds(["unshare", "--net", "sh", "-c", f"{state} aead 'rfc4106(gcm(aes))' 0x{'01' * 20} 128"])


def surroundings() -> dict[str, object]:
    """Return what the figures depend on."""
    return {"kernel": os.uname().release, "processors": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}


if __name__ == "__main__":
    sys.exit(main())
