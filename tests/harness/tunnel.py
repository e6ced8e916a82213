"""A tunnel to a port of a host of the lab, as `ssh -L` makes one: the program at this end is outside the host."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import threading
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def tunnel(namespace: str, port: int, address: str = "127.0.0.1") -> Iterator[int]:
    """Yield a port of this machine's loopback that leads to one of an address, as a program of the namespace reaches
    it; by default to one of its loopback."""
    calls: queue.SimpleQueue[socket.socket | None] = queue.SimpleQueue()
    listener = socket.create_server(("127.0.0.1", 0))
    open_ones: set[socket.socket] = {listener}

    def accept() -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                calls.put(listener.accept()[0])

    def connect() -> None:
        with Path(f"/run/netns/{namespace}").open("rb") as there:
            os.setns(there.fileno(), os.CLONE_NEWNET)  # of this thread alone
        while (near := calls.get()) is not None:
            try:
                far = socket.create_connection((address, port), timeout=10)
            except OSError:  # the agent is away
                near.close()
                continue
            far.settimeout(None)
            open_ones.update((near, far))
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=_pump, args=(source, sink), daemon=True).start()

    threads = [threading.Thread(target=one, daemon=True) for one in (accept, connect)]
    for one in threads:
        one.start()
    try:
        yield listener.getsockname()[1]
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        calls.put(None)
        for one in threads:
            one.join(10)
        for each in open_ones:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads it
            each.close()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while part := source.recv(65536):
            sink.sendall(part)
    for one in (source, sink):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
