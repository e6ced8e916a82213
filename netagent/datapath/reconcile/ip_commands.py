"""Operations as the equivalent `ip` or `bridge` commands, for people. Pure."""

from __future__ import annotations

from ipaddress import ip_interface

from netagent.datapath.reconcile.entry_kinds import ENTRY_KINDS
from netagent.datapath.reconcile.operations import (
    KIND_FIELDS,
    CreateDevice,
    DeleteAddress,
    DeleteDevice,
    DeleteEntry,
    DeviceOperation,
    Operation,
    RenameDevice,
    SetAddress,
    SetDevice,
    SetEntry,
    SetRoute,
)
from netagent.datapath.state import Device, LinkKind, PortFlags


def render(operation: Operation) -> str:
    """Return the equivalent `ip` or `bridge` command; several lines if it takes several."""
    match operation:
        case CreateDevice() | RenameDevice() | SetDevice() | DeleteDevice():
            return _render_device(operation)
        case SetAddress(name, cidr):
            return f"ip addr replace {cidr} dev {name} nodad"
        case DeleteAddress(name, cidr):
            return f"ip addr del {cidr} dev {name}"
        case SetRoute(name, cidr):
            address = ip_interface(cidr)
            how = f"scope link src {address.ip}" if address.version == 4 else "metric 256"
            return f"ip route add {address.network} dev {name} proto kernel {how}"
        case SetEntry((table, (name, what)), value):
            return ENTRY_KINDS[table].set_command.format(device=name, what=what, value=value)
        case DeleteEntry((table, (name, what)), value):
            return ENTRY_KINDS[table].delete_command.format(device=name, what=what, value=value)


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
    if device.kind is LinkKind.BRIDGE or device.tunnel is None:
        return f"mcast_snooping {int(device.mcast_snooping)} stp_state {int(device.stp)}"
    tunnel = device.tunnel
    learning = "learning" if tunnel.learning else "nolearning"
    fragment = " df set" if tunnel.dont_fragment else ""
    ttl = f" ttl {tunnel.ttl or 'auto'}"
    return f"id {tunnel.vni} dstport {tunnel.port} local {tunnel.local} {learning}{fragment}{ttl}"


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
    if KIND_FIELDS.intersection(fields):
        lines.append(f"ip link set {device.name} type {device.kind.value} {_kind_options(device)}")
    if "noarp" in fields:
        lines.append(f"ip link set {device.name} arp {'off' if device.noarp else 'on'}")
    if "port" in fields and device.port is not None:
        lines.append(f"bridge link set dev {device.name} {_port_options(device.port)}")
    if "up" in fields:
        lines.append(f"ip link set {device.name} {'up' if device.up else 'down'}")
    if "forwarding" in fields:
        lines.append(f"bridge link set dev {device.name} state forwarding")
    return "\n".join(lines)


def _port_options(flags: PortFlags) -> str:
    names = ("learning", "flood", "mcast_flood", "bcast_flood", "neigh_suppress", "hairpin", "isolated")
    return " ".join(f"{name} {'on' if getattr(flags, name) else 'off'}" for name in names)
