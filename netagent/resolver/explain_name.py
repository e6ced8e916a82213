"""Say what a sandbox gets as the answer for a name, and why: for `netagent lookup`. Pure.

The answer comes from the same source over the same table as in the resolver process, queried in the order in which a
stub resolver goes through its search list. Only the reason is made here.
"""

from __future__ import annotations

import difflib
import ipaddress
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain, islice, product
from typing import Final

from netagent.external.view import endpoint_called, external_service, own_names
from netagent.model.ids import HostId, NetworkId
from netagent.model.locality import HERE, WARM_UP_STEPS, AnswerOrder, Balance, choice_of, class_text
from netagent.model.naming import given_labels
from netagent.model.sandbox import Sandbox, SandboxId
from netagent.registry.view import EndpointView, RegistryView
from netagent.resolver.name_table import EndpointRow, ExternalAddressRow, ServiceAddressRow
from netagent.resolver.order import Surroundings, led_to, ranked
from netagent.resolver.scope import Labels, Node, Scope
from netagent.resolver.zone import NONE_REFUSED, every_row, host_label
from netagent.resolver.zone_source import ZoneSource
from netdns import constants, rdata, special
from netdns.name import from_text, labels, to_text
from netdns.source import Answer, Found, Name, NoData, NoSuchName, NotOurs, RRset
from netgossip.slices import Slices

TYPES: Final[Mapping[str, int]] = {
    "A": constants.A,
    "AAAA": constants.AAAA,
    "PTR": constants.PTR,
    "SRV": constants.SRV,
    "SOA": constants.SOA,
    "TXT": constants.TXT,
    "NS": constants.NS,
    "CNAME": constants.CNAME,
    "HTTPS": constants.HTTPS,
    "SVCB": constants.SVCB,
}
"""Types that can be asked for."""

FORWARDED: Final = "FORWARDED"
"""The status of a name that other servers answer."""
MAX_COMPARED: Final = 500
"""Names that are searched for similar ones, to suggest one: some 5 ms."""
MAX_FEW: Final = 1000
"""Bound of endpoints that have a label of the name; beyond it: it is answered from the table of all, in slices."""
MAX_SAID: Final = 5
"""Endpoints or groups that a reason lists; of further ones it gives the number."""

HOST_VIEW: Final = SandboxId("")
"""In place of a sandbox: all networks that this host takes part in."""


@dataclass(frozen=True, slots=True)
class ExplainedRecord:
    """One record of an answer."""

    name: str
    rtype: str
    ttl_s: int
    data: str


@dataclass(frozen=True, slots=True)
class NameExplanation:
    """`status` is NOERROR, NXDOMAIN or REFUSED, or FORWARDED: the query goes to the host's servers or Docker's."""

    name: str
    """Fully qualified, with the last dot, as the search list found it."""
    rtype: str
    status: str
    records: tuple[ExplainedRecord, ...]
    reason: str
    """One sentence."""


@dataclass(frozen=True, slots=True)
class _NameQuestion:
    """The name and type asked for."""

    rtype: str
    address: str
    """An address asked for instead of a name; empty otherwise."""
    others: tuple[str, ...]
    """Types of address that the name has, where it has none of `rtype`."""
    gone: Mapping[str, int]
    """Since when no endpoint of the asker's group has had a label: Unix time."""
    untranslated: str
    """Why the kernel leads the asker on from no service address; empty: it does, or that is not known."""
    refused: Mapping[bytes, str]
    """Addresses of services that it leads no program on from, and why."""
    balance: Callable[[ServiceAddressRow], Balance]
    """To which replicas the own address of a service leads."""

    @property
    def is_for_address(self) -> bool:
        """True if an answer has addresses."""
        return self.rtype in {"A", "AAAA"}


def _not_measured(_host_id: HostId) -> float | None:
    return None


def explain(
    view: RegistryView,
    sandboxes: Mapping[SandboxId, Sandbox],
    *,
    domain: str,
    name: str,
    rtype: str,
    sandbox_id: SandboxId = HOST_VIEW,
    beyond: Sequence[NetworkId] = (),
    behind_runtime: bool = False,
    now_s: int = 0,
    rtt_s: Callable[[HostId], float | None] = _not_measured,
    gone: Mapping[str, int] | None = None,
    untranslated: str = "",
    refused: Mapping[bytes, str] = NONE_REFUSED,
) -> Slices[NameExplanation]:
    """Answer as the sandbox's resolver does, in front of Docker's or not. An address as `name` asks for its PTR.
    `beyond`: networks that HOST_VIEW gets in addition to this host's. `now_s`: Unix time. `rtt_s`: the round-trip
    time that decides how far a host is. `gone`: since when (Unix time) no endpoint of the sandbox's group has had a
    label. `untranslated`: why the kernel leads the sandbox on from no service address.
    `refused`: to which ones it leads nothing on this host, and why.

    In slices, because there may be ten thousand endpoints. Raises KeyError for a type that is not in TYPES or a
    sandbox that does not exist, netdns's UsageError for text that can't be a domain name.
    """
    number = TYPES[rtype]
    if sandbox_id != HOST_VIEW:
        sandbox = sandboxes[sandbox_id]
    else:
        translated = frozenset().union(*(one.translates for one in sandboxes.values()))
        sandbox = replace(_host_sandbox(view, beyond), translates=translated)
    address = _address_in(name)
    if address:
        name, rtype, number = ipaddress.ip_address(address).reverse_pointer + ".", "PTR", constants.PTR
    # Most names lead to few endpoints, and a table of ten thousand takes most of a second. For a name that is not
    # found it is made all the same: the reason names similar ones.
    few = _labels_needed(view, sandbox, name)
    for only in (few, None) if few is not None else (None,):
        source = ZoneSource()
        source.handle_time(now_s)
        for change in every_row(view, [sandbox], domain, refused=refused, only=only):
            source.apply([change])
            yield
        scope = source.scope(sandbox.sandbox_id)
        asked = [
            (one, _ask(source, one, number, sandbox, behind_runtime=behind_runtime))
            for one in _search(name, scope)
        ]
        final, answer = _best(asked)
        if isinstance(answer, Found):
            break
    others = [
        text
        for text in ("A", "AAAA")
        if isinstance(answer, NoData)
        and isinstance(_ask(source, final, TYPES[text], sandbox, behind_runtime=behind_runtime), Found)
    ]
    label, _ = _label_meant(scope, final)
    hidden = yield from _left_out(view, scope, address or label.decode("ascii", "replace"))
    return NameExplanation(
        name=to_text(final),
        rtype=rtype,
        status=_status(answer, forwarded=sandbox.forward or behind_runtime),
        records=tuple(_records(final, answer)),
        reason=_reason(
            scope,
            final,
            answer,
            _NameQuestion(
                rtype,
                address,
                tuple(others),
                gone or {},
                untranslated,
                refused,
                lambda row: _balance(view, row),
            ),
            hidden,
            behind_runtime=behind_runtime,
            order=_order_text(_node_at(scope, final), source.around, sandbox.sandbox_id, rtt_s),
        ),
    )


def _host_sandbox(view: RegistryView, beyond: Sequence[NetworkId]) -> Sandbox:
    own = [one for one in view.networks.values() if view.local in view.attachments(one.network_id)]
    own.sort(key=lambda network: (network.unique_name, network.network_id))
    networks = dict.fromkeys((*(network.network_id for network in own), *beyond))
    return Sandbox(sandbox_id=SandboxId("host"), networks=tuple(networks))


def _address_in(name: str) -> str:
    """Return the address in its short form; empty if the name is none."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return ""


def _labels_needed(view: RegistryView, sandbox: Sandbox, name: str) -> frozenset[str] | None:
    """Return labels whose endpoints suffice to find the name: its own, and those of the services that these lead to;
    None: it needs all. So do a name for browsing (RFC 6763), an address, and what may lead to a name with other
    labels: a link, and a name that an operator added."""
    asked = {label.decode("ascii", "replace") for label in labels(from_text(name).lower())}
    if sandbox.links or "arpa" in asked or any(label.startswith("_") for label in asked):
        return None
    if any(True for network_id in sandbox.networks for _ in own_names(view, network_id)):
        return None
    needed = set(asked)
    for one in islice(_labelled(view, sandbox, asked), MAX_FEW + 1):
        needed |= {one.record.service_key.name, *one.record.aliases}
    count = sum(1 for _ in islice(_labelled(view, sandbox, needed), MAX_FEW + 1))
    return frozenset(needed) if count <= MAX_FEW else None


def _labelled(view: RegistryView, sandbox: Sandbox, asked: Iterable[str]) -> Iterator[EndpointView]:
    places = product(sandbox.networks, sorted(asked))
    return chain.from_iterable(view.labelled(network_id, label) for network_id, label in places)


def _search(name: str, scope: Scope) -> list[Name]:
    """Return the queries of a stub with `ndots:1`, in order. A name with a last dot is asked as it is."""
    plain = from_text(name).lower()
    if name.endswith("."):
        return [plain]
    domain = b"".join(bytes([len(label)]) + label for label in scope.domain) + b"\x00"
    suffixes = [bytes([len(one.label)]) + one.label + domain for one in scope.networks] + [domain]
    searched = [plain[:-1] + suffix for suffix in suffixes]
    searched = [one for one in searched if len(one) <= 255]
    return [plain, *searched] if len(labels(plain)) > 1 else [*searched, plain]


def _ask(source: ZoneSource, name: Name, rtype: int, sandbox: Sandbox, *, behind_runtime: bool) -> Answer:
    answer = special.lookup_before(name, rtype)
    if isinstance(answer, NotOurs):
        answer = source.lookup(name, rtype, sandbox.sandbox_id)
    if isinstance(answer, NotOurs) and not behind_runtime:
        return special.lookup_after(name, rtype) if answer.zone is None else NoSuchName(answer.zone)
    return answer


def _best(asked: Sequence[tuple[Name, Answer]]) -> tuple[Name, Answer]:
    """Return the first with records, else the first that exists, else the first that is not ours, else the first."""
    for kind in (Found, NoData, NotOurs):
        for name, answer in asked:
            if isinstance(answer, kind):
                return name, answer
    return asked[0]


def _status(answer: Answer, *, forwarded: bool) -> str:
    match answer:
        case Found() | NoData():
            return "NOERROR"
        case NoSuchName():
            return "NXDOMAIN"
        case NotOurs():
            return FORWARDED if forwarded else "REFUSED"


def _records(name: Name, answer: Answer) -> Iterator[ExplainedRecord]:
    if not isinstance(answer, Found):
        return
    owner, ttl_s = to_text(answer.canonical or name), answer.rrset.ttl_s
    if answer.canonical is not None:
        yield ExplainedRecord(to_text(name), "CNAME", ttl_s, owner)
    rtype = next((text for text, number in TYPES.items() if number == answer.rrset.rtype), "")
    for data in answer.rrset.rdatas[: answer.rrset.count]:
        yield ExplainedRecord(owner, rtype, ttl_s, _data_text(answer.rrset, data))


def _data_text(rrset: RRset, data: bytes) -> str:
    match rrset.rtype:
        case constants.A | constants.AAAA:
            return str(ipaddress.ip_address(data))
        case constants.PTR | constants.CNAME:
            return to_text(data)
        case constants.SRV:
            priority, weight, port = struct.unpack_from("!HHH", data)
            return f"{priority} {weight} {port} {to_text(data[6:])}"
        case constants.TXT:
            return " ".join(_quoted(one) for one in rdata.strings_of(data))
        case constants.HTTPS | constants.SVCB:
            priority, target, parameters = rdata.parts_of_svcb(data)
            words = [_parameter_text(key, value) for key, value in parameters.items()]
            return " ".join([str(priority), to_text(target), *words])
        case _:
            return data.hex()


def _quoted(text: bytes) -> str:
    """Format a string of a TXT record as `dig` does."""
    shown = "".join(
        f"\\{one:03}" if not 32 <= one < 127 else f"\\{chr(one)}" if one in b'"\\' else chr(one)
        for one in text
    )
    return f'"{shown}"'


def _parameter_text(key: int, value: bytes) -> str:
    match key:
        case constants.KEY_ALPN:
            return "alpn=" + ",".join(one.decode("ascii", "replace") for one in rdata.strings_of(value))
        case constants.KEY_NO_DEFAULT_ALPN:
            return "no-default-alpn"
        case constants.KEY_PORT:
            return f"port={int.from_bytes(value, 'big')}"
        case constants.KEY_IPV4HINT | constants.KEY_IPV6HINT:
            size, name = (4, "ipv4hint") if key == constants.KEY_IPV4HINT else (16, "ipv6hint")
            hints = [value[at : at + size] for at in range(0, len(value), size)]
            return f"{name}=" + ",".join(str(ipaddress.ip_address(one)) for one in hints)
        case _:
            return f"key{key}={value.hex()}"


def _reason(
    scope: Scope,
    name: Name,
    answer: Answer,
    asked: _NameQuestion,
    hidden: Sequence[str],
    *,
    behind_runtime: bool,
    order: str,
) -> str:
    if isinstance(answer, NotOurs) and not behind_runtime:
        if scope.sandbox.forward:
            return "the name is not netagent's; the query goes to the host's name servers"
        return "the name is not netagent's, and all networks of this container are internal"
    label, via = _label_meant(scope, name)
    parts: list[str] = []
    if via:
        parts.append(via)
    match answer:
        case Found(rrset):
            parts += _found_texts(scope, name, label, asked, order)
            if rrset.count < len(rrset.rdatas):
                parts.append(f"an answer carries {rrset.count} of {len(rrset.rdatas)} addresses, in turn")
        case NoData():
            parts.append(f"the name exists, without records of type {asked.rtype}")
            if asked.others:
                parts.append(f"ask for {' or '.join(asked.others)}")
            parts += _no_replica_texts(_node_at(scope, name), asked)
        case NoSuchName():
            parts.append(_missing_text(scope, name, label, asked))
            if scope.is_like_ours(labels(name)):
                top = labels(name)[-1].decode("ascii", "replace")
                parts.append(f"names of this form that end in .{top} are not forwarded")
        case NotOurs():
            parts.append(
                "the name is not netagent's; the query goes to Docker's own resolver in the container"
            )
    if hidden:
        parts.append("left out: " + ", ".join(hidden))
    return "; ".join(parts)


def _node_at(scope: Scope, name: Name) -> Node | None:
    parts, domain = labels(name), scope.domain
    if parts[-len(domain) :] == domain:
        return scope.below_domain(parts[: -len(domain)])
    return scope.bare(parts)


def _label_meant(scope: Scope, name: Name) -> tuple[bytes, str]:
    """Return the label that stands for a service or endpoint in the name, and the link that led to it, in words."""
    parts = [label for label in labels(name) if label[:1] != b"_"]
    below = len(parts) - (len(scope.domain) if tuple(parts[-len(scope.domain) :]) == scope.domain else 0)
    if (chosen := choice_of(parts)) and chosen[
        1
    ] < below:  # `web` in nearest.web, but not `app` in nearest.app
        is_network_alone = chosen[1] + 1 == below and any(
            parts[chosen[1]] == one.label for one in scope.networks
        )
        parts = parts if is_network_alone else parts[chosen[1] :]
    label = parts[0] if parts else b""
    if label not in scope.aliases:
        return label, ""
    target = scope.aliases[label]
    return target[0], f"{label.decode()} is this container's link to {b'.'.join(target).decode()}"


def _added_text(node: Node | None) -> str:
    """Say what an operator added under a name; empty if a container has it."""
    if node is None or node.index is None:
        return ""
    place = f"network {node.index.label.decode()}"
    if node.canonical is not None:
        return f"an operator made it another name of {b'.'.join(node.canonical).decode()}"
    rows = node.rows or tuple(row for row, _ in node.services)
    if not rows:
        return f"found in {place}: an operator added the name" if node.host_addresses or node.texts else ""
    if not isinstance(rows[0], ExternalAddressRow):
        return ""
    owners = ", ".join(sorted({row.host_label for row in rows}))
    return f"found in {place}: external service {rows[0].service}, added on {owners}"


def _found_texts(scope: Scope, name: Name, label: bytes, asked: _NameQuestion, order: str) -> list[str]:
    """Say what the answer is, and what decided between endpoints (`order`)."""
    node = _node_at(scope, name)
    added, service = _added_text(node), _service_text(scope, node, asked)
    if service:
        # Of an own name, what it is another name of; an external service is said by what it leads to.
        return [added, service] if node is not None and node.canonical is not None else [service]
    if added:
        return [added, *_untranslated_texts(node, asked)]
    found = [_found_text(scope, label, name), *([order] if order else [])]
    return found + _untranslated_texts(node, asked)


def _no_replica_texts(node: Node | None, asked: _NameQuestion) -> list[str]:
    if node is None or node.service is None or node.rows:
        return []
    return [f"{_called(node.service)} has no replica that is up", *_untranslated_texts(node, asked)]


def _called(service: ServiceAddressRow) -> str:
    """Format which service it is: `service db of group shop`."""
    name, group = service.service
    return f"service {name}" if group is None else f"service {name} of group {group}"


def _balance(view: RegistryView, row: ServiceAddressRow) -> Balance:
    given = view.service_addresses(row.network_id).get(row.service, ())
    return given[0].record.balance if given else Balance.SPREAD


def _service_text(scope: Scope, node: Node | None, asked: _NameQuestion) -> str:
    """Say which service's own address the answer is, and where that leads; empty if it is none."""
    if asked.address:
        packed = ipaddress.ip_address(asked.address).packed
        for index in scope.networks:
            if found := index.service_with_address(packed):
                return f"found in network {index.label.decode()}: the own address of {_called(found)}"
    if node is None or node.service is None or node.index is None:
        return ""
    if not (asked.is_for_address and node.service_addresses):
        return ""
    own = f"found in network {node.index.label.decode()}: the own address of {_called(node.service)}"
    if not node.rows:
        return f"{own}, which has no replica that is up, so connections are refused"
    led = [row for row in node.rows if not row.is_behind] or node.rows
    name = ".".join(filter(None, node.service.service))
    which = _LED_TO[asked.balance(node.service)]
    return (
        f"{own}, from which the kernel leads each connection to {which} {_where(led)}; all.{name} names them"
    )


_LED_TO: Final[Mapping[Balance, str]] = {
    Balance.SPREAD: "one of",
    Balance.NEAREST: "one of the nearest of",
    Balance.ZONE: "one in this host's zone, or else one of the nearest, of",
    Balance.FIRST: "the one with the most weight of",
}


def _untranslated_texts(node: Node | None, asked: _NameQuestion) -> list[str]:
    """Say that the answer is not the own address of the service, and why; empty if it is, or there is none."""
    if node is None or node.service is None or node.asked is not None or node.is_translated:
        return []
    if not asked.is_for_address:
        return []
    own = ", ".join(str(ipaddress.ip_address(one)) for one in node.service.addresses)
    reasons = [asked.refused[one] for one in node.service.addresses if one in asked.refused]
    said = asked.untranslated or next(iter(reasons), "")
    why = f": {said}" if said else ""
    return [f"not its own address ({own}), which the kernel does not translate for this container{why}"]


def _found_text(scope: Scope, label: bytes, name: Name) -> str:
    node = _node_at(scope, name)
    rows = () if node is None else node.rows or tuple(row for row, _ in node.services)
    if node is None or node.index is None or not rows:
        return "found"
    led = [row for row in rows if not row.is_behind]
    groups = {row.group.name if row.group else None for row in rows}
    group = next(iter(groups)) if len(groups) == 1 else None
    place = f"network {node.index.label.decode()}"
    found = f"found in {f'group {group} of ' if group else ''}{place}: {_where(led or rows)}"
    if not led:
        why = _UNHEALTHY if all(row.is_kept for row in rows) else _UNREACHED
        return f"{found}; {why}, but the name has no other endpoint"
    for is_kept, why in ((False, _UNREACHED), (True, _UNHEALTHY)):
        if behind := [row for row in rows if row.is_behind and row.is_kept is is_kept]:
            found = f"{found}; not to {_where(behind)}: {why}"
    shared = node.index.shared_by(label) if len(groups - {None}) > 1 else ()
    return f"{found}; {_shared_text(label, shared)}" if shared else found


def _order_text(
    node: Node | None, around: Surroundings, asker: str, rtt_s: Callable[[HostId], float | None]
) -> str:
    """Say what decided between the endpoints of a name; empty if nothing did."""
    rows = () if node is None else node.rows or tuple(dict.fromkeys(row for row, _ in node.services))
    if node is None or not rows:
        return ""
    choice = node.choice
    parts: list[str] = []
    if choice.every:
        parts.append("all endpoints are in the answer, those included that this host does not reach")
    elif choice.order is not AnswerOrder.SPREAD:
        by = "nearest first"
        if choice.order is AnswerOrder.ZONE:
            zone = around.zone if choice.zone is None else choice.zone.decode("ascii", "replace")
            is_there = any(host is not None and host.zone == zone for host in map(around.host_of, rows))
            by = f"zone {zone} first" if zone else "this host has no zone; hosts without one first"
            by = by if is_there else f"no endpoint is in zone {zone}; nearest first"
        every = ranked(rows, choice, around)
        parts.append(f"{by}: {_some_of([_far_text(one.row, around, rtt_s) for one in every])}")
    led, _ = led_to(rows, choice, around, asker)
    weights = [row.weight * around.steps_of(row) for row in led]
    if len(set(weights)) > 1:
        shares = [
            f"{row.name} on {row.host_label} {weight / sum(weights):.0%}"
            + (" while it warms up" if around.steps_of(row) < WARM_UP_STEPS else "")
            for row, weight in zip(led, weights, strict=True)
        ]
        parts.append(f"share of first places: {_some_of(shares)}")
    return "; ".join(parts)


def _far_text(row: EndpointRow, around: Surroundings, rtt_s: Callable[[HostId], float | None]) -> str:
    """Format how far an endpoint is: `web on h2 (0.3 ms away, zone a)`."""
    hosts = around.hosts.get(row.host_label.encode(), {})
    host = around.host_of(row)
    if host is None or host.distance is None:
        words = ["not measured yet"]
    elif host.distance == HERE:
        words = ["this host"]
    else:
        measured_s = rtt_s(HostId(min(hosts)))
        words = [class_text(host.distance) if measured_s is None else f"{measured_s * 1000:.2g} ms away"]
    words += [f"zone {host.zone}"] if host is not None and host.zone else []
    words += ["its check fails" if row.is_kept else "unreached"] if row.is_behind else []
    return f"{row.name} on {row.host_label} ({', '.join(words)})"


def _shared_text(label: bytes, rows: Sequence[EndpointRow]) -> str:
    """Say which groups share a label, and how to ask for one of them."""
    places: dict[str, list[str]] = {}
    for row in rows:
        if row.group is not None and row.addresses:
            where = f"{ipaddress.ip_address(row.addresses[0])} on {row.host_label}"
            places.setdefault(row.group.name, []).append(where)
    text, names = label.decode(), sorted(places)
    groups = _some_of([f"{name} ({_some_of(places[name])})" for name in names])
    asked = " or ".join(f"{text}.{name}" for name in names[:MAX_SAID])
    return f"{text} is shared by {len(names)} groups: {groups}; ask for {asked}"


_UNREACHED: Final = "this host gets no answer from there over the overlay"
_UNHEALTHY: Final = "a check fails there (--all-failing keep)"


def _where(rows: Sequence[EndpointRow]) -> str:
    return _some_of(sorted(f"{row.name} on {row.host_label}" for row in rows))


def _some_of(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - MAX_SAID} more" if len(texts) > MAX_SAID else ""
    return ", ".join(texts[:MAX_SAID]) + more


def _missing_text(scope: Scope, name: Name, label: bytes, asked: _NameQuestion) -> str:
    networks = [index.label.decode() for index in scope.networks]
    if not networks:
        return "this host takes part in no network"
    if asked.address:
        return f"no visible endpoint has the address {asked.address} in {', '.join(networks)}"
    if scope.is_own(_without_domain(scope, name)):
        return _of_own_group_text(scope, label, asked.gone.get(label.decode()))
    for index in scope.networks:
        if shared := index.shared_by(label):
            refused = f"network {index.label.decode()} refuses shared names"
            return f"{refused}: {_shared_text(label, shared)}"
    text = label.decode("ascii", "replace")
    known = sorted(set(islice((one for index in scope.networks for one in index.labels()), MAX_COMPARED)))
    close = difflib.get_close_matches(text, known, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"no visible endpoint has the name {text} in {', '.join(networks)}{hint}"


def _of_own_group_text(scope: Scope, label: bytes, gone_s: int | None) -> str:
    """Say that a label of the asker's group leads nowhere, and where it leads others."""
    text = label.decode()
    since = "" if gone_s is None else f" since {datetime.fromtimestamp(gone_s, UTC):%Y-%m-%d %H:%M:%S} UTC"
    said = [f"{text} is a name of group {scope.sandbox.group}, which has had no endpoint for it{since}"]
    if gone_s is None:
        said = [f"{text} is a name of group {scope.sandbox.group}, which has no visible endpoint for it"]
    others = [row for index in scope.networks for row in index.members(label) or index.shared_by(label)]
    if others:
        groups = sorted({row.group.name for row in others if row.group is not None})
        asked = f": ask for {' or '.join(f'{text}.{one}' for one in groups[:MAX_SAID])}" if groups else ""
        said.append(f"containers of this group are not led to {_where(others)} instead{asked}")
    return "; ".join(said)


def _without_domain(scope: Scope, name: Name) -> Labels:
    parts = labels(name)
    return parts[: -len(scope.domain)] if parts[-len(scope.domain) :] == scope.domain else parts


def _left_out(view: RegistryView, scope: Scope, text: str) -> Slices[list[str]]:
    """Return hidden endpoints with this name or address, each with the reason."""
    found: set[str] = set()
    for endpoint in _maybe_called(view, scope, text):
        yield
        record = endpoint.record
        given = given_labels(record.name, record.group, record.aliases)
        called = (record.name, record.service, *given, *record.addresses)
        if text in called and not view.is_visible(endpoint) and not view.is_kept(endpoint):
            host = view.hosts.get(endpoint.owner)
            where = host_label(host) if host is not None else endpoint.owner[:8]
            found.add(f"{record.name} on {where} ({_why_hidden(view, endpoint)})")
    for network_id in scope.sandbox.networks:
        found.update(_added_left_out(view, network_id, text))
        yield
    return sorted(found)[:10]


def _added_left_out(view: RegistryView, network_id: NetworkId, text: str) -> Iterator[str]:
    """Yield why names do not lead to what operators added to a network under a name."""
    holder = endpoint_called(view, network_id, text)
    for _, service_id in view.store.services_called.get((network_id, text), ()):
        service = external_service(view, network_id, service_id)
        if service is not None and holder is not None:
            yield f"external service {text} (container {holder.record.name} has the name)"
        elif service is not None:
            yield from (f"external service {text} ({one})" for one in service.shortcomings)
    if holder is not None and view.store.own_names_called.get((network_id, text)):
        yield f"the name that an operator added (container {holder.record.name} has it)"


def _maybe_called(view: RegistryView, scope: Scope, text: str) -> Iterator[EndpointView]:
    """Yield the endpoints that have this name or address, and some others, some more than once."""
    for network_id in scope.sandbox.networks:
        yield from view.labelled(network_id, text)
        holder = view.endpoint_by_address(text, network_id)
        if holder is not None:
            yield holder
    yield from (one for one in view.fenced.values() if one.network_id in scope.sandbox.networks)


def _why_hidden(view: RegistryView, endpoint: EndpointView) -> str:
    host = view.hosts.get(endpoint.owner)
    if view.fenced.get((endpoint.owner, endpoint.endpoint_id, endpoint.network_id)) == endpoint:
        return "fenced: another record has its address"
    if view.is_host_hidden(endpoint.owner):
        if host is not None and host.record is not None and host.record.going_down:
            return f"its host {host.record.away_text}"
        if host is not None and host.answers is False:
            return "its host's agent is dead and its kernel does not answer"
        return "its host has left"
    if endpoint.record.drain is not None:
        return endpoint.record.drain.text
    if drain := view.drain_of_host(endpoint.owner):
        return f"its host is {drain.text}"
    return endpoint.record.health_text or "its network is not in force"
