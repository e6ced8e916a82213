"""Records as bytes: msgpack arrays `[kind, version, …]`.

Two releases of netagent run in one cluster while it is upgraded. So positions are only ever appended, never moved or
reused; a reader ignores positions it does not know, and keeps a record of an unknown kind unchanged. Neither is lost
on the way: netgossip relays the writer's bytes, never our reading of them.

Identifiers, addresses and MACs are packed (16, 4 or 16, and 6 bytes). A record either passes every check here, or it
is refused whole: users of a `Record` need not check again. What depends on other records (does the address lie in its
network?) is decided by the view.

Keys, unique within (scope, owner):

    h                      the host itself          r + network id             removal
    n + network id         network                  a + network id             attachment
    g + network id + first (4) + hop (4)  grant     e + endpoint id            endpoint
    f + host id            forget                   o + network id             host address
    x + service id         external service         s + service id             external state
    d + name id            own name
    w + network id + each subnet: base, length (1)  service range
    v + network id + addresses                      service address
    p + network id + protocol, host port (2) + service + NUL + group    published service
    c + network id         network options
    k                      ring keys
    u + key id + part (1)  sealed keys
    t                      the host's end of the tunnel
    y                      encryption

Service ranges, service addresses and published services have what they claim in their keys: a host that succeeds
another may have several of one network or service.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgpack

from netagent.feeds.host_rule import MAX_FEED_RULE_CHARS, MAX_FEED_RULES
from netagent.model.address.tunnel import MAX_SALT
from netagent.model.allowed import MAX_MTU_BYTES, MIN_MTU_BYTES, mtu_flaw, range_flaw
from netagent.model.egress import (
    MAX_TARGET_CHARS,
    MAX_TARGETS,
    NONE,
    OPEN,
    EgressTarget,
    parse_egress,
    parse_target,
    place_of,
    text_of,
)
from netagent.model.ids import LOCALHOST, EndpointId, HostId, KeyId, NetworkId
from netagent.model.locality import DEFAULT_WEIGHT, MAX_WEIGHT, AnswerOrder, Balance
from netagent.model.port import MAX_ALPN, MAX_ALPN_CHARS, has_too_many_alpn, is_alpn
from netagent.model.publication import Publication
from netagent.model.records import (
    DIGEST_BYTES,
    MAX_ALIASES,
    MAX_CHANGED_BY_CHARS,
    MAX_ENCRYPTION_REVISION,
    MAX_HOST_WEIGHTS,
    MAX_KEY_IDS,
    MAX_OPTION_CHANGES,
    MAX_OPTIONS,
    MAX_OVERRULED,
    MAX_PUBLISHED_PORTS,
    MAX_REASON_CHARS,
    MAX_SERVICE_PORTS,
    MAX_TIME_S,
    OPTION_VALUES,
    AttachmentRecord,
    Drain,
    EncryptionRecord,
    EncryptionStage,
    EndpointRecord,
    ExternalServiceRecord,
    ExternalStateRecord,
    ForgetRecord,
    GrantRecord,
    Group,
    Health,
    HealthNote,
    HostAddressRecord,
    HostRecord,
    NetworkOption,
    NetworkOptionsRecord,
    NetworkRecord,
    OptionChange,
    OwnNameRecord,
    Policy,
    Port,
    PublishedServiceRecord,
    Record,
    RemovalRecord,
    ServiceAddressOrigin,
    ServiceAddressRecord,
    ServiceKey,
    ServicePort,
    ServiceRangeRecord,
    TunnelRecord,
)
from netagent.model.ring_key import RingKeysRecord, SealedKeysRecord
from netagent.model.subnet import parse_subnet
from netagent.registry.external_fields import (
    name_fields,
    read_name,
    read_service,
    read_state,
    service_fields,
    state_fields,
)
from netagent.registry.key_fields import fields_of_keys, key_of_keys, read_ring, read_sealed
from netagent.registry.record_fields import (
    RecordError,
    RecordFields,
    pack_address,
    pack_cidr,
    pack_id,
    pack_mac,
)
from netgossip.types import CLUSTER_SCOPE, Scope

__all__ = ["MAX_RECORD_BYTES", "RecordError", "Unknown", "decode_untrusted", "encode", "key_of", "scope_of"]

MAX_RECORD_BYTES: Final = 32 * 1024
"""Bound of one record; beyond it: refused, counted. Room for 1,024 routes or for all labels Docker Compose sets, and
small enough that 10,000 of them can't exhaust a host by being stored twice."""

GROUP_DIRECTORY_BYTES: Final = 8
MAX_DRAINED_BY_CHARS: Final = 64
MAX_OPTION_CHARS: Final = 64
_OPTIONS: Final = {one.value: one for one in NetworkOption}
_LISTED: Final = "listed"
"""The value of a changed egress whose targets follow."""

_VERSION: Final = 1
HOST_KEY: Final = b"h"
TUNNEL_KEY: Final = b"t"
_HOST, _NETWORK, _REMOVAL, _ATTACHMENT, _GRANT, _ENDPOINT, _FORGET, _HOST_ADDRESS = range(1, 9)
_EXTERNAL_SERVICE, _EXTERNAL_STATE, _OWN_NAME = range(9, 12)
_SERVICE_RANGE, _SERVICE_ADDRESS, _PUBLISHED_SERVICE, _NETWORK_OPTIONS = range(12, 16)
_RING_KEYS, _SEALED_KEYS = range(16, 18)
_TUNNEL, _ENCRYPTION = 18, 19
_PROTOCOLS: Final = ("tcp", "udp")


@dataclass(frozen=True, slots=True)
class Unknown:
    """A record of a kind that a later release added: kept, relayed, never interpreted."""

    kind: int
    data: bytes


def scope_of(network_id: NetworkId) -> Scope:
    """The scope of a network's endpoints."""
    return bytes.fromhex(network_id)


def key_of(record: Record) -> tuple[Scope, bytes]:
    """The scope and key under which the writer replicates the record."""
    match record:
        case HostRecord() | TunnelRecord() | EncryptionRecord():
            return CLUSTER_SCOPE, _ONLY_ONE[type(record)]
        case (
            NetworkRecord()
            | RemovalRecord()
            | AttachmentRecord()
            | HostAddressRecord()
            | NetworkOptionsRecord()
        ):
            return CLUSTER_SCOPE, _OF_NETWORK[type(record)] + pack_id(record.network_id)
        case GrantRecord():
            where = record.first.to_bytes(4, "big") + record.hop.to_bytes(4, "big")
            return CLUSTER_SCOPE, b"g" + pack_id(record.network_id) + where
        case EndpointRecord():
            return scope_of(record.network_id), b"e" + pack_id(record.endpoint_id)
        case ForgetRecord():
            return CLUSTER_SCOPE, b"f" + pack_id(record.host_id)
        case ExternalServiceRecord() | ExternalStateRecord():
            first = b"x" if isinstance(record, ExternalServiceRecord) else b"s"
            return CLUSTER_SCOPE, first + pack_id(record.service_id)
        case OwnNameRecord():
            return CLUSTER_SCOPE, b"d" + pack_id(record.name_id)
        case ServiceRangeRecord():
            subnets = (parse_subnet(text) for text in record.subnets)
            where = b"".join(one.network_address.packed + bytes([one.prefixlen]) for one in subnets)
            return CLUSTER_SCOPE, b"w" + pack_id(record.network_id) + where
        case ServiceAddressRecord():
            where = b"".join(map(pack_address, record.addresses))
            return CLUSTER_SCOPE, b"v" + pack_id(record.network_id) + where
        case PublishedServiceRecord():
            service, port = record.service, record.publication.host_port.to_bytes(2, "big")
            where = bytes([_PROTOCOLS.index(record.publication.protocol)]) + port
            name = f"{service.name}\0{service.group or ''}".encode()
            return CLUSTER_SCOPE, b"p" + pack_id(record.network_id) + where + name
        case RingKeysRecord() | SealedKeysRecord():
            return CLUSTER_SCOPE, key_of_keys(record)


_ONLY_ONE: Final[dict[type[Record], bytes]] = {
    HostRecord: HOST_KEY,
    TunnelRecord: TUNNEL_KEY,
    EncryptionRecord: b"y",
}
"""The keys of records of which a host has one."""

_OF_NETWORK: Final[dict[type[Record], bytes]] = {
    NetworkRecord: b"n",
    RemovalRecord: b"r",
    AttachmentRecord: b"a",
    HostAddressRecord: b"o",
    NetworkOptionsRecord: b"c",
}
"""The first byte of the keys of which a network's id is the rest."""


def endpoint_of_key(key: bytes) -> EndpointId | None:
    """The endpoint whose record has this key; None for other keys."""
    return EndpointId(key[1:].hex()) if key[:1] == b"e" else None


def encode(record: Record) -> bytes:
    """Encode a record. Raises RecordError if it breaks a rule that readers enforce: this host sends nothing that
    other hosts would refuse."""
    kind, fields = _fields_of(record)
    data: bytes = msgpack.packb([kind, _VERSION, *fields])
    if decode_untrusted(data) != record:
        raise RecordError(
            "the record changes when it is encoded and decoded: lists must be sorted, addresses in short form"
        )
    return data


def decode_untrusted(data: bytes) -> Record | Unknown:
    """Decode a record. Raises RecordError, and nothing else, for invalid bytes."""
    if len(data) > MAX_RECORD_BYTES:
        raise RecordError(f"{len(data)} bytes, the limit is {MAX_RECORD_BYTES}")
    try:
        items = msgpack.unpackb(data, use_list=True, strict_map_key=True)
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise RecordError(f"not msgpack: {type(error).__name__}") from None
    if not isinstance(items, list):
        raise RecordError("not an array")
    fields = RecordFields(items)
    kind = fields.integer("kind", 0, 2**32 - 1)
    fields.integer("version", 1, 2**32 - 1)
    read = _READERS.get(kind)
    return Unknown(kind, data) if read is None else read(fields)


# -- writing ---------------------------------------------------------------------------------------------------


def _fields_of(record: Record) -> tuple[int, list[object]]:
    match record:
        case HostRecord():
            return _HOST, _host_fields(record)
        case NetworkRecord() | NetworkOptionsRecord():
            return _fields_of_network(record)
        case RemovalRecord() | AttachmentRecord():
            kind = _REMOVAL if isinstance(record, RemovalRecord) else _ATTACHMENT
            return kind, [pack_id(record.network_id)]
        case GrantRecord():
            where = [record.first, record.last, pack_id(record.to), record.hop]
            return _GRANT, [pack_id(record.network_id), *where]
        case HostAddressRecord():
            return _HOST_ADDRESS, [pack_id(record.network_id), record.offset, pack_mac(record.mac)]
        case EndpointRecord():
            return _ENDPOINT, _endpoint_fields(record)
        case ForgetRecord():
            version = list(record.disputed or ())
            keys = [record.revoked, list(map(pack_id, record.key_ids)), record.compromised]
            return _FORGET, [pack_id(record.host_id), record.settled, version, *keys]
        case ExternalServiceRecord() | ExternalStateRecord() | OwnNameRecord():
            return _fields_of_addition(record)
        case ServiceRangeRecord() | ServiceAddressRecord() | PublishedServiceRecord():
            return _fields_of_services(record)
        case TunnelRecord() | EncryptionRecord():
            return _fields_of_encryption(record)
        case RingKeysRecord() | SealedKeysRecord():
            return _KINDS_OF_KEYS[type(record)], fields_of_keys(record)


_KINDS_OF_KEYS: Final[dict[type[Record], int]] = {
    RingKeysRecord: _RING_KEYS,
    SealedKeysRecord: _SEALED_KEYS,
}


def _fields_of_addition(
    record: ExternalServiceRecord | ExternalStateRecord | OwnNameRecord,
) -> tuple[int, list[object]]:
    if isinstance(record, ExternalServiceRecord):
        return _EXTERNAL_SERVICE, service_fields(record)
    if isinstance(record, ExternalStateRecord):
        return _EXTERNAL_STATE, state_fields(record)
    return _OWN_NAME, name_fields(record)


def _fields_of_encryption(record: TunnelRecord | EncryptionRecord) -> tuple[int, list[object]]:
    if isinstance(record, TunnelRecord):
        return _TUNNEL, [record.public_key, record.port, record.salt, record.takes_direct]
    decided_on = pack_id(record.decided_on) if record.decided_on is not None else b""
    return _ENCRYPTION, [
        record.is_on,
        record.revision,
        record.changed_s,
        record.changed_by,
        decided_on,
        int(record.stage),
        record.is_reached,
    ]


def _host_fields(record: HostRecord) -> list[object]:
    return [
        record.name,
        record.public_key,
        pack_address(record.underlay),
        record.vxlan_port,
        pack_address(record.probe_address),
        pack_mac(record.probe_mac),
        record.zone,
        record.agent_version,
        # A release that does not know drains must keep its names away from the host as well.
        record.going_down or record.drain is not None,
        [pack_cidr(route) for route in record.routes],
        [] if record.drain is None else [record.drain.since_s, record.drain.by, record.going_down],
        record.is_starting,
    ]


def _fields_of_network(record: NetworkRecord | NetworkOptionsRecord) -> tuple[int, list[object]]:
    if isinstance(record, NetworkOptionsRecord):
        return _NETWORK_OPTIONS, [
            pack_id(record.network_id),
            [_fields_of_change(one) for one in record.changes],
        ]
    return _NETWORK, [
        pack_id(record.network_id),
        record.name,
        record.vni,
        [pack_cidr(subnet) for subnet in record.subnets],
        record.mtu_bytes,
        record.internal,
        record.policy.value,
        record.multicast,
        record.host_access,
        record.revision,
        record.answer.value,
        list(record.feed_rules or ()),
        record.feed_labels,
        record.refuses_shared_names,
        record.service_addresses,
        [] if record.egress is None else [[one.text for one in record.egress]],
    ]


def _fields_of_change(change: OptionChange) -> list[object]:
    # A release that does not know the egress reads past it, but would refuse a long value.
    targets = parse_egress(change.value) if change.option is NetworkOption.EGRESS else None
    value = _LISTED if targets else change.value
    fields: list[object] = [change.option.value, value, change.number, change.changed_s, change.changed_by]
    if targets:
        return [*fields, list(change.overrules), [one.text for one in targets]]
    return [*fields, list(change.overrules)] if change.overrules else fields


def _endpoint_fields(record: EndpointRecord) -> list[object]:
    group, drain, note = record.group, record.drain, record.health_note
    return [
        pack_id(record.endpoint_id),
        pack_id(record.network_id),
        record.name,
        record.service,
        [pack_address(address) for address in record.addresses],
        pack_mac(record.mac),
        list(record.aliases if group is None else group.added_to(record.aliases, record.service)),
        [
            [port.name, port.number, port.protocol, *([list(port.alpn)] if port.alpn else [])]
            for port in record.ports
        ],
        [[key, value] for key, value in record.labels],
        # A release that does not know STARTING, or drains, must keep its names away from the endpoint as well.
        (Health.UNHEALTHY if record.health is Health.STARTING or record.drain else record.health).value,
        list(record.links),
        record.health is Health.STARTING,
        [] if group is None else [group.name, group.service or "", group.directory or b""],
        [] if drain is None else [drain.since_s, drain.by, record.health.value],
        [] if note is None else [note.since_s, note.reason, note.keeps_names],
        record.weight,
    ]


def _fields_of_services(
    record: ServiceRangeRecord | ServiceAddressRecord | PublishedServiceRecord,
) -> tuple[int, list[object]]:
    if isinstance(record, ServiceRangeRecord):
        return _SERVICE_RANGE, [pack_id(record.network_id), [pack_cidr(one) for one in record.subnets]]
    if isinstance(record, PublishedServiceRecord):
        service, port = record.service, record.publication
        where = [port.host_port, port.port, port.protocol, port.count]
        return _PUBLISHED_SERVICE, [pack_id(record.network_id), service.name, service.group or "", *where]
    return _SERVICE_ADDRESS, [
        pack_id(record.network_id),
        record.service.name,
        record.service.group or "",
        [pack_address(address) for address in record.addresses],
        record.origin.value,
        [[port.number, port.target] for port in record.ports],
        record.balance.value,
        [[host, weight] for host, weight in record.host_weights],
        record.is_sticky,
        record.keeps_failing,
        record.keeps_connections,
    ]


# -- reading ---------------------------------------------------------------------------------------------------


def _read_host(fields: RecordFields) -> HostRecord:
    record = HostRecord(
        name=fields.name("name"),
        public_key=fields.octets("public_key", 32),
        underlay=fields.underlay("underlay"),
        vxlan_port=fields.integer("vxlan_port", 1, 65535),
        probe_address=fields.underlay("probe_address", version=6),
        probe_mac=fields.mac("probe_mac"),
        zone=fields.text("zone", max_chars=63),
        agent_version=fields.text("agent_version", max_chars=63),
        going_down=fields.boolean("going_down"),
        routes=fields.sorted_items("routes", 1024, RecordFields.route),
    )
    more = fields.array("drain", 0) if fields.has_more() else None
    if more is not None and more.has_more():
        record = dataclasses.replace(record, drain=_read_drain(more), going_down=more.boolean("drain"))
    is_starting = fields.boolean("is_starting") if fields.has_more() else False
    return dataclasses.replace(record, is_starting=is_starting)


def _read_network(fields: RecordFields) -> NetworkRecord:
    record = NetworkRecord(
        network_id=NetworkId(fields.identifier("network_id")),
        name=fields.network_name("name"),
        vni=fields.integer("vni", 1, (1 << 24) - 1),
        subnets=fields.subnets("subnets"),
        mtu_bytes=fields.integer("mtu_bytes", MIN_MTU_BYTES, MAX_MTU_BYTES),
        internal=fields.boolean("internal"),
        policy=fields.choice("policy", Policy),
        multicast=fields.boolean("multicast"),
        host_access=fields.boolean("host_access"),
        revision=fields.integer("revision", 0, 2**32 - 1),
    )
    if fields.has_more():
        record = dataclasses.replace(record, answer=fields.choice_or("answer", AnswerOrder.SPREAD))
    if fields.has_more():
        rules = fields.sorted_items("feed_rules", MAX_FEED_RULES, _read_feed_rule)
        record = dataclasses.replace(
            record, feed_rules=rules or None, feed_labels=fields.boolean("feed_labels")
        )
    if fields.has_more():
        record = dataclasses.replace(record, refuses_shared_names=fields.boolean("refuses_shared_names"))
    if fields.has_more():
        record = dataclasses.replace(record, service_addresses=fields.boolean("service_addresses"))
    if fields.has_more():
        egress = fields.array("egress", 0)
        record = dataclasses.replace(record, egress=_read_targets(egress) if egress.has_more() else None)
    if flaw := mtu_flaw(record.mtu_bytes, has_ipv6=any(":" in text for text in record.subnets)):
        raise RecordError(f"mtu_bytes: {record.mtu_bytes} {flaw}")
    if record.policy is Policy.LINKS and (record.multicast or record.host_access):
        raise RecordError("policy: links excludes multicast and host_access")
    if record.internal and record.egress is not None:
        raise RecordError("egress: an internal network has none")
    return record


def _read_feed_rule(fields: RecordFields, what: str) -> str:
    # Also one of a form that a later release added: it allows no domain here, and a successor repeats it.
    return fields.text(what, max_chars=MAX_FEED_RULE_CHARS)


def _read_grant(fields: RecordFields) -> GrantRecord:
    record = GrantRecord(
        network_id=NetworkId(fields.identifier("network_id")),
        first=fields.integer("first", 0, 2**32 - 1),
        last=fields.integer("last", 0, 2**32 - 1),
        to=HostId(fields.identifier("to")),
        hop=fields.integer("hop", 1, 2**32 - 1),
    )
    if record.first > record.last:
        raise RecordError("grant: first is above last")
    return record


def _read_endpoint(fields: RecordFields) -> EndpointRecord:
    record = EndpointRecord(
        endpoint_id=EndpointId(fields.identifier("endpoint_id")),
        network_id=NetworkId(fields.identifier("network_id")),
        name=fields.name("name"),
        service=fields.name("service"),
        addresses=fields.items("addresses", 2, RecordFields.address),
        mac=fields.mac("mac"),
        aliases=fields.items("aliases", MAX_ALIASES, RecordFields.name),
        ports=fields.items("ports", 256, _read_port),
        labels=fields.sorted_items("labels", 256, _read_label),
        health=fields.choice("health", Health),
        links=fields.sorted_items("links", 256, RecordFields.dotted_name) if fields.has_more() else (),
    )
    if has_too_many_alpn(port.alpn for port in record.ports):
        raise RecordError("ports: too many ALPN protocols")
    is_starting = fields.boolean("starting") if fields.has_more() else False
    health = Health.STARTING if is_starting else record.health
    group = _read_group(fields.array("group", 0)) if fields.has_more() else None
    aliases = record.aliases if group is None else group.not_in(record.aliases)
    drain = None
    if fields.has_more() and (more := fields.array("drain", 0)).has_more():
        # `health` has what a release without drains should see; its real health follows.
        drain = _read_drain(more)
        health = more.choice("drain", Health)
    note = _read_health_note(fields.array("health note", 0)) if fields.has_more() else None
    weight = fields.integer("weight", 0, MAX_WEIGHT) if fields.has_more() else DEFAULT_WEIGHT
    return dataclasses.replace(
        record, aliases=aliases, health=health, group=group, drain=drain, health_note=note, weight=weight
    )


def _read_group(fields: RecordFields) -> Group | None:
    if not fields.has_more():
        return None
    name, service, directory = fields.name("group"), fields.name_or_none("group"), fields.blob("group")
    if len(directory) not in {0, GROUP_DIRECTORY_BYTES}:
        raise RecordError(f"group: the folder's hash does not have {GROUP_DIRECTORY_BYTES} bytes")
    return Group(name, service, directory or None)


def _read_drain(fields: RecordFields) -> Drain:
    since_s = fields.integer("drain", 0, MAX_TIME_S)
    return Drain(since_s, fields.text("drain", max_chars=MAX_DRAINED_BY_CHARS))


def _read_health_note(fields: RecordFields) -> HealthNote | None:
    if not fields.has_more():
        return None
    since_s = fields.integer("health note", 0, MAX_TIME_S)
    reason = fields.text("health note", max_chars=MAX_REASON_CHARS)
    return HealthNote(since_s, reason, fields.boolean("health note") if fields.has_more() else False)


def _read_host_address(fields: RecordFields) -> HostAddressRecord:
    return HostAddressRecord(
        network_id=NetworkId(fields.identifier("network_id")),
        offset=fields.integer("offset", 2, 2**32 - 1),
        mac=fields.mac("mac"),
    )


def _read_forget(fields: RecordFields) -> ForgetRecord:
    host_id = HostId(fields.identifier("host_id"))
    settled = fields.boolean("settled") if fields.has_more() else False
    version = fields.items("disputed", 2, _read_count) if fields.has_more() else ()
    if len(version) == 1:
        raise RecordError("disputed: half a version")
    disputed = (version[0], version[1]) if version else None
    revoked = fields.boolean("revoked") if fields.has_more() else False
    key_ids = fields.sorted_items("key_ids", MAX_KEY_IDS, _read_key_id) if fields.has_more() else ()
    compromised = fields.boolean("compromised") if fields.has_more() else False
    if (revoked and disputed) or ((key_ids or compromised) and not revoked):
        raise RecordError("revoked: contradicts itself")
    return ForgetRecord(host_id, settled, disputed, revoked, key_ids, compromised)


def _read_key_id(fields: RecordFields, what: str) -> KeyId:
    return KeyId(fields.identifier(what))


def _read_count(fields: RecordFields, what: str) -> int:
    return fields.integer(what, 0, 2**63 - 1)


def _read_port(fields: RecordFields, what: str) -> Port:
    inner = fields.array(what, 3)
    port = Port(inner.name(what), inner.integer(what, 1, 65535), inner.word(what, ("tcp", "udp", "sctp")))
    if not inner.has_more():
        return port
    return dataclasses.replace(port, alpn=inner.items(what, MAX_ALPN, _read_alpn))


def _read_alpn(fields: RecordFields, what: str) -> str:
    text = fields.text(what, max_chars=MAX_ALPN_CHARS)
    if not is_alpn(text):
        raise RecordError(f"{what}: not an ALPN protocol")
    return text


def _read_label(fields: RecordFields, what: str) -> tuple[str, str]:
    inner = fields.array(what, 2)
    return inner.text(what, max_chars=255), inner.text(what, max_chars=4096, multiline=True)


def _read_service_range(fields: RecordFields) -> ServiceRangeRecord:
    record = ServiceRangeRecord(NetworkId(fields.identifier("network_id")), fields.subnets("subnets"))
    for text in record.subnets:
        if flaw := range_flaw(parse_subnet(text)):
            raise RecordError(f"subnets: {text} {flaw}")
    return record


def _read_service_address(fields: RecordFields) -> ServiceAddressRecord:
    record = ServiceAddressRecord(
        network_id=NetworkId(fields.identifier("network_id")),
        service=ServiceKey(fields.name("service"), fields.name_or_none("group")),
        addresses=fields.items("addresses", 2, RecordFields.address),
        origin=fields.choice_or("origin", ServiceAddressOrigin.OPERATOR),
        ports=fields.sorted_items("ports", MAX_SERVICE_PORTS, _read_service_port),
        balance=fields.choice_or("balance", Balance.SPREAD),
        host_weights=fields.sorted_items("host_weights", MAX_HOST_WEIGHTS, _read_host_weight),
        is_sticky=fields.boolean("is_sticky"),
        keeps_failing=fields.boolean("keeps_failing"),
        keeps_connections=fields.boolean("keeps_connections"),
    )
    if record.service.name == LOCALHOST:
        raise RecordError(f"service: {LOCALHOST} is the container itself for every program")
    if not record.addresses:
        raise RecordError("addresses: none")
    for what, keys in (
        ("ports", [port.number for port in record.ports]),
        ("host_weights", [host for host, _ in record.host_weights]),
    ):
        if len(set(keys)) < len(keys):
            raise RecordError(f"{what}: with duplicates")
    return record


def _read_published_service(fields: RecordFields) -> PublishedServiceRecord:
    network_id = NetworkId(fields.identifier("network_id"))
    service = ServiceKey(fields.name("service"), fields.name_or_none("group"))
    host_port, port = fields.integer("host_port", 1, 65535), fields.integer("port", 1, 65535)
    protocol, count = fields.text("protocol", max_chars=3), fields.integer("count", 1, MAX_PUBLISHED_PORTS)
    if protocol not in _PROTOCOLS:
        raise RecordError("protocol: neither tcp nor udp")
    if max(host_port, port) + count > 65536:
        raise RecordError("count: beyond the last port")
    return PublishedServiceRecord(network_id, service, Publication(host_port, port, protocol, count))


def _read_service_port(fields: RecordFields, what: str) -> ServicePort:
    inner = fields.array(what, 2)
    return ServicePort(inner.integer(what, 1, 65535), inner.integer(what, 1, 65535))


def _read_host_weight(fields: RecordFields, what: str) -> tuple[str, int]:
    inner = fields.array(what, 2)
    return inner.name(what), inner.integer(what, 0, MAX_WEIGHT)


def _read_network_options(fields: RecordFields) -> NetworkOptionsRecord:
    network_id = NetworkId(fields.identifier("network_id"))
    read = fields.items("changes", MAX_OPTIONS, _read_option_change)
    changes = tuple(one for one in read if one is not None)
    places = [list(NetworkOption).index(one.option) for one in changes]
    if places != sorted(set(places)):
        raise RecordError("changes: not in order, or with duplicates")
    return NetworkOptionsRecord(network_id, changes)


def _read_option_change(fields: RecordFields, what: str) -> OptionChange | None:
    """Return None for an option, or a value, that a later release added."""
    inner = fields.array(what, 5)
    option = inner.text(what, max_chars=MAX_OPTION_CHARS)
    value = inner.text(what, max_chars=MAX_OPTION_CHARS)
    number = inner.integer(what, 1, MAX_OPTION_CHANGES)
    changed_s = inner.integer(what, 0, MAX_TIME_S)
    changed_by = inner.text(what, max_chars=MAX_CHANGED_BY_CHARS)
    overrules: tuple[bytes, ...] = ()
    if inner.has_more():
        overrules = inner.items(what, MAX_OVERRULED, lambda each, which: each.octets(which, DIGEST_BYTES))
    known = _OPTIONS.get(option)
    if known is NetworkOption.EGRESS and value == _LISTED:
        value = text_of(_read_targets(inner))
    elif known is None or value not in OPTION_VALUES.get(known, (OPEN, NONE)):
        return None
    return OptionChange(known, value, number, changed_s, changed_by, overrules)


def _read_targets(fields: RecordFields) -> tuple[EgressTarget, ...]:
    read = fields.items("egress", MAX_TARGETS, _read_target)
    if list(read) != sorted(set(read), key=place_of):
        raise RecordError("egress: not in order, or with duplicates")
    return read


def _read_target(fields: RecordFields, what: str) -> EgressTarget:
    text = fields.text(what, max_chars=MAX_TARGET_CHARS)
    try:
        target = parse_target(text)
    except ValueError as error:
        raise RecordError(f"{what}: {error}") from None
    if target.text != text:
        raise RecordError(f"{what}: not in canonical form")
    return target


def _read_tunnel(fields: RecordFields) -> TunnelRecord:
    return TunnelRecord(
        public_key=fields.octets("public_key", 32),
        port=fields.integer("port", 1, 65535),
        salt=fields.integer("salt", 0, MAX_SALT),
        takes_direct=fields.boolean("takes_direct") if fields.has_more() else False,
    )


def _read_encryption(fields: RecordFields) -> EncryptionRecord:
    record = EncryptionRecord(
        is_on=fields.boolean("is_on"),
        revision=fields.integer("revision", 1, MAX_ENCRYPTION_REVISION),
        changed_s=fields.integer("changed_s", 0, MAX_TIME_S),
        changed_by=fields.text("changed_by", max_chars=MAX_CHANGED_BY_CHARS),
    )
    if not fields.has_more():  # of the release before, whose clusters encrypt from their beginning or never
        return dataclasses.replace(record, stage=record.target)
    decided_on = fields.blob("decided_on")
    if len(decided_on) not in {0, 16}:
        raise RecordError("decided_on: neither an id nor empty")
    return dataclasses.replace(
        record,
        decided_on=HostId(decided_on.hex()) if decided_on else None,
        stage=EncryptionStage(fields.integer("stage", 0, max(EncryptionStage))),
        is_reached=fields.boolean("is_reached"),
    )


_READERS: Final[dict[int, Callable[[RecordFields], Record]]] = {
    _HOST: _read_host,
    _NETWORK: _read_network,
    _REMOVAL: lambda fields: RemovalRecord(NetworkId(fields.identifier("network_id"))),
    _ATTACHMENT: lambda fields: AttachmentRecord(NetworkId(fields.identifier("network_id"))),
    _GRANT: _read_grant,
    _ENDPOINT: _read_endpoint,
    _FORGET: _read_forget,
    _HOST_ADDRESS: _read_host_address,
    _EXTERNAL_SERVICE: read_service,
    _EXTERNAL_STATE: read_state,
    _OWN_NAME: read_name,
    _SERVICE_RANGE: _read_service_range,
    _SERVICE_ADDRESS: _read_service_address,
    _PUBLISHED_SERVICE: _read_published_service,
    _NETWORK_OPTIONS: _read_network_options,
    _RING_KEYS: read_ring,
    _SEALED_KEYS: read_sealed,
    _TUNNEL: _read_tunnel,
    _ENCRYPTION: _read_encryption,
}
