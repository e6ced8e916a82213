"""The eight programs at one control group: finds those of an earlier agent, attaches what is missing, and exchanges
those of another release.

A program that an agent attached stays when the agent ends, and its maps with it; no file names either. So a start
asks the kernel which programs are attached, takes those with our names that our own user loaded, and their maps. An
exchange takes one hook after the other, and at each hook no call finds both programs or neither; the maps stay the
same, so it does not matter which of the two decides.

A program with our name that another user loaded is a stranger's, like any other: it is neither adopted nor removed.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from typing import Final, NoReturn

from netagent.datapath.bpf import cgroup, maps, programs
from netagent.datapath.bpf.cgroup import Attached, Hook
from netagent.datapath.bpf.maps import Map
from netagent.datapath.bpf.programs import Kind, Program, ProgramInfo
from netagent.datapath.sockets.layout import SHAPES
from netagent.datapath.sockets.lease import AgentLease
from netagent.datapath.sockets.programs import programs as programs_by_hook
from netagent.errors import FailedError

NAMES: Final[Mapping[Hook, str]] = {hook: name for hook, (name, _code) in programs_by_hook().items()}


class SocketPrograms:
    """The programs of this release over one set of maps, and the group that they belong to. For one thread at a
    time; all methods block."""

    def __init__(self, group: int, found: Mapping[str, Map]) -> None:
        """Load the programs; `found`: maps to use. Raises OSError; FailedError when another program lets none beside
        it, or another agent leads connections at this group."""
        self._group = group
        self._known: dict[int, ProgramInfo | None] = {}
        """Of the programs seen at the hooks, by id; the kernel uses an id only once."""
        self.is_adopted = bool(found)
        self.maps: Mapping[str, Map] = dict(found)
        with ExitStack() as undo:
            _programs_at_hooks(group)
            self._lease = AgentLease(group)
            undo.callback(self._lease.close)
            if not found:
                made = _create_maps()
                for one in made.values():
                    undo.callback(one.close)
                self.maps = made
            fds = {name: one.fd for name, one in self.maps.items()}
            self._loaded: dict[Hook, tuple[Program, frozenset[int]]] = {}
            for hook, (name, code) in programs_by_hook().items():
                program = programs.load(Kind.CGROUP_SOCK_ADDR, name, code.assemble(fds), place=hook)
                undo.callback(os.close, program.fd)
                self._loaded[hook] = program, frozenset(programs.info_of(program.fd).maps)
            undo.pop_all()

    def close(self) -> None:
        """Close all descriptors; what is attached stays, except for the lease."""
        for program, _maps in self._loaded.values():
            os.close(program.fd)
        for one in self.maps.values():
            one.close()
        self._lease.close()

    def attach_all(self) -> list[str]:
        """Attach or exchange what is not as it should be; return the names of programs that were missing or others'.

        Errors as of the constructor.
        """
        # Both before anything is attached, so that nothing is half done.
        hooks = _programs_at_hooks(self._group)
        self._lease.hold()
        seen = {number for attached in hooks.values() for number in attached.programs}
        self._known = {number: info for number, info in self._known.items() if number in seen}
        missing = []
        for hook, attached in hooks.items():
            program, its_maps = self._loaded[hook]
            present = self._ours_in(hook, attached)
            right = [one for one in present if one.mark == program.mark and {*one.maps} == its_maps]
            if not present:
                cgroup.attach(self._group, hook, program.fd)
                missing.append(NAMES[hook])
            elif not right:
                self._exchange(hook, program, present[0])
            for one in present:
                if one is not (right or present)[0]:
                    cgroup.detach(self._group, hook, one.id)
        return missing

    def _ours_in(self, hook: Hook, attached: Attached) -> list[ProgramInfo]:
        for number in attached.programs:
            if number not in self._known:
                self._known[number] = programs.info_by_id(number)
        infos = (self._known[number] for number in attached.programs)
        return [info for info in infos if info is not None and _is_ours(hook, info)]

    def _exchange(self, hook: Hook, program: Program, present: ProgramInfo) -> None:
        with programs.opened(present.id) as fd:
            cgroup.attach(self._group, hook, program.fd, instead_of=fd)


def _programs_at_hooks(group: int) -> dict[Hook, Attached]:
    """Return what is attached at each hook; FailedError when one of them lets no program beside it."""
    hooks = {hook: cgroup.programs_at(group, hook) for hook in NAMES}
    for hook, attached in hooks.items():
        if not attached.is_shared:
            _refuse(hook, attached)
    return hooks


def _refuse(hook: Hook, attached: Attached) -> NoReturn:
    info = programs.info_by_id(attached.programs[0])
    name = info.mark.name if info is not None and info.mark.name else "without a name"
    raise FailedError(
        f"the BPF program {name} at the root of the control groups lets no other program beside it",
        code="sockets-taken",
        thing=name,
        hint=f"find out which program attached it: bpftool cgroup tree | grep {hook.name.lower()}",
    )


def adoptable_maps(group: int) -> dict[str, Map]:
    """Open the maps of the programs of an earlier agent; empty if there are none, or theirs are of another layout."""
    found: dict[int, Map | None] = {}
    by_name: dict[str, Map] = {}
    with ExitStack() as undo:
        for _hook, info in ours_at(group):
            for number in info.maps:
                if number not in found:
                    found[number] = opened = maps.open_by_id(number)
                    if opened is not None:
                        undo.callback(opened.close)
                        by_name.setdefault(opened.shape.name, opened)
        # One map of each name: an agent that ended within an exchange may have left programs over two sets.
        if len(found) == len(SHAPES) and {one.shape for one in by_name.values()} == {*SHAPES}:
            undo.pop_all()
            return by_name
    return {}


def detach_all(group: int) -> int:
    """Detach all programs of ours, of whichever release; return their number.

    Their maps go with them, once no process has them open; connections that were led stay as they are. Those that
    lead go first, so that no connection is made that `getpeername` would name by its backend.
    """
    present = list(ours_at(group))
    for hook, info in reversed(present):
        cgroup.detach(group, hook, info.id)
    return len(present)


def ours_at(group: int) -> Iterable[tuple[Hook, ProgramInfo]]:
    """Return the programs there that have our names and that our own user loaded."""
    for hook in NAMES:
        for number in cgroup.programs_at(group, hook).programs:
            info = programs.info_by_id(number)
            if info is not None and _is_ours(hook, info):
                yield hook, info


def _is_ours(hook: Hook, info: ProgramInfo) -> bool:
    return info.mark.name == NAMES[hook] and info.loaded_by == os.geteuid()


def _create_maps() -> dict[str, Map]:
    """Make all maps, or none."""
    try:
        return _create_maps_within_limits()
    except PermissionError:
        # Before Linux 5.11 maps count as locked memory.
        with suppress(ValueError, OSError):  # the limit is not ours to raise
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        return _create_maps_within_limits()


def _create_maps_within_limits() -> dict[str, Map]:
    made: dict[str, Map] = {}
    try:
        for shape in SHAPES:
            made[shape.name] = maps.create(shape)
    except BaseException:
        for one in made.values():
            one.close()
        raise
    return made
