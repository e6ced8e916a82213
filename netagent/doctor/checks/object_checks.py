"""Compare single objects in the kernel with the records, as lines of `inspect --why`. Pure.

What differs, and the command that repairs it, are those of the reconciler's plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from netagent.datapath.reconcile.entry_kinds import ENTRY_KINDS
from netagent.datapath.reconcile.operations import CreateDevice, DeleteDevice, SetAddress, SetDevice
from netagent.datapath.reconcile.plan import differing_fields, entry_operation, must_be_recreated
from netagent.datapath.state import AddressKey, EntryKey, KernelState, LinkKind, Table
from netagent.doctor.checks.expected_objects import Situation
from netagent.doctor.checks.kernel_drift import RECREATED, command, entry_text, field_text, state_of
from netagent.doctor.checks.object_status import ObjectStatus, State
from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import EndpointId, NetworkId
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
    service_ranges: Mapping[NetworkId, Sequence[str]] = field(default_factory=dict)
    """Those to which containers should have routes, by network."""


def device_line(evidence: Evidence, name: str, idle: str) -> ObjectStatus:
    """Judge a bridge, a VXLAN device or the host's side of a veth."""
    wanted, found = evidence.desired.devices.get(name), evidence.observed.devices.get(name)
    either = wanted or found
    thing = f"{either.kind.value} {name}" if either is not None else name
    if wanted is None:
        state = State.NOT_NEEDED if found is None else State.LEFT_OVER
        fix = "" if found is None else command(DeleteDevice(name))
        return ObjectStatus("device", thing, state, idle, fix)
    if found is None and wanted.kind is LinkKind.VETH:
        fix = (
            "netagent creates it again; if it stays missing, `netagent detach` and attach the container again"
        )
        return ObjectStatus("device", thing, State.MISSING, "the container has no interface", fix)
    if found is None:
        line = ObjectStatus("device", thing, State.MISSING, "", command(CreateDevice(wanted)))
    elif must_be_recreated(wanted, found):
        line = ObjectStatus("device", thing, State.ALTERED, RECREATED, command(DeleteDevice(name)))
    elif fields := differing_fields(wanted, found):
        details = "; ".join(field_text(one, wanted, found) for one in fields)
        line = ObjectStatus("device", thing, State.ALTERED, details, command(SetDevice(wanted, fields)))
    else:
        place = f"a port of {wanted.master}" if wanted.master else ""
        return ObjectStatus("device", thing, State.PRESENT, place)
    return _explained(evidence, line)


_THINGS: Final[Mapping[Table, str]] = {
    "neighbour": "{what} is {value} on {device}",
    "master": "{what} behind {value} of {device}",
    "self": "{what} at {value} by {device}",
    "flood": "multicast of {device} to {what}",
}


def entry_line(evidence: Evidence, key: EntryKey, value: str, idle: str) -> ObjectStatus:
    """Judge a neighbour or a forwarding entry. `value`: what the records would give it, if they want none now, and
    `idle`: why they do not."""
    table, (device, what) = key
    wanted, found = evidence.desired.entry(key), evidence.observed.entry(key)
    kind = ENTRY_KINDS[table].words
    thing = _THINGS[table].format(device=device, what=what, value=wanted or value)
    operation = entry_operation(key, wanted, found)
    if operation is None and wanted is not None:
        return ObjectStatus(kind, thing, State.PRESENT)
    if operation is None:
        return ObjectStatus(kind, thing, State.NOT_NEEDED, idle)
    state = state_of(operation, evidence.observed)
    reasons = {State.LEFT_OVER: idle, State.ALTERED: entry_text(operation, evidence.observed)}
    return _explained(evidence, ObjectStatus(kind, thing, state, reasons.get(state, ""), command(operation)))


def address_line(evidence: Evidence, key: AddressKey) -> ObjectStatus:
    """Judge an address that a device of this host should have."""
    thing = f"{key[1]} on {key[0]}"
    if key in evidence.observed.addresses:
        return ObjectStatus("address", thing, State.PRESENT)
    return ObjectStatus("address", thing, State.MISSING, "", command(SetAddress(*key)))


def _explained(evidence: Evidence, line: ObjectStatus) -> ObjectStatus:
    """Add the kernel's refusal, if the agent tries and fails."""
    refusal = evidence.refusals.get(line.fix)
    if refusal is None:
        return line
    reason = "; ".join(part for part in (line.reason, f"the kernel refuses it: {refusal}") if part)
    return ObjectStatus(line.kind, line.thing, line.state, reason, line.fix)
