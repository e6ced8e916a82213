"""The registry as it will be once the steps so far are taken.

Each item of a file is checked by the validators of its command, which judge by the registry. So an item that collides
with another one of the same file is refused in the same words as one that collides with the cluster, and before
anything has changed.
"""

from __future__ import annotations

import hashlib
from typing import Final

from netagent.model.ids import NetworkId
from netagent.model.records import Record
from netagent.registry.record_codec import encode, key_of
from netagent.registry.view import RegistryView
from netgossip.types import EntriesChanged, Entry, Version

_EPOCH: Final = 1 << 40
"""Above all that hosts reach, so that a planned record takes the place of the present one."""


class PlannedView:
    """A view to which planned records of this host are added. Nothing of it is published."""

    def __init__(self, view: RegistryView) -> None:
        self.view = view
        self._sequence = 0

    def put(self, record: Record) -> None:
        """From now on the record is in the view."""
        self._change(record, encode(record))

    def withdraw(self, record: Record) -> None:
        """From now on it is not."""
        self._change(record, None)

    def _change(self, record: Record, value: bytes | None) -> None:
        self._sequence += 1
        scope, key = key_of(record)
        entry = Entry(scope, self.view.local, key, value, Version(_EPOCH, self._sequence))
        self.view = self.view.with_entries(
            EntriesChanged(scope, self.view.local, _EPOCH, self._sequence, 0, (entry,))
        )


def planned_network_id(name: str) -> NetworkId:
    """Return an id for a network that is not made yet. It gets a random one when it is; until then the same file has
    to be judged alike each time."""
    return NetworkId(hashlib.sha256(b"planned network\0" + name.encode()).hexdigest()[:32])
