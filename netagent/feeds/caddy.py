"""`caddy`: a configuration of Caddy 2 in its JSON form, with one site for each domain that labels name.

    caddy=shop.example.com                        the sites: domains, `http://` before one for no TLS
    caddy.reverse_proxy={{upstreams 8080}}        the port; without this label the one that `netagent.expose` names

These are the labels that people put on containers for a proxy beside Docker. Further directives in labels are not
understood, and named as left out. A site is at port 443 with TLS or at port 80 without: a label opens no other port
of the proxy's host (2019 is Caddy's own), and two sites cannot want different things of one. Where replicas name
different sites, each site has the replicas that name it.

Caddy loads all of its configuration at once. So the feed is a whole configuration; one that is served names itself as
the place to load the next from, and Caddy does nothing while it stays the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from netagent.feeds.host_rule import is_allowed, is_domain
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
from netagent.model.number import whole_number
from netgossip.slices import Slices, merge_sort

SITES, PROXY = "caddy", "caddy.reverse_proxy"

POLL_S = 5

MAX_SITES: Final = 32
"""Bound of sites of one container; beyond it: further ones are left out. A label of 4 KiB names a thousand."""

_TLS_PORT, _PLAIN_PORT = 443, 80

_UPSTREAMS = re.compile(r"\{\{\s*upstreams(?:\s+(https?))?(?:\s+([0-9]{1,5}))?\s*\}\}")
_SITE = re.compile(r"(?:(https?)://)?([^/:\s]+)(?::([0-9]{1,5}))?/?")


@dataclass(frozen=True, slots=True)
class _Site:
    port: int
    host: str


@dataclass(slots=True)
class _Proxied:
    network: FeedNetwork
    has_tls_upstreams: bool
    upstreams: set[str]


def caddy(table: FeedTable) -> Slices[FeedBody]:
    """Make the feed."""
    flaws, sites = Flaws(), dict[_Site, _Proxied]()
    order = {network: number for number, network in enumerate(table.networks)}
    services = list((yield from by_service(table.endpoints)).values())
    in_order = yield from merge_sort(services, key=lambda one: order.get(one[0].network, len(order)))
    for endpoints in in_order:
        lead = {one.endpoint_id for one in leading(endpoints)}
        for endpoint in endpoints:
            _add(endpoint, sites, flaws, is_leading=endpoint.endpoint_id in lead)
            yield
    return FeedBody((yield from _config(sites, table.url)), tuple(flaws.sentences))


def _add(endpoint: FeedEndpoint, sites: dict[_Site, _Proxied], flaws: Flaws, *, is_leading: bool) -> None:
    for key in endpoint.labels:
        if key.startswith(("caddy.", "caddy_")) and key != PROXY:
            flaws.add(endpoint, f"the label {key[:80]} is not understood; only {SITES} and {PROXY} are")
    text = endpoint.labels.get(SITES)
    if text is None:
        return
    dialled = _upstream(endpoint, flaws)
    if dialled is None:
        return
    dial, is_tls = dialled
    words = text.replace(",", " ").split()
    if len(words) > MAX_SITES:
        flaws.add(endpoint, f"the label {SITES} has {len(words)} sites; the first {MAX_SITES} count")
    for word in words[:MAX_SITES]:
        site = _site(endpoint, word, flaws)
        if site is None:
            continue
        proxied = sites.setdefault(site, _Proxied(endpoint.network, is_tls, set()))
        if proxied.network != endpoint.network or proxied.has_tls_upstreams != is_tls:
            flaws.add(endpoint, f"the site {word[:80]} is another's: {proxied.network.name} has it")
        elif is_leading:
            proxied.upstreams.add(dial)


def _upstream(endpoint: FeedEndpoint, flaws: Flaws) -> tuple[str, bool] | None:
    """Return what to dial, and whether by TLS."""
    text, scheme, number = endpoint.labels.get(PROXY), None, None
    if text is not None:
        match = _UPSTREAMS.fullmatch(text.strip())
        if match is None:
            flaws.add(
                endpoint, f"the label {PROXY}={text[:80]!r} is not understood; write {{{{upstreams 8080}}}}"
            )
            return None
        scheme, number = match[1], whole_number(match[2] or "", 1, 65535)
    exposed = http_port(endpoint)
    if number is None and exposed is not None:
        number, scheme = exposed.number, scheme or exposed.name
    if number is None or not endpoint.addresses:
        flaws.add(
            endpoint, "no port is known: expose one by the name http, as netagent.expose=http=80/tcp does"
        )
        return None
    place = upstream(endpoint, number, flaws)
    return None if place is None else (at_port(*place), scheme == "https")


def _site(endpoint: FeedEndpoint, word: str, flaws: Flaws) -> _Site | None:
    match = _SITE.fullmatch(word)
    host = match[2].lower() if match else ""
    number = None if match is None or match[3] is None else whole_number(match[3], 1, 65535)
    if match is None or not is_domain(host) or (match[3] and number is None):
        flaws.add(endpoint, f"the label {SITES} has {word[:80]!r}, which is no domain")
        return None
    rules = endpoint.network.rules
    if rules is not None and not is_allowed(host, rules):
        flaws.add(endpoint, f"feed.rules of {endpoint.network.name} do not allow the domain {host}")
        return None
    is_tls = match[1] == "https" or (match[1] is None and number != _PLAIN_PORT)
    port = _TLS_PORT if is_tls else _PLAIN_PORT
    if number is not None and number != port:
        flaws.add(
            endpoint, f"the site {word[:80]} is refused: sites are at port 443 with TLS or at 80 without"
        )
        return None
    return _Site(port, host)


def _config(sites: dict[_Site, _Proxied], url: str | None) -> Slices[dict[str, object]]:
    routes: dict[int, list[object]] = {}
    for site in (yield from merge_sort(list(sites), key=lambda one: (one.port, one.host))):
        routes.setdefault(site.port, []).append((yield from _route(site, sites[site])))
        yield
    servers: dict[str, object] = {}
    for port, here in routes.items():
        server: dict[str, object] = {"listen": [f":{port}"], "routes": here}
        if port == _PLAIN_PORT:
            server["automatic_https"] = {"disable": True}
        servers[f"netagent-{port}"] = server
    config: dict[str, object] = {"apps": {"http": {"servers": servers}}}
    if url is not None:
        load = {"module": "http", "url": url}
        config["admin"] = {"config": {"load": load, "load_delay": f"{POLL_S}s"}}
    return config


def _route(site: _Site, proxied: _Proxied) -> Slices[dict[str, object]]:
    dials = yield from merge_sort(list(proxied.upstreams), key=str)
    upstreams: list[object] = []
    for dial in dials:
        upstreams.append({"dial": dial})
        yield
    handler: dict[str, object] = {"handler": "reverse_proxy", "upstreams": upstreams}
    if proxied.has_tls_upstreams:
        handler["transport"] = {"protocol": "http", "tls": {}}
    return {"match": [{"host": [site.host]}], "handle": [handler], "terminal": True}
