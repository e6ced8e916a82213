"""Warnings of `status` about containers that use up more than their quota, and are refused the rest. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from netagent.interface import schema
from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import bridge_name
from netagent.registry.view import RegistryView
from netagent.resolver.protocol import OVER_RATE

SHOWN: Final = 10
"""Containers shown one by one; of further ones the notice gives the number."""


def query_notices(rows: Iterable[LocalEndpointRow], counters: Mapping[str, int]) -> list[schema.Notice]:
    """Warn of containers whose queries were refused. `counters`: of the resolver process."""
    over = {name.removeprefix(OVER_RATE) for name in counters if name.startswith(OVER_RATE)}
    named = sorted({row.name for row in rows if row.sandbox_id in over})
    return [
        {
            "code": "query-quota",
            "message": f"{name} asks so many names that some of its queries are refused",
            "cure": "see what its programs ask for; one that asks for the same names again and again needs a cache",
        }
        for name in named[:SHOWN]
    ]


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
