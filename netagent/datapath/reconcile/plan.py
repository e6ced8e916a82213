"""The difference between desired and observed kernel state, as operations in an order that never breaks a path. Pure.

Order: A device of ours that another program renamed gets its name back, so that everything on it stays. Devices that
can't be changed into the desired state are removed and created again. Then everything is added or replaced, then
everything superfluous is removed. The entries for a remote endpoint are set before anything can use them: self FDB,
master FDB, neighbour; only the last makes the bridge answer ARP. Removal is the reverse.

One kind of removal comes before additions: a superfluous address in the subnet of a missing one. Beside it the new
address would be a secondary one, which the kernel removes with the first.

A veth is neither created nor deleted here: its other end is in a container, and `attach` manages it. A desired veth
that does not exist yet is left out together with its entries; a superfluous one is left alone.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Container, Iterable, Mapping
from dataclasses import replace
from itertools import chain
from typing import Final, TypeAlias

from netagent.datapath.reconcile.entry_kinds import ENTRY_KINDS
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
    after,
)
from netagent.datapath.state import (
    BRIDGE_SWITCHES,
    AddressKey,
    Device,
    EntryKey,
    KernelState,
    LinkKind,
    Table,
    assigned,
)
from netgossip.slices import Slices

_FIELDS: Final = (
    "alias",
    "mac",
    "mtu_bytes",
    "tunnel",
    *BRIDGE_SWITCHES,
    "noarp",
    "master",
    "port",
    "up",
    "forwarding",
)
"""Fields of a Device that are repaired, in this order: a port gets its flags before it is up, and its bridge before
its flags; it is opened last."""

_ENTRIES_PER_SLICE: Final = 256

EntryChange: TypeAlias = tuple[EntryKey, str | None, str | None]
"""An entry, the value that is wanted, and the value that is there; None: no entry."""


def plan(desired: KernelState, observed: KernelState) -> Slices[list[Operation]]:
    """Return operations that turn `observed` into `desired`; empty when they agree. Costs as much as both states
    hold."""
    operations: list[Operation] = [
        RenameDevice(stray, name) for stray, name in sorted(_renames(desired, observed).items())
    ]
    observed = yield from after(observed, operations)
    missing = {
        name: None
        for name, device in desired.devices.items()
        if device.kind is LinkKind.VETH and name not in observed.devices
    }
    desired = replace(desired, devices=assigned(desired.devices, missing))
    yield
    unfit: list[Operation] = [
        DeleteDevice(name)
        for name, device in observed.devices.items()
        if name in desired.devices and must_be_recreated(desired.devices[name], device)
    ]
    observed = yield from after(observed, unfit)
    changes = _device_changes(desired.devices, observed)
    observed = yield from after(observed, changes)
    operations += [*unfit, *changes]
    superfluous = {
        name
        for name, device in observed.devices.items()
        if name not in desired.devices and device.kind is not LinkKind.VETH
    }
    entries = yield from _differing_entries(desired, observed, superfluous)
    displaced = _displaced(observed.addresses - desired.addresses, desired.addresses - observed.addresses)
    operations += [DeleteAddress(*key) for key in sorted(displaced)]
    operations += [SetAddress(*key) for key in sorted(desired.addresses - observed.addresses)]
    operations += [SetRoute(*key) for key in sorted(desired.addresses & observed.unrouted)]
    operations += yield from _entry_operations(entries, observed.devices)
    operations += [
        DeleteAddress(*key)
        for key in sorted(observed.addresses - desired.addresses - displaced)
        if key[0] not in superfluous
    ]
    operations += [DeleteDevice(name) for name in sorted(superfluous)]
    return operations


def plan_within(
    desired: KernelState,
    observed: KernelState,
    keys: Iterable[EntryKey],
    *,
    are_devices_settled: bool = False,
) -> Slices[list[Operation] | None]:
    """Plan when devices agree or nearly so, and only these entries can differ; costs as much as these and the
    devices. None: a whole plan is needed.

    `are_devices_settled`: it is known that there is nothing to do for devices.
    """
    if desired.addresses != observed.addresses or observed.unrouted:
        return None
    names = () if are_devices_settled else other_objects(desired.devices, observed.devices)
    if not _are_devices_akin(desired, observed, names):
        return None
    present = {
        name: desired.devices[name] for name in names if name in desired.devices and name in observed.devices
    }
    operations = _device_changes(present, observed)
    entries = ((key, desired.entry(key), observed.entry(key)) for key in keys)
    return operations + (yield from _entry_operations(entries, observed.devices))


def _are_devices_akin(desired: KernelState, observed: KernelState, names: Iterable[str]) -> bool:
    """True when nothing that happens to these devices removes entries, or makes room for some."""
    has_other_names = False
    for name in names:
        device, present = desired.devices.get(name), observed.devices.get(name)
        if device is None or present is None:
            has_other_names = True
            if (device or observed.devices[name]).kind is not LinkKind.VETH:
                return False
        elif present != device and (
            present.master != device.master
            or present.noarp != device.noarp
            or must_be_recreated(device, present)
        ):
            return False
    return not has_other_names or not _renames(desired, observed)


def _displaced(superfluous: Iterable[AddressKey], missing: Iterable[AddressKey]) -> set[AddressKey]:
    """Return the superfluous addresses that have the device and the subnet of a missing one."""
    places = {(device, ipaddress.ip_interface(cidr).network) for device, cidr in missing}
    return {
        (device, cidr)
        for device, cidr in superfluous
        if (device, ipaddress.ip_interface(cidr).network) in places
    }


def must_be_recreated(desired: Device, observed: Device) -> bool:
    """True where the kernel refuses the change: another kind, VNI, port, or address family of the underlay.

    Also where it accepts the change without effect: over IPv6 each forwarding entry remembers the source with its
    route and keeps sending from the old address, which the other hosts no longer accept. Over IPv4 any change of a
    device makes the kernel forget these.
    """
    if desired.kind is not observed.kind:
        return True
    new, old = desired.tunnel, observed.tunnel
    if new is None or old is None:
        return False
    if ":" in new.local and new.local != old.local:
        return True
    return (new.vni, new.port, ":" in new.local) != (old.vni, old.port, ":" in old.local)


def _device_changes(desired: Mapping[str, Device], observed: KernelState) -> list[Operation]:
    """Return all creations, then all settings; bridges before their ports."""
    creations: list[Operation] = []
    settings: list[Operation] = []
    changed = (device for name, device in desired.items() if observed.devices.get(name) is not device)
    for device in sorted(changed, key=lambda device: (device.kind is not LinkKind.BRIDGE, device.name)):
        present = observed.devices.get(device.name)
        if present == device:
            continue
        if present is None:
            creations.append(CreateDevice(device))
            present = replace(device, master=None, port=None, up=False)
        fields = differing_fields(device, present)
        if fields:
            settings.append(SetDevice(device, fields))
    return creations + settings


def differing_fields(desired: Device, present: Device) -> tuple[str, ...]:
    """Return the fields to set, in the order of their repair."""
    fields = {field for field in _FIELDS if getattr(desired, field) != getattr(present, field)}
    if "master" in fields:
        fields.add("port")  # joining a bridge gives a port the kernel's defaults
    return tuple(field for field in _FIELDS if field in fields)


def _differing_entries(
    desired: KernelState, observed: KernelState, going: set[str]
) -> Slices[list[EntryChange]]:
    """Return the entries that differ, without those that go with the devices `going`."""
    found: list[EntryChange] = []
    for table in ENTRY_KINDS:
        wanted, there = desired.table(table), observed.table(table)
        if wanted is there:
            continue
        for number, (place, value) in enumerate(wanted.items()):
            present = there.get(place)
            if present != value:
                found.append(((table, place), value, present))
            if number % _ENTRIES_PER_SLICE == 0:
                yield
        for number, (place, value) in enumerate(there.items()):
            if place not in wanted and place[0] not in going and value not in going:
                found.append(((table, place), None, value))
            if number % _ENTRIES_PER_SLICE == 0:
                yield
    return found


def _entry_operations(
    changes: Iterable[EntryChange], devices: Container[str | None]
) -> Slices[list[Operation]]:
    """Return what makes these entries as they are wanted, as far as `devices` exist: first those to set, then those
    to remove, by table."""
    additions: dict[Table, list[Operation]] = {table: [] for table in ENTRY_KINDS}
    removals: dict[Table, list[Operation]] = {table: [] for table in reversed(ENTRY_KINDS)}
    for number, (key, value, there) in enumerate(changes, 1):
        # No entry behind a veth that does not exist yet.
        wanted = None if key[0] == "master" and value not in devices else value
        operation = entry_operation(key, wanted, there)
        if operation is not None:
            (removals if wanted is None else additions)[key[0]].append(operation)
        if number % _ENTRIES_PER_SLICE == 0:
            yield
    return [*chain.from_iterable(additions.values()), *chain.from_iterable(removals.values())]


def entry_operation(key: EntryKey, wanted: str | None, there: str | None) -> EntryOperation | None:
    """Return what makes an entry as it is wanted; None: it is."""
    if wanted is not None:
        return SetEntry(key, wanted) if wanted != there else None
    return DeleteEntry(key, there) if there is not None else None


def other_objects(before: Mapping[str, Device], after: Mapping[str, Device]) -> list[str]:
    """Return names that do not mean the same object in both: only these need a comparison."""
    if before is after:
        return []
    changed = [name for name, device in before.items() if after.get(name) is not device]
    return changed + [name for name in after if name not in before]


def _renames(wanted: KernelState, seen: KernelState) -> dict[str, str]:
    """Map present names to wanted ones, for devices that their alias shows to be wanted."""
    absent = [name for name in wanted.devices if name not in seen.devices]
    if not absent:
        return {}
    missing = {(wanted.devices[name].kind, wanted.devices[name].alias): name for name in absent}
    extra = [name for name in seen.devices if name not in wanted.devices]
    strays = {(seen.devices[name].kind, seen.devices[name].alias): name for name in extra}
    return {strays[mark]: name for mark, name in missing.items() if mark in strays}


def may_cost_entries(before: KernelState, after: KernelState) -> bool:
    """Return whether changes of devices may have removed entries, apart from the one entry of each veth's guest."""
    if before.addresses != after.addresses:
        return True
    names = other_objects(before.devices, after.devices)
    pairs = ((before.devices.get(name), after.devices.get(name)) for name in names)
    return any(old != new and LinkKind.VETH not in {d.kind for d in (old, new) if d} for old, new in pairs)


def guest_keys(
    desired: KernelState, before: Mapping[str, Device], after: Mapping[str, Device]
) -> set[EntryKey]:
    """Return the keys of entries that vanish with the veths that changed."""
    names = other_objects(before, after)
    changed = (desired.devices.get(n) for n in names if before.get(n) != after.get(n))
    return {
        ("master", (veth.master, veth.guest_mac))
        for veth in changed
        if veth and veth.master and veth.guest_mac
    }
