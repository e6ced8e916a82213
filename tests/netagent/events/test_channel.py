"""How a line of log becomes an event."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator

import pytest
import trio

from netagent import log as netagent_log
from netagent.events.channel import EventHandler, counting, event
from netagent.events.event import Event, parse_event_untrusted
from netagent.events.event_log import EventLog
from netagent.events.kinds import EventKind
from netagent.model.author import KERNEL, Author, AuthorKind, acting_as

ALICE = Author(AuthorKind.USER, "alice", 1000, "netagent")
logger = logging.getLogger("netagent.testing")


@contextlib.contextmanager
def noted() -> Iterator[list[Event]]:
    log, found = EventLog(), list[Event]()
    handler = EventHandler(log, lambda: 12.5, lambda: found.append(parse_event_untrusted(log.lines()[-1])))
    root = logging.getLogger("netagent")
    root.addHandler(handler)
    level = root.level
    root.setLevel(min(level, logging.INFO) or logging.INFO)
    try:
        yield found
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def test_a_marked_line_is_an_event_with_the_author_of_the_task() -> None:
    async def run() -> list[Event]:
        with noted() as found:
            logger.info("attached %s", "web", extra=event(EventKind.ATTACH, "web"))
            logger.info("not marked")
            with acting_as(ALICE):
                logger.warning("refused", extra=event(EventKind.REFUSAL))
                logger.error("gone", extra=event(EventKind.REPAIR, "br0", author=KERNEL))
        logger.info("too late", extra=event(EventKind.ATTACH))
        return found

    seen = trio.run(run)
    assert [(one.kind, one.subject, one.text, one.author.name, one.level) for one in seen] == [
        ("attach", "web", "attached web", "netagent", "info"),
        ("refusal", "", "refused", "alice", "warning"),
        ("repair", "br0", "gone", "kernel", "error"),
    ]
    assert {one.at_s for one in seen} == {12.5}


def test_a_line_below_the_level_of_the_log_is_an_event_all_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def run() -> list[Event]:
        netagent_log.configure("error")
        with noted() as found:
            logging.getLogger("netagent").setLevel(logging.NOTSET)  # as in the agent: the root's level counts
            logger.info("quiet", extra=event(EventKind.ATTACH))
        return found

    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        assert [one.text for one in trio.run(run)] == ["quiet"]
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    assert capsys.readouterr().err == ""


def test_a_thread_may_log_an_event() -> None:
    async def run() -> list[Event]:
        with noted() as found:
            mark = event(EventKind.MEMBER, "h2")
            thread = threading.Thread(target=lambda: logger.info("heard", extra=mark))
            thread.start()
            await trio.to_thread.run_sync(thread.join)
            with trio.fail_after(30):
                while not found:
                    await trio.sleep(0.01)
        return found

    assert [one.text for one in trio.run(run)] == ["heard"]


def test_counted_are_the_events_of_a_block_and_of_its_tasks() -> None:
    async def run() -> None:
        with noted():

            async def other() -> None:
                logger.info("x", extra=event(EventKind.ATTACH))

            with counting() as count:
                assert count() == 0
                await other()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(other)
                with counting() as inner:
                    await other()
                    assert inner() == 1
                assert count() == 2
            await other()
            assert count() == 2

    trio.run(run)


def test_a_line_that_cannot_be_formatted_fails_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)

    async def run() -> list[Event]:
        with noted() as found:
            logger.info("%s %s", "one", extra=event(EventKind.ATTACH))
        return found

    assert trio.run(run) == []
