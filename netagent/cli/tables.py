"""The columns of each list: first those that users look for most; `-o wide` shows all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from netagent.cli.render import Column, Item, moment, some, span

ID_DIGITS = 12
"""Of 32 digits: unique among millions, and the length that users of other container tools know."""


_TIMES = "\u00d7"


def _service(service: Item) -> str:
    group = service.get("group", "")
    return f"{service['name']}.{group}" if group else str(service["name"])


def _up(service: Item) -> str:
    # Agents of the previous release do not send all of these.
    words = [
        f"{service[word]} {word}"
        for word in ("unreached", "drained", "starting", "unhealthy", "kept")
        if service.get(word)
    ]
    more = f" ({', '.join(words)})" if words else ""
    return f"{service['answering']}/{service['endpoint_count']}{more}"


def _addresses(item: Item) -> str:
    return some(_one_family(item["addresses"]))


def _one_family(addresses: list[str]) -> list[str]:
    """Return the IPv4 addresses, or all if there are none: each endpoint should appear once."""
    return [a for a in addresses if ":" not in a] or addresses


def _ports(item: Item) -> str:
    return ", ".join(
        (f"{p['name']}=" if p["name"] != str(p["number"]) else "") + f"{p['number']}/{p['protocol']}"
        for p in item["ports"]
    )


def _rtt(item: Item) -> str:
    return "" if item["rtt_s"] is None else span(item["rtt_s"])


ENCRYPTED_PATHS = (
    Column("HOST", lambda item: str(item["host"])),
    Column("STATE", lambda item: str(item["state"])),
    Column("IS", lambda item: str(item["stage"]) or "not heard"),
    Column(
        "HANDSHAKE", lambda item: "" if item["handshake_s"] is None else f"{span(item['handshake_s'])} ago"
    ),
    Column("SENT", lambda item: f"{item['sent_bytes']:,}"),
    Column("RECEIVED", lambda item: f"{item['received_bytes']:,}"),
    Column("HEARD AT", lambda item: str(item["endpoint"])),
)


def _path_mtu(item: Item) -> str:
    return "" if item.get("path_mtu_bytes") is None else str(item["path_mtu_bytes"])


def _loss(item: Item) -> str:
    return "" if item.get("loss_percent") is None else f"{item['loss_percent']:g} %"


def _path(item: Item) -> str:
    """Return the state of the path; for a degraded one also the size that still passes; and whether it encrypts."""
    size = _path_mtu(item) if item["path"] == "degraded" else ""
    word = f"{item['path']} to {size}" if size else str(item["path"])
    passes = item.get("encrypted") and item["path"] not in {"down", "unknown"}
    return f"{word}, encrypted" if passes else word


def _options(item: Item) -> str:
    words = [word for word in ("internal", "multicast", "host_access") if item[word]]
    words += [f"policy {item['policy']}"] if item["policy"] != "open" else []
    order = item.get("answer_order", "spread")  # agents of the previous release do not send it
    words += [f"answer {order}"] if order != "spread" else []
    words += ["shared names refused"] if item.get("shared_names") == "refuse" else []
    words += ["service addresses"] if item.get("service_addresses") == "on" else []
    words += [f"egress {egress}"] if (egress := item.get("egress", "open")) != "open" else []
    words += [f"feed rule {rule}" for rule in item.get("feed_rules", ())]
    words += [] if item.get("feed_labels", True) else ["no feed labels"]
    return ", ".join(word.replace("_", " ") for word in words)


def _number(number: int | None) -> str:
    """Format the number; "" if it is not known."""
    return "" if number is None else f"{number:,}"


def _use(item: Item, what: str) -> str:
    return _number(item.get("use", {}).get(what))  # agents of the previous release do not send it


def _free(item: Item) -> str:
    away = item.get("use", {}).get("away")
    return _use(item, "free") + (f" ({away:,} away)" if away else "")


def _owners(item: Item) -> list[str]:
    owners = [one for one in item.get("use", {}).get("owners", []) if one["owned"]]
    return [f"{one['host']} {one['owned']:,}{_away(one)}" for one in owners]


def _away(share: Item) -> str:
    return "" if share["agent"] in ("alive", "suspect") else f" ({share['agent']})"


def _source(item: Item) -> str:
    """Return the hosts that a row comes from, if this host lacks its record; older agents do not send it."""
    return some(item.get("told_by", [])) or str(item.get("source", ""))


def _not_up(service: Item) -> str:
    """Return the first endpoints that are not up, each with the reason; agents of the previous release send none."""
    shown = service.get("not_up", [])
    more = f" +{len(shown) - 2}" if len(shown) > 2 else ""
    return "; ".join(shown[:2]) + more


def _drained(item: Item) -> str:
    drain = item.get("drain")  # agents of the previous release do not send it
    return f"by {drain['by']}, since {moment(drain['since'])}" if drain else ""


def _flow_source(item: Item) -> str:
    """Earlier releases send no kind: they count containers alone."""
    if item.get("from_kind") == "host":
        return f"{item['from']} (host)"
    return f"{item['from']} (gone)" if item.get("from_gone") else str(item["from"])


def _flow_target(item: Item) -> str:
    return f"{item['to']} (gone)" if item.get("to_gone") else str(item["to"])


def _flow_port(item: Item) -> str:
    return str(item["protocol"]) if item["port"] is None else f"{item['port']}/{item['protocol']}"


def _state(item: Item) -> str:
    return str(item["state"])


def _places(service: Item) -> str:
    """Return the hosts of a service; of one that is no container, the hosts where it was added."""
    external = " (external)" if service.get("external") else ""  # older agents do not send it
    return some(service["hosts"]) + external


def _own_address(service: Item) -> str:
    """Return the address that the service has itself; agents of the previous release do not send any."""
    addresses = service.get("service_addresses") or [{"addresses": []}]
    more = f" +{len(addresses) - 1}" if len(addresses) > 1 else ""
    return some(_one_family(addresses[0]["addresses"])) + more


def _all_own_addresses(service: Item) -> str:
    return ", ".join(each for one in service.get("service_addresses", []) for each in one["addresses"])


def _balance(service: Item) -> str:
    return "".join(one["balance"] for one in service.get("service_addresses", [])[:1])


def _backends(service: Item) -> str:
    """Return the hosts to which connections are led, each with its places and how far it is."""
    found: dict[str, tuple[int | None, float | None]] = {}
    for one in [each for address in service.get("service_addresses", [])[:1] for each in address["backends"]]:
        where = one["host"] or ", ".join(one["addresses"])
        places, _ = found.get(where, (0, None))
        known = None if places is None or one["places"] is None else places + one["places"]
        found[where] = known, one["rtt_s"]
    return some([_led_to(where, *each) for where, each in found.items() if each[0] != 0])


def _led_to(where: str, places: int | None, rtt_s: float | None) -> str:
    share = "" if places is None else f" {_TIMES}{places}"
    return f"{where}{share}" + ("" if rtt_s is None else f" ({span(rtt_s)})")


def _leads_to(name: Item) -> str:
    return name["cname"] or ", ".join([*name["addresses"], *(f'"{text}"' for text in name["texts"])])


ENDPOINTS = (
    Column("NAME", lambda e: e["name"]),
    Column("SERVICE", lambda e: e["service"]),
    Column("NETWORK", lambda e: e["network"]),
    Column("HOST", lambda e: e["host"]),
    Column("ADDRESS", _addresses),
    Column("PORTS", _ports),
    Column("STATE", _state),
    Column("REASON", lambda e: e["reason"]),
    Column("ID", lambda e: e["id"][:ID_DIGITS], wide=True),
    Column("ALL ADDRESSES", lambda e: ", ".join(e["addresses"]), wide=True),
    Column("MAC", lambda e: e["mac"], wide=True),
    Column("PUBLISHED", lambda e: ", ".join(e.get("published", [])), wide=True),
    Column("WEIGHT", lambda e: str(e.get("weight", "")), wide=True),
    Column("HEALTH", lambda e: e["health"], wide=True),
    Column("SINCE", lambda e: moment(e.get("health_since") or ""), wide=True),
    Column("CHECKS", lambda e: ", ".join(e.get("checks", [])), wide=True),
    Column("LABELS", lambda e: ", ".join(f"{k}={v}" for k, v in e["labels"].items()), wide=True),
    Column("VERSION", lambda e: e["version"], wide=True),
    Column("CONTAINER", lambda e: e.get("container_id", "")[:ID_DIGITS], wide=True),
    Column("GROUP", lambda e: e.get("group", ""), wide=True),
    Column("COMPOSE", lambda e: e.get("compose_project", ""), wide=True),
    Column("SOURCE", _source, wide=True),
)

SERVICES = (
    Column("SERVICE", _service),
    Column("NETWORK", lambda s: s["network"]),
    Column("UP", _up),
    Column("ADDRESS", _own_address),
    Column("BACKENDS", _backends),
    Column("BALANCE", _balance),
    Column("ADDRESSES", _addresses),
    Column("HOSTS", _places),
    Column("PORTS", _ports),
    Column("NAME", lambda s: s["fqdn"]),
    Column("ALIASES", lambda s: some(s.get("aliases", []))),
    Column("NOT UP", _not_up),
    Column("SERVICE ADDRESSES", _all_own_addresses, wide=True),
    Column("ALL ADDRESSES", lambda s: ", ".join(s["addresses"]), wide=True),
    Column("NETWORK ID", lambda s: s["network_id"][:ID_DIGITS], wide=True),
    Column("SOURCE", _source, wide=True),
)

BACKENDS = (
    Column("BACKEND", lambda b: b["name"]),
    Column("HOST", lambda b: b["host"]),
    Column("ADDRESSES", lambda b: ", ".join(b["addresses"])),
    Column("WEIGHT", lambda b: str(b["weight"])),
    Column("PLACES", lambda b: "" if b["places"] is None else str(b["places"])),
    Column("RTT", _rtt),
)

NO_BACKENDS = (
    Column("NO BACKEND", lambda b: b["name"]),
    Column("HOST", lambda b: b["host"]),
    Column("REASON", lambda b: b["reason"]),
)

EXTERNAL = (
    Column("ADDRESS", lambda a: a["address"]),
    Column("PORT", lambda a: "" if a["port"] is None else str(a["port"])),
    Column("STATE", _state),
    Column("SINCE", lambda a: moment(a["since"])),
    Column("REASON", lambda a: a["reason"]),
)

OWN_NAMES = (
    Column("NAME", lambda n: n["name"]),
    Column("LEADS TO", _leads_to),
    Column("STATE", _state),
    Column("REASON", lambda n: n["reason"]),
    Column("ADDED ON", lambda n: n["owner"]),
    Column("BY", lambda n: n["added_by"]),
    Column("SINCE", lambda n: moment(n["added_at"]), wide=True),
    Column("FULL NAME", lambda n: n["fqdn"], wide=True),
    Column("ID", lambda n: n["id"][:ID_DIGITS], wide=True),
)

FLOWS = (
    Column("FROM", _flow_source),
    Column("TO", _flow_target),
    Column("ADDRESS", lambda f: "" if f["to"] == f["address"] else f["address"]),
    Column("NETWORK", lambda f: f["network"]),
    Column("PORT", _flow_port),
    Column("OPENED", lambda f: _number(f["openings"])),
    Column("REFUSED", lambda f: _number(f["refused"] or None)),
    Column("LINK", lambda f: {True: "yes", False: "no", None: ""}[f.get("linked")]),
    Column("LAST", lambda f: moment(f["last_at"])),
    Column("FROM HOST", lambda f: f["from_host"], wide=True),
    Column("TO HOST", lambda f: f["to_host"], wide=True),
    Column("FROM SERVICE", lambda f: f["from_service"], wide=True),
    Column("TO SERVICE", lambda f: f["to_service"], wide=True),
    Column("SINCE", lambda f: moment(f["first_at"]), wide=True),
)

MEMBERS = (
    Column("NAME", lambda m: m["name"]),
    Column("ADDRESS", lambda m: m["address"]),
    Column("AGENT", lambda m: m["agent"] + (", not by UDP" if m.get("lacks_udp") else "")),
    Column("HOST", lambda m: m["host"]),
    Column("VERSION", lambda m: m["version"]),
    Column("ZONE", lambda m: m["zone"]),
    Column("RTT", _rtt),
    Column("PATH", _path),
    Column("DRAINED", _drained),
    Column("HEALTH", lambda m: "as its agent last said" if m.get("outdated") else ""),
    Column("PATH MTU", _path_mtu, wide=True),
    Column("LOSS", _loss, wide=True),
    Column("RECORDS", lambda m: m.get("records", ""), wide=True),
    Column("CLAIMS", lambda m: m.get("claims", ""), wide=True),
    Column("ID", lambda m: m["id"], wide=True),
)

NETWORKS = (
    Column("NAME", lambda n: n["name"]),
    Column("SUBNETS", lambda n: ", ".join(n["subnets"])),
    Column("HERE", lambda n: "yes" if n["attached"] else "no"),
    Column("HOSTS", lambda n: some(n["hosts"])),
    Column("USED", lambda n: _use(n, "used")),
    Column("FREE", _free),
    Column("OWNED BY", lambda n: some(_owners(n))),
    Column("OPTIONS", _options),
    Column("CLASH", lambda n: n["clash"]),
    Column("ALL OWNERS", lambda n: ", ".join(_owners(n)), wide=True),
    Column("ID", lambda n: n["id"][:ID_DIGITS], wide=True),
    Column("VNI", lambda n: str(n["vni"]), wide=True),
    Column("MTU", lambda n: str(n["mtu_bytes"]), wide=True),
    Column("CREATED BY", lambda n: n["created_by"], wide=True),
    Column("REVISION", lambda n: str(n["revision"]), wide=True),
)

OWNERS = (
    Column("HOST", lambda s: s["host"]),
    Column("AGENT", lambda s: s["agent"]),
    Column("OWNS", lambda s: _number(s["owned"])),
    Column("USED", lambda s: _number(s["used"])),
    Column("FREE", lambda s: _number(s["free"])),
    Column("ADDRESSES", lambda s: some(s["ranges"])),
)

CHECKS = (
    Column("CHECK", lambda r: r["check"]),
    Column("OK", lambda r: {True: "yes", False: "NO", None: "?"}[r["ok"]]),
    Column("SAYS", lambda r: r["says"]),
    Column("TOOK", lambda r: "" if r["took_s"] is None else span(r["took_s"])),
)

PING = (
    Column("ADDRESS", lambda r: r["address"]),
    Column("WHAT", lambda r: f"port {r['port']}" if r["port"] else f"{r['size_bytes']} bytes"),
    Column("ANSWERED", lambda r: f"{r['received']} of {r['sent']}"),
    Column("RTT", lambda r: "" if r["rtt_avg_s"] is None else span(r["rtt_avg_s"])),
    Column("TROUBLE", lambda r: r["trouble"]),
)

HOPS = (
    Column("LAYER", lambda h: h["layer"]),
    Column("OK", lambda h: "yes" if h["ok"] else "NO"),
    Column("THING", lambda h: h["thing"]),
    Column("SAYS", lambda h: h["says"]),
)

ANSWERS = (
    Column("NAME", lambda a: a["name"]),
    Column("TTL", lambda a: str(a["ttl_s"])),
    Column("TYPE", lambda a: a["type"]),
    Column("DATA", lambda a: a["data"]),
)

OBJECTS = (
    Column("STATE", _state),
    Column("KIND", lambda o: o["kind"]),
    Column("OBJECT", lambda o: o["thing"]),
    Column("REASON", lambda o: o["reason"]),
)

REMOVED = (
    Column("REMOVED", lambda item: str(item["name"])),
    Column("ID", lambda item: str(item["id"])[:ID_DIGITS]),
)

TOKENS = (
    Column("NAME", lambda t: str(t["name"])),
    Column("ROLE", lambda t: str(t["role"])),
    Column("NETWORKS", lambda t: ", ".join(map(_token_network, t["networks"])) if t["is_limited"] else "all"),
    Column("EXPIRES", lambda t: moment(t["expires_at"]) or "never"),
    Column("USED", lambda t: moment(t["used_at"]) or "-"),
    Column("BY", lambda t: str(t["created_by"])),
    Column("ID", lambda t: str(t["id"])),
    Column("CREATED", lambda t: moment(t["created_at"]), wide=True),
)


RING_KEYS = (
    Column("ID", lambda k: str(k["id"])[:ID_DIGITS]),
    Column("STATE", lambda k: str(k["state"])),
    Column("AGE", lambda k: span(k["age_s"])),
    Column("LACKING", lambda k: some(k["lacking"]) or "-"),
    Column("AWAY WITHOUT IT", lambda k: some(k["away"]) or "-"),
    Column("ON", lambda k: some(k.get("hosts", [])) or "-", wide=True),
    Column("NUMBER", lambda k: str(k["number"]), wide=True),
)


def _token_network(network: Item) -> str:
    return str(network["name"]) if network["exists"] else f"{network['name']} (removed)"


LISTS: Mapping[str, tuple[Sequence[Column], str, str]] = {
    "schema.Listing[schema.MemberInfo]": (
        MEMBERS,
        "no members: this host is in no cluster, or has just started one",
        "member",
    ),
    "schema.Listing[schema.Network]": (
        NETWORKS,
        "no networks; `netagent network create NAME` creates one",
        "network",
    ),
    "schema.Listing[schema.NetworkRemoved]": (
        REMOVED,
        "no network removed: all are in use",
        "network",
    ),
    "schema.Listing[schema.Endpoint]": (
        ENDPOINTS,
        "no endpoints; `netagent attach TARGET --network NAME` creates one",
        "endpoint",
    ),
    "schema.Listing[schema.Flow]": (
        FLOWS,
        "no flows: no such connection was opened by a container or to one in the last hour",
        "flow",
    ),
    "schema.Listing[schema.TokenInfo]": (
        TOKENS,
        "no tokens; `netagent token create NAME --read` makes one",
        "token",
    ),
    "schema.Listing[schema.RingKeyInfo]": (
        RING_KEYS,
        "no keys",
        "key",
    ),
    "schema.Listing[schema.OwnName]": (
        OWN_NAMES,
        "no names of your own; `netagent name add NAME.NETWORK --cname NAME` adds one",
        "name",
    ),
    "schema.Listing[schema.Service]": (
        SERVICES,
        "no services: no network of the cluster has an endpoint; see `netagent attach --help`",
        "service",
    ),
}
"""The columns of a list, what is printed if it is empty, and what its items are."""
