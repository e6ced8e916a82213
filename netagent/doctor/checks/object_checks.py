"""Compare single objects in the kernel with the records, as lines of `inspect --why`. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from netagent.datapath.reconcile.ip_commands import render
from netagent.datapath.reconcile.operations import (
    CreateDevice,
    DeleteEntry,
    Operation,
    SetDevice,
    SetEntry,
)
from netagent.datapath.reconcile.plan import FIELDS
from netagent.datapath.state import Device, KernelState, LinkKind
from netagent.doctor.checks.expected_objects import Situation
from netagent.doctor.checks.kernel_drift import State, field_text
from netagent.doctor.checks.object_status import ObjectStatus
from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import EndpointId
from netagent.registry.view import RegistryView


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything that was read, at one moment."""

    view: RegistryView
    rows: Mapping[EndpointId, LocalEndpointRow]
    situation: Situation
    desired: KernelState
    observed: KernelState
    refusals: Mapping[str, str] = field(default_factory=dict)
    """Why the kernel refuses a command now, by the command."""


def device_line(evidence: Evidence, name: str, idle: str) -> ObjectStatus:
    """Judge a bridge, a VXLAN device or the host's side of a veth."""
    wanted, found = evidence.desired.devices.get(name), evidence.observed.devices.get(name)
    either = wanted or found
    thing = f"{either.kind.value} {name}" if either is not None else name
    if wanted is None:
        state = State.NOT_NEEDED if found is None else State.LEFT_OVER
        return ObjectStatus("device", thing, state, idle, "" if found is None else f"ip link del {name}")
    if found is None:
        if wanted.kind is LinkKind.VETH:
            fix = "netagent creates it again; if it stays missing, `netagent detach` and attach the container again"
            return ObjectStatus("device", thing, State.MISSING, "the container has no interface", fix)
        return _explained(
            evidence, ObjectStatus("device", thing, State.MISSING, "", _typed(CreateDevice(wanted)))
        )
    fields = tuple(one for one in FIELDS if getattr(wanted, one) != getattr(found, one))
    if not fields:
        return ObjectStatus("device", thing, State.PRESENT, _place(wanted))
    if wanted.master is not None and "master" in fields and "port" not in fields:
        fields = (*fields, "port")
    details = "; ".join(field_text(one, wanted, found) for one in fields)
    return _explained(
        evidence, ObjectStatus("device", thing, State.ALTERED, details, _typed(SetDevice(wanted, fields)))
    )


def _place(device: Device) -> str:
    return f"a port of {device.master}" if device.master else ""


def neighbour_line(evidence: Evidence, key: tuple[str, str], mac: str, idle: str) -> ObjectStatus:
    """Judge the neighbour entry with which a bridge or the probe device answers for an address."""
    wanted, found = evidence.desired.neighbours.get(key), evidence.observed.neighbours.get(key)
    thing = f"{key[1]} is {wanted or mac} on {key[0]}"
    ways = SetEntry(("neighbour", key), wanted or mac), DeleteEntry(("neighbour", key), found or "")
    return _state_of(evidence, _KernelEntry("neighbour", thing, wanted, found, idle, *ways))


def master_line(evidence: Evidence, key: tuple[str, str], port: str, idle: str) -> ObjectStatus:
    """Judge the forwarding entry that maps a MAC to a bridge port."""
    wanted, found = evidence.desired.masters.get(key), evidence.observed.masters.get(key)
    thing = f"{key[1]} behind {wanted or port} of {key[0]}"
    ways = SetEntry(("master", key), wanted or port), DeleteEntry(("master", key), found or port)
    return _state_of(evidence, _KernelEntry("bridge entry", thing, wanted, found, idle, *ways))


def self_line(evidence: Evidence, key: tuple[str, str], idle: str) -> ObjectStatus:
    """Judge the forwarding entry that maps a MAC to the host that a VXLAN device sends its frames to."""
    wanted, found = evidence.desired.selves.get(key), evidence.observed.selves.get(key)
    thing = f"{key[1]} at {wanted or found or 'its host'} by {key[0]}"
    ways = SetEntry(("self", key), wanted or ""), DeleteEntry(("self", key), found or "")
    return _state_of(evidence, _KernelEntry("tunnel entry", thing, wanted, found, idle, *ways))


def flood_line(evidence: Evidence, key: tuple[str, str]) -> ObjectStatus:
    """Judge the entry for a host that a VXLAN device sends multicast and broadcast to."""
    wanted, found = evidence.desired.floods.get(key), evidence.observed.floods.get(key)
    thing = f"multicast of {key[0]} to {key[1]}"
    ways = SetEntry(("flood", key), ""), DeleteEntry(("flood", key), "")
    return _state_of(evidence, _KernelEntry("flood entry", thing, wanted, found, "", *ways))


@dataclass(frozen=True, slots=True)
class _KernelEntry:
    """One key of a table in the kernel."""

    kind: str
    thing: str
    wanted: str | None
    found: str | None
    idle: str
    """Why no entry is wanted."""
    set: Operation
    remove: Operation


def _state_of(evidence: Evidence, entry: _KernelEntry) -> ObjectStatus:
    if entry.wanted is None and entry.found is None:
        return ObjectStatus(entry.kind, entry.thing, State.NOT_NEEDED, entry.idle)
    if entry.wanted is None:
        return ObjectStatus(entry.kind, entry.thing, State.LEFT_OVER, entry.idle, _typed(entry.remove))
    if entry.wanted == entry.found:
        return ObjectStatus(entry.kind, entry.thing, State.PRESENT)
    state, reason = State.MISSING, ""
    if entry.found is not None:
        state, reason = State.ALTERED, f"it is {entry.found} instead"
    return _explained(evidence, ObjectStatus(entry.kind, entry.thing, state, reason, _typed(entry.set)))


def _typed(operation: Operation) -> str:
    return render(operation).replace("\n", "; ")


def _explained(evidence: Evidence, line: ObjectStatus) -> ObjectStatus:
    """Add the kernel's refusal, if the agent tries and fails."""
    refusal = evidence.refusals.get(line.fix)
    if refusal is None:
        return line
    reason = "; ".join(part for part in (line.reason, f"the kernel refuses it: {refusal}") if part)
    return ObjectStatus(line.kind, line.thing, line.state, reason, line.fix)
