"""What counting flows costs: per opening, per packet that opens nothing, and whether any opening is lost.

    sudo python benchmarks/flows.py [--openings 200000]

The kernel itself runs each program a million times (BPF_PROG_TEST_RUN) on a packet and says how long one run takes: a
SYN of a flow that is known, one that finds the share full, a segment of an open connection, and a datagram of a flow
that is known; at the port of a container and at the bridge, by which the host and clients of published ports open.
Then a container in a namespace of its own, and the host, send as many SYNs as they can, to 200 ports, and the counts
are compared with what they sent. Leaves nothing behind.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from netagent.datapath.bpf import maps, programs, tcx
from netagent.datapath.bpf.maps import Map
from netagent.datapath.bpf.programs import Kind, Program
from netagent.datapath.bpf.system_call import Command, call
from netagent.datapath.flows import layout
from netagent.datapath.flows import programs as code
from netagent.datapath.flows.layout import (
    FLOWS,
    RECENT,
    SHAPES,
    SHARES,
    FlowCount,
    FlowKey,
    Opener,
    Share,
    unpack_flow,
)

RUNS: Final = 1_000_000
RATE: Final = 10_000
"""Openings per second that the share of a processor is worked out for."""
LOOPBACK: Final = 1
"""The index of the device that test runs seem to come from."""
ETHER: Final = bytes(12) + b"\x08\x00"
FLOOD: Final = """
import socket, struct, sys
count = int(sys.argv[1])
packets = [struct.pack("!HHIIBBHHH", 40000, port, 1, 0, 0x50, 0x02, 1000, 0, 0) for port in range(1000, 1200)]
with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as sock:
    for number in range(count):
        sock.sendto(packets[number % 200], ("10.99.0.2", 0))
"""


def test_run(program: Program, packet: bytes) -> int:
    """Have the kernel run a program RUNS times on a packet; return how long one run took, in nanoseconds."""
    data = ctypes.create_string_buffer(packet, len(packet))
    packed = struct.pack("=IIIIQQII", program.fd, 0, len(packet), 0, ctypes.addressof(data), 0, RUNS, 0)
    attribute = ctypes.create_string_buffer(packed, 128)
    call(Command.PROGRAM_TEST_RUN, attribute)
    took_ns: int = struct.unpack_from("=I", attribute.raw, 36)[0]
    return took_ns


def ipv4(protocol: int, payload: bytes) -> bytes:
    """Return a frame with an IPv4 packet."""
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0, b"\x0a\x63\0\1", b"\x0a\x63\0\2"
    )
    return ETHER + head + payload


def tcp(port: int, flags: int) -> bytes:
    """Return a frame with a TCP segment."""
    return ipv4(6, struct.pack("!HHIIBBHHH", 40_000, port, 1, 0, 0x50, flags, 1000, 0, 0))


def loaded() -> tuple[dict[str, Map], Program, Program, Program]:
    """Return the tables, and the programs: from a container, to it, and from the bridge."""
    tables = {shape.name: maps.create(shape) for shape in SHAPES}
    fds = {name: one.fd for name, one in tables.items()}
    count = programs.load(Kind.SCHED_CLS, "netagent_count", code.count().assemble(fds))
    heard = programs.load(Kind.SCHED_CLS, "netagent_heard", code.heard().assemble(fds))
    inward = programs.load(Kind.SCHED_CLS, "netagent_inward", code.inward().assemble(fds))
    return tables, count, heard, inward


def give_share(
    tables: dict[str, Map], index: int, opener: Opener = Opener.CONTAINER, *, flows: int = 0
) -> None:
    """Give a device a share, of which so much is used."""
    number = index if opener is Opener.CONTAINER else 1000 + index
    tables[RECENT.name].update(layout.pack_port(index), layout.NO_RECENT)
    tables[SHARES.name].update(layout.pack_port(index, opener), layout.pack_share(Share(number, flows, 0)))


def print_run_times() -> None:
    """Measure single runs."""
    tables, count, heard, inward = loaded()
    give_share(tables, LOOPBACK)
    give_share(tables, LOOPBACK, Opener.HOST)
    datagram = ipv4(17, struct.pack("!HHHH", 40_000, 53, 12, 0) + b"word")
    rows = [("SYN of a known flow", count, tcp(80, 0x02))]
    rows += [("segment of an open connection", count, tcp(80, 0x10))]
    rows += [("the same, to the container", heard, tcp(80, 0x10))]
    rows += [("datagram of a known flow", count, datagram)]
    rows += [("SYN of a known flow, at the bridge", inward, tcp(80, 0x02))]
    rows += [("segment, at the bridge", inward, tcp(80, 0x10))]
    rows += [("datagram, at the bridge", inward, datagram)]
    for words, program, packet in rows:
        took_ns = test_run(program, packet)
        print(
            f"{words:34} {took_ns:5} ns   {took_ns * RATE / 1e7:6.3f} % of a processor at {RATE:,} a second"
        )
    give_share(tables, LOOPBACK, flows=layout.MOST_FLOWS_OF_PORT)
    took_ns = test_run(count, tcp(81, 0x02))
    print(f"{'SYN that finds the share full':34} {took_ns:5} ns   {took_ns * RATE / 1e7:6.3f} %")


@contextmanager
def containers() -> Iterator[None]:
    """Two namespaces at a bridge, in a namespace that ends with this process."""
    commands = (
        "mount -t tmpfs none /run/netns",
        "ip link add name na-1 type bridge",
        "ip addr add 10.99.0.9/24 dev na-1",
        "ip link set na-1 up",
        "ip netns add one",
        "ip netns add two",
        "ip link add nvone type veth peer name eth0 netns one",
        "ip link add nvtwo type veth peer name eth0 netns two",
        "ip link set nvone master na-1 up",
        "ip link set nvtwo master na-1 up",
        "ip -n one addr add 10.99.0.1/24 dev eth0",
        "ip -n two addr add 10.99.0.2/24 dev eth0",
        "ip -n one link set eth0 up",
        "ip -n two link set eth0 up",
    )
    for command in commands:
        subprocess.run(command.split(), check=True)
    try:
        yield
    finally:
        for name in ("one", "two"):
            subprocess.run(["ip", "netns", "del", name], check=True)
        subprocess.run(["umount", "/run/netns"], check=True)


def print_losses(openings: int) -> None:
    """Count what a container and the host send as fast as they can."""
    tables, count, heard, inward = loaded()
    with containers():
        index = socket.if_nametoindex("nvone")
        give_share(tables, index)
        tcx.attach(index, tcx.Side.EGRESS, heard)
        tcx.attach(index, tcx.Side.INGRESS, count)
        subprocess.run(
            ["ip", "netns", "exec", "one", "ping", "-qc1", "10.99.0.2"], check=True, capture_output=True
        )
        bridge = socket.if_nametoindex("na-1")
        give_share(tables, bridge, Opener.HOST)
        tcx.attach(bridge, tcx.Side.EGRESS, inward)
        for sender, source, within in (
            ("a container", index, ["ip", "netns", "exec", "one"]),
            ("the host", 1000 + bridge, []),
        ):
            started_at = time.monotonic()
            subprocess.run([*within, sys.executable, "-c", FLOOD, str(openings)], check=True)
            rate = openings / (time.monotonic() - started_at)
            counted = sum(
                count.openings
                for key, count in elements(tables[FLOWS.name])
                if (key.source, key.protocol) == (source, 6)
            )
            print(
                f"{openings:,} openings sent by {sender} at {rate:,.0f} a second: {counted:,} counted, "
                f"{openings - counted:,} lost"
            )


def elements(table: Map) -> list[tuple[FlowKey, FlowCount]]:
    """Return all flows that were counted."""
    return [unpack_flow(*one) for batch in table.batches(256) for one in zip(*batch, strict=True)]


def main() -> None:
    """Measure in a namespace of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--openings", type=int, default=200_000, help="how many the container sends")
    openings = parser.parse_args().openings
    os.unshare(os.CLONE_NEWNET | os.CLONE_NEWNS)
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    print_run_times()
    print_losses(openings)


if __name__ == "__main__":
    main()
