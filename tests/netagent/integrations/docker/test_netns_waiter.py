"""Waiting for namespaces."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.lowlevel
from fakes.virtual import virtual

from netagent.endpoints.two_phase import HOLD_S
from netagent.errors import FailedError, RefusedError
from netagent.integrations.docker import netns_waiter
from netagent.integrations.docker.netns_waiter import AwaitedNamespace, NetnsWaiter


def arrival(number: int, folder: Path) -> AwaitedNamespace:
    return AwaitedNamespace(
        endpoint=f"{number:064x}", docker_network="d" * 64, sandbox_key=str(folder / str(number))
    )


@virtual
async def test_each_is_entered_once_when_its_file_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(netns_waiter, "namespace_device", lambda: tmp_path.stat().st_dev)
    entered, failed = [], []

    async def enter(one: AwaitedNamespace) -> None:
        await trio.sleep(1)
        entered.append(one.endpoint)
        if len(entered) == 1:
            raise FailedError("not yet")

    waiting = NetnsWaiter(enter, lambda one, sentence: failed.append(sentence))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiting.run)
        first, second = arrival(1, tmp_path), arrival(2, tmp_path)
        waiting.expect(first)
        waiting.expect(second)
        await trio.sleep(5)
        assert entered == []
        (tmp_path / "1").touch()
        await trio.sleep(1.1)
        assert (entered, failed) == ([first.endpoint], ["not yet"])
        await trio.sleep(3)
        assert entered == [first.endpoint] * 2
        assert not waiting.is_expected(first.endpoint)
        waiting.forget(second.endpoint)
        (tmp_path / "2").touch()
        await trio.sleep(3)
        assert entered == [first.endpoint] * 2
        nursery.cancel_scope.cancel()


@virtual
async def test_a_file_that_is_no_namespace_yet_is_not_entered(tmp_path: Path) -> None:
    entered = []

    async def enter(one: AwaitedNamespace) -> None:
        entered.append(one)

    waiting = NetnsWaiter(enter, lambda one, sentence: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiting.run)
        (tmp_path / "1").touch()
        waiting.expect(arrival(1, tmp_path))
        waiting.expect(AwaitedNamespace(endpoint="e", docker_network="d", sandbox_key="/proc/self/ns/net"))
        await trio.sleep(1)
        assert [one.endpoint for one in entered] == ["e"]
        nursery.cancel_scope.cancel()


async def never(_one: AwaitedNamespace) -> None:
    raise AssertionError


@virtual
async def test_one_that_never_comes_is_given_up_with_its_endpoint(tmp_path: Path) -> None:
    waiting = NetnsWaiter(never, lambda one, sentence: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiting.run)
        one = arrival(1, tmp_path)
        waiting.expect(one)
        await trio.sleep(HOLD_S - 1)
        assert waiting.is_expected(one.endpoint)
        await trio.sleep(2)
        assert not waiting.is_expected(one.endpoint)
        nursery.cancel_scope.cancel()


@virtual
async def test_their_number_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netns_waiter, "MAX_EXPECTED", 1)
    waiting = NetnsWaiter(never, lambda one, sentence: None)
    waiting.expect(arrival(1, tmp_path))
    waiting.expect(arrival(1, tmp_path))
    with pytest.raises(RefusedError, match="1 containers are already being started"):
        waiting.expect(arrival(2, tmp_path))
