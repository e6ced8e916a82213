"""In which namespaces the kernel leads connections to service addresses on to replicas, and of which networks.

Three parts must agree for that, in this order:

    routes     the namespace's own kernel answers for the service range     netagent.endpoints.interfaces
    member     the programs at the sockets know the namespace               netagent.datapath.sockets.service_tables
    resolver   a name is answered with the service's address                netagent.resolver.zone

A service's address that a program gets before the first two are there leads nowhere, and so does one that it gets
after they have gone. So a sandbox becomes a member once it has its routes; it is answered with service addresses once
the kernel has it as a member; and it stays one until the resolver process has confirmed a table that says otherwise.
The loop of names takes these steps (netagent.projection.controller), so what changed in between is taken up with the
next table: `follow` before it, `note_told` after it.

A namespace is known by its cookie, which the kernel gives to no other one in the same boot. A sandbox's cookie is
read from its resolver sockets, which are in it. A sandbox's id is not unique like that: the kernel reuses inodes at
once. So the cookie is read at each look at a sandbox, and one read before counts only while there is no socket, for
the attaches that it was read for.

After a start, the sandboxes of the former agent are members at once: they had their routes, and names must not change
their answers with every restart. The first look at each, within a second, sets what is missing. If the resolver
process has gone too, sockets and thus cookies come one by one. Until all are known, SETTLE_S at most, what the kernel
had stays.

The host's own namespace is a member of the networks in which the host has an address (`--host-access`). No resolver
answers for it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Set
from typing import Final, NamedTuple, TypeAlias

import trio

from netagent.datapath.endpoint.attach import RoutedRanges
from netagent.datapath.reconcile.host_service_routes import HostRoutes, HostServiceRoutes
from netagent.datapath.sockets.layout import Member
from netagent.datapath.sockets.reset import ServiceUsers
from netagent.datapath.sockets.service_tables import ServiceTables
from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import EndpointId, NetworkId, bridge_name
from netagent.model.sandbox import Netns, SandboxId
from netagent.projection.datapath_input import own_cidrs
from netagent.projection.service_ranges import Ranges, RangesHere
from netagent.registry.state_store import Snapshot
from netagent.registry.view import RegistryView

SETTLE_S: Final = 10.0
"""How long after a start members of the former agent stay for sandboxes whose cookies are not known yet. They go with
the first snapshot after that."""

_NO_RANGES: Final[Ranges] = {}

Memberships: TypeAlias = Mapping[NetworkId, Member]
"""The networks of which a namespace should be a member."""

_NO_MEMBERSHIPS: Final[Memberships] = {}


class _Cookie(NamedTuple):
    value: int
    netns: Netns
    attaches: frozenset[tuple[EndpointId, Netns | None]]
    """Those in the sandbox when it was known. Another container has none of them."""


class ServiceMembers:
    """Follows the snapshots that the loop of names takes.

    `cookie_of` returns the cookie of a sandbox's namespace, None while it can't be known. `host` and `host_cookie`:
    the host's own namespace. `is_on`: the configuration's `service_addresses`. `wake` has a new snapshot taken.
    """

    def __init__(
        self,
        tables: ServiceTables,
        routed: RoutedRanges,
        host_routes: HostServiceRoutes,
        *,
        cookie_of: Callable[[SandboxId], int | None],
        host: Netns,
        host_cookie: int | None,
        is_on: Callable[[], bool],
        wake: Callable[[], None],
    ) -> None:
        self._tables = tables
        self._routed = routed
        self._host_routes = host_routes
        self._cookie_of = cookie_of
        self._host = host
        self._host_cookie = host_cookie
        self._is_on = is_on
        self._wake = wake
        self._ranges_here = RangesHere()
        self._seen: tuple[Snapshot, Ranges, bool] | None = None
        """What `_wanted` was made of."""
        self._wanted: dict[SandboxId, Memberships] = {}
        self._wanted_of_host: frozenset[Member] = frozenset()
        self._waiting: set[Netns] = set()
        """Sandboxes whose cookie is not known yet."""
        self._cookies: dict[SandboxId, _Cookie] = {}
        self._adopted: frozenset[Member] = frozenset()
        """The members of the former agent, until all of `_unsettled` are known, or it is `_settle_until`."""
        self._unsettled: set[Netns] = set()
        self._settle_until = 0.0
        self._translates: dict[SandboxId, frozenset[NetworkId]] = {}
        self._told: dict[SandboxId, frozenset[Member]] = {}
        """As what the resolver process may still take a sandbox."""
        self._unconfirmed: set[SandboxId] = set()
        """Sandboxes for which that may differ from what the last table says."""
        self._given: frozenset[Member] | None = None
        """The members last given to the kernel; None: none yet."""
        self._must_ask_kernel = True

    # -- what others read ---------------------------------------------------------------------------------------

    def ranges(self, view: RegistryView) -> Ranges:
        """Return the ranges, by network, to which sandboxes should have routes; the same mapping as long as these are
        the same. Where service addresses are off, sandboxes keep theirs until none is a member any more."""
        return _NO_RANGES if self._is_off_for_good else self._ranges_here.of(view)

    def host_routes(self, view: RegistryView) -> list[HostRoutes]:
        """Return the routes that the host itself should have."""
        if self._is_off_for_good or self._host_cookie is None:
            return []
        found = []
        for network_id, ranges in self._ranges_here.of(view).items():
            network = view.networks.get(network_id)
            cidrs = (
                own_cidrs(view, network) if network is not None and not view.why_not_built(network) else ()
            )
            if network is not None and cidrs:
                addresses = tuple(cidr.partition("/")[0] for cidr in cidrs)
                found.append(
                    HostRoutes(bridge_name(network.record.vni), network.record.vni, ranges, addresses)
                )
        return found

    def translates(self, sandbox_id: SandboxId) -> frozenset[NetworkId]:
        """Return the networks whose service addresses the next table may name to a sandbox."""
        return self._translates.get(sandbox_id, frozenset())

    @property
    def given(self) -> frozenset[Member]:
        """The members that the kernel should have; none while they are being written."""
        return self._given or frozenset()

    async def users(self, backends: Collection[bytes]) -> ServiceUsers:
        """Return the namespaces whose programs were led to one of these backends."""
        used = {member.cookie for member in await self._tables.used_members(backends)}
        known = {one.value: one.netns for one in self._cookies.values()}
        if self._host_cookie is not None:
            known[self._host_cookie] = self._host
        return ServiceUsers([known[one] for one in used & known.keys()], used <= known.keys())

    def translates_for_host(self, view: RegistryView) -> frozenset[NetworkId]:
        """Return the networks whose service addresses the kernel translates for programs of the host itself."""
        numbers = {member.network for member in self._wanted_of_host if self._tables.is_usable(member)}
        return frozenset(one for one, network in view.networks.items() if network.record.vni in numbers)

    def note_kernel_changed(self) -> None:
        """The kernel has other members than it was given, or had before."""
        self._must_ask_kernel = True
        self._wake()

    # -- the steps of the loop ----------------------------------------------------------------------------------

    async def follow(self, known: Snapshot) -> Set[SandboxId]:
        """Make members of the namespaces that should be; return the sandboxes whose `translates` have changed."""
        is_first = self._seen is None
        touched = self._follow_rows(known)
        self._follow_host(known.view)
        self._settle(is_first=is_first)
        await self._give()
        if self._must_ask_kernel:
            self._must_ask_kernel = False
            touched = touched | self._wanted.keys() | self._translates.keys()
        return {sandbox_id for sandbox_id in touched if self._follow_kernel(sandbox_id)}

    async def note_told(self) -> None:
        """The resolver process has the table that follows from the last `follow`: what is a member no more can go."""
        for sandbox_id in self._unconfirmed:
            wanted = self._wanted.get(sandbox_id, _NO_MEMBERSHIPS)
            told = frozenset(wanted[one] for one in self.translates(sandbox_id))
            if told:
                self._told[sandbox_id] = told
            else:
                self._told.pop(sandbox_id, None)
        self._unconfirmed.clear()
        if not self._is_on():
            self._adopted = frozenset()  # no name leads there any more
        was_off_for_good = self._is_off_for_good
        await self._give()
        if self._is_off_for_good and not was_off_for_good:
            self._wake()  # the routes go last

    # -- parts --------------------------------------------------------------------------------------------------

    @property
    def _is_off_for_good(self) -> bool:
        return not self._is_on() and self._given == frozenset()

    def _follow_rows(self, known: Snapshot) -> set[SandboxId]:
        """Update what is wanted of sandboxes; return those for which it was made anew."""
        is_on, ranges = self._is_on(), self._ranges_here.of(known.view)
        seen, self._seen = self._seen, (known, ranges, is_on)
        touched = known.rows.touched_since(seen[0].rows) if seen is not None else None
        changed = self._routed.take_changed()
        boxes = self._waiting
        self._waiting = set()
        if (
            seen is None
            or touched is None
            or seen[1] is not ranges
            or seen[2] is not is_on
            or (ranges and seen[0].view.networks is not known.view.networks)
        ):
            rows: Iterable[LocalEndpointRow | None] = known.rows.values() if ranges else ()
            gone = set(self._wanted)
            for sandbox_id, cookie in list(self._cookies.items()):
                if not known.rows.in_sandbox(cookie.netns):
                    del self._cookies[sandbox_id]
        else:
            rows = [one.get(key) for key in (*touched, *changed) for one in (known.rows, seen[0].rows)]
            gone = set()
        boxes = boxes | {row.netns for row in rows if row is not None and row.netns is not None}
        for netns in boxes:
            sandbox_id = netns.sandbox_id
            possible = self._memberships(known, netns, ranges)
            if seen is None:
                # What the former agent's table says is not known: as if it said it of all that are members.
                told = frozenset(filter(self._tables.is_usable, possible.values()))
                self._told |= {sandbox_id: told} if told else {}
                self._unconfirmed.add(sandbox_id)
            if is_on and possible:
                self._wanted[sandbox_id] = possible
                gone.discard(sandbox_id)
            else:
                gone.add(sandbox_id)
        for sandbox_id in gone:
            self._wanted.pop(sandbox_id, None)
        return gone | {netns.sandbox_id for netns in boxes}

    def _memberships(self, known: Snapshot, netns: Netns, ranges: Ranges) -> Memberships:
        """Return of what a sandbox can be a member: of the networks to whose ranges it has routes."""
        networks = []
        rows = known.rows.in_sandbox(netns)
        for row in rows:
            network, subnets = known.view.networks.get(row.network_id), ranges.get(row.network_id, ())
            if network is None or known.view.why_not_built(network) or not row.is_published:
                continue
            routed = self._routed.of(row.endpoint_id)
            # Not known is as good as there: this agent has just begun, and its first look sets what is missing.
            if subnets and (routed is None or not routed.isdisjoint(subnets)):
                networks.append(network)
        if not rows:
            self._cookies.pop(netns.sandbox_id, None)
        if not networks:
            return _NO_MEMBERSHIPS
        cookie = self._read_cookie(netns, rows)
        if cookie is None:
            return _NO_MEMBERSHIPS
        return {one.network_id: Member(cookie, one.record.vni) for one in networks}

    def _read_cookie(self, netns: Netns, rows: Iterable[LocalEndpointRow]) -> int | None:
        """Return the cookie of the namespace in which these rows are now, None while it is not known."""
        sandbox_id = netns.sandbox_id
        attaches = frozenset((row.endpoint_id, row.netns) for row in rows)
        cookie = self._cookie_of(sandbox_id)
        if cookie is None:
            self._waiting.add(netns)
            earlier = self._cookies.get(sandbox_id)
            if earlier is None or earlier.attaches.isdisjoint(attaches):
                self._cookies.pop(sandbox_id, None)
                return None
            cookie = earlier.value
        self._cookies[sandbox_id] = _Cookie(cookie, netns, attaches)
        return cookie

    def _settle(self, *, is_first: bool) -> None:
        """After a start, keep what the kernel has while it is not known whose it is."""
        if is_first and self._waiting:
            self._adopted = frozenset(self._tables.usable_members)
            self._unsettled = set(self._waiting)
            self._settle_until = trio.current_time() + SETTLE_S
        if self._adopted:
            self._unsettled &= self._waiting
            if not self._unsettled or trio.current_time() >= self._settle_until:
                self._adopted = frozenset()

    def _follow_host(self, view: RegistryView) -> None:
        wanted = self.host_routes(view) if self._is_on() else []
        routed = [one.vni for one in wanted if self._host_routes.has_routes(one.bridge)]
        cookie = self._host_cookie
        self._wanted_of_host = frozenset(Member(cookie, vni) for vni in routed if cookie is not None)

    async def _give(self) -> None:
        wanted = (member for one in self._wanted.values() for member in one.values())
        members = frozenset(wanted).union(self._wanted_of_host, self._adopted, *self._told.values())
        if members != self._given:
            # Noted first: cancelled half way, it is given again with the next snapshot.
            self._given = None
            await self._tables.set_members(members)
            self._given = members

    def _follow_kernel(self, sandbox_id: SandboxId) -> bool:
        """Update what a sandbox translates by what is wanted and what the kernel has; return whether it changed."""
        wanted = self._wanted.get(sandbox_id, _NO_MEMBERSHIPS)
        usable = frozenset(one for one, member in wanted.items() if self._tables.is_usable(member))
        is_changed = usable != self.translates(sandbox_id)
        before = self._told.get(sandbox_id, frozenset())
        told = before.union(wanted[one] for one in usable)
        if not is_changed and told == before:
            return False
        if usable:
            self._translates[sandbox_id] = usable
        else:
            self._translates.pop(sandbox_id, None)
        if told:
            self._told[sandbox_id] = told
        self._unconfirmed.add(sandbox_id)  # also where another namespace has taken the sandbox's id
        return is_changed
