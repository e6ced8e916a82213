"""A TCP exchange that shows every hiccup. Runs inside the containers; needs only Python.

`serve` echoes lines on port 7000. `send ADDRESS SECONDS` sends 100 numbered lines a second over one connection and
prints {"sent", "echoed", "worst_ms", "lost"}: lines sent, lines that came back in order, the longest time one took,
and how many segments were lost: those that the kernel sent again, less those that the peer then had twice (a busy
machine answers late, and a probe for a lost tail is sent for nothing; RFC 2883 tells the two apart).
"""

from __future__ import annotations

import json
import socket
import socketserver
import struct
import sys
import time

PORT = 7000
INTERVAL_S = 0.01
TOTAL_RETRANS_OFFSET, DSACK_DUPS_OFFSET = 100, 216  # in struct tcp_info, linux/tcp.h


class Echo(socketserver.StreamRequestHandler):
    """Sends every line back."""

    disable_nagle_algorithm = True

    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line)


class Server(socketserver.ThreadingTCPServer):
    """IPv6, and IPv4 through it."""

    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True


def send(address: str, seconds: float) -> None:
    """Stop-and-wait at a fixed pace: a lost segment shows as a slow line and as a retransmission."""
    sent = echoed = 0
    worst_s = 0.0
    with socket.create_connection((address, PORT), 5) as connection:
        connection.settimeout(15)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        back = connection.makefile("rb")
        end = time.monotonic() + seconds
        while (begun := time.monotonic()) < end:
            line = b"%d\n" % sent
            connection.sendall(line)
            sent += 1
            echoed += back.readline() == line
            took_s = time.monotonic() - begun
            worst_s = max(worst_s, took_s)
            time.sleep(max(0.0, INTERVAL_S - took_s))
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        again, twice = (
            struct.unpack_from("=I", info, at)[0] for at in (TOTAL_RETRANS_OFFSET, DSACK_DUPS_OFFSET)
        )
    print(
        json.dumps(
            {"sent": sent, "echoed": echoed, "worst_ms": worst_s * 1000, "lost": max(0, again - twice)}
        )
    )


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        Server(("::", PORT), Echo).serve_forever()
    send(sys.argv[2], float(sys.argv[3]))
