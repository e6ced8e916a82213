"""Why the kernel refused something, with the name of what is in the way. Pure."""

from __future__ import annotations

import errno
from dataclasses import replace
from ipaddress import ip_interface

from netagent.datapath.reconcile.apply import Failure
from netagent.datapath.reconcile.observe import Observation
from netagent.datapath.reconcile.operations import CreateDevice, RenameDevice, SetDevice, SetRoute, device_of


def explained(failure: Failure, seen: Observation) -> Failure:
    """The kernel's `File exists` and `Address in use` with the name of what is in the way."""
    operation = failure.operation
    if isinstance(operation, SetDevice) and failure.errno == errno.EADDRINUSE and operation.device.tunnel:
        port = operation.device.tunnel.port
        return replace(failure, reason=f"UDP port {port} is used by another program or device")
    if isinstance(operation, SetRoute) and failure.errno == errno.EEXIST:
        subnet = ip_interface(operation.cidr).network
        return replace(failure, reason=f"a route to {subnet} exists that is not ours")
    if failure.errno != errno.EEXIST or not isinstance(operation, CreateDevice | RenameDevice):
        return failure
    name = device_of(operation)
    if name in seen.strangers:
        return replace(failure, reason=f"a device named {name} exists that is not ours")
    tunnel = operation.device.tunnel if isinstance(operation, CreateDevice) else None
    if tunnel is not None and tunnel.vni in seen.foreign_tunnels:
        holder = seen.foreign_tunnels[tunnel.vni]
        return replace(failure, reason=f"VNI {tunnel.vni} is used by {holder}, which is not ours")
    return failure
