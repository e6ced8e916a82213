"""Which switches are turned, and back, on both kinds of kernels. See also tests/kernel/test_internet_access.py."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from netagent.datapath.host import forwarding
from netagent.datapath.host.forwarding import IPV4, IPV6, Forwarding

EGRESS = frozenset({"eth0"})


class World:
    """Folders in the place of /proc/sys/net; a firewall that notes its inputs, and may refuse."""

    def __init__(self, folder: Path, *, is_new: bool) -> None:
        self.settings = {family: folder / family for family in (IPV4, IPV6)}
        self.notes = folder / "notes"
        for device in ("all", "default", "eth0", "eth1", "na-1"):
            for family in self.settings:
                self.set(family, device, "forwarding", 0)
            self.set(IPV6, device, "accept_ra", 0 if device == "na-1" else 1)
            if is_new:
                self.set(IPV6, device, "force_forwarding", 0)
        self.reported: list[tuple[frozenset[str], frozenset[str]]] = []
        self.trouble = ""
        self.generation = 0
        self.forwarding = self.begin()

    def begin(self) -> Forwarding:
        return Forwarding(self.settings, self.notes, lambda: EGRESS, self._tell)

    async def _tell(self) -> str:
        await trio.lowlevel.checkpoint()
        self.reported.append((self.forwarding.lent(IPV4), self.forwarding.lent(IPV6)))
        return self.trouble

    def set(self, family: str, device: str, name: str, value: int) -> None:
        (self.settings[family] / device).mkdir(parents=True, exist_ok=True)
        (self.settings[family] / device / name).write_text(f"{value}\n")

    def routes(self, bridge: str) -> str:
        return (self.settings[IPV4] / bridge / "forwarding").read_text().strip()

    def on(self) -> dict[str, str]:
        """All that is not as a kernel has it at first, but for our bridge, whose switches go with it."""
        found = {}
        for family, folder in self.settings.items():
            for file in folder.glob("*/*"):
                value, usual = file.read_text().strip(), "1" if file.name == "accept_ra" else "0"
                if value != usual and file.parent.name != "na-1":
                    found[f"{family}/{file.parent.name}/{file.name}"] = value
        return found

    def play(self, *steps: Any) -> None:
        """Each step is bridges, or something to do; after each the loop has settled."""

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.forwarding.run)
                for step in steps:
                    self.generation += 1
                    if callable(step):
                        step()
                        for _ in range(
                            2
                        ):  # the first may have begun before; a clock that jumps waits for no thread
                            await self.forwarding._changed.wait()
                    else:
                        self.forwarding.set_desired(step, self.generation)
                        await self.forwarding.wait_tried(self.generation)
                nursery.cancel_scope.cancel()

        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.fixture
def new(tmp_path: Path) -> World:
    return World(tmp_path, is_new=True)


@pytest.fixture
def old(tmp_path: Path) -> World:
    """Before 6.17: IPv6 routes for all devices or for none."""
    return World(tmp_path, is_new=False)


def test_a_new_kernel_routes_by_device(new: World) -> None:
    new.play(["na-1"])
    assert new.on() == {
        "ipv4/eth0/forwarding": "1",
        "ipv6/eth0/force_forwarding": "1",
    }
    for family, name in ((IPV4, "forwarding"), (IPV6, "force_forwarding")):
        assert (new.settings[family] / "na-1" / name).read_text() == "1\n"
    assert new.reported == [(EGRESS, EGRESS)]
    assert len(json.loads(new.notes.read_text())) == 2
    new.play([])
    assert new.on() == {}
    assert new.reported[-1] == (frozenset(), frozenset())
    assert not new.notes.exists()


def test_an_old_kernel_goes_on_heeding_routers(old: World) -> None:
    old.play(["na-1"])
    assert old.on() == {
        "ipv4/eth0/forwarding": "1",
        "ipv6/all/forwarding": "1",
        "ipv6/eth0/accept_ra": "2",
        "ipv6/eth1/accept_ra": "2",
    }
    assert old.reported == [(EGRESS, EGRESS)]
    old.forwarding = old.begin()
    old.play([])
    assert old.on() == {}, "also by a later agent"


def test_where_the_host_routes_already_nothing_is_lent(new: World) -> None:
    new.set(IPV4, "all", "forwarding", 1)
    new.set(IPV6, "all", "forwarding", 1)
    new.play(["na-1"])
    assert new.reported == []
    assert not new.notes.exists()
    assert "ipv4/eth0/forwarding" not in new.on()


def test_what_somebody_had_on_is_not_ours_to_turn_off(new: World) -> None:
    new.set(IPV4, "eth0", "forwarding", 1)
    new.play(["na-1"], [])
    assert new.on()["ipv4/eth0/forwarding"] == "1"


def test_without_the_firewall_nothing_is_turned_on(new: World) -> None:
    new.trouble = "nft is not there"
    new.play(["na-1"])
    assert new.on() == {}
    assert "nft is not there" in new.forwarding.trouble
    new.forwarding = new.begin()
    new.trouble = ""
    new.play(["na-1"])
    assert "ipv4/eth0/forwarding" in new.on()


def test_who_comes_to_route_for_himself_keeps_what_was_lent(new: World) -> None:
    new.play(["na-1"], lambda: new.set(IPV4, "all", "forwarding", 1), [])
    assert new.on()["ipv4/eth0/forwarding"] == "1"
    assert "ipv6/eth0/force_forwarding" not in new.on()


def test_a_file_that_is_none_is_as_no_file(new: World) -> None:
    new.notes.write_text("{")
    assert new.begin().lent(IPV4) == frozenset()
    new.notes.write_text('[["ipv4"], 7]')
    assert new.begin().lent(IPV4) == frozenset()


def test_switches_are_turned_beside_the_event_loop(new: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel makes a program that turns one wait for others that change its network."""
    write, turned = forwarding._write, []

    def noting(settings: list[tuple[Path, str]]) -> None:
        turned.append((threading.get_ident(), len(settings)))
        write(settings)

    monkeypatch.setattr(forwarding, "_write", noting)
    new.play(["na-1"], [])
    assert [count for _, count in turned] == [2, 2, 2], (
        "lent, on the bridge, given back: a thread for all of each"
    )
    assert threading.get_ident() not in {thread for thread, _ in turned}
    turned.clear()
    new.play([], lambda: None)
    assert turned == [], "nothing is to be turned: none"


def test_what_changes_nothing_is_tried_at_once_and_only_if_all_was_done(
    new: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []

    async def at_once(
        write: Callable[..., Any], settings: list[tuple[Path, str]]
    ) -> None:  # a clock that jumps waits for no thread
        write(settings)

    monkeypatch.setattr(trio.to_thread, "run_sync", at_once)

    async def main() -> None:
        kept = new.forwarding._pass

        async def counting() -> bool:
            passes.append(new.forwarding._bridges)
            return await kept()

        monkeypatch.setattr(new.forwarding, "_pass", counting)

        async def give(bridges: list[str], generation: int) -> None:
            new.forwarding.set_desired(bridges, generation)
            await new.forwarding.wait_tried(generation)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(new.forwarding.run)
            await trio.sleep(0.01)
            await give(["na-1"], 1)
            await give(["na-1"], 2)
            assert len(passes) == 1
            await give(["na-1", "na-2"], 3)
            await give(["na-1", "na-2"], 4)
            assert len(passes) == 3, "a bridge is not there yet"
            new.set(IPV4, "na-2", "forwarding", 0)
            await give(["na-1", "na-2"], 5)
            assert new.routes("na-2") == "1"
            new.forwarding.set_desired([], 6)
            new.forwarding.set_desired(["na-1", "na-2"], 7)  # before the former are done
            await new.forwarding.wait_tried(7)
            await give([], 8)
            assert passes[-1] == frozenset()
            new.trouble = "nft is not there"
            await give(["na-1"], 9)
            new.trouble = ""
            await give(["na-1"], 10)
            assert new.forwarding.trouble == "", "what was refused is tried again"
            new.set(IPV4, "na-1", "forwarding", 0)
            await trio.sleep(2 * forwarding.PERIOD_S)
            assert new.routes("na-1") == "1", "another program turned it, and no firewall was informed"
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_another_way_out_is_a_change(new: World, monkeypatch: pytest.MonkeyPatch) -> None:
    new.play(["na-1"])
    monkeypatch.setattr(new.forwarding, "_ways", lambda: frozenset({"eth1"}))
    new.play(["na-1"])
    assert new.on() == {"ipv4/eth1/forwarding": "1", "ipv6/eth1/force_forwarding": "1"}
