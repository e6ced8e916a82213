"""The API's server on a unix socket: permissions, ownership of the socket, and shutdown.

The socket is created under another name and renamed once it listens with its mode and group. So a client finds
either no agent or a complete one, and a socket left by a crash is replaced without a gap. A socket on which a program
still answers is never replaced. A socket that the service manager made, which listens while no agent runs, stays.
"""

from __future__ import annotations

import contextlib
import functools
import grp
import logging
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import trio
from starlette.applications import Starlette

from netagent.control.asgi import serve_on
from netagent.errors import FailedError, RefusedError

SOCKET_MODE = 0o660
BACKLOG_CONNECTIONS = 128
"""Bound of connections waiting to be accepted; beyond it: the kernel refuses."""
GRACE_S = 6.0
"""Grace period in seconds for open requests when the agent stops: an attach that waits for other hosts times out
after 5 s."""
GRACE_READING_S = 1.0
"""The same where clients only read: nothing is left half done, and no such account may delay a stop."""

_log = logging.getLogger("netagent.control")


async def serve(
    app: Starlette,
    socket_path: Path,
    group: str,
    shutdown: trio.Event,
    *,
    listener: socket.socket | None = None,
    is_bounded: bool = False,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `shutdown` is set and open requests have ended. For `nursery.start`.

    The socket gets the group `group` if that exists and the agent may set it, else only its owner may connect. Raises
    RefusedError when another agent listens there, FailedError when the socket cannot be made.

    With `listener`, an already listening socket, the server takes that over and leaves the file `socket_path`, its
    mode and its group to the program that made it. `is_bounded`: it is for reading only, and each account gets a
    share of the connections.
    """
    with _listening(socket_path, group) if listener is None else listener as serving:
        async with trio.open_nursery() as nursery:
            grace_s = GRACE_READING_S if is_bounded else GRACE_S
            start = functools.partial(
                serve_on, serving, app, shutdown, grace_s=grace_s, is_bounded=is_bounded
            )
            await nursery.start(start)
            _log.info("serving the API on %s", socket_path)
            task_status.started()


@contextlib.contextmanager
def _listening(path: Path, group: str) -> Iterator[socket.socket]:
    """Yield a listening socket at `path`, and remove it at the end if it is still the same one."""
    _refuse_if_taken(path)
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()
        listener.bind(str(fresh))
        # No client can connect between bind and chmod: the socket does not listen yet.
        _give_to(fresh, group)
        listener.listen(BACKLOG_CONNECTIONS)
        ours = fresh.stat().st_ino
        fresh.rename(path)
    except OSError as error:
        listener.close()
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise FailedError(
            f"cannot listen on {path}: {error.strerror or error}",
            code="socket",
            thing=str(path),
            hint="set run_dir to a shorter path or to a writable folder",
        ) from None
    try:
        yield listener
    finally:
        with contextlib.suppress(OSError):
            if path.stat().st_ino == ours:
                path.unlink()


def _refuse_if_taken(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except OSError:
        return  # it does not exist or is not visible: bind will fail if needed
    if not stat.S_ISSOCK(mode):
        raise RefusedError(f"{path} exists and is not a socket", thing=str(path), hint="move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return  # left behind by a crash
        except OSError as error:
            raise RefusedError(
                f"another program uses {path}: {error.strerror or error}",
                thing=str(path),
                hint="stop it, or choose another run_dir",
            ) from None
    raise RefusedError(
        f"another agent is already listening on {path}",
        code="agent-running",
        thing=str(path),
        hint="stop it, or choose another run_dir",
    )


def _give_to(path: Path, group: str) -> None:
    try:
        os.chown(path, -1, grp.getgrnam(group).gr_gid)
        path.chmod(SOCKET_MODE)
    except (KeyError, PermissionError):
        # The mode stays closed for groups: without the group `netagent`, only the owner may connect.
        path.chmod(0o600)
