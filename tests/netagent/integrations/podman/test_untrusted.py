"""Whatever netavark or podman say, the parsers give a value or an InputError."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from fakes.podman import C1, plugging
from hypothesis import given
from hypothesis import strategies as st

from netagent.errors import InputError
from netagent.integrations.labels import described
from netagent.integrations.podman.health import health_untrusted, together
from netagent.integrations.podman.netavark import container_of, creation_untrusted, plugging_untrusted
from netagent.integrations.podman.netns_processes import lives, read_health
from netagent.integrations.podman.report import (
    PodmanContainer,
    containers_untrusted,
    ids_untrusted,
    networks_untrusted,
)
from netagent.model.records import Health

PARSERS = [
    creation_untrusted, plugging_untrusted, containers_untrusted, networks_untrusted, ids_untrusted, health_untrusted,
]  # fmt: skip
WORDS = """
    name options subnets ipam_options driver network network_options container_id container_name interface_name
    aliases static_ips static_mac netagent.network Id Name State Pid Config Labels Healthcheck Test HostConfig
    PortBindings HealthLogDestination NetworkSettings Networks PidFile Status HostPort
"""
KEYS = st.sampled_from(WORDS.split())
TEXT = st.text(st.characters(exclude_categories=()), max_size=20)
"""Half surrogate pairs too, which are text to JSON, and to no file or wire."""
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT | st.just(C1) | st.just("eth0"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=8),
    max_leaves=30,
)


@pytest.mark.parametrize("parse", PARSERS)
@given(value=JSON)
def test_any_json_is_a_value_or_an_input_error(parse: Callable[..., Any], value: Any) -> None:
    with contextlib.suppress(InputError):
        parse(json.dumps(value).encode())


@pytest.mark.parametrize("parse", PARSERS)
@given(body=st.binary(max_size=50) | st.sampled_from([b"[" * 100_000, b"\xff", b'{"a":1e999', b"1" * 10_000]))
def test_any_bytes_are_a_value_or_an_input_error(parse: Callable[..., Any], body: bytes) -> None:
    with contextlib.suppress(InputError):
        parse(body)


@given(folder=TEXT, conf=TEXT, pid=st.integers(), name=TEXT, labels=st.dictionaries(TEXT, TEXT, max_size=3))
def test_what_is_read_of_a_container_can_be_used_without_a_further_look(
    folder: str, conf: str, pid: int, name: str, labels: dict[str, str]
) -> None:
    config = {"Labels": labels, "Healthcheck": CHECK, "HealthLogDestination": f"/nowhere/{folder}"}
    with contextlib.suppress(InputError):
        one = inspected(Config=config, ResolvConfPath=f"{FOLDER}/{C1}/{conf}", State={"Pid": pid}, Name=name)
        for path in (*one.health_logs, one.folder, one.resolv_conf):
            assert read_health({}, path) is not Health.HEALTHY
        assert not lives(one.pid, (0, 0))
        said = described(one.labels, one.name)
        json.dumps((said.service, said.labels), ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"container_id": "../x"}, "not the id of a container"),
        ({"container_id": None}, "container_id is not text"),
        ({"network": "app"}, "network is not a JSON object"),
        ({"network": {"options": {"netagent.network": 7}}}, "options has a value that is not text"),
        ({"network_options": {"interface_name": "eth/0"}}, "not the name of an interface"),
        ({"network_options": {"interface_name": "a" * 16}}, "not the name of an interface"),
        ({"network_options": {"interface_name": "eth0", "static_mac": "02"}}, "not a MAC address"),
        ({"network_options": {"interface_name": "eth0", "static_ips": ["10.1"]}}, "'10.1' is not an address"),
        ({"network_options": {"interface_name": "eth0", "aliases": [1]}}, "aliases is not a list of texts"),
    ],
)
def test_a_bad_field_of_a_setup_is_named(change: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        plugging_untrusted(json.dumps({**plugging(), **change}).encode())


def test_a_misspelt_option_of_a_network_is_named() -> None:
    with pytest.raises(InputError, match=r"no option 'netagent\.netwrk'.*netagent\.network=NETWORK"):
        creation_untrusted(json.dumps({"name": "x", "options": {"netagent.netwrk": "app"}}).encode())


def test_an_origin_tells_its_container_and_others_origins_none() -> None:
    assert container_of(plugging_untrusted(json.dumps(plugging()).encode()).origin) == C1
    assert container_of(f"cni:{C1}/eth0") == container_of("") == ""


def inspected(**changes: Any) -> PodmanContainer:
    home = f"/run/containers/storage/overlay-containers/{C1}/userdata"
    described = {
        "Id": C1,
        "Name": "web",
        "State": {"Pid": 42, "Running": True},
        "PidFile": f"{home}/pidfile",
        "HostsPath": f"{home}/hosts",
        "IsInfra": False,
        "Pod": "",
        "Config": {
            "Labels": {"netagent.service": "shop"},
            "Healthcheck": {"Test": ["CMD-SHELL", "true"]},
            "HealthLogDestination": "local",
        },
        "HostConfig": {"PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "8080"}], "81/tcp": None}},
        "NetworkSettings": {"Networks": {"app": {}, "podman": {}}},
    }
    (container,) = containers_untrusted(json.dumps([{**described, **changes}]).encode())
    return container


FOLDER = "/run/containers/storage/overlay-containers"


def test_a_container_is_read_as_podman_inspects_it() -> None:
    container = inspected()
    assert (container.pid, container.labels, container.pod) == (42, {"netagent.service": "shop"}, "")
    assert container.health_logs == (f"{FOLDER}/{C1}/healthcheck.log",)
    assert (container.folder, container.published) == (FOLDER, ("8080:80/tcp",))
    assert container.networks == ("app", "podman")


def test_the_run_folder_is_found_although_options_moved_files_out_of_it() -> None:
    assert inspected(PidFile="/tmp/web.pid").folder == FOLDER
    assert inspected(PidFile="/tmp/web.pid", HostsPath="").folder == ""


def test_a_resolv_conf_counts_only_where_podman_writes_it() -> None:
    own = f"{FOLDER}/{C1}/userdata/resolv.conf"
    assert inspected(ResolvConfPath=own).resolv_conf == own
    for others in ("", "/etc/resolv.conf", f"{FOLDER}/{'b' * 64}/userdata/resolv.conf"):
        assert inspected(ResolvConfPath=others).resolv_conf == ""


def test_only_the_infra_container_stands_for_its_pod() -> None:
    assert inspected(Pod="d" * 64).pod == ""
    assert inspected(Pod="d" * 64, IsInfra=True).pod == "d" * 64


CHECK = {"Test": ["CMD", "x"]}


@pytest.mark.parametrize(
    ("config", "logs"),
    [
        ({}, ()),
        ({"Healthcheck": {"Test": ["NONE"]}}, ()),
        ({"Healthcheck": CHECK, "HealthLogDestination": "/h"}, (f"/h/{C1}-healthcheck.log",)),
        (
            {"Healthcheck": CHECK, "HealthLogDestination": "events_logger"},
            (f"{FOLDER}/{C1}/healthcheck.log",),
        ),
        ({"Healthcheck": CHECK}, (f"{FOLDER}/{C1}/healthcheck.log",)),
    ],
)
def test_the_health_log_is_where_the_container_says(config: dict[str, Any], logs: tuple[str, ...]) -> None:
    assert inspected(Config=config).health_logs == logs


@pytest.mark.parametrize(
    ("status", "health"),
    [
        ("healthy", Health.HEALTHY),
        ("unhealthy", Health.UNHEALTHY),
        ("starting", Health.STARTING),
        ("new", Health.UNKNOWN),
    ],
)
def test_a_health_log_says_how_it_is(status: str, health: Health) -> None:
    assert (
        health_untrusted(json.dumps({"Status": status, "FailingStreak": 0, "Log": None}).encode()) is health
    )


def test_a_pod_is_as_well_as_its_worst_container() -> None:
    assert together([]) is Health.UNKNOWN
    assert together([Health.HEALTHY, Health.HEALTHY]) is Health.HEALTHY
    assert together([Health.HEALTHY, Health.UNKNOWN]) is Health.UNKNOWN
    assert together([Health.HEALTHY, Health.UNHEALTHY, Health.UNKNOWN]) is Health.UNHEALTHY
