"""`traefik`: labels as dynamic configuration.

`load` reads a body as Traefik's HTTP provider does: as YAML, where each field must be of the published structure
(docs/content/reference/dynamic-configuration/file.yaml in its repository). One unknown field or wrong value there
makes Traefik refuse the whole configuration, so it is an error here too.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from fakes.feed_tables import a_table, an_endpoint
from fakes.work import instructions_of
from hypothesis import given
from hypothesis import strategies as st

from netagent.feeds.encoding import encoded
from netagent.feeds.table import FeedNetwork, FeedState
from netagent.feeds.traefik import traefik
from netagent.model.records import Port
from netgossip.slices import at_once

T = "traefik.http."

PUBLISHED: Any = yaml.safe_load("""
http:
  routers:
    NAME:
      entryPoints: [foobar]
      middlewares: [foobar]
      service: foobar
      rule: foobar
      ruleSyntax: foobar
      priority: 42
      tls: {options: foobar, certResolver: foobar, domains: [{main: foobar, sans: [foobar]}]}
      observability: {accessLogs: true, tracing: true, metrics: true, traceVerbosity: foobar}
  services:
    NAME:
      loadBalancer:
        sticky: {cookie: {name: foobar, secure: true, httpOnly: true, sameSite: foobar}}
        servers: [{url: foobar}]
        healthCheck: {scheme: foobar, mode: foobar, path: foobar, method: foobar, status: 42, port: 42,
          interval: 42s, timeout: 42s, hostname: foobar, followRedirects: true, headers: {NAME: foobar}}
        passHostHeader: true
        responseForwarding: {flushInterval: 42s}
        serversTransport: foobar
  middlewares:
    NAME:
      addPrefix: {prefix: foobar}
      basicAuth: {users: [foobar], usersFile: foobar, realm: foobar, removeHeader: true, headerField: foobar}
      buffering: {maxRequestBodyBytes: 42, memRequestBodyBytes: 42, maxResponseBodyBytes: 42,
        memResponseBodyBytes: 42, retryExpression: foobar}
      chain: {middlewares: [foobar]}
      circuitBreaker: {expression: foobar, checkPeriod: 42s, fallbackDuration: 42s, recoveryDuration: 42s}
      compress: {excludedContentTypes: [foobar], minResponseBodyBytes: 42}
      contentType: {autoDetect: true}
      digestAuth: {users: [foobar], usersFile: foobar, removeHeader: true, realm: foobar, headerField: foobar}
      errors: {status: [foobar], service: foobar, query: foobar}
      forwardAuth: {address: foobar, trustForwardHeader: true, authResponseHeaders: [foobar],
        authResponseHeadersRegex: foobar, authRequestHeaders: [foobar],
        tls: {ca: foobar, cert: foobar, key: foobar, insecureSkipVerify: true}}
      grpcWeb: {allowOrigins: [foobar]}
      headers: {customRequestHeaders: {NAME: foobar}, customResponseHeaders: {NAME: foobar},
        accessControlAllowCredentials: true, accessControlAllowHeaders: [foobar],
        accessControlMaxAge: 42, sslProxyHeaders: {NAME: foobar}, stsSeconds: 42, frameDeny: true}
      ipAllowList: {sourceRange: [foobar], ipStrategy: {depth: 42, excludedIPs: [foobar]}}
      inFlightReq: {amount: 42, sourceCriterion: {ipStrategy: {depth: 42, excludedIPs: [foobar]},
        requestHeaderName: foobar, requestHost: true}}
      passTLSClientCert: {pem: true, info: {notAfter: true, sans: true, subject: {country: true,
        organizationalUnit: true}, issuer: {domainComponent: true}, serialNumber: true}}
      plugin: {NAME: {NAME: bar}}
      rateLimit: {average: 42, period: 42s, burst: 42, sourceCriterion: {requestHost: true}}
      redirectRegex: {regex: foobar, replacement: foobar, permanent: true}
      redirectScheme: {scheme: foobar, port: foobar, permanent: true}
      replacePath: {path: foobar}
      replacePathRegex: {regex: foobar, replacement: foobar}
      retry: {attempts: 42, initialInterval: 42s}
      stripPrefix: {prefixes: [foobar]}
      stripPrefixRegex: {regex: [foobar]}
tcp:
  routers:
    NAME:
      entryPoints: [foobar]
      middlewares: [foobar]
      service: foobar
      rule: foobar
      priority: 42
      tls: {passthrough: true, options: foobar, certResolver: foobar, domains: [{main: foobar, sans: [foobar]}]}
  services:
    NAME: {loadBalancer: {terminationDelay: 42, proxyProtocol: {version: 42}, servers: [{address: foobar}]}}
  middlewares:
    NAME: {ipAllowList: {sourceRange: [foobar]}, inFlightConn: {amount: 42}}
udp:
  routers:
    NAME: {entryPoints: [foobar], service: foobar}
  services:
    NAME: {loadBalancer: {servers: [{address: foobar}]}}
""")
"""The published structure: NAME stands for any name, 42 for a number, 42s for a length of time."""

MAY_BE_EMPTY = {"tls", "compress", "contentType", "sticky", "cookie", "proxyProtocol"}


def check(value: Any, published: Any, name: str) -> None:
    """Raise unless a value has the published structure."""
    if isinstance(published, dict):
        assert isinstance(value, dict), name
        assert value or name in MAY_BE_EMPTY, f"{name} is empty"
        for key, inner in value.items():
            inner_name = key if key in published else "NAME"
            assert inner_name in published, f"{key} in {name}"
            check(inner, published[inner_name], key)
    elif isinstance(published, list):
        assert isinstance(value, list), name
        for item in value:
            check(item, published[0], name)
    elif isinstance(published, bool | int):
        assert type(value) is type(published), name
    else:
        assert isinstance(value, str), name


def load(*endpoints: Any) -> tuple[Any, tuple[str, ...]]:
    """Return the configuration that Traefik reads, and the flaws."""
    body = at_once(traefik(a_table(*endpoints)))
    text = "".join(at_once(encoded(body.value)))
    config = yaml.safe_load(text)
    assert config == json.loads(text)
    for key, inner in config.items():
        check(inner, PUBLISHED[key], key)
    return config, body.flaws


def labels_of(published: Any, path: str) -> dict[str, str]:
    """Return a label for each field of a published structure."""
    if isinstance(published, dict):
        found = {}
        for key, inner in published.items():
            if key == "servers":
                continue
            found.update(labels_of(inner, f"{path}.{key}"))
        return found
    if isinstance(published, list) and isinstance(published[0], dict):
        return labels_of(published[0], f"{path}[0]")
    if isinstance(published, list):
        return {path: "foobar, foobar"}
    return {path: str(published).lower()}


def test_a_container_with_labels_is_a_site() -> None:
    labels = {"traefik.enable": "true", f"{T}routers.shop.rule": "Host(`shop.example.com`)"}
    config, flaws = load(an_endpoint(1, labels=labels), an_endpoint(2, labels=labels), an_endpoint(3))
    servers = [{"url": "http://10.160.0.1:80"}, {"url": "http://10.160.0.2:80"}]
    assert config == {
        "http": {
            "routers": {"shop": {"rule": "Host(`shop.example.com`)", "service": "web-app"}},
            "services": {"web-app": {"loadBalancer": {"servers": servers}}},
        }
    }
    assert flaws == ()


@pytest.mark.parametrize("case", [str, str.lower, str.upper])
@pytest.mark.parametrize(
    ("protocol", "section"),
    [(one, two) for one in PUBLISHED for two in PUBLISHED[one] if (one, two) != ("udp", "services")],
    ids=str,
)
def test_all_published_fields_can_be_labels_in_any_case(protocol: str, section: str, case: Any) -> None:
    found = labels_of(PUBLISHED[protocol][section]["NAME"], "")
    labels = {f"traefik.{protocol}.{section}.one{case(key)}": value for key, value in found.items()}
    config, flaws = load(an_endpoint(labels=labels, ports=(Port("http", 80), Port("dns", 53, "udp"))))
    assert flaws == ()
    read = labels_of(config[protocol][section]["one"], "")
    assert {key.lower() for key in read} >= {key.lower() for key in found}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (f"{T}routers.r.nosuchfield", "x"),
        (f"{T}routers.r.priority", "high"),
        (f"{T}routers.r.priority", "9" * 30),
        (f"{T}routers.r.tls.domains.main", "a.example.com"),
        (f"{T}routers.r.tls.domains[0]", "a.example.com"),
        (f"{T}routers.r.entrypoints[0]", "web"),
        (f"{T}routers.r.rule.more", "x"),
        (f"{T}routers.r@file.rule", "Host(`a`)"),
        (f"{T}routers.[0].rule", "Host(`a`)"),
        (f"{T}routers..rule", "Host(`a`)"),
        (f"{T}routers.r", "x"),
        (f"{T}serversTransports.t.serverName", "x"),
        (f"{T}services.s.loadbalancer.server.url", "http://192.0.2.1"),
        (f"{T}services.s.loadbalancer.servers[0].url", "http://192.0.2.1"),
        (f"{T}services.s.weighted.services[0].name", "x"),
        (f"{T}middlewares.m.ratelimit", "true"),
        (f"{T}middlewares.m.ratelimit.period", "soon"),
        (f"{T}middlewares.m.headers.framedeny", "perhaps"),
        (f"{T}middlewares.m.headers.customrequestheaders", "x"),
        (f"{T}middlewares.m.headers.customrequestheaders.", "x"),
        (f"{T}middlewares.m.plugin.p", "x"),
        (f"{T}middlewares.m.plugin.p.a..b", "x"),
        (f"{T}middlewares.m.plugin.p.a[0]", "x"),
        (f"{T}middlewares.m.chain.middlewares", ",".join("x" * 100)),
        ("traefik.tls.options.o.minVersion", "x"),
        ("traefik." + "http." * 40, "x"),
        ("traefik.docker.network", "app"),
    ],
)
def test_a_wrong_label_is_left_out_alone(key: str, value: str) -> None:
    good = {f"{T}routers.good.rule": "Path(`/`)", f"{T}routers.good.service": "x@file"}
    config, flaws = load(an_endpoint(labels={**good, key: value}))
    assert config["http"]["routers"] == {"good": {"rule": "Path(`/`)", "service": "x@file"}}
    assert "middlewares" not in config["http"]
    assert len(flaws) == 1
    assert flaws[0].startswith("web.app (on h1): ")


WORDS = [
    *(
        "http",
        "tcp",
        "udp",
        "routers",
        "services",
        "middlewares",
        "rule",
        "tls",
        "domains[1]",
        "main",
        "plugin",
    ),
    *("loadbalancer", "server", "port", "headers", "a", "[0]", "a[1]", "é", "\u2028", ""),
]


@given(
    st.dictionaries(
        st.lists(
            st.sampled_from(WORDS),
            max_size=8,
        ).map(lambda parts: ".".join(["traefik", *parts])),
        st.sampled_from(
            ["", "true", "80", "a, b", "Host(`a`)", "\x85\ufeff", "\U0001f600", "{}", "[", "- a: &x"]
        ),
        max_size=8,
    )
)
def test_any_labels_make_a_configuration_that_traefik_takes(labels: dict[str, str]) -> None:
    load(an_endpoint(labels=labels))


def test_servers_are_what_names_lead_to_and_definitions_stay() -> None:
    labels = {f"{T}routers.r.rule": "Path(`/`)"}
    up, sick = an_endpoint(1, labels=labels), an_endpoint(2, labels=labels, state=FeedState.UNHEALTHY)
    assert load(up, sick)[0]["http"]["services"]["web-app"]["loadBalancer"]["servers"] == [
        {"url": "http://10.160.0.1:80"}
    ]
    config, _ = load(sick)
    assert config["http"]["routers"].keys() == {"r"}
    assert config["http"]["services"]["web-app"]["loadBalancer"]["servers"] == []


@pytest.mark.parametrize(
    ("labels", "ports", "url"),
    [
        ({}, [Port("metrics", 9100), Port("http", 8080)], "http://10.160.0.1:8080"),
        ({}, [Port("https", 443)], "https://10.160.0.1:443"),
        ({}, [Port("b", 82), Port("a", 81)], "http://10.160.0.1:81"),
        ({"port": "9000"}, [Port("https", 443)], "http://10.160.0.1:9000"),
        ({"port": "9000", "scheme": "h2c"}, [], "h2c://10.160.0.1:9000"),
        ({"scheme": "https"}, [Port("x", 1)], "https://10.160.0.1:1"),
    ],
)
def test_which_port_and_scheme(labels: dict[str, str], ports: list[Port], url: str) -> None:
    given_labels = {f"{T}services.s.loadbalancer.server.{key}": value for key, value in labels.items()}
    config, _ = load(an_endpoint(labels={"traefik.enable": "true", **given_labels}, ports=tuple(ports)))
    (service,) = config["http"]["services"].values()
    assert service["loadBalancer"]["servers"] == [{"url": url}]


@pytest.mark.parametrize("server", [{"port": "x"}, {"port": "0"}, {"port": "80", "scheme": "javascript"}, {}])
def test_a_service_without_a_port_has_no_server(server: dict[str, str]) -> None:
    labels = {f"{T}services.s.loadbalancer.server.{key}": value for key, value in server.items()}
    config, flaws = load(
        an_endpoint(labels={**labels, f"{T}services.s.loadbalancer.passhostheader": "1"}, ports=())
    )
    del config["http"]["services"]["s"]["loadBalancer"]["passHostHeader"]
    assert config["http"]["services"] == {"s": {"loadBalancer": {"servers": []}}}
    assert len(flaws) == 1


def test_only_containers_with_labels_are_published() -> None:
    off = {"traefik.enable": "false", f"{T}routers.r.rule": "Path(`/`)"}
    assert load(an_endpoint(1), an_endpoint(2, labels=off)) == ({}, ())
    enabled, _ = load(an_endpoint(labels={"traefik.enable": "true"}))
    assert enabled["http"].keys() == {"services"}


def test_a_router_must_say_which_of_several_services() -> None:
    services = {f"{T}services.{name}.loadbalancer.server.port": "80" for name in "ab"}
    rule = {f"{T}routers.r.rule": "Path(`/`)"}
    config, flaws = load(an_endpoint(labels=services | rule))
    assert "routers" not in config["http"]
    assert "2 services" in flaws[0]
    config, flaws = load(an_endpoint(labels=services | rule | {f"{T}routers.r.service": "b"}))
    assert config["http"]["routers"]["r"]["service"] == "b"


def test_a_router_without_a_rule_is_left_out() -> None:
    config, flaws = load(an_endpoint(labels={f"{T}routers.r.priority": "7"}))
    assert "routers" not in config["http"]
    assert "no rule" in flaws[0]


def test_the_definition_of_most_replicas_counts() -> None:
    old, new = ({f"{T}routers.r.rule": f"Path(`/{name}`)"} for name in ("old", "new"))
    config, flaws = load(*(an_endpoint(n, labels=old if n == 1 else new) for n in (1, 2, 3)))
    assert config["http"]["routers"]["r"]["rule"] == "Path(`/new`)"
    assert flaws == ("app: http routers r has 2 definitions; that of most counts",)
    config, _ = load(an_endpoint(1, labels=old), an_endpoint(2, labels=new))
    assert config["http"]["routers"]["r"]["rule"] == "Path(`/new`)"


def test_a_second_network_takes_nothing_over() -> None:
    labels = {f"{T}routers.r.rule": "Path(`/`)", f"{T}services.s.loadbalancer.server.port": "80"}
    other = FeedNetwork("other", "other.mesh.internal")
    many = [an_endpoint(n, labels=labels, network=other) for n in range(2, 9)]
    config, flaws = load(an_endpoint(1, labels=labels), *many)
    assert config["http"]["services"]["s"]["loadBalancer"]["servers"] == [{"url": "http://10.160.0.1:80"}]
    assert [flaw.split(":")[0] for flaw in flaws] == ["other", "other"]


def test_tcp_and_udp() -> None:
    labels = {
        "traefik.tcp.routers.r.rule": "HostSNI(`*`)",
        "traefik.tcp.services.s.loadbalancer.server.port": "5432",
        "traefik.udp.routers.u.entrypoints": "dns",
    }
    config, _ = load(an_endpoint(labels=labels, ports=(Port("dns", 53, "udp"), Port("http", 80))))
    assert config["tcp"]["services"]["s"]["loadBalancer"]["servers"] == [{"address": "10.160.0.1:5432"}]
    assert config["udp"] == {
        "routers": {"u": {"entryPoints": ["dns"], "service": "web-app"}},
        "services": {"web-app": {"loadBalancer": {"servers": [{"address": "10.160.0.1:53"}]}}},
    }


@pytest.mark.parametrize(
    ("labels", "published"),
    [
        ({f"{T}routers.r.rule": "Host(`a.example.com`)"}, True),
        ({f"{T}routers.r.rule": "Host(`bank.example.org`)"}, False),
        ({f"{T}routers.r.rule": "PathPrefix(`/`)"}, False),
        ({f"{T}routers.r.rule": "Host("}, False),
        (
            {
                f"{T}routers.r.rule": "Host(`a.example.com`)",
                f"{T}routers.r.tls.domains[0].main": "example.org",
            },
            False,
        ),
        (
            {
                f"{T}routers.r.rule": "Host(`a.example.com`)",
                f"{T}routers.r.tls.domains[3].sans": "b.example.com",
            },
            True,
        ),
        ({"traefik.tcp.routers.r.rule": "HostSNI(`*`)"}, False),
        ({"traefik.tcp.routers.r.rule": "HostSNI(`a.example.com`)"}, True),
        ({"traefik.udp.routers.r.entrypoints": "dns"}, False),
    ],
)
def test_rules_of_the_network_bound_its_domains(labels: dict[str, str], *, published: bool) -> None:
    network = FeedNetwork("app", "app.mesh.internal", rules=("*.example.com",))
    config, flaws = load(
        an_endpoint(labels=labels, network=network, ports=(Port("x", 80), Port("y", 53, "udp")))
    )
    assert any("r" in config.get(key, {}).get("routers", {}) for key in PUBLISHED) is published
    assert all("feed.rules of app" in flaw for flaw in flaws)
    assert (len(flaws) == 0) is published


@pytest.mark.parametrize(
    ("fields", "published"),
    [
        ({"routers.r.middlewares": "own"}, True),
        ({"routers.r.middlewares": "own,auth@file"}, False),
        ({"routers.r.middlewares": "others"}, False),
        ({"routers.r.service": "own"}, True),
        ({"routers.r.service": "api@internal"}, False),
        ({"routers.r.service": "others"}, False),
        ({"routers.r.middlewares": "m", "middlewares.m.chain.middlewares": "own"}, True),
        ({"middlewares.m.chain.middlewares": "auth@file"}, False),
        ({"middlewares.m.errors.service": "others", "middlewares.m.errors.status": "500"}, False),
        ({"middlewares.m.errors.service": "own", "middlewares.m.errors.status": "500"}, True),
    ],
)
def test_with_rules_labels_lead_to_what_their_network_defines(
    fields: dict[str, str], *, published: bool
) -> None:
    network = FeedNetwork("app", "app.mesh.internal", rules=("*.example.com",))
    own = {
        f"{T}services.own.loadbalancer.server.port": "80",
        f"{T}middlewares.own.addprefix.prefix": "/a",
        f"{T}routers.r.rule": "Host(`a.example.com`)",
    }
    others = {
        f"{T}services.others.loadbalancer.server.port": "80",
        f"{T}middlewares.others.addprefix.prefix": "/a",
    }
    labels = {**own, **{f"{T}{key}": value for key, value in fields.items()}}
    config, flaws = load(an_endpoint(1, labels=others), an_endpoint(2, labels=labels, network=network))
    section, name = ("middlewares", "m") if "middlewares.m" in str(fields) else ("routers", "r")
    assert (name in config["http"].get(section, {})) is published
    assert (not flaws) is published


def test_the_work_of_one_container_is_bounded_by_its_labels() -> None:
    """8 KiB of labels are the most that a record of a runtime's container has."""
    deep = {f"{T}routers.{'r' * 20}{n}.tls.domains[{n}].sans": ",".join("abcdefgh" * 6) for n in range(64)}
    rules = {f"{T}routers.r{n}.rule": "(!" * 16 + "Host(`a`)" + ")" * 16 for n in range(64)}
    network = FeedNetwork("app", "app.mesh.internal", rules=("*.example.com",))
    for labels in (deep, rules):
        table = a_table(an_endpoint(labels=labels, network=network))
        instructions_of(lambda table=table: at_once(traefik(table)), most=1_500_000)


def test_ten_thousand_containers_are_read_in_slices() -> None:
    labels = {f"{T}routers.r.rule": "Path(`/`)"}
    slices = traefik(a_table(*(an_endpoint(n, labels=labels) for n in range(1000))))
    assert sum(1 for _ in slices) >= 2000
