"""Describe in words what another program changed: by the operations that would undo it. Pure.

Only the change itself counts, not its consequences: a deleted bridge takes its neighbours along, and its ports lose
their master, but that is one deleted device. A veth that is gone is no damage by itself: containers end.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_interface
from typing import Final

from immutables import Map

from netagent.datapath.reconcile.operations import (
    CreateDevice,
    DeleteAddress,
    DeleteEntry,
    Operation,
    RenameDevice,
    SetAddress,
    SetDevice,
    SetEntry,
    SetRoute,
    device_of,
)
from netagent.datapath.reconcile.plan import plan
from netagent.datapath.state import BRIDGE_SWITCHES, Device, EntryKey, KernelState
from netgossip.slices import Slices, at_once

SHOWN = 3
"""Things named in one line of the log; the rest is counted."""

_OPERATIONS_PER_SLICE: Final = 256


class DamageKind(enum.StrEnum):
    """The kinds of damage, as `status` and the log name them."""

    DEVICE_DELETED = "device-deleted"
    DEVICE_RENAMED = "device-renamed"
    DEVICE_MOVED = "device-moved"
    """One end of a veth is in another namespace."""
    DEVICE_DOWN = "device-down"
    DEVICE_ALTERED = "device-altered"
    """Alias, options of a VXLAN device or bridge, or a setting under /proc/sys."""
    MAC_CHANGED = "mac-changed"
    MTU_CHANGED = "mtu-changed"
    PORT_DETACHED = "port-detached"
    PORT_ALTERED = "port-altered"
    """The bridge's treatment of a port: learning, flooding, neighbour suppression, forwarding at all."""
    TAG_REMOVED = "tag-removed"
    """A program that keeps bridge netfilter away from a port (netagent.datapath.reconcile.bridge_nf_bypass)."""
    COUNTER_REMOVED = "counter-removed"
    """A program that counts what a container opens, at its port (netagent.datapath.flows)."""
    SOCKET_PROGRAM_REMOVED = "socket-program-removed"
    """A program that leads connections to a service's address (netagent.datapath.sockets)."""
    SERVICE_ALTERED = "service-altered"
    """The address of a service, or one of its ports, in the kernel's table."""
    MEMBER_ALTERED = "member-altered"
    """A namespace that may use the addresses of a network's services, in the kernel's table."""
    ADDRESS_ADDED = "address-added"
    ADDRESS_DELETED = "address-deleted"
    ROUTE_DELETED = "route-deleted"
    ENTRY_ADDED = "entry-added"
    ENTRY_DELETED = "entry-deleted"
    ENTRY_ALTERED = "entry-altered"


@dataclass(frozen=True, slots=True)
class Damage:
    """One thing that was not as we left it."""

    kind: DamageKind
    thing: str


class Drift:
    """Counts the repairs of each kind of damage since the start."""

    def __init__(self) -> None:
        self._counts: Counter[DamageKind] = Counter()

    def note(self, damages: Iterable[Damage]) -> list[str]:
        """Count them; return a phrase for each kind, for the log."""
        by_kind: dict[DamageKind, list[str]] = {}
        for damage in damages:
            by_kind.setdefault(damage.kind, []).append(damage.thing)
        self._counts.update({kind: len(things) for kind, things in by_kind.items()})
        return [f"{kind}: {_enumerated(things)}" for kind, things in by_kind.items()]

    @property
    def kinds(self) -> dict[str, int]:
        """Counts by kind, sorted; only kinds that occurred."""
        return {str(kind): self._counts[kind] for kind in sorted(self._counts)}

    @property
    def total(self) -> int:
        """The sum of all counts."""
        return self._counts.total()


def _enumerated(things: list[str]) -> str:
    more = len(things) - SHOWN
    return ", ".join(things[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def damages_between(
    believed: KernelState, seen: KernelState, doubtful: Collection[str] = ()
) -> Slices[list[Damage]]:
    """Return what changed `believed` into `seen`, except for `doubtful` devices: plan how to undo the changes, and
    describe each operation."""
    found: list[Damage] = []
    for number, operation in enumerate((yield from plan(believed, seen)), 1):
        if device_of(operation) not in doubtful:
            found += _damages_undone_by(operation, believed, seen)
        if number % _OPERATIONS_PER_SLICE == 0:
            yield
    return found


def damages_within(
    believed: KernelState, seen: KernelState, keys: Iterable[EntryKey], doubtful: Collection[str] = ()
) -> list[Damage]:
    """Do the same for devices and only these entries, at a cost that depends on their number alone."""
    keys = set(keys)
    none = replace(believed, neighbours=Map(), masters=Map(), selves=Map(), floods=Map())
    before = none.with_entries({key: believed.entry(key) for key in keys})
    now = none.with_entries({key: seen.entry(key) for key in keys})
    now = replace(now, devices=seen.devices, addresses=seen.addresses, unrouted=seen.unrouted)
    return at_once(damages_between(before, now, doubtful))


def _damages_undone_by(operation: Operation, believed: KernelState, seen: KernelState) -> Iterator[Damage]:
    name = device_of(operation)
    present = seen.devices.get(name)
    match operation:
        case RenameDevice(now, _):
            yield Damage(DamageKind.DEVICE_RENAMED, f"{name} is now {now}")
        case CreateDevice() if present is None:
            yield Damage(DamageKind.DEVICE_DELETED, name)
        case SetDevice(device, _) if present is not None:
            yield from _device_damages(device, present, seen)
        case _ if present is None or name not in believed.devices:
            return  # what became of the device is reported already
        case SetAddress(_, cidr) if (name, cidr) not in seen.addresses:
            yield Damage(DamageKind.ADDRESS_DELETED, f"{cidr} of {name}")
        case DeleteAddress(_, cidr):
            yield Damage(DamageKind.ADDRESS_ADDED, f"{cidr} to {name}")
        case SetRoute(_, cidr) if (name, cidr) not in believed.unrouted:
            yield Damage(DamageKind.ROUTE_DELETED, f"to {ip_interface(cidr).network} by {name}")
        case SetEntry(key, value) | DeleteEntry(key, value):
            there = seen.entry(key)
            port = seen.devices.get(value) if key[0] == "master" else None
            if key[0] == "master" and (port is None or port.master != name):
                return  # the port left the bridge, with its entries
            if isinstance(operation, DeleteEntry):
                yield Damage(DamageKind.ENTRY_ADDED, f"{key[1][1]} on {name}")
            elif there != value:  # otherwise it would go with a change of the device
                kind = DamageKind.ENTRY_DELETED if there is None else DamageKind.ENTRY_ALTERED
                yield Damage(kind, f"{key[1][1]} on {name}")


def _device_damages(before: Device, after: Device, seen: KernelState) -> Iterator[Damage]:
    name = before.name
    if before.up and not after.up:
        yield Damage(DamageKind.DEVICE_DOWN, name)
    if before.mac != after.mac:
        yield Damage(DamageKind.MAC_CHANGED, name)
    if before.mtu_bytes != after.mtu_bytes:
        yield Damage(DamageKind.MTU_CHANGED, name)
    if before.master != after.master:
        if before.master in seen.devices:  # otherwise it lost its bridge, which is reported already
            yield Damage(DamageKind.PORT_DETACHED, name)
    elif before.port != after.port or (before.forwarding and _is_shut(after, seen)):
        yield Damage(DamageKind.PORT_ALTERED, name)
    others = ("kind", "alias", "tunnel", "noarp", *BRIDGE_SWITCHES)
    if any(getattr(before, field) != getattr(after, field) for field in others):
        yield Damage(DamageKind.DEVICE_ALTERED, name)


def _is_shut(port: Device, seen: KernelState) -> bool:
    """Return whether the bridge itself shuts the port, and not because the bridge was changed."""
    bridge = seen.devices.get(port.master or "")
    return not port.forwarding and bridge is not None and bridge.up and not bridge.stp
