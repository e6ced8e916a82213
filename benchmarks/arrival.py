#!/usr/bin/env python3
"""How long after a record arrives at a host are its entries in that host's kernel?

A lab of two hosts. On h2 a small program watches both: the datagrams that arrive at the record port, and the kernel's
own notifications of neighbours and forwarding entries. On h1 empty namespaces are attached, one after the other. A
record differs by its size from what hosts send each other at rest. Prints the median and the worst of the runs, from
the datagram to the first and to the last of an endpoint's four entries (its two addresses, its MAC's port, its MAC's
host).

    sudo .venv/bin/python benchmarks/arrival.py [--runs 50]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import time
from pathlib import Path

from attach_to_answer import show  # adds the lab to the module path
from netlab.lab import Lab
from netlab.programs import kill_group
from netlab.topology import of_hosts

from netagent.control.client import Client

FOLDER = Path("/run/natbench-arrival")
ENTRIES = 4
SETTLED_S = 0.3
"""Between attaches, so that late entries of one do not count for the next."""

WATCHER = """
import select, socket, struct, sys, time
RECORD_PORT, AT_REST_BYTES, NEW_NEIGHBOUR = 7957, 160, 28
wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
wire.bind(("eth0", 0x0800))
kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
kernel.bind((0, 4))
print("watching", flush=True)
while True:
    # A datagram that waits beside an entry came before it.
    ready, _, _ = select.select([wire, kernel], [], [])
    now = time.monotonic()
    if wire in ready:
        packet, (_, _, kind, *_) = wire.recvfrom(2048)
        is_record = packet[9] == 17 and packet[22:24] == struct.pack("!H", RECORD_PORT)
        if kind != socket.PACKET_OUTGOING and is_record and len(packet) > AT_REST_BYTES:
            print("record", now, flush=True)
    if kernel in ready and struct.unpack_from("=IH", kernel.recv(65536))[1] == NEW_NEIGHBOUR:
        print("entry", now, flush=True)
"""


def watch(lab: Lab, runs: int) -> list[tuple[str, float]]:
    """Return what h2 saw, and when, during so many attaches on h1."""
    h1 = lab.host("h1")
    client = Client(str(h1.path("/run/netagent/netagent.sock")))
    watching = ["/usr/bin/python3", "-c", WATCHER]
    argv = lab.host("h2").entering(watching)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, start_new_session=True) as watcher:
        assert watcher.stdout is not None
        watcher.stdout.readline()
        for run in range(runs):
            h1.must(["ip", "netns", "add", f"b{run}"])
            client.call("POST", "/v1/endpoints", body={"target": f"netns:b{run}", "network": "app"})
            time.sleep(SETTLED_S)
        kill_group(watcher)
        lines = [line.split() for line in watcher.stdout]
    return [(fields[0], float(fields[1])) for fields in lines if len(fields) == 2]


def delays(seen: list[tuple[str, float]]) -> tuple[list[float], list[float]]:
    """Return the seconds from each record to its first and to its last entry, without entries of other records."""
    first, last = [], []
    arrived_at, entries = 0.0, ENTRIES
    for what, at in seen:
        if what == "record":
            arrived_at, entries = at, 0
        elif entries < ENTRIES:
            entries += 1
            if entries == 1:
                first.append(at - arrived_at)
            if entries == ENTRIES:
                last.append(at - arrived_at)
    return first, last


def main() -> None:
    """Boot a lab, measure, take it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=50)
    arguments = parser.parse_args()
    lab = Lab(FOLDER)
    lab.down()
    try:
        lab.up(of_hosts(2))
        lab.host("h1").must(["netagent", "network", "create", "app"])
        lab.add_container("there", "h2", ["--network", "app"])
        first, last = delays(watch(lab, arguments.runs))
        show("record to its first entry", first)
        show("record to its last entry", last)
        print(f"{len(last)} of {arguments.runs} seen; median {statistics.median(last) * 1e3:.1f} ms")
    finally:
        lab.down()


if __name__ == "__main__":
    main()
