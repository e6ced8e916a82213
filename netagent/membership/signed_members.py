"""Whether nodes may be members of the cluster that prove nothing of what they say: decided once, and kept.

The operator decides when the cluster begins (`init --allow-unsigned`); a host that joins is told with the keys. Where
it is not decided, in a cluster of the release before, each host refuses such nodes once all hosts that it knows have
shown proofs for a while. So the hosts of a cluster can be upgraded one by one.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import trio

from netagent.events.channel import event
from netagent.events.kinds import EventKind
from netagent.keys.ring_store import RingStore
from netagent.model.ids import HostId
from netagent.periodic_task import PeriodicTask
from netagent.registry.state_store import StateStore
from netgossip.node import GossipNode
from netgossip.types import MemberState

LOOK_S: Final = 10.0
CALM_S: Final = 60.0
"""For so long all hosts must have shown proofs: one that has just come shows them within seconds."""
RETRY_S: Final = 60.0

logger = logging.getLogger("netagent.membership")


@dataclass(slots=True)
class SignedMembers:
    """Makes the gossip refuse nodes without proofs, where the cluster does not allow them."""

    live: StateStore
    node: GossipNode
    store: RingStore
    _since: float | None = None
    """Since when all hosts have shown proofs."""
    _task: PeriodicTask = field(default_factory=partial(PeriodicTask, LOOK_S))

    @property
    def allows_unsigned(self) -> bool | None:
        """Whether they may be members; None: not decided, and they may."""
        return self.store.keys.allows_unsigned

    def unsigned(self) -> list[str]:
        """Return the live members that have shown no proof, by name; a plain memberlist has only its id."""
        hosts = self.live.view.hosts
        return sorted(
            hosts[one].name if one in hosts else one
            for one in self._live_members()
            if not self.node.membership.is_signer(one)
        )

    def begin(self) -> None:
        """Refuse them from the first message on, if that is decided."""
        if self.store.keys.allows_unsigned is False:
            self.node.require_proofs(required=True, now=trio.current_time())

    async def run(self) -> None:
        """Decide, if that is open. Run until cancelled, or until it is decided."""
        if self.store.keys.allows_unsigned is None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._decide, nursery.cancel_scope)

    async def _decide(self, scope: trio.CancelScope) -> None:
        async def look() -> None:
            if self._may_begin(trio.current_time()):
                # The file first: a restart must not believe again what this run has refused.
                self.store.refuse_unsigned()
                self.begin()
                logger.info(
                    "all hosts sign what they say: members that do not are refused from now on",
                    extra=event(EventKind.MEMBER),
                )
                scope.cancel()

        await self._task.run(look, logger, "cannot refuse unsigned members yet", RETRY_S)

    def _may_begin(self, now: float) -> bool:
        others = self._others()
        if not others or any(not self._has_shown(one) for one in others):
            self._since = None
            return False
        self._since = now if self._since is None else self._since
        return now - self._since >= CALM_S

    def _others(self) -> set[HostId]:
        """Return the hosts of the records, also those that are away, and the live members, which may be no hosts."""
        view = self.live.view
        hosts = {host for host in view.hosts if host not in view.evicted and host != view.local}
        return hosts | self._live_members()

    def _live_members(self) -> set[HostId]:
        members = self.node.members().values()
        live = {
            HostId(one.node_id) for one in members if one.state in (MemberState.ALIVE, MemberState.SUSPECT)
        }
        return live - {self.live.view.local}

    def _has_shown(self, host: HostId) -> bool:
        return self.node.membership.is_signer(host) and self.node.records.is_signer(host)
