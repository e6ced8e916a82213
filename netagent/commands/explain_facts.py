"""Facts for `inspect --why`: reads the kernel and the container afresh, and asks the container's resolver."""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import closing

import trio

from netagent.control.present import Presenter
from netagent.daemon.cluster import Cluster
from netagent.datapath.netlink import nftables
from netagent.datapath.netlink.route_socket import Netlink, open_socket
from netagent.datapath.reconcile.observe import Observation, observe, observe_devices, observe_entries
from netagent.datapath.state import EntryKey
from netagent.doctor import explain
from netagent.doctor.checks.expected_objects import Situation, intended_state
from netagent.doctor.checks.firewall_checks import RESTORE, published_lines
from netagent.doctor.checks.label_checks import label_lines
from netagent.doctor.checks.object_checks import Evidence
from netagent.doctor.checks.object_status import ObjectStatus, State
from netagent.doctor.checks.resolver_checks import Replies, ResolverQuestion, questions_about, source_of
from netagent.doctor.explain import Extract
from netagent.doctor.facts.netns_inspect import visit
from netagent.doctor.facts.resolver_query import ask_inside
from netagent.firewall.driver import Tables
from netagent.firewall.ruleset import ruleset_of
from netagent.interface import schema
from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import ClusterId, EndpointId, HostId, NetworkId
from netagent.registry.view import EndpointView, RegistryView
from netdns import constants
from netgossip.slice_runner import in_slices

SETTLE_S = 2.0
"""How long the kernel and the resolver may take to catch up with the records as of the request."""
MAX_EXPLAINED = 20
"""Endpoints explained per service; of further ones the answer gives the number."""

ExtractOf = Callable[[RegistryView], Extract | None]
"""What is needed of the kernel, by the records; None: all of it."""
NamesOf = Callable[[EndpointView], Sequence[str]]


def situation_of(cluster: Cluster) -> Situation:
    """Return what determines the kernel's state beside the records."""
    return Situation(
        cluster_id=ClusterId(cluster.keys.cluster_id),
        domain=cluster.keys.domain,
        underlay=cluster.underlay,
        vxlan_port=cluster.config.vxlan_port,
    )


def everything(_view: RegistryView) -> None:
    """Gather the whole kernel."""


def about_endpoints(endpoints: Iterable[EndpointView], told: RegistryView | None = None) -> ExtractOf:
    """Gather what concerns some endpoints. `told`: as in `explain_endpoints`."""
    return lambda view: explain.extract_of_endpoints(told or view, endpoints)


def about_host(cluster: Cluster, host_id: HostId) -> ExtractOf:
    """Gather what concerns another host."""
    cluster_id = ClusterId(cluster.keys.cluster_id)

    def extract_of(view: RegistryView) -> Extract | None:
        host = view.hosts.get(host_id)
        return Extract((), ()) if host is None else explain.extract_of_host(view, host, cluster_id)

    return extract_of


async def gather(cluster: Cluster, extract_of: ExtractOf = everything) -> Evidence:
    """Return records and kernel as of the same moment, as nearly as possible. All of the kernel takes seconds where
    there are tens of thousands of endpoints; it is read in slices."""
    known, situation = cluster.live.now, situation_of(cluster)
    with trio.move_on_after(SETTLE_S):
        await cluster.controllers.projection.wait_programmed(known.revision)
    extract = extract_of(known.view)
    with closing(Netlink(open_socket())) as netlink:
        seen = await observe(netlink) if extract is None else await _observe_some(netlink, extract.keys)
    about = None if extract is None else extract.endpoints
    desired = await in_slices(intended_state(known, situation, about))
    dirty = cluster.kernel.reconciler.status().dirty
    return Evidence(
        view=known.view,
        rows=known.rows,
        situation=situation,
        desired=desired,
        observed=seen.state,
        service_ranges=cluster.controllers.members.ranges(known.view),
        refusals={commands.replace("\n", "; "): reason for commands, reason in dirty},
    )


async def _observe_some(netlink: Netlink, keys: Collection[EntryKey]) -> Observation:
    """Read all devices, and of the entries these."""
    seen = await observe_devices(netlink)
    try:
        entries = await observe_entries(netlink, seen, keys)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:  # Linux before 5.0
            raise
        return await observe(netlink)
    return dataclasses.replace(seen, state=seen.state.with_entries(entries))


async def explain_endpoints(
    cluster: Cluster, endpoints: Sequence[EndpointView], names_of: NamesOf, told: RegistryView | None = None
) -> explain.WhyReport:
    """Explain why each endpoint is reachable or not. `told`: the registry, with what other members sent of networks
    that this host is not in."""
    shown = endpoints[:MAX_EXPLAINED]
    evidence = await gather(cluster, about_endpoints(shown, told))
    if told is not None:
        evidence = dataclasses.replace(evidence, view=told)
    lines: list[ObjectStatus] = []
    for endpoint in shown:
        names = tuple(names_of(endpoint))
        own = evidence.rows.get(endpoint.endpoint_id)
        inside = await visit(own) if own is not None and endpoint.owner == evidence.view.local else None
        replies = await _replies(evidence, own, endpoint, names)
        lines += explain.endpoint_lines(evidence, endpoint, inside, names, replies)
        lines += await in_slices(label_lines(evidence.view, endpoint, cluster.keys.domain))
        if own is not None and own.publish:
            lines += _published(cluster, own)
    origins = tuple(explain.origin_of_endpoint(endpoint) for endpoint in shown)
    return explain.WhyReport(origins, tuple(lines), len(endpoints) - len(shown))


def _published(cluster: Cluster, row: LocalEndpointRow) -> list[ObjectStatus]:
    ruleset = ruleset_of(cluster.controllers.guarded_now)
    try:
        with closing(nftables.open_socket()) as sock:
            return list(published_lines(row, ruleset, Tables(sock).lacking(ruleset)))
    except FileNotFoundError:
        reason, state = "netagent's firewall table is missing", State.MISSING
    except OSError as error:
        reason, state = f"the firewall cannot be read: {error.strerror}", State.NOT_KNOWN
    return [
        ObjectStatus("published port", f"{one.text} leads to {row.name}", state, reason, RESTORE)
        for one in row.publish
    ]


async def _replies(
    evidence: Evidence, own: LocalEndpointRow | None, endpoint: EndpointView, names: tuple[str, ...]
) -> Replies | None:
    """Return DNS replies as the endpoint's own container gets them, else as the first container of this host in its
    network does."""
    rows = evidence.rows.values()
    asker = own or next((row for row in rows if row.network_id == endpoint.network_id and row.netns), None)
    if asker is None:
        return None
    return await ask_inside(asker, [question for question, _ in questions_about(endpoint, names)])


async def explain_addition(
    cluster: Cluster, present: Presenter, found: schema.ServiceInspection | schema.OwnNameInspection
) -> explain.WhyReport:
    """Explain an external service or an own name: its records, and whether names lead where they should."""
    view, network_id = cluster.live.view, NetworkId(found["network_id"])
    ids = [part["id"] for part in found["external"]] if found["kind"] == "service" else [found["id"]]
    origins = tuple(explain.origins_of_addition(view, network_id, ids))
    rows = cluster.live.rows
    asker = next((one for one in rows.in_network(network_id).values() if one.sandbox_id is not None), None)
    if asker is None or asker.sandbox_id is None:
        reason = "no container of this host can resolve it"
        return explain.WhyReport(origins, (ObjectStatus("name", found["fqdn"], State.NOT_NEEDED, reason),))
    with trio.move_on_after(SETTLE_S):
        await cluster.controllers.projection.wait_followed(cluster.live.revision)
    box = cluster.controllers.sandboxes(cluster.live.now)[asker.sandbox_id]
    source = await in_slices(source_of(view, [box], present.domain, cluster.kernel.service_tables.refused))
    questions = [
        ResolverQuestion(found["fqdn"], rtype) for rtype in (constants.A, constants.AAAA, constants.TXT)
    ]
    replies = await ask_inside(asker, questions)
    lines = explain.addition_lines(source, questions, replies, asker.sandbox_id)
    return explain.WhyReport(origins, tuple(lines))


async def explain_network(cluster: Cluster, network_id: NetworkId) -> explain.WhyReport:
    """Explain the objects of a network on this host. It counts all their entries, so it reads the whole kernel."""
    evidence = await gather(cluster)
    network = evidence.view.networks.get(network_id)
    if network is None:
        return explain.WhyReport((), ())
    return explain.WhyReport(
        (explain.origin_of_network(evidence, network),), tuple(explain.network_lines(evidence, network))
    )


async def explain_host(cluster: Cluster, host_id: HostId) -> explain.WhyReport:
    """Explain the objects by which this host reaches another one."""
    evidence = await gather(cluster, about_host(cluster, host_id))
    host = evidence.view.hosts.get(host_id)
    if host is None:
        return explain.WhyReport((), ())
    return explain.WhyReport(
        (explain.origin_of_host(evidence, host),), tuple(explain.host_lines(evidence, host))
    )


def endpoint_with(view: RegistryView, endpoint_id: EndpointId) -> list[EndpointView]:
    """Return the endpoint with that id, even if it is fenced."""
    found = view.endpoints.get(endpoint_id)
    return [found] if found else [e for e in view.fenced.values() if e.endpoint_id == endpoint_id]
