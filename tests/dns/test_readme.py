"""The README's example runs and gives what the README says."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import dns.exception
import dns.message
import dns.query

ROOT = Path(__file__).parents[2]


def free_ports(count: int) -> list[int]:
    """Different ones: each is held until all are chosen."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [sock.getsockname()[1] for sock in held]


def ask_until_up(port: int, bound_s: float = 20.0) -> str:
    query = dns.message.make_query("hello.demo.internal", "A")
    deadline = time.monotonic() + bound_s
    while True:
        try:
            return str(dns.query.udp(query, "127.0.0.1", port=port, timeout=1).answer[0][0])
        except (OSError, dns.exception.Timeout):
            assert time.monotonic() < deadline, "the example does not answer"


def test_example() -> None:
    text = (ROOT / "dns/README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    claims = dict(re.findall(r"-p (\d+) hello\S*\n    (\S+)", text))
    assert len(claims) == 2
    ports = dict(zip(claims, free_ports(len(claims)), strict=True))
    code = re.sub("|".join(ports), lambda found: str(ports[found[0]]), code)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "dns")}
    with subprocess.Popen([sys.executable, "-c", code], env=environment) as process:
        try:
            for old, address in claims.items():
                assert ask_until_up(ports[old]) == address
        finally:
            process.kill()
