"""What the gossip reports, sorted: into the view, the journal, and to those who wait for it.

Called by the gossip's driver with the events of one step, on the event loop, and never blocks. Records and members
become the next view at once; whoever wants to act on them reads it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from netagent.log import Limited
from netagent.membership.asking import Asking
from netagent.membership.participation import Participation
from netagent.model.ids import HostId, NetworkId
from netagent.registry.journal import Journal
from netagent.registry.live import Live
from netagent.registry.view import RegistryView
from netagent.registry.vouch import without_false_hosts
from netgossip.types import (
    CLUSTER_SCOPE,
    EntriesChanged,
    Event,
    IdentityClash,
    Log,
    Member,
    MemberChanged,
    MemberReaped,
    MemberState,
    OwnLogRaised,
    RequestReceived,
    ResponseReceived,
    ScopeSynced,
    StrangerHeard,
)

MAX_STRANGERS = 64
logger = logging.getLogger("netagent.gossip")


@dataclass(slots=True)
class Heard:
    """What was heard from outside the cluster, for `status`."""

    strangers: dict[str, str] = field(default_factory=dict)
    """Reason by IP address; the latest MAX_STRANGERS."""
    clash: str = ""
    """Address of another machine that uses our identity."""
    unusable: int = 0
    """Events that could not be used because of a fault of ours."""
    false_hosts: int = 0
    """Host records refused because their key is not the host's."""


class Inbox:
    """One for each run of the cluster."""

    def __init__(
        self,
        *,
        live: Live,
        journal: Journal,
        participation: Participation,
        asking: Asking,
        on_request: Callable[[RequestReceived], None],
        on_raised: Callable[[OwnLogRaised], None],
    ) -> None:
        self._live = live
        self._journal = journal
        self._participation = participation
        self._asking = asking
        self._on_request = on_request
        self._on_raised = on_raised
        self._limited = Limited(logger)
        self.heard = Heard()
        self.synced = False
        """Whether scope 0 is known to be complete."""

    def handle(self, events: tuple[Event, ...]) -> None:
        """All events of one step make one new view, so that nobody sees half of them."""
        view = self._live.view
        for event in events:
            try:
                view = self._handle(view, event)
            except Exception:
                # One record that trips us must not end the agent, nor, since it is in the journal by then, keep it
                # from starting again. What the record said is not used.
                self.heard.unusable += 1
                logger.exception("an event of the gossip could not be used: %s", type(event).__name__)
        self._live.set_view(view)

    def _handle(self, view: RegistryView, event: Event) -> RegistryView:
        match event:
            case EntriesChanged():
                if event.owner != view.local:
                    self._journal.note_replica(event)
                return view.with_entries(self._believed(event))
            case MemberChanged(member=member):
                return self._with_member(view, member)
            case MemberReaped(node_id=node_id):
                self._journal.note_member_gone(node_id)
                return view.without_member(HostId(node_id))
            case _:
                self._handle_other(event)
                return view

    def _believed(self, event: EntriesChanged) -> EntriesChanged:
        believed = without_false_hosts(event)
        if believed is not event:
            self.heard.false_hosts += 1
            self._limited.warning(
                event.owner, f"the record of host {event.owner[:8]} has a key that is not its own"
            )
        return believed

    def _with_member(self, view: RegistryView, member: Member) -> RegistryView:
        known = view.hosts.get(HostId(member.node_id))
        before = known.agent.value if known else "unknown"
        if known is None or before != member.state.name.lower():
            name = known.name if known else member.node_id[:8]
            logger.info("%s (%s) is %s, was %s", name, member.address[0], member.state.name.lower(), before)
        if member.state is MemberState.ALIVE:
            self.heard.strangers.pop(member.address[0], None)  # it has joined since
            if member.node_id != view.local and member.address[0] == self.heard.clash:
                self.heard.clash = ""  # it has an identity of its own since
        if member.node_id != view.local:
            self._journal.note_member(member)
        return view.with_member(member)

    def _handle_other(self, event: Event) -> None:
        match event:
            case ScopeSynced(scope=scope):
                if scope == CLUSTER_SCOPE:
                    self.synced = True
                else:
                    self._participation.note_synced(NetworkId(scope.hex()))
            case ResponseReceived():
                self._asking.note_response(event)
            case RequestReceived():
                self._on_request(event)
            case OwnLogRaised():
                logger.warning(
                    "peers hold a newer past of ours in scope %s: going on above it", event.scope.hex()[:8]
                )
                self._on_raised(event)
            case StrangerHeard(source=source, reason=reason):
                self.heard.strangers.pop(source[0], None)
                if len(self.heard.strangers) >= MAX_STRANGERS:
                    self.heard.strangers.pop(next(iter(self.heard.strangers)))
                self.heard.strangers[source[0]] = reason
                self._limited.warning(source[0], f"refused packets from {source[0]}: {reason}")
            case IdentityClash(address=address):
                self.heard.clash = address[0]
                self._limited.warning("clash", f"another machine at {address[0]} uses this host's identity")


def first_view(local: HostId, logs: Iterable[Log], members: Iterable[Member]) -> RegistryView:
    """The view of a start: what the journal remembers of ourselves and of the others."""
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
