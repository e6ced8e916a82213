"""Requests to a service by name, each over a connection of its own. Runs inside the containers; needs only Python.

`serve` answers on port 7001: a line with a number of milliseconds comes back after that time. `ask NAME SECONDS` runs
several clients beside each other until standard input ends, or that time at most, and prints {"done", "failed",
"by"}: requests answered, the errors of those that failed, and how many each address answered. One client asks for
the name each time, one remembers the answer for 5 s as its TTL allows, one makes requests that take a second.
"""

from __future__ import annotations

import json
import socket
import socketserver
import sys
import threading
import time
from collections import Counter

PORT = 7001
REMEMBER_S = 5.0
TIMEOUT_S = 4.0


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

    def __init__(self, name: str, *, takes_ms: int, remember_s: float, stop: threading.Event) -> None:
        super().__init__()
        self.answered: Counter[str] = Counter()
        self.failed: list[str] = []
        self._name, self._line, self._remember_s, self._stop_asked = (
            name,
            b"%d\n" % takes_ms,
            remember_s,
            stop,
        )

    def run(self) -> None:
        address, until = "", 0.0
        while not self._stop_asked.is_set():
            begun = time.monotonic()
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
                self.failed.append(f"{address or self._name} after {time.monotonic() - begun:.3f} s: {error}")
            time.sleep(0.005)


def ask(name: str, seconds: float) -> None:
    """Run the clients and print what became of their requests."""
    stop = threading.Event()

    def await_end() -> None:
        sys.stdin.read()
        stop.set()

    clients = [
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
        Server(("::", PORT), Slow).serve_forever()
    ask(sys.argv[2], float(sys.argv[3]))
