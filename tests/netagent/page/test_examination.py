"""The doctor runs at most once at a time, and not again at once."""

from __future__ import annotations

from typing import Any

import trio
from fakes.virtual import virtual

from netagent.page.examination import KEPT_S, PAUSE_S, Examination, Examined


class Doctor:
    """Takes a second, and counts."""

    def __init__(self) -> None:
        self.runs = 0
        self.at_once = 0

    async def __call__(self) -> dict[str, Any]:
        self.runs += 1
        self.at_once += 1
        assert self.at_once == 1
        try:
            await trio.sleep(1)
        finally:
            self.at_once -= 1
        return {"run": self.runs}


@virtual
async def test_readers_at_the_same_time_share_one_run() -> None:
    examination = Examination(Doctor())
    found: list[Examined] = []

    async def read(anew: bool) -> None:
        found.append(await examination.read(anew=anew))

    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(read, number % 2 == 0)
    assert [one.answer for one in found] == [{"run": 1}] * 6


@virtual
async def test_the_button_looks_anew_but_not_at_once() -> None:
    examination = Examination(Doctor())
    await examination.read(anew=True)
    assert (await examination.read(anew=True)).answer == {"run": 1}
    await trio.sleep(PAUSE_S + 1)
    assert (await examination.read(anew=False)).answer == {"run": 1}
    assert (await examination.read(anew=True)).answer == {"run": 2}
    await trio.sleep(KEPT_S + 1)
    assert (await examination.read(anew=False)).answer == {"run": 3}


@virtual
async def test_a_reader_who_leaves_while_it_looks_leaves_the_turn_to_the_next() -> None:
    examination = Examination(Doctor())
    with trio.move_on_after(0.5) as left:
        await examination.read(anew=True)
    assert left.cancelled_caught
    assert (await examination.read(anew=False)).answer == {"run": 2}
