"""How a part of the page follows changes."""

from __future__ import annotations

import json
from typing import Any

import trio
from fakes.virtual import virtual

from netagent.errors import NotFoundError
from netagent.page.contents import Content, Shown
from netagent.page.live_stream import HEARTBEAT_S, ReaderMemory, follow


class Part:
    """A part that changes when the test says so."""

    def __init__(self, *, refresh_s: float = 60.0) -> None:
        self.rows: dict[str, dict[str, Any]] = {"a": {"n": 1}, "b": {"n": 1}}
        self.generation = 0
        self.changed = trio.Event()
        self.sent: list[bytes] = []
        self.readings = 0
        self.error: Exception | None = None
        self.content = Content(self.read, pause_s=1.0, refresh_s=refresh_s)

    async def read(self) -> Shown:
        self.readings += 1
        await trio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        return Shown({"total": len(self.rows)}, dict(self.rows))

    def change(self, **rows: dict[str, Any]) -> None:
        self.rows.update(rows)
        self.generation += 1
        self.changed.set()
        self.changed = trio.Event()

    async def wait_changed(self, seen: int) -> int:
        while self.generation <= seen:
            await self.changed.wait()
        return self.generation

    async def emit(self, part: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.sent.append(part)

    def events(self) -> list[Any]:
        return [json.loads(one.removeprefix(b"data: ")) for one in self.sent if one.startswith(b"data: ")]


@virtual
async def test_all_of_it_then_only_what_differs() -> None:
    part = Part()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, part.content, part.wait_changed, part.emit)
        await trio.sleep(0.5)
        first = {"head": {"total": 2}, "set": {"a": {"n": 1}, "b": {"n": 1}}, "order": ["a", "b"]}
        assert part.events() == [first]
        part.change(b={"n": 2})
        await trio.sleep(2)
        assert part.events()[1:] == [{"set": {"b": {"n": 2}}}]
        part.change(c={"n": 3})
        await trio.sleep(2)
        assert part.events()[2:] == [{"head": {"total": 3}, "set": {"c": {"n": 3}}, "order": ["a", "b", "c"]}]
        nursery.cancel_scope.cancel()


@virtual
async def test_many_changes_cost_one_reading_each_pause_and_the_last_is_seen() -> None:
    part = Part()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, part.content, part.wait_changed, part.emit)
        for number in range(500):
            part.change(a={"n": number})
            await trio.sleep(0.02)
        await trio.sleep(2)
        nursery.cancel_scope.cancel()
    assert part.readings <= 12
    assert part.events()[-1] == {"set": {"a": {"n": 499}}}


@virtual
async def test_without_a_change_it_only_shows_that_it_lives() -> None:
    part = Part()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, part.content, part.wait_changed, part.emit)
        await trio.sleep(4 * HEARTBEAT_S)
        nursery.cancel_scope.cancel()
    assert part.readings == 1
    assert set(part.sent[1:]) == {b":\n\n"}


@virtual
async def test_what_changes_by_itself_is_read_now_and_then() -> None:
    part = Part(refresh_s=5.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, part.content, part.wait_changed, part.emit)
        await trio.sleep(1)
        part.rows["a"] = {"n": 7}
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert part.events()[-1] == {"set": {"a": {"n": 7}}}


@virtual
async def test_trouble_is_said_once_and_all_comes_again_when_it_ends() -> None:
    part = Part()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, part.content, part.wait_changed, part.emit)
        await trio.sleep(0.5)
        part.error = NotFoundError("it is gone")
        part.change()
        await trio.sleep(20)
        (said,) = part.events()[1:]
        assert said["problem"]["detail"] == "it is gone"
        part.error = None
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    assert part.events()[2:] == [{"head": {"total": 2}}]


def test_a_reader_lacks_rows_that_moved_and_no_others() -> None:
    memory = ReaderMemory()
    memory.news(Shown({}, {"a": {}, "b": {}}))
    assert memory.news(Shown({}, {"b": {}, "a": {}})) == {"order": ["b", "a"]}
    assert memory.news(Shown({}, {"b": {}})) == {"order": ["b"]}
    assert memory.news(Shown({}, {"b": {}})) == {}
