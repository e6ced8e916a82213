"""HTTP beside a rolling replacement; runs inside the containers and needs only Python.

`serve PORT` answers every request with its own address after 50 ms, and /metrics for Prometheus. `ask URL` sends
requests, each over a connection of its own, from four threads until standard input ends, and prints {"done",
"failed", "by"}.
"""

from __future__ import annotations

import http.server
import json
import sys
import threading
import time
import urllib.request
from collections import Counter
from typing import Any


class Answer(http.server.BaseHTTPRequestHandler):
    """One page, and metrics."""

    def do_GET(self) -> None:
        """Answer after a while, so that requests are under way when a proxy changes."""
        if self.path == "/metrics":
            body = b"lab_up 1\n"
        else:
            time.sleep(0.05)
            body = self.connection.getsockname()[0].encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: Any) -> None:
        """Log nothing."""


class Server(http.server.ThreadingHTTPServer):
    """With room for a burst."""

    request_queue_size = 128


def ask(url: str) -> None:
    """Ask until standard input ends."""
    stop = threading.Event()
    by: Counter[str] = Counter()
    failed: list[str] = []

    def work() -> None:
        while not stop.is_set():
            try:
                with urllib.request.urlopen(url, timeout=10) as answer:
                    by[answer.read().decode()] += 1
            except OSError as error:
                failed.append(str(error))
            time.sleep(0.01)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join()
    print(json.dumps({"done": sum(by.values()), "failed": failed, "by": by}))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        Server(("0.0.0.0", int(sys.argv[2])), Answer).serve_forever()
    else:
        ask(sys.argv[2])
