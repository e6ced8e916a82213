"""Our rules in Docker's chain DOCKER-USER, kept by a program of its own as the agent keeps them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from harness.namespaces import Namespace, wait_until


@contextmanager
def keeping_accepts(host: Namespace, *egress_interfaces: str) -> Iterator[None]:
    """What the agent does while it runs."""
    process = _accepts(host, "keep", *egress_interfaces)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def ensure_accepts(host: Namespace) -> None:
    """Look once."""
    assert _accepts(host, "ensure").wait(20) == 0


def remove_accepts(host: Namespace) -> None:
    """What an uninstall does."""
    assert _accepts(host, "remove").wait(20) == 0


def _accepts(host: Namespace, what: str, *egress_interfaces: str) -> subprocess.Popen[bytes]:
    code = (
        "import trio; from netagent.integrations.docker.docker_user_chain import DockerUserChain;"
        f"trio.run(DockerUserChain(lambda: {egress_interfaces!r}).{what})"
    )
    return subprocess.Popen(["nsenter", f"--net={host.path}", sys.executable, "-c", code])


def accepts_of(host: Namespace, program: str = "iptables") -> list[str]:
    """Our rules, as the program lists them."""
    done = host.try_run(f"{program} -S DOCKER-USER")
    return [line for line in done.stdout.splitlines() if "netagent" in line]


async def wait_for_accepts(host: Namespace, count: int = 1) -> None:
    """In both families."""
    for tool in ("iptables", "ip6tables"):
        await wait_until(partial(_has_accepts, host, tool, count), f"{count} accepts in {tool}")


def _has_accepts(host: Namespace, program: str, count: int) -> bool:
    return len(accepts_of(host, program)) == count
