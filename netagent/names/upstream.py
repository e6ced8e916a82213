"""Who answers what is not ours: the name servers in the host's resolv.conf(5)."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Final

DNS_PORT: Final = 53

_MAX_FILE_BYTES: Final = 64 * 1024
_MAX_SERVERS: Final = 8
"""The C library stops at three; who lists more means them."""


def parse_servers_untrusted(text: str) -> tuple[str, ...]:
    """Read the addresses, in order. Never raises: like the C library, it passes over what it does not understand."""
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
    """Read a file. None when it can't be read: then what was known before is the better guess."""
    try:
        with path.open("rb") as file:
            return parse_servers_untrusted(file.read(_MAX_FILE_BYTES).decode("ascii", "replace"))
    except OSError:
        return None


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
