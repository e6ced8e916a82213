"""The log of events while the agent runs: its file, and who waits for the next event.

The file has one line of JSON per event. Lines are appended some time after they were noted, in a thread, with one
sync for all that came meanwhile; when twice as much is in the file as is kept, it is written anew beside the old one
and renamed. What cannot be written is still kept in memory, and the next attempt writes everything.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import trio

from netagent.events import exchange
from netagent.events.channel import EventHandler
from netagent.events.event_log import EventLog
from netagent.log import Limited
from netagent.model.author import AGENT, act_as
from netgossip.slice_runner import in_slices

GATHER_S: Final = 0.3
"""How long an event waits for others before the file is written: a container's start makes several."""
RETRY_S: Final = 10.0
MAX_FILE_BYTES: Final = 4_000_000
"""Bound of the file of events; beyond it: written anew with what is kept, which is at most half of it."""

_log = logging.getLogger("netagent.events")
_limited = Limited(_log)


class EventKeeper:
    """The events of this host. `log` may be read at any time."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self.log = EventLog()
        self._path = path
        self._clock = clock
        self._changed = trio.Event()
        self._file_bytes = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Read what earlier runs wrote, then note all marked lines of log and write them until the block ends."""
        await self._restore()
        handler = EventHandler(self.log, self._clock, self._wake)
        logger = logging.getLogger("netagent")
        logger.addHandler(handler)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write_behind)
                yield
                nursery.cancel_scope.cancel()
        finally:
            logger.removeHandler(handler)
            if self.log.has_unwritten:
                self._note_written(*self._attempt(*self._due()))

    async def wait_newer(self, generation: int) -> int:
        """Wait until the log's generation is above `generation`, and return it."""
        while self.log.generation <= generation:
            await self._changed.wait()
        return self.log.generation

    async def answer(self, payload: bytes) -> bytes:
        """Answer another host's question. Raises EventError."""
        return await in_slices(exchange.answer(self.log, payload))

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _restore(self) -> None:
        try:
            content = await trio.to_thread.run_sync(_read, self._path)
        except OSError as error:
            _limited.warning("read", f"cannot read the events of earlier runs: {error.strerror}")
            return
        self._file_bytes = len(content)
        damaged = self.log.restore(content.splitlines())
        if damaged or content[-1:] != b"\n":
            self.log.note_unwritten()  # the next event must not continue a line that a crash cut
        if damaged > 1:
            _log.warning("%d lines of %s are damaged: left out", damaged, self._path)

    async def _write_behind(self) -> None:
        act_as(AGENT)
        while True:
            while not self.log.has_unwritten:
                await self._changed.wait()
            await trio.sleep(GATHER_S)
            # Not abandoned when cancelled: two writers at once would mix their lines.
            trouble, size_bytes = await trio.to_thread.run_sync(self._attempt, *self._due())
            self._note_written(trouble, size_bytes)
            if trouble is not None:
                await trio.sleep(RETRY_S)

    def _due(self) -> tuple[bytes, bool]:
        """Return what is to be written, and whether it replaces the file."""
        lines = self.log.take_unwritten()
        if lines is not None:
            content = b"".join(line + b"\n" for line in lines)
            if self._file_bytes + len(content) <= MAX_FILE_BYTES:
                return content, False
        return b"".join(line + b"\n" for line in self.log.lines()), True

    def _attempt(self, content: bytes, is_whole: bool) -> tuple[OSError | None, int]:  # noqa: FBT001
        """Write it; return why that failed, and the size of the file."""
        try:
            if is_whole:
                _replace(self._path, content)
                return None, len(content)
            _append(self._path, content)
        except OSError as error:
            return error, 0
        return None, self._file_bytes + len(content)

    def _note_written(self, trouble: OSError | None, size_bytes: int) -> None:
        self._file_bytes = size_bytes
        if trouble is not None:
            self.log.note_unwritten()
            _limited.warning("write", f"cannot write events to {self._path} yet: {trouble.strerror}")


def _read(path: Path) -> bytes:
    """Return the last MAX_FILE_BYTES of the file, which is never longer unless another program wrote it."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - MAX_FILE_BYTES))
            return file.read(MAX_FILE_BYTES)
    except FileNotFoundError:
        return b"\n"


def _append(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while content:
            content = content[os.write(descriptor, content) :]
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def _replace(path: Path, content: bytes) -> None:
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    _append(fresh, content)
    fresh.rename(path)
