"""How the cluster differs from what a file says, as steps in the order in which they are taken. Decides only.

Everything that this host can know is checked before the first step, each item by the validators of the commands that
it stands for, in the registry as it will be by then (`planned_view`). All that is wrong is found at once: an item
that is refused does not end the search, and what follows from it alone is not said. What the agent finds out only
when it takes a step (another host makes a network at the same moment) stops there; the steps before it stay, and the
same file goes on later.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias, TypeVar

from netagent.access.tokens import ID_BYTES, SECRET_BYTES, Token, Tokens
from netagent.commands.access.tokens import TokenRequest, token_request
from netagent.commands.apply.planned_view import PlannedView, planned_network_id
from netagent.commands.apply.problem import Problem, Problems
from netagent.commands.services import refuse_unknown_hosts
from netagent.control.addition_parsing import own_name_request, service_request
from netagent.control.request_parsing import network_request, publication_of
from netagent.control.service_parsing import NONE, service_address_request, service_key
from netagent.endpoints.find import host_called, network_called
from netagent.endpoints.networks import options_record, refuse_change
from netagent.errors import InputError, RefusedError
from netagent.external.additions import name_record, refuse_name, refuse_service, service_record
from netagent.external.view import ExternalService, external_services, own_names
from netagent.interface import additions, containers
from netagent.interface import description as asked
from netagent.interface.command import Fields
from netagent.interface.services import ServiceCreateCommand
from netagent.interface.tokens import TokenCreateCommand
from netagent.model.egress import text_of
from netagent.model.ids import HostId, NetworkId
from netagent.model.publication import Publication
from netagent.model.records import (
    HostProgram,
    NetworkOption,
    NetworkRecord,
    Policy,
    PublishedServiceRecord,
    Record,
    ServiceAddressOrigin,
    ServiceAddressRecord,
    ServiceKey,
)
from netagent.model.request import (
    NetworkRequest,
    OwnNameRequest,
    ServiceAddressChange,
    ServiceAddressRequest,
    ServiceRequest,
)
from netagent.registry.network_options import value_of
from netagent.registry.view import NetworkView, RegistryView, ServiceAddressView
from netagent.services.addresses import shown, with_change
from netagent.services.published import is_published, published_in
from netgossip.slices import Slices

F = TypeVar("F", bound=Fields)
T = TypeVar("T", bound=Hashable)


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


@dataclass(frozen=True, slots=True)
class GiveAddress:
    """An address of its own that a service has not, or that a label or the network gave it."""

    network: str
    request: ServiceAddressRequest
    words: str


@dataclass(frozen=True, slots=True)
class SetAddress:
    """Options of a service's address that differ."""

    network: str
    service: ServiceKey
    change: ServiceAddressChange
    words: str


@dataclass(frozen=True, slots=True)
class Publish:
    """A port that does not lead to the service. `index`: its place in the file."""

    network: str
    service: ServiceKey
    wanted: Publication
    index: int


@dataclass(frozen=True, slots=True)
class MakeToken:
    """A token that is missing on this host."""

    request: TokenCreateCommand
    words: str


Step: TypeAlias = (
    MakeNetwork | SetNetwork | PutService | GiveAddress | SetAddress | PutName | Publish | MakeToken
)


@dataclass(frozen=True, slots=True)
class UseCases:
    """What this host's use-cases say of what a file asks for, as a registry is. Each raises its command's errors."""

    network: Callable[[RegistryView, NetworkRequest, NetworkId], NetworkRecord]
    """Return the record of a new network."""
    address: Callable[[RegistryView, NetworkView, ServiceAddressRequest], Sequence[Record]]
    """Return the records of a new service address."""
    refuse_published: Callable[[RegistryView, NetworkView, PublishedServiceRecord], None]
    tokens: Callable[[], Tokens]
    """Return a copy of this host's tokens."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a file asks for. With problems, no step is taken."""

    steps: list[Step] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    unmentioned: list[str] = field(default_factory=list)
    """What operators have made and the file does not mention, for people."""


def plan(view: RegistryView, domain: str, file: asked.ApplyCommand, use_cases: UseCases) -> Slices[Plan]:
    """Return what is to be done, networks first and tokens last, or what is wrong with the file."""
    planner = _Planner(view, domain, use_cases)
    yield from planner.networks(file.networks)
    yield from planner.services(file.services)
    yield from planner.each("service_addresses", file.service_addresses, planner.address)
    yield from planner.each("names", file.names, planner.name)
    yield from planner.each("published", file.published, planner.publication)
    if file.tokens:
        planner.host_tokens = use_cases.tokens()
        yield from planner.each("tokens", file.tokens, planner.token)
    return Plan(planner.steps, planner.problems.found, list(planner.unmentioned(view)))


class _Planner:
    """Goes through a file, and keeps the registry as it will be."""

    def __init__(self, view: RegistryView, domain: str, use_cases: UseCases) -> None:
        self.steps: list[Step] = []
        self.problems = Problems()
        self._planned = PlannedView(view)
        self._domain = domain
        self._use_cases = use_cases
        self.host_tokens = Tokens()
        self._refused_networks: set[str] = set()
        """Networks that cannot be made: what is in them is not checked."""
        self._networks: set[str] = set()
        self._services: set[tuple[str, str]] = set()
        self._addresses: set[tuple[str, ServiceKey]] = set()
        self._names: set[tuple[str, str]] = set()
        self._published: set[PublishedServiceRecord] = set()
        self._tokens: set[str] = set()
        """What the file has."""

    def each(self, field: str, given: Sequence[F], take: Callable[[int, F], None]) -> Slices[None]:
        """Plan the items of a list one by one."""
        for index, one in enumerate(given):
            yield
            with self.problems.of(field, index, one):
                take(index, one)

    # -- networks --------------------------------------------------------------------------------------------------

    def networks(self, given: Sequence[asked.DescribedNetwork]) -> Slices[None]:
        """Plan the networks. Those with subnets come first: the others get subnets that are free then."""
        for index, one in sorted(enumerate(given), key=lambda each: not each[1].subnets):
            yield
            with self.problems.of("networks", index, one):
                _refuse_twice(self._networks, one.name, f"the network {one.name}")
                self._network(index, one)
        known = {view.unique_name for view in self._planned.view.networks.values()}
        self._refused_networks = self._networks - known

    def _network(self, index: int, given: asked.DescribedNetwork) -> None:
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
                egress=given.egress or "open",
                feed_rules=given.feed_rules,
                no_feed_labels=given.feed_labels is False,
            )
        )
        if NetworkOption.EGRESS in values:
            values[NetworkOption.EGRESS] = text_of(request.egress)
        network = self._planned.view.network_named(given.name)
        if network is None:
            later = {NetworkOption.POLICY: given.policy} if given.policy == Policy.AUDIT.value else {}
            network_id = planned_network_id(given.name)
            self._planned.put(self._use_cases.network(self._planned.view, request, network_id))
            if later:
                self._set(self._planned.view.network_named(given.name), later)
            words = [f"{option.value.replace('_', ' ')} {value}" for option, value in values.items()]
            self.steps.append(
                MakeNetwork(request, later, ", ".join([*request.subnets, *words]) or "with the defaults")
            )
            return
        for key, what in _fixed(network.record, given, request):
            error = RefusedError(
                f"network {given.name} has {what}, which cannot be changed",
                code="network-exists",
                thing=given.name,
                hint="correct the file, or make another network",
            )
            self.problems.add("networks", index, given, error, key)
        changed = {
            option: value for option, value in values.items() if value != value_of(network.record, option)
        }
        if changed:
            try:
                self._set(network, changed)
            except RefusedError as error:
                self.problems.add("networks", index, given, error, _option_of(error, changed))
                return
            words = [
                f"{option.value.replace('_', ' ')} {value} (now {value_of(network.record, option)})"
                for option, value in changed.items()
            ]
            self.steps.append(SetNetwork(given.name, changed, ", ".join(words)))

    def _set(self, network: NetworkView | None, values: Mapping[NetworkOption, str]) -> None:
        if network is not None:
            refuse_change(self._planned.view, network, values)
            self._planned.put(options_record(self._planned.view, network, values, ""))

    def _place(self, network: str) -> NetworkView | None:
        """Return a network that there will be; None: it is in the file, and refused. Raises NotFoundError."""
        return None if network in self._refused_networks else network_called(self._planned.view, network)

    # -- outside services ------------------------------------------------------------------------------------------

    def services(self, given: Sequence[asked.DescribedService]) -> Slices[None]:
        """Plan the outside services: what is in the way of one goes before anything is added to it."""
        parts: dict[tuple[str, str], list[tuple[int, asked.DescribedService, ServiceRequest]]] = {}
        for index, one in enumerate(given):
            yield
            with self.problems.of("services", index, one):
                network, request = self._place(one.network), _service_request(one, self._domain)
                if network is None:
                    continue
                place = network.unique_name, one.name
                self._services.add(place)
                if any(request == other for _, _, other in parts.get(place, ())):
                    raise InputError(
                        f"the same addition to service {one.name} is in the file twice",
                        thing=one.name,
                        hint="leave one of them",
                    )
                parts.setdefault(place, []).append((index, one, request))
        for (where, name), wanted in parts.items():
            yield
            self._service(network_called(self._planned.view, where), name, wanted)

    def _service(
        self,
        network: NetworkView,
        name: str,
        parts: Sequence[tuple[int, asked.DescribedService, ServiceRequest]],
    ) -> None:
        planned, place = self._planned, network.unique_name
        known = described_services(planned.view, network)
        present = {_request_of(one): one for one in known if one.record.name == name}
        wanted = {request for _, _, request in parts}
        extra = [one for request, one in present.items() if request not in wanted]
        index, first, _ = parts[0]
        with self.problems.of("services", index, first):
            for one in extra:
                _refuse_other_host(planned.view, one.owner, f"service {name} of network {place}")
                planned.withdraw(one.record)
        missing = []
        for index, part, request in parts:
            if request in present:
                continue
            with self.problems.of("services", index, part):
                record = service_record(network, request, "")
                refuse_service(planned.view, network, record)
                planned.put(record)
                missing.append(request)
        if missing or extra:
            count = f"{len(missing)} to add" + (f", {len(extra)} to remove" if extra else "")
            addresses = [one for _, part, _ in parts for one in (*part.addresses, part.dns_name) if one]
            ids = tuple(one.record.service_id for one in extra)
            self.steps.append(
                PutService(place, name, tuple(missing), ids, f"{', '.join(addresses)} ({count})")
            )

    # -- addresses of services -------------------------------------------------------------------------------------

    def address(self, _index: int, given: asked.DescribedServiceAddress) -> None:
        """Plan the address of a service. Options that the file does not give stay."""
        planned = self._planned
        request, network = _address_request(given), self._place(given.network)
        if network is None:
            return
        place, service = network.unique_name, request.service
        _refuse_twice(self._addresses, (place, service), f"the address of service {shown(service)}")
        known = planned.view.service_addresses(network.network_id).get(service, ())
        present = {host for one in known for host, _ in one.record.host_weights}
        refuse_unknown_hosts(planned.view, [host for host, _ in request.host_weights if host not in present])
        words = _address_words(given)
        if not known:
            for record in self._use_cases.address(planned.view, network, request):
                planned.put(record)
            self.steps.append(GiveAddress(place, request, words or "with the defaults"))
            return
        before = known[0].record
        change = _address_change(given, request, before)
        after = with_change(before, change)
        if after != before or not is_operators(known):
            _refuse_other_host(
                planned.view, known[0].owner, f"address of service {shown(service)} of network {place}"
            )
        if after != before:
            self.steps.append(SetAddress(place, service, change, words))
        if not is_operators(known):
            self.steps.append(GiveAddress(place, _request_like(after), "kept while it has no replica"))
        planned.put(replace(after, origin=ServiceAddressOrigin.OPERATOR))

    # -- names -----------------------------------------------------------------------------------------------------

    def name(self, _index: int, given: asked.DescribedName) -> None:
        """Plan an own name."""
        planned = self._planned
        name, _, place = given.name.lower().removesuffix(".").removesuffix("." + self._domain).rpartition(".")
        if not name:
            raise InputError(
                f"{given.name[:80]!r} does not say in which network",
                thing=given.name,
                hint=f"write {place[:40] or 'NAME'}.NETWORK",
            )
        request = own_name_request(
            additions.NameAddCommand(
                name=given.name, cname=given.cname, addresses=given.addresses, texts=given.texts
            ),
            name,
        )
        network = self._place(place)
        if network is None:
            return
        _refuse_twice(self._names, (network.unique_name, name), f"the name {given.name}")
        record = name_record(planned.view, network, request, self._domain, "")
        known = own_names(planned.view, network.network_id)
        present = next((one for one in known if one.record.name == name and one.counts), None)
        if present is not None:
            if present.record.value == record.value:
                return
            _refuse_other_host(planned.view, present.owner, f"name {name}.{place}")
            planned.withdraw(present.record)
        refuse_name(planned.view, network, record)
        planned.put(record)
        words = f"to {given.cname}" if given.cname else ", ".join((*given.addresses, *given.texts))
        self.steps.append(PutName(network.unique_name, request, replaces=present is not None, words=words))

    # -- published services ----------------------------------------------------------------------------------------

    def publication(self, index: int, given: asked.DescribedPublication) -> None:
        """Plan a port of all hosts."""
        planned, wanted = self._planned, publication_of(given.port)
        service, network = service_key(given.name, given.group), self._place(given.network)
        if network is None:
            return
        record = PublishedServiceRecord(network.network_id, service, wanted)
        _refuse_twice(self._published, record, f"port {wanted.text} of service {shown(service)}")
        if not is_published(planned.view, record):
            self._use_cases.refuse_published(planned.view, network, record)
            planned.put(record)
            self.steps.append(Publish(network.unique_name, service, wanted, index))

    # -- tokens ----------------------------------------------------------------------------------------------------

    def token(self, index: int, given: asked.DescribedToken) -> None:
        """Plan a token of this host. One that differs stays: who holds it would get what it was not made for."""
        request = TokenCreateCommand(
            name=given.name, networks=given.networks, ttl_s=given.ttl_s, **{given.role: True}
        )
        _refuse_twice(self._tokens, given.name, f"the token {given.name}")
        if self._refused_networks & set(given.networks):
            return
        wanted = token_request(self._planned.view, request)
        known = next((one for one in self.host_tokens.every() if one.name == wanted.name), None)
        if known is None:
            token, _ = self.host_tokens.made(
                wanted.name,
                wanted.role,
                wanted.networks,
                now_s=0,
                ttl_s=wanted.ttl_s,
                by="",
                random=hashlib.sha512(wanted.name.encode()).digest()[: ID_BYTES + SECRET_BYTES],  # of no use
            )
            self.host_tokens.add(token)
            reach = f", networks {', '.join(given.networks)}" if given.networks else ""
            self.steps.append(MakeToken(request, f"role {given.role}{reach}"))
            return
        for key, what in _other_grants(known, wanted):
            error = RefusedError(
                f"the token {wanted.name} has {what}, and a token does not change",
                code="token-exists",
                thing=wanted.name,
                hint=f"correct the file, or `netagent token revoke {wanted.name}` first: then it is made anew",
            )
            self.problems.add("tokens", index, given, error, key)

    # -- what the file does not have -------------------------------------------------------------------------------

    def unmentioned(self, view: RegistryView) -> Iterator[str]:
        """Yield what is in the cluster and not in the file."""
        for network in sorted(view.networks.values(), key=lambda one: one.unique_name):
            place = network.unique_name
            if place not in self._networks:
                yield f"network {place}"
            for name in sorted({one.record.name for one in described_services(view, network)}):
                if (place, name) not in self._services:
                    yield f"service {name} of network {place}"
            for service, addresses in view.service_addresses(network.network_id).items():
                if is_operators(addresses) and (place, service) not in self._addresses:
                    yield f"address of service {shown(service)} of network {place}"
            for name in sorted({one.record.name for one in own_names(view, network.network_id)}):
                if (place, name) not in self._names:
                    yield f"name {name}.{place}"
            for record in published_in(view, network):
                if record not in self._published:
                    yield f"port {record.publication.text} of service {shown(record.service)} of network {place}"
        if self._tokens:
            yield from (
                f"token {one.name}" for one in self.host_tokens.every() if one.name not in self._tokens
            )


# -- forms ---------------------------------------------------------------------------------------------------------


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
        NetworkOption.EGRESS: given.egress,
    }
    words = {True: "yes", False: "no"}
    return {
        option: words[value] if isinstance(value, bool) else value
        for option, value in found.items()
        if value is not None
    }


def _fixed(
    record: NetworkRecord, given: asked.DescribedNetwork, request: NetworkRequest
) -> Iterator[tuple[str, str]]:
    """Yield what a network has for ever and the file gives otherwise: the key, and what the network has."""
    if not set(request.subnets) <= set(record.subnets):
        yield "subnets", f"the subnets {', '.join(record.subnets)}"
    if given.mtu_bytes not in (None, record.mtu_bytes):
        yield "mtu_bytes", f"an MTU of {record.mtu_bytes} bytes"
    if request.feed_rules and request.feed_rules != record.feed_rules:
        yield "feed_rules", f"the feed rules {', '.join(record.feed_rules or ()) or 'none'}"
    if given.feed_labels not in (None, record.feed_labels):
        yield "feed_labels", f"feed labels {'' if record.feed_labels else 'not '}published"


def _option_of(error: RefusedError, changed: Mapping[NetworkOption, str]) -> str:
    """Return the key of the option because of which a change of several is refused; "" if the error says it."""
    if error.code != "network-in-use":
        return ""
    return next(
        (one.value for one in (NetworkOption.INTERNAL, NetworkOption.HOST_ACCESS) if one in changed), ""
    )


def _refuse_twice(known: set[T], thing: T, called: str) -> None:
    """Note what the file has. Raises InputError if it has it twice."""
    if thing in known:
        raise InputError(f"{called} is in the file twice", thing="name", hint="leave one of them")
    known.add(thing)


def _address_request(given: asked.DescribedServiceAddress) -> ServiceAddressRequest:
    return service_address_request(
        ServiceCreateCommand(
            name=given.name,
            network=given.network,
            group=given.group,
            ports=[] if given.ports == [NONE] else given.ports,
            balance=given.balance or "spread",
            weights=[] if given.weights == [NONE] else given.weights,
            sticky=bool(given.sticky),
            all_failing=given.all_failing or "hide",
            keep_connections=bool(given.keep_connections),
        )
    )


def _address_change(
    given: asked.DescribedServiceAddress, wanted: ServiceAddressRequest, known: ServiceAddressRecord
) -> ServiceAddressChange:
    """Return the options that the file gives. Weights are those of the file: a host that has another loses it."""
    others = {host: None for host, _ in known.host_weights}
    return ServiceAddressChange(
        ports=wanted.ports if given.ports else None,
        balance=None if given.balance is None else wanted.balance,
        host_weights=tuple({**others, **dict(wanted.host_weights)}.items()) if given.weights else None,
        is_sticky=given.sticky,
        keeps_failing=None if given.all_failing is None else wanted.keeps_failing,
        keeps_connections=given.keep_connections,
    )


def _request_like(record: ServiceAddressRecord) -> ServiceAddressRequest:
    return ServiceAddressRequest(
        service=record.service,
        ports=record.ports,
        balance=record.balance,
        host_weights=record.host_weights,
        is_sticky=record.is_sticky,
        keeps_failing=record.keeps_failing,
        keeps_connections=record.keeps_connections,
    )


def _address_words(given: asked.DescribedServiceAddress) -> str:
    words = {True: "yes", False: "no"}
    found = {
        "ports": " ".join(given.ports),
        "balance": given.balance,
        "weights": " ".join(given.weights),
        "sticky": None if given.sticky is None else words[given.sticky],
        "all failing": given.all_failing,
        "keep connections": None if given.keep_connections is None else words[given.keep_connections],
    }
    return ", ".join(f"{option} {value}" for option, value in found.items() if value)


def is_operators(addresses: Sequence[ServiceAddressView]) -> bool:
    """True for an address that an operator gave: those that labels and networks ask for come by themselves."""
    return addresses[0].record.origin is ServiceAddressOrigin.OPERATOR


def _other_grants(known: Token, wanted: TokenRequest) -> Iterator[tuple[str, str]]:
    """Yield what a token of this name has and the file gives otherwise: the key, and what the token has."""
    if known.role is not wanted.role:
        yield "role", f"the role {known.role.word}"
    reached = [
        None if one is None else {net.network_id for net in one} for one in (known.networks, wanted.networks)
    ]
    if reached[0] != reached[1]:
        names = sorted(one.name for one in known.networks or ())
        yield "networks", f"the networks {', '.join(names)}" if names else "no limit to networks"
    ttl_s = None if known.expires_at_s is None else known.expires_at_s - known.created_at_s
    if wanted.ttl_s not in (None, ttl_s):
        yield "ttl_s", "no end" if ttl_s is None else f"a life of {ttl_s} s"


def _service_request(given: asked.DescribedService, domain: str) -> ServiceRequest:
    return service_request(
        additions.ServiceAddCommand(
            name=given.name,
            network=given.network,
            addresses=given.addresses,
            dns_name=given.dns_name,
            ports=given.ports,
            weight=given.weight,
            checks=given.checks,
        ),
        domain,
    )


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


def _refuse_other_host(view: RegistryView, owner: HostId, what: str) -> None:
    if owner != view.local:
        host = host_called(view, owner)
        raise RefusedError(
            f"the {what} differs from the file, and was added on host {host}",
            code="other-host",
            thing=what,
            hint=f"type this command on {host}",
        )
