"""`lookup NAME [TYPE] [--from ENDPOINT]`: the answer an endpoint would get, and the reason."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Final, NotRequired, TypedDict

from netagent.commands.handlers import answers
from netagent.commands.notices.missing_networks import not_known
from netagent.commands.notices.name_notices import name_notices
from netagent.commands.presenters import overview_of, presenter
from netagent.control.present import Presenter
from netagent.daemon.agent import Agent
from netagent.daemon.cluster import Cluster
from netagent.doctor.facts.name_servers import LOOKUP_S, NameServerReply, ask_servers, say_answer
from netagent.endpoints.find import is_called, local_endpoint_called, may_be_called
from netagent.errors import InputError
from netagent.interface import schema
from netagent.interface.questions import LookupCommand
from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import NetworkId
from netagent.model.naming import labels_inside
from netagent.model.sandbox import SandboxId
from netagent.registry.cluster_overview import ClusterOverview
from netagent.registry.shared_names import shared_name
from netagent.registry.view import NetworkView, RegistryView
from netagent.resolver.explain_name import FORWARDED, HOST_VIEW, TYPES, NameExplanation, explain
from netdns import rebinding
from netdns.errors import DnsError
from netdns.name import from_text
from netgossip.slice_runner import in_slices
from netgossip.slices import Slices

_DECIDED: Final = {"NOERROR", "NXDOMAIN"}
_MAX_MEANT: Final = 3
"""At most this many containers are named if the name is only what a runtime calls them."""


@answers(LookupCommand)
async def lookup(agent: Agent, request: LookupCommand) -> schema.Lookup:
    """Return the resolver's answer; for a name outside the cluster, that of the host's name servers."""
    cluster, name, rtype = agent.member(), request.name, request.type.upper()
    found = await look_up(cluster, name, rtype, request.from_endpoint)
    if not request.local and not found["answers"]:
        overview = await overview_of(cluster)
        found = await look_up_elsewhere(cluster, found, (name, rtype), presenter(cluster, overview), overview)
    return await with_name_servers(cluster, found)


async def look_up(cluster: Cluster, name: str, rtype: str, from_endpoint: str) -> schema.Lookup:
    """Ask a zone source like the resolver's, over the present table. Raises InputError, NotFoundError."""
    asker = local_endpoint_called(cluster.live, from_endpoint) if from_endpoint else None
    sandbox_id = (asker.sandbox_id if asker else None) or HOST_VIEW
    view = cluster.live.view
    mates = cluster.live.rows.mates_of(asker) if asker else []
    group = next((row.group.name for row in mates if row.group), "")
    gone: dict[str, int] = {}
    for row in mates if group else ():
        gone |= cluster.group_labels.gone(row.network_id, group)
    explained = await _explained(cluster, view, (name, rtype), sandbox_id, gone=gone)
    found = _lookup(explained, asker.endpoint_id if asker else "")
    if asker is not None and not found["answers"]:
        found["reason"] = await _why_outside(cluster, asker, name, found["reason"])
    return {**found, **_shared(view, cluster.keys.domain, found, group)}


async def _why_outside(cluster: Cluster, asker: LocalEndpointRow, name: str, reason: str) -> str:
    """Return the reason of a negative answer; that the asker is not in the name's network comes first."""
    view, domain = cluster.live.view, f".{cluster.keys.domain}"
    whole = name.lower().removesuffix(".")
    inside = whole.removesuffix(domain)
    network = view.network_named(inside.rpartition(".")[2])
    mine = {one.network_id for one in cluster.live.rows.mates_of(asker)}
    if "." not in inside or network is None or network.network_id in mine:
        return reason
    if whole == inside and view.local in view.attachments(network.network_id):
        # A network may be called like a top-level domain.
        meant = await _explained(cluster, view, (inside + domain, "A"), HOST_VIEW)
        if meant.status == "NXDOMAIN":
            return reason
    place = network.unique_name
    said = f"{asker.name} is not in network {place}; "
    if asker.target:
        said += f"`netagent attach {asker.target} --network {place}` puts it there; "
    return said + reason.removeprefix("the name is not netagent's; ")


async def look_up_elsewhere(
    cluster: Cluster,
    here: schema.Lookup,
    asked: tuple[str, str],
    present: Presenter,
    overview: ClusterOverview,
) -> schema.Lookup:
    """Return the answer in the networks that other members know, and the containers that have this name without a
    DNS name; `here` is the negative answer that a container of this host gets for `asked`. Raises FailedError if the
    look-up is not from a container and hosts that may know the name do not answer."""
    name, rtype = asked
    found = here
    if not here["asked_for"] and overview.told_by:
        told = sorted(overview.told_by, key=present.network_name)
        explained = await _explained(cluster, overview.view, (name, rtype), HOST_VIEW, told)
        found = _lookup(explained, "")
        found = {**found, **_shared(overview.view, cluster.keys.domain, found, "")}
    if found["answers"]:
        where = [n for n in overview.told_by if f".{present.network_name(n)}." in found["name"]]
        hosts = sorted({host for n in where or overview.told_by for host in present.tellers(n)})
        reason = f"{found['reason']}; reported by {', '.join(hosts)}, as this host is not in that network"
        return {**found, "reason": reason}
    if found["status"] != "NOERROR" and (meant := await in_slices(_meant(present, name))):
        return {**found, "reason": f"{found['reason']}; {'; '.join(meant)}"}
    networks = overview.view.networks
    gaps = [gap for gap in overview.gaps if _may_be_in(name, networks[gap.network_id], cluster.keys.domain)]
    if gaps and not here["asked_for"]:
        raise not_known(present, gaps, f"nothing known here has the name {name}", name)
    return found


def _may_be_in(name: str, network: NetworkView, domain: str) -> bool:
    """True if a name or address, as typed, may belong to a network whose endpoints are not known here."""
    with suppress(ValueError):
        address = ipaddress.ip_address(name)
        return any(address in ipaddress.ip_network(subnet) for subnet in network.record.subnets)
    labels = name.lower().removesuffix(".").removesuffix("." + domain).split(".")
    return len(labels) == 1 or labels[-1] == network.unique_name


class _Warnings(TypedDict):
    warnings: NotRequired[list[schema.Notice]]


def _shared(view: RegistryView, domain: str, found: schema.Lookup, group: str) -> _Warnings:
    """Return a warning if the name does not lead where one expects, and not to the asker's own `group`."""
    label, _, place = found["name"].removesuffix(".").removesuffix(f".{domain}").partition(".")
    network = view.network_named(place)
    if network is None:
        return {}
    if any(label in labels_inside(one.record, group) for one in view.labelled(network.network_id, label)):
        return {}
    one = shared_name(view, network.network_id, label)
    return {"warnings": name_notices([one])} if one is not None else {}


def _meant(present: Presenter, name: str) -> Slices[list[str]]:
    """Yield a sentence for each container with this name in another network, or in its runtime or compose."""
    found: set[str] = set()
    for endpoint in may_be_called(present.view, name):
        yield
        if not is_called(endpoint, name):
            continue
        shown = present.endpoint(endpoint)
        who = f"{name} is {endpoint.record.name} on {shown['host']}"
        if present.view.is_visible(endpoint):
            names = shown["names"][-1] if name in endpoint.record.aliases else shown["names"][0]
            found.add(f"{who}, whose name in network {shown['network']} is {names}")
        elif name not in {endpoint.record.service, *endpoint.record.aliases}:
            # Else it is among those that the answer left out, with the reason.
            found.add(f"{who}, which has no DNS name: {shown['reason']}")
    return sorted(found)[:_MAX_MEANT]


async def _explained(
    cluster: Cluster,
    view: RegistryView,
    asked: tuple[str, str],
    sandbox_id: SandboxId,
    beyond: Sequence[NetworkId] = (),
    *,
    gone: Mapping[str, int] | None = None,
) -> NameExplanation:
    name, rtype = asked
    if rtype not in TYPES:
        raise InputError(
            f"{rtype!r} is not a record type that lookup knows",
            thing=rtype,
            hint="use one of " + ", ".join(TYPES),
        )
    known = cluster.live.now
    beside = [row for row in known.rows.values() if row.sandbox_id == sandbox_id]
    try:
        return await in_slices(
            explain(
                view,
                cluster.controllers.sandboxes(known),
                domain=cluster.keys.domain,
                name=name,
                rtype=rtype,
                sandbox_id=sandbox_id,
                beyond=beyond,
                behind_runtime=any(row.netns is not None and row.netns.behind_runtime for row in beside),
                now_s=int(time.time()),
                rtt_s=cluster.probing.prober.fastest_rtt_s,
                gone=gone,
                untranslated=cluster.controllers.untranslated,
                refused=cluster.kernel.service_tables.refused,
            )
        )
    except DnsError as error:
        raise InputError(f"{name!r} is not a domain name: {error}", thing=name, hint="correct it") from None


def _lookup(explained: NameExplanation, asked_for: str) -> schema.Lookup:
    return {
        "name": explained.name,
        "type": explained.rtype,
        "status": explained.status,
        "answers": [
            {"name": one.name, "type": one.rtype, "ttl_s": one.ttl_s, "data": one.data}
            for one in explained.records
        ],
        "asked_for": asked_for,
        "reason": explained.reason,
        "servers": [],
    }


async def with_name_servers(cluster: Cluster, found: schema.Lookup) -> schema.Lookup:
    """Complete a forwarded look-up: ask the host's name servers for a name outside the cluster."""
    if found["status"] != FORWARDED:
        return found
    servers = cluster.controllers.supervisor.name_servers()
    answers = await ask_servers(servers, from_text(found["name"]), TYPES[found["type"]], LOOKUP_S)
    view, here = cluster.live.view, {row.network_id for row in cluster.live.rows.values()}
    networks = (view.networks.get(one) for one in here)
    subnets = {subnet for one in networks if one is not None for subnet in one.record.subnets}
    subnets.update(
        subnet for one in here for known in view.service_ranges(one) for subnet in known.record.subnets
    )
    return answered(found, answers, subnets)


def answered(
    found: schema.Lookup, answers: Sequence[NameServerReply], subnets: Collection[str]
) -> schema.Lookup:
    """Return a forwarded look-up with the answer of the host's name servers. As in the resolver, the first server
    that answers decides, even with NXDOMAIN, and an answer with an address inside the overlay (`subnets`) becomes
    empty."""
    best = next((one for one in answers if one.status in _DECIDED), None)
    said = "; ".join(map(say_answer, answers)) or "the host has no name server"
    if best is not None and any(_is_inside(address, subnets) for address, _ in best.addresses):
        said += "; containers get an empty answer, because the address is inside the overlay"
        best = None
    return {
        **found,
        "answers": [
            {"name": found["name"], "type": found["type"], "ttl_s": ttl_s, "data": address}
            for address, ttl_s in (best.addresses if best is not None else ())
        ],
        "reason": f"{found['reason']}; {said}",
        "servers": [
            {
                "server": one.server,
                "status": one.status,
                "after_s": None if one.after_s is None else round(one.after_s, 4),
                "addresses": [address for address, _ in one.addresses],
                "trouble": one.trouble,
            }
            for one in answers
        ],
    }


def _is_inside(text: str, subnets: Collection[str]) -> bool:
    address = ipaddress.ip_address(rebinding.unmapped(ipaddress.ip_address(text).packed))
    return rebinding.is_loopback(address.packed) or any(
        address in ipaddress.ip_network(one) for one in subnets
    )
