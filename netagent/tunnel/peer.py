"""Peers of the tunnel as wanted and as read from the device, and the changes that lead from one to the other.

Only what differs is changed: a change of one peer must not touch the sessions of others. The endpoint needs care. A
device takes the source of the last authentic packet as the peer's endpoint, and knows better than any record where a
peer behind address translation is. So an endpoint is set only where the device has none, where the caller wants
another one than he wanted before, or where he asks for it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from netagent.tunnel.keys import KEY_BYTES

PeerEndpoint: TypeAlias = tuple[str, int]
"""IP address and UDP port."""

NO_PRESHARED_KEY: Final = bytes(KEY_BYTES)
"""What the device has in place of none."""

SESSION_S: Final = 180.0
"""WireGuard's REJECT_AFTER_TIME: a session is not used for longer. Probes pass each path all the time, so one that
works has a newer one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelPeer:
    """Another host, as the caller wants it."""

    public_key: bytes
    preshared_key: bytes | None = field(default=None, repr=False)
    endpoint: PeerEndpoint | None = None
    """Where to send first. None: the peer has to begin."""
    allowed: tuple[str, ...] = ()
    """Its addresses in the tunnel, with /32 or /128: packets from others are dropped, packets to them go to it."""
    keepalive_s: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerState:
    """What the device knows of a peer."""

    endpoint: PeerEndpoint | None
    handshake_s_ago: float | None
    """None: there has been none since the device, or its process, was made."""
    received_bytes: int
    sent_bytes: int


def has_session(state: PeerState | None) -> bool:
    """True if packets to the peer leave at once."""
    return state is not None and state.handshake_s_ago is not None and state.handshake_s_ago < SESSION_S


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPeer:
    """A peer as read from the device."""

    peer: TunnelPeer
    handshake_at_s: float
    """In seconds since 1970; 0: never."""
    received_bytes: int
    sent_bytes: int

    def state(self, now_s: float) -> PeerState:
        """Return it relative to the clock. A clock that was set back makes no handshake of the future."""
        ago = max(0.0, now_s - self.handshake_at_s) if self.handshake_at_s else None
        return PeerState(
            endpoint=self.peer.endpoint,
            handshake_s_ago=ago,
            received_bytes=self.received_bytes,
            sent_bytes=self.sent_bytes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceReading:
    """A device as read."""

    private_key: bytes | None = field(repr=False)
    port: int
    peers: Mapping[bytes, ReadPeer]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerChange:
    """A change of one peer. None: that stays as it is."""

    public_key: bytes
    remove: bool = False
    preshared_key: bytes | None = field(default=None, repr=False)
    endpoint: PeerEndpoint | None = None
    keepalive_s: int | None = None
    """0: none."""
    allowed: tuple[str, ...] | None = None
    """Replaces what was allowed."""


def peer_changes(
    read: Mapping[bytes, ReadPeer],
    wanted: Mapping[bytes, TunnelPeer],
    before: Mapping[bytes, TunnelPeer],
    *,
    repoint: Collection[bytes],
    renew: Collection[bytes] = (),
    now_s: float,
) -> list[PeerChange]:
    """Return the changes, removals last: an address that moves to another peer leaves the former one by that, and is
    never without a peer. So a host that changes its key loses no packet here.

    `before`: what was wanted last, empty after a start of the agent. `repoint`: peers whose endpoint is set even
    where the device has another one. `renew`: peers that are made anew, and so begin with a handshake at once.
    """
    changes = [PeerChange(public_key=key, remove=True) for key in read if key in renew]
    for key, peer in wanted.items():
        has = None if key in renew else read.get(key)
        change = _change(has, peer, before.get(key), repoint=key in repoint, now_s=now_s)
        if change != PeerChange(public_key=key):
            changes.append(change)
    changes += [PeerChange(public_key=key, remove=True) for key in read if key not in wanted]
    return changes


def _change(
    read: ReadPeer | None, peer: TunnelPeer, before: TunnelPeer | None, *, repoint: bool, now_s: float
) -> PeerChange:
    key = peer.public_key
    preshared, keepalive_s = peer.preshared_key or NO_PRESHARED_KEY, peer.keepalive_s or 0
    if read is None:
        return PeerChange(
            public_key=key,
            preshared_key=preshared,
            endpoint=peer.endpoint,
            keepalive_s=keepalive_s,
            allowed=peer.allowed,
        )
    has = read.peer
    is_same_set = frozenset(has.allowed) == frozenset(peer.allowed)
    return PeerChange(
        public_key=key,
        preshared_key=preshared if preshared != (has.preshared_key or NO_PRESHARED_KEY) else None,
        endpoint=peer.endpoint if _must_point(read, peer, before, repoint=repoint, now_s=now_s) else None,
        keepalive_s=keepalive_s if keepalive_s != (has.keepalive_s or 0) else None,
        allowed=None if is_same_set else peer.allowed,
    )


def _must_point(
    read: ReadPeer, peer: TunnelPeer, before: TunnelPeer | None, *, repoint: bool, now_s: float
) -> bool:
    if peer.endpoint is None or peer.endpoint == read.peer.endpoint:
        return False
    if repoint or read.peer.endpoint is None:
        return True
    if before is None:
        # The agent has started: a peer that talks stays where it is.
        return not read.handshake_at_s or now_s - read.handshake_at_s > SESSION_S
    return before.endpoint != peer.endpoint
