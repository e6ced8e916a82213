"""A daemon on a host: its agent, its dockerd. Known by the process id that it left in the host's /run."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from netlab.errors import LabError
from netlab.process import innermost_pid, wait_until

NOTE_PID = 'echo $$ >"$0.new"; mv "$0.new" "$0"; exec "$@"'

NUM_THREADS = 17
"""Position of field 20 of /proc/PID/stat after the command's name, proc_pid_stat(5)."""

UCRED = struct.Struct("iII")
"""Process, user, group: the process that called listen(2), numbered as the asking process sees it, unix(7)."""


class Machine(Protocol):
    """What a daemon needs from its host."""

    @property
    def has_power(self) -> bool: ...  # noqa: D102

    def must(self, argv: Sequence[str]) -> str: ...  # noqa: D102

    def start(self, argv: Sequence[str], log: Path) -> None: ...  # noqa: D102

    def path(self, inside: str) -> Path: ...  # noqa: D102


class Daemon:
    """A daemon. `called` is its name in messages. It is ready when the unix socket `answers_on` accepts connections.

    Limits on start and stop are no delays: both end as soon as they can.
    """

    def __init__(
        self, host: Machine, called: str, key: str, log_file: Path, *, answers_on: str, within_s: float
    ) -> None:
        self.log_file = log_file
        self._host = host
        self._called = called
        self._pid_file = f"/run/lab-{key}.pid"
        self._socket = answers_on
        self._within_s = within_s

    @property
    def running(self) -> bool:
        """Whether the one that we started is alive."""
        return self._host.has_power and self._pid() is not None

    def start(self, argv: Sequence[str]) -> None:
        """Start it. Raises LabError when it runs already."""
        if self.running:
            raise LabError(f"{self._called} is already running", exit_status=4)
        self._host.path(self._pid_file).unlink(missing_ok=True)
        self._host.start(["sh", "-c", NOTE_PID, self._pid_file, *argv], self.log_file)

    def wait(self) -> None:
        """Wait until it answers. Raises LabError with the end of its log if it dies or takes too long."""

        def answers_or_dead() -> bool:
            return self._answers() or self._has_died()

        wait_until(answers_or_dead, self._within_s, lambda: self._blame("does not answer"))
        if not self._answers():
            raise LabError(self._blame("died during its start"))

    def stop(self) -> None:
        """Send SIGTERM, and wait for a clean end."""
        self.signal("TERM")
        wait_until(lambda: not self.running, self._within_s, lambda: self._blame("does not stop"))

    def kill(self) -> None:
        """Send SIGKILL to it alone; processes that it started continue."""
        self.signal("KILL")
        wait_until(lambda: not self.running, self._within_s, lambda: self._blame("does not die"))

    def log_tail(self, lines: int = 15) -> str:
        """Return the end of its log."""
        text = self.log_file.read_text(errors="replace") if self.log_file.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def signal(self, name: str) -> None:
        """Send a signal to it alone. Raises LabError when it does not run."""
        pid = self._pid() if self._host.has_power else None
        if pid is None:
            raise LabError(f"{self._called} is not running", exit_status=4)
        self._host.must(["sh", "-c", 'kill -s "$1" "$2"', "sh", name, pid])

    def _pid(self) -> str | None:
        """Return its id in the host; None once all its threads are dead, because until then it may hold its lock and
        its socket."""
        try:
            pid = self._host.path(self._pid_file).read_text().strip()
            fields = self._host.path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        # A killed process is a zombie while some of its threads are still ending, with its open files.
        is_dead = not fields or (fields[0] in "ZX" and fields[NUM_THREADS] in "01")
        return pid if pid and not is_dead else None

    def _has_died(self) -> bool:
        return self._host.path(self._pid_file).exists() and not self.running

    def _answers(self) -> bool:
        """Return whether the last one that we started answers: an earlier one may be dying with its socket open."""
        pid = self._pid()
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(self._host.path(self._socket)))
            credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size)
            listener, _, _ = UCRED.unpack(credentials)
            return pid is not None and innermost_pid(listener) == pid
        return False

    def _blame(self, what: str) -> str:
        return f"{self._called} {what}; the end of its log:\n{self.log_tail()}\n"
