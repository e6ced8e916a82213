"""Members of multicast groups. Runs inside the containers; needs only Python.

`listen` joins GROUP and GROUP6 on eth0, says `joined`, and prints a line for each text that comes until standard
input ends: how it was addressed, and the text. `send TEXT` sends the text to both groups and to all hosts, by
whatever interface the routes say.
"""

from __future__ import annotations

import selectors
import socket
import struct
import sys

GROUP, GROUP6, PORT = "239.1.2.3", "ff05::1:3", 7001


def listen() -> None:
    """One socket an address, so that each text says by which it came."""
    index = socket.if_nametoindex("eth0")
    with selectors.DefaultSelector() as selector:
        for address in (GROUP, GROUP6, "255.255.255.255"):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            sock = socket.socket(family, socket.SOCK_DGRAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address, PORT))
            packed = socket.inet_pton(family, address)
            if address == GROUP:
                wish = packed + bytes(4) + struct.pack("=i", index)
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, wish)
            elif address == GROUP6:
                wish = packed + struct.pack("=I", index)
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, wish)
            selector.register(sock, selectors.EVENT_READ, address)
        print("joined", flush=True)
        selector.register(sys.stdin, selectors.EVENT_READ)
        is_over = False
        while (ready := selector.select(0 if is_over else None)) or not is_over:
            for key, _ in ready:
                if key.fileobj is sys.stdin:
                    selector.unregister(sys.stdin)
                    is_over = True
                else:
                    print(key.data, key.fileobj.recv(100).decode(), flush=True)  # type: ignore[union-attr]


def send(text: str) -> None:
    """Once to each."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as four:
        four.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for address in (GROUP, "255.255.255.255"):
            four.sendto(text.encode(), (address, PORT))
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as six:
        six.sendto(text.encode(), (GROUP6, PORT))


if __name__ == "__main__":
    if sys.argv[1] == "listen":
        listen()
    else:
        send(sys.argv[2])
