"""Which ports that are published for services a program of this host uses itself: those lead to the program.

The kernel sends no notification when a program begins to listen. So the tables of sockets are read every few seconds,
as long as a port is published here at all.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Final

import trio

from netagent.datapath.host.port_owner import listeners
from netagent.log import Limited
from netagent.periodic_task import PeriodicTask
from netagent.projection.published_services import HostPort

PERIOD_S: Final = 3.0
_PORT_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")

_log = logging.getLogger(__name__)
_limited = Limited(_log)


class BusyPorts:
    """Keeps `busy` at what programs of this host use."""

    def __init__(
        self,
        published: Callable[[], Collection[HostPort]],
        note_change: Callable[[], None],
        listening: Callable[[Iterable[str]], set[HostPort]] | None = None,
    ) -> None:
        self._published = published
        self._note_change = note_change
        self._listening = listening or _listening
        self._task = PeriodicTask(PERIOD_S)
        self.busy: frozenset[HostPort] = frozenset()

    async def run(self) -> None:
        """Look until cancelled."""
        await self._task.run(self._look, _log, "cannot read the tables of sockets", PERIOD_S)

    async def look(self) -> None:
        """Look now: a port is about to be published."""
        await self._look()

    async def _look(self) -> None:
        wanted = frozenset(self._published())
        found: set[HostPort] = set()
        if wanted:
            protocols = {protocol for protocol, _ in wanted}
            found = await trio.to_thread.run_sync(self._listening, protocols)
        busy = wanted & found
        if busy != self.busy:
            for protocol, port in sorted(busy - self.busy):
                _limited.warning(
                    f"{port}/{protocol}",
                    f"port {port}/{protocol} of this host is used by one of its programs, so it does not lead to the "
                    "service that it is published for",
                )
            self.busy = busy
            self._note_change()


def _listening(protocols: Iterable[str]) -> set[HostPort]:
    """Return the ports at which programs hear others: not those at loopback addresses, which are not published
    either, nor the ports that the kernel chooses for clients' own datagrams."""
    first_of_clients = int(_PORT_RANGE.read_text("ascii").split()[0])
    return {
        (protocol, one.port)
        for protocol in protocols
        for one in listeners(protocol)
        if not (one.address and ipaddress.ip_address(one.address).is_loopback)
        and not (protocol == "udp" and one.port >= first_of_clients)
    }
