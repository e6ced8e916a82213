"""Questions to other agents as calls, and theirs to us."""

from __future__ import annotations

import pytest
import trio
from fakes.registry import H2, H3
from fakes.virtual import virtual

from netagent.rpc.client import ANSWER_S, MAX_OPEN, MAX_OPEN_OF_PEER, RpcClient
from netgossip.errors import GossipUsageError
from netgossip.records.replication import Replication
from netgossip.types import RequestReceived, ResponseReceived


class Node(Replication):
    """Only what `RpcClient` calls."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bytes, float]] = []
        self.answered: list[tuple[int, bytes]] = []
        self.is_full = False

    def request(self, peer: str, payload: bytes, now: float, timeout_s: float) -> int:
        if self.is_full:
            raise GossipUsageError("1024 requests are waiting for answers")
        self.asked.append((peer, payload, timeout_s))
        return len(self.asked)

    def respond(self, event: RequestReceived, payload: bytes) -> None:
        if payload == b"LONG":
            raise GossipUsageError("a response has at most 1000 bytes")
        self.answered.append((event.request_id, payload))


def asking() -> tuple[Node, list[int], RpcClient]:
    node = Node()
    flushes: list[int] = []
    return node, flushes, RpcClient(node, lambda: flushes.append(1))


@virtual
async def test_an_answer_comes_back_to_its_caller() -> None:
    node, flushes, desk = asking()
    got = {}

    async def ask(text: bytes) -> None:
        got[text] = await desk.ask(H2, text)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, b"a")
        nursery.start_soon(ask, b"b")
        await trio.testing.wait_all_tasks_blocked(0)
        for number, (_, payload, _) in enumerate(node.asked, 1):
            desk.note_response(ResponseReceived(H2, number, payload.upper()))
            desk.note_response(ResponseReceived(H2, number, b"again"))
    assert got == {b"a": b"A", b"b": b"B"}
    assert len(flushes) == 2
    assert desk._waiting == {}


@virtual
async def test_no_answer_is_none_after_a_bound_even_if_the_gossip_says_nothing() -> None:
    _, _, desk = asking()
    assert await desk.ask(H2, b"a") is None
    assert trio.current_time() == pytest.approx(2 * ANSWER_S)
    desk.note_response(ResponseReceived(H2, 1, b"late"))
    assert desk._waiting == {}


@virtual
async def test_a_cancelled_request_is_dropped() -> None:
    _, _, desk = asking()
    with trio.move_on_after(0.1):
        await desk.ask(H2, b"a")
    assert desk._waiting == {}


@virtual
async def test_questions_of_others_are_answered_a_bounded_number_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    node, _, desk = asking()

    async def answer(peer: str, payload: bytes) -> bytes:
        await trio.sleep(1)
        if payload == b"bad":
            raise ValueError("malformed")
        return payload.upper()

    async with trio.open_nursery() as nursery:
        for number in range(MAX_OPEN + 10):
            payload = {0: b"bad", 1: b"long"}.get(number, b"q")
            peer = (H2, H3)[number % 2]
            desk.note_request(RequestReceived(peer, number, payload), nursery, answer)
    assert len(node.answered) == MAX_OPEN - 2
    assert caplog.text.count("could not answer") == 2
    async with trio.open_nursery() as nursery:
        desk.note_request(RequestReceived(H2, 99, b"q"), nursery, answer)
    assert node.answered[-1] == (99, b"Q")


@virtual
async def test_one_member_leaves_places_to_the_others() -> None:
    node, _, desk = asking()

    async def answer(peer: str, payload: bytes) -> bytes:
        await trio.sleep(1)
        return payload

    async with trio.open_nursery() as nursery:
        for number in range(MAX_OPEN):
            desk.note_request(RequestReceived(H2, number, b"flood"), nursery, answer)
        desk.note_request(RequestReceived(H3, 999, b"space"), nursery, answer)
    assert (999, b"space") in node.answered
    assert len(node.answered) == MAX_OPEN_OF_PEER + 1


@virtual
async def test_when_too_many_questions_wait_there_is_no_answer_no_error_and_one_line_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    node, flushes, desk = asking()
    node.is_full = True
    for _ in range(3):
        assert await desk.ask(H2, b"a") is None
    assert len(caplog.records) == 1
    assert flushes == []
    assert desk._waiting == {}
