"""The kernel's switches for routing, on as long as a network has a way out, and put back afterwards.

Routing is switched on device by device: on a network's bridge, for what containers send, and on the devices that lead
out of this host, for what comes back. On bridges also what has the host's 127.0.0.1 lead to published ports
(netagent.firewall.publishing). The bridges are ours and take their switches along; of the others is noted
which ones we have turned (*lent*), in a file that is gone after a reboot as they are. Where the host routes for
everybody already, as under Docker, nothing is lent, and what is lent is let go without a word as soon as it does.

A lent device must not make the host a router for its neighbours. So the firewall is told first, and lets nobody begin
anything who comes in by a lent device (netagent.firewall.text); it is told last when a device is given back.

    IPv4                 conf/DEVICE/forwarding
    IPv6 since 6.17      conf/DEVICE/force_forwarding
    IPv6 before          conf/all/forwarding: of the whole host. That has devices ignore routers' advertisements, so
                         accept_ra becomes 2 where it was 1
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import trio

from netagent.errors import FailedError, NetagentError
from netagent.log import Limited
from netagent.periodic import beat_within

PERIOD_S: Final = 1.5
"""Between looks: nobody tells that a switch was turned. Reading them costs some ten microseconds each."""
IPV4, IPV6 = "ipv4", "ipv6"
SETTINGS: Final = {family: Path(f"/proc/sys/net/{family}/conf") for family in (IPV4, IPV6)}
_FORCED, _ALL, _RA, _LOOPBACK = "force_forwarding", "all", "accept_ra", "route_localnet"
_OURS: Final = ("na-", "nx-", "nv", "nc")
_MAX_NOTE_BYTES: Final = 1 << 16

_log = logging.getLogger(__name__)
_limited = Limited(_log)


class Switch(NamedTuple):
    """A setting: /proc/sys/net/FAMILY/conf/DEVICE/NAME."""

    family: str
    device: str
    name: str = "forwarding"


class Forwarding:
    """Keeps the switches of one network namespace. One task: `run`."""

    def __init__(
        self,
        settings: Mapping[str, Path],
        notes: Path,
        ways: Callable[[], frozenset[str]],
        tell: Callable[[], Awaitable[str]],
    ) -> None:
        """`settings`: of each family, the folder of its devices. `notes`: the file of what is lent. `tell` has the
        firewall follow `lent`, and returns why it can't, or nothing."""
        self._settings = settings
        self._notes = notes
        self._ways = ways
        self._tell = tell
        self._bridges: frozenset[str] = frozenset()
        self._generation = self._tried_generation = -1
        self._lent = self._noted()
        self._told: frozenset[Switch] = frozenset()
        """What the firewall follows."""
        self._kept: tuple[frozenset[str], frozenset[str]] | None = None
        """Bridges and ways out for which the last pass has turned all there is to turn."""
        self._woken = trio.Event()
        self._changed = trio.Event()
        self.trouble = ""
        """Why packets can't leave, or not all; empty when they can."""

    async def run(self) -> None:
        """Until cancelled; leaves the switches as they are."""
        while True:
            generation, given = self._generation, (self._bridges, self._ways())
            if generation >= 0:
                try:
                    is_whole = await self._pass()
                    self._kept = given if is_whole and given[0] == self._bridges else None
                    self.trouble = ""
                except (NetagentError, OSError) as error:
                    self._kept = None
                    self.trouble = f"can't have the host route for containers: {error}"
                    _limited.warning("forwarding", self.trouble)
                self._note_tried(generation)
            with trio.move_on_at(beat_within(trio.current_time(), PERIOD_S)):
                await self._woken.wait()
            self._woken = trio.Event()

    def set_desired(self, bridges: Iterable[str], generation: int) -> None:
        """Bridges of networks that have a way out, and are there; `generation` grows from call to call."""
        self._bridges, self._generation = frozenset(bridges), generation
        if self._kept == (self._bridges, self._ways()):
            self._note_tried(generation)  # as with nearly every endpoint that comes or goes
        else:
            self._kept = None  # also should these come again before the others are done
            self._woken.set()

    def _note_tried(self, generation: int) -> None:
        self._tried_generation = max(self._tried_generation, generation)
        self._changed.set()
        self._changed = trio.Event()

    async def wait_tried(self, generation: int) -> None:
        """Return once the switches are those of `generation` or later, or are refused: see `trouble`."""
        while self._tried_generation < generation:
            await self._changed.wait()

    def lent(self, family: str) -> frozenset[str]:
        """Devices that route only because we had them."""
        found = {one.device for one in self._lent if one.family == family and one.name != _RA}
        return self._ways() if _ALL in found else frozenset(found)

    async def _pass(self) -> bool:
        """Whether all bridges were there."""
        wanted = self._wanted() if self._bridges else frozenset()
        if wanted - self._told:
            self._lent |= wanted
            self._note()
            trouble = await self._tell()
            if trouble:
                raise FailedError(trouble, code="firewall")
            self._told = self._lent
        await self._turn([(switch, "2" if switch.name == _RA else "1") for switch in sorted(wanted)])
        on_bridges = [(IPV4, "forwarding"), (IPV6, _FORCED), (IPV4, _LOOPBACK)]
        ours = [Switch(family, bridge, name) for bridge in self._bridges for family, name in on_bridges]
        # Without those of a bridge that could not be made, or of an older kernel.
        there = {switch: value for switch in ours if (value := self._read(switch))}
        if any(value != "1" for value in there.values()):
            await self._turn([(switch, "1") for switch in there])
        await self._turn(list(self._given_back(self._lent - wanted)))
        if self._lent - wanted:
            self._lent = self._told = wanted
            self._note()
            await self._tell()
        return self._bridges <= {switch.device for switch in there}

    def _wanted(self) -> frozenset[Switch]:
        """What has to be lent: it is off, or would be but for us."""
        wanted = set()
        if not self._is_on(Switch(IPV4, _ALL)):
            wanted |= {Switch(IPV4, device) for device in self._ways()}
        everywhere = Switch(IPV6, _ALL)
        if everywhere in self._lent or not self._is_on(everywhere):
            if self._path(Switch(IPV6, _ALL, _FORCED)).exists():
                wanted |= {Switch(IPV6, device, _FORCED) for device in self._ways()}
            elif self._path(everywhere).exists():
                wanted.add(everywhere)
                advertised = (Switch(IPV6, device, _RA) for device in self._devices(IPV6))
                wanted |= {one for one in advertised if one in self._lent or self._read(one) == "1"}
        there = {one for one in wanted if self._path(one).exists()}
        return frozenset(one for one in there if one in self._lent or one.name == _RA or not self._is_on(one))

    def _given_back(self, switches: Iterable[Switch]) -> Iterator[tuple[Switch, str]]:
        for switch in sorted(switches):
            everybody = Switch(switch.family, _ALL)
            if switch != everybody and switch.name != _RA and self._is_on(everybody):
                continue  # by now the host routes for others, who need it
            if self._path(switch).exists():  # else the device is gone
                yield switch, "1" if switch.name == _RA else "0"

    def _devices(self, family: str) -> list[str]:
        """That are not ours."""
        with suppress(FileNotFoundError):
            names = {entry.name for entry in self._settings[family].iterdir()}
            others = names - {_ALL, "default", "lo"}
            return sorted(name for name in others if not name.startswith(_OURS))
        return []

    def _path(self, switch: Switch) -> Path:
        return self._settings[switch.family] / switch.device / switch.name

    def _is_on(self, switch: Switch) -> bool:
        return self._read(switch) == "1"

    def _read(self, switch: Switch) -> str:
        try:
            # Not by way of `Path`, which costs five times as much: these are read again and again.
            fd = os.open(
                f"{self._settings[switch.family]}/{switch.device}/{switch.name}", os.O_RDONLY | os.O_CLOEXEC
            )
        except FileNotFoundError:
            return ""
        try:
            return os.read(fd, 64).decode("ascii").strip()
        finally:
            os.close(fd)

    async def _turn(self, wanted: Iterable[tuple[Switch, str]]) -> None:
        """In a thread: the kernel waits for whoever else changes its network at that time, 28 ms were seen."""
        turned = [(self._path(switch), value) for switch, value in wanted if self._read(switch) != value]
        if turned:
            await trio.to_thread.run_sync(_write, turned)

    def _note(self) -> None:
        """Before anything is turned, so that a crash in between leaves nothing that nobody turns back."""
        if not self._lent:
            self._notes.unlink(missing_ok=True)
            return
        text = json.dumps([list(switch) for switch in sorted(self._lent)])
        draft = self._notes.with_suffix(".new")
        draft.write_text(text, "utf-8")
        draft.replace(self._notes)

    def _noted(self) -> frozenset[Switch]:
        """Of an earlier agent in this boot; a file that nobody can read is as none."""
        try:
            with self._notes.open(encoding="utf-8") as file:
                listed = json.loads(file.read(_MAX_NOTE_BYTES))
            return frozenset(Switch(*map(str, words)) for words in listed)
        except (OSError, ValueError, TypeError):
            return frozenset()


def _write(settings: Iterable[tuple[Path, str]]) -> None:
    for path, value in settings:
        with suppress(FileNotFoundError):  # its device has gone since
            path.write_text(value + "\n", "ascii")
