"""IPv6 sysctls of a container's interface and of our own devices: their desired values, and access to them.

They change without notice: no notification of the kernel reports `accept_ra`, and inotify sees only writers through
the very same mount of /proc, while a container has its own. So they are read periodically, 4 µs each.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TypeAlias

from netagent.model.subnet import MIN_IPV6_MTU_BYTES

Setting: TypeAlias = tuple[str, bytes]
"""A name under /proc/sys/net/ipv6/conf, and the value as text with a line feed."""


def ipv6_settings(ifname: str, addresses: Iterable[str], mtu_bytes: int) -> Sequence[Setting]:
    """Return the settings that enable IPv6 on the interface, and ignore router advertisements.

    Runtimes turn IPv6 off by default where they know of no IPv6 network. Router advertisements are refused because
    any container of the network could send them and attract the others' traffic.
    """
    if mtu_bytes < MIN_IPV6_MTU_BYTES:
        return ()
    has_ipv6 = any(":" in address for address in addresses)
    on = ((f"{ifname}/disable_ipv6", b"0\n"),) if has_ipv6 else ()
    return (*on, (f"{ifname}/accept_ra", b"0\n"))


class Settings:
    """The settings of a namespace, from outside. Close it."""

    def __init__(self, folder_fd: int | None) -> None:
        self._folder_fd = folder_fd

    def close(self) -> None:
        """Release the folder."""
        if self._folder_fd is not None:
            os.close(self._folder_fd)

    def differing(self, settings: Iterable[Setting]) -> Iterator[Setting]:
        """Yield those that differ, or do not exist, as when the link's MTU is too small for IPv6. OSError."""
        for name, value in settings if self._folder_fd is not None else ():
            if self._read(name) != value:
                yield name, value

    def open(self, name: str) -> int:
        """Return a descriptor to read it by; -1 when too many are open, or there are no settings."""
        try:
            flags = os.O_RDONLY | os.O_CLOEXEC
            return -1 if self._folder_fd is None else os.open(name, flags, dir_fd=self._folder_fd)
        except OSError as error:
            if error.errno in {errno.EMFILE, errno.ENFILE}:
                return -1
            raise

    def write(self, settings: Iterable[Setting]) -> None:
        """Write only those that differ: for a write the kernel waits for the lock of all links. OSError."""
        for name, value in list(self.differing(settings)):
            with self._opened(name, os.O_WRONLY) as fd:
                os.write(fd, value)

    def turn_ipv6_on(self, devices: Iterable[str]) -> bool:
        """Turn IPv6 on where it is off; return whether that changed anything. On many hosts it is off by default."""
        off = [(f"{device}/disable_ipv6", b"0\n") for device in devices if self._is_ipv6_off(device)]
        with suppress(OSError):  # not permitted: whatever needs it fails again, and that is reported
            self.write(off)
            return bool(off)
        return False

    def turn_ipv6_off(self, device: str) -> None:
        """Turn IPv6 off on a device that only leads to a container: otherwise the kernel would report its multicast
        groups there, and with them the MAC. Does nothing where the MTU is too small for IPv6. OSError."""
        if self._folder_fd is not None and self._read(f"{device}/disable_ipv6") == b"0\n":
            with suppress(FileNotFoundError):  # gone in the meantime
                self.write([(f"{device}/disable_ipv6", b"1\n")])

    def _is_ipv6_off(self, device: str) -> bool:
        return self._folder_fd is not None and self._read(f"{device}/disable_ipv6") == b"1\n"

    def _read(self, name: str) -> bytes:
        try:
            with self._opened(name, os.O_RDONLY) as fd:
                return os.read(fd, 16)
        except FileNotFoundError:
            return b""

    @contextmanager
    def _opened(self, name: str, flags: int) -> Iterator[int]:
        fd = os.open(name, flags | os.O_CLOEXEC, dir_fd=self._folder_fd)
        try:
            yield fd
        finally:
            os.close(fd)


class WatchedSettings:
    """Settings that are read repeatedly: their files stay open, which makes a reading three times as fast.
    They become unreadable when the interface goes or is renamed. Close it."""

    def __init__(self, settings: Settings, wanted: Sequence[Setting]) -> None:
        self._settings = settings
        self._wanted = wanted
        self._opened: list[tuple[int, bytes]] = []

    def close(self) -> None:
        """Close the files."""
        while self._opened:
            fd, _ = self._opened.pop()
            if fd >= 0:
                os.close(fd)

    def are_altered(self) -> bool:
        """Return whether these differ from what is wanted; also if they can't be read."""
        try:
            if not self._opened and self._wanted:
                if any(True for _ in self._settings.differing(self._wanted)):
                    return True
                self._opened = [(self._settings.open(name), value) for name, value in self._wanted]
                if any(fd < 0 for fd, _ in self._opened):
                    self.close()  # too many open files: open them for each reading
            for fd, value in self._opened:
                if os.pread(fd, 16, 0) != value:
                    self.close()
                    return True
        except OSError:
            self.close()
            return True
        return False


def open_settings() -> Settings:
    """Open the settings of the calling thread's namespace; the folder keeps showing that namespace. OSError."""
    try:
        return Settings(os.open("/proc/sys/net/ipv6/conf", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    except FileNotFoundError:  # a kernel without IPv6
        return Settings(None)
