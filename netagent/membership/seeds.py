"""`HOST[:PORT]`, as operators write a member's address, resolved by this host's own resolver."""

from __future__ import annotations

import trio

from netagent.config_values import parse_seed
from netgossip.types import Address


class UnknownHostError(Exception):
    """No address is known for the host; the text gives the reason in one clause."""

    def __init__(self, host: str, reason: str) -> None:
        super().__init__(f"{host} is not known: {reason}")
        self.host = host


async def look_up(text: str, default_port: int) -> list[Address]:
    """Return all addresses of a seed that `parse_seed` accepts. Raises UnknownHostError."""
    host, port = parse_seed(text)
    try:
        found = await trio.socket.getaddrinfo(host, port or default_port, type=trio.socket.SOCK_DGRAM)
    except UnicodeError:  # an empty label, or one that is too long: Python does not even ask
        raise UnknownHostError(host, "it is not a valid host name") from None
    except OSError as error:
        raise UnknownHostError(host, error.strerror or str(error)) from None
    return [(str(address[0]), int(address[1])) for *_, address in found]
