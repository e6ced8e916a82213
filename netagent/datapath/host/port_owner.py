"""Find the listening sockets of this host, from /proc/net, and the processes that own them.

For checks before another program needs a port; nothing here reserves one.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import sys
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

_MAX_TABLE_BYTES: Final = 1 << 24
_LISTEN, _UNCONNECTED = "0A", "07"


class Listener(NamedTuple):
    """A listening socket."""

    inode: str
    """"0": the kernel's own, such as VXLAN's."""
    port: int
    address: str
    """Empty: all addresses of the host."""


def listeners(protocol: str) -> Iterator[Listener]:
    """Yield the sockets of `tcp` or `udp`, both families."""
    for name in (protocol, protocol + "6"):
        try:
            with Path(f"/proc/net/{name}").open(encoding="ascii") as table:
                lines = table.read(_MAX_TABLE_BYTES).splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if len(fields) > 9 and fields[3] in {_LISTEN, _UNCONNECTED}:
                address, _, port = fields[1].rpartition(":")
                yield Listener(fields[9], int(port, 16), _address(address))


def is_here(address: str) -> bool:
    """Return whether the host has the address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as trial:
        try:
            trial.bind((address, 0))
        except OSError as error:
            return error.errno != errno.EADDRNOTAVAIL
    return True


def owners(inodes: Collection[str]) -> dict[str, int]:
    """Map a socket's inode to a process that has it open."""
    found: dict[str, int] = {}
    for folder in Path("/proc").glob("[0-9]*/fd"):
        with suppress(OSError):
            for link in folder.iterdir():
                with suppress(OSError):
                    target = str(link.readlink())
                    inode = target.removeprefix("socket:[").removesuffix("]")
                    if inode != target and inode in inodes:
                        found[inode] = int(folder.parent.name)
    return found


def program(pid: int) -> str:
    """Return a process's name with its number."""
    try:
        name = Path(f"/proc/{pid}/comm").read_text("utf-8", "replace").strip()
    except OSError:
        name = "a program"
    return f"{name} (pid {pid})"


def owner_of(listener: Listener) -> str:
    """Name the owner, in words."""
    pids = owners({listener.inode})
    return program(pids[listener.inode]) if listener.inode in pids else "the kernel or another container"


def _address(text: str) -> str:
    """Decode an address as the kernel writes it: words of 32 bits, each in the machine's order."""
    words = [bytes.fromhex(text[at : at + 8]) for at in range(0, len(text), 8)]
    packed = b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)
    address = ipaddress.ip_address(packed)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    address = mapped or address
    return "" if address.is_unspecified else str(address)
