"""`traefik`: the dynamic configuration that Traefik's HTTP provider asks for, from the labels of containers.

    traefik.http.routers.shop.rule=Host(`shop.example.com`)
    traefik.http.services.shop.loadbalancer.server.port=8080

The labels are those of Traefik's Docker provider, with its meaning of a router without a service and of a container
without a port. These differ, all on the safe side: only containers with such labels are in the feed, none gets a
router that it does not name, and servers are nothing but the addresses of containers that names lead to.

All containers of a network write into one configuration, so each definition (a router, a middleware, the options of a
service) is of one network: the first, in the order of the table, in which it is valid. There the definition that most
containers have counts, and the first by its text among equals; Traefik itself would drop all of them. What is left
out is named. A definition stays while its containers are not answering: its service then has no server.

A network with `feed.rules` publishes only the domains that they allow: routers and certificates for others are
refused, and so are TCP routers for all names and UDP routers, which take a whole entry point. What its labels lead to
is then of the network itself: no service or middleware of another one or of Traefik's own configuration.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Final, TypeAlias

from netagent.feeds.host_rule import RuleError, is_allowed, is_bounded_untrusted
from netagent.feeds.table import (
    FeedBody,
    FeedEndpoint,
    FeedNetwork,
    FeedTable,
    Flaws,
    at_port,
    by_service,
    http_port,
    leading,
    upstream,
)
from netagent.feeds.traefik_schema import SECTIONS, FieldError, Place, assemble, field_untrusted
from netagent.model.number import whole_number
from netagent.model.records import Port
from netgossip.slices import Slices, merge_sort

PREFIX: Final = "traefik"

_MAX_PARTS: Final = 16
"""Bound of parts of one label's key; beyond it: the label is left out. The longest field has ten."""

Defined: TypeAlias = tuple[str, str, str]
"""`http`, `routers`, and the name."""


@dataclass(slots=True)
class _Network:
    """What the labels of one network's containers say."""

    texts: dict[Defined, Counter[str]] = field(default_factory=dict)
    """How many containers have each definition."""
    servers: dict[Defined, dict[str, dict[str, object]]] = field(default_factory=dict)


def traefik(table: FeedTable) -> Slices[FeedBody]:
    """Make the feed."""
    flaws = Flaws()
    networks = {network: _Network() for network in table.networks}
    for endpoints in (yield from by_service(table.endpoints)).values():
        lead = {one.endpoint_id for one in leading(endpoints)}
        for endpoint in endpoints:
            if endpoint.network in networks:
                _add(endpoint, networks[endpoint.network], flaws, is_leading=endpoint.endpoint_id in lead)
            yield
    config: dict[str, dict[str, dict[str, object]]] = {}
    owners: dict[Defined, FeedNetwork] = {}
    for network, said in networks.items():
        own = []
        for defined in (yield from merge_sort(list(said.texts), key=lambda one: one)):
            yield
            name = " ".join(defined)
            if defined in owners:
                flaws.note(f"{network.name}: {name} is left out, {owners[defined].name} has one of that name")
                continue
            owners[defined] = network
            own.append(defined)
        for defined in own:
            yield
            protocol, section, word = defined
            definition = yield from _definition(defined, said, network, flaws)
            if network.rules is not None:
                other = _of_another(defined, definition, owners, network)
                if other is not None:
                    flaws.note(
                        f"{network.name}: {' '.join(defined)} is refused: {other[:120]} is none of the network's, "
                        "which has feed.rules"
                    )
                    continue
            config.setdefault(protocol, {}).setdefault(section, {})[word] = definition
    return FeedBody(config, tuple(flaws.sentences))


def _of_another(
    defined: Defined,
    definition: Mapping[str, Any],
    owners: Mapping[Defined, FeedNetwork],
    network: FeedNetwork,
) -> str | None:
    """Return the first service or middleware that a definition leads to and that the network does not define."""
    protocol, section, _ = defined
    services: list[str] = []
    middlewares: list[str] = []
    if section == "routers":
        services, middlewares = [definition["service"]], definition.get("middlewares", [])
    elif section == "middlewares":
        middlewares = definition.get("chain", {}).get("middlewares", [])
        errors = definition.get("errors", {})
        services = [errors["service"]] if "service" in errors else []
    for kind, names in (("services", services), ("middlewares", middlewares)):
        for name in names:
            if owners.get((protocol, kind, name)) != network:
                return name
    return None


def _definition(
    defined: Defined, said: _Network, network: FeedNetwork, flaws: Flaws
) -> Slices[dict[str, Any]]:
    texts = said.texts[defined]
    if len(texts) > 1:
        flaws.note(f"{network.name}: {' '.join(defined)} has {len(texts)} definitions; that of most counts")
    chosen: dict[str, Any] = json.loads(min(texts, key=lambda text: (-texts[text], text)))
    if defined[1] == "services":
        servers = yield from merge_sort(list(said.servers.get(defined, {}).items()), key=itemgetter(0))
        chosen["loadBalancer"] = {
            **chosen.get("loadBalancer", {}),
            "servers": [server for _, server in servers],
        }
    return chosen


def _add(endpoint: FeedEndpoint, network: _Network, flaws: Flaws, *, is_leading: bool) -> None:
    """Add what the labels of one container define, and the container as a server of its services."""
    source = _Source(endpoint, flaws)
    defined = source.definitions()
    if defined is None:
        return
    for key, fields in defined.items():
        if key[1] == "middlewares":
            _count(network, key, assemble(fields))
    for protocol in ("http", "tcp", "udp"):
        services = {key[2]: fields for key, fields in defined.items() if key[:2] == (protocol, "services")}
        routers = {key[2]: fields for key, fields in defined.items() if key[:2] == (protocol, "routers")}
        if not services and (routers or protocol == "http"):
            services = {"-".join(endpoint.service_key): []}
        for name, fields in services.items():
            key = (protocol, "services", name)
            options, server = source.service(key, assemble(fields))
            _count(network, key, options)
            if server is not None and is_leading:
                network.servers.setdefault(key, {})[json.dumps(server)] = server
        for name, fields in routers.items():
            router = source.router((protocol, "routers", name), assemble(fields), tuple(services))
            if router is not None:
                _count(network, (protocol, "routers", name), router)


def _count(network: _Network, defined: Defined, value: Mapping[str, object]) -> None:
    network.texts.setdefault(defined, Counter())[json.dumps(value, sort_keys=True)] += 1


class _Source:
    """One container, whose labels are read."""

    def __init__(self, endpoint: FeedEndpoint, flaws: Flaws) -> None:
        self._endpoint = endpoint
        self._network = endpoint.network
        self._flaws = flaws

    def definitions(self) -> dict[Defined, list[tuple[Place, object]]] | None:
        """Return the fields that its labels set; None: it is not for Traefik."""
        found: dict[Defined, list[tuple[Place, object]]] = {}
        is_enabled: bool | None = None
        for key, text in sorted(self._endpoint.labels.items()):
            prefix, _, rest = key.partition(".")
            if prefix.lower() != PREFIX:
                continue
            if rest.lower() == "enable":
                is_enabled = text.strip().lower() in ("1", "t", "true")
                continue
            try:
                defined, place, value = _field(rest.split("."), text)
            except FieldError as error:
                self._flaw(f"the label {key[:120]} is left out: {error}")
            else:
                found.setdefault(defined, []).append((place, value))
        return found if (bool(found) if is_enabled is None else is_enabled) else None

    def service(
        self, defined: Defined, value: Mapping[str, object]
    ) -> tuple[dict[str, object], dict[str, object] | None]:
        """Return the options of a service, and the container as a server of it; None: it is none."""
        balancer = dict(_struct_at(value, "loadBalancer"))
        server = _struct_at(balancer, "server")
        balancer.pop("server", None)
        return {"loadBalancer": balancer}, self._server(defined, server)

    def _server(self, defined: Defined, server: Mapping[str, object]) -> dict[str, object] | None:
        what = " ".join(defined)
        port = self._port(defined, server)
        if port is None or not self._endpoint.addresses:
            return None
        number, scheme = port
        place = upstream(self._endpoint, number, self._flaws)
        if place is None:
            return None
        where = at_port(*place)
        if defined[0] != "http":
            return {"address": where, **({"tls": True} if server.get("tls") else {})}
        if scheme not in ("http", "https", "h2c"):
            self._flaw(f"the scheme of {what} is none of http, https and h2c")
            return None
        return {"url": f"{scheme}://{where}"}

    def _port(self, defined: Defined, server: Mapping[str, object]) -> tuple[int, object] | None:
        """Return the port of a service and its scheme: what its label says, else what the container exposes."""
        scheme, text = server.get("scheme", "http"), server.get("port")
        if text is not None:
            number = whole_number(str(text), 1, 65535)
            if number is None:
                self._flaw(f"the port of {' '.join(defined)} is none: {str(text)[:40]!r}")
            return None if number is None else (number, scheme)
        exposed = _exposed(defined[0], self._endpoint)
        if exposed is None:
            self._flaw(f"{' '.join(defined)} has no port: expose one, as netagent.expose=http=80/tcp does")
            return None
        return exposed.number, server.get("scheme", "https" if exposed.name == "https" else "http")

    def router(
        self, defined: Defined, router: dict[str, object], services: tuple[str, ...]
    ) -> dict[str, object] | None:
        """Complete a router; None: it is refused."""
        protocol, what = defined[0], f"the {defined[0]} router {defined[2]}"
        if protocol != "udp" and not router.get("rule"):
            self._flaw(f"{what} is left out: it has no rule")
            return None
        if "service" not in router and len(services) != 1:
            self._flaw(f"{what} is left out: it does not say to which of {len(services)} services it leads")
            return None
        refusals = () if self._network.rules is None else _refusals(protocol, router, self._network.rules)
        for reason in refusals:
            self._flaw(f"{what} is refused: feed.rules of {self._network.name} {reason}")
            return None
        return {**router, "service": router.get("service", services[0])}

    def _flaw(self, sentence: str) -> None:
        self._flaws.add(self._endpoint, sentence)


def _field(path: list[str], text: str) -> tuple[Defined, Place, object]:
    if len(path) < 4:
        raise FieldError("it is no field of a router, service or middleware")
    if len(path) > _MAX_PARTS or not all(path):
        raise FieldError("a part of it is empty, or it has too many")
    protocol, section, name, *rest = path
    schema = SECTIONS.get((protocol.lower(), section.lower()))
    if schema is None:
        raise FieldError(f"labels cannot set {protocol[:40]}.{section[:40]}")
    if "@" in name or "[" in name:
        raise FieldError("its name has an @ or a bracket")
    place, value = field_untrusted(schema, rest, text)
    return (protocol.lower(), section.lower(), name), place, value


def _exposed(protocol: str, endpoint: FeedEndpoint) -> Port | None:
    """Return the port to use without a label: `http`, and if none has that name the lowest, as Traefik does."""
    if protocol == "http" and (port := http_port(endpoint)):
        return port
    wanted = "udp" if protocol == "udp" else "tcp"
    ports = [port for port in endpoint.ports if port.protocol == wanted]
    return min(ports, key=lambda port: (port.number, port.name), default=None)


def _refusals(protocol: str, router: Mapping[str, object], rules: Sequence[str]) -> Iterator[str]:
    """Yield why a router may not be published."""
    if protocol == "udp":
        yield "allow domains, and UDP has none"
        return
    rule = str(router["rule"])
    try:
        if not is_bounded_untrusted(rule, rules):
            yield f"do not allow {rule[:120]}"
    except RuleError as error:
        yield f"are there, and its rule {error}"
    domains = _struct_at(router, "tls").get("domains", [])
    assert isinstance(domains, list)
    for domain in domains:
        for one in [domain.get("main", ""), *domain.get("sans", [])]:
            if one and not is_allowed(one, rules):
                yield f"do not allow a certificate for {one[:120]}"


def _struct_at(value: Mapping[str, object], name: str) -> Mapping[str, object]:
    inner = value.get(name, {})
    assert isinstance(inner, dict)
    return inner
