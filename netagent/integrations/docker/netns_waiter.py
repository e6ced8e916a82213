"""Waits for the namespaces of containers that Docker has joined.

Docker calls Join before the container's namespace exists. Its file, the sandbox key, is mounted 120 to 160 ms later,
and the container's first program starts some 120 ms after that (seen with 26.1 on two cores). In between, the agent
creates the resolver's sockets and publishes the record, so that names work from the first instant.

One task checks all expected files. A stat(2) takes 2 us: 200 containers started at once cost 4 % of a core while they
start, and nothing otherwise. inotify would report only the creation of the file, not the mount on it.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from netagent.endpoints.two_phase import HOLD_S
from netagent.errors import NetagentError, RefusedError

POLL_S = 0.01
RETRY_S = 1.0
MAX_EXPECTED = 4096
"""Bound of joined containers that have no namespace yet; beyond it: refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitedNamespace:
    """An endpoint whose container's namespace will be at `sandbox_key`."""

    endpoint: str
    docker_network: str
    sandbox_key: str


@dataclass(slots=True)
class _Expected:
    arrival: AwaitedNamespace
    until: float
    """When to give it up, together with its endpoint; on trio's clock, like `not_before`."""
    not_before: float = 0.0
    """Do not check it earlier."""


class NetnsWaiter:
    """Calls `enter` for each once its namespace exists, again every RETRY_S while it fails, until `forget`."""

    def __init__(
        self,
        enter: Callable[[AwaitedNamespace], Awaitable[None]],
        failed: Callable[[AwaitedNamespace, str], None],
    ) -> None:
        self._enter = enter
        self._failed = failed
        self._expected: dict[str, _Expected] = {}
        self._wake = trio.Event()

    def expect(self, arrival: AwaitedNamespace) -> None:
        """Wait for this one from now on. RefusedError when there are too many."""
        if len(self._expected) >= MAX_EXPECTED and arrival.endpoint not in self._expected:
            raise RefusedError(
                f"{MAX_EXPECTED} containers are already being started",
                code="too-many",
                thing=arrival.endpoint[:12],
                hint="start it again in a moment",
            )
        self._expected[arrival.endpoint] = _Expected(arrival, until=trio.current_time() + HOLD_S)
        self._wake.set()

    def forget(self, endpoint: str) -> None:
        """Stop waiting: it leaves, or `enter` has succeeded."""
        self._expected.pop(endpoint, None)

    def is_expected(self, endpoint: str) -> bool:
        """True while the waiter waits for it, or `enter` runs."""
        return endpoint in self._expected

    async def run(self) -> None:
        """Run until cancelled."""
        device = namespace_device()
        async with trio.open_nursery() as nursery:
            while True:
                while not self._expected:
                    self._wake = trio.Event()
                    await self._wake.wait()
                now = trio.current_time()
                for endpoint, one in list(self._expected.items()):
                    if one.not_before > now:
                        continue
                    if _is_on(one.arrival.sandbox_key, device):
                        one.not_before = float("inf")
                        nursery.start_soon(self._admit, one)
                    elif one.until < now:
                        self.forget(endpoint)  # Docker died before it made the namespace
                await trio.sleep(POLL_S)

    async def _admit(self, one: _Expected) -> None:
        try:
            await self._enter(one.arrival)
        except (NetagentError, OSError) as error:
            self._failed(one.arrival, str(error))
            one.not_before = trio.current_time() + RETRY_S
        else:
            if self._expected.get(one.arrival.endpoint) is one:
                self.forget(one.arrival.endpoint)


def namespace_device() -> int:
    """Return the device of the kernel's file system of namespaces, on which a file is once a namespace is mounted."""
    return Path("/proc/self/ns/net").stat().st_dev


def _is_on(path: str, device: int) -> bool:
    """True if a namespace is mounted there: before, it is an empty file of the file system around it."""
    try:
        return os.stat(path).st_dev == device  # noqa: PTH116 - called a hundred times a second
    except OSError:
        return False
