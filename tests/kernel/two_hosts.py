"""One overlay network on two hosts with a container each, and the accepts kept beside it as the agent does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial

import trio
from kernel.overlay import (
    Host,
    Namespace,
    desired_of,
    endpoint,
    network,
    open_host,
    program,
    seen_from_elsewhere,
    wait_until,
)

UNDERLAYS = ("192.0.2.1", "192.0.2.2")
ADDRESSES = ("10.66.0.2", "10.66.0.3", "fd66::2", "fd66::3")


@asynccontextmanager
async def open_overlay(
    hosts: Sequence[Namespace], containers: Sequence[Namespace]
) -> AsyncIterator[list[Host]]:
    """The network is there within the block; afterwards no host has anything of it."""
    ends = [endpoint(number, container) for number, container in enumerate(containers, start=2)]
    async with AsyncExitStack() as stack:
        opened = []
        for namespace, underlay in zip(hosts, UNDERLAYS, strict=True):
            opened.append(await stack.enter_async_context(open_host(namespace, underlay)))
        for host, own, other, far in zip(opened, ends, reversed(ends), reversed(UNDERLAYS), strict=True):
            await program(host, desired_of(host, network((own,), (seen_from_elsewhere(other, far),))))
            await host.attacher.bind(own)
        try:
            yield opened
        finally:
            with trio.CancelScope(shield=True):
                for host, own in zip(opened, ends, strict=True):
                    await host.attacher.unbind(own.endpoint_id)
                    await program(host, desired_of(host))


def answers(container: Namespace, address: str) -> bool:
    """Whether one packet comes back."""
    return container.try_run(f"ping -c1 -W1 {address}").returncode == 0


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
