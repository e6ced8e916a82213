"""`inspect --why`: which record made which objects, and which of these are present. Pure.

For an endpoint, a network or a host: the record with its version, then one line for each kernel object, each object
in the container and each name that follows from it. An object that is not needed has a reason: the host has left, the
endpoint is fenced, or this host does not take part in the network.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from netagent.datapath.host.probe_device import probe_vni
from netagent.datapath.host.uplink import is_one_family
from netagent.datapath.reconcile.plan import entry_operation
from netagent.datapath.state import EntryKey, Table
from netagent.doctor.checks.expected_objects import host_text
from netagent.doctor.checks.guest_checks import GuestFacts, inside_lines
from netagent.doctor.checks.kernel_drift import state_of
from netagent.doctor.checks.object_checks import Evidence, address_line, device_line, entry_line
from netagent.doctor.checks.object_status import ObjectStatus, State
from netagent.doctor.checks.resolver_checks import (
    Replies,
    ResolverQuestion,
    expected,
    fault,
    leads_to,
    questions_about,
)
from netagent.external.view import external_service
from netagent.model.ids import (
    ClusterId,
    HostId,
    NetworkId,
    OwnNameId,
    ServiceId,
    bridge_name,
    veth_name,
    vxlan_name,
)
from netagent.model.locality import HERE, AnswerOrder, class_text
from netagent.model.records import HostRecord, OwnNameRecord, Policy
from netagent.model.sandbox import SandboxId
from netagent.registry.links import linked_from, linked_to
from netagent.registry.view import AgentState, EndpointView, HostView, NetworkView, RegistryView
from netagent.resolver.zone_source import ZoneSource
from netdns import constants
from netdns.source import Found
from netgossip.types import Version


@dataclass(frozen=True, slots=True)
class Origin:
    """The record that objects follow from."""

    kind: str
    """`endpoint`, `network` or `host`; `external service`, `external state` or `own name`."""
    name: str
    owner: HostId
    version: Version | None
    """None: the owner has replaced this record since, or has not published one yet."""


@dataclass(frozen=True, slots=True)
class WhyReport:
    """The output of `inspect --why`."""

    origins: tuple[Origin, ...]
    lines: tuple[ObjectStatus, ...]
    left_out: int = 0
    """Endpoints of a service that are not explained."""


def origin_of_endpoint(endpoint: EndpointView) -> Origin:
    """Return its record, which is one version of one host's log."""
    return Origin("endpoint", endpoint.record.name, endpoint.owner, endpoint.version)


def origin_of_network(evidence: Evidence, network: NetworkView) -> Origin:
    """Return the revision in force, whichever host wrote it."""
    version = evidence.view.version_of(network.owner, network.record)
    return Origin("network", network.unique_name, network.owner, version)


def origin_of_host(evidence: Evidence, host: HostView) -> Origin:
    """Return the record that it publishes about itself."""
    version = None if host.record is None else evidence.view.version_of(host.host_id, host.record)
    return Origin("host", host.unique_name or host.name, host.host_id, version)


def origins_of_addition(view: RegistryView, network_id: NetworkId, ids: Iterable[str]) -> Iterator[Origin]:
    """Yield the records of what an operator added: external services with what was found out, or an own name."""
    for one in ids:
        service = external_service(view, network_id, ServiceId(one))
        if service is not None:
            version = view.version_of(service.owner, service.record)
            yield Origin("external service", service.record.name, service.owner, version)
            if service.found is not None and service.found_by is not None:
                version = view.version_of(service.found_by, service.found)
                yield Origin("external state", service.record.name, service.found_by, version)
        for owner, record in view.store.own_names.get(OwnNameId(one), _NO_NAMES).items():
            yield Origin("own name", record.name, owner, view.version_of(owner, record))


_NO_NAMES: Mapping[HostId, OwnNameRecord] = {}


def addition_lines(
    source: ZoneSource, questions: Iterable[ResolverQuestion], replies: Replies, sandbox_id: SandboxId
) -> Iterator[ObjectStatus]:
    """Yield whether the resolver in a container answers as the records say, for each type that they have."""
    for question in questions:
        answer, said = expected(source, question, sandbox_id), replies.get(question)
        if not isinstance(answer, Found) and said is not None and not fault(answer, said):
            continue
        thing = f"{question.name} {_TYPES.get(question.rtype, question.rtype)}"
        wrong = fault(answer, said)
        fix = "restart the agent, which sends all names to the resolver again" if wrong else ""
        state = (
            State.PRESENT if not wrong else State.MISSING if isinstance(answer, Found) else State.LEFT_OVER
        )
        yield ObjectStatus("name", thing, state, wrong, fix)


@dataclass(frozen=True, slots=True)
class Extract:
    """The part of the kernel that lines about some objects are about, beside all devices and addresses."""

    endpoints: tuple[EndpointView, ...]
    """Those on other hosts whose entries the lines judge."""
    keys: tuple[EntryKey, ...]
    """All entries that the lines judge."""


MAX_KEYS: Final = 512
"""Bound of entries that are read one by one; beyond it: all are read, in one go."""


def extract_of_endpoints(view: RegistryView, endpoints: Iterable[EndpointView]) -> Extract | None:
    """Return what `endpoint_lines` judges; None: so much, or such, that everything has to be read."""
    found, keys = tuple(endpoints), list[EntryKey]()
    for endpoint in found:
        network = view.networks.get(endpoint.network_id)
        if network is not None:
            if network.record.multicast:
                return None  # the kernel can't be asked for one flood entry
            keys += _entry_keys(view, endpoint, network)
    return Extract(found, tuple(keys)) if len(keys) <= MAX_KEYS else None


def extract_of_host(view: RegistryView, host: HostView, cluster_id: ClusterId) -> Extract | None:
    """Return what `host_lines` judges; None: so much that everything has to be read."""
    if host.host_id == view.local or host.record is None:
        return Extract((), ())
    endpoints, keys = list[EndpointView](), list(_host_keys(host.record, cluster_id))
    for network_id, network in view.networks.items():
        tunnel = vxlan_name(network.record.vni)
        for endpoint in view.endpoints_of_in(host.host_id, network_id):
            endpoints.append(endpoint)
            keys.append(("self", (tunnel, endpoint.record.mac)))
        if len(keys) > MAX_KEYS:
            return None
    return Extract(tuple(endpoints), tuple(keys))


def _entry_keys(view: RegistryView, endpoint: EndpointView, network: NetworkView) -> Iterator[EntryKey]:
    """Yield the entries by which this host reaches an endpoint, without the flood entry of its host."""
    bridge, mac = bridge_name(network.record.vni), endpoint.record.mac
    if endpoint.owner == view.local:
        yield "master", (bridge, mac)
        return
    for address in endpoint.record.addresses:
        yield "neighbour", (bridge, address)
    yield "master", (bridge, mac)
    yield "self", (vxlan_name(network.record.vni), mac)


def _host_keys(record: HostRecord, cluster_id: ClusterId) -> tuple[EntryKey, EntryKey]:
    """Return the entries by which this host probes another one: a neighbour, and where its MAC is."""
    tunnel = vxlan_name(probe_vni(cluster_id))
    return ("neighbour", (tunnel, record.probe_address)), ("self", (tunnel, record.probe_mac))


_TYPES = {constants.A: "A", constants.AAAA: "AAAA", constants.TXT: "TXT"}


def endpoint_lines(
    evidence: Evidence,
    endpoint: EndpointView,
    inside: GuestFacts | None,
    names: tuple[str, ...],
    replies: Replies | None,
) -> Iterator[ObjectStatus]:
    """Yield what an endpoint's record makes on this host. `replies` is None where no query is possible."""
    view, record = evidence.view, endpoint.record
    network = view.networks.get(endpoint.network_id)
    idle = why_not_programmed(evidence, endpoint)
    if network is not None:
        tunnel, veth = vxlan_name(network.record.vni), veth_name(endpoint.endpoint_id)
        is_here, place = endpoint.owner == view.local, (tunnel, record.mac)
        if is_here:
            yield device_line(evidence, veth, idle)
        usual: Mapping[Table, str] = {
            "neighbour": record.mac,
            "master": veth if is_here else tunnel,
            "self": evidence.observed.selves.get(place) or "its host",
        }
        for key in _entry_keys(view, endpoint, network):
            yield entry_line(evidence, key, usual[key[0]], idle)
        underlay = evidence.desired.selves.get(place)
        if not is_here and network.record.multicast and underlay is not None:
            yield entry_line(evidence, ("flood", (tunnel, underlay)), "", "")
        if network.record.policy is not Policy.OPEN:
            yield from link_lines(view, endpoint, network)
    row = evidence.rows.get(endpoint.endpoint_id)
    if row is not None and inside is not None and endpoint.owner == view.local:
        yield from inside_lines(row, evidence.rows.values(), view, inside, evidence.service_ranges)
    if view.is_visible(endpoint):
        yield order_line(view, endpoint, idle)
    yield from name_lines(evidence, endpoint, names, replies)


def link_lines(view: RegistryView, endpoint: EndpointView, network: NetworkView) -> Iterator[ObjectStatus]:
    """Yield, for a network where only linked services may connect, which endpoints reach this one and vice versa."""
    name, place = endpoint.record.name, network.unique_name
    reason = f"in network {place} only linked services may be reached"
    if network.record.policy is Policy.AUDIT:
        reason = f"network {place} counts what no link allows, and lets it pass"
    for verb, others, command in (
        ("may be reached by", linked_to(view, endpoint), f"netagent link ENDPOINT {endpoint.record.service}"),
        ("may reach", linked_from(view, endpoint), f"netagent link {name} SERVICE"),
    ):
        named = sorted({one.record.name for one in others})
        more = f" and {len(named) - 5} more" if len(named) > 5 else ""
        if named:
            yield ObjectStatus("policy", f"{name} {verb} {', '.join(named[:5])}{more}", State.PRESENT, reason)
        else:
            yield ObjectStatus(
                "policy", f"{name} {verb} no endpoint", State.NOT_NEEDED, f"{reason}: `{command}` allows it"
            )


def why_not_programmed(evidence: Evidence, endpoint: EndpointView) -> str:
    """Say why the kernel of this host should have nothing for an endpoint; empty when it should."""
    view = evidence.view
    if endpoint.owner in view.evicted:
        return f"host {host_text(view, endpoint.owner)} was forgotten"
    if view.endpoints.get(endpoint.endpoint_id) != endpoint:
        said = (conflict.text for conflict in view.conflicts_of(endpoint))
        return "it is fenced: " + next(said, "another endpoint has what it claims")
    network = view.networks.get(endpoint.network_id)
    if network is None:
        return (
            "its network was removed" if view.is_removed(endpoint.network_id) else "its network is not known"
        )
    if why := view.why_not_built(network):
        return f"network {network.unique_name} is not built: {why}"
    if not any(row.network_id == endpoint.network_id for row in evidence.rows.values()):
        return f"no container of this host is in network {network.unique_name}"
    if endpoint.owner == view.local:
        return ""
    host = view.hosts.get(endpoint.owner)
    if host is None or host.record is None:
        return f"the address of host {host_text(view, endpoint.owner)} is not known yet"
    return why_no_path(evidence, host)


def why_no_path(evidence: Evidence, host: HostView) -> str:
    """Say why no packet is sent to another host, although its record is known; empty when packets are sent."""
    name, own = host.unique_name or host.name, evidence.situation.underlay.address
    if host.agent is AgentState.LEFT:
        return f"host {name} has left the cluster"
    if host.record is not None and not is_one_family(host.record.underlay, own):
        return (
            f"host {name} has the address {host.record.underlay} and this host {own}: a tunnel needs addresses of "
            "one family at both ends; set `advertise` on one of them"
        )
    return ""


def network_lines(evidence: Evidence, network: NetworkView) -> Iterator[ObjectStatus]:
    """Yield what a network's record makes on this host."""
    rows = [row for row in evidence.rows.values() if row.network_id == network.network_id]
    idle = "" if rows else "no container of this host is in it"
    if why := evidence.view.why_not_built(network):  # objects with these names may belong to another network
        reason = f"it is not built: {why}"
        yield ObjectStatus("device", bridge_name(network.record.vni), State.NOT_NEEDED, reason)
        return
    for name in (bridge_name(network.record.vni), vxlan_name(network.record.vni)):
        yield device_line(evidence, name, idle)
    yield from _totals(evidence, network)


def _totals(evidence: Evidence, network: NetworkView) -> Iterator[ObjectStatus]:
    """Yield the entries of all its endpoints, counted."""
    bridge, tunnel = bridge_name(network.record.vni), vxlan_name(network.record.vni)
    desired, observed = evidence.desired, evidence.observed
    tables: tuple[tuple[str, Table, str], ...] = (
        ("neighbours", "neighbour", bridge),
        ("bridge entries", "master", bridge),
        ("tunnel entries", "self", tunnel),
    )
    for kind, table, device in tables:
        wanted, there = (
            {key: value for key, value in state.table(table).items() if key[0] == device}
            for state in (desired, observed)
        )
        operations = (
            entry_operation((table, place), wanted.get(place), there.get(place))
            for place in {place for place, _ in wanted.items() ^ there.items()}
        )
        found = Counter(state_of(one, observed) for one in operations if one is not None)
        counts = [(found[state], state) for state in (State.MISSING, State.ALTERED, State.LEFT_OVER)]
        worst = next((state for number, state in counts if number), State.PRESENT)
        text = ", ".join(f"{number} {state.value}" for number, state in counts if number)
        fix = "`netagent doctor` lists each, with its fix" if text else ""
        yield ObjectStatus(kind, f"{len(wanted)} on {device}", worst, text, fix)


def host_lines(evidence: Evidence, host: HostView) -> Iterator[ObjectStatus]:
    """Yield what another host's record makes on this host, or for this host its probe device."""
    tunnel = vxlan_name(probe_vni(evidence.situation.cluster_id))
    if host.host_id == evidence.view.local:
        yield device_line(evidence, tunnel, "")
        own = sorted(key for key in evidence.desired.addresses if key[0] == tunnel)
        yield from (address_line(evidence, key) for key in own)
        return
    if host.record is None:
        yield ObjectStatus(
            "record", host.name, State.MISSING, "it has not arrived yet", "wait, or see `netagent members`"
        )
        return
    idle = why_no_path(evidence, host)
    neighbour, place = _host_keys(host.record, evidence.situation.cluster_id)
    yield entry_line(evidence, neighbour, host.record.probe_mac, idle)
    yield entry_line(evidence, place, host.record.underlay, idle)
    yield from _uses(evidence, host.host_id, host.record.underlay)


def _uses(evidence: Evidence, host_id: HostId, underlay: str) -> Iterator[ObjectStatus]:
    """Yield the tunnel entries that lead to the host, counted by network."""
    view = evidence.view
    for network_id in sorted(view.networks):
        network = view.networks[network_id]
        endpoints = list(view.endpoints_of_in(host_id, network_id))
        if not endpoints:
            continue
        tunnel = vxlan_name(network.record.vni)
        wanted = [
            key for key in ((tunnel, e.record.mac) for e in endpoints) if key in evidence.desired.selves
        ]
        right = sum(1 for key in wanted if evidence.observed.selves.get(key) == underlay)
        thing = f"{len(wanted)} on {tunnel} to {underlay} (network {network.unique_name})"
        if not wanted:
            reason = why_not_programmed(evidence, endpoints[0])
            yield ObjectStatus("tunnel entries", thing, State.NOT_NEEDED, reason)
        elif right == len(wanted):
            yield ObjectStatus("tunnel entries", thing, State.PRESENT)
        else:
            fix = "`netagent doctor` lists each, with its fix"
            yield ObjectStatus(
                "tunnel entries", thing, State.MISSING, f"{len(wanted) - right} do not lead there", fix
            )


def name_lines(
    evidence: Evidence, endpoint: EndpointView, names: tuple[str, ...], replies: Replies | None
) -> Iterator[ObjectStatus]:
    """Yield whether each of the endpoint's names resolves to it in a container of this host."""
    view = evidence.view
    is_visible = view.is_visible(endpoint)
    hidden = "" if is_visible else why_hidden(view, endpoint)
    for question, address in questions_about(endpoint, names):
        if replies is None:
            reason = hidden or "no container of this host can resolve it"
            yield ObjectStatus("name", question.name, State.NOT_NEEDED, reason)
            continue
        said = replies.get(question)
        if leads_to(said, address):
            is_right = is_visible or view.is_kept(endpoint)
            state, reason = (State.PRESENT, "") if is_right else (State.LEFT_OVER, hidden)
        elif said is not None and said.data and said.data <= _own_addresses(view, endpoint):
            reason = hidden or "it resolves to the own address of its service"
            state = State.PRESENT if is_visible else State.NOT_NEEDED
        elif is_visible and said is not None and said.data and view.is_behind(endpoint):
            host = host_text(view, endpoint.owner)
            state = State.NOT_NEEDED
            reason = f"it resolves to other endpoints: this host gets no answer from {host} over the overlay"
        elif is_visible and said is not None and said.data and (order := _order_of(view, endpoint)):
            state, reason = State.NOT_NEEDED, f"it resolves to nearer endpoints: {order}"
        elif is_visible:
            state = State.MISSING
            reason = (
                "no resolver answers" if said is None else f"the answer is {said.text} without its address"
            )
        else:
            state, reason = State.NOT_NEEDED, hidden
        fix = "restart the agent, which sends all names to the resolver again" if state in _WRONG else ""
        yield ObjectStatus("name", question.name, state, reason, fix)


def _own_addresses(view: RegistryView, endpoint: EndpointView) -> frozenset[bytes]:
    """Return the own addresses of an endpoint's service, as answers have them."""
    given = view.service_addresses(endpoint.network_id).get(endpoint.record.service_key, ())
    return frozenset(ipaddress.ip_address(one).packed for each in given for one in each.record.addresses)


def order_line(view: RegistryView, endpoint: EndpointView, idle: str) -> ObjectStatus:
    """Return what decides when answers begin with the endpoint: its weight, and how far its host is. `idle`: why this
    host has nothing for it."""
    name, host = endpoint.record.name, view.hosts.get(endpoint.owner)
    distance = view.distance_of(endpoint.owner)
    words = [f"{name} has weight {endpoint.record.weight}"]
    words += [
        f"{host_text(view, endpoint.owner)} is {class_text(distance)}" if distance else "",
        f"{host_text(view, endpoint.owner)} is this host" if distance == HERE else "",
        f"in zone {host.record.zone}"
        if host is not None and host.record is not None and host.record.zone
        else "",
    ]
    reason = _order_of(view, endpoint) or "all replicas are answered, each as often as its weight says"
    state = State.NOT_NEEDED if idle else State.PRESENT
    return ObjectStatus("order", ", ".join(filter(None, words)), state, idle or reason)


def _order_of(view: RegistryView, endpoint: EndpointView) -> str:
    """Say which replicas the names of the endpoint's network lead to; empty: all."""
    network = view.networks.get(endpoint.network_id)
    if network is None or network.record.answer is AnswerOrder.SPREAD:
        return ""
    which = "the nearest" if network.record.answer is AnswerOrder.NEAREST else "those in this host's zone"
    return f"in network {network.unique_name} names lead to {which} replicas"


_WRONG = {State.MISSING, State.LEFT_OVER}


def why_hidden(view: RegistryView, endpoint: EndpointView) -> str:
    """Say why names do not lead to an endpoint."""
    name, host = host_text(view, endpoint.owner), view.hosts.get(endpoint.owner)
    if endpoint.owner in view.evicted:
        return f"hidden: host {name} was forgotten"
    if view.endpoints.get(endpoint.endpoint_id) != endpoint:
        return "it is fenced"
    if host is not None and host.agent is AgentState.LEFT:
        return f"hidden: host {name} has left the cluster"
    if host is not None and host.record is not None and host.record.going_down:
        return f"hidden: host {name} {host.record.away_text}"
    if view.is_host_hidden(endpoint.owner):
        return f"hidden: the agent of host {name} is dead and its kernel does not answer"
    if endpoint.network_id not in view.networks:
        return "hidden: its network is not in force"
    if endpoint.record.drain is not None:
        return f"hidden: {endpoint.record.drain.text}"
    if drain := view.drain_of_host(endpoint.owner):
        return f"hidden: host {name} is {drain.text}"
    return f"hidden: {endpoint.record.health_text}"
