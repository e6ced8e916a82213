"""What mDNS announcements are believed, and how much of them is kept. The library's network side is pretended."""

from __future__ import annotations

import errno
import functools
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, Self, TypeVar

import pytest
import trio
import trio.testing
from zeroconf import BadTypeInNameException, ServiceStateChange
from zeroconf import Error as ZeroconfError

from netgossip.join import discovery as module
from netgossip.join.discovery import (
    MAX_NEIGHBOURS,
    RETRY_S,
    SERVICE_TYPE,
    DiscoveredPeer,
    Discovery,
    neighbour_untrusted,
)

ME = DiscoveredPeer("0" * 32, "h1", "", "", ("192.0.2.1", 7956), ("192.0.2.1", 7957))
T = TypeVar("T")
ADDED, REMOVED = ServiceStateChange.Added, ServiceStateChange.Removed


def info(
    number: int = 2,
    *,
    address: str | None = "192.0.2.2",
    port: int | None = 7956,
    **properties: str | bytes | None,
) -> Any:
    texts = {
        "v": "1",
        "id": f"{number:032x}",
        "name": "h2",
        "cluster": "mesh",
        "cid": "c1" * 16,
        "record": "7957",
    }
    pairs = {key: value for key, value in (texts | properties).items() if value is not None}
    return SimpleNamespace(
        properties={k.encode(): v if isinstance(v, bytes) else v.encode() for k, v in pairs.items()},
        parsed_addresses=lambda: [address] if address else [],
        port=port,
    )


def test_an_announcement_of_ours_is_understood() -> None:
    assert neighbour_untrusted(module._info_of(ME)) == ME
    assert neighbour_untrusted(info()) == DiscoveredPeer(
        f"{2:032x}", "h2", "mesh", "c1" * 16, ("192.0.2.2", 7956), ("192.0.2.2", 7957)
    )
    linked = neighbour_untrusted(info(address="fe80::1%eth0"))
    assert linked is not None
    assert linked.gossip == ("fe80::1", 7956)


@pytest.mark.parametrize(
    "bad",
    [
        {"id": None},
        {"id": "2"},
        {"id": "0x" + "1" * 30},
        {"id": "1_" * 16},
        {"id": b"\xff" * 32},
        {"id": "A" * 32},
        {"cid": "c1"},
        {"cid": "+" + "1" * 31},
        {"record": None},
        {"record": "x"},
        {"record": "70000"},
        {"record": "0"},
        {"address": None},
        {"address": "nonsense"},
        {"port": 0},
        {"port": None},
        {"name": b"\xff\xfe"},
    ],
    ids=repr,
)
def test_an_announcement_that_makes_no_sense_is_dropped(bad: dict[str, Any]) -> None:
    assert neighbour_untrusted(info(**bad)) is None


def test_names_are_bounded_and_printable() -> None:
    found = neighbour_untrusted(info(name="a\x1b[31m b\n" + "x" * 300, cluster=""))
    assert found is not None
    assert found.name.startswith("a[31mb")
    assert len(found.name) <= 63


# -- the table of neighbours ----------------------------------------------------------------------------------------


def announce(heard: Discovery, instance: str, number: int, *, address: str = "192.0.2.2") -> None:
    heard._set(
        f"{instance}.{SERVICE_TYPE}", neighbour_untrusted(info(number, address=address)) if number else None
    )


def test_neighbours_come_change_and_go() -> None:
    changes: list[list[str]] = []
    heard = Discovery(lambda: changes.append([n.gossip[0] for n in heard.neighbours.values()]))
    announce(heard, "a", 2)
    announce(heard, "a", 2)
    announce(heard, "a", 2, address="192.0.2.9")
    announce(heard, "a", 0)
    announce(heard, "a", 0)
    assert changes == [["192.0.2.2"], ["192.0.2.9"], []]


def test_an_instance_that_changes_its_identity_leaves_no_ghost() -> None:
    heard = Discovery(lambda: None)
    announce(heard, "a", 2)
    announce(heard, "a", 3)
    assert list(heard.neighbours) == [f"{3:032x}"]


def test_a_flood_of_names_is_bounded_and_known_ones_are_still_heard() -> None:
    heard = Discovery(lambda: None)
    for number in range(2, 3 * MAX_NEIGHBOURS):
        announce(heard, f"i{number}", number)
    for number in range(3 * MAX_NEIGHBOURS):
        announce(heard, f"j{number}", 2)
    assert len(heard.neighbours) == len(heard._instances) == MAX_NEIGHBOURS
    announce(heard, "i2", 2, address="192.0.2.77")
    assert heard.neighbours[f"{2:032x}"].gossip[0] == "192.0.2.77"


# -- running --------------------------------------------------------------------------------------------------------


class Library:
    """In place of Zeroconf and ServiceBrowser; `heard` is the browser's handler once it listens."""

    def __init__(self) -> None:
        self.infos: dict[str, Any] = {}
        self.opened = self.closed = 0
        self.open_error: Exception | None = None
        self.register_error: Exception | None = None
        self.heard: Callable[..., None]

    def open(self, address: str) -> Self:
        if self.open_error is not None:
            raise self.open_error
        self.opened += 1
        return self

    def browse(self, zeroconf: Self, service_type: str, handlers: list[Callable[..., None]]) -> None:
        (self.heard,) = handlers

    def register_service(self, info: object, *, allow_name_change: bool) -> None:
        if self.register_error is not None:
            raise self.register_error

    def get_service_info(self, service_type: str, instance: str, timeout: int) -> Any:
        found = self.infos.get(instance)
        if isinstance(found, Exception):
            raise found
        return found

    def close(self) -> None:
        self.closed += 1

    async def say(self, instance: str, change: ServiceStateChange = ADDED) -> None:
        self.heard(name=instance, state_change=change)
        await trio.testing.wait_all_tasks_blocked(0)


Beside = Callable[[Library, Discovery, Callable[[], None]], Awaitable[None]]


def running(monkeypatch: pytest.MonkeyPatch) -> Library:
    """Run the test beside a Discovery; threads are run inline, so that virtual time is exact."""
    library = Library()

    async def run_sync(function: Callable[[], T], **_: object) -> T:
        await trio.lowlevel.checkpoint()
        return function()

    inline = SimpleNamespace(**vars(trio) | {"to_thread": SimpleNamespace(run_sync=run_sync)})
    monkeypatch.setattr(module, "trio", inline)
    monkeypatch.setattr(module, "_open", library.open)
    monkeypatch.setattr(module, "ServiceBrowser", library.browse)
    return library


def beside(test: Beside) -> Callable[[pytest.MonkeyPatch], None]:
    @functools.wraps(test)
    def function(monkeypatch: pytest.MonkeyPatch) -> None:
        async def main() -> None:
            library, heard = running(monkeypatch), Discovery(lambda: None)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(test, library, heard, functools.partial(nursery.start_soon, heard.run, ME))
                await trio.sleep(10 * RETRY_S)
                nursery.cancel_scope.cancel()
            assert library.closed == library.opened
            assert heard.neighbours == {}

        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))

    del function.__wrapped__
    return function


async def settle() -> None:
    await trio.sleep(0.01)


@beside
async def test_neighbours_are_heard_and_ourselves_are_not(
    library: Library, heard: Discovery, start: Callable[[], None]
) -> None:
    start()
    await settle()
    library.infos = {"a": info(2), "me": module._info_of(ME), "bad": info(3, id="x"), "gone": None}
    for instance in library.infos:
        await library.say(instance)
    await settle()
    assert list(heard.neighbours) == [f"{2:032x}"]
    await library.say("a", REMOVED)
    await settle()
    assert heard.neighbours == {}
    library.infos["a"] = info(2)
    await library.say("a")


@beside
async def test_a_name_that_breaks_the_rules_ends_nothing(
    library: Library, heard: Discovery, start: Callable[[], None]
) -> None:
    start()
    await settle()
    library.infos = {"\x00": BadTypeInNameException("no"), "a": info(2)}
    await library.say("\x00")
    await library.say("a")
    await settle()
    assert len(heard.neighbours) == 1


@beside
async def test_a_network_without_multicast_is_said_and_tried_again(
    library: Library, heard: Discovery, start: Callable[[], None]
) -> None:
    library.open_error = OSError(errno.ENODEV, "No such device")
    start()
    await settle()
    assert heard.problem == "multicast DNS does not work on 192.0.2.1: No such device"
    library.open_error = None
    await trio.sleep(RETRY_S + 1)
    assert (heard.problem, library.opened) == ("", 1)


@pytest.mark.parametrize("error", [OSError(errno.ENETUNREACH, "unreachable"), ZeroconfError("odd")])
def test_trouble_while_announcing_is_trouble_like_any_other(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def main() -> None:
        library, heard = running(monkeypatch), Discovery(lambda: None)
        library.register_error = error
        async with trio.open_nursery() as nursery:
            nursery.start_soon(heard.run, ME)
            await trio.sleep(1)
            assert heard.problem
            library.register_error = None
            await trio.sleep(RETRY_S)
            assert heard.problem == ""
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
