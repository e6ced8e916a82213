"""Held evictions: a record that evicts a host which is alive does not take effect at once.

Such a record takes all addresses and names from the host, and makes the host itself rejoin: no other record does as
much. An ordinary eviction is of a dead host: a host that receives it then, or when its writer or the evicted host
comes back from where it was away, believes it. A record that comes while both its writer and the host have been in
touch with us for CALM_S was forced by an operator (`netagent forget --force`), or is forged. It waits for HOLD_S and
`status` warns about it; meanwhile the writer can take it back, or the host can say the same of the writer: then
neither counts (netagent.registry.conflict_rules). If the host falls silent before, it counts. Our own records never
wait.

An eviction of a compromised host (`netagent revoke`) must count at once, and can't be contested. So one lying member
could end the cluster: of one writer only the first that is of a live host counts at once, each further one HOLD_S
after the one before, or as soon as another host says the same. Meanwhile an operator can revoke the writer, whose
words end with that.

A held record is in the journal. So after a start of the agent it counts, like one that came while we were away.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from netagent.model.ids import HostId
from netagent.model.records import ForgetRecord
from netagent.registry.record_codec import RecordError, decode_untrusted, key_of
from netgossip.types import CLUSTER_SCOPE, EntriesChanged, Entry, Member, MemberState

CALM_S: Final = 600.0
"""After a partition or a start, all that happened meanwhile arrives well within this time."""
SILENT_S: Final = 10.0
"""A host that the membership holds dead for less than this has not been away: one false claim does that, and the host
refutes it within a second or two."""
HOLD_S: Final = 300.0
"""Time for an operator to contest it."""
MAX_HELD: Final = 1024
"""Bound of evictions of hosts that are alive, held back for 300 s; beyond it: a further one counts at once. An
attacker that writes so many controls the cluster already."""

_LIVE: Final = (MemberState.ALIVE, MemberState.SUSPECT)
_Place = tuple[HostId, bytes]


@dataclass(frozen=True, slots=True)
class HeldEviction:
    """`writer` says that `host` is gone for good; this takes effect at `due_at`."""

    writer: HostId
    host: HostId
    due_at: float
    entry: Entry
    is_compromised: bool = False
    """It says so of the host."""


class HeldEvictions:
    """The evictions that wait, and since when each host has been in touch. `now` is the monotonic clock's."""

    def __init__(self, local: HostId) -> None:
        self._local = local
        self._live_since: dict[HostId, float] = {}
        self._gone_since: dict[HostId, float] = {}
        """Of hosts that were live; they stay in `_live_since` until it is certain that they are gone."""
        self._held: dict[_Place, HeldEviction] = {}
        self._next_at: dict[HostId, float] = {}
        """Writer -> when its next eviction of a compromised host that is live may count."""

    @property
    def waiting(self) -> tuple[HeldEviction, ...]:
        """Those that do not count yet."""
        return tuple(self._held.values())

    def note_member(self, member: Member, now: float) -> None:
        """Note what the membership reports of a host; of this one nothing counts until `note_synced`."""
        if member.node_id == self._local:
            return
        host_id = HostId(member.node_id)
        if member.state in _LIVE:
            self._drop_silent(now)
            self._gone_since.pop(host_id, None)
            self._live_since.setdefault(host_id, now)
        elif host_id in self._live_since:
            self._gone_since.setdefault(host_id, now)

    def note_gone(self, host_id: HostId) -> None:
        """Note that the membership has removed the host."""
        self._live_since.pop(host_id, None)
        self._gone_since.pop(host_id, None)

    def _drop_silent(self, now: float) -> None:
        for host_id in [one for one, since in self._gone_since.items() if now >= since + SILENT_S]:
            self.note_gone(host_id)

    def note_synced(self, now: float) -> None:
        """Note that this host knows from now on what the others know."""
        self._live_since.setdefault(self._local, now)

    def sift(self, event: EntriesChanged, now: float) -> EntriesChanged:
        """Return the event without the evictions that must wait; those that it takes back or contradicts stop
        waiting."""
        if event.scope != CLUSTER_SCOPE or event.owner == self._local:
            return event
        writer = HostId(event.owner)
        former = {key: one for (of, key), one in self._held.items() if of == writer}
        if event.replaced:
            for key in former:
                del self._held[writer, key]
        kept = tuple(
            entry for entry in event.entries if not self._must_wait(writer, entry, now, former.get(entry.key))
        )
        return event if len(kept) == len(event.entries) else replace(event, entries=kept)

    def _must_wait(
        self, writer: HostId, entry: Entry, now: float, former: HeldEviction | None = None
    ) -> bool:
        if entry.key[:1] != b"f":
            return False
        self._held.pop((writer, entry.key), None)
        record = _eviction(entry)
        if record is None or len(self._held) >= MAX_HELD:
            return False
        host = record.host_id
        self._drop_silent(now)
        if record.compromised:
            return self._must_take_its_turn(writer, entry, now, former)
        calm_since = now - CALM_S
        if any(self._live_since.get(one, now) > calm_since for one in (writer, host)):
            return False
        self._held[writer, entry.key] = HeldEviction(writer, host, now + HOLD_S, entry)
        return True

    def _must_take_its_turn(
        self, writer: HostId, entry: Entry, now: float, former: HeldEviction | None
    ) -> bool:
        host = HostId(entry.key[1:].hex())
        if self._local not in self._live_since or host not in self._live_since:
            return False  # after a start, or of a host that is away already
        due_at = now
        if former is not None and former.is_compromised:
            due_at = former.due_at
        else:
            due_at = max(now, self._next_at.get(writer, now))
            self._next_at[writer] = due_at + HOLD_S
        if due_at <= now:
            return False
        self._held[writer, entry.key] = HeldEviction(writer, host, due_at, entry, is_compromised=True)
        return True

    def take_due(self, forgotten: Iterable[HostId], now: float) -> list[EntriesChanged]:
        """Return the evictions that count from now on. Those whose writer is in `forgotten` never will."""
        self._drop_silent(now)
        gone = frozenset(forgotten)
        said = {(word.writer, word.host) for word in self._held.values()}
        accused = Counter(word.host for word in self._held.values() if word.is_compromised)
        due = []
        for place, word in list(self._held.items()):
            if word.writer in gone:
                del self._held[place]
            elif (
                word.due_at <= now
                or word.host not in self._live_since
                or (word.host, word.writer) in said  # both at once, or the first would count alone meanwhile
                or accused[word.host] > 1
            ):
                del self._held[place]
                version, entry = word.entry.version, word.entry
                due.append(
                    EntriesChanged(
                        entry.scope, word.writer, version.epoch, version.sequence, 0, (entry,), replaced=False
                    )
                )
        return due


def _eviction(entry: Entry) -> ForgetRecord | None:
    """Return the eviction that an entry holds; None for any other entry."""
    if entry.value is None:
        return None
    try:
        record = decode_untrusted(entry.value)
    except RecordError:
        return None
    if not isinstance(record, ForgetRecord) or not record.settled:
        return None
    # Under another key the registry refuses it. If it waited all the same, one writer could take all slots with
    # records about one host, and the next one would count at once.
    return record if key_of(record) == (entry.scope, entry.key) else None
