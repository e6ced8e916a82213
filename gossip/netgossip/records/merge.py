"""The rule by which logs merge: whether a delta of another's log applies, and its outcome."""

from __future__ import annotations

import enum
from typing import Final

from netgossip.records.record_log import RecordLog
from netgossip.records.wire import ENTRIES_LIMIT, Delta
from netgossip.types import Version

LOG_LIMIT_BYTES: Final = 8 * 1024 * 1024
"""Bound of one log; beyond it: own change refused; another's log refused. 20,000 endpoint records of 400 bytes:
twenty times the most that one host is planned to carry. There are at most ENTRIES_LIMIT of them, however small: with
their overhead, a log takes at most 18 MiB."""
TABLE_LIMIT_BYTES: Final = 512 * 1024 * 1024
"""Bound of all logs together, including the overhead per entry; beyond it: additions to another's log are refused;
what is held stays; own changes are accepted. 500,000 endpoint records."""
EPOCH_LIMIT: Final = 1 << 62
"""Epochs from here on are believed only of the owner itself: it can go above any version that others claim of its
log."""
EPOCH_LEAP: Final = 1 << 20
"""How far beyond EPOCH_LIMIT, or its own epoch above that, the owner follows what peers say that they hold."""


class Merge(enum.Enum):
    """The outcome of a delta."""

    APPLIED = "applied"
    KNOWN = "known"
    """The delta contains nothing new."""
    GAP = "gap"
    """We hold less than its base: ask from our version on."""
    DIVERGED = "diverged"
    """The delta does not lead to the content it announces: ask for the whole log."""
    REFUSED = "refused"
    """The delta is of a scope that we do not hold, of our own log, of a log that is too large, of an epoch that only
    its owner could announce, or too much together with all that we hold."""
    UNSIGNED = "unsigned"
    """The delta carries no proof, and its owner has signed before."""
    FORGED = "forged"
    """The owner did not sign the content that the delta leads to."""


def reject_reason(delta: Delta, log: RecordLog | None, have: Version, *, from_owner: bool) -> Merge | None:
    """Return why a delta can't be applied to the log that we hold, which is at `have`; None if it can.

    The owner's whole log may also replace a log of the same version: it knows its content best. If a lost disk left
    two contents of one version and the owner is gone, the higher digest wins, so that all agree.
    """
    corrects = (
        delta.base == 0
        and log is not None
        and (delta.digest != log.digest if from_owner else delta.digest > log.digest)
    )
    if delta.version < have or (delta.version == have and not corrects):
        return Merge.KNOWN
    if delta.base > 0 and (log is None or delta.epoch != log.epoch or delta.base > log.head):
        return Merge.GAP
    return None


def verify(delta: Delta, digest: int, size_bytes: int, entries: int) -> Merge | None:
    """Return why a delta that led to this content must not be applied; None if it may."""
    if digest != delta.digest:
        return Merge.DIVERGED
    return Merge.REFUSED if size_bytes > LOG_LIMIT_BYTES or entries > ENTRIES_LIMIT else None


def is_plausible(epoch: int, own_epoch: int) -> bool:
    """True if the owner, at `own_epoch`, may go above `epoch`, at which a peer claims to hold its log."""
    return epoch < max(EPOCH_LIMIT, own_epoch) + EPOCH_LEAP
