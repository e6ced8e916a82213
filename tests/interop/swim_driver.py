"""Swim on real loopback sockets, as little as it takes: the product's driver runs whole nodes."""

from __future__ import annotations

import itertools
import random
import socket
from collections.abc import Callable

import trio

from netgossip.config import GossipConfig
from netgossip.seal import Keyring
from netgossip.swim import Swim
from netgossip.types import Address, Event, Member, MemberState, StreamClose, StreamId, StreamOpen, StreamSend


class SwimDriver:
    """One machine with its sockets. `deaf_to` are addresses whose datagrams it does not hear."""

    def __init__(
        self,
        name: str,
        address: Address,
        *,
        key: bytes,
        label: bytes,
        seeds: tuple[Address, ...] = (),
        meta: bytes = b"",
        incarnation: int = 0,
    ) -> None:
        self._stream_ids = itertools.count(1)
        self.swim = Swim(
            config=GossipConfig.lan(),
            node_id=name,
            address=address,
            meta=meta,
            incarnation=incarnation,
            keyring=Keyring([key]),
            label=label,
            rng=random.SystemRandom(),
            now=trio.current_time(),
            new_stream_id=lambda: next(self._stream_ids),
            seeds=seeds,
        )
        self.address = address
        self.events: list[Event] = []
        self.deaf_to: set[Address] = set()
        self._udp = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._to_write: dict[StreamId, trio.MemorySendChannel[bytes | None]] = {}
        self._wake = trio.Event()
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery

    def state_of(self, name: str) -> MemberState | None:
        member = self.member(name)
        return None if member is None else member.state

    def member(self, name: str) -> Member | None:
        return self.swim.members().get(name)

    def stop(self) -> None:
        """Without a word, like a process that is killed."""
        self._scope.cancel()

    def flush(self) -> None:
        output = self.swim.drain()
        self.events += output.events
        for datagram in output.datagrams:
            self._nursery.start_soon(self._udp.sendto, datagram.payload, datagram.destination)
        for command in output.streams:
            match command:
                case StreamOpen():
                    self._start(command.stream_id, self._dial, command.destination)
                case StreamSend() if command.stream_id in self._to_write:
                    self._to_write[command.stream_id].send_nowait(command.data)
                case StreamClose() if command.stream_id in self._to_write:
                    self._to_write.pop(command.stream_id).send_nowait(None)
        self.swim.check_invariants()
        self._wake.set()

    def _start(self, stream_id: StreamId, task: Callable[..., object], argument: object) -> None:
        self._to_write[stream_id], receive = trio.open_memory_channel[bytes | None](16)
        self._nursery.start_soon(task, stream_id, argument, receive)  # type: ignore[arg-type]

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        await self._udp.bind(self.address)
        listeners = await trio.open_tcp_listeners(self.address[1], host=self.address[0])
        with self._scope, self._udp:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._read_datagrams)
                self._nursery.start_soon(trio.serve_listeners, self._accepted, listeners)
                self.flush()
                task_status.started()
                await self._keep_time()

    async def _keep_time(self) -> None:
        while True:
            self._wake = trio.Event()
            with trio.move_on_at(self.swim.next_deadline()):
                await self._wake.wait()
                continue
            self.swim.handle_deadline(trio.current_time())
            self.flush()

    async def _read_datagrams(self) -> None:
        while True:
            payload, source = await self._udp.recvfrom(65536)
            if source not in self.deaf_to:
                self.swim.handle_datagram(payload, source, trio.current_time())
                self.flush()

    async def _accepted(self, stream: trio.SocketStream) -> None:
        stream_id = next(self._stream_ids)
        self._to_write[stream_id], receive = trio.open_memory_channel[bytes | None](16)
        self.swim.accept_stream(stream_id, stream.socket.getpeername(), trio.current_time())
        self.flush()
        await self._serve(stream_id, stream, receive)

    async def _dial(
        self, stream_id: StreamId, destination: Address, to_write: trio.MemoryReceiveChannel[bytes | None]
    ) -> None:
        try:
            stream = await trio.open_tcp_stream(*destination, local_address=self.address[0])
        except OSError as error:
            self._end(stream_id, str(error))
            return
        await self._serve(stream_id, stream, to_write)

    async def _serve(
        self,
        stream_id: StreamId,
        stream: trio.SocketStream,
        to_write: trio.MemoryReceiveChannel[bytes | None],
    ) -> None:
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(self._read_stream, stream_id, stream)
            try:
                while (data := await to_write.receive()) is not None:
                    await stream.send_all(data)
            except (trio.BrokenResourceError, trio.EndOfChannel):
                pass
            nursery.cancel_scope.cancel()

    async def _read_stream(self, stream_id: StreamId, stream: trio.SocketStream) -> None:
        try:
            while data := await stream.receive_some(65536):
                self.swim.handle_stream_data(stream_id, data, trio.current_time())
                self.flush()
            self._end(stream_id, None)
        except trio.BrokenResourceError as error:
            self._end(stream_id, str(error))

    def _end(self, stream_id: StreamId, error: str | None) -> None:
        self.swim.handle_stream_end(stream_id, trio.current_time(), error)
        self.flush()
