"""Resolver sockets where they are needed: made inside a sandbox, handed to the resolver process."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Collection, Set
from weakref import WeakValueDictionary

import trio

from netagent.datapath.netns import make_resolver_sockets
from netagent.errors import FailedError, RefusedError
from netagent.model.sandbox import SandboxId
from netagent.names.supervisor import Supervisor
from netagent.names.table import Key, Table


class Resolvers:
    """The resolver process as attach and detach see it."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._making: WeakValueDictionary[SandboxId, trio.Lock] = WeakValueDictionary()

    async def ensure_listening(self, sandbox: SandboxId, netns_fd: int, *, behind_runtime: bool) -> None:
        """Have 127.0.0.11 answered in the namespace, unless it is already. FailedError when it can't be.

        `behind_runtime`: Docker's own resolver holds the address in there and goes on answering for Docker's names.
        Who does not know says False, which leaves a sandbox as another endpoint's attach has made it.
        """
        # Not for two endpoints of one sandbox at once: the second would find the address taken by the first.
        async with self._making.setdefault(sandbox, trio.Lock()):
            if sandbox in await self._supervisor.known_sandboxes():
                if behind_runtime:
                    await self._supervisor.put_before_runtime(sandbox)
                return
            try:
                udp, tcp = await make_resolver_sockets(netns_fd)
            except OSError as error:
                text = f"cannot listen on 127.0.0.11 port 53 inside the namespace: {error.strerror}"
                if error.errno != errno.EADDRINUSE:
                    raise FailedError(text, code="resolver", thing=sandbox) from None
                hint = "stop the DNS server that has it, then attach again"
                raise RefusedError(text, code="port-in-use", thing=sandbox, hint=hint) from None
            await self._supervisor.add_sandbox(sandbox, udp, tcp, behind_runtime=behind_runtime)

    async def remove_sandbox(self, sandbox: SandboxId) -> None:
        """Answer there no longer."""
        await self._supervisor.remove_sandbox(sandbox)

    async def keep_only(self, wanted: Set[SandboxId]) -> None:
        """Stop answering in sandboxes that a former agent added and nobody knows: our sockets hold them in being."""
        with contextlib.suppress(FailedError):  # no process: nothing is held
            for sandbox in await self._supervisor.known_sandboxes() - wanted:
                await self._supervisor.remove_sandbox(sandbox)

    async def publish(self, table: Table, touched: Collection[Key] | None) -> None:
        """Answer from this table, which differs from the one before at `touched` keys alone (None: anywhere); waits
        until the process has it, or is known to be slow."""
        await self._supervisor.publish(table, touched)
