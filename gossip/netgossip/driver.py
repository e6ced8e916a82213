"""Driver: trio around a GossipNode. Four sockets, one timer, a task per stream; all decisions are the node's.

An input runs through these steps in order: node, `flush_nowait`, then datagrams, stream commands, events. The
application's callback for events may command the node; what that causes is flushed in the same call. The driver drops
and counts a datagram that the kernel has no room for: the node repeats what matters.

A `TaskRunner` (slice_runner.py) continues the work that was too long for one input, and holds back the streams' next
data until it is done; `SendBuffer` holds the unsent bytes of one stream; `Driver` owns the sockets, the timer and the
tasks.
"""

from __future__ import annotations

import errno
import socket
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

from netgossip.node import GossipNode
from netgossip.slice_runner import TaskRunner, turn
from netgossip.sockets import NodeSockets, dial
from netgossip.types import Address, Channel, Event, StreamCommand, StreamId, StreamOpen, StreamSend


@dataclass(slots=True)
class Traffic:
    """What passed on the sockets of one channel since the start, without headers."""

    datagrams_sent: int = 0
    datagrams_received: int = 0
    bytes_sent: int = 0
    """In datagrams and streams."""
    bytes_received: int = 0


class SendBuffer:
    """The unsent bytes of one stream. Cancelling `scope` ends all that is done for the stream."""

    __slots__ = ("closing", "queue", "queued_bytes", "scope", "traffic", "wake")

    def __init__(self, traffic: Traffic) -> None:
        self.traffic = traffic
        self.queue: deque[bytes] = deque()
        self.queued_bytes = 0
        self.closing = False
        self.wake = trio.Event()
        self.scope = trio.CancelScope()

    async def write(self, transport: trio.SocketStream, both: trio.CancelScope) -> None:
        """Send what is queued, also what is queued later; once all is sent and `closing` is set, end `both`
        directions."""
        while True:
            while self.queue:
                data = self.queue.popleft()
                await transport.send_all(data)
                self.traffic.bytes_sent += len(data)
                self.queued_bytes -= len(data)
            if self.closing:
                both.cancel()
                return
            await self.wake.wait()
            self.wake = trio.Event()


DATAGRAM_LIMIT_BYTES: Final = 65_535
BURST: Final = 64
"""Bound of datagrams read from a socket before other tasks run; beyond it: the rest waits in the kernel's buffer,
which drops. About 3 ms of work."""
READ_BYTES: Final = 64 * 1024
"""Bound of bytes read from a stream before other tasks run; beyond it: the rest waits in the kernel's buffers, and
the peers wait with it. One frame. TaskRunner processes its content in steps."""
QUEUE_LIMIT_BYTES: Final = 32 * 1024 * 1024
"""Bound of unsent bytes of one stream; beyond it: the stream breaks; repair opens another. Twice the most that the
machines queue at once."""
DIAL_TIMEOUT_S: Final = 10.0
LINGER_S: Final = 10.0
"""How long queued bytes may still be sent after the machine, or the peer, has closed."""


class Driver:
    """Runs a node on its sockets. `on_events` is called in the event loop and must not block.

    The sockets belong to the driver from now on; `run` closes them when it ends. Every `now` given to the
    node is trio's time.
    """

    def __init__(
        self,
        node: GossipNode,
        sockets: NodeSockets,
        *,
        on_events: Callable[[tuple[Event, ...]], None],
    ) -> None:
        self._node = node
        self._sockets = sockets
        self._listening = trio.CancelScope()
        self._on_events = on_events
        self._streams: dict[StreamId, SendBuffer] = {}
        self._nursery: trio.Nursery | None = None
        self._timer = trio.CancelScope()
        """Ends at the node's next deadline."""
        self._planned_at = 0.0
        self._flushing = False
        self._task_runner = TaskRunner(node, self.flush_nowait)
        self.counts: Counter[str] = Counter()
        self.traffic = {channel: Traffic() for channel in Channel}

    async def run(self) -> None:
        """Run until cancelled. Raises only what the callback raises."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._listen, self._sockets, self._listening, nursery)
                nursery.start_soon(self._keep_time)
                nursery.start_soon(self._task_runner.run)
                self.flush_nowait()
        finally:
            self._nursery = None
            self._sockets.close()

    def rebind(self, sockets: NodeSockets) -> None:
        """Listen on, and send from, these sockets from now on, because other hosts reach this one at another address.

        The former sockets are closed; streams continue or break by themselves. Tell the node as well (`set_address`).
        """
        former, self._sockets = self._sockets, sockets
        self._listening.cancel()
        self._listening = trio.CancelScope()
        if self._nursery is None:
            former.close()
        else:
            self._nursery.start_soon(self._listen, sockets, self._listening, self._nursery)

    async def _listen(self, sockets: NodeSockets, scope: trio.CancelScope, streams: trio.Nursery) -> None:
        """Listen on these sockets until `rebind` replaces them; then close them. Streams stay open."""
        try:
            with scope:
                async with trio.open_nursery() as nursery:
                    for channel in Channel:
                        nursery.start_soon(self._read_datagrams, channel, sockets.udp[channel])
                        nursery.start_soon(self._accept, channel, sockets.tcp[channel], streams)
        finally:
            sockets.close()

    def flush_nowait(self) -> None:
        """Carry out what the node wants done. Call this after every command given to the node."""
        # A command that the events' callback gives the node ends up here again: the loop below sends its output too.
        if self._nursery is None or self._flushing:
            return
        self._flushing = True
        try:
            while True:
                output = self._node.drain()
                if not (output.datagrams or output.streams or output.events):
                    break
                for datagram in output.datagrams:
                    self._send(datagram.channel, datagram.payload, datagram.destination)
                for command in output.streams:
                    self._obey(command, self._nursery)
                if output.events:
                    self._on_events(output.events)
        finally:
            self._flushing = False
        self._set_timer()
        self._task_runner.note()

    def _send(self, channel: Channel, payload: bytes, destination: Address) -> None:
        try:
            self._sockets.udp[channel].sendto(payload, destination)
        except OSError as error:
            self.counts[f"unsent_{errno.errorcode.get(error.errno or 0, 'other').lower()}"] += 1
            return
        traffic = self.traffic[channel]
        traffic.datagrams_sent += 1
        traffic.bytes_sent += len(payload)

    def _obey(self, command: StreamCommand, nursery: trio.Nursery) -> None:
        if isinstance(command, StreamOpen):
            self._streams[command.stream_id] = SendBuffer(self.traffic[command.channel])
            nursery.start_soon(self._dial, command.stream_id, command.destination)
            return
        if (stream := self._streams.get(command.stream_id)) is None:
            return  # the stream ended in between
        if isinstance(command, StreamSend):
            stream.queue.append(command.data)
            stream.queued_bytes += len(command.data)
            if stream.queued_bytes > QUEUE_LIMIT_BYTES:
                stream.scope.cancel()
        else:  # not cancelled at once: what is queued must still go out
            stream.closing = True
            stream.scope.deadline = trio.current_time() + LINGER_S
        stream.wake.set()

    # Tasks

    async def _read_datagrams(self, channel: Channel, udp: socket.socket) -> None:
        while True:
            await trio.lowlevel.wait_readable(udp)
            traffic = self.traffic[channel]
            for _ in range(BURST):
                try:
                    payload, source = udp.recvfrom(DATAGRAM_LIMIT_BYTES)
                except BlockingIOError:
                    break
                except OSError:
                    self.counts["receive_errors"] += 1  # an ICMP error for something sent before
                    continue
                traffic.datagrams_received += 1
                traffic.bytes_received += len(payload)
                self._node.handle_datagram(channel, payload, (source[0], source[1]), trio.current_time())
            self.flush_nowait()

    async def _keep_time(self) -> None:
        while True:
            with trio.CancelScope() as self._timer:
                self._set_timer()
                await trio.sleep_forever()
            now = trio.current_time()
            self._node.membership.note_lag(max(now - self._planned_at, 0.0), now)
            self._node.handle_deadline(now)
            self.flush_nowait()

    def _set_timer(self) -> None:
        """Move the timer's deadline without waking its task: most inputs change nothing but the deadline."""
        if self._timer.cancel_called:
            return  # it has fired, though its task may not have run yet: moving it would hide how late it is
        # A deadline that an input has just brought about may lie in the past; that is no lag of the event loop.
        self._planned_at = max(self._node.next_deadline(), trio.current_time())
        if self._timer.deadline != self._planned_at:  # most inputs leave it, and a change is work for trio
            self._timer.deadline = self._planned_at

    async def _accept(self, channel: Channel, tcp: socket.socket, nursery: trio.Nursery) -> None:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(tcp))
        while True:
            try:
                accepted = await listener.accept()
            except OSError:  # out of descriptors: wait until others are closed
                self.counts["accept_errors"] += 1
                await trio.sleep(0.1)
                continue
            try:
                peer = accepted.socket.getpeername()
            except OSError:
                accepted.socket.close()  # the peer has disconnected already
                self.counts["accept_errors"] += 1
                continue
            stream_id = self._node.accept_stream(channel, (peer[0], peer[1]), trio.current_time())
            self._streams[stream_id] = SendBuffer(self.traffic[channel])
            nursery.start_soon(self._serve, stream_id, accepted)
            self.flush_nowait()

    async def _dial(self, stream_id: StreamId, destination: Address) -> None:
        try:
            with trio.fail_after(DIAL_TIMEOUT_S):
                transport = await dial(destination, self._sockets)
        except (OSError, trio.TooSlowError) as error:
            self._end(stream_id, f"{destination[0]} port {destination[1]}: {error or 'no answer'}")
            return
        await self._serve(stream_id, transport)

    async def _serve(self, stream_id: StreamId, transport: trio.SocketStream) -> None:
        """Move bytes in both directions until either side is done."""
        stream = self._streams[stream_id]
        error: str | None = "cancelled"
        with stream.scope:
            async with transport:
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(stream.write, transport, nursery.cancel_scope)
                        error = await self._read(stream_id, transport)
                        # The peer has finished sending; we may not have.
                        self._node.handle_stream_end(stream_id, trio.current_time(), error)
                        self.flush_nowait()
                        patience_s = LINGER_S if error is None else 0.0
                        nursery.cancel_scope.deadline = trio.current_time() + patience_s
                except* trio.BrokenResourceError:
                    error = "broken"
        self._end(stream_id, error)

    async def _read(self, stream_id: StreamId, transport: trio.SocketStream) -> str | None:
        while True:
            try:
                data = await transport.receive_some(READ_BYTES)
            except trio.BrokenResourceError as broken:
                return str(broken.__cause__ or broken)
            if not data:
                return None
            self._streams[stream_id].traffic.bytes_received += len(data)
            async with turn():  # all peers send a newcomer what they hold, at the same time
                self._node.handle_stream_data(stream_id, data, trio.current_time())
                self.flush_nowait()
            await self._task_runner.wait_done()

    def _end(self, stream_id: StreamId, error: str | None) -> None:
        """Drop a stream, and tell the machine unless the machine closed it."""
        stream = self._streams.pop(stream_id)
        if not stream.closing:
            self._node.handle_stream_end(stream_id, trio.current_time(), error)
            self.flush_nowait()
