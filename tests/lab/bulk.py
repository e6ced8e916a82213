"""A large TCP transfer, there and back. Runs inside the containers; needs only Python.

`serve` answers on port 7002: it reads a number in decimal and a line's end, then as many bytes, and sends as many
back. `move ADDRESS BYTES` does one such exchange, giving up when nothing moves for STALLED_S, and prints
{"moved", "took_s", "mss_bytes"}; the last is what TCP has agreed on, without its options.
"""

from __future__ import annotations

import json
import socket
import socketserver
import sys
import time

PORT = 7002
STALLED_S = 5.0
CHUNK_BYTES = 65536


class Echo(socketserver.StreamRequestHandler):
    """Takes it all, then gives it all."""

    def handle(self) -> None:
        size = int(self.rfile.readline())
        self.wfile.write(bytes(receive(self.connection, self.rfile.read1(CHUNK_BYTES), size)))


class Server(socketserver.ThreadingTCPServer):
    """IPv6, and IPv4 through it."""

    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True


def receive(connection: socket.socket, first: bytes, size: int) -> int:
    """Until `size` bytes are here, `first` among them; how many came."""
    left = size - len(first)
    while left > 0 and (chunk := connection.recv(CHUNK_BYTES)):
        left -= len(chunk)
    return size - left


def move(address: str, size: int) -> None:
    """One exchange."""
    begun = time.monotonic()
    with socket.create_connection((address, PORT), STALLED_S) as connection:
        connection.settimeout(STALLED_S)
        header = b"%d\n" % size
        for chunk in (header, *[bytes(CHUNK_BYTES)] * (size // CHUNK_BYTES), bytes(size % CHUNK_BYTES)):
            connection.sendall(chunk)
        moved = receive(connection, b"", size)
        mss_bytes = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
    took_s = time.monotonic() - begun
    print(json.dumps({"moved": moved, "took_s": took_s, "mss_bytes": mss_bytes}))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        Server(("::", PORT), Echo).serve_forever()
    move(sys.argv[2], int(sys.argv[3]))
