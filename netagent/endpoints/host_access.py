"""Keeps an address for this host itself in every network with `--host-access`.

The address comes, like an endpoint's, from space that this host owns, and has a record of its own. From this record
derive the bridge's address here and the forwarding entries on other hosts. A host is in such a network even without
containers there: otherwise it could not reach those of other hosts. Both end when the option is taken back.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

import trio

from netagent.errors import NetagentError
from netagent.ipam.allocator import Allocator
from netagent.log import Limited
from netagent.membership.participation import Participation
from netagent.model.ids import NetworkId
from netagent.model.records import HostAddressRecord
from netagent.registry.state_store import StateStore
from netagent.registry.view import NetworkView, RegistryView

RETRY_S: Final = 1.0
"""Seconds before the next attempt, if this host has no space of a network yet or the disk is full."""

logger = logging.getLogger("netagent.endpoints.host_access")
_limited = Limited(logger)


@dataclass(slots=True, kw_only=True)
class HostAccess:
    """One task: `run`. `mac_in` returns the MAC of this host's bridge in a network."""

    live: StateStore
    participation: Participation
    allocator: Allocator
    undecided: Callable[[], Collection[NetworkId]]
    """Networks that are just being created here, and may still yield to another one."""
    mac_in: Callable[[NetworkView], str]
    is_closed: Callable[[], bool]
    """True if this host is leaving: then it takes no more addresses."""

    async def run(self) -> None:
        """Run until cancelled."""
        revision = 0
        while True:
            is_done = await self._put_in_order()
            with trio.move_on_after(math.inf if is_done else RETRY_S):
                revision = await self.live.wait_newer(revision)

    async def withdraw_all(self) -> None:
        """Release every address before this host leaves, while `is_closed`."""
        for record in self.live.view.own_host_addresses:
            await self.allocator.release_host(record)

    async def _put_in_order(self) -> bool:
        """Take missing addresses and release superfluous ones; True if nothing is left to do."""
        is_done = True
        for step in (self._take_missing, self._drop_superfluous):
            try:
                is_done = await step() and is_done
            except NetagentError as error:
                is_done = False
                _limited.warning("host", f"cannot take an address for this host yet: {error}")
        return is_done

    async def _take_missing(self) -> bool:
        lacking = list(_lacking(self.live.view)) if not self.is_closed() else []
        for network in lacking:
            network_id = network.network_id
            if network_id in self.undecided() or not self.allocator.free_count(network_id)[0]:
                continue
            await self.participation.take_part(network_id)
            offset = await self.allocator.hold(network_id)
            await self.allocator.keep_for_host(HostAddressRecord(network_id, offset, self.mac_in(network)))
            logger.info("this host now has an address in network %s", network.unique_name)
        return not list(_lacking(self.live.view)) or self.is_closed()

    async def _drop_superfluous(self) -> bool:
        view = self.live.view
        for record in view.own_host_addresses:
            network = view.networks.get(record.network_id)
            if network is None or not network.record.host_access:
                await self.allocator.release_host(record)
                if network is not None:
                    logger.info("this host has no address in network %s any more", network.unique_name)
        return True


def _lacking(view: RegistryView) -> list[NetworkView]:
    if view.local in view.evicted:
        return []
    return [
        network
        for network in view.networks.values()
        if network.record.host_access
        and not view.why_not_built(network)
        and view.local not in view.host_addresses(network.network_id)
    ]
