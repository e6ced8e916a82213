"""The changes that a plan consists of, and the effect of each on a KernelState. Pure.

`after` is the model of the kernel against which the plan is proven, and the reconciler's belief of what it has done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from netagent.datapath.state import (
    BRIDGE_SWITCHES,
    TABLES,
    AddressKey,
    Device,
    EntryKey,
    KernelState,
    Table,
    assigned,
)
from netgossip.slices import Slices

_ENTRIES_PER_SLICE: Final = 256

KIND_FIELDS: Final = frozenset({"tunnel", *BRIDGE_SWITCHES})
"""Fields of a Device that are options of its kind."""

_Place: TypeAlias = tuple[str, str]
_Revise: TypeAlias = Callable[[Table, _Place, str], tuple[_Place, str] | None]
"""Returns an entry as it is afterwards; None: it is gone."""


@dataclass(frozen=True, slots=True)
class CreateDevice:
    """Create a bridge or VXLAN device: down, in no bridge."""

    device: Device


@dataclass(frozen=True, slots=True)
class RenameDevice:
    """Rename a device of ours back."""

    name: str
    wanted: str


@dataclass(frozen=True, slots=True)
class SetDevice:
    """Change the named fields of an existing device to those of `device`."""

    device: Device
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DeleteDevice:
    """Remove a device; everything on it goes with it."""

    name: str


@dataclass(frozen=True, slots=True)
class SetAddress:
    """Give a device an address."""

    device: str
    cidr: str


@dataclass(frozen=True, slots=True)
class DeleteAddress:
    """Remove an address from a device."""

    device: str
    cidr: str


@dataclass(frozen=True, slots=True)
class SetRoute:
    """Route the subnet of a device's address to the device, as the kernel does when it adds the address."""

    device: str
    cidr: str


@dataclass(frozen=True, slots=True)
class SetEntry:
    """Give the entry at `key` this value, whatever it is now."""

    key: EntryKey
    value: str


@dataclass(frozen=True, slots=True)
class DeleteEntry:
    """Remove the entry at `key`, which has this value."""

    key: EntryKey
    value: str


DeviceOperation: TypeAlias = CreateDevice | RenameDevice | SetDevice | DeleteDevice
EntryOperation: TypeAlias = SetEntry | DeleteEntry
Operation: TypeAlias = DeviceOperation | SetAddress | DeleteAddress | SetRoute | EntryOperation


def after(state: KernelState, operations: Iterable[Operation]) -> Slices[KernelState]:
    """Return the state once all operations are done, as the kernel does them. Costs as much as there are operations;
    a device that goes, is renamed or changes its master costs as much as there are entries."""
    entries: dict[EntryKey, str | None] = {}
    addresses: set[AddressKey] | None = None
    for operation in operations:
        match operation:
            case CreateDevice() | RenameDevice() | SetDevice() | DeleteDevice():
                state = _with_addresses(state.with_entries(entries), addresses)
                entries, addresses = {}, None
                state = yield from _after_device(state, operation)
                yield
            case SetAddress(name, cidr):
                addresses = {*(state.addresses if addresses is None else addresses), (name, cidr)}
            case DeleteAddress(name, cidr):
                addresses = {*(state.addresses if addresses is None else addresses)} - {(name, cidr)}
                state = replace(state, unrouted=state.unrouted - {(name, cidr)})
            case SetRoute(name, cidr):
                state = replace(state, unrouted=state.unrouted - {(name, cidr)})
            case SetEntry(key, value):
                entries[key] = value
            case DeleteEntry(key, value):
                # An entry that leads elsewhere by now is not the one to delete.
                if (entries[key] if key in entries else state.entry(key)) == value:
                    entries[key] = None
        if len(entries) >= _ENTRIES_PER_SLICE:
            state, entries = state.with_entries(entries), {}
            yield
    return _with_addresses(state.with_entries(entries), addresses)


def _with_addresses(state: KernelState, addresses: set[AddressKey] | None) -> KernelState:
    return state if addresses is None else replace(state, addresses=frozenset(addresses))


def _after_device(state: KernelState, operation: DeviceOperation) -> Slices[KernelState]:
    match operation:
        case CreateDevice(device):
            bare = replace(device, master=None, port=None, up=False)
            return replace(state, devices=assigned(state.devices, {device.name: bare}))
        case RenameDevice(name, wanted):
            return (yield from _after_renaming(state, name, wanted))
        case SetDevice(device, fields):
            changed = {field: getattr(device, field) for field in fields}
            present = replace(state.devices[device.name], **changed)
            if "noarp" in fields:
                state = yield from _revised(
                    state,
                    lambda _, place, mac: None if place[0] == device.name else (place, mac),
                    tables=("neighbour",),
                )
            if "master" in fields:  # the bridge that it leaves drops the entries behind it
                state = yield from _revised(
                    state,
                    lambda _, place, port: None if port == device.name else (place, port),
                    tables=("master",),
                )
            return replace(state, devices=assigned(state.devices, {device.name: present}))
        case DeleteDevice(name):
            return (yield from _after_deletion(state, name))


def _after_deletion(state: KernelState, name: str) -> Slices[KernelState]:
    devices = {key: _released(device, name) for key, device in state.devices.items() if key != name}
    addresses = frozenset(key for key in state.addresses if key[0] != name)

    def revised(table: Table, place: _Place, value: str) -> tuple[_Place, str] | None:
        return None if place[0] == name or (table == "master" and value == name) else (place, value)

    state = yield from _revised(state, revised)
    unrouted = frozenset(key for key in state.unrouted if key[0] != name)
    return replace(state, devices=devices, addresses=addresses, unrouted=unrouted)


def _after_renaming(state: KernelState, name: str, wanted: str) -> Slices[KernelState]:
    new = {name: wanted}
    devices = {
        new.get(key, key): replace(
            device, name=new.get(key, key), master=new.get(device.master or "", device.master)
        )
        for key, device in state.devices.items()
    }
    addresses = frozenset((new.get(key, key), cidr) for key, cidr in state.addresses)
    unrouted = frozenset((new.get(key, key), cidr) for key, cidr in state.unrouted)

    def revised(table: Table, place: _Place, value: str) -> tuple[_Place, str]:
        return (new.get(place[0], place[0]), place[1]), new.get(value, value) if table == "master" else value

    state = yield from _revised(state, revised)
    return replace(state, devices=devices, addresses=addresses, unrouted=unrouted)


def _revised(
    before: KernelState, revise: _Revise, *, tables: Iterable[Table] = TABLES
) -> Slices[KernelState]:
    """Apply `revise` to every entry of these tables."""
    state = before
    for table in tables:
        changes: dict[EntryKey, str | None] = {}
        for number, (place, value) in enumerate(before.table(table).items(), 1):
            revised = revise(table, place, value)
            if revised != (place, value):
                changes[table, place] = None
            if revised is not None and revised != (place, value):
                changes[table, revised[0]] = revised[1]
            if number % _ENTRIES_PER_SLICE == 0:
                state, changes = state.with_entries(changes), {}
                yield
        state = state.with_entries(changes)
    return state


def _released(device: Device, master: str) -> Device:
    return replace(device, master=None, port=None) if device.master == master else device


def device_of(operation: Operation) -> str:
    """Return the device that an operation concerns."""
    match operation:
        case CreateDevice(device) | SetDevice(device, _):
            return device.name
        case RenameDevice(_, name) | DeleteDevice(name):
            return name
        case SetEntry((_, (name, _))) | DeleteEntry((_, (name, _))):
            return name
        case _:
            return operation.device


def link_of(operation: Operation) -> str:
    """Return the device that must exist for an operation."""
    if isinstance(operation, SetEntry | DeleteEntry):
        return link_of_entry(operation.key, operation.value)
    return device_of(operation)


def link_of_entry(key: EntryKey, value: str) -> str:
    """Return the device that the kernel keeps an entry with: of a bridge's it is the port."""
    return value if key[0] == "master" else key[1][0]


def takes_ipv6(operation: Operation) -> bool:
    """Return whether the operation gives a device something of IPv6."""
    match operation:
        case SetAddress(_, what) | SetEntry(("neighbour", (_, what))):
            return ":" in what
        case _:
            return False
