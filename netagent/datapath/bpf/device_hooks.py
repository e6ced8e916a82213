"""How programs come to network devices on this kernel: TCX, or before Linux 6.6 filters at `clsact`."""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from netagent.datapath.bpf import clsact, tcx
from netagent.datapath.bpf.programs import Program
from netagent.datapath.bpf.tcx import Side

_LOOPBACK: Final = 1
"""The first device of each network namespace."""


@dataclass(frozen=True, slots=True)
class DeviceHooks:
    """What `tcx` and `clsact` both do; each function says it there."""

    programs_at: Callable[[int, Side], list[int]]
    attach: Callable[[int, Side, Program], None]
    detach: Callable[[int, Side, int], None]


BY_TCX: Final = DeviceHooks(tcx.programs_at, tcx.attach, tcx.detach)
BY_CLSACT: Final = DeviceHooks(clsact.programs_at, clsact.attach, clsact.detach)


@functools.cache
def hooks_of_kernel() -> DeviceHooks:
    """Return those that this kernel has. OSError."""
    try:
        tcx.programs_at(_LOOPBACK, Side.INGRESS)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return BY_CLSACT
        raise
    return BY_TCX
