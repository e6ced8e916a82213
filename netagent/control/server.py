"""The API on its unix socket: who may connect, whose socket it is, and how serving ends.

The socket appears under its name only when it listens and has its mode and group, by a rename; so a client sees no
agent or a whole one, and a socket left by a crash is replaced without a gap. One on which somebody still answers is
never taken away. A socket that the service manager made, and that listens while no agent runs, is left where it is.
"""

from __future__ import annotations

import contextlib
import grp
import logging
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import trio
from hypercorn.config import Config
from hypercorn.trio import run as hypercorn_run
from hypercorn.trio import serve as hypercorn_serve
from hypercorn.trio.tcp_server import TCPServer
from starlette.applications import Starlette

from netagent.errors import FailedError, RefusedError

SOCKET_MODE = 0o660
BACKLOG_CONNECTIONS = 128
GRACE_S = 6.0
"""For requests under way when the agent stops: an attach that waits for other hosts gives up after 5 s."""
IDLE_S = 5
"""A connection without a request, or with half a header, is closed."""
MAX_HEADER_BYTES = 16 * 1024

_log = logging.getLogger("netagent.control")


async def serve(
    app: Starlette,
    socket_path: Path,
    group: str,
    shutdown: trio.Event,
    *,
    listener: socket.socket | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `shutdown` is set and the requests under way have ended. For `nursery.start`.

    The socket's group is `group` where that exists and we may give it, else only its owner may connect. Raises
    RefusedError when another agent listens there, FailedError when the socket cannot be made.

    With `listener`, a listening socket that is ours from here on, that one is served: the file `socket_path`, with
    its mode and group, belongs to who made it.
    """
    with _listening(socket_path, group) if listener is None else listener as serving:
        config = Config()
        config.bind = [f"fd://{serving.detach()}"]
        # It announces an address to open in a browser; ours says where we really listen.
        config.errorlog = logging.getLogger("hypercorn.error")
        config.accesslog = None
        config.include_server_header = False
        config.graceful_timeout = GRACE_S
        config.keep_alive_timeout = IDLE_S
        config.h11_max_incomplete_size = MAX_HEADER_BYTES

        async def stop() -> None:
            await shutdown.wait()
            app.state.stopping.set()

        async with trio.open_nursery() as nursery:
            await nursery.start(_run, app, config, stop)
            _log.info("serving the API on %s", socket_path)
            task_status.started()


class _Connection(TCPServer):
    """One that leaves no circle when it ends: hypercorn's refers to its protocol, whose methods refer to it. A circle
    of some thirty objects for each request would wait for a collection of garbage, and one that is set aside before
    the connection ends (netagent.memory) for hours."""

    async def run(self) -> None:
        try:
            await super().run()
        finally:
            vars(self).clear()


vars(hypercorn_run)["TCPServer"] = _Connection  # what it makes for each connection; there is no other way in


async def _run(
    app: Starlette,
    config: Config,
    stop: Callable[[], Awaitable[None]],
    *,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    # hypercorn's types want the exact scope dictionaries of its own; Starlette's are general mappings.
    framework = cast("Any", app)
    await hypercorn_serve(framework, config, shutdown_trigger=stop, mode="asgi", task_status=task_status)


@contextlib.contextmanager
def _listening(path: Path, group: str) -> Iterator[socket.socket]:
    """A listening socket under that name, which is removed at the end if it is still ours."""
    _refuse_if_taken(path)
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()
        listener.bind(str(fresh))
        # Between bind and chmod nobody can connect: the socket does not listen yet.
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
            hint="choose a shorter path or a folder that can be written with run_dir",
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
        return  # not there, or not to be seen: bind will tell
    if not stat.S_ISSOCK(mode):
        raise RefusedError(
            f"{path} exists and is not a socket", thing=str(path), hint="move it out of the way"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return  # left behind by a crash
        except OSError as error:
            raise RefusedError(
                f"something holds {path}: {error.strerror or error}",
                thing=str(path),
                hint="stop it, or choose another run_dir",
            ) from None
    raise RefusedError(
        f"an agent is listening on {path} already",
        code="agent-running",
        thing=str(path),
        hint="stop it, or choose another run_dir",
    )


def _give_to(path: Path, group: str) -> None:
    try:
        os.chown(path, -1, grp.getgrnam(group).gr_gid)
        path.chmod(SOCKET_MODE)
    except (KeyError, PermissionError):
        # The mode stays closed to a group that isn't ours: without the group `netagent` only the owner may ask.
        path.chmod(0o600)
