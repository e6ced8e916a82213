"""Compare two states of the kernel, and describe in words what another program changed. Pure.

Only the change itself counts, not its consequences: a deleted bridge takes its neighbours along, and its ports lose
their master, but that is one deleted device. A veth that is gone is no damage by itself: containers end.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import ip_interface
from typing import Final, TypeAlias

from immutables import Map

from netagent.datapath.state import BRIDGE_SWITCHES, Device, EntryKey, KernelState, LinkKind, Table
from netagent.slices import Pieces, at_once

SHOWN = 3
"""Things named in one line of the log; the rest is counted."""

_TABLES: Final[tuple[Table, ...]] = ("neighbour", "self", "flood", "master")
_ENTRIES_PER_SLICE: Final = 256

Entries: TypeAlias = Mapping[tuple[str, str], str]


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


def damages_between(believed: KernelState, seen: KernelState, doubtful: Collection[str] = ()) -> list[Damage]:
    """Return what changed `believed` into `seen`, except for `doubtful` devices."""
    return at_once(comparing(believed, seen, doubtful))


def comparing(
    believed: KernelState, seen: KernelState, doubtful: Collection[str] = ()
) -> Pieces[list[Damage]]:
    """Do the same in slices."""
    found, whole = _all_device_damages(believed, seen, doubtful)
    found += _address_damages(believed, seen, whole)
    gone = sorted((believed.addresses & seen.unrouted) - believed.unrouted)
    found += [
        Damage(DamageKind.ROUTE_DELETED, f"to {ip_interface(cidr).network} by {name}")
        for name, cidr in gone
        if name in whole
    ]
    # Entries that a bridge has for a port vanish with the port.
    masters = {name: device.master for name, device in seen.devices.items()}
    for table in _TABLES:
        before, now = believed.table(table), seen.table(table)
        if before is now:
            continue
        could_stand = partial(_could_stand, whole, masters if table == "master" else None)
        for number, damage in enumerate(_entry_damages(before, now, could_stand)):
            if damage is not None:
                found.append(damage)
            if number % _ENTRIES_PER_SLICE == 0:
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
    return damages_between(before, now, doubtful)


def _all_device_damages(
    believed: KernelState, seen: KernelState, doubtful: Collection[str]
) -> tuple[list[Damage], set[str]]:
    """Return the damages, and the devices whose entries and addresses can be compared."""
    renamed = renames(believed, seen)
    found = [Damage(DamageKind.DEVICE_RENAMED, f"{old} is now {new}") for new, old in renamed.items()]
    whole: set[str] = set()
    for name, device in believed.devices.items():
        present = seen.devices.get(name)
        if name in doubtful:
            continue
        if present is not None:
            whole.add(name)
            found += _device_damages(device, present, seen) if device is not present else ()
        elif device.kind is not LinkKind.VETH and name not in renamed.values():
            found.append(Damage(DamageKind.DEVICE_DELETED, name))
    return found, whole


def other_objects(before: Mapping[str, Device], after: Mapping[str, Device]) -> list[str]:
    """Return names that do not mean the same object in both: only these need a comparison."""
    if before is after:
        return []
    changed = [name for name, device in before.items() if after.get(name) is not device]
    return changed + [name for name in after if name not in before]


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


def renames(wanted: KernelState, seen: KernelState) -> dict[str, str]:
    """Map present names to wanted ones, for devices that their alias shows to be wanted."""
    absent = [name for name in wanted.devices if name not in seen.devices]
    if not absent:
        return {}
    missing = {(wanted.devices[name].kind, wanted.devices[name].alias): name for name in absent}
    extra = [name for name in seen.devices if name not in wanted.devices]
    strays = {(seen.devices[name].kind, seen.devices[name].alias): name for name in extra}
    return {strays[mark]: name for mark, name in missing.items() if mark in strays}


def _device_damages(before: Device, after: Device, seen: KernelState) -> Iterator[Damage]:
    if before == after:
        return
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


def _address_damages(believed: KernelState, seen: KernelState, whole: set[str]) -> Iterator[Damage]:
    for name, cidr in sorted(believed.addresses - seen.addresses):
        if name in whole:
            yield Damage(DamageKind.ADDRESS_DELETED, f"{cidr} of {name}")
    for name, cidr in sorted(seen.addresses - believed.addresses):
        if name in whole:
            yield Damage(DamageKind.ADDRESS_ADDED, f"{cidr} to {name}")


def _could_stand(
    whole: set[str], masters: Mapping[str, str | None] | None, key: tuple[str, str], value: str
) -> bool:
    """Return whether the device or port of a missing entry still exists."""
    return key[0] in whole and (masters is None or masters.get(value) == key[0])


def _entry_damages(
    before: Entries, after: Entries, could_stand: Callable[[tuple[str, str], str], bool]
) -> Iterator[Damage | None]:
    """Yield one result per entry; None: it is unchanged."""
    for key, value in before.items():
        now = after.get(key)
        if now == value or not could_stand(key, value):
            yield None
            continue
        kind = DamageKind.ENTRY_DELETED if now is None else DamageKind.ENTRY_ALTERED
        yield Damage(kind, f"{key[1]} on {key[0]}")
    for key, value in after.items():
        is_added = key not in before and could_stand(key, value)
        yield Damage(DamageKind.ENTRY_ADDED, f"{key[1]} on {key[0]}") if is_added else None
