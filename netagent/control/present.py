"""The registry's values as the dicts that the API returns (netagent.interface.schema). Pure.

Facts that only the host of an endpoint knows (target, links) come from its row; for endpoints of other hosts
these fields stay empty, as the schema says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from socket import AF_INET, AF_INET6, inet_pton
from typing import Final

from netagent.checks.spec import check_text
from netagent.datapath.host.uplink import is_one_family
from netagent.endpoints.find import target_shown
from netagent.interface import schema
from netagent.journal.rows import LocalEndpointRow
from netagent.model.egress import text_of
from netagent.model.ids import EndpointId, HostId, NetworkId
from netagent.model.naming import names_of
from netagent.model.origin_labels import COMPOSE_PROJECT, COMPOSE_SERVICE, CONTAINER_ID, PUBLISHED, label_of
from netagent.model.records import STOP, Drain, Health, Port
from netagent.model.subnet import addresses_of, offset_count
from netagent.probes.quality import PathStatus, Quality
from netagent.registry.encryption import is_encrypted
from netagent.registry.view import AgentState, EndpointView, HostView, NetworkView, RegistryView, ServiceView
from netgossip.slices import Slices, merge_sort


@dataclass(frozen=True, slots=True)
class ProbeView:
    """What this host has found out of another one beside its records."""

    rtt_s: float | None = None
    path: PathStatus | None = None
    """None: the host is in no network of this one."""
    lacks_udp: bool = False
    """Its agent answers this host by TCP or through other hosts, but not by UDP."""
    signs: bool | None = None
    """Its records count only with its signature; None: not known."""
    proves: bool | None = None
    """So does what it says about itself."""


MAX_NOT_UP: Final = 10
_ISO: Final = "%Y-%m-%dT%H:%M:%SZ"
SightOf = Callable[[HostId], ProbeView]


@dataclass(frozen=True, slots=True)
class Presenter:
    """Presents one view under one domain."""

    view: RegistryView
    domain: str
    local: Mapping[EndpointId, LocalEndpointRow] = field(default_factory=dict)
    told_by: Mapping[NetworkId, tuple[HostId, ...]] = field(default_factory=dict)
    """For each network that this host is not in: the members that sent its endpoints."""
    unknown: frozenset[NetworkId] = frozenset()
    """Networks whose endpoints no member sent."""

    def host_name(self, host_id: HostId) -> str:
        """Return the unique name of a host, or the beginning of its id."""
        host = self.view.hosts.get(host_id)
        return (host.unique_name or host.name) if host else host_id[:8]

    def network_name(self, network_id: NetworkId) -> str:
        """Return the unique name of a network, or the beginning of its id."""
        network = self.view.networks.get(network_id)
        return network.unique_name if network else network_id[:8]

    def tellers(self, network_id: NetworkId) -> list[str]:
        """Return the names of the members that sent the endpoints of a network."""
        return sorted(map(self.host_name, self.told_by.get(network_id, ())))

    def service_id(self, service: ServiceView) -> str:
        """Return the unique id of a service."""
        group = f".{service.group}" if service.group else ""
        return f"{service.name}{group}.{self.network_name(service.network_id)}"

    def network(self, network: NetworkView) -> schema.Network:
        """Render a network."""
        record = network.record
        clash = ""
        if not network.holds_name:
            clash = f"another network has the name {network.name}"
        if not network.holds_vni:
            clash = f"another network has the VNI {record.vni}: this one is not set up"
        elif why := self.view.why_not_built(network):
            clash = f"{why}: it is not set up here"
        attached = self.view.attachments(network.network_id)
        return {
            "id": network.network_id,
            "name": network.unique_name,
            "subnets": list(record.subnets),
            "gateways": [cidr.partition("/")[0] for cidr in record.gateways],
            "domain": f"{network.unique_name}.{self.domain}",
            "vni": record.vni,
            "mtu_bytes": record.mtu_bytes,
            "internal": record.internal,
            "policy": record.policy.value,
            "answer_order": record.answer.value,
            "multicast": record.multicast,
            "host_access": record.host_access,
            "feed_rules": list(record.feed_rules or ()),
            "feed_labels": record.feed_labels,
            "shared_names": "refuse" if record.refuses_shared_names else "answer",
            "service_addresses": "on" if record.service_addresses else "off",
            "egress": text_of(record.egress),
            "host_addresses": self._host_addresses(network),
            "created_by": self.host_name(network.creator or network.owner),
            "revision": record.revision,
            "attached": self.view.local in attached,
            "endpoint_count": None
            if network.network_id in self.unknown
            else len(self.view.endpoints_in(network.network_id)),
            "hosts": sorted(self.host_name(host) for host in attached),
            "clash": clash,
            "published": self._published(network),
            "changes": [
                {
                    "option": one.option.value,
                    "value": one.value,
                    "since": one.changed.strftime(_ISO),
                    "by": one.changed_by,
                    "host": self.host_name(host),
                }
                for one, host in network.changes
            ],
        }

    def _published(self, network: NetworkView) -> list[str]:
        endpoints = ((self.view.endpoints.get(one), row) for one, row in self.local.items())
        return sorted(
            f"{publication.text} to {endpoint.record.name}"
            for endpoint, row in endpoints
            if endpoint is not None and endpoint.network_id == network.network_id
            for publication in row.publish
        )

    def _host_addresses(self, network: NetworkView) -> list[schema.HostAddress]:
        hosts = self.view.host_addresses(network.network_id).items()
        found: list[schema.HostAddress] = [
            {
                "host": self.host_name(host),
                "addresses": list(addresses_of(network.record.subnets, one.offset)),
            }
            for host, one in hosts
            if one.offset < offset_count(network.record.subnets)
        ]
        return sorted(found, key=lambda one: one["host"])

    def endpoint(self, endpoint: EndpointView) -> schema.Endpoint:
        """Render an endpoint, with its state and the reason."""
        record = endpoint.record
        network_name = self.network_name(record.network_id)
        state, reason = self.state(endpoint)
        local = self.local.get(record.endpoint_id)
        tellers = self.tellers(record.network_id)
        is_own = endpoint.owner == self.view.local
        container_id = label_of(record.labels, CONTAINER_ID)
        by_runtime = label_of(record.labels, PUBLISHED)
        host = self.host_name(endpoint.owner)
        return {
            "id": record.endpoint_id,
            "name": record.name,
            "service": record.service,
            "network": network_name,
            "network_id": record.network_id,
            "host": host,
            "host_id": endpoint.owner,
            "addresses": list(record.addresses),
            "mac": record.mac,
            "aliases": sorted(record.aliases),
            "ports": [_port(port) for port in record.ports],
            "weight": record.weight,
            "labels": dict(record.labels),
            "health": record.health.value,
            "health_since": record.health_note.since.strftime(_ISO) if record.health_note else None,
            "health_reason": record.health_note.reason if record.health_note else "",
            "checks": [check_text(check) for check in local.checks] if local else [],
            "state": state,
            "reason": reason,
            "drain": drain_part(record.drain),
            "names": list(names_of(record, host=host, base=f"{network_name}.{self.domain}")),
            "version": f"{endpoint.version.epoch}.{endpoint.version.sequence}",
            "local": is_own,
            "source": "own" if is_own else "asked" if tellers else "replicated",
            "told_by": [] if is_own else tellers,
            "container_id": container_id,
            "group": record.group.name if record.group else "",
            "compose_project": label_of(record.labels, COMPOSE_PROJECT),
            "compose_service": label_of(record.labels, COMPOSE_SERVICE),
            "target": target_shown(local) if local else "",
            "ifname": (local.ifname or "") if local else "",
            "links": [{"service": link.service, "alias": link.alias} for link in local.links]
            if local
            else [],
            "published": [
                *(one.text for one in (local.publish if local else ())),
                *filter(None, by_runtime.split(",")),
            ],
        }

    def noted(self, endpoint: EndpointView) -> schema.Endpoint:
        """Render an endpoint that this host had before the cluster evicted it."""
        reason = "the cluster evicted this host; attach it again, or detach it"
        return {**self.endpoint(endpoint), "state": "fenced", "reason": reason, "names": []}

    def state(self, endpoint: EndpointView) -> tuple[schema.EndpointWord, str]:
        """Return the state of an endpoint, and why it is not `up`, or why names lead to others first."""
        if self.view.endpoints.get(endpoint.endpoint_id) != endpoint:
            conflict = next(iter(self.view.conflicts_of(endpoint)), None)
            return "fenced", conflict.text if conflict else "another endpoint owns its address or MAC"
        if self.view.is_host_hidden(endpoint.owner):
            return "hidden", self._why_hidden(endpoint.owner)
        if endpoint.network_id not in self.view.networks:
            gone = self.view.is_removed(endpoint.network_id)
            return "hidden", "its network was removed" if gone else "its network is not known here"
        drain = endpoint.record.drain
        if drain is not None:
            return "stopping" if drain.by == STOP else "drained", drain.text
        if of_host := self.view.drain_of_host(endpoint.owner):
            return "drained", f"host {self.host_name(endpoint.owner)} is {of_host.text}"
        if endpoint.record.health is Health.STARTING:
            return "starting", endpoint.record.health_text
        if not self.view.is_visible(endpoint):
            kept = "; names lead to it if no other replica is up" if endpoint.record.is_kept else ""
            return "unhealthy", endpoint.record.health_text + kept
        return "up", self._why_behind(endpoint.owner) if self.view.is_behind(endpoint) else ""

    def _why_behind(self, host_id: HostId) -> str:
        return (
            f"{self.host_name(host_id)} does not answer this host through the overlay: "
            "names lead to it only if there is no other replica"
        )

    def _why_hidden(self, host_id: HostId) -> str:
        host, name = self.view.hosts.get(host_id), self.host_name(host_id)
        if host_id in self.view.evicted:
            return f"host {name} was forgotten"
        if host is not None and host.agent is AgentState.LEFT:
            return f"host {name} has left the cluster"
        if host is not None and host.record is not None and host.record.going_down:
            return f"host {name} {host.record.away_text}"
        return f"neither the agent nor the kernel of host {name} answers"

    def service(self, service: ServiceView) -> Slices[schema.Service]:
        """Render a service: all endpoints that share its name in one network. There may be ten thousand."""
        network_name = self.network_name(service.network_id)
        visible = unreached = drained = kept = 0
        by_health: Counter[Health] = Counter()
        not_up: list[str] = []
        reached_addresses: dict[str, tuple[int, bytes]] = {}
        all_addresses: dict[str, tuple[int, bytes]] = {}
        kept_addresses: dict[str, tuple[int, bytes]] = {}
        ports: set[Port] = set()
        aliases: set[str] = set()
        owners: set[HostId] = set()
        for endpoint in service.endpoints:
            record = endpoint.record
            ports.update(record.ports)
            aliases.update(record.aliases)
            owners.add(endpoint.owner)
            is_drained = record.drain is not None or self.view.drain_of_host(endpoint.owner) is not None
            drained += is_drained
            by_health[record.health] += not is_drained
            if (is_drained or not record.health.is_answering) and len(not_up) < MAX_NOT_UP:
                state, reason = self.state(endpoint)
                not_up.append(f"{record.name} on {self.host_name(endpoint.owner)}: {state}, {reason}")
            if self.view.is_visible(endpoint):
                visible += 1
                own = {one: _by_value(one) for one in record.addresses}
                all_addresses.update(own)
                if self.view.is_behind(endpoint):
                    unreached += 1
                else:
                    reached_addresses.update(own)
            elif self.view.is_kept(endpoint):
                kept += 1
                kept_addresses.update({one: _by_value(one) for one in record.addresses})
            yield
        # A name leads to endpoints that this host does not reach, and to unhealthy ones, only if it has no others.
        addresses = reached_addresses or {**all_addresses, **kept_addresses}
        tellers = self.tellers(service.network_id)
        is_own = owners <= {self.view.local}
        return {
            "id": self.service_id(service),
            "name": service.name,
            "group": service.group or "",
            "network": network_name,
            "network_id": service.network_id,
            "fqdn": f"{self.service_id(service)}.{self.domain}",
            "endpoint_count": len(service.endpoints),
            "answering": visible - unreached or visible + kept,
            "unreached": unreached,
            "drained": drained,
            "starting": by_health[Health.STARTING],
            "unhealthy": by_health[Health.UNHEALTHY],
            "kept": kept,
            "not_up": not_up,
            "addresses": (yield from merge_sort(tuple(addresses), addresses.__getitem__)),
            "hosts": sorted(map(self.host_name, owners)),
            "ports": [_port(port) for port in sorted(ports, key=lambda p: (p.name, p.number, p.protocol))],
            "aliases": sorted(aliases),
            "source": "own" if is_own else "asked" if tellers else "replicated",
            "told_by": [] if is_own else tellers,
        }

    def member(self, host: HostView, sight: ProbeView) -> schema.MemberInfo:
        """Render a host of the cluster. A host that left shows as left even while its records remain."""
        local = host.host_id == self.view.local
        answers: schema.HostWord = (
            "unknown" if host.answers is None else "answers" if host.answers else "silent"
        )
        if host.is_gone:
            answers = "silent"
        path = _path_word(host, sight)
        if is_of_other_family(
            host, self._address_here()
        ):  # both ends of a tunnel need addresses of one family
            path = "down"
        if host.agent is AgentState.LEFT:
            answers, path = "unknown", "unknown"
        record, found = host.record, sight.path
        shown: schema.MemberInfo = {
            "id": host.host_id,
            "name": host.unique_name or host.name,
            "address": host.address,
            "agent": "alive" if local else host.agent.value,
            "host": "answers" if local else answers,
            "version": record.agent_version if record else "",
            "zone": record.zone if record else "",
            "rtt_s": None if local else sight.rtt_s,
            "path": "local" if local else path,
            "path_mtu_bytes": found.size_bytes if found and path != "down" else None,
            "loss_percent": round(100 * found.loss, 1) if found and found.loss is not None else None,
            "local": local,
            "drain": drain_part(record.drain if record else None),
            "outdated": host.agent is AgentState.DEAD and not host.is_gone and not local,
            "lacks_udp": sight.lacks_udp and host.agent is AgentState.ALIVE and not local,
        }
        if not local and is_encrypted(self.view):
            shown["encrypted"] = True
        if sight.signs is not None:
            shown["records"] = "signed" if sight.signs else "unsigned"
        if sight.proves is not None:
            shown["claims"] = "signed" if sight.proves else "unsigned"
        return shown

    def _address_here(self) -> str:
        here = self.view.hosts.get(self.view.local)
        return "" if here is None else here.address

    def gone(self, host: HostView) -> schema.ForgottenHost:
        """Render a host that was evicted, as it was known before."""
        shown = self.member(host, ProbeView())
        return {"id": shown["id"], "name": shown["name"], "address": shown["address"]}


_PATH_WORDS: Mapping[Quality, schema.PathWord] = {
    Quality.UNKNOWN: "unknown",
    Quality.OK: "ok",
    Quality.LOSSY: "lossy",
    Quality.DEGRADED: "degraded",
    Quality.ONE_WAY: "one-way",
    Quality.DOWN: "down",
}


def is_of_other_family(host: HostView, address: str) -> bool:
    """True if the published address of a present host is of another family than `address`, so that it cannot be
    reached. False if one of them is not known yet."""
    if host.agent is AgentState.LEFT or not host.address or not address:
        return False
    return not is_one_family(host.address, address)


def _path_word(host: HostView, sight: ProbeView) -> schema.PathWord:
    """Return the state of the path: a silent kernel first, else what the probes of full size found."""
    word = _PATH_WORDS[sight.path.quality] if sight.path else "unknown"
    if host.answers is False:
        return "one-way" if word == "one-way" else "down"
    return "ok" if sight.path is None and host.answers else word


def _by_value(address: str) -> tuple[int, bytes]:
    """Sort key: IPv4 first, each family by value. Takes a tenth of the time of an object of `ipaddress`."""
    packed = inet_pton(AF_INET6 if ":" in address else AF_INET, address)
    return len(packed), packed


def drain_part(drain: Drain | None) -> schema.DrainPart | None:
    """Render a drain of an endpoint or a host."""
    return None if drain is None else {"since": drain.since.strftime(_ISO), "by": drain.by}


def _port(port: Port) -> schema.PortPart:
    return {"name": port.name, "number": port.number, "protocol": port.protocol, "alpn": list(port.alpn)}
