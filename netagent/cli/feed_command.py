"""`netagent feed`: prints a feed or writes it to a file, once or whenever it changes.

The file is replaced by a rename in its folder, so a reader sees the old content or the new one, and programs that
watch for renames (Envoy) take it up. While the agent is away the file stays as it is, and the command waits.
"""

from __future__ import annotations

import contextlib
import os
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
_PASSING = {"not-synced", "timeout"}
"""Codes of errors that pass by themselves. An agent that is away is another one."""


@runs(FeedCommand)
def feed(session: CommandContext, request: FeedCommand) -> int:
    """Print or write a feed."""
    while True:
        answer = _next(session, request) if request.watch else session.client.send(request)
        text = "".join(at_once(encoded(answer["content"]))) + "\n"
        if request.file is None:
            sys.stdout.write(text)
            sys.stdout.flush()
        else:
            replace_file(request.file, text)
        warn(session, answer)
        if not request.watch:
            return DONE
        request.known = answer["tag"]


def _next(session: CommandContext, request: FeedCommand) -> schema.Feed:
    """Return the next content that is another one. What passes by itself is waited for, and said once."""
    waits_for = ""
    while True:
        try:
            answer = session.client.send(request)
        except NetagentError as error:
            if not isinstance(error, UnreachableError) and error.code not in _PASSING:
                raise
            if waits_for != error.message:
                waits_for = error.message
                print(clean(f"netagent: {waits_for}; waiting"), file=sys.stderr, flush=True)
            time.sleep(RETRY_S)
        else:
            if answer["tag"] != request.known:
                return answer


def replace_file(name: str, text: str) -> None:
    """Replace a file, or make it. Its mode and owner stay. Raises FailedError."""
    path = Path(name).resolve()
    try:
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
        hint = "name a file in a folder that you may write to"
        raise FailedError(f"cannot write {name}: {error.strerror}", thing=name, hint=hint) from None


def _give_rights(path: Path, descriptor: int) -> None:
    """Give the new file the mode and the owner of the old one."""
    try:
        known = path.stat()
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        os.fchmod(descriptor, 0o666 & ~mask)
        return
    os.fchmod(descriptor, known.st_mode & 0o777)
    with contextlib.suppress(PermissionError):  # not root: the file becomes the caller's
        os.fchown(descriptor, known.st_uid, known.st_gid)
