"""Which peers replication knows, which of them are live, and which take part in which scope."""

from __future__ import annotations

from netgossip.types import CLUSTER_SCOPE, NodeId, Scope


class Peers:
    """Peers are *known* once their first address is set, *live* while alive or suspect."""

    def __init__(self, node_id: NodeId) -> None:
        self._node_id = node_id
        self._peers: dict[NodeId, tuple[bool, bool]] = {}
        """Node id -> (live, suspect)."""
        self._live_in: dict[Scope, tuple[NodeId, ...]] = {}
        """Cache of `live_in`, until something changes."""
        self._members: dict[Scope, frozenset[NodeId]] = {}

    def set_peer(self, node_id: NodeId, *, live: bool, suspect: bool) -> tuple[bool, bool]:
        """Set a peer's state; return its former state (live, suspect)."""
        before = self._peers.get(node_id, (False, False))
        self._peers[node_id] = (live, suspect)
        if before[0] is not live:
            self._live_in.clear()
        return before

    def forget_peer(self, node_id: NodeId) -> bool:
        """Drop a peer. True if it was known."""
        self._live_in.clear()
        return self._peers.pop(node_id, None) is not None

    def knows(self, node_id: NodeId) -> bool:
        """True for a peer that was set and not forgotten."""
        return node_id in self._peers

    def is_live(self, node_id: NodeId) -> bool:
        """True for peers that are pushed to and asked."""
        return self._peers.get(node_id, (False, False))[0]

    def set_members(
        self, scope: Scope, node_ids: frozenset[NodeId]
    ) -> tuple[list[NodeId], frozenset[NodeId]]:
        """Set which nodes take part in a scope; return the peers that came and those that left."""
        before = self._members.get(scope, frozenset())
        self._members[scope] = after = node_ids - {self._node_id}
        self._live_in.pop(scope, None)
        return sorted(after - before), before - after

    def drop_scope(self, scope: Scope) -> None:
        """Drop a scope in which no node takes part any more."""
        self._members.pop(scope, None)
        self._live_in.pop(scope, None)

    def members_of(self, scope: Scope) -> frozenset[NodeId] | None:
        """Other nodes in the scope, known as peers or not; None while that was not set."""
        return frozenset(self._peers) if scope == CLUSTER_SCOPE else self._members.get(scope)

    def live_in(self, scope: Scope) -> tuple[NodeId, ...]:
        """Live peers that take part, in a fixed order."""
        if scope not in self._live_in:
            self._live_in[scope] = tuple(sorted(filter(self.is_live, self.members_of(scope) or ())))
        return self._live_in[scope]

    def is_in(self, node_id: NodeId, scope: Scope) -> bool:
        """True when the peer takes part."""
        return scope == CLUSTER_SCOPE or node_id in self._members.get(scope, ())
