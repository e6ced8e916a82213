"""The resolver process: answers the containers' queries, whatever happens to the agent.

    python -m netagent.resolver.process --run-dir /run/netagent [--detach]

It is a separate process because 5 ms of Python elsewhere in a process show as 5 ms in the 99th percentile of every
answer, and because names must keep working while the agent is away or replaced. It gets its table and its sockets
from the agent over `<run dir>/resolver.sock`, keeps both when the agent goes, and accepts the next one. It ends only
on SIGTERM.

Where the resolver of a container runtime has 127.0.0.11, this process precedes it. It owns the rule that redirects
queries here, so that whatever ends the process ends the rule too, and queries that resolver, from inside the sandbox,
for all names that are not ours (docs/design/0009). The redirect of 127.0.0.11 port 53 to our sockets is independent:
it comes and goes with the sockets (docs/design/0025).

It has two parts. What this module runs has no right at all (netagent.resolver.system.confinement): it parses what
containers and servers send. What takes a right is done by the broker, its parent (netagent.resolver.privileged).

It serves feeds to the containers as well (netagent.resolver.feed_server).

Only the resolver runs in it: no pyroute2, no database, no cryptography is imported. The imported modules are excluded
from garbage collection (`gc.freeze`), so that a collection interrupts answers no longer than its own garbage takes.

`<run dir>/resolver.lock` stays locked for the life of the process: there is one per run directory.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import functools
import gc
import logging
import math
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import trio

from netagent.datapath.endpoint import netns
from netagent.loop_passes import LoopPasses
from netagent.model.sandbox import SandboxId
from netagent.openmetrics.process_families import read_usage
from netagent.resolver.channel import SocketChannel, SocketPair, close_aside
from netagent.resolver.feed_server import FeedServer
from netagent.resolver.feed_source import FEED_ADDRESS
from netagent.resolver.privileged import Privileges, operations
from netagent.resolver.protocol import (
    OVER_RATE,
    SOCKET_NAME,
    Listen,
    Statistics,
    reply_bytes,
    wanted_messages,
)
from netagent.resolver.session import Effect, ServedTable, Session
from netagent.resolver.stand_in import StandIn
from netagent.resolver.system import capabilities
from netagent.resolver.system.broker import Broker, BrokerClient, fork_broker
from netagent.resolver.system.confinement import confine
from netagent.resolver.system.daemonize import LOCKED_STATUS, LogPipe, Ready, become_daemon, log_to
from netagent.resolver.system.host_servers import DNS_PORT, ServersFile
from netagent.resolver.system.layer import Layer
from netdns.exchange import open_here
from netdns.resolver import Resolver
from netdns.server import Server
from netdns.servers import UpstreamServer as Upstream

LOCK_NAME: Final = "resolver.lock"
LOG_NAME: Final = "resolver.log"

_LOOK_S: Final = 2.0
"""How often resolv.conf is checked without a query, so that the log reports a change, and the warm-up of endpoints
goes on."""

_LISTEN_AGAIN_S: Final = 10.0
"""How often port 7953 is tried again in sandboxes in which another program has it."""

_OVER_RATE_S: Final = 60.0
"""How long a sandbox that asked too many queries is named."""
_MAX_OVER_RATE: Final = 20
"""Bound of such sandboxes that are named; beyond it: the others are only counted."""

_MAX_CONNECTIONS: Final = 8
"""Bound of agents connected to the resolver process; beyond it: further ones are closed. One agent, its successor,
and some programs that read counters."""

_log = logging.getLogger(__name__)


class ResolverProcess:
    """Joins netdns's server, the table, and the control socket. `release` is the version that it reports."""

    def __init__(
        self, listener: socket.socket, privileges: Privileges, *, release: str, passes: LoopPasses
    ) -> None:
        self._privileges = privileges
        self._passes = passes
        self._release = release
        self._answering = ServedTable()
        self._resolver = Resolver(
            source=self._answering.source,
            rng=random.SystemRandom(),
            now=time.monotonic(),
            is_inside=self._answering.source.is_inside,
        )
        self._server = Server(
            self._resolver,
            open_socket=self._open_upstream_socket,
            before_answers=self._follow_upstreams,
        )
        self._listener = trio.socket.from_stdlib_socket(listener)
        self._upstreams = ServersFile(privileges.read_servers, time.monotonic)
        self._sockets: dict[SandboxId, SocketPair] = {}
        self._redirects: dict[SandboxId, socket.socket] = {}
        self._forwarding: dict[SandboxId, bool] = {}
        self._bound: dict[SandboxId, SocketPair] = {}
        """Sockets at port 53 for an agent of an earlier release, kept until it has ended this process."""
        self._connections = 0
        self._agent: trio.CancelScope | None = None
        self._away_since = time.monotonic()
        """When the connection of the last agent ended."""
        self._feeds = FeedServer(self._answering.feeds, away_s=self._away_s, note_wanted=self._note_wanted)
        self._feeds_wanted = trio.Event()
        self._seen_wanted = self._answering.feeds.wanted
        self._follower: tuple[SocketChannel, int] | None = None
        """The agent that wants to know which feeds are wanted, and the number of its request."""
        self._feeds_taken: set[SandboxId] = set()
        """Sandboxes in which another program has the port of feeds."""
        self._listen_again = trio.Event()
        self._stand_in = StandIn(
            self._statistics, listen=privileges.listen_in_place_of_agent, read_usage=privileges.read_usage
        )
        self._counters = {"control_messages": 0, "control_refused": 0, "agents": 0}

    async def run(self) -> None:
        """Answer until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._server.run)
            nursery.start_soon(self._watch)
            nursery.start_soon(self._feeds.run)
            nursery.start_soon(self._name_wanted)
            nursery.start_soon(self._listen_for_feeds)
            nursery.start_soon(self._stand_in.run)
            while True:
                connection, _ = await self._listener.accept()
                if self._connections >= _MAX_CONNECTIONS:
                    connection.close()
                    continue
                nursery.start_soon(self._serve, SocketChannel(connection))

    async def _serve(self, channel: SocketChannel) -> None:
        self._connections += 1
        session = Session(self._answering, self._release)
        scope = trio.CancelScope()
        try:
            with channel, scope:
                while (message := await channel.receive()) is not None:
                    payload, pair = message
                    self._answering.source.handle_time(int(time.time()))
                    effect = session.handle_request_untrusted(payload, has_sockets=pair is not None)
                    if effect.keep is not None and pair is not None:
                        effect = self._keep(effect, effect.keep, pair, session)
                    elif pair is not None:
                        pair.close()
                    await self._carry_out(effect, channel, scope)
        except OSError as error:
            _log.warning("a connection on the control socket failed: %s", error)
        finally:
            self._connections -= 1
            if self._agent is scope:
                self._agent, self._follower, self._away_since = None, None, time.monotonic()
                self._feeds.note_change()
                self._stand_in.agent_went()

    def _keep(self, effect: Effect, listen: Listen, pair: SocketPair, session: Session) -> Effect:
        """Keep the sockets, and have queries come to them; return what is left to do."""
        sandbox_id = listen.sandbox_id
        before = self._sockets.get(sandbox_id)
        if not listen.behind_runtime:
            self._end_redirect(sandbox_id)
        elif sandbox_id not in self._redirects:  # an existing redirect stays: without it the runtime answers
            try:
                self._redirects[sandbox_id] = self._privileges.open_redirect(pair.udp)
            except OSError as error:
                pair.close()
                return session.give_back(
                    listen, f"cannot redirect queries past the runtime's resolver: {error.strerror}"
                )
        self._sockets[sandbox_id] = pair
        if before is None:
            return effect
        if sandbox_id in self._server.clients():
            # The old sockets still answer the queries that they received; new queries go to the new ones already.
            self._server.replace_listener(sandbox_id, pair.udp, pair.tcp)
            if before.port_redirect is not None:
                close_aside(before.port_redirect)
        else:
            before.close()
        # The servers for names that are not ours may have changed.
        if sandbox_id in self._forwarding:
            self._set_upstreams(sandbox_id, forward=self._forwarding[sandbox_id])
        return effect

    async def _carry_out(self, effect: Effect, channel: SocketChannel, scope: trio.CancelScope) -> None:
        self._counters["control_messages"] += 1
        self._counters["control_refused"] += effect.refused
        if effect.is_agent:
            self._counters["agents"] += 1
            if self._agent is not None and self._agent is not scope:
                self._agent.cancel()
            self._agent = scope
            self._stand_in.agent_came()
        if effect.stand_in is not None:
            self._stand_in.set_place(effect.stand_in)
        if effect.close is not None:
            self._drop(effect.close)
        self._update_listeners()
        self._feeds.note_change()
        if self._seen_wanted is not self._answering.feeds.wanted:  # the last container has left a network
            self._feeds_wanted.set()
        if effect.follow is not None:
            self._follower = channel, effect.follow
            self._feeds_wanted.set()
        for reply in effect.replies:
            await channel.send(reply, self._sockets_for(effect))
        if effect.count is not None:
            await channel.send(reply_bytes(Statistics(effect.count, self._statistics())))

    def _note_wanted(self) -> None:
        self._feeds_wanted.set()

    async def _name_wanted(self) -> None:
        """Say which feeds are wanted, to an agent that has asked, whenever that changes."""
        while True:
            await self._feeds_wanted.wait()
            self._feeds_wanted = trio.Event()
            self._seen_wanted = self._answering.feeds.wanted
            if self._follower is not None:
                channel, sequence = self._follower
                with contextlib.suppress(OSError, trio.ClosedResourceError):  # the next agent asks again
                    for message in wanted_messages(sequence, self._seen_wanted):
                        await channel.send(reply_bytes(message))

    def _away_s(self) -> float | None:
        """Return how long no agent has been connected; None: one is."""
        return None if self._agent is not None else time.monotonic() - self._away_since

    async def _listen_for_feeds(self) -> None:
        """Listen for requests of feeds in all sandboxes that are answered. Entering hundreds of namespaces takes a
        while, so other tasks run between two."""
        while True:
            self._listen_again = trio.Event()
            for sandbox_id in tuple(self._forwarding.keys() - self._feeds.sandboxes()):
                pair = self._sockets.get(sandbox_id)  # it may have gone meanwhile
                if pair is not None and sandbox_id in self._forwarding:
                    self._listen_in(sandbox_id, pair)
                await trio.lowlevel.checkpoint()
            with trio.move_on_after(_LISTEN_AGAIN_S if self._feeds_taken else math.inf):
                await self._listen_again.wait()

    def _listen_in(self, sandbox_id: SandboxId, pair: SocketPair) -> None:
        try:
            self._feeds.add_listener(sandbox_id, self._privileges.open_feed_listener(pair.udp))
        except OSError as error:
            if sandbox_id not in self._feeds_taken:
                address, port = FEED_ADDRESS
                _log.warning("no feeds at %s:%d in sandbox %s: %s", address, port, sandbox_id, error.strerror)
            self._feeds_taken.add(sandbox_id)
        else:
            self._feeds_taken.discard(sandbox_id)

    def _sockets_for(self, effect: Effect) -> SocketPair | None:
        sandbox_id = effect.sockets_of
        if sandbox_id is None:
            return None
        pair = self._sockets[sandbox_id]
        if pair.port_redirect is None or not effect.bound:
            return pair
        # The agent of an earlier release is about to end this process, and with it the last copy of the redirect.
        if sandbox_id not in self._bound:
            try:
                self._bound[sandbox_id] = SocketPair(*self._privileges.bind_port_53(pair.udp))
            except OSError as error:
                _log.warning(
                    "an agent of an earlier release can't answer in sandbox %s: %s", sandbox_id, error
                )
        return self._bound.get(sandbox_id, pair)

    def _drop(self, sandbox_id: SandboxId) -> None:
        self._server.remove_listener(sandbox_id)
        self._feeds.remove_listener(sandbox_id)
        self._feeds_taken.discard(sandbox_id)
        self._forwarding.pop(sandbox_id, None)
        self._end_redirect(sandbox_id)
        bound = self._bound.pop(sandbox_id, None)
        if bound is not None:
            bound.close()
        pair = self._sockets.pop(sandbox_id, None)
        if pair is not None:
            if pair.port_redirect is not None:
                with contextlib.suppress(OSError):
                    self._privileges.end_port_redirect(pair.port_redirect)
            pair.close()

    def _end_redirect(self, sandbox_id: SandboxId) -> None:
        redirect = self._redirects.pop(sandbox_id, None)
        if redirect is not None:
            with contextlib.suppress(OSError):
                self._privileges.end_redirect(redirect)
            close_aside(redirect)

    def _update_listeners(self) -> None:
        """Answer for all that are ready, according to their rows."""
        ready = self._answering.ready()
        for sandbox_id in ready.keys() - self._forwarding.keys():
            pair = self._sockets[sandbox_id]
            self._server.add_listener(sandbox_id, pair.udp, pair.tcp)
            self._listen_again.set()
        # A sandbox without a row keeps its sockets until they are closed, and resolves nothing meanwhile.
        for sandbox_id in self._forwarding.keys() | ready.keys():
            forward = sandbox_id in ready and ready[sandbox_id].forward
            if self._forwarding.get(sandbox_id) is not forward:
                self._set_upstreams(sandbox_id, forward=forward)

    def _set_upstreams(self, sandbox_id: SandboxId, *, forward: bool) -> None:
        near = netns.RESOLVER_ADDRESS if sandbox_id in self._redirects else None
        # The runtime knows addresses of its containers on our networks, but not which of them are hidden.
        veiled = functools.partial(self._answering.source.claims, sandbox_id)
        self._resolver.set_upstreams(sandbox_id, forwarding=forward, near=near, veiled=veiled)
        self._forwarding[sandbox_id] = forward

    def _open_upstream_socket(self, server: Upstream, kind: socket.SocketKind) -> socket.socket:
        """Query the host's servers from here, a runtime's resolver from inside its sandbox."""
        if server.near is None:
            return open_here(server, kind)
        pair = self._sockets.get(SandboxId(str(server.near)))
        if pair is None:
            raise FileNotFoundError(errno.ENOENT, "the sandbox is gone")
        return self._privileges.open_exempt(pair.udp, kind)

    def _follow_upstreams(self) -> None:
        servers = self._upstreams.news()
        if servers is not None:
            self._resolver.set_default_upstreams([(server, DNS_PORT) for server in servers])
            _log.info("upstream servers: %s", ", ".join(servers) or "none")

    async def _watch(self) -> None:
        while True:
            self._follow_upstreams()
            # Unix time: endpoints' records say by it since when they are up.
            self._answering.source.handle_time(int(time.time()))
            await trio.sleep(_LOOK_S)

    def note_missing_layers(self, layers: Iterable[Layer]) -> None:
        """Tell agents that the process has more rights than it needs."""
        self._counters |= {layer.counter: 1 for layer in layers}

    def _statistics(self) -> dict[str, int]:
        own = {
            "process_id": os.getpid(),
            "rows": len(self._answering.source.rows),
            "sandboxes": len(self._sockets),
            "redirects": len(self._redirects),
            **self._counters,
            **self._over_rate(),
            **self._upstream_statistics(),
            **self._loop_statistics(),
        }
        return {**self._server.statistics(), **self._feeds.statistics(), **own}

    def _over_rate(self) -> dict[str, int]:
        """Return the sandboxes that asked too many queries of late; names have the form `over_rate_SANDBOX`."""
        over = self._resolver.over_rate(time.monotonic() - _OVER_RATE_S)
        return {f"{OVER_RATE}{sandbox_id}": 1 for sandbox_id in over[:_MAX_OVER_RATE]}

    def _upstream_statistics(self) -> dict[str, int]:
        """Return the health of the host's name servers; names have the form `server_ADDRESS_WHAT`."""
        found = {}
        for address, health in self._resolver.server_health().items():
            found[f"server_{address}_up"] = int(not health.is_down)
            found[f"server_{address}_rtt_us"] = round(health.rtt_s * 1e6)
            found[f"server_{address}_asked"] = health.asked
            found[f"server_{address}_answered"] = health.answered
            found[f"server_{address}_unanswered"] = health.unanswered
        return found

    def _loop_statistics(self) -> dict[str, int]:
        """Return how long the passes of the event loop took, in the form of `netdns.latency`."""
        times = self._passes.times
        upto = {
            f"pass_le_{round(bound * 1e6)}_us": count
            for bound, count in times.cumulative()
            if bound != math.inf
        }
        return {**upto, "pass_count": times.count, "pass_sum_us": round(times.total * 1e6)}


async def _serve_until_end(process: ResolverProcess, client: BrokerClient) -> None:
    async with trio.open_nursery() as nursery:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            nursery.start_soon(process.run)
            nursery.start_soon(_wait_end, client, nursery)
            async for _ in signals:
                break
        nursery.cancel_scope.cancel()


async def _wait_end(client: BrokerClient, nursery: trio.Nursery) -> None:
    await client.wait_end()
    nursery.cancel_scope.cancel()


def _take_lock(path: Path) -> int:
    """Return the locked file, which must stay open for life. BlockingIOError when another process has the lock."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise BlockingIOError(error.errno, f"another resolver process has {path} locked") from None
    return lock


def _give_up(ready: Ready | None, status: int, message: str) -> int:
    if ready is not None:
        ready.fail(status, message)
    sys.stderr.write(f"{message}\n")
    return status


def _open_control_socket(path: Path) -> socket.socket:
    """Open the socket. Only the holder of the lock calls this, so an existing file belongs to a dead process."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(_MAX_CONNECTIONS)
    return listener


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the process. Returns LOCKED_STATUS when there is one already."""
    parser = argparse.ArgumentParser(prog="netagent-resolver", description="Answers containers' DNS queries.")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--release", default="", help="an agent of another release replaces this process")
    parser.add_argument("--resolv-conf", type=Path, default=Path("/etc/resolv.conf"))
    parser.add_argument("--detach", action="store_true", help="run in the background once ready")
    options = parser.parse_args(arguments)
    ready: Ready | None = None
    write_log: Callable[[bytes], None] | None = None
    if options.detach:
        ready, log = become_daemon(options.run_dir / LOG_NAME)
        write_log = lambda data: log.write(data.decode("utf-8", "backslashreplace"))  # noqa: E731
    else:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        lock = _take_lock(options.run_dir / LOCK_NAME)
        listener = _open_control_socket(options.run_dir / SOCKET_NAME)
    except OSError as error:
        locked = isinstance(error, BlockingIOError)
        return _give_up(ready, LOCKED_STATUS if locked else 1, str(error.strerror or error))
    gc.collect()
    gc.freeze()
    child = 0
    part = fork_broker(operations(options.resolv_conf, lambda: read_usage(child)), write_log)
    if isinstance(part, Broker):
        child = part.child
        listener.close()
        if ready is not None:
            ready.close()
        try:
            capabilities.keep_few()
        except OSError as error:
            _log.warning("more capabilities are left than needed: %s", error.strerror)
        status = part.serve()
        (options.run_dir / SOCKET_NAME).unlink(missing_ok=True)
        return status
    # The lock is the broker's alone: a process that finds it free also finds both gone.
    os.close(lock)
    return _answer_confined(part, listener, ready, options.release)


def _answer_confined(client: BrokerClient, listener: socket.socket, ready: Ready | None, release: str) -> int:
    if ready is not None:
        log_to(LogPipe())
    passes = LoopPasses()
    process = ResolverProcess(listener, Privileges(client), release=release, passes=passes)
    missing = confine(client.parent)
    for problem in missing.values():
        _log.warning("%s", problem)
    process.note_missing_layers(missing)
    if ready is not None:
        ready.succeed()
    _log.info("release %r answers, process %d", release, client.parent)
    trio.run(_serve_until_end, process, client, instruments=[passes])
    return 0


if __name__ == "__main__":
    sys.exit(main())
