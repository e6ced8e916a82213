from __future__ import annotations

import pytest
import trio
import trio.testing
from fakes.virtual import virtual

from netagent.control.idempotency import (
    KEPT_S,
    MAX_ANSWER_BYTES,
    MAX_KEYS,
    MAX_KEYS_PER_ASKER,
    Answered,
    IdempotentAnswers,
    key_untrusted,
)
from netagent.errors import InputError, RefusedError
from netagent.interface.cluster import InviteCommand
from netagent.interface.containers import AttachCommand, LinkOfAttach

REQUEST = InviteCommand(ttl_s=60.0)


class Act:
    """Counts how often the change is made."""

    def __init__(self, size: int = 1, pause_s: float = 0.0) -> None:
        self.count = 0
        self.size = size
        self.pause_s = pause_s

    async def __call__(self) -> Answered:
        self.count += 1
        number = self.count
        await trio.sleep(self.pause_s)
        return Answered(201, str(number).encode() * self.size)


@virtual
async def test_a_change_is_made_once_for_a_key() -> None:
    answers, act = IdempotentAnswers(), Act()
    first = await answers.once("root", "k", REQUEST, act)
    assert await answers.once("root", "k", REQUEST, act) is first
    assert await answers.once("root", "other", REQUEST, act) is not first
    await trio.sleep(KEPT_S)
    assert (await answers.once("root", "k", REQUEST, act)).body == b"3"


@virtual
async def test_nobody_else_reads_the_answer_by_the_key() -> None:
    answers, act = IdempotentAnswers(), Act()
    await answers.once("root", "k", REQUEST, act)
    await answers.once("token 1", "k", REQUEST, act)
    await answers.once("token 2", "k", REQUEST, act)
    assert act.count == 3


@virtual
async def test_a_key_is_for_one_request() -> None:
    answers, act = IdempotentAnswers(), Act()
    attach = AttachCommand(target="netns:a", network="app", links=[LinkOfAttach(service="db")])
    await answers.once("root", "k", attach, act)
    await answers.once(
        "root", "k", AttachCommand(network="app", target="netns:a", links=[LinkOfAttach(service="db")]), act
    )
    for other in (
        REQUEST,
        AttachCommand(target="netns:b", network="app"),
        AttachCommand(target="netns:a", network="app", links=[LinkOfAttach(service="web")]),
    ):
        with pytest.raises(InputError) as caught:
            await answers.once("root", "k", other, act)
        assert (caught.value.code, caught.value.http_status) == ("key-reused", 422)
    assert act.count == 1


@virtual
async def test_who_asks_meanwhile_gets_the_same_answer() -> None:
    answers, act, got = IdempotentAnswers(), Act(pause_s=5), []

    async def ask() -> None:
        got.append(await answers.once("root", "k", REQUEST, act))

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(ask)
    assert act.count == 1
    assert len(got) == 10
    assert all(one is got[0] for one in got)


@virtual
async def test_what_failed_is_tried_by_who_waits() -> None:
    answers, tries, results = IdempotentAnswers(), [], []

    async def act() -> Answered:
        tries.append(1)
        await trio.sleep(1)
        if len(tries) == 1:
            raise RefusedError("in use")
        return Answered(200, b"done")

    async def ask() -> None:
        try:
            results.append((await answers.once("root", "k", REQUEST, act)).body)
        except RefusedError:
            results.append(b"refused")

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ask)
    assert sorted(results) == [b"done", b"done", b"refused"]
    assert len(tries) == 2


@virtual
async def test_what_is_cancelled_blocks_nobody() -> None:
    answers, act = IdempotentAnswers(), Act(pause_s=5)
    with trio.move_on_after(1):
        await answers.once("root", "k", REQUEST, act)
    assert (await answers.once("root", "k", REQUEST, act)).body == b"2"


@virtual
async def test_memory_is_bounded() -> None:
    answers, act = IdempotentAnswers(), Act()
    for number in range(MAX_KEYS_PER_ASKER + 10):
        await answers.once("root", str(number), REQUEST, act)
    assert len(answers._entries) == MAX_KEYS_PER_ASKER
    for number in range(2 * MAX_KEYS):
        await answers.once(f"token {number}", "k", REQUEST, act)
    assert len(answers._entries) == MAX_KEYS
    big = Act(size=MAX_ANSWER_BYTES + 1)
    await answers.once("root", "big", REQUEST, big)
    await answers.once("root", "big", REQUEST, big)
    assert big.count == 2


@virtual
async def test_one_asker_does_not_fill_it_with_what_is_under_way() -> None:
    answers, act = IdempotentAnswers(), Act(pause_s=60)
    async with trio.open_nursery() as nursery:
        for number in range(MAX_KEYS_PER_ASKER):
            nursery.start_soon(answers.once, "root", str(number), REQUEST, act)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(RefusedError, match="are under way"):
            await answers.once("root", "more", REQUEST, act)
        quick = Act()
        assert (await answers.once("token 1", "k", REQUEST, quick)).status == 201
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("key", ["", "x" * 129, "a\nb", "é"])
def test_a_key_is_short_and_plain(key: str) -> None:
    with pytest.raises(InputError):
        key_untrusted(key)
