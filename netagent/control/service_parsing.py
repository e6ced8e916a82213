"""Requests of `service create` and `service set` to those of the use-cases: checks the form of ports and weights.

Every function raises InputError and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from netagent.control.conversion import name_of
from netagent.control.request_parsing import optional_name
from netagent.errors import InputError
from netagent.interface import services as asked
from netagent.model.ids import LOCALHOST
from netagent.model.locality import MAX_WEIGHT, Balance
from netagent.model.number import whole_number
from netagent.model.records import MAX_HOST_WEIGHTS, MAX_SERVICE_PORTS, ServiceKey, ServicePort
from netagent.model.request import ServiceAddressChange, ServiceAddressRequest

NONE: Final = "none"
"""In place of all ports or weights: there is none any more."""
_DEFAULT: Final = "default"
_PORT_FORM: Final = "write PORT, or PORT:PORT for a port of the address and one of the replicas"
_WEIGHT_FORM: Final = f"write HOST=N, with N from 0 to {MAX_WEIGHT}"
_CHANGE_FORM: Final = f"{_WEIGHT_FORM}; or HOST=default, so that each replica there has its own again"


def service_key(name: str, group: str) -> ServiceKey:
    """Check the name of a service, and that of its group."""
    if name == LOCALHOST:
        raise InputError(
            f"{LOCALHOST} is the container itself for every program", thing=name, hint="use another name"
        )
    return ServiceKey(name_of(name, "service"), optional_name(group, "group") or None)


def service_address_request(given: asked.ServiceCreateCommand) -> ServiceAddressRequest:
    """Check the options of a new service address."""
    weights = [_weight(text, _WEIGHT_FORM) for text in given.weights]
    _refuse_twice([host for host, _ in weights], "host", MAX_HOST_WEIGHTS)
    return ServiceAddressRequest(
        service=service_key(given.name, given.group),
        ports=_ports(given.ports),
        balance=Balance(given.balance),
        host_weights=tuple(sorted(weights)),
        is_sticky=given.sticky,
        keeps_failing=given.all_failing == "keep",
        keeps_connections=given.keep_connections,
    )


def service_address_change(given: asked.ServiceSetCommand) -> ServiceAddressChange:
    """Check the options to change. Raises an error if there is none."""
    change = ServiceAddressChange(
        ports=_changed_ports(given.ports),
        balance=None if given.balance is None else Balance(given.balance),
        host_weights=_changed_weights(given.weights),
        is_sticky=None if given.sticky is None else given.sticky == "on",
        keeps_failing=None if given.all_failing is None else given.all_failing == "keep",
        keeps_connections=None if given.keep_connections is None else given.keep_connections == "on",
    )
    if change == ServiceAddressChange():
        raise InputError(
            f"it is not clear what to change of service {given.service}",
            thing=given.service,
            hint="give --port, --balance, --weight, --sticky, --all-failing or --keep",
        )
    return change


def _changed_ports(texts: Sequence[str]) -> tuple[ServicePort, ...] | None:
    if not texts:
        return None
    return () if _is_none(texts, "--port") else _ports(texts)


def _ports(texts: Sequence[str]) -> tuple[ServicePort, ...]:
    ports = sorted({_port(text) for text in texts}, key=lambda port: (port.number, port.target))
    _refuse_twice([str(port.number) for port in ports], "port", MAX_SERVICE_PORTS)
    return tuple(ports)


def _port(text: str) -> ServicePort:
    first, colon, last = text.partition(":")
    number = whole_number(first, 1, 65535)
    target = whole_number(last, 1, 65535) if colon else number
    if number is None or target is None:
        raise InputError(f"{text[:80]!r} is not a port from 1 to 65535", thing=text[:80], hint=_PORT_FORM)
    return ServicePort(number, target)


def _changed_weights(texts: Sequence[str]) -> tuple[tuple[str, int | None], ...] | None:
    if not texts:
        return None
    if _is_none(texts, "--weight"):
        return ()
    weights: dict[str, int | None] = {}
    hosts = []
    for text in texts:
        host, _, word = text.rpartition("=")
        name, number = (
            (name_of(host, "host"), None) if word == _DEFAULT and host else _weight(text, _CHANGE_FORM)
        )
        hosts.append(name)
        weights[name] = number
    _refuse_twice(hosts, "host", MAX_HOST_WEIGHTS)
    return tuple(sorted(weights.items()))


def _weight(text: str, form: str) -> tuple[str, int]:
    host, equals, number = text.rpartition("=")
    weight = whole_number(number, 0, MAX_WEIGHT)
    if weight is None or not equals or not host:
        raise InputError(f"{text[:80]!r} is not the weight of a host", thing=text[:80], hint=form)
    return name_of(host, "host"), weight


def _is_none(texts: Sequence[str], option: str) -> bool:
    if NONE in texts and len(texts) > 1:
        raise InputError(f"{option} is given both none and others", thing=NONE, hint="give one or the other")
    return NONE in texts


def _refuse_twice(names: Sequence[str], what: str, most: int) -> None:
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"the {what} {name} is given twice", thing=name, hint="give it once")
    if len(names) > most:
        raise InputError(f"{len(names)} {what}s are given", thing=what, hint=f"give at most {most}")
