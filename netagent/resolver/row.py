"""Rows of the table as msgpack arrays `[kind, identifier, field…]`; without fields: the row is removed.

Positions are only ever appended, and unknown ones at the end are ignored. The checks here are those that the answers
rely on (labels and addresses are valid), not the registry's rules, which were applied before.
"""

from __future__ import annotations

from typing import Any, Final, NoReturn

from netagent.feeds.packed import MAX_PACKED_BYTES
from netagent.model.ids import EndpointId, HostId, NetworkId, OwnNameId, ServiceId, is_name
from netagent.model.locality import DEFAULT_WEIGHT, MAX_WEIGHT, AnswerOrder
from netagent.model.port import is_alpn
from netagent.model.records import Group, Link, Port, ServiceKey, ServicePort
from netagent.model.sandbox import Sandbox, SandboxId
from netagent.model.txt import MAX_TEXT_BYTES
from netagent.resolver.name_table import (
    Change,
    EndpointRow,
    ExternalRow,
    FeedRow,
    GroupLabelRow,
    HostRow,
    Key,
    NetworkRow,
    OwnNameRow,
    Row,
    RowKind,
    ServiceAddressRow,
    SettingsRow,
    Subnet,
)

MAX_ITEMS: Final = 4096
"""Per array."""

_MAX_TEXT: Final = 512
_MAX_TTL_S: Final = 86_400
_MAX_DOMAIN: Final = 253
"""Characters of the longest name in DNS (RFC 1035 3.1): the source encodes the domain."""


def fields_of(change: Change) -> list[Any]:
    """Return the array for a change."""
    (kind, identifier), row = change
    head = [int(kind), identifier]
    match row:
        case None:
            return head
        case SettingsRow():
            return [*head, row.domain, row.zone]
        case HostRow():
            return [*head, row.label, row.address, row.zone, row.distance]
        case NetworkRow():
            rules = None if row.feed_rules is None else list(row.feed_rules)
            more = [row.refuses_shared, row.has_feeds, rules, row.answer.value]
            ranges = _subnet_fields(row.service_ranges)
            return [*head, row.label, _subnet_fields(row.subnets), row.given, *more, ranges]
        case Sandbox():
            links = [[link.service, link.alias] for link in row.links]
            return [*head, list(row.networks), links, row.forward, row.group or "", sorted(row.translates)]
        case EndpointRow():
            ports = _port_fields(row.ports)
            group, aliases = row.group, row.aliases
            aliases = aliases if group is None else group.added_to(aliases, row.service)
            names = [row.name, row.host_label, row.service, list(aliases)]
            tail = [row.is_behind, [] if group is None else [group.name, group.service or ""]]
            order = [row.weight, row.up_since_s, list(row.texts)]
            return [*head, row.network_id, *names, list(row.addresses), ports, *tail, *order]
        case FeedRow():
            return [*head, row.network_id, row.packed]
        case GroupLabelRow():
            return [*head, row.network_id, row.group, row.label]
        case ExternalRow():
            places = [[address, port] for address, port in row.places]
            tail = [_port_fields(row.ports), row.weight, row.ttl_s, row.is_inside, row.is_behind]
            return [*head, row.network_id, row.name, row.host_label, places, *tail]
        case OwnNameRow():
            alias = list(row.alias or ())
            return [*head, row.network_id, row.name, alias, list(row.addresses), list(row.texts)]
        case ServiceAddressRow():
            place = [row.network_id, row.service.name, row.service.group or "", row.owner]
            ports = [[port.number, port.target] for port in row.ports]
            return [*head, *place, list(row.addresses), row.is_chosen, ports, row.is_refused]


def _subnet_fields(subnets: tuple[Subnet, ...]) -> list[Any]:
    return [[subnet.base, subnet.prefix_bits] for subnet in subnets]


def _port_fields(ports: tuple[Port, ...]) -> list[Any]:
    return [
        [port.name, port.number, port.protocol, *([list(port.alpn)] if port.alpn else [])] for port in ports
    ]


def read_change_untrusted(value: Any) -> Change:
    """Read one array. Raises ValueError or TypeError."""
    kind_number, identifier, *fields = read_array(value)
    kind = RowKind(read_integer(kind_number))
    key: Key = (kind, read_text(identifier))
    return key, _row(kind, key[1], fields) if fields else None


def _row(kind: RowKind, identifier: str, fields: list[Any]) -> Row:
    match kind, fields:
        # What is read by `_at` is missing from an agent of an earlier release.
        case RowKind.SETTINGS, [domain, *later]:
            return SettingsRow(_domain(domain), _name_or_none(_at(later, 0)))
        case RowKind.HOST, [label, address, *later]:
            zone, distance = _name_or_none(_at(later, 0)), _integer_or_none(_at(later, 1))
            return HostRow(_name(label), _address(address), zone, distance)
        case RowKind.NETWORK, [label, subnets, *later]:
            return _network(label, subnets, later)
        case RowKind.SANDBOX, [networks, links, forward, *later]:
            group = _at(later, 0)
            return Sandbox(
                sandbox_id=SandboxId(identifier),
                networks=tuple(NetworkId(read_text(network)) for network in read_array(networks)),
                links=tuple(_link(link) for link in read_array(links)),
                group=_name(group) if group else None,
                forward=forward is True,
                translates=frozenset(
                    NetworkId(read_text(network)) for network in read_array(_at(later, 1) or [])
                ),
            )
        case RowKind.ENDPOINT, [network, name, host, service, aliases, addresses, ports, *later]:
            group = _group(_at(later, 1))
            names = tuple(_name(alias) for alias in read_array(aliases))
            return EndpointRow(
                endpoint_id=EndpointId(identifier),
                network_id=NetworkId(read_text(network)),
                name=_name(name),
                host_label=_name(host),
                service=_name(service),
                aliases=names if group is None else group.not_in(names),
                addresses=tuple(_address(address) for address in read_array(addresses)),
                ports=tuple(_port(port) for port in read_array(ports)),
                is_behind=_at(later, 0) is True,
                group=group,
                weight=DEFAULT_WEIGHT if _at(later, 2) is None else _weight(_at(later, 2)),
                up_since_s=_integer_or_none(_at(later, 3)),
                texts=tuple(map(_text, read_array(_at(later, 4) or []))),
            )
        case RowKind.FEED, [network, packed, *_]:
            return FeedRow(NetworkId(read_text(network)), _packed(packed))
        case RowKind.GROUP_LABEL, [network, group, label, *_]:
            return GroupLabelRow(NetworkId(read_text(network)), _name(group), _name(label))
        case RowKind.EXTERNAL, [network, name, host, places, ports, weight, ttl_s, inside, behind, *_]:
            return ExternalRow(
                service_id=ServiceId(identifier),
                network_id=NetworkId(read_text(network)),
                name=_name(name),
                host_label=_name(host),
                places=tuple(_place(place) for place in read_array(places)),
                ports=tuple(_port(port) for port in read_array(ports)),
                weight=_weight(weight),
                ttl_s=_bounded_or_none(ttl_s, _MAX_TTL_S),
                is_inside=inside is True,
                is_behind=behind is True,
            )
        case RowKind.OWN_NAME, [network, name, alias, addresses, texts, *_]:
            return OwnNameRow(
                name_id=OwnNameId(identifier),
                network_id=NetworkId(read_text(network)),
                name=_own_name(name),
                alias=_alias(alias),
                addresses=tuple(_address(address) for address in read_array(addresses)),
                texts=tuple(read_text(text) for text in read_array(texts)),
            )
        case RowKind.SERVICE_ADDRESS, [network, name, group, owner, addresses, is_chosen, ports, *later]:
            return ServiceAddressRow(
                network_id=NetworkId(read_text(network)),
                service=ServiceKey(_name(name), _name(group) if group else None),
                owner=HostId(read_text(owner)),
                addresses=tuple(_address(address) for address in read_array(addresses)),
                is_chosen=is_chosen is True,
                ports=tuple(_service_port(port) for port in read_array(ports)),
                is_refused=_at(later, 0) is True,
            )
        case _:
            raise ValueError(f"a row of kind {kind.name.lower()} with {len(fields)} fields")


def _at(later: list[Any], position: int) -> Any:
    return later[position] if position < len(later) else None


def _group(value: Any) -> Group | None:
    if not value:
        return None
    name, service, *_ = read_array(value)
    return Group(_name(name), _name(service) if service else None)


def _network(label: Any, subnets: Any, later: list[Any]) -> NetworkRow:
    rules, answer = _at(later, 3), _at(later, 4)
    return NetworkRow(
        _name(label),
        tuple(_subnet(subnet) for subnet in read_array(subnets)),
        _name_or_none(_at(later, 0)),
        refuses_shared=_at(later, 1) is True,
        has_feeds=_at(later, 2) is True,
        feed_rules=None if rules is None else tuple(map(read_text, read_array(rules))),
        answer=AnswerOrder.SPREAD if answer is None else AnswerOrder(answer),
        service_ranges=tuple(_subnet(subnet) for subnet in read_array(_at(later, 5) or [])),
    )


def _packed(value: Any) -> bytes:
    if not isinstance(value, bytes) or len(value) > MAX_PACKED_BYTES:
        _refuse(f"at most {MAX_PACKED_BYTES} octets of an endpoint were expected")
    return value


def _link(value: Any) -> Link:
    service, alias, *_ = read_array(value)
    return Link(_domain(service), _name(alias))


def _port(value: Any) -> Port:
    name, number, protocol, *more = read_array(value)
    if not 0 < read_integer(number) < 65536:
        _refuse(f"port {number}")
    return Port(_name(name), number, _name(protocol), tuple(map(_alpn, read_array(more[0]))) if more else ())


def _service_port(value: Any) -> ServicePort:
    number, target, *_ = read_array(value)
    if not (0 < read_integer(number) < 65536 and 0 < read_integer(target) < 65536):
        _refuse(f"port {number} to {target}")
    return ServicePort(number, target)


def _alpn(value: Any) -> str:
    text = read_text(value)
    if not is_alpn(text):
        _refuse(f"{text!r} is not an ALPN protocol")
    return text


def _weight(value: Any) -> int:
    if not 0 <= read_integer(value) <= MAX_WEIGHT:
        _refuse(f"weight {value}")
    return int(value)


def _text(value: Any) -> bytes:
    if not isinstance(value, bytes) or len(value) > MAX_TEXT_BYTES:
        _refuse(f"a text of at most {MAX_TEXT_BYTES} octets was expected")
    return value


def _name_or_none(value: Any) -> str:
    """Return a name, "" if there is none."""
    return "" if value is None or value == "" else _name(value)


def _integer_or_none(value: Any) -> int | None:
    return None if value is None else read_integer(value)


def _place(value: Any) -> tuple[bytes, int | None]:
    address, port, *_ = read_array(value)
    return _address(address), _bounded_or_none(port, 65535)


def _bounded_or_none(value: Any, most: int) -> int | None:
    found = _integer_or_none(value)
    if found is not None and not 0 <= found <= most:
        _refuse(f"the number {found}")
    return found


def _own_name(value: Any) -> str:
    text = read_text(value)
    _domain(text.removeprefix("*."))
    return text


def _alias(value: Any) -> tuple[NetworkId, str] | None:
    match read_array(value):
        case [network, name, *_]:
            return NetworkId(read_text(network)), _domain(name)
        case _:
            return None


def _subnet(value: Any) -> Subnet:
    base, prefix_bits, *_ = read_array(value)
    if not 0 <= read_integer(prefix_bits) <= 8 * len(_address(base)):
        _refuse(f"prefix of {prefix_bits} bits")
    return Subnet(base, prefix_bits)


def _address(value: Any) -> bytes:
    if not isinstance(value, bytes) or len(value) not in (4, 16):
        _refuse("an address must have 4 or 16 octets")
    return value


def _domain(value: Any) -> str:
    text = read_text(value)
    if len(text) > _MAX_DOMAIN or not all(is_name(label) for label in text.split(".")):
        _refuse(f"{text!r} is not a domain name in canonical form")
    return text


def _name(value: Any) -> str:
    text = read_text(value)
    if not is_name(text):
        _refuse(f"{text!r} is not a name")
    return text


def read_text(value: Any) -> str:
    """Return a text of at most 512 characters. Raises ValueError."""
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        _refuse("a text was expected")
    return value


def read_integer(value: Any) -> int:
    """Return a whole number. Raises ValueError."""
    if type(value) is not int:
        _refuse("a whole number was expected")
    return value


def read_array(value: Any) -> list[Any]:
    """Return an array of bounded length. Raises ValueError."""
    if not isinstance(value, list) or len(value) > MAX_ITEMS:
        _refuse(f"an array of at most {MAX_ITEMS} items was expected")
    return value


def _refuse(reason: str) -> NoReturn:
    raise ValueError(reason)
