"""Ports of a host that are forwarded to ports of one of its containers: `--publish`."""

from __future__ import annotations

from dataclasses import dataclass

MAX_PORTS = 1000
"""Most ports of one range. Each port is an element of a set in the kernel."""


ANYWHERE = frozenset({"0.0.0.0", "::"})
"""Addresses that mean all addresses of the host, of one family."""


@dataclass(frozen=True, slots=True, order=True)
class Publication:
    """`count` ports of the host from `host_port` on, forwarded to as many of the container from `port` on."""

    host_port: int
    port: int
    protocol: str = "tcp"
    """`tcp` or `udp`."""
    count: int = 1
    address: str = ""
    """Address of the host, canonical. Empty: all addresses of both families, including future ones. One of
    `ANYWHERE`: all of one family."""

    @property
    def text(self) -> str:
        """Format it as `--publish` takes it: `[ADDRESS:]8080[-8089]:80[-89]/tcp`."""
        address = f"[{self.address}]:" if ":" in self.address else f"{self.address}:" if self.address else ""
        return f"{address}{self.host_text}:{_range(self.port, self.count)}/{self.protocol}"

    @property
    def host_text(self) -> str:
        """Format the host's ports."""
        return _range(self.host_port, self.count)

    def serves(self, container_address: str) -> bool:
        """True if it forwards to this address of the container: one of the family of the host's address, if given."""
        return not self.address or (":" in self.address) == (":" in container_address)

    def meets(self, other: Publication) -> bool:
        """True if a port of the host would be forwarded to two containers."""
        return (
            self.protocol == other.protocol
            and self.host_port < other.host_port + other.count
            and other.host_port < self.host_port + self.count
            and self._shares_address(other)
        )

    def _shares_address(self, other: Publication) -> bool:
        """True if both are reachable at the same address of the host."""
        one, two = self.address, other.address
        if not one or not two or one == two:
            return True
        return (":" in one) == (":" in two) and not ANYWHERE.isdisjoint({one, two})


def _range(first: int, count: int) -> str:
    return str(first) if count == 1 else f"{first}-{first + count - 1}"
