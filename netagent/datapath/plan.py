"""The difference between desired and observed kernel state, as operations in an order that never breaks a path. Pure.

Order. A device of ours that somebody renamed gets its name back, so that all that sits on it stays. Devices that
can't be changed into what they should be go next and are made anew. Then everything is added or
replaced, then everything superfluous is removed. For a remote endpoint the way out is laid before anybody is told of
it: self FDB, master FDB, neighbour; only the last makes the bridge answer ARP. Removal is the reverse.

A veth is neither made nor deleted here: its other end is in a container, and `attach` has it. A desired veth that is
not there yet is left out together with its entries; a superfluous one is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from netagent.datapath.damage import renames
from netagent.datapath.operations import (
    AddFlood,
    CreateDevice,
    DeleteAddress,
    DeleteDevice,
    DeleteFlood,
    DeleteMaster,
    DeleteNeighbour,
    DeleteSelf,
    Operation,
    RenameDevice,
    SetAddress,
    SetDevice,
    SetMaster,
    SetNeighbour,
    SetSelf,
    after,
)
from netagent.datapath.state import Device, KernelState, Kind

K = TypeVar("K")
V = TypeVar("V")

# In this order: a port gets its flags before it is up, and its bridge before its flags.
_FIELDS = ("alias", "mac", "mtu_bytes", "tunnel", "mcast_snooping", "master", "port", "up")


def plan(desired: KernelState, observed: KernelState) -> list[Operation]:
    """Operations that turn `observed` into `desired`; empty when they agree."""
    operations: list[Operation] = [
        RenameDevice(stray, name) for stray, name in sorted(renames(desired, observed).items())
    ]
    if operations:
        observed = after(observed, operations)
    desired = reachable(desired, observed)
    unfit: list[Operation] = [
        DeleteDevice(name)
        for name, device in observed.devices.items()
        if name in desired.devices and _must_be_made_anew(desired.devices[name], device)
    ]
    if unfit:
        observed = after(observed, unfit)
        operations += unfit
    changes = _device_changes(desired, observed)
    if changes:
        observed = after(observed, changes)
        operations += changes
    operations += [SetAddress(*key) for key in sorted(desired.addresses - observed.addresses)]
    operations += [SetSelf(*key, value) for key, value in _changed(desired.selves, observed.selves)]
    operations += [SetMaster(*key, value) for key, value in _changed(desired.masters, observed.masters)]
    operations += [
        SetNeighbour(*key, value) for key, value in _changed(desired.neighbours, observed.neighbours)
    ]
    operations += [AddFlood(*key) for key in sorted(desired.floods - observed.floods)]
    superfluous = {
        name
        for name, device in observed.devices.items()
        if name not in desired.devices and device.kind is not Kind.VETH
    }
    operations += _entry_removals(desired, observed, superfluous)
    operations += [DeleteDevice(name) for name in sorted(superfluous)]
    return operations


def reachable(desired: KernelState, observed: KernelState) -> KernelState:
    """`desired` without the veths that are not there, and what would sit on them."""
    missing = {
        name
        for name, device in desired.devices.items()
        if device.kind is Kind.VETH and name not in observed.devices
    }
    if not missing:
        return desired
    return replace(
        desired,
        devices={name: device for name, device in desired.devices.items() if name not in missing},
        masters={key: port for key, port in desired.masters.items() if port not in missing},
    )


def _must_be_made_anew(desired: Device, observed: Device) -> bool:
    """True where the kernel refuses the change: another kind, VNI, port, or address family of the underlay."""
    if desired.kind is not observed.kind:
        return True
    new, old = desired.tunnel, observed.tunnel
    if new is None or old is None:
        return False
    return (new.vni, new.port, ":" in new.local) != (old.vni, old.port, ":" in old.local)


def _device_changes(desired: KernelState, observed: KernelState) -> list[Operation]:
    """All creations, then all settings; bridges before their ports."""
    creations: list[Operation] = []
    settings: list[Operation] = []
    for device in sorted(
        desired.devices.values(), key=lambda device: (device.kind is not Kind.BRIDGE, device.name)
    ):
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
    fields = {field for field in _FIELDS if getattr(desired, field) != getattr(present, field)}
    if "master" in fields:
        fields.add("port")  # joining a bridge gives a port the kernel's defaults
    return tuple(field for field in _FIELDS if field in fields)


def _changed(desired: Mapping[K, V], observed: Mapping[K, V]) -> list[tuple[K, V]]:
    return [(key, value) for key, value in desired.items() if observed.get(key) != value]


def _entry_removals(desired: KernelState, observed: KernelState, going: set[str]) -> list[Operation]:
    """Entries that should not be; those on a device that is removed go with it."""
    operations: list[Operation] = [
        DeleteFlood(*key) for key in sorted(observed.floods - desired.floods) if key[0] not in going
    ]
    operations += [
        DeleteNeighbour(*key)
        for key in observed.neighbours
        if key not in desired.neighbours and key[0] not in going
    ]
    operations += [
        DeleteMaster(*key, port)
        for key, port in observed.masters.items()
        if key not in desired.masters and key[0] not in going and port not in going
    ]
    operations += [
        DeleteSelf(*key) for key in observed.selves if key not in desired.selves and key[0] not in going
    ]
    operations += [
        DeleteAddress(*key) for key in sorted(observed.addresses - desired.addresses) if key[0] not in going
    ]
    return operations
