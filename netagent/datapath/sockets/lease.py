"""Which agent of several that one user runs leads connections at a control group: the first, as long as it lives.

Two agents over the same programs and tables would each remove what the other writes. A lock on a file would not keep
them apart: every local user can lock what they can read, and two agents may see no file in common. So the lease is
an object of the kernel at the group itself: a program that does nothing, attached by a BPF link without a pin. The
kernel detaches it when the process ends, however it ends, and lists such programs in the order in which they came.
Attaching one takes the rights that the eight programs take, and one that another user loaded counts for nothing.
"""

from __future__ import annotations

import os
from typing import Final

from netagent.datapath.bpf import cgroup, programs
from netagent.datapath.bpf.cgroup import Hook
from netagent.datapath.bpf.instructions import Assembler
from netagent.datapath.bpf.programs import Kind, Program
from netagent.errors import FailedError

LEASE_NAME: Final = "netagent_lease"
LEASE_HOOK: Final = Hook.GETPEERNAME6
"""One that the eight programs need as well, so that the lease asks no more of the kernel; the one that is called
least."""
LED: Final = "sockets-led"
"""The error's code."""
_GO_ON: Final = 1


class AgentLease:
    """For one thread at a time; all methods block."""

    def __init__(self, group: int) -> None:
        """Raises OSError, and FailedError when another agent has the lease."""
        self._group = group
        code = Assembler()
        code.exit(_GO_ON)
        self._program: Program = programs.load(
            Kind.CGROUP_SOCK_ADDR, LEASE_NAME, code.assemble({}), place=LEASE_HOOK
        )
        self._link: int | None = None
        self._known: dict[int, bool] = {}
        """Of the programs seen at the hook, whether each is a lease; the kernel uses an id only once."""
        try:
            self.hold()
        except BaseException:
            self.close()
            raise

    def hold(self) -> None:
        """Take the lease, or take it again where another program has detached it. Errors as of the constructor."""
        leases = self._leases()
        if self._program.id not in leases:
            self._release()
            self._link = cgroup.link(self._group, LEASE_HOOK, self._program.fd)
            # Two agents that attach at the same moment see the same order.
            leases = self._leases()
        if leases[0] != self._program.id:
            self._release()
            raise FailedError(
                "another agent of this host leads connections to its own service addresses",
                code=LED,
                hint="stop one of the two, or give one of them service_addresses = off",
            )

    def close(self) -> None:
        """Give it up."""
        self._release()
        os.close(self._program.fd)

    def _release(self) -> None:
        if self._link is not None:
            os.close(self._link)
            self._link = None

    def _leases(self) -> list[int]:
        """Return the ids of the leases of this user's agents, the oldest first."""
        present = cgroup.programs_at(self._group, LEASE_HOOK).programs
        self._known = {
            number: self._known[number] if number in self._known else _is_lease(number) for number in present
        }
        return [number for number, is_lease in self._known.items() if is_lease]


def _is_lease(number: int) -> bool:
    info = programs.info_by_id(number)
    return info is not None and info.mark.name == LEASE_NAME and info.loaded_by == os.geteuid()
