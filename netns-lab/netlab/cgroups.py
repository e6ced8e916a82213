"""Find and remove the control groups of hosts on the machine.

Process 1 of a host creates them (`keeper.py`) and containers on the host create more below. Nothing removes a control
group when its processes die, so the lab does, by the name that all groups of one host share.
"""

from __future__ import annotations

import os
import re
from functools import partial
from pathlib import Path

from netlab.process import wait_until

ROOT = Path("/sys/fs/cgroup")

EMPTY_S = 20.0
"""A group can be removed only after the kernel has reaped its last process, a moment after the kill."""


def named(pattern: re.Pattern[str]) -> list[Path]:
    """Return groups whose whole name matches; groups below them are not listed."""
    found = []
    for folder, below, _files in os.walk(ROOT):
        ours = [name for name in below if pattern.fullmatch(name)]
        found += [Path(folder, name) for name in ours]
        below[:] = [name for name in below if name not in ours]
    return sorted(found)


def remove(pattern: re.Pattern[str]) -> None:
    """Remove groups of that name and all below them. Raises LabError when a process runs in one."""
    for group in named(pattern):
        wait_until(partial(_removed, group), EMPTY_S, f"processes still run in {group}")


def _removed(group: Path) -> bool:
    for folder, _below, _files in os.walk(group, topdown=False):
        try:
            os.rmdir(folder)  # noqa: PTH106 - its files cannot be removed and need not be
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return True
