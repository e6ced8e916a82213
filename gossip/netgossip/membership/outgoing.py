"""The membership's output: datagrams with piggybacked broadcasts, stream commands, events.

Every datagram, even a mere ack, is filled up with waiting broadcasts, so that they spread without traffic of their
own.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from netgossip.codec.messages import (
    COMPOUND_HEADER_BYTES,
    COMPOUND_LIMIT,
    COMPOUND_PART_BYTES,
    DatagramMessage,
    encode,
    encode_compound,
)
from netgossip.codec.sealing import Keyring, datagram_overhead_bytes, seal_datagram
from netgossip.config import GossipConfig
from netgossip.membership.broadcasts import BroadcastQueue
from netgossip.types import Address, Channel, Datagram, Event, NodeOutput, StreamCommand

DATAGRAMS_LIMIT: Final = 4096
"""Bound of membership datagrams between two drains; beyond it: new ones are dropped, counted. The driver drains after
each input, so this is never reached."""


class Outgoing:
    """Collects output between two drains. `live` returns the number of members for the broadcasts' limit."""

    def __init__(
        self,
        *,
        config: GossipConfig,
        keyring: Keyring,
        label: bytes,
        rng: random.Random,
        live: Callable[[], int],
    ) -> None:
        self.broadcasts = BroadcastQueue(config.retransmit_mult)
        self.dropped = 0
        self._keyring = keyring
        self._label = label
        self._rng = rng
        self._live = live
        self._space_bytes = config.udp_limit_bytes - datagram_overhead_bytes(label) - COMPOUND_HEADER_BYTES
        self._datagrams: list[Datagram] = []
        self._streams: list[StreamCommand] = []
        self._events: list[Event] = []

    def send(self, destination: Address, *messages: DatagramMessage, is_live: bool = True) -> None:
        """Queue one datagram with `messages` and as many broadcasts as fit; none when there is nothing to send.

        Broadcasts sent to a member that is not live do not count towards their limit.
        """
        parts = [encode(message) for message in messages]
        parts += self.broadcasts.take(
            space_bytes=self._space_bytes - sum(len(part) + COMPOUND_PART_BYTES for part in parts),
            part_bytes=COMPOUND_PART_BYTES,
            count=COMPOUND_LIMIT - len(parts),
            members=self._live(),
            is_counted=is_live,
        )
        if not parts:
            return
        if len(self._datagrams) >= DATAGRAMS_LIMIT:
            self.dropped += 1
            return
        payload = seal_datagram(
            encode_compound(parts), keyring=self._keyring, label=self._label, rng=self._rng
        )
        self._datagrams.append(Datagram(Channel.GOSSIP, destination, payload))

    def stream(self, command: StreamCommand) -> None:
        """Queue a stream command."""
        self._streams.append(command)

    def event(self, event: Event) -> None:
        """Queue an event for the application."""
        self._events.append(event)

    def drain(self) -> NodeOutput:
        """Return everything since the last drain."""
        output = NodeOutput(tuple(self._datagrams), tuple(self._streams), tuple(self._events))
        self._datagrams, self._streams, self._events = [], [], []
        return output
