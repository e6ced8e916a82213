from hypothesis import given
from hypothesis import strategies as st

from netagent.cli.render import MARKED_S, Column, WatchedList

COLUMNS = (Column("NAME", lambda item: item["name"]), Column("STATE", lambda item: item["state"]))
SYNCED = {"event": "synced"}


def of(name: str, state: str = "up") -> dict[str, str]:
    return {"id": name, "name": name, "state": state}


def event(kind: str, item: dict[str, str]) -> dict[str, object]:
    return {"event": kind, "item": item}


def test_what_was_there_has_no_mark() -> None:
    shown = WatchedList(COLUMNS)
    assert shown.take([event("added", of("b"))], 0.0) == []
    assert not shown
    assert shown.take([event("added", of("a")), SYNCED], 0.0) == []
    assert shown
    assert shown.rows(0.0) == [(" ", of("a")), (" ", of("b"))]


def test_a_change_is_marked_for_some_seconds() -> None:
    shown = WatchedList(COLUMNS)
    shown.take([event("added", of("a")), event("added", of("c")), SYNCED], 0.0)
    news = shown.take(
        [event("added", of("b")), event("changed", of("c", "dead")), event("removed", of("a"))], 10.0
    )
    assert news == [("+", of("b")), ("~", of("c", "dead")), ("-", of("a"))]
    assert shown.rows(10.0 + MARKED_S / 2) == [
        ("-", of("a")),
        ("+", of("b")),
        ("~", of("c", "dead")),
    ]
    assert shown.rows(10.0 + MARKED_S) == [(" ", of("b")), (" ", of("c", "dead"))]


def test_an_item_that_comes_again_is_there_once() -> None:
    shown = WatchedList(COLUMNS)
    shown.take([event("added", of("a")), SYNCED], 0.0)
    shown.take([event("removed", of("a"))], 1.0)
    shown.take([event("added", of("a", "dead"))], 2.0)
    assert shown.rows(2.0) == [("+", of("a", "dead"))]


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans(), st.floats(0.0, 4.0))))
def test_the_changes_lead_from_the_first_list_to_the_last(steps: list[tuple[str, bool, float]]) -> None:
    shown, known, seen, now = WatchedList(COLUMNS), dict[str, dict[str, str]](), dict[str, object](), 0.0
    shown.take([SYNCED], now)
    for number, (name, is_there, pause_s) in enumerate(steps):
        now += pause_s
        if is_there:
            known[name] = of(name, str(number))
            news = shown.take([event("added", known[name])], now)
        elif name in known:
            news = shown.take([event("removed", known.pop(name))], now)
        else:
            continue
        for mark, item in news:
            if mark == "-":
                del seen[item["id"]]
            else:
                seen[item["id"]] = item
        assert seen == known
        assert {item["id"]: item for mark, item in shown.rows(now) if mark != "-"} == known
    assert [item for _, item in shown.rows(now + 2 * MARKED_S)] == [known[name] for name in sorted(known)]
