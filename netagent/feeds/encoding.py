"""JSON values as text, in parts: three megabytes in one go would keep other tasks waiting for as long as 30 ms.

The same value always gives the same text, because programs compare a body with the last. And the text is valid YAML
1.1 as well, as which Traefik reads it.
"""

from __future__ import annotations

import json
import re
from operator import itemgetter
from typing import Final

from netgossip.slices import Slices, merge_sort

_NOT_IN_YAML: Final = re.compile("[\x7f-\xa0\u2028\u2029\ufeff\ufffe\uffff]")
"""Characters that JSON allows as they are. YAML refuses pairs of surrogates as escapes, so others are not escaped."""

_SMALL: Final = 64
"""A value of at most as many values is encoded in one go, which takes some ten microseconds."""

_encode: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def encoded(value: object) -> Slices[list[str]]:
    """Encode a JSON value in parts. The same value always gives the same text: programs compare it with the last."""
    if not isinstance(value, dict | list) or _room_left(value, _SMALL) >= 0:
        yield
        return [_text_of(value)]
    opening, closing = ("{", "}") if isinstance(value, dict) else ("[", "]")
    parts = [opening]
    items: list[tuple[str, object]]
    if isinstance(value, dict):
        items = yield from merge_sort(list(value.items()), key=itemgetter(0))
    else:
        items = [("", item) for item in value]
    for number, (key, item) in enumerate(items):
        comma = "," if number else ""
        inner = yield from encoded(item)
        head = f"{comma}{_text_of(key)}:" if isinstance(value, dict) else comma
        if len(inner) == 1:
            parts.append(head + inner[0])
        else:
            parts += [head, *inner]
    return [*parts, closing]


def freed(value: object) -> Slices[None]:
    """Empty a value in parts, once it is encoded: to free a million objects in one go takes as long as 20 ms."""
    while isinstance(value, dict | list) and value:
        for _ in range(min(len(value), _SMALL)):
            inner = value.pop() if isinstance(value, list) else value.popitem()[1]
            if isinstance(inner, dict | list) and _room_left(inner, _SMALL) < 0:
                yield from freed(inner)
        yield


def _room_left(value: object, room: int) -> int:
    """Return how many of `room` values are left after the value and all in it; below zero, it has more."""
    room -= 1
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            if room < 0:
                break
            room = _room_left(item, room)
    return room


def _text_of(value: object) -> str:
    return _NOT_IN_YAML.sub(lambda match: f"\\u{ord(match[0]):04x}", _encode(value))
