"""Warnings of `status` about containers that use up more than their quota, and are refused the rest. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from netagent.interface import schema
from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import bridge_name
from netagent.registry.view import RegistryView

SHOWN: Final = 10
"""Containers shown one by one; of further ones the notice gives the number."""


def connection_notices(
    view: RegistryView,
    rows: Iterable[LocalEndpointRow],
    crowded: Collection[tuple[str, str]],
    *,
    quota: int,
) -> list[schema.Notice]:
    """Warn of containers that were refused connections. `crowded`: (bridge, address) of each."""
    if not crowded:
        return []
    named = sorted(
        {
            row.name
            for row in rows
            if (network := view.networks.get(row.network_id)) is not None
            and any((bridge_name(network.record.vni), one) in crowded for one in row.addresses)
        }
    )
    cure = (
        "see what it connects to by `netagent flows`; if it needs as many, raise connections_per_container and "
        "restart the agent"
    )
    notices: list[schema.Notice] = [
        {
            "code": "connection-quota",
            "message": f"{name} has {quota} connections to outside or to this host, and gets no further ones",
            "cure": cure,
        }
        for name in named[:SHOWN]
    ]
    if len(named) > SHOWN:
        message = f"{len(named) - SHOWN} containers more have as many connections as they may"
        notices.append({"code": "connection-quota", "message": message, "cure": cure})
    return notices
