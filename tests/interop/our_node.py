"""A whole node of ours on loopback sockets, with the product's driver."""

from __future__ import annotations

import random

import trio

from netgossip.codec.sealing import Keyring
from netgossip.config import GossipConfig
from netgossip.driver import Driver
from netgossip.join.identity import Identity
from netgossip.node import GossipNode
from netgossip.sockets import open_sockets
from netgossip.types import Address, Channel, Event, Member, MemberState


class HalfDeafNode(GossipNode):
    """Does not hear gossip's datagrams from `deaf_to`."""

    deaf_to: frozenset[Address] = frozenset()

    def handle_datagram(self, channel: Channel, payload: bytes, source: Address, now: float) -> None:
        if channel is not Channel.GOSSIP or source not in self.deaf_to:
            super().handle_datagram(channel, payload, source, now)


class OurNode:
    """Starts without waiting: its sockets are bound at once."""

    def __init__(
        self,
        name: str,
        address: Address,
        *,
        key: bytes,
        label: bytes,
        seeds: tuple[Address, ...] = (),
        meta: bytes = b"",
        identity: Identity | None = None,
    ) -> None:
        record_port = address[1] + 1
        sockets = open_sockets(address[0], address[1], record_port)
        self.node = HalfDeafNode(
            config=GossipConfig.lan(),
            node_id=name,
            identity=identity,
            address=address,
            record_port=record_port,
            meta=meta,
            keyring=Keyring([key]),
            label=label,
            rng=random.SystemRandom(),
            now=trio.current_time(),
            seeds=seeds,
        )
        self.events: list[Event] = []
        self.driver = Driver(
            self.node,
            sockets,
            on_events=self.events.extend,
        )
        self._scope = trio.CancelScope()
        self._ended = trio.Event()

    def member(self, name: str) -> Member | None:
        return self.node.members().get(name)

    def state_of(self, name: str) -> MemberState | None:
        member = self.member(name)
        return None if member is None else member.state

    async def run(self) -> None:
        with self._scope:
            await self.driver.run()
        self._ended.set()

    async def kill(self) -> None:
        """Without a word, like a process that is killed."""
        self._scope.cancel()
        await self._ended.wait()
