"""Short ways to write external services and own names in tests."""

from __future__ import annotations

import dataclasses
from typing import TypedDict, Unpack

from fakes.registry import N1, identifier
from netagent.model.ids import NetworkId, OwnNameId, ServiceId
from netagent.model.records import (
    DnsName,
    ExternalServiceRecord,
    ExternalStateRecord,
    FixedAddresses,
    HostProgram,
    NameAlias,
    NameData,
    OwnNameRecord,
    Port,
    TargetAddress,
)

ADDED_S = 1_760_000_000


class ServiceFields(TypedDict, total=False):
    name: str
    target: FixedAddresses | HostProgram | DnsName
    ports: tuple[Port, ...]
    weight: int
    checks: tuple[str, ...]
    ttl_s: int | None
    added_s: int


def service_id(number: int) -> ServiceId:
    return ServiceId(identifier(0x5E0000 + number))


def at(*texts: str, port: int | None = 5432) -> FixedAddresses:
    return FixedAddresses(tuple(TargetAddress(text, port) for text in texts))


def service(
    number: int = 1, network_id: NetworkId = N1, **fields: Unpack[ServiceFields]
) -> ExternalServiceRecord:
    usual = ExternalServiceRecord(
        service_id=service_id(number),
        network_id=network_id,
        name="pg",
        target=at("203.0.113.50"),
        added_s=ADDED_S,
        added_by="anna",
    )
    return dataclasses.replace(usual, **fields)


def state(number: int = 1, turn: int = 0, network_id: NetworkId = N1) -> ExternalStateRecord:
    return ExternalStateRecord(service_id(number), network_id, turn)


def alias(
    number: int = 1, name: str = "shop", to: str = "web", network_id: NetworkId = N1, place: NetworkId = N1
) -> OwnNameRecord:
    return OwnNameRecord(name_id(number), network_id, name, NameAlias(place, to), ADDED_S, "anna")


def data(
    number: int = 1, name: str = "shop", *, addresses: tuple[str, ...] = (), texts: tuple[str, ...] = ()
) -> OwnNameRecord:
    return OwnNameRecord(name_id(number), N1, name, NameData(addresses, texts), ADDED_S, "anna")


def name_id(number: int) -> OwnNameId:
    return OwnNameId(identifier(0xD0000 + number))
