"""Rows of a host's own endpoints."""

from __future__ import annotations

from typing import Any, Final

from netagent.ipam.allocator import Allocator
from netagent.journal.rows import LocalEndpointRow, Published
from netagent.model.ids import EndpointId, NetworkId, mac_of
from netagent.model.sandbox import Netns
from netagent.model.subnet import addresses_of

NETNS: Final = Netns("/run/netns/web1", (4, 7), "b" * 32)
PUBLISHED: Final = Published(NETNS, "eth0")


def local_row(endpoint_id: str, network_id: str, **fields: Any) -> LocalEndpointRow:
    """A row in which only those fields are right that a test gives."""
    usual: dict[str, Any] = {"name": "web", "service": "web", "offset": 2, "addresses": (), "mac": ""}
    return LocalEndpointRow(
        endpoint_id=EndpointId(endpoint_id), network_id=NetworkId(network_id), **(usual | fields)
    )


async def reserve(
    allocator: Allocator, endpoint_id: str, network_id: str, offset: int | None = None, **fields: Any
) -> LocalEndpointRow:
    """Take an address and journal its row, as an attach does."""
    offset = await allocator.hold(NetworkId(network_id), offset)
    addresses = addresses_of(allocator.allocations[NetworkId(network_id)].subnets, offset)
    mac = mac_of(NetworkId(network_id), offset)
    row = local_row(endpoint_id, network_id, offset=offset, addresses=addresses, mac=mac, **fields)
    await allocator.keep(row)
    return row
