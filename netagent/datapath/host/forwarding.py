"""Turn on the kernel's sysctls for routing while a network has a gateway, and restore them afterwards.

Routing is switched on per device: on a network's bridge, for packets of containers, and on the devices that lead out
of this host, for the replies. On bridges, this also sets what published ports at the host's 127.0.0.1 need
(netagent.firewall.publishing). Bridges are ours, and their sysctls vanish with them. For other devices, a file lists
the sysctls that netagent has changed (*lent*); a reboot removes the file as well as the changes. Where the host
already routes for all, as under Docker, nothing is lent; a sysctl that is lent is silently released as soon as the
host does.

A lent device must not make the host a router for its neighbours. So the firewall learns about it first, and drops
new connections that arrive by a lent device (netagent.firewall.text); when a device is released, the firewall learns
it last.

    IPv4                 conf/DEVICE/forwarding
    IPv6 since 6.17      conf/DEVICE/force_forwarding
    IPv6 before          conf/all/forwarding: for the whole host. Devices then ignore router advertisements, so
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

from netagent.errors import FailedError
from netagent.periodic_task import PeriodicTask

PERIOD_S: Final = 1.5
"""Interval of checks: the kernel sends no notifications about sysctls. Reading one costs some ten microseconds."""
IPV4, IPV6 = "ipv4", "ipv6"
SETTINGS: Final = {family: Path(f"/proc/sys/net/{family}/conf") for family in (IPV4, IPV6)}
_FORCED, _ALL, _RA, _LOOPBACK = "force_forwarding", "all", "accept_ra", "route_localnet"
_OURS: Final = ("na-", "nx-", "nv", "nc")
_MAX_NOTE_BYTES: Final = 1 << 16

_log = logging.getLogger(__name__)


class Switch(NamedTuple):
    """A setting: /proc/sys/net/FAMILY/conf/DEVICE/NAME."""

    family: str
    device: str
    name: str = "forwarding"


class Forwarding:
    """Keeps the sysctls of one network namespace. One task: `run`."""

    def __init__(
        self,
        settings: Mapping[str, Path],
        notes: Path,
        ways: Callable[[], frozenset[str]],
        tell: Callable[[], Awaitable[str]],
    ) -> None:
        """`settings`: by family, the folder of its devices. `notes`: the file that lists the lent sysctls. `tell`
        makes the firewall follow `lent`, and returns why it can't, or an empty text."""
        self._settings = settings
        self._notes = notes
        self._ways = ways
        self._tell = tell
        self._bridges: frozenset[str] = frozenset()
        self._generation = self._tried_generation = -1
        self._lent = self._noted()
        self._told: frozenset[Switch] = frozenset()
        """The lent sysctls that the firewall knows."""
        self._kept: tuple[frozenset[str], frozenset[str]] | None = None
        """Bridges and egress devices for which the last pass has set all sysctls."""
        self._task = PeriodicTask(PERIOD_S)
        self._changed = trio.Event()

    async def run(self) -> None:
        """Work until cancelled; leave the sysctls as they are."""
        await self._task.run(self._step, _log, "cannot turn on routing for containers", PERIOD_S)

    async def _step(self) -> None:
        generation, given = self._generation, (self._bridges, self._ways())
        if generation < 0:
            return
        is_whole = False
        try:
            is_whole = await self._pass()
        finally:
            self._kept = given if is_whole and given[0] == self._bridges else None
            self._note_tried(generation)

    @property
    def trouble(self) -> str:
        """Why some packets can't leave; empty when all can."""
        return self._task.trouble

    def set_desired(self, bridges: Iterable[str], generation: int) -> None:
        """Set the existing bridges of networks that have a gateway; `generation` grows from call to call."""
        self._bridges, self._generation = frozenset(bridges), generation
        if self._kept == (self._bridges, self._ways()):
            self._note_tried(generation)  # nothing to do, as for nearly every endpoint that comes or goes
        else:
            self._kept = None  # also if the old sets return before the pass for the new ones is done
            self._task.wake()

    def _note_tried(self, generation: int) -> None:
        self._tried_generation = max(self._tried_generation, generation)
        self._changed.set()
        self._changed = trio.Event()

    async def wait_tried(self, generation: int) -> None:
        """Return once the sysctls are those of `generation` or later, or were refused: see `trouble`."""
        while self._tried_generation < generation:
            await self._changed.wait()

    def lent(self, family: str) -> frozenset[str]:
        """Devices that route only because this agent turned it on."""
        found = {one.device for one in self._lent if one.family == family and one.name != _RA}
        return self._ways() if _ALL in found else frozenset(found)

    async def _pass(self) -> bool:
        """Set everything once; return whether all bridges existed."""
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
        # Without sysctls that do not exist: of a bridge that could not be created, or of a newer kernel.
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
        """Return what has to be lent: sysctls that are off, or would be off without us."""
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
            all_devices = Switch(switch.family, _ALL)
            if switch != all_devices and switch.name != _RA and self._is_on(all_devices):
                continue  # the host routes for others by now, who need it
            if self._path(switch).exists():  # otherwise the device is gone
                yield switch, "1" if switch.name == _RA else "0"

    def _devices(self, family: str) -> list[str]:
        """Return the devices of a family that are not ours."""
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
            # Not with `Path`, which takes five times as long: this runs all the time.
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
        """Set sysctls in a thread: the kernel waits for other changes of its network, up to 28 ms as seen."""
        turned = [(self._path(switch), value) for switch, value in wanted if self._read(switch) != value]
        if turned:
            await trio.to_thread.run_sync(_write, turned)

    def _note(self) -> None:
        """Write the list before any sysctl is set, so that a crash in between leaves none that is never restored."""
        if not self._lent:
            self._notes.unlink(missing_ok=True)
            return
        text = json.dumps([list(switch) for switch in sorted(self._lent)])
        draft = self._notes.with_suffix(".new")
        draft.write_text(text, "utf-8")
        draft.replace(self._notes)

    def _noted(self) -> frozenset[Switch]:
        """Read the list of an earlier agent in this boot; an unreadable file counts as none."""
        try:
            with self._notes.open(encoding="utf-8") as file:
                listed = json.loads(file.read(_MAX_NOTE_BYTES))
            return frozenset(Switch(*map(str, words)) for words in listed)
        except (OSError, ValueError, TypeError):
            return frozenset()


def _write(settings: Iterable[tuple[Path, str]]) -> None:
    for path, value in settings:
        with suppress(FileNotFoundError):  # its device has gone in the meantime
            path.write_text(value + "\n", "ascii")
