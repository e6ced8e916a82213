"""Never two believers for one offset, whatever records each host has received, in any order, across crashes.

Each host keeps its own grants for ever (they are journalled before they count), and of others' any subset that the
machine happens to deliver. It hands on whatever it believes that it owns.
"""

from __future__ import annotations

from fakes.registry import N1, identifier
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from netagent.ipam.space import AddressSpace, Range, grant_one, share_out, space_of, split_for
from netagent.model.ids import HostId
from netagent.model.records import GrantRecord
from netagent.registry.record_codec import key_of

COUNT = 32
HOSTS = [HostId(identifier(number)) for number in range(1, 5)]
hosts = st.sampled_from(HOSTS)


class GrantMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.written: list[tuple[HostId, GrantRecord]] = []  # (writer, grant), all that ever were
        self.known: dict[HostId, set[int]] = {host: set() for host in HOSTS}  # indexes into written
        self.knows_creator = dict.fromkeys(HOSTS, False)

    @initialize(others=st.permutations(HOSTS[1:]))
    def create(self, others: list[HostId]) -> None:
        self.knows_creator[HOSTS[0]] = True
        for grant in share_out(N1, COUNT, others):
            self.write(HOSTS[0], grant)

    def write(self, writer: HostId, grant: GrantRecord) -> None:
        keys = {key_of(one) for who, one in self.written if who == writer}
        assert key_of(grant) not in keys, "a grant would overwrite another"
        self.written.append((writer, grant))
        self.known[writer].add(len(self.written) - 1)

    def space(self, host: HostId) -> AddressSpace:
        creator = HOSTS[0] if self.knows_creator[host] else None
        return space_of(creator, COUNT, [self.written[index] for index in sorted(self.known[host])])

    @rule(giver=hosts, taker=hosts, used=st.sets(st.integers(0, COUNT - 1), max_size=20))
    def hand_on(self, giver: HostId, taker: HostId, used: set[int]) -> None:
        owned = self.space(giver).owned_by(giver)
        free = [
            Range(one, one, held.hop)
            for held in owned
            for one in range(held.first, held.last + 1)
            if one not in used
        ]
        grant = split_for(N1, taker, runs(free)) if giver != taker else None
        if grant is not None:
            self.write(giver, grant)

    @rule(giver=hosts, taker=hosts, offset=st.integers(0, COUNT - 1))
    def hand_on_by_name(self, giver: HostId, taker: HostId, offset: int) -> None:
        grant = grant_one(N1, taker, self.space(giver).owned_by(giver), offset) if giver != taker else None
        if grant is not None:
            self.write(giver, grant)

    @precondition(lambda self: self.written)
    @rule(host=hosts, data=st.data())
    def hear(self, host: HostId, data: st.DataObject) -> None:
        self.known[host] |= data.draw(st.sets(st.integers(0, len(self.written) - 1), max_size=4))

    @rule(host=hosts)
    def hear_of_the_network(self, host: HostId) -> None:
        self.knows_creator[host] = True

    @rule(host=hosts)
    def crash(self, host: HostId) -> None:
        """Others' records are a cache; one's own network and grants are on disk."""
        self.known[host] = {index for index in self.known[host] if self.written[index][0] == host}
        self.knows_creator[host] = host == HOSTS[0]

    @invariant()
    def at_most_one_believer(self) -> None:
        believers: dict[int, HostId] = {}
        for host in HOSTS:
            space = self.space(host)
            space.check_invariants()
            for held in space.owned_by(host):
                for offset in range(held.first, held.last + 1):
                    assert believers.setdefault(offset, host) == host, (
                        f"{offset}: {believers[offset]} and {host}"
                    )

    @invariant()
    def knowing_all_is_right(self) -> None:
        full = space_of(HOSTS[0], COUNT, self.written)
        for host in HOSTS:
            for held in self.space(host).owned_by(host):
                assert all(full.owner_of(offset) == host for offset in range(held.first, held.last + 1))


def runs(singles: list[Range]) -> list[Range]:
    """Neighbours of one hop joined, as a pool would give them."""
    joined: list[Range] = []
    for one in singles:
        if joined and joined[-1].last + 1 == one.first and joined[-1].hop == one.hop:
            joined[-1] = Range(joined[-1].first, one.last, one.hop)
        else:
            joined.append(one)
    return joined


TestGrantMachine = GrantMachine.TestCase
TestGrantMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
