"""Questions to one peer: asked until answered, reported once, answered from memory."""

from __future__ import annotations

import random

import pytest

from netgossip.deadlines import NEVER
from netgossip.errors import GossipUsageError
from netgossip.records.requests import ANSWERS_KEPT, ASKED_LIMIT, Requests
from netgossip.records.wire import Message, Request, Response
from netgossip.types import NodeId, RequestReceived, ResponseReceived

A, B = "aa" * 16, "bb" * 16


class Machine(Requests):
    def __init__(self) -> None:
        self.out: list[tuple[NodeId, Message]] = []
        super().__init__(rng=random.Random(1), send=lambda peer, message: self.out.append((peer, message)))


def no_wait(peer: NodeId) -> float:
    return 0.0


def test_a_request_is_repeated_until_its_answer() -> None:
    machine = Machine()
    number = machine.ask(A, b"?", 0.0, timeout_s=5.0)
    for _ in range(3):
        machine.handle_deadline(machine.next_deadline(), no_wait)
    assert machine.out == [(A, Request(number, b"?"))] * 3
    assert machine.handle_response(B, Response(number, b"forged")) is None
    assert machine.handle_response(A, Response(number, b"!")) == ResponseReceived(A, number, b"!")
    assert machine.handle_response(A, Response(number, b"!")) is None
    assert machine.next_deadline() == NEVER


def test_its_deadline_ends_it_without_an_answer() -> None:
    machine = Machine()
    number = machine.ask(A, b"?", 0.0, timeout_s=0.05)
    assert machine.handle_deadline(0.04, no_wait) == []
    assert machine.handle_deadline(0.05, no_wait) == [ResponseReceived(A, number, None)]


def test_a_repeated_request_is_reported_once_and_answered_again() -> None:
    machine = Machine()
    event = machine.handle_request(A, 7, Request(1, b"?"))
    assert event == RequestReceived(A, 1, b"?")
    assert machine.handle_request(A, 7, Request(1, b"?")) is None
    assert machine.out == []
    machine.respond(event, b"!")
    machine.respond(event, b"second thoughts")
    assert machine.handle_request(A, 7, Request(1, b"?")) is None
    assert machine.out == [(A, Response(1, b"!"))] * 2


def test_the_same_number_after_a_restart_of_the_client_is_another_request() -> None:
    machine = Machine()
    assert machine.handle_request(A, 7, Request(1, b"?")) is not None
    assert machine.handle_request(A, 8, Request(1, b"?")) is not None


def test_memory_is_bounded() -> None:
    machine = Machine()
    events = [machine.handle_request(A, 7, Request(number, b"")) for number in range(ANSWERS_KEPT + 1)]
    assert events[0] is not None
    machine.respond(events[0], b"too late")
    assert machine.out == []
    for _ in range(ASKED_LIMIT):
        machine.ask(A, b"", 0.0, timeout_s=1.0)
    with pytest.raises(GossipUsageError):
        machine.ask(A, b"", 0.0, timeout_s=1.0)


def test_what_does_not_fit_a_datagram_is_refused() -> None:
    machine = Machine()
    with pytest.raises(GossipUsageError):
        machine.ask(A, bytes(1001), 0.0, timeout_s=1.0)
    with pytest.raises(GossipUsageError):
        machine.respond(RequestReceived(A, 1, b""), bytes(1001))
