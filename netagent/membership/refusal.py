"""Refusal: no member talks to a compromised host, and the host learns why, from any member, also after a restart or
from a backup.

Its record of the eviction may never reach it: it was away, and its frames are refused. So a member answers its
push/pulls with a text that carries the member's signature over the cluster, the host and the writer of the eviction.
The host believes a member that it knows. So a lying member can stop a host, as it can by an eviction; a program that
only has the key ring can't.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import trio

from netagent.model.ids import HostId
from netagent.registry.state_store import StateStore
from netagent.registry.view import RegistryView
from netgossip.join.admission import ShutOut
from netgossip.join.identity import PUBLIC_KEY_BYTES, Identity, node_id_of, verify
from netgossip.node import GossipNode

_WORD: Final = "netagent-revoked"
_SIGNED: Final = b"netagent: revoked host\0"
_ID_BYTES: Final = 16
_SIGNATURE_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a member said to a host that it refuses."""

    member: HostId
    """The member, which has signed it."""
    writer: HostId
    """The host on which an operator revoked the refused host."""


def refusal_text(identity: Identity, cluster_id: str, host: HostId, writer: HostId) -> str:
    """Return what this member answers to `host`, which was revoked on `writer`."""
    signature = identity.sign(_signed(cluster_id, host, writer))
    return " ".join((_WORD, writer, identity.public_key.hex(), signature.hex()))


def read_refusal_untrusted(text: str, cluster_id: str, host: HostId) -> Refusal | None:
    """Return the refusal of `host` that a text carries; None for any other text, or a wrong signature."""
    words = text.split(" ")
    if len(words) != 4 or words[0] != _WORD:
        return None
    try:
        writer, public_key, signature = (bytes.fromhex(word) for word in words[1:])
    except ValueError:
        return None
    if (len(writer), len(public_key), len(signature)) != (_ID_BYTES, PUBLIC_KEY_BYTES, _SIGNATURE_BYTES):
        return None
    by = HostId(writer.hex())
    if not verify(public_key, signature, _signed(cluster_id, host, by)):
        return None
    return Refusal(HostId(node_id_of(public_key)), by)


def is_believed(refusal: Refusal, view: RegistryView) -> bool:
    """True if the refusal of this host is from a member that it knows. One that is evicted itself is none, and the
    word of a compromised one counts for nothing: a member that repeats it has not heard of that yet."""
    is_member = refusal.member in view.hosts and refusal.member not in view.evicted
    return is_member and refusal.writer not in view.compromised


def writer_for(view: RegistryView, host: HostId) -> HostId | None:
    """Return who has revoked the host: if possible one that the host itself does not call compromised, whom it would
    not believe. None if it is not revoked."""
    writers = view.compromised.get(host) or view.revoked.get(host)
    if not writers:
        return None
    return min({one for one in writers if host not in view.store.accusations.get(one, ())} or writers)


def shut_out_of(view: RegistryView) -> ShutOut:
    """Return whom the cluster has put out, for invitations from before that."""
    return ShutOut(view.evicted, view.revoked, view.compromised)


def _signed(cluster_id: str, host: HostId, writer: HostId) -> bytes:
    return _SIGNED + bytes.fromhex(cluster_id) + bytes.fromhex(host) + bytes.fromhex(writer)


@dataclass(slots=True)
class RefusedHosts:
    """Makes the gossip refuse the compromised hosts of the view."""

    live: StateStore
    node: GossipNode
    identity: Identity
    cluster_id: str
    _refused: dict[HostId, HostId] = field(default_factory=dict)
    """And on which host each was revoked."""
    _seen: object = None

    async def run(self) -> None:
        """Run until cancelled."""
        revision = 0
        while True:
            self.look()
            revision = await self.live.wait_newer(revision)

    def look(self) -> None:
        """Refuse those that are compromised since, readmit those that are not any more. Costs nothing while the view
        says the same."""
        view = self.live.view
        if view.compromised is self._seen:
            return
        self._seen = view.compromised
        writers = {host: writer_for(view, host) for host in view.compromised if host != view.local}
        wanted = {host: writer for host, writer in writers.items() if writer is not None}
        for host in sorted(self._refused.keys() - wanted.keys()):
            self.node.readmit_peer(host)
        for host, writer in sorted(wanted.items()):
            if self._refused.get(host) != writer:
                text = refusal_text(self.identity, self.cluster_id, host, writer)
                self.node.refuse_peer(host, text, trio.current_time())
        self._refused = wanted
