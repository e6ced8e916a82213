"""Texts of TXT records: `KEY=VALUE`, from the labels `netagent.txt.KEY=VALUE` (RFC 6763 6). Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from netagent.model.origin_labels import TXT_LABELS

MAX_TEXTS: Final = 16
"""Bound of the texts of one endpoint; beyond it: left out."""
MAX_TEXT_BYTES: Final = 255
"""A string of a TXT record has no room for more (RFC 1035 3.3)."""
MAX_TEXTS_BYTES: Final = 1024
"""Bound of the octets of an endpoint's texts; beyond it: further texts are left out. RFC 6763 6.2 advises at most
1,300 in a record."""


def text_flaw(key: str, value: str) -> str:
    """Say why a label cannot become a text; empty if it can, or is none of these labels."""
    if not key.startswith(TXT_LABELS):
        return ""
    name = key.removeprefix(TXT_LABELS)
    if not name or "=" in name or not (name.isascii() and name.isprintable()):
        return "the key of a TXT record must have at least one character, printable ASCII other than ="
    if len(name) + 1 + len(value.encode()) > MAX_TEXT_BYTES:
        return f"KEY=VALUE in a TXT record must be at most {MAX_TEXT_BYTES} bytes long"
    return ""


def texts_of(labels: Iterable[tuple[str, str]]) -> tuple[bytes, ...]:
    """Return the texts of an endpoint, in the order of its labels."""
    found: list[bytes] = []
    room_bytes = MAX_TEXTS_BYTES
    for key, value in labels:
        if not key.startswith(TXT_LABELS) or text_flaw(key, value):
            continue
        text = f"{key.removeprefix(TXT_LABELS)}={value}".encode()
        room_bytes -= len(text) + 1
        if room_bytes < 0 or len(found) == MAX_TEXTS:
            break
        found.append(text)
    return tuple(found)
