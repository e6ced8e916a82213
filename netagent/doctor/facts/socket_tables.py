"""Read afresh which programs at the sockets, and which tables of service addresses, the kernel has.

The agent remembers what it wrote and compares that with the kernel by itself. The doctor believes neither: it finds
programs and tables by the names of the programs at the root of the control groups, as a start of the agent does.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import trio

from netagent.datapath.sockets import adoption
from netagent.datapath.sockets.cgroup_root import open_cgroup_root
from netagent.datapath.sockets.layout import MEMBERS, PORTS, SERVICES4, SERVICES6, unpack_member
from netagent.doctor.checks.service_checks import SocketFacts
from netagent.errors import FailedError

_PER_BATCH = 256


async def read_socket_tables(open_root: Callable[[], int] = open_cgroup_root) -> SocketFacts:
    """Read them in a thread; `problem` says why they could not be read."""
    try:
        return await trio.to_thread.run_sync(_read, open_root)
    except FailedError as error:
        return SocketFacts(problem=error.message)
    except OSError as error:
        return SocketFacts(problem=error.strerror or str(error))


def _read(open_root: Callable[[], int]) -> SocketFacts:
    group = open_root()
    try:
        programs = frozenset(info.mark.name for _hook, info in adoption.ours_at(group))
        found = adoption.adoptable_maps(group)
    finally:
        os.close(group)
    try:
        held = {
            name: {key: value for batch in one.batches(_PER_BATCH) for key, value in zip(*batch, strict=True)}
            for name, one in found.items()
            if name in {shape.name for shape in (SERVICES4, SERVICES6, PORTS, MEMBERS)}
        }
    finally:
        for one in found.values():
            one.close()
    return SocketFacts(
        programs=programs,
        services=held.get(SERVICES4.name, {}) | held.get(SERVICES6.name, {}),
        ports=held.get(PORTS.name, {}),
        members=frozenset(map(unpack_member, held.get(MEMBERS.name, {}))),
    )
