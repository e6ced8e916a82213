"""Turn operations into netlink requests, in batches. A failure stops no other operation; all failures are
returned."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from netagent.datapath.netlink.device import create_link, set_kind_options
from netagent.datapath.netlink.link import (
    choose_index,
    delete_address,
    delete_link,
    mark_link,
    open_port,
    rename_link,
    set_address,
    set_link,
    set_link_down,
    set_noarp,
    set_port,
)
from netagent.datapath.netlink.neighbour import RTM_DELNEIGH, RTM_NEWNEIGH, encode
from netagent.datapath.netlink.route import RTM_NEWROUTE, subnet_body
from netagent.datapath.netlink.route_socket import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    Netlink,
    NetlinkRequest,
)
from netagent.datapath.reconcile.entry_kinds import ENTRY_KINDS
from netagent.datapath.reconcile.operations import (
    KIND_FIELDS,
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
    device_of,
    link_of,
    link_of_entry,
)
from netagent.datapath.state import Device

OPERATIONS_PER_SLICE = 128
"""Encoded and handed to the kernel before other tasks run: some two milliseconds."""

_REMOVALS = (DeleteDevice, DeleteAddress, DeleteEntry)
# The kernel's errors for something that does not exist, by kind of object; for a removal that is success.
_ABSENT = {errno.ENOENT, errno.ENODEV, errno.EADDRNOTAVAIL, errno.ESRCH}


@dataclass(frozen=True, slots=True)
class Failure:
    """An operation that the kernel refused."""

    operation: Operation
    errno: int
    reason: str


class _MissingDeviceError(Exception):
    """The device that an operation needs has no index: it does not exist."""


def names_after(operations: Sequence[Operation], names: Mapping[int, str]) -> dict[int, str]:
    """Return indexes and names of our devices after a plan; indexes of devices that it creates are drawn here."""
    given = {one.name: one.wanted for one in _before_entries(operations) if isinstance(one, RenameDevice)}
    made = {
        choose_index(): one.device.name
        for one in _before_entries(operations)
        if isinstance(one, CreateDevice)
    }
    return {index: given.get(name, name) for index, name in names.items()} | made


def _before_entries(operations: Sequence[Operation]) -> Iterable[Operation]:
    """Return the operations on devices: a plan creates or renames nothing after the first entry, and there may be
    tens of thousands of entries."""
    return takewhile(lambda one: not isinstance(one, EntryOperation), operations)


async def apply(netlink: Netlink, operations: list[Operation], names: Mapping[int, str]) -> list[Failure]:
    """Execute operations in order. `names`: indexes and names of our devices as they will be (`names_after`).

    Empties the list as it goes: freeing tens of thousands at once takes long. A device that can't be created is
    reported once, not again for every entry on it.
    """
    failures = await _run(netlink, operations, {name: index for index, name in names.items()})
    unmade = {device_of(f.operation) for f in failures if isinstance(f.operation, CreateDevice)}
    return [
        f for f in failures if isinstance(f.operation, CreateDevice) or device_of(f.operation) not in unmade
    ]


async def _run(netlink: Netlink, operations: list[Operation], indexes: Mapping[str, int]) -> list[Failure]:
    failures = await _rename(netlink, operations, indexes)
    unmade: set[str] = set()
    operations.reverse()
    while operations:
        piece = [operations.pop() for _ in range(min(OPERATIONS_PER_SLICE, len(operations)))]
        if unmade:
            piece = [one for one in piece if unmade.isdisjoint({device_of(one), link_of(one)})]
        refused = await _run_slice(netlink, piece, indexes)
        unmade |= {device_of(f.operation) for f in refused if isinstance(f.operation, CreateDevice)}
        failures += refused
    return failures


async def _run_slice(
    netlink: Netlink, operations: Sequence[Operation], indexes: Mapping[str, int]
) -> list[Failure]:
    failures: list[Failure] = []
    requests: list[NetlinkRequest] = []
    owners: list[Operation] = []
    for operation in operations:
        if isinstance(operation, RenameDevice):
            continue
        try:
            encoded = requests_of(operation, indexes)
        except _MissingDeviceError as missing:
            if not isinstance(operation, _REMOVALS):
                failures.append(Failure(operation, errno.ENODEV, f"the device {missing} does not exist"))
            continue
        requests += encoded
        owners += [operation] * len(encoded)
    failed: set[int] = set()
    for operation, error in zip(owners, await netlink.execute(requests), strict=True):
        if error is None or id(operation) in failed:
            continue
        if isinstance(operation, _REMOVALS) and error.errno in _ABSENT:
            continue
        failed.add(id(operation))
        failures.append(Failure(operation, error.errno or 0, error.strerror or str(error)))
    return failures


async def _rename(
    netlink: Netlink, operations: Sequence[Operation], indexes: Mapping[str, int]
) -> list[Failure]:
    """Rename devices first, because the rest goes by name. Kernels before 6.2 rename only devices that are down; that
    costs a bridge its neighbours, which the next look restores."""
    failures = []
    for operation in _before_entries(operations):
        if isinstance(operation, RenameDevice):
            down, rename = requests_of(operation, indexes)
            (error,) = await netlink.execute([rename])
            if error is not None and error.errno == errno.EBUSY:
                _, error = await netlink.execute([down, rename])
            if error is not None:
                failures.append(Failure(operation, error.errno or 0, error.strerror or str(error)))
    return failures


def requests_of(operation: Operation, indexes: Mapping[str, int]) -> list[NetlinkRequest]:
    """Return the messages that do one operation."""
    match operation:
        case SetEntry(key, value):  # first: there may be tens of thousands
            kind = ENTRY_KINDS[key[0]]
            message = kind.message(_index(indexes, link_of_entry(key, value)), key[1][1], value)
            return [NetlinkRequest(RTM_NEWNEIGH, kind.set_flags, encode(message))]
        case DeleteEntry(key, value):
            index = _index(indexes, link_of_entry(key, value))
            message = ENTRY_KINDS[key[0]].message(index, key[1][1], None)
            return [NetlinkRequest(RTM_DELNEIGH, 0, encode(message))]
        case CreateDevice(device):
            return create_link(device, _index(indexes, device.name))
        case RenameDevice(_, wanted):
            index = _index(indexes, wanted)
            return [set_link_down(index), rename_link(index, wanted)]
        case SetDevice(device, fields):
            return _changes(device, fields, indexes)
        case DeleteDevice(name):
            return [delete_link(name)]
        case SetAddress(name, cidr):
            return [set_address(_index(indexes, name), cidr)]
        case DeleteAddress(name, cidr):
            return [delete_address(_index(indexes, name), cidr)]
        case SetRoute(name, cidr):
            # Exclusive: another program's route to the subnet must not be replaced.
            return [
                NetlinkRequest(
                    RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, subnet_body(cidr, _index(indexes, name))
                )
            ]


def _index(indexes: Mapping[str, int], name: str) -> int:
    try:
        return indexes[name]
    except KeyError:
        raise _MissingDeviceError(name) from None


def _changes(device: Device, fields: tuple[str, ...], indexes: Mapping[str, int]) -> list[NetlinkRequest]:
    requests = []
    if "alias" in fields:
        requests.append(mark_link(_index(indexes, device.name), device.alias, device.mtu_bytes))
    if "mac" in fields or "mtu_bytes" in fields:
        mac = device.mac if "mac" in fields else None
        requests.append(set_link(device.name, mac=mac, mtu_bytes=device.mtu_bytes))
    if "master" in fields:
        requests.append(set_link(device.name, master=_index(indexes, device.master) if device.master else 0))
    if KIND_FIELDS.intersection(fields):
        requests.append(set_kind_options(device))
    if "noarp" in fields:
        requests.append(set_noarp(_index(indexes, device.name), noarp=device.noarp))
    if "port" in fields and device.port is not None:
        requests.append(set_port(device.name, device.port))
    if "up" in fields:
        requests.append(set_link(device.name, up=device.up))
    if "forwarding" in fields:
        requests.append(open_port(device.name))
    return requests
