"""Keeps the kernel's tables of service addresses equal to what is wanted, and the programs that read them in place.

Three things may be in the way of each other, so their order is fixed:

- The programs are attached once the tables are filled: when services and members were set, or the tables of an
  earlier agent were adopted. Programs of another release over a new layout thus work on until theirs are complete.
- A service's ports are written before its element, which says that it has ports, and deleted after it.
- Members are added before others are removed. The resolver answers a member with service addresses only while it is
  in `usable_members`: so it is noted before, and has to be set aside by the resolver before it is removed here.

The event loop alone writes, some 3 us per element, in slices. What takes longer runs in a thread: loading, attaching,
and the comparison with the kernel. Whatever another program changes is repaired within two seconds, and counted. As
long as no service was wanted since the boot, nothing is loaded: a host without services pays nothing.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Set
from contextlib import closing
from functools import partial
from ipaddress import ip_address
from types import MappingProxyType
from typing import Final, TypeVar

import trio

from netagent.datapath.bpf.maps import Map
from netagent.datapath.reconcile.drift import Damage, DamageKind, Drift
from netagent.datapath.sockets import adoption
from netagent.datapath.sockets.adoption import SocketPrograms
from netagent.datapath.sockets.cgroup_root import open_cgroup_root
from netagent.datapath.sockets.checked_map import PER_BATCH, CheckedMap
from netagent.datapath.sockets.layout import (
    MEMBERS,
    MOST_PORTS,
    ORIGINS_OF_SOCKETS,
    PORTS,
    SERVICES4,
    SERVICES6,
    UNUSED,
    USED,
    Member,
    ServiceEntry,
    mark_of,
    pack_member,
    pack_ports,
    pack_service,
    services_of,
    unpack_end,
    unpack_member,
    unpack_places,
)
from netagent.datapath.sockets.lease import LED, AgentLease
from netagent.datapath.sockets.port_shares import PortShares
from netagent.errors import FailedError
from netagent.events.channel import REPAIRED
from netagent.log import Limited
from netagent.model.ids import HostId
from netagent.periodic_task import PeriodicTask
from netgossip.slice_runner import in_slices
from netgossip.slices import Slices

_log = logging.getLogger(__name__)
_limited = Limited(_log)

T = TypeVar("T")

PERIOD_S: Final = 1.5
"""The kernel sends no notifications about programs and maps, and repairs must happen within two seconds."""
REST_S: Final = 60.0
"""Pause while no service is wanted and nothing is left of an earlier agent."""
RETRY_S: Final = 10.0
"""Pause after a failure: of what another program holds, or the kernel can't do."""
STALE_S: Final = 30.0
"""After so long without services or members, programs over tables of another layout are detached: longer than a start
takes to know both (netagent.projection.service_members)."""
_MOST_OF_A_PROCESSOR: Final = 0.02
"""The share of one that comparing may take. With more than some 10,000 services it would be more, and is done less
often, so that a repair takes longer."""
_WRITES_PER_SLICE: Final = 32
_COUNTED_PER_SLICE: Final = 512
_PORTS_TAKEN: Final = (
    "the member that made it has as many ports of services there as are left for all members"
)


class _Tables:
    """The open maps."""

    def __init__(self, maps: Mapping[str, Map]) -> None:
        self.services = {shape: CheckedMap(maps[shape.name]) for shape in (SERVICES4, SERVICES6)}
        self.ports = CheckedMap(maps[PORTS.name])
        self.members = CheckedMap(maps[MEMBERS.name], restored=USED)
        self.members_map = maps[MEMBERS.name]
        self.origins_fd = maps[ORIGINS_OF_SOCKETS.name].fd
        self.all = (*self.services.values(), self.ports, self.members)
        self.ports_of: dict[bytes, set[bytes]] = {}
        """The keys in `ports` by the address of their service."""
        self.shares = PortShares(MOST_PORTS)

    def adopt(self) -> None:
        for one in self.all:
            one.adopt()
        for key in self.ports.written:
            self.ports_of.setdefault(unpack_end(key).address, set()).add(key)

    def addresses(self) -> set[bytes]:
        """All that the tables lead."""
        return {
            address for table in self.services.values() for address in table.written
        } | self.ports_of.keys()

    def count_ports(self, address: bytes, owner: HostId | None) -> None:
        """Count the ports that a service has here to the member whose record it is."""
        self.shares.note(address, owner, len(self.ports_of.get(address, ())))

    def write_service(self, address: bytes, entry: ServiceEntry | None) -> str | None:
        """Bring one address to what is wanted, as far as there is room; return what is not there, and why.

        Its places are written also where ports lack: what programs connect to is then refused, and never led to a
        backend that is gone."""
        services, ports = self.services[services_of(address)], pack_ports(entry) if entry is not None else {}
        if entry is None:
            services.remove(address)
            lack = None
        else:
            lack = self._write_ports(address, ports, entry.owner)
            try:
                services.put(address, pack_service(entry))
            except OSError as error:
                lack = _full_or(error)
        for key in self.ports_of.get(address, set()) - ports.keys():
            self.ports.remove(key)
            self._forget_port(address, key)
        self.count_ports(address, None if entry is None else entry.owner)
        return lack

    def _write_ports(self, address: bytes, ports: Mapping[bytes, bytes], owner: HostId | None) -> str | None:
        lack = None
        new = ports.keys() - self.ports_of.get(address, set())
        if new and not self.shares.has_room(owner, len(new), present=len(self.ports.written)):
            lack = _PORTS_TAKEN
            ports = {key: value for key, value in ports.items() if key not in new}
        for key, value in ports.items():
            try:
                self.ports.put(key, value)
            except OSError as error:
                lack = _full_or(error)
            else:
                self.ports_of.setdefault(address, set()).add(key)
        return lack

    def _forget_port(self, address: bytes, key: bytes) -> None:
        present = self.ports_of[address]
        present.discard(key)
        if not present:
            del self.ports_of[address]


class ServiceTables:
    """Used by the tasks of one event loop. `run` is a task of its own."""

    def __init__(
        self, drift: Drift, *, open_root: Callable[[], int] = open_cgroup_root, impediment: str | None = None
    ) -> None:
        """`impediment`: why no namespace will ever be a member on this host."""
        self._drift = drift
        self._impediment = impediment
        self._open_root = open_root
        self._watchers: list[Callable[[], None]] = []
        self._wanted: dict[bytes, ServiceEntry] | None = None
        """By address; None: not known yet, and what an earlier agent left stays."""
        self._dirty: set[bytes] = set()
        """Addresses that may not be in the kernel as they are wanted."""
        self._refused: dict[bytes, str] = {}
        """Addresses for which the kernel had no room, and what is said of it. They are tried again each RETRY_S, and
        once another one goes."""
        self._refused_at: float | None = None
        """When they were tried last; None: there are none."""
        self._refusals: Mapping[bytes, str] = MappingProxyType({})
        self._members: frozenset[Member] | None = None
        """None: as for services."""
        self._group: int | None = None
        self._programs: SocketPrograms | None = None
        self._tables: _Tables | None = None
        self._are_members_dirty = False
        self._is_attached = False
        self._is_started = False
        self._is_closed = False
        self._trouble: str | None = None
        self._complaint: tuple[str, bool] | None = None
        """The trouble that the log names, and whether anything was wanted then."""
        self._unneeded_since: float | None = None
        """Since when no table is open and none is needed; None: that is not so, or not known yet."""
        self._is_swept = False
        """Whether nothing of ours is in the kernel, and nothing will be until it is wanted."""
        self._worked_s = 0.0
        """Processor time of the threads that read and write the kernel, since the look that is under way began."""
        self._lack: str | None = None
        """Why something wanted is not in the tables."""
        self._lock = trio.Lock()
        """Held while the kernel is written or programs are attached."""
        self._task = PeriodicTask(PERIOD_S)

    # -- what others read ---------------------------------------------------------------------------------------

    @property
    def trouble(self) -> str | None:
        """Why this host leads no connection to a service address on; None: it does, or has none."""
        return self._trouble or self._impediment

    @property
    def lack(self) -> str | None:
        """Why it leads those to some service addresses, or of some namespaces, not on; None: it leads all."""
        return self._lack

    def watch(self, watcher: Callable[[], None]) -> None:
        """Call `watcher` when `trouble` or the usable members have changed without a call of theirs."""
        self._watchers.append(watcher)

    @property
    def refused(self) -> Mapping[bytes, str]:
        """The service addresses to which it leads no connections, or not to all of their ports, for lack of room, and
        why. Never changed; another object whenever they are other ones."""
        return self._refusals

    @property
    def usable_members(self) -> Set[Member]:
        """The members for which the kernel leads connections right now."""
        if self._tables is None or not self._is_attached:
            return frozenset()
        return {unpack_member(key) for key in self._tables.members.written}

    def is_usable(self, member: Member) -> bool:
        """Return whether it is one of them."""
        tables = self._tables
        return tables is not None and self._is_attached and pack_member(member) in tables.members.written

    def is_in_kernel(self, address: bytes) -> bool:
        """Return whether the kernel leads connections to this service address, of members."""
        tables = self._tables
        return (
            tables is not None
            and self._is_attached
            and address not in self._refused
            and address in tables.services[services_of(address)].written
        )

    def places_in_kernel(self, address: bytes) -> tuple[bytes, ...]:
        """Return the places of a service as the kernel has them, after a start as an earlier agent left them."""
        if self._tables is None:
            return ()
        value = self._tables.services[services_of(address)].written.get(address)
        return () if value is None else unpack_places(value)

    @property
    def origins_fd(self) -> int | None:
        """The map with the origins of sockets, for sock_diag(7); None: no socket has any. Open until `run` ends."""
        return None if self._tables is None else self._tables.origins_fd

    async def used_members(self, backends: Iterable[bytes]) -> list[Member]:
        """Return the members whose namespaces were led to one of these packed addresses since they became members;
        some that were not are among them."""
        marks = {mark_of(one) for one in backends}
        async with self._lock:  # until it is read, the map stays open
            if self._tables is None:
                return []
            return await trio.to_thread.run_sync(_used_members, self._tables.members_map, marks)

    # -- what others want ---------------------------------------------------------------------------------------

    async def set_services(self, changed: Mapping[bytes, ServiceEntry | None]) -> None:
        """Set or remove (None) services by address; returns when the kernel has them, or can't."""
        wanted = self._wanted = {} if self._wanted is None else self._wanted
        for address, entry in changed.items():
            if entry is None:
                wanted.pop(address, None)
            else:
                wanted[address] = entry
        self._dirty.update(changed)
        await self._write()

    async def replace_services(self, services: Mapping[bytes, ServiceEntry]) -> None:
        """Set all services; what is not among them is removed."""
        self._dirty.update(self._wanted or (), services)
        if self._tables is not None:
            self._dirty.update(self._tables.addresses())
        self._wanted = dict(services)
        await self._write()

    async def set_members(self, members: Iterable[Member]) -> None:
        """Set all members; returns when the kernel has them, or can't."""
        self._members = frozenset(members)
        self._are_members_dirty = True
        await self._write()

    # -- the task -----------------------------------------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Adopt what an earlier agent left, then look every PERIOD_S until cancelled. Leaves the kernel as it is."""
        try:
            while True:
                self._worked_s = 0.0
                await self._look()
                if not self._is_started:
                    self._is_started = True
                    task_status.started()
                await self._task.wait(self._pause_s())
        finally:
            with trio.CancelScope(shield=True):  # until the thread that reads or writes them has ended
                async with self._lock:
                    self._close()

    def _pause_s(self) -> float:
        if self._trouble:
            return RETRY_S
        if self._is_swept:
            return REST_S
        return max(PERIOD_S, self._worked_s / _MOST_OF_A_PROCESSOR)

    async def detach_all(self) -> None:
        """Leave nothing in the kernel: this host leaves the cluster. Nothing is attached after that."""
        self._is_closed = True
        async with self._lock:
            self._close()
            try:
                await trio.to_thread.run_sync(_detach_all, self._open_root)
            except (OSError, FailedError) as error:
                # Where none can be attached there is none to detach, or they are another agent's.
                _log.info("datapath: no programs are taken from the sockets: %s", error)

    def _close(self) -> None:
        self._is_attached = False
        self._tables = None
        if self._programs is not None:
            self._programs.close()
            self._programs = None
        if self._group is not None:
            os.close(self._group)
            self._group = None

    async def _look(self) -> None:
        """Write what could not be written before, and repair what another program has changed."""
        async with self._lock:
            try:
                if await self._is_open():
                    self._unneeded_since = None
                    refusals, now = self._refusals, trio.current_time()
                    if self._refused_at is not None and now - self._refused_at >= RETRY_S:
                        # Not at each look: a member can write thousands of services that find no room.
                        self._dirty.update(self._refused)
                    await self._write_all()
                    if self._refusals is not refusals:
                        self._tell()
                    await (self._verify() if self._is_attached else self._attach())
                else:
                    await self._remove_stale()
                    self._recover()
            except (OSError, FailedError) as error:
                self._complain(error)

    async def _verify(self) -> None:
        """Compare programs and tables with what they should be: in one go, since a thread that begins and reports
        costs an idle agent more than the comparison."""
        programs, tables = self._programs, self._tables
        assert programs is not None
        assert tables is not None
        missing, suspects = await self._in_thread(
            lambda: (programs.attach_all(), [one.suspects() for one in tables.all])
        )
        self._report(Damage(DamageKind.SOCKET_PROGRAM_REMOVED, name) for name in missing)
        self._report(await in_slices(_repair(tables, suspects)))

    def _report(self, damages: Iterable[Damage]) -> None:
        for sentence in self._drift.note(damages):
            _limited.warning(
                sentence, f"datapath: repaired a change made by another program: {sentence}", REPAIRED
            )

    async def _in_thread(self, function: Callable[[], T]) -> T:
        result, worked_s = await trio.to_thread.run_sync(_timed, function)
        self._worked_s += worked_s
        return result

    # -- programs -----------------------------------------------------------------------------------------------

    async def _is_open(self) -> bool:
        """Open the tables of an earlier agent, or make new ones if any are needed; return whether they are open."""
        if self._is_closed:
            return False
        if self._tables is None:
            if self._group is None:
                self._group = await trio.to_thread.run_sync(self._open_root)
            opened = await trio.to_thread.run_sync(_open, self._group, bool(self._wanted and self._members))
            if opened is None:
                return False
            self._programs, self._tables = opened
            if self._is_swept:
                self._is_swept = False
                self._task.wake()  # from now on they are compared
            self._dirty.update(self._wanted or ())
            if self._wanted is not None:
                self._dirty |= self._tables.addresses()
            self._are_members_dirty = self._members is not None
        return True

    async def _write(self) -> None:
        """Bring the kernel to what is wanted now."""
        async with self._lock:
            if self._tables is None and (self._trouble is not None or not (self._wanted and self._members)):
                return  # nothing to do, or `run` tries again
            try:
                if await self._is_open():
                    await self._write_all()
                    if not self._is_attached:
                        await self._attach()
            except (OSError, FailedError) as error:
                self._complain(error)

    async def _attach(self) -> None:
        programs = self._programs
        if programs is None or not (
            programs.is_adopted or (self._wanted is not None and self._members is not None)
        ):
            return
        await self._in_thread(programs.attach_all)
        self._is_attached = True
        self._trouble = self._complaint = None
        self._tell()

    async def _remove_stale(self) -> None:
        """Detach programs of a release with another layout, over tables that no agent writes any more, once it is
        sure that no services are wanted: a start learns one after the other what is."""
        group, now = self._group, trio.current_time()
        is_unneeded = self._wanted is not None and self._members is not None
        if group is None or not is_unneeded:
            self._unneeded_since = None
            return
        if self._unneeded_since is None:
            self._unneeded_since = now
        if now - self._unneeded_since >= STALE_S:
            await self._in_thread(partial(_detach_under_lease, group))
            self._is_swept = True

    def _recover(self) -> None:
        if self._trouble is not None:
            self._trouble = self._complaint = None
            self._tell()

    def _complain(self, error: OSError | FailedError) -> None:
        trouble = str(error) if isinstance(error, FailedError) else _reason(error)
        if isinstance(error, FailedError) and error.code == LED:
            self._close()  # the tables are the other agent's to write
        complaint = trouble, bool(self._wanted and self._members)
        if complaint == self._complaint:
            return
        # A host without services lacks nothing.
        level = logging.WARNING if complaint[1] else logging.INFO
        _log.log(level, "datapath: connections are not led to service addresses: %s", trouble)
        self._complaint = complaint
        self._trouble = trouble
        self._is_attached = False
        self._tell()

    def _tell(self) -> None:
        for watcher in self._watchers:
            watcher()

    # -- tables -------------------------------------------------------------------------------------------------

    async def _write_all(self) -> None:
        assert self._tables is not None
        lacks = [
            await in_slices(self._write_members(self._tables)),
            await in_slices(self._write_services(self._tables)),
        ]
        if self._refused != self._refusals:
            self._refusals = MappingProxyType(dict(self._refused))
        lack = "; ".join(one for one in lacks if one is not None) or None
        if lack is not None and lack != self._lack:
            _log.warning("datapath: %s", lack)
        self._lack = lack

    def _write_members(self, tables: _Tables) -> Slices[str | None]:
        """Return why some could not be written."""
        if self._members is None or not self._are_members_dirty:
            return None
        self._are_members_dirty = False
        wanted = {pack_member(member) for member in self._members}
        present = tables.members.written.keys()
        lack = None
        for number, key in enumerate(wanted - present, 1):
            try:
                tables.members.put(key, UNUSED)
            except OSError as error:
                lack = f"not all members are in the kernel: {_full_or(error)}"
                self._are_members_dirty = True
                break
            if number % _WRITES_PER_SLICE == 0:
                yield
        for number, key in enumerate(present - wanted, 1):
            tables.members.remove(key)
            if number % _WRITES_PER_SLICE == 0:
                yield
        return lack

    def _write_services(self, tables: _Tables) -> Slices[str | None]:
        """Return why some could not be written."""
        if self._wanted is None or not self._dirty:
            return self._lack_of_services()
        # Those that go first, so that a full table has room, which may be enough for what was refused before.
        gone = [address for address in self._dirty if address not in self._wanted]
        if gone:
            self._dirty.update(self._refused)
        kept = [address for address in self._dirty if address in self._wanted]
        # Before any is written: what the kernel has goes before what comes, also over a start.
        for number, address in enumerate(kept, 1):
            if (entry := self._wanted.get(address)) is not None:
                tables.count_ports(address, entry.owner)
            if number % _COUNTED_PER_SLICE == 0:
                yield
        for number, address in enumerate([*gone, *kept], 1):
            self._dirty.discard(address)
            self._refused.pop(address, None)
            lack = tables.write_service(address, self._wanted.get(address))
            if lack is not None:
                self._refused[address] = lack
            if number % _WRITES_PER_SLICE == 0:
                yield
        self._refused_at = trio.current_time() if self._refused else None
        if not self._dirty:
            self._dirty = set()  # one that has been large takes as long to go through as then
        return self._lack_of_services()

    def _lack_of_services(self) -> str | None:
        reason = next(iter(self._refused.values()), None)
        return None if reason is None else f"not all service addresses are in the kernel: {reason}"


def _open(group: int, is_needed: bool) -> tuple[SocketPrograms, _Tables] | None:  # noqa: FBT001 - for a thread
    """Open what an earlier agent left, or if it is needed make it; load the programs. Blocks."""
    found = adoption.adoptable_maps(group)
    if not found and not is_needed:
        return None
    try:
        programs = SocketPrograms(group, found)
    except BaseException:
        for one in found.values():
            one.close()
        raise
    try:
        tables = _Tables(programs.maps)
        if found:
            tables.adopt()
    except BaseException:
        programs.close()
        raise
    return programs, tables


def _timed(function: Callable[[], T]) -> tuple[T, float]:
    """Also return the processor time that it took: on a busy host a thread waits much longer than it works."""
    began = time.thread_time()
    result = function()
    return result, time.thread_time() - began


def _detach_all(open_root: Callable[[], int]) -> None:
    group = open_root()
    try:
        _detach_under_lease(group)
    finally:
        os.close(group)


def _detach_under_lease(group: int) -> None:
    if any(adoption.ours_at(group)):  # else nothing is loaded
        with closing(AgentLease(group)):  # those of an agent at work stay
            adoption.detach_all(group)


def _used_members(members: Map, marks: Set[int]) -> list[Member]:
    used = []
    for keys, values in members.batches(PER_BATCH):
        pairs = zip(keys, values, strict=True)
        used += [unpack_member(key) for key, value in pairs if any(value[one] for one in marks)]
    return used


def _repair(tables: _Tables, suspects: Collection[Collection[bytes]]) -> Slices[list[Damage]]:
    """Look again at what seemed to differ, and set it right."""
    damages = []
    number = 0
    for table, keys in zip(tables.all, suspects, strict=True):
        for key in keys:
            if table.repair(key):
                damages.append(_damage(tables, table, key))
            number += 1
            if number % _WRITES_PER_SLICE == 0:
                yield
    return damages


def _damage(tables: _Tables, table: CheckedMap, key: bytes) -> Damage:
    if table is tables.members:
        member = unpack_member(key)
        return Damage(DamageKind.MEMBER_ALTERED, f"namespace {member.cookie} in network {member.network}")
    if table is tables.ports:
        end = unpack_end(key)
        return Damage(DamageKind.SERVICE_ALTERED, f"port {end.port} of {ip_address(end.address)}")
    return Damage(DamageKind.SERVICE_ALTERED, str(ip_address(key)))


def _full_or(error: OSError) -> str:
    return "the kernel's table is full" if error.errno == errno.E2BIG else _reason(error)


def _reason(error: OSError) -> str:
    match error.errno:
        case errno.EPERM:
            return "the kernel refuses the programs for lack of a right (CAP_SYS_ADMIN, CAP_NET_ADMIN)"
        case errno.EINVAL | errno.ENOSYS | errno.EOPNOTSUPP | errno.ENODEV:
            return f"the kernel can't run programs at sockets, which takes Linux 5.14 ({error.strerror})"
        case errno.EBUSY | errno.E2BIG:
            return "64 programs are at the root of the control groups, and it takes no more"
        case _:
            return error.strerror or str(error)
