"""Requests to a service by name, each over a connection of its own. Runs inside the containers; needs only Python.

`serve` answers on port 7001: a line with a number of milliseconds comes back after that time. After SIGTERM it goes
on for GRACE seconds if that is given, lets requests under way end, and ends. `ask NAME SECONDS` runs several clients
beside each other until standard input ends, or that time at most, and prints {"done", "failed", "by"}: requests
answered, the errors of those that failed, and how many each address answered. One client asks for the name each time,
one remembers the answer for 5 s as its TTL allows, one makes requests that take a second. With `ask NAME SECONDS
RATE` all clients ask for the name each time, and make so many requests a second together.
"""

from __future__ import annotations

import json
import signal
import socket
import socketserver
import sys
import threading
import time
from collections import Counter

PORT = 7001
REMEMBER_S = 5.0
TIMEOUT_S = 4.0
STEADY_CLIENTS = 4


class Slow(socketserver.StreamRequestHandler):
    """Sends the line back after the time that it names."""

    def handle(self) -> None:
        line = self.rfile.readline()
        time.sleep(int(line) / 1000)
        self.wfile.write(line)


class Server(socketserver.ThreadingTCPServer):
    """IPv6, and IPv4 through it."""

    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64


class Client(threading.Thread):
    """One request after the other; of several addresses the first is used, as most clients do."""

    def __init__(
        self, name: str, *, takes_ms: int, remember_s: float, stop: threading.Event, every_s: float = 0.0
    ) -> None:
        super().__init__()
        self.answered: Counter[str] = Counter()
        self.failed: list[str] = []
        self._name, self._line = name, b"%d\n" % takes_ms
        self._remember_s, self._every_s, self._stop_asked = remember_s, every_s, stop

    def run(self) -> None:
        started = time.monotonic()
        address, until, next_at = "", 0.0, started
        while not self._stop_asked.wait(max(next_at - time.monotonic(), 0.0)):
            begun = time.monotonic()
            next_at = max(next_at, begun - self._every_s) + self._every_s if self._every_s else 0.0
            try:
                if begun >= until:
                    address = ""
                    address = str(socket.getaddrinfo(self._name, PORT, type=socket.SOCK_STREAM)[0][4][0])
                    until = time.monotonic() + self._remember_s
                with socket.create_connection((address, PORT), TIMEOUT_S) as connection:
                    connection.sendall(self._line)
                    if connection.makefile("rb").readline() != self._line:
                        raise OSError("no answer")
                self.answered[address] += 1
            except OSError as error:
                after_s, at_s = time.monotonic() - begun, begun - started
                self.failed.append(f"{address or self._name} at {at_s:.2f} s, after {after_s:.3f} s: {error}")
            if not self._every_s:
                time.sleep(0.005)


def serve(grace_s: float) -> None:
    """Serve until SIGTERM and a while longer."""
    server = Server(("::", PORT), Slow)
    server.daemon_threads = False

    def stop(_number: int, _frame: object) -> None:
        threading.Timer(grace_s, server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    server.serve_forever(poll_interval=0.01)
    server.server_close()  # waits for requests under way


def ask(name: str, seconds: float, rate: float) -> None:
    """Run the clients and print what became of their requests."""
    stop = threading.Event()

    def await_end() -> None:
        sys.stdin.read()
        stop.set()

    steady = [
        Client(name, takes_ms=0, remember_s=0.0, every_s=STEADY_CLIENTS / rate, stop=stop)
        for _ in range(STEADY_CLIENTS if rate else 0)
    ]
    clients = steady or [
        Client(name, takes_ms=0, remember_s=0.0, stop=stop),
        Client(name, takes_ms=20, remember_s=REMEMBER_S, stop=stop),
        *(Client(name, takes_ms=1000, remember_s=0.0, stop=stop) for _ in range(3)),
    ]
    for client in clients:
        client.start()
    threading.Thread(target=await_end, daemon=True).start()
    stop.wait(seconds)
    stop.set()
    by: Counter[str] = Counter()
    for client in clients:
        client.join()
        by += client.answered
    failed = [text for client in clients for text in client.failed]
    print(json.dumps({"done": by.total(), "failed": failed, "by": by}))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(float(sys.argv[2]) if sys.argv[2:] else 0.0)
    else:
        ask(sys.argv[2], float(sys.argv[3]), float(sys.argv[4]) if sys.argv[4:] else 0.0)
