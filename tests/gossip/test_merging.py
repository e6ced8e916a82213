"""Deltas merged in slices, with anything in between, against a table that merges each at once when the other is done.

A slice is one entry here. At every step the two hold the same: nothing half done is visible.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest

from netgossip.join.identity import Identity
from netgossip.records.merge import Merge
from netgossip.records.proofs import LogProofs
from netgossip.records.table import Table
from netgossip.records.wire import NO_VERSION, Delta
from netgossip.slices import Slices, at_once
from netgossip.types import EntriesChanged, NodeId, Version

IDENTITIES = {one.node_id: one for one in map(Identity, (bytes(32), b"b" * 32, b"c" * 32))}
A, B, C = IDENTITIES
NET = bytes(range(16))
KEYS = [b"k%d" % number for number in range(6)]
SEEDS = 150
STEPS = 120


def table(node_id: NodeId, *, signs: bool) -> Table:
    proofs = LogProofs(IDENTITIES[node_id], b"label") if signs else None
    made = Table(node_id=node_id, label=b"label", tombstone_s=2.0, now=0.0, proofs=proofs)
    made.hold(NET)
    return made


class World:
    """B and C own logs; A's table is there twice."""

    def __init__(self, seed: int, outcomes: Counter[tuple[Merge, bool]], *, signs: bool) -> None:
        self.rng = random.Random(seed)
        self.outcomes = outcomes
        self.owners = {B: table(B, signs=signs), C: table(C, signs=signs)}
        self.piecewise, self.whole = table(A, signs=signs), table(A, signs=signs)
        self.open: list[tuple[Slices[tuple[Merge, EntriesChanged | None]], Delta, bool]] = []
        self.versions: dict[NodeId, list[Version]] = {B: [NO_VERSION], C: [NO_VERSION]}
        self.now = 0.0

    def step(self) -> None:
        acts = [self.change, self.begin, self.go_on, self.drop, self.readmit, self.lose_past, self.leave]
        (act,) = self.rng.choices(acts, [20, 20, 60, 1, 1, 1, 1])
        act(self.rng.choice([B, C]))
        assert self.piecewise.logs(NET) == self.whole.logs(NET)
        assert at_once(self.piecewise.vector(NET)) == at_once(self.whole.vector(NET))
        assert self.piecewise.fingerprint(NET) == self.whole.fingerprint(NET)
        self.piecewise.check_invariants()

    def change(self, owner: NodeId) -> None:
        """Several keys, or none of them again; tombstones go after two of these."""
        self.now += 1.0
        keys = self.rng.sample(KEYS, self.rng.randint(1, 4))
        changes = [(NET, key, self.rng.choice([None, b"1", b"2"])) for key in keys]
        own = self.owners[owner]
        own.commit(own.prepare(changes), self.now)
        self.versions[owner].append(own.own_version(NET))

    def lose_past(self, owner: NodeId) -> None:
        own = self.owners[owner]
        own.raise_above(NET, Version(own.own_version(NET).epoch + 1, 1))
        self.versions[owner].append(own.own_version(NET))

    def begin(self, owner: NodeId) -> None:
        held = self.piecewise.version(NET, owner)
        since = self.rng.choice([held, held, held, NO_VERSION, self.rng.choice(self.versions[owner])])
        delta = self.owners[owner].delta(NET, owner, since)
        if delta is not None:
            is_from_owner = self.rng.random() < 0.5
            work = self.piecewise.merge(delta, from_owner=is_from_owner)
            self.open.append((work, delta, is_from_owner))

    def go_on(self, _: NodeId) -> None:
        if not self.open:
            return
        at = self.rng.randrange(len(self.open))
        work, delta, is_from_owner = self.open[at]
        try:
            next(work)
        except StopIteration as end:
            outcome = end.value
        else:
            return
        del self.open[at]
        assert outcome == at_once(self.whole.merge(delta, from_owner=is_from_owner))
        self.outcomes[outcome[0], delta.base > 0] += 1

    def drop(self, owner: NodeId) -> None:
        for one in (self.piecewise, self.whole):
            one.drop(owner)

    def readmit(self, owner: NodeId) -> None:
        for one in (self.piecewise, self.whole):
            one.readmit(owner)

    def leave(self, _: NodeId) -> None:
        is_back = self.rng.random() < 0.8
        for one in (self.piecewise, self.whole):
            one.release(NET)
            if is_back:
                one.hold(NET)


@pytest.mark.parametrize("signs", [False, True])
def test_merging_in_slices_equals_merging_at_once_after_the_last_slice(
    monkeypatch: pytest.MonkeyPatch, signs: bool
) -> None:
    monkeypatch.setattr("netgossip.records.record_log.ENTRIES_PER_SLICE", 1)
    monkeypatch.setattr("netgossip.records.record_log.PROVEN_PER_SLICE", 1)
    outcomes: Counter[tuple[Merge, bool]] = Counter()
    for seed in range(SEEDS):
        world = World(seed, outcomes, signs=signs)
        for _ in range(STEPS):
            world.step()
    # The test is worth something only as long as it comes about all of these often.
    for result in (Merge.APPLIED, Merge.KNOWN):
        assert outcomes[result, True] > 20
        assert outcomes[result, False] > 20
    assert outcomes[Merge.GAP, True] > 20
