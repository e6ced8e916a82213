"""Which events are kept."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netagent.events import event_log
from netagent.events.event import Event, parse_event_untrusted
from netagent.events.event_log import MAX_EVENT_BYTES, MAX_EVENTS, MAX_OF_SOURCE, MAX_UNWRITTEN, EventLog
from netagent.events.kinds import EventKind
from netagent.model.author import AGENT, Author, AuthorKind
from netgossip.slices import at_once

ALICE = Author(AuthorKind.USER, "alice", 1000, "netagent")
DOCKER = Author(AuthorKind.RUNTIME, "docker")


def note(log: EventLog, subject: str, author: Author = AGENT, now: float = 0.0, text: str = "x") -> Event:
    return log.note(EventKind.HEALTH, text, subject=subject, author=author, now=now)


def kept(log: EventLog) -> list[Event]:
    return [parse_event_untrusted(line) for line in log.lines()]


def test_a_container_that_repeats_itself_pushes_out_only_itself() -> None:
    log = EventLog()
    note(log, "app", ALICE, text="removed network app")
    for number in range(50):
        note(log, f"web{number}")
    for _ in range(20 * MAX_EVENTS):
        note(log, "flapping")
    counts = Counter(event.subject for event in kept(log))
    assert counts.pop("flapping") == MAX_OF_SOURCE
    assert set(counts.values()) == {1}
    assert len(counts) == 51


def test_a_host_that_writes_of_many_things_pushes_out_only_itself() -> None:
    log = EventLog()
    note(log, "app", Author(AuthorKind.GOSSIP, "h3"))
    for number in range(2 * MAX_EVENTS):
        note(log, f"n{number}", Author(AuthorKind.GOSSIP, "h2"))
    counts = Counter(event.author.name for event in kept(log))
    assert counts == {"h3": 1, "h2": MAX_OF_SOURCE}


def test_a_token_that_asks_for_many_things_pushes_out_only_itself() -> None:
    log = EventLog()
    note(log, "app", ALICE, text="removed network app")
    for number in range(2 * MAX_EVENTS):
        note(log, f"n{number}", Author(AuthorKind.TOKEN, "ci"))
    counts = Counter(event.author.name for event in kept(log))
    assert counts == {ALICE.name: 1, "ci": MAX_OF_SOURCE}


def test_containers_that_come_and_go_push_out_none_of_what_users_and_hosts_do() -> None:
    log = EventLog()
    note(log, "app", ALICE)
    note(log, "app", Author(AuthorKind.TOKEN, "ci"))
    note(log, "h2", Author(AuthorKind.GOSSIP, "h2"))
    for number in range(3 * MAX_EVENTS):
        note(log, f"job{number}", DOCKER)
    counts = Counter(event.author.kind for event in kept(log))
    assert counts == {"user": 1, "token": 1, "gossip": 1, "runtime": MAX_EVENTS}
    assert kept(log)[-1].subject == f"job{3 * MAX_EVENTS - 1}"


def test_long_texts_are_bounded_in_bytes() -> None:
    log = EventLog()
    for number in range(MAX_EVENTS):
        note(log, str(number), text="\U0001f40b" * 1000)
    lines = log.lines()
    assert MAX_EVENT_BYTES - len(lines[0]) <= sum(map(len, lines)) <= MAX_EVENT_BYTES


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([ALICE, DOCKER, AGENT])), max_size=60),
    st.integers(0, 60),
)
def test_what_is_kept_follows_from_what_was_noted(noted: list[tuple[str, Author]], restarted: int) -> None:
    """Whatever comes, and wherever the agent starts anew: of each list the newest, of each source a bounded share."""
    bounds = {"MAX_EVENTS": 8, "MAX_OF_SOURCE": 4}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in bounds.items():
            patch.setattr(event_log, name, value)
        log, model = EventLog(), list[tuple[int, str, Author]]()
        for number, (subject, author) in enumerate(noted, 1):
            if number == restarted:
                fresh = EventLog()
                fresh.restore(log.lines())
                log = fresh
            note(log, subject, author)
            model.append((model[-1][0] + 1 if model else 1, subject, author))
            own = [one for one in model if one[1:] == (subject, author)]
            if len(own) > 4:
                model.remove(own[0])
            of_author = [one for one in model if one[2] == author]
            if len(of_author) > 8:
                model.remove(of_author[0])
        assert [(one.event_id, one.subject, one.author) for one in kept(log)] == model


def test_a_choice_by_time_kind_number_and_count() -> None:
    log = EventLog()
    for number in range(10):
        log.note(
            EventKind.ATTACH if number % 2 else EventKind.DRAIN,
            str(number),
            subject=f"c{number}",
            author=ALICE if number < 5 else DOCKER,
            now=100.0 + number,
        )

    def texts(**choice: object) -> str:
        return "".join(event.text for event in at_once(log.chosen(**choice)))  # type: ignore[arg-type]

    assert texts() == "0123456789"
    assert texts(since_s=103.5) == "456789"
    assert texts(kinds={"attach"}) == "13579"
    assert texts(after=4) == "456789"
    assert texts(most=3) == "789"
    assert texts(kinds={"drain"}, most=2, after=1) == "68"
    assert texts(after=10) == ""


def test_damaged_lines_are_left_out_and_numbers_go_on() -> None:
    log = EventLog()
    note(log, "a")
    note(log, "b")
    first, second = log.lines()
    again = EventLog()
    assert again.restore([first, b"{", second, second[:20], first]) == 2
    assert again.lines() == [first, second]
    assert note(again, "c").event_id == 3


def test_what_was_noted_is_written_once() -> None:
    log = EventLog()
    assert not log.has_unwritten
    note(log, "a")
    note(log, "b")
    assert log.has_unwritten
    assert log.take_unwritten() == log.lines()
    assert not log.has_unwritten
    note(log, "c")
    assert log.take_unwritten() == log.lines()[-1:]
    log.note_unwritten()
    assert log.has_unwritten
    assert log.take_unwritten() is None
    for number in range(MAX_UNWRITTEN + 1):
        note(log, str(number))
    assert log.take_unwritten() is None
    assert log.take_unwritten() == []
