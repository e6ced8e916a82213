"""A hash map in the kernel that only this agent should write: what was written, and where the kernel differs.

The kernel tells no one when a map is altered. So all of it is read and compared, a batch at a time and in a worker
thread, while the event loop goes on writing; what seems to differ is looked at again by the event loop, which alone
writes. Reading 10,000 services takes some milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from netagent.datapath.bpf.maps import Map

PER_BATCH: Final = 256
"""Elements compared without giving the interpreter back."""


class CheckedMap:
    """`restored`: programs write the values, so only keys are compared; an element that is put back has this one."""

    def __init__(self, kernel_map: Map, *, restored: bytes | None = None) -> None:
        self._map = kernel_map
        self._restored = restored
        self._written: dict[bytes, bytes] = {}

    @property
    def written(self) -> Mapping[bytes, bytes]:
        """What should be in the kernel's map."""
        return self._written

    def adopt(self) -> None:
        """Take what is in the kernel as written. Blocks."""
        self._written = {}
        for keys, values in self._map.batches(PER_BATCH):
            self._written.update(zip(keys, values, strict=True))

    def put(self, key: bytes, value: bytes) -> bool:
        """Write an element; return whether anything had to be written."""
        if self._written.get(key) == value:
            return False
        self._map.update(key, value)
        self._written[key] = value
        return True

    def remove(self, key: bytes) -> None:
        """Delete an element."""
        if key in self._written:
            self._map.delete(key)
            del self._written[key]

    def suspects(self) -> list[bytes]:
        """Return keys of elements that seem to differ from what was written. In a thread of its own."""
        found: list[bytes] = []
        seen: set[bytes] = set()
        written = self._written
        for keys, values in self._map.batches(PER_BATCH):
            seen.update(keys)
            if self._restored is not None:
                found += [key for key in keys if key not in written]
            elif values != list(
                map(written.get, keys)
            ):  # one comparison, since nearly always nothing differs
                found += [key for key, value in zip(keys, values, strict=True) if written.get(key) != value]
        found += written.keys() - seen
        return found

    def repair(self, key: bytes) -> bool:
        """Write or delete an element as it should be; return whether it differed."""
        wanted, actual = self._written.get(key), self._map.lookup(key)
        if wanted is None:
            if actual is None:
                return False
            self._map.delete(key)
        elif self._restored is None:
            if actual == wanted:
                return False
            self._map.update(key, wanted)
        else:
            if actual is not None:
                return False
            self._map.update(key, self._restored)
        return True
