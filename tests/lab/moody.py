"""A web server that behaves as a file says: `moody.py FILE [v6]`. Runs anywhere; needs only Python.

The file has one word, which the server reads anew for each connection and at least 20 times per second: `ok`, a
status such as `503`, `slow` (answers after 3 s), `hang` (accepts nothing), `refuse` (does not listen), `flap` (`ok`
and `503`, a second each). With `v6` it listens on IPv6 only. Writes its process id to FILE.pid.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from pathlib import Path

MOOD = Path(sys.argv[1])
IS_V6 = sys.argv[2:] == ["v6"]


def mood() -> str:
    """What the file says."""
    with contextlib.suppress(OSError):
        return MOOD.read_text(encoding="ascii").strip() or "ok"
    return "ok"


def listen() -> socket.socket:
    """Listen anew."""
    listener = socket.socket(socket.AF_INET6 if IS_V6 else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if IS_V6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind(("::" if IS_V6 else "0.0.0.0", 8080))
    listener.listen(2)
    listener.settimeout(0.05)
    return listener


def answer(connection: socket.socket, word: str) -> None:
    """Answer one client."""
    if word == "slow":
        time.sleep(3)
    if word == "flap":
        word = "ok" if int(time.monotonic()) % 2 else "503"
    status = b"200 OK" if word in {"ok", "slow"} else f"{word} Moody".encode()
    with connection, contextlib.suppress(OSError):
        connection.settimeout(1.0)
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 %s\r\nContent-Length: 4\r\nConnection: close\r\n\r\nhere" % status)


Path(f"{MOOD}.pid").write_text(str(os.getpid()), encoding="ascii")
listening: socket.socket | None = None
while True:
    word = mood()
    if word == "refuse":
        if listening is not None:
            listening.close()
            listening = None
        time.sleep(0.05)
        continue
    listening = listening or listen()
    if word == "hang":
        time.sleep(0.05)
        continue
    with contextlib.suppress(TimeoutError):
        client, _ = listening.accept()
        threading.Thread(target=answer, args=(client, mood()), daemon=True).start()
