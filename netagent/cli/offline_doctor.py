"""The doctor without an agent: the command line loads it when no agent answers.

It reads the records from the journal. Records that a hanging agent has not written yet are missing there, so an
entry that is only newer than the journal may look left over. It does not check names: only a running agent knows
which hosts are up and so which names are hidden.
"""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import trio

from netagent import config as configuration
from netagent.commands.examine import look_inside, network_facts
from netagent.commands.reasons import doctor
from netagent.config import Config
from netagent.datapath.host.uplink import Underlay
from netagent.datapath.netlink.link import LinkMessage, address_dump, decode_address, decode_link, link_dump
from netagent.datapath.netlink.route_socket import Netlink, open_socket
from netagent.datapath.reconcile.observe import Observation, observe
from netagent.doctor.checks.expected_objects import Situation, addresses_of_others, intended_state, owners
from netagent.doctor.checks.finding import Diagnosis, examine
from netagent.doctor.checks.host_checks import HOST_CHECKS
from netagent.doctor.checks.intent_checks import INTENT_CHECKS, IntentFacts
from netagent.doctor.checks.journal_checks import journal_findings
from netagent.doctor.checks.kernel_drift import differences
from netagent.doctor.facts.host_facts import FactSources, gather_host, has_resolver, processes_of
from netagent.errors import NetagentError
from netagent.interface.schema import SCHEMA
from netagent.journal.reader import StoredState, read_apart
from netagent.journal.rows import LocalEndpointRow
from netagent.membership.event_queue import first_view
from netagent.model.ids import ClusterId, EndpointId, HostId
from netagent.projection.service_ranges import ranges_here
from netagent.registry.encryption import is_encrypted
from netagent.registry.local_rows import local_rows
from netagent.registry.shared_names import shared_names
from netagent.registry.state_store import Snapshot
from netagent.registry.view import RegistryView
from netgossip.slices import at_once

SILENT = "no agent answers"


def look(config_file: str | None) -> dict[str, Any]:
    """Return the answer of `GET /v1/doctor`, as far as possible. Raises a NetagentError for a bad configuration."""
    config = configuration.load(Path(config_file) if config_file else None, {}, os.environ)
    diagnosis = trio.run(_diagnose, config)
    return {"schema": SCHEMA, **doctor(diagnosis, agent="silent")}


async def _diagnose(config: Config) -> Diagnosis:
    absent = ""
    known: tuple[Snapshot, Situation, StoredState] | None = None
    with closing(Netlink(open_socket())) as netlink:
        links = [decode_link(message.body) for message in await netlink.dump(link_dump())]
        addresses = [decode_address(message.body) for message in await netlink.dump(address_dump())]
        try:
            known = _remembered(config, links, addresses)
            absent = "" if known else "this host is in no cluster"
        except NetagentError as error:
            absent = str(error)
        seen = await observe(netlink)
        host = await gather_host(_place(config, known, seen), netlink, seen)
        outcomes = tuple(examine(HOST_CHECKS, host))
        if known is None:
            return Diagnosis(outcomes, absent=absent)
        facts = await _gather(config, *known, seen)
    counts = {"devices": len(seen.state.devices)}
    return Diagnosis(outcomes, tuple(examine(INTENT_CHECKS, facts)), counts=counts)


def _remembered(
    config: Config, links: list[LinkMessage], addresses: list[tuple[int, str]]
) -> tuple[Snapshot, Situation, StoredState] | None:
    """Read the journal and the key ring; None on a host that is in no cluster."""
    ring = _key_ring(config)
    if ring is None:
        return None
    written = read_apart(config.state_dir / "state.db")
    if not written.own:
        return None
    local = HostId(written.own[0].owner)
    members = [member for member in written.members if member.node_id != local]
    view = first_view(local, [*written.own, *written.replicas], members)
    own = view.hosts[local].record if local in view.hosts else None
    underlay = own.underlay if own is not None else ""
    by_index = {link.index: link for link in links}
    mtu_bytes = next(
        (by_index[i].mtu_bytes for i, cidr in addresses if cidr.partition("/")[0] == underlay), 0
    )
    situation = Situation(
        cluster_id=ClusterId(str(ring["cluster_id"])),
        domain=str(ring["domain"]),
        underlay=Underlay(underlay, "", mtu_bytes),
        vxlan_port=config.vxlan_port,
    )
    rows: Mapping[EndpointId, LocalEndpointRow] = {row.endpoint_id: row for row in written.rows}
    return Snapshot(0, view, local_rows(rows), {}), situation, written


def _key_ring(config: Config) -> Mapping[str, Any] | None:
    """Return the names in the key ring; the keys are not needed here."""
    try:
        ring = json.loads(config.keyring_file.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return ring if isinstance(ring, dict) and {"cluster_id", "domain"} <= ring.keys() else None


def _place(
    config: Config, known: tuple[Snapshot, Situation, StoredState] | None, seen: Observation
) -> FactSources:
    situation = known[1] if known else None
    view: RegistryView | None = known[0].view if known else None
    return FactSources(
        state_dir=config.state_dir,
        gossip_port=config.gossip_port,
        record_port=config.record_port,
        vxlan_port=config.vxlan_port,
        underlay=situation.underlay.address if situation else "",
        underlay_device="",
        underlay_mtu_bytes=situation.underlay.mtu_bytes if situation else 0,
        is_encrypted=view is not None and is_encrypted(view),
        others=addresses_of_others(view) if view is not None else {},
        networks=network_facts(view, known[0].rows.values()) if view is not None and known else (),
        wanted_links=frozenset(seen.state.devices),
        resolver=("" if has_resolver(config.run_dir) else "it does not run") if known else None,
        own_pids=processes_of(config.run_dir),
    )


async def _gather(
    config: Config, known: Snapshot, situation: Situation, written: StoredState, seen: Observation
) -> IntentFacts:
    view = known.view
    lines, unseen = await look_inside(known, ranges_here(view) if config.service_addresses == "on" else {})
    address = situation.underlay.address
    is_placed = bool(address and ipaddress.ip_address(address))
    desired = at_once(intended_state(known, situation)) if is_placed else seen.state
    return IntentFacts(
        behind="",
        differences=tuple(at_once(differences(desired, seen.state))),
        owners=at_once(owners(view)),
        refusals={},
        firewall=SILENT,
        inside=tuple(lines),
        unseen=unseen,
        names=SILENT,
        asked=0,
        journal=tuple(journal_findings(view, known.rows, written, situation.domain)),
        conflicts=view.conflicts,
        shared_names=at_once(shared_names(view)),
    )
