"""Keeps bridge netfilter away from what our bridges pass, by a VLAN tag that is only there inside the bridge.

Where bridge netfilter is on, every frame that a bridge of the host passes also goes through all rules for routed
packets, with connection tracking. That takes time, and a firewall that knows nothing of containers drops packets that
it was never meant to judge. No bridge can be exempt from it; but a frame with a VLAN tag is, unless
`bridge-nf-filter-vlan-tagged` is set. So two small programs are attached to each port of our bridges: an incoming
frame gets a tag of VLAN 0, which means "no VLAN" (IEEE 802.1Q), and an outgoing frame loses it. The tag is a field
next to the packet, not four bytes in it. Our bridges know no VLANs, so they work as always, and the kernel takes the
frames that they deliver to the host as untagged (docs/design/0021-bridge-netfilter-bypass.md).

It costs a quarter of what bridge netfilter costs. So it is done only while that is on, and undone when it is off.

Removing the tag comes before adding it: the programs that remove the tag are attached to all ports before the first
one that adds it, and are detached after the last. If something is not possible (on an older kernel, or for lack of a
permission), everything works as without it: packets pass all rules, and `status` and `doctor` say why.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

import trio

from netagent.datapath.bpf import programs, tcx
from netagent.datapath.bpf.instructions import instruction
from netagent.datapath.bpf.programs import Kind, Program, ProgramTag
from netagent.datapath.bpf.tcx import Side
from netagent.datapath.reconcile.drift import Damage, DamageKind, Drift
from netagent.events.channel import REPAIRED
from netagent.log import Limited
from netagent.periodic import Turns
from netagent.periodic_task import PeriodicTask

_log = logging.getLogger(__name__)
_limited = Limited(_log)

PERIOD_S: Final = 1.5
"""The kernel sends no notifications about programs and settings, and repairs must happen within two seconds. With
more ports than one look handles (netagent.periodic) a round takes as many periods as looks: 15 s with 1,000 ports."""
FOLDER: Final = Path("/proc/sys/net/bridge")
SWITCHES: Final = ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables", "bridge-nf-call-arptables")
TAGGED_TOO: Final = "bridge-nf-filter-vlan-tagged"

_PRESENT, _TCI = 20, 24  # in struct __sk_buff: whether there is a tag; its VLAN and priority
_VLAN_PUSH, _VLAN_POP = 18, 19  # functions of the kernel
_VLAN_MASK: Final = 0xFFF
_ETH_P_8021Q: Final = 0x8100
_GO_ON: Final = -1
"""TCX_NEXT: other programs and filters follow."""
_END: Final = instruction(0xB7, to=0, value=_GO_ON) + instruction(0x95)
_PUT_ON: Final = b"".join(
    (
        instruction(0x61, to=2, source=1, offset=_PRESENT),
        instruction(0x55, to=2, offset=3),  # it has a tag already, and the firewall should judge it
        instruction(0xB7, to=2, value=socket.htons(_ETH_P_8021Q)),
        instruction(0xB7, to=3, value=0),
        instruction(0x85, value=_VLAN_PUSH),
        _END,
    )
)
_TAKE_OFF: Final = b"".join(
    (
        instruction(0x61, to=2, source=1, offset=_PRESENT),
        instruction(0x15, to=2, offset=4),
        instruction(0x61, to=2, source=1, offset=_TCI),
        instruction(0x57, to=2, value=_VLAN_MASK),
        instruction(0x55, to=2, offset=1),  # another VLAN, set by whichever program made the frame
        instruction(0x85, value=_VLAN_POP),
        _END,
    )
)
_PROGRAMS: Final = {
    "netagent_untag": (Side.EGRESS, _TAKE_OFF),
    "netagent_tag": (Side.INGRESS, _PUT_ON),
}
"""By name, in the order in which they are attached; they are detached in reverse order."""

_MOST_WITHOUT_THREAD: Final = 16
"""Ports that are checked by the event loop itself: 0.2 ms."""
_MOST_MARKS: Final = 1000
"""Bound of other programs' BPF programs at our ports that are remembered; beyond it: all are read again. Other
programs may attach any number of programs at our ports."""

Ports: TypeAlias = Mapping[int, str]
"""Index -> name of our devices that are in a bridge."""


def is_wanted(folder: Path = FOLDER) -> bool:
    """Return whether bridge netfilter is on, and examines only frames without a tag."""
    return any(_is_on(folder / one) for one in SWITCHES) and not _is_on(folder / TAGGED_TOO)


def _is_on(file: Path) -> bool:
    try:
        return file.read_text("ascii").strip() != "0"
    except OSError:  # the kernel has no bridge netfilter
        return False


def are_tagged(ports: Iterable[int]) -> bool:
    """Return whether bridge netfilter sees nothing that passes these ports: all have both programs, of any release.
    False if there are none, or it is not known."""
    found = False
    for index in ports:
        found = True
        try:
            if any(name not in _names_at(index, side) for name, (side, _) in _PROGRAMS.items()):
                return False
        except OSError:
            return False
    return found


def _names_at(index: int, side: Side) -> set[str]:
    marks = (programs.mark_of(number) for number in tcx.programs_at(index, side))
    return {mark.name for mark in marks if mark is not None}


class BridgeNfBypass:
    """Keeps the two programs at our ports while they are of use. One task: `run`.

    Works in the namespace of the calling thread, or in the one in which `within` calls a function.
    """

    def __init__(self, drift: Drift, *, within: Callable[[Callable[[], bool]], bool] | None = None) -> None:
        self._drift = drift
        self._within = within or (lambda fn: fn())
        self._ports: Ports = {}
        self._loaded: dict[str, Program] = {}
        self._marks: dict[int, ProgramTag | None] = {}
        """Of the programs seen at our ports, by id; the kernel uses an id only once."""
        self._is_wanted: bool | None = None
        """None: not read yet."""
        self._done: set[int] = set()
        """Ports that are as they should be, after a change or a look."""
        self._turns: Turns[int] = Turns()
        self._trouble = ""
        self._task = PeriodicTask(PERIOD_S)

    @property
    def trouble(self) -> str:
        """Why bridge netfilter sees what our bridges pass, although it need not; empty when it does not."""
        return self._trouble

    @property
    def is_active(self) -> bool:
        """Whether bridge netfilter is on, and kept from what our bridges pass."""
        return bool(self._is_wanted) and not self._trouble

    async def run(self) -> None:
        """Work until cancelled; leave everything as it is.

        In a thread: whenever a program is attached or detached, the kernel waits for a grace period, some 15 ms. But
        that a few ports are as they should be is seen sooner than a thread begins.
        """
        only_new = False
        while True:
            if not self._is_well():
                await trio.to_thread.run_sync(partial(self.look, only_new=only_new))
            only_new = await self._task.wait()

    def _is_well(self) -> bool:
        """Return whether nothing has to be done; False also where a look has to find that out."""
        if self._is_wanted is None or self._ports.keys() - self._done:
            return False
        if not self._is_wanted:
            return not self._within(is_wanted)
        if len(self._ports) > _MOST_WITHOUT_THREAD or self._trouble:
            return False
        try:
            return self._within(is_wanted) and all(
                self._within(partial(self._is_there, name, index))
                for index in self._ports
                for name in _PROGRAMS
            )
        except OSError:
            return False

    def _is_there(self, name: str, index: int) -> bool:
        there = self._ours_at(index, _PROGRAMS[name][0], name)
        return there is None or (name in self._loaded and self._loaded[name].mark in there.values())

    def set_ports(self, ports: Ports) -> None:
        """Set all ports. Frames that enter by a new one pass all rules until `run` has handled it, at once."""
        if ports.keys() - self._ports.keys():
            self._task.wake()
        self._ports = ports

    def look(self, *, only_new: bool = False) -> None:
        """Read the settings, and check the ports whose turn it is, once; blocks. Checks all ports if the settings
        have changed, or the last look found damage. `only_new`: check only ports that were not handled yet, because a
        host may have thousands of others."""
        was_wanted = self._is_wanted
        if self._within(self._ask) is not was_wanted:
            self._done.clear()
        ports = dict(self._ports)
        self._done &= ports.keys()
        if self._is_wanted and not only_new:
            turn = {*self._turns.take(ports), *(ports.keys() - self._done)}
            ports = {index: ports[index] for index in turn}
        if only_new:
            ports = {index: name for index, name in ports.items() if index not in self._done}
        if not self._is_wanted:
            self._trouble = ""
            # While it is off, ports that were handled need no check: only this agent attaches these programs.
            ports = {index: name for index, name in ports.items() if index not in self._done}
        self._handle(ports)

    def _ask(self) -> bool:
        self._is_wanted = is_wanted()
        return self._is_wanted

    def _handle(self, ports: Ports) -> None:
        lost: list[Damage] = []
        try:
            if self._is_wanted:
                lost = self._bring_all(ports)
            else:
                self._remove_all(ports)
        except OSError as error:
            if not self._is_wanted:  # where attaching is not possible, nothing can be attached
                self._done |= ports.keys()
                return
            with suppress(OSError):
                self._remove_all({**ports, **self._ports})
            self._done.clear()
            self._complain(error)
            return
        self._done |= ports.keys()
        self._trouble = ""
        if lost:
            self._turns.hurry()
        for sentence in self._drift.note(lost):
            _limited.warning(
                sentence, f"datapath: repaired a change made by another program: {sentence}", REPAIRED
            )

    def _complain(self, error: OSError) -> None:
        reason = error.strerror or str(error)
        if error.errno == errno.EINVAL:
            reason = "the kernel can't attach programs to a device, which takes Linux 6.6"
        if reason != self._trouble:
            _log.warning("datapath: bridge netfilter can't be kept away from our bridges: %s", reason)
        self._trouble = reason

    def _bring_all(self, ports: Ports) -> list[Damage]:
        """Attach the programs that remove the tag to all ports, then those that add it; return what was missing."""
        lost = []
        for name in _PROGRAMS:
            for index, port in ports.items():
                if self._within(partial(self._bring, name, index)) and index in self._done:
                    lost.append(Damage(DamageKind.TAG_REMOVED, port))
        return lost

    def _remove_all(self, ports: Ports) -> None:
        for name in reversed(_PROGRAMS):
            for index in ports:
                self._within(partial(self._remove, name, index, ()))

    def _bring(self, name: str, index: int) -> bool:
        """Attach it; return whether it was missing. A program of another release is replaced."""
        side, instructions = _PROGRAMS[name]
        if name not in self._loaded:
            self._loaded[name] = programs.load(Kind.SCHED_CLS, name, instructions)
        program = self._loaded[name]
        there = self._ours_at(index, side, name)
        if there is None or program.mark in there.values():
            return False
        tcx.attach(index, side, program)
        self._remove(name, index, {program.mark})
        return True

    def _remove(self, name: str, index: int, kept: Collection[ProgramTag]) -> bool:
        side, _instructions = _PROGRAMS[name]
        for number, mark in (self._ours_at(index, side, name) or {}).items():
            if mark not in kept:
                tcx.detach(index, side, number)
        return True

    def _ours_at(self, index: int, side: Side, name: str) -> dict[int, ProgramTag] | None:
        """Return the programs of this name, by id; None when the device is gone."""
        try:
            numbers = tcx.programs_at(index, side)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise
        if len(self._marks) > _MOST_MARKS:
            self._marks.clear()
        for number in numbers:
            if number not in self._marks:
                self._marks[number] = programs.mark_of(number)
        marks = {number: self._marks[number] for number in numbers}
        return {number: mark for number, mark in marks.items() if mark is not None and mark.name == name}
