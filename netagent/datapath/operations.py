"""The changes that a plan consists of: what each does to a KernelState, and the command one would type for it. Pure.

`after` is the model of the kernel that the plan is proven against, and the reconciler's belief of what it has done.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeAlias

from netagent.datapath.state import ZERO_MAC, Device, KernelState, Kind, PortFlags


@dataclass(frozen=True, slots=True)
class CreateDevice:
    """Make a bridge or VXLAN device: down, in no bridge."""

    device: Device


@dataclass(frozen=True, slots=True)
class RenameDevice:
    """Give a device of ours its name back."""

    name: str
    wanted: str


@dataclass(frozen=True, slots=True)
class SetDevice:
    """Change the named fields of an existing device to those of `device`."""

    device: Device
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DeleteDevice:
    """Remove a device; what sits on it goes with it."""

    name: str


@dataclass(frozen=True, slots=True)
class SetAddress:
    """Give a device an address."""

    device: str
    cidr: str


@dataclass(frozen=True, slots=True)
class DeleteAddress:
    """Take an address from a device."""

    device: str
    cidr: str


@dataclass(frozen=True, slots=True)
class SetSelf:
    """A VXLAN device sends frames for `mac` to the host at `underlay`."""

    device: str
    mac: str
    underlay: str


@dataclass(frozen=True, slots=True)
class DeleteSelf:
    """A VXLAN device no longer knows `mac`."""

    device: str
    mac: str


@dataclass(frozen=True, slots=True)
class AddFlood:
    """A VXLAN device sends broadcast and multicast to the host at `underlay`, besides others."""

    device: str
    underlay: str


@dataclass(frozen=True, slots=True)
class DeleteFlood:
    """A VXLAN device no longer sends broadcast and multicast to the host at `underlay`."""

    device: str
    underlay: str


@dataclass(frozen=True, slots=True)
class SetMaster:
    """A bridge sends frames for `mac` to `port`, and nowhere else."""

    bridge: str
    mac: str
    port: str


@dataclass(frozen=True, slots=True)
class DeleteMaster:
    """A bridge no longer knows `mac` behind `port`."""

    bridge: str
    mac: str
    port: str


@dataclass(frozen=True, slots=True)
class SetNeighbour:
    """`address` has `mac` on this device."""

    device: str
    address: str
    mac: str


@dataclass(frozen=True, slots=True)
class DeleteNeighbour:
    """The device no longer knows `address`."""

    device: str
    address: str


DeviceOperation: TypeAlias = CreateDevice | RenameDevice | SetDevice | DeleteDevice
EntryOperation: TypeAlias = (
    SetSelf | DeleteSelf | AddFlood | DeleteFlood | SetMaster | DeleteMaster | SetNeighbour | DeleteNeighbour
)
Operation: TypeAlias = DeviceOperation | SetAddress | DeleteAddress | EntryOperation


def after(state: KernelState, operations: Iterable[Operation]) -> KernelState:
    """The state once all of them are done, as the kernel does them."""
    draft = _Draft(state)
    for operation in operations:
        match operation:
            case CreateDevice() | RenameDevice() | SetDevice() | DeleteDevice():
                draft.change_device(operation)
            case SetAddress(name, cidr):
                draft.addresses.add((name, cidr))
            case DeleteAddress(name, cidr):
                draft.addresses.discard((name, cidr))
            case _:
                draft.change_entry(operation)
    return KernelState(
        devices=draft.devices,
        addresses=frozenset(draft.addresses),
        neighbours=draft.neighbours,
        masters=draft.masters,
        selves=draft.selves,
        floods=frozenset(draft.floods),
    )


class _Draft:
    """A KernelState in the making."""

    def __init__(self, state: KernelState) -> None:
        self.devices = dict(state.devices)
        self.addresses = set(state.addresses)
        self.neighbours = dict(state.neighbours)
        self.masters = dict(state.masters)
        self.selves = dict(state.selves)
        self.floods = set(state.floods)

    def change_device(self, operation: DeviceOperation) -> None:
        match operation:
            case CreateDevice(device):
                self.devices[device.name] = replace(device, master=None, port=None, up=False)
            case RenameDevice(name, wanted):
                self._rename(name, wanted)
            case SetDevice(device, fields):
                changed = {field: getattr(device, field) for field in fields}
                self.devices[device.name] = replace(self.devices[device.name], **changed)
                if "master" in fields:  # the bridge that it leaves forgets what was behind it
                    self.masters = {key: port for key, port in self.masters.items() if port != device.name}
            case DeleteDevice(name):
                self.devices.pop(name, None)
                self.devices = {key: _released(device, name) for key, device in self.devices.items()}
                self.addresses = {key for key in self.addresses if key[0] != name}
                self.neighbours = {key: mac for key, mac in self.neighbours.items() if key[0] != name}
                self.masters = {key: port for key, port in self.masters.items() if name not in {key[0], port}}
                self.selves = {key: underlay for key, underlay in self.selves.items() if key[0] != name}
                self.floods = {key for key in self.floods if key[0] != name}

    def _rename(self, name: str, wanted: str) -> None:
        new = {name: wanted}
        self.devices = {
            new.get(key, key): replace(
                device, name=new.get(key, key), master=new.get(device.master or "", device.master)
            )
            for key, device in self.devices.items()
        }
        self.addresses = {(new.get(key, key), cidr) for key, cidr in self.addresses}
        self.neighbours = {(new.get(key, key), one): mac for (key, one), mac in self.neighbours.items()}
        self.masters = {
            (new.get(key, key), mac): new.get(port, port) for (key, mac), port in self.masters.items()
        }
        self.selves = {(new.get(key, key), mac): underlay for (key, mac), underlay in self.selves.items()}
        self.floods = {(new.get(key, key), underlay) for key, underlay in self.floods}

    def change_entry(self, operation: EntryOperation) -> None:
        match operation:
            case SetSelf(name, mac, underlay):
                self.selves[name, mac] = underlay
            case DeleteSelf(name, mac):
                self.selves.pop((name, mac), None)
            case AddFlood(name, underlay):
                self.floods.add((name, underlay))
            case DeleteFlood(name, underlay):
                self.floods.discard((name, underlay))
            case SetMaster(name, mac, port):
                self.masters[name, mac] = port
            case DeleteMaster(name, mac, port):
                if self.masters.get((name, mac)) == port:
                    del self.masters[name, mac]
            case SetNeighbour(name, address, mac):
                self.neighbours[name, address] = mac
            case DeleteNeighbour(name, address):
                self.neighbours.pop((name, address), None)


def _released(device: Device, master: str) -> Device:
    return replace(device, master=None, port=None) if device.master == master else device


def device_of(operation: Operation) -> str:
    """The device that an operation is about."""
    match operation:
        case CreateDevice(device) | SetDevice(device, _):
            return device.name
        case RenameDevice(_, name) | DeleteDevice(name) | SetMaster(name, _, _) | DeleteMaster(name, _, _):
            return name
        case _:
            return operation.device


def render(operation: Operation) -> str:
    """The `ip` or `bridge` command that does the same; several lines where it takes several."""
    match operation:
        case CreateDevice() | RenameDevice() | SetDevice() | DeleteDevice():
            return _render_device(operation)
        case SetAddress(name, cidr):
            return f"ip addr replace {cidr} dev {name} nodad"
        case DeleteAddress(name, cidr):
            return f"ip addr del {cidr} dev {name}"
        case _:
            return _render_entry(operation)


def _render_entry(operation: EntryOperation) -> str:
    match operation:
        case SetSelf(name, mac, underlay):
            return f"bridge fdb replace {mac} dev {name} dst {underlay} self permanent"
        case DeleteSelf(name, mac):
            return f"bridge fdb del {mac} dev {name} self"
        case AddFlood(name, underlay):
            return f"bridge fdb append {ZERO_MAC} dev {name} dst {underlay} self permanent"
        case DeleteFlood(name, underlay):
            return f"bridge fdb del {ZERO_MAC} dev {name} dst {underlay} self"
        case SetMaster(_, mac, port):
            return f"bridge fdb replace {mac} dev {port} master static sticky"
        case DeleteMaster(_, mac, port):
            return f"bridge fdb del {mac} dev {port} master"
        case SetNeighbour(name, address, mac):
            return f"ip neigh replace {address} lladdr {mac} dev {name} nud permanent"
        case DeleteNeighbour(name, address):
            return f"ip neigh del {address} dev {name}"


def _render_device(operation: DeviceOperation) -> str:
    match operation:
        case CreateDevice(device):
            return _render_creation(device)
        case RenameDevice(name, wanted):
            return f"ip link set {name} name {wanted}"
        case SetDevice(device, fields):
            return _render_change(device, fields)
        case DeleteDevice(name):
            return f"ip link del {name}"


def _render_creation(device: Device) -> str:
    mac = f" address {device.mac}" if device.mac else ""
    return (
        f"ip link add {device.name}{mac} mtu {device.mtu_bytes} type {device.kind.value} {_kind_options(device)}\n"
        f"ip link set {device.name} alias '{device.alias}' addrgenmode none"
    )


def _kind_options(device: Device) -> str:
    if device.kind is Kind.BRIDGE or device.tunnel is None:
        return f"mcast_snooping {int(device.mcast_snooping)}"
    tunnel = device.tunnel
    learning = "learning" if tunnel.learning else "nolearning"
    fragment = " df set" if tunnel.dont_fragment else ""
    return f"id {tunnel.vni} dstport {tunnel.port} local {tunnel.local} {learning}{fragment}"


def _render_change(device: Device, fields: tuple[str, ...]) -> str:
    lines = []
    words = []
    if "alias" in fields:
        lines.append(f"ip link set {device.name} alias '{device.alias}' addrgenmode none")
    if "mac" in fields:
        words.append(f"address {device.mac}")
    if "mtu_bytes" in fields:
        words.append(f"mtu {device.mtu_bytes}")
    if "master" in fields:
        words.append(f"master {device.master}" if device.master else "nomaster")
    if words:
        lines.append(f"ip link set {device.name} {' '.join(words)}")
    if "tunnel" in fields or "mcast_snooping" in fields:
        lines.append(f"ip link set {device.name} type {device.kind.value} {_kind_options(device)}")
    if "port" in fields and device.port is not None:
        lines.append(f"bridge link set dev {device.name} {_port_options(device.port)}")
    if "up" in fields:
        lines.append(f"ip link set {device.name} {'up' if device.up else 'down'}")
    return "\n".join(lines)


def _port_options(flags: PortFlags) -> str:
    names = ("learning", "flood", "mcast_flood", "bcast_flood", "neigh_suppress")
    return " ".join(f"{name} {'on' if getattr(flags, name) else 'off'}" for name in names)
