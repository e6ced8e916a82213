"""Which answer to a Hello counts. When a peer gets a Hello is tested in test_transport.py."""

from __future__ import annotations

import random

from netgossip.records.handshake import Handshakes

PEER = "01" * 16


def test_the_nonce_of_the_last_hello_is_valid_once_and_also_after_the_handshake_was_stopped() -> None:
    handshakes = Handshakes(random.Random(1))
    handshakes.begin(PEER, 0.0)
    ((_, first),) = handshakes.take_due(0.0)
    assert handshakes.take_due(0.0) == [], "early calls do nothing"
    ((_, second),) = handshakes.take_due(handshakes.next_deadline())
    assert not handshakes.is_answer(PEER, first)
    handshakes.stop_handshake(PEER)
    assert handshakes.next_deadline() == float("inf")
    assert handshakes.is_answer(PEER, second)
    assert not handshakes.is_answer(PEER, second)


def test_a_dropped_peer_can_answer_no_more() -> None:
    handshakes = Handshakes(random.Random(1))
    handshakes.begin(PEER, 0.0)
    ((_, nonce),) = handshakes.take_due(0.0)
    handshakes.forget(PEER)
    assert not handshakes.is_answer(PEER, nonce)
