"""Keeps the programs at the ports of containers and at bridges, and reads what they counted.

Programs and tables stay when the agent ends, and go on counting; no file names them. So a start asks the kernel which
programs are attached, takes the tables of those with our names that our own user loaded, and replaces programs of
another release. A port that is gone takes its programs along. Its flows stay for an hour, as all that are not used.

A port is looked at when it is new, and otherwise seldom: a program that is missing costs sight and no packet. Another
program's agent that takes ours away is seen within LOOK_S.

The first packets of a container may pass before its port has the programs: attaching one takes some 15 ms, since the
kernel waits for a grace period.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

import trio

from netagent.datapath.bpf import device_hooks, maps, programs
from netagent.datapath.bpf.device_hooks import DeviceHooks
from netagent.datapath.bpf.maps import Map
from netagent.datapath.bpf.programs import Kind, Program, ProgramInfo
from netagent.datapath.bpf.tcx import Side
from netagent.datapath.flows import layout
from netagent.datapath.flows import programs as code
from netagent.datapath.flows.layout import FLOWS, RECENT, SHAPES, SHARES, Opener, Share
from netagent.datapath.reconcile.drift import Damage, DamageKind, Drift
from netagent.log import Limited
from netagent.periodic import Turns
from netagent.periodic_task import PeriodicTask

_log = logging.getLogger(__name__)
_limited = Limited(_log)

LOOK_S: Final = 10.0
"""The kernel sends no notifications about programs."""
KEPT_S: Final = 3600
"""A flow that no program has opened for so long makes room."""
CLEAR_S: Final = 600.0
_PER_BATCH: Final = 256
_CONTAINERS, _BRIDGES = "nv", "na-"
"""What names of the host's ends of containers' interfaces begin with, and those of bridges (netagent.model.ids)."""

_HEARD, _COUNT, _INWARD, _REFUSE = "netagent_heard", "netagent_count", "netagent_inward", "netagent_refuse"
_AT_CONTAINERS: Final = ((_HEARD, Side.EGRESS), (_COUNT, Side.INGRESS))
"""Programs and where they are, in the order in which they are attached: the one that hears before the one that
counts, so that an answer is known as one."""
_AT_BRIDGES: Final = ((_REFUSE, Side.INGRESS), (_HEARD, Side.INGRESS), (_INWARD, Side.EGRESS))

_TRIES_AGAIN: Final = "remove the cause; the agent tries again by itself"
_ANOTHER_KERNEL: Final = "take a kernel with CONFIG_BPF_SYSCALL, as those of Debian; all else works without"

Ports: TypeAlias = Mapping[int, str]
"""Index -> name of the host's ends of containers' interfaces."""


@dataclass(frozen=True, slots=True)
class CountingTrouble:
    """Why flows are not counted, and what helps."""

    cause: str
    cure: str


_LACKS_CAPABILITY: Final = CountingTrouble(
    "the agent may not load programs",
    "give it CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, as the unit of the package does",
)


@dataclass(frozen=True, slots=True)
class FlowReading:
    """What the kernel has counted, as elements of its tables (netagent.datapath.flows.layout)."""

    flows: tuple[tuple[bytes, bytes], ...]
    shares: Mapping[int, Share]
    """By the place, also of devices that are gone."""
    at_ns: int
    """When it was read, by the kernel's monotonic clock."""


class FlowCounters:
    """One task: `run`. Works in the namespace of the calling thread, or in the one in which `within` calls a
    function. `refused_mark`: of packets that the firewall refuses and delivers to the bridge. `hooks`: by
    default those of this kernel."""

    def __init__(
        self,
        drift: Drift,
        refused_mark: int,
        *,
        within: Callable[[Callable[[], bool]], bool] | None = None,
        hooks: DeviceHooks | None = None,
    ) -> None:
        self._drift = drift
        self._given_hooks = hooks
        self._code = {
            _HEARD: code.heard(),
            _COUNT: code.count(),
            _INWARD: code.inward(),
            _REFUSE: code.refused(refused_mark),
        }
        self._within = within or (lambda fn: fn())
        self._ports: Ports = {}
        self._bridges: Ports = {}
        self._done: set[int] = set()
        """Ports and bridges that have their programs, after a change or a look."""
        self._turns: Turns[int] = Turns()
        self._maps: dict[str, Map] = {}
        self._loaded: dict[str, tuple[Program, frozenset[int]]] = {}
        """With the ids of the tables that it uses."""
        self._lock = trio.Lock()
        """The tables are for one thread at a time."""
        self._next_clearing = 0.0
        self._last_number = 0
        self._trouble: CountingTrouble | None = None
        self._port_troubles: dict[int, CountingTrouble] = {}
        self._task = PeriodicTask(LOOK_S)

    @property
    def trouble(self) -> CountingTrouble | None:
        """Why no flows are counted; None: they are, or there is none to count."""
        return self._trouble

    @property
    def port_troubles(self) -> Mapping[int, CountingTrouble]:
        """The same for single ports and bridges."""
        return self._port_troubles

    @property
    def ports(self) -> Ports:
        """The ports that count."""
        return self._ports

    @property
    def bridges(self) -> Ports:
        """The bridges at which is counted what comes to containers from elsewhere."""
        return self._bridges

    @property
    def _hooks(self) -> DeviceHooks:
        return self._given_hooks or device_hooks.hooks_of_kernel()

    def close(self) -> None:
        """Close all descriptors; what is attached stays, and counts."""
        for program, _maps in self._loaded.values():
            os.close(program.fd)
        for one in self._maps.values():
            one.close()
        self._loaded, self._maps = {}, {}

    def set_devices(self, devices: Ports) -> None:
        """Set all devices of ours."""
        ports = {index: name for index, name in devices.items() if name.startswith(_CONTAINERS)}
        bridges = {index: name for index, name in devices.items() if name.startswith(_BRIDGES)}
        if ports.keys() - self._ports.keys() or bridges.keys() - self._bridges.keys():
            self._task.wake()
        self._ports, self._bridges = ports, bridges

    async def run(self) -> None:
        """Work until cancelled; what is attached stays."""
        only_new = False
        while True:
            if self._ports or self._bridges or self._maps:
                async with self._lock:
                    await trio.to_thread.run_sync(partial(self.look, only_new=only_new))
            only_new = await self._task.wait()

    async def read(self) -> FlowReading:
        """Return what was counted, on this host, since at most KEPT_S."""
        async with self._lock:
            return await trio.to_thread.run_sync(self.read_now)

    def look(self, *, only_new: bool = False) -> None:
        """Attach what is missing at the ports whose turn it is; blocks."""
        ports, bridges = dict(self._ports), dict(self._bridges)
        devices = {**ports, **bridges}
        self._done &= devices.keys()
        self._port_troubles = {i: why for i, why in self._port_troubles.items() if i in devices}
        turn = set() if only_new else {*self._turns.take(devices)}
        turn |= devices.keys() - self._done
        try:
            if devices and not self._loaded:
                self._within(partial(self._load, devices))
        except OSError as error:
            self._complain(_why_not_loaded(error))
            return
        if not self._loaded:
            return
        lost = []
        for index in turn:
            try:
                if self._keep(index, is_port=index in ports):
                    lost.append(devices[index])
                self._port_troubles.pop(index, None)
            except OSError as error:
                self._complain_of(index, devices[index], _why_not_attached(error))
        try:
            if time.monotonic() >= self._next_clearing:
                self._next_clearing = time.monotonic() + CLEAR_S
                self.clear_up()
        except OSError as error:
            self._complain(CountingTrouble(f"its tables can't be read: {_words(error)}", _TRIES_AGAIN))
            return
        self._trouble = None
        if lost:
            self._turns.hurry()
        for sentence in self._drift.note([Damage(DamageKind.COUNTER_REMOVED, name) for name in lost]):
            _limited.warning(sentence, f"datapath: repaired a change made by another program: {sentence}")

    def read_now(self) -> FlowReading:
        """Return what was counted; blocks."""
        now = time.monotonic_ns()
        oldest = now - KEPT_S * 1_000_000_000
        if not self._maps:
            return FlowReading((), {}, now)
        found = tuple(
            (key, value)
            for key, value in _elements(self._maps[FLOWS.name])
            if layout.last_ns(value) >= oldest
        )
        shares = {
            layout.port_of(key): layout.unpack_share(value)
            for key, value in _elements(self._maps[SHARES.name])
        }
        return FlowReading(found, shares, now)

    # -- programs --------------------------------------------------------------------------------------------

    def _load(self, devices: Ports) -> bool:
        """Load the programs over the tables of an earlier agent, or over new ones."""
        with ExitStack() as undo:
            found = self._find_maps(devices)
            for shape in SHAPES:
                if shape.name not in found:
                    found[shape.name] = maps.create(shape)
                undo.callback(found[shape.name].close)
            fds = {name: one.fd for name, one in found.items()}
            loaded = {}
            for name, instructions in self._code.items():
                program = programs.load(Kind.SCHED_CLS, name, instructions.assemble(fds))
                undo.callback(os.close, program.fd)
                loaded[name] = program, frozenset(programs.info_of(program.fd).maps)
            undo.pop_all()
        self._maps, self._loaded = found, loaded
        return True

    def _find_maps(self, devices: Ports) -> dict[str, Map]:
        """Return the tables that the programs at the devices use, if they are this release's; else none."""
        found: dict[str, Map] = {}
        for index in devices:
            for name, side in (*_AT_CONTAINERS, *_AT_BRIDGES):
                for info in self._ours_at(index, side, name) or ():
                    for number in info.maps:
                        one = maps.open_by_id(number)
                        if one is None:
                            continue
                        if one.shape in SHAPES and one.shape.name not in found:
                            found[one.shape.name] = one
                        else:
                            one.close()
            if len(found) == len(SHAPES):
                return found
        for one in found.values():
            one.close()
        return {}

    def _give_share(self, index: int, opener: Opener) -> None:
        """Give a place a share, if it has none. Before the programs: they count only for a place that has one."""
        key, shares = layout.pack_port(index, opener), self._maps[SHARES.name]
        if shares.lookup(key) is None:
            shares.update(key, layout.pack_share(Share(self._free_number(), 0, 0)))

    def _give_slots(self, index: int) -> None:
        """Give a device slots for datagrams, if it has none. After the program that hears: datagrams are counted only
        where there are slots."""
        key, recent = layout.pack_port(index), self._maps[RECENT.name]
        if recent.lookup(key) is None:
            recent.update(key, layout.NO_RECENT)

    def _free_number(self) -> int:
        """Return a number that no place has, the one that was free for longest."""
        taken = {layout.unpack_share(value).number for _key, value in _elements(self._maps[SHARES.name])}
        while True:
            self._last_number = self._last_number % layout.MOST_NUMBER + 1
            if self._last_number not in taken:
                return self._last_number

    def _keep(self, index: int, *, is_port: bool) -> bool:
        """Bring its programs to a device; return whether one was missing that had been there. OSError of the first
        that cannot be attached; the others are all the same."""
        for opener in (Opener.CONTAINER,) if is_port else (Opener.HOST, Opener.OUTSIDE):
            self._give_share(index, opener)
        missing, refused = [], None
        for name, side in _AT_CONTAINERS if is_port else _AT_BRIDGES:
            try:
                if self._within(partial(self._bring, name, index, side)):
                    missing.append(name)
                if name == _HEARD:
                    self._give_slots(index)
            except OSError as error:
                refused = refused or error
                if name == _HEARD:
                    # Without it, answers would be counted as openings.
                    self._maps[RECENT.name].delete(layout.pack_port(index))
        if refused is not None:
            self._done.discard(index)
            raise refused
        was_there = index in self._done
        self._done.add(index)
        return bool(missing) and was_there

    def _bring(self, name: str, index: int, side: Side) -> bool:
        """Attach a program; return whether it was missing. One of another release, or over other tables, is
        replaced."""
        program, its_maps = self._loaded[name]
        there = self._ours_at(index, side, name)
        if there is None:
            return False
        right = [one for one in there if one.mark == program.mark and {*one.maps} == its_maps]
        if not right:
            self._hooks.attach(index, side, program)
        for one in there:
            if one not in right[:1]:
                self._hooks.detach(index, side, one.id)
        return not there

    def _ours_at(self, index: int, side: Side, name: str) -> list[ProgramInfo] | None:
        """Return the programs of this name that our own user loaded; None when the device is gone."""
        try:
            numbers = self._hooks.programs_at(index, side)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise
        infos = []
        for number in numbers:
            with programs.opened(number) as fd:
                if fd is not None:
                    infos.append(programs.info_of(fd))
        return [info for info in infos if info.mark.name == name and info.loaded_by == os.geteuid()]

    def _complain(self, trouble: CountingTrouble) -> None:
        if trouble != self._trouble:
            _log.warning("datapath: flows can't be counted: %s; %s", trouble.cause, trouble.cure)
        self._trouble = trouble

    def _complain_of(self, index: int, name: str, trouble: CountingTrouble) -> None:
        if trouble not in self._port_troubles.values():  # once, of whichever port had it first
            _log.warning("datapath: flows can't be counted at %s: %s; %s", name, trouble.cause, trouble.cure)
        self._port_troubles[index] = trouble

    # -- tables ----------------------------------------------------------------------------------------------

    def clear_up(self) -> None:
        """Delete flows that were not used for long, and what devices that are gone have left; blocks."""
        devices = {**self._ports, **self._bridges}
        flows, shares, recent = (self._maps[shape.name] for shape in (FLOWS, SHARES, RECENT))
        oldest = time.monotonic_ns() - KEPT_S * 1_000_000_000
        counts: dict[int, int] = {}
        for key, value in list(_elements(flows)):
            if layout.last_ns(value) < oldest:
                flows.delete(key)
            else:
                number = layout.port_of(key)
                counts[number] = counts.get(number, 0) + 1
        for key, value in list(_elements(shares)):
            (index, _opener), share = layout.split_place(layout.port_of(key)), layout.unpack_share(value)
            flows_now = counts.get(share.number, 0)
            if index not in devices and not flows_now:
                shares.delete(key)
                recent.delete(layout.pack_port(index))
            elif share.flows > flows_now:
                # The programs may be counting; what they add meanwhile is made good by the next clearing.
                shares.update(key, layout.pack_share(Share(share.number, flows_now, share.left_out)))


def _elements(table: Map) -> Iterator[tuple[bytes, bytes]]:
    for keys, values in table.batches(_PER_BATCH):
        yield from zip(keys, values, strict=True)


def _why_not_loaded(error: OSError) -> CountingTrouble:
    match error.errno:
        case errno.EPERM:
            return _LACKS_CAPABILITY
        case errno.ENOSYS:
            return CountingTrouble(f"the kernel has no eBPF ({_words(error)})", _ANOTHER_KERNEL)
        case errno.EACCES | errno.EINVAL:
            return CountingTrouble(f"the kernel refuses the programs: {_words(error)}", _ANOTHER_KERNEL)
        case errno.ENOMEM:
            return CountingTrouble("the kernel has no memory for the tables", _TRIES_AGAIN)
    return CountingTrouble(f"programs can't be loaded: {_words(error)}", _TRIES_AGAIN)


def _why_not_attached(error: OSError) -> CountingTrouble:
    match error.errno:
        case errno.EOPNOTSUPP:
            return CountingTrouble(
                "the kernel can't attach programs to devices",
                "`modprobe -a sch_ingress cls_bpf`, or take Linux 6.6 or later; the agent tries again by itself",
            )
        case errno.EPERM:
            return _LACKS_CAPABILITY
        case errno.EBUSY:
            return CountingTrouble(
                "another program's qdisc `ingress` takes the place, so not all is counted",
                "have that program use `clsact` instead, which both can share; the agent tries again by itself",
            )
        case errno.E2BIG:
            return CountingTrouble(
                f"the tables have room for {layout.MOST_PORTS:,} interfaces",
                "those of containers that are gone make room within an hour and ten minutes",
            )
    return CountingTrouble(f"programs can't be attached: {_words(error)}", _TRIES_AGAIN)


def _words(error: OSError) -> str:
    text = error.strerror or str(error)
    return "".join(one if one.isprintable() else " " for one in text)  # the verifier has tabs
