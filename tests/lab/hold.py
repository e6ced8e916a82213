"""Connections that stay open and idle. Runs inside the containers; needs only Python.

`serve NAME` sends its name to each client on port 7000, and then back what comes. `hold ADDRESS ...` opens as many
connections to each address as it takes to reach two servers, prints [name, address] of each, and then a line for
each that ends by itself. When standard input ends it tries those that are left, and prints which still work.
`once ADDRESS` connects twenty times and prints who answered.
"""

from __future__ import annotations

import errno
import json
import socket
import socketserver
import sys
import threading
import time

PORT = 7000
AT_MOST = 60
"""Connections to one address, so that two servers are reached but for one chance in 10 to the 17."""


class Echo(socketserver.StreamRequestHandler):
    """Says who it is, and echoes."""

    def handle(self) -> None:
        self.wfile.write(sys.argv[2].encode() + b"\n")
        while data := self.request.recv(100):
            self.wfile.write(data)


class Server(socketserver.ThreadingTCPServer):
    """IPv6, and IPv4 through it."""

    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64


class Held(threading.Thread):
    """One connection, and how it ends."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self.address = address
        self.connection = socket.create_connection((address, PORT), 5)
        self.by = self.connection.makefile().readline().strip()
        self.connection.settimeout(None)
        self.echoed = threading.Event()

    def run(self) -> None:
        try:
            error = "none" if self.connection.recv(1) else "EOF"
        except OSError as failure:
            error = errno.errorcode.get(failure.errno or 0, str(failure))
        if error == "none":
            self.echoed.set()
            return
        ended = {"by": self.by, "to": self.address, "error": error, "at": time.time()}
        sys.stdout.write(json.dumps(ended) + "\n")
        sys.stdout.flush()


def hold(addresses: list[str]) -> None:
    """Hold connections until standard input ends."""
    held: list[Held] = []
    for address in addresses:
        mine: list[Held] = []
        while len({one.by for one in mine}) < 2 and len(mine) < AT_MOST:
            mine.append(Held(address))
        held += mine
    print(json.dumps([[one.by, one.address] for one in held]), flush=True)
    for one in held:
        one.start()
    sys.stdin.read()
    left = [one for one in held if one.is_alive()]
    for one in left:
        one.connection.send(b"x")
    print(json.dumps([[one.by, one.address] for one in left if one.echoed.wait(5)]))


if sys.argv[1] == "serve":
    with Server(("::", PORT), Echo) as server:
        server.serve_forever()
elif sys.argv[1] == "hold":
    hold(sys.argv[2:])
else:
    for _ in range(20):
        print(Held(sys.argv[2]).by)
