"""Who sent a request: the account of the process at the other end of the API's socket."""

from __future__ import annotations

import pwd
import socket
import struct
from contextvars import ContextVar
from typing import Final

import trio

from netagent.model.records import STOP

UNKNOWN: Final = "unknown"
_CREDENTIALS: Final = struct.Struct("iII")
"""`struct ucred`: pid, uid, gid."""
_account: ContextVar[str] = ContextVar("account", default=UNKNOWN)


def account() -> str:
    """Return the account of the client whose request is being answered. With sudo it is `root`."""
    return _account.get()


def note(connection: trio.socket.SocketType) -> None:
    """Note whose requests the present task, and those it starts, will answer."""
    _account.set(_account_of(connection))


def _account_of(connection: trio.socket.SocketType) -> str:
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(packed)
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
    is_plain = name.isprintable() and len(name) <= 32 and name != STOP
    return name if is_plain else f"uid {uid}"
