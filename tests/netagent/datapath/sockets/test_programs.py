"""That the programs are small, and the same in each process: the kernel's digest of them says which release's they
are. What they do: tests/kernel/test_service_addresses.py."""

from __future__ import annotations

from netagent.datapath.bpf.cgroup import Hook
from netagent.datapath.bpf.programs import NAME_BYTES
from netagent.datapath.sockets.layout import SHAPES
from netagent.datapath.sockets.programs import programs

MOST_INSTRUCTIONS = 4096
"""Of a program, in any kernel."""
MAPS = {shape.name: number for number, shape in enumerate(SHAPES)}


def test_there_is_a_program_for_each_hook_with_a_name_of_its_own() -> None:
    made = programs()
    assert made.keys() == {*Hook}
    assert len({name for name, _ in made.values()}) == len(made)
    assert all(len(name) <= NAME_BYTES for name in [*MAPS, *(name for name, _ in made.values())])
    assert all(len(asm) < MOST_INSTRUCTIONS // 4 for _, asm in made.values())


def test_two_agents_make_the_same_programs() -> None:
    first, second = programs(), programs()
    for hook in Hook:
        assert first[hook][1].assemble(MAPS) == second[hook][1].assemble(MAPS)


def test_those_that_read_origins_are_exchanged_before_those_that_write_them() -> None:
    order = list(programs())
    assert {*order[:4]} == {Hook.RECVMSG4, Hook.RECVMSG6, Hook.GETPEERNAME4, Hook.GETPEERNAME6}
