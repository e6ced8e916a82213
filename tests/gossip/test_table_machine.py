"""Laws of the replicated table, on random histories.

One owner changes, deletes, collects, loses its disk; copies travel between the owner and three readers in any order,
late, twice, and from reader to reader. An oracle knows the owner's truth at every version it ever gave out.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from netgossip.join.identity import Identity
from netgossip.records.merge import Merge
from netgossip.records.proofs import LogProofs
from netgossip.records.table import Table
from netgossip.records.wire import Delta
from netgossip.slices import at_once
from netgossip.types import CLUSTER_SCOPE, Log, OwnLogRaised, Version

IDENTITIES = {one.node_id: one for one in (Identity(bytes((n,)) * 32) for n in range(4))}
OWNER, *READERS = IDENTITIES
TOMBSTONE_S = 10.0

keys = st.sampled_from([b"a", b"b", b"c", b"d"])
readers = st.sampled_from(READERS)


class TableMachine(RuleBasedStateMachine):
    """See the module."""

    deltas = Bundle("deltas")
    signs = False

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.owner = self.new_table(OWNER)
        self.readers = {name: self.new_table(name) for name in READERS}
        self.truth: dict[Version, dict[bytes, bytes]] = {}
        self.backup: Log | None = None
        self.lost_a_disk = False
        self.seen = dict.fromkeys(READERS, Version(0, 0))

    def new_table(self, node_id: str, own: Log | None = None) -> Table:
        logs = () if own is None else (own,)
        proofs = LogProofs(IDENTITIES[node_id], b"l") if self.signs else None
        return Table(
            node_id=node_id, label=b"l", tombstone_s=TOMBSTONE_S, now=self.now, proofs=proofs, own_logs=logs
        )

    def note_truth(self) -> None:
        self.truth[self.owner.own_version(CLUSTER_SCOPE)] = live(self.owner)

    @rule(key=keys, value=st.none() | st.binary(max_size=3))
    def change(self, key: bytes, value: bytes | None) -> None:
        self.owner.commit(self.owner.prepare([(CLUSTER_SCOPE, key, value)]), self.now)
        self.note_truth()

    @rule(changes=st.lists(st.tuples(keys, st.none() | st.binary(max_size=3)), min_size=2, max_size=4))
    def change_several(self, changes: list[tuple[bytes, bytes | None]]) -> None:
        self.owner.commit(self.owner.prepare([(CLUSTER_SCOPE, *change) for change in changes]), self.now)
        self.note_truth()

    @rule(seconds=st.sampled_from([1.0, TOMBSTONE_S]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def restart_owner(self) -> None:
        self.owner = self.new_table(OWNER, self.owner.log(CLUSTER_SCOPE, OWNER))

    @rule()
    def back_up(self) -> None:
        self.backup = self.owner.log(CLUSTER_SCOPE, OWNER)

    @rule()
    def restore(self) -> None:
        self.lost_a_disk = True
        self.owner = self.new_table(OWNER, self.backup)
        self.note_truth()

    @rule(target=deltas, receiver=readers)
    def send_from_owner(self, receiver: str) -> tuple[Delta | None, bool]:
        have = self.readers[receiver].version(CLUSTER_SCOPE, OWNER)
        return self.owner.delta(CLUSTER_SCOPE, OWNER, have), True

    @rule(target=deltas, sender=readers, receiver=readers)
    def send_from_reader(self, sender: str, receiver: str) -> tuple[Delta | None, bool]:
        have = self.readers[receiver].version(CLUSTER_SCOPE, OWNER)
        return self.readers[sender].delta(CLUSTER_SCOPE, OWNER, have), False

    @rule(sent=deltas, receiver=readers)
    def receive(self, sent: tuple[Delta | None, bool], receiver: str) -> None:
        delta, from_owner = sent
        if delta is not None:
            reader = self.readers[receiver]
            before = live(reader)
            result, event = at_once(reader.merge(delta, from_owner=from_owner))
            if result is Merge.APPLIED:
                assert event is not None
                reported = {} if event.replaced else before
                for entry in event.entries:
                    reported.pop(entry.key, None)
                    if entry.value is not None:
                        reported[entry.key] = entry.value
                assert reported == live(reader), "the event tells the whole change"
            else:
                assert result not in (Merge.UNSIGNED, Merge.FORGED)
                assert live(reader) == before

    @rule(receiver=readers)
    def tell_owner(self, receiver: str) -> None:
        for row in at_once(self.readers[receiver].vector(CLUSTER_SCOPE)):
            events = self.owner.raise_above(CLUSTER_SCOPE, row.version, row.digest)
            if events:
                assert self.lost_a_disk, "an owner with its own past is never outrun"
                assert isinstance(events[0], OwnLogRaised)
                self.note_truth()

    @invariant()
    def tables_are_sound(self) -> None:
        for one in (self.owner, *self.readers.values()):
            one.check_invariants()

    @invariant()
    def versions_grow(self) -> None:
        for name, reader in self.readers.items():
            version = reader.version(CLUSTER_SCOPE, OWNER)
            assert version >= self.seen[name]
            self.seen[name] = version

    @invariant()
    def a_version_is_a_content(self) -> None:
        """No resurrection, nothing lost: what a reader holds at a version is what the owner had at it."""
        if self.lost_a_disk:
            return
        for reader in self.readers.values():
            version = reader.version(CLUSTER_SCOPE, OWNER)
            assert live(reader) == self.truth.get(version, {})

    def teardown(self) -> None:
        """Whatever happened, a report to the owner and a copy from it make all equal."""
        for reader in self.readers.values():
            for row in at_once(reader.vector(CLUSTER_SCOPE)):
                self.owner.raise_above(CLUSTER_SCOPE, row.version, row.digest)
        for reader in self.readers.values():
            bring_up(self.owner, reader)
            assert live(reader) == live(self.owner)
            assert reader.fingerprint(CLUSTER_SCOPE) == self.owner.fingerprint(CLUSTER_SCOPE)


def live(table: Table) -> dict[bytes, bytes]:
    log = table.log(CLUSTER_SCOPE, OWNER)
    if log is None:
        return {}
    return {key: entry.value for key, entry in log.entries.items() if entry.value is not None}


def bring_up(owner: Table, reader: Table) -> None:
    """What owner and reader do about one log: a delta, and the whole log if that does not fit."""
    have = reader.version(CLUSTER_SCOPE, OWNER)
    delta = owner.delta(CLUSTER_SCOPE, OWNER, have)
    if delta is not None and at_once(reader.merge(delta, from_owner=True))[0] is Merge.DIVERGED:
        whole = owner.delta(CLUSTER_SCOPE, OWNER, Version(0, 0))
        assert whole is not None
        assert at_once(reader.merge(whole, from_owner=True))[0] is Merge.APPLIED


class SignedTableMachine(TableMachine):
    """The same laws hold where each log is proven: no proof of an owner that keeps to the rules is ever refused."""

    signs = True


for machine in (TableMachine, SignedTableMachine):
    machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestTable = TableMachine.TestCase
TestSignedTable = SignedTableMachine.TestCase
