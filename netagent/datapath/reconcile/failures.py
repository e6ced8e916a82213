"""Which operations fail now, and what follows for the next pass.

A device may have gone since the kernel was read, as with a container that ends; what failed for want of it vanishes
by itself. So the next pass looks first, and only what fails again is a failure, shown and told.

Why the kernel refused something, with the name of what is in the way. Pure.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_interface

from netagent.datapath.reconcile.apply import Failure
from netagent.datapath.reconcile.ip_commands import render
from netagent.datapath.reconcile.observe import Observation
from netagent.datapath.reconcile.operations import (
    CreateDevice,
    EntryOperation,
    RenameDevice,
    SetDevice,
    SetRoute,
    device_of,
    entry_after,
)
from netagent.datapath.state import EntryKey

_log = logging.getLogger(__name__)
SHOWN = 100
"""Failures that are shown, and told in the log at once; of the others only how many there are."""


@dataclass(frozen=True, slots=True)
class RetryPlan:
    """What failures leave to be done."""

    is_unknown: bool = False
    """Something of devices failed: nothing is known of what is there, so look at everything."""
    refused: frozenset[EntryKey] = frozenset()
    """Else the entries that are not as they should be; the rest is as we believe."""


class Failures:
    """What the kernel refuses, from one pass to the next."""

    def __init__(self) -> None:
        self.failures: Sequence[Failure] = ()
        """Those that are shown and told."""
        self._vanished: Sequence[Failure] = ()
        """Those of the last pass for want of a device."""

    def note(self, failures: Collection[Failure], keys: Collection[EntryKey] | None) -> RetryPlan:
        """Of a plan for the entries `keys`; None: for everything."""
        # Sets: it may be an entry of each of ten thousand endpoints.
        shown, known = set(self.failures), {*self.failures, *self._vanished}
        self._vanished = [f for f in failures if f.errno == errno.ENODEV and f not in known]
        vanished = set(self._vanished)
        confirmed = [f for f in failures if f not in vanished]
        _tell([f for f in confirmed if f not in shown])
        refused = frozenset(key for key in map(_entry_of, confirmed) if key is not None)
        if self._vanished or len(refused) < len(confirmed):
            self.failures = confirmed
            return RetryPlan(is_unknown=True)
        others = [f for f in self.failures if keys is not None and _entry_of(f) not in keys]
        self.failures = [*others, *confirmed]  # those of other entries are tried again by themselves
        return RetryPlan(refused=refused)

    def reason_of(self, device: str) -> str | None:
        """Why an operation on this device fails, if one does."""
        return next((f.reason for f in self.failures if device_of(f.operation) == device), None)

    def doubtful_devices(self) -> set[str]:
        """Those of which we believe what we do not know, because something of theirs failed."""
        return {device_of(failure.operation) for failure in (*self.failures, *self._vanished)}

    def shown(self) -> tuple[tuple[str, str], ...]:
        """(command, reason) of the first."""
        return tuple((render(f.operation), f.reason) for f in self.failures[:SHOWN])


def _tell(failures: Sequence[Failure]) -> None:
    for failure in failures[:SHOWN]:
        _log.warning("datapath: %s: %s", render(failure.operation), failure.reason)
    if len(failures) > SHOWN:
        _log.warning("datapath: %d more changes are refused", len(failures) - SHOWN)


def _entry_of(failure: Failure) -> EntryKey | None:
    operation = failure.operation
    return entry_after(operation)[0] if isinstance(operation, EntryOperation) else None


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
