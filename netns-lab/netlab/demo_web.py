"""The demo's web service: counts visits in Redis, which it uses as `database`. It knows nothing about netagent.

Each request resolves the name and opens a new connection, as simple programs do.
"""

from __future__ import annotations

import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REDIS_PORT = 6379
TIMEOUT_S = 2.0


class Page(BaseHTTPRequestHandler):
    """Answers every GET with one line."""

    def do_GET(self) -> None:
        """Answer `hello from h1, visit 17`, or 502 with the reason when the database does not answer."""
        try:
            status, text = 200, f"hello from {socket.gethostname()}, visit {count_visit()}\n"
        except (OSError, ValueError) as error:
            status, text = 502, f"no database: {error}\n"
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


def count_visit() -> int:
    """Send Redis's INCR in its wire protocol: the request is a line, the answer `:17`."""
    with socket.create_connection(("database", REDIS_PORT), TIMEOUT_S) as connection:
        connection.sendall(b"INCR visits\r\n")
        answer = connection.makefile("rb").readline(64)
    if not answer.startswith(b":"):
        raise ValueError(f"Redis said {answer!r}")
    return int(answer[1:])


class DualStackServer(ThreadingHTTPServer):
    """Listens on IPv6, and on IPv4 through it."""

    address_family = socket.AF_INET6
    daemon_threads = True


if __name__ == "__main__":
    DualStackServer(("::", 80), Page).serve_forever()
