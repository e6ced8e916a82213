"""The doctor in the agent: gathers facts and runs the tables of checks on them. Changes nothing.

The records change all the time, and a change that has not reached the kernel yet is not an error. So the doctor first
waits until the kernel and the resolver have caught up, then reads them. A difference counts only if the kernel
differs from the records as of before the reading *and* from those as of after it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from functools import partial
from typing import Final

import trio

from netagent.commands.explain_facts import situation_of
from netagent.commands.service_facts import service_address_findings
from netagent.daemon.agent import Agent
from netagent.daemon.cluster import Cluster
from netagent.datapath.netlink import nftables
from netagent.datapath.netlink.route_socket import Netlink, open_socket
from netagent.datapath.reconcile.observe import Observation, observe
from netagent.doctor.checks.expected_objects import addresses_of_others, host_text, intended_state, owners
from netagent.doctor.checks.finding import Diagnosis, Finding, Severity, examine
from netagent.doctor.checks.firewall_checks import RESTORE, chain_findings, element_findings, rule_counts
from netagent.doctor.checks.guest_checks import inside_lines
from netagent.doctor.checks.host_checks import HOST_CHECKS, NetworkFacts
from netagent.doctor.checks.intent_checks import INTENT_CHECKS, IntentFacts, NameFault
from netagent.doctor.checks.journal_checks import journal_findings
from netagent.doctor.checks.kernel_drift import Difference, differences
from netagent.doctor.checks.object_status import ObjectStatus
from netagent.doctor.checks.resolver_checks import (
    ResolverQuestion,
    expected,
    fault,
    questions_about,
    source_of,
)
from netagent.doctor.facts.host_facts import FactSources, gather_host
from netagent.doctor.facts.netns_inspect import visit_all
from netagent.doctor.facts.resolver_query import ask_inside
from netagent.endpoints.resolv_conf import shortcoming
from netagent.endpoints.targets import named_netns
from netagent.errors import NetagentError
from netagent.firewall.driver import Tables
from netagent.firewall.element import Family
from netagent.firewall.ruleset import ruleset_of
from netagent.journal.reader import read_apart
from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import EndpointId
from netagent.model.naming import names_of
from netagent.projection.service_ranges import Ranges
from netagent.registry.encryption import is_encrypted
from netagent.registry.shared_names import shared_names
from netagent.registry.state_store import Snapshot
from netagent.registry.view import EndpointView, RegistryView
from netagent.resolver.zone_source import ZoneSource
from netgossip.slice_runner import in_slices
from netgossip.slices import Slices

SETTLE_S: Final = 2.0
VISITS_S: Final = 5.0
QUESTIONS_S: Final = 5.0
MAX_ASKED_SANDBOXES: Final = 100
"""Bound of containers whose resolver `doctor` asks; beyond it: a random choice of them is asked."""
MAX_QUESTIONS: Final = 12
"""Names asked for in one sandbox: its own, and some of other endpoints."""
JOURNAL_TRIES: Final = 3
_AGAIN_S: Final = 0.1


async def diagnose(agent: Agent) -> Diagnosis:
    """Run all checks with everything that the agent knows."""
    cluster = agent.cluster
    with closing(Netlink(open_socket())) as netlink:
        if cluster is None:
            host = await gather_host(_place(agent, None, None), netlink)
            return Diagnosis(tuple(examine(HOST_CHECKS, host)), absent="this host is in no cluster")
        facts, seen, counts = await _gather_intent(cluster, netlink)
        host = await gather_host(_place(agent, cluster, seen), netlink, seen)
    outcomes = examine(INTENT_CHECKS, facts)
    return Diagnosis(tuple(examine(HOST_CHECKS, host)), tuple(outcomes), counts=counts)


def _place(agent: Agent, cluster: Cluster | None, seen: Observation | None) -> FactSources:
    config = agent.config
    networks: tuple[NetworkFacts, ...] = ()
    others: Mapping[str, str] = {}
    resolver = None
    if cluster is not None:
        others = addresses_of_others(cluster.live.view)
        networks = network_facts(cluster.live.view, cluster.live.rows.values())
        status = cluster.controllers.supervisor.status()
        resolver = "" if status["running"] else str(status["trouble"] or "the resolver does not answer")
    return FactSources(
        state_dir=config.state_dir,
        gossip_port=config.gossip_port,
        record_port=config.record_port,
        vxlan_port=config.vxlan_port,
        underlay=agent.underlay.address,
        underlay_device=agent.underlay.device,
        underlay_mtu_bytes=agent.underlay.mtu_bytes,
        is_encrypted=cluster is not None and is_encrypted(cluster.live.view),
        unreachable=agent.uplinks.problem,
        others=others,
        networks=networks,
        wanted_links=frozenset(seen.state.devices) if seen is not None else frozenset(),
        resolver=resolver,
        own_pids=frozenset({os.getpid()}),
        is_agent=True,
    )


def network_facts(view: RegistryView, rows: Iterable[LocalEndpointRow]) -> tuple[NetworkFacts, ...]:
    """Return all networks in force, in the form that the checks of the host take."""
    here = {row.network_id for row in rows}
    return tuple(
        NetworkFacts(
            network.unique_name,
            network.record.vni,
            network.record.mtu_bytes,
            network.record.subnets,
            network_id in here,
            bool(network.record.gateways),
        )
        for network_id, network in sorted(view.networks.items())
    )


async def _gather_intent(
    cluster: Cluster, netlink: Netlink
) -> tuple[IntentFacts, Observation, dict[str, int]]:
    known = cluster.live.now
    behind = await _wait_settled(cluster, known)
    seen = await observe(netlink)
    found = await _differences(cluster, known, seen)
    whose = await in_slices(owners(known.view))
    firewall = _firewall_findings(cluster, known.view, whose)
    lines, unseen = await look_inside(known, cluster.controllers.members.ranges(known.view))
    faults, asked = await _ask_names(cluster)
    services = await service_address_findings(cluster)
    journal = await _compare_journal(cluster)
    state = seen.state
    counts = {
        "networks": len({row.network_id for row in known.rows.values()}),
        "containers": len({row.netns_identity for row in known.rows.values()}) - unseen,
        "devices": len(state.devices),
        "entries": state.entry_count,
        "questions": asked,
    }
    dirty = cluster.kernel.reconciler.status().dirty
    facts = IntentFacts(
        behind=behind,
        differences=tuple(found),
        owners=whose,
        refusals={commands.replace("\n", "; "): reason for commands, reason in dirty},
        firewall=firewall,
        inside=tuple(lines),
        unseen=unseen,
        names=tuple(faults),
        asked=asked,
        journal=journal,
        conflicts=await in_slices(known.view.search_conflicts()),
        shared_names=await in_slices(shared_names(known.view)),
        services=services,
        resolv_confs=tuple(_resolv_confs(_askers(known))),
    )
    return facts, seen, counts


async def _wait_settled(cluster: Cluster, known: Snapshot) -> str:
    with trio.move_on_after(SETTLE_S):
        await cluster.controllers.projection.wait_followed(known.revision)
        return ""
    return f"after {SETTLE_S:g} s the kernel or the resolver still lagged behind what the agent knows"


async def _differences(cluster: Cluster, known: Snapshot, seen: Observation) -> list[Difference]:
    """Return the differences both from the snapshot `known` before the reading and from the present one."""
    situation = situation_of(cluster)

    def compare(snapshot: Snapshot) -> Slices[list[Difference]]:
        desired = yield from intended_state(snapshot, situation)
        return (yield from differences(desired, seen.state))

    found = await in_slices(compare(known))
    later = cluster.live.now
    if not found or later.revision == known.revision:
        return found
    still = set(await in_slices(compare(later)))
    return [one for one in found if one in still]


def _firewall_findings(
    cluster: Cluster, view: RegistryView, owned: Mapping[tuple[str, str], str]
) -> tuple[Finding, ...]:
    ruleset = ruleset_of(cluster.controllers.guarded_now)
    whose = _whose(view, owned)
    found: list[Finding] = []
    with closing(nftables.open_socket()) as sock:
        tables = Tables(sock)
        try:
            for family, wanted in rule_counts(ruleset).items():
                found += chain_findings(family, wanted, tables.rules_in(Family(family)))
            found += element_findings(ruleset, tables.lacking(ruleset), whose)
        except FileNotFoundError:
            found.append(Finding("tables", "a table of netagent is missing in the firewall", RESTORE))
        except OSError as error:
            found.append(Finding("tables", f"the firewall cannot be read: {error.strerror}", RESTORE))
    trouble = cluster.kernel.guard.status().trouble
    if trouble:
        found.append(Finding("tables", f"the firewall differs from what netagent needs: {trouble}", RESTORE))
    return tuple(found)


def _whose(view: RegistryView, owned: Mapping[tuple[str, str], str]) -> Callable[[str], str]:
    """Return a function that names the owner of an underlay address or of an endpoint's address or MAC."""
    hosts = {h.record.underlay: f"host {host_text(view, i)}" for i, h in view.hosts.items() if h.record}
    things = {key: text for (_, key), text in owned.items() if key}
    return lambda word: hosts.get(word) or things.get(word, "")


async def look_inside(known: Snapshot, ranges: Ranges) -> tuple[list[ObjectStatus], int]:
    """Return the status of objects inside the containers of this host, and the number of containers for which no
    time was left. `ranges`: the service ranges to which they should have routes."""
    rows = [row for row in known.rows.values() if row.is_published]
    seen = await visit_all(rows, patience_s=VISITS_S)
    lines: list[ObjectStatus] = []
    for row in rows:
        facts = seen.get(row.netns.identity) if row.netns else None
        if facts is not None:
            lines += inside_lines(row, known.rows.values(), known.view, facts, ranges)
    wanted = {row.netns_identity for row in rows}
    return list(dict.fromkeys(lines)), len(wanted - seen.keys())


# -- names ---------------------------------------------------------------------------------------------------------


async def _ask_names(cluster: Cluster) -> tuple[list[NameFault], int]:
    """Return wrong answers and the number of questions. A wrong answer counts if it is still wrong when asked again,
    after the resolver had time to catch up."""
    askers = _askers(cluster.live.now)
    found: list[NameFault] = []
    asked = 0
    with trio.move_on_after(QUESTIONS_S):
        wrong: list[LocalEndpointRow] = []
        source = await _source(cluster)
        for row in askers:
            questions = _questions(cluster, row)
            asked += len(questions)
            if await _faults(source, row, questions):
                wrong.append(row)
        if wrong:
            await _wait_settled(cluster, cluster.live.now)
            source = await _source(cluster)
            for row in wrong:
                found += await _faults(source, row, _questions(cluster, row))
    return found, asked


def _resolv_confs(rows: Iterable[LocalEndpointRow]) -> Iterator[Finding]:
    """Yield a finding for each named namespace whose file names another server first."""
    for name in dict.fromkeys(filter(None, map(named_netns, rows))):
        found = shortcoming(name)
        if found is not None:
            yield Finding(f"netns:{name}", *found, Severity.WARNING)


def _askers(known: Snapshot) -> list[LocalEndpointRow]:
    """Choose some sandboxes, and one endpoint of each."""
    by_box = {row.sandbox_id: row for row in known.rows.values() if row.is_published}
    rows = list(by_box.values())
    return rows if len(rows) <= MAX_ASKED_SANDBOXES else random.sample(rows, MAX_ASKED_SANDBOXES)


async def _source(cluster: Cluster) -> ZoneSource:
    known = cluster.live.now
    boxes = tuple(cluster.controllers.sandboxes(known).values())
    refused = cluster.kernel.service_tables.refused
    return await in_slices(source_of(known.view, boxes, cluster.keys.domain, refused))


def _questions(cluster: Cluster, row: LocalEndpointRow) -> list[ResolverQuestion]:
    """Return questions about the endpoint itself and about some others of its network."""
    view = cluster.live.view
    network = view.networks.get(row.network_id)
    own = view.endpoints.get(row.endpoint_id)
    if network is None:
        return []
    mates = view.endpoints_in(row.network_id)
    others = [mates[one] for one in _some(list(mates), MAX_QUESTIONS)]
    asked: dict[ResolverQuestion, None] = {}
    for endpoint in [*([own] if own is not None else []), *others]:
        names = _names(view, endpoint, network.unique_name, cluster.keys.domain)
        asked.update(dict.fromkeys(question for question, _ in questions_about(endpoint, names)))
    return list(asked)[:MAX_QUESTIONS]


def _some(keys: list[EndpointId], count: int) -> list[EndpointId]:
    return keys if len(keys) <= count else random.sample(keys, count)


def _names(view: RegistryView, endpoint: EndpointView, network: str, domain: str) -> tuple[str, ...]:
    return names_of(endpoint.record, host=host_text(view, endpoint.owner), base=f"{network}.{domain}")


async def _faults(
    source: ZoneSource, row: LocalEndpointRow, questions: list[ResolverQuestion]
) -> list[NameFault]:
    if (box := row.sandbox_id) is None:
        return []
    said = await ask_inside(row, questions)
    texts = [(question, fault(expected(source, question, box), said[question])) for question in questions]
    return [NameFault(question.name, row.target, text) for question, text in texts if text]


# -- journal -------------------------------------------------------------------------------------------------------


async def _compare_journal(cluster: Cluster) -> tuple[Finding, ...] | str:
    """Return findings that remain on a second comparison: a record that is just being written is on disk a moment
    before the agent's view contains it."""
    found: tuple[Finding, ...] = ()
    for attempt in range(JOURNAL_TRIES):
        if attempt:
            await trio.sleep(_AGAIN_S)
        try:
            written = await trio.to_thread.run_sync(partial(read_apart, is_whole=False), cluster.journal.path)
        except NetagentError as error:
            return str(error)
        known = cluster.live.now
        found = tuple(journal_findings(known.view, known.rows, written, cluster.keys.domain))
        if not found:
            break
    return found
