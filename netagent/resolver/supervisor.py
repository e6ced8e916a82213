"""The agent's side of the resolver process: start it, adopt it, replace it, and keep it up to date.

The process is found by its socket. If no process answers there, one is started, detached, so that it outlives the
agent; if one answers, it is adopted with its sockets and table. `run` does this for ever; cancelling it (the agent
stops) closes the connection and leaves the process alone. Only `stop` ends the process.

The Conversation keeps everything that callers want, so commands may come at any time and in any order, also while
there is no process.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Final

import trio

from netagent.datapath.endpoint.dns_redirect import end_port_redirect
from netagent.errors import FailedError
from netagent.events.channel import event
from netagent.events.kinds import EventKind
from netagent.log import Limited
from netagent.model.ids import NetworkId
from netagent.model.sandbox import SandboxId
from netagent.periodic_task import PeriodicTask
from netagent.resolver.channel import SocketChannel, SocketPair, connect
from netagent.resolver.conversation import Conversation
from netagent.resolver.name_table import Key, Table
from netagent.resolver.protocol import SOCKET_NAME, ProtocolError
from netagent.resolver.system.host_servers import read_servers
from netagent.resolver.system.launch import end_process, kill_process, start_process

PATIENCE_S: Final = 2.0
"""How long a command waits for the process."""

START_PATIENCE_S: Final = 4.0
"""The same where nothing can proceed without it. A start takes about 0.3 s of processor time, which a busy host may
not have for seconds; an attach answers within five."""

_SIGN_OF_LIFE_S: Final = 10.0
"""How often the process is asked for its counters, and how long it may take. It never works for longer than some
milliseconds at a stretch, so one that is silent for this long hangs, and is killed and replaced."""

_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 10.0
_STEADY_S: Final = 30.0
"""A process that ran this long had no trouble starting: the next one is started without a pause."""

_log = logging.getLogger(__name__)
_limited = Limited(_log)


class Supervisor:
    """Owns the connection, the agent's copies of all sockets, and the process's life.

    `release` is this program's version; a running process of another release is replaced, after its sockets were
    taken over. `http`: the agent's listener, on which the process answers while the agent is away. `note_wanted` is
    called when `wanted_feeds` has changed. `run` may be called only once.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        release: str,
        resolv_conf: Path = Path("/etc/resolv.conf"),
        http: str = "",
        note_wanted: Callable[[], None] = lambda: None,
    ) -> None:
        self._run_dir = run_dir
        self._release = release
        self._resolv_conf = resolv_conf
        self._note_wanted = note_wanted
        self._conversation = Conversation(release, http)
        self._sockets: dict[SandboxId, SocketPair] = {}
        self._process_id: int | None = None
        self._last_process_id: int | None = None
        """Of the last process that answered: a new connection to the same one is no news."""
        self._starts = 0
        self._trouble = ""
        self._news = trio.Event()
        self._to_send = trio.Event()
        self._begun = False
        self._running = trio.CancelScope()
        self._ended = trio.Event()

    @property
    def process_id(self) -> int | None:
        """Of the process that answers; None while there is none."""
        return self._process_id

    @property
    def last_statistics(self) -> Mapping[str, int]:
        """The process's counters, as last received."""
        return self._conversation.statistics

    @property
    def trouble(self) -> str:
        """Why there is no process that answers; empty: there is one, or the first has not been reached yet."""
        return self._trouble

    @property
    def wanted_feeds(self) -> frozenset[NetworkId]:
        """Networks whose feeds containers have asked for; a published table has the FEED rows of these."""
        return self._conversation.wanted

    # --- commands -----------------------------------------------------------------------------------------------

    def publish_nowait(self, table: Table, touched: Collection[Key] | None = None) -> int:
        """Want answers from this table, which must not change any more; return its revision. It differs from the
        previous one only at `touched` keys; None: anywhere."""
        revision = self._conversation.set_table(table, touched)
        self._to_send.set()
        return revision

    async def publish(self, table: Table, touched: Collection[Key] | None = None) -> bool:
        """Do the same, and wait until the process has it, at most PATIENCE_S. False: it will be later."""
        revision = self.publish_nowait(table, touched)
        return await self._wait(lambda: self._conversation.settled_revision >= revision)

    async def add_sandbox(
        self,
        sandbox_id: SandboxId,
        udp: socket.socket,
        tcp: socket.socket,
        port_redirect: socket.socket | None = None,
        *,
        behind_runtime: bool = False,
    ) -> None:
        """Have queries on these sockets answered on behalf of the sandbox. They belong to the supervisor from here
        on; so does `port_redirect`, which owns the redirect from port 53, if they do not have that port themselves.

        Other sockets of the sandbox, if there are any, are used until these are, and for some seconds more.

        With `behind_runtime` the resolver of a container runtime has the address in there: the process redirects its
        queries to us for as long as it lives, and asks that resolver for names that are not ours.

        Answers begin when the sandbox has a row in a published table; until then the kernel keeps the queries.
        Raises FailedError if the process can't be reached within START_PATIENCE_S, or refuses the sockets; then they
        are closed and forgotten.
        """
        self._forget_sockets(sandbox_id)
        self._sockets[sandbox_id] = SocketPair(udp, tcp, port_redirect)
        self._conversation.add_sandbox(sandbox_id, behind_runtime=behind_runtime)
        self._to_send.set()
        try:
            is_answered = await self._wait(
                lambda: self._conversation.is_served(sandbox_id) or sandbox_id in self._conversation.refused,
                START_PATIENCE_S,
            )
        except trio.Cancelled:
            self._take_back(sandbox_id)
            raise
        refusal = self._conversation.refused.get(sandbox_id)
        if is_answered and refusal is None:
            return
        self._take_back(sandbox_id)
        reason = refusal or self._trouble or f"it did not answer in {START_PATIENCE_S:g} s"
        raise FailedError(
            f"the resolver process did not take the sockets of sandbox {sandbox_id}: {reason}",
            code="resolver-unreachable",
            thing=sandbox_id,
        )

    async def put_before_runtime(self, sandbox_id: SandboxId) -> None:
        """Mark a known sandbox as one with a runtime's resolver in it. Raises as `add_sandbox` does."""
        pair = self._sockets.get(sandbox_id)
        if pair is not None and not self._conversation.is_behind_runtime(sandbox_id):
            await self.add_sandbox(sandbox_id, *pair.copy(), behind_runtime=True)

    def sockets(self) -> Mapping[SandboxId, SocketPair]:
        """Our copies of all sockets: the supervisor may close them at the caller's next await."""
        return self._sockets

    def is_behind_runtime(self, sandbox_id: SandboxId) -> bool:
        """Whether a runtime's resolver is known to be in there."""
        return self._conversation.is_behind_runtime(sandbox_id)

    async def remove_sandbox(self, sandbox_id: SandboxId) -> None:
        """Close the sandbox's sockets on both sides. An unknown sandbox is ignored."""
        self._take_back(sandbox_id)
        await self._wait(lambda: self._conversation.is_gone(sandbox_id))

    async def known_sandboxes(self) -> frozenset[SandboxId]:
        """Return the sandboxes whose sockets are held, including those that a former agent added.

        Waits until a process has reported its own; raises FailedError after START_PATIENCE_S.
        """
        if not await self._wait(lambda: self._conversation.is_talking, START_PATIENCE_S):
            reason = self._trouble or "it does not answer"
            raise FailedError(f"cannot reach the resolver process: {reason}", code="resolver-unreachable")
        return self._conversation.sandbox_ids

    async def statistics(self) -> dict[str, int]:
        """Return the process's counters; the last known ones if it does not answer in time."""
        before = self._conversation.counted
        self._conversation.count()
        self._to_send.set()
        await self._wait(lambda: self._conversation.counted > before)
        return dict(self._conversation.statistics)

    def name_servers(self) -> tuple[str, ...]:
        """The host's own servers, which the resolver process asks for names outside the cluster; none if the file
        that lists them can't be read."""
        return read_servers(self._resolv_conf) or ()

    def status(self) -> dict[str, object]:
        """Return, for display: `running`, `process_id`, `starts` (by this agent), `sandboxes`, `trouble`."""
        return {
            "running": self._conversation.is_talking,
            "process_id": self._process_id,
            "starts": self._starts,
            "sandboxes": len(self._sockets),
            "trouble": self._trouble,
        }

    async def stop(self) -> None:
        """End the process, if there is one, and with it all answers. `run` must have returned before."""
        self._running.cancel()
        if self._begun:
            await self._ended.wait()
        with contextlib.suppress(OSError):
            with SocketChannel(await connect(self._run_dir / SOCKET_NAME)) as channel:
                process_id = channel.peer_process
            await end_process(process_id)

    # --- the loop -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep a process running and up to date, until cancelled or stopped. The process lives on."""
        self._begun = True
        try:
            with self._running:
                await self._keep_going()
        finally:
            self._lose_connection()
            for sandbox_id in tuple(self._sockets):
                self._forget_sockets(sandbox_id)
            self._ended.set()

    async def _keep_going(self) -> None:
        pause_s = 0.0
        while True:
            began = trio.current_time()
            try:
                channel = await self._reach()
            except OSError as error:
                self._trouble = str(error)
            else:
                self._trouble = await self._talk(channel)
            self._tell()
            if trio.current_time() - began > _STEADY_S:
                pause_s = 0.0
            await trio.sleep(pause_s)
            pause_s = min(max(2 * pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)

    def _tell(self) -> None:
        """Log why the connection to the process ended: once per reason and minute, while a new one fails at once."""
        _limited.warning(self._trouble, f"resolver process: {self._trouble}", event(EventKind.RESOLVER))

    async def _reach(self) -> SocketChannel:
        """Connect to the running process, else to a new one."""
        path = self._run_dir / SOCKET_NAME
        try:
            return SocketChannel(await connect(path))
        except (FileNotFoundError, ConnectionRefusedError):
            self._starts += 1
            await start_process(self._run_dir, release=self._release, resolv_conf=self._resolv_conf)
            return SocketChannel(await connect(path))

    async def _talk(self, channel: SocketChannel) -> str:
        """Communicate until the connection ends; return the reason."""
        with channel:
            process_id = self._process_id = channel.peer_process
            self._trouble = ""
            if process_id != self._last_process_id:
                self._last_process_id = process_id
                extra = event(EventKind.RESOLVER)
                _log.info("process %d answers DNS, as release %s", process_id, self._release, extra=extra)
            self._conversation.connected()
            self._to_send.set()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send, channel)
                nursery.start_soon(self._watch, process_id)
                reason = await self._receive(channel)
                nursery.cancel_scope.cancel()
        if self._conversation.must_replace:
            reason = f"process {process_id} was of another release and has been replaced"
            await end_process(process_id)
        self._lose_connection()
        return reason

    async def _receive(self, channel: SocketChannel) -> str:
        while True:
            try:
                message = await channel.receive()
            except OSError as error:
                return f"the connection failed: {error}"
            if message is None:
                return "it ended, or serves another agent"
            payload, pair = message
            wanted = self._conversation.wanted
            try:
                taken = self._conversation.handle_reply_untrusted(payload, has_sockets=pair is not None)
            except ProtocolError as error:
                _close(pair)
                return str(error)
            if taken is not None and pair is not None:
                self._sockets[taken] = pair
            else:
                _close(pair)
            for refused in self._conversation.refused:
                self._forget_sockets(refused)
            if self._conversation.wanted != wanted:
                self._note_wanted()
            self._to_send.set()
            self._announce()
            if self._conversation.must_replace:
                return ""

    async def _send(self, channel: SocketChannel) -> None:
        try:
            while True:
                self._to_send = trio.Event()
                for outgoing in self._conversation.drain():
                    of = outgoing.sockets_of
                    await channel.send(outgoing.payload, None if of is None else self._sockets.get(of))
                await self._to_send.wait()
        except OSError:
            return  # the receiving task notices as well, and decides

    async def _watch(self, process_id: int) -> None:
        task = PeriodicTask(_SIGN_OF_LIFE_S)
        while True:
            before = self._conversation.replies
            self._conversation.count()
            self._to_send.set()
            await task.wait()
            if self._conversation.replies == before:
                _log.warning(
                    "resolver process %d is silent for %g s: killing it",
                    process_id,
                    _SIGN_OF_LIFE_S,
                    extra=event(EventKind.RESOLVER),
                )
                kill_process(process_id)
                return

    def _lose_connection(self) -> None:
        self._conversation.disconnected()
        self._process_id = None
        self._announce()

    def _take_back(self, sandbox_id: SandboxId) -> None:
        self._conversation.remove_sandbox(sandbox_id)
        self._to_send.set()
        # At once, not with the last copy: the next attach may create its own redirect before that is closed.
        pair = self._sockets.get(sandbox_id)
        if pair is not None and pair.port_redirect is not None:
            end_port_redirect(pair.port_redirect)
        self._forget_sockets(sandbox_id)

    def _forget_sockets(self, sandbox_id: SandboxId) -> None:
        _close(self._sockets.pop(sandbox_id, None))

    def _announce(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def _wait(self, condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> bool:
        with trio.move_on_after(patience_s):
            while not condition():
                await self._news.wait()
        return condition()


def _close(pair: SocketPair | None) -> None:
    if pair is not None:
        pair.close()
