"""Resolver sockets where they are needed: made inside a sandbox, handed to the resolver process.

They have a high port, to which 127.0.0.11 port 53 is led (netagent.datapath.endpoint.dns_redirect), so that a DNS
server of the container's own may have port 53. Only where nf_tables refuses have they port 53 themselves.
"""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Collection, Set
from weakref import WeakValueDictionary

import trio

from netagent.datapath.endpoint.dns_redirect import RedirectOutcome, lead_of, make_lead
from netagent.datapath.endpoint.netns import bind_resolver_sockets, make_resolver_sockets
from netagent.errors import FailedError, RefusedError
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
        """Sandboxes whose lead only we can take away."""

    async def ensure_listening(self, sandbox: SandboxId, netns_fd: int, *, behind_runtime: bool) -> None:
        """Have 127.0.0.11 answered in the namespace, unless it is already. FailedError when it can't be.

        `behind_runtime`: Docker's own resolver holds the address in there and goes on answering for Docker's names.
        Who does not know says False, which leaves a sandbox as another endpoint's attach has made it.
        """
        # Not for two endpoints of one sandbox at once: the second would find the address taken by the first.
        async with self._making.setdefault(sandbox, trio.Lock()):
            if sandbox in await self._supervisor.known_sandboxes():
                await self._free_port(sandbox, netns_fd)
                if behind_runtime:
                    await self._supervisor.put_before_runtime(sandbox)
                return
            try:
                sockets = await make_resolver_sockets(netns_fd)
            except OSError as error:
                reason = f"nf_tables refuses to lead it to another port: {error.strerror}"
                await self._hold_port(sandbox, netns_fd, reason, behind_runtime=behind_runtime)
            else:
                await self._supervisor.add_sandbox(sandbox, *sockets, behind_runtime=behind_runtime)

    async def _hold_port(
        self, sandbox: SandboxId, netns_fd: int, reason: str, *, behind_runtime: bool
    ) -> None:
        """Have port 53 itself, for want of anything better."""
        try:
            sockets = await bind_resolver_sockets(netns_fd)
        except OSError as error:
            text = f"cannot listen on 127.0.0.11 port 53 inside the namespace: {error.strerror}; {reason}"
            if error.errno != errno.EADDRINUSE:
                raise FailedError(text, code="resolver", thing=sandbox) from None
            hint = "stop the DNS server that has it, then attach again"
            raise RefusedError(text, code="port-in-use", thing=sandbox, hint=hint) from None
        _log.warning("resolver: holding 127.0.0.11 port 53 in sandbox %s itself: %s", sandbox, reason)
        await self._supervisor.add_sandbox(sandbox, *sockets, behind_runtime=behind_runtime)

    async def _free_port(self, sandbox: SandboxId, netns_fd: int) -> None:
        """Where our sockets have port 53, as an earlier release made them, lead it to others and give it up.

        The new ones have all queries from the moment they are led there; the process answers what came to the old
        ones before it closes them.
        """
        known = self._supervisor.sockets().get(sandbox)
        if known is None or known.lead is not None:
            return
        before_runtime = self._supervisor.is_behind_runtime(sandbox)
        try:
            sockets = await make_resolver_sockets(netns_fd)
        except OSError as error:
            _log.warning("resolver: sandbox %s stays without port 53: %s", sandbox, error.strerror)
            return
        await self._supervisor.add_sandbox(sandbox, *sockets, behind_runtime=before_runtime)
        _log.info("resolver: port 53 in sandbox %s is the container's own now", sandbox)

    async def repair(self) -> None:
        """Make leads anew that are gone, where the kernel lets others take them away (Linux before 5.12)."""
        pairs = self._supervisor.sockets()
        self._owned &= pairs.keys()
        for sandbox in [one for one in pairs if one not in self._owned]:
            pair = pairs.get(sandbox)
            if pair is None or pair.lead is None:
                continue
            try:
                state = lead_of(pair.lead)
                if state is RedirectOutcome.MISSING:
                    make_lead(pair.lead, pair.udp.getsockname()[1])
                    sentence = f"127.0.0.11 port 53 was not led to the resolver any more in sandbox {sandbox}"
                    _limited.warning(
                        sentence, f"datapath: repaired a change made by another program: {sentence}"
                    )
                elif state is RedirectOutcome.OWNED:
                    self._owned.add(sandbox)
            except OSError as error:
                _limited.warning(sandbox, f"resolver: cannot look at sandbox {sandbox}: {error.strerror}")
            await trio.lowlevel.checkpoint()

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
