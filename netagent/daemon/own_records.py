"""Keeps the records in order that this host has written for all, while the registry changes.

It withdraws our records in networks that are gone, our evictions of other hosts that no longer stand
(eviction/succession.py), grants that later ones of ours cover whole, and what we found out about external services
that are gone or that another host asks by now. It repeats grants of others to us: the
granting host may be restored from a backup older than the grant, or be lost with its log; as long as our log has the
grant, no host takes the space for the granting host's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from netagent.errors import NetagentError
from netagent.eviction.succession import amended_evictions
from netagent.external.view import external_service
from netagent.ipam.allocator import Allocator
from netagent.ipam.space import superseded
from netagent.log import Limited
from netagent.model.ids import HostId, NetworkId
from netagent.model.records import (
    ExternalServiceRecord,
    ExternalStateRecord,
    GrantRecord,
    HostAddressRecord,
    NetworkOptionsRecord,
    NetworkRecord,
    OwnNameRecord,
    PublishedServiceRecord,
    Record,
    ServiceAddressRecord,
    ServiceRangeRecord,
)
from netagent.registry.publish import Publisher
from netagent.registry.state_store import StateStore
from netagent.registry.view import RegistryView
from netgossip.types import CLUSTER_SCOPE

logger = logging.getLogger("netagent.own_records")
_limited = Limited(logger)


@dataclass(slots=True, kw_only=True)
class OwnRecords:
    """Runs beside everything else."""

    live: StateStore
    publisher: Publisher
    allocator: Allocator
    undecided: Callable[[], Collection[NetworkId]]
    """Networks that are being created right now: only their creation may withdraw them."""
    pursued: Callable[[], Collection[HostId]]
    """Hosts that are being evicted right now."""
    _seen: dict[NetworkId, Mapping[tuple[HostId, bytes], GrantRecord]] = field(default_factory=dict)

    async def run(self) -> None:
        """Run until cancelled."""
        revision = 0
        while True:
            revision = await self.live.wait_newer(revision)
            self.allocator.forget_removed()
            try:
                await self.put_in_order()
            except NetagentError as error:  # a full disk, or a network that was just removed
                _limited.warning("order", f"cannot update this host's records yet: {error}")

    async def put_in_order(self) -> None:
        """Do it once. Looks only at networks whose grants have changed."""
        view = self.live.view
        covered: list[Record] = []
        seen: dict[NetworkId, Mapping[tuple[HostId, bytes], GrantRecord]] = {}
        for network_id in view.networks:
            grants = view.grant_map(network_id)
            if self._seen.get(network_id) is not grants:
                await self.allocator.allocations.confirm(network_id)
                covered += superseded([one for (writer, _), one in grants.items() if writer == view.local])
            seen[network_id] = grants
        changed, taken_back = amended_evictions(view, self.pursued())
        stale = [*_of_gone_networks(view, self.undecided()), *taken_back, *covered, *_stale_states(view)]
        if stale or changed:
            await self.publisher.change(put=changed, withdraw=stale)
        self._seen = seen


def _of_gone_networks(view: RegistryView, undecided: Collection[NetworkId]) -> list[Record]:
    yielded = {one.network_id for one in view.yielded_networks if one.owner == view.local} - set(undecided)
    return [
        record
        for record in view.records_of(view.local, CLUSTER_SCOPE)
        if isinstance(record, _OF_NETWORKS)
        and (view.is_removed(record.network_id) or record.network_id in yielded)
    ]


_OF_NETWORKS: Final = (
    NetworkRecord,
    NetworkOptionsRecord,
    GrantRecord,
    HostAddressRecord,
    ExternalServiceRecord,
    OwnNameRecord,
    PublishedServiceRecord,
    ServiceRangeRecord,
    ServiceAddressRecord,
)


def _stale_states(view: RegistryView) -> list[Record]:
    """Return what we found out about services that are gone, or that does not count because another host went on."""
    found: list[Record] = []
    for record in view.records_of(view.local, CLUSTER_SCOPE):
        if isinstance(record, ExternalStateRecord):
            service = external_service(view, record.network_id, record.service_id)
            if service is None or service.found_by != view.local:
                found.append(record)
    return found
