"""Questions between hosts: bytes, who may ask what, and who answers when."""

from __future__ import annotations

import pytest
import trio
from fakes.agent_host import AgentHost
from fakes.registry import H2, N1, Writer, endpoint, host, identifier, network
from fakes.virtual import virtual
from hypothesis import given
from hypothesis import strategies as st

from netagent.membership import question
from netagent.membership.answering import FOLLOW_S, Answering
from netagent.membership.question import QuestionError, Withdrawn
from netagent.membership.retreat import ENDPOINT_S, HOST_S, Retreat
from netagent.model.records import AttachmentRecord, Health
from netagent.registry.row import LocalEndpointRow
from netgossip.types import MemberState

E1 = identifier(0xE001)


@pytest.mark.parametrize("asked", [Withdrawn(H2), Withdrawn(H2, E1)])
def test_a_question_comes_back_as_it_was(asked):
    payload = asked.encode()
    assert question.kind_of(payload) == question.WITHDRAWN
    assert question.parse_withdrawn_untrusted(payload, H2) == asked


def test_nobody_asks_about_another_host():
    with pytest.raises(QuestionError):
        question.parse_withdrawn_untrusted(Withdrawn(H2).encode(), identifier(3))


@given(st.binary(max_size=300) | st.builds(lambda b: Withdrawn(H2).encode() + b, st.binary(max_size=9)))
def test_any_bytes_are_a_question_or_refused(payload):
    for parse in (question.parse_withdrawn_untrusted, question.parse_answer_untrusted):
        try:
            parse(payload, question.WITHDRAWN if parse is question.parse_answer_untrusted else H2)
        except QuestionError:
            continue
    question.kind_of(payload)


class Following:
    """A resolver that follows a while after the view."""

    def __init__(self, delay_s=0.1):
        self.delay_s = delay_s

    async def wait_followed(self, revision):
        await trio.sleep(self.delay_s)


async def space(peer, payload):
    return b"space"


def desk(delay_s=0.1):
    one, other = AgentHost(), Writer(H2)
    for record in (host("h2"), network(N1), endpoint(1)):
        one.hear(other.put(record))
    return one, other, Answering(live=one.live, projection=Following(delay_s), space=space)


async def ask(answering, asked):
    answer = await answering.answer(H2, asked.encode())
    return question.parse_answer_untrusted(answer, question.WITHDRAWN)


@virtual
async def test_the_answer_is_yes_once_the_resolver_has_followed():
    one, other, answering = desk()

    async def change():
        await trio.sleep(1.0)
        one.hear(other.put(endpoint(1, health=Health.UNHEALTHY)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(change)
        assert await ask(answering, Withdrawn(H2, E1)) is True
        assert trio.current_time() == pytest.approx(1.1)
    assert await ask(answering, Withdrawn(H2, identifier(0xE009))) is True, (
        "who knows no such thing leads nobody"
    )
    one.hear(other.put(host("h2", going_down=True)))
    assert await ask(answering, Withdrawn(H2)) is True


@virtual
async def test_the_answer_is_no_when_nothing_changes_or_the_resolver_hangs():
    _, _, answering = desk()
    assert await ask(answering, Withdrawn(H2)) is False
    assert trio.current_time() == pytest.approx(FOLLOW_S)
    one, other, answering = desk(delay_s=60.0)
    one.hear(other.put(host("h2", going_down=True)))
    assert await ask(answering, Withdrawn(H2)) is False


@virtual
async def test_other_questions_go_to_the_room_of_space():
    _, _, answering = desk()
    assert await answering.answer(H2, b"anything else") == b"space"


@virtual
async def test_all_live_hosts_are_asked_and_the_silent_not_waited_for_long():
    one = AgentHost()
    ids = [identifier(number) for number in (2, 3, 4, 5)]
    states = (MemberState.ALIVE, MemberState.SUSPECT, MemberState.DEAD, MemberState.ALIVE)
    for host_id, state in zip(ids, states, strict=True):
        one.meet(host_id, state)
    for host_id in ids[:2]:
        one.hear(Writer(host_id).put(AttachmentRecord(N1)))
    asked = []

    async def asking(host_id, payload, within_s):
        asked.append(host_id)
        if host_id == ids[0]:
            return question.encode_answer(question.WITHDRAWN, answer=True)
        if host_id == ids[3]:
            return b"nonsense"
        await trio.sleep(within_s)
        return None

    retreat = Retreat(one.live, Following(), asking)
    assert await retreat.wait_host_hidden() == {ids[0]}
    assert sorted(asked) == [ids[0], ids[1], ids[3]]
    assert trio.current_time() == pytest.approx(HOST_S)
    asked.clear()
    row = LocalEndpointRow(
        endpoint_id=E1, network_id=N1, name="web", service="web", mac="", target="netns:web"
    )
    await retreat.wait_endpoint_hidden(row)
    assert sorted(asked) == ids[:2], "those that take part in its network"
    assert trio.current_time() == pytest.approx(HOST_S + ENDPOINT_S)
