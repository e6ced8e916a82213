"""What a resolver says against what it should say."""

from __future__ import annotations

import contextlib

import pytest
from fakes.doctor_world import World
from fakes.registry import endpoint
from hypothesis import given
from hypothesis import strategies as st

from netagent.doctor.checks.resolver_checks import (
    ResolverAnswer,
    ResolverQuestion,
    expected,
    fault,
    leads_to,
    said_untrusted,
    source_of,
)
from netagent.model.naming import names_of
from netagent.model.records import Group
from netagent.model.sandbox import Sandbox, SandboxId
from netdns import constants
from netdns.errors import FormatError
from netdns.message import Reply, query_untrusted, render, render_query
from netdns.source import Found, NoData, NoSuchName, NotOurs
from netgossip.slices import at_once

WEB = ResolverQuestion("web.app.mesh.internal", constants.A)
BOX = SandboxId("box")


def judged(world: World, question: ResolverQuestion) -> Found | NoData | NoSuchName | NotOurs:
    sandbox = Sandbox(sandbox_id=BOX, networks=tuple(world.view.networks))
    return expected(at_once(source_of(world.view, [sandbox], "mesh.internal")), question, BOX)


def answer_of(world: World, question: ResolverQuestion = WEB) -> Found:
    found = judged(world, question)
    assert isinstance(found, Found)
    return found


def rendered(question: ResolverQuestion, answer: Found) -> bytes:
    query = query_untrusted(render_query(7, question.wire, question.rtype, flags=constants.RD, opt=b""))
    answers = ((question.wire, answer.rrset),) if isinstance(answer, Found) else ()
    return render(query, Reply(constants.NOERROR, answers=answers), limit_bytes=512, our_size_bytes=512)


def test_the_expected_answer_is_no_fault(world: World) -> None:
    answer = answer_of(world)
    assert isinstance(answer, Found)
    said = said_untrusted(rendered(WEB, answer), WEB)
    assert fault(answer, said) == ""
    assert leads_to(said, answer.rrset.rdatas[0])


def test_every_other_answer_is_a_fault(world: World) -> None:
    answer = answer_of(world)
    one = frozenset(answer.rrset.rdatas[:1])
    assert fault(answer, None) == "no resolver answers"
    assert "NXDOMAIN instead of 10.1.0.2, 10.1.0.3" in fault(answer, ResolverAnswer(3, frozenset(), False))
    assert fault(answer, ResolverAnswer(0, one, False)).startswith("it answers 10.1.0.2 instead of")
    assert fault(answer, ResolverAnswer(0, one, True)) == "", "the rest was cut off"
    assert "10.9.9.9" in fault(answer, ResolverAnswer(0, frozenset({b"\x0a\x09\x09\x09"}), True))


def test_of_ipv6_addresses_one_answer_has_some(world: World) -> None:
    question = ResolverQuestion(WEB.name, constants.AAAA)
    answer = answer_of(world, question)
    assert answer.rrset.count == 1
    assert fault(answer, ResolverAnswer(0, frozenset(answer.rrset.rdatas[1:]), False)) == ""


def test_an_address_of_another_length_is_a_fault_in_words(world: World) -> None:
    """A resolver of another program may answer in the container."""
    odd = ResolverAnswer(
        constants.NOERROR, frozenset({b"\x0a\x00\x00", b"\x0a\x01\x00\x02"}), truncated=False
    )
    text = fault(answer_of(world), odd)
    assert text.startswith("it answers 10.1.0.2, 3 octets in place of an address instead of ")


def test_what_is_absent_must_be_absent(world: World) -> None:
    missing = judged(world, ResolverQuestion("nope.app.mesh.internal", constants.A))
    assert isinstance(missing, NoSuchName)
    assert fault(missing, ResolverAnswer(constants.NXDOMAIN, frozenset(), False)) == ""
    assert "instead of none" in fault(missing, ResolverAnswer(0, frozenset({b"\x01\x02\x03\x04"}), False))
    empty = judged(world, ResolverQuestion(WEB.name, constants.TXT))
    assert isinstance(empty, NoData)
    assert fault(empty, ResolverAnswer(0, frozenset(), False)) == ""
    assert "instead of none" in fault(empty, ResolverAnswer(3, frozenset(), False))


def test_the_names_of_an_endpoint() -> None:
    names = names_of(endpoint(2), host="h2", base="app.mesh.internal")
    assert names == ("web.app.mesh.internal", "web2.app.mesh.internal", "web2.h2.app.mesh.internal")
    grouped = endpoint(2, service="web2", group=Group("shop", "front"), aliases=("www",))
    assert names_of(grouped, host="h2", base="app") == (
        "front.shop.app",
        "web2.app",
        "web2.h2.app",
        "www.app",
    )


def test_an_answer_to_another_question_is_none(world: World) -> None:
    payload = rendered(WEB, answer_of(world))
    with pytest.raises(FormatError):
        said_untrusted(payload, ResolverQuestion("db.app.mesh.internal", constants.A))
    query = render_query(7, WEB.wire, WEB.rtype, flags=constants.RD, opt=b"")
    with pytest.raises(FormatError):
        said_untrusted(query, WEB)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_answer_or_a_format_error(payload: bytes) -> None:
    with contextlib.suppress(FormatError):
        said_untrusted(payload, WEB)
