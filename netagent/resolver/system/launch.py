"""Start and end the resolver process. It is detached, so both rely on what the kernel says about it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import trio

_START_S: Final = 20.0
"""0.3 s on an idle machine; a host that boots starts everything at once."""

_TERM_S: Final = 5.0
"""Between SIGTERM and SIGKILL. It has nothing to save."""


async def start_process(run_dir: Path, *, release: str, resolv_conf: Path) -> None:
    """Start a resolver process and return when it accepts connections. Raises OSError with its last output.

    Not to be cancelled half way: the process would run without anything knowing it.
    """
    module = "netagent.resolver.process"
    options = ["--run-dir", str(run_dir), "--release", release, "--resolv-conf", str(resolv_conf), "--detach"]
    with trio.move_on_after(_START_S, shield=True):
        # -P keeps the current directory out of the module search path.
        ended = await trio.run_process(
            [sys.executable, "-P", "-m", module, *options],
            stdin=subprocess.DEVNULL,
            capture_stderr=True,
            check=False,
            cwd="/",
            start_new_session=True,
        )
        if ended.returncode != 0:
            words = ended.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
            raise OSError(f"it failed to start: {words[0] if words else f'status {ended.returncode}'}")
        return
    raise OSError(f"it failed to start: not ready after {_START_S:g} s")


async def end_process(process_id: int) -> None:
    """Send SIGTERM, eventually SIGKILL, and return when the process is gone. One that is gone already is fine."""
    try:
        descriptor = os.pidfd_open(process_id)
    except ProcessLookupError:
        return
    try:
        for number in (signal.SIGTERM, signal.SIGKILL):
            signal.pidfd_send_signal(descriptor, number)
            with trio.move_on_after(_TERM_S):
                await trio.lowlevel.wait_readable(descriptor)
                return
    except ProcessLookupError:
        return
    finally:
        os.close(descriptor)


def kill_process(process_id: int) -> None:
    """Send SIGKILL to a process that hangs."""
    try:
        os.kill(process_id, signal.SIGKILL)
    except ProcessLookupError:
        return
