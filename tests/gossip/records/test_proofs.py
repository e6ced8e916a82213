"""A log counts only as its owner signed it: deltas that were changed in any way, and who is believed without."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256

import pytest

from netgossip.join.identity import Identity
from netgossip.records.merge import Merge
from netgossip.records.proofs import PROOF_BYTES, LogProofs
from netgossip.records.record_log import RecordLog
from netgossip.records.set_hash import element
from netgossip.records.table import Table
from netgossip.records.wire import NO_VERSION, Delta, decode_untrusted, encode
from netgossip.slices import at_once
from netgossip.types import CLUSTER_SCOPE, EntriesChanged, Entry, Log, NodeId, Version

NET, OTHER_NET = bytes(range(16)), bytes(range(1, 17))
LABEL = b"cluster"
OWNER, READER, THIRD, LIAR = (Identity(sha256(name).digest()) for name in (b"o", b"r", b"t", b"l"))


def table(
    identity: Identity,
    *,
    signs: bool = True,
    label: bytes = LABEL,
    replicas: tuple[Log, ...] = (),
    **more: object,
) -> Table:
    """A node's table; with `signs` False it is of a release without proofs."""
    made = Table(
        node_id=identity.node_id,
        label=label,
        tombstone_s=60.0,
        now=0.0,
        proofs=LogProofs(identity, label) if signs else None,
        replicas=replicas,
        **more,  # type: ignore[arg-type]
    )
    made.hold(NET)
    made.hold(OTHER_NET)
    return made


def put(owner: Table, *changes: tuple[bytes, bytes | None], scope: bytes = NET, now: float = 0.0) -> None:
    owner.commit(owner.prepare([(scope, key, value) for key, value in changes]), now)


def delta_of(holder: Table, since: Version = NO_VERSION, owner: NodeId = OWNER.node_id) -> Delta:
    """As it comes out of the wire."""
    delta = holder.delta(NET, owner, since)
    assert delta is not None
    (read,) = at_once(decode_untrusted(at_once(encode(delta))))
    assert read == delta
    return delta


def merge(target: Table, delta: Delta, *, from_owner: bool = False) -> tuple[Merge, EntriesChanged | None]:
    outcome = at_once(target.merge(delta, from_owner=from_owner))
    target.check_invariants()
    return outcome


def bring(source: Table, target: Table, *, from_owner: bool = False) -> Merge:
    have = target.base(NET, OWNER.node_id)
    return merge(target, delta_of(source, have), from_owner=from_owner)[0]


def content(holder: Table, owner: NodeId = OWNER.node_id) -> dict[bytes, bytes]:
    log = holder.log(NET, owner)
    entries = {} if log is None else log.entries
    return {key: entry.value for key, entry in entries.items() if entry.value is not None}


def sign_as(identity: Identity, delta: Delta, entries: dict[bytes, Entry]) -> Delta:
    """The delta with the proof that this identity makes for the content."""
    log = RecordLog(delta.epoch, b"key", has_set_hash=True)
    for entry in sorted(entries.values(), key=lambda one: one.version.sequence):
        log.put(entry)
    return replace(delta, proof=LogProofs(identity, LABEL).sign(delta.scope, delta.version, log.set_hash))


def digest_for(delta: Delta, held: Table | None = None) -> int:
    """The digest of what a changed delta leads to: a liar sets it right."""
    reader = table(READER, signs=False) if held is None else held
    log = reader._logs.get(delta.scope, {}).get(delta.owner)
    copy = RecordLog(delta.epoch, reader._hash_key, has_set_hash=False)
    if log is not None and delta.base > 0:
        copy = log.copy()
    for entry in delta.entries[
        bisect_right(delta.entries, copy.head, key=lambda one: one.version.sequence) :
    ]:
        copy.put(entry)
    return copy.digest


def a_log(rng: random.Random, owner: Table, changes: int) -> None:
    for _ in range(changes):
        key = b"k%d" % rng.randrange(8)
        put(owner, (key, None if rng.random() < 0.25 else rng.randbytes(rng.randrange(40))))


# The proof of what was changed on the way does not count.

Mutation = Callable[[random.Random, Delta], Delta | None]
"""None where it does not apply to the delta."""


def _at(rng: random.Random, delta: Delta, *, live: bool = False) -> int | None:
    found = [n for n, one in enumerate(delta.entries) if not live or one.value is not None]
    return rng.choice(found) if found else None


def _with(delta: Delta, at: int, *entries: Entry) -> Delta:
    return replace(delta, entries=(*delta.entries[:at], *entries, *delta.entries[at + 1 :]))


def another_value(rng: random.Random, delta: Delta) -> Delta | None:
    at = _at(rng, delta, live=True)
    if at is None:
        return None
    old = delta.entries[at]
    assert old.value is not None
    return _with(delta, at, replace(old, value=old.value + b"!"))


def another_key(rng: random.Random, delta: Delta) -> Delta | None:
    at = _at(rng, delta, live=True)
    return None if at is None else _with(delta, at, replace(delta.entries[at], key=b"another"))


def values_swapped(rng: random.Random, delta: Delta) -> Delta | None:
    live = [n for n, one in enumerate(delta.entries) if one.value is not None]
    if len(live) < 2:
        return None
    one, other = rng.sample(live, 2)
    a, b = delta.entries[one], delta.entries[other]
    return (
        None
        if a.value == b.value
        else _with(_with(delta, one, replace(a, value=b.value)), other, replace(b, value=a.value))
    )


def order_changed(rng: random.Random, delta: Delta) -> Delta | None:
    """Two records change places: each has the other's sequence."""
    live = [n for n, one in enumerate(delta.entries) if one.value is not None]
    if len(live) < 2:
        return None
    one, other = rng.sample(live, 2)
    a, b = delta.entries[one], delta.entries[other]
    return _with(_with(delta, one, replace(b, version=a.version)), other, replace(a, version=b.version))


def live_left_out(rng: random.Random, delta: Delta) -> Delta | None:
    at = _at(rng, delta, live=True)
    return None if at is None else _with(delta, at)


def live_deleted(rng: random.Random, delta: Delta) -> Delta | None:
    at = _at(rng, delta, live=True)
    return None if at is None else _with(delta, at, replace(delta.entries[at], value=None))


def deleted_revived(rng: random.Random, delta: Delta) -> Delta | None:
    dead = [n for n, one in enumerate(delta.entries) if one.value is None]
    if not dead:
        return None
    at = rng.choice(dead)
    return _with(delta, at, replace(delta.entries[at], value=b"back"))


def one_more(rng: random.Random, delta: Delta) -> Delta | None:
    version = Version(delta.epoch, delta.head + 1)
    extra = Entry(delta.scope, delta.owner, b"extra", b"1", version)
    return replace(delta, head=delta.head + 1, entries=(*delta.entries, extra))


def one_more_within(rng: random.Random, delta: Delta) -> Delta | None:
    used = {one.version.sequence for one in delta.entries}
    free = [n for n in range(delta.base + 1, delta.head + 1) if n not in used]
    if not free:
        return None
    extra = Entry(delta.scope, delta.owner, b"extra", b"1", Version(delta.epoch, rng.choice(free)))
    return replace(delta, entries=tuple(sorted((*delta.entries, extra), key=lambda one: one.version)))


def higher_head(rng: random.Random, delta: Delta) -> Delta | None:
    return replace(delta, head=delta.head + rng.randint(1, 5))


def higher_epoch(rng: random.Random, delta: Delta) -> Delta | None:
    if delta.base:
        return None
    epoch = delta.epoch + rng.randint(1, 5)
    entries = tuple(replace(one, version=Version(epoch, one.version.sequence)) for one in delta.entries)
    return replace(delta, epoch=epoch, entries=entries)


def other_scope(rng: random.Random, delta: Delta) -> Delta | None:
    entries = tuple(replace(one, scope=OTHER_NET) for one in delta.entries)
    return replace(delta, scope=OTHER_NET, base=0, collected=0, entries=entries)


def other_owner(rng: random.Random, delta: Delta) -> Delta | None:
    entries = tuple(replace(one, owner=THIRD.node_id) for one in delta.entries)
    return replace(delta, owner=THIRD.node_id, base=0, collected=0, entries=entries)


def a_bit_of_the_proof(rng: random.Random, delta: Delta) -> Delta | None:
    at = rng.randrange(len(delta.proof))
    flipped = bytes((delta.proof[at] ^ 1 << rng.randrange(8),))
    return replace(delta, proof=delta.proof[:at] + flipped + delta.proof[at + 1 :])


def another_length(rng: random.Random, delta: Delta) -> Delta | None:
    return replace(delta, proof=rng.choice([delta.proof[:-1], delta.proof + b"\0", delta.proof[:32], b"\0"]))


def signed_by_another(rng: random.Random, delta: Delta) -> Delta | None:
    return sign_as(LIAR, delta, {one.key: one for one in delta.entries})


def signed_by_another_under_the_owners_key(rng: random.Random, delta: Delta) -> Delta | None:
    forged = sign_as(LIAR, delta, {one.key: one for one in delta.entries})
    return replace(forged, proof=OWNER.public_key + forged.proof[32:])


def unsigned(rng: random.Random, delta: Delta) -> Delta | None:
    return replace(delta, proof=b"")


MUTATIONS: list[Mutation] = [
    another_value, another_key, values_swapped, order_changed, live_left_out, live_deleted, deleted_revived,
    one_more, one_more_within, higher_head, higher_epoch, other_scope, other_owner, a_bit_of_the_proof,
    another_length, signed_by_another, signed_by_another_under_the_owners_key, unsigned,
]  # fmt: skip


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: one.__name__)
def test_a_delta_that_was_changed_is_refused_and_changes_nothing(mutation: Mutation) -> None:
    applied = 0
    for seed in range(60):
        rng = random.Random(f"{mutation.__name__} {seed}")
        owner, reader = table(OWNER), table(READER)
        a_log(rng, owner, rng.randint(1, 6))
        assert bring(owner, reader) is Merge.APPLIED
        put(table(THIRD), (b"x", b"y"))
        a_log(rng, owner, rng.randint(1, 12))
        held = reader.base(NET, OWNER.node_id)
        whole = rng.random() < 0.5
        true = delta_of(owner, NO_VERSION if whole else held)
        changed = mutation(rng, true)
        if changed is None:
            continue
        applied += 1
        changed = replace(changed, digest=digest_for(changed, reader if changed.base else None))
        before = (reader.logs(NET), reader.logs(OTHER_NET), reader.fingerprint(NET))
        outcome, event = merge(reader, changed, from_owner=rng.random() < 0.5)
        print(f"{mutation.__name__} seed {seed}: {outcome}")
        assert outcome in (Merge.FORGED, Merge.UNSIGNED)
        assert event is None
        assert (reader.logs(NET), reader.logs(OTHER_NET), reader.fingerprint(NET)) == before
        assert merge(reader, true)[0] is Merge.APPLIED, "the true one counts afterwards"
        assert content(reader) == content(owner)
    assert applied >= 10


def test_the_proof_of_another_cluster_does_not_count() -> None:
    elsewhere = table(OWNER, label=b"another")
    put(elsewhere, (b"a", b"1"))
    reader = table(READER)
    stolen = delta_of(elsewhere)
    assert merge(reader, replace(stolen, digest=digest_for(stolen)))[0] is Merge.FORGED
    assert content(reader) == {}


def test_an_older_log_does_not_come_back() -> None:
    owner, reader = table(OWNER), table(READER)
    put(owner, (b"a", b"1"))
    first = delta_of(owner)
    put(owner, (b"a", None))
    assert bring(owner, reader) is Merge.APPLIED
    assert merge(reader, first, from_owner=True)[0] is Merge.KNOWN
    owner.raise_above(NET, Version(1, 9))
    second = delta_of(reader)
    assert bring(owner, reader) is Merge.APPLIED
    assert merge(reader, second, from_owner=True)[0] is Merge.KNOWN
    assert content(reader) == {}


def test_what_a_third_relays_counts_as_if_the_owner_had_sent_it() -> None:
    owner, third, reader = table(OWNER), table(THIRD), table(READER)
    for step in range(5):
        put(owner, (b"a", b"%d" % step), (b"b%d" % step, b"1"))
        assert bring(owner, third) is Merge.APPLIED
        assert bring(third, reader) is Merge.APPLIED
        assert content(reader) == content(owner)
    assert reader.is_signer(OWNER.node_id)


def test_two_changes_that_go_out_together_are_signed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    signed: list[bytes] = []
    sign = Identity.sign

    def counting(identity: Identity, message: bytes) -> bytes:
        signed.append(message)
        return sign(identity, message)

    monkeypatch.setattr(Identity, "sign", counting)
    owner = table(OWNER)
    put(owner, (b"a", b"1"))
    put(owner, (b"b", b"1"))
    for _ in range(50):
        delta_of(owner)
        delta_of(owner, Version(1, 1))
    assert len(signed) == 1


# Tombstones are in no proof: what a liar can do with them.


def test_tombstones_that_the_owner_never_wrote_hide_nothing_and_are_gone_with_the_whole_log() -> None:
    owner, reader = table(OWNER), table(READER)
    put(owner, (b"a", b"1"), *((b"x", b"%d" % n) for n in range(50)))
    true = delta_of(owner)
    free = next(n for n in range(1, 51) if n not in {one.version.sequence for one in true.entries})
    false = Entry(NET, OWNER.node_id, b"never", None, Version(1, free))
    entries = tuple(sorted((*true.entries, false), key=lambda one: one.version))
    assert merge(reader, replace(true, entries=entries))[0] is Merge.APPLIED
    assert content(reader) == content(owner)


def test_tombstones_that_fill_a_log_do_not_keep_the_owners_next_change_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("netgossip.records.merge.ENTRIES_LIMIT", 100)
    owner, reader = table(OWNER), table(READER)
    put(owner, (b"a", b"1"))
    put(owner, *((b"b", b"%d" % n) for n in range(100)))
    true = delta_of(owner)
    filling = [Entry(NET, OWNER.node_id, b"x%d" % n, None, Version(1, n)) for n in range(2, 100)]
    entries = tuple(sorted((*true.entries, *filling), key=lambda one: one.version))
    assert merge(reader, replace(true, entries=entries))[0] is Merge.APPLIED
    put(owner, (b"c", b"1"), (b"d", b"1"))
    assert bring(owner, reader) is Merge.DIVERGED, "asks for the whole log"
    assert merge(reader, delta_of(owner))[0] is Merge.APPLIED
    assert content(reader) == content(owner)


# Owners that sign nothing, and the step to signing.


def test_an_owner_that_has_never_signed_is_believed_and_never_again_once_it_has() -> None:
    old, owner, reader = table(OWNER, signs=False), table(OWNER), table(READER)
    for source in (old, owner):
        put(source, (b"a", b"1"))
    assert bring(old, reader) is Merge.APPLIED
    assert not reader.is_signer(OWNER.node_id)
    put(old, (b"a", b"2"))
    assert bring(old, reader) is Merge.APPLIED
    for _ in range(2):
        put(owner, (b"a", b"3"))
    assert bring(owner, reader) is Merge.APPLIED
    assert reader.is_signer(OWNER.node_id)
    for _ in range(5):
        put(old, (b"a", b"9"))
    assert bring(old, reader) is Merge.UNSIGNED
    assert merge(reader, delta_of(old))[0] is Merge.UNSIGNED
    assert content(reader) == {b"a": b"3"}


def test_who_has_signed_in_one_network_is_believed_in_no_other_without() -> None:
    old, owner, reader = table(OWNER, signs=False), table(OWNER), table(READER)
    put(owner, (b"a", b"1"))
    assert bring(owner, reader) is Merge.APPLIED
    put(old, (b"a", b"1"), scope=OTHER_NET)
    forged = old.delta(OTHER_NET, OWNER.node_id, NO_VERSION)
    assert forged is not None
    assert merge(reader, forged)[0] is Merge.UNSIGNED
    reader.drop(OWNER.node_id)
    assert merge(reader, forged)[0] is Merge.UNSIGNED, "its logs are gone, the knowledge is not"


def test_the_knowledge_of_who_signs_and_the_proofs_outlive_a_restart() -> None:
    owner, reader, third = table(OWNER), table(READER), table(THIRD)
    put(owner, (b"a", b"1"))
    assert bring(owner, reader) is Merge.APPLIED
    again = table(READER, replicas=reader.logs(NET))
    assert again.logs(NET) == reader.logs(NET)
    assert bring(again, third) is Merge.APPLIED
    assert third.is_signer(OWNER.node_id)
    without_logs = table(READER, signers=(OWNER.node_id,))
    old = table(OWNER, signs=False)
    put(old, (b"a", b"1"))
    assert bring(old, without_logs) is Merge.UNSIGNED


def test_a_log_that_was_changed_on_the_disk_is_found_and_replaced() -> None:
    owner, reader = table(OWNER), table(READER)
    put(owner, (b"a", b"1"), (b"b", b"2"))
    assert bring(owner, reader) is Merge.APPLIED
    (log,) = reader.logs(NET)
    changed = {**log.entries, b"a": replace(log.entries[b"a"], value=b"9")}
    again = table(READER, replicas=(replace(log, entries=changed),))
    assert again.has_unchecked
    assert again.recheck() == 1
    assert not again.has_unchecked
    assert again.lacks_proof(NET, OWNER.node_id)
    # The owner answers who lacks its proof with it. It is not that of what is held, so the whole log is asked for.
    proof = owner.proof(NET, OWNER.node_id, again.version(NET, OWNER.node_id))
    assert proof is not None
    assert merge(again, proof)[0] is Merge.DIVERGED
    assert merge(again, delta_of(owner))[0] is Merge.APPLIED
    assert again.logs(NET) == owner.logs(NET)
    assert table(READER, replicas=(log,)).recheck() == 0


def test_where_proofs_are_required_an_owner_that_never_signed_is_not_believed() -> None:
    old, owner, reader = table(OWNER, signs=False), table(OWNER), table(READER)
    put(old, (b"a", b"1"))
    put(owner, (b"a", b"1"))
    reader.required = True
    assert bring(old, reader) is Merge.UNSIGNED
    assert bring(owner, reader) is Merge.APPLIED


def test_invented_owners_make_no_signer_be_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netgossip.records.table.SIGNERS_LIMIT", 2)
    owner, reader = table(OWNER), table(READER)
    put(owner, (b"a", b"1"))
    assert bring(owner, reader) is Merge.APPLIED
    for number in range(3):
        invented = Identity(sha256(b"%d" % number).digest())
        liar = table(invented)
        put(liar, (b"a", b"1"))
        assert merge(reader, delta_of(liar, owner=invented.node_id))[0] is Merge.APPLIED
    reader.drop(OWNER.node_id)
    unsigned = table(OWNER, signs=False)
    put(unsigned, (b"a", b"false"), (b"b", b"false"))
    assert bring(unsigned, reader) is Merge.UNSIGNED


def test_a_log_that_was_believed_without_is_proven_later_without_a_change() -> None:
    old, owner = table(OWNER, signs=False), table(OWNER)
    reader = table(READER)
    for source in (old, owner):
        put(source, (b"a", b"1"), (b"b", None))
    assert bring(old, reader) is Merge.APPLIED
    assert reader.lacks_proof(NET, OWNER.node_id)
    proof = owner.proof(NET, OWNER.node_id, reader.base(NET, OWNER.node_id))
    assert proof is not None
    assert proof.entries == ()
    assert len(proof.proof) == PROOF_BYTES
    outcome, event = merge(reader, proof)
    assert outcome is Merge.APPLIED
    assert event is not None
    assert event.entries == ()
    assert event.proof == proof.proof
    assert not reader.lacks_proof(NET, OWNER.node_id)
    assert merge(reader, proof)[0] is Merge.KNOWN
    assert old.proof(NET, OWNER.node_id, old.own_version(NET)) is None


def test_what_a_liar_had_told_of_an_owner_that_did_not_sign_ends_when_it_does() -> None:
    """At the same version as the lie, above it by a change, and above it by a whole log."""
    for further in (0, 1):
        for by_change in (True, False):
            liar, owner, reader = table(OWNER, signs=False), table(OWNER), table(READER)
            put(liar, (b"a", b"false"), (b"b", b"1"))
            put(owner, (b"a", b"true"), (b"b", b"1"))
            assert bring(liar, reader) is Merge.APPLIED
            for _ in range(further):
                put(owner, (b"c", b"1"))
            if by_change:
                have = reader.base(NET, OWNER.node_id)
                delta = owner.delta(NET, OWNER.node_id, have) or owner.proof(NET, OWNER.node_id, have)
                assert delta is not None
                # Even if the lie was made to have the same digest.
                changed = replace(delta, digest=digest_for(delta, reader))
                assert merge(reader, changed)[0] is Merge.DIVERGED, "asks for the whole log"
            assert merge(reader, delta_of(owner))[0] is Merge.APPLIED
            assert content(reader) == content(owner)
            assert reader.is_signer(OWNER.node_id)


def test_a_node_without_an_identity_keeps_no_proof_and_relays_none() -> None:
    owner, old = table(OWNER), table(THIRD, signs=False)
    put(owner, (b"a", b"1"))
    assert bring(owner, old) is Merge.APPLIED
    assert delta_of(old).proof == b""


# Work.


def test_a_refused_delta_of_a_few_entries_hashes_those_and_not_the_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owner, reader = table(OWNER), table(READER)
    put(owner, *((b"k%d" % n, b"1") for n in range(1000)))
    assert bring(owner, reader) is Merge.APPLIED
    have = reader.base(NET, OWNER.node_id)
    put(owner, (b"k1", b"2"))
    true = delta_of(owner, have)
    false = replace(true, entries=(replace(true.entries[0], value=b"3"),))
    false = replace(false, digest=digest_for(false, reader))
    hashed: list[object] = []

    def counting(entry: Entry | None) -> int:
        hashed.append(entry)
        return element(entry)

    monkeypatch.setattr("netgossip.records.record_log.element", counting)
    assert at_once(reader.merge(false, from_owner=False))[0] is Merge.FORGED
    assert len(hashed) == 2, "the entry and the one in whose place it comes"
    unsigned_one = replace(false, proof=b"")
    assert at_once(reader.merge(unsigned_one, from_owner=False))[0] is Merge.UNSIGNED
    assert len(hashed) == 2


def test_cluster_scope_is_signed_too() -> None:
    owner, reader = table(OWNER), table(READER)
    put(owner, (b"host", b"1"), scope=CLUSTER_SCOPE)
    delta = owner.delta(CLUSTER_SCOPE, OWNER.node_id, NO_VERSION)
    assert delta is not None
    assert merge(reader, replace(delta, proof=b"\0"))[0] is Merge.FORGED
    assert merge(reader, delta)[0] is Merge.APPLIED
