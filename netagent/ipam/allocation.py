"""The allocation of one network's space on this host: the view, plus the grants that are just being made.

The view is a moment behind: a grant that we are writing is not in it yet, nor is one that a peer gave us a
millisecond ago. Both count at once, the first because nothing that is being given away may be used, the second
because an attach waits for it. They are dropped from here as soon as the view has them.

A grant to this host is of no use to it before it has repeated the grant in its own log (`unconfirmed`): until then
only the granting host's log has it, and that may be lost with the host.
"""

from __future__ import annotations

from collections.abc import Iterable

from immutables import Map

from netagent.ipam.pool import Pool, pool_of
from netagent.ipam.space import AddressSpace, space_of, superseded
from netagent.model.ids import HostId, NetworkId
from netagent.model.records import GrantRecord
from netagent.model.subnet import offset_count
from netagent.registry.record_codec import key_of
from netagent.registry.view import NetworkView, RegistryView

_GrantMap = Map[tuple[HostId, bytes], GrantRecord]


class Allocation:
    """Ownership (`space`) and use (`pool`) of one network. Call `refresh` before reading either."""

    def __init__(
        self,
        local: HostId,
        network: NetworkView,
        *,
        used: Iterable[int] = (),
        cooling: Iterable[int] = (),
        now: float = 0.0,
    ) -> None:
        self.local = local
        self.network_id: NetworkId = network.network_id
        self.name = network.unique_name
        self.subnets = network.record.subnets
        self.count = offset_count(self.subnets)
        self._extra: dict[tuple[HostId, bytes], GrantRecord] = {}
        self._seen: tuple[_GrantMap, HostId | None] | None = None
        self._restored = (list(used), list(cooling), now)
        self.space = AddressSpace(self.count, ())
        self.sure = self.space
        """The same without others' grants to this host that its own log does not have yet."""
        self.pool = Pool(self.count)
        self.unconfirmed: dict[GrantRecord, frozenset[HostId]] = {}
        """Others' grants to this host that its own log does not have yet, and that count, with their writers."""

    def refresh(self, view: RegistryView) -> None:
        """Follow the view. Costs nothing when no grant of the network changed."""
        network = view.networks.get(self.network_id)
        creator = None if network is None else network.creator
        grants = view.grant_map(self.network_id)
        if self._seen is not None and self._seen[0] is grants and self._seen[1] == creator:
            return
        self._seen = (grants, creator)
        self._extra = {key: grant for key, grant in self._extra.items() if grants.get(key) != grant}
        self._derive()

    def add(self, writer: HostId, grant: GrantRecord) -> None:
        """Count a grant before the view has it."""
        self._extra[writer, key_of(grant)[1]] = grant
        self._derive()

    def discard(self, writer: HostId, grant: GrantRecord) -> None:
        """Stop counting a grant that was not made after all."""
        self._extra.pop((writer, key_of(grant)[1]), None)
        self._derive()

    def _derive(self) -> None:
        assert self._seen is not None, "refresh first"
        grants, creator = self._seen
        every = [(writer, one) for (writer, _), one in {**grants, **self._extra}.items()]
        self.space = space_of(creator, self.count, every)
        own = [one for writer, one in every if writer == self.local]
        given: dict[GrantRecord, frozenset[HostId]] = {}
        for writer, one in every:
            if writer != self.local and one.to == self.local and one not in own:
                given[one] = given.get(one, frozenset()) | {writer}
        self.unconfirmed = {
            one: writers for one, writers in given.items() if one not in superseded([*own, one])
        }
        sure = [(writer, one) for writer, one in every if writer == self.local or one.to != self.local]
        self.sure = space_of(creator, self.count, sure) if given else self.space
        owned = self.sure.owned_by(self.local)
        used, cooling, now = self._restored
        if used or cooling:
            self.pool = pool_of(self.count, owned, used, cooling, now)
            self._restored = ([], [], 0.0)
        else:
            self.pool.set_owned(owned)

    def free_shares(self, view: RegistryView) -> list[tuple[HostId, int]]:
        """Return the other owners of usable offsets, and how many of them seem to be free: live owners first, because
        an attach might wait for others in vain, and of these the ones with most. An estimate: of a network in which
        we take no part we see no endpoints."""
        free = {host: usable for host, usable in self.space.usable_counts().items() if usable}
        for endpoint in view.endpoints_in(self.network_id).values():
            if endpoint.owner in free:
                free[endpoint.owner] -= 1
        for host in view.host_addresses(self.network_id):
            if host in free:
                free[host] -= 1
        others = ((host, left) for host, left in free.items() if host != self.local)
        live = {host for host in free if host in view.hosts and view.hosts[host].is_live}
        return sorted(others, key=lambda pair: (pair[0] not in live, -pair[1], pair[0]))
