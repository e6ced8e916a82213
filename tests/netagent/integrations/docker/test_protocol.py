"""Docker's requests, well-formed and not."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netagent.errors import InputError
from netagent.integrations.docker import container, protocol

EID = "e" * 64
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    [
        "PoolID",
        "Pool",
        "SubPool",
        "Options",
        "V6",
        "Address",
        "NetworkID",
        "EndpointID",
        "Interface",
        "SandboxKey",
        "IPv4Data",
        "IPv6Data",
        "MacAddress",
        "Id",
        "Name",
        "State",
        "NetworkSettings",
        "Networks",
        "Config",
        "Labels",
        "Containers",
        "IPAM",
        "Health",
    ]
)
VALUES = JSON | st.sampled_from([EID, "a1" * 16 + "/4", "a1" * 16 + "/6", "10.0.0.1/8", "fd00::1", "/run/x"])
OBJECTS = st.dictionaries(FIELDS, VALUES | st.dictionaries(FIELDS, VALUES), max_size=8)
PARSERS = [
    protocol.pool_untrusted,
    protocol.address_untrusted,
    protocol.network_untrusted,
    protocol.endpoint_untrusted,
    protocol.join_untrusted,
    protocol.endpoint_id_untrusted,
    container.container_untrusted,
    container.network_untrusted,
    container.networks_untrusted,
    container.container_ids_untrusted,
]


@pytest.mark.parametrize("parse", PARSERS, ids=lambda parse: parse.__name__)
@given(value=OBJECTS)
def test_anything_gives_a_value_or_an_input_error(parse, value):
    with suppress(InputError):
        parse(value)


def test_a_pool_is_found_again_from_its_id():
    pool = protocol.PoolId("a1" * 16, 6)
    request = protocol.address_untrusted({"PoolID": str(pool), "Address": "fd00::0:7", "Options": None})
    assert (request.pool, request.address, request.gateway) == (pool, "fd00::7", False)


@pytest.mark.parametrize(
    ("value", "flaw"),
    [
        ({}, "PoolID"),
        ({"PoolID": "LocalDefault/172.17.0.0/16"}, "PoolID"),
        ({"PoolID": "a1" * 16 + "/4", "Address": "fd00::1"}, "IPv4"),
        ({"PoolID": "a1" * 16 + "/4", "Address": "ten"}, "not an address"),
        ({"PoolID": "a1" * 16 + "/4", "Options": []}, "Options"),
    ],
)
def test_a_malformed_request_is_named(value, flaw):
    with pytest.raises(InputError, match=flaw):
        protocol.address_untrusted(value)


def test_the_answers_are_those_that_docker_was_seen_to_take():
    assert protocol.address_answer("10.1.0.7", "10.1.0.0/24")["Address"] == "10.1.0.7/32"
    assert protocol.address_answer("fd00::7", "fd00::/64")["Address"] == "fd00::7/64"
    pool = protocol.pool_answer(protocol.PoolId("a1" * 16, 4), "10.1.0.0/24", "10.1.0.1")
    assert pool["Data"] == {"com.docker.network.gateway": "10.1.0.1/24"}
    joined = protocol.join_answer("nc1", internal=True)
    assert "StaticRoutes" not in joined
    assert joined["DisableGatewayService"]
    assert "Gateway" not in joined


def test_each_driver_reads_errors_under_its_own_key():
    assert protocol.failure("IpamDriver.RequestPool", "no") == {"Error": "no"}
    assert protocol.failure("NetworkDriver.Join", "no") == {"Err": "no"}
