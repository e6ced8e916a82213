"""Docker's requests, well-formed and not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netagent.errors import InputError
from netagent.integrations.docker import container, engine, netns_waiter, protocol
from netagent.integrations.docker.engine import EngineError
from netagent.integrations.docker.watcher import DockerWatcher
from netagent.model.ids import NetworkId, is_name

EID = "e" * 64
JSON = st.recursive(
    # Half a surrogate pair is text to JSON, and to no file or wire.
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=()), max_size=20),
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
def test_anything_gives_a_value_or_an_input_error(parse: Callable[..., Any], value: Any) -> None:
    with suppress(InputError):
        parse(value)


CONTAINERS = st.fixed_dictionaries(
    {"Id": st.sampled_from([EID, "abc"])},
    optional={
        "Name": VALUES,
        "State": st.dictionaries(st.sampled_from(["Running", "Pid", "Health"]), VALUES | st.integers(1)),
        "Config": st.dictionaries(st.just("Labels"), st.dictionaries(st.text(max_size=9), VALUES)),
        "NetworkSettings": st.dictionaries(
            st.sampled_from(["SandboxKey", "Networks"]), VALUES | st.dictionaries(st.just("app"), OBJECTS)
        ),
    },
)


@given(value=CONTAINERS)
def test_what_is_read_of_a_container_can_be_used_without_a_further_look(value: Any) -> None:
    with suppress(InputError):
        found = container.container_untrusted(value)
        netns_waiter._is_on(found.sandbox_key, 0)
        with suppress(OSError):
            os.close(os.pidfd_open(found.pid or 1))
        fields, _ = container.fields_of(found, found.interfaces[0] if found.interfaces else None)
        json.dumps(container.as_change(fields)["labels"], ensure_ascii=False).encode()
        assert is_name(fields.name)


@given(
    kind=st.sampled_from(["container", "network"]) | JSON,
    action=st.sampled_from(["die", "create"]) | JSON,
    actor=st.dictionaries(
        st.sampled_from(["ID", "Attributes"]), JSON | st.fixed_dictionaries({"container": JSON})
    )
    | JSON,
)
def test_any_event_is_followed_or_passed_over(kind: Any, action: Any, actor: Any) -> None:
    nothing: Any = None  # it is not run
    follower = DockerWatcher(nothing, nothing, nothing, "netagent", "container")
    follower._note_untrusted({"Type": kind, "Action": action, "Actor": actor})
    assert all(quote(one) == one for one in follower._dirty)


@given(body=st.binary(max_size=60) | st.sampled_from([b"[" * 100_000, b"1" * 10_000, b'"\\ud800"']))
def test_any_bytes_from_docker_are_a_value_or_an_error(body: bytes) -> None:
    engine._event_untrusted(body)
    with suppress(InputError, EngineError):
        engine._json_untrusted("GET", "/x", 200, body)


def test_a_pool_is_found_again_from_its_id() -> None:
    pool = protocol.PoolId(NetworkId("a1" * 16), 6)
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
def test_a_malformed_request_is_named(value: dict[str, Any] | dict[str, str], flaw: str) -> None:
    with pytest.raises(InputError, match=flaw):
        protocol.address_untrusted(value)


def test_the_answers_are_those_that_docker_was_seen_to_take() -> None:
    assert protocol.address_answer("10.1.0.7", "10.1.0.0/24")["Address"] == "10.1.0.7/32"
    assert protocol.address_answer("fd00::7", "fd00::/64")["Address"] == "fd00::7/64"
    pool = protocol.pool_answer(protocol.PoolId(NetworkId("a1" * 16), 4), "10.1.0.0/24", "10.1.0.1")
    assert pool["Data"] == {"com.docker.network.gateway": "10.1.0.1/24"}
    joined = protocol.join_answer("nc1", has_exit=False)
    assert "StaticRoutes" not in joined
    assert joined["DisableGatewayService"]
    assert "Gateway" not in joined


def test_each_driver_reads_errors_under_its_own_key() -> None:
    assert protocol.failure("IpamDriver.RequestPool", "no") == {"Error": "no"}
    assert protocol.failure("NetworkDriver.Join", "no") == {"Err": "no"}
