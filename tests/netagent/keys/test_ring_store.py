"""The ring in use and the ring on disk are one, and the disk comes first."""

from __future__ import annotations

import pytest

from netagent.errors import FailedError
from netagent.keys.ring_store import RingStore
from netagent.model.ring_key import MAX_RING_KEYS
from netagent.state_dir import ClusterKeys, KeyNote
from netgossip.join.readmission import NumberedKey

OLD, NEW = b"o" * 32, b"n" * 32


class Disk:
    def __init__(self) -> None:
        self.keys = ClusterKeys("ab" * 16, "mesh", "mesh.internal", (OLD,))
        self.is_full = False
        self.now_s = 1000.0
        self.store = RingStore(self.keys, self.save, lambda: self.now_s)

    def save(self, keys: ClusterKeys) -> None:
        if self.is_full:
            raise FailedError("no space", thing="keyring", hint="free some")
        self.keys = keys


def test_a_key_is_on_disk_before_it_is_in_use() -> None:
    disk = Disk()
    disk.is_full = True
    with pytest.raises(FailedError):
        disk.store.add(NumberedKey(NEW, 2))
    assert list(disk.store.keyring.keys) == [OLD]
    assert [one.number for one in disk.store.ring] == [0]
    disk.is_full = False
    (added,) = disk.store.add(NumberedKey(NEW, 2))
    assert disk.keys.keys == tuple(disk.store.keyring.keys) == (OLD, NEW)
    disk.store.use(added)
    assert disk.keys.keys == disk.store.keyring.keys == (NEW, OLD)
    assert disk.keys.notes[NEW] == KeyNote(2, 1000)
    disk.store.remove([disk.store.id_of(OLD), added])
    assert disk.keys.keys == tuple(disk.store.keyring.keys)
    assert list(disk.keys.keys) == [NEW]  # the primary stays


def test_a_clock_that_was_set_back_makes_no_key_young_for_years() -> None:
    disk = Disk()
    disk.store.note_start()
    disk.now_s = 10.0
    assert [one.since_s for one in disk.store.ring] == [10.0]


def test_a_ring_takes_no_more_keys_than_its_bound() -> None:
    disk = Disk()
    added = disk.store.add(*(NumberedKey(bytes([one]) * 32, one) for one in range(1, 40)))
    assert len(added) == MAX_RING_KEYS - 1
    assert len(disk.store.keyring.keys) == MAX_RING_KEYS
