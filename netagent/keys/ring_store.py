"""This host's ring: the file, and the ring that gossip uses, changed together.

The file is written first. So no key is announced, or sealed with, that a crash could lose.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from netagent.keys.sealing import key_id_of
from netagent.keys.stages import RingKey
from netagent.model.ids import ClusterId, KeyId
from netagent.model.ring_key import MAX_RING_KEYS
from netagent.state_dir import ClusterKeys, KeyNote
from netgossip.codec.sealing import Keyring
from netgossip.join.readmission import NumberedKey


class RingStore:
    """`save` writes the file, and raises FailedError when it cannot: then nothing is changed."""

    def __init__(
        self,
        keys: ClusterKeys,
        save: Callable[[ClusterKeys], None],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._save = save
        self._wall_clock = wall_clock
        self._ids: dict[bytes, KeyId] = {}
        self.keyring = Keyring(keys.keys)
        self.keys = keys
        """As the file has them, the primary first."""

    @property
    def now_s(self) -> float:
        """This host's clock, by which it counts the age of keys. No other host's counts."""
        return self._wall_clock()

    @property
    def ring(self) -> tuple[RingKey, ...]:
        """The keys by their ids, the primary first."""
        noted = {one: self.keys.note_of(one) for one in self.keys.keys}
        # A clock that was set back must not keep a key young for years.
        return tuple(
            RingKey(self.id_of(one), note.number, min(note.since_s, self.now_s))
            for one, note in noted.items()
        )

    @property
    def numbered(self) -> tuple[NumberedKey, ...]:
        """The keys as a host gets them that returns."""
        return tuple(NumberedKey(one, self.keys.note_of(one).number) for one in self.keys.keys)

    def id_of(self, key: bytes) -> KeyId:
        """Return the id of a key of this cluster."""
        if key not in self._ids:
            self._ids = {one: known for one, known in self._ids.items() if one in self.keys.keys}
            self._ids[key] = key_id_of(key, ClusterId(self.keys.cluster_id))
        return self._ids[key]

    def key_of(self, key_id: KeyId) -> bytes | None:
        """Return the key; None if it is not in the ring."""
        return next((one for one in self.keys.keys if self.id_of(one) == key_id), None)

    def note_start(self) -> None:
        """Write down since when this host has the keys of a join, or of a file of the release before."""
        if any(not self.keys.note_of(one).since_s for one in self.keys.keys):
            self._write(self.keys.keys, {})

    def add(self, *keys: NumberedKey) -> list[KeyId]:
        """Accept further keys; return those that were not in the ring. As many as there is room for."""
        room = MAX_RING_KEYS - len(self.keys.keys)
        new = [one for one in keys if one.key not in self.keys.keys][: max(room, 0)]
        if new:
            self._write((*self.keys.keys, *(one.key for one in new)), {one.key: one.number for one in new})
        return [self.id_of(one.key) for one in new]

    def use(self, key_id: KeyId) -> None:
        """Seal with a key of the ring."""
        key = self.key_of(key_id)
        if key is not None:
            self._write((key, *(one for one in self.keys.keys if one != key)), {})

    def remove(self, key_ids: Sequence[KeyId]) -> None:
        """No longer accept these keys; never the primary."""
        kept = tuple(one for one in self.keys.keys[1:] if self.id_of(one) not in key_ids)
        self._write((self.keys.keys[0], *kept), {})

    def renumber(self, key_id: KeyId, number: int) -> None:
        """Give a key that came without a number the one that others know."""
        key = self.key_of(key_id)
        if key is not None:
            self._write(self.keys.keys, {key: number})

    def note_encryption(self, *, is_on: bool) -> None:
        """Write beside the keys whether this host sends nothing in the clear from its next start on."""
        if self.keys.encrypts != is_on:
            keys = replace(self.keys, encrypts=is_on)
            self._save(keys)
            self.keys = keys

    def refuse_unsigned(self) -> None:
        """Note in the file that only hosts that sign may be members."""
        keys = replace(self.keys, allows_unsigned=False)
        self._save(keys)
        self.keys = keys

    def _write(self, ring: tuple[bytes, ...], numbers: dict[bytes, int]) -> None:
        notes = {}
        for key in ring:
            note = self.keys.note_of(key)
            notes[key] = KeyNote(numbers.get(key, note.number), note.since_s or int(self.now_s))
        keys = replace(self.keys, keys=ring, notes=notes)
        self._save(keys)
        for key in ring:
            self.keyring.add(key)
        self.keyring.use(ring[0])
        for key in self.keyring.keys:
            if key not in ring:
                self.keyring.remove(key)
        self.keys = keys
