"""Open resolver sockets inside sandboxes and hand them to the resolver process.

They have a high port, to which 127.0.0.11 port 53 is redirected (netagent.datapath.endpoint.dns_redirect), so that a
DNS server of the container can use port 53. Only where nf_tables refuses, they use port 53 themselves.
"""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Collection, Set
from weakref import WeakValueDictionary

import trio

from netagent.datapath.endpoint.dns_redirect import RedirectOutcome, make_port_redirect, port_redirect_outcome
from netagent.datapath.endpoint.netns import bind_resolver_sockets, make_resolver_sockets
from netagent.errors import FailedError, RefusedError
from netagent.events.channel import REPAIRED
from netagent.log import Limited
from netagent.model.sandbox import SandboxId
from netagent.resolver.name_table import Key, Table
from netagent.resolver.supervisor import Supervisor

_log = logging.getLogger(__name__)
_limited = Limited(_log)


class ResolverSockets:
    """The resolver process as attach and detach see it."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._making: WeakValueDictionary[SandboxId, trio.Lock] = WeakValueDictionary()
        self._owned: set[SandboxId] = set()
        """Sandboxes whose redirect only we can remove."""

    async def ensure_listening(self, sandbox: SandboxId, netns_fd: int, *, behind_runtime: bool) -> None:
        """Make the resolver answer at 127.0.0.11 in the namespace, unless it does. FailedError when impossible.

        `behind_runtime`: Docker's own resolver has the address there and keeps answering for Docker's names. A caller
        that does not know says False, which leaves a sandbox as another endpoint's attach has set it up.
        """
        # One endpoint of a sandbox at a time: a second would find the address in use by the first.
        async with self._making.setdefault(sandbox, trio.Lock()):
            if sandbox in await self._supervisor.known_sandboxes():
                await self._free_port(sandbox, netns_fd)
                if behind_runtime:
                    await self._supervisor.put_before_runtime(sandbox)
                return
            try:
                sockets = await make_resolver_sockets(netns_fd)
            except OSError as error:
                reason = f"nf_tables refuses to redirect it to another port: {error.strerror}"
                await self._hold_port(sandbox, netns_fd, reason, behind_runtime=behind_runtime)
            else:
                await self._supervisor.add_sandbox(sandbox, *sockets, behind_runtime=behind_runtime)

    async def _hold_port(
        self, sandbox: SandboxId, netns_fd: int, reason: str, *, behind_runtime: bool
    ) -> None:
        """Use port 53 itself, because no redirect is possible."""
        try:
            sockets = await bind_resolver_sockets(netns_fd)
        except OSError as error:
            text = f"cannot listen on 127.0.0.11 port 53 inside the namespace: {error.strerror}; {reason}"
            if error.errno != errno.EADDRINUSE:
                raise FailedError(text, code="resolver", thing=sandbox) from None
            hint = "stop the DNS server that uses it, then attach again"
            raise RefusedError(text, code="port-in-use", thing=sandbox, hint=hint) from None
        _log.warning("resolver: using 127.0.0.11 port 53 itself in sandbox %s: %s", sandbox, reason)
        await self._supervisor.add_sandbox(sandbox, *sockets, behind_runtime=behind_runtime)

    async def _free_port(self, sandbox: SandboxId, netns_fd: int) -> None:
        """Free port 53 where our sockets use it, as an earlier release opened them: redirect it to new sockets.

        The new ones get all queries from the moment of the redirect; the process answers queries to the old ones
        before it closes them.
        """
        known = self._supervisor.sockets().get(sandbox)
        if known is None or known.port_redirect is not None:
            return
        before_runtime = self._supervisor.is_behind_runtime(sandbox)
        try:
            sockets = await make_resolver_sockets(netns_fd)
        except OSError as error:
            _log.warning("resolver: cannot free port 53 in sandbox %s: %s", sandbox, error.strerror)
            return
        await self._supervisor.add_sandbox(sandbox, *sockets, behind_runtime=before_runtime)
        _log.info("resolver: port 53 in sandbox %s is free for the container now", sandbox)

    async def repair(self) -> None:
        """Restore redirects that are gone, where the kernel lets other programs remove them (Linux before 5.12)."""
        pairs = self._supervisor.sockets()
        self._owned &= pairs.keys()
        for sandbox in [one for one in pairs if one not in self._owned]:
            pair = pairs.get(sandbox)
            if pair is None or pair.port_redirect is None:
                continue
            try:
                state = port_redirect_outcome(pair.port_redirect)
                if state is RedirectOutcome.MISSING:
                    make_port_redirect(pair.port_redirect, pair.udp.getsockname()[1])
                    sentence = (
                        f"127.0.0.11 port 53 was no longer redirected to the resolver in sandbox {sandbox}"
                    )
                    _limited.warning(
                        sentence, f"datapath: repaired a change made by another program: {sentence}", REPAIRED
                    )
                elif state is RedirectOutcome.OWNED:
                    self._owned.add(sandbox)
            except OSError as error:
                _limited.warning(sandbox, f"resolver: cannot inspect sandbox {sandbox}: {error.strerror}")
            await trio.lowlevel.checkpoint()

    async def remove_sandbox(self, sandbox: SandboxId) -> None:
        """Stop answering there."""
        await self._supervisor.remove_sandbox(sandbox)

    async def keep_only(self, wanted: Set[SandboxId]) -> None:
        """Stop answering in unknown sandboxes that a former agent added: our sockets keep their namespaces alive."""
        with contextlib.suppress(FailedError):  # no process: it has no sockets
            for sandbox in await self._supervisor.known_sandboxes() - wanted:
                await self._supervisor.remove_sandbox(sandbox)

    async def publish(self, table: Table, touched: Collection[Key] | None) -> bool:
        """Answer from this table, which differs from the previous one only at `touched` keys (None: anywhere). Waits
        until the process has it, or is known to be slow (False)."""
        return await self._supervisor.publish(table, touched)
