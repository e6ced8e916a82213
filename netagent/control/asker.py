"""Who sent a request: the account and the program at the other end of the API's socket, by the kernel's word.

handler:  current_author()                (netagent.model.author) who asks, whichever way the request came
tokens:   with acting_as(Author(AuthorKind.TOKEN, name)): around the handler, once the token is proven
"""

from __future__ import annotations

import pwd
import socket
import struct
from pathlib import Path
from typing import Final

import trio

from netagent.model.author import Author, AuthorKind, act_as
from netagent.model.records import STOP

MAX_NAME_CHARS: Final = 32
_CREDENTIALS: Final = struct.Struct("iII")
"""`struct ucred`: pid, uid, gid."""
_STRANGER: Final = Author(AuthorKind.USER, "unknown")


def note(connection: trio.socket.SocketType) -> None:
    """Note for whom the present task, and those it starts, will act: the client at the other end of a unix socket."""
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(packed)
    act_as(Author(AuthorKind.USER, _account_of(uid), uid, _program_of(pid)))


def note_stranger() -> None:
    """Note that the client is unknown: it came by TCP, and has shown no token yet."""
    act_as(_STRANGER)


def _account_of(uid: int) -> str:
    """Return the name of an account. With sudo it is `root`."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
    is_plain = name.isprintable() and len(name) <= MAX_NAME_CHARS and name != STOP
    return name if is_plain else f"uid {uid}"


def _program_of(pid: int) -> str | None:
    """Return what the process calls itself. None: it has ended, or is in a namespace that this one does not see."""
    try:
        # One line of at most 15 octets, which the process chose itself: it proves nothing.
        name = Path(f"/proc/{pid}/comm").read_bytes().decode("ascii", "replace").rstrip("\n")
    except OSError:
        return None
    return name if name and name.isprintable() else None
