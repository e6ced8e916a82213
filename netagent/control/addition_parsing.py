"""Requests of `service add` and `name add` to those of the use-cases: checks the form of names, addresses and ports.

Every function raises InputError and nothing else.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

from netagent.checks.spec import check_text, parse_checks_untrusted
from netagent.control.conversion import name_of
from netagent.control.request_parsing import port_of_attach
from netagent.errors import InputError
from netagent.interface import additions as asked
from netagent.model.allowed import outside_flaw
from netagent.model.check import ExecCheck
from netagent.model.ids import is_name
from netagent.model.locality import DEFAULT_WEIGHT
from netagent.model.number import whole_number
from netagent.model.records import (
    MAX_ADDRESSES,
    MAX_TEXT_CHARS,
    MAX_TEXTS,
    DnsName,
    FixedAddresses,
    HostProgram,
    ServiceTarget,
    TargetAddress,
)
from netagent.model.request import OwnNameRequest, ServiceRequest
from netagent.registry.external_fields import MAX_DOMAIN_CHARS, address_key, in_order, own_name_flaw

_ADDRESS_FORM: Final = "write ADDR, ADDR:PORT or [IPV6]:PORT"


def service_request(given: asked.ServiceAddCommand, domain: str) -> ServiceRequest:
    """Check a service to add. `domain`: the cluster's."""
    return ServiceRequest(
        name=name_of(given.name, "service"),
        target=_target(given, domain),
        ports=tuple(port_of_attach(port) for port in given.ports),
        weight=DEFAULT_WEIGHT if given.weight is None else given.weight,
        checks=_checks(given.checks),
        ttl_s=None if given.ttl_s is None else max(1, round(given.ttl_s)),
    )


def _target(given: asked.ServiceAddCommand, domain: str) -> ServiceTarget:
    ways = [bool(given.addresses), given.host_port is not None, bool(given.dns_name)]
    if ways.count(True) != 1:
        raise InputError(
            f"it is not clear where service {given.name} is",
            thing=given.name,
            hint="give either --address, --host-port or --name",
        )
    if given.host_port is not None:
        return HostProgram(given.host_port)
    if given.dns_name:
        return _dns_name(given.dns_name, domain)
    found = {_place(text) for text in given.addresses}
    if len(found) > MAX_ADDRESSES:
        raise InputError(
            f"service {given.name} has {len(found)} addresses",
            thing=given.name,
            hint=f"give at most {MAX_ADDRESSES}; more can be added by another command",
        )
    return FixedAddresses(tuple(sorted(found, key=address_key)))


def _checks(texts: Iterable[str]) -> tuple[str, ...]:
    found = parse_checks_untrusted(texts)
    for one in found:
        if isinstance(one.subject, ExecCheck):
            raise InputError(
                "a command is run in a container, and this service is none",
                thing="check",
                hint="use http:PORT/PATH, https:PORT/PATH or tcp:PORT",
            )
    return tuple(map(check_text, found))


def _place(text: str) -> TargetAddress:
    address, port = text, ""
    if text.startswith("["):
        address, _, port = text[1:].partition("]")
        if port[:1] not in ("", ":") or port == ":":
            raise InputError(f"{text[:80]!r} is not an address", thing=text[:80], hint=_ADDRESS_FORM)
        port = port[1:]
    elif text.count(":") == 1:
        address, _, port = text.partition(":")
        port = port or "-"
    return TargetAddress(_outside(address, text), _port(port, text) if port else None)


def _outside(address: str, text: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        raise InputError(f"{text[:80]!r} is not an address", thing=text[:80], hint=_ADDRESS_FORM) from None
    if getattr(parsed, "scope_id", None):
        raise InputError(f"{text[:80]!r} has a zone", thing=text[:80], hint=_ADDRESS_FORM)
    if flaw := outside_flaw(str(parsed)):
        raise InputError(
            f"{parsed} {flaw}",
            thing=str(parsed),
            hint="give an address that containers can reach; for a program of this host use --host-port",
        )
    return str(parsed)


def _port(text: str, whole: str) -> int:
    port = whole_number(text, 1, 65535)
    if port is None:
        raise InputError(f"{whole[:80]!r} has no port from 1 to 65535", thing=whole[:80], hint=_ADDRESS_FORM)
    return port


def _dns_name(text: str, domain: str) -> DnsName:
    name, colon, port = text.partition(":")
    name = name.lower().removesuffix(".")
    labels = name.split(".")
    if len(labels) < 2 or len(name) > MAX_DOMAIN_CHARS or not all(map(is_name, labels)):
        raise InputError(
            f"{text[:80]!r} is not a domain name outside",
            thing=text[:80],
            hint="write a full name such as db.example.com, or db.example.com:5432",
        )
    if name == domain or name.endswith("." + domain):
        raise InputError(
            f"{name} is a name of this cluster",
            thing=name,
            hint="`netagent name add NAME.NETWORK --cname NAME` gives a service another name",
        )
    return DnsName(name, _port(port, text) if colon else None)


def own_name_request(given: asked.NameAddCommand, name: str) -> OwnNameRequest:
    """Check a name to add; `name` is without the network."""
    check_own_name(name)
    if bool(given.cname) == bool(given.addresses or given.texts):
        raise InputError(
            f"it is not clear what {given.name} leads to",
            thing=given.name,
            hint="give either --cname, or addresses and texts by --address and --txt",
        )
    addresses = in_order([_outside(one, one) for one in given.addresses])
    if len(addresses) > MAX_ADDRESSES or len(given.texts) > MAX_TEXTS:
        raise InputError(
            f"{given.name} has too many records",
            thing=given.name,
            hint=f"give at most {MAX_ADDRESSES} addresses and {MAX_TEXTS} texts",
        )
    return OwnNameRequest(
        name=name, cname=given.cname or None, addresses=addresses, texts=tuple(_texts(given.texts))
    )


def check_own_name(text: str) -> None:
    """Raise InputError if a network cannot have an own name of these labels."""
    if flaw := own_name_flaw(text):
        raise InputError(
            f"{text[:80]!r} cannot be a name of a network: {flaw}",
            thing=text[:80],
            hint="write NAME.NETWORK or '*.NAME.NETWORK', in lower case",
        )


def _texts(texts: Iterable[str]) -> Iterable[str]:
    for text in texts:
        if len(text.encode()) > MAX_TEXT_CHARS:
            raise InputError(
                f"the text {text[:40]!r}… is longer than {MAX_TEXT_CHARS} bytes",
                thing="txt",
                hint="split it into several --txt",
            )
        yield text
