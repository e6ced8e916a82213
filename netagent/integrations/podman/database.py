"""Podman's database: which containers Podman is stopping.

`podman stop` commits that the container is stopping, and then starts the program that sends the signal. Nothing else
shows it in time: Podman calls no plug-in, its events come after the container's end, and `podman ps` takes 60 ms of
CPU and waits for the lock of each container. So inotify(7) reports each commit, whatever program makes it, and one
field of each container is read, in a thread: 0.2 ms for a hundred containers, 3 ms for a thousand.

The database is Podman's own affair, and read only. If it is not as expected, the names of a container lead to it
until it has ended, as for a Podman that keeps a BoltDB instead.
"""

from __future__ import annotations

import ctypes
import os
import sqlite3
import struct
import weakref
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

import trio

from netagent.errors import FailedError

DATABASE: Final = "db.sql"
_JOURNAL: Final = b"db.sql-journal"
"""A commit ends with its removal."""
BUSY_S: Final = 1.0
"""How long a read waits for a commit that another process is making."""
_RUNNING, _STOPPING = 3, 8
"""Podman's numbers of the states."""
_IN_DELETE: Final = 0x200
_IN_Q_OVERFLOW: Final = 0x4000
_EVENT: Final = struct.Struct("iIII")
_BUFFER_BYTES: Final = 65536
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class ContainerStates:
    """Ids of containers."""

    running: frozenset[str]
    stopping: frozenset[str]


class DatabaseWatch:
    """Reports commits to the databases in the folders that it was given. OSError: there is no inotify left."""

    def __init__(self) -> None:
        self._fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        weakref.finalize(self, os.close, self._fd)

    def add(self, storage: str) -> bool:
        """Watch this folder as well; to repeat it changes nothing. False if it cannot be watched."""
        number: int = _libc.inotify_add_watch(self._fd, os.fsencode(storage), _IN_DELETE)
        return number >= 0

    async def wait_commit(self) -> None:
        """Wait for the next commit."""
        while True:
            await trio.lowlevel.wait_readable(self._fd)
            if _has_commit(os.read(self._fd, _BUFFER_BYTES)):
                return


def read_states_untrusted(storage: str) -> ContainerStates:
    """Read which containers run and which ones Podman is stopping. FailedError: it cannot be read."""
    ids: dict[int, set[str]] = {_RUNNING: set(), _STOPPING: set()}
    try:
        if not Path(storage, DATABASE).is_file():  # a FIFO would hold the thread for ever
            raise FailedError(f"cannot read {storage}/{DATABASE}: there is no such file")
        uri = f"file:{quote(f'{storage}/{DATABASE}')}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_S)) as database:
            # The column State is not kept up to date. As text, because JSON in a BLOB has another meaning to SQLite.
            # To look into a row that is no JSON would end the query, and hide the stops of all others.
            text = "CAST(JSON AS TEXT)"
            state = f"CASE WHEN json_valid({text}) THEN json_extract({text}, '$.state') END"
            query = f"SELECT ID, {state} AS now FROM ContainerState WHERE now IN (?, ?)"
            for container_id, number in database.execute(query, (_RUNNING, _STOPPING)):
                ids[number].add(str(container_id))
    except (sqlite3.Error, UnicodeError) as error:
        raise FailedError(f"cannot read {storage}/{DATABASE}: {error}") from None
    return ContainerStates(frozenset(ids[_RUNNING]), frozenset(ids[_STOPPING]))


def _has_commit(events: bytes) -> bool:
    at = 0
    while at < len(events):
        _, mask, _, length = _EVENT.unpack_from(events, at)
        at += _EVENT.size
        if mask & _IN_Q_OVERFLOW or events[at : at + length].rstrip(b"\0") == _JOURNAL:
            return True
        at += length
    return False
