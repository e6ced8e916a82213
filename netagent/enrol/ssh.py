"""Scripts on another host, over the user's own ssh: its configuration, keys, agent and known hosts.

All of them share one connection (ControlMaster), so that a password or a touch of a key is asked for once. Scripts go
there as an argument, and what they read, a token or a package, by standard input, so that no other user sees it in a
list of processes.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from netagent.errors import FailedError, InputError

MAX_OUTPUT_BYTES: Final = 4 * 1024 * 1024
"""Bound of what one script may print there; beyond it: an error."""
CONNECTING_S: Final = 20
_LOST: Final = 255
"""ssh(1): its exit status if ssh itself failed."""


class ScriptError(FailedError):
    """A script ended with another status than it may; `status`, and what it printed, tell why."""

    def __init__(self, message: str, *, status: int, output: bytes) -> None:
        super().__init__(message)
        self.status = status
        self.output = output


class Remote:
    """Another host, as root there. Make it with `connected`."""

    def __init__(self, where: str, options: list[str]) -> None:
        self.where = where
        self._options = options
        self._become_root = ""

    def learn_how_to_be_root(self) -> None:
        """Find out whether the account is root there, or may become it without a password. Raises FailedError."""
        answer = self.run("id -u; sudo -n true 2>/dev/null && echo sudo; :").decode(errors="replace").split()
        if "0" in answer:
            return
        if "sudo" not in answer:
            raise FailedError(
                f"the account of {self.where} is not root there, and sudo would ask for a password",
                thing=self.where,
                hint="use root@HOST, or let that account use sudo without a password",
            )
        self._become_root = "sudo -n "

    def run(
        self,
        script: str,
        *words: str,
        stdin: BinaryIO | bytes = b"",
        may_end: tuple[int, ...] = (0,),
        within_s: float = 120.0,
    ) -> bytes:
        """Run a script of sh there with these arguments, and return what it prints.

        Raises ScriptError if it ends with a status that is not one of `may_end`, FailedError if ssh fails.
        """
        inner = f"{self._become_root}sh -c {shlex.quote(script)} sh {shlex.join(words)}"
        command = ["ssh", *self._options, "--", self.where, inner]
        status, output, errors = _bounded(command, stdin, within_s)
        said = _last_line(errors)
        if len(output) > MAX_OUTPUT_BYTES:
            raise FailedError(f"{self.where} answers without end", thing=self.where, hint="look at that host")
        if status == -signal.SIGKILL:
            hint = "look at that host"
            raise FailedError(
                f"{self.where} did not answer within {within_s:g} s", thing=self.where, hint=hint
            )
        if status == _LOST:
            hint = f"`ssh {self.where}` must work"
            raise FailedError(f"cannot reach {self.where}: {said}", thing=self.where, hint=hint)
        if status not in may_end:
            raise ScriptError(said or f"status {status}", status=status, output=output)
        return output


def _bounded(command: list[str], stdin: BinaryIO | bytes, within_s: float) -> tuple[int, bytes, bytes]:
    """Return exit status, output and errors, which are cut off at their bound; then, and when the time is over, the
    program is killed. Input and errors are no pipes: the connection that stays would hold them open. It stays in
    this process group, as whatever asks for a password at the terminal must."""
    with contextlib.ExitStack() as open_files:
        if isinstance(stdin, bytes):
            given = open_files.enter_context(open(os.memfd_create("stdin"), "w+b"))  # noqa: PTH123 - no path
            given.write(stdin)
            given.seek(0)
            stdin = given
        errors = open_files.enter_context(tempfile.TemporaryFile())
        try:
            process = subprocess.Popen(
                command, stdin=stdin, stdout=subprocess.PIPE, stderr=errors, process_group=0
            )
        except FileNotFoundError:
            hint = "install openssh-client"
            raise FailedError("this host has no program ssh", thing="ssh", hint=hint) from None
        try:
            output = _read(process, within_s)
        finally:
            process.kill()
            status = process.wait()
        errors.seek(0)
        return status, output, errors.read(MAX_OUTPUT_BYTES)


@contextlib.contextmanager
def connected(where: str, folder: Path) -> Iterator[Remote]:
    """Open one connection for all scripts; `folder` is private. Raises InputError, FailedError."""
    user, _, host = where.rpartition("@")
    if not host or where.startswith("-") or user.startswith("-") or any(c.isspace() for c in where):
        raise InputError(f"{where!r} is no host", thing=where, hint="write USER@HOST, as for ssh")
    control = folder / "control"
    options = [
        "-o", "ControlMaster=auto", "-o", f"ControlPath={control}", "-o", "ControlPersist=yes",
        "-o", f"ConnectTimeout={CONNECTING_S}", "-o", "ServerAliveInterval=5", "-T",
    ]  # fmt: skip
    remote = Remote(where, options)
    try:
        yield remote
    finally:
        if control.exists():
            end = ["ssh", *options, "-O", "exit", "--", where]
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                subprocess.run(end, capture_output=True, check=False, timeout=10, env=os.environ)


def _read(process: subprocess.Popen[bytes], within_s: float) -> bytes:
    """Return what it prints until it ends, until the time is over, or until it is too much."""
    assert process.stdout is not None
    output, end_s = bytearray(), time.monotonic() + within_s
    with process.stdout as stream, selectors.DefaultSelector() as ready:
        ready.register(stream, selectors.EVENT_READ)
        while len(output) <= MAX_OUTPUT_BYTES and ready.select(end_s - time.monotonic()):
            if not (part := os.read(stream.fileno(), 65536)):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, end_s - time.monotonic()))
                break
            output += part
    return bytes(output)


def _last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[-1][:400] if lines else ""
