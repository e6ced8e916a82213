"""Sockets are made once for a sandbox, and none is lost."""

from __future__ import annotations

import errno
import functools

import pytest
import trio
from fakes.virtual import virtual

from netagent.errors import FailedError, RefusedError
from netagent.projection import resolvers as module
from netagent.projection.resolvers import Resolvers


class Supervisor:
    def __init__(self):
        self.sandboxes, self.before_runtime, self.is_away = set(), set(), False

    async def known_sandboxes(self):
        await trio.sleep(0.1)
        if self.is_away:
            raise FailedError("the resolver process can't be reached")
        return frozenset(self.sandboxes)

    async def add_sandbox(self, sandbox, udp, tcp, *, behind_runtime):
        await trio.sleep(0.1)
        self.sandboxes.add(sandbox)
        if behind_runtime:
            self.before_runtime.add(sandbox)

    async def put_before_runtime(self, sandbox):
        self.before_runtime.add(sandbox)

    async def remove_sandbox(self, sandbox):
        self.sandboxes.discard(sandbox)


@pytest.fixture
def made(monkeypatch):
    """Namespaces in which sockets were made; an exception in `made` is raised instead."""
    calls = []

    async def make(netns_fd):
        await trio.sleep(0.1)
        if isinstance(netns_fd, Exception):
            raise netns_fd
        calls.append(netns_fd)
        return "udp", "tcp"

    monkeypatch.setattr(module, "make_resolver_sockets", make)
    return calls


@virtual
async def test_sockets_are_made_once_however_many_ask(made):
    supervisor = Supervisor()
    resolvers = Resolvers(supervisor)
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(functools.partial(resolvers.ensure_listening, "a-1", 7, behind_runtime=False))
    await resolvers.ensure_listening("a-1", 7, behind_runtime=False)
    assert made == [7]
    await resolvers.remove_sandbox("a-1")
    await resolvers.ensure_listening("a-1", 7, behind_runtime=False)
    assert made == [7, 7]


@virtual
async def test_a_sandbox_is_put_before_its_runtime_when_one_endpoint_says_so(made):
    supervisor = Supervisor()
    resolvers = Resolvers(supervisor)
    await resolvers.ensure_listening("a-1", 7, behind_runtime=True)
    await resolvers.ensure_listening("a-2", 8, behind_runtime=False)
    assert supervisor.before_runtime == {"a-1"}
    await resolvers.ensure_listening("a-1", 7, behind_runtime=False)
    await resolvers.ensure_listening("a-2", 8, behind_runtime=True)
    assert supervisor.before_runtime == {"a-1", "a-2"}
    assert made == [7, 8]


@virtual
async def test_a_port_that_is_taken_is_named_and_does_not_block_others(made):
    supervisor = Supervisor()
    resolvers = Resolvers(supervisor)
    taken = OSError(errno.EADDRINUSE, "Address already in use")
    with pytest.raises(RefusedError, match=r"127\.0\.0\.11 port 53 .*in use.*stop the DNS server"):
        await resolvers.ensure_listening("a-1", taken, behind_runtime=False)
    await resolvers.ensure_listening("a-2", 8, behind_runtime=False)
    assert supervisor.sandboxes == {"a-2"}


@virtual
async def test_sandboxes_that_nobody_knows_are_given_up(made):
    supervisor = Supervisor()
    supervisor.sandboxes = {"a-1", "a-2"}
    await Resolvers(supervisor).keep_only({"a-2", "a-3"})
    assert supervisor.sandboxes == {"a-2"}
    supervisor.is_away = True
    await Resolvers(supervisor).keep_only(set())
    assert supervisor.sandboxes == {"a-2"}, "nobody there: nothing is held"
