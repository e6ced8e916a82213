"""The end of commands of checks, whose processes are found by a variable in their environment.

A runtime's own end of a command leaves the processes that the command started.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
MARK: Final = "NETAGENT_CHECK"
"""Variable of a check's command, by whose value its processes are found."""
MAX_ENVIRONMENT_BYTES = 128 * 1024
"""Of one process; a command whose environment is larger is not found by its mark."""

logger = logging.getLogger("netagent.checks")


def new_mark() -> str:
    """Return `NAME=VALUE`, which no other command has."""
    return f"{MARK}={secrets.token_hex(16)}"


def kill_marked(mark: bytes) -> int:
    """Kill the command of a check: all processes with `NAME=VALUE` in their environment; return their number. Reads
    all of /proc as well.

    conmon has the mark too. It ends with its command, and is left alive to show that a command lives which has
    overwritten its own environment.
    """
    count = 0
    for folder in PROC.iterdir():
        if not folder.name.isdigit() or not _is_marked(folder, mark) or _is_conmon(folder):
            continue
        try:
            fd = os.pidfd_open(int(folder.name))
        except OSError:
            continue
        try:
            # Only now the process is held: its pid may have been another one's before.
            if _is_marked(folder, mark):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
                count += 1
        except PermissionError:
            logger.warning("cannot kill process %s of a check's command: it takes CAP_KILL", folder.name)
        except OSError:
            continue  # ended meanwhile
        finally:
            os.close(fd)
    return count


def is_marked_left(mark: bytes) -> bool:
    """True if a process with this mark is left, or the conmon of one."""
    return any(folder.name.isdigit() and _is_marked(folder, mark) for folder in PROC.iterdir())


def _is_conmon(folder: Path) -> bool:
    try:
        return (folder / "comm").read_text("utf-8", "replace").strip() == "conmon"
    except OSError:
        return False


def _is_marked(folder: Path, mark: bytes) -> bool:
    try:
        with (folder / "environ").open("rb") as file:
            environment = file.read(MAX_ENVIRONMENT_BYTES)
        # To split an environment of empty words takes milliseconds, and a container may have thousands of them.
        return mark in environment and mark in environment.split(b"\0")
    except OSError:
        return False
