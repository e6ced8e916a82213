"""`netagent ping [FROM] TO[:PORT] [--trace]`: test connectivity, and find the layer that drops the packets."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, replace

from netagent.commands.explain_facts import ExtractOf, about_endpoints, about_host, everything, gather
from netagent.commands.handlers import answers
from netagent.commands.lookup import look_up
from netagent.commands.notices.missing_networks import not_known
from netagent.control.present import Presenter
from netagent.daemon.agent import Agent
from netagent.daemon.cluster import Cluster
from netagent.doctor import explain
from netagent.doctor.checks.echo_checks import SMALL_BYTES, Hop, PacketCounts, hop_of, judge
from netagent.doctor.checks.expected_objects import host_text
from netagent.doctor.checks.finding import Severity
from netagent.doctor.checks.guest_checks import inside_lines
from netagent.doctor.checks.object_checks import Evidence
from netagent.doctor.checks.rule_match import Packet
from netagent.doctor.facts.foreign_rules_reader import ForeignRules
from netagent.doctor.facts.netns_inspect import visit
from netagent.doctor.facts.ping_probe import connect, echo, no_route
from netagent.endpoints.find import local_endpoint_called
from netagent.errors import InputError, NotFoundError
from netagent.interface import schema
from netagent.interface.questions import PingCommand
from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import HostId
from netagent.model.number import whole_number
from netagent.model.records import Policy
from netagent.probes.quality import PathStatus, Quality
from netagent.registry.links import linked_from
from netagent.registry.view import AgentState, EndpointView, HostView, RegistryView, ServiceAddressView
from netagent.rpc import messages

MAX_ADDRESSES = 8
"""Ping at most this many replicas of a service, the first ones."""


@dataclass(frozen=True, slots=True)
class _Aim:
    """The destination. `host_id` and `endpoint` are those of the first address."""

    addresses: tuple[str, ...]
    """The trace follows the first."""
    named: str
    """A sentence about how the addresses were found."""
    host_id: HostId | None
    """The host of the first address; None outside the overlay."""
    endpoint: EndpointView | None
    full_bytes: int | None
    """The largest packet that the network allows, in bytes; None if not known."""
    port: int | None = None
    """Open connections to this port; None: send echo requests."""
    called: str = ""
    """What answers, for the message; empty if it is what the user typed."""


@answers(PingCommand)
async def ping(agent: Agent, request: PingCommand) -> schema.Ping:
    """Send packets, count the replies, and say where packets are lost. Raises InputError, NotFoundError."""
    cluster = agent.member()
    text, port = _split(request.to)
    row = _asker(cluster, request.from_endpoint) if request.from_endpoint else None
    aim = await (_aim_inside(cluster, row, text, port) if row is not None else _aim_host(cluster, text, port))
    sizes = [SMALL_BYTES] + ([aim.full_bytes] if aim.full_bytes else [])
    tallies: list[PacketCounts] = []
    for address in aim.addresses:
        if aim.port is None:
            tallies += await echo(row, address, sizes, request.count)
        else:
            tallies.append(await connect(row, address, aim.port))
    hops: tuple[Hop, ...] = ()
    if request.trace or any(one.is_lost for one in tallies):
        aim = _traced(cluster.live.view, aim, tallies)
        hops = tuple(await _hops(cluster, row, aim, agent.foreign_rules, tallies))
    verdict = judge(tallies, hops, aim.called or request.to)
    view = cluster.live.view
    return {
        "from": row.name if row is not None else host_text(view, view.local),
        "to": request.to,
        "host": host_text(view, aim.host_id) if aim.host_id else "",
        "reached": not verdict.lost_at,
        "lost_at": verdict.lost_at,
        "says": verdict.says,
        "results": [_result(one) for one in tallies],
        "trace": [_hop(one) for one in hops],
    }


def _asker(cluster: Cluster, text: str) -> LocalEndpointRow:
    """Find a container by the name of an endpoint. Endpoints of one container that share a name count as one."""
    named = [row for row in cluster.live.rows.values() if row.name == text]
    is_one = len({row.sandbox_id for row in named if row.netns}) == 1
    return named[0] if is_one else local_endpoint_called(cluster.live, text)


def _split(text: str) -> tuple[str, int | None]:
    """Split TO[:PORT]; an IPv6 address with a port needs brackets."""
    name, colon, port = text.rpartition(":")
    if text.startswith("["):
        name, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise InputError(f"{text!r} is not an address with a port", thing=text, hint="write [fd00::2]:80")
        colon, port = rest[:1], rest[1:]
    elif text.count(":") != 1:
        return text, None
    if not colon:
        return name, None
    number = whole_number(port, 1, 65535)
    if number is None or not name:
        raise InputError(f"{port[:80]!r} is not a port", thing=text[:80], hint="use a number from 1 to 65535")
    return name, number


async def _aim_inside(cluster: Cluster, row: LocalEndpointRow, text: str, port: int | None) -> _Aim:
    """Find the destination as the container would: by its resolver's answer, or by the address given."""
    view = cluster.live.view
    addresses: tuple[str, ...]
    try:
        addresses, named = (str(ipaddress.ip_address(text)),), "it was given as an address"
    except ValueError:
        answers = [await look_up(cluster, text, rtype, row.endpoint_id) for rtype in ("A", "AAAA")]
        found = [one["data"] for answer in answers for one in answer["answers"]]
        addresses, named = tuple(found[:MAX_ADDRESSES]), answers[0]["reason"]
        if not addresses:
            raise NotFoundError(
                f"{row.name} cannot resolve {text!r}: {answers[0]['status']}; {named}",
                code="no-such-name",
                thing=text,
                hint=f"see `netagent lookup {text} --from {row.name}` and `netagent endpoints`",
            ) from None
    service = view.service_by_address(addresses[0])
    if service is not None:
        addresses, port = _replicas(view, service), _target_port(service, port)
        named += "; its replicas are tested, because its own address is answered inside the container"
    endpoint = view.endpoint_by_address(addresses[0])
    if endpoint is None:
        return _Aim(addresses, named, None, None, None, port)
    network = view.networks.get(endpoint.network_id)
    full_bytes = None if network is None else network.record.mtu_bytes
    return _Aim(addresses, named, endpoint.owner, endpoint, full_bytes, port)


def _replicas(view: RegistryView, service: ServiceAddressView) -> tuple[str, ...]:
    """Return the addresses of a service's replicas that names lead to. Raises NotFoundError."""
    name, group = service.service
    replicas = filter(view.is_visible, view.service(service.network_id, name, group).endpoints)
    found = [address for one in replicas for address in one.record.addresses]
    if not found:
        raise NotFoundError(
            f"service {name} has no replica that is up, and its own address is answered inside the container",
            code="no-replica",
            thing=name,
            hint="see `netagent endpoints`",
        )
    return tuple(found[:MAX_ADDRESSES])


def _target_port(service: ServiceAddressView, port: int | None) -> int | None:
    """Return the port of a service's replicas to which a port of its own address leads. Raises NotFoundError."""
    ports = {one.number: one.target for one in service.record.ports}
    if port is None or not ports:
        return port
    if port not in ports:
        raise NotFoundError(
            f"port {port} of service {service.service.name} leads nowhere",
            code="no-such-port",
            thing=service.service.name,
            hint=f"it has {', '.join(map(str, ports))}",
        )
    return ports[port]


def _traced(view: RegistryView, aim: _Aim, tallies: Sequence[PacketCounts]) -> _Aim:
    """Move the first address that did not answer to the front: the trace follows it."""
    lost = next((one.address for one in tallies if one.is_lost), None)
    if lost is None or lost == aim.addresses[0] or aim.endpoint is None:
        return aim
    endpoint = view.endpoint_by_address(lost)
    if endpoint is None:
        return aim
    addresses = (lost, *(one for one in aim.addresses if one != lost))
    return replace(aim, addresses=addresses, endpoint=endpoint, host_id=endpoint.owner)


async def _aim_host(cluster: Cluster, text: str, port: int | None) -> _Aim:
    """Find the kernel to ping over the probe network: that of a host, or of the host of an endpoint."""
    overview = await cluster.gossip.remote_networks.overview()
    view = overview.view
    if port is not None:
        raise InputError(
            f"ping can try a port of {text!r} only from a container, not from the host",
            thing=text,
            hint=f"type `netagent ping ENDPOINT {text}:{port}`, with an endpoint of this host",
        )
    try:
        host, named = _host_of(view, text)
    except NotFoundError as error:
        if not overview.gaps or error.code == "forgotten":
            raise
        present = Presenter(view, cluster.keys.domain)
        raise not_known(present, overview.gaps, error.message, text) from None
    if host.host_id == view.local:
        where = "is this host" if view.host_named(text) is host or text == host.host_id else "is on this host"
        raise InputError(
            f"{text!r} {where}", thing=text, hint="name another host, or first a container of this host"
        )
    if host.agent is AgentState.LEFT:
        raise NotFoundError(
            f"host {host.unique_name} has left the cluster", thing=text, hint="see `netagent members`"
        )
    if host.record is None:
        raise NotFoundError(
            f"host {host.name} has not published its address yet", thing=text, hint="try again"
        )
    path = cluster.probing.prober.path(host.host_id)
    full_bytes = None if path is None else path.wanted_bytes
    # For an endpoint, the kernel of its host answers, which says nothing about the container: so name the host.
    name = host_text(view, host.host_id)
    called = "" if text in {name, host.host_id} else f"{name}, the host of {text},"
    return _Aim((host.record.probe_address,), named, host.host_id, None, full_bytes, called=called)


def _host_of(view: RegistryView, text: str) -> tuple[HostView, str]:
    named = view.host_named(text) or view.hosts.get(HostId(text))
    if named is not None:
        return named, f"the kernel of host {host_text(view, named.host_id)}, on the probe network"
    endpoints = view.endpoints_named(text) or _at(view, text)
    owners = {endpoint.owner for endpoint in endpoints}
    if len(owners) > 1:
        names = ", ".join(sorted(host_text(view, owner) for owner in owners))
        raise InputError(f"{text!r} is on several hosts: {names}", thing=text, hint="give a host's name")
    for owner in owners:
        if owner in view.hosts:
            return view.hosts[owner], f"the kernel of host {host_text(view, owner)}, which has {text}"
    if HostId(text) in view.evicted:
        raise NotFoundError(
            f"host {text} was forgotten", code="forgotten", thing=text, hint="it has to join again"
        )
    raise NotFoundError(
        f"there is no host and no endpoint {text!r}",
        code="no-such-thing",
        thing=text,
        hint="see `netagent members` and `netagent endpoints`",
    )


def _at(view: RegistryView, text: str) -> tuple[EndpointView, ...]:
    try:
        found = view.endpoint_by_address(str(ipaddress.ip_address(text)))
    except ValueError:
        return ()
    return () if found is None else (found,)


async def _hops(
    cluster: Cluster,
    row: LocalEndpointRow | None,
    aim: _Aim,
    foreign_rules: ForeignRules,
    tallies: Sequence[PacketCounts],
) -> Sequence[Hop]:
    """Return the layers in the order in which a packet passes them."""
    evidence = await gather(cluster, _extract_of(cluster, row, aim))
    view = evidence.view
    traced = aim.addresses[0]
    of_traced = [one for one in tallies if one.address == traced]
    is_lost, is_silent = (fold(one.is_lost for one in of_traced) for fold in (any, all))
    if row is not None and aim.endpoint is not None:
        row = _within(evidence, row, aim.endpoint)
    hops = [Hop("name", ", ".join(aim.addresses), is_wrong=False, says=aim.named)]
    if len(aim.addresses) > 1:
        hops.append(_replica(view, aim))
    if row is not None:
        facts = await visit(row)
        hops += [
            hop_of("container", line)
            for line in inside_lines(row, evidence.rows.values(), view, facts, evidence.service_ranges)
            if line.kind in {"interface", "address", "route"}
        ]
    if aim.endpoint is not None:
        lines = explain.endpoint_lines(evidence, aim.endpoint, None, (), None)
        hops += [hop_of("kernel", line) for line in lines if line.kind != "name"]
    if row is not None:
        if aim.endpoint is not None:
            hops.append(_policy(evidence, row, aim.endpoint))
        else:
            hops.append(_way_out(evidence, row))
        if is_lost:
            hops += await _foreign_hops(cluster, row, aim, foreign_rules)
        if aim.endpoint is None:
            hops.append(_host_route(traced))
    host = view.hosts.get(aim.host_id) if aim.host_id else None
    if host is not None and host.host_id != view.local:
        if row is None:
            hops += [hop_of("kernel", line) for line in explain.host_lines(evidence, host)]
        # The prober's state may be some seconds old. Whether the kernel answers now tells a broken path from a
        # broken container.
        answers = not is_silent if row is None else await _answers_now(host) if is_lost else True
        path = cluster.probing.prober.path(host.host_id)
        hops += _far(host, host_text(view, host.host_id), path, answers_now=answers)
    return hops


def _extract_of(cluster: Cluster, row: LocalEndpointRow | None, aim: _Aim) -> ExtractOf:
    """Return what the hops need of the kernel."""
    if aim.endpoint is not None:
        return everything if row is None else about_endpoints([aim.endpoint])
    return about_host(cluster, aim.host_id) if row is None and aim.host_id else about_endpoints(())


def _replica(view: RegistryView, aim: _Aim) -> Hop:
    """Say which of several addresses the trace follows."""
    said = [_address_text(view, address) for address in aim.addresses]
    shown = ", ".join(said[1:4]) + (f" and {len(said) - 4} more" if len(said) > 4 else "")
    return Hop("name", said[0], is_wrong=False, says=f"the trace follows this address, not {shown}")


def _address_text(view: RegistryView, address: str) -> str:
    endpoint = view.endpoint_by_address(address)
    return (
        address
        if endpoint is None
        else f"{address} ({endpoint.record.name} on {host_text(view, endpoint.owner)})"
    )


async def _foreign_hops(
    cluster: Cluster, row: LocalEndpointRow, aim: _Aim, foreign_rules: ForeignRules
) -> list[Hop]:
    """Return other programs' firewall rules that drop the packet, here or on the destination host."""
    is_inside, is_apart = aim.endpoint is not None, cluster.kernel.bridge_nf_bypass.is_active
    packet = _packet(row, aim.addresses[0], aim.port)
    found = await foreign_rules.in_the_way(
        is_routing=not is_inside, is_apart=is_apart, is_bridging=is_inside, version=_version(aim.addresses[0])
    )
    found += await foreign_rules.dropping(packet, is_inside=is_inside, is_apart=is_apart)
    # A chain that drops by policy may accept this packet by a rule that is not understood. But the packet is lost:
    # for one that leaves the host, such a chain is the cause unless another one is certain.
    is_certain = is_inside or any(one.severity is Severity.FAILED for one in found)
    hops = [
        Hop(
            "policy",
            "foreign firewall",
            is_wrong=one.severity is Severity.FAILED or not is_certain,
            says=one.message,
            fix=one.fix,
        )
        for one in found
    ]
    if aim.host_id is None or aim.host_id == cluster.live.view.local or not packet.source:
        return hops
    name = host_text(cluster.live.view, aim.host_id)
    asked = messages.Drops(packet.protocol, packet.port, packet.source, packet.target)
    answer = await cluster.gossip.rpc.ask(aim.host_id, asked.encode())
    if answer is None:
        says = f"not checked: the agent of {name} did not answer, or is of an older release"
        return [*hops, Hop("policy", f"foreign firewall of {name}", is_wrong=False, says=says)]
    with contextlib.suppress(messages.QuestionError):
        for sentence in messages.parse_sentences_untrusted(answer):
            fix = f"on {name} type `netagent doctor`, which names the rule with its handle, or `nft list ruleset`"
            hops.append(Hop("policy", f"foreign firewall of {name}", is_wrong=True, says=sentence, fix=fix))
    return hops


def _version(address: str) -> int:
    return ipaddress.ip_address(address).version


def _packet(row: LocalEndpointRow, target: str, port: int | None) -> Packet:
    """Describe the packet that was sent: an echo request, or a TCP connection's first."""
    version = _version(target)
    sources = (one for one in row.addresses if _version(one) == version)
    protocol = "tcp" if port is not None else "icmp" if version == 4 else "ipv6-icmp"
    return Packet(protocol=protocol, port=port, source=next(sources, ""), target=target)


def _within(evidence: Evidence, row: LocalEndpointRow, endpoint: EndpointView) -> LocalEndpointRow:
    """Return the container's endpoint in the network of `endpoint`, if it has one, else `row`."""
    mates = (one for one in evidence.rows.values() if one.sandbox_id == row.sandbox_id)
    return next((mate for mate in mates if mate.network_id == endpoint.network_id), row)


async def _answers_now(host: HostView) -> bool:
    """True if the host's kernel answers over the overlay now, or its address is not known."""
    if host.record is None:
        return True
    return not all(one.is_lost for one in await echo(None, host.record.probe_address, [SMALL_BYTES], 2))


def _way_out(evidence: Evidence, row: LocalEndpointRow) -> Hop:
    """Check the egress policy for an address outside the overlay."""
    networks = [
        evidence.view.networks.get(one.network_id)
        for one in evidence.rows.values()
        if one.sandbox_id == row.sandbox_id
    ]
    open_ones = [one.unique_name for one in networks if one is not None and not one.record.internal]
    if not open_ones:
        says = f"all networks of {row.name} are internal: nothing leaves them"
        fix = f"netagent network connect NETWORK {row.name}, with a network that is not internal"
        return Hop("policy", "way out", is_wrong=True, says=says, fix=fix)
    says = f"through network {open_ones[0]}, source-NATed to an address of this host"
    return Hop("policy", "way out", is_wrong=False, says=says)


def _host_route(target: str) -> Hop:
    """Check whether this host has a route to an address outside the overlay."""
    thing = f"route of this host to {target}"
    reason = no_route(target)
    if reason:
        family = " -6" if ":" in target else ""
        fix = f"ip{family} route add default via GATEWAY, with the address of this host's router"
        return Hop("path", thing, is_wrong=True, says=f"there is none: {reason}", fix=fix)
    return Hop("path", thing, is_wrong=False, says="present")


def _policy(evidence: Evidence, row: LocalEndpointRow, endpoint: EndpointView) -> Hop:
    """Check isolation between networks and, where the policy is `links`, whether the container is linked."""
    view = evidence.view
    network, own = view.networks.get(endpoint.network_id), view.endpoints.get(row.endpoint_id)
    name = network.unique_name if network is not None else endpoint.network_id[:8]
    thing = f"network {name}"
    beside = {one.network_id for one in evidence.rows.values() if one.sandbox_id == row.sandbox_id}
    if endpoint.network_id not in beside:
        says, fix = (
            f"{row.name} is not in it, and networks are isolated from each other",
            f"netagent network connect {name} {row.name}",
        )
        return Hop("policy", thing, is_wrong=True, says=says, fix=fix)
    if network is None or network.record.policy is Policy.OPEN:
        return Hop("policy", thing, is_wrong=False, says="all containers in it may connect to each other")
    service = endpoint.record.service
    if own is not None and any(one.endpoint_id == endpoint.endpoint_id for one in linked_from(view, own)):
        return Hop("policy", thing, is_wrong=False, says=f"{row.name} is linked to {service}")
    if network.record.policy is Policy.AUDIT:
        says = f"{row.name} is not linked to {service}; the network counts that, and lets it pass"
        return Hop("policy", thing, is_wrong=False, says=says)
    says = f"{row.name} is not linked to {service}, and the network's policy allows only linked services"
    return Hop("policy", thing, is_wrong=True, says=says, fix=f"netagent link {row.name} {service}")


def _far(host: HostView, name: str, path: PathStatus | None, *, answers_now: bool) -> list[Hop]:
    """Return hops for the path to the other host and for the host itself."""
    address = host.record.underlay if host.record is not None else "an unknown address"
    thing = f"VXLAN to {name} at {address}"
    if not answers_now:
        says = "not even the host's kernel answers through it now"
        hop = Hop(
            "path",
            thing,
            is_wrong=True,
            says=says,
            fix="`netagent status` names the cure within some seconds",
        )
    elif path is None:
        says = "small packets pass; larger ones were not tried, because no network is on both hosts"
        hop = Hop("path", thing, is_wrong=False, says=says)
    else:
        size = f", packets of up to {path.size_bytes} bytes pass" if path.size_bytes else ""
        wrong = path.quality in {Quality.DEGRADED, Quality.ONE_WAY, Quality.DOWN}
        fix = "`netagent status` names the cure" if wrong else ""
        hop = Hop("path", thing, is_wrong=wrong, says=f"{path.quality.value}{size}", fix=fix)
    kernel = {
        True: "its kernel answers",
        False: "its kernel is silent",
        None: "its kernel was not probed yet",
    }
    agent = (
        f"its agent is {host.agent.value}" if host.agent is not AgentState.UNKNOWN else "its agent is unknown"
    )
    host_hop = Hop("host", name, host.answers is False, f"{kernel[host.answers]}, {agent}")
    return [hop, host_hop]


def _result(tally: PacketCounts) -> schema.PingResult:
    rtts_s = tally.rtts_s
    return {
        "address": tally.address,
        "port": tally.port,
        "size_bytes": tally.size_bytes,
        "sent": tally.sent,
        "received": len(rtts_s),
        "loss_percent": round(100 * (1 - len(rtts_s) / tally.sent), 1),
        "rtt_min_s": round(min(rtts_s), 6) if rtts_s else None,
        "rtt_avg_s": round(sum(rtts_s) / len(rtts_s), 6) if rtts_s else None,
        "rtt_max_s": round(max(rtts_s), 6) if rtts_s else None,
        "trouble": tally.trouble or ("" if rtts_s else "no answer"),
    }


def _hop(hop: Hop) -> schema.PingHop:
    return {
        "layer": hop.layer,
        "thing": hop.thing,
        "ok": not hop.is_wrong,
        "says": hop.says,
        "fix": hop.fix,
    }
