"""All or nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
from fakes.virtual import virtual

from netagent.endpoints.rollback import UNDO_STEP_S, all_or_nothing


class Ledger:
    def __init__(self) -> None:
        self.undone: list[Any] = []

    def step(
        self, name: str, error: OSError | None = None, sleep_s: float = 0.0
    ) -> tuple[str, Callable[..., Any]]:
        async def undo() -> None:
            await trio.sleep(sleep_s)
            if error is not None:
                raise error
            self.undone.append(name)

        return name, undo


@virtual
async def test_a_block_that_ends_well_keeps_everything() -> None:
    entry_owners = Ledger()
    async with all_or_nothing() as undo:
        undo.push(*entry_owners.step("a"))
    assert entry_owners.undone == []


@virtual
async def test_a_failure_is_undone_backwards_and_goes_on() -> None:
    entry_owners = Ledger()
    with pytest.raises(KeyError, match="cause"):  # noqa: PT012 - the block is what is tested
        async with all_or_nothing() as undo:
            undo.push(*entry_owners.step("a"))
            undo.push(*entry_owners.step("b"))
            raise KeyError("cause")
    assert entry_owners.undone == ["b", "a"]


@virtual
async def test_a_cancellation_is_undone_in_full() -> None:
    entry_owners = Ledger()
    with trio.move_on_after(1) as scope:
        async with all_or_nothing() as undo:
            undo.push(*entry_owners.step("a", sleep_s=2))
            undo.push(*entry_owners.step("b", sleep_s=2))
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert entry_owners.undone == ["b", "a"]
    assert trio.current_time() >= 5


@virtual
async def test_a_step_that_fails_or_hangs_is_logged_and_the_others_are_done(
    caplog: pytest.LogCaptureFixture,
) -> None:
    entry_owners = Ledger()
    begun = trio.current_time()
    with pytest.raises(KeyError, match="cause"):  # noqa: PT012 - the block is what is tested
        async with all_or_nothing() as undo:
            undo.push(*entry_owners.step("a"))
            undo.push(*entry_owners.step("hangs", sleep_s=1e9))
            undo.push(*entry_owners.step("fails", OSError("no")))
            undo.push(*entry_owners.step("d"))
            raise KeyError("cause")
    assert entry_owners.undone == ["d", "a"]
    assert trio.current_time() - begun == pytest.approx(UNDO_STEP_S)
    assert [record.args for record in caplog.records] == [("fails",), ("hangs",)]
