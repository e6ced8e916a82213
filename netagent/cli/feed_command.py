"""`netagent feed`: prints a feed or writes it to a file, once or whenever it changes.

The file is replaced by a rename in its folder, so a reader sees the old content or the new one, and programs that
watch for renames (Envoy) take it up. While the agent is away the file stays as it is, and the command waits. So it
does when the host has left a network that the file has: a proxy would take its sites down.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from netagent.cli.client_commands import DONE, CommandContext, runs, warn
from netagent.cli.render import clean
from netagent.errors import FailedError, NetagentError, UnreachableError
from netagent.feeds.encoding import encoded
from netagent.interface.questions import FeedCommand
from netgossip.slices import at_once

if TYPE_CHECKING:
    from netagent.interface import schema

RETRY_S = 1.0
FULL_S = 5.0
"""Between two tries to write to a disk that is full."""
_FULL = "disk-full"
_MAX_LINKS = 40
_PASSING = {"not-synced", "timeout"}
"""Codes of errors that pass by themselves. An agent that is away is another one."""


@runs(FeedCommand)
def feed(session: CommandContext, request: FeedCommand) -> int:
    """Print or write a feed."""
    waiting = _Waiting()
    networks: set[str] = set()
    while True:
        answer = _next(session, request, waiting) if request.watch else session.client.send(request)
        if request.watch and request.file is not None and (left := networks - set(answer["networks"])):
            waiting.say(f"this host has left {', '.join(sorted(left))}, so {request.file} stays as it is")
            request.known = answer["tag"]
            continue
        networks = set(answer["networks"])
        text = "".join(at_once(encoded(answer["content"]))) + "\n"
        if request.file is None:
            sys.stdout.write(text)
            sys.stdout.flush()
        elif not _is_written(request.file, text, waiting if request.watch else None):
            time.sleep(FULL_S)
            continue
        warn(session, answer)
        if not request.watch:
            return DONE
        waiting.end()
        request.known = answer["tag"]


class _Waiting:
    """Says once why the command waits."""

    def __init__(self) -> None:
        self._said = ""

    def say(self, why: str) -> None:
        if self._said != why:
            self._said = why
            print(clean(f"netagent: {why}; waiting"), file=sys.stderr, flush=True)

    def end(self) -> None:
        self._said = ""


def _is_written(name: str, text: str, waiting: _Waiting | None) -> bool:
    """Replace the file; false if there is no room for it now, which a command that waits lets pass."""
    try:
        replace_file(name, text)
    except FailedError as error:
        if waiting is None or error.code != _FULL:
            raise
        waiting.say(error.message)
        return False
    return True


def _next(session: CommandContext, request: FeedCommand, waiting: _Waiting) -> schema.Feed:
    """Return the next content that is another one. What passes by itself is waited for, and said once."""
    while True:
        try:
            answer = session.client.send(request)
        except NetagentError as error:
            if not isinstance(error, UnreachableError) and error.code not in _PASSING:
                raise
            waiting.say(error.message)
            time.sleep(RETRY_S)
        else:
            if answer["tag"] != request.known:
                return answer


def replace_file(name: str, text: str) -> None:
    """Replace a file, or make it. Its mode and owner stay. Raises FailedError."""
    hint = "name a file in a folder that you may write to"
    try:
        path = _followed(Path(name)).resolve()
        descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                _give_rights(path, stream.fileno())
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            Path(beside).replace(path)
        except BaseException:
            Path(beside).unlink(missing_ok=True)
            raise
    except OSError as error:
        code = _FULL if error.errno in (errno.ENOSPC, errno.EDQUOT) else None
        raise FailedError(
            f"cannot write {name}: {error.strerror}", code=code, thing=name, hint=hint
        ) from None


def _followed(path: Path) -> Path:
    """Follow symbolic links of root and of the caller to a file, or to where it will be. OSError."""
    for _ in range(_MAX_LINKS):
        try:
            known = path.lstat()
        except FileNotFoundError:
            return path
        if stat.S_ISREG(known.st_mode):
            return path
        if not stat.S_ISLNK(known.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        # In a folder of all, /tmp, another user's link would choose which file root replaces.
        if known.st_uid not in (0, os.geteuid()):
            raise OSError(errno.EACCES, "it is a link that belongs to another user")
        path = path.parent / path.readlink()
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _give_rights(path: Path, descriptor: int) -> None:
    """Give the new file the mode and the owner of the old one."""
    try:
        known = path.stat()
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        os.fchmod(descriptor, 0o640 & ~mask)  # labels may have secrets
        return
    os.fchmod(descriptor, known.st_mode & 0o777)
    with contextlib.suppress(PermissionError):  # not root: the file becomes the caller's
        os.fchown(descriptor, known.st_uid, known.st_gid)
