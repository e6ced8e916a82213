"""How the cluster differs from what a file says, as steps in the order in which they are taken. Pure.

Everything is checked before the first step: forms as by the commands that the file stands for, and that nothing is
asked for which cannot be changed, or not on this host. What the agent finds out only when it takes a step (a subnet
overlaps a route of another host) stops there; the steps before it stay, and the same file goes on later.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from netagent.control.addition_parsing import own_name_request, service_request
from netagent.control.request_parsing import network_request
from netagent.endpoints.find import host_called, network_called
from netagent.errors import InputError, RefusedError
from netagent.external.additions import alias_of
from netagent.external.view import ExternalService, external_services, own_names
from netagent.interface import additions, containers
from netagent.interface import description as asked
from netagent.model.ids import HostId
from netagent.model.records import HostProgram, NameAlias, NameData, NetworkOption, Policy
from netagent.model.request import NetworkRequest, OwnNameRequest, ServiceRequest
from netagent.registry.network_options import value_of
from netagent.registry.view import NetworkView, RegistryView


@dataclass(frozen=True, slots=True)
class MakeNetwork:
    """A network that is missing. `options` are set afterwards."""

    request: NetworkRequest
    options: Mapping[NetworkOption, str]
    words: str


@dataclass(frozen=True, slots=True)
class SetNetwork:
    """Options of a network that differ."""

    network: str
    options: Mapping[NetworkOption, str]
    words: str


@dataclass(frozen=True, slots=True)
class PutService:
    """What is missing of an outside service, and the ids of records that are in the way."""

    network: str
    name: str
    add: tuple[ServiceRequest, ...]
    remove: tuple[str, ...]
    words: str


@dataclass(frozen=True, slots=True)
class PutName:
    """An own name that is missing, or leads elsewhere."""

    network: str
    request: OwnNameRequest
    replaces: bool
    words: str


Step: TypeAlias = MakeNetwork | SetNetwork | PutService | PutName


def steps(view: RegistryView, domain: str, file: asked.ApplyCommand) -> list[Step]:
    """Return what is to be done, networks first. Raises InputError, RefusedError."""
    _refuse_twice((one.name for one in file.networks), "network")
    _refuse_twice((one.name for one in file.names), "name")
    places = _Places(view, domain, frozenset(one.name for one in file.networks))
    found: list[Step] = []
    for network in file.networks:
        found += _network_step(view, network)
    services: dict[tuple[str, str], list[asked.DescribedService]] = {}
    for service in file.services:
        services.setdefault((places.checked(service.network), service.name), []).append(service)
    for (place, name), parts in services.items():
        found += _service_step(view, domain, view.network_named(place), (place, name), parts)
    for own in file.names:
        found += _name_step(places, own)
    return found


def _refuse_twice(names: Iterable[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InputError(f"the {what} {name} is in the file twice", thing=name, hint="leave one of them")
        seen.add(name)


# -- networks ----------------------------------------------------------------------------------------------------


def _network_step(view: RegistryView, given: asked.DescribedNetwork) -> Iterator[Step]:
    values = _values(given)
    # Checks the forms; a policy that only a change can have is set later.
    request = network_request(
        containers.NetworkCreateCommand(
            name=given.name,
            subnets=given.subnets,
            mtu_bytes=given.mtu_bytes,
            internal=bool(given.internal),
            policy="links" if given.policy == "links" else "open",
            answer_order=given.answer_order or "spread",
            multicast=bool(given.multicast),
            host_access=bool(given.host_access),
            shared_names=given.shared_names or "answer",
            service_addresses=given.service_addresses or "off",
            feed_rules=given.feed_rules,
            no_feed_labels=given.feed_labels is False,
        )
    )
    network = view.network_named(given.name)
    if network is None:
        later = {NetworkOption.POLICY: given.policy} if given.policy == Policy.AUDIT.value else {}
        words = [f"{option.value.replace('_', ' ')} {value}" for option, value in values.items()]
        yield MakeNetwork(request, later, ", ".join([*request.subnets, *words]) or "with the defaults")
        return
    _refuse_fixed(network, given, request)
    changed = {option: value for option, value in values.items() if value != value_of(network.record, option)}
    if changed:
        words = [
            f"{option.value.replace('_', ' ')} {value} (now {value_of(network.record, option)})"
            for option, value in changed.items()
        ]
        yield SetNetwork(given.name, changed, ", ".join(words))


def _values(given: asked.DescribedNetwork) -> dict[NetworkOption, str]:
    """Return the options that the file gives."""
    found: dict[NetworkOption, str | bool | None] = {
        NetworkOption.POLICY: given.policy,
        NetworkOption.INTERNAL: given.internal,
        NetworkOption.MULTICAST: given.multicast,
        NetworkOption.HOST_ACCESS: given.host_access,
        NetworkOption.ANSWER_ORDER: given.answer_order,
        NetworkOption.SHARED_NAMES: given.shared_names,
        NetworkOption.SERVICE_ADDRESSES: given.service_addresses,
    }
    words = {True: "yes", False: "no"}
    return {
        option: words[value] if isinstance(value, bool) else value
        for option, value in found.items()
        if value is not None
    }


def _refuse_fixed(
    network: NetworkView,
    given: asked.DescribedNetwork,
    request: NetworkRequest,
) -> None:
    """Raise RefusedError if the file asks for what a network has for ever, and this one has otherwise."""
    record = network.record
    fixed = [
        (f"subnets {', '.join(record.subnets)}", not set(request.subnets) <= set(record.subnets)),
        (f"an MTU of {record.mtu_bytes} bytes", given.mtu_bytes not in (None, record.mtu_bytes)),
        ("other feed rules", bool(request.feed_rules) and request.feed_rules != record.feed_rules),
        (
            f"feed labels {'' if record.feed_labels else 'not '}published",
            given.feed_labels not in (None, record.feed_labels),
        ),
    ]
    if differing := [what for what, differs in fixed if differs]:
        raise RefusedError(
            f"network {given.name} has {' and '.join(differing)}, which cannot be changed to what the file says",
            code="network-exists",
            thing=given.name,
            hint="correct the file, or make another network",
        )


# -- services and names ------------------------------------------------------------------------------------------


def _service_step(
    view: RegistryView,
    domain: str,
    network: NetworkView | None,
    place: tuple[str, str],
    parts: Sequence[asked.DescribedService],
) -> Iterator[Step]:
    wanted = [
        service_request(
            additions.ServiceAddCommand(
                name=part.name,
                network=part.network,
                addresses=part.addresses,
                dns_name=part.dns_name,
                ports=part.ports,
                weight=part.weight,
                checks=part.checks,
            ),
            domain,
        )
        for part in parts
    ]
    known = [] if network is None else list(described_services(view, network))
    present = {_request_of(one): one for one in known if one.record.name == place[1]}
    missing = tuple(one for one in wanted if one not in present)
    extra = [one for request, one in present.items() if request not in wanted]
    for one in extra:
        _refuse_other_host(view, one.owner, f"service {place[1]} of network {place[0]}")
    if missing or extra:
        count = f"{len(missing)} to add" + (f", {len(extra)} to remove" if extra else "")
        words = ", ".join(
            address for part in parts for address in (*part.addresses, part.dns_name) if address
        )
        yield PutService(*place, missing, tuple(one.record.service_id for one in extra), f"{words} ({count})")


def described_services(view: RegistryView, network: NetworkView) -> Iterator[ExternalService]:
    """Yield the outside services that a file describes: those that neither end by themselves nor with their host."""
    for one in external_services(view, network.network_id):
        if one.record.ttl_s is None and not isinstance(one.record.target, HostProgram):
            yield one


def _request_of(service: ExternalService) -> ServiceRequest:
    record = service.record
    return ServiceRequest(
        name=record.name,
        target=record.target,
        ports=record.ports,
        weight=record.weight,
        checks=record.checks,
    )


@dataclass(frozen=True, slots=True)
class _Places:
    """The networks that there will be."""

    view: RegistryView
    domain: str
    made: frozenset[str]

    def checked(self, network: str) -> str:
        """Return the network's name. NotFoundError if there is none, and the file makes none."""
        return network if network in self.made else network_called(self.view, network).unique_name

    def split(self, text: str) -> tuple[str, str]:
        """Return the network of NAME.NETWORK, and the labels in front of it."""
        plain = text.lower().removesuffix(".").removesuffix("." + self.domain)
        name, _, place = plain.rpartition(".")
        if not name:
            raise InputError(
                f"{text[:80]!r} does not say in which network",
                thing=text[:80],
                hint=f"write {plain[:40] or 'NAME'}.NETWORK",
            )
        return self.checked(place), name


def _name_step(places: _Places, given: asked.DescribedName) -> Iterator[Step]:
    view = places.view
    place, name = places.split(given.name)
    request = own_name_request(
        additions.NameAddCommand(
            name=given.name, cname=given.cname, addresses=given.addresses, texts=given.texts
        ),
        name,
    )
    words = f"to {given.cname}" if given.cname else ", ".join((*given.addresses, *given.texts))
    network = view.network_named(place)
    known = [] if network is None else own_names(view, network.network_id)
    present = next((one for one in known if one.record.name == name and one.counts), None)
    if present is None or network is None:
        yield PutName(place, request, replaces=False, words=words)
        return
    value: NameAlias | NameData = NameData(request.addresses, request.texts)
    if request.cname is not None:
        try:
            value = alias_of(view, network, request.cname, places.domain)
        except InputError:
            if request.cname.rpartition(".")[2] not in places.made:
                raise
    if present.record.value != value:
        _refuse_other_host(view, present.owner, f"name {name}.{place}")
        yield PutName(place, request, replaces=True, words=words)


def _refuse_other_host(view: RegistryView, owner: HostId, what: str) -> None:
    if owner != view.local:
        host = host_called(view, owner)
        raise RefusedError(
            f"the {what} differs from the file, and was added on host {host}",
            code="other-host",
            thing=what,
            hint=f"type this command on {host}",
        )


def unmentioned(view: RegistryView, domain: str, file: asked.ApplyCommand) -> list[str]:
    """Return what operators have made and the file does not mention, for people."""
    places = _Places(view, domain, frozenset(one.name for one in file.networks))
    networks = {one.name for one in file.networks}
    services = {(places.checked(one.network), one.name) for one in file.services}
    names = {places.split(one.name) for one in file.names}
    found = []
    for network in sorted(view.networks.values(), key=lambda one: one.unique_name):
        place = network.unique_name
        found += [] if place in networks else [f"network {place}"]
        others = {one.record.name for one in described_services(view, network)}
        found += [
            f"service {name} of network {place}" for name in sorted(others) if (place, name) not in services
        ]
        own = {one.record.name for one in own_names(view, network.network_id)}
        found += [f"name {name}.{place}" for name in sorted(own) if (place, name) not in names]
    return found
