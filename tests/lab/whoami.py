"""A web server of sorts: tells each client, over TCP, as whom it sees it. Runs anywhere; needs only Python."""

from __future__ import annotations

import contextlib
import selectors
import socket
import sys

with selectors.DefaultSelector() as ready:
    for address in ("0.0.0.0", "::"):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((address, int(sys.argv[1])))
        listener.listen()
        ready.register(listener, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, _ in ready.select():
            connection, peer = key.fileobj.accept()  # type: ignore[union-attr]
            body = peer[0].encode()
            head = f"HTTP/1.0 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
            # A client that gives up, or whose packets get lost, must not keep the others from being served.
            with connection, contextlib.suppress(OSError):
                connection.settimeout(1.0)
                connection.recv(4096)
                connection.sendall(head.encode() + body)
