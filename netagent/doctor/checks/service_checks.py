"""Compare the kernel's tables of service addresses with the records. Pure.

What should be in the kernel is built anew from the records, by a builder that begins with the places which the kernel
has: so a difference means that shares are wrong, and not that places are other ones.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Final

from netagent.datapath.sockets.adoption import NAMES
from netagent.datapath.sockets.layout import (
    Member,
    ServiceEntry,
    pack_ports,
    pack_service,
    unpack_end,
    unpack_places,
)
from netagent.doctor.checks.finding import Finding, Severity
from netagent.doctor.checks.object_status import State

MOST_NAMED: Final = 20
"""Service addresses that are named one by one; of further ones the finding gives the number."""
REPAIRED: Final = (
    "the agent repairs it within 2 s; if it stays, another program changes it: `bpftool map` and "
    "`bpftool cgroup tree` show what is there"
)
NO_ROOM: Final = (
    "names give the replicas' own addresses there; remove addresses of services, or their ports with "
    "`netagent service set NAME --port none`"
)
_NO_SERVICES: Final[Mapping[bytes, bytes]] = {}
_NONE_REFUSED: Final[Mapping[bytes, str]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketFacts:
    """The programs at the sockets and their tables, as the kernel has them."""

    problem: str = ""
    """Why they could not be read; then the other fields are empty."""
    programs: frozenset[str] = frozenset()
    """The names of those that are attached."""
    services: Mapping[bytes, bytes] = field(default_factory=lambda: _NO_SERVICES)
    """By address."""
    ports: Mapping[bytes, bytes] = field(default_factory=lambda: _NO_SERVICES)
    members: frozenset[Member] = frozenset()

    def places(self, address: bytes) -> tuple[bytes, ...]:
        """Return the places of a service address; none where it has no entry."""
        value = self.services.get(address)
        return () if value is None else unpack_places(value)

    def state_of(self, address: bytes, wanted: ServiceEntry | None) -> State:
        """Compare one entry, with its ports, with what should be there."""
        value = self.services.get(address)
        if wanted is None:
            return State.NOT_NEEDED if value is None else State.LEFT_OVER
        if value is None:
            return State.MISSING
        ports = pack_ports(wanted)
        is_right = value == pack_service(wanted) and all(
            self.ports.get(key) == port for key, port in ports.items()
        )
        return State.PRESENT if is_right else State.ALTERED


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceFacts:
    """What should be in the kernel for service addresses, and what is there, at one moment."""

    wanted: Mapping[bytes, ServiceEntry]
    members: Set[Member]
    """The namespaces in which addresses should be translated."""
    seen: SocketFacts
    trouble: str | None
    """Why this host does not lead connections to replicas; None: it does, or has nothing to lead."""
    resets: str | None
    """Why it does not end connections to replicas that are gone; None: it does."""
    refused: Mapping[bytes, str] = field(default_factory=lambda: _NONE_REFUSED)
    """The addresses for which the kernel has no room, and why."""

    @property
    def is_needed(self) -> bool:
        """True if a container of this host may use a service's address."""
        return bool(self.wanted) and bool(self.members)


def service_findings(facts: ServiceFacts, named: Callable[[bytes], str]) -> Iterator[Finding]:
    """Yield what is wrong. `named`: the service that has an address, in words."""
    if not facts.is_needed:
        return
    if facts.trouble is not None:
        text = f"connections to service addresses are not led to replicas on this host: {facts.trouble}"
        yield Finding("service addresses", text, "until then names give the replicas' own addresses there")
        return
    if facts.resets is not None:
        text = f"connections to replicas that are gone do not end by themselves: {facts.resets}"
        yield Finding("resets", text, "let programs set TCP_USER_TIMEOUT or keepalives", Severity.WARNING)
    if facts.seen.problem:
        yield Finding("service addresses", f"the programs cannot be read: {facts.seen.problem}", REPAIRED)
        return
    for name in sorted({*NAMES.values()} - facts.seen.programs):
        text = f"program {name} is not attached at the root of the control groups"
        yield Finding(name, text, REPAIRED)
    yield from _entries(facts, named)
    missing, others = facts.members - facts.seen.members, facts.seen.members - facts.members
    for many, text in (
        (missing, "of these namespaces the kernel does not know that they use service addresses"),
        (others, "namespaces use service addresses that should not"),
    ):
        if many:
            yield Finding("members", f"{len(many)} {text}", REPAIRED)


def _entries(facts: ServiceFacts, named: Callable[[bytes], str]) -> Iterator[Finding]:
    wrong = [
        (address, state)
        for address in {**facts.wanted, **dict.fromkeys(facts.seen.services)}
        if (state := facts.seen.state_of(address, facts.wanted.get(address))) is not State.PRESENT
    ]
    for address, state in wrong[:MOST_NAMED]:
        text = f"service address {ipaddress.ip_address(address)} ({named(address)}) is {state.value}"
        if reason := facts.refused.get(address):
            yield Finding(str(ipaddress.ip_address(address)), f"{text}: {reason}", NO_ROOM)
        else:
            yield Finding(str(ipaddress.ip_address(address)), text, REPAIRED)
    if len(wrong) > MOST_NAMED:
        yield Finding("service addresses", f"{len(wrong) - MOST_NAMED} more are wrong", REPAIRED)
    known = {*facts.wanted, *facts.seen.services}
    strays = {end.address for end in map(unpack_end, facts.seen.ports)} - known
    if strays:
        yield Finding("ports", f"{len(strays)} service addresses have ports and no entry", REPAIRED)
