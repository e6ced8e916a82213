"""Track the operations that the kernel refuses, explain them, and decide what the next pass has to do.

A device may have gone since the kernel was read, as when a container ends; an operation that failed for lack of it is
then not needed any more. So the next pass reads the kernel first, and only an operation that fails again counts as a
failure, which is shown and logged.

`explained` replaces the kernel's reason by one that names the conflicting object.
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
)
from netagent.datapath.state import EntryKey

_log = logging.getLogger(__name__)
SHOWN = 100
"""Failures that are shown, and logged at once; the rest is only counted."""


@dataclass(frozen=True, slots=True)
class RetryPlan:
    """What failures leave to do."""

    is_unknown: bool = False
    """An operation on a device failed: the state of devices is unknown, so read everything."""
    refused: frozenset[EntryKey] = frozenset()
    """Otherwise the entries that are not as they should be; the rest is as believed."""


class Failures:
    """The operations that the kernel refuses, from one pass to the next."""

    def __init__(self) -> None:
        self.failures: Sequence[Failure] = ()
        """Those that are shown and logged."""
        self._vanished: Sequence[Failure] = ()
        """Those of the last pass that failed for lack of a device."""

    def note(self, failures: Collection[Failure], keys: Collection[EntryKey] | None) -> RetryPlan:
        """Take the failures of a plan for the entries `keys`; None: for everything."""
        # Sets: there may be an entry for each of ten thousand endpoints.
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
        self.failures = [*others, *confirmed]  # failures of other entries are retried separately
        return RetryPlan(refused=refused)

    def reason_of(self, device: str) -> str | None:
        """Return why an operation on this device fails, if one does."""
        return next((f.reason for f in self.failures if device_of(f.operation) == device), None)

    def doubtful_devices(self) -> set[str]:
        """Return devices whose state is unknown, because an operation on them failed."""
        return {device_of(failure.operation) for failure in (*self.failures, *self._vanished)}

    def shown(self) -> tuple[tuple[str, str], ...]:
        """Return (command, reason) of the first SHOWN failures."""
        return tuple((render(f.operation), f.reason) for f in self.failures[:SHOWN])


def _tell(failures: Sequence[Failure]) -> None:
    for failure in failures[:SHOWN]:
        _log.warning("datapath: %s: %s", render(failure.operation), failure.reason)
    if len(failures) > SHOWN:
        _log.warning("datapath: the kernel refuses %d more changes", len(failures) - SHOWN)


def _entry_of(failure: Failure) -> EntryKey | None:
    operation = failure.operation
    return operation.key if isinstance(operation, EntryOperation) else None


def explained(failure: Failure, seen: Observation) -> Failure:
    """Name the conflicting object in the kernel's `File exists` and `Address in use`."""
    operation = failure.operation
    if isinstance(operation, SetDevice) and failure.errno == errno.EADDRINUSE and operation.device.tunnel:
        port = operation.device.tunnel.port
        return replace(failure, reason=f"UDP port {port} is used by another program or device")
    if isinstance(operation, SetRoute) and failure.errno == errno.EEXIST:
        subnet = ip_interface(operation.cidr).network
        return replace(failure, reason=f"another program's route to {subnet} exists")
    if failure.errno != errno.EEXIST or not isinstance(operation, CreateDevice | RenameDevice):
        return failure
    name = device_of(operation)
    if name in seen.foreign_names:
        return replace(failure, reason=f"another program's device has the name {name}")
    tunnel = operation.device.tunnel if isinstance(operation, CreateDevice) else None
    if tunnel is not None and tunnel.vni in seen.foreign_tunnels:
        holder = seen.foreign_tunnels[tunnel.vni]
        return replace(failure, reason=f"another program's device {holder} uses VNI {tunnel.vni}")
    return failure
