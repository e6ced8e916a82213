"""Sockets are made once for a sandbox, and none is lost."""

from __future__ import annotations

import errno
import functools
from typing import Any

import pytest
import trio
from fakes.virtual import virtual

from netagent.errors import FailedError, RefusedError
from netagent.model.sandbox import SandboxId
from netagent.projection import resolver_sockets as module
from netagent.projection.resolver_sockets import ResolverSockets
from netagent.resolver.channel import SocketPair


class Supervisor:
    def __init__(self) -> None:
        self.sandboxes: dict[str, Any] = {}
        self.before_runtime: set[str] = set()
        self.is_away = False

    async def known_sandboxes(self) -> frozenset[str]:
        await trio.sleep(0.1)
        if self.is_away:
            raise FailedError("cannot reach the resolver process")
        return frozenset(self.sandboxes)

    def sockets(self) -> dict[str, Any]:
        return self.sandboxes

    def is_behind_runtime(self, sandbox: str) -> bool:
        return sandbox in self.before_runtime

    async def add_sandbox(
        self, sandbox: str, udp: Any, tcp: Any, port_redirect: Any = None, *, behind_runtime: bool
    ) -> None:
        await trio.sleep(0.1)
        self.sandboxes[sandbox] = SocketPair(udp, tcp, port_redirect)
        if behind_runtime:
            self.before_runtime.add(sandbox)

    async def put_before_runtime(self, sandbox: str) -> None:
        self.before_runtime.add(sandbox)

    async def remove_sandbox(self, sandbox: str) -> None:
        self.sandboxes.pop(sandbox, None)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Namespaces in which sockets were made, and by port 53. A namespace may be what is raised instead, by both."""
    calls = []

    async def make(netns_fd: Any) -> tuple[str, ...]:
        await trio.sleep(0.1)
        if isinstance(netns_fd, tuple):
            raise netns_fd[0]
        calls.append(netns_fd)
        return "udp", "tcp", "lead"

    async def bind(
        netns_fd: tuple[OSError, OSError | None],
    ) -> tuple[str, ...]:
        await trio.sleep(0.1)
        if netns_fd[1] is not None:
            raise netns_fd[1]
        calls.append("port 53")
        return "udp", "tcp"

    monkeypatch.setattr(module, "make_resolver_sockets", make)
    monkeypatch.setattr(module, "bind_resolver_sockets", bind)
    return calls


@virtual
async def test_sockets_are_made_once_however_many_ask(made: list[Any]) -> None:
    supervisor: Any = Supervisor()
    resolvers: Any = ResolverSockets(supervisor)
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(functools.partial(resolvers.ensure_listening, "a-1", 7, behind_runtime=False))
    await resolvers.ensure_listening("a-1", 7, behind_runtime=False)
    assert made == [7]
    await resolvers.remove_sandbox("a-1")
    await resolvers.ensure_listening("a-1", 7, behind_runtime=False)
    assert made == [7, 7]


@virtual
async def test_a_sandbox_is_put_before_its_runtime_when_one_endpoint_says_so(made: list[Any]) -> None:
    supervisor: Any = Supervisor()
    resolvers: Any = ResolverSockets(supervisor)
    await resolvers.ensure_listening("a-1", 7, behind_runtime=True)
    await resolvers.ensure_listening("a-2", 8, behind_runtime=False)
    assert supervisor.before_runtime == {"a-1"}
    await resolvers.ensure_listening("a-1", 7, behind_runtime=False)
    await resolvers.ensure_listening("a-2", 8, behind_runtime=True)
    assert supervisor.before_runtime == {"a-1", "a-2"}
    assert made == [7, 8]


@virtual
async def test_a_port_that_is_taken_is_named_and_does_not_block_others(made: list[Any]) -> None:
    supervisor: Any = Supervisor()
    resolvers: Any = ResolverSockets(supervisor)
    refused = OSError(errno.EPERM, "Operation not permitted")
    taken = OSError(errno.EADDRINUSE, "Address already in use")
    with pytest.raises(
        RefusedError, match=r"127\.0\.0\.11 port 53 .*in use.*not permitted.*stop the DNS server"
    ):
        await resolvers.ensure_listening("a-1", (refused, taken), behind_runtime=False)
    await resolvers.ensure_listening("a-2", 8, behind_runtime=False)
    assert supervisor.sandboxes.keys() == {"a-2"}


@virtual
async def test_the_port_itself_is_held_where_nothing_can_lead_to_another(made: list[Any]) -> None:
    supervisor: Any = Supervisor()
    resolvers: Any = ResolverSockets(supervisor)
    refused = OSError(errno.EPERM, "Operation not permitted")
    for _ in range(2):
        await resolvers.ensure_listening("a-1", (refused, None), behind_runtime=True)
    assert made == ["port 53"]
    assert supervisor.sandboxes["a-1"].port_redirect is None
    assert supervisor.before_runtime == {"a-1"}
    # As soon as it can be had, and so with what an earlier release left behind.
    for _ in range(2):
        await resolvers.ensure_listening("a-1", 7, behind_runtime=False)
    assert made == ["port 53", 7]
    assert supervisor.sandboxes["a-1"].port_redirect == "lead"
    assert supervisor.before_runtime == {"a-1"}


@virtual
async def test_unknown_sandboxes_are_given_up(made: list[Any]) -> None:
    supervisor: Any = Supervisor()
    supervisor.sandboxes = dict.fromkeys(("a-1", "a-2"))
    await ResolverSockets(supervisor).keep_only({SandboxId("a-2"), SandboxId("a-3")})
    assert supervisor.sandboxes.keys() == {"a-2"}
    supervisor.is_away = True
    await ResolverSockets(supervisor).keep_only(set())
    assert supervisor.sandboxes.keys() == {"a-2"}, "no process there: nothing is held"
