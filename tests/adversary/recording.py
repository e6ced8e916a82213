"""A cluster of which an outsider records everything, and plays it again: it has no key, and writes any address."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from netgossip.testing import PORTS, SimCluster, SimHost
from netgossip.types import Address, Channel, StreamCommand, StreamId, StreamOpen, StreamSend


@dataclass(frozen=True, slots=True)
class Datagram:
    source: SimHost
    channel: Channel
    destination: Address
    payload: bytes


@dataclass(slots=True)
class Stream:
    """What one side of a stream said."""

    source: SimHost
    destination: SimHost
    channel: Channel
    is_dialler: bool
    pieces: list[bytes] = field(default_factory=list)


class RecordedCluster(SimCluster):
    """Hosts that sign and have sessions; `capture` has all datagrams and streams, in order."""

    def __init__(self, *, seed: int, nodes: int) -> None:
        print(f"seed {seed}")
        self.capture: list[Datagram | Stream] = []
        self.is_recording = True
        self._streams: dict[int, Stream] = {}
        super().__init__(seed=seed, nodes=nodes, signs=True)

    def send(self, source: SimHost, channel: Channel, destination: Address, payload: bytes) -> None:
        if self.is_recording:
            self.capture.append(Datagram(source, channel, destination, payload))
        super().send(source, channel, destination, payload)

    def obey(self, host: SimHost, command: StreamCommand) -> None:
        super().obey(host, command)
        if not self.is_recording:
            return
        end = self._ends.get((host.name, id(host.node), command.stream_id))
        if end is None or end.other is None:
            return
        if isinstance(command, StreamOpen):
            channel = next(one for one, port in PORTS.items() if port == command.destination[1])
            for one, other, is_dialler in ((end, end.other, True), (end.other, end, False)):
                self._streams[id(one)] = Stream(one.host, other.host, channel, is_dialler)
                self.capture.append(self._streams[id(one)])
        elif isinstance(command, StreamSend) and id(end) in self._streams:
            self._streams[id(end)].pieces.append(command.data)

    def play(self, recording: Iterable[Datagram | Stream], *, rng: random.Random) -> None:
        """Send all again as it was, and each datagram also to another host, a thousand in a second."""
        self.is_recording = False
        for number, one in enumerate(recording):
            if isinstance(one, Datagram):
                self.send(one.source, one.channel, one.destination, one.payload)
                other = rng.choice(self.running())
                self.send(one.source, one.channel, (other.ip, PORTS[one.channel]), one.payload)
            elif one.destination.node is not None:
                self._play_stream(one)
            if number % 20 == 0:
                self.run_for(0.02)

    def _play_stream(self, stream: Stream) -> None:
        with stream.destination.commanding() as node:
            stream_id: StreamId = node.accept_stream(stream.channel, (stream.source.ip, 50_000), self.now)
            for piece in stream.pieces:
                node.handle_stream_data(stream_id, piece, self.now)
        stream.destination.running.handle_stream_end(stream_id, self.now, None)
        stream.destination.flush()
