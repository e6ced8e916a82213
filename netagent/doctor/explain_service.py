"""`inspect --why` for a service that has an address of its own: where that leads on this host, and why. Pure."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from netagent.balancing.backends import Backend, candidates, packed, selected
from netagent.datapath.sockets.layout import ServiceEntry
from netagent.doctor.checks.expected_objects import host_text
from netagent.doctor.checks.object_status import ObjectStatus, State
from netagent.doctor.checks.service_checks import NO_ROOM, REPAIRED, SocketFacts
from netagent.doctor.explain import why_hidden
from netagent.model.ids import EndpointId
from netagent.model.locality import Balance
from netagent.model.records import ServiceAddressRecord
from netagent.registry.view import EndpointView, RegistryView
from netgossip.slices import Slices

_LOOKED_AT_PER_SLICE: Final = 64
MOST_SHOWN: Final = 20
"""Replicas explained one by one; those that have places first."""

_SELECTS: Final = {
    Balance.SPREAD: "",
    Balance.NEAREST: "the service leads to its nearest replicas, and others are nearer",
    Balance.ZONE: "the service leads to the replicas in this host's zone, or else to the nearest ones",
    Balance.FIRST: "the service leads to its first replica: the one with the most weight",
}


@dataclass(frozen=True, slots=True)
class ReplicaReason:
    """A replica of a service, and why it has no place in the service's table if it has none."""

    name: str
    addresses: tuple[bytes, ...]
    reason: str


def replica_reasons(view: RegistryView, record: ServiceAddressRecord) -> Slices[list[ReplicaReason]]:
    """Return all replicas of a service that may be or might have been backends."""
    every = yield from candidates(view, record)
    reached = [one for one in every if not one.is_behind] or every
    backends = {one.key for one in (yield from selected(view, record, reached))}
    is_reached = {one.key for one in reached}
    known = {one.key: one for one in every}
    found = []
    for number, endpoint in enumerate(view.service(record.network_id, *record.service).endpoints, start=1):
        name = f"{endpoint.record.name} on {host_text(view, endpoint.owner)}"
        backend = known.get(endpoint.endpoint_id)
        if backend is None:
            reason = _why_out(view, endpoint)
        elif backend.key not in is_reached:
            reason = _why_behind(view, endpoint)
        else:
            reason = _why_without(record, backend, is_backend=backend.key in backends)
        found.append(ReplicaReason(name, packed(endpoint), reason))
        if number % _LOOKED_AT_PER_SLICE == 0:
            yield
    for one in every:
        if one.is_outside or one.is_program:
            text = ", ".join(str(ipaddress.ip_address(address)) for address in one.addresses)
            reason = _why_without(record, one, is_backend=one.key in backends)
            found.append(ReplicaReason(f"{text} (external)", one.addresses, reason))
    return found


def _why_out(view: RegistryView, endpoint: EndpointView) -> str:
    if view.endpoints.get(EndpointId(endpoint.endpoint_id)) != endpoint:
        return "it is fenced"
    return why_hidden(view, endpoint)


def _why_behind(view: RegistryView, endpoint: EndpointView) -> str:
    if not endpoint.record.is_answering:
        return f"{endpoint.record.health_text}, and there are others"
    host = host_text(view, endpoint.owner)
    return f"this host gets no answer from {host} over the overlay, and there are others"


def _why_without(record: ServiceAddressRecord, backend: Backend, *, is_backend: bool) -> str:
    if not is_backend:
        return _SELECTS[record.balance]
    if not backend.weight:
        return "its weight is 0"
    return "there are more replicas than places, and other hosts lead to it"


def service_lines(
    wanted: Sequence[ServiceEntry],
    seen: SocketFacts,
    replicas: Collection[ReplicaReason],
    idle: str,
    refused: Mapping[bytes, str],
) -> Iterator[ObjectStatus]:
    """Yield where the addresses of one service lead on this host, and to whom. `idle`: why this host has nothing for
    them; empty if it should. `refused`: the addresses for which the kernel has no room, and why."""
    for entry in wanted:
        thing = f"{ipaddress.ip_address(entry.address)} leads to {_backends(entry)}"
        if idle:
            yield ObjectStatus("service address", thing, State.NOT_NEEDED, idle)
        elif seen.problem:
            yield ObjectStatus("service address", thing, State.NOT_KNOWN, seen.problem)
        else:
            state = seen.state_of(entry.address, entry)
            reason, fix = _difference(entry, seen, state), "" if state is State.PRESENT else REPAIRED
            if state is not State.PRESENT and entry.address in refused:
                reason, fix = refused[entry.address], NO_ROOM
            yield ObjectStatus("service address", thing, state, reason, fix)
    places = Counter(address for entry in wanted for address in entry.places)
    total = max((len(entry.places) for entry in wanted), default=0)

    def count(one: ReplicaReason) -> int:
        return max((places[address] for address in one.addresses), default=0)

    for one in sorted(replicas, key=lambda each: (-count(each), each.name))[:MOST_SHOWN]:
        if count(one):
            thing = f"{one.name} has {count(one)} of {total} places"
            yield ObjectStatus("backend", thing, State.NOT_NEEDED if idle else State.PRESENT, idle)
        else:
            yield ObjectStatus("backend", f"{one.name} has no place", State.NOT_NEEDED, one.reason)
    if len(replicas) > MOST_SHOWN:
        yield ObjectStatus("backend", f"{len(replicas) - MOST_SHOWN} more", State.NOT_NEEDED, "not shown")


def _backends(entry: ServiceEntry) -> str:
    count = len(set(entry.places))
    return f"{count} backend{'' if count == 1 else 's'}" if count else "no backend, and refuses connections"


def _difference(entry: ServiceEntry, seen: SocketFacts, state: State) -> str:
    if state is not State.ALTERED:
        return ""
    present = Counter(seen.places(entry.address))
    if present == Counter(entry.places):
        return "its ports, its network or its flags are other ones"
    found = ", ".join(f"{count} of {ipaddress.ip_address(one)}" for one, count in present.most_common(5))
    return f"the kernel has {found or 'no backend'}"
