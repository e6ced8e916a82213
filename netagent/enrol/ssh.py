"""Scripts on another host, over the user's own ssh: its configuration, keys, agent and known hosts.

All of them share one connection (ControlMaster), so that a password or a touch of a key is asked for once; if it is
lost, the next script opens another one. Scripts go there as an argument, and what they read, a token or a package, by
standard input, so that no other user sees it in a list of processes.

What comes back is text from outside: it is bounded here, only parsed (`host_facts`), and printed after `clean`.
Nothing of the user's configuration that would give the other host more than a shell is used: no agent, no X11, no
forwarded ports, no local command.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from netagent.errors import FailedError, InputError

MAX_OUTPUT_BYTES: Final = 4 * 1024 * 1024
"""Bound of what one script may print there; beyond it: an error."""
MAX_ERROR_BYTES: Final = 16 * 1024
"""Bound of what is kept of a script's error output; beyond it: the end of it."""
CONNECTING_S: Final = 20
OPENING_S: Final = 300.0
"""How long a connection may take to open: someone types a password."""
IDLE_S: Final = 120
"""The connection closes by itself this long after the last script, if this program was killed."""
_LOST: Final = 255
"""ssh(1): its exit status if ssh itself failed."""

# As OpenSSH 9.6 and later: a name that the user's `ProxyCommand` or `Match exec` hands to a shell is only a name.
_USER = r"[A-Za-z0-9_.+][A-Za-z0-9_.+@-]*"
_HOST = r"[A-Za-z0-9_.:][A-Za-z0-9_.:%+-]*|\[[0-9A-Fa-f:.%]+\](?::[0-9]+)?"
_WHERE: Final = re.compile(rf"(?:ssh://)?(?:{_USER}@)?(?:{_HOST})")
MAX_WHERE_CHARS: Final = 255

_OPTIONS: Final = tuple(
    word
    for option in (
        f"ConnectTimeout={CONNECTING_S}", "ServerAliveInterval=5", "ServerAliveCountMax=3", "ForwardAgent=no",
        "ForwardX11=no", "ClearAllForwardings=yes", "PermitLocalCommand=no", "RemoteCommand=none",
        "RequestTTY=no",
    )
    for word in ("-o", option)
)  # fmt: skip
_PATH: Final = 'PATH="$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"\n'
"""sshd gives a shell that is no login shell few folders."""


class ScriptError(FailedError):
    """A script ended with another status than it may; `status`, and what it printed, tell why."""

    def __init__(self, message: str, *, status: int, output: bytes) -> None:
        super().__init__(message)
        self.status = status
        self.output = output


class LostError(FailedError):
    """The other host cannot be reached, or not any more."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a script printed."""

    output: bytes
    errors: bytes
    """The end of it."""

    @property
    def reason(self) -> str:
        """The line of the error output that says most: the last one, or that of a full disk, which programs report
        before they give up."""
        lines = self.errors.decode(errors="replace").strip().splitlines()
        full = [line for line in lines if "No space left on device" in line]
        return (full or lines)[-1].strip()[:400] if lines else ""


class Remote:
    """Another host, as root there. Make it with `connected`."""

    def __init__(self, where: str, control: Path) -> None:
        self.where = where
        self._control = control
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

    def typed(self, command: str) -> str:
        """Return what an operator would type here to run a command there."""
        return f"ssh {self.where} {shlex.quote(self._become_root.replace(' -n', '') + command)}"

    def run(self, script: str, *words: str, **more: object) -> bytes:
        """As `ask`, and return what the script prints."""
        return self.ask(script, *words, **more).output  # type: ignore[arg-type]

    def ask(
        self,
        script: str,
        *words: str,
        stdin: BinaryIO | bytes = b"",
        may_end: tuple[int, ...] = (0,),
        within_s: float = 120.0,
        each_second: Callable[[int], object] | None = None,
    ) -> Said:
        """Run a script of sh there with these arguments. `each_second` is told how much of the input has been sent.

        Raises ScriptError if it ends with a status that is not one of `may_end`, LostError if ssh fails, FailedError.
        """
        self._open()
        inner = f"{self._become_root}sh -c {shlex.quote(_PATH + script)} sh {shlex.join(words)}"
        # Without the connection ssh would make its own and ask for a password, which it cannot in the background.
        command = self._ssh("-o", "ControlMaster=no", "-o", "BatchMode=yes", "--", self.where, inner)
        status, said = _bounded(command, stdin, within_s, each_second)
        if len(said.output) > MAX_OUTPUT_BYTES:
            raise FailedError(f"{self.where} answers without end", thing=self.where, hint="look at that host")
        if status == -signal.SIGKILL:
            hint = "look at that host"
            raise FailedError(
                f"{self.where} did not answer within {within_s:g} s", thing=self.where, hint=hint
            )
        if status == _LOST:
            hint = f"`ssh {self.where}` must work"
            raise LostError(
                f"the connection to {self.where} was lost: {said.reason}", thing=self.where, hint=hint
            )
        if status not in may_end:
            raise ScriptError(said.reason or f"status {status}", status=status, output=said.output)
        return said

    def _open(self) -> None:
        """Open the connection unless it is open. In the foreground: ssh may ask for a password or about a key."""
        if self._control.exists() and _quietly(self._ssh("-O", "check", "--", self.where)):
            return
        command = self._ssh(
            "-o", "ControlMaster=yes", "-o", f"ControlPersist={IDLE_S}", "--", self.where, "true"
        )
        status, said = _bounded(command, b"", OPENING_S, None, in_foreground=True)
        if status == 0:
            return
        reason = said.reason or f"no answer within {OPENING_S:g} s"
        if status not in (_LOST, -signal.SIGKILL):
            reason = f"its shell ends with status {status}"
        raise LostError(
            f"cannot reach {self.where}: {reason}", thing=self.where, hint=f"`ssh {self.where}` must work"
        )

    def close(self) -> None:
        """Close the connection."""
        if self._control.exists():
            _quietly(self._ssh("-O", "exit", "--", self.where))

    def _ssh(self, *words: str) -> list[str]:
        return ["ssh", *_OPTIONS, "-o", f"ControlPath={self._control}", "-T", *words]


@contextlib.contextmanager
def connected(where: str, folder: Path) -> Iterator[Remote]:
    """Yield the host for scripts; `folder` is private. Raises InputError."""
    if len(where) > MAX_WHERE_CHARS or not _WHERE.fullmatch(where):
        raise InputError(
            f"{where[:MAX_WHERE_CHARS]!r} is no host",
            thing=where[:MAX_WHERE_CHARS],
            hint="write USER@HOST, as for ssh; HOST may be a name of ~/.ssh/config",
        )
    remote = Remote(where, folder / "control")
    try:
        yield remote
    finally:
        remote.close()


def _quietly(command: list[str]) -> bool:
    """Ask the ssh that holds the connection; it answers at once."""
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=10).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _bounded(
    command: list[str],
    stdin: BinaryIO | bytes,
    within_s: float,
    each_second: Callable[[int], object] | None,
    *,
    in_foreground: bool = False,
) -> tuple[int, Said]:
    """Run a program; return its exit status and what it printed. It is killed when the time is over or its output too
    long. In a process group of its own it does not get the terminal's Ctrl-C, and cannot read the terminal."""
    with contextlib.ExitStack() as open_files:
        if isinstance(stdin, bytes):
            given = open_files.enter_context(open(os.memfd_create("stdin"), "w+b"))  # noqa: PTH123 - no path
            given.write(stdin)
            given.seek(0)
            stdin = given
        try:
            process = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                process_group=None if in_foreground else 0,
            )
        except FileNotFoundError:
            hint = "install openssh-client"
            raise FailedError("this host has no program ssh", thing="ssh", hint=hint) from None
        source = stdin.fileno()

        def tell() -> None:
            if each_second is not None:
                # ssh reads from the same open file, so its position is what has been sent.
                each_second(os.lseek(source, 0, os.SEEK_CUR))

        try:
            said = _read(process, within_s, tell)
        finally:
            process.kill()
            status = process.wait()
        return status, said


def _read(process: subprocess.Popen[bytes], within_s: float, tell: Callable[[], None]) -> Said:
    """Return what it prints until it ends, until the time is over, or until it is too much. Not until the pipes are
    closed: the ssh that holds the connection may keep them."""
    assert process.stdout is not None
    assert process.stderr is not None
    output, errors = bytearray(), bytearray()
    end_s, told_s = time.monotonic() + within_s, time.monotonic()
    with process.stdout as out, process.stderr as err, selectors.DefaultSelector() as ready:
        ended = os.pidfd_open(process.pid)
        try:
            ready.register(ended, selectors.EVENT_READ)
            for stream, kept in ((out, output), (err, errors)):
                os.set_blocking(stream.fileno(), False)
                ready.register(stream, selectors.EVENT_READ, kept)
            is_running = True
            while is_running and len(output) <= MAX_OUTPUT_BYTES and time.monotonic() < end_s:
                for key, _ in ready.select(min(1.0, max(0.0, end_s - time.monotonic()))):
                    if key.data is None:
                        is_running = False
                    elif not _take(key.fd, key.data):
                        ready.unregister(key.fileobj)
                del errors[:-MAX_ERROR_BYTES]
                if time.monotonic() - told_s >= 1.0:
                    told_s = time.monotonic()
                    tell()
            for stream, kept in ((out, output), (err, errors)):
                while len(kept) <= MAX_OUTPUT_BYTES and _take(stream.fileno(), kept):
                    pass
        finally:
            os.close(ended)
    return Said(bytes(output), bytes(errors[-MAX_ERROR_BYTES:]))


def _take(descriptor: int, kept: bytearray) -> bool:
    """Append what is there; False if nothing is."""
    try:
        part = os.read(descriptor, 65536)
    except BlockingIOError:
        return False
    kept += part
    return bool(part)
