"""What CNI runtimes send, read for each verb as far as it needs; what they get, in the form of their version."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netagent.checks.spec import parse_checks_untrusted
from netagent.errors import FailedError, InputError, NetagentError, NotFoundError, RefusedError
from netagent.integrations.cni import answer
from netagent.integrations.cni.configuration import arguments_untrusted, endpoint_name
from netagent.integrations.cni.protocol import (
    SUPPORTED,
    VALID_ATTACHMENTS,
    CniAdd,
    CniCheck,
    CniCollect,
    CniDelete,
    CniStatus,
    CniVersion,
    Order,
    configuration_untrusted,
    order_untrusted,
)
from netagent.model.records import Group, Link, Port

CALL = {"CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/c1", "CNI_IFNAME": "eth0"}
CONFIGURATION = {"cniVersion": "1.0.0", "name": "app-net", "type": "netagent", "network": "app"}
POD = "IgnoreUnknown=1;K8S_POD_NAMESPACE=prod;K8S_POD_NAME=db-0;K8S_POD_UID=1"
PREVIOUS = {
    "interfaces": [{"name": "eth0", "sandbox": "/run/netns/c1"}],
    "ips": [{"address": "10.1.0.2/32", "interface": 0}, {"address": "FD00:1::2/64"}],
}


def order(verb: str, configuration: dict[str, Any] | None = None, **variables: str) -> Order:
    return order_untrusted(
        {**CALL, **variables, "CNI_COMMAND": verb}, {**CONFIGURATION, **(configuration or {})}
    )


def add(configuration: dict[str, Any] | None = None, **variables: str) -> CniAdd:
    found = order("ADD", configuration, **variables)
    assert isinstance(found, CniAdd)
    return found


def code(verb: str, configuration: dict[str, Any] | None = None, **variables: str) -> tuple[int, str]:
    """CNI's number of the error, and its sentence."""
    with pytest.raises(InputError) as caught:
        order(verb, configuration, **variables)
    assert caught.value.hint
    return answer.code_of(caught.value), str(caught.value)


# -- orders ----------------------------------------------------------------------------------------------------------


def test_each_verb_needs_only_what_it_uses() -> None:
    found = add()
    assert (found.version, found.netns, found.previous) == ("1.0.0", "/run/netns/c1", {})
    assert found.attachment.origin == "cni:app-net/c1/eth0"
    assert (found.request.network, found.request.ifname, found.request.name) == ("app", "eth0", "c1")
    gone = order("DEL", {"ipam": {}, "no such": 1, "prevResult": 5}, CNI_NETNS="", CNI_ARGS="nonsense")
    assert gone == CniDelete(found.attachment)
    check = order("CHECK", {"prevResult": PREVIOUS})
    assert check == CniCheck(found.attachment, "/run/netns/c1", frozenset({"10.1.0.2", "fd00:1::2"}))
    valid = [{"containerID": "c1", "ifname": "eth0"}, {"containerID": "c2", "ifname": "net1"}]
    collect = order_untrusted(
        {"CNI_COMMAND": "GC"}, {**CONFIGURATION, "cniVersion": "1.1.0", VALID_ATTACHMENTS: valid}
    )
    assert collect == CniCollect("app-net", frozenset({"cni:app-net/c1/eth0", "cni:app-net/c2/net1"}))
    assert order_untrusted({"CNI_COMMAND": "STATUS"}, {**CONFIGURATION, "cniVersion": "1.1.0"}) == CniStatus(
        "app"
    )
    assert order_untrusted({"CNI_COMMAND": "VERSION"}, {}) == CniVersion("1.1.0")


@pytest.mark.parametrize("verb", ["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"])
def test_other_versions_are_refused(verb: str) -> None:
    assert code(verb, {"cniVersion": "0.2.0"})[0] == 1
    assert code(verb, {"cniVersion": ["1.0.0"]})[0] == 1
    if verb != "VERSION":
        assert code(verb, {"cniVersion": None})[0] == 1


@pytest.mark.parametrize(("verb", "version"), [("CHECK", "0.3.1"), ("GC", "1.0.0"), ("STATUS", "0.4.0")])
def test_a_verb_of_a_later_version_is_refused(verb: str, version: str) -> None:
    number, text = code(verb, {"cniVersion": version})
    assert number == 1
    assert f"{verb} is not part of CNI {version}" in text


@pytest.mark.parametrize(
    ("verb", "variables"),
    [
        ("", {}),
        ("add", {}),
        ("ADD", {"CNI_CONTAINERID": ""}),
        ("ADD", {"CNI_CONTAINERID": "-c1"}),
        ("ADD", {"CNI_CONTAINERID": "a/b"}),
        ("DEL", {"CNI_IFNAME": ""}),
        ("DEL", {"CNI_IFNAME": ".."}),
        ("DEL", {"CNI_IFNAME": "sixteen-letters-"}),
        ("ADD", {"CNI_NETNS": ""}),
        ("ADD", {"CNI_NETNS": "c1"}),
        ("ADD", {"CNI_ARGS": "K8S_POD_NAME"}),
        ("ADD", {"CNI_ARGS": "NETAGENT_NAM=x"}),
        ("ADD", {"CNI_ARGS": "IgnoreUnknown=0;OTHER=x"}),
    ],
)
def test_wrong_variables_have_a_code_of_their_own(verb: str, variables: dict[str, str]) -> None:
    assert code(verb, None, **variables)[0] == 4


@pytest.mark.parametrize(
    ("configuration", "number", "words"),
    [
        ({"name": ""}, 7, "name is missing"),
        ({"name": 5}, 7, "name"),
        ({"netwrok": "app"}, 2, "did you mean 'network'"),
        ({"ipam": {"type": "host-local"}}, 2, "assigns addresses"),
        ({"ipMasq": True}, 2, "ipMasq"),
        ({"runtimeConfig": {"portMappings": [{}]}}, 7, "is not a port of the host"),
        ({"runtimeConfig": {"portMappings": "80"}}, 2, "not a list of objects"),
        ({"network": 5}, 7, "network"),
        ({"service": "Web"}, 7, "did you mean 'web'"),
        ({"aliases": "db"}, 7, "aliases is not a list"),
        ({"aliases": [5]}, 7, "aliases is not a list"),
        ({"links": ["a:B c"]}, 7, "alias"),
        ({"expose": ["http"]}, 7, "80/tcp"),
        ({"expose": ["0/tcp"]}, 7, "number"),
        ({"expose": ["443/tcp+H2"]}, 7, "ALPN"),
        ({"weight": "many"}, 7, "from 0 to 1000"),
        ({"args": []}, 7, "args is not an object"),
        ({"args": {"cni": {"ips": ["10.1.0.300"]}}}, 7, "IP address"),
        ({"args": {"cni": {"labels": [{"key": 1}]}}}, 7, "labels"),
        ({"aliases": [""]}, 7, "alias"),
        ({"prevResult": []}, 7, "prevResult"),
        ({"prevResult": {"ips": {"a": 1}}}, 7, "ips"),
        ({"prevResult": {"dns": [1]}}, 7, "dns"),
        ({"runtimeConfig": {"mac": "ff:ff:ff:ff:ff:ff"}}, 7, "MAC"),
    ],
)
def test_a_wrong_configuration_says_what_to_write(
    configuration: dict[str, Any], number: int, words: str
) -> None:
    found, text = code("ADD", configuration)
    assert found == number
    assert words in text


def test_check_and_gc_do_not_guess() -> None:
    assert code("CHECK") == (7, "CHECK needs prevResult; pass the result of ADD")
    values: list[Any] = [None, {}, [5], [{"containerID": "c1"}]]
    for value in values:
        assert code("GC", {"cniVersion": "1.1.0", VALID_ATTACHMENTS: value})[0] == 7


@pytest.mark.parametrize("stdin", [b"{", b"[]", b"5", b"\xff", b"[" * 100_000])
def test_what_is_no_object_is_refused(stdin: bytes) -> None:
    with pytest.raises(InputError) as caught:
        configuration_untrusted(stdin)
    assert answer.code_of(caught.value) == 6


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(["app", "1.1.0", "eth0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_KEYS = st.sampled_from(
    [
        *("cniVersion", "name", "network", "service", "aliases", "links", "expose", "args", "runtimeConfig"),
        *("prevResult", VALID_ATTACHMENTS),
    ]
)


@settings(max_examples=200)
@given(
    verb=st.sampled_from(["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"]),
    wild=st.dictionaries(_KEYS, _JSON | st.fixed_dictionaries({"cni": _JSON, "ips": _JSON, "mac": _JSON})),
    arguments=st.text(alphabet="IPMAC=;1x", max_size=12),
)
def test_any_json_gives_an_order_or_an_input_error(verb: str, wild: dict[str, Any], arguments: str) -> None:
    try:
        found = order_untrusted(
            {**CALL, "CNI_COMMAND": verb, "CNI_ARGS": arguments}, {**CONFIGURATION, **wild}
        )
    except InputError as error:
        answer.failure(error, wild.get("cniVersion"))
    else:
        if isinstance(found, CniAdd):
            answer.result(found, PLUGGED)


def test_the_guides_configurations_are_understood() -> None:
    guide = (Path(__file__).parents[4] / "docs/how-to/runtimes/cni.md").read_text()
    found = [json.loads(text) for text in re.findall(r"^```json\n(.*?)^```", guide, re.DOTALL | re.MULTILINE)]
    found += [
        {**(one := json.loads(text)), "plugins": [one]} for text in re.findall(r"echo '(\{.*\})'", guide)
    ]
    assert len(found) == 3
    for one in found:
        (ours,) = (plugin for plugin in one["plugins"] if plugin["type"] == "netagent")
        assert add({**ours, "name": one["name"], "cniVersion": one["cniVersion"]}).request.network == "app"


def test_ports_of_the_host_come_by_their_capability() -> None:
    mappings = [
        {"hostPort": 8080, "containerPort": 80, "protocol": "TCP"},
        {"hostPort": 53, "containerPort": 5353, "protocol": "udp", "hostIP": "192.0.2.1"},
        {"hostPort": 54, "containerPort": 5353, "protocol": "udp", "hostIP": "2001:db8::1"},
        {"hostPort": 0, "containerPort": 9000},
    ]
    asked = add({**CONFIGURATION, "runtimeConfig": {"portMappings": mappings}}).request.publish
    assert [one.text for one in asked] == [
        "192.0.2.1:53:5353/udp",
        "[2001:db8::1]:54:5353/udp",
        "8080:80/tcp",
    ]


# -- the container ---------------------------------------------------------------------------------------------------


def test_what_the_container_is_called() -> None:
    long_id = "3f" * 32
    assert endpoint_name("web_1", {}) == "web_1"
    assert endpoint_name(long_id, {}) == long_id[:12]
    assert endpoint_name("c1", {"K8S_POD_NAME": "db-0", "K8S_POD_NAMESPACE": "default"}) == "db-0"
    assert endpoint_name("c1", {"K8S_POD_NAME": "db-0", "K8S_POD_NAMESPACE": "prod"}) == "db-0-prod"
    assert endpoint_name("Web.1", {}) == "web-1"
    first, second = (endpoint_name("c1", {"K8S_POD_NAME": "p" * 90 + end}) for end in "ab")
    assert len(first) == len(second) == 63
    assert first != second


def test_who_knows_the_container_best_wins() -> None:
    both = {
        "service": "web",
        "aliases": ["www"],
        "links": ["db.back:database", "cache"],
        "expose": ["http=80/TCP", "53/udp", "9090+h2+http/1.1"],
        "check": ["http:80/healthz"],
        "weight": 7,
        "args": {
            "cni": {
                "ips": ["10.1.0.7/16"],
                "labels": [{"key": "tier", "value": "front"}],
                "aliases": ["w2"],
                "check": ["tcp:9090 fall=5"],
                "all_failing": "keep",
            }
        },
        "runtimeConfig": {"aliases": {"app-net": ["w3"], "other": ["no"]}, "mac": "02:00:00:00:00:07"},
    }
    found = add(both, CNI_ARGS=f"{POD};IP=10.1.0.9;MAC=02:00:00:00:00:09;OTHER=x").request
    assert (found.name, found.service, found.target) == ("db-0-prod", "web", "cni:c1")
    assert found.aliases == ("www", "w2", "w3")
    assert found.links == (Link("db.back", "database"), Link("cache", "cache"))
    assert found.ports == (
        Port("http", 80),
        Port("53", 53, "udp"),
        Port("9090", 9090, alpn=("h2", "http/1.1")),
    )
    assert found.weight == 7
    assert add({"weight": 7, "args": {"cni": {"weight": 0}}}).request.weight == 0
    assert found.checks == parse_checks_untrusted(["http:80/healthz", "tcp:9090 fall=5"])
    assert found.keeps_names
    assert (found.addresses, found.mac) == (("10.1.0.7",), "02:00:00:00:00:07")
    assert dict(found.labels) == {
        "tier": "front",
        "io.kubernetes.pod.name": "db-0",
        "io.kubernetes.pod.namespace": "prod",
    }
    given = {"cni": {"name": "front", "service": "shop"}}
    found = add(
        {"args": given}, CNI_ARGS="IP=10.1.0.9,fd00:1::9;NETAGENT_NAME=no;NETAGENT_SERVICE=no"
    ).request
    assert (found.name, found.service, found.addresses) == ("front", "shop", ("10.1.0.9", "fd00:1::9"))
    assert add(CNI_ARGS="NETAGENT_NAME=web;NETAGENT_SERVICE=shop").request.service == "shop"
    assert found.group is None
    assert add({"group": "shop", "service": "web"}).request.group == Group("shop", "web")
    assert add({"group": "no"}, CNI_ARGS="NETAGENT_GROUP=shop").request.group == Group("shop")
    grouped = {"args": {"cni": {"group": "shop"}}}
    assert add(grouped, CNI_ARGS="NETAGENT_GROUP=no").request.group == Group("shop")
    assert add({"network": None}).request.network == "app-net"
    behind = add({"ifname": "net1"})
    assert (behind.request.ifname, behind.attachment.ifname) == ("net1", "eth0")


def test_arguments_of_other_plugins_pass_when_told_to() -> None:
    assert arguments_untrusted("A=1;IgnoreUnknown=true;B=x=y") == {
        "A": "1",
        "IgnoreUnknown": "true",
        "B": "x=y",
    }
    assert arguments_untrusted("") == {}


# -- answers ---------------------------------------------------------------------------------------------------------

PLUGGED = answer.AttachedInterface(
    host_ifname="nv01234567",
    ifname="eth0",
    mac="02:00:00:00:00:02",
    mtu_bytes=1450,
    addresses=["10.1.0.2/32", "fd00:1::2/64"],
    routes=["10.1.0.0/24", "fd00:1::/64"],
    gateways=["10.1.0.1", "fd00:1::1"],
    search=["app.mesh.internal", "mesh.internal"],
)


def result(version: str, previous: dict[str, Any] | None = None) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        answer.result(add({"cniVersion": version, "prevResult": previous}), PLUGGED).output
    )
    return found


@pytest.mark.parametrize("version", SUPPORTED)
def test_a_result_has_the_form_of_its_version(version: str) -> None:
    found = result(version)
    old = version < "1.0.0"
    assert found == {
        "cniVersion": version,
        "interfaces": [
            {"name": "nv01234567"},
            {
                "name": "eth0",
                "mac": "02:00:00:00:00:02",
                "sandbox": "/run/netns/c1",
                **({"mtu": 1450} if version == "1.1.0" else {}),
            },
        ],
        "ips": [
            {
                "address": "10.1.0.2/32",
                "interface": 1,
                "gateway": "10.1.0.1",
                **({"version": "4"} if old else {}),
            },
            {
                "address": "fd00:1::2/64",
                "interface": 1,
                "gateway": "fd00:1::1",
                **({"version": "6"} if old else {}),
            },
        ],
        "routes": [
            {"dst": "10.1.0.0/24"},
            {"dst": "fd00:1::/64"},
            {"dst": "0.0.0.0/0", "gw": "10.1.0.1"},
            {"dst": "::/0", "gw": "fd00:1::1"},
        ],
        "dns": {
            "nameservers": ["127.0.0.11"],
            "search": ["app.mesh.internal", "mesh.internal"],
            "options": ["ndots:1", "edns0"],
        },
    }


def test_what_the_plugins_before_made_stays() -> None:
    before = {
        "interfaces": [{"name": "br0"}, {"name": "eth9", "sandbox": "/run/netns/c1"}],
        "ips": [{"version": "4", "address": "192.0.2.9/24", "gateway": "192.0.2.1", "interface": 1}],
        "routes": [{"dst": "0.0.0.0/0", "gw": "192.0.2.1"}],
        "dns": {
            "nameservers": ["192.0.2.53"],
            "domain": "corp.example",
            "search": ["corp.example", {"not": "text"}],
            "options": "x",
        },
        "other": 1,
    }
    found = result("1.0.0", before)
    assert [one["name"] for one in found["interfaces"]] == ["br0", "eth9", "nv01234567", "eth0"]
    assert [one.get("interface") for one in found["ips"]] == [1, 3, 3]
    assert found["ips"][0] == {"address": "192.0.2.9/24", "gateway": "192.0.2.1", "interface": 1}
    assert [one.get("gw") for one in found["routes"]] == ["192.0.2.1", None, None, "fd00:1::1"]
    assert found["dns"] == {
        "nameservers": ["127.0.0.11"],
        "domain": "corp.example",
        "search": ["app.mesh.internal", "mesh.internal", "corp.example"],
        "options": ["ndots:1", "edns0"],
    }
    assert found["other"] == 1
    assert result("0.3.1", before)["ips"][0]["version"] == "4"


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (RefusedError("x", code="no-cluster", hint="y"), 11),
        (NotFoundError("x", code="no-such-network", hint="y"), 11),
        (RefusedError("x", code="name-in-use", hint="y"), 11),
        (FailedError("x", hint="y"), 11),
        (RefusedError("x", code="namespace-gone", hint="y"), 3),
        (RefusedError("x", code="bad-address", hint="y"), 7),
        (InputError("x", hint="y"), 7),
        (RefusedError("x", code=answer.CANNOT_ADD, hint="y"), 50),
    ],
)
def test_errors_have_cnis_numbers(error: NetagentError, number: int) -> None:
    found = answer.failure(error, "0.4.0")
    assert found.exit_status == 1
    assert json.loads(found.output) == {
        "cniVersion": "0.4.0",
        "code": number,
        "msg": "netagent: x",
        "details": "y",
    }
    assert json.loads(answer.failure(error, {"a": 1}).output)["cniVersion"] == "1.0.0"
