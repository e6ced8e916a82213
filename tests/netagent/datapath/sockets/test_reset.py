"""When sockets are looked for, and which of them came by a service."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Iterable
from typing import Any

import pytest
import trio
import trio.testing

from netagent.datapath.netlink.sock_diag import ListedSocket, mapped
from netagent.datapath.sockets import reset
from netagent.datapath.sockets.layout import ORIGINS_BYTES, SocketEnd, pack_end
from netagent.datapath.sockets.reset import (
    AGAIN_S,
    MOST_ADDRESSES,
    PATIENCE_S,
    RETRY_S,
    ConnectionResets,
    ServiceUsers,
)
from netagent.model.sandbox import Netns

ONE, OTHER = b"\x0a\0\0\1", bytes(15) + b"\1"
SANDBOX = Netns("/run/netns/web", (1, 2), "boot")


class Rounds:
    """In the place of visits to namespaces: when they were made, and for which addresses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, why_not: str | None = None) -> None:
        self.made: list[tuple[float, set[bytes]]] = []
        self.takes_s = 0.0
        self.result: int | OSError = 2
        self.refuses_list: OSError | None = None
        self.are_all = True
        monkeypatch.setattr(reset, "run_in_each_netns", self.visit)
        monkeypatch.setattr(reset, "why_it_cannot_reset", lambda: why_not)
        self.resets = ConnectionResets(self.users, lambda: 5)

    async def users(self, backends: Collection[bytes]) -> ServiceUsers:
        assert {ONE, OTHER}.intersection(backends) or len(backends) == MOST_ADDRESSES
        if self.refuses_list is not None:
            raise self.refuses_list
        return ServiceUsers([SANDBOX], self.are_all)

    async def visit(self, visits: Iterable[tuple[Netns, Any]]) -> list[int | OSError]:
        ((netns, function),) = visits
        assert netns == SANDBOX
        gone, origins = function.args
        assert origins == 5
        self.made.append((trio.current_time(), set(gone)))
        await trio.sleep(self.takes_s)
        return [self.result]


def run(function: Callable[[], Any]) -> None:
    trio.run(function, clock=trio.testing.MockClock(autojump_threshold=0.01))


def test_an_address_is_looked_for_at_once_and_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = Rounds(monkeypatch)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rounds.resets.run)
            await trio.sleep(1.0)
            rounds.resets.note_gone([ONE])
            await trio.sleep(10.0)
            first, second = rounds.made
            assert first[1] == second[1] == {ONE}
            assert first[0] - 1.0 < 0.01
            assert AGAIN_S <= second[0] - first[0] < AGAIN_S + 0.01
            assert rounds.resets.ended == 4
            nursery.cancel_scope.cancel()

    run(main)


def test_what_is_noted_during_a_round_does_not_wait_for_the_next_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rounds = Rounds(monkeypatch)
    rounds.takes_s = 0.1

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rounds.resets.run)
            rounds.resets.note_gone([ONE])
            await trio.sleep(0.05)
            rounds.resets.note_gone([OTHER])
            await trio.sleep(10.0)
            assert OTHER in rounds.made[1][1]
            assert rounds.made[1][0] - rounds.made[0][0] < 0.12
            for address in (ONE, OTHER):
                assert sum(address in gone for _, gone in rounds.made) >= 2
            assert len(rounds.made) <= 4
            nursery.cancel_scope.cancel()

    run(main)


def test_a_backend_that_is_back_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = Rounds(monkeypatch)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rounds.resets.run)
            rounds.resets.note_gone([ONE, OTHER])
            await trio.sleep(AGAIN_S / 2)
            rounds.resets.note_back([ONE])
            await trio.sleep(10.0)
            assert [gone for _, gone in rounds.made] == [{ONE, OTHER}, {OTHER}]
            nursery.cancel_scope.cancel()

    run(main)


def test_a_kernel_that_cannot_says_so_once_and_is_not_asked(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rounds = Rounds(monkeypatch, "the kernel was built without CONFIG_INET_DIAG_DESTROY")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rounds.resets.run)
            for _ in range(3):
                rounds.resets.note_gone([ONE])
                await trio.sleep(1.0)
            nursery.cancel_scope.cancel()

    run(main)
    assert rounds.made == []
    assert rounds.resets.trouble == "the kernel was built without CONFIG_INET_DIAG_DESTROY"
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(
        "resets: connections to backends that are gone are not ended: the kernel was built"
    )


def test_a_sandbox_that_refuses_is_named_and_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rounds = Rounds(monkeypatch)
    rounds.result = PermissionError(1, "sock_diag: Operation not permitted")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rounds.resets.run)
            rounds.resets.note_gone([ONE])
            await trio.sleep(1.0)
            assert len(rounds.made) == 2
            nursery.cancel_scope.cancel()

    run(main)
    assert "Operation not permitted" in caplog.text
    assert rounds.resets.ended == 0


def test_a_kernel_that_does_not_say_who_used_services_ends_no_task(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rounds = Rounds(monkeypatch)
    rounds.refuses_list = OSError(12, "Cannot allocate memory")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rounds.resets.run)
            rounds.resets.note_gone([ONE])
            await trio.sleep(RETRY_S / 2)
            rounds.refuses_list = None
            await trio.sleep(3 * RETRY_S)
            assert [gone for _, gone in rounds.made] == [{ONE}], (
                "the next round counts, the failed one does not"
            )
            nursery.cancel_scope.cancel()

    run(main)
    assert "Cannot allocate memory" in caplog.text


def test_an_address_is_looked_for_until_all_users_are_known_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rounds = Rounds(monkeypatch)
    rounds.are_all = False

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rounds.resets.run)
            rounds.resets.note_gone([ONE])
            await trio.sleep(3.5 * RETRY_S)
            seen = len(rounds.made)
            assert seen == 4
            rounds.are_all = True
            await trio.sleep(20.0)
            assert len(rounds.made) == seen + 1, "the first look everywhere is the last one"
            rounds.are_all = False
            rounds.resets.note_gone([OTHER])
            await trio.sleep(100.0)
            assert len(rounds.made) <= seen + 1 + PATIENCE_S / RETRY_S + 2
            nursery.cancel_scope.cancel()

    run(main)


def test_no_more_addresses_are_held_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = Rounds(monkeypatch)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rounds.resets.run)
            await trio.testing.wait_all_tasks_blocked()
            rounds.resets.note_gone(number.to_bytes(4, "big") for number in range(MOST_ADDRESSES + 10))
            await trio.sleep(0.01)
            assert len(rounds.made[0][1]) == MOST_ADDRESSES
            nursery.cancel_scope.cancel()

    run(main)


def origins(*backends: tuple[bytes, int]) -> bytes:
    service = pack_end(SocketEnd(b"\x0a\0\xff\1", 80))
    pairs = b"".join(pack_end(SocketEnd(*backend)) + service for backend in backends)
    return (bytes(4) + pairs).ljust(ORIGINS_BYTES, b"\0")


@pytest.mark.parametrize(
    ("storage", "is_by_service"),
    [
        (origins((ONE, 80)), True),
        (origins((OTHER, 80), (ONE, 80)), True),
        (origins((ONE, 81)), False),
        (origins((OTHER, 80)), False),
        (None, False),
        (b"", False),
        (origins((ONE, 80)) + b"\0", False),
    ],
)
def test_an_origin_counts_if_it_is_the_real_peer_s(storage: bytes | None, is_by_service: bool) -> None:
    one = ListedSocket(socket.AF_INET, mapped(ONE), 80, bytes(48), storage)
    assert reset._came_by_service(one) is is_by_service
