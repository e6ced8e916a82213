"""How the cluster differs from what a file says, as steps in the order in which they are taken. Decides only.

Everything that this host can know is checked before the first step, each item by the validators of the commands that
it stands for, in the registry as it will be by then (`planned_view`). All that is wrong is found at once: an item
that is refused does not end the search, and what follows from it alone is not said. What the agent finds out only
when it takes a step (another host makes a network at the same moment) stops there; the steps before it stay, and the
same file goes on later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from netagent.commands.apply.planned_view import PlannedView, planned_network_id
from netagent.commands.apply.problem import Problem, Problems
from netagent.control.addition_parsing import own_name_request, service_request
from netagent.control.request_parsing import network_request
from netagent.endpoints.find import host_called, network_called
from netagent.endpoints.networks import options_record, refuse_change
from netagent.errors import InputError, RefusedError
from netagent.external.additions import name_record, refuse_name, refuse_service, service_record
from netagent.external.view import ExternalService, external_services, own_names
from netagent.interface import additions, containers
from netagent.interface import description as asked
from netagent.model.ids import HostId, NetworkId
from netagent.model.records import HostProgram, NetworkOption, NetworkRecord, Policy
from netagent.model.request import NetworkRequest, OwnNameRequest, ServiceRequest
from netagent.registry.network_options import value_of
from netagent.registry.view import NetworkView, RegistryView
from netgossip.slices import Slices

NetworkPlanner: TypeAlias = Callable[[RegistryView, NetworkRequest, NetworkId], NetworkRecord]
"""Makes the record of a new network; raises an error if it cannot be made (Networks.planned)."""


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


@dataclass(frozen=True, slots=True)
class Plan:
    """What a file asks for. With problems, no step is taken."""

    steps: list[Step] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    unmentioned: list[str] = field(default_factory=list)
    """What operators have made and the file does not mention, for people."""


def plan(
    view: RegistryView, domain: str, file: asked.ApplyCommand, plan_network: NetworkPlanner
) -> Slices[Plan]:
    """Return what is to be done, networks first, or what is wrong with the file."""
    planner = _Planner(view, domain, plan_network)
    yield from planner.networks(file.networks)
    yield from planner.services(file.services)
    yield from planner.names(file.names)
    if planner.problems.found:
        return Plan(problems=planner.problems.found)
    return Plan(planner.steps, unmentioned=list(planner.unmentioned(view)))


class _Planner:
    """Goes through a file, and keeps the registry as it will be."""

    def __init__(self, view: RegistryView, domain: str, plan_network: NetworkPlanner) -> None:
        self.steps: list[Step] = []
        self.problems = Problems()
        self._planned = PlannedView(view)
        self._domain = domain
        self._plan_network = plan_network
        self._refused_networks: set[str] = set()
        """Networks that cannot be made: what is in them is not checked."""
        self._networks: set[str] = set()
        self._services: set[tuple[str, str]] = set()
        self._names: set[tuple[str, str]] = set()
        """What the file has."""

    # -- networks --------------------------------------------------------------------------------------------------

    def networks(self, given: Sequence[asked.DescribedNetwork]) -> Slices[None]:
        """Plan the networks. Those with subnets come first: the others get subnets that are free then."""
        for index, one in sorted(enumerate(given), key=lambda each: not each[1].subnets):
            yield
            with self.problems.of("networks", index, one):
                if one.name in self._networks:
                    raise InputError(
                        f"the network {one.name} is in the file twice",
                        thing=one.name,
                        hint="leave one of them",
                    )
                self._networks.add(one.name)
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
                feed_rules=given.feed_rules,
                no_feed_labels=given.feed_labels is False,
            )
        )
        network = self._planned.view.network_named(given.name)
        if network is None:
            later = {NetworkOption.POLICY: given.policy} if given.policy == Policy.AUDIT.value else {}
            self._planned.put(self._plan_network(self._planned.view, request, planned_network_id(given.name)))
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

    # -- names -----------------------------------------------------------------------------------------------------

    def names(self, given: Sequence[asked.DescribedName]) -> Slices[None]:
        """Plan the own names."""
        for index, one in enumerate(given):
            yield
            with self.problems.of("names", index, one):
                self._name(one)

    def _name(self, given: asked.DescribedName) -> None:
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
        if (network.unique_name, name) in self._names:
            raise InputError(
                f"the name {given.name} is in the file twice", thing=given.name, hint="leave one of them"
            )
        self._names.add((network.unique_name, name))
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
            for name in sorted({one.record.name for one in own_names(view, network.network_id)}):
                if (place, name) not in self._names:
                    yield f"name {name}.{place}"


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
