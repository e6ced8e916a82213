"""One Swim that is fed by hand, and what it answers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import TypedDict, Unpack

from swim_net import KEY, LABEL, address_of, id_of

from netgossip.codec.messages import Alive, Message, encode, encode_compound
from netgossip.codec.parse import parse_datagram_untrusted
from netgossip.codec.sealing import Keyring, open_datagram_untrusted, seal_datagram
from netgossip.config import GossipConfig
from netgossip.membership.state_updates import StateUpdates
from netgossip.membership.swim import Swim
from netgossip.slices import at_once
from netgossip.types import Address, Member, MemberState, NodeId, NodeOutput

OWN, PEER, THIRD = id_of(1), id_of(2), id_of(3)
NOW = 1000.0


def merge(state_updates: StateUpdates, nodes: tuple[Member, ...], now: float, *, peer: Address) -> None:
    """Take in a push/pull of the node at `peer`, all of it now."""
    at_once(state_updates.merge(nodes, lambda: now, peer=peer))


class AliveFields(TypedDict, total=False):
    address: Address
    meta: bytes
    vsn: bytes


class Machine:
    """One Swim, and what it answers to an input."""

    def __init__(
        self,
        *,
        config: GossipConfig | None = None,
        meta: bytes = b"",
        incarnation: int = 4,
        remembered: Sequence[Member] = (),
        departed: Sequence[tuple[NodeId, int]] = (),
        seeds: Sequence[Address] = (),
    ) -> None:
        self.now = NOW
        self.swim = Swim(
            config=config or GossipConfig.lan(),
            node_id=OWN,
            address=address_of(1),
            meta=meta,
            incarnation=incarnation,
            keyring=Keyring([KEY]),
            label=LABEL,
            rng=random.Random(1),
            now=NOW,
            new_stream_id=iter(range(1, 10**6)).__next__,
            remembered=remembered,
            departed=departed,
            seeds=seeds,
        )

    def hear(self, *messages: Message, source: int = 2) -> NodeOutput:
        payload = seal_datagram(
            encode_compound([encode(m) for m in messages]),
            keyring=Keyring([KEY]),
            label=LABEL,
            rng=random.Random(2),
        )
        return self.hear_bytes(payload, source=source)

    def hear_bytes(self, payload: bytes, source: int = 2) -> NodeOutput:
        self.swim.handle_datagram(payload, address_of(source), self.now)
        return self.drain()

    def drain(self) -> NodeOutput:
        self.swim.check_invariants()
        return self.swim.drain()

    def run_until(self, until: float) -> list[NodeOutput]:
        """Let time pass, deadline by deadline."""
        outputs = []
        while (due := self.swim.next_deadline()) <= until:
            self.now = max(self.now, due)
            self.swim.handle_deadline(self.now)
            outputs.append(self.drain())
        self.now = until
        return outputs

    def state_of(self, node_id: str) -> MemberState | None:
        member = self.swim.members().get(node_id)
        return None if member is None else member.state


def said(output: NodeOutput, to: int | None = None) -> list[Message]:
    return [
        message
        for datagram in output.datagrams
        if to is None or datagram.destination == address_of(to)
        for message in parse_datagram_untrusted(
            open_datagram_untrusted(datagram.payload, keyring=Keyring([KEY]), label=LABEL)
        )
    ]


def alive(number: int, incarnation: int = 1, **changes: Unpack[AliveFields]) -> Alive:
    return replace(Alive(id_of(number), incarnation, address_of(number)), **changes)
