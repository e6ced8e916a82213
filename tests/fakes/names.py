"""Short ways to write tables, and to ask a source."""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Collection, Mapping

from netagent.model.ids import EndpointId, HostId, NetworkId
from netagent.model.locality import DEFAULT_WEIGHT, AnswerOrder
from netagent.model.port import split_alpn
from netagent.model.records import Group, Link, Port, ServiceKey
from netagent.model.sandbox import Sandbox, SandboxId
from netagent.resolver.name_table import (
    SETTINGS_KEY,
    EndpointRow,
    GroupLabelRow,
    HostRow,
    Key,
    NetworkRow,
    Row,
    RowKind,
    ServiceAddressRow,
    SettingsRow,
    Subnet,
)
from netagent.resolver.zone_source import ZoneSource
from netdns import constants, rdata
from netdns.name import from_text, to_text
from netdns.source import Found, NoData, NoSuchName, NotOurs

APP, BACK = NetworkId("a" * 32), NetworkId("b" * 32)


def packed(*addresses: str) -> tuple[bytes, ...]:
    return tuple(ipaddress.ip_address(address).packed for address in addresses)


def subnet(text: str) -> Subnet:
    network = ipaddress.ip_network(text)
    return Subnet(network.network_address.packed, network.prefixlen)


def network(
    network_id: str,
    label: str,
    *subnets: str,
    given: str = "",
    refuses_shared: bool = False,
    answer: AnswerOrder = AnswerOrder.SPREAD,
    ranges: tuple[str, ...] = (),
) -> tuple[Key, Row]:
    row = NetworkRow(
        label,
        tuple(subnet(one) for one in subnets),
        given,
        refuses_shared=refuses_shared,
        answer=answer,
        service_ranges=tuple(subnet(one) for one in ranges),
    )
    return (RowKind.NETWORK, network_id), row


def host(
    host_id: str, label: str, address: str, *, zone: str = "", distance: int | None = None
) -> tuple[Key, Row]:
    (octets,) = packed(address)
    return (RowKind.HOST, host_id), HostRow(label, octets, zone, distance)


def sandbox(
    name: str,
    *networks: NetworkId,
    links: tuple[str, ...] = (),
    forward: bool = True,
    group: str | None = None,
    translates: Collection[NetworkId] = (),
) -> tuple[Key, Row]:
    row = Sandbox(
        sandbox_id=SandboxId(name),
        networks=networks,
        links=tuple(Link(*one.split(":")) for one in links),
        forward=forward,
        group=group,
        translates=frozenset(translates),
    )
    return (RowKind.SANDBOX, name), row


def endpoint_id(number: int) -> EndpointId:
    return EndpointId(f"{number:02x}" * 16)


def endpoint(
    number: int,
    name: str,
    *addresses: str,
    network_id: NetworkId = APP,
    on: str = "h1",
    service: str = "",
    aliases: tuple[str, ...] = (),
    ports: tuple[str, ...] = (),
    group: str = "",
    is_behind: bool = False,
    weight: int = DEFAULT_WEIGHT,
    up_since_s: int | None = None,
    texts: tuple[bytes, ...] = (),
) -> tuple[Key, Row]:
    """`group`: `shop/web`, with the service or without; empty: none. `ports`: `https=443/tcp+h2` each."""
    project, _, part = group.partition("/")
    row = EndpointRow(
        endpoint_id=endpoint_id(number),
        network_id=network_id,
        name=name,
        host_label=on,
        service=service or name,
        aliases=aliases,
        addresses=packed(*addresses),
        ports=tuple(map(port, ports)),
        is_behind=is_behind,
        group=Group(project, part or None) if project else None,
        weight=weight,
        up_since_s=up_since_s,
        texts=texts,
    )
    return (RowKind.ENDPOINT, row.endpoint_id), row


def replaced(row: Row, **fields: object) -> Row:
    return dataclasses.replace(row, **fields)  # type: ignore[arg-type]


def port(text: str) -> Port:
    without, alpn = split_alpn(text)
    name, _, number = without.partition("=")
    number, _, protocol = number.partition("/")
    return Port(name, int(number), protocol or "tcp", alpn)


def settings(domain: str = "mesh.internal", *, zone: str = "") -> tuple[Key, Row]:
    return SETTINGS_KEY, SettingsRow(domain, zone)


def group_label(label: str, group: str, network_id: NetworkId = APP) -> tuple[Key, Row]:
    """A label that the group has had."""
    row = GroupLabelRow(network_id, group, label)
    return row.key, row


def service_address(
    service: str,
    *addresses: str,
    owner: int = 1,
    network_id: NetworkId = APP,
    is_chosen: bool = False,
    is_refused: bool = False,
) -> tuple[Key, Row]:
    """`service`: `web`, or `web.shop` of a group."""
    name, _, group = service.partition(".")
    key = ServiceKey(name, group or None)
    row = ServiceAddressRow(
        network_id,
        key,
        HostId(f"{owner}" * 32),
        packed(*addresses),
        is_chosen,
        is_refused=is_refused,
    )
    return row.key, row


def world() -> dict[Key, Row]:
    """Two networks, three hosts; `c` is in both, `only-back` in one."""
    return dict(
        [
            settings(),
            host("1" * 32, "h1", "192.0.2.1"),
            host("2" * 32, "h2", "192.0.2.2"),
            network(APP, "app", "10.160.0.0/20", "fd00:1::/64"),
            network(BACK, "back", "10.170.0.0/24"),
            endpoint(1, "web-1", "10.160.0.11", "fd00:1::11", service="web", ports=("http=80",)),
            endpoint(2, "web-2", "10.160.1.12", "fd00:1::12", service="web", on="h2", ports=("http=8080",)),
            endpoint(3, "db", "10.170.0.21", network_id=BACK, on="h2", aliases=("store",)),
            endpoint(4, "dup", "10.160.0.41"),
            endpoint(5, "dup", "10.170.0.42", network_id=BACK),
            endpoint(6, "un_der", "10.160.0.61"),
            sandbox(
                "c", APP, BACK, links=("db:database", "web.app:www", "db.back.mesh.internal:full", "no:gone")
            ),
            sandbox("only-back", BACK, forward=False),
        ]
    )


def source_of(table: Mapping[Key, Row]) -> ZoneSource:
    source = ZoneSource()
    source.apply(table.items())
    return source


TYPES = {"A": constants.A, "AAAA": constants.AAAA, "PTR": constants.PTR, "SRV": constants.SRV}
TYPES |= {"HTTPS": constants.HTTPS, "SVCB": constants.SVCB, "DS": 43, "DNSKEY": 48}
TYPES |= {"SOA": constants.SOA, "TXT": constants.TXT, "MX": 15, "ANY": constants.ANY, "NS": constants.NS}


def ask(source: ZoneSource, name: str, rtype: str = "A", client: str = "c") -> list[str] | str:
    """The data of the answer as text, or what kind of no it is."""
    answer = source.lookup(from_text(name).lower(), TYPES[rtype], client)
    match answer:
        case Found():
            return [_text(answer.rrset.rtype, data) for data in answer.rrset.rdatas]
        case NoData(zone):
            assert rdata.soa_minimum_s(zone.soa) == zone.ttl_s
            return f"nodata {to_text(zone.apex)}"
        case NoSuchName(zone):
            return f"nxdomain {to_text(zone.apex)}"
        case NotOurs(zone):
            return "not ours" if zone is None else f"kept inside {to_text(zone.apex)}"


def _text(rtype: int, data: bytes) -> str:
    match rtype:
        case constants.A | constants.AAAA:
            return str(ipaddress.ip_address(data))
        case constants.PTR:
            return to_text(data)
        case constants.SRV:
            return f"{int.from_bytes(data[4:6])} {to_text(data[6:])}"
        case _:
            return "data"
