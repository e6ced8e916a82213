"""What users may type for external services and own names, and the sentence for everything else."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netagent.control.addition_parsing import own_name_request, service_request
from netagent.errors import InputError
from netagent.interface.additions import NameAddCommand, ServiceAddCommand
from netagent.interface.containers import PortOfAttach
from netagent.model.records import DnsName, FixedAddresses, HostProgram, Port, TargetAddress

DOMAIN = "mesh.internal"


def service(**given: Any) -> Any:
    return service_request(ServiceAddCommand(name="pg", network="app", **given), DOMAIN)


def test_each_way_to_say_where_a_service_is() -> None:
    addresses = ["[2001:db8::1]:5432", "192.0.2.50:5432", "192.0.2.51", "2001:db8::2", "192.0.2.50:5432"]
    assert service(addresses=addresses).target == FixedAddresses(
        (
            TargetAddress("192.0.2.50", 5432),
            TargetAddress("192.0.2.51"),
            TargetAddress("2001:db8::1", 5432),
            TargetAddress("2001:db8::2"),
        )
    )
    assert service(host_port=9100).target == HostProgram(9100)
    assert service(dns_name="DB.example.com.").target == DnsName("db.example.com")
    assert service(dns_name="db.example.com:5432").target == DnsName("db.example.com", 5432)
    made = service(host_port=1, ports=[PortOfAttach(number=5432, name="postgres")], weight=5, ttl_s=30.4)
    assert (made.ports, made.weight, made.ttl_s) == ((Port("postgres", 5432),), 5, 30)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "not clear where service pg is; give either"),
        ({"addresses": ["192.0.2.1"], "host_port": 1}, "not clear"),
        ({"addresses": ["db.example.com"]}, "not an address; write ADDR"),
        ({"addresses": ["192.0.2.1:"]}, "no port"),
        ({"addresses": ["192.0.2.1:0"]}, "no port"),
        ({"addresses": ["[2001:db8::1]:"]}, "not an address"),
        ({"addresses": ["[2001:db8::1]5432"]}, "not an address"),
        ({"addresses": ["fe80::1%eth0"]}, "zone"),
        ({"addresses": ["127.0.0.1:80"]}, "loopback.*--host-port"),
        ({"addresses": ["169.254.169.254"]}, "link-local"),
        ({"addresses": ["::"]}, "unspecified"),
        ({"addresses": [f"192.0.2.{n}" for n in range(1, 34)]}, "33 addresses; give at most 32"),
        ({"dns_name": "localhost"}, "not a domain name outside"),
        ({"dns_name": "db.example.com:x"}, "no port"),
        ({"dns_name": "web.app.mesh.internal"}, "name of this cluster; `netagent name add"),
        ({"dns_name": "a." * 130 + "com"}, "not a domain name"),
    ],
)
def test_a_wrong_place_is_one_sentence(given: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        service(**given)


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_one_error(text: str) -> None:
    with contextlib.suppress(InputError):
        service(addresses=[text])


def name(labels: str, **given: Any) -> Any:
    return own_name_request(NameAddCommand(name=f"{labels}.app", **given), labels)


def test_names_and_what_they_lead_to() -> None:
    assert name("shop", cname="web").cname == "web"
    assert name("*.shop", addresses=["192.0.2.9", "192.0.2.8"]).addresses == ("192.0.2.8", "192.0.2.9")
    assert name("a.b", texts=["v=1"]).texts == ("v=1",)


@pytest.mark.parametrize(
    ("labels", "given", "said"),
    [
        ("shop", {}, "not clear what shop.app leads to"),
        ("shop", {"cname": "web", "addresses": ["192.0.2.1"]}, "not clear"),
        ("*", {"cname": "web"}, "would catch each misspelt name"),
        ("a.*.b", {"cname": "web"}, "not names; write"),
        ("Shop", {"cname": "web"}, "not names"),
        ("shop", {"addresses": ["127.0.0.1"]}, "loopback"),
        ("shop", {"texts": ["x" * 256]}, "longer than 255 bytes"),
        ("shop", {"texts": [str(n) for n in range(17)]}, "too many records"),
    ],
)
def test_a_wrong_name_is_one_sentence(labels: str, given: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        name(labels, **given)
