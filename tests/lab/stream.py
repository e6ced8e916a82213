"""A TCP exchange and a stream of datagrams that show every hiccup. Run inside the containers; need only Python.

`serve` echoes lines on port 7000, and on the same port notes which datagrams come.

`send ADDRESS SECONDS` sends 100 numbered lines a second over one connection and prints {"sent", "echoed", "worst_ms",
"lost"}: lines sent, lines that came back in order, the longest time one took, and how many segments were lost: those
that the kernel sent again, less those that the peer then had twice (a busy machine answers late, and a probe for a
lost tail is sent for nothing; RFC 2883 tells the two apart).

`flood ADDRESS SECONDS` sends 1000 numbered datagrams a second, then asks which of them came, and prints {"sent",
"came", "missing": [the first ten], "worst_ms"}: the last is the longest pause between two that were sent, which says
how busy the machine was.
"""

from __future__ import annotations

import json
import socket
import socketserver
import struct
import sys
import threading
import time

PORT = 7000
INTERVAL_S = 0.01
FLOOD_INTERVAL_S = 0.001
BUFFER_BYTES = 16 << 20
"""Some 20,000 small datagrams: a server that waits for a busy processor loses nothing that the network carried."""
ANSWER_S = 20.0
SO_RCVBUFFORCE = 33
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


def note_datagrams() -> None:
    """A datagram is `<run> <number>`; `<run> ?` is answered with the numbers that came, as `<first>-<last>` each."""
    seen: dict[bytes, set[int]] = {}
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        sock.bind(("::", PORT))
        while True:
            data, sender = sock.recvfrom(100)
            run, number = data.split()
            if number != b"?":
                seen.setdefault(run, set()).add(int(number))
            else:
                sock.sendto(json.dumps(ranges_of(seen.get(run, set()))).encode(), sender)


def ranges_of(numbers: set[int]) -> list[tuple[int, int]]:
    """First and last of each run; of a stream with more than a hundred gaps the first hundred."""
    starts = sorted(number for number in numbers if number - 1 not in numbers)
    ends = sorted(number for number in numbers if number + 1 not in numbers)
    return list(zip(starts, ends, strict=True))[:100]


def flood(address: str, seconds: float) -> None:
    """At a fixed pace; what was late is caught up with."""
    run = f"{time.monotonic_ns()}"
    worst_s = 0.0
    count = int(seconds / FLOOD_INTERVAL_S)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect((address, PORT))
        begun = last = time.monotonic()
        for number in range(count):
            time.sleep(max(0.0, begun + number * FLOOD_INTERVAL_S - time.monotonic()))
            now = time.monotonic()
            worst_s, last = max(worst_s, now - last), now
            sock.send(f"{run} {number}".encode())
        sock.settimeout(ANSWER_S)  # whatever waits before the question is noted first
        sock.send(f"{run} ?".encode())
        came = {n for first, last_ in json.loads(sock.recv(65536)) for n in range(first, last_ + 1)}
    missing = sorted(set(range(count)) - came)[:10]
    print(json.dumps({"sent": count, "came": len(came), "missing": missing, "worst_ms": worst_s * 1000}))


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
        threading.Thread(target=note_datagrams, daemon=True).start()
        Server(("::", PORT), Echo).serve_forever()
    {"send": send, "flood": flood}[sys.argv[1]](sys.argv[2], float(sys.argv[3]))
