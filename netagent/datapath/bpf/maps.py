"""Maps: tables in the kernel that programs and processes share.

A hash map is made without preallocation: then an update replaces a value as a whole, and a program that reads at the
same time sees the old or the new one. Preallocated elements are used again under their readers.

Socket storage is a map with a socket as key, whose values are freed with their sockets. The kernel demands a
description of its types (BTF) for it and makes no use of it; it is written out here.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from netagent.datapath.bpf.system_call import ATTRIBUTE_BYTES, Command, bpf, call

_NO_PREALLOC: Final = 1
_INFO: Final = struct.Struct("=IIIIII16s")
"""struct bpf_map_info: kind, id, sizes of key and value, entries, flags, name."""
_ELEMENT: Final = struct.Struct("=I4xQQQ")
"""Of bpf_attr: the map, key, value, flags."""
_BATCH: Final = struct.Struct("=QQQQIIQQ")
"""Of bpf_attr: cursor before and after, keys, values, how many, the map, flags."""
_COUNT_AT: Final = 32
"""Of how many, in that."""
_CURSOR_BYTES: Final = 16
"""At least 4 and the size of a key."""
_BTF_MAGIC, _BTF_HEADER_BYTES = 0xEB9F, 24
_BTF_INT, _BTF_ARRAY = 1, 3


class MapKind(IntEnum):
    """enum bpf_map_type, as far as it is used."""

    HASH = 1
    SOCKET_STORAGE = 24


@dataclass(frozen=True, slots=True)
class MapShape:
    """What a map is made from."""

    name: str
    kind: MapKind
    key_bytes: int
    value_bytes: int
    most_entries: int
    """0 for socket storage, which has one entry per socket."""


class Map:
    """An open map. `update`, `delete` and `lookup` are for one thread."""

    def __init__(self, fd: int, shape: MapShape) -> None:
        self.fd = fd
        self.shape = shape
        self._key = ctypes.create_string_buffer(shape.key_bytes)
        self._value = ctypes.create_string_buffer(shape.value_bytes)
        addresses = ctypes.addressof(self._key), ctypes.addressof(self._value)
        self._attribute = ctypes.create_string_buffer(_ELEMENT.pack(fd, *addresses, 0), ATTRIBUTE_BYTES)
        # To delete, the kernel insists on no value.
        self._without_value = ctypes.create_string_buffer(
            _ELEMENT.pack(fd, addresses[0], 0, 0), ATTRIBUTE_BYTES
        )

    def close(self) -> None:
        """Close the descriptor. The map stays while a program uses it."""
        os.close(self.fd)

    def update(self, key: bytes, value: bytes) -> None:
        """Set an element. OSError E2BIG when the map is full, ENOMEM when the kernel has no memory."""
        self._set_key(key)
        if len(value) != self.shape.value_bytes:
            raise ValueError(f"{self.shape.name}: a value of {len(value)} bytes")
        self._value.raw = value
        call(Command.MAP_UPDATE, self._attribute)

    def delete(self, key: bytes) -> None:
        """Delete an element; no error when it is not there."""
        self._set_key(key)
        try:
            call(Command.MAP_DELETE, self._without_value)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise

    def lookup(self, key: bytes) -> bytes | None:
        """Return the value of an element, or None."""
        self._set_key(key)
        try:
            call(Command.MAP_LOOKUP, self._attribute)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            return None
        return self._value.raw

    def batches(self, most: int) -> Iterator[tuple[list[bytes], list[bytes]]]:
        """Read all elements, this many at a time, as keys and values (Linux 5.6).

        An element that is set meanwhile may be missed, and one may come twice. Any thread may do so.
        """
        shape = self.shape
        before, after = ctypes.create_string_buffer(_CURSOR_BYTES), ctypes.create_string_buffer(_CURSOR_BYTES)
        keys = ctypes.create_string_buffer(most * shape.key_bytes)
        values = ctypes.create_string_buffer(most * shape.value_bytes)
        pointers = [ctypes.addressof(one) for one in (after, keys, values)]
        is_first = True
        while True:
            cursor = 0 if is_first else ctypes.addressof(before)
            packed = _BATCH.pack(cursor, *pointers, most, self.fd, 0, 0)
            attribute = ctypes.create_string_buffer(packed, ATTRIBUTE_BYTES)
            is_last = False
            try:
                call(Command.MAP_LOOKUP_BATCH, attribute)
            except OSError as error:
                if error.errno == errno.ENOSPC and most < shape.most_entries:
                    # A bucket of the hash holds more elements than there is room for.
                    yield from self.batches(most * 2)
                    return
                if error.errno != errno.ENOENT:
                    raise
                is_last = True
            count = int.from_bytes(attribute.raw[_COUNT_AT : _COUNT_AT + 4], sys.byteorder)
            yield _cut(keys, shape.key_bytes, count), _cut(values, shape.value_bytes, count)
            if is_last:
                return
            ctypes.memmove(before, after, _CURSOR_BYTES)
            is_first = False

    def _set_key(self, key: bytes) -> None:
        if len(key) != self.shape.key_bytes:
            raise ValueError(f"{self.shape.name}: a key of {len(key)} bytes")
        self._key.raw = key


def _cut(buffer: ctypes.Array[ctypes.c_char], size: int, count: int) -> list[bytes]:
    return [one for (one,) in struct.iter_unpack(f"{size}s", memoryview(buffer).cast("B")[: size * count])]


def create(shape: MapShape) -> Map:
    """Make a map. It lives as long as a descriptor of it, or a program that uses it.

    OSError EPERM also where the kernel counts maps as locked memory (before Linux 5.11) and the limit is too low.
    """
    btf = 0, 0, 0
    if shape.kind is MapKind.SOCKET_STORAGE:
        blob = _btf(shape.value_bytes)
        text = ctypes.create_string_buffer(blob, len(blob))
        btf_fd = bpf(Command.BTF_LOAD, struct.pack("=QQIII", ctypes.addressof(text), 0, len(blob), 0, 0))
        btf = btf_fd, 1, 2
    try:
        fd = bpf(
            Command.MAP_CREATE,
            struct.pack(
                "=IIIII8x16sIIII",
                shape.kind,
                shape.key_bytes,
                shape.value_bytes,
                shape.most_entries,
                _NO_PREALLOC,
                shape.name.encode(),
                0,
                *btf,
            ),
        )
    finally:
        if btf[0]:
            os.close(btf[0])
    return Map(fd, shape)


def open_by_id(number: int) -> Map | None:
    """Open the map with this id; None when it is gone, or of another kind than MapKind has."""
    try:
        fd = bpf(Command.MAP_BY_ID, struct.pack("=III", number, 0, 0))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    info = ctypes.create_string_buffer(_INFO.size)
    try:
        bpf(Command.INFO_BY_FD, struct.pack("=IIQ", fd, _INFO.size, ctypes.addressof(info)))
        kind, _number, key_bytes, value_bytes, entries, flags, name = _INFO.unpack(info.raw)
        if kind not in list(MapKind) or flags & ~_NO_PREALLOC:
            os.close(fd)
            return None
    except BaseException:
        os.close(fd)
        raise
    text = name.rstrip(b"\0").decode("ascii", "replace")
    return Map(fd, MapShape(text, MapKind(kind), key_bytes, value_bytes, entries))


def _btf(value_bytes: int) -> bytes:
    """Return BTF of two types: 1, a signed integer of 32 bits, and 2, an array of those of this size."""
    names = b"\0int\0"
    integer = struct.pack("=IIII", 1, _BTF_INT << 24, 4, 1 << 24 | 32)
    array = struct.pack("=IIIIII", 0, _BTF_ARRAY << 24, 0, 1, 1, value_bytes // 4)
    types = integer + array
    header = struct.pack(
        "=HBBIIIII", _BTF_MAGIC, 1, 0, _BTF_HEADER_BYTES, 0, len(types), len(types), len(names)
    )
    return header + types + names
