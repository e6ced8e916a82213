"""Answers that are not tables: one object in a few lines; SHOWN says which lines an answer of a type has.

Each function yields lines and knows nothing of terminals. Operators read `status` first when something is wrong, so
each line states a fact and each warning says what to type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from netagent.cli import tables
from netagent.cli.render import GAP, Item, Printer, clean, counted, moment, some, span
from netagent.cli.tables import ID_DIGITS
from netagent.interface.cluster import InitCommand, InviteCommand
from netagent.interface.command import Command
from netagent.interface.containers import NetworkInspectCommand, UnpublishServiceCommand
from netagent.interface.tokens import TokenCreateCommand

if TYPE_CHECKING:
    from netagent.interface import schema

_LABEL_WIDTH = len("data plane: ")
_REFUSED = {
    "packets_spoofed": "from containers with a foreign source address",
    "packets_crossed": "from network to network",
    "packets_confined": "out of internal networks",
    "packets_unlisted": "to addresses outside that the network's egress does not list",
    "packets_uninvited": "from outside, to no published port",
    "packets_hostward": "between a host and containers",
    "packets_strangers": "to the VXLAN port from a non-member",
    "packets_clear": "to or from the VXLAN port in the clear, although the cluster encrypts",
    "packets_floods": "of multicast beyond its budget",
    "packets_refused": "between containers without a link",
}
"""The firewall's counters in words; other counters are shown by their names."""


def status(answer: Item) -> Iterator[str]:
    """`netagent status`."""
    host, cluster = answer["host"], answer["cluster"]
    yield _line(
        "host",
        _sentence(
            [
                f"{host['name']} ({host['id'][:ID_DIGITS]})",
                host["address"],
                host["zone"] and f"zone {host['zone']}",
                f"netagent {host['version']}",
                f"up {span(host['uptime_s'])}",
            ]
        ),
    )
    if cluster is None:
        yield _line("cluster", "none")
    else:
        yield from _cluster(answer)
    if answer["refused"]:
        total = sum(answer["refused"].values())
        causes = {
            _REFUSED.get(cause, cause.replace("_", " ")): count for cause, count in answer["refused"].items()
        }
        yield _line("refused", f"{counted(total, 'packet')} since the start ({_tally(causes)})")
    if audited := answer.get("audited"):  # agents of the previous release do not send it
        yield _line(
            "audited", f"{counted(audited, 'packet')} since the start that --policy links would refuse"
        )
    if cluster is None or answer["heard"]:
        yield from _heard(answer)
    if answer["warnings"]:
        yield ""
        yield "warnings:"
    for warning in answer["warnings"]:
        yield f"  ! {clean(warning['message'])}"
        yield f"    cure: {clean(warning['cure'])}"


def _cluster(answer: Item) -> Iterator[str]:
    cluster, endpoints, dns, drift = (answer[key] for key in ("cluster", "endpoints", "dns", "drift"))
    yield _line(
        "cluster", f"{cluster['name']} ({cluster['id'][:ID_DIGITS]}), names end in {cluster['domain']}"
    )
    yield _line("members", _tally(answer["members"]))
    here = some(answer["networks"], most=8) or "none"
    yield _line("networks", f"{here} ({len(answer['networks'])} of {answer['network_count']} in the cluster)")
    hidden = f", {endpoints['hidden']} hidden from names" if endpoints["hidden"] else ""
    yield _line(
        "endpoints", f"{endpoints['local']} on this host, {endpoints['total']} in its networks{hidden}"
    )
    addresses = answer.get("service_addresses", {})  # agents of the previous release do not send it
    if count := addresses.get("count"):
        why = addresses["untranslated"]
        led = f"names lead to replicas here: {why}" if why else "led to replicas by this host's kernel"
        yield _line("services", clean(f"{counted(count, 'address', 'addresses')} of services, {led}"))
    sandboxes = counted(dns["sandboxes"], "container")
    running = f"answering in {sandboxes}" if dns["running"] else f"NOT RUNNING, {sandboxes} without DNS"
    yield _line("dns", f"{running}, {counted(dns['queries'], 'query', 'queries')} so far")
    yield _line("drift", _drift(drift))
    yield _line("paths", _tally(answer["paths"]) or "no other host")
    yield _line("data plane", answer["data_plane"])
    if unsigned := answer.get("unsigned"):
        allowed = "the cluster allows it" if answer.get("allows_unsigned") else "refused once all hosts sign"
        yield _line(
            "unsigned", f"{some(unsigned)} {'proves' if len(unsigned) == 1 else 'prove'} nothing; {allowed}"
        )
    ring = answer.get("ring_key", {})  # agents of the previous release do not send it
    if ring.get("changing_to"):
        waits = f"; not yet on {some(ring['lacking'])}" if ring["lacking"] else ""
        yield _line("ring key", f"changes to {ring['changing_to'][:ID_DIGITS]}{waits}")


def _drift(drift: Item) -> str:
    if drift["checked_s"] is None:
        return "not checked yet"
    found = counted(drift["differences"], "difference") if drift["differences"] else "none"
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in drift.get("kinds", {}).items())
    told = f": {kinds}" if kinds else ""
    repaired = f", {drift['repaired']:,} repaired since the start{told}" if drift["repaired"] else ""
    return f"{found} (checked {span(drift['checked_s'])} ago{repaired})"


def _heard(answer: Item) -> Iterator[str]:
    """List the hosts heard nearby; outside a cluster, also what to type next."""
    heard = answer["heard"]
    yield ""
    yield "heard nearby:" if heard else "No other host was heard on the local network."
    for one in heard:
        nowhere = "in no cluster" if answer["cluster"] else "in no cluster either"
        unknown = "not of this cluster" if one["how"] == "gossip" else nowhere
        belongs = f"cluster {one['cluster']}" if one["cluster"] else unknown
        way = "mDNS" if one["how"] == "mdns" else one["how"]
        yield "  " + clean(
            GAP.join(part for part in (one["name"], one["address"], belongs, f"by {way}") if part)
        )
    if answer["cluster"] is not None:
        return
    address = "" if any(one["cluster"] for one in heard) else " ADDRESS"
    join = f"netagent join{address}"
    yield ""
    yield "This host is in no cluster. Type one of:"
    yield f"  {'netagent init':<24}to start a cluster with this host"
    yield f"  {join:<24}to join one; it asks for the token that `netagent invite` prints on a member"


def endpoint(answer: Item) -> Iterator[str]:
    """`netagent attach`: the endpoint that it made or found."""
    what = "" if answer.get("created", True) else ", already attached"
    yield clean(
        f"{answer['name']} ({answer['id'][:ID_DIGITS]}) on {answer['host']} in {answer['network']}{what}"
    )
    yield _line("addresses", ", ".join(answer["addresses"]))
    yield _line("names", ", ".join(answer["names"]))
    if answer["links"]:
        yield _line("links", ", ".join(f"{link['alias']} is {link['service']}" for link in answer["links"]))
    if answer["published"]:
        yield _line("published", ", ".join(answer["published"]))
    if answer["state"] != "up":
        yield _line("state", f"{answer['state']}: {answer['reason']}")


def network(answer: Item) -> Iterator[str]:
    """`netagent network create`: the network that it made or found."""
    what = "" if answer.get("created", True) else " already exists with these options"
    yield clean(f"network {answer['name']} ({answer['id'][:ID_DIGITS]}){what}")
    yield _line("subnets", ", ".join(answer["subnets"]))
    yield _line("names", f"end in {answer['domain']}")
    if answer.get("service_addresses") == "on":
        yield _line("services", "each gets an address of its own with its first replica")
    if answer["clash"]:
        yield _line("clash", answer["clash"])


def space(use: Item) -> Iterator[str]:
    """Summarise a network's address space; printed above the table of owners."""
    yield ""
    known = "" if use["used"] is None else f", {use['used']:,} used, {use['free']:,} free"
    away = f", {use['away']:,} of these owned by hosts that are away" if use["away"] else ""
    unowned = f", {use['unowned']:,} without an owner known here" if use["unowned"] else ""
    yield f"{counted(use['total'], 'address', 'addresses')}{known}{away}{unowned}"
    if use["used"] is None:
        yield "how many are used is not known here: no host of the network answers"


def thing(answer: Item, kind: str) -> Iterator[str]:
    """Yield all fields of an object, one per line, except empty fields and lists that have tables of their own."""
    yield clean(f"{kind} {answer['name']}")
    fields = {
        key: value
        for key, value in answer.items()
        if key not in ("schema", "kind", "name", "endpoints", "why", "use", "warnings")
    }
    shown = {
        _label(key): _value(key, value) for key, value in fields.items() if value not in ("", [], {}, None)
    }
    width = max(map(len, shown)) + 2
    for label, text in shown.items():
        yield f"  {(label + ':').ljust(width)}{clean(text)}"


def origins(why: Item) -> Iterator[str]:
    """`inspect --why`: the records behind the objects; printed above the table of objects."""
    yield ""
    if not why["records"] and not why["objects"]:
        yield "It comes from no record, and no object on this host belongs to it."
        return
    for record in why["records"]:
        version = (
            "its record is not on this host (any more)"
            if record["epoch"] is None
            else f"epoch {record['epoch']}, sequence {record['sequence']} of its log"
        )
        yield clean(
            f"the {record['kind']} {record['name']} was published by host {record['host']}: {version}"
        )
    if why["left_out"]:
        yield f"{counted(why['left_out'], 'further endpoint')} of this service left out: inspect one of them by name"
    yield ""


def fixes(why: Item) -> Iterator[str]:
    """`inspect --why`: what to type for each object that is wrong; printed below the table."""
    wrong = [one for one in why["objects"] if one["fix"]]
    if not wrong:
        return
    yield ""
    yield "netagent repairs its own objects within seconds; repair by hand what stays wrong:"
    for one in wrong:
        yield f"  ! {clean(one['thing'])}: {clean(_sentence([one['state'], one['reason']]))}"
        yield f"    fix: {clean(one['fix'])}"


def _label(key: str) -> str:
    for suffix in ("_bytes", "_s"):
        key = key.removesuffix(suffix)
    return key.replace("_", " ")


def _value(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key.endswith("_s"):
        return span(value)
    if key.endswith("_bytes"):
        return f"{value} bytes"
    if key == "labels":
        return ", ".join(f"{name}={text}" for name, text in value.items())
    if isinstance(value, list):
        return ", ".join(_part(part) for part in value)
    return _part(value)


def _part(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    if value.keys() == {"service", "alias"}:
        return f"{value['alias']} is {value['service']}"
    if value.keys() == {"host", "addresses"}:
        return f"{value['host']} {' '.join(value['addresses'])}"
    if value.keys() == {"option", "value", "since", "by", "host"}:
        what = f"{value['option'].replace('_', ' ')} {value['value']}"
        return f"{what} by {value['by']} on {value['host']}, {value['since']}"
    if value.keys() == {"name", "number", "protocol"}:
        return f"{value['name']}={value['number']}/{value['protocol']}"
    return ", ".join(f"{key.replace('_', ' ')} {part}" for key, part in value.items())


def _line(label: str, text: str) -> str:
    return f"{label + ':':<{_LABEL_WIDTH}}{clean(text)}"


def _tally(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {word}" for word, number in counts.items())


def _sentence(parts: Sequence[str]) -> str:
    return ", ".join(part for part in parts if part)


# -- answers with one object, by their type --------------------------------------------------------------------------


def _initialised(_printer: Printer, _request: object, answer: schema.Initialised) -> Iterable[str]:
    cluster = answer["cluster"]
    begun = "this host has started" if answer["created"] else "this host is already in"
    yield f"{begun} the cluster {cluster['name']}; names end in {cluster['domain']}"


def _joined(_printer: Printer, _request: object, answer: schema.Joined) -> Iterable[str]:
    how = "joined" if answer["via"] else "this host is already in"
    through = f" through {answer['via']}" if answer["via"] else ""
    members = counted(answer["members"], "host")
    yield f"{how} the cluster {answer['cluster']['name']}{through}; it has {members}"


def _left(_printer: Printer, _request: object, answer: schema.Left) -> Iterable[str]:
    detached = counted(answer["detached"], "endpoint")
    yield f"left the cluster {answer['cluster']['name']}; {detached} detached"


def _forgotten(_printer: Printer, _request: object, answer: schema.ForgetAnswer) -> Iterable[str]:
    if not answer["hosts"]:
        yield "no host has been silent for that long"
        return
    took = counted(answer["addresses"], "address", "addresses")
    yield clean(f"forgot {', '.join(_hosts(answer))}; this host took over {took}")
    if answer["unheard"]:
        yield clean(f"not acknowledged by {', '.join(answer['unheard'])}, which may own some of them")


def _revoked(_printer: Printer, _request: object, answer: schema.RevokeAnswer) -> Iterable[str]:
    took = counted(answer["addresses"], "address", "addresses")
    yield clean(f"revoked {', '.join(_hosts(answer))}; this host took over {took}")
    if answer["unheard"]:
        yield clean(f"not acknowledged yet by {', '.join(answer['unheard'])}")


def _hosts(answer: schema.ForgetAnswer | schema.RevokeAnswer) -> list[str]:
    return [host["name"] for host in answer["hosts"]]


def _withdrawn(_printer: Printer, _request: object, answer: schema.WithdrawAnswer) -> Iterable[str]:
    told = counted(answer["told"], "host")
    yield f"withdrew the names of this host and its containers; {told} notified"


def _network(printer: Printer, request: object, answer: schema.Network) -> Iterable[str]:
    if not isinstance(request, NetworkInspectCommand):
        yield from network(answer)
        return
    yield from thing(answer, "network")
    if use := answer.get("use"):  # agents of the previous release do not send it
        yield from space(use)
        yield from printer.table(use["owners"], tables.OWNERS)


def _changed_network(_printer: Printer, _request: object, answer: schema.ChangedNetwork) -> Iterable[str]:
    if not answer["changed"]:
        yield clean(f"network {answer['name']} has these options already")
    for one in answer["changed"]:
        words = one["option"].replace("_", " ")
        yield clean(f"network {answer['name']}: {words} {one['value']} (was {one['former']})")
    if answer["unheard"]:
        yield clean(
            f"not acknowledged yet by {', '.join(answer['unheard'])}: it follows there once they are reached"
        )


def _removed(_printer: Printer, _request: object, answer: schema.NetworkRemoved) -> Iterable[str]:
    detached = f"; {counted(answer['detached'], 'endpoint')} detached" if answer["detached"] else ""
    yield f"removed the network {answer['name']}{detached}"


def _detached(_printer: Printer, _request: object, answer: schema.Detached) -> Iterable[str]:
    yield clean(f"detached {answer['name']} ({answer['id'][:ID_DIGITS]}) from {answer['network']}")


def _drained(_printer: Printer, _request: object, answer: schema.Drained) -> Iterable[str]:
    endpoints = counted(answer["endpoint_count"], "endpoint")
    where = f"in {answer['network']}" if answer["network"] else f"with {endpoints}"
    thing, drain = f"{answer['name']} {where}", answer["drain"]
    if drain is None:
        yield clean(f"names lead to {thing} again")
        return
    yield clean(f"names lead away from {thing}; drained by {drain['by']}, since {moment(drain['since'])}")
    if answer["idle"] is not None:
        yield "no connection is open" if answer["idle"] else "connections are still open"


def _checked(printer: Printer, _request: object, answer: schema.CheckAnswer) -> Iterable[str]:
    for endpoint in answer["endpoints"]:
        why = f": {endpoint['reason']}" if endpoint["reason"] else ""
        yield clean(f"{endpoint['name']} in {endpoint['network']} is {endpoint['state']}{why}")
        yield from printer.table(endpoint["results"], tables.CHECKS)
        for result in endpoint["results"]:
            yield from (f"  {clean(line)}" for line in result["shown"].splitlines())


def external(printer: Printer, answer: Item) -> Iterator[str]:
    """Say what was added to a service that is no container: by each command that added to it."""
    for part in answer["external"]:
        what = {"name": f"name {part['dns_name']}", "host-port": "a program of that host"}.get(
            part["kind"], ""
        )
        added = f"added on {part['owner']} by {part['added_by']}, {moment(part['added_at'])}"
        yield clean(_sentence([f"external service {part['id'][:ID_DIGITS]}", what, added]))
        checks = ", ".join(part["checks"])
        yield from (
            _line(label, text)
            for label, text in (
                ("checks", f"{checks} (asked by {part['asked_by']})" if checks else ""),
                ("renewed", f"within {span(part['ttl_s'])}" if part["ttl_s"] else ""),
                ("weight", str(part["weight"]) if part["weight"] != 100 else ""),
                ("not used", f"container {part['shadowed_by']} has the name" if part["shadowed_by"] else ""),
                ("reason", part["reason"]),
            )
            if text
        )
        yield from printer.table(part["addresses"], tables.EXTERNAL)


def service_address(printer: Printer, part: Item) -> Iterator[str]:
    """Say which address a service has, with which options, and where this host leads connections to it."""
    why = {"label": "by the label netagent.address=true", "network": "by its network"}.get(part["origin"], "")
    names = "" if part["in_names"] else "names lead to another one"
    yield clean(_sentence([", ".join(part["addresses"]), f"given on {part['owner']} {why}".rstrip(), names]))
    ports = [
        str(one["number"]) if one["number"] == one["target"] else f"{one['number']} to {one['target']}"
        for one in part["ports"]
    ]
    yield from (
        _line(label, text)
        for label, text in (
            ("balance", _sentence([part["balance"], "sticky" if part["sticky"] else ""])),
            ("ports", ", ".join(ports) or "all"),
            ("weights", ", ".join(f"{host}={weight}" for host, weight in part["host_weights"].items())),
            ("failing", "used while no replica is up" if part["all_failing"] == "keep" else ""),
            ("gone", "connections are kept" if part["keep_connections"] else ""),
            ("backends", "" if part["backends"] else "none: connections are refused"),
        )
        if text
    )
    if part["backends"]:
        yield from printer.table(part["backends"], tables.BACKENDS)


def _service_created(printer: Printer, _request: object, answer: schema.ServiceCreated) -> Iterable[str]:
    has = "has now" if answer["created"] else "has"
    yield clean(f"{_service_name(answer)} in {answer['network']} is {answer['fqdn']}, and {has} the address")
    for part in answer["service_addresses"]:
        yield from service_address(printer, part)


def _service_name(service: Item) -> str:
    return f"{service['name']}.{service['group']}" if service.get("group") else str(service["name"])


def _described(printer: Printer, _request: object, answer: schema.ServiceDescription) -> Iterable[str]:
    name = _service_name(answer)
    up = f"{answer['answering']} of {counted(answer['endpoint_count'], 'replica')} up"
    yield clean(f"{name} in {answer['network']} is {answer['fqdn']}: {up}")
    if not answer["service_addresses"]:
        group = f" --group {answer['group']}" if answer.get("group") else ""
        yield clean(
            f"it has no address of its own: `netagent service create {answer['name']} "
            f"--network {answer['network']}{group}` gives it one"
        )
    for part in answer["service_addresses"]:
        yield ""
        yield from service_address(printer, part)
    if answer["no_backends"]:
        yield ""
        yield from printer.table(answer["no_backends"], tables.NO_BACKENDS)


def _service_added(printer: Printer, _request: object, answer: schema.ServiceAdded) -> Iterable[str]:
    what = "" if answer["created"] else ", already added"
    yield clean(f"{answer['name']} in {answer['network']} is {answer['fqdn']}{what}")
    yield from external(printer, answer)


def _service_removed(_printer: Printer, _request: object, answer: schema.ServiceRemoved) -> Iterable[str]:
    name, network = _service_name(answer), answer["network"]
    if addresses := answer.get("addresses"):
        yield clean(f"removed the address of service {name} in {network}: {', '.join(addresses)}")
    if answer["removed"]:
        yield clean(f"removed the external service {name} from {network}")


def _service_published(_printer: Printer, request: object, answer: schema.PublishedService) -> Iterable[str]:
    name = clean(".".join(filter(None, (answer["name"], answer["group"], answer["network"]))))
    if isinstance(request, UnpublishServiceCommand):
        yield f"{answer['port']} no longer leads to {name}"
        return
    what = "" if answer["created"] else ", already published"
    yield f"{answer['port']} leads to {name} on each host with a replica{what}"
    if not answer["replicas"]:
        yield "this host has none in names, so its port is refused"


def _suggested_links(_printer: Printer, _request: object, answer: schema.PolicySuggestion) -> Iterable[str]:
    """Print what a shell can run, host by host."""
    links, network = answer["links"], answer["network"]
    seen = f"{answer['seen']:,} flows in {network} in the last hour"
    if not links:
        yield clean(f"# {seen} need no more links")
    for host in dict.fromkeys(one["from_host"] for one in links):
        yield clean(f"# on {host}:")
        for one in (one for one in links if one["from_host"] == host):
            more = f"; also allows {one['also']} that it did not use" if one["also"] else ""
            yield clean(
                f"{one['command']}  # {', '.join(one['ports'])}: opened {one['openings']:,} time"
                f"{'' if one['openings'] == 1 else 's'}{more}"
            )
    for unused in answer["unused"]:
        yield clean(f"# on {unused['from_host']}, {unused['from']} did not use its link {unused['link']}")
    if answer["not_covered"]:
        yield clean(f"# {answer['not_covered']:,} flows are of or to containers that are gone")
    if links:
        yield clean(f"# {seen}; when the links are made: sudo netagent network set {network} --policy links")


def _own_name(_printer: Printer, _request: object, answer: schema.OwnName) -> Iterable[str]:
    what = "" if answer.get("created", True) else ", already added"
    leads_to = answer["cname"] or ", ".join([*answer["addresses"], *answer["texts"]])
    yield clean(f"{answer['fqdn']} leads to {leads_to}{what}")


def _own_name_removed(_printer: Printer, _request: object, answer: schema.OwnNameRemoved) -> Iterable[str]:
    yield clean(f"removed the name {answer['name']}")


def _inspected(printer: Printer, _request: object, answer: Mapping[str, Any]) -> Iterable[str]:
    apart = ("external", "service_addresses")
    yield from thing({key: one for key, one in answer.items() if key not in apart}, answer["kind"])
    for part in answer.get("service_addresses", []):
        yield ""
        yield from service_address(printer, part)
    if answer.get("external"):
        yield ""
        yield from external(printer, answer)
    if answer.get("endpoints"):
        yield ""
        yield from printer.table(answer["endpoints"], tables.ENDPOINTS)
    if why := answer.get("why"):
        yield from origins(why)
        if why["objects"]:
            yield from printer.table(why["objects"], tables.OBJECTS)
        yield from fixes(why)


def _ping(printer: Printer, request: Any, answer: schema.Ping) -> Iterable[str]:
    yield from printer.table(answer["results"], tables.PING)
    # The layers that are in order are news only to those who ask for them.
    hops = answer["trace"] if request.trace else [hop for hop in answer["trace"] if not hop["ok"]]
    if hops and (request.trace or not answer["reached"]):
        yield ""
        yield from printer.table(hops, tables.HOPS)
        yield from (f"fix: {clean(hop['fix'])}" for hop in answer["trace"] if not hop["ok"] and hop["fix"])
    yield ""
    yield clean(answer["says"]) + (f" (lost at: {answer['lost_at']})" if answer["lost_at"] else "")


def _rotated(_printer: Printer, _request: object, answer: Item) -> Iterator[str]:
    key, hosts = answer["id"][:ID_DIGITS], counted(answer["hosts"], "host")
    if answer["in_use"]:
        yield f"all live hosts use the ring key {key} ({hosts})"
        return
    yield f"made the ring key {key}; {hosts} {'has' if answer['hosts'] == 1 else 'have'} it"
    yield "it is used once all live hosts have it, within seconds: `netagent keys list`"


def _encryption(printer: Printer, _request: object, answer: Item) -> Iterator[str]:
    by = f" by {answer['changed_by']}" if answer["changed_by"] else ""
    on = f" on {answer['changed_on']}" if answer["changed_on"] else ""
    at = f" at {moment(answer['changed_at'])}" if answer["changed_at"] else ""
    since = f", changed{by}{on}{at}" if by or on or at else ""
    yield _line("encryption", clean(f"{answer['state']}{since}"))
    backend = f" ({answer['backend']})" if answer["backend"] else ""
    keys = f", keys {span(answer['key_age_s'])} old" if answer["key_age_s"] is not None else ""
    yield _line("paths", f"{answer['encrypted']} of {len(answer['paths'])} encrypted{backend}{keys}")
    yield _line("this host", _STAGES.get(answer["stage"]) or str(answer["stage"]))
    for text in answer["waiting"]:
        yield _line("waits", clean(text))
    if answer["away"]:
        yield _line("away", f"{some(answer['away'])}; not waited for")
    for one in answer["large_networks"]:
        size = f"packets of {one['mtu_bytes']} bytes, of which {one['passes_bytes']} pass the tunnel whole"
        yield _line("too large", clean(f"network {one['name']} has {size}"))
    if answer["paths"]:
        yield ""
        yield from printer.table(answer["paths"], tables.ENCRYPTED_PATHS)


_STAGES: Mapping[str, str] = {
    "clear": "sends and takes packets in the clear",
    "ready": "has a tunnel, and sends in the clear",
    "sending": "sends encrypted alone, and takes both",
    "fenced": "sends and takes encrypted packets alone",
}


def _installed_key(_printer: Printer, _request: object, answer: Item) -> Iterator[str]:
    key, hosts = answer["id"][:ID_DIGITS], counted(answer["hosts"], "host")
    done = "installed the ring key" if answer["created"] else "this host had already the ring key"
    yield f"{done} {key}; {hosts} {'has' if answer['hosts'] == 1 else 'have'} it, and none uses it"
    if answer["lacking"]:
        yield f"not yet on {some(answer['lacking'])}"
    yield f"`netagent keys use {key}` lets all hosts use it"


def _used_key(_printer: Printer, _request: object, answer: Item) -> Iterator[str]:
    key, hosts = answer["id"][:ID_DIGITS], counted(answer["hosts"], "host")
    if answer["in_use"]:
        yield f"all live hosts use the ring key {key} ({hosts})"
    else:
        yield f"all live hosts use the ring key {key} within seconds: `netagent keys list`"


def _removed_key(_printer: Printer, _request: object, answer: Item) -> Iterator[str]:
    done = "removed" if answer["changed"] else "removed before:"
    yield f"{done} the ring key {answer['id'][:ID_DIGITS]}; no live host accepts it in half a minute"
    if answer["away"]:
        yield f"it goes from {some(answer['away'])} on return"


Lines: TypeAlias = Callable[[Printer, Any, Any], Iterable[str]]

SHOWN: Mapping[str, tuple[Lines, Callable[[Any], str]]] = {
    "schema.Initialised": (_initialised, lambda answer: answer["cluster"]["name"]),
    "schema.Invitation": (
        lambda _printer, _request, answer: [answer["token"]],
        lambda answer: answer["token"],
    ),
    "schema.Uninvited": (
        lambda _printer, _request, answer: [
            f"revoked {counted(answer['revoked'], 'invitation')}" if answer["revoked"] else "none was open"
        ],
        lambda answer: str(answer["revoked"]),
    ),
    "schema.Dashboard": (
        lambda _printer, _request, answer: [answer["url"]],
        lambda answer: answer["url"],
    ),
    "schema.TokenCreated": (
        lambda _printer, _request, answer: [answer["token"]],
        lambda answer: answer["token"],
    ),
    "schema.TokenRevoked": (
        lambda _printer, _request, answer: [clean(f"revoked the token {answer['name']}")],
        lambda answer: answer["name"],
    ),
    "schema.Encryption": (_encryption, lambda answer: answer["state"]),
    "schema.RingKeyRotated": (_rotated, lambda answer: answer["id"]),
    "schema.RingKeyInstalled": (_installed_key, lambda answer: answer["id"]),
    "schema.RingKeyUsed": (_used_key, lambda answer: answer["id"]),
    "schema.RingKeyRemoved": (_removed_key, lambda answer: answer["id"]),
    "schema.Joined": (_joined, lambda answer: answer["cluster"]["name"]),
    "schema.Left": (_left, lambda answer: answer["cluster"]["name"]),
    "schema.ForgetAnswer": (_forgotten, lambda answer: " ".join(_hosts(answer))),
    "schema.RevokeAnswer": (_revoked, lambda answer: " ".join(_hosts(answer))),
    "schema.WithdrawAnswer": (_withdrawn, lambda answer: answer["name"]),
    "schema.Network": (_network, lambda answer: answer["name"]),
    "schema.ChangedNetwork": (_changed_network, lambda answer: answer["name"]),
    "schema.NetworkRemoved": (_removed, lambda answer: answer["name"]),
    "schema.Endpoint": (
        lambda _printer, _request, answer: endpoint(answer),
        lambda answer: answer["name"],
    ),
    "schema.Detached": (_detached, lambda answer: answer["name"]),
    "schema.CheckAnswer": (_checked, lambda answer: " ".join(one["name"] for one in answer["endpoints"])),
    "schema.Drained": (_drained, lambda answer: answer["name"]),
    "schema.ServiceCreated": (_service_created, lambda answer: answer["name"]),
    "schema.ServiceDescription": (_described, lambda answer: answer["name"]),
    "schema.ServiceAdded": (_service_added, lambda answer: answer["name"]),
    "schema.ServiceRemoved": (_service_removed, lambda answer: answer["name"]),
    "schema.PublishedService": (_service_published, lambda answer: answer["name"]),
    "schema.PolicySuggestion": (_suggested_links, lambda answer: answer["network"]),
    "schema.OwnName": (_own_name, lambda answer: answer["name"]),
    "schema.OwnNameRemoved": (_own_name_removed, lambda answer: answer["name"]),
    "schema.Status": (
        lambda _printer, _request, answer: status(answer),
        lambda answer: answer["host"]["name"],
    ),
    "schema.Inspection": (_inspected, lambda answer: answer["name"]),
    "schema.Ping": (_ping, lambda answer: answer["says"]),
}
"""How an answer is printed for people, and what `-o name` prints."""

LISTS_WARNINGS = frozenset({"schema.Status"})
"""Answers whose lines contain their warnings."""

HINTS: Mapping[type[Command[Any]], Callable[[Any], str]] = {
    TokenCreateCommand: lambda _: (
        "this is a secret, and shown only now: keep it in a file, and name that with --token-file"
    ),
    InitCommand: lambda _: (
        "`netagent add root@HOST` makes another host a member over ssh; without ssh, `netagent invite` prints a token"
    ),
    InviteCommand: lambda answer: (
        "on the new host type `netagent join` and paste this token; it works "
        f"{'once' if answer['uses'] == 1 else str(answer['uses']) + ' times'}, for {span(answer['ttl_s'])}. "
        "It is a secret"
    ),
}
"""Advice for the user at a terminal."""
