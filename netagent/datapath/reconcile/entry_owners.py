"""Which claimants want which entries, and which one wins if two want the same. Pure.

The registry lets no two endpoints have one address, but two records may name one MAC. Then the later claimant in
order gets the entry, as in netagent.datapath.reconcile.desired; when that one goes, the other gets it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from netagent.datapath.state import EntryKey

Claimant: TypeAlias = tuple[int, str, str]
"""A rank, and an identity among claimants of one rank."""


class EntryOwners:
    """Entries by claimant. A change costs as much as that claimant has entries, however many others there are."""

    def __init__(self) -> None:
        self._asked: dict[Claimant, Mapping[EntryKey, str]] = {}
        self._claimants: dict[EntryKey, tuple[Claimant, ...]] = {}
        self._touched: set[EntryKey] = set()

    def put(self, claimant: Claimant, entries: Mapping[EntryKey, str]) -> None:
        """Set what the claimant wants from now on; nothing: it is gone."""
        before = self._asked.get(claimant, {})
        if before == entries:
            return
        for key in before.keys() - entries.keys():
            left = tuple(one for one in self._claimants[key] if one != claimant)
            if left:
                self._claimants[key] = left
            else:
                del self._claimants[key]
            self._touched.add(key)
        for key, value in entries.items():
            if key not in before:
                self._claimants[key] = (*self._claimants.get(key, ()), claimant)
            if before.get(key) != value:
                self._touched.add(key)
        if entries:
            self._asked[claimant] = entries
        else:
            del self._asked[claimant]

    def take_touched(self) -> set[EntryKey]:
        """Return the keys touched since the last call."""
        touched, self._touched = self._touched, set()
        return touched

    def value(self, key: EntryKey) -> str | None:
        """Return the winning value at the key; None: no claimant wants one."""
        claimants = self._claimants.get(key)
        if claimants is None:
            return None
        return self._asked[claimants[0] if len(claimants) == 1 else max(claimants)][key]
