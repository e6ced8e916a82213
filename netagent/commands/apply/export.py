"""The command `export`: write what operators have made of the cluster, as `apply` takes it."""

from __future__ import annotations

from collections.abc import Sequence

from netagent.access.tokens import Token
from netagent.commands.apply.differences import described_services, is_operators
from netagent.commands.handlers import answers
from netagent.daemon.agent import Agent
from netagent.external.view import OwnName, external_services, own_names
from netagent.interface import description as asked
from netagent.interface import schema
from netagent.model.egress import text_of
from netagent.model.records import (
    DnsName,
    ExternalServiceRecord,
    FixedAddresses,
    NameAlias,
    NameData,
    PublishedServiceRecord,
    ServiceAddressRecord,
)
from netagent.registry.view import NetworkView, RegistryView
from netagent.services.addresses import shown
from netagent.services.published import published_in


@answers(asked.ExportCommand)
async def export(agent: Agent, request: asked.ExportCommand) -> schema.Export:
    """Return the content of a file that `apply` takes."""
    view = agent.member().live.view
    return exported(view, agent.tokens.every() if request.tokens else [])


def exported(view: RegistryView, tokens: Sequence[Token]) -> schema.Export:
    """Return what operators have made of the cluster, and these tokens."""
    networks = sorted(view.networks.values(), key=lambda one: one.unique_name)
    services: list[schema.DescribedService] = []
    addresses: list[schema.DescribedServiceAddress] = []
    names: list[schema.DescribedName] = []
    published: list[schema.DescribedPublication] = []
    left_out: list[str] = []
    for network in networks:
        described = [one.record for one in described_services(view, network)]
        services += sorted(
            (_service(network, one) for one in described),
            key=lambda one: (one["name"], one["addresses"], one["dns_name"]),
        )
        others = {one.record.name for one in external_services(view, network.network_id)}
        others -= {one.name for one in described}
        left_out += [f"service {name} of network {network.unique_name}" for name in sorted(others)]
        given = [one for one in view.service_addresses(network.network_id).values() if is_operators(one)]
        addresses += [
            _address(network, one[0].record) for one in sorted(given, key=lambda each: shown(each[0].service))
        ]
        names += [_name(view, network, one.record.name, one.record.value) for one in _counting(view, network)]
        published += [_publication(network, one) for one in published_in(view, network)]
    lost = [one for one in tokens if _is_lost(view, one)]
    left_out += [f"token {one.name}, of a network that is removed" for one in lost]
    return {
        "networks": [_network(network) for network in networks],
        "services": services,
        "service_addresses": addresses,
        "names": names,
        "published": published,
        "tokens": [_token(view, one) for one in tokens if one not in lost],
        "left_out": left_out,
    }


def _network(network: NetworkView) -> schema.DescribedNetwork:
    record = network.record
    return {
        "name": network.unique_name,
        "subnets": list(record.subnets),
        "mtu_bytes": record.mtu_bytes,
        "internal": record.internal,
        "policy": record.policy.value,
        "answer_order": record.answer.value,
        "multicast": record.multicast,
        "host_access": record.host_access,
        "shared_names": "refuse" if record.refuses_shared_names else "answer",
        "service_addresses": "on" if record.service_addresses else "off",
        "egress": text_of(record.egress),
        "feed_rules": list(record.feed_rules or ()),
        "feed_labels": record.feed_labels,
    }


def _service(network: NetworkView, record: ExternalServiceRecord) -> schema.DescribedService:
    target = record.target
    dns_name = ""
    if isinstance(target, DnsName):
        dns_name = target.name if target.port is None else f"{target.name}:{target.port}"
    return {
        "network": network.unique_name,
        "name": record.name,
        "addresses": [one.text for one in target.addresses] if isinstance(target, FixedAddresses) else [],
        "dns_name": dns_name,
        "ports": [
            {"name": port.name, "number": port.number, "protocol": port.protocol} for port in record.ports
        ],
        "weight": record.weight,
        "checks": list(record.checks),
    }


def _address(network: NetworkView, record: ServiceAddressRecord) -> schema.DescribedServiceAddress:
    return {
        "network": network.unique_name,
        "name": record.service.name,
        "group": record.service.group or "",
        "ports": [
            str(one.number) if one.number == one.target else f"{one.number}:{one.target}"
            for one in record.ports
        ],
        "balance": record.balance.value,
        "weights": [f"{host}={weight}" for host, weight in record.host_weights],
        "sticky": record.is_sticky,
        "all_failing": "keep" if record.keeps_failing else "hide",
        "keep_connections": record.keeps_connections,
    }


def _publication(network: NetworkView, record: PublishedServiceRecord) -> schema.DescribedPublication:
    return {
        "network": network.unique_name,
        "name": record.service.name,
        "group": record.service.group or "",
        "port": record.publication.text,
    }


def _token(view: RegistryView, token: Token) -> schema.DescribedToken:
    ends = token.expires_at_s
    return {
        "name": token.name,
        "role": token.role.word,  # type: ignore[typeddict-item] # no token has another one
        "networks": sorted(view.networks[one.network_id].unique_name for one in token.networks or ()),
        "ttl_s": None if ends is None else ends - token.created_at_s,
    }


def _is_lost(view: RegistryView, token: Token) -> bool:
    """True if a network of a limited token is removed: in a file it would reach more, or another one."""
    return any(one.network_id not in view.networks for one in token.networks or ())


def _name(
    view: RegistryView, network: NetworkView, name: str, value: NameAlias | NameData
) -> schema.DescribedName:
    cname, data = "", NameData()
    match value:
        case NameAlias(place, target):
            found = view.networks.get(place)
            cname = f"{target}.{found.unique_name if found is not None else place[:8]}"
        case NameData():
            data = value
    return {
        "name": f"{name}.{network.unique_name}",
        "cname": cname,
        "addresses": list(data.addresses),
        "texts": list(data.texts),
    }


def _counting(view: RegistryView, network: NetworkView) -> list[OwnName]:
    found = (one for one in own_names(view, network.network_id) if one.counts)
    return sorted(found, key=lambda one: one.record.name)
