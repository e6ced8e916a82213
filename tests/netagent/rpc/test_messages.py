"""Requests between hosts: bytes, which host may ask what, and which answers when."""

from __future__ import annotations

from contextlib import suppress

import msgpack
import pytest
import trio
from fakes.agent_host import AgentHost
from fakes.registry import H2, N1, Writer, endpoint, host, identifier, network
from fakes.rows import local_row
from fakes.virtual import virtual
from hypothesis import given
from hypothesis import strategies as st

from netagent.daemon.withdraw import ENDPOINT_S, HOST_S, Withdrawal
from netagent.events import exchange
from netagent.events.exchange import EventsQuestion
from netagent.model.ids import EndpointId, HostId
from netagent.model.records import AttachmentRecord, Health
from netagent.probes.liveness import LivenessReport
from netagent.probes.liveness_votes import MAX_HOSTS
from netagent.rpc import encryption, messages, paths
from netagent.rpc.encryption import Ability
from netagent.rpc.handlers import FOLLOW_S, RpcHandlers
from netagent.rpc.messages import Drops, IsWithdrawn, QuestionError
from netagent.rpc.paths import KnownPath
from netgossip.records.wire import PAYLOAD_LIMIT_BYTES
from netgossip.types import MemberState

E1 = EndpointId(identifier(0xE001))


@pytest.mark.parametrize("asked", [IsWithdrawn(H2), IsWithdrawn(H2, E1)])
def test_a_question_comes_back_as_it_was(asked: IsWithdrawn) -> None:
    payload = asked.encode()
    assert messages.kind_of(payload) == messages.WITHDRAWN
    assert messages.parse_withdrawn_untrusted(payload, H2) == asked


def test_a_host_may_not_ask_about_another_host() -> None:
    with pytest.raises(QuestionError):
        messages.parse_withdrawn_untrusted(IsWithdrawn(H2).encode(), identifier(3))


def test_a_question_about_hosts_and_its_answer_come_back_as_they_were() -> None:
    hosts = tuple(HostId(identifier(number)) for number in range(MAX_HOSTS))
    payload = messages.encode_silent(hosts)
    assert messages.kind_of(payload) == messages.SILENT
    assert messages.parse_silent_untrusted(payload) == hosts
    assert len(payload) <= PAYLOAD_LIMIT_BYTES
    words = tuple(LivenessReport(number % 3) for number in range(MAX_HOSTS))
    testimony = messages.parse_testimony_untrusted(messages.encode_testimony(words), hosts)
    assert testimony == dict(zip(hosts, words, strict=True))
    for wrong in (hosts[1:], (*hosts, H2)):
        with pytest.raises(QuestionError, match="words"):
            messages.parse_testimony_untrusted(messages.encode_testimony(words), wrong)
    with pytest.raises(QuestionError, match="hosts"):
        messages.parse_silent_untrusted(messages.encode_silent((*hosts, H2)))


PARSERS = (
    lambda payload: messages.parse_withdrawn_untrusted(payload, H2),
    lambda payload: messages.parse_answer_untrusted(payload, messages.WITHDRAWN),
    messages.parse_silent_untrusted,
    lambda payload: messages.parse_testimony_untrusted(payload, (H2,)),
    encryption.parse_answer_untrusted,
)
QUESTIONS = st.sampled_from(
    [IsWithdrawn(H2).encode(), messages.encode_silent((H2,)), b"\x92\xa6silent\x91\x07"]
)


@given(st.binary(max_size=900) | st.builds(lambda one, b: one + b, QUESTIONS, st.binary(max_size=9)))
def test_any_bytes_are_a_question_or_refused(payload: bytes) -> None:
    for parse in PARSERS:
        with suppress(QuestionError):
            parse(payload)
    messages.kind_of(payload)


class Following:
    """A resolver that follows a while after the view."""

    def __init__(self, delay_s: float = 0.1) -> None:
        self.delay_s = delay_s

    async def wait_followed(self, revision: int) -> None:
        await trio.sleep(self.delay_s)


async def space(peer: str, payload: bytes) -> bytes:
    return b"space"


async def say(hosts: tuple[str, ...]) -> tuple[LivenessReport, ...]:
    return tuple(LivenessReport.SILENT if one == H2 else LivenessReport.HEARD for one in hosts)


async def find_drops(asked: Drops) -> tuple[str, ...]:
    return (f"a rule drops {asked.protocol} {asked.port} to {asked.target}", "x" * 300, "ü" * 150, "a fourth")


async def tell_events(payload: bytes) -> bytes:
    return b"told" + payload


async def say_flows(payload: bytes) -> bytes:
    return payload[::-1]


def desk(delay_s: float = 0.1) -> tuple[AgentHost, Writer, RpcHandlers]:
    one, other = AgentHost(), Writer(H2)
    for record in (host("h2"), network(N1), endpoint(1)):
        one.hear(other.put(record))
    answering = RpcHandlers(
        live=one.live,
        wait_followed=Following(delay_s).wait_followed,
        space=space,
        testify=say,
        flows=say_flows,
        find_drops=find_drops,
        events=tell_events,
        known_paths=lambda hosts: [KnownPath("ok", 900, 0, 1500) for _ in hosts],
        ability=unable,
    )
    return one, other, answering


async def unable() -> Ability:
    return Ability("no program", "install it")


async def ask(answering: RpcHandlers, asked: IsWithdrawn) -> bool:
    answer = await answering.answer(H2, asked.encode())
    return messages.parse_answer_untrusted(answer, messages.WITHDRAWN)


@virtual
async def test_the_answer_is_yes_once_the_resolver_has_followed() -> None:
    one, other, answering = desk()

    async def change() -> None:
        await trio.sleep(1.0)
        one.hear(other.put(endpoint(1, health=Health.UNHEALTHY)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(change)
        assert await ask(answering, IsWithdrawn(H2, E1)) is True
        assert trio.current_time() == pytest.approx(1.1)
    assert await ask(answering, IsWithdrawn(H2, identifier(0xE009))) is True, (
        "a host that knows no such endpoint leads no client"
    )
    one.hear(other.put(host("h2", going_down=True)))
    assert await ask(answering, IsWithdrawn(H2)) is True


@virtual
async def test_the_answer_is_no_when_nothing_changes_or_the_resolver_hangs() -> None:
    _, _, answering = desk()
    assert await ask(answering, IsWithdrawn(H2)) is False
    assert trio.current_time() == pytest.approx(FOLLOW_S)
    one, other, answering = desk(delay_s=60.0)
    one.hear(other.put(host("h2", going_down=True)))
    assert await ask(answering, IsWithdrawn(H2)) is False


@virtual
async def test_who_asks_about_hosts_hears_what_the_probes_say() -> None:
    _, _, answering = desk()
    hosts = (HostId(identifier(3)), H2)
    answer = await answering.answer(H2, messages.encode_silent(hosts))
    assert messages.parse_testimony_untrusted(answer, hosts) == {
        hosts[0]: LivenessReport.HEARD,
        H2: LivenessReport.SILENT,
    }


@virtual
async def test_other_questions_go_to_the_room_of_space() -> None:
    _, _, answering = desk()
    assert await answering.answer(H2, b"anything else") == b"space"


@virtual
async def test_all_live_hosts_are_asked_and_the_silent_not_waited_for_long() -> None:
    one = AgentHost()
    ids = [HostId(identifier(number)) for number in (2, 3, 4, 5)]
    states = (MemberState.ALIVE, MemberState.SUSPECT, MemberState.DEAD, MemberState.ALIVE)
    for host_id, state in zip(ids, states, strict=True):
        one.meet(host_id, state)
    for host_id in ids[:2]:
        one.hear(Writer(host_id).put(AttachmentRecord(N1)))
    asked = []

    async def asking(host_id: HostId, payload: bytes, within_s: float) -> bytes | None:
        asked.append(host_id)
        if host_id == ids[0]:
            return messages.encode_answer(messages.WITHDRAWN, answer=True)
        if host_id == ids[3]:
            return b"nonsense"
        await trio.sleep(within_s)
        return None

    withdrawal = Withdrawal(one.live, Following().wait_followed, asking)
    assert await withdrawal.wait_host_hidden() == {ids[0]}
    assert sorted(asked) == [ids[0], ids[1], ids[3]]
    assert trio.current_time() == pytest.approx(HOST_S)
    asked.clear()
    row = local_row(E1, N1, target="netns:web")
    await withdrawal.wait_endpoint_hidden(row)
    assert sorted(asked) == ids[:2], "those that take part in its network"
    assert trio.current_time() == pytest.approx(HOST_S + ENDPOINT_S)


@virtual
async def test_a_host_names_the_rules_that_drop_a_packet_in_few_bytes() -> None:
    _, _, answering = desk()
    asked = messages.Drops("tcp", 80, "10.1.0.2", "10.1.0.3")
    answer = await answering.answer(H2, asked.encode())
    first, second, third = messages.parse_sentences_untrusted(answer)
    assert first == "a rule drops tcp 80 to 10.1.0.3"
    assert (len(second), len(third)) == (200, 100)
    assert len(answer) <= 700
    assert (
        messages.parse_drops_untrusted(messages.Drops("icmp", None, "fd00::1", "fd00::2").encode()).port
        is None
    )


@pytest.mark.parametrize(
    "payload",
    [
        ["drops", "tcp", 65_536, b"\x0a" * 4, b"\x0a" * 4],
        ["drops", "any", 1, b"", b""],
        ["drops", "tcp", 1, b"123", 7],
    ],
)
def test_what_is_no_packet_is_no_question(payload: list[bytes | int | str]) -> None:
    with pytest.raises(messages.QuestionError):
        messages.parse_drops_untrusted(msgpack.packb(payload))


@virtual
async def test_a_question_about_events_goes_to_the_log_of_events() -> None:
    question = EventsQuestion(after=7).encode()
    assert messages.EVENTS == exchange.EVENTS
    assert await desk()[2].answer(H2, question) == b"told" + question


@virtual
async def test_a_host_answers_what_it_knows_of_its_paths() -> None:
    _, _, answering = desk()
    hosts = (HostId(H2), HostId(identifier(7)))
    answer = await answering.answer(H2, paths.encode_question(hosts))
    assert paths.parse_answer_untrusted(answer, hosts) == dict.fromkeys(hosts, KnownPath("ok", 900, 0, 1500))
    with pytest.raises(QuestionError):
        await answering.answer(H2, msgpack.packb([messages.PATHS, "all"]))


@virtual
async def test_a_host_says_whether_it_can_encrypt_and_what_it_lacks() -> None:
    _, _, answering = desk()
    answer = await answering.answer(H2, encryption.encode_question())
    assert encryption.parse_answer_untrusted(answer) == Ability("no program", "install it")
    long = encryption.encode_answer(Ability("x" * 500, "y" * 500))
    assert encryption.parse_answer_untrusted(long).lack == "x" * 100
