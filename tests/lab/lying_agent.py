"""An agent whose program was changed: it does all that an agent does, and writes records that none writes. It has its
host's identity and the cluster's keys, so the others take its log as its own.

What it lies about: addresses, MACs and ids of other hosts' endpoints, also in a network that it takes
no part in, all address space of all networks, and what no request may say.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import msgpack
import trio

from netagent import main
from netagent.daemon.agent import Agent
from netagent.daemon.cluster import Cluster
from netagent.model.ids import EndpointId, NetworkId, OwnNameId, ServiceId
from netagent.model.records import (
    ExternalServiceRecord,
    FixedAddresses,
    GrantRecord,
    HostAddressRecord,
    NameData,
    NetworkRecord,
    OwnNameRecord,
    Record,
    TargetAddress,
)
from netagent.model.subnet import offset_count, offset_of
from netagent.registry import publish, record_codec
from netagent.registry.view import EndpointView, NetworkView, RegistryView

EVERY_S: Final = 1.0
FAR: Final = 1 << 20
"""A hop above all that honest hosts have."""


def unchecked(record: Record) -> bytes:
    """Encode what other hosts refuse."""
    kind, fields = record_codec._fields_of(record)
    data: bytes = msgpack.packb([kind, 1, *fields])
    return data


def lies(view: RegistryView) -> Iterator[Record]:
    number = 0
    for network in view.networks.values():
        yield GrantRecord(network.network_id, 0, offset_count(network.record.subnets) - 1, view.local, FAR)
        for endpoint in view.endpoints_in(network.network_id).values():
            if endpoint.owner != view.local:
                number += 1
                yield from about(endpoint, network, number)
    network_id = next(iter(view.networks))
    yield from impossible(view, network_id)


def about(endpoint: EndpointView, network: NetworkView, number: int) -> Iterator[Record]:
    """Take what the endpoint has."""
    record, mac = endpoint.record, f"06:66:00:00:00:{number:02x}"
    fresh = EndpointId(f"{0xBAD0000 + number:032x}")
    yield replace(record, endpoint_id=fresh, name=f"lie{number}", service="lie", aliases=(), mac=mac)
    yield replace(record, name=f"same{number}", service="lie", aliases=(), mac=mac)
    offset = offset_of(network.record.subnets, record.addresses)
    assert offset is not None
    yield HostAddressRecord(network.network_id, offset, record.mac)


def impossible(view: RegistryView, network_id: NetworkId) -> Iterator[Record]:
    """Say what no request may say."""
    loopback = FixedAddresses((TargetAddress("127.0.0.1", 80),))
    service_id, name_id = ServiceId(f"{0xBAD:032x}"), OwnNameId(f"{0xBAD:032x}")
    yield ExternalServiceRecord(service_id, network_id, "self", loopback, 0, "x")
    yield OwnNameRecord(name_id, network_id, "none", NameData(("0.0.0.0",), ()), 0, "x")
    underlay = next(host.record.underlay for host in view.hosts.values() if host.record is not None)
    over = underlay.rpartition(".")[0] + ".0/24"
    for number, subnet in enumerate(("0.0.0.0/0", "127.0.0.0/8", "224.0.0.0/4", over)):
        bad = NetworkId(f"{0xBAD00 + number:032x}")
        yield NetworkRecord(bad, f"bad{number}", 77 + number, (subnet,), 1400)


async def lie(agent: Agent) -> None:
    """Write them again and again, in place of the task that looks for warnings."""
    await agent.ready.wait()
    while True:
        await trio.sleep(EVERY_S)
        if isinstance(agent.cluster, Cluster) and len(agent.cluster.live.view.endpoints) > 1:
            records = list(lies(agent.cluster.live.view))
            await agent.cluster.gossip.publisher.put(*records)
            print(f"wrote {len(records)} lies", file=sys.stderr, flush=True)


if __name__ == "__main__":
    vars(publish)["encode"] = unchecked
    vars(main)["watch_warnings"] = lie
    sys.exit(main.main(None, {}))
