"""JSON values as text, in parts: three megabytes in one go would keep other tasks waiting for as long as 30 ms.

The same value always gives the same text, because programs compare a body with the last. And the text is valid YAML
1.1 as well, as which Traefik reads it.
"""

from __future__ import annotations

import json
import re
from typing import Final

from netgossip.slices import Slices

_NOT_IN_YAML: Final = re.compile("[\x7f-\xa0\u2028\u2029\ufeff\ufffe\uffff]")
"""Characters that JSON allows as they are. YAML refuses pairs of surrogates as escapes, so others are not escaped."""

_DEEP: Final = 4
"""Below this level a value is encoded in one go: one definition, one server or one endpoint."""


def encoded(value: object, level: int = 0) -> Slices[list[str]]:
    """Encode a JSON value in parts. The same value always gives the same text: programs compare it with the last."""
    if level == _DEEP or not isinstance(value, dict | list) or not value:
        yield
        return [_text_of(value)]
    opening, closing = ("{", "}") if isinstance(value, dict) else ("[", "]")
    parts = [opening]
    items = sorted(value.items()) if isinstance(value, dict) else [("", item) for item in value]
    for number, (key, item) in enumerate(items):
        comma = "," if number else ""
        inner = yield from encoded(item, level + 1)
        head = f"{comma}{_text_of(key)}:" if isinstance(value, dict) else comma
        if len(inner) == 1:
            parts.append(head + inner[0])
        else:
            parts += [head, *inner]
    return [*parts, closing]


def _text_of(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return _NOT_IN_YAML.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
