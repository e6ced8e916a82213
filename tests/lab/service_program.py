"""Both ends of connections to a service. Runs anywhere; needs only Python.

serve PORT NAME             says NAME to each client, over IPv4 and IPv6, and keeps the connection
count ADDRESS PORT NUMBER   connects so often; prints how many connections which server had, as JSON
hold ADDRESS PORT NAME      connects until it meets that server, and prints "held"; then waits for data that never
                            comes, and prints what woke it and when, as JSON
"""

from __future__ import annotations

import errno
import json
import selectors
import socket
import sys
import time
from collections import Counter


def serve(port: int, name: str) -> None:
    kept = []
    with selectors.DefaultSelector() as ready:
        for address, family in (("0.0.0.0", socket.AF_INET), ("::", socket.AF_INET6)):
            listener = socket.socket(family, socket.SOCK_STREAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind((address, port))
            listener.listen(256)
            ready.register(listener, selectors.EVENT_READ)
        print("ready", flush=True)
        while True:
            for key, _ in ready.select():
                connection, _peer = key.fileobj.accept()  # type: ignore[union-attr]
                connection.sendall(f"{name}\n".encode())
                kept.append(connection)


def connected(address: str, port: int) -> tuple[socket.socket, str]:
    connection = socket.create_connection((address, port), timeout=5.0)
    return connection, connection.makefile().readline().strip()


def count(address: str, port: int, number: int) -> None:
    found: Counter[str] = Counter()
    for _ in range(number):
        connection, name = connected(address, port)
        connection.close()
        found[name] += 1
    print(json.dumps(found))


def hold(address: str, port: int, wanted: str) -> None:
    while True:
        connection, name = connected(address, port)
        if name == wanted:
            break
        connection.close()
    print("held", flush=True)
    connection.settimeout(None)
    woken_by = "end"
    try:
        connection.recv(1)
    except OSError as error:
        woken_by = errno.errorcode[error.errno or 0]
    print(json.dumps({"woken_by": woken_by, "at": time.time()}), flush=True)


match sys.argv[1:]:
    case "serve", port_text, own_name:
        serve(int(port_text), own_name)
    case "count", to, port_text, number_text:
        count(to, int(port_text), int(number_text))
    case "hold", to, port_text, other:
        hold(to, int(port_text), other)
