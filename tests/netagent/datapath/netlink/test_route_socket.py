"""Dumps, of the namespace in which the tests run: nothing is changed."""

from __future__ import annotations

import socket
from collections import Counter
from contextlib import closing
from typing import Any

import pytest
import trio

from netagent.datapath.netlink.link import link_at, link_dump
from netagent.datapath.netlink.route import RTM_GETROUTE, request_body_of_subnets
from netagent.datapath.netlink.route_socket import Netlink, NetlinkRequest, open_socket


def test_the_kernel_looks_for_a_few_of_many_routes_beside_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It goes through all of them before it answers; what it shows as a whole it shows in pieces."""
    beside: list[object] = []
    run_sync = trio.to_thread.run_sync

    async def noted(function: Any, *arguments: Any) -> Any:
        beside.append(function)
        return await run_sync(function, *arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", noted)

    async def main() -> None:
        with closing(Netlink(open_socket())) as netlink:
            routes = NetlinkRequest(RTM_GETROUTE, 0, request_body_of_subnets(socket.AF_INET))
            await netlink.dump(routes, strict=True)
            assert len(beside) == 1
            assert await netlink.dump(link_dump())
            assert len(beside) == 1

    trio.run(main)


class _Steps(trio.abc.Instrument):
    def __init__(self) -> None:
        self.count = 0

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1


def test_an_answer_that_is_there_is_read_at_once_and_many_conversations_leave_turns_to_others() -> None:
    """Each step of a task by way of trio costs an idle agent more than the conversation."""
    steps, turns = _Steps(), 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async def main() -> None:
        with closing(Netlink(open_socket())) as netlink:
            before = steps.count
            assert await netlink.find(link_at(1)) is not None
            await netlink.dump(link_dump())
            assert steps.count == before
            async with trio.open_nursery() as nursery:
                nursery.start_soon(other)
                for _ in range(400):
                    await netlink.find(link_at(1))
                nursery.cancel_scope.cancel()
            assert turns >= 40
            with trio.CancelScope() as scope:
                scope.cancel()
                await netlink.find(link_at(1))
            assert scope.cancelled_caught

    trio.run(main, instruments=[steps])


def test_requests_beside_each_other_get_their_own_answers() -> None:
    async def main() -> None:
        with closing(Netlink(open_socket())) as netlink:
            found: list[object] = []

            async def ask(index: int) -> None:
                for _ in range(50):
                    found.append((index, await netlink.find(link_at(index)) is not None))
                    await netlink.dump(link_dump())

            async with trio.open_nursery() as nursery:
                for index in (1, 1 << 30):
                    nursery.start_soon(ask, index)
            assert Counter(found) == {(1, True): 50, (1 << 30, False): 50}

    trio.run(main)
