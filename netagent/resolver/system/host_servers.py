"""The servers for names that are not ours: the name servers in the host's resolv.conf(5), in its order."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Final

DNS_PORT: Final = 53

_MAX_FILE_BYTES: Final = 64 * 1024
_MAX_SERVERS: Final = 8
"""The C library stops at three; a file that lists more means them."""


def parse_servers_untrusted(text: str) -> tuple[str, ...]:
    """Read the addresses, in order. Never raises: like the C library, it skips what it does not understand."""
    servers: dict[str, None] = {}
    for line in text.splitlines():
        words = line.split()
        if (
            len(words) > 1
            and words[0] == "nameserver"
            and len(servers) < _MAX_SERVERS
            and _is_address(words[1])
        ):
            servers[words[1]] = None
    return tuple(servers)


def read_servers(path: Path) -> tuple[str, ...] | None:
    """Read a file. None when it can't be read: then the previous servers are the better guess."""
    try:
        with path.open("rb") as file:
            return parse_servers_untrusted(file.read(_MAX_FILE_BYTES).decode("ascii", "replace"))
    except OSError:
        return None


class ChangedFile:
    """Reads a file whenever it has changed. The broker's side: it looks into no octet.

    It works for bind mounts, symbolic links and renames alike; inotify(7) does not.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, ...] = ()

    def news(self) -> bytes | None:
        """Return the content if it has changed since the last call that returned some."""
        try:
            status = self._path.stat()
        except OSError:
            self._seen = ()
            return None
        seen = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if seen == self._seen:
            return None
        try:
            with self._path.open("rb") as file:
                content = file.read(_MAX_FILE_BYTES)
        except OSError:
            return None
        # The state before the reading: a change in the meantime shows as another one at the next call.
        self._seen = seen
        return content


class ServersFile:
    """A resolv.conf whose changes are followed. `read` returns its content when that has changed; `clock` is
    monotonic (s).

    It is asked when a query is answered, so the next query after a change goes to the new servers, at most once in
    20 ms.
    """

    LOOK_AGAIN_S: Final = 0.02

    def __init__(self, read: Callable[[], bytes | None], clock: Callable[[], float]) -> None:
        self._read = read
        self._clock = clock
        self._looked_at = float("-inf")
        self._servers: tuple[str, ...] | None = None

    def news(self) -> tuple[str, ...] | None:
        """Return the servers if they have changed since the last call that returned some."""
        now = self._clock()
        if now - self._looked_at < self.LOOK_AGAIN_S:
            return None
        self._looked_at = now
        content = self._read()
        if content is None:
            return None
        found = parse_servers_untrusted(content.decode("ascii", "replace"))
        if found == self._servers:
            return None
        self._servers = found
        return found


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
