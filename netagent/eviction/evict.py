"""Evict: a host is gone for good, this host takes over what it owned, and its identity is fenced (`netagent forget`).

    intend    publish that we are about to, and wait until every live host has acknowledged: from then on no host
              uses space that the gone host grants it
    catch up  wait until we hold all that any live host holds: so we know of every part of its space that it had
              handed on, and of every network that it had created, also if only one host has heard of it
    agree     of several hosts that intend the same at once, the one with the smallest id continues, the others
              withdraw
    evict     one change: that it is gone, grants of its space to ourselves, and what else it leaves
              (eviction/succession.py)

An operator's word also revokes the host: it returns by an invitation only. `netagent revoke` says besides that it is
compromised: the same steps, whether it lives or not, and without waiting long for anything.

A failure before the last step leaves nothing behind. There is no vote: an operator, or seven days of silence,
decides; and what remains unknown (a live host that did not acknowledge may hold some of its space) is reported.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import trio

from netagent.errors import InputError, NotFoundError, RefusedError
from netagent.events.channel import event
from netagent.events.kinds import EventKind
from netagent.eviction.downtime import Downtime
from netagent.eviction.succession import eviction_records, gone_for_good
from netagent.ipam.allocator import Allocator
from netagent.model.ids import HostId, KeyId
from netagent.model.records import ForgetRecord
from netagent.registry.publish import Publisher
from netagent.registry.state_store import StateStore
from netagent.registry.view import AgentState, HostView
from netgossip.records.replication import Replication
from netgossip.types import CLUSTER_SCOPE

SETTLE_S = 5.0
"""Time for every live host to acknowledge: as long as an attach waits for peers, and longer than it takes to suspect
a dead host and declare it dead."""
REVOKE_S = 1.0
"""The same where the host may act for an attacker: an address that is used twice is the smaller harm."""
POLL_S = 0.01
TOGETHER_S = 15.0
"""Hosts that fell silent within this time may have handed space to each other without any live host knowing. Further
apart, the one that lived longer has told: what a host writes is everywhere within a second, and a death is noticed
within a few."""

logger = logging.getLogger("netagent.eviction.evict")


@dataclass(frozen=True, slots=True)
class Evicted:
    """The result of an eviction."""

    hosts: tuple[HostView, ...]
    """The evicted hosts, as they were known before."""
    address_count: int
    """Addresses that this host took over, in all networks."""
    unheard: tuple[str, ...]
    """Live hosts that did not acknowledge, and were not waited for."""


@dataclass(slots=True)
class Eviction:
    """Evicts hosts, one run at a time."""

    live: StateStore
    publisher: Publisher
    records: Replication
    allocator: Allocator
    downtime: Downtime
    flush: Callable[[], object]
    """Sends what the node wants sent."""
    key_ids: Callable[[HostId], tuple[KeyId, ...]] = lambda _host: ()
    """The ids of the ring keys that a member may know, rising."""
    in_work: set[HostId] = field(default_factory=set)
    """Hosts that we intend to evict right now: no other task may take the intention back."""
    _turn: trio.Lock = field(default_factory=trio.Lock)

    async def forget(self, names: Sequence[str], *, dead_for_s: float, force: bool) -> Evicted:
        """Evict the named hosts, or without names all that have been silent for `dead_for_s`.

        NotFoundError for an unknown name; RefusedError for a host that is alive, that was not silent for so long, or
        when live hosts do not acknowledge; `force` overrides all but the length of silence. State is unchanged then.
        """
        async with self._turn:
            hosts = [self._called(name) for name in dict.fromkeys(names)]
            word = self._revoked if names else gone_for_good
            if not names:
                hosts = self.silent_for(dead_for_s)
            for host in hosts:
                self._refuse_if_here(host, dead_for_s, force=force)
            self._refuse_if_not_alone(hosts, force=force)
            return await self._forget(hosts, word, force=force)

    async def revoke(self, names: Sequence[str]) -> Evicted:
        """Evict hosts that may act for an attacker, whether they live or not: no member talks to them from now on.
        Hosts that are evicted already may be named by their ids. NotFoundError for an unknown name."""
        async with self._turn:
            ids = [self._known(name) for name in dict.fromkeys(names)]
            view = self.live.view
            if view.local in ids:
                raise InputError(
                    f"{view.hosts[view.local].unique_name} is this host",
                    thing=names[ids.index(view.local)],
                    hint="revoke it on another host",
                )
            absent = [one for one in ids if one not in view.hosts]
            if absent:
                await self.publisher.put(*map(self._compromised, absent))
                shown = ", ".join(one[:8] for one in absent)
                logger.info("revoked %s", shown, extra=event(EventKind.EVICT, shown))
            hosts = [view.hosts[one] for one in ids if one in view.hosts]
            done = await self._forget(hosts, self._compromised, force=True)
            return Evicted((*done.hosts, *map(_absent, absent)), done.address_count, done.unheard)

    def _revoked(self, host_id: HostId) -> ForgetRecord:
        return ForgetRecord(host_id, settled=True, revoked=True, key_ids=self.key_ids(host_id))

    def _compromised(self, host_id: HostId) -> ForgetRecord:
        return ForgetRecord(
            host_id, settled=True, revoked=True, key_ids=self.key_ids(host_id), compromised=True
        )

    async def forget_these(self, hosts: Collection[HostId]) -> Evicted:
        """Evict without a user: hosts whose time is over, except those that fell silent together with one whose time
        is not. RefusedError as above."""
        async with self._turn:
            known = self.live.view.hosts
            gone = {one for one in hosts if one in known}
            while held := {one for one in gone if self._together(one, gone)}:
                gone -= held
            return await self._forget([known[one] for one in sorted(gone)], gone_for_good, force=False)

    def silent_for(self, silent_s: float) -> list[HostView]:
        """Hosts whose agent and kernel have both been silent for at least so long, or that left so long ago."""
        now = trio.current_time()
        hosts = [host for host_id, host in self.live.view.hosts.items() if host_id != self.live.view.local]
        return [
            host
            for host in hosts
            if self.downtime.silent_s(host.host_id, now) >= max(silent_s, 0.001) and not host.is_live
        ]

    # -- which hosts -------------------------------------------------------------------------------------------

    def _called(self, name: str) -> HostView:
        view = self.live.view
        found = view.host_named(name) or view.hosts.get(HostId(name))
        if found is None and len(name) >= 6:
            matches = [host for host_id, host in view.hosts.items() if host_id.startswith(name)]
            found = matches[0] if len(matches) == 1 else None
        if found is None:
            raise NotFoundError(
                f"there is no host {name!r}", code="no-such-host", thing=name, hint="see `netagent members`"
            )
        return found

    def _known(self, name: str) -> HostId:
        """Return the id of a host that is named as in `_called`, or of an evicted one."""
        evicted = self.live.view.evicted
        found = [one for one in evicted if name == one or (len(name) >= 6 and one.startswith(name))]
        return found[0] if len(found) == 1 else self._called(name).host_id

    def _refuse_if_here(self, host: HostView, dead_for_s: float, *, force: bool) -> None:
        name = host.unique_name
        if host.host_id == self.live.view.local:
            raise InputError(
                f"{name} is this host", thing=name, hint="`netagent leave` gives back what it owns"
            )
        if host.host_id in self.live.view.store.evictions.get(self.live.view.local, ()):
            raise RefusedError(
                f"{name} has evicted this host: when two hosts evict each other, neither eviction counts",
                code="contested",
                thing=name,
                hint="forget it on another host; if there is none, let one join, forget it there, and let that "
                "host leave again",
            )
        silent_s = self.downtime.silent_s(host.host_id, trio.current_time())
        if silent_s < dead_for_s:
            raise RefusedError(
                f"{name} has been silent for {silent_s:.0f} s, less than the {dead_for_s:.0f} s of --dead-for",
                code="not-silent-for-long",
                thing=name,
                hint="wait, or omit --dead-for",
            )
        if force:
            return
        if host.is_live:
            raise RefusedError(
                f"the agent of {name} is {host.agent.value}: its containers would lose their "
                f"addresses while they run",
                code="host-lives",
                thing=name,
                hint="run `netagent leave` there; or add --force, which fences it",
            )
        if host.answers and not host.is_gone and host.agent is not AgentState.LEFT:
            raise RefusedError(
                f"the agent of {name} is away but its kernel answers: its containers keep running, and "
                f"others would get their "
                "addresses",
                code="host-lives",
                thing=name,
                hint=f"on {name}: `sudo systemctl start netagent`; or power the host off first; or add --force",
            )

    def _refuse_if_not_alone(self, hosts: Sequence[HostView], *, force: bool) -> None:
        gone = {host.host_id for host in hosts}
        for host in hosts if not force else ():
            name = host.unique_name
            silent = self._silent_together(host.host_id, gone)
            others = silent or self._undecided(host.host_id, gone)
            if others:
                names = sorted(map(self._name, others))
                shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
                raise RefusedError(
                    f"{shown} fell silent together with {name}, and may hold addresses of it that no other host "
                    "knows of"
                    if silent
                    else f"{name} was about to forget {shown} when it went away, and may have taken over addresses "
                    "and networks without another host knowing of it",
                    code="not-alone",
                    thing=host.unique_name,
                    hint="forget them all in one command; or bring the others back first; or add --force, which "
                    "risks assigning one address to two containers",
                )

    def _together(self, host_id: HostId, gone: Collection[HostId]) -> set[HostId]:
        """Hosts that must be evicted together with this one, and that are not in `gone`."""
        return self._silent_together(host_id, gone) | self._undecided(host_id, gone)

    def _undecided(self, host_id: HostId, gone: Collection[HostId]) -> set[HostId]:
        """Dead hosts that this one intended to evict: it may have done so in a last record that no host received. Its
        successor would not have what it took over, and a host that hears of that later would count neither's records.
        """
        view = self.live.view
        return {
            other
            for other, host in view.hosts.items()
            if other not in gone and not host.is_live and host_id in view.about_to_evict(other)
        }

    def _silent_together(self, host_id: HostId, gone: Collection[HostId]) -> set[HostId]:
        """Hosts that fell silent with it, may return, and are not in `gone`."""
        now = trio.current_time()
        silent_s = self.downtime.silent_s(host_id, now)
        others = {
            other: self.downtime.silent_s(other, now)
            for other, host in self.live.view.hosts.items()
            if other not in gone and not host.is_live and host.agent is not AgentState.LEFT
        }
        return {other for other, its_s in others.items() if its_s > 0 and abs(its_s - silent_s) <= TOGETHER_S}

    # -- how ---------------------------------------------------------------------------------------------------

    async def _forget(
        self, hosts: Sequence[HostView], word: Callable[[HostId], ForgetRecord], *, force: bool
    ) -> Evicted:
        gone = {host.host_id for host in hosts}
        is_urgent = any(word(one).compromised for one in gone)
        if not gone:
            return Evicted((), 0, ())
        await self._intend(gone)
        try:
            unheard = await self._settle(gone, REVOKE_S if is_urgent else SETTLE_S, force=force)
            try:
                ours = await self._agree(gone, REVOKE_S if is_urgent else SETTLE_S, force=force)
            except RefusedError:
                if not is_urgent:
                    raise
                ours = set()  # the other host takes over, if it ever finishes
            count = await self._take_over(ours, word)
            if is_urgent and gone - ours:
                await self.publisher.put(*map(word, sorted(gone - ours)))
        except BaseException:
            # Shielded against cancellation: until it is taken back, no host uses what these hosts grant.
            with trio.CancelScope(shield=True):
                await self._take_back(gone)
            raise
        finally:
            self.in_work.clear()
        if gone - ours:
            await self._take_back(gone - ours)
        names = ", ".join(f"{host.unique_name} ({host.host_id[:8]})" for host in hosts)
        did = "revoked" if is_urgent else "forgot"
        logger.info("%s %s; took over %d addresses", did, names, count, extra=event(EventKind.EVICT, names))
        return Evicted(tuple(hosts), count, unheard)

    async def _intend(self, gone: set[HostId]) -> None:
        self.in_work |= gone
        await self.publisher.put(*(ForgetRecord(one) for one in sorted(gone)))

    async def _settle(
        self, gone: set[HostId], patience_s: float = SETTLE_S, *, force: bool
    ) -> tuple[str, ...]:
        """Wait for acknowledgements. Return the names of live hosts that did not acknowledge, or send what they know;
        RefusedError for any, without `force`."""
        with trio.move_on_after(patience_s):
            while self._unheard(gone):
                await trio.sleep(POLL_S)
        lacking = self._unheard(gone)
        if not lacking or force:
            lacking |= await self._catch_up(gone | lacking, patience_s)
        names = sorted(map(self._name, lacking))
        if names and not force:
            raise RefusedError(
                f"{', '.join(names)} did not acknowledge within {SETTLE_S:.0f} s, and may hold "
                f"addresses of a host that "
                "you want to forget",
                code="not-acknowledged",
                thing=names[0],
                hint="try again; forget the hosts that are gone as well; or add --force, which risks assigning one "
                "address to two containers",
            )
        return tuple(names)

    def _unheard(self, gone: Collection[HostId]) -> set[HostId]:
        return set(map(HostId, self.records.unacknowledged(CLUSTER_SCOPE))).difference(gone)

    async def _catch_up(self, without: Collection[HostId], patience_s: float = SETTLE_S) -> set[HostId]:
        """Wait until we hold all that the live hosts hold, except those in `without`; return the hosts that did not
        send it."""
        self.records.catch_up(CLUSTER_SCOPE, trio.current_time())
        self.flush()
        try:
            with trio.move_on_after(patience_s):
                while self.records.ahead(CLUSTER_SCOPE) - set(without):
                    await trio.sleep(POLL_S)
            return set(map(HostId, self.records.ahead(CLUSTER_SCOPE))).difference(without)
        finally:
            self.records.caught_up(CLUSTER_SCOPE)

    async def _agree(self, gone: set[HostId], patience_s: float = SETTLE_S, *, force: bool) -> set[HostId]:
        """Return the hosts that are ours to evict; another host evicts the others. RefusedError when that is
        undecided."""
        ours, undecided = set(gone), set(gone)
        with trio.move_on_after(patience_s):
            while True:
                undecided = set()
                for host in gone:
                    rivals = self._rivals(host, gone, force=force)
                    if host in self.live.view.evicted:
                        ours.discard(host)
                    elif any(rival < self.live.view.local for rival in rivals):
                        if host in ours:
                            ours.discard(host)
                            await self._take_back({host})
                        undecided.add(host)
                    elif rivals:
                        undecided.add(host)  # they withdraw, or were first
                    elif host not in ours:
                        undecided.add(host)  # the rival withdrew
                if not undecided:
                    return ours
                await trio.sleep(POLL_S)
        raise self._contended(undecided, gone)

    def _rivals(self, host: HostId, gone: Collection[HostId], *, force: bool) -> set[HostId]:
        """Return the other hosts that intend the same; also one that is away: it may have done so in a last record
        that no host received. With `force` only those that are alive."""
        view = self.live.view
        others = view.about_to_evict(host) - {view.local, *gone}
        return {one for one in others if not force or (one in view.hosts and view.hosts[one].is_live)}

    def _contended(self, undecided: Collection[HostId], gone: Collection[HostId]) -> RefusedError:
        names = ", ".join(sorted(self._name(host) for host in undecided))
        rivals = {one for host in undecided for one in self._rivals(host, gone, force=False)}
        live = {one for one in rivals if one in self.live.view.hosts and self.live.view.hosts[one].is_live}
        if live or not rivals:
            text = f"another host is about to forget {names}, and did not finish within {SETTLE_S:.0f} s"
            return RefusedError(text, code="contended", thing=names, hint="try again")
        away = ", ".join(sorted(self._name(host) for host in rivals))
        return RefusedError(
            f"{away} was about to forget {names} when it went away, and may have taken over its addresses",
            code="contended",
            thing=names,
            hint=f"start its agent, or forget {away} as well; or add --force, which risks assigning one address "
            "to two containers",
        )

    async def _take_over(
        self, gone: set[HostId], word: Callable[[HostId], ForgetRecord] = gone_for_good
    ) -> int:
        """Write the eviction as one change."""
        if not gone:
            return 0
        grants, count = self.allocator.allocations.inherit(gone)
        try:
            await self.publisher.put(*eviction_records(self.live.view, gone, word), *grants)
        except BaseException:
            self.allocator.allocations.disinherit(grants)
            raise
        return count

    async def _take_back(self, gone: Collection[HostId]) -> None:
        own = self.live.view.records_of(self.live.view.local, CLUSTER_SCOPE)
        intended = [
            one for one in own if isinstance(one, ForgetRecord) and not one.settled and one.disputed is None
        ]
        await self.publisher.withdraw(*(one for one in intended if one.host_id in gone))

    def _name(self, host_id: HostId) -> str:
        host = self.live.view.hosts.get(host_id)
        return host_id[:8] if host is None else host.unique_name


def _absent(host_id: HostId) -> HostView:
    """An evicted host, of which nothing but its id is known."""
    return HostView(host_id, unique_name=host_id[:8])
