"""What requests change becomes an event."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import pytest
import trio

from netagent.control.audit import audited, in_words, subject_of, telling_forbidden
from netagent.errors import ForbiddenError, InputError, NetagentError, NotFoundError, RefusedError
from netagent.events.channel import Mark, event
from netagent.events.kinds import EventKind
from netagent.interface.catalogue import COMMANDS
from netagent.interface.cluster import JoinCommand
from netagent.interface.command import Command
from netagent.interface.containers import AttachCommand, NetworkCreateCommand, PublishCommand, UnlinkCommand
from netagent.interface.questions import StatusCommand
from netagent.interface.services import ServiceSetCommand
from netagent.model.author import Author, AuthorKind, acting_as

WEB = PublishCommand(endpoint="web", port="80:8080")


def answered(
    request: Command[Any], answer: Any, caplog: pytest.LogCaptureFixture
) -> list[tuple[EventKind, str, str]]:
    """Answer a request, by a value, an error or a function; return the events."""

    async def handler(_request: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer() if callable(answer) else answer

    caplog.set_level(logging.INFO)
    caplog.clear()
    with contextlib.suppress(type(answer)) if isinstance(answer, Exception) else contextlib.nullcontext():
        trio.run(audited, request, handler)
    marked = [(one, one.__dict__.get("event")) for one in caplog.records]
    return [(mark.kind, mark.subject, one.getMessage()) for one, mark in marked if isinstance(mark, Mark)]


def test_a_change_that_says_nothing_itself_is_noted_in_the_words_of_the_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert answered(WEB, {}, caplog) == [(EventKind.REQUEST, "web", "publish web 80:8080")]
    weights = ServiceSetCommand(service="web", network="app")
    assert answered(weights, {"created": False}, caplog) == [
        (EventKind.SERVICE, "web", "service set web --network app")
    ]


def test_a_change_that_says_so_itself_is_not_noted_twice(caplog: pytest.LogCaptureFixture) -> None:
    def change() -> dict[str, Any]:
        logging.getLogger("netagent.x").info("better words", extra=event(EventKind.ATTACH, "web"))
        return {}

    assert answered(WEB, change, caplog) == [(EventKind.ATTACH, "web", "better words")]


def test_what_is_there_already_is_no_event(caplog: pytest.LogCaptureFixture) -> None:
    request = NetworkCreateCommand(name="app")
    assert answered(request, {"created": False}, caplog) == []
    assert len(answered(request, {"created": True}, caplog)) == 1


def test_reading_is_no_event(caplog: pytest.LogCaptureFixture) -> None:
    assert answered(StatusCommand(), {}, caplog) == []


@pytest.mark.parametrize("error", [InputError("no"), NotFoundError("no"), NetagentError("no")])
def test_a_mistake_in_typing_is_no_event(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    found = answered(WEB, error, caplog)
    assert found == []


def test_a_refusal_is_an_event_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    error = RefusedError("port 80 of this host is in use", hint="use another one")
    assert answered(WEB, error, caplog) == [
        (EventKind.REFUSAL, "web", "refused `publish web 80:8080`: port 80 of this host is in use")
    ]
    assert answered(WEB, ZeroDivisionError(), caplog) == [
        (EventKind.REFUSAL, "web", "`publish web 80:8080` failed: ZeroDivisionError")
    ]


@pytest.mark.parametrize(
    "command",
    [one for one in COMMANDS if one.declaration.verb not in ("", "GET")],
    ids=lambda one: one.__name__,
)
def test_each_changing_command_is_noted(
    command: type[Command[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    found = answered(command(), {}, caplog)
    assert [text for _, _, text in found] == [command.declaration.command]


def test_no_secret_is_in_the_words() -> None:
    request = JoinCommand(addresses=["192.0.2.1", "192.0.2.2"], token="SECRET", token_file="/f")
    assert in_words(request) == "join 192.0.2.1 192.0.2.2"


@pytest.mark.parametrize(
    "check",
    ["exec:mysqladmin -pSECRET ping", "'exec:a SECRET'", '"exec:SECRET"', "http:80/a?t=SECRET", "SECRET"],
)
def test_no_secret_of_a_check_is_in_the_words(check: str) -> None:
    request = AttachCommand(target="netns:web", network="app", checks=["tcp:80", check])
    assert "--check tcp:80 --check" in in_words(request)
    assert "SECRET" not in in_words(request)


def test_only_plain_words_are_in_the_words() -> None:
    request = AttachCommand(
        target="netns:web", network="app", ports=[{"number": 80}], labels={"a": "b"}, multicast=True
    )
    assert in_words(request) == "attach netns:web --network app"
    assert in_words(UnlinkCommand(endpoint="web", service="db")) == "unlink web db"
    assert subject_of(request) == "netns:web"
    assert subject_of(StatusCommand()) == ""


def test_what_a_token_repeats_is_noted_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    def noted(*, is_forbidden: bool) -> list[str]:
        caplog.clear()
        error = ForbiddenError("no") if is_forbidden else RefusedError("port in use")

        async def handler(_request: Any) -> Any:
            raise error

        with contextlib.suppress(RefusedError), telling_forbidden(PublishCommand):
            trio.run(audited, WEB, handler)
        return [one.__dict__["event"].author.name for one in caplog.records]

    for is_forbidden in (True, False):
        for name in (f"ci{is_forbidden}", f"cd{is_forbidden}"):  # neither takes the other's turn
            with acting_as(Author(AuthorKind.TOKEN, name)):
                assert noted(is_forbidden=is_forbidden) == [name]
                assert [noted(is_forbidden=is_forbidden) for _ in range(20)] == [[]] * 20


def test_what_a_role_does_not_allow_is_noted_with_who_asked(caplog: pytest.LogCaptureFixture) -> None:
    alice = Author(AuthorKind.USER, "alice", 1000, "curl")
    with acting_as(alice), pytest.raises(ForbiddenError), telling_forbidden(PublishCommand):
        raise ForbiddenError("`netagent publish` needs the role admin")
    with pytest.raises(InputError), telling_forbidden(PublishCommand):
        raise InputError("no such field")
    (record,) = caplog.records
    mark = record.__dict__["event"]
    assert (mark.kind, mark.subject, mark.author) == (EventKind.REFUSAL, "publish", alice)
    assert record.getMessage() == "refused `publish`: `netagent publish` needs the role admin"
