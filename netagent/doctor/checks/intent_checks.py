"""Checks of intent against kernel, containers, resolvers and journal, as a table. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from netagent.doctor.checks.finding import Check, Finding, NotKnownError, Severity
from netagent.doctor.checks.kernel_drift import Difference, KernelTable
from netagent.doctor.checks.object_status import ObjectStatus, State
from netagent.registry.shared_names import CURE, SharedName
from netagent.registry.views import Conflict


@dataclass(frozen=True, slots=True)
class NameFault:
    """A name that a container resolves differently from what the records say."""

    name: str
    asked_in: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IntentFacts:
    """What this host should have and what it has, at one moment."""

    behind: str
    """Why the kernel or the resolver lagged behind the latest records when it was read; empty: it did not."""
    differences: tuple[Difference, ...]
    owners: Mapping[tuple[str, str], str]
    """What objects belong to, in words (netagent.doctor.checks.expected_objects)."""
    refusals: Mapping[str, str]
    """Why the kernel refuses a command now, by the command."""
    firewall: tuple[Finding, ...] | str
    """The findings, or why the tables could not be compared; the same below."""
    inside: tuple[ObjectStatus, ...]
    unseen: int
    """Containers that were not inspected because time ran out."""
    names: tuple[NameFault, ...] | str
    asked: int
    """Number of questions sent to resolvers."""
    journal: tuple[Finding, ...] | str
    conflicts: tuple[Conflict, ...]
    shared_names: tuple[SharedName, ...] = ()
    services: tuple[Finding, ...] = ()
    """Of the kernel's tables of service addresses."""
    resolv_confs: tuple[Finding, ...] = ()
    """Of files that send programs in containers to another server."""


def _settled(facts: IntentFacts) -> Iterator[Finding]:
    if facts.behind:
        yield Finding("projection", facts.behind, "`netagent status` shows what the kernel refuses")


def _of_part(*parts: KernelTable) -> Callable[[IntentFacts], Iterable[Finding]]:
    def examine(facts: IntentFacts) -> Iterable[Finding]:
        return [_difference(facts, one) for one in facts.differences if one.part in parts]

    return examine


def _difference(facts: IntentFacts, one: Difference) -> Finding:
    thing = f"{one.part.value} {one.key} on {one.device}" if one.key else f"device {one.device}"
    whose = facts.owners.get((one.device, one.key.partition("/")[0]))
    message = f"{thing} is {one.state.value}"
    if whose:
        message += f" ({whose})"
    if one.detail:
        message += f": {one.detail}"
    if refusal := facts.refusals.get(one.fix):
        message += f"; the kernel refuses it: {refusal}"
    fix = (
        one.fix
        or "netagent creates it again; if it stays missing, `netagent detach` and attach the container again"
    )
    return Finding(thing, message, fix)


def _firewall(facts: IntentFacts) -> Iterable[Finding]:
    if isinstance(facts.firewall, str):
        raise NotKnownError(facts.firewall)
    return facts.firewall


def _inside(kinds: set[str]) -> Callable[[IntentFacts], Iterable[Finding]]:
    def examine(facts: IntentFacts) -> Iterator[Finding]:
        for line in facts.inside:
            if line.kind not in kinds:
                continue
            if line.is_wrong:
                text = f"{line.kind} {line.thing} is {line.state.value}"
                yield Finding(line.thing, f"{text}: {line.reason}" if line.reason else text, line.fix)
            elif line.state is State.NOT_KNOWN:
                fix = "netagent withdraws containers that have ended by itself"
                yield Finding(line.thing, f"{line.thing}: {line.reason}", fix, Severity.WARNING)
        if facts.unseen:
            text = f"time ran out before {facts.unseen} containers were inspected"
            yield Finding("containers", text, "`netagent inspect NAME --why` inspects one", Severity.WARNING)

    return examine


def _names(facts: IntentFacts) -> Iterator[Finding]:
    if isinstance(facts.names, str):
        raise NotKnownError(facts.names)
    for fault in facts.names:
        yield Finding(
            fault.name,
            f"{fault.name} asked in {fault.asked_in}: {fault.text}",
            "restart the agent, which sends all names to the resolver again",
        )


def _journal(facts: IntentFacts) -> Iterable[Finding]:
    if isinstance(facts.journal, str):
        raise NotKnownError(facts.journal)
    return facts.journal


def _conflicts(facts: IntentFacts) -> Iterator[Finding]:
    for conflict in facts.conflicts:
        yield Finding(conflict.loser, conflict.text, conflict.cure, Severity.WARNING)


def _shared_names(facts: IntentFacts) -> Iterator[Finding]:
    for one in facts.shared_names:
        yield Finding(f"{one.label}.{one.network}", one.text, CURE, Severity.WARNING)


INTENT_CHECKS: Final[tuple[Check[IntentFacts], ...]] = (
    Check("settled", "the kernel is up to date with the records", _settled),
    Check("devices", "bridges, VXLAN devices and veths are as the records say", _of_part(KernelTable.DEVICE)),
    Check("bridge-ports", "each port is in its bridge, with its flags", _of_part(KernelTable.PORT)),
    Check("addresses", "netagent's devices have their addresses", _of_part(KernelTable.ADDRESS)),
    Check("routes", "netagent's devices have routes to their subnets", _of_part(KernelTable.ROUTE)),
    Check("neighbours", "each address of a network maps to its MAC", _of_part(KernelTable.NEIGHBOUR)),
    Check("bridge-entries", "each MAC maps to its port", _of_part(KernelTable.BRIDGE_ENTRY)),
    Check("tunnel-entries", "each MAC maps to its host", _of_part(KernelTable.TUNNEL_ENTRY)),
    Check("flood-entries", "multicast goes to the hosts in the network", _of_part(KernelTable.FLOOD)),
    Check("firewall", "netagent's tables hold what they should", _firewall),
    Check("containers", "containers have their interfaces", _inside({"interface", "address", "route"})),
    Check("resolver-sockets", "a resolver listens at 127.0.0.11 in each container", _inside({"resolver"})),
    Check("resolv-conf", "programs in containers ask that resolver first", lambda facts: facts.resolv_confs),
    Check("service-addresses", "service addresses lead to their replicas", lambda facts: facts.services),
    Check("names", "resolvers answer what the records say", _names),
    Check("journal", "the journal agrees with the agent", _journal),
    Check("clashes", "no two records contradict each other", _conflicts),
    Check("shared-names", "no name resolves to containers of several compose projects", _shared_names),
)
