"""The difference between desired and observed kernel state, as operations in an order that never breaks a path. Pure.

Order: A device of ours that another program renamed gets its name back, so that everything on it stays. Devices that
can't be changed into the desired state are removed and created again. Then everything is added or replaced, then
everything superfluous is removed. The entries for a remote endpoint are set before anything can use them: self FDB,
master FDB, neighbour; only the last makes the bridge answer ARP. Removal is the reverse.

A veth is neither created nor deleted here: its other end is in a container, and `attach` manages it. A desired veth
that does not exist yet is left out together with its entries; a superfluous one is left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from netagent.datapath.reconcile.drift import other_objects, renames
from netagent.datapath.reconcile.entry_kinds import ENTRY_KINDS
from netagent.datapath.reconcile.operations import (
    CreateDevice,
    DeleteAddress,
    DeleteDevice,
    DeleteEntry,
    Operation,
    RenameDevice,
    SetAddress,
    SetDevice,
    SetEntry,
    SetRoute,
    doing,
)
from netagent.datapath.state import BRIDGE_SWITCHES, Device, EntryKey, KernelState, LinkKind, Table, assigned
from netagent.slices import Pieces, at_once

FIELDS: Final = (
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


def plan(desired: KernelState, observed: KernelState) -> list[Operation]:
    """Return operations that turn `observed` into `desired`; empty when they agree. Sorted, for people."""
    return at_once(planning(desired, observed, is_sorted=True))


def planning(
    desired: KernelState, observed: KernelState, *, is_sorted: bool = False
) -> Pieces[list[Operation]]:
    """Do the same in slices, sorted or not. Costs as much as both states hold."""
    operations: list[Operation] = [
        RenameDevice(stray, name) for stray, name in sorted(renames(desired, observed).items())
    ]
    observed = yield from doing(observed, operations)
    desired = reachable(desired, observed)
    yield
    unfit: list[Operation] = [
        DeleteDevice(name)
        for name, device in observed.devices.items()
        if name in desired.devices and _must_be_recreated(desired.devices[name], device)
    ]
    observed = yield from doing(observed, unfit)
    changes = _device_changes(desired.devices, observed)
    observed = yield from doing(observed, changes)
    operations += [*unfit, *changes]
    superfluous = {
        name
        for name, device in observed.devices.items()
        if name not in desired.devices and device.kind is not LinkKind.VETH
    }
    additions, removals = yield from _entry_changes(desired, observed, superfluous, is_sorted=is_sorted)
    operations += [SetAddress(*key) for key in sorted(desired.addresses - observed.addresses)]
    operations += [SetRoute(*key) for key in sorted(desired.addresses & observed.unrouted)]
    operations += additions
    operations += removals
    operations += [
        DeleteAddress(*key)
        for key in sorted(observed.addresses - desired.addresses)
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
) -> list[Operation] | None:
    """Plan when devices agree or nearly so, and only these entries can differ; costs as much as these and the
    devices. None: a whole plan is needed.

    `are_devices_settled`: it is known that there is nothing to do for devices.
    """
    return at_once(planning_within(desired, observed, keys, are_devices_settled=are_devices_settled))


def planning_within(
    desired: KernelState,
    observed: KernelState,
    keys: Iterable[EntryKey],
    *,
    are_devices_settled: bool = False,
) -> Pieces[list[Operation] | None]:
    """Do the same in slices."""
    if desired.addresses != observed.addresses or observed.unrouted:
        return None
    names = () if are_devices_settled else other_objects(desired.devices, observed.devices)
    if not _are_devices_akin(desired, observed, names):
        return None
    present = {
        name: desired.devices[name] for name in names if name in desired.devices and name in observed.devices
    }
    operations = _device_changes(present, observed)
    additions: dict[Table, list[Operation]] = {table: [] for table in ENTRY_KINDS}
    removals: dict[Table, list[Operation]] = {table: [] for table in reversed(ENTRY_KINDS)}
    for number, key in enumerate(keys, 1):
        wanted, there = desired.entry(key), observed.entry(key)
        if key[0] == "master" and wanted not in observed.devices:
            wanted = None  # its veth does not exist yet
        if wanted is not None and wanted != there:
            additions[key[0]].append(SetEntry(key, wanted))
        elif wanted is None and there is not None:
            removals[key[0]].append(DeleteEntry(key, there))
        if number % _ENTRIES_PER_SLICE == 0:
            yield
    for changes in (*additions.values(), *removals.values()):
        operations += changes
    return operations


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
            or _must_be_recreated(device, present)
        ):
            return False
    return not has_other_names or not renames(desired, observed)


def reachable(desired: KernelState, observed: KernelState) -> KernelState:
    """Return `desired` without the veths that do not exist, and without the entries on them."""
    missing = {
        name
        for name, device in desired.devices.items()
        if device.kind is LinkKind.VETH and name not in observed.devices
    }
    if not missing:
        return desired
    unreached = dict.fromkeys(key for key, port in desired.masters.items() if port in missing)
    return replace(
        desired,
        devices=assigned(desired.devices, dict.fromkeys(missing)),
        masters=assigned(desired.masters, unreached),
    )


def _must_be_recreated(desired: Device, observed: Device) -> bool:
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
        fields = _differing_fields(device, present)
        if fields:
            settings.append(SetDevice(device, fields))
    return creations + settings


def _differing_fields(desired: Device, present: Device) -> tuple[str, ...]:
    fields = {field for field in FIELDS if getattr(desired, field) != getattr(present, field)}
    if "master" in fields:
        fields.add("port")  # joining a bridge gives a port the kernel's defaults
    return tuple(field for field in FIELDS if field in fields)


def _entry_changes(
    desired: KernelState, observed: KernelState, going: set[str], *, is_sorted: bool
) -> Pieces[tuple[list[Operation], list[Operation]]]:
    """Return entries to set, and those to remove; entries of a device that is removed go with it."""
    additions: list[Operation] = []
    removals: dict[Table, list[Operation]] = {table: [] for table in ENTRY_KINDS}
    for table in ENTRY_KINDS:
        wanted, there = desired.table(table), observed.table(table)
        for number, (place, value) in enumerate(sorted(wanted.items()) if is_sorted else wanted.items()):
            if there.get(place) != value:
                additions.append(SetEntry((table, place), value))
            if number % _ENTRIES_PER_SLICE == 0:
                yield
        for number, (place, value) in enumerate(sorted(there.items()) if is_sorted else there.items()):
            if place not in wanted and place[0] not in going and value not in going:
                removals[table].append(DeleteEntry((table, place), value))
            if number % _ENTRIES_PER_SLICE == 0:
                yield
    return additions, [operation for table in reversed(ENTRY_KINDS) for operation in removals[table]]
