#!/usr/bin/env python3
"""What share of a processor do the checks of a host take?

So many network namespaces, each with a program that answers `GET /healthz` on one port, all of them in one process.
The part of the agent that asks runs in this process, with a row for each namespace. Prints the processor time of this
process per check and as a share of one processor, and how late checks were asked. Processor time counts what this
process works, in its own code and in the kernel for it, whatever else the machine does.

    sudo .venv/bin/python benchmarks/checks.py [--checks 1000] [--interval-s 2] [--kind http] [--seconds 20]
"""

from __future__ import annotations

import argparse
import ctypes
import os
import random
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import trio

from netagent.checks.ask import Question, ask_all
from netagent.checks.runner import CheckRunner
from netagent.checks.spec import parse_check_untrusted
from netagent.checks.state import Answer, Outcome
from netagent.datapath.endpoint.netns import boot_id, bring_loopback_up
from netagent.journal.rows import LocalEndpointRow, Published
from netagent.model.check import CheckedHealth
from netagent.model.ids import EndpointId, HostId, NetworkId
from netagent.model.records import Health
from netagent.model.sandbox import Netns
from netagent.registry.state_store import StateStore
from netagent.registry.view import RegistryView

FOLDER = Path("/run/natbench-checks")
PORT = 8080
SETTLED_S = 5.0
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\nConnection: close\r\n\r\nready"
_NEW_NETNS = 0x40000000
_BIND, _DETACH = 4096, 2
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def namespaces(count: int) -> Iterator[subprocess.Popen[bytes]]:
    """So many namespaces, and the process that serves in them."""
    FOLDER.mkdir()
    serving = [sys.executable, __file__, "--serve", "--checks", str(count)]
    with subprocess.Popen(serving, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            if server.stdout.readline() != b"serving\n":
                raise SystemExit("the namespaces could not be made")
            yield server
        finally:
            server.kill()
            for path in FOLDER.iterdir():
                _libc.umount2(os.fsencode(path), _DETACH)
                path.unlink()
            FOLDER.rmdir()


def serve(count: int) -> None:
    """Make the namespaces, and answer in all of them."""
    poll, listening, connected = select.epoll(), dict[int, socket.socket](), dict[int, socket.socket]()
    for number in range(count):
        if _libc.unshare(_NEW_NETNS):
            raise OSError(ctypes.get_errno(), "unshare")
        path = FOLDER / str(number)
        path.touch()
        if _libc.mount(b"/proc/thread-self/ns/net", os.fsencode(path), None, _BIND, None):
            raise OSError(ctypes.get_errno(), "mount")
        sock = socket.socket()
        bring_loopback_up(sock)
        sock.bind(("127.0.0.1", PORT))
        sock.listen(16)
        listening[sock.fileno()] = sock
        poll.register(sock, select.EPOLLIN)
    print("serving", flush=True)
    while True:
        for fd, _ in poll.poll():
            if fd in listening:
                one, _ = listening[fd].accept()
                connected[one.fileno()] = one
                poll.register(one, select.EPOLLIN)
                continue
            one = connected.pop(fd)
            poll.unregister(fd)
            with one, suppress(OSError):
                if one.recv(4096):
                    one.sendall(ANSWER)


def rows_of(count: int, check: str) -> Iterator[LocalEndpointRow]:
    """A row for each namespace."""
    boot, checks = boot_id(), (parse_check_untrusted(check),)
    for number in range(count):
        path = FOLDER / str(number)
        status = path.stat()
        yield LocalEndpointRow(
            endpoint_id=EndpointId(f"{number:032x}"),
            network_id=NetworkId("a" * 32),
            name=f"w{number}",
            service="w",
            offset=2,
            addresses=("127.0.0.1",),
            mac="",
            stage=Published(Netns(str(path), (status.st_dev, status.st_ino), boot), "eth0"),
            checks=checks,
        )


class Measured:
    """Counts what is asked, and how each check ended."""

    def __init__(self) -> None:
        self.count = self.failed = 0

    async def ask(self, questions: Sequence[Question], done: Callable[[int, Answer], None]) -> None:
        """Ask, and count."""

        def end(number: int, outcome: Answer) -> None:
            self.count += 1
            self.failed += not (isinstance(outcome, Outcome) and outcome.is_success)
            done(number, outcome)

        await ask_all(questions, end)


async def measure(rows: Sequence[LocalEndpointRow], seconds: float, interval_s: float) -> None:
    """Run the checks for a while, and print what they took."""
    live, measured = StateStore(RegistryView(HostId("b" * 32)), {}), Measured()

    async def save(seen: LocalEndpointRow, checked: CheckedHealth) -> None:
        live.set_row(replace(live.rows[seen.endpoint_id], checked=checked))

    async def execute(*_asked: object) -> None:
        raise AssertionError("no check is a command")

    runner = CheckRunner(live, save, execute, random.Random(1), measured.ask)
    for row in rows:
        live.set_row(row)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(runner.run)
        await trio.sleep(SETTLED_S)
        worked_s, began_s, count = time.process_time(), time.monotonic(), measured.count
        await trio.sleep(seconds)
        worked_s, lasted_s = time.process_time() - worked_s, time.monotonic() - began_s
        count = measured.count - count
        nursery.cancel_scope.cancel()
    up = sum(row.checked is not None and row.checked.health is Health.HEALTHY for row in live.rows.values())
    due = len(rows) / interval_s * lasted_s
    print(f"{len(rows)} checks every {interval_s:g} s: {count} asked in {lasted_s:.1f} s, of {due:.0f}")
    print(f"{measured.failed} failed, {up} of {len(rows)} are up")
    print(f"{1e6 * worked_s / count:.0f} µs per check; {100 * worked_s / lasted_s:.2f} % of a processor")
    print(f"at full pace: {100 * worked_s / count * len(rows) / interval_s:.2f} % of a processor")


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checks", type=int, default=1000)
    parser.add_argument("--interval-s", type=float, default=2.0)
    parser.add_argument("--kind", choices=("http", "tcp"), default="http")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.checks)
        return
    path = "/healthz" if given.kind == "http" else ""
    check = f"{given.kind}:{PORT}{path} interval={1000 * given.interval_s:.0f}ms"
    with namespaces(given.checks):
        trio.run(measure, list(rows_of(given.checks, check)), given.seconds, given.interval_s)


if __name__ == "__main__":
    main()
