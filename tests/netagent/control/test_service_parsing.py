"""Options of `service create` and `service set`."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netagent.control.conversion import fields_untrusted
from netagent.control.service_parsing import service_address_change, service_address_request
from netagent.errors import InputError
from netagent.interface.services import ServiceCreateCommand, ServiceSetCommand
from netagent.model.locality import Balance
from netagent.model.records import ServiceKey, ServicePort
from netagent.model.request import ServiceAddressChange, ServiceAddressRequest


def created(**fields: Any) -> ServiceAddressRequest:
    request = fields_untrusted(ServiceCreateCommand, {"name": "web", "network": "app", **fields})
    return service_address_request(request)


def changed(**fields: Any) -> ServiceAddressChange:
    return service_address_change(fields_untrusted(ServiceSetCommand, fields, path={"service": "web"}))


def test_what_is_not_given_is_the_default() -> None:
    assert created() == ServiceAddressRequest(service=ServiceKey("web"))


def test_options_of_a_new_address() -> None:
    assert created(
        group="shop",
        ports=["443:8443", "80", "80:80"],
        balance="zone",
        weights=["h2=0", "h1=1000"],
        sticky=True,
        all_failing="keep",
        keep_connections=True,
    ) == ServiceAddressRequest(
        service=ServiceKey("web", "shop"),
        ports=(ServicePort(80, 80), ServicePort(443, 8443)),
        balance=Balance.ZONE,
        host_weights=(("h1", 1000), ("h2", 0)),
        is_sticky=True,
        keeps_failing=True,
        keeps_connections=True,
    )


def test_a_change_has_only_what_was_given() -> None:
    assert changed(balance="first") == ServiceAddressChange(balance=Balance.FIRST)
    assert changed(sticky="off") == ServiceAddressChange(is_sticky=False)
    assert changed(all_failing="hide") == ServiceAddressChange(keeps_failing=False)
    assert changed(keep_connections="on") == ServiceAddressChange(keeps_connections=True)
    assert changed(ports=["80:8080"]) == ServiceAddressChange(ports=(ServicePort(80, 8080),))
    assert changed(weights=["h2=default", "h1=3"]) == ServiceAddressChange(
        host_weights=(("h1", 3), ("h2", None))
    )


def test_none_takes_all_ports_or_weights_away() -> None:
    assert changed(ports=["none"]) == ServiceAddressChange(ports=())
    assert changed(weights=["none"]) == ServiceAddressChange(host_weights=())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "Web"}, "did you mean 'web'"),
        ({"group": "a b"}, "cannot be the name of a group"),
        ({"ports": ["0"]}, "not a port from 1 to 65535; write PORT, or PORT:PORT"),
        ({"ports": ["65536"]}, "not a port"),
        ({"ports": ["80:"]}, "not a port"),
        ({"ports": [":80"]}, "not a port"),
        ({"ports": ["80:80:80"]}, "not a port"),
        ({"ports": ["http"]}, "not a port"),
        ({"ports": ["none"]}, "not a port"),
        ({"ports": ["80:1", "80:2"]}, "the port 80 is given twice"),
        ({"ports": [str(number) for number in range(1, 34)]}, "33 ports are given; give at most 32"),
        ({"weights": ["h1"]}, "not the weight of a host; write HOST=N, with N from 0 to 1000"),
        ({"weights": ["=5"]}, "not the weight of a host"),
        ({"weights": ["h1=1001"]}, "not the weight of a host"),
        ({"weights": ["h1=-1"]}, "not the weight of a host"),
        ({"weights": ["h1=default"]}, "not the weight of a host"),
        ({"weights": ["none"]}, "not the weight of a host"),
        ({"weights": ["H 1=5"]}, "cannot be the name of a host"),
        ({"weights": ["h1=5", "h1=6"]}, "the host h1 is given twice"),
        ({"balance": "random"}, "use spread or nearest or zone or first"),
        ({"all_failing": "yes"}, "use hide or keep"),
    ],
)
def test_a_wrong_option_is_one_sentence(fields: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as raised:
        created(**fields)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "not clear what to change of service web; give --port, --balance"),
        ({"balance": "random"}, "balance 'random' is not known; use spread or nearest"),
        ({"sticky": "yes"}, "use on or off"),
        ({"sticky": True}, "use on or off"),
        ({"keep_connections": "keep"}, "use on or off"),
        ({"ports": ["none", "80"]}, "--port is given both none and others"),
        ({"weights": ["none", "h1=1"]}, "--weight is given both none and others"),
        ({"weights": ["=default"]}, "or HOST=default"),
        ({"weights": ["h1=1", "h1=default"]}, "the host h1 is given twice"),
        ({"port": ["80"]}, "did you mean 'ports'"),
    ],
)
def test_a_wrong_change_is_one_sentence(fields: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        changed(**fields)


@given(st.text(max_size=40), st.text(max_size=40))
def test_any_text_is_an_option_or_one_error(port: str, weight: str) -> None:
    for parse in (created, changed):
        with contextlib.suppress(InputError):
            parse(ports=[port])
        with contextlib.suppress(InputError):
            parse(weights=[weight])
