"""The record table by example; test_table_machine.py has the laws."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from netgossip.errors import GossipUsageError
from netgossip.join.identity import Identity
from netgossip.records.merge import EPOCH_LEAP, EPOCH_LIMIT, LOG_LIMIT_BYTES, Merge
from netgossip.records.proofs import LogProofs
from netgossip.records.record_log import ENTRY_BYTES, LOG_BYTES, RecordLog
from netgossip.records.table import RAISES_LIMIT, Table
from netgossip.records.wire import COUNTER_LIMIT, ENTRIES_LIMIT, NO_VERSION, Delta
from netgossip.slices import at_once
from netgossip.types import CLUSTER_SCOPE, EntriesChanged, Entry, Log, OwnLogRaised, Scope, Version

OWNER, READER, THIRD = "0a" * 16, "0b" * 16, "0c" * 16
NET = bytes(range(16))


def table(node_id: str, own_logs: Iterable[Log] = (), replicas: Iterable[Log] = ()) -> Table:
    return Table(
        node_id=node_id,
        label=b"label",
        tombstone_s=60.0,
        now=0.0,
        proofs=None,
        own_logs=own_logs,
        replicas=replicas,
    )


def put(
    owner: Table, key: bytes, value: bytes | None, now: float = 0.0, scope: Scope = CLUSTER_SCOPE
) -> None:
    owner.commit(owner.prepare([(scope, key, value)]), now)


def bring(source: Table, target: Table, owner: str = OWNER, *, from_owner: bool = True) -> Merge:
    delta = source.delta(CLUSTER_SCOPE, owner, target.version(CLUSTER_SCOPE, owner))
    assert delta is not None
    return at_once(target.merge(delta, from_owner=from_owner))[0]


def content(holder: Table, owner: str = OWNER) -> dict[bytes, bytes | None]:
    log = holder.log(CLUSTER_SCOPE, owner)
    return {} if log is None else {key: entry.value for key, entry in log.entries.items()}


def test_prepare_changes_nothing_and_counts_on() -> None:
    owner = table(OWNER)
    first = owner.prepare([(CLUSTER_SCOPE, b"a", b"1"), (NET, b"b", b"2"), (CLUSTER_SCOPE, b"c", None)])
    assert [entry.version for entry in first] == [Version(1, 1), Version(1, 1), Version(1, 2)]
    assert owner.own_version(CLUSTER_SCOPE) == NO_VERSION
    assert owner.prepare([(CLUSTER_SCOPE, b"a", b"1")])[0].version == Version(1, 1)


def test_entries_prepared_before_another_commit_are_refused_whole() -> None:
    owner = table(OWNER)
    stale = owner.prepare([(NET, b"x", b"1"), (CLUSTER_SCOPE, b"a", b"1")])
    put(owner, b"b", b"2")
    with pytest.raises(GossipUsageError):
        owner.commit(stale, 0.0)
    assert owner.own_version(NET) == NO_VERSION


def test_limits_are_refused() -> None:
    owner = table(OWNER)
    for scope, key, value in (
        (b"short", b"k", b""),
        (NET, b"", b""),
        (NET, b"k" * 256, b""),
        (NET, b"k", bytes(65537)),
    ):
        with pytest.raises(GossipUsageError):
            owner.prepare([(scope, key, value)])
    many = [(NET, b"%d" % number, bytes(65536)) for number in range(LOG_LIMIT_BYTES // 65536)]
    with pytest.raises(GossipUsageError, match="exceed"):
        owner.prepare(many)
    owner.commit(owner.prepare(many[:-1]), 0.0)
    again = (NET, b"1", bytes(65536))
    assert owner.prepare([again, again, again]), "a value takes the place of the one before"
    with pytest.raises(GossipUsageError, match="exceed"):
        owner.prepare([again, (NET, b"more", bytes(65536))])


def test_a_delta_carries_only_what_is_new() -> None:
    owner, reader = table(OWNER), table(READER)
    put(owner, b"a", b"1")
    assert bring(owner, reader) is Merge.APPLIED
    put(owner, b"b", b"2")
    delta = owner.delta(CLUSTER_SCOPE, OWNER, reader.version(CLUSTER_SCOPE, OWNER))
    assert delta is not None
    assert [entry.key for entry in delta.entries] == [b"b"]
    assert at_once(reader.merge(delta, from_owner=True))[0] is Merge.APPLIED
    assert at_once(reader.merge(delta, from_owner=True))[0] is Merge.KNOWN
    assert owner.fingerprint(CLUSTER_SCOPE) == reader.fingerprint(CLUSTER_SCOPE)


def test_a_delta_that_starts_too_late_is_a_gap() -> None:
    owner, reader = table(OWNER), table(READER)
    for number in range(3):
        put(owner, b"%d" % number, b"v")
    delta = owner.delta(CLUSTER_SCOPE, OWNER, Version(1, 2))
    assert delta is not None
    assert at_once(reader.merge(delta, from_owner=True)) == (Merge.GAP, None)


def test_a_holder_that_missed_a_collected_tombstone_gets_the_whole_log() -> None:
    owner, reader = table(OWNER), table(READER)
    put(owner, b"a", b"1")
    put(owner, b"b", b"2")
    bring(owner, reader)
    put(owner, b"a", None, now=10.0)
    put(owner, b"c", b"3", now=100.0)
    delta = owner.delta(CLUSTER_SCOPE, OWNER, reader.version(CLUSTER_SCOPE, OWNER))
    assert delta is not None
    assert (delta.base, delta.collected) == (0, 3)
    result, event = at_once(reader.merge(delta, from_owner=False))
    assert result is Merge.APPLIED
    assert event is not None
    assert event.replaced
    assert content(reader) == {b"b": b"2", b"c": b"3"}


class Counting(dict[bytes, Entry]):
    """Entries that count walks through all of them."""

    passes = 0

    def values(self) -> Any:
        Counting.passes += 1
        return super().values()

    items = values


def test_tombstones_are_dropped_without_a_look_at_the_live_entries() -> None:
    log = RecordLog(1, b"key", has_set_hash=False)
    for number in range(1, 1001):
        log.put(Entry(CLUSTER_SCOPE, OWNER, b"%d" % number, b"v", Version(1, number)))
    log.put(Entry(CLUSTER_SCOPE, OWNER, b"7", None, Version(1, 1001)))
    log.put(Entry(CLUSTER_SCOPE, OWNER, b"8", None, Version(1, 1002)))
    log.entries = Counting(log.entries)
    log.reach(1002, 1001)
    assert b"7" not in log.entries
    assert b"8" in log.entries
    assert Counting.passes == 0
    log.entries = dict(log.entries)
    log.check_invariants()


def test_collection_follows_the_delta() -> None:
    owner, reader = table(OWNER), table(READER)
    put(owner, b"a", b"1")
    put(owner, b"a", None, now=10.0)
    bring(owner, reader)
    assert content(reader) == {b"a": None}
    put(owner, b"b", b"2", now=100.0)
    bring(owner, reader)
    assert content(reader) == {b"b": b"2"}


def test_no_other_node_writes_our_log_and_scopes_are_held_on_purpose() -> None:
    owner, reader = table(OWNER), table(READER)
    put(owner, b"a", b"1")
    put(owner, b"n", b"1", scope=NET)
    copy = owner.delta(CLUSTER_SCOPE, OWNER, NO_VERSION)
    assert copy is not None
    assert at_once(owner.merge(copy, from_owner=False))[0] is Merge.REFUSED
    of_net = owner.delta(NET, OWNER, NO_VERSION)
    assert of_net is not None
    assert at_once(reader.merge(of_net, from_owner=True))[0] is Merge.REFUSED
    reader.hold(NET)
    assert at_once(reader.merge(of_net, from_owner=True))[0] is Merge.APPLIED
    reader.release(NET)
    assert reader.logs(NET) == ()
    assert reader.fingerprint(NET) == 0


def test_a_content_that_is_not_what_was_announced_is_found_out() -> None:
    owner, reader = table(OWNER), table(READER)
    put(owner, b"a", b"1")
    bring(owner, reader)
    put(owner, b"b", b"2")
    good = owner.delta(CLUSTER_SCOPE, OWNER, Version(1, 1))
    assert good is not None
    bad = Delta(good.scope, good.owner, 1, 1, 2, 0, good.digest + 1, good.entries)
    assert at_once(reader.merge(bad, from_owner=True)) == (Merge.DIVERGED, None)
    assert content(reader) == {b"a": b"1"}


def test_a_lost_past_raises_the_epoch_and_issues_everything_again() -> None:
    owner, reader = table(OWNER), table(READER)
    for number in range(5):
        put(owner, b"%d" % number, b"v")
    bring(owner, reader)
    restored = table(OWNER)
    put(restored, b"kept", b"v")
    events = restored.raise_above(CLUSTER_SCOPE, reader.version(CLUSTER_SCOPE, OWNER))
    assert events[0] == OwnLogRaised(CLUSTER_SCOPE, 2)
    assert isinstance(events[1], EntriesChanged)
    assert events[1].replaced
    assert bring(restored, reader) is Merge.APPLIED
    assert content(reader) == {b"kept": b"v"}


def test_an_epoch_that_could_not_be_outrun_is_not_believed() -> None:
    owner = table(OWNER)
    put(owner, b"a", b"1")
    assert owner.raise_above(CLUSTER_SCOPE, Version(COUNTER_LIMIT - 1, 1)) == ()


def test_a_past_that_grew_beside_the_lost_one_is_found_by_its_digest() -> None:
    owner, reader = table(OWNER), table(READER)
    put(owner, b"a", b"old")
    bring(owner, reader)
    restored = table(OWNER)
    put(restored, b"a", b"new")
    row = at_once(reader.vector(CLUSTER_SCOPE))[0]
    assert restored.raise_above(CLUSTER_SCOPE, row.version, row.digest)
    assert bring(restored, reader) is Merge.APPLIED
    assert content(reader) == {b"a": b"new"}


def test_commit_after_a_raise_gives_new_versions() -> None:
    owner = table(OWNER)
    put(owner, b"a", b"1")
    prepared = owner.prepare([(CLUSTER_SCOPE, b"b", b"2")])
    owner.raise_above(CLUSTER_SCOPE, Version(1, 9))
    (event,) = owner.commit(prepared, 0.0)
    assert event.entries[0].version == Version(2, 2)
    assert content(owner) == {b"a": b"1", b"b": b"2"}


def test_dropped_logs_do_not_come_back_but_newer_ones_do() -> None:
    owner, reader, third = table(OWNER), table(READER), table(THIRD)
    put(owner, b"a", b"1")
    bring(owner, reader)
    bring(owner, third)
    reader.drop(OWNER)
    copy = third.delta(CLUSTER_SCOPE, OWNER, NO_VERSION)
    assert copy is not None
    assert at_once(reader.merge(copy, from_owner=False))[0] is Merge.KNOWN
    put(owner, b"b", b"2")
    whole = owner.delta(CLUSTER_SCOPE, OWNER, NO_VERSION)
    assert whole is not None
    assert at_once(reader.merge(whole, from_owner=True))[0] is Merge.APPLIED


def test_a_saved_log_continues_where_it_was() -> None:
    owner = table(OWNER)
    put(owner, b"a", b"1")
    put(owner, b"a", None)
    put(owner, b"b", b"2")
    saved = owner.log(CLUSTER_SCOPE, OWNER)
    assert saved is not None
    again = table(OWNER, own_logs=(saved,))
    again.check_invariants()
    assert again.fingerprint(CLUSTER_SCOPE) == owner.fingerprint(CLUSTER_SCOPE)
    assert again.prepare([(CLUSTER_SCOPE, b"c", b"3")])[0].version == Version(1, 4)
    put(again, b"c", b"3", now=60.0)
    assert b"a" not in content(again)


@pytest.mark.parametrize(
    "epoch", [2, 2**32, EPOCH_LIMIT - 1, EPOCH_LIMIT, COUNTER_LIMIT - 2, COUNTER_LIMIT - 1]
)
def test_the_owner_goes_above_any_forged_version_of_its_log(epoch: int) -> None:
    """An epoch that receivers took and the owner could never pass hid all that it wrote from then on, for good."""
    owner, reader, liar = table(OWNER), table(READER), table(OWNER)
    put(owner, b"truth", b"1")
    bring(owner, reader)
    put(liar, b"lie", b"1")
    delta = liar.delta(CLUSTER_SCOPE, OWNER, NO_VERSION)
    assert delta is not None
    delta = replace(delta, epoch=epoch)
    at_once(reader.merge(delta, from_owner=False))
    owner.raise_above(CLUSTER_SCOPE, reader.version(CLUSTER_SCOPE, OWNER))
    if reader.version(CLUSTER_SCOPE, OWNER) < owner.own_version(CLUSTER_SCOPE):
        bring(owner, reader)
    assert content(reader) == {b"truth": b"1"}
    put(owner, b"more", b"1")
    assert bring(owner, reader) is Merge.APPLIED


def test_the_owner_follows_no_version_that_must_be_forged() -> None:
    owner = table(OWNER)
    put(owner, b"truth", b"1")
    for epoch in (EPOCH_LIMIT + EPOCH_LEAP, COUNTER_LIMIT - 2, COUNTER_LIMIT - 1):
        assert owner.raise_above(CLUSTER_SCOPE, Version(epoch, 1)) == ()
    assert owner.raise_above(CLUSTER_SCOPE, Version(EPOCH_LIMIT + 3, 1)), (
        "a restored disk of one that was driven there"
    )
    assert owner.own_version(CLUSTER_SCOPE).epoch == EPOCH_LIMIT + 4


def test_no_peer_makes_a_signing_owner_issue_its_records_without_end() -> None:
    """One member's claims to hold a newer log made the owner issue all of its records again for each of them."""
    identity = Identity(bytes(32))
    owner = Table(
        node_id=identity.node_id, label=b"", tombstone_s=60.0, now=0.0, proofs=LogProofs(identity, b"")
    )
    put(owner, b"truth", b"1")

    def ahead() -> Version:
        own = owner.own_version(CLUSTER_SCOPE)
        return Version(own.epoch, own.sequence + 1)

    for _ in range(RAISES_LIMIT):
        assert owner.raise_above(CLUSTER_SCOPE, ahead(), reporter=READER)
    for _ in range(100):
        assert not owner.raise_above(CLUSTER_SCOPE, ahead(), reporter=READER)
    assert owner.own_version(CLUSTER_SCOPE).epoch == 1 + RAISES_LIMIT
    assert owner.raise_above(CLUSTER_SCOPE, ahead(), reporter=THIRD), "another may know of what was lost"
    put(owner, b"more", b"1")
    owner.check_invariants()


def many(owner: str, count: int, size: int = 0) -> Delta:
    entries = tuple(
        Entry(CLUSTER_SCOPE, owner, n.to_bytes(3, "big"), bytes(size), Version(1, n))
        for n in range(1, count + 1)
    )
    log = RecordLog(1, table(READER)._hash_key, has_set_hash=False)
    for entry in entries:
        log.put(entry)
    return Delta(CLUSTER_SCOPE, owner, 1, 0, count, 0, log.digest, entries)


def test_small_entries_are_bounded_by_their_number() -> None:
    """Eight MiB of the smallest would be a million objects."""
    owner, reader = table(OWNER), table(READER)
    assert at_once(reader.merge(many(OWNER, ENTRIES_LIMIT + 1), from_owner=True))[0] is Merge.REFUSED
    assert at_once(reader.merge(many(OWNER, ENTRIES_LIMIT), from_owner=True))[0] is Merge.APPLIED
    changes: list[tuple[Scope, bytes, bytes | None]] = [
        (NET, n.to_bytes(3, "big"), b"") for n in range(ENTRIES_LIMIT)
    ]
    entries = owner.prepare(changes)
    owner.commit(entries, 0.0)
    with pytest.raises(GossipUsageError, match="entries"):
        owner.prepare([(NET, b"one more", b"")])
    owner.commit(owner.prepare([(NET, changes[0][1], b"again"), (NET, changes[1][1], None)]), 0.0)


def test_all_logs_together_are_bounded_and_what_is_held_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netgossip.records.table.TABLE_LIMIT_BYTES", 10 * (LOG_BYTES + 5 * (ENTRY_BYTES + 3)))
    reader = table(READER)
    results = [at_once(reader.merge(many(f"{n:032x}", 5), from_owner=False))[0] for n in range(100)]
    assert results == [Merge.APPLIED] * 10 + [Merge.REFUSED] * 90
    assert at_once(reader.merge(many(f"{3:032x}", 6), from_owner=False))[0] is Merge.REFUSED
    put(reader, b"ours", bytes(5000))
    reader.drop(f"{3:032x}")
    reader.drop(f"{4:032x}")
    reader.drop(f"{5:032x}")
    assert at_once(reader.merge(many(f"{50:032x}", 5), from_owner=False))[0] is Merge.APPLIED
    reader.check_invariants()
