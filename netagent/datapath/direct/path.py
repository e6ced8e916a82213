"""Keeps the two programs that take TCP past VXLAN at their devices, and their tables.

A start loads them over new tables, fills these, and attaches them before it detaches those of an earlier agent: so
no segment meets a table that is not filled. Between two agents the programs go on with what the tables hold, as the
kernel does with its forwarding entries.

What fails leaves segments to VXLAN, through the same tunnel. Only a host whose own device has the program for what
arrives says so to others (`takes`), and others send it none before that.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Set
from contextlib import ExitStack
from functools import partial
from typing import Final

import trio

from netagent.datapath.bpf import device_hooks, maps, programs
from netagent.datapath.bpf.maps import Map
from netagent.datapath.bpf.programs import Kind, Program
from netagent.datapath.bpf.tcx import Side
from netagent.datapath.direct import layout
from netagent.datapath.direct import programs as code
from netagent.datapath.direct.layout import FAR, INWARD, NEAR, SHAPES, DirectInput
from netagent.datapath.state import DesiredChange, EntryKey, KernelState, SelfKey
from netagent.log import Limited
from netagent.periodic_task import PeriodicTask

_log = logging.getLogger(__name__)
_limited = Limited(_log)

LOOK_S: Final = 1.5
"""The kernel sends no notifications about programs, and repairs must happen within two seconds."""
OUT_NAME, IN_NAME = "netagent_dout", "netagent_din"
_NETWORKS: Final = "nx-"
"""What names of VXLAN devices begin with (netagent.model.ids)."""


class DirectPath:
    """One task: `run`. Works in the namespace of the calling thread, or in the one in which `within` calls a
    function. `note_change` is called when `takes` has changed."""

    def __init__(
        self,
        *,
        note_change: Callable[[], None] = lambda: None,
        within: Callable[[Callable[[], bool]], bool] | None = None,
    ) -> None:
        self.note_change = note_change
        self._within = within or (lambda fn: fn())
        self._wanted: DirectInput | None = None
        self._state = KernelState()
        self._touched: set[EntryKey] | None = None
        """Of the entries, since the last look; None: any."""
        self._devices: Mapping[int, str] = {}
        self._maps: dict[str, Map] = {}
        self._loaded: dict[str, Program] = {}
        self._held: dict[str, dict[bytes, bytes]] = {NEAR.name: {}, INWARD.name: {}}
        self._without_place: set[tuple[str, bytes]] = set()
        """Keys that a table, by name, had no room for. What has none is dropped when it arrives without VXLAN, so
        others are told to send none."""
        self._is_gone = False
        """Whether nothing of ours is at any device."""
        self.takes: bool | None = None
        """Whether what arrives without VXLAN is taken; None: not known before the first look, an earlier agent's
        program may be there (`takes_at`)."""
        self.trouble = ""
        """Why segments go by VXLAN; empty: they do not, or nothing is wanted."""
        self._task = PeriodicTask(LOOK_S)

    def close(self) -> None:
        """Close all descriptors; what is attached stays, and works."""
        for program in self._loaded.values():
            os.close(program.fd)
        for one in self._maps.values():
            one.close()
        self._loaded, self._maps = {}, {}

    def set_devices(self, devices: Mapping[int, str]) -> None:
        """Set all devices of ours."""
        found = {index: name for index, name in devices.items() if name.startswith(_NETWORKS)}
        if found != self._devices:
            self._devices = found
            self._task.wake()

    def set_desired(self, change: DesiredChange, wanted: DirectInput | None) -> None:
        """Set what the kernel should hold; None: no segments without VXLAN."""
        touched = None if change.touched is None else {key for key in change.touched if key[0] == "self"}
        if wanted == self._wanted and touched is not None and not touched:
            self._state = change.state
            return
        if touched is None or self._touched is None or wanted != self._wanted:
            self._touched = None
        else:
            self._touched |= touched
        self._wanted, self._state = wanted, change.state
        self._task.wake()

    async def run(self) -> None:
        """Work until cancelled; what is attached stays."""
        while True:
            if self._wanted is not None or not self._is_gone:
                took = self.takes
                # Taken before the thread begins: what changes meanwhile is for the next look.
                wanted, state, touched = self._wanted, self._state, self._touched
                self._touched = set()
                look = partial(self.look, wanted, state, touched, dict(self._devices))
                if not await trio.to_thread.run_sync(self._within, look):
                    self._touched = None
                if self.takes != took:
                    self.note_change()
            await self._task.wait()

    def look(
        self,
        wanted: DirectInput | None,
        state: KernelState,
        touched: Set[EntryKey] | None,
        devices: Mapping[int, str],
    ) -> bool:
        """Bring tables and programs to what is wanted; blocks. False: it failed, and `trouble` says why."""
        try:
            if wanted is None:
                self._take_away(devices)
            else:
                self._bring(wanted, state, touched, devices)
        except OSError as error:
            trouble = f"TCP goes by VXLAN: {error.strerror or error}"
            _limited.warning(trouble, f"the encrypted tunnel: {trouble}")
            # The program for what arrives may be there all the same, and works.
            self.trouble, self.takes = trouble, False
            return False
        self.trouble = ""
        return True

    # -- tables ----------------------------------------------------------------------------------------------

    def _bring(
        self,
        wanted: DirectInput,
        state: KernelState,
        touched: Set[EntryKey] | None,
        devices: Mapping[int, str],
    ) -> None:
        self._is_gone = False
        tunnel = _index_of(wanted.tunnel)
        if tunnel is None:
            self.takes = False
            return
        if not self._loaded:
            self._load()
            touched = None
        self._set_far(wanted, state, touched)
        indexes = {name: index for index, name in devices.items()}
        here = {indexes[name]: one for name, one in wanted.networks.items() if name in indexes}
        self._set(
            INWARD.name,
            {
                layout.pack_number(one.vni): layout.pack_inward(index, one.common)
                for index, one in here.items()
            },
        )
        self._attach(IN_NAME, tunnel, Side.INGRESS)
        self.takes = not self._without_place
        self._set(
            NEAR.name,
            {
                layout.pack_number(index): layout.pack_near(one.vni, wanted.number, tunnel, one.common)
                for index, one in here.items()
                if one.fits
            },
        )
        for index, one in here.items():
            if one.fits:
                self._attach(OUT_NAME, index, Side.EGRESS)

    def _set_far(self, wanted: DirectInput, state: KernelState, touched: Set[EntryKey] | None) -> None:
        far = self._maps[FAR.name]
        keys: Iterable[SelfKey] = state.selves if touched is None else (key for _, key in touched)
        right: set[bytes] = set()
        for name, mac in keys:
            network, address = wanted.networks.get(name), state.selves.get((name, mac))
            if network is None:
                continue
            key = layout.pack_far_key(network.vni, mac)
            host = wanted.hosts.get(address) if address is not None else None
            if host is None:
                self._delete(FAR.name, key)
            else:
                self._put(FAR.name, key, layout.pack_far(network.vni, host))
                right.add(key)
        if touched is None:
            for read, _values in list(far.batches(256)):
                for key in read:
                    if key not in right:
                        far.delete(key)
            self._without_place = {
                one for one in self._without_place if one[0] != FAR.name or one[1] in right
            }

    def _set(self, name: str, elements: Mapping[bytes, bytes]) -> None:
        held = self._held[name]
        for key in held.keys() - elements.keys():
            self._delete(name, key)
            del held[key]
        for key, value in elements.items():
            if held.get(key) != value:
                self._put(name, key, value)
                held[key] = value

    def _put(self, name: str, key: bytes, value: bytes) -> None:
        """Set an element, unless the table is full."""
        try:
            self._maps[name].update(key, value)
        except OSError as error:
            if error.errno != errno.E2BIG:
                raise
            self._maps[name].delete(key)
            self._without_place.add((name, key))
            _limited.warning(name, f"the encrypted tunnel: the table {name} is full, so TCP goes by VXLAN")
        else:
            self._without_place.discard((name, key))

    def _delete(self, name: str, key: bytes) -> None:
        self._maps[name].delete(key)
        self._without_place.discard((name, key))

    # -- programs --------------------------------------------------------------------------------------------

    def _load(self) -> None:
        with ExitStack() as undo:
            made: dict[str, Map] = {}
            for shape in SHAPES:
                made[shape.name] = maps.create(shape)
                undo.callback(made[shape.name].close)
            descriptors = {name: one.fd for name, one in made.items()}
            loaded = {}
            for name, instructions in ((OUT_NAME, code.outward()), (IN_NAME, code.inward())):
                loaded[name] = programs.load(Kind.SCHED_CLS, name, instructions.assemble(descriptors))
                undo.callback(os.close, loaded[name].fd)
            undo.pop_all()
        self._maps, self._loaded, self._without_place = made, loaded, set()
        self._held = {NEAR.name: {}, INWARD.name: {}}

    def _attach(self, name: str, index: int, side: Side) -> None:
        """Attach it there unless it is, and detach those of other agents afterwards: one of the two is there at any
        moment."""
        hooks, own = device_hooks.hooks_of_kernel(), self._loaded[name]
        there = _ours_at(index, side, name)
        if own.id not in there:
            try:
                hooks.attach(index, side, own)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                raise
        for number in there:
            if number != own.id:
                hooks.detach(index, side, number)

    def _take_away(self, devices: Mapping[int, str]) -> None:
        """Segments leave by VXLAN again first; what is under way to here is taken as long as the tunnel is there."""
        if self._is_gone:
            return
        hooks = device_hooks.hooks_of_kernel()
        for index in devices:
            for number in _ours_at(index, Side.EGRESS, OUT_NAME):
                hooks.detach(index, Side.EGRESS, number)
        self.close()
        self.takes, self._is_gone = False, True


def _index_of(name: str) -> int | None:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return None


def takes_at(tunnel: str) -> bool:
    """True if a program of an earlier agent takes what arrives without VXLAN by this device. Blocks."""
    index = _index_of(tunnel)
    try:
        return index is not None and bool(_ours_at(index, Side.INGRESS, IN_NAME))
    except OSError:
        return False  # no such hooks here, so no program either


def _ours_at(index: int, side: Side, name: str) -> list[int]:
    """Return the ids of the programs of this name that our own user loaded."""
    try:
        numbers = device_hooks.hooks_of_kernel().programs_at(index, side)
    except OSError as error:
        if error.errno == errno.ENODEV:
            return []
        raise
    infos = [programs.info_by_id(number) for number in numbers]
    return [
        info.id
        for info in infos
        if info is not None and info.mark.name == name and info.loaded_by == os.geteuid()
    ]
