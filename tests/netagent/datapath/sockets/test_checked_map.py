"""What was written to a map, and what others have made of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from netagent.datapath.sockets.checked_map import CheckedMap

keys = st.binary(min_size=1, max_size=1).map(lambda key: bytes([key[0] % 6]))
values = st.sampled_from([b"a", b"b", b"c"])
elements = st.dictionaries(keys, values)


class FakeMap:
    """In the place of a map in the kernel."""

    def __init__(self) -> None:
        self.held: dict[bytes, bytes] = {}
        self.calls = 0

    def update(self, key: bytes, value: bytes) -> None:
        self.calls += 1
        self.held[key] = value

    def delete(self, key: bytes) -> None:
        self.calls += 1
        self.held.pop(key, None)

    def lookup(self, key: bytes) -> bytes | None:
        return self.held.get(key)

    def batches(self, most: int) -> Iterator[tuple[list[bytes], list[bytes]]]:
        """An element that is moved while the kernel reads may come twice."""
        yield list(self.held), list(self.held.values())
        yield list(self.held)[:1], list(self.held.values())[:1]


def checked(held: FakeMap, **options: Any) -> CheckedMap:
    return CheckedMap(held, **options)  # type: ignore[arg-type]


@given(elements, elements)
def test_whatever_others_do_is_found_and_undone(ours: dict[bytes, bytes], theirs: dict[bytes, bytes]) -> None:
    held = FakeMap()
    table = checked(held)
    for key, value in ours.items():
        assert table.put(key, value)
    assert table.suspects() == []
    held.held = dict(theirs)
    different = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
    assert {*table.suspects()} == different
    assert {key for key in table.suspects() if table.repair(key)} == different
    assert held.held == ours
    assert table.suspects() == []


@given(elements, elements)
def test_of_members_only_their_presence_counts(ours: dict[bytes, bytes], theirs: dict[bytes, bytes]) -> None:
    held = FakeMap()
    table = checked(held, restored=b"used")
    for key in ours:
        table.put(key, b"unused")
    held.held = dict(theirs)
    assert {*table.suspects()} == ours.keys() ^ theirs.keys()
    assert all(table.repair(key) for key in {*table.suspects()})
    assert held.held == {key: theirs.get(key, b"used") for key in ours}


def test_what_is_there_already_is_not_written_again() -> None:
    held = FakeMap()
    held.held = {b"x": b"a", b"y": b"b"}
    table = checked(held)
    table.adopt()
    assert not table.put(b"x", b"a")
    table.remove(b"z")
    assert held.calls == 0
    table.remove(b"y")
    assert held.held == {b"x": b"a"}


def test_a_suspicion_that_was_overtaken_is_no_damage() -> None:
    """The event loop writes while a thread compares."""
    held = FakeMap()
    table = checked(held)
    table.put(b"x", b"a")
    held.held[b"x"] = b"b"
    assert {*table.suspects()} == {b"x"}
    table.put(b"x", b"c")
    assert not table.repair(b"x")
