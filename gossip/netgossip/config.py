"""Every constant of the gossip that a deployment may change, with three profiles.

The figures of `lan`, `wan` and `local` are HashiCorp memberlist's (config.go, DefaultLANConfig and its two siblings):
they have ten years of production behind them, and netgossip and memberlist nodes can share a cluster only when their
timing agrees. Settings that memberlist lacks (it never dials a member that it has declared dead) are marked "ours".
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class GossipConfig:
    """Timing and limits of one node. Times in seconds, sizes in bytes."""

    # Failure detection (SWIM with Lifeguard).
    probe_interval_s: float = 1.0
    """One member is probed per interval."""
    probe_timeout_s: float = 0.5
    """Without an ack by then, helpers are asked to probe. Above the 99th percentile of the round trip."""
    indirect_checks: int = 3
    """How many helpers are asked."""
    awareness_max_multiplier: int = 8
    """A node that doubts its own health waits up to this many intervals for an ack."""
    suspicion_mult: int = 4
    """Shortest suspicion: this many probe intervals, times log10 of the number of members."""
    suspicion_max_timeout_mult: int = 6
    """Longest suspicion, as a multiple of the shortest: reached when no other member confirms."""

    # Broadcasts.
    retransmit_mult: int = 4
    """A broadcast is sent this many times, times ceil(log10(members + 1))."""
    gossip_interval_s: float = 0.2
    gossip_nodes: int = 3
    gossip_to_the_dead_s: float = 30.0
    """How long dead members still get broadcasts: they may be alive and must learn what is claimed about them."""
    udp_limit_bytes: int = 1200
    """Largest UDP payload after all wrapping. IPv6 guarantees 1280 - 40 - 8 = 1232; memberlist's 1400 does not
    fit every tunnel."""

    # Full exchanges (push/pull) over streams.
    push_pull_interval_s: float = 30.0
    """Up to 32 members; above, memberlist's pushPullScale stretches it with log2."""
    stream_timeout_s: float = 10.0
    """One push/pull, from dialling to the last byte."""
    stream_limit_bytes: int = 4 * 1024 * 1024
    """Bound of bytes of one membership stream; beyond it: refused, stream closed. Compressed or not: 40,000 members
    at 104 bytes. A peer can make us buffer this much before it has proven that it holds the key."""
    accepted_streams: int = 16
    """Bound of membership streams accepted at once, half of them reserved for members; beyond it: one from an unknown
    source is closed for a new one. Together with the limit above: at most 64 MiB for streams of unknown sources."""
    max_members: int = 32_768
    """Bound of members; beyond it: further nodes refused, counted."""

    # Reconnecting after a partition (ours).
    reconnect_interval_s: float = 5.0
    """One member believed dead is dialled per interval, so that a healed partition is found."""
    seed_retry_min_s: float = 1.0
    seed_retry_max_s: float = 60.0
    """Seeds and remembered members that were not reached yet are dialled for ever, with a pause that doubles between
    these two."""
    remember_failed_s: float = 72 * 3600.0
    """A dead member is removed after this. Longer than a weekend."""
    remember_left_s: float = 24 * 3600.0
    """A member that left is removed after this."""
    leave_timeout_s: float = 3.0
    """A leaving node stays at most this long to tell the others. Two gossip rounds take 0.4 s."""

    # Replicated records (ours).
    digest_interval_s: float = 5.0
    """Each scope is compared with one random peer in it at this interval, with 20 % jitter."""
    sync_retry_s: float = 0.2
    """A comparison without an answer is repeated after this or three round trips, doubling."""
    resend_min_s: float = 0.03
    """A push without an ack is repeated after this or three round trips, whichever is more: above the jitter of a
    busy host."""
    tombstone_s: float = 60.0
    """How long a deletion is kept, so that whole logs are rarely sent; correctness does not depend on it."""
    record_datagram_bytes: int = 1200
    """Largest UDP payload of the record channel, see udp_limit_bytes."""
    alone_grace_s: float = 1.0
    """How long a scope waits, before it counts as synced, for peers that are not known yet or do not answer."""

    @classmethod
    def lan(cls) -> GossipConfig:
        """One site: round trips below about 100 ms."""
        return cls()

    @classmethod
    def wan(cls) -> GossipConfig:
        """Sites joined by the Internet."""
        return cls(
            probe_interval_s=5.0,
            probe_timeout_s=3.0,
            suspicion_mult=6,
            gossip_interval_s=0.5,
            gossip_nodes=4,
            gossip_to_the_dead_s=60.0,
            push_pull_interval_s=60.0,
            stream_timeout_s=30.0,
        )

    @classmethod
    def local(cls) -> GossipConfig:
        """One machine: laboratories and tests."""
        return replace(
            cls(),
            probe_timeout_s=0.2,
            indirect_checks=1,
            suspicion_mult=3,
            retransmit_mult=2,
            gossip_interval_s=0.1,
            gossip_to_the_dead_s=15.0,
            push_pull_interval_s=15.0,
            stream_timeout_s=1.0,
            reconnect_interval_s=2.0,
            seed_retry_min_s=0.2,
            seed_retry_max_s=2.0,
            digest_interval_s=1.0,
        )
