"""The event queue: gossip events into the view, the journal, and to the parts that wait for them.

The gossip's driver calls it with the events of one step, on the event loop; it never blocks. Records and members
become the next view at once; readers of the view act on them.

Only many endpoints of other hosts at once (the first sync of a network, a host that was long away) wait and are taken
in SLICE_ENTRIES at a time (gossip.py), so that the event loop does not stand still for thousands of them. Endpoints
of a network that this host has left are removed in the same way. Events that say the records are complete, or ask
about them, wait behind them. A delta taken in so is seen in its owner's order, as if it had come in several; of a log
that replaces another, the keys that are no longer in it go first. This host's own records, and the cluster's own
scope, never wait: the parts that wrote them or caught up read them in the view at once.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from netagent.events.channel import event as marked
from netagent.events.kinds import EventKind
from netagent.journal.journal import Journal
from netagent.log import Limited
from netagent.membership.held_evictions import HeldEvictions
from netagent.membership.host_keys import without_false_hosts
from netagent.membership.participation import Participation
from netagent.model.author import Author, AuthorKind
from netagent.model.ids import HostId, NetworkId
from netagent.registry.state_store import StateStore
from netagent.registry.view import RegistryView
from netagent.rpc.client import RpcClient
from netgossip.types import (
    CLUSTER_SCOPE,
    ClaimSignerHeard,
    EntriesChanged,
    Entry,
    Event,
    IdentityConflict,
    IdentityContested,
    Log,
    Member,
    MemberChanged,
    MemberReaped,
    MemberState,
    NodeId,
    OwnLogRaised,
    RequestReceived,
    ResponseReceived,
    Scope,
    ScopeSynced,
    SessionSpeakerHeard,
    UnknownSourceHeard,
    UnprovenClaimHeard,
    UnprovenLogHeard,
    Version,
)

MAX_UNKNOWN_SOURCES = 64
"""Bound of unknown sources shown; beyond it: the oldest is dropped."""
UNKNOWN_SOURCE_KEPT_S: Final = 300.0
"""How long `status` shows an unknown source. The gossip reports one that continues every two minutes at least,
however rarely it dials (60 s)."""
SLICE_ENTRIES: Final = 40
"""Bound of records taken into the view in one slice; beyond it: other hosts' endpoints wait for the next slice. About
1.5 ms. Slices of names, of the kernel and of other work may run in the same round of the event loop."""
MAX_CONTESTED: Final = 64
"""Bound of hosts whose identity a second machine uses; beyond it: the oldest is dropped."""
CONTESTED_KEPT_S: Final = 150.0
"""How long `status` shows such a machine. Gossip reports it once a minute, after a push/pull with it or with a host
that believes it."""
MAX_WAITING: Final = 50_000
"""Bound of records that wait for a slice; beyond it: the excess is taken in without a pause: the event loop stands
still. Five first syncs of 10,000 endpoints. The gossip holds the records themselves."""
logger = logging.getLogger("netagent.gossip")

_STRANGER: Final = Author(AuthorKind.GOSSIP, "not of this cluster")


@dataclass(slots=True)
class HeardOutside:
    """What was heard from outside the cluster, for `status`."""

    unknown_sources: dict[str, tuple[str, float]] = field(default_factory=dict)
    """IP address -> why its packets are refused, and when that was reported; the latest MAX_UNKNOWN_SOURCES."""
    identity_conflict: tuple[str, float] | None = None
    """Address of another machine that uses our identity, and when that was reported."""
    contested: dict[str, tuple[str, float]] = field(default_factory=dict)
    """Another host's id -> the address of a second machine that uses it, and when that was reported; the latest
    MAX_CONTESTED."""
    unusable: int = 0
    """Events that could not be used because of a bug of ours."""
    false_hosts: int = 0
    """Host records refused because their key is not the host's."""

    def recent_identity_conflict(self, now: float) -> str | None:
        """Address of the machine that uses our identity, as long as it is reported again and again."""
        if self.identity_conflict is None or self.identity_conflict[1] < now - CONTESTED_KEPT_S:
            return None
        return self.identity_conflict[0]

    def recent_contested(self, now: float) -> dict[str, str]:
        """Host id -> address of the second machine, as long as it is reported again and again."""
        since = now - CONTESTED_KEPT_S
        return {host: address for host, (address, told_at) in self.contested.items() if told_at >= since}

    def recent_unknown_sources(self, now: float) -> dict[str, str]:
        """IP address -> reason, for the sources that have not been silent since."""
        since = now - UNKNOWN_SOURCE_KEPT_S
        return {host: reason for host, (reason, told_at) in self.unknown_sources.items() if told_at >= since}


@dataclass(frozen=True, slots=True)
class _Left:
    """A scope that this host has left. What others wrote there is still in the view."""

    scope: Scope


class EventQueue:
    """One for each run of the cluster. `on_taken` gets all events once the view has them; `is_held` says whether the
    gossip still holds an owner's log of a scope."""

    def __init__(
        self,
        *,
        live: StateStore,
        journal: Journal,
        participation: Participation,
        rpc: RpcClient,
        on_request: Callable[[RequestReceived], None],
        on_raised: Callable[[OwnLogRaised], None],
        on_taken: Callable[[tuple[Event, ...]], None],
        is_held: Callable[[Scope, NodeId], bool],
        is_for_answers: Callable[[Scope], bool] = lambda _scope: False,
        clock: Callable[[], float],
    ) -> None:
        self._live = live
        self._journal = journal
        self._participation = participation
        self._rpc = rpc
        self._on_request = on_request
        self._on_raised = on_raised
        self._on_taken = on_taken
        self._is_held = is_held
        self._is_for_answers = is_for_answers
        self._clock = clock
        self._waiting: deque[Event | _Left] = deque()
        self._waiting_entries = 0
        self._begun = 0
        """Entries of the oldest waiting event that are in the view already."""
        self._limited = Limited(logger)
        self.heard = HeardOutside()
        self.held_evictions = HeldEvictions(live.view.local)
        self.synced = False
        """True once scope 0 is known to be complete."""

    def handle(self, events: tuple[Event, ...]) -> None:
        """Take in the events of one step; those that need not wait make one new view, so that no reader sees half of
        them."""
        at_once: list[Event] = []
        room = SLICE_ENTRIES
        for event in events:
            if isinstance(event, EntriesChanged):
                if self._is_for_answers(event.scope) and event.owner != self._live.view.local:
                    continue  # membership/remote_networks.py reads it from the gossip
                if not self._noted(event):
                    continue
                room -= len(event.entries)
            if self._must_wait(event, room):
                self._waiting.append(event)
                self._waiting_entries += _size(event)
            else:
                at_once.append(event)
        self._take_in(at_once)
        while self._waiting_entries > MAX_WAITING:
            self.run_step()

    @property
    def has_pending_work(self) -> bool:
        """True while events wait: call `run_step` until none does, and let other tasks run in between."""
        return bool(self._waiting)

    def run_step(self) -> None:
        """Take in the oldest waiting event, at most SLICE_ENTRIES entries of it, as one new view."""
        if self._waiting and isinstance(self._waiting[0], _Left):
            self._take_out(self._waiting[0].scope)
            return
        piece: list[Event] = []
        room = SLICE_ENTRIES
        while self._waiting and room > 0:
            event = self._waiting[0]
            if isinstance(event, _Left):
                break
            if isinstance(event, EntriesChanged):
                if event.replaced and piece:
                    break  # it must be compared with the view that this slice leads to
                piece += self._cut(event, room)
            else:
                self._pop()
                piece.append(event)
            room = SLICE_ENTRIES - sum(map(_size, piece))
        self._take_in(piece)

    def _take_out(self, scope: Scope) -> None:
        """Remove a slice of what others wrote in a scope that was left."""
        before = self._live.view
        self._live.update_view(lambda view: view.without_some(scope, SLICE_ENTRIES))
        if self._live.view is before:
            self._pop()

    def _cut(self, event: EntriesChanged, room: int) -> list[EntriesChanged]:
        """Return at most `room` more entries of the oldest event, the rest of which keeps waiting; none when it is
        not wanted."""
        if not self._is_held(event.scope, event.owner):
            self._pop()  # the owner was evicted since
            return []
        if event.replaced:
            event = self._as_delta(event)
            self._waiting_entries += _size(event) - _size(self._waiting[0])
            self._waiting[0] = event
        end = self._begun + room
        piece = replace(event, entries=event.entries[self._begun : end])
        if end < len(event.entries):
            self._begun = end
        else:
            self._pop()
        return [piece]

    def _pop(self) -> None:
        self._waiting_entries -= _size(self._waiting.popleft())
        self._begun = 0

    def forget_scope(self, scope: Scope) -> None:
        """Drop a network that this host has left: its waiting events no longer count, nor that its records were
        complete. Others' records in the view are removed in slices, before anything new of the network is taken in;
        our own at once."""
        kept = [
            one
            for one in self._waiting
            if not (isinstance(one, EntriesChanged | ScopeSynced) and one.scope == scope)
        ]
        if not kept or kept[0] is not self._waiting[0]:
            self._begun = 0
        self._waiting = deque([*kept, _Left(scope)])
        self._waiting_entries = sum(map(_size, kept))
        self._live.update_view(lambda view: view.without_own_log(scope))

    def _must_wait(self, event: Event, room: int) -> bool:
        match event:
            case EntriesChanged(scope=scope, owner=owner):
                is_others = scope != CLUSTER_SCOPE and owner != self._live.view.local
                return is_others and (room < 0 or bool(self._waiting))
            case ScopeSynced():
                return bool(self._waiting)
            case RequestReceived() | ResponseReceived():
                return self._waiting_entries > 0
            case _:
                return False

    def _as_delta(self, event: EntriesChanged) -> EntriesChanged:
        """Return a whole log as the changes to the one that the view has. It can be cut anywhere."""
        held = self._live.view.keys_of(HostId(event.owner), event.scope)
        version = Version(event.epoch, event.head)
        gone = [
            Entry(event.scope, event.owner, key, None, version)
            for key in sorted(held.difference(entry.key for entry in event.entries))
        ]
        return replace(event, entries=(*gone, *event.entries), replaced=False)

    def _take_in(self, events: list[Event]) -> None:
        self._live.update_view(lambda view: self._handle_all(view, events))
        self._on_taken(tuple(events))

    def _handle_all(self, view: RegistryView, events: list[Event]) -> RegistryView:
        for event in events:
            try:
                view = self._handle(view, event)
            except Exception as error:
                self._note_unusable(event, error)
        return view

    def _note_unusable(self, event: Event, error: Exception) -> None:
        # One record that triggers a bug must not end the agent, nor, since it is in the journal by then, keep it from
        # starting again. The record is not used.
        self.heard.unusable += 1
        logger.error("an event of the gossip could not be used: %s", type(event).__name__, exc_info=error)

    def _noted(self, event: EntriesChanged) -> bool:
        """Journal the event once, and whole, however it is cut for the view: a log on disk must not end in the
        middle."""
        try:
            if event.owner != self._live.view.local:
                self._journal.note_replica(event)
        except Exception as error:
            self._note_unusable(event, error)
            return False
        return True

    def _handle(self, view: RegistryView, event: Event) -> RegistryView:
        match event:
            case EntriesChanged():
                return view.with_entries(self._believed(event))
            case MemberChanged(member=member):
                return self._with_member(view, member)
            case MemberReaped(node_id=node_id):
                self._journal.note_member_gone(node_id)
                self.held_evictions.note_gone(HostId(node_id))
                return view.without_member(HostId(node_id))
            case ClaimSignerHeard(node_id=node_id):
                self._journal.note_claim_signer(node_id)
                return view
            case SessionSpeakerHeard(node_id=node_id):
                self._journal.note_session_speaker(node_id)
                return view
            case _:
                self._handle_other(event)
                return view

    def _believed(self, event: EntriesChanged) -> EntriesChanged:
        believed = without_false_hosts(event)
        if believed is not event:
            self.heard.false_hosts += 1
            self._limited.warning(
                event.owner,
                f"the record of host {event.owner[:8]} carries a key that does not belong to it",
                marked(EventKind.REFUSAL, author=_host(self._live.view, event.owner)),
            )
        held = len(self.held_evictions.waiting)
        sifted = self.held_evictions.sift(believed, self._clock())
        if len(self.held_evictions.waiting) > held:
            self._limited.warning(
                event.owner,
                f"host {event.owner[:8]} evicts or revokes a host that is alive: this takes effect in a few minutes",
                marked(EventKind.EVICT, author=_host(self._live.view, event.owner)),
            )
        return sifted

    def release_held_evictions(self) -> None:
        """Let held evictions count that have waited long enough (held_evictions.py)."""

        def taken(view: RegistryView) -> RegistryView:
            for event in self.held_evictions.take_due(view.evicted, self._clock()):
                view = view.with_entries(event)
            return view

        self._live.update_view(taken)

    def _with_member(self, view: RegistryView, member: Member) -> RegistryView:
        self.held_evictions.note_member(member, self._clock())
        known = view.hosts.get(HostId(member.node_id))
        before = known.agent.value if known else "unknown"
        if known is None or before != member.state.name.lower():
            # What it means to people is said by netagent.events.sources.view_changes.
            name = known.name if known else member.node_id[:8]
            logger.debug("%s (%s) is %s, was %s", name, member.address[0], member.state.name.lower(), before)
        if member.state is MemberState.ALIVE:
            self.heard.unknown_sources.pop(member.address[0], None)  # it has joined since
            clash = self.heard.identity_conflict
            if clash is not None and member.node_id != view.local and member.address[0] == clash[0]:
                self.heard.identity_conflict = None  # it has an identity of its own since
            for host_id, (address, _) in tuple(self.heard.contested.items()):
                if address == member.address[0] and host_id != member.node_id:
                    del self.heard.contested[host_id]
        if member.node_id != view.local:
            self._journal.note_member(member)
        return view.with_member(member)

    def _handle_other(self, event: Event) -> None:
        match event:
            case ScopeSynced(scope=scope):
                if scope == CLUSTER_SCOPE:
                    self.synced = True
                    self.held_evictions.note_synced(self._clock())
                else:
                    self._participation.note_synced(NetworkId(scope.hex()))
            case ResponseReceived():
                self._rpc.note_response(event)
            case RequestReceived():
                self._on_request(event)
            case OwnLogRaised():
                # Two copies write the same logs, and each raises its own again and again: the clone is the problem to
                # solve.
                is_cloned = self.heard.recent_identity_conflict(self._clock()) is not None
                level = logging.DEBUG if is_cloned else logging.WARNING
                logger.log(
                    level,
                    "peers hold newer records of this host in scope %s than its journal: continuing above them",
                    event.scope.hex()[:8],
                )
                self._on_raised(event)
            case UnknownSourceHeard(source=source, reason=reason):
                self.heard.unknown_sources.pop(source[0], None)
                if len(self.heard.unknown_sources) >= MAX_UNKNOWN_SOURCES:
                    self.heard.unknown_sources.pop(next(iter(self.heard.unknown_sources)))
                self.heard.unknown_sources[source[0]] = reason, self._clock()
                # One author for all strangers: a forger of addresses pushes out only such events.
                refused = marked(EventKind.REFUSAL, source[0], author=_STRANGER)
                self._limited.warning(source[0], f"refused packets from {source[0]}: {reason}", refused)
            case UnprovenLogHeard() | UnprovenClaimHeard():
                self._note_unproven(event)
            case IdentityConflict(address=address):
                self.heard.identity_conflict = address[0], self._clock()
                self._limited.warning(
                    "clash",
                    f"another machine at {address[0]} uses this host's identity",
                    marked(EventKind.CONFLICT, address[0], author=_STRANGER),
                )
            case IdentityContested(node_id=node_id, held=held, other=other):
                self.heard.contested.pop(node_id, None)
                if len(self.heard.contested) >= MAX_CONTESTED:
                    self.heard.contested.pop(next(iter(self.heard.contested)))
                self.heard.contested[node_id] = other[0], self._clock()
                self._limited.warning(
                    node_id,
                    f"machines at {held[0]} and {other[0]} use one identity ({node_id[:8]})",
                    marked(EventKind.CONFLICT, node_id[:8], author=_host(self._live.view, node_id)),
                )

    def _note_unproven(self, event: UnprovenLogHeard | UnprovenClaimHeard) -> None:
        match event:
            case UnprovenLogHeard(owner=owner, sender=sender):
                named, author = _host(self._live.view, owner), _host(self._live.view, sender)
                self._limited.warning(
                    f"unproven {owner}",
                    f"refused records in the name of host {named.name} that it has not signed, from a message in the"
                    f" name of {author.name}",
                    marked(EventKind.REFUSAL, owner[:8], author=author),
                )
            case UnprovenClaimHeard(node_id=node_id, source=source):
                named = _host(self._live.view, node_id)
                self._limited.warning(
                    f"unproven claim {node_id}",
                    f"refused a claim in the name of host {named.name}, which it has not signed, from {source[0]}:"
                    " that it has another address or incarnation, or has left",
                    marked(EventKind.REFUSAL, node_id[:8], author=_STRANGER),
                )


def _host(view: RegistryView, node_id: str) -> Author:
    host = view.hosts.get(HostId(node_id))
    return Author(AuthorKind.GOSSIP, node_id[:8] if host is None else host.unique_name)


def _size(event: Event | _Left) -> int:
    """The number of entries that an event counts as while it waits."""
    match event:
        case EntriesChanged(entries=entries):
            return max(len(entries), 1)
        case _Left():
            return 0
        case _:
            return 1


def first_view(local: HostId, logs: Iterable[Log], members: Iterable[Member]) -> RegistryView:
    """Build the view of a start: what the journal holds of this host and of the others."""
    view = RegistryView(local)
    for log in logs:
        entries = tuple(log.entries.values())
        event = EntriesChanged(
            log.scope, log.owner, log.epoch, log.head, log.collected, entries, replaced=True
        )
        view = view.with_entries(without_false_hosts(event))
    for member in members:
        view = view.with_member(member)
    return view
