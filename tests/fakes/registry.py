"""Short ways to write records, entries and events in tests."""

from __future__ import annotations

from netagent.model.records import EndpointRecord, GrantRecord, HostRecord, NetworkRecord, Record
from netagent.registry.record_codec import encode, key_of
from netgossip.types import EntriesChanged, Entry, Version


def identifier(number: int) -> str:
    return f"{number:032x}"


H1, H2, H3 = (identifier(number) for number in (1, 2, 3))
N1, N2, N3 = (identifier(0xA0 + number) for number in (1, 2, 3))


def host(name: str = "h1", **fields: object) -> HostRecord:
    base = {
        "public_key": bytes(32),
        "underlay": "192.0.2.1",
        "vxlan_port": 4789,
        "probe_address": "fd00::1",
        "probe_mac": "02:00:00:00:00:01",
    }
    return HostRecord(name=name, **(base | fields))


def network(network_id: str = N1, name: str = "app", **fields: object) -> NetworkRecord:
    base = {
        "vni": 1000 + int(network_id[-2:], 16),
        "subnets": ("10.1.0.0/24", "fd00:1::/64"),
        "mtu_bytes": 1450,
    }
    return NetworkRecord(network_id=network_id, name=name, **(base | fields))


def endpoint(number: int = 1, network_id: str = N1, offset: int = 2, **fields: object) -> EndpointRecord:
    base = {
        "name": f"web{number}",
        "service": "web",
        "addresses": (f"10.1.0.{offset}", f"fd00:1::{offset:x}"),
        "mac": f"02:00:00:00:00:{number:02x}",
    }
    return EndpointRecord(endpoint_id=identifier(0xE000 + number), network_id=network_id, **(base | fields))


def grant(network_id: str, first: int, last: int, to: str, hop: int = 1) -> GrantRecord:
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
