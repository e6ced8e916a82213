"""Places for answers without end."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message
from trio.testing import trio_test

from netagent.control.places import Places
from netagent.control.streaming import WatchResponse
from netagent.errors import RefusedError


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=60))
def test_each_gets_its_share_of_the_whole_and_no_place_is_lost(steps: list[tuple[str, bool]]) -> None:
    places, held = Places(5, 3, "watch"), list[tuple[str, ExitStack]]()
    for asker, is_taking in steps:
        if not is_taking:
            if held:
                held.pop(0)[1].close()
            continue
        own = sum(one == asker for one, _ in held)
        with ExitStack() as stack:
            if own == 3 or len(held) == 5:
                with pytest.raises(RefusedError) as caught:
                    stack.enter_context(places.taken(asker))
                assert ("same token" in caught.value.message) == (own == 3)
            else:
                stack.enter_context(places.taken(asker))
                held.append((asker, stack.pop_all()))
    for _, stack in held:
        stack.close()
    with ExitStack() as stack:
        for asker in "aaabb":
            stack.enter_context(places.taken(asker))


def test_what_fails_within_gives_its_place_back() -> None:
    places = Places(1, 1, "watch")
    with pytest.raises(ZeroDivisionError), places.taken("a"):
        _ = 1 // 0
    with places.taken("b"):
        pass


@trio_test
async def test_a_watch_whose_client_is_gone_before_it_begins_gives_its_place_back() -> None:
    places = Places(1, 1, "watch")

    async def run(_emit: object) -> None:
        raise AssertionError

    async def send(_message: object) -> None:
        raise trio.BrokenResourceError

    async def receive() -> Message:
        raise AssertionError

    with ExitStack() as held:
        held.enter_context(places.taken("a"))
        response = WatchResponse(run, held.pop_all())
    with pytest.raises(RefusedError), places.taken("a"):
        pass
    with pytest.raises(trio.BrokenResourceError):
        await response({}, receive, send)
    with places.taken("a"):
        pass
