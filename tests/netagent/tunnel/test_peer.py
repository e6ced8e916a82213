"""Which changes lead from the device's peers to the wanted ones."""

from __future__ import annotations

from dataclasses import replace

from netagent.tunnel.peer import NO_PRESHARED_KEY, PeerChange, ReadPeer, TunnelPeer, peer_changes

KEY, OTHER = bytes(31) + b"a", bytes(31) + b"b"
NOW_S = 1_000_000.0
HERE, THERE, ELSEWHERE = ("192.0.2.1", 7959), ("198.51.100.7", 40000), ("192.0.2.9", 7959)
PEER = TunnelPeer(
    public_key=KEY, preshared_key=b"p" * 32, endpoint=HERE, allowed=("fd00::1/128",), keepalive_s=25
)


def read_of(peer: TunnelPeer, handshake_s_ago: float = 10.0) -> ReadPeer:
    return ReadPeer(peer=peer, handshake_at_s=NOW_S - handshake_s_ago, received_bytes=1, sent_bytes=2)


def changes(
    read: ReadPeer | None, wanted: TunnelPeer, before: TunnelPeer | None = None, *, repoint: bool = False
) -> list[PeerChange]:
    return peer_changes(
        {KEY: read} if read else {},
        {KEY: wanted},
        {KEY: before} if before else {},
        repoint=[KEY] if repoint else [],
        now_s=NOW_S,
    )


def test_a_peer_that_is_as_wanted_is_not_touched() -> None:
    assert changes(read_of(PEER), PEER) == []
    two = replace(PEER, allowed=("fd00::1/128", "fd00::2/128"))
    assert changes(read_of(replace(two, allowed=two.allowed[::-1])), two) == []


def test_only_what_differs_is_changed() -> None:
    wanted = replace(PEER, preshared_key=None, keepalive_s=None)
    (change,) = changes(read_of(PEER), wanted, PEER)
    assert change == PeerChange(public_key=KEY, preshared_key=NO_PRESHARED_KEY, keepalive_s=0)
    (change,) = changes(read_of(PEER), replace(PEER, allowed=("fd00::3/128",)), PEER)
    assert change == PeerChange(public_key=KEY, allowed=("fd00::3/128",))


def test_a_peer_that_has_moved_stays_where_it_is_unless_the_caller_says_otherwise() -> None:
    moved = read_of(replace(PEER, endpoint=THERE))
    assert changes(moved, PEER, PEER) == []
    assert changes(moved, PEER) == []  # after a start of the agent
    (change,) = changes(moved, PEER, PEER, repoint=True)
    assert change.endpoint == HERE
    (change,) = changes(moved, replace(PEER, endpoint=ELSEWHERE), PEER)
    assert change.endpoint == ELSEWHERE


def test_after_a_start_a_silent_peer_is_sent_where_the_records_say() -> None:
    silent = read_of(replace(PEER, endpoint=THERE), handshake_s_ago=500.0)
    (change,) = changes(silent, PEER)
    assert change.endpoint == HERE
    assert changes(silent, PEER, PEER) == []


def test_an_address_is_never_without_a_peer_when_its_host_changes_its_key() -> None:
    other = replace(PEER, public_key=OTHER)
    first, second = peer_changes({KEY: read_of(PEER)}, {OTHER: other}, {}, repoint=[], now_s=NOW_S)
    assert (first.public_key, first.allowed) == (OTHER, PEER.allowed)
    assert second == PeerChange(public_key=KEY, remove=True)


def test_a_state_is_relative_to_the_clock() -> None:
    assert read_of(PEER).state(NOW_S).handshake_s_ago == 10.0
    assert read_of(PEER, -5.0).state(NOW_S).handshake_s_ago == 0.0
    assert replace(read_of(PEER), handshake_at_s=0.0).state(NOW_S).handshake_s_ago is None


def test_no_key_is_shown() -> None:
    assert "ppp" not in repr(PEER) + repr(read_of(PEER)) + repr(changes(None, PEER))


def test_a_peer_that_is_made_anew_is_removed_first_and_gets_all_again() -> None:
    first, second = peer_changes(
        {KEY: read_of(replace(PEER, endpoint=THERE))},
        {KEY: PEER},
        {KEY: PEER},
        repoint=[],
        renew=[KEY],
        now_s=NOW_S,
    )
    assert first == PeerChange(public_key=KEY, remove=True)
    assert (second.endpoint, second.allowed, second.keepalive_s) == (HERE, PEER.allowed, 25)
    assert second.preshared_key == PEER.preshared_key
