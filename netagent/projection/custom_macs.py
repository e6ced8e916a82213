"""Addresses whose MAC is, or was, not the one that follows from them: somebody chose it. Pure.

Of these a container may know an earlier MAC. Of all others it knows the right one, whoever has had the address.
"""

from __future__ import annotations

from collections.abc import Collection

from netagent.model.ids import NetworkId, is_derived_mac
from netagent.model.records import EndpointRecord


class ChosenMacs:
    """The latest MAC of each such address, as long as its network is there."""

    def __init__(self) -> None:
        self._macs: dict[NetworkId, dict[str, str]] = {}

    def learn(self, record: EndpointRecord) -> list[str]:
        """Those of the record's addresses that a container may know by another MAC than the record's."""
        before = record.mac if is_derived_mac(record.network_id, record.mac) else ""
        known = self._macs.get(record.network_id, {})
        different = [address for address in record.addresses if known.get(address, before) != record.mac]
        if different:
            self._macs.setdefault(record.network_id, {}).update(dict.fromkeys(different, record.mac))
        return different

    def keep_only(self, network_ids: Collection[NetworkId]) -> None:
        """Forget all other networks."""
        for gone in [known for known in self._macs if known not in network_ids]:
            del self._macs[gone]
