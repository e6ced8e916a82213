"""Compare the kernel with the records, entry by entry. Pure.

The differences come from the reconciler's own plan, so the doctor can't disagree with what the agent repairs. They
are based on a fresh look at the kernel, and each operation becomes a sentence with the equivalent command. Entries
of a missing device are counted with the device.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_interface

from netagent.datapath.reconcile.entry_kinds import ENTRY_KINDS
from netagent.datapath.reconcile.ip_commands import render
from netagent.datapath.reconcile.operations import (
    CreateDevice,
    DeleteAddress,
    DeleteDevice,
    DeleteEntry,
    EntryOperation,
    Operation,
    RenameDevice,
    SetAddress,
    SetDevice,
    SetEntry,
    SetRoute,
    link_of,
)
from netagent.datapath.reconcile.plan import plan
from netagent.datapath.state import Device, KernelState, LinkKind, PortFlags, Tunnel
from netagent.doctor.checks.object_status import State
from netgossip.slices import Slices

RECREATED = "its kind, VNI or port is different"
_PORT_FIELDS = ("master", "port")


class KernelTable(enum.Enum):
    """The table of the kernel that a difference is in."""

    DEVICE = "device"
    PORT = "port"
    ADDRESS = "address"
    ROUTE = "route"
    NEIGHBOUR = "neighbour"
    BRIDGE_ENTRY = "bridge entry"
    TUNNEL_ENTRY = "tunnel entry"
    FLOOD = "flood entry"


_PARTS = tuple(KernelTable)


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that differs from the records."""

    part: KernelTable
    device: str
    key: str
    """Address, "address/prefix length" or MAC; empty for the device itself."""
    state: State
    detail: str
    """What is there, and what should be."""
    fix: str
    """The command that does the repair by hand, several separated by `; `."""


def differences(desired: KernelState, observed: KernelState) -> Slices[list[Difference]]:
    """Return where the kernel differs from `desired`; empty when they agree."""
    operations = yield from plan(desired, observed)
    unmade = {operation.device.name for operation in operations if isinstance(operation, CreateDevice)}
    along = Counter(link_of(one) for one in operations if not isinstance(one, CreateDevice | SetDevice))
    anew = {one.name for one in operations if isinstance(one, DeleteDevice)} & unmade
    found: list[Difference] = []
    for operation in operations:
        if isinstance(operation, DeleteDevice) and operation.name in anew:
            found.append(
                Difference(
                    KernelTable.DEVICE, operation.name, "", State.ALTERED, RECREATED, command(operation)
                )
            )
        elif isinstance(operation, CreateDevice) and operation.device.name not in anew:
            found.append(_missing_device(operation, along[operation.device.name]))
        elif link_of(operation) not in unmade:
            found += _of(operation, observed)
        yield
    found.sort(key=lambda one: (_PARTS.index(one.part), one.device, one.key))
    return [*_missing_veths(desired, observed), *found]


def _missing_device(operation: CreateDevice, entries: int) -> Difference:
    detail = f"with its {entries} entries" if entries else ""
    return Difference(
        KernelTable.DEVICE, operation.device.name, "", State.MISSING, detail, command(operation)
    )


def _missing_veths(desired: KernelState, observed: KernelState) -> Iterator[Difference]:
    for name, device in desired.devices.items():
        if device.kind is LinkKind.VETH and name not in observed.devices:
            yield Difference(
                KernelTable.DEVICE, name, "", State.MISSING, "the container has no interface", ""
            )


def _of(operation: Operation, observed: KernelState) -> Iterator[Difference]:
    fix = command(operation)
    match operation:
        case RenameDevice(name, wanted):
            yield Difference(KernelTable.DEVICE, wanted, "", State.ALTERED, f"it was renamed to {name}", fix)
        case SetDevice(device, fields):
            yield from _altered_device(device, fields, observed.devices.get(device.name))
        case DeleteDevice(name):
            yield Difference(KernelTable.DEVICE, name, "", State.LEFT_OVER, "", fix)
        case SetAddress(name, cidr):
            yield Difference(KernelTable.ADDRESS, name, cidr, State.MISSING, "", fix)
        case DeleteAddress(name, cidr):
            yield Difference(KernelTable.ADDRESS, name, cidr, State.LEFT_OVER, "", fix)
        case SetRoute(name, cidr):
            subnet = str(ip_interface(cidr).network)
            yield Difference(KernelTable.ROUTE, name, subnet, State.MISSING, "", fix)
        case SetEntry(key) | DeleteEntry(key):
            part, state = KernelTable(ENTRY_KINDS[key[0]].words), state_of(operation, observed)
            yield Difference(part, *key[1], state, entry_text(operation, observed), fix)


def state_of(operation: EntryOperation, observed: KernelState) -> State:
    """Say how an entry differs that the operation would repair."""
    if isinstance(operation, DeleteEntry):
        return State.LEFT_OVER
    return State.MISSING if observed.entry(operation.key) is None else State.ALTERED


def entry_text(operation: EntryOperation, observed: KernelState) -> str:
    """Say what the entry is and should be; nothing of an entry that consists of its key."""
    match state_of(operation, observed):
        case _ if not operation.value:
            return ""
        case State.LEFT_OVER:
            return f"maps to {operation.value}"
        case State.MISSING:
            return f"should map to {operation.value}"
        case _:
            return f"maps to {observed.entry(operation.key)} instead of {operation.value}"


def _altered_device(device: Device, fields: Iterable[str], present: Device | None) -> Iterator[Difference]:
    """Yield one difference for the device itself, one for its place in the bridge."""
    if present is None:
        return  # it was renamed, which is reported already
    changed = [field for field in fields if getattr(device, field) != getattr(present, field)]
    for part, own in ((KernelTable.DEVICE, False), (KernelTable.PORT, True)):
        of_part = tuple(field for field in changed if (field in _PORT_FIELDS) is own)
        if own and "master" in of_part and "port" not in of_part:
            of_part = (*of_part, "port")
        if of_part:
            details = "; ".join(field_text(field, device, present) for field in of_part)
            fix = command(SetDevice(device, of_part))
            yield Difference(part, device.name, "", State.ALTERED, details, fix)


def field_text(field: str, wanted: Device, present: Device) -> str:
    """Say how a field of a device differs from what is wanted."""
    value, other = getattr(wanted, field), getattr(present, field)
    match field:
        case "up":
            return "it is down" if value else "it is up"
        case "master":
            return f"it is in {other or 'no bridge'} instead of {value or 'none'}"
        case "port":
            return _port_text(value, other)
        case "mtu_bytes":
            return f"its MTU is {other} instead of {value}"
        case "mac":
            return f"its MAC is {other} instead of {value}"
        case "noarp":
            return "it answers no ARP" if other else "it answers ARP"
        case "tunnel":
            return _tunnel_text(value, other)
        case _:
            return f"its {field.replace('_', ' ')} is {other!r} instead of {value!r}"


def _port_text(wanted: PortFlags | None, present: PortFlags | None) -> str:
    if wanted is None or present is None:
        return "its port flags are not set"
    names = [n for n in PortFlags.__dataclass_fields__ if getattr(wanted, n) != getattr(present, n)]
    said = [f"{name} is {'on' if getattr(present, name) else 'off'}" for name in names]
    return ", ".join(said) or "its port flags are not set"


def _tunnel_text(wanted: Tunnel | None, present: Tunnel | None) -> str:
    if wanted is None or present is None:
        return "it is not a VXLAN device"
    names = [n for n in Tunnel.__dataclass_fields__ if getattr(wanted, n) != getattr(present, n)]
    said = [f"{name} is {getattr(present, name)} instead of {getattr(wanted, name)}" for name in names]
    return ", ".join(said)


def command(operation: Operation) -> str:
    """Return the commands that do the operation, in one line."""
    return render(operation).replace("\n", "; ")
