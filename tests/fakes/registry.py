"""Short ways to write records, entries and events in tests."""

from __future__ import annotations

import dataclasses
from typing import TypedDict, Unpack

from netagent.model.egress import Egress
from netagent.model.ids import EndpointId, HostId, NetworkId
from netagent.model.locality import AnswerOrder
from netagent.model.records import (
    Drain,
    EndpointRecord,
    GrantRecord,
    Group,
    Health,
    HealthNote,
    HostRecord,
    NetworkRecord,
    Policy,
    Port,
    Record,
)
from netagent.registry.record_codec import encode, key_of
from netagent.registry.view import RegistryView
from netgossip.types import EntriesChanged, Entry, Version


class HostFields(TypedDict, total=False):
    public_key: bytes
    underlay: str
    vxlan_port: int
    probe_address: str
    probe_mac: str
    zone: str
    agent_version: str
    going_down: bool
    routes: tuple[str, ...]
    drain: Drain | None
    is_starting: bool


class NetworkFields(TypedDict, total=False):
    vni: int
    subnets: tuple[str, ...]
    mtu_bytes: int
    internal: bool
    policy: Policy
    multicast: bool
    host_access: bool
    revision: int
    answer: AnswerOrder
    feed_rules: tuple[str, ...] | None
    feed_labels: bool
    refuses_shared_names: bool
    egress: Egress
    service_addresses: bool


class EndpointFields(TypedDict, total=False):
    name: str
    service: str
    addresses: tuple[str, ...]
    mac: str
    aliases: tuple[str, ...]
    ports: tuple[Port, ...]
    labels: tuple[tuple[str, str], ...]
    health: Health
    links: tuple[str, ...]
    group: Group | None
    drain: Drain | None
    health_note: HealthNote | None
    weight: int


def identifier(number: int) -> str:
    return f"{number:032x}"


H1, H2, H3 = (HostId(identifier(number)) for number in (1, 2, 3))
N1, N2, N3 = (NetworkId(identifier(0xA0 + number)) for number in (1, 2, 3))


def host(name: str = "h1", **fields: Unpack[HostFields]) -> HostRecord:
    usual = HostRecord(
        name=name,
        public_key=bytes(32),
        underlay="192.0.2.1",
        vxlan_port=4789,
        probe_address="fd00::1",
        probe_mac="02:00:00:00:00:01",
    )
    return dataclasses.replace(usual, **fields)


def network(network_id: NetworkId = N1, name: str = "app", **fields: Unpack[NetworkFields]) -> NetworkRecord:
    usual = NetworkRecord(
        network_id=network_id,
        name=name,
        vni=1000 + int(network_id[-2:], 16),
        subnets=("10.1.0.0/24", "fd00:1::/64"),
        mtu_bytes=1450,
    )
    return dataclasses.replace(usual, **fields)


def endpoint(
    number: int = 1, network_id: NetworkId = N1, offset: int = 2, **fields: Unpack[EndpointFields]
) -> EndpointRecord:
    usual = EndpointRecord(
        endpoint_id=EndpointId(identifier(0xE000 + number)),
        network_id=network_id,
        name=f"web{number}",
        service="web",
        addresses=(f"10.1.0.{offset}", f"fd00:1::{offset:x}"),
        mac=f"0a:00:00:00:{number >> 8:02x}:{number & 255:02x}",
    )
    return dataclasses.replace(usual, **fields)


def grant(network_id: NetworkId, first: int, last: int, to: HostId, hop: int = 1) -> GrantRecord:
    return GrantRecord(network_id, first, last, to, hop)


def entry(owner: str, record: Record, sequence: int, *, deleted: bool = False) -> Entry:
    scope, key = key_of(record)
    return Entry(scope, owner, key, None if deleted else encode(record), Version(1, sequence))


def event(owner: str, *entries: Entry, replaced: bool = False, scope: bytes | None = None) -> EntriesChanged:
    head = max((one.version.sequence for one in entries), default=0)
    where = entries[0].scope if scope is None else scope
    return EntriesChanged(where, owner, 1, head, 0, entries, replaced=replaced)


class Writer:
    """Hands out sequences like a host's own log does."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.sequence = 0

    def put(self, record: Record) -> EntriesChanged:
        self.sequence += 1
        return event(self.owner, entry(self.owner, record, self.sequence))

    def delete(self, record: Record) -> EntriesChanged:
        self.sequence += 1
        return event(self.owner, entry(self.owner, record, self.sequence, deleted=True))


def grants_of(view: RegistryView, network_id: NetworkId) -> tuple[tuple[HostId, GrantRecord], ...]:
    """All grants of the network's space with their writers, by range and hop."""
    pairs = [(writer, grant) for (writer, _), grant in view.grant_map(network_id).items()]
    return tuple(sorted(pairs, key=lambda pair: (pair[1].first, pair[1].hop, pair[0])))
