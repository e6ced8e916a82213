"""How a view catches up with another one of the same agent, in slices, and keeps some scopes as they are. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import chain
from typing import Final

from netagent.registry.derive import StoreBuilder
from netagent.registry.store import StoredRecord
from netagent.registry.view import RegistryView
from netgossip.slices import Slices
from netgossip.types import Scope

RECORDS_PER_SLICE: Final = 20
"""About 2 ms."""
COMPARED_PER_SLICE: Final = 512


def approach(view: RegistryView, base: RegistryView, kept: frozenset[Scope]) -> Slices[RegistryView]:
    """Return the view with the truth of `base`, except what others wrote in the scopes `kept`, in slices.

    Two views of one agent share most of their logs as the very same objects, so the cost is proportional to what
    differs, plus one comparison per log.
    """
    mine, theirs = view.store, base.store
    logs = dict.fromkeys(chain(mine.records, mine.refused, theirs.records, theirs.refused))
    for number, where in enumerate(logs, 1):
        is_same = mine.records.get(where) is theirs.records.get(where)
        is_same = is_same and mine.refused.get(where) is theirs.refused.get(where)
        if not is_same and (where[0] not in kept or where[1] == view.local):
            keys = _keys_that_differ(*(one.records.get(where, {}) for one in (mine, theirs)))
            for start in range(0, len(keys), RECORDS_PER_SLICE):
                piece = keys[start : start + RECORDS_PER_SLICE]
                view = view.edited(partial(StoreBuilder.copy_records, source=theirs, where=where, keys=piece))
                yield
            view = view.edited(partial(StoreBuilder.share_log, source=theirs, where=where))
        if number % COMPARED_PER_SLICE == 0:
            yield
    yield
    return view.edited(partial(StoreBuilder.copy_sight, source=theirs))


def _keys_that_differ(
    mine: Mapping[bytes, StoredRecord], theirs: Mapping[bytes, StoredRecord]
) -> list[bytes]:
    if mine is theirs:
        return []
    gone = [key for key in mine if key not in theirs]
    return gone + [key for key, value in theirs.items() if mine.get(key) != value]
