"""Which warnings began and which are over."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netagent.events.event import MAX_TEXT_CHARS, one_line
from netagent.events.sources.warning_changes import MAX_WARNINGS, MISSED_LOOKS, WarningChanges

FULL = ("network-full", "network app is full: 13 of its 13 addresses are in use")


def told(changes: WarningChanges, *warnings: tuple[str, str]) -> list[tuple[str, str]]:
    return [(one.level.value, one.text) for one in changes.look(warnings)]


def test_a_warning_is_told_when_it_begins_and_when_it_is_over() -> None:
    changes = WarningChanges()
    assert told(changes, FULL) == [("warning", FULL[1])]
    assert told(changes, FULL) == []
    assert told(changes) == []
    assert told(changes, FULL) == []  # it was missing from one look only
    for _ in range(MISSED_LOOKS - 1):
        assert told(changes) == []
    assert told(changes) == [("info", "over: " + FULL[1])]
    assert told(changes) == []
    assert told(changes, FULL) == [("warning", FULL[1])]


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("40 s behind", "55 s behind", True),
        ("1,200 of 4,094 are used", "1,201 of 4,094 are used", True),
        ("2.5 % of the packets, 3 hosts", "12 % of the packets, 4 hosts", True),
        ("the agent of h1 is dead", "the agent of h2 is dead", False),
        ("web1 on h1", "web2 on h1", False),
        ("10.1.0.2 is used twice", "10.1.0.3 is used twice", False),
        ("route 10.1.0.0/24 overlaps", "route 10.1.0.0/25 overlaps", False),
        ("port 53/udp is used", "port 54/udp is used", False),
        ("fd00::1 is away", "fd00::2 is away", False),
        ("db-1 is away", "db-2 is away", False),
    ],
)
def test_figures_make_no_other_warning_but_names_and_addresses_do(
    one: str, other: str, *, is_same: bool
) -> None:
    changes = WarningChanges()
    assert len(told(changes, ("x", one))) == 1
    assert (told(changes, ("x", other)) == []) is is_same


def test_another_word_of_a_check_is_no_other_warning() -> None:
    changes = WarningChanges()
    for text, count in (("refused", 1), ("no route to the host 192.0.2.9", 0)):
        down = ("external-down", f"external service pg.app is in no answer: 192.0.2.9 is unhealthy, {text}")
        assert len(told(changes, down)) == count


warnings = st.lists(
    st.tuples(st.sampled_from(["a", "b"]), st.text("xy1 ", max_size=3) | st.just("z" * 600)), max_size=4
)


@given(st.lists(warnings, max_size=6), st.integers(0, 6))
def test_what_began_and_is_not_over_is_what_stands(looks: list[list[tuple[str, str]]], restart: int) -> None:
    """Whatever is found, and whenever the agent starts anew: each begins once before it ends, and ends once."""
    changes, begun, history = WarningChanges(), set[str](), list[tuple[str, str]]()
    for number, found in enumerate([*looks, [], [], [], []]):
        if number == restart:
            changes = WarningChanges()
            changes.restore(history)
        for one in changes.look(found):
            history.append((one.subject, one_line(one.text, MAX_TEXT_CHARS)))
            text = f"{one.subject} {one.text.removeprefix('over: ')}"
            if one.text.startswith("over: "):
                begun.remove(text)
            else:
                assert text not in begun
                begun.add(text)
    assert begun == set()


def test_not_more_are_remembered_than_the_bound() -> None:
    changes = WarningChanges()
    found = told(changes, *(("x", f"warning about h{number}") for number in range(2 * MAX_WARNINGS)))
    assert len(found) == MAX_WARNINGS
