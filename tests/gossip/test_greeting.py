"""Which answer to a greeting counts. When a peer is greeted is test_carriage.py's."""

from __future__ import annotations

import random

from netgossip.greeting import Greetings

PEER = "01" * 16


def test_the_number_of_the_last_greeting_is_good_once_and_also_for_one_that_was_given_up() -> None:
    greetings = Greetings(random.Random(1))
    greetings.begin(PEER, 0.0)
    ((_, first),) = greetings.take_due(0.0)
    assert greetings.take_due(0.0) == [], "early calls do nothing"
    ((_, second),) = greetings.take_due(greetings.next_deadline())
    assert not greetings.is_answer(PEER, first)
    greetings.hush(PEER)
    assert greetings.next_deadline() == float("inf")
    assert greetings.is_answer(PEER, second)
    assert not greetings.is_answer(PEER, second)


def test_a_peer_that_is_forgotten_can_answer_no_more() -> None:
    greetings = Greetings(random.Random(1))
    greetings.begin(PEER, 0.0)
    ((_, nonce),) = greetings.take_due(0.0)
    greetings.forget(PEER)
    assert not greetings.is_answer(PEER, nonce)
