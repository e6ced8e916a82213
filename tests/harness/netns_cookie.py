"""The cookie of a namespace by way of a program, for kernels before SO_NETNS_COOKIE (Linux 5.14).

netagent asks no program: on such a kernel no sandbox is a member, and names are answered with replicas. Tests use
this to see what the programs and sock_diag do there all the same.
"""

from __future__ import annotations

import resource
import sys
from contextlib import closing

from harness.namespaces import Namespace
from harness.service_addresses import Client, control_group, open_group
from netagent.datapath.bpf import cgroup, maps, programs
from netagent.datapath.bpf.cgroup import Hook
from netagent.datapath.bpf.instructions import Assembler, Register
from netagent.datapath.bpf.maps import MapKind, MapShape
from netagent.datapath.bpf.programs import Kind

_MAP_UPDATE, _NETNS_COOKIE = 2, 122  # functions of the kernel
_SHAPE = MapShape("nt4_cookie", MapKind.HASH, 4, 8, 1)


def cookie_by_program(space: Namespace) -> int:
    # Before Linux 5.11 maps count as locked memory.
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    with closing(maps.create(_SHAPE)) as cookies, control_group() as group:
        program = programs.load(
            Kind.CGROUP_SOCK_ADDR,
            _SHAPE.name,
            _teller().assemble({_SHAPE.name: cookies.fd}),
            place=Hook.CONNECT4,
        )
        cgroup.attach(open_group(group), Hook.CONNECT4, program.fd)
        Client(space, group, 0).run("connected('127.0.0.1', 9, socket.SOCK_DGRAM); result = None")
        found = cookies.lookup(bytes(4))
    assert found is not None
    return int.from_bytes(found, sys.byteorder)


def _teller() -> Assembler:
    """Writes the cookie of the namespace of each connect into the map's only element."""
    r0, r1, r2, r3, r4, *_, frame = Register
    asm = Assembler()
    asm.call(_NETNS_COOKIE)
    asm.store(8, frame, -8, r0)
    asm.store(4, frame, -12, 0)
    asm.load_map(r1, _SHAPE.name)
    asm.move(r2, frame)
    asm.add(r2, -12)
    asm.move(r3, frame)
    asm.add(r3, -8)
    asm.move(r4, 0)
    asm.call(_MAP_UPDATE)
    asm.exit(1)
    return asm
