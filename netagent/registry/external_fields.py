"""Records of external services and of own names: their fields, written and read (netagent.registry.record_codec)."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Final

from netagent.model.allowed import outside_flaw
from netagent.model.ids import NetworkId, OwnNameId, ServiceId, is_name
from netagent.model.locality import MAX_WEIGHT
from netagent.model.records import (
    MAX_ADDRESSES,
    MAX_DNS_TTL_S,
    MAX_OWN_NAME_LABELS,
    MAX_TEXT_CHARS,
    MAX_TEXTS,
    MAX_TIME_S,
    MAX_TURN,
    AddressState,
    DnsName,
    ExternalServiceRecord,
    ExternalStateRecord,
    FixedAddresses,
    Health,
    HostProgram,
    NameAlias,
    NameData,
    OwnNameRecord,
    Port,
    Resolution,
    ServiceTarget,
    TargetAddress,
)
from netagent.registry.record_fields import RecordError, RecordFields, pack_address, pack_id

MAX_CHECKS: Final = 8
MAX_CHECK_CHARS: Final = 512
MAX_NAMED_PORTS: Final = 64
MAX_RECORD_TTL_S: Final = 366 * 86_400
MAX_REASON_CHARS: Final = 128
"""Each change of a reason goes to all hosts."""
MAX_ACCOUNT_CHARS: Final = 64
MAX_DOMAIN_CHARS: Final = 253

_FIXED, _PROGRAM, _DNS = "address", "host-port", "name"


def service_fields(record: ExternalServiceRecord) -> list[object]:
    """Return the fields of an external service."""
    return [
        pack_id(record.service_id),
        pack_id(record.network_id),
        record.name,
        _target_fields(record.target),
        record.added_s,
        record.added_by,
        [[port.name, port.number, port.protocol] for port in record.ports],
        record.weight,
        list(record.checks),
        record.ttl_s or 0,
    ]


def _target_fields(target: ServiceTarget) -> list[object]:
    match target:
        case FixedAddresses(addresses):
            return [_FIXED, [[pack_address(one.address), one.port or 0] for one in addresses]]
        case HostProgram(port):
            return [_PROGRAM, port]
        case DnsName(name, port):
            return [_DNS, name, port or 0]


def read_service(fields: RecordFields) -> ExternalServiceRecord:
    """Read an external service."""
    return ExternalServiceRecord(
        service_id=ServiceId(fields.identifier("service_id")),
        network_id=NetworkId(fields.identifier("network_id")),
        name=fields.name("name"),
        target=_read_target(fields.array("target", 2)),
        added_s=fields.integer("added_s", 0, MAX_TIME_S),
        added_by=fields.text("added_by", max_chars=MAX_ACCOUNT_CHARS),
        ports=fields.items("ports", MAX_NAMED_PORTS, _read_port),
        weight=fields.integer("weight", 0, MAX_WEIGHT),
        checks=fields.items("checks", MAX_CHECKS, _read_check),
        ttl_s=fields.integer("ttl_s", 0, MAX_RECORD_TTL_S) or None,
    )


def _read_target(fields: RecordFields) -> ServiceTarget:
    match fields.word("target", (_FIXED, _PROGRAM, _DNS)):
        case "address":
            addresses = fields.items("target", MAX_ADDRESSES, _read_service_address)
            keys = [address_key(one) for one in addresses]
            if not keys or keys != sorted(set(keys)):
                raise RecordError("target: its addresses are missing, not sorted, or given twice")
            return FixedAddresses(addresses)
        case "host-port":
            return HostProgram(fields.integer("target", 1, 65535))
        case _:
            name = _read_domain(fields, "target")
            if "." not in name:
                raise RecordError("target: not a domain name outside")
            return DnsName(name, fields.integer("target", 0, 65535) or None)


def address_key(one: TargetAddress) -> tuple[int, int, int]:
    """Sort key of addresses: IPv4 first, each family by value."""
    parsed = ipaddress.ip_address(one.address)
    return parsed.version, int(parsed), one.port or 0


def _read_service_address(fields: RecordFields, what: str) -> TargetAddress:
    inner = fields.array(what, 2)
    address = _read_outside_address(inner, what)
    return TargetAddress(address, inner.integer(what, 0, 65535) or None)


def _read_outside_address(fields: RecordFields, what: str) -> str:
    """Read an address of another machine. A host that asks for it must not be led to itself by a record."""
    text = fields.address(what)
    if flaw := outside_flaw(text):
        raise RecordError(f"{what}: {text} {flaw}")
    return text


def _read_port(fields: RecordFields, what: str) -> Port:
    inner = fields.array(what, 3)
    return Port(inner.name(what), inner.integer(what, 1, 65535), inner.word(what, ("tcp", "udp", "sctp")))


def _read_check(fields: RecordFields, what: str) -> str:
    return fields.text(what, max_chars=MAX_CHECK_CHARS)


def _read_domain(fields: RecordFields, what: str) -> str:
    text = fields.text(what, max_chars=MAX_DOMAIN_CHARS)
    if not all(map(is_name, text.split("."))):
        raise RecordError(f"{what}: not a domain name")
    return text


def state_fields(record: ExternalStateRecord) -> list[object]:
    """Return the fields of an external state."""
    found = record.resolution
    return [
        pack_id(record.service_id),
        pack_id(record.network_id),
        record.turn,
        [[pack_address(one.address), one.health.value, one.since_s, one.reason] for one in record.states],
        [] if found is None else [[pack_address(one) for one in found.addresses], found.ttl_s, found.reason],
        record.expired_s or 0,
    ]


def read_state(fields: RecordFields) -> ExternalStateRecord:
    """Read an external state."""
    record = ExternalStateRecord(
        service_id=ServiceId(fields.identifier("service_id")),
        network_id=NetworkId(fields.identifier("network_id")),
        turn=fields.integer("turn", 0, MAX_TURN),
        states=fields.items("states", MAX_ADDRESSES, _read_address_state),
        resolution=_read_resolution(fields.array("resolution", 0)),
        expired_s=fields.integer("expired_s", 0, MAX_TIME_S) or None,
    )
    _must_be_sorted("states", [one.address for one in record.states])
    return record


def _read_address_state(fields: RecordFields, what: str) -> AddressState:
    inner = fields.array(what, 4)
    return AddressState(
        address=inner.address(what),
        health=inner.choice(what, Health),
        since_s=inner.integer(what, 0, MAX_TIME_S),
        reason=inner.text(what, max_chars=MAX_REASON_CHARS),
    )


def _read_resolution(fields: RecordFields) -> Resolution | None:
    if not fields.has_more():
        return None
    addresses = fields.items("resolution", MAX_ADDRESSES, _read_outside_address)
    _must_be_sorted("resolution", addresses)
    ttl_s = fields.integer("resolution", 0, MAX_DNS_TTL_S)
    return Resolution(addresses, ttl_s, fields.text("resolution", max_chars=MAX_REASON_CHARS))


def name_fields(record: OwnNameRecord) -> list[object]:
    """Return the fields of an own name."""
    match record.value:
        case NameAlias(network_id, name):
            value: list[object] = [pack_id(network_id), name]
        case NameData(addresses, texts):
            value = [b"", [pack_address(one) for one in addresses], list(texts)]
    return [
        pack_id(record.name_id),
        pack_id(record.network_id),
        record.name,
        value,
        record.added_s,
        record.added_by,
    ]


def read_name(fields: RecordFields) -> OwnNameRecord:
    """Read an own name."""
    record = OwnNameRecord(
        name_id=OwnNameId(fields.identifier("name_id")),
        network_id=NetworkId(fields.identifier("network_id")),
        name=fields.text("name", max_chars=MAX_DOMAIN_CHARS),
        value=_read_value(fields.array("value", 2)),
        added_s=fields.integer("added_s", 0, MAX_TIME_S),
        added_by=fields.text("added_by", max_chars=MAX_ACCOUNT_CHARS),
    )
    if flaw := own_name_flaw(record.name):
        raise RecordError(f"name: {flaw}")
    return record


def own_name_flaw(text: str) -> str:
    """Return why a network cannot have an own name of these labels, as a clause; '' if it can."""
    labels = text.split(".")
    if labels[0] == "*":
        del labels[0]
        if not labels:
            return "it would catch each misspelt name of the network"
    if not 1 <= len(labels) <= MAX_OWN_NAME_LABELS:
        return f"it has {len(labels)} labels, at most {MAX_OWN_NAME_LABELS} are possible"
    return "" if all(map(is_name, labels)) else "its labels are not names"


def _read_value(fields: RecordFields) -> NameAlias | NameData:
    place = fields.blob("value")
    if place:
        if len(place) != 16:
            raise RecordError("value: not the id of a network")
        return NameAlias(NetworkId(place.hex()), fields.dotted_name("value"))
    addresses = fields.items("value", MAX_ADDRESSES, _read_outside_address)
    _must_be_sorted("value", addresses)
    texts = fields.items("value", MAX_TEXTS, _read_text)
    if not addresses and not texts:
        raise RecordError("value: empty")
    return NameData(addresses, texts)


def _read_text(fields: RecordFields, what: str) -> str:
    text = fields.text(what, max_chars=MAX_TEXT_CHARS)
    if len(text.encode()) > MAX_TEXT_CHARS:
        raise RecordError(f"{what}: longer than {MAX_TEXT_CHARS} bytes")
    return text


def in_order(addresses: Sequence[str]) -> tuple[str, ...]:
    """Return addresses as records have them: without duplicates, IPv4 first, each family by value."""
    return tuple(sorted(set(addresses), key=lambda one: address_key(TargetAddress(one))))


def _must_be_sorted(what: str, addresses: Sequence[str]) -> None:
    if tuple(addresses) != in_order(addresses):
        raise RecordError(f"{what}: not sorted, or with duplicates")
