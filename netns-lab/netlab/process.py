"""Processes of other sessions, identified by more than their id.

A pid alone may have been reused in the meantime; together with its start time it is an identity.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from netlab.errors import LabError


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process of this machine; `started` is field 22 of /proc/PID/stat, in clock ticks since boot."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """Return the process with this id. Raises LabError when there is none."""
        fields = _stat(pid)
        if fields is None:
            raise LabError(f"process {pid} is gone")
        return cls(pid, int(fields[19]))

    @property
    def alive(self) -> bool:
        """False for a zombie as well: its program has ended."""
        fields = _stat(self.pid)
        return fields is not None and fields[0] not in "ZX" and int(fields[19]) == self.started

    def kill(self, *, within_s: float = 10.0) -> None:
        """Send SIGKILL, and wait for the end. For a process 1 this ends its whole process namespace."""
        if not self.alive:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        wait_until(lambda: not self.alive, within_s, f"process {self.pid} does not die")


def wait_until(
    condition: Callable[[], bool],
    within_s: float,
    otherwise: str | Callable[[], str],
    *,
    every_s: float = 0.02,
) -> float:
    """Wait for a condition; return the seconds. Raises LabError with `otherwise` if a check that began after
    `within_s` fails.

    A check takes time, on a busy machine a second. One that began earlier says nothing about the end of the limit.
    """
    begun = looked = time.monotonic()
    while not condition():
        if looked - begun > within_s:
            said = otherwise if isinstance(otherwise, str) else otherwise()
            raise LabError(f"{said} (waited {within_s:g} s)")
        time.sleep(every_s)
        looked = time.monotonic()
    return time.monotonic() - begun


def innermost_pid(pid: int) -> str | None:
    """Return the id of a process in its own process namespace; None when it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines():
            if line.startswith("NSpid:"):
                return line.split()[-1]
    return None


def running_script(script: str, arguments: int) -> Iterator[tuple[ProcessId, list[str]]]:
    """Yield processes of this machine that run a script whose path ends so, with so many arguments, and these."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, LabError):
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
            if len(words) > arguments and words[-arguments - 1].endswith(script):
                yield ProcessId.of(int(entry.name)), words[-arguments:]


def _stat(pid: int) -> list[str] | None:
    """Return the fields after the command's name, which may contain spaces and brackets itself."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
