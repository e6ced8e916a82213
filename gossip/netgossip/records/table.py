"""The table of replicated records: for each scope and owner one log, written only by that owner.

A log is a map from key to (sequence, value or tombstone) with an epoch and a head. Its version (epoch, head)
identifies its content: every holder of a log at a version holds what the owner had when it assigned that version. So
merging is keeping the higher version, which is commutative, associative and idempotent, and comparing two tables is
comparing one pair of numbers per log, however many records there are.

To advance from `have` to `head`, a holder needs a delta: all entries with a sequence above `have`. Tombstones are
part of it, until the owner drops them; `collected` is the highest sequence that it dropped. From below `collected`,
and from another epoch, only the whole log helps (base 0), which replaces what is there. Thus a deletion can't be
missed, whenever the tombstone was dropped and however long the receiver was away (the rule is chitchat's):
correctness depends on no grace period, and there is no resurrection.

The owner drops tombstones when it commits a change, never in between: `collected` moves with the head only, and needs
no message of its own. So in a log that is quiet they stay, with all its holders. Once there are many, the owner
writes one of its live entries again unchanged (`rewrites`): to others that is a change like any other.

Each delta carries the digest of the log that it leads to. An owner whose disk was restored from a backup continues
below or beside its own history; receivers detect that by the digest (or by a version that is too low) and tell the
owner, which raises the epoch and issues all that it has again.

Where logs are proven (`proofs`), a delta counts only if its owner signed the content that it leads to, whichever peer
sends it. An owner that has never signed is believed without; once it has, for any of its logs, it is believed only
with its signature. A proof is kept with the log and relayed with each delta that ends at its version. Where what we
hold is unproven, another content of the same version that is proven replaces it. Logs from the disk are checked soon
after the start, a few at a time (`recheck`): what was changed there, or is damaged, counts as unproven.

A log that the application dropped leaves its version behind: copies that others still hold do not come back, a newer
version does.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import Final

from netgossip.errors import GossipUsageError
from netgossip.records.merge import (
    EPOCH_LIMIT,
    LOG_LIMIT_BYTES,
    TABLE_LIMIT_BYTES,
    Merge,
    is_plausible,
    reject_reason,
    verify,
)
from netgossip.records.proofs import LogProofs, names_owner
from netgossip.records.record_log import ENTRY_BYTES, MODULUS, RecordLog, Sums
from netgossip.records.wire import ENTRIES_LIMIT, KEY_LIMIT_BYTES, NO_VERSION, VALUE_LIMIT_BYTES, Delta, Row
from netgossip.slices import ROWS_PER_SLICE, Slices
from netgossip.types import (
    CLUSTER_SCOPE,
    EntriesChanged,
    Entry,
    Event,
    Log,
    NodeId,
    OwnLogRaised,
    Scope,
    Version,
)

OWN_SCOPES_LIMIT: Final = 4096
"""Bound of own logs without an entry, of networks that other members say we were in; beyond it: further ones are not
believed; those of no known network are dropped after a minute. Four times the networks that one host is planned to be
in during its life. Scopes that we use do not count."""
REPORTED_LIMIT: Final = 1024
"""Bound of own logs without an entry that one member's statement brings; beyond it: further ones from that member are
not believed. A peer that invents scopes shuts out none that another reports."""
RAISES_LIMIT: Final = 4
"""Bound of times that one member's statements make us raise our log of one scope, from our start on; beyond it: it is
not believed. What a disk has lost is found by the first comparison, and one raise is above all of one epoch; further
ones are for peers that knew of several. None is needed of a node that runs."""
OWN_DROPPED_LIMIT: Final = 4096
"""Bound of own logs that were dropped, each with its last version; those known only from other members apart; beyond
it: the oldest is dropped: a late statement brings an empty log back."""
TOMBSTONES_LIMIT: Final = 64
"""Overdue tombstones of one of our logs that justify a change which only drops them: 32 KiB on each holder."""
SIGNERS_LIMIT: Final = 65_536
"""Bound of owners that are remembered as ones that sign; beyond it: further ones are not, so that a member which
invents owners makes none be forgotten. Logs that are held with a proof need a signature all the same."""
DROPPED_LIMIT = 65_536
"""Bound of logs that were dropped, each with its last version; beyond it: the oldest is dropped: a copy of that log
may come back."""
RECHECKED_AT_ONCE: Final = 8
"""Proofs of logs from the disk that are checked in one go: 1 ms."""


class Table:
    """All logs that a node holds. Pure: `now` (monotonic seconds) only ages the tombstones of our own logs."""

    def __init__(
        self,
        *,
        node_id: NodeId,
        label: bytes,
        tombstone_s: float,
        now: float,
        proofs: LogProofs | None,
        own_logs: Iterable[Log] = (),
        replicas: Iterable[Log] = (),
        signers: Iterable[NodeId] = (),
    ) -> None:
        self._node_id = node_id
        self._hash_key = blake2b(label, person=b"netgossip table").digest()
        self._tombstone_s = tombstone_s
        self._proofs = proofs
        """None: this node signs nothing, checks no proof and keeps none."""
        self.required = False
        """True: no owner is believed without its signature."""
        self._signers: set[NodeId] = set()
        """Owners that have signed."""
        self._unchecked: deque[tuple[Scope, NodeId]] = deque()
        """Logs that came from the disk with a proof, which has not been checked since."""
        self._held: set[Scope] = {CLUSTER_SCOPE}
        self._logs: dict[Scope, dict[NodeId, RecordLog]] = {}
        self._fingerprints: dict[Scope, int] = {}
        self._weight_bytes = 0
        """Of all logs together."""
        self._dropped: dict[tuple[Scope, NodeId], Version] = {}
        self._own_scopes: set[Scope] = set()
        self._own_dropped: dict[Scope, Version] = {}
        """The version of our own log of a scope when it was dropped: copies that peers hold up to it do not bring it
        back."""
        self._reported_dropped: dict[Scope, Version] = {}
        """The same for logs in which we never wrote: they displace none of the others."""
        self._reported: dict[Scope, NodeId] = {}
        """Scopes with a log of ours in which we never wrote, and the peer whose report made us begin it; "": before a
        restart."""
        self._reported_by: Counter[NodeId] = Counter()
        self._raised_by: Counter[tuple[Scope, NodeId]] = Counter()
        """How often each peer made us raise our log of a scope that we use."""
        self._tombstones: dict[Scope, deque[tuple[int, float]]] = {}
        for log in own_logs:
            self._load(log)
            tombstones = [(e.version.sequence, now) for e in log.entries.values() if e.value is None]
            self._tombstones[log.scope] = deque(sorted(tombstones))
        for log in replicas:
            if log.owner != node_id:
                self._load(log)
                if log.proof:
                    self._note_signer(log.owner)
                    self._unchecked.append((log.scope, log.owner))
        for owner in signers:
            self._note_signer(owner)

    # Reading.

    def holds(self, scope: Scope) -> bool:
        """True when others' logs of the scope are kept."""
        return scope in self._held

    def concerns(self, scope: Scope) -> bool:
        """True when the scope is held, or has a log of ours."""
        return scope in self._held or scope in self._own_scopes

    def version(self, scope: Scope, owner: NodeId) -> Version:
        """The version of the log, or of the log that was dropped; NO_VERSION when it was never known."""
        log = self._logs.get(scope, {}).get(owner)
        return log.version if log is not None else self._dropped.get((scope, owner), NO_VERSION)

    def base(self, scope: Scope, owner: NodeId) -> Version:
        """From where on a delta of the log is of use: its version; NO_VERSION when we do not hold it. A log that was
        dropped has a version, but no content that a delta could extend."""
        log = self._logs.get(scope, {}).get(owner)
        return NO_VERSION if log is None else log.version

    def own_version(self, scope: Scope) -> Version:
        """The version of our own log."""
        return self.version(scope, self._node_id)

    def digest(self, scope: Scope, owner: NodeId) -> int | None:
        """Sum over the log's live entries; None when we do not hold it."""
        log = self._logs.get(scope, {}).get(owner)
        return None if log is None else log.digest

    def is_signer(self, owner: NodeId) -> bool:
        """True if the owner's logs count only with its signature: it has signed one, and this node checks that."""
        return owner in self._signers

    @property
    def has_unchecked(self) -> bool:
        """True while a log is held as it was on the disk, and `recheck` has not come to it."""
        return bool(self._unchecked)

    def recheck(self) -> int:
        """Check the proofs of a few logs from the disk; return how many were wrong. Those are held without a proof
        from then on: no peer takes them from us, and what their owners prove replaces them."""
        wrong = 0
        for _ in range(min(RECHECKED_AT_ONCE, len(self._unchecked))):
            scope, owner = self._unchecked.popleft()
            log = self._logs.get(scope, {}).get(owner)
            # One that has changed since was checked then, which costs the same once more.
            if log is None or self._proofs is None or not log.proof:
                continue
            if not self._proofs.is_valid(log.proof, scope, owner, log.version, log.set_hash):
                log.proof = b""
                wrong += 1
        return wrong

    def lacks_proof(self, scope: Scope, owner: NodeId) -> bool:
        """True for another's log that we hold without its proof, and could check."""
        log = self._logs.get(scope, {}).get(owner)
        return self._proofs is not None and log is not None and not log.proof and owner != self._node_id

    def fingerprint(self, scope: Scope) -> int:
        """Equal on two nodes exactly when their vectors are."""
        return self._fingerprints.get(scope, 0)

    def vector(self, scope: Scope) -> Slices[tuple[Row, ...]]:
        """Version and digest of every log of the scope, each as its log is when its turn comes: what we hold never
        becomes less than that, except for logs that are dropped."""
        rows = []
        for number, owner in enumerate(self.owners(scope), 1):
            log = self._logs.get(scope, {}).get(owner)
            if log is not None:
                rows.append(Row(owner, log.version, log.digest))
            if number % ROWS_PER_SLICE == 0:
                yield
        return tuple(rows)

    def owners(self, scope: Scope) -> tuple[NodeId, ...]:
        """The owners of the logs of the scope, in a fixed order."""
        return tuple(sorted(self._logs.get(scope, ())))

    def scopes(self) -> frozenset[Scope]:
        """The scopes that are held, and those in which we have a log of our own."""
        return frozenset(self._held) | self.own_scopes()

    def outline(self, scope: Scope) -> dict[NodeId, tuple[Version, int]]:
        """The version and number of entries of every log of the scope, without copying any."""
        return {owner: (log.version, len(log.entries)) for owner, log in self._logs.get(scope, {}).items()}

    def size(self, scope: Scope) -> tuple[int, int]:
        """The number of records of all logs of the scope, without tombstones, and their bytes. Costs the owners."""
        logs = self._logs.get(scope, {}).values()
        return sum(log.live_count for log in logs), sum(log.size_bytes for log in logs)

    def log(self, scope: Scope, owner: NodeId) -> Log | None:
        """A copy of one log."""
        log = self._logs.get(scope, {}).get(owner)
        if log is None:
            return None
        return Log(scope, owner, log.epoch, log.head, log.collected, dict(log.entries), log.proof)

    def logs(self, scope: Scope) -> tuple[Log, ...]:
        """Copies of all logs of the scope, by owner."""
        found = (self.log(scope, owner) for owner in sorted(self._logs.get(scope, {})))
        return tuple(log for log in found if log is not None)

    def delta(self, scope: Scope, owner: NodeId, since: Version) -> Delta | None:
        """Return the delta that advances a holder of `since` to our version; None when ours is not newer."""
        log = self._logs.get(scope, {}).get(owner)
        if log is None or since >= log.version:
            return None
        base = since.sequence if since.epoch == log.epoch and since.sequence >= log.collected else 0
        return self._delta(scope, owner, log, base)

    def proof(self, scope: Scope, owner: NodeId, of: Version) -> Delta | None:
        """Return a delta without entries that brings a holder of our version the proof of it; None if we hold
        another version, or no proof."""
        log = self._logs.get(scope, {}).get(owner)
        if log is None or log.version != of:
            return None
        delta = self._delta(scope, owner, log, log.head)
        return delta if delta.proof else None

    def _delta(self, scope: Scope, owner: NodeId, log: RecordLog, base: int) -> Delta:
        if owner == self._node_id and self._proofs is not None and not log.proof:
            # Once for each version that is sent, whichever peers it is sent to.
            log.proof = self._proofs.sign(scope, log.version, log.set_hash)
        entries = log.since(base)
        return Delta(scope, owner, log.epoch, base, log.head, log.collected, log.digest, entries, log.proof)

    # Our own logs.

    def prepare(self, changes: Sequence[tuple[Scope, bytes, bytes | None]]) -> tuple[Entry, ...]:
        """Assign the next versions to changes (None deletes). Changes no state. Raises GossipUsageError."""
        heads: dict[Scope, int] = {}
        counts: dict[Scope, int] = {}
        sizes: dict[Scope, int] = {}
        entries = []
        replaced: dict[tuple[Scope, bytes], int] = {}
        for scope, key, value in changes:
            if len(scope) != 16:
                raise GossipUsageError(f"a scope has 16 bytes, not {len(scope)}")
            if not 1 <= len(key) <= KEY_LIMIT_BYTES:
                raise GossipUsageError(f"a key has 1 to {KEY_LIMIT_BYTES} bytes, not {len(key)}")
            if value is not None and len(value) > VALUE_LIMIT_BYTES:
                raise GossipUsageError(f"a value has at most {VALUE_LIMIT_BYTES} bytes, not {len(value)}")
            log = self._logs.get(scope, {}).get(self._node_id)
            before = log.entries.get(key) if log else None
            size_before = len(key) + len(before.value or b"") if before else 0
            size = len(key) + len(value or b"")
            sizes[scope] = sizes.get(scope, log.size_bytes if log else 0)
            sizes[scope] += size - replaced.get((scope, key), size_before)
            replaced[scope, key] = size
            if value is not None and sizes[scope] > LOG_LIMIT_BYTES:
                raise GossipUsageError(f"our log of scope {scope.hex()} would exceed {LOG_LIMIT_BYTES} bytes")
            counts[scope] = counts.get(scope, len(log.entries) if log else 0)
            counts[scope] += 0 if log and key in log.entries else 1
            if value is not None and counts[scope] > ENTRIES_LIMIT:
                raise GossipUsageError(f"our log of scope {scope.hex()} would exceed {ENTRIES_LIMIT} entries")
            heads[scope] = heads.get(scope, log.head if log else 0) + 1
            version = Version(log.epoch if log else 1, heads[scope])
            entries.append(Entry(scope, self._node_id, key, value, version))
        return tuple(entries)

    def commit(self, entries: Sequence[Entry], now: float) -> tuple[EntriesChanged, ...]:
        """Apply what `prepare` returned, one event per scope.

        If the epoch was raised in between, the entries get new versions, which the events contain. Raises
        GossipUsageError, and changes nothing, when other changes were committed since `prepare`.
        """
        by_scope: dict[Scope, list[Entry]] = {}
        for entry in entries:
            by_scope.setdefault(entry.scope, []).append(entry)
        for scope, group in by_scope.items():
            own = self.own_version(scope)
            if group[0].version.epoch == max(own.epoch, 1) and group[0].version.sequence != own.sequence + 1:
                raise GossipUsageError(f"entries of scope {scope.hex()} were prepared against an older log")
        return tuple(self._commit_scope(scope, group, now) for scope, group in by_scope.items())

    def _commit_scope(self, scope: Scope, group: list[Entry], now: float) -> EntriesChanged:
        log = self._own(scope)
        log.proof = b""
        applied = []
        self._subtract(scope, self._node_id, log)
        self._collect(scope, log, now)
        for entry in group:
            log.head += 1
            current = Entry(scope, self._node_id, entry.key, entry.value, Version(log.epoch, log.head))
            log.put(current)
            applied.append(current)
            if current.value is None:
                self._tombstones.setdefault(scope, deque()).append((log.head, now))
        self._add(scope, self._node_id, log)
        return _changed(scope, self._node_id, log, tuple(applied))

    def _collect(self, scope: Scope, log: RecordLog, now: float) -> None:
        """Drop tombstones that are old enough. The live entries, and thus the digest, stay unchanged."""
        tombstones = self._tombstones.get(scope, deque())
        collected = log.collected
        while tombstones and tombstones[0][1] + self._tombstone_s <= now:
            collected = tombstones.popleft()[0]
        if collected > log.collected:
            log.collect_tombstones(collected)

    def rewrites(
        self, now: float, may_rewrite: Callable[[Scope, bytes], bool]
    ) -> tuple[tuple[Scope, bytes, bytes], ...]:
        """Return a change for each of our logs with many tombstones that the next change drops: a live entry,
        unchanged, that the application allows. None where there is no such entry: a log of tombstones only is one
        that we have left, and is dropped with its scope."""
        found = []
        for scope in sorted(self._own_scopes):
            # In order of time: if the one at this index is overdue, so are all before it.
            tombstones = self._tombstones.get(scope, ())
            if (
                len(tombstones) < TOMBSTONES_LIMIT
                or tombstones[TOMBSTONES_LIMIT - 1][1] + self._tombstone_s > now
            ):
                continue
            for entry in self._logs[scope][self._node_id].entries.values():
                if entry.value is not None and may_rewrite(scope, entry.key):
                    found.append((scope, entry.key, entry.value))
                    break
        return tuple(found)

    def raise_above(
        self, scope: Scope, heard: Version, digest: int | None = None, *, reporter: NodeId = ""
    ) -> tuple[Event, ...]:
        """Handle a peer's version (and content) of our own log. If that is a history which we lost, raise our log
        above it, also in a scope of which we know nothing: we may have been in it after the backup that we were
        restored from."""
        log = self._logs.get(scope, {}).get(self._node_id)
        dropped = self._own_dropped.get(scope, self._reported_dropped.get(scope, NO_VERSION))
        own = log.version if log is not None else dropped
        same_past = heard < own or (heard == own and (log is None or digest is None or digest == log.digest))
        if same_past or not is_plausible(heard.epoch, own.epoch):
            return ()  # an epoch that no number of restored disks reaches is forged, and others refuse it as well
        if self.concerns(scope) and not self.is_only_reported(scope) and self._proofs is not None:
            if self._raised_by[scope, reporter] >= RAISES_LIMIT:
                return ()  # no disk loses so much: each raise makes us issue all that we have again
            self._raised_by[scope, reporter] += 1
        if not self.concerns(scope):
            if len(self._reported) >= OWN_SCOPES_LIMIT or self._reported_by[reporter] >= REPORTED_LIMIT:
                return ()  # limits the growth that a peer can cause by inventing scopes
            self._note_reported(scope, reporter)
        live = [] if log is None else [e for e in log.entries.values() if e.value is not None]
        if log is not None:
            self._subtract(scope, self._node_id, log)
        raised = self._new_log(heard.epoch + 1)
        for entry in live:
            raised.head += 1
            version = Version(raised.epoch, raised.head)
            raised.put(Entry(scope, self._node_id, entry.key, entry.value, version))
        self._logs.setdefault(scope, {})[self._node_id] = raised
        self._own_scopes.add(scope)
        self._tombstones.pop(scope, None)
        self._add(scope, self._node_id, raised)
        everything = tuple(raised.entries.values())
        return (
            OwnLogRaised(scope, raised.epoch),
            _changed(scope, self._node_id, raised, everything, replaced=True),
        )

    def own_scopes(self) -> frozenset[Scope]:
        """The scopes in which we have a log of our own."""
        return frozenset(self._own_scopes)

    def drop_own(self, scope: Scope) -> None:
        """Drop our own log of a scope that no node uses any more."""
        log = self._logs.get(scope, {}).pop(self._node_id, None)
        if log is not None:
            self._subtract(scope, self._node_id, log)
            dropped = self._reported_dropped if scope in self._reported else self._own_dropped
            dropped.pop(scope, None)
            dropped[scope] = log.version
            if len(dropped) > OWN_DROPPED_LIMIT:
                del dropped[next(iter(dropped))]
        self._own_scopes.discard(scope)
        for key in [key for key in self._raised_by if key[0] == scope]:
            del self._raised_by[key]
        self._use(scope)
        self._tombstones.pop(scope, None)
        if not self._logs.get(scope):
            self._logs.pop(scope, None)
            self._fingerprints.pop(scope, None)

    def is_only_reported(self, scope: Scope) -> bool:
        """True for a log of ours in which we never wrote: it exists only because a peer reported that it
        holds one."""
        return scope in self._reported

    def _note_reported(self, scope: Scope, reporter: NodeId) -> None:
        self._reported[scope] = reporter
        self._reported_by[reporter] += 1

    def _use(self, scope: Scope) -> None:
        """Note that we use the scope: it no longer counts as one that only a peer reported."""
        reporter = self._reported.pop(scope, None)
        if reporter is not None:
            self._reported_by[reporter] -= 1
            if not self._reported_by[reporter]:
                del self._reported_by[reporter]

    # Others' logs.

    def hold(self, scope: Scope) -> None:
        """Keep others' logs of the scope from now on."""
        self._held.add(scope)
        self._use(scope)

    def release(self, scope: Scope) -> None:
        """Drop others' logs of the scope; ours stays."""
        self._held.discard(scope)
        logs = self._logs.get(scope, {})
        for owner in [owner for owner in logs if owner != self._node_id]:
            self._subtract(scope, owner, logs.pop(owner))
        for key in [key for key in self._dropped if key[0] == scope]:
            del self._dropped[key]

    def scopes_of(self, owner: NodeId) -> frozenset[Scope]:
        """The scopes in which we hold a log of the owner."""
        return frozenset(scope for scope, logs in self._logs.items() if owner in logs)

    def readmit(self, owner: NodeId) -> None:
        """Accept copies of the owner's dropped logs again."""
        for key in [key for key in self._dropped if key[1] == owner]:
            del self._dropped[key]

    def drop(self, owner: NodeId) -> None:
        """Drop another owner's logs, and refuse copies of what was dropped."""
        for scope, logs in self._logs.items():
            if owner in logs and owner != self._node_id:
                log = logs.pop(owner)
                self._subtract(scope, owner, log)
                self._dropped[scope, owner] = log.version
                if len(self._dropped) > DROPPED_LIMIT:
                    del self._dropped[next(iter(self._dropped))]

    def merge(self, delta: Delta, *, from_owner: bool) -> Slices[tuple[Merge, EntriesChanged | None]]:
        """Apply a delta of another owner's log, if it advances ours (merge.py). Readers never see a part: a long
        delta is prepared beside the table, and put there as a whole if it still fits by then. So its effect is that
        of a merge in one go at the time of the last slice."""
        if delta.base == 0:
            log = self._new_log(delta.epoch)
            if (useless := self._useless(delta, from_owner=from_owner)) is None:
                yield from log.put_all(delta.entries)
                log.head, log.collected = delta.head, delta.collected
                useless = self._useless(delta, from_owner=from_owner)
            return (useless, None) if useless is not None else self._replace(delta, log)
        while (useless := self._useless(delta, from_owner=from_owner)) is None:
            held = self._logs[delta.scope][delta.owner]
            head = held.head
            # They are in order of sequence.
            at = bisect_right(delta.entries, head, key=lambda entry: entry.version.sequence)
            fresh = delta.entries[at:]
            if len(fresh) <= held.entries_per_slice:
                return self._extend(held, delta, fresh)
            log = held.copy()
            yield from log.put_all(fresh)
            if self._logs.get(delta.scope, {}).get(delta.owner) is held and held.head == head:
                return self._supersede(log, delta, fresh)
        return useless, None

    def _useless(self, delta: Delta, *, from_owner: bool) -> Merge | None:
        if delta.owner == self._node_id or delta.scope not in self._held:
            return Merge.REFUSED
        if delta.epoch >= EPOCH_LIMIT and not from_owner:
            return Merge.REFUSED
        log = self._logs.get(delta.scope, {}).get(delta.owner)
        reason = reject_reason(delta, log, self.version(delta.scope, delta.owner), from_owner=from_owner)
        if reason is Merge.KNOWN and self._brings_proof(delta, log):
            reason = None
        # What can be said without looking at an entry comes first: it costs the liar more than us.
        return self._bad_form(delta) if reason is None else reason

    def _brings_proof(self, delta: Delta, log: RecordLog | None) -> bool:
        """True if the delta may prove what we hold unproven, or replace it at the same version."""
        if self._proofs is None or log is None or not delta.proof:
            return False
        return not log.proof and delta.version == log.version

    def _bad_form(self, delta: Delta) -> Merge | None:
        """Return why the delta is refused whatever it leads to."""
        if self._proofs is None:
            return None
        if delta.proof:
            return None if names_owner(delta.proof, delta.owner) else Merge.FORGED
        log = self._logs.get(delta.scope, {}).get(delta.owner)
        signs = delta.owner in self._signers or (log is not None and bool(log.proof))
        return Merge.UNSIGNED if signs or self.required else None

    def _unproven(self, delta: Delta, set_hash: int) -> Merge | None:
        """Return why the content to which the delta leads is not believed to be its owner's."""
        if self._proofs is None or not delta.proof:
            return self._bad_form(delta)  # again: between two slices the owner may have shown that it signs
        is_valid = self._proofs.is_valid(delta.proof, delta.scope, delta.owner, delta.version, set_hash)
        return None if is_valid else Merge.FORGED

    def _unfit(self, delta: Delta, log: RecordLog, sums: Sums, entries: int) -> Merge | None:
        """Return why a delta that leads from `log`, which we hold, to this content is not applied. Where the fault
        may be in what we hold, the whole log is asked for: it is judged alone."""
        match verify(delta, sums.digest, sums.size_bytes, entries) or self._unproven(delta, sums.set_hash):
            case Merge.REFUSED:
                return Merge.DIVERGED  # a liar may have added tombstones, which no proof covers
            case Merge.FORGED if not log.proof:
                return Merge.DIVERGED
            case reason:
                return reason

    def _note_proof(self, delta: Delta, log: RecordLog) -> None:
        """Keep the proof of the log that the delta led to."""
        log.proof = delta.proof if self._proofs is not None else b""
        if log.proof:
            self._note_signer(delta.owner)

    def _note_signer(self, owner: NodeId) -> None:
        if self._proofs is not None and owner != self._node_id and len(self._signers) < SIGNERS_LIMIT:
            self._signers.add(owner)

    def _replace(self, delta: Delta, log: RecordLog) -> tuple[Merge, EntriesChanged | None]:
        """Put a log that is made from the delta alone."""
        if verify(delta, log.digest, log.size_bytes, len(log.entries)) is not None:
            return Merge.REFUSED, None
        if (unproven := self._unproven(delta, log.set_hash)) is not None:
            return unproven, None
        held = self._logs.get(delta.scope, {}).get(delta.owner)
        if self._is_too_much(log.weight_bytes - (held.weight_bytes if held is not None else 0)):
            return Merge.REFUSED, None
        self._dropped.pop((delta.scope, delta.owner), None)
        self._note_proof(delta, log)
        self._put(delta, log)
        return Merge.APPLIED, _changed(delta.scope, delta.owner, log, delta.entries, replaced=True)

    def _supersede(
        self, log: RecordLog, delta: Delta, fresh: tuple[Entry, ...]
    ) -> tuple[Merge, EntriesChanged | None]:
        """Put `log`, a copy of the one that we hold with `fresh` added."""
        if (refused := self._unfit(delta, log, log.sums, len(log.entries))) is not None:
            return refused, None
        if self._is_too_much(log.weight_bytes - self._logs[delta.scope][delta.owner].weight_bytes):
            return Merge.REFUSED, None
        log.reach(delta.head, delta.collected)
        self._note_proof(delta, log)
        self._put(delta, log)
        return Merge.APPLIED, _changed(delta.scope, delta.owner, log, fresh)

    def _is_too_much(self, growth_bytes: int) -> bool:
        return growth_bytes > 0 and self._weight_bytes + growth_bytes > TABLE_LIMIT_BYTES

    def _put(self, delta: Delta, log: RecordLog) -> None:
        logs = self._logs.setdefault(delta.scope, {})
        if delta.owner in logs:
            self._subtract(delta.scope, delta.owner, logs[delta.owner])
        logs[delta.owner] = log
        self._add(delta.scope, delta.owner, log)

    def _extend(
        self, log: RecordLog, delta: Delta, fresh: tuple[Entry, ...]
    ) -> tuple[Merge, EntriesChanged | None]:
        """Add a few entries in place: copying a large log would cost more."""
        sums = log.sums_after(fresh)
        added = sum(entry.key not in log.entries for entry in fresh)
        if (refused := self._unfit(delta, log, sums, len(log.entries) + added)) is not None:
            return refused, None
        if self._is_too_much(sums.size_bytes - log.size_bytes + added * ENTRY_BYTES):
            return Merge.REFUSED, None
        self._subtract(delta.scope, delta.owner, log)
        log.put_few(fresh, sums)
        log.reach(delta.head, delta.collected)
        self._note_proof(delta, log)
        self._add(delta.scope, delta.owner, log)
        return Merge.APPLIED, _changed(delta.scope, delta.owner, log, fresh)

    # Internals.

    def _new_log(self, epoch: int) -> RecordLog:
        return RecordLog(epoch, self._hash_key, has_set_hash=self._proofs is not None)

    def _own(self, scope: Scope) -> RecordLog:
        self._use(scope)
        logs = self._logs.setdefault(scope, {})
        if self._node_id not in logs:
            logs[self._node_id] = self._new_log(1)
            self._own_scopes.add(scope)
            self._add(scope, self._node_id, logs[self._node_id])
        return logs[self._node_id]

    def _load(self, saved: Log) -> None:
        log = RecordLog.load(saved, self._hash_key, has_set_hash=self._proofs is not None)
        self._logs.setdefault(saved.scope, {})[saved.owner] = log
        if saved.owner == self._node_id:
            log.proof = b""  # signed anew: not with the key of a former identity
            self._own_scopes.add(saved.scope)
            if log.head == 0:
                self._note_reported(saved.scope, "")
        self._add(saved.scope, saved.owner, log)

    def _row_hash(self, owner: NodeId, log: RecordLog) -> int:
        row = f"{owner} {log.epoch} {log.head} {log.digest}".encode()
        return int.from_bytes(blake2b(row, digest_size=16, key=self._hash_key).digest(), "big")

    def _add(self, scope: Scope, owner: NodeId, log: RecordLog) -> None:
        self._fingerprints[scope] = (self.fingerprint(scope) + self._row_hash(owner, log)) % MODULUS
        self._weight_bytes += log.weight_bytes

    def _subtract(self, scope: Scope, owner: NodeId, log: RecordLog) -> None:
        self._fingerprints[scope] = (self.fingerprint(scope) - self._row_hash(owner, log)) % MODULUS
        self._weight_bytes -= log.weight_bytes

    def check_invariants(self) -> None:
        """Assert that the incrementally kept sums and indexes match the entries."""
        assert self._own_scopes == {scope for scope, logs in self._logs.items() if self._node_id in logs}
        assert self._reported.keys() <= self._own_scopes - self._held
        assert self._reported_by == Counter(self._reported.values())
        for scope in self._reported:
            assert not self._logs[scope][self._node_id].entries
        for scope, logs in self._logs.items():
            for owner, log in logs.items():
                log.check_invariants()
                assert self._proofs is not None or not log.proof
                assert all(entry.owner == owner and entry.scope == scope for entry in log.entries.values())
            rows = sum(self._row_hash(owner, log) for owner, log in logs.items())
            assert self.fingerprint(scope) == rows % MODULUS
        every = (log for logs in self._logs.values() for log in logs.values())
        assert self._weight_bytes == sum(log.weight_bytes for log in every)


def _changed(
    scope: Scope, owner: NodeId, log: RecordLog, entries: tuple[Entry, ...], *, replaced: bool = False
) -> EntriesChanged:
    return EntriesChanged(scope, owner, log.epoch, log.head, log.collected, entries, replaced, log.proof)
